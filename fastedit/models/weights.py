"""Where the weights of a model are, and whether it still computes what it did."""

from __future__ import annotations

import contextlib
import threading
import weakref
from collections.abc import Iterator
from itertools import chain
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor


def device_of(model: Any) -> torch.device:
    """Where a model computes: where its parameters are, or the CPU for one without any.

    Parameters that are offloaded lie nowhere; accelerate's hook says where they are taken.
    """
    execution = getattr(getattr(model, "_hf_hook", None), "execution_device", None)
    if execution is not None:
        return torch.device(execution)
    parameters = getattr(model, "parameters", None)
    for parameter in parameters() if parameters else ():
        if parameter.device.type != "meta":
            return parameter.device
    return torch.device("cpu")


@contextlib.contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """Dropout off within; a model in training goes back to it once the last of these is left."""
    if not isinstance(model, torch.nn.Module):
        yield
        return
    with _CHANGING:
        inside, trains = _EVALUATING.get(model, (0, False))
        _EVALUATING[model] = inside + 1, trains or model.training
        if model.training:
            model.eval()
    try:
        yield
    finally:
        with _CHANGING:
            inside, trains = _EVALUATING.pop(model)
            if inside > 1:
                _EVALUATING[model] = inside - 1, trains
            elif trains:
                model.train()


# How many callers have a model evaluate, and whether it is to train again.
_EVALUATING: WeakKeyDictionary[Any, tuple[int, bool]] = WeakKeyDictionary()
_CHANGING = threading.RLock()  # an iteration that is dropped may leave within


class Weights:
    """Unequal to those of the same model before, once a parameter or a buffer was written, moved or
    replaced, or adapters changed.

    Not for writes through `.data`, or into inference tensors: neither is counted by torch.
    """

    def __init__(self, model: Any) -> None:
        found = [*chain(*(getattr(model, name, list)() for name in ("parameters", "buffers")))]
        known: list[Any] = [(t.data_ptr(), _version(t), t.dtype, t.device, t.shape) for t in found]
        # Memory that was given back may be that of other weights by now. Those that are offloaded
        # have none, and are replaced in every forward.
        held = (tensor for tensor in found if not tensor.is_meta)
        self._memory = [weakref.ref(tensor.untyped_storage()) for tensor in held]
        if hasattr(model, "peft_config"):
            known += _adapters(model)
        self._known = tuple(known)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Weights) or self._known != other._known:
            return False
        return all(memory() is not None for memory in (*self._memory, *other._memory))

    __hash__ = None  # type: ignore[assignment]


def _adapters(model: Any) -> Iterator[tuple[Any, ...]]:
    for module in model.modules():
        if hasattr(module, "active_adapters") and hasattr(module, "merged_adapters"):
            active = tuple(module.active_adapters), tuple(module.merged_adapters)
            scaling = repr(getattr(module, "scaling", None))  # numbers by name, not a tensor
            yield *active, module.disable_adapters, scaling


def _version(tensor: Tensor) -> int:
    return -1 if tensor.is_inference() else tensor._version
