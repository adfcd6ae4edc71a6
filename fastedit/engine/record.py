"""What one step did, as the host reads it: at once, or later from a copy made meanwhile."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from fastedit.engine.request import Request
from fastedit.engine.slots import Window


class RowFlags(NamedTuple):
    """One block after a step; the fields of `ops.StepState`."""

    done: bool
    dirty: bool
    bad: bool
    m2t_commits: int
    t2t_edits: int


def _fields(window: Window) -> list[Tensor]:
    return [getattr(window.state, name) for name in RowFlags._fields]


class Record:
    """A step's requests, the ids [n, L] and logits [n, L, V] of their blocks, and its flags.

    There may be more rows than requests. `ids` may be a view that holds until the canvas changes;
    `logits` is None where they are gone.
    """

    def __init__(
        self,
        step: int,
        requests: list[Request],
        ids: Tensor,
        flags: list[list],
        logits: Tensor | None,
    ) -> None:
        self.step, self.requests, self.ids, self.logits = step, requests, ids, logits
        self.rows = [RowFlags(*row) for row in zip(*flags, strict=True)]

    @classmethod
    def now(cls, step: int, requests: list[Request], window: Window, logits: Tensor) -> Record:
        """Waits for the device."""
        flags = [field.tolist() for field in _fields(window)]
        return cls(step, requests, window.ids, flags, logits)

    @property
    def ends(self) -> bool:
        """Whether a row is done with its block."""
        return any(row.done for row in self.rows)


def packed(window: Window) -> Tensor:
    """Flags and ids [n, 5 + L] int64 on the device, for a `Copy`: the next steps overwrite both."""
    flags = torch.stack([field.long() for field in _fields(window)], 1)
    return torch.cat((flags, window.ids), 1)


class Copy:
    """A record under way to the host, in the order of the device's work."""

    def __init__(
        self, step: int, requests: list[Request], flags_and_ids: Tensor, logits: Tensor | None
    ) -> None:
        self.step, self.requests, self.logits = step, requests, logits
        on_gpu = flags_and_ids.is_cuda  # elsewhere no event could tell when a copy has arrived
        self.copy = torch.empty_like(flags_and_ids, device="cpu", pin_memory=on_gpu)
        self.copy.copy_(flags_and_ids, non_blocking=on_gpu)
        self.copied = None
        if on_gpu:
            self.copied = torch.cuda.Event()
            self.copied.record()

    def read(self) -> Record:
        """Waits until it has arrived."""
        if self.copied is not None:
            self.copied.synchronize()
        count = len(RowFlags._fields)
        flags, ids = self.copy[:, :count], self.copy[:, count:]
        return Record(self.step, self.requests, ids, flags.t().tolist(), self.logits)
