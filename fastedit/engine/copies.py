"""Records under way to the host, while the device goes on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fastedit.engine.traced import unpacked
from fastedit.request.record import Record


class Copy:
    """A record under way to the host, in the order of the device's work."""

    def __init__(
        self,
        step: int,
        requests: Sequence[Any],
        packed: Tensor,
        logits: Tensor | None,
        widths: Sequence[int],
        traced: bool = False,
    ) -> None:
        """widths: how many rows of `packed` are ids and, where there are any, moves and planes."""
        self.widths, self.traced = widths, traced
        self.step, self.requests, self.logits = step, requests, logits
        on_gpu = packed.is_cuda  # elsewhere no event could tell when a copy has arrived
        self.copy = torch.empty_like(packed, device="cpu", pin_memory=on_gpu)
        self.copy.copy_(packed, non_blocking=on_gpu)
        self.copied = None
        if on_gpu:
            self.copied = torch.cuda.Event()
            self.copied.record()

    def read(self) -> Record:
        """Waits until it has arrived."""
        if self.copied is not None:
            self.copied.synchronize()
        flags, counts, ids, *moves = self.copy.split((5, 6, *self.widths))
        planes = unpacked(moves.pop()) if self.traced else None
        return Record(
            self.step,
            self.requests,
            ids.t(),
            flags.tolist(),
            counts.tolist(),
            self.logits,
            moves[0].unflatten(0, (3, -1)).mT if moves else None,
            planes=planes,
        )
