"""Inserts and deletes in C++, for tensors on the CPU."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from struct import Struct

import torch
from torch import Tensor

from fastedit.ops.compact import FORMS
from fastedit.ops.library import check, load

_REWRITE = Struct("3q3P")  # fe_rewrite_args
_COMPACT = Struct("4q2Pq3P")  # fe_compact_args


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
    keep, insert = keep.contiguous(), insert.contiguous()
    held = [plane.contiguous() for plane in (ids, *planes)]
    moved = [torch.empty_like(plane) for plane in held]
    blocks, length = ids.shape
    arguments = _REWRITE.pack(
        blocks,
        length,
        len(held),
        keep.data_ptr(),
        insert.data_ptr(),
        0 if fixed is None else fixed.data_ptr(),
    )
    check(load().fe_rewrite_blocks(arguments, _packed(held, moved, (fill, *blanks))))
    return moved[0], tuple(moved[1:])


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
    keep, insert, cu_seqlens = keep.contiguous(), insert.contiguous(), cu_seqlens.contiguous()
    room = None if room is None else room.contiguous()
    held = [plane.contiguous() for plane in (ids, *planes)]
    moved = [plane.new_empty(capacity) for plane in held]
    lengths = torch.empty_like(cu_seqlens)
    arguments = _COMPACT.pack(
        len(ids),
        len(cu_seqlens) - 1,
        len(held),
        capacity,
        cu_seqlens.data_ptr(),
        lengths.data_ptr(),
        cu_seqlens.element_size(),
        keep.data_ptr(),
        insert.data_ptr(),
        0 if room is None else room.data_ptr(),
    )
    check(load().fe_compact(arguments, _packed(held, moved, (fill, *blanks))))
    return moved[0], tuple(moved[1:]), lengths


def _packed(held: list[Tensor], moved: list[Tensor], blanks: Sequence[float]) -> bytes:
    """An array of fe_plane."""
    fields: list[int | bytes] = []
    for before, after, blank in zip(held, moved, blanks, strict=True):
        form = FORMS[before.dtype]
        fields += before.data_ptr(), after.data_ptr(), form.size, form.pack(blank)
    return _planes(len(held)).pack(*fields)


@cache
def _planes(count: int) -> Struct:
    return Struct("2Pq8s" * count)
