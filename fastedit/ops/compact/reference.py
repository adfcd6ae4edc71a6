"""Inserts and deletes in plain torch: running sums say which position emits at every place."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad


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
    limit = None
    if fixed is not None:
        keep, insert = keep | fixed, insert & ~fixed
    end = (insert.long() + keep).cumsum(-1)
    if fixed is not None:
        end, limit = _from_the_fixed(end, fixed)
    source, own = _sources(end, keep, ids.shape[1], limit)
    ids, *planes = _moved((ids, *planes), (fill, *blanks), source, own)
    return ids, tuple(planes)


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
    position = torch.arange(len(ids), device=ids.device)
    bounds = cu_seqlens.long().clamp(0, len(ids))
    sequence = torch.searchsorted(bounds, position, right=True)  # from 1 on
    inside = (sequence > 0) & (sequence < len(bounds))
    keep, inserts = keep & inside, (insert >= 0) & inside
    if room is not None:
        taken = pad(inserts.long().cumsum(0), (1, 0))  # by the positions before each one
        before = taken[pad(bounds, (1, 0))][sequence]
        inserts &= taken[:-1] - before < pad(room, (1, 1))[sequence]
    end = (inserts.long() + keep).cumsum(0)
    source, own = _sources(end, keep, capacity)
    ids, *planes = _moved((ids, *planes), (fill, *blanks), source, own)
    inserted = (source < len(position)) & ~own
    ids = torch.where(inserted, pad(insert, (0, 1))[source], ids)
    lengths = pad(end, (1, 0))[bounds].clamp(max=capacity)
    return ids, tuple(planes), lengths.to(cu_seqlens.dtype)


def _from_the_fixed(end: Tensor, fixed: Tensor) -> tuple[Tensor, Tensor]:
    """`end` counted from where the last fixed position stands, and where the next one does."""
    position = torch.arange(end.shape[-1], device=end.device).expand_as(end)
    last = torch.where(fixed, position, -1).cummax(-1).values
    before = pad(end, (1, 0)).gather(-1, last + 1)  # what is emitted up to it
    following = torch.where(fixed, position, end.shape[-1]).flip(-1).cummin(-1).values.flip(-1)
    return end - before + last + 1, torch.where(fixed, position + 1, following)


def _sources(
    end: Tensor, keep: Tensor, places: int, limit: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Per place [..., places]: the position that emits there, and whether its own token.

    end   [..., N], how many tokens the positions up to this one emit, this one included
    keep  [..., N] bool; a position emits its own token last
    limit [..., N], up to which place they may; None: up to the last

    The position is N where none emits.
    """
    place = torch.arange(places, device=end.device).expand(*end.shape[:-1], places).contiguous()
    bound = end if limit is None else torch.minimum(end, limit)
    source = torch.searchsorted(bound, place, right=True)
    last = pad(end, (0, 1)).gather(-1, source) == place + 1
    return source, last & pad(keep, (0, 1)).gather(-1, source)


def _moved(
    planes: Sequence[Tensor], blanks: Sequence[float], source: Tensor, own: Tensor
) -> list[Tensor]:
    """The `planes` [..., N] where `source` has an `own` token, the blanks elsewhere."""
    return [
        torch.where(own, pad(plane, (0, 1)).gather(-1, source), plane.new_full((), blank))
        for plane, blank in zip(planes, blanks, strict=True)
    ]
