"""What blocks hold, in C++, for tensors on the CPU."""

from __future__ import annotations

from struct import Struct

import torch
from torch import Tensor

from fastedit.ops.contents import Contents
from fastedit.ops.library import check, load

_ARGUMENTS = Struct("2q2Pq4P")  # fe_contents_args


def contents(ids: Tensor, may: Tensor, mask_token_id: int) -> Contents:
    """Contract: `fastedit.ops.contents`."""
    ids, may = ids.contiguous(), may.contiguous()
    masked, tokens = torch.empty_like(may), torch.empty_like(may)
    masks, held = torch.empty((2, len(ids)), dtype=torch.int64)
    arguments = _ARGUMENTS.pack(
        *ids.shape,
        ids.data_ptr(),
        may.data_ptr(),
        mask_token_id,
        masked.data_ptr(),
        tokens.data_ptr(),
        masks.data_ptr(),
        held.data_ptr(),
    )
    check(load().fe_contents(arguments))
    return Contents(masked, tokens, masks, held)
