"""Draft and corrupt as a Triton kernel."""

from __future__ import annotations

from typing import Any

from fastedit_kernels import draft_and_corrupt as kernel
from torch import Tensor

from fastedit.ops.draft_and_corrupt import DraftKey
from fastedit.ops.launch import on


def draft_and_corrupt(
    logits: Tensor,
    xt: Tensor,
    x0: Tensor,
    eligible: Tensor,
    key: DraftKey,
    **settings: Any,
) -> tuple[Tensor, ...]:
    """Contract: `fastedit.ops.draft_and_corrupt`; the fields of `Drafted` in order."""
    rows = (tensor.contiguous() for tensor in (xt, x0, eligible, key.example, key.position))
    with on(logits.device):
        return kernel.draft_and_corrupt(
            logits, *rows, seed=key.seed, epoch=key.epoch, turn=key.turn, **settings
        )
