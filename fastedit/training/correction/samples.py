"""Samples of a correction head: tokens that the model writes, and positions that are judged.

Source: "Algorithm 2" of arXiv 2601.06428 as ported by others; no official code exists. A unit is a
document, or a block of one (`CorrectionOptions.unit`); R are its response positions.

    t ~ U(0, 1 - dt);  t' ~ U(dt, 1 - t)
    x_t    : each i in R masked with probability t
    x_more : x_t, and each visible i in R masked with probability t' / (1 - t)
    y      : tokens of the model in the masks of x_more
    A      : the surest of the candidates;  z = x_t with y on A
    e_i    : z_i is not the clean id

With targets "filling" and "prism" t ~ U(dt, 1) and x_more is x_t: what a decoder has that never
looks back.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from fastedit.ops.sampling import unit as uniform
from fastedit.training.correction.options import CorrectionOptions
from fastedit.training.noise.draws import MASK, RATE, Draws
from fastedit.training.noise.ranks import best_of_each, counts_in


class Masks(NamedTuple):
    """Which response positions are masked; both bool [B, L].

    now    in x_t, where tokens are judged
    more   in x_more, where the model writes them: these and others
    """

    now: Tensor
    more: Tensor


class Judged(NamedTuple):
    """A sample; every field [B, L].

    ids      int64  z, what the head sees
    written  bool   A
    scope    bool   positions with a label
    errors   bool   z is not the clean id
    """

    ids: Tensor
    written: Tensor
    scope: Tensor
    errors: Tensor


def units(draws: Draws, unit: str, block_size: int) -> Tensor:
    """What each token belongs to, int64 [B, L]: equal numbers are one document, or one block.

    Documents begin at a block, and rows are whole blocks.
    """
    if unit == "document":
        return draws.example
    place = torch.arange(draws.example.numel(), device=draws.example.device)
    return place.div(block_size, rounding_mode="floor").view_as(draws.example)


def draw_masks(
    draws: Draws, response: Tensor, options: CorrectionOptions, block_size: int
) -> Masks:
    """The masks of x_t and x_more inside `response` [B, L]."""
    if options.unit == "block":
        first, second = draws.per_block(RATE, 0, block_size)
    else:
        first, second = draws.per_document(RATE, 0)
    chance, again = map(uniform, draws.words(MASK, 0)[:2])
    least = options.delta_t
    rate = first * (1.0 - least)
    if options.targets != "fca":
        now = response & (chance < least + rate)
        return Masks(now, now)
    now = response & (chance < rate)
    extra = least + (1.0 - rate - least) * second
    return Masks(now, now | (response & (again < extra / (1.0 - rate))))


def judge(
    clean: Tensor,
    response: Tensor,
    group: Tensor,
    masks: Masks,
    tokens: Tensor,
    confidence: Tensor,
    options: CorrectionOptions,
    mask_token_id: int,
) -> Judged:
    """The sample of drafts `tokens` and their `confidence`, all [B, L], read at masks alone.

    group  as of `units`; options are settled. On ties the earlier position is written.
    """
    among = masks.more & ~masks.now if options.candidates == "extra" else masks.more
    count = torch.full_like(group, options.count or 0)
    if options.count is None:
        size = counts_in(response, group).double() * options.delta_t
        count = (size - 1e-9).ceil().clamp(min=1).long()  # .1 * 70 is 7, not what floats make of it
    written = best_of_each(confidence, among, group, count)
    ids = torch.where(written, tokens, clean.masked_fill(masks.now, mask_token_id))
    scope = {
        "visible": response & (ids != mask_token_id),
        "drafted": written,
        "all": response,
    }[str(options.scope)]
    return Judged(ids, written, scope, ids != clean)
