"""What a line of results was made from, short enough to stand in it and to be compared later."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastedit.cli.jsonl import Row
    from fastedit.decoding import DecodeConfig

OTHERS = ("another prompt", "other options", "another model")


def made_from(row: Row, config: DecodeConfig, raw: bool, model: tuple[str | None, ...]) -> str:
    """`prompt-options-model`, eight hexadecimal digits each.

    config  the row's own, its overrides applied
    model   checkpoint, adapter, revision and dtype; a folder is known by its path, not its bytes

    The device is left out, so a run may go on on another one.
    """
    places = [str(Path(m).resolve()) if m and Path(m).is_dir() else m for m in model]
    values = ([row.prompt, raw], dataclasses.asdict(config), places)
    return "-".join(map(_digest, values))


def differences(before: str, now: str) -> list[str]:
    """In words, which parts of two `made_from` differ."""
    pairs = zip(OTHERS, before.split("-"), now.split("-"), strict=True)
    return [name for name, old, new in pairs if old != new]


def _digest(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:8]
