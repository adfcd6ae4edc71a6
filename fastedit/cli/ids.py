"""The `id` of a request: any JSON value, equal to no value of another type."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastedit.cli.errors import UserError

if TYPE_CHECKING:
    from fastedit.cli.requests import Row


def key(value: Any) -> str:
    """What two ids have in common if and only if they are the same: 1, "1", 1.0 and true are four.

    Raises ValueError for NaN and infinity, which JSON does not have.
    """
    return json.dumps(value, sort_keys=True, allow_nan=False)


def check_ids(rows: Iterable[Row], source: Path) -> None:
    """Raises `UserError` for an id that is no JSON, and for one that two lines have.

    Lines without an id, or with null, are told apart by their index alone.
    """
    lines: dict[str, int] = {}
    for row in rows:
        where = f"{source}:{row.line}: `id` {str(row.id)[:60]!r}"
        try:
            name = key(row.id)
        except ValueError:
            raise UserError(
                f"{where} holds NaN or infinity, which equal nothing: write it as a text"
            ) from None
        if row.id is not None and name in lines:
            raise UserError(
                f"{where} is that of line {lines[name]} too: give each line one of its own, or "
                "leave it out, since results have an `index`"
            )
        lines[name] = row.line
