"""Mask rates: how much of a sample is masked."""

from __future__ import annotations

import re
from typing import NamedTuple

from torch import Tensor

_FORM = re.compile(r"(\w+)\(([^,()]+)(?:,([^,()]+))?\)")


class Schedule(NamedTuple):
    """A distribution of mask rates t, from the text of the option `noise`.

    | text | t | source |
    |---|---|---|
    | uniform_seq(a,b), uniform(a,b) | uniform in [a, b), one per document | dFactory, dllm |
    | uniform_block(a,b) | the same, one per block | diffusers, `train_llada2.py` |
    | bandwidth(a,b) | uniform in [0, 1), clipped to [a, b], one per document | LLaDA2.0 report |
    | fixed(t) | t | DMax |
    """

    kind: str
    low: float
    high: float

    @classmethod
    def parse(cls, text: str) -> Schedule:
        """Raises ValueError for text that is none of the table, or without 0 <= a <= b <= 1."""
        found = _FORM.fullmatch(text.replace(" ", ""))
        try:
            kind, low, high = found.groups() if found else ("", "", None)
            schedule = cls(kind, float(low), float(low if high is None else high))
        except ValueError:
            raise ValueError(_refusal(text)) from None
        ranged = kind in ("uniform_seq", "uniform", "uniform_block", "bandwidth")
        if not (ranged and high is not None) and not (kind == "fixed" and high is None):
            raise ValueError(_refusal(text))
        if not 0.0 <= schedule.low <= schedule.high <= 1.0:
            raise ValueError(f"noise={text!r}: mask rates lie between 0 and 1, the lower one first")
        return schedule

    @property
    def per_block(self) -> bool:
        return self.kind == "uniform_block"

    def rates(self, draw: Tensor) -> Tensor:
        """Mask rates of uniform draws in [0, 1), any shape."""
        if self.kind == "bandwidth":
            return draw.clamp(self.low, self.high)
        return self.low + (self.high - self.low) * draw


def _refusal(text: str) -> str:
    return (
        f"noise={text!r} is no schedule: use uniform_seq(a,b), uniform(a,b), uniform_block(a,b), "
        "bandwidth(a,b) or fixed(t)"
    )
