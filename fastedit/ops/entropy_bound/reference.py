"""DiffusionGemma's decision step in plain torch, of the operations that it consists of."""

from __future__ import annotations

import torch
from torch import Tensor

from fastedit.ops.blocks import Blocks
from fastedit.ops.sampling import NOISE, RowDraws, Sampling
from fastedit.ops.steps import block_stats, write_
from fastedit.ops.uniform.reference import random_ids
from fastedit.ops.within_budget.reference import within_budget


def entropy_bound_step_(
    blocks: Blocks,
    logits: Tensor,
    best: Tensor,
    stable: Tensor,
    *,
    settings: tuple[Tensor, ...],
    sampling: Sampling,
    forbid: tuple[int, ...],
) -> None:
    """Contract: `fastedit.ops.entropy_bound_step_`."""
    bound, t_min, t_max, confidence, steps, stability = settings
    ids, may, forward = blocks.ids, blocks.may, blocks.counts[0]
    heat = t_min + (t_max - t_min) * (steps - forward) / steps
    position = sampling.start[:, None] + torch.arange(ids.shape[1])
    seed, forwards, top_k, top_p, heats = (
        each[:, None].expand(ids.shape)
        for each in (sampling.seed, forward.long(), sampling.top_k, sampling.top_p, heat)
    )
    draws = RowDraws(seed, position, forwards, top_k, top_p)
    stats = block_stats(blocks, logits, forbid, temperature=heats, entropy=True, draws=draws)
    assert stats.entropy is not None and stats.sample is not None
    taken, total = within_budget(stats.entropy, may, bound)
    mask, vocab = blocks.mask_token_id, logits.shape[-1]
    skipped = mask if 0 <= mask < vocab else -1
    noise = random_ids(seed, position, forwards + 1, NOISE, vocab, skipped)

    count = may.sum(-1)
    now_stable = (stable + 1).masked_fill_(((stats.token != best) & may).any(-1), 0)
    settled = (now_stable >= stability) & (total / count < confidence)
    canvas = torch.where(taken, stats.sample, noise)
    wanted = torch.where(settled[:, None], stats.token, canvas)
    # A block of which nothing may change has no mean, and nothing to wait for.
    finished = settled | (forward + 1 >= steps) | (count == 0)
    write_(blocks, stats, wanted, finished, [(best, stats.token), (stable, now_stable)])
