"""Golden cases of the decoding rules, and each as a policy with its options and prompt."""

from __future__ import annotations

import gzip
import json
from functools import cache
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[1] / "golden" / "policies"


@cache
def cases(name: str) -> list[dict[str, Any]]:
    """Every case of one file, in order."""
    with gzip.open(FOLDER / f"{name}.jsonl.gz", "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def up_to(ids: list[int], eos: int | None) -> list[int]:
    """The ids up to and including the first EOS."""
    return ids[: ids.index(eos) + 1] if eos in ids else ids
