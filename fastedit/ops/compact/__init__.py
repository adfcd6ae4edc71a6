"""Inserting and deleting tokens: what positions emit is written end to end, in blocks or packed."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from struct import Struct

import torch
from torch import Tensor

from fastedit.ops.dispatch import implementation

# What a plane may hold, and how a blank is written as its bytes: back ends move values unread.
FORMS = {
    torch.float32: Struct("=f"),
    torch.int32: Struct("=i"),
    torch.int64: Struct("=q"),
    torch.bool: Struct("=?"),
}


def rewrite_blocks(
    ids: Tensor,
    keep: Tensor,
    insert: Tensor,
    fill: int,
    planes: Sequence[Tensor] = (),
    blanks: Sequence[float] = (),
    *,
    fixed: Tensor | None = None,
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """`ids` [n, L] int64 after inserts and deletes, and `planes` moved alike; the inputs stay.

    In every block, position after position emits `fill` where `insert` is set and then its own
    token where `keep` is set. What is emitted is cut at L, or padded with `fill` up to it.

    keep, insert  [n, L] bool. A deleted token is one that is not kept; it may still insert
    fill          what is inserted and what pads: the mask token of a policy
    fixed         [n, L] bool: positions that stay where they are, whatever their flags say; what is
                  emitted between two of them is cut or padded there. None: none of them
    planes        values of the positions, each [n, L] fp32, int32, int64 or bool: they move with
                  the token of their position
    blanks        per plane, what inserted and padded positions hold

    A block that keeps all and inserts nothing stays as it is. Results are contiguous. Never raises
    for values of tensors and never synchronises. Raises ValueError for shapes, devices and dtypes
    that do not fit, and for a blank that its plane cannot hold.

    Source: JointThresholdInDel of SGLang and the LLaDA2.2 report, equation 3.
    """
    if torch.compiler.is_compiling():
        new, *moved = torch.ops.fastedit.rewrite_blocks(
            ids, keep, insert, fill, planes, blanks, fixed
        )
        return new, tuple(moved)
    shape, device = ids.shape, ids.device
    if ids.dtype != torch.int64 or len(shape) != 2:
        raise ValueError(f"ids must be int64 [n, L]; got {ids.dtype} {list(shape)}")
    _check_like("keep", keep, torch.bool, shape, device)
    _check_like("insert", insert, torch.bool, shape, device)
    if fixed is not None:
        _check_like("fixed", fixed, torch.bool, shape, device)
    _check_planes(planes, blanks, shape, device)
    return implementation("rewrite_blocks", device.type)(
        ids, keep, insert, fill, planes, blanks, fixed
    )


def compact(
    ids: Tensor,
    cu_seqlens: Tensor,
    keep: Tensor,
    insert: Tensor,
    planes: Sequence[Tensor] = (),
    blanks: Sequence[float] = (),
    *,
    capacity: int,
    fill: int,
    room: Tensor | None = None,
) -> tuple[Tensor, tuple[Tensor, ...], Tensor]:
    """Packed sequences after inserts and deletes: ids [capacity], planes [capacity], cu_seqlens.

    Position after position emits the token to insert before it, if any, and then its own token
    where `keep` is set. Sequences follow each other without gaps, in their order.

    ids         [N] int64
    cu_seqlens  [B + 1] int64 or int32, ascending from 0 to at most N: sequence b holds positions
                from cu_seqlens[b] up to, but without, cu_seqlens[b + 1]. Positions from the last
                one on belong to no sequence and are dropped, so results can be given back as they
                are
    keep        [N] bool
    insert      [N] int64, the token to emit before this position; negative: none
    planes      values of the positions, each [N] fp32, int32, int64 or bool: they move with the
                token of their position
    blanks      per plane, what inserted tokens and places beyond the last sequence hold
    capacity    places in the result. What is emitted beyond them is cut off, and the lengths are
                those of what is left; N plus the number of inserts always suffices
    fill        what ids hold beyond the last sequence
    room        [B] int64, how many inserts each sequence takes: its first ones, the others are not
                emitted; None: all. Negative counts as 0

    The new cu_seqlens [B + 1] have the dtype of the given ones and start at 0. A plane of
    positions, with blank -1, becomes the index that gathers rows of any width.

    Never raises for values of tensors and never reads one on the host. Raises ValueError for
    shapes, devices and dtypes that do not fit, for a capacity below 0, and for a blank that its
    plane cannot hold.

    Source: `utils/edit_trainer.py` of ME-DLM, arXiv 2605.09603, with a limit per sequence.
    """
    if torch.compiler.is_compiling():
        new, *moved, lengths = torch.ops.fastedit.compact(
            ids, cu_seqlens, keep, insert, planes, blanks, capacity, fill, room
        )
        return new, tuple(moved), lengths
    shape, device = ids.shape, ids.device
    if ids.dtype != torch.int64 or len(shape) != 1:
        raise ValueError(f"ids must be int64 [N]; got {ids.dtype} {list(shape)}")
    _check_like("keep", keep, torch.bool, shape, device)
    _check_like("insert", insert, torch.int64, shape, device)
    _check_planes(planes, blanks, shape, device)
    if (
        cu_seqlens.dtype not in (torch.int32, torch.int64)
        or cu_seqlens.ndim != 1
        or not len(cu_seqlens)
        or cu_seqlens.device != device
    ):
        raise ValueError(
            f"cu_seqlens must be int64 or int32 [B + 1] on {device}; got {cu_seqlens.dtype} "
            f"{list(cu_seqlens.shape)} on {cu_seqlens.device}"
        )
    if room is not None:
        _check_like("room", room, torch.int64, cu_seqlens[1:].shape, device)
    if capacity < 0:
        raise ValueError(f"capacity must be at least 0, got {capacity}")
    return implementation("compact", device.type)(
        ids, cu_seqlens, keep, insert, planes, blanks, capacity, fill, room
    )


def _check_like(
    name: str, value: Tensor, dtype: torch.dtype, shape: torch.Size, device: torch.device
) -> None:
    if value.dtype != dtype or value.shape != shape or value.device != device:
        raise ValueError(
            f"{name} must be {dtype} {list(shape)} on {device}; "
            f"got {value.dtype} {list(value.shape)} on {value.device}"
        )


def _check_planes(
    planes: Sequence[Tensor], blanks: Sequence[float], shape: torch.Size, device: torch.device
) -> None:
    if len(planes) != len(blanks):
        raise ValueError(f"{len(planes)} planes need as many blanks, got {len(blanks)}")
    for number, plane in enumerate(planes):
        kind, blank = plane.dtype, blanks[number]
        form = FORMS.get(kind)
        if form is None:
            raise ValueError(f"planes must be fp32, int32, int64 or bool; plane {number} is {kind}")
        if plane.shape != shape or plane.device != device:
            _check_like(f"plane {number}", plane, kind, shape, device)
        try:
            form.pack(blank)
        except (OverflowError, struct.error):
            raise ValueError(f"blank {number} is {blank!r}, which {kind} cannot hold") from None
