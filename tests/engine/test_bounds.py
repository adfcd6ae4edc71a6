"""A block that does not end by itself is ended by its bound, and the others go on."""

from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from cases import MASK, SCRIPTED, scripted

from fastedit import DecodeConfig, Decoder, policies
from fastedit.policies import Buffer, Policy, Write
from fastedit.policies.fields import choice, integer
from fastedit.policies.primitives import highest
from fastedit.results import DecodeBoundError

PROMPTS = [torch.tensor([i, 1, 2]) for i in range(4)]
OPTIONS = {name: value for name, value in SCRIPTED.items() if name != "max_post_steps"}


@dataclass(frozen=True)
class Dawdling(Policy):
    """Fills one mask per forward, but none in blocks that are told not to; never says done early.

    idle: 1 = never fills. promise: what it says it takes at most.
    """

    idle: int = integer(0, most=1)
    promise: int = integer(9)

    def rule(self, stats, view):
        masked = view.masked()
        fill = highest(stats.prob, masked, 1 - view.parameters.idle)
        return Write(torch.where(fill, stats.token, view.ids), ~(masked & ~fill).any(-1))

    def most_forwards(self, length):
        return self.promise


@dataclass(frozen=True)
class Capped(Dawdling):
    may_reach_bound = True


@dataclass(frozen=True)
class SaysDone(Policy):
    """Says done in its first forward, whatever is left."""

    kind: str = choice("masks", "prompt")

    def rule(self, stats, view):
        ids = view.ids if self.kind == "masks" else torch.zeros_like(view.ids)
        return Write(ids, torch.ones_like(view.done))

    def most_forwards(self, length):
        return 3


def decoded(*policies, prompts=PROMPTS, **options):
    configs = [DecodeConfig(policy=policy, **OPTIONS) for policy in policies]
    return Decoder(scripted()).generate(prompts[: len(configs)], config=configs, **options)


@pytest.mark.parametrize("max_batch", [1, 4])
def test_a_request_past_its_bound_fails_alone(max_batch):
    well, stuck = Dawdling(), Dawdling(idle=1, promise=5)
    want = decoded(well, well, well, well, max_batch=max_batch)
    out = decoded(well, stuck, well, stuck, max_batch=max_batch)
    for index in (0, 2):
        assert out.sequences[index].equal(want.sequences[index]) and out.errors[index] is None
        assert out.stats[index].forwards == want.stats[index].forwards
    for index in (1, 3):
        assert isinstance(out.errors[index], DecodeBoundError)
        assert "5 forwards" in str(out.errors[index]) and out.stats[index].finish_reason == "error"
        assert out.stats[index].forwards == 6 and not len(out.sequences[index])


def test_it_is_raised_where_it_is_the_only_one():
    with pytest.raises(DecodeBoundError, match=r"request 0.*5 forwards") as caught:
        decoded(Dawdling(idle=1, promise=5))
    assert caught.value.output.stats[0].finish_reason == "error"


def test_the_last_forward_fills_what_is_left():
    out = decoded(Capped(), Capped(idle=1, promise=3), Capped(promise=2))
    assert not out.stats[0].capped and out.errors == [None] * 3
    # The prompt leaves one position in the first of three blocks; the others have four.
    for index, forwards in ((1, 3 + 3 + 3), (2, 1 + 2 + 2)):
        stats, ids = out.stats[index], out.sequences[index]
        assert stats.capped and len(ids) == 6 and MASK not in ids.tolist()
        assert stats.forwards == forwards
    assert out.stats[1].as_dict()["capped"] is True


@pytest.mark.parametrize("kind", ["masks", "prompt"])
def test_what_a_rule_may_not_do_is_not_done(kind):
    """It cannot finish a block with masks in it, nor write over the prompt."""
    out = decoded(SaysDone(kind), errors="return")
    if kind == "masks":
        assert isinstance(out.errors[0], DecodeBoundError)
    else:
        assert out.sequences[0].tolist() == [0] * 6 and out.stats[0].forwards == 3


@dataclass(frozen=True)
class Swapping(Policy):
    """Hands its buffers on to each other, which a pure rule may."""

    buffers = {  # noqa: RUF012
        "one": Buffer(torch.int32, initial=1, per_position=False),
        "two": Buffer(torch.int32, initial=2, per_position=False),
    }

    def rule(self, stats, view):
        kept = view.buffers
        return Write(view.ids, torch.zeros_like(view.done), {"one": kept.two, "two": kept.one})

    def most_forwards(self, length):
        return 2**40


def test_buffers_may_be_handed_on_to_each_other_and_bounds_may_be_large():
    state = policies.open(Swapping(), torch.full((2, 4), MASK), mask_token_id=MASK)
    for want in ((2, 1), (1, 2)):
        policies.step_(state, torch.randn(2, 4, 9))
        assert (state.buffers.one[0], state.buffers.two[0]) == want
    assert len(decoded("remask:cap=1000000000,tau=0").sequences[0]) == 6
    most = "joint_threshold:max_post_steps=2147483647,editing_threshold=none"
    assert len(decoded(most).sequences[0]) == 6


@dataclass(frozen=True)
class Failing(Policy):
    """Raises in forward number `after`, counted over all blocks."""

    after: int = integer(3)
    calls: ClassVar[list] = []

    def rule(self, stats, view):
        self.calls.append(1)
        if len(self.calls) > self.after:
            raise ZeroDivisionError("in a rule")
        return Write(torch.zeros_like(view.ids), torch.ones_like(view.done))

    def most_forwards(self, length):
        return length


def test_an_exception_of_a_rule_loses_nothing_that_had_ended():
    policy = Failing(after=3)
    Failing.calls.clear()
    with pytest.raises(ZeroDivisionError) as caught:
        decoded(policy, policy, max_batch=1)
    assert caught.value.output.sequences[0].tolist() == [0] * 6
    Failing.calls.clear()
    results = []
    config = DecodeConfig(policy=policy, **OPTIONS)
    with pytest.raises(ZeroDivisionError):
        for result in Decoder(scripted()).as_completed(PROMPTS[:2], config=config, max_batch=1):
            results.append(result.index)
    assert results == [0]


def test_what_ended_in_the_step_that_fails_is_yielded(monkeypatch):
    from fastedit.engine.engine import Engine

    leave = Engine._leave

    def failing(self, slot):
        leave(self, slot)
        raise ZeroDivisionError("behind the end of a request")

    monkeypatch.setattr(Engine, "_leave", failing)
    results = []
    with pytest.raises(ZeroDivisionError):
        for result in Decoder(scripted()).as_completed(PROMPTS[:3], **OPTIONS):
            results.append(result.index)
    assert results
