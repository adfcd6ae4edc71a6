"""Row statistics: what a decision needs to know about one position, in one read of its logits."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fastedit.ops.dispatch import implementation
from fastedit.ops.logits import check_forbid, check_logits, check_per_row
from fastedit.ops.sampling import RowDraws

MOST_RANKS = 8  # of `top_k`


@dataclass(eq=False)
class RowStats:
    """Statistics of R rows of logits; every field is on the logits' device, and [R, ...] becomes
    [B, L, ...] where the current tokens were given so.

    token         [R] int64  best token that is not forbidden, lowest id on ties
    prob          [R] fp32   its softmax probability
    prob_current  [R] fp32   softmax probability of the row's current token
    lse           [R] fp32   log of the sum of exponentials, natural log
    entropy       [R] fp32   in nats
    bad           [R] bool   NaN or +inf among the logits, or no finite candidate
    top_tokens    [R, k] int64  the k best tokens that are not forbidden, best first, the lowest id
                             first on ties; -1 where there are no more finite candidates
    top_probs     [R, k] fp32   their softmax probabilities; 0 where there is no token
    sample        [R] int64  a drawn token
    sample_prob   [R] fp32   its probability among what the filters of the draw left

    None is what was not asked for.
    """

    token: Tensor
    prob: Tensor
    prob_current: Tensor
    lse: Tensor
    entropy: Tensor | None
    bad: Tensor
    top_tokens: Tensor | None = None
    top_probs: Tensor | None = None
    sample: Tensor | None = None
    sample_prob: Tensor | None = None

    def shaped(self, shape: Sequence[int]) -> RowStats:
        """With `shape` in place of [R]."""
        fields: dict[str, Any] = {
            name: x.reshape(*shape, *x.shape[1:]) for name, x in vars(self).items() if x is not None
        }
        return dataclasses.replace(self, **fields)


def row_stats(
    logits: Tensor,
    current: Tensor,
    *,
    forbid: Sequence[int] = (),
    temperature: float | Tensor = 1.0,
    entropy: bool = False,
    top_k: int = 0,
    draws: RowDraws | None = None,
    only: int | None = None,
) -> RowStats:
    """Argmax, its probability and the probability of the current token, for every row.

    logits       [R, V] fp32, bf16 or fp16, last dimension contiguous; everything is computed in
                 fp32 from these values. Or [B, L, V], whose R = B * L rows come block after block
    current      [R] int64, or [B, L] beside such logits: the token that each row holds now;
                 outside [0, V) its probability is 0
    forbid       token ids that may not be chosen; they stay in the softmax denominator
    temperature  logits are divided by it first; 1e-30 to 1e30. A tensor fp32 like `current`: one
                 per row, held to that range; a row that is to be greedy has 1
    entropy      of the softmax over all ids
    top_k        0 to 8: how many best tokens
    draws        of tensors like `current`: one token per row, drawn from what is left when
                 forbidden ids leave first, then temperature, top-k, top-p, softmax: the first id
                 whose running sum exceeds the uniform of the row's key. A row without a finite
                 candidate draws its current token, with probability 0. The key alone decides, and
                 that of a row of `joint_threshold_step_` draws the same token
    only         rows whose current token is another id are not read: they keep it as token and
                 sample, with probability 0, entropy 0, lse -inf and no best tokens, and are not bad

    | logits of a row | treated as | bad |
    |---|---|---|
    | NaN | -inf, in the denominator too | yes |
    | +inf | the largest finite fp32 | yes |
    | -inf | probability 0 | no |
    | no finite candidate | token = current, prob = 0 | yes |

    A row is read once, and again, from the cache where it fits, for its draw. Nothing of the
    size of the logits is made. Never raises for values on the device and never synchronises.
    Raises TypeError or ValueError for wrong dtypes, shapes, devices, forbidden ids outside [0, V),
    and a temperature or a `top_k` out of range.
    """
    *shape, vocab = check_logits(logits, 2 if logits.ndim == 2 else 3)
    if not isinstance(current, Tensor):
        raise TypeError(f"current must be a tensor int64 of token ids; got {current!r:.80}")
    rows = current.shape
    check_forbid(forbid, vocab)
    if (rows != (math.prod(shape),) and rows != (*shape,)) or current.dtype != torch.int64:
        either = " or ".join(map(str, ([*shape], [math.prod(shape)])[2 - len(shape) :]))
        raise ValueError(
            f"current must be int64 {either}, one token per row of logits; "
            f"got {current.dtype} {list(current.shape)}"
        )
    if current.device != logits.device:
        raise ValueError(f"current is on {current.device}, logits are on {logits.device}")
    if isinstance(temperature, Tensor):
        check_per_row("temperature", temperature, torch.float32, rows, logits.device)
    elif not 1e-30 <= temperature <= 1e30:
        raise ValueError(f"temperature must be from 1e-30 to 1e30, got {temperature}")
    else:
        temperature = float(temperature)
    if not (isinstance(top_k, int) and 0 <= top_k <= MOST_RANKS):
        raise ValueError(f"top_k must be an integer from 0 to {MOST_RANKS}, got {top_k}")
    if only is not None and (
        not isinstance(only, int) or isinstance(only, bool) or abs(only) >> 62
    ):
        raise ValueError(f"only must be a token id, or None for all rows; got {only!r}")
    if draws is not None:
        for name, kind in _DRAWS.items():
            check_per_row(f"draws.{name}", getattr(draws, name), kind, rows, logits.device)
    if torch.compiler.is_compiling():
        return by_rows(_compiled)(
            logits,
            current,
            forbid=list(forbid),
            temperature=temperature,
            entropy=entropy,
            top_k=top_k,
            draws=draws,
            only=only,
        )
    return implementation("row_stats", logits.device.type)(
        logits,
        current,
        forbid=tuple(forbid),
        temperature=temperature,
        entropy=entropy,
        top_k=top_k,
        draws=draws,
        only=only,
    )


def by_rows(serve: Callable[..., RowStats]) -> Callable[..., RowStats]:
    """For a back end that knows no blocks: `serve` is given tensors [R] alone."""

    @functools.wraps(serve)
    def served(
        logits: Tensor,
        current: Tensor,
        *,
        temperature: float | Tensor,
        draws: RowDraws | None,
        **options: Any,
    ) -> RowStats:
        if isinstance(temperature, Tensor):
            temperature = temperature.reshape(-1)
        draws = draws and draws.flat()
        options |= {"temperature": temperature, "draws": draws}
        return serve(logits, current.reshape(-1), **options).shaped(current.shape)

    return served


_DRAWS = {
    "seed": torch.int64,
    "position": torch.int64,
    "forward": torch.int64,
    "top_k": torch.int64,
    "top_p": torch.float32,
}


def _compiled(
    logits: Tensor,
    current: Tensor,
    forbid: list[int],
    temperature: float | Tensor,
    entropy: bool,
    top_k: int,
    draws: RowDraws | None,
    only: int | None,
) -> RowStats:
    """By way of the operator, which has a tensor for every field."""
    per_row = temperature if isinstance(temperature, Tensor) else None
    common = 1.0 if isinstance(temperature, Tensor) else temperature
    keys = (None,) * 5 if draws is None else draws.fields()
    purpose = 0 if draws is None else draws.purpose
    token, prob, prob_current, lse, spread, bad, top_tokens, top_probs, sample, sample_prob = (
        torch.ops.fastedit.row_stats(
            logits, current, forbid, common, entropy, per_row, top_k, *keys, purpose, only
        )
    )
    return RowStats(
        token,
        prob,
        prob_current,
        lse,
        spread if entropy else None,
        bad,
        top_tokens if top_k else None,
        top_probs if top_k else None,
        sample if draws is not None else None,
        sample_prob if draws is not None else None,
    )
