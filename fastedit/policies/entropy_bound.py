"""DiffusionGemma's rule: every position is drawn anew, and keeps its draw while entropy is low.

Source: arXiv 2505.24857; diffusers' `EntropyBoundScheduler` and its DiffusionGemma pipeline.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fastedit import ops
from fastedit.policies.base import Buffer, Policy, Stats, View, Write
from fastedit.policies.fields import HOTTEST, integer, number
from fastedit.policies.primitives import random_ids, within_budget
from fastedit.policies.registry import register


@register("entropy_bound")
@dataclass(frozen=True)
class EntropyBound(Policy):
    """A block starts as noise. Each forward samples all of it, keeps the draws of the lowest
    entropies, and replaces the others by noise again.

    bound                draws are kept, lowest entropy first, while the entropies before them add
                         up to at most this many nats
    t_max, t_min         the temperature of the first forward, and what it falls to
    steps                forwards that a block takes at most
    stability            forwards in a row whose best tokens must be those of the one before
    confidence           mean entropy in nats below which such a block is finished

    A finished block becomes the best tokens of its last forward; one that takes all `steps` keeps
    its last canvas, noise included, as released.
    """

    bound: float = number(0.1)
    t_min: float = number(0.4, most=HOTTEST)
    t_max: float = number(0.8, most=HOTTEST)
    steps: int = integer(48, least=1)
    stability: int = integer(1)
    confidence: float = number(0.005)

    noise = True
    needs_training = "on canvases of random tokens (uniform diffusion)"
    needs = frozenset({"entropy", "sample"})
    buffers: ClassVar[Mapping[str, Buffer]] = {
        "best": Buffer(torch.int64, initial=-1),
        "stable": Buffer(torch.int32, per_position=False),
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.t_min > self.t_max:
            raise ValueError(
                f"t_min must be at most t_max={self.t_max}, as temperatures fall; got {self.t_min}"
            )

    def open(self, view: View) -> Tensor:
        assert view.vocab is not None  # `noise` asks for it
        return self._noise(view, torch.zeros_like(view.counts.forwards), view.vocab)

    def heat(self, view: View) -> Tensor:
        p = view.parameters
        return p.t_min + (p.t_max - p.t_min) * (p.steps - view.counts.forwards) / p.steps

    def rule(self, stats: Stats, view: View) -> Write:
        assert stats.entropy is not None and stats.sample is not None
        p, kept, may = view.parameters, view.buffers, view.may_change()
        forwards = view.counts.forwards + 1
        _, _, masks, held = view.contents()
        positions = masks + held

        accepted, total = within_budget(stats.entropy, may, p.bound)
        canvas = torch.where(accepted, stats.sample, self._noise(view, forwards, stats.vocab))

        other = ((stats.token != kept.best) & may).any(-1)
        stable = (kept.stable + 1).masked_fill_(other, 0)
        settled = (stable >= p.stability) & (total / positions < p.confidence)
        ids = torch.where(settled[:, None], stats.token, canvas)
        # A block of which nothing may change has no mean, and nothing to wait for.
        done = settled | (forwards >= p.steps) | (positions == 0)
        return Write(ids, done, {"best": stats.token, "stable": stable})

    def twin(self, view: View) -> Callable[[Tensor, bool], bool] | None:
        """`ops.entropy_bound_step_` on the tensors of `view`, where these are on a CPU."""
        if view.ids.device.type != "cpu":
            return None
        kept, settings = view.buffers, view.parameters

        def step_(logits: Tensor, draws: bool) -> bool:
            if not ops.serves("entropy_bound_step_", "cpu"):
                return False
            ops.entropy_bound_step_(
                view.changing(),
                logits,
                kept.best,
                kept.stable,
                sampling=view.sampling,
                strict_reference=view.strict,
                **settings,
            )
            return True

        return step_

    def most_forwards(self, length: int) -> int:
        return self.steps

    def _noise(self, view: View, forwards: Tensor, vocab: int) -> Tensor:
        return random_ids(view, forwards, vocab, view.mask_token_id)
