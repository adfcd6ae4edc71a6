"""Inserts and deletes as Triton kernels."""

from __future__ import annotations

from collections.abc import Sequence

from fastedit_kernels import compact as kernel
from torch import Tensor

from fastedit.ops.launch import on


def rewrite_blocks(
    ids: Tensor,
    keep: Tensor,
    insert: Tensor,
    fill: int,
    planes: Sequence[Tensor],
    blanks: Sequence[float],
    fixed: Tensor | None,
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Contract: `fastedit.ops.rewrite_blocks`."""
    fixed = None if fixed is None else fixed.contiguous()
    ids, keep, insert, *planes = (x.contiguous() for x in (ids, keep, insert, *planes))
    with on(ids.device):
        return kernel.rewrite_blocks(ids, keep, insert, fill, planes, blanks, fixed)


def compact(
    ids: Tensor,
    cu_seqlens: Tensor,
    keep: Tensor,
    insert: Tensor,
    planes: Sequence[Tensor],
    blanks: Sequence[float],
    capacity: int,
    fill: int,
    room: Tensor | None,
) -> tuple[Tensor, tuple[Tensor, ...], Tensor]:
    """Contract: `fastedit.ops.compact`."""
    tensors = (ids, cu_seqlens, keep, insert, *planes)
    ids, cu_seqlens, keep, insert, *planes = (x.contiguous() for x in tensors)
    room = None if room is None else room.contiguous()
    with on(ids.device):
        return kernel.compact(ids, cu_seqlens, keep, insert, planes, blanks, capacity, fill, room)
