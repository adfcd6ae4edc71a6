"""The best token of a row outside a set of its own, by one more read of the rows that need it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from fastedit.ops.dispatch import implementation
from fastedit.ops.logits import check_forbid, check_logits, check_per_row


def best_outside(
    logits: Tensor,
    excluded: Tensor,
    *,
    only: Tensor | None = None,
    forbid: Sequence[int] = (),
) -> tuple[Tensor, Tensor]:
    """Per row the best token that is neither excluded there nor forbidden, and its probability.

    logits    [R, V] fp32, bf16 or fp16, last dimension contiguous; or [B, L, V], whose R = B * L
              rows come block after block
    excluded  [R, K] int64, or [B, L, K] beside such logits: ids that the row may not choose, in
              any order; ids outside [0, V) exclude nothing, so that -1 fills lists of any length
    only      bool [R] or [B, L], as the lists: the rows to read; None: all
    forbid    ids that no row may choose

    Returns token int64 and prob fp32, [R] or [B, L] as the lists. The probability is that of the
    softmax over all ids, chosen or not, as `prob` of `row_stats` is; ties, NaN and infinities as
    there. Token -1 with probability 0 is what a row has that was not asked for, which is not read,
    and one without a finite candidate.

    Never raises for values of tensors and never synchronises. Raises TypeError or ValueError for
    wrong dtypes, shapes, devices, and forbidden ids outside [0, V).

    Source: the anti-loop of SGLang's JointThresholdInDel, whose set is every id that was written
    at a position: more than a fixed number of best tokens can hold.
    """
    *shape, vocab = check_logits(logits, 2 if logits.ndim == 2 else 3)
    check_forbid(forbid, vocab)
    rows = excluded.shape[:-1]
    if rows not in ((*shape,), (math.prod(shape),)) or excluded.dtype != torch.int64:
        raise ValueError(
            f"excluded must be int64 {[*shape, 'K']} or {[math.prod(shape), 'K']}, a list of ids "
            f"per row of logits; got {excluded.dtype} {list(excluded.shape)}"
        )
    if excluded.device != logits.device:
        raise ValueError(f"excluded is on {excluded.device}, logits are on {logits.device}")
    if only is not None:
        check_per_row("only", only, torch.bool, rows, logits.device)
    if torch.compiler.is_compiling():
        return torch.ops.fastedit.best_outside(logits, excluded, only, list(forbid))
    return implementation("best_outside", logits.device.type)(logits, excluded, only, tuple(forbid))
