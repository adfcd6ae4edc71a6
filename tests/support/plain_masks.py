"""Attention of training written plainly, as released code has it."""

from __future__ import annotations

import torch
from torch import Tensor


def doubled_block_mask(
    length: int,
    block_size: int,
    *,
    document_ids: Tensor | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    """Training mask of the doubled sequence [x_t ; x_0], both halves `length` tokens long.

    A noisy query sees its own noisy block and the clean blocks before it; a clean query sees clean
    blocks up to its own, never noisy keys (dFactory, `tasks/train_llada2_bd.py`). `document_ids`
    [B, length] restricts attention to the same document (packing); document -1 is padding and is
    never attended. Returns bool [B or 1, 1, 2*length, 2*length].
    """
    if document_ids is not None:
        device = document_ids.device
    block = torch.arange(length, device=device).div(block_size, rounding_mode="floor")
    same = block[:, None] == block[None, :]
    before = block[:, None] > block[None, :]
    mask = torch.cat(
        [torch.cat([same, before], 1), torch.cat([torch.zeros_like(same), same | before], 1)]
    )[None, None]
    if document_ids is None:
        return mask
    ids = torch.cat([document_ids, document_ids], dim=1)
    return mask & (ids[:, None, :, None] == ids[:, None, None, :]) & (ids >= 0)[:, None, None, :]
