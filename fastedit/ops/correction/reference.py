"""A step that fills by a clock and takes back what is doubted, of the operations it consists of."""

from __future__ import annotations

import torch
from torch import Tensor

from fastedit.ops.blocks import Blocks
from fastedit.ops.contents.reference import contents
from fastedit.ops.highest.reference import highest
from fastedit.ops.steps import block_stats, write_


def correction_step_(
    blocks: Blocks,
    logits: Tensor,
    turn: Tensor,
    *,
    settings: tuple[Tensor, ...],
    forbid: tuple[int, ...],
) -> None:
    """Contract: `fastedit.ops.correction_step_`."""
    steps, stride, budget, ring, limit, tau = settings
    forward, filled = blocks.counts[:2].long()
    stats = block_stats(blocks, logits, forbid)
    masked, tokens, masks, held = contents(blocks.ids, blocks.may, blocks.mask_token_id)

    count = masks + held
    steps = torch.where(steps > 0, steps, count.clamp(min=1))
    # The time left, of which `count` passes per forward and `steps` are worth a mask.
    left = (steps * (masks + filled) - count * forward - count).clamp_(min=0)
    share = masks - (2 * left + steps) // (2 * steps)
    fill = highest(stats.prob, masked, share, None, False, stats.prob)

    error = 1.0 - stats.prob_current
    turns = (turn.amax(-1, keepdim=True) + 1).clamp_(min=0)
    wrong = tokens & (error > tau[:, None]) & (turn < turns - ring[:, None])
    most = budget * ((forward % stride == 0) & (left > 0))
    remask = highest(error, wrong, most, None, False, error)
    wanted = torch.where(fill, stats.token, blocks.ids)
    wanted.masked_fill_(remask, blocks.mask_token_id)
    now = torch.where(remask, turns - 1 + remask.cumsum(-1, dtype=turn.dtype), turn)
    write_(blocks, stats, wanted, left == 0, [(turn, now)], limit)
