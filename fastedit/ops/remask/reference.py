"""A step that fills by a threshold and masks again what is doubted, of the operations it consists
of."""

from __future__ import annotations

import torch
from torch import Tensor

from fastedit.ops.blocks import Blocks
from fastedit.ops.contents.reference import contents
from fastedit.ops.highest.reference import highest
from fastedit.ops.steps import block_stats, write_


def remask_step_(
    blocks: Blocks,
    logits: Tensor,
    post_steps: Tensor,
    remasked: Tensor,
    before: Tensor | None,
    *,
    trigger: str,
    settings: tuple[Tensor, ...],
    forbid: tuple[int, ...],
) -> None:
    """Contract: `fastedit.ops.remask_step_`."""
    tau, threshold, share, cap, max_post_steps, num_to_transfer = settings
    stats = block_stats(blocks, logits, forbid)
    masked, tokens, masks, held = contents(blocks.ids, blocks.may, blocks.mask_token_id)
    had_mask, had_token = masks > 0, held > 0
    spent = ~had_mask & (post_steps >= max_post_steps)

    least = tau[:, None]
    if before is not None:
        score = before - stats.prob_current
        doubted = (score > least) & (before >= 0.0)
    elif trigger == "t2t":
        score = stats.prob
        doubted = (score > least) & (stats.token != blocks.ids)
    else:
        score = -stats.prob_current
        doubted = stats.prob_current < least
    doubted = doubted & tokens & (remasked < cap[:, None])
    most = (held * share).long().clamp_(min=1).masked_fill_(spent, 0)
    remask = highest(score, doubted, most, None, False, score)
    fill = highest(stats.prob, masked, num_to_transfer, threshold, False, stats.prob)

    post = post_steps + ~(had_mask | spent)
    now = (remasked + remask) * had_token[:, None]
    buffers = [(post_steps, post), (remasked, now)]
    if before is not None:
        prob = torch.where(fill, stats.prob, stats.prob_current)
        buffers.append((before, torch.where(had_token[:, None], prob, -1.0)))
    wanted = torch.where(fill, stats.token, blocks.ids)
    wanted.masked_fill_(remask, blocks.mask_token_id)
    write_(blocks, stats, wanted, ~had_mask | (post >= max_post_steps), buffers)
