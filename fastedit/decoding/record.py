"""What one step did, as the host reads it: at once, or later from a copy made meanwhile."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from fastedit.decoding.canvas import Window
from fastedit.decoding.request import Request


class RowFlags(NamedTuple):
    """One block after a step; the fields of `ops.StepState`."""

    done: bool
    dirty: bool
    bad: bool
    m2t_commits: int
    t2t_edits: int


class Record:
    """A step's requests, the ids [n, L] and logits [n, L, V] of their blocks, and its flags.

    late: keep a copy, made in the order of the device's work, since the next steps overwrite the
    canvas; else `ids` is a view that holds until the canvas changes.
    """

    rows: list[RowFlags]

    def __init__(
        self, step: int, requests: list[Request], window: Window, logits: Tensor, late: bool
    ) -> None:
        self.step, self.requests, self.logits = step, requests, logits
        self.ids, state = window.ids, window.state
        self.fields = [getattr(state, name) for name in RowFlags._fields]
        self.copy = self.copied = None
        if late:
            packed = torch.cat((torch.stack([f.long() for f in self.fields], 1), self.ids), 1)
            on_gpu = packed.is_cuda  # elsewhere no event could tell when a copy has arrived
            self.copy = torch.empty_like(packed, device="cpu", pin_memory=on_gpu)
            self.copy.copy_(packed, non_blocking=on_gpu)
            if on_gpu:
                self.copied = torch.cuda.Event()
                self.copied.record()

    def read(self) -> None:
        """Wait for the copy, if there is one; then `rows` and `ids` are what the step left."""
        if self.copy is None:
            columns = [field.tolist() for field in self.fields]
        else:
            if self.copied is not None:
                self.copied.synchronize()
            flags, self.ids = self.copy.split(
                (len(self.fields), self.copy.shape[1] - len(self.fields)), 1
            )
            columns = flags.t().tolist()
        self.rows = [RowFlags(*row) for row in zip(*columns, strict=True)]

    @property
    def ends(self) -> bool:
        """Whether a row is done with its block."""
        return any(row.done for row in self.rows)
