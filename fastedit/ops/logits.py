"""What the operations take as logits: refused here, since back ends see nothing but addresses."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

LOGIT_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def check_logits(logits: Tensor, dims: int) -> torch.Size:
    """Their shape. Refuses logits that the contract does not cover, on every back end alike."""
    shape = logits.shape
    if logits.dtype not in LOGIT_DTYPES:
        raise TypeError(f"logits must be float32, bfloat16 or float16, got {logits.dtype}")
    if len(shape) != dims or shape[-1] == 0:
        wanted = "[R, V]" if dims == 2 else "[B, L, V]"
        raise ValueError(f"logits must be {wanted} with V > 0, got {list(shape)}")
    if shape[-1] > 1 and logits.stride(-1) != 1:
        raise ValueError("the last dimension of logits must be contiguous: call .contiguous()")
    return shape


def check_forbid(forbid: Sequence[int], vocab: int) -> None:
    for token in forbid:
        if not 0 <= token < vocab:
            raise ValueError(f"forbid holds {token}, outside the vocabulary [0, {vocab})")


def check_per_row(
    name: str, value: Tensor, dtype: torch.dtype, rows: Sequence[int], device: torch.device
) -> None:
    """Back ends take bare addresses: what does not fit must not reach them."""
    if value.shape != rows or value.dtype != dtype or value.device != device:
        raise ValueError(
            f"{name} must be {dtype} {list(rows)} on {device}, one value per row of logits; "
            f"got {value.dtype} {list(value.shape)} on {value.device}"
        )
