"""What forwards of a dense model must take at least, by what the machine does at that moment."""

from __future__ import annotations

import statistics
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torchao_weights import stored

from fastedit.evaluation.bench.clock import probes

Shape = tuple[int, int]  # of a forward: rows of the layers, and rows of the head


@contextmanager
def counted(model: Any) -> Iterator[Counter[Shape]]:
    """The forwards that `model` does within."""
    shapes: Counter[Shape] = Counter()
    rows = 0

    def layers(_: nn.Module, given: Any, out: Tensor) -> None:
        nonlocal rows
        rows = out[..., 0].numel()

    def head(_: nn.Module, given: Any, out: Tensor) -> None:
        shapes[rows, out[..., 0].numel()] += 1

    hooks = [
        model.model.norm.register_forward_hook(layers),
        model.lm_head.register_forward_hook(head),
    ]
    yield shapes
    for hook in hooks:
        hook.remove()


class Ceiling:
    """Least seconds of forwards: their weights at a read bandwidth, or their products one by one.

    The products are those of the model's own linear layers, with their weights and numbers of rows:
    operations over these seconds is the speed that torch, or torchao, reaches at this shape.
    Attention, norms and the decision are free.
    """

    def __init__(self, model: Any) -> None:
        self.head = model.lm_head
        self.linear = [module for module in model.modules() if isinstance(module, nn.Linear)]
        self.bytes = sum(stored(module.weight) for module in self.linear)
        self.dtype = model.model.norm.weight.dtype
        self.read = next(p for p in probes(torch.device("cpu")) if p.name == "read")

    def bandwidth(self) -> float:
        """Bytes/s, now."""
        return self.read.bytes / statistics.median(self.read() for _ in range(3))

    @torch.inference_mode()
    def products(self, shape: Shape) -> float:
        """Seconds of one forward's linear layers, now."""
        rows = [shape[module is self.head] for module in self.linear]
        sizes = {(n, m.in_features) for n, m in zip(rows, self.linear, strict=True)}
        given = {size: torch.randn(1, *size).to(self.dtype) for size in sizes}
        began = time.perf_counter()
        for count, module in zip(rows, self.linear, strict=True):
            module(given[count, module.in_features])
        return time.perf_counter() - began

    def seconds(self, shapes: Counter[Shape]) -> tuple[float, float]:
        """(least seconds of these forwards, those of their bytes alone)."""
        reading = self.bytes / self.bandwidth()
        least = sum(max(reading, self.products(shape)) * n for shape, n in shapes.items())
        return least, reading * shapes.total()
