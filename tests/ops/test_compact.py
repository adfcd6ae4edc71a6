"""Inserts and deletes against Python lists: one set of cases for every back end."""

import re
from itertools import pairwise

import pytest
import torch
from blocks import interpreted
from hypothesis import given, settings
from hypothesis import strategies as st

from fastedit import ops

MASK = 9
KINDS = [torch.float32, torch.int32, torch.int64, torch.bool]
BLANKS = [-0.5, -1, 2**40, True]


def emitted(row, keep, insert, room=None):
    """What one sequence emits: (token, position it comes from or None), by hand."""
    out, left = [], len(row) if room is None else room
    for i, token in enumerate(row):
        if insert[i] >= 0 and left > 0:
            out.append((insert[i], None))
            left -= 1
        if keep[i]:
            out.append((token, i))
    return out


def check(out, length, ids, planes, plane_values, blanks):
    """Whether `length` places hold what was emitted: ids, and planes of `plane_values`."""
    out = (out + [(MASK, None)] * length)[:length]
    assert ids == [token for token, _ in out]
    for got, values, blank in zip(planes, plane_values, blanks, strict=True):
        assert got == [blank if i is None else values[i] for _, i in out]


def some(generator, high, *shape):
    return torch.randint(0, high, shape, generator=generator)


def planes_of(generator, count, *shape):
    """`count` planes of all kinds in turn, and their blanks."""
    kinds = [KINDS[i % 4] for i in range(count)]
    planes = [some(generator, 2 if k == torch.bool else 99, *shape).to(k) for k in kinds]
    return planes, [BLANKS[i % 4] for i in range(count)]


def some_flags(generator, *shape):
    """Seldom, often, never or always set."""
    return some(generator, 4, *shape) < some(generator, 5, 1)


def within_runs(out, row, keep, insert, fixed):
    """What each run between fixed positions emits, cut or padded to its room, and these."""
    places = [i for i, stays in enumerate(fixed) if stays]
    for begin, end in zip([0, *[i + 1 for i in places]], [*places, len(row)], strict=True):
        run = slice(begin, end)
        here = emitted(row[run], keep[run], insert[run])
        here = [(token, i if i is None else i + begin) for token, i in here]
        out += (here + [(MASK, None)] * (end - begin))[: end - begin]
        out += [(row[end], end)] if end < len(row) else []
    return out


def check_blocks(backend, ids, keep, insert, planes, blanks, fixed):
    with ops.use_backend(backend):
        new, moved = ops.rewrite_blocks(ids, keep, insert, MASK, planes, blanks, fixed=fixed)
    assert new.dtype == torch.int64 and [x.dtype for x in moved] == [x.dtype for x in planes]
    assert all(x.shape == ids.shape and x.is_contiguous() for x in (new, *moved))
    tokens = torch.where(insert, MASK, -1).tolist()
    for b, row in enumerate(zip(ids.tolist(), keep.tolist(), tokens, strict=True)):
        values = [[x[b].tolist() for x in each] for each in (moved, planes)]
        stay = [] if fixed is None else fixed[b].tolist()
        check(within_runs([], *row, stay), ids.shape[1], new[b].tolist(), *values, blanks)


def test_blocks_equal_lists(backend):
    @settings(max_examples=25 if interpreted(backend) else 150, deadline=None)
    @given(
        seed=st.integers(0, 2**31),
        blocks=st.integers(0, 5),
        length=st.integers(1, 40) | st.sampled_from([0, 64, 100, 256, 300]),
        count=st.integers(0, 6),
        strided=st.booleans(),
    )
    def run(seed, blocks, length, count, strided):
        generator = torch.Generator().manual_seed(seed)
        shape = (length, blocks) if strided else (blocks, length)
        ids = some(generator, MASK + 1, *shape)
        keep, insert = some_flags(generator, *shape), some_flags(generator, *shape)
        planes, blanks = planes_of(generator, count, *shape)
        fixed = some_flags(generator, *shape)
        if strided:
            ids, keep, insert, fixed, *planes = (x.t() for x in (ids, keep, insert, fixed, *planes))
        fixed = fixed if seed % 3 else None
        check_blocks(backend, ids, keep, insert, planes, blanks, fixed)

    run()


def test_packed_sequences_equal_lists(backend):
    @settings(max_examples=25 if interpreted(backend) else 150, deadline=None)
    @given(
        seed=st.integers(0, 2**31),
        lengths=st.lists(st.integers(0, 20), max_size=5),
        beyond=st.integers(0, 4),
        count=st.integers(0, 6),
        limited=st.booleans(),
        kind=st.sampled_from([torch.int32, torch.int64]),
    )
    def run(seed, lengths, beyond, count, limited, kind):
        generator = torch.Generator().manual_seed(seed)
        total = sum(lengths) + beyond
        ids = some(generator, MASK, total)
        keep = some_flags(generator, total)
        insert = torch.where(some_flags(generator, total), 100 + some(generator, 9, total), -1)
        planes, blanks = planes_of(generator, count, total)
        cu = torch.tensor([0, *lengths], dtype=kind).cumsum(0, dtype=kind)
        room = some(generator, 6, len(lengths)) - 1 if limited else None
        check_packed(backend, ids, cu, keep, insert, planes, blanks, room, extra=6 - seed % 13)

    run()


def check_packed(backend, ids, cu, keep, insert, planes, blanks, room, extra=0):
    parts, ends = [], [0]
    for b, (start, end) in enumerate(pairwise(cu.tolist())):
        row = (x[start:end].tolist() for x in (ids, keep, insert))
        out = emitted(*row, None if room is None else int(room[b]))
        parts += [(token, i if i is None else i + start) for token, i in out]
        ends.append(len(parts))
    capacity = max(0, len(parts) + extra)
    with ops.use_backend(backend):
        new, moved, new_cu = ops.compact(
            ids, cu, keep, insert, planes, blanks, capacity=capacity, fill=MASK, room=room
        )
    assert new_cu.dtype == cu.dtype and new_cu.tolist() == [min(end, capacity) for end in ends]
    assert [x.dtype for x in moved] == [x.dtype for x in planes]
    values = [[x.tolist() for x in each] for each in (moved, planes)]
    check(parts, capacity, new.tolist(), *values, blanks)


A, B, C, D, DROP, SPLIT = 1, 2, 3, 4, None, -1


@pytest.mark.parametrize(
    ("row", "wanted", "want"),
    [
        # What stands in the block, what the rule wants there, and what comes of it.
        ([A, B, C, D], [A, DROP, C, D], [A, C, D, MASK]),
        ([A, B, C, D], [SPLIT, B, C, D], [MASK, A, B, C]),
        ([A, B, C, D], [A, B, C, SPLIT], [A, B, C, MASK]),
        ([A, B, C, D], [DROP, DROP, C, SPLIT], [C, MASK, D, MASK]),
        ([A, B, C, D], [DROP] * 4, [MASK] * 4),
        ([A, B, C, D], [SPLIT] * 4, [MASK, A, MASK, B]),
    ],
)
def test_deletes_and_splits_of_a_block(backend, row, wanted, want):
    """LLaDA2.2: a split writes a mask before the old token; origin flags travel with tokens."""
    keep = torch.tensor([[x is not DROP for x in wanted]])
    split = torch.tensor([[x == SPLIT for x in wanted]])
    origin = torch.tensor([[x in (B, D) for x in row]])
    with ops.use_backend(backend):
        ids, (moved,) = ops.rewrite_blocks(
            torch.tensor([row]), keep, split, MASK, [origin], [False]
        )
    assert ids.tolist() == [want]
    assert moved.tolist() == [[x in (B, D) for x in want]]


def test_results_are_given_back_as_they_are(backend):
    """Ten rounds of ME-DLM's kind: ids beyond the last sequence belong to none."""
    generator = torch.Generator().manual_seed(0)
    sequences = [[1, 2, 3], [], [4, 5, 6, 7, 8], [9]]
    packed = torch.tensor([*range(1, 10), *[0] * 91])
    cu = torch.tensor([0, 3, 3, 8, 9], dtype=torch.int32)
    prompt = packed % 4 == 1
    for _ in range(10):
        keep = (some(generator, 5, 100) > 0) | prompt
        insert = torch.where((some(generator, 3, 100) > 0) | prompt, -1, some(generator, 50, 100))
        room = 12 - (cu[1:] - cu[:-1]).long()
        for b, (start, end) in enumerate(pairwise(cu.tolist())):
            row = (x[start:end].tolist() for x in (sequences[b], keep, insert)[1:])
            sequences[b] = [t for t, _ in emitted(sequences[b], *row, int(room[b]))]
        with ops.use_backend(backend):
            packed, (prompt,), cu = ops.compact(
                packed, cu, keep, insert, [prompt], [0], capacity=100, fill=0, room=room
            )
        got = [packed[start:end].tolist() for start, end in pairwise(cu.tolist())]
        assert got == sequences and max(map(len, got)) <= 12
    assert prompt.sum() == 3 and not packed[cu[-1] :].any()


def test_lengths_that_make_no_sense_do_no_harm(backend):
    ids, keep = torch.arange(6), torch.ones(6, dtype=torch.bool)
    none = torch.full((6,), -1)
    for cu in ([-5, 3, 99], [4, 2, 6], [7, 8, 9]):
        with ops.use_backend(backend):
            new, _, _ = ops.compact(ids, torch.tensor(cu), keep, none, capacity=8, fill=-7)
        assert new.shape == (8,) and set(new.tolist()) <= {*range(6), -7}


def test_arguments_that_do_not_fit_are_named():
    ids, flags = torch.zeros(2, 3, dtype=torch.int64), torch.ones(2, 3, dtype=torch.bool)
    with pytest.raises(ValueError, match=r"ids must be int64 \[n, L\]"):
        ops.rewrite_blocks(ids[0], flags, flags, MASK)
    with pytest.raises(ValueError, match=r"insert must be torch\.bool \[2, 3\]"):
        ops.rewrite_blocks(ids, flags, ids, MASK)
    with pytest.raises(ValueError, match="1 planes need as many blanks"):
        ops.rewrite_blocks(ids, flags, flags, MASK, [flags])
    with pytest.raises(ValueError, match=r"plane 1 is torch\.float16"):
        ops.rewrite_blocks(ids, flags, flags, MASK, [flags, ids.half()], [0, 0])
    with pytest.raises(ValueError, match=r"plane 0 must be torch\.int64 \[2, 3\]"):
        ops.rewrite_blocks(ids, flags, flags, MASK, [ids[:1]], [0])
    for kind, blank in ((torch.int32, 2**31), (torch.int64, 0.5), (torch.float32, 1e39)):
        with pytest.raises(ValueError, match=f"blank 0 is {re.escape(repr(blank))}"):
            ops.rewrite_blocks(ids, flags, flags, MASK, [ids.to(kind)], [blank])
    ids, flags, cu = ids[0], flags[0], torch.tensor([0, 3])
    for wrong in (cu.float(), cu[:0], cu[None]):
        with pytest.raises(ValueError, match=r"cu_seqlens must be int64 or int32 \[B \+ 1\]"):
            ops.compact(ids, wrong, flags, ids, capacity=4, fill=0)
    with pytest.raises(ValueError, match=r"room must be torch\.int64 \[1\]"):
        ops.compact(ids, cu, flags, ids, capacity=4, fill=0, room=cu)
    with pytest.raises(ValueError, match="capacity must be at least 0, got -1"):
        ops.compact(ids, cu, flags, ids, capacity=-1, fill=0)
    with pytest.raises(ValueError, match=r"insert must be torch\.int64 \[3\]"):
        ops.compact(ids, cu, flags, flags, capacity=4, fill=0)
