"""A step that fills by a clock and takes back what is doubted, in C++."""

from __future__ import annotations

from torch import Tensor

from fastedit.ops.blocks import Blocks
from fastedit.ops.library import take_step


def correction_step_(
    blocks: Blocks,
    logits: Tensor,
    turn: Tensor,
    *,
    settings: tuple[Tensor, ...],
    forbid: tuple[int, ...],
) -> None:
    """Contract: `fastedit.ops.correction_step_`."""
    take_step("fe_correction_step", blocks, logits, forbid, read=settings, written=(turn,))
