"""Which edits labels ask for, and which a model would make: keep, replace, delete, insert.

A mask that is to become a token is none of these; one that is to be deleted is.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fastedit.training.control import ControlTokens
from fastedit.training.loss.metrics import MASKED, RIGHT

KEEP, REPLACE, DELETE, INSERT, FILL = range(5)
NAMES = {KEEP: "keep", REPLACE: "replace", DELETE: "delete", INSERT: "insert"}
_ROWS = 6  # of the table that `tally_operations` makes
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
    """Counts by operation of supervised rows, arguments [N] as of `metrics.tally`: int64 [6, 4].

    Rows: positions whose label it is; of these, argmax is the label; and surely so. Positions to be
    kept where argmax is that operation; and surely so. All positions where argmax is that.
    """
    wanted = operations_of(kind, current, labels, control)
    chosen = operations_of(kind, current, token, control)
    right, kept = token == labels, kind == RIGHT
    rows = (
        wanted,
        wanted[right],
        wanted[right & sure],
        chosen[kept],
        chosen[kept & sure],
        chosen,
    )
    return torch.stack([torch.bincount(row, minlength=FILL + 1)[:FILL] for row in rows])


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
    wanted, right, sure, false, sure_false, chosen = torch.tensor(seen).view(_ROWS, -1).tolist()
    report: dict[str, float | None] = {}
    for operation, name in NAMES.items():
        report[f"repair_rate_{name}"] = _share(right[operation], wanted[operation])
        report[f"repair_rate_{name}_tau"] = _share(sure[operation], wanted[operation])
        if operation != KEEP:
            report[f"false_edit_rate_{name}"] = _share(false[operation], wanted[KEEP])
            report[f"false_edit_rate_{name}_tau"] = _share(sure_false[operation], wanted[KEEP])
    for operation in (DELETE, INSERT):
        report[f"{NAMES[operation]}_labels"] = int(wanted[operation])
        report[f"{NAMES[operation]}s"] = int(chosen[operation])
    return report


def _share(part: float, whole: float) -> float | None:
    return part / whole if whole else None
