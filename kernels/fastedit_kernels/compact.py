"""Inserts and deletes: what positions emit, end to end, in blocks or in packed sequences.

Every place of a result is written once, by the position that emits there or as padding, so no
program waits for another and nothing is sorted. Bytes: the two flags and the values of every
position read, every place written. One program has a block or a sequence. That of a packed sequence
adds up the flags of the sequences before it to know where it starts: N positions in B sequences are
read B / 2 times, 9 bytes each, which for the packs of a decoding step stays in the cache.
"""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl

WARPS = 2 if torch.version.hip else 4
MOST = 1024  # positions that a program takes at once
GROUP = tl.constexpr(8)  # sequences whose flags are added up at once,
SPAN = tl.constexpr(64)  # and positions of each


@triton.jit
def load_flags(keep, insert, at, inside):
    """Whether positions keep their token and whether they insert one, int32 0 or 1."""
    kept = tl.load(keep + at, mask=inside, other=0) != 0
    inserts = tl.load(insert + at, mask=inside, other=-1) >= 0
    return kept.to(tl.int32), inserts.to(tl.int32)


@triton.jit
def write(ids, planes, ids_out, planes_out, blanks, at, own, place, tokens, inserts, insert_place):
    """Where `own`, position `at` moves to `place`; where it `inserts`, `tokens` and blanks."""
    tl.store(ids_out + place, tl.load(ids + at, mask=own), mask=own)
    tl.store(ids_out + insert_place, tokens, mask=inserts)
    for p in tl.static_range(len(planes)):
        tl.store(planes_out[p] + place, tl.load(planes[p] + at, mask=own), mask=own)
        tl.store(planes_out[p] + insert_place, blanks[p], mask=inserts)


@triton.jit
def write_padding(ids_out, planes_out, blanks, fill, first, last, WIDTH: tl.constexpr):
    """Places [first, last) hold no token."""
    for start in range(first, last, WIDTH):
        place = start + tl.arange(0, WIDTH)
        tl.store(ids_out + place, fill, mask=place < last)
        for p in tl.static_range(len(planes_out)):
            tl.store(planes_out[p] + place, blanks[p], mask=place < last)


@triton.jit
def higher(a, b):
    return tl.maximum(a, b)


@triton.jit
def lower(a, b):
    return tl.minimum(a, b)


@triton.jit(do_not_specialize=["length", "fill"])
def rewrite_blocks_kernel(
    ids,
    keep,
    insert,
    fixed,
    planes,
    ids_out,
    planes_out,
    blanks,
    fill,
    length,
    FIXED: tl.constexpr,
    WIDTH: tl.constexpr,
):
    block = tl.program_id(0).to(tl.int64) * length
    place = tl.arange(0, WIDTH)
    inside = place < length
    at = block + place
    kept = (tl.load(keep + at, mask=inside, other=0) != 0).to(tl.int32)
    inserts = (tl.load(insert + at, mask=inside, other=0) != 0).to(tl.int32)
    if FIXED:
        stays = tl.load(fixed + at, mask=inside, other=0) != 0
        kept, inserts = tl.where(stays, 1, kept), tl.where(stays, 0, inserts)
    end = tl.cumsum(kept + inserts, 0)
    used = tl.sum(kept + inserts, 0)
    limit = length
    padding = inside & (place >= used)
    if FIXED:  # a run is what stands between the last and the next position that stays
        last = tl.associative_scan(tl.where(stays, place, -1), 0, higher)
        before = tl.associative_scan(tl.where(stays, end, 0), 0, higher)
        limit = tl.associative_scan(tl.where(stays, place, length), 0, lower, reverse=True)
        until = tl.associative_scan(tl.where(stays, end, used + 1), 0, lower, reverse=True)
        padding = inside & (stays == 0) & (place >= last + until - before)
        limit = tl.where(stays, place + 1, limit)
        end += last + 1 - before
    write(
        ids,
        planes,
        ids_out,
        planes_out,
        blanks,
        at,
        (kept > 0) & (end <= limit),
        block + end - 1,
        fill,
        (inserts > 0) & (end - kept <= limit),
        block + end - kept - 1,
    )
    tl.store(ids_out + at, fill, mask=padding)
    for p in tl.static_range(len(planes_out)):
        tl.store(planes_out[p] + at, blanks[p], mask=padding)


@triton.jit
def emitted_before(sequence, keep, insert, cu, room, positions, ROOM: tl.constexpr):
    """Tokens that the sequences before this one emit."""
    total = 0
    for first in range(0, sequence, GROUP):
        s = first + tl.arange(0, GROUP)
        wanted = s < sequence
        begin, end = bounds(cu, s, wanted, positions)
        kept = tl.zeros([GROUP], tl.int32)
        inserted = tl.zeros([GROUP], tl.int32)
        for start in range(0, tl.max(end - begin, 0), SPAN):
            at = begin[:, None] + start + tl.arange(0, SPAN)[None, :]
            keeps, inserts = load_flags(keep, insert, at, at < end[:, None])
            kept += tl.sum(keeps, 1)
            inserted += tl.sum(inserts, 1)
        if ROOM:
            limit = tl.maximum(tl.load(room + s, mask=wanted, other=0), 0)
            inserted = tl.minimum(inserted, limit).to(tl.int32)
        total += tl.sum(kept + inserted, 0)
    return total


@triton.jit
def bounds(cu, sequence, wanted, positions):
    """First position of a sequence and the one after its last, int32."""
    begin = tl.load(cu + sequence, mask=wanted, other=0)
    end = tl.load(cu + sequence + 1, mask=wanted, other=0)
    begin = tl.minimum(tl.maximum(begin, 0), positions).to(tl.int32)
    return begin, tl.minimum(tl.maximum(end, 0), positions).to(tl.int32)


@triton.jit(do_not_specialize=["positions", "sequences", "capacity", "fill"])
def compact_kernel(
    ids,
    keep,
    insert,
    planes,
    cu,
    room,
    ids_out,
    planes_out,
    cu_out,
    blanks,
    fill,
    positions,
    sequences,
    capacity,
    ROOM: tl.constexpr,
    WIDTH: tl.constexpr,
):
    sequence = tl.program_id(0)
    used = emitted_before(sequence, keep, insert, cu, room, positions, ROOM)
    tl.store(cu_out + sequence, tl.minimum(used, capacity))
    if sequence == sequences:  # one program more than there are sequences
        write_padding(ids_out, planes_out, blanks, fill, used, capacity, WIDTH)
    else:
        begin, end = bounds(cu, sequence, True, positions)
        left = positions
        if ROOM:
            left = tl.minimum(tl.load(room + sequence), positions).to(tl.int32)
        for first in range(begin, end, WIDTH):
            at = first + tl.arange(0, WIDTH)
            kept, inserts = load_flags(keep, insert, at, at < end)
            number = tl.cumsum(inserts, 0)
            inserts = tl.where(number <= left, inserts, 0)
            after = used + tl.cumsum(kept + inserts, 0)
            write(
                ids,
                planes,
                ids_out,
                planes_out,
                blanks,
                at,
                (kept > 0) & (after <= capacity),
                after - 1,
                tl.load(insert + at, mask=inserts > 0),
                (inserts > 0) & (after - kept <= capacity),
                after - kept - 1,
            )
            left -= tl.sum(inserts, 0)
            used += tl.sum(kept + inserts, 0)


def numbers(blanks: Sequence[float]) -> tuple[float, ...]:
    """Triton's interpreter takes no bool."""
    return tuple(int(blank) if isinstance(blank, bool) else blank for blank in blanks)


def rewrite_blocks(
    ids: torch.Tensor,
    keep: torch.Tensor,
    insert: torch.Tensor,
    fill: int,
    planes: Sequence[torch.Tensor],
    blanks: Sequence[float],
    fixed: torch.Tensor | None,
) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
    """New ids and planes; all of the tensors are contiguous [n, L], the flags are bool."""
    blocks, length = ids.shape
    new, moved = torch.empty_like(ids), tuple(torch.empty_like(plane) for plane in planes)
    if ids.numel():
        rewrite_blocks_kernel[(blocks,)](
            ids,
            keep,
            insert,
            fixed,
            tuple(planes),
            new,
            moved,
            numbers(blanks),
            fill,
            length,
            FIXED=fixed is not None,
            WIDTH=triton.next_power_of_2(length),
            num_warps=WARPS,
        )
    return new, moved


def compact(
    ids: torch.Tensor,
    cu_seqlens: torch.Tensor,
    keep: torch.Tensor,
    insert: torch.Tensor,
    planes: Sequence[torch.Tensor],
    blanks: Sequence[float],
    capacity: int,
    fill: int,
    room: torch.Tensor | None,
) -> tuple[torch.Tensor, tuple[torch.Tensor, ...], torch.Tensor]:
    """New ids and planes [capacity], and cu_seqlens; all of the tensors are contiguous.

    Positions and places are below 2^31 in number.
    """
    sequences = len(cu_seqlens) - 1
    new, moved = ids.new_empty(capacity), tuple(plane.new_empty(capacity) for plane in planes)
    lengths = torch.empty_like(cu_seqlens)
    compact_kernel[(sequences + 1,)](
        ids,
        keep,
        insert,
        tuple(planes),
        cu_seqlens,
        room,
        new,
        moved,
        lengths,
        numbers(blanks),
        fill,
        len(ids),
        sequences,
        capacity,
        ROOM=room is not None,
        WIDTH=MOST,
        num_warps=WARPS,
    )
    return new, moved, lengths
