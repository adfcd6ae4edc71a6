"""What a model makes of places that are to be kept, replaced, deleted or inserted at, as counts.

A place is a token, or a gap between tokens where another head speaks of those. Its label wants one
of the four operations, and the argmax proposes one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

KEEP, REPLACE, DELETE, INSERT = range(4)
NAMES = ("keep", "replace", "delete", "insert")


class Operations(NamedTuple):
    """Counts by operation, each int64 [4].

    wanted    places whose label is the operation
    repaired  those whose argmax is exactly the label
    free      places to be left alone at which it could be proposed
    false     those at which it is
    """

    wanted: Tensor
    repaired: Tensor
    free: Tensor
    false: Tensor


def operation_of(
    ids: Tensor, held: Tensor, delete_token_id: int, insert_token_id: int | None = None
) -> Tensor:
    """The operation that `ids` stand for at tokens `held`, int64 of any shape."""
    found = torch.where(ids == held, KEEP, REPLACE).masked_fill(ids == delete_token_id, DELETE)
    return found if insert_token_id is None else found.masked_fill(ids == insert_token_id, INSERT)


def count(wanted: Tensor, proposed: Tensor, right: Tensor, among: Sequence[int]) -> Operations:
    """Of n places, all arguments [n]: what is wanted, what is proposed, and whether it is exactly
    that.

    among  operations that these places are counted for: of gaps INSERT alone, as a gap that is left
           alone keeps no token
    """
    possible = torch.zeros(4, dtype=torch.int64, device=wanted.device)
    possible[list(among)] = 1
    left = wanted == KEEP
    each = wanted, wanted[right], proposed[left]
    counts = [torch.bincount(rows, minlength=4) * possible for rows in each]
    return Operations(counts[0], counts[1], left.sum() * possible, counts[2])


def rates(counted: Operations) -> dict[str, int | float | None]:
    """Of a training log; None where nothing was counted.

    | name | |
    |---|---|
    | keeps, replaces, deletes, inserts | places whose label is that |
    | edit_accuracy | share of the last three whose argmax is the label |
    | replace_repair_rate, ... | the same of one of them |
    | false_edit_rate | share of the tokens to be kept whose argmax is something else |
    | replace_false_rate, ... | share of the places to leave alone where it is proposed |
    """
    wanted, repaired, free, false = (field.tolist() for field in counted)
    found: dict[str, int | float | None] = {
        f"{name}s": int(number) for name, number in zip(NAMES, wanted, strict=True)
    }
    found["edit_accuracy"] = share(sum(repaired[1:]), sum(wanted[1:]))
    found["false_edit_rate"] = share(wanted[KEEP] - repaired[KEEP], wanted[KEEP])
    for number in (REPLACE, DELETE, INSERT):
        name = NAMES[number]
        found[f"{name}_repair_rate"] = share(repaired[number], wanted[number])
        found[f"{name}_false_rate"] = share(false[number], free[number])
    return found


def share(part: float, whole: float) -> float | None:
    return part / whole if whole else None
