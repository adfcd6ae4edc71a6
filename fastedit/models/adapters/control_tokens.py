"""Ids of control tokens lie beside an adapter, as a checkpoint has them in its config."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

FILE = "control_tokens.json"
NAMES = ("delete_token_id", "insert_token_id")


def save_control_tokens(config: Any, folder: Path) -> None:
    """Write what the config of an adapter's model says of them; no file where it says nothing."""
    found = {name: getattr(config, name, None) for name in NAMES}
    if any(token is not None for token in found.values()):
        (folder / FILE).write_text(json.dumps(found), encoding="utf-8")


def tell_control_tokens(config: Any, folder: Path, name: str) -> None:
    """Tell the config of a model those of its adapter, which `name` is what messages call.

    Raises ValueError for a file that is not of `save_control_tokens`.
    """
    file = folder / FILE
    if not file.exists():
        return
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        tokens = {key: found.get(key) for key in NAMES}
        if not all(token is None or type(token) is int for token in tokens.values()):
            raise ValueError("ids are integers")
    except (ValueError, AttributeError) as error:
        raise ValueError(
            f"adapter {name!r}: {FILE} does not hold {' and '.join(NAMES)} ({error}); restore it, "
            "or remove it and give the policy its ids"
        ) from error
    for key, token in tokens.items():
        if token is not None:
            setattr(config, key, token)
