"""Which edits labels ask for, and which a model would make: keep, replace, delete, insert.

A mask that is to become a token is none of these; one that is to be deleted is.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fastedit.training.control import ControlTokens
from fastedit.training.loss.metrics import MASKED

KEEP, REPLACE, DELETE, INSERT, FILL = range(5)
NAMES = {KEEP: "keep", REPLACE: "replace", DELETE: "delete", INSERT: "insert"}
_ROWS = 7  # of the table that `tally_choices` makes
OPERATIONS = _ROWS * FILL  # numbers in it


def operations_of(kind: Tensor, current: Tensor, token: Tensor, control: ControlTokens) -> Tensor:
    """What writing `token` over `current` is, int64; all of one shape, `kind` as in `metrics`."""
    operation = torch.where(token == current, KEEP, REPLACE)
    operation = operation.masked_fill(kind == MASKED, FILL)
    operation = operation.masked_fill(token == control.delete, DELETE)
    if control.insert is not None:
        operation = operation.masked_fill(token == control.insert, INSERT)
    return operation


def tally_operations(
    kind: Tensor,
    current: Tensor,
    labels: Tensor,
    token: Tensor,
    sure: Tensor,
    control: ControlTokens,
) -> Tensor:
    """`tally_choices` of supervised rows, arguments [N] as of `metrics.tally`."""
    wanted = operations_of(kind, current, labels, control)
    chosen = operations_of(kind, current, token, control)
    return tally_choices(wanted, chosen, token == labels, sure)


def tally_choices(wanted: Tensor, chosen: Tensor, right: Tensor, sure: Tensor) -> Tensor:
    """Counts by operation of places whose label is `wanted` and argmax `chosen`: int64 [7, 4].

    right, sure  bool [N], as the other arguments: argmax is exactly the label; its p is above tau

    Rows: places whose label it is; of these, argmax is the label; and surely so. Places to be kept
    where argmax is that operation; and surely so. All places where argmax is that. Places to be
    kept.
    """
    kept = wanted == KEEP
    rows = (
        wanted,
        wanted[right],
        wanted[right & sure],
        chosen[kept],
        chosen[kept & sure],
        chosen,
    )
    counts = [torch.bincount(row, minlength=FILL + 1)[:FILL] for row in rows]
    return torch.stack([*counts, kept.sum().expand(FILL)])


def no_operations(device: torch.device) -> Tensor:
    """The table where nothing was predicted."""
    return torch.zeros(_ROWS, FILL, dtype=torch.int64, device=device)


def report_operations(seen: Sequence[float]) -> dict[str, float | None]:
    """The metrics of summed tables, row by row; None where nothing was counted.

    | name | what |
    |---|---|
    | repair_rate_OP | share of the positions with that label where argmax is the label; `_tau`: and
      its probability is above tau. OP is keep, replace, delete or insert |
    | false_edit_rate_OP | share of the positions to be kept where argmax replaces, deletes or
      inserts |
    | delete_labels, insert_labels | positions with that label |
    | deletes, inserts | positions where that is the argmax |
    """
    table = torch.tensor(seen).view(_ROWS, -1).tolist()
    wanted, right, sure, false, sure_false, chosen, kept = table
    report: dict[str, float | None] = {}
    for operation, name in NAMES.items():
        report[f"repair_rate_{name}"] = share(right[operation], wanted[operation])
        report[f"repair_rate_{name}_tau"] = share(sure[operation], wanted[operation])
        if operation != KEEP:
            report[f"false_edit_rate_{name}"] = share(false[operation], kept[operation])
            report[f"false_edit_rate_{name}_tau"] = share(sure_false[operation], kept[operation])
    for operation in (DELETE, INSERT):
        report[f"{NAMES[operation]}_labels"] = int(wanted[operation])
        report[f"{NAMES[operation]}s"] = int(chosen[operation])
    return report


def share(part: float, whole: float) -> float | None:
    return part / whole if whole else None
