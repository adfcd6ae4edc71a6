"""Writing into blocks in plain torch."""

from __future__ import annotations

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
) -> None:
    """Contract: `fastedit.ops.write_blocks_`."""
    done, dirty, wrong = flags[0], flags[1], flags[2]
    active = ~done
    may = may & active[:, None]
    new = torch.where(may, wanted, ids)
    was, now, changed = ids == mask_token_id, new == mask_token_id, new != ids
    kinds = torch.stack((changed & was, changed & ~(was | now), changed & now))
    counts[0].add_(active)
    counts[1:4].add_(kinds.sum(-1, dtype=torch.int32))
    dirty.copy_(torch.where(active, changed.any(-1), dirty))
    wrong.logical_or_((bad & (may if judges_tokens else may & was)).any(-1))
    done.logical_or_(active & finished & ~(now & may).any(-1))
    ids.copy_(new)
