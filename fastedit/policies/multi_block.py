"""MBE: joint threshold, and once a block is done, the last few blocks are edited together.

Source: arXiv 2607.22663, without released code; the idea is in the LLaDA2.1 report, section 4.3.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fastedit.policies.base import Buffer, Stats, View, Write
from fastedit.policies.fields import integer, probability
from fastedit.policies.joint_threshold import JointThreshold
from fastedit.policies.planes import Planes
from fastedit.policies.primitives import highest
from fastedit.policies.registry import register


@register("multi_block")
@dataclass(frozen=True)
class MultiBlock(JointThreshold):
    """A block that joint threshold is done with is reopened with those before it, which see each
    other in both directions: what they hold is judged by what follows.

    blocks  of a window, the newest last; prompts are never part of it
    rounds  forwards of a window at most; a round that edits nothing is the last one. 0 = none,
            which is joint threshold
    share   of a window's tokens that a round may edit, those of the highest entropy, rounded up;
            of these it replaces whose rival is above `editing_threshold`
    threshold, editing_threshold, max_post_steps, num_to_transfer  as of joint threshold

    A block takes `rounds` forwards more than under joint threshold at most, and one that computes
    keys and values of the window again. A token is final once no window can hold it any more.
    """

    blocks: int = integer(2, least=1, most=64, static=True)
    rounds: int = integer(5)
    share: float = probability(0.25, dtype=torch.float64)

    plan = "window"
    needs = frozenset({"entropy"})
    buffers: ClassVar[Mapping[str, Buffer]] = {
        name: Buffer(torch.int32, per_position=False) for name in ("post_steps", "rounds_taken")
    }
    stateless = False

    @property
    def needs_training(self) -> str:  # type: ignore[override]
        return "to replace wrong tokens (T2T), with blocks that see each other"

    @property
    def window(self) -> int:  # type: ignore[override]
        return self.blocks

    @property
    def reopens(self) -> bool:  # type: ignore[override]
        return self.blocks > 1 and self.rounds > 0 and self.editing_threshold is not None

    def reads(self, view: View, following: bool) -> Tensor:
        return view.may_change()  # not what stands before blocks that are not reopened

    def rule(self, stats: Stats, view: View) -> Write:
        assert stats.entropy is not None
        p, reopened = view.parameters, view.reopened
        ids, done, buffers = super().rule(stats, view)[:3]
        may = view.may_change()
        masks = ((ids == view.mask_token_id) & may).any(-1)
        reopen = done & _wanted(p, may) & ~(masks | reopened)

        _, tokens, _, held = view.contents()
        most = (held * p.share).ceil().long()
        rival = (stats.prob > p.editing_threshold[:, None]) & (stats.token != view.ids)
        edit = highest(stats.entropy, tokens, most) & rival
        if view.strict:  # a mask that is written here would never be filled
            edit = edit & (stats.token != view.mask_token_id)
        rounds = view.buffers.rounds_taken + reopened
        over = ~edit.any(-1) | (rounds >= p.rounds)
        return Write(
            torch.where(reopened[:, None], torch.where(edit, stats.token, view.ids), ids),
            torch.where(reopened, over, done & ~reopen),
            {**buffers, "rounds_taken": rounds},
            reopen,
        )

    def most_forwards(self, length: int) -> int:
        return super().most_forwards(length) + self.rounds

    def twin(self, view: View) -> Callable[[Tensor, bool], bool] | None:  # type: ignore[override]
        """While no block is reopened, which may be asked of a CPU: joint threshold's, and reopening
        of what it is done with."""
        if not view.alone and view.ids.device.type != "cpu":
            return None
        p, fused = view.parameters, super().twin(view)

        def step_(logits: Tensor, draws: bool) -> bool:
            if not view.alone and (draws or view.reopened.any()):
                return False  # positions of draws count from the block's own first one
            wanted = ~view.done & _wanted(p, view.may_change())  # of the ids before the step
            fused(logits, draws)
            reopen = view.done & wanted
            view.done.logical_xor_(reopen)
            view.reopened.logical_or_(reopen)
            return True

        return step_


def _wanted(p: Planes, may: Tensor) -> Tensor:
    """Blocks [n] that have something to edit, under parameters that allow it."""
    return may.any(-1) & (p.rounds > 0) & (p.editing_threshold < math.inf)
