"""The positions of each block that have the highest scores: what most rules fill or remask by."""

from __future__ import annotations

import torch
from torch import Tensor

from fastedit.ops.dispatch import implementation


def highest(
    score: Tensor, among: Tensor, count: Tensor | int, unless: Tensor | None = None
) -> Tensor:
    """The `count` positions of each block with the highest scores, bool [B, L].

    score   [B, L] fp32; ties go to the lowest position, NaN is below everything
    among   [B, L] bool, the positions to choose from; fewer than `count` are taken where there are
            fewer
    count   how many: one number, or integers [B]
    unless  [B, L] bool: taken as it stands in blocks where it has at least `count` positions

    Never raises for values and never synchronises. Raises ValueError for shapes and dtypes that do
    not fit.
    """
    if score.dtype != torch.float32 or score.ndim != 2:
        raise ValueError(f"score must be float32 [B, L]; got {score.dtype} {list(score.shape)}")
    for name, value in (("among", among), ("unless", unless)):
        if value is not None and (value.dtype != torch.bool or value.shape != score.shape):
            raise ValueError(
                f"{name} must be bool {list(score.shape)}, as score is; "
                f"got {value.dtype} {list(value.shape)}"
            )
    if not isinstance(count, Tensor):
        count = torch.full((len(score),), count, dtype=torch.int64, device=score.device)
    if count.shape != score.shape[:1] or count.dtype.is_floating_point:
        raise ValueError(
            f"count must be a number or integers [{len(score)}]; "
            f"got {count.dtype} {list(count.shape)}"
        )
    return implementation("highest", score.device.type)(score, among, count, unless)
