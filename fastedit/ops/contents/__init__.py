"""What blocks hold: which positions are masks, which are tokens, and how many of each."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from fastedit.ops.dispatch import implementation


class Contents(NamedTuple):
    """Of B blocks of L positions, all of it among the positions that may change.

    masked, tokens  bool [B, L]   where a mask is held, and where a token
    masks, held     int64 [B]     how many
    """

    masked: Tensor
    tokens: Tensor
    masks: Tensor
    held: Tensor


def contents(ids: Tensor, may: Tensor, *, mask_token_id: int) -> Contents:
    """The masks and tokens of `ids` [B, L] int64, of the positions that may change, bool [B, L].

    Never raises for values and never synchronises. Raises ValueError for shapes and dtypes that do
    not fit.
    """
    if ids.dtype != torch.int64 or ids.ndim != 2:
        raise ValueError(f"ids must be int64 [B, L]; got {ids.dtype} {list(ids.shape)}")
    if may.dtype != torch.bool or may.shape != ids.shape:
        raise ValueError(
            f"may must be bool {list(ids.shape)}, as ids are; got {may.dtype} {list(may.shape)}"
        )
    return implementation("contents", ids.device.type)(ids, may, mask_token_id)
