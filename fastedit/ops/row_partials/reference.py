"""Statistics of a vocabulary shard in plain torch: what the other back ends must equal."""

from __future__ import annotations

import torch
from torch import Tensor

from fastedit.ops.plain import LARGEST, ban_, finite, row_sum


def row_partials(logits: Tensor, *, forbid: tuple[int, ...]) -> tuple[Tensor, ...]:
    """Contract: `fastedit.ops.row_partials`; the fields in order, ids within the shard."""
    scores, bad = finite(logits)
    top = scores.amax(-1)
    total = row_sum((scores - top.clamp(min=-LARGEST)[:, None]).exp())
    best, token = ban_(scores, forbid).max(-1)
    return top, total, best, torch.where(best > -torch.inf, token, -1), bad
