"""Where the weights of a model are, and whether it still computes what it did."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from itertools import chain
from typing import Any

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
    """Dropout off within; a model in training goes back to it."""
    training = getattr(model, "training", False)
    if training:
        model.eval()
    try:
        yield
    finally:
        if training:
            model.train()


def state_of(model: Any) -> tuple:
    """Differs once a parameter or a buffer was written, moved or replaced, or adapters changed.

    Not for writes through `.data`, or into inference tensors: neither is counted by torch.
    """
    tensors = chain(*(getattr(model, name, list)() for name in ("parameters", "buffers")))
    known: list[Any] = [(t.data_ptr(), _version(t), t.dtype, t.device, t.shape) for t in tensors]
    if hasattr(model, "peft_config"):
        for module in model.modules():
            if hasattr(module, "active_adapters") and hasattr(module, "merged_adapters"):
                active = tuple(module.active_adapters), tuple(module.merged_adapters)
                scaling = repr(getattr(module, "scaling", None))  # numbers by name, not a tensor
                known.append((*active, module.disable_adapters, scaling))
    return tuple(known)


def _version(tensor: Tensor) -> int:
    return -1 if tensor.is_inference() else tensor._version
