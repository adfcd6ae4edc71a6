"""The positions of each block that have the highest scores: what most rules fill or remask by."""

from __future__ import annotations

import torch
from torch import Tensor

from fastedit.ops.dispatch import implementation


def highest(
    score: Tensor,
    among: Tensor,
    count: Tensor | int,
    *,
    above: Tensor | None = None,
    inclusive: bool = False,
    judged: Tensor | None = None,
) -> Tensor:
    """The `count` positions of each block with the highest scores, or all above a threshold.

    score      [B, L] fp32; ties go to the lowest position, NaN is below everything
    among      [B, L] bool, the positions to choose from; fewer than `count` are taken where there
               are fewer
    count      how many: one number, or integers [B]
    above      [B] fp32 or fp64: where at least `count` of them are above it, all those are taken
    inclusive  whether what is equal to `above` counts as well
    judged     [B, L] fp32, what is compared with `above`; None: the scores

    Returns bool [B, L]. Never raises for values and never synchronises. Raises ValueError for
    shapes and dtypes that do not fit.
    """
    shape = score.shape
    if score.dtype != torch.float32 or score.ndim != 2:
        raise ValueError(f"score must be float32 [B, L]; got {score.dtype} {list(shape)}")
    if among.dtype != torch.bool or among.shape != shape:
        raise ValueError(
            f"among must be bool {list(shape)}, as score is; got {among.dtype} {list(among.shape)}"
        )
    if not isinstance(count, Tensor):
        count = torch.full((len(score),), count, dtype=torch.int64, device=score.device)
    if count.shape != shape[:1] or count.dtype.is_floating_point:
        raise ValueError(
            f"count must be a number or integers [{len(score)}]; "
            f"got {count.dtype} {list(count.shape)}"
        )
    if above is not None and (above.shape != shape[:1] or above.dtype not in _THRESHOLDS):
        raise ValueError(
            f"above must be fp32 or fp64 [{len(score)}]; got {above.dtype} {list(above.shape)}"
        )
    judged = score if judged is None else judged
    if judged.dtype != torch.float32 or judged.shape != shape:
        raise ValueError(
            f"judged must be float32 {list(shape)}, as score is; "
            f"got {judged.dtype} {list(judged.shape)}"
        )
    serve = implementation("highest", score.device.type)
    return serve(score, among, count, above, inclusive, judged)


_THRESHOLDS = (torch.float32, torch.float64)
