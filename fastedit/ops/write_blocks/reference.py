"""Writing into blocks in plain torch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def write_blocks_(
    ids: Tensor,
    wanted: Tensor,
    may: Tensor,
    finished: Tensor,
    bad: Tensor,
    flags: Tensor,
    counts: Tensor,
    mask_token_id: int,
    judges_tokens: bool,
    buffers: Sequence[tuple[Tensor, Tensor]],
    limit: Tensor | None,
    fallback: Tensor | None,
) -> None:
    """Contract: `fastedit.ops.write_blocks_`."""
    done, dirty, wrong = flags[0], flags[1], flags[2]
    active = ~done
    # All of them before the first is written: a rule may hand one buffer on to another.
    kept = [torch.where(done.view(-1, *[1] * (b.ndim - 1)), b, now) for b, now in buffers]
    for (buffer, _), now in zip(buffers, kept, strict=True):
        buffer.copy_(now)
    may = may & active[:, None]
    was = ids == mask_token_id
    if limit is not None and fallback is not None:
        left = ((wanted == mask_token_id) & may).any(-1)
        over = (counts[0] + 1 >= limit) & active & ~(finished & ~left)
        flags[3].logical_or_(over)
        wanted = torch.where(over[:, None], torch.where(was, fallback, ids), wanted)
        finished = finished | over
    new = torch.where(may, wanted, ids)
    now, changed = new == mask_token_id, new != ids
    kinds = torch.stack((changed & was, changed & ~(was | now), changed & now))
    counts[0].add_(active)
    counts[1:4].add_(kinds.sum(-1, dtype=torch.int32))
    dirty.copy_(torch.where(active, changed.any(-1), dirty))
    wrong.logical_or_((bad & (may if judges_tokens else may & was)).any(-1))
    done.logical_or_(active & finished & ~(now & may).any(-1))
    ids.copy_(new)
