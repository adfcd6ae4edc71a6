"""What a CUDA graph does, on a CPU: a tape of tensor operations, replayed in the same memory.

The Python code of a step runs once, when it is recorded. A value of the host, a branch, or a tensor
that is replaced afterwards has the same effect as in a graph: the replay does not see it.
"""

from __future__ import annotations

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Tape:
    """In place of `fastedit.engine.graphs.CudaGraph`. Operations outside torch are not seen.

    made  all tapes so far
    """

    made: list[Tape]

    def __init__(self, step, pool):
        pool.append(self)
        self.calls, self.replays = [], 0
        with _Recording(self.calls):
            self.outputs = step()
        self.made.append(self)

    def replay(self):
        self.replays += 1
        if self.replays > 1:  # a capture runs nothing, and recording did
            for func, args, kwargs, results in self.calls:
                again = func(*args, **kwargs)
                for old, new in zip(results, tree_leaves(again), strict=True):
                    if isinstance(old, torch.Tensor) and old is not new:
                        old.copy_(new)
        return self.outputs


class _Recording(TorchDispatchMode):
    def __init__(self, calls):
        super().__init__()
        self.calls = calls

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        given = _storages((args, kwargs))
        results = tree_leaves(result)
        fresh = [x for x in results if isinstance(x, torch.Tensor) and not _storages(x) & given]
        if func._schema.is_mutable or fresh:  # else all views: they stay what they are
            self.calls.append((func, args, kwargs, results))
        return result


def _storages(tree):
    tensors = (leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor))
    return {tensor.untyped_storage().data_ptr() for tensor in tensors if tensor.numel()}
