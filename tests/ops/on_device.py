"""The Triton back end on a GPU for tests whose tensors are on the CPU.

Whole storages are copied there and back, so strides, odd offsets and what lies between the rows of
a view stay as they are, and an address out of bounds stays one.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools

import pytest
import torch
from torch import Tensor

from fastedit.ops import dispatch, launch


@contextlib.contextmanager
def cpu_tensors_served(device: str):
    """Inside, back end `triton` takes CPU tensors as well, by way of `device`."""
    why_not = launch.why_not
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(launch, "why_not", lambda kind=None: why_not(None if kind == "cpu" else kind))
        function = dispatch.function

        def function_for_cpu_tensors(op, name):
            there = function(op, name)
            return by_way_of(device, there) if name == "triton" else there

        patch.setattr(dispatch, "function", function_for_cpu_tensors)
        forget()
        yield
    forget()


def forget() -> None:
    """What the dispatch remembers of the back ends."""
    dispatch._default.cache_clear()
    dispatch._why_not.cache_clear()


def by_way_of(device: str, operation):
    @functools.wraps(operation)
    def call(*args, **settings):
        moved: dict[int, tuple[Tensor, Tensor]] = {}

        def there(x: Tensor) -> Tensor:
            if x.device.type != "cpu":
                return x
            storage = x.untyped_storage()
            if storage.data_ptr() not in moved:
                content = torch.empty(0, dtype=torch.uint8, device="cpu").set_(storage)
                moved[storage.data_ptr()] = content, content.to(device, copy=True)
            copy = moved[storage.data_ptr()][1].untyped_storage()
            empty = torch.empty(0, dtype=x.dtype, device=device)
            return empty.set_(copy, x.storage_offset(), x.shape, x.stride())

        result = operation(*mapped(there, args), **mapped(there, settings))
        for content, copy in moved.values():
            content.copy_(copy)
        return mapped(lambda x: x.cpu(), result)

    return call


def mapped(f, tree):
    """`tree` with `f` of its tensors; dataclasses, tuples, lists and dicts are followed."""
    if isinstance(tree, Tensor):
        return f(tree)
    if dataclasses.is_dataclass(tree):
        fields = {field.name: getattr(tree, field.name) for field in dataclasses.fields(tree)}
        return type(tree)(**mapped(f, fields))
    if isinstance(tree, dict):
        return {name: mapped(f, value) for name, value in tree.items()}
    if isinstance(tree, (tuple, list)):
        return type(tree)(mapped(f, value) for value in tree)
    return tree
