"""Which positions rows of logits are of, and values of positions as values of rows and back."""

from __future__ import annotations

import math
from typing import Any, TypeVar

import torch
from torch import Tensor

from fastedit.policies.state import State

Maybe = TypeVar("Maybe", Tensor, Tensor | None)


class Rows:
    """Of logits [n, L, V], a row for every position; of packed ones [N, V], which sequences of
    variable lengths may have, a row for every position that there is, sequence after sequence.

    packed  int64 [N], those positions among the n * L; None: all
    """

    def __init__(self, state: State, logits: Any) -> None:
        self.positions, self.packed = state.ids.shape, None
        if state.lengths is not None and isinstance(logits, Tensor) and logits.ndim == 2:
            self.packed = state.exists().flatten().nonzero().flatten()

    @property
    def shape(self) -> tuple[int, ...]:
        """Of a value per row: [n, L] or [N]."""
        return self.positions if self.packed is None else (len(self.packed),)

    def numbers(self, device: torch.device) -> tuple[Tensor, ...]:
        """Of the rows of logits, as they index them for a list of ids each."""
        each = [torch.arange(count, device=device) for count in self.shape]
        return each[0].view(-1, *[1] * len(each)), *(count[:, None] for count in each[1:])

    def of(self, values: Tensor) -> Tensor:
        """Those of the rows, from values of all positions [n, L, ...], or of blocks [n, 1, ...]."""
        if self.packed is None:
            return values
        return values.expand(*self.positions, *values.shape[2:]).flatten(0, 1)[self.packed]

    def back(self, values: Maybe) -> Maybe:
        """Those of all positions, from values of the rows; 0 where there is none."""
        if values is None or self.packed is None:
            return values
        every = values.new_zeros(math.prod(self.positions), *values.shape[1:])
        every[self.packed] = values
        return every.view(*self.positions, *values.shape[1:])
