"""Corruption of clean rows: masks drawn block by block, and random wrong tokens."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from fastedit.training.noise.corruption import other_candidate


class Noisy(NamedTuple):
    """A corrupted batch: ids [B, L] and where they were masked or replaced, bool [B, L]."""

    ids: Tensor
    masked: Tensor
    replaced: Tensor


def block_mask_rates(
    rows: int, blocks: int, full_share: float, generator: torch.Generator
) -> Tensor:
    """Mask rates [rows, blocks], uniform in [0, 1) per block; a `full_share` of them is 1.

    `uniform_block(0,1)` of huggingface/diffusers, `examples/discrete_diffusion/train_llada2.py`.
    Fully masked blocks are where every block of a decoding begins.
    """
    rates = torch.rand(rows, blocks, generator=generator)
    full = torch.rand(rows, blocks, generator=generator) < full_share
    return rates.masked_fill(full, 1.0)


def choose(where: Tensor, rates: Tensor, generator: torch.Generator) -> Tensor:
    """Each True position of `where` [B, L] independently with probability `rates` (broadcast)."""
    return where & (torch.rand(where.shape, generator=generator) < rates)


def random_other(clean: Tensor, candidates: Tensor, generator: torch.Generator) -> Tensor:
    """A uniform candidate different from the clean id, for every position of `clean` [B, L]."""
    draw = torch.rand(clean.shape, generator=generator, dtype=torch.float64)
    return other_candidate(clean, candidates, lambda count: (draw * count).long())


def corrupt(
    clean: Tensor,
    response: Tensor,
    *,
    block_size: int,
    mask_token_id: int,
    full_share: float,
    edit_rate: float,
    candidates: Tensor,
    lookalikes: Tensor,
    lookalike_share: float,
    generator: torch.Generator,
) -> Noisy:
    """Masks (M2T) and wrong tokens (T2T) for `clean` ids [B, L] inside `response`, bool [B, L].

    A rate per row, uniform in [0, 2 * edit_rate), says how many of the positions left visible are
    replaced: by any of `candidates`, or, for a `lookalike_share` of the clean ids that are in
    `lookalikes`, by another of these. Drafts go wrong by a digit far more often than by a word.
    L is a multiple of `block_size`; candidates must not hold the mask or special ids.
    """
    rows, length = clean.shape
    rates = block_mask_rates(rows, length // block_size, full_share, generator)
    masked = choose(response, rates.repeat_interleave(block_size, dim=1), generator)
    wrong_rate = 2 * edit_rate * torch.rand(rows, 1, generator=generator)
    replaced = choose(response & ~masked, wrong_rate, generator)
    alike = choose(torch.isin(clean, lookalikes), torch.tensor(lookalike_share), generator)
    wrong = torch.where(
        alike,
        random_other(clean, lookalikes, generator),
        random_other(clean, candidates, generator),
    )
    ids = torch.where(replaced, wrong, clean).masked_fill(masked, mask_token_id)
    return Noisy(ids, masked, replaced)
