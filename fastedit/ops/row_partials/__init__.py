"""Vocabulary parallel: statistics of a vocabulary shard, their merge, and the decision from them.

A tensor-parallel engine keeps its logits where they are. Each rank reduces its columns to five
numbers per row, the ranks exchange those, and every rank takes the same decision.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fastedit.ops.dispatch import implementation
from fastedit.ops.joint_threshold import StepState, step_settings
from fastedit.ops.joint_threshold.reference import decide_
from fastedit.ops.logits import check_logits


@dataclass(frozen=True)
class RowPartials:
    """What a part of the vocabulary says about R rows; every field [R].

    max    fp32   largest logit, -inf where there is none
    sum    fp32   of exp(logit - max)
    best   fp32   largest logit that may be chosen
    token  int64  its id in the whole vocabulary, the lowest on ties; -1 where there is none
    bad    bool   NaN or +inf was seen
    """

    max: Tensor
    sum: Tensor
    best: Tensor
    token: Tensor
    bad: Tensor

    def fields(self) -> tuple[Tensor, ...]:
        return (self.max, self.sum, self.best, self.token, self.bad)

    def packed(self) -> Tensor:
        """[R, 6] fp32 for one collective, lossless; the inverse is `unpacked`."""
        low, high = self.token & 0xFFFF, self.token >> 16
        columns = (self.max, self.sum, self.best, high.float(), low.float(), self.bad.float())
        return torch.stack(columns, dim=-1)

    @classmethod
    def unpacked(cls, packed: Tensor) -> RowPartials:
        top, total, best, high, low, bad = packed.unbind(-1)
        return cls(top, total, best, (high.long() << 16) | low.long(), bad != 0.0)


def row_partials(
    logits: Tensor, *, vocab_start: int = 0, forbid: Sequence[int] = ()
) -> RowPartials:
    """Statistics of logits [R, W], the columns [vocab_start, vocab_start + W) of the vocabulary.

    forbid  ids of the whole vocabulary that may not be chosen; those of other shards are ignored

    Logits as in `row_stats`: any of its dtypes, NaN and infinities as in its table. Never raises
    for values and never synchronises. Raises TypeError or ValueError for wrong dtypes and shapes.
    """
    _, width = check_logits(logits, 2)
    if vocab_start < 0:
        raise ValueError(f"vocab_start must be at least 0, got {vocab_start}")
    here = sorted({t - vocab_start for t in forbid if 0 <= t - vocab_start < width})
    if torch.compiler.is_compiling():
        fields = torch.ops.fastedit.row_partials(logits, here)
    else:
        fields = implementation("row_partials", logits.device.type)(logits, forbid=tuple(here))
    top, total, best, token, bad = fields
    return RowPartials(top, total, best, torch.where(token >= 0, token + vocab_start, -1), bad)


def merge_partials(parts: Sequence[RowPartials]) -> RowPartials:
    """The statistics of all `parts` together; given in the order of their columns.

    Every rank that merges the same parts in the same order gets the same bits.
    """
    if not parts:
        raise ValueError("merge_partials needs at least one part")
    merged = parts[0]
    for part in parts[1:]:
        top = torch.maximum(merged.max, part.max)
        safe = top.clamp(min=torch.finfo(torch.float32).min)  # a row of -inf: no NaN, sum 0
        total = merged.sum * (merged.max - safe).exp() + part.sum * (part.max - safe).exp()
        better = part.best > merged.best  # strict: on ties the lower id, which came first
        merged = RowPartials(
            top,
            total,
            torch.where(better, part.best, merged.best),
            torch.where(better, part.token, merged.token),
            merged.bad | part.bad,
        )
    return merged


def joint_threshold_step_from_partials_(
    ids: Tensor,
    partials: RowPartials,
    editable: Tensor,
    state: StepState,
    *,
    mask_token_id: int,
    threshold: float | Tensor,
    editing_threshold: float | Tensor | None,
    max_post_steps: int | Tensor,
    num_to_transfer: int | Tensor = 1,
) -> None:
    """`joint_threshold_step_`, greedy, from merged partials of B * L rows instead of logits.

    Everything else as there. `forbid` was given to `row_partials`, and the mask token belongs in
    it. Raises ValueError where the shapes of `ids` [B, L] and `partials` [B * L] do not fit.
    """
    if partials.best.shape != (ids.numel(),):
        raise ValueError(
            f"partials are of {list(partials.best.shape)} rows, ids {list(ids.shape)} need "
            f"[{ids.numel()}]"
        )
    exists = partials.best > -torch.inf
    prob = torch.where(exists, (partials.best - partials.max).exp() / partials.sum, 0.0)
    token, bad = partials.token, partials.bad | ~exists
    candidates = tuple(field.view(ids.shape) for field in (token, prob, exists, bad))
    decide_(
        ids,
        candidates,
        editable,
        state,
        mask_token_id=mask_token_id,
        **step_settings(
            ids, editable, state, threshold, editing_threshold, max_post_steps, num_to_transfer
        ),
    )
