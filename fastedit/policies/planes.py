"""Tensors by name, and how the host fills them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor


class Planes(dict[str, Tensor]):
    """Tensors by name, also as attributes; the names stay those that it was made with."""

    def __init__(self, tensors: Mapping[str, Tensor] | Iterable[tuple[str, Tensor]]) -> None:
        super().__init__(tensors)
        vars(self).update(self)  # attributes of its own: a rule looks them up in every forward

    def __getattr__(self, name: str) -> Tensor:
        raise AttributeError(f"no {name!r} here; there are {', '.join(self)}")

    def replace(self, name: str, tensor: Tensor) -> None:
        """Another tensor of that name."""
        self[name] = tensor
        setattr(self, name, tensor)

    def rows(self, rows: slice) -> Planes:
        return Planes({name: tensor[rows] for name, tensor in self.items()})


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """A copy on `device` of a tensor on the CPU, without waiting for it to arrive."""
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def put(plane: Tensor, rows: slice, values: Sequence[Any]) -> None:
    """Write a number for each of `rows`, or the only one for all, without waiting for the device.

    Numbers that are alike are a fill; others are copied there together.
    """
    if all(value == values[0] for value in values):
        plane[rows] = values[0]
    else:
        plane[rows] = sent(torch.tensor(values, dtype=plane.dtype), plane.device)
