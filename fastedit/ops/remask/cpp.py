"""A step that fills by a threshold and masks again what is doubted, in C++."""

from __future__ import annotations

from torch import Tensor

from fastedit.ops.blocks import Blocks
from fastedit.ops.library import take_step
from fastedit.ops.remask import TRIGGERS


def remask_step_(
    blocks: Blocks,
    logits: Tensor,
    post_steps: Tensor,
    remasked: Tensor,
    before: Tensor | None,
    *,
    trigger: str,
    settings: tuple[Tensor, ...],
    forbid: tuple[int, ...],
) -> None:
    """Contract: `fastedit.ops.remask_step_`."""
    take_step(
        "fe_remask_step",
        blocks,
        logits,
        forbid,
        read=settings,
        numbers=(TRIGGERS.index(trigger),),
        written=(post_steps, remasked, before),
    )
