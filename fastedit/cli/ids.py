"""The `id` of a request: any JSON value, equal to no value of another type."""

from __future__ import annotations

import json
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fastedit.cli.errors import UserError

if TYPE_CHECKING:
    from fastedit.cli.requests import Row


def key(value: Any) -> str:
    """What two ids have in common if and only if they are the same: 1, "1", 1.0 and true are four.

    Raises ValueError for NaN and infinity, which JSON does not have.
    """
    return json.dumps(value, sort_keys=True, allow_nan=False)


def check_ids(rows: Sequence[Row], source: Path) -> None:
    """Raises `UserError` for an id that is no JSON, and for one that two lines have.

    Lines without an id, or with null, are told apart by their index alone.
    """
    hashes = array("q")  # of the ids, which may be long; what has the same is compared
    owners = array("q")
    for row in rows:
        try:
            name = key(row.id)
        except ValueError:
            raise UserError(
                f"{_where(row, source)} holds NaN or infinity, which equal nothing: write it as a "
                "text"
            ) from None
        if row.id is not None:
            hashes.append(hash(name))
            owners.append(row.index)
    values = np.asarray(hashes)
    order = values.argsort(kind="stable")
    twice = np.flatnonzero(np.diff(values[order]) == 0)
    for later, earlier in sorted(
        zip(order[twice + 1].tolist(), order[twice].tolist(), strict=True)
    ):
        first, second = rows[owners[earlier]], rows[owners[later]]
        if key(first.id) == key(second.id):
            raise UserError(
                f"{_where(second, source)} is that of line {first.line} too: give each line one of "
                "its own, or leave it out, since results have an `index`"
            )


def _where(row: Row, source: Path) -> str:
    return f"{source}:{row.line}: `id` {str(row.id)[:60]!r}"
