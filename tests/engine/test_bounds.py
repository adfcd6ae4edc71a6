"""A block that does not end by itself is ended by its bound, and the others go on."""

from dataclasses import dataclass

import pytest
import torch
from cases import MASK, SCRIPTED, scripted

from fastedit import DecodeConfig, Decoder
from fastedit.policies import Policy, Write
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
