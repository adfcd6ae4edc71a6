"""Inserts and deletes in chunks: long blocks, many and long sequences, and one launch each."""

from functools import partial

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from fastedit import ops

MASK = 9
KINDS = {torch.bool: True, torch.float32: -0.5, torch.int32: -7, torch.int64: 2**40}


def example(*shape):
    """(ids, keep, insert as flags, planes, blanks)."""
    generator = torch.Generator().manual_seed(3)
    ids = torch.randint(0, 99, shape, generator=generator)
    keep, insert = (torch.rand(shape, generator=generator) < p for p in (0.8, 0.3))
    planes = [torch.randint(0, 2, shape, generator=generator).to(kind) for kind in KINDS]
    return ids, keep, insert, planes, list(KINDS.values())


def flat(result):
    return [x for each in result for x in ([each] if isinstance(each, torch.Tensor) else each)]


def equal(backend, operation):
    with ops.use_backend(backend):
        got = flat(operation())
    with ops.use_backend("reference"):
        want = flat(operation())
    return all(a.equal(b) and a.dtype == b.dtype for a, b in zip(got, want, strict=True))


@pytest.mark.parametrize("shape", [(3, 100), (1, 256), (1, 2100)])
def test_blocks_of_any_length(triton, shape):
    ids, keep, insert, planes, blanks = example(*shape)
    assert equal(triton, lambda: ops.rewrite_blocks(ids, keep, insert, MASK, planes, blanks))
    assert equal(triton, lambda: ops.rewrite_blocks(ids, ~keep, insert & keep, MASK))


@pytest.mark.parametrize("limited", [False, True])
def test_many_sequences_of_any_length(triton, limited):
    """More than are added up at once, and longer than is taken at once."""
    lengths = torch.tensor([3, 70, 0, *[1] * 15, 2, 0, 1100, 0])
    cu = torch.nn.functional.pad(lengths.cumsum(0), (1, 0)).to(
        torch.int32 if limited else torch.int64
    )
    ids, keep, insert, planes, blanks = example(1200)
    insert = torch.where(insert, ids + 100, -1)
    room = torch.arange(len(lengths)) % 4 * 50 - 10 if limited else None
    moved = (ids, cu, keep, insert, planes, blanks)
    capacity = 1500 if limited else 600
    assert equal(triton, lambda: ops.compact(*moved, capacity=capacity, fill=MASK, room=room))


class Operations(TorchDispatchMode):
    """What torch does between the public call and the launch."""

    def __init__(self):
        super().__init__()
        self.seen = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.seen.add(str(func))
        return func(*args, **(kwargs or {}))


def test_each_is_one_launch_and_reads_nothing_back(triton, monkeypatch):
    launches = []
    for name in ("rewrite_blocks_kernel", "compact_kernel"):
        kernel = type("Kernel", (), {"__getitem__": lambda _, grid: partial(launch, grid)})()
        monkeypatch.setattr(f"fastedit_kernels.compact.{name}", kernel)

    def launch(grid, *args, **constants):
        launches.append(grid)

    ids, keep, insert, planes, blanks = example(4, 32)
    packed = [x.flatten() for x in (ids, keep, ids, *planes)]
    cu, room = torch.tensor([0, 60, 128]), torch.tensor([3, 4])
    with ops.use_backend(triton), Operations() as operations:
        ops.rewrite_blocks(ids, keep, insert, MASK, planes, blanks)
        moved = (packed[0], cu, *packed[1:3], packed[3:], blanks)
        ops.compact(*moved, capacity=200, fill=MASK, room=room)
    assert launches == [(4,), (3,)]
    assert {name.split(".")[1] for name in operations.seen} <= {"empty_like", "new_empty", "slice"}
