"""Row statistics in C++, for tensors on the CPU."""

from __future__ import annotations

from ctypes import addressof, c_int64
from struct import Struct

import torch
from torch import Tensor

from fastedit.ops.library import LOGITS, NUMBERS, check, load, logits_fields, numbers_fields
from fastedit.ops.row_stats import RowStats
from fastedit.ops.sampling import RowDraws

_ARGUMENTS = Struct(f"{LOGITS}2q2Pd{NUMBERS}6Pq2P{5 * NUMBERS}q2P")  # fe_row_stats_args
_NO_RANKS: tuple[int, ...] = (0,) * 3
_NO_DRAWS: tuple[int, ...] = (0,) * 18


def row_stats(
    logits: Tensor,
    current: Tensor,
    *,
    forbid: tuple[int, ...],
    temperature: float | Tensor,
    entropy: bool,
    top_k: int,
    draws: RowDraws | None,
    only: int | None,
) -> RowStats:
    """Contract: `fastedit.ops.row_stats`."""
    rows, length = current.numel(), max(logits.shape[-2], 1)
    current = current.contiguous()
    token = torch.empty_like(current)
    prob = torch.empty_like(token, dtype=torch.float32)
    prob_current, lse = torch.empty_like(prob), torch.empty_like(prob)
    spread = torch.empty_like(prob) if entropy else None
    bad = torch.empty_like(token, dtype=torch.bool)
    heats = temperature if isinstance(temperature, Tensor) else None
    top_tokens = top_probs = sample = sample_prob = None
    ranks, keys = _NO_RANKS, _NO_DRAWS
    if top_k:
        top_tokens = logits.new_empty(*current.shape, top_k, dtype=torch.int64)
        top_probs = torch.empty_like(top_tokens, dtype=torch.float32)
        ranks = (top_k, top_tokens.data_ptr(), top_probs.data_ptr())
    if draws is not None:
        sample, sample_prob = torch.empty_like(token), torch.empty_like(prob)
        results = sample.data_ptr(), sample_prob.data_ptr()
        fields = (n for key in draws.fields() for n in numbers_fields(key, length))
        keys = (*fields, draws.purpose, *results)
    held = None if only is None else c_int64(only)
    arguments = _ARGUMENTS.pack(
        *logits_fields(logits, forbid),
        rows,
        length,
        current.data_ptr(),
        0 if held is None else addressof(held),
        1.0 if heats is not None else temperature,
        *numbers_fields(heats, length),
        token.data_ptr(),
        prob.data_ptr(),
        prob_current.data_ptr(),
        lse.data_ptr(),
        0 if spread is None else spread.data_ptr(),
        bad.data_ptr(),
        *ranks,
        *keys,
    )
    check(load().fe_row_stats(arguments, torch.get_num_threads()))
    return RowStats(
        token, prob, prob_current, lse, spread, bad, top_tokens, top_probs, sample, sample_prob
    )
