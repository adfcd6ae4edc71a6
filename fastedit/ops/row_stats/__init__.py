"""Row statistics: what a decision needs to know about one position, in one read of its logits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fastedit.ops.dispatch import implementation
from fastedit.ops.logits import check_forbid, check_logits


@dataclass(frozen=True)
class RowStats:
    """Statistics of R rows of logits; every field is on the logits' device.

    token         [R] int64  best token that is not forbidden, lowest id on ties
    prob          [R] fp32   its softmax probability
    prob_current  [R] fp32   softmax probability of the row's current token
    lse           [R] fp32   log of the sum of exponentials, natural log
    entropy       [R] fp32   in nats, or None when it was not asked for
    bad           [R] bool   NaN or +inf among the logits, or no finite candidate
    """

    token: Tensor
    prob: Tensor
    prob_current: Tensor
    lse: Tensor
    entropy: Tensor | None
    bad: Tensor


def row_stats(
    logits: Tensor,
    current: Tensor,
    *,
    forbid: Sequence[int] = (),
    temperature: float = 1.0,
    entropy: bool = False,
) -> RowStats:
    """Argmax, its probability and the probability of the current token, for every row.

    logits       [R, V] fp32, bf16 or fp16, last dimension contiguous; everything is computed in
                 fp32 from these values
    current      [R] int64, the token that each row holds now; outside [0, V) its probability is 0
    forbid       token ids that may not be chosen; they stay in the softmax denominator
    temperature  logits are divided by it first; 1e-30 to 1e30

    | logits of a row | treated as | bad |
    |---|---|---|
    | NaN | -inf, in the denominator too | yes |
    | +inf | the largest finite fp32 | yes |
    | -inf | probability 0 | no |
    | no finite candidate | token = current, prob = 0 | yes |

    Never raises for logit values and never synchronises. Raises TypeError or ValueError for wrong
    dtypes, shapes, devices, forbidden ids outside [0, V) and a temperature out of range.
    """
    rows, vocab = check_logits(logits, 2)
    check_forbid(forbid, vocab)
    if current.shape != (rows,) or current.dtype != torch.int64:
        raise ValueError(
            f"current must be int64 [{rows}], one token per row of logits; "
            f"got {current.dtype} {list(current.shape)}"
        )
    if current.device != logits.device:
        raise ValueError(f"current is on {current.device}, logits are on {logits.device}")
    if not 1e-30 <= temperature <= 1e30:
        raise ValueError(f"temperature must be from 1e-30 to 1e30, got {temperature}")
    if torch.compiler.is_compiling():
        token, prob, prob_current, lse, spread, bad = torch.ops.fastedit.row_stats(
            logits, current, list(forbid), float(temperature), entropy
        )
        return RowStats(token, prob, prob_current, lse, spread if entropy else None, bad)
    return implementation("row_stats", logits.device.type)(
        logits, current, forbid=tuple(forbid), temperature=float(temperature), entropy=entropy
    )
