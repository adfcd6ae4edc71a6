"""Inserts and deletes against Python lists: one set of cases for every back end."""

import torch
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


BACKENDS = ["reference", "cpp"]


@settings(max_examples=80, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    blocks=st.integers(0, 5),
    length=st.integers(1, 40) | st.sampled_from([0, 64, 100, 256]),
    count=st.integers(0, 6),
)
def test_blocks_equal_lists(seed, blocks, length, count):
    generator = torch.Generator().manual_seed(seed)
    ids = some(generator, MASK + 1, blocks, length)
    keep, insert = some_flags(generator, blocks, length), some_flags(generator, blocks, length)
    planes, blanks = planes_of(generator, count, blocks, length)
    fixed = some_flags(generator, blocks, length) if seed % 3 else None
    for backend in BACKENDS:
        check_blocks(backend, ids, keep, insert, planes, blanks, fixed)


@settings(max_examples=80, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    lengths=st.lists(st.integers(0, 20), max_size=5),
    beyond=st.integers(0, 4),
    count=st.integers(0, 6),
    limited=st.booleans(),
    kind=st.sampled_from([torch.int32, torch.int64]),
)
def test_packed_sequences_equal_lists(seed, lengths, beyond, count, limited, kind):
    generator = torch.Generator().manual_seed(seed)
    total = sum(lengths) + beyond
    ids = some(generator, MASK, total)
    keep = some_flags(generator, total)
    insert = torch.where(some_flags(generator, total), 100 + some(generator, 9, total), -1)
    planes, blanks = planes_of(generator, count, total)
    cu = torch.tensor([0, *lengths], dtype=kind).cumsum(0, dtype=kind)
    room = some(generator, 6, len(lengths)) - 1 if limited else None
    parts, ends = [], [0]
    for b, (start, end) in enumerate(zip(cu[:-1].tolist(), cu[1:].tolist(), strict=True)):
        row = (x[start:end].tolist() for x in (ids, keep, insert))
        out = emitted(*row, None if room is None else int(room[b]))
        parts += [(token, i if i is None else i + start) for token, i in out]
        ends.append(len(parts))
    capacity = int(some(generator, len(parts) + 6, 1))
    for backend in BACKENDS:
        with ops.use_backend(backend):
            new, moved, new_cu = ops.compact(
                ids, cu, keep, insert, planes, blanks, capacity=capacity, fill=MASK, room=room
            )
        assert new_cu.dtype == kind and new_cu.tolist() == [min(end, capacity) for end in ends]
        assert [x.dtype for x in moved] == [x.dtype for x in planes]
        values = [[x.tolist() for x in each] for each in (moved, planes)]
        check(parts, capacity, new.tolist(), *values, blanks)
