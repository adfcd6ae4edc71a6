"""Correction by scores: tokens that are probably wrong become masks again.

Sources: mode "threshold" is Algorithm 1 of arXiv 2601.06428, as ported by others; mode "rank" is
the released `inference.py` of RemeDi (arXiv 2509.23653).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fastedit import ops
from fastedit.policies.base import Buffer, Policy, Stats, View, Write
from fastedit.policies.fields import Parameter, choice, integer, probability
from fastedit.policies.low_confidence import LowConfidence
from fastedit.policies.planes import Planes
from fastedit.policies.primitives import highest
from fastedit.policies.registry import POLICIES, given_in, parse, register

# Of what the rule that fills has on the device, and keeps.
FILL = "fill."
_OF_A_STEP = ("steps", "stride", "budget", "ring", "tau")


def as_fill(value: Any) -> Policy:
    """The rule that fills masks: an object, or `name;field=value;...`.

    In a text, `low_confidence` has `threshold=1` where it says no other: an even schedule.
    """
    rule = value
    if isinstance(value, str):
        text = value.replace(";", ":", 1).replace(";", ",")
        try:
            rule = parse(text) if text.partition(":")[0].strip() in POLICIES else None
        except ValueError as error:
            raise ValueError(f"a policy that can be made ({error})") from None
        if isinstance(rule, LowConfidence) and "threshold" not in given_in(text):
            rule = dataclasses.replace(rule, threshold=1.0)
    if not (isinstance(rule, Policy) and _may_fill(type(rule))):
        names = sorted(name for name, kind in POLICIES.items() if _may_fill(kind))
        raise ValueError(f"a policy that fills, or name;field=value;..., of {', '.join(names)}")
    return rule


def _may_fill(kind: type[Policy]) -> bool:
    """Whether it says so, or what it derives from does, and it neither moves nor reopens."""
    return kind.fills and kind.plan == "block" and not kind.rewrites


@register("correction")
@dataclass(frozen=True)
class Correction(Policy):
    """Lets another rule fill masks, and takes back the tokens with the highest error scores.

    fill    the rule that fills masks, or its text, `name;field=value;...`: low_confidence (the
            surest first, by its rank), confidence, joint_threshold, which also edits, saber
    scorer  "head": the error probability of a correction head; "confidence": that the held token is
            not the one that the model would draw, 1 - p
    stride, budget, tau  every `stride` forwards, at most `budget` tokens whose error is above `tau`
            (strict), the highest first
    ring    of so many remasked positions, the last ones, none is remasked
    steps   forwards that fill a block, of a fill that has a schedule; None = as it says, or as many
            as the block has positions to decide; in mode "rank" as it has positions
    mode    "threshold", as above; "rank": each forward keeps the positions with the highest logits,
            tokens and filled masks alike, and masks all others; one more share of them per step

    `low_confidence` with an even schedule and no threshold fills by a clock: each remask moves it
    back by the time that one fill takes, and a block takes at most three times `steps`. Any other
    fill goes its own pace: a remask is one more mask for it, which takes at most one more forward,
    and a block takes at most three times the forwards of the fill alone. The forward that ends a
    block remasks nothing. In mode "rank" a block takes exactly `steps`, and nothing but `steps`
    matters.
    """

    fill: Policy | str = dataclasses.field(
        default=LowConfidence(threshold=1.0), metadata={"parameter": Parameter(as_fill, str)}
    )
    scorer: str = choice("head", "confidence")
    stride: int = integer(4, least=1)
    budget: int = integer(2)
    tau: float = probability(0.75)
    ring: int = integer(4)
    steps: int | None = integer(None, least=1, optional=True, span=(1, 32))
    mode: str = choice("threshold", "rank")

    may_reach_bound = True

    def __post_init__(self) -> None:
        super().__post_init__()
        assert isinstance(self.fill, Policy)
        if self.steps is None or self.mode == "rank":
            return
        own = getattr(self.fill, "steps", None)
        if "steps" not in self.fill.parameters():
            raise ValueError(
                f"steps={self.steps} is of a schedule, which fill={self.told('fill')} "
                "does not have: leave it out"
            )
        if own not in (None, self.steps):
            raise ValueError(f"steps={self.steps}, but the fill has steps={own}: give one of them")

    @functools.cached_property
    def filling(self) -> Policy:
        """The rule that fills, with `steps` where they are given."""
        assert isinstance(self.fill, Policy)
        if self.steps is None or self.mode == "rank":
            return self.fill
        return dataclasses.replace(self.fill, steps=self.steps)  # type: ignore[type-var]

    @functools.cached_property
    def clocked(self) -> bool:
        """Whether masks are filled evenly over the steps, remasked ones included."""
        rule = self.filling
        even = isinstance(rule, LowConfidence) and rule.schedule == "even" and rule.threshold >= 1.0
        return even and self.mode == "threshold"

    @functools.cached_property
    def paced(self) -> bool:
        """Whether the fill goes its own pace."""
        return self.mode == "threshold" and not self.clocked

    @functools.cached_property
    def buffers(self) -> Mapping[str, Buffer]:  # type: ignore[override]
        kept = self.filling.buffers.items() if self.paced else ()
        # Of the last remask by scores, counted as long as the buffer lasts.
        turn = Buffer(torch.int32, initial=-(2**31))
        return {"turn": turn, **{FILL + name: buffer for name, buffer in kept}}

    @functools.cached_property
    def needs(self) -> frozenset[str]:  # type: ignore[override]
        if self.mode == "rank":
            return frozenset({"logit"})
        return self.filling.needs | {"score" if self.scorer == "head" else "current"}

    @property
    def needs_training(self) -> str | None:  # type: ignore[override]
        if self.mode == "rank":
            return "to give wrong tokens low logits (RemeDi)"
        head = "with a correction head" if self.scorer == "head" else None
        return " and ".join(filter(None, (head, self.filling.needs_training))) or None

    @functools.cached_property
    def reads_tokens(self) -> bool:  # type: ignore[override]
        rule = self.filling
        by_logits = self.mode == "rank" or self.scorer == "confidence"
        return by_logits or (rule.judges_tokens and rule.reads_tokens)

    @property
    def wide(self) -> bool:  # type: ignore[override]
        return self.paced and self.filling.wide

    def static(self) -> tuple[Any, ...]:
        return type(self), self.scorer, self.mode, self.paced, self.filling.static()

    def on_device(self) -> dict[str, tuple[Parameter, Any]]:
        theirs = self.filling.on_device().items() if self.paced else ()
        steps = self.parameters()["steps"], self._shares
        return super().on_device() | {"steps": steps, **{FILL + k: found for k, found in theirs}}

    @property
    def _shares(self) -> int | None:
        """Steps of the clock, or of mode "rank"."""
        return getattr(self.filling, "steps", None) if self.clocked else self.steps

    def within(self, full: bool) -> Correction:
        assert isinstance(self.fill, Policy)
        return dataclasses.replace(self, fill=self.fill.within(full))

    def told(self, name: str) -> Any:
        if name != "fill":
            return getattr(self, name)
        assert isinstance(self.fill, Policy)
        if not self.fill.name:
            return repr(self.fill)
        bare = as_fill(self.fill.name)
        values = {key: getattr(self.fill, key) for key in self.fill.parameters()}
        others = (f"{key}={value}" for key, value in values.items() if value != getattr(bare, key))
        return ";".join((self.fill.name, *others))

    def unread(self) -> frozenset[str]:
        of_scores = frozenset({"scorer", "stride", "budget", "tau", "ring"})
        return of_scores if self.mode == "rank" else frozenset()

    def most_forwards(self, length: int) -> int:
        if self.paced:
            return 3 * self.filling.most_forwards(length)
        steps = self._shares or length
        return steps if self.mode == "rank" else 3 * steps

    def reads_scores(self, view: View) -> Tensor:
        looks = view.counts.forwards % view.parameters.stride == 0
        return looks & (view.contents().held > 0)

    def bad(self, stats: Stats, view: View) -> Tensor:
        if self.mode == "rank" or self.scorer == "confidence":
            return stats.bad
        bad = self.filling.bad(stats, _Filling(view))
        return bad if self.filling.judges_tokens else bad & view.masked()

    def rule(self, stats: Stats, view: View) -> Write:
        if self.mode == "rank":
            return self._ranked(stats, view)
        p, forwards, tokens = view.parameters, view.counts.forwards, view.contents().tokens
        kept: Mapping[str, Tensor] = {}
        if self.paced:
            write = self.filling.decide(stats, _Filling(view))
            left = ((write.ids == view.mask_token_id) & view.may_change()).any(-1)
            ids, ends, kept = write.ids, write.done & ~left, write.buffers
        else:
            ids, ends = self._by_the_clock(stats, view)

        error = stats.scores if self.scorer == "head" else 1.0 - stats.prob_current
        assert error is not None
        turn = view.buffers.turn
        turns = (turn.amax(-1, keepdim=True) + 1).clamp_(min=0)  # a fill may remask as well
        wrong = tokens & (error > p.tau[:, None]) & (turn < turns - p.ring[:, None])
        remask = highest(error, wrong, p.budget * ((forwards % p.stride == 0) & ~ends))

        turn = torch.where(remask, turns - 1 + remask.cumsum(-1, dtype=turn.dtype), turn)
        written = {"turn": turn, **{FILL + name: value for name, value in kept.items()}}
        return Write(ids.masked_fill(remask, view.mask_token_id), ends, written)

    def twin(self, view: View) -> Callable[[Tensor, bool], bool] | None:
        """`ops.correction_step_` on the tensors of `view`, where these are on a CPU and it has this
        kind of scores and fill."""
        own = self.clocked and self.scorer == "confidence"
        if not (own and getattr(self.filling, "rank", None) == "confidence"):
            return None
        if view.ids.device.type != "cpu":
            return None
        turn, limit = view.buffers.turn, view.limit
        settings = {name: view.parameters[name] for name in _OF_A_STEP}

        def step_(logits: Tensor, draws: bool) -> bool:
            if draws or not ops.serves("correction_step_", "cpu"):
                return False
            ops.correction_step_(
                view.changing(),
                logits,
                turn,
                limit=limit,
                strict_reference=view.strict,
                **settings,
            )
            return True

        return step_

    def _by_the_clock(self, stats: Stats, view: View) -> tuple[Tensor, Tensor]:
        """Ids with this step's share of masks filled, and whether the time is over."""
        assert isinstance(self.filling, LowConfidence)
        masked, _, masks, held = view.contents()
        length = masks + held
        steps = self._steps(view, length.clamp(min=1))
        # The time left, of which `length` passes per forward and `steps` are worth a mask.
        time = steps * (masks + view.counts.m2t_commits) - length * view.counts.forwards
        after = (time - length).clamp_(min=0)
        count = masks - (2 * after + steps) // (2 * steps)
        fill = highest(self.filling.score(stats), masked, count)
        return torch.where(fill, stats.token, view.ids), after == 0

    def _steps(self, view: View, otherwise: Tensor | int) -> Tensor:
        return torch.where(view.parameters.steps > 0, view.parameters.steps, otherwise)

    def _ranked(self, stats: Stats, view: View) -> Write:
        assert stats.logit is not None and stats.logit_current is not None
        masked, tokens, masks, held = view.contents()
        may, steps = masked | tokens, self._steps(view, view.length)
        taken, length = view.counts.forwards + 1, masks + held
        over = length % steps  # one more position in each of the last `over` steps
        count = length // steps * taken + (taken - steps + over).clamp_(min=0)
        score = torch.where(masked, stats.logit, stats.logit_current)
        keep = highest(score, may, count)
        ids = torch.where(masked, stats.token, view.ids)
        return Write(torch.where(keep, ids, view.mask_token_id), taken >= steps)


class _Filling:
    """What the rule that fills sees: its own parameters and buffers, and the rest as it is."""

    def __init__(self, view: View) -> None:
        self._view = view
        self.parameters, self.buffers = _own(view.parameters), _own(view.buffers)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._view, name)


def _own(planes: Planes) -> Planes:
    return Planes((k.removeprefix(FILL), v) for k, v in planes.items() if k.startswith(FILL))
