"""From the host to the device, without waiting for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """A copy on `device` of a tensor on the CPU, without waiting for it to arrive."""
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def put(plane: Tensor, rows: slice, values: Sequence[Any]) -> None:
    """Write `values` into `plane[rows]`, one per row or a single one into all, without waiting.

    Equal values are one fill; others are copied to the device together.
    """
    if all(value == values[0] for value in values):
        plane[rows] = values[0]
    else:
        plane[rows] = sent(torch.tensor(values, dtype=plane.dtype), plane.device)
