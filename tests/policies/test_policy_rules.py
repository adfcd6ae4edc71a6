"""Every rule decides what its oracle decides, step by step, away from thresholds and rank cuts."""

from __future__ import annotations

import math

import numpy as np
import oracles
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastedit import ops, policies

# Below this, fp32 may decide otherwise: some ulp of a probability, more of an entropy.
CLOSE = 1e-5
THRESHOLDS = [0.0, 0.3, 0.5, 0.7, 0.95, 1.0]
POST = {
    "threshold": st.sampled_from(THRESHOLDS),
    "max_post_steps": st.sampled_from([0, 1, 2, 16]),
    "num_to_transfer": st.integers(1, 4),
}
RULES = {
    "joint_threshold": (
        oracles.JointThreshold,
        POST | {"editing_threshold": st.sampled_from([None, *THRESHOLDS])},
    ),
    "remask": (
        oracles.Remask,
        POST
        | {
            "trigger": st.sampled_from(["low_prob", "t2t", "logit_diff"]),
            "tau": st.sampled_from([0.05, 0.2, 0.4, 0.7]),
            "cap": st.integers(0, 3),
            "share": st.sampled_from([0.1, 0.25, 0.5, 1.0]),
        },
    ),
    "low_confidence": (
        oracles.LowConfidence,
        {
            "threshold": st.sampled_from([0.5, 0.95, 1.0]),
            "steps": st.sampled_from([None, 1, 2, 3, 4, 9]),
            "rank": st.sampled_from(["confidence", "entropy", "margin"]),
            "schedule": st.sampled_from(["even", "even", "dream"]),
            "eps": st.sampled_from([1e-3, 0.05]),
        },
    ),
    "confidence": (
        oracles.Confidence,
        {
            "rule": st.sampled_from(["threshold", "factor", "schedule"]),
            "threshold": st.sampled_from(THRESHOLDS),
            "factor": st.sampled_from([0.0, 0.3, 1.0, 2.5, 50.0]),
            "steps": st.sampled_from([None, 1, 2, 3, 4, 9]),
            "quirk": st.booleans(),
        },
    ),
}
SIZES = {
    "seed": st.integers(0, 2**32 - 1),
    "blocks": st.integers(1, 3),
    "width": st.sampled_from([1, 2, 5, 7]),
    "vocab": st.integers(4, 7),
    "scale": st.sampled_from([0.5, 2.0, 4.0]),
    "masked": st.sampled_from([0.4, 0.9]),
    "steps": st.integers(1, 7),
}


class Script:
    """Random ids and logits in eighths, so that tokens tie now and then; some rows are copies of
    another, so that positions tie too. The mask is the last id."""

    def __init__(
        self, seed: int, blocks: int, width: int, vocab: int, scale: float, masked: float
    ) -> None:
        self.random, self.shape = np.random.default_rng(seed), (blocks, width)
        self.vocab, self.mask, self.scale = vocab, vocab - 1, scale
        self.ids = self.random.integers(0, vocab, self.shape)
        self.ids[self.random.random(self.shape) < masked] = self.mask
        self.editable = self.random.random(self.shape) < 0.8
        for b in range(blocks):  # something to decide in every block
            place = self.random.integers(width)
            self.ids[b, place], self.editable[b, place] = self.mask, True

    def logits(self, mask_bias: float) -> np.ndarray:
        size = (*self.shape, self.vocab)
        logits = np.round(self.random.normal(size=size) * self.scale * 8) / 8
        copies = self.random.random((*self.shape, 1)) < 0.2
        place = self.random.integers(self.shape[1])
        logits = np.where(copies, logits[:, place : place + 1], logits)
        logits[..., self.mask] += mask_bias
        return logits

    def oracles(self, kind, **options) -> list:
        return [
            kind(ids, editable, self.mask, **options)
            for ids, editable in zip(self.ids.tolist(), self.editable.tolist(), strict=True)
        ]

    def open(self, policy):
        ids, editable = torch.tensor(self.ids), torch.tensor(self.editable)
        return policies.open(policy, ids, editable=editable, mask_token_id=self.mask, seed=0)


def counted(block) -> list[int]:
    return [block.forwards, block.m2t_commits, block.t2t_edits, block.remasks]


def counts_of(state) -> list[list[int]]:
    counts = state.counts
    each = (counts.forwards, counts.m2t_commits, counts.t2t_edits, counts.remasks)
    assert not counts.inserts.any() and not counts.deletes.any()
    return torch.stack([count.long() for count in each], -1).tolist()


@pytest.mark.parametrize("name", RULES)
@settings(max_examples=100, deadline=None)
@given(data=st.data(), sizes=st.fixed_dictionaries(SIZES))
def test_steps_equal_the_oracle(name, data, sizes):
    """Another token than the mask is second best where the rank is a margin: the rule does not say
    whether the mask may be it."""
    kind, strategies = RULES[name]
    options = data.draw(st.fixed_dictionaries(strategies))
    mask_bias = -40.0 if options.get("rank") == "margin" else data.draw(st.sampled_from([0.0, 3.0]))
    steps = sizes.pop("steps")
    script = Script(**sizes)
    blocks = script.oracles(kind, **options)
    state = script.open(policies.POLICIES[name](**options))
    for _ in range(steps):
        logits = script.logits(mask_bias)
        policies.step_(state, torch.tensor(logits, dtype=torch.float32))
        for block, z in zip(blocks, logits, strict=True):
            block.step(z)
        if min(block.near for block in blocks) < CLOSE:
            return
        assert state.ids.tolist() == [block.ids for block in blocks]
        assert state.done.tolist() == [block.done for block in blocks]
        assert counts_of(state) == [counted(block) for block in blocks]


@settings(max_examples=100, deadline=None)
@given(
    sizes=st.fixed_dictionaries(SIZES),
    options=st.fixed_dictionaries(
        {
            "bound": st.sampled_from([0.0, 0.1, 0.7, 2.0, 1e9]),
            "steps": st.integers(1, 6),
            "stability": st.integers(1, 2),
            "confidence": st.sampled_from([0.005, 0.5, 10.0]),
        }
    ),
    heat=st.sampled_from([(0.4, 0.8), (0.2, 0.2), (0.6, 1.0)]),
    repeat=st.booleans(),
)
def test_entropy_bound_steps_equal_the_oracle(sizes, options, heat, repeat):
    """The mask is out of reach here; what is not accepted is random, and taken from the state.

    repeat: every forward has the same logits, so that blocks become stable.
    """
    options |= dict(zip(("t_min", "t_max"), heat, strict=True))
    steps = sizes.pop("steps")
    script = Script(**sizes)
    script.ids = script.random.integers(0, script.mask, script.shape)
    blocks = script.oracles(oracles.EntropyBound, **options)
    state = script.open(policies.EntropyBound(**options))
    logits = script.logits(-60.0)
    for _ in range(steps):
        draws = script.random.integers(0, script.mask, script.shape)
        before = state.ids.clone()
        policies.step_(state, torch.tensor(logits, dtype=torch.float32), draws=torch.tensor(draws))
        for b, block in enumerate(blocks):
            was_done, ids = block.done, state.ids[b].tolist()
            block.step(logits[b])
            if block.near < CLOSE:
                return
            if was_done:
                assert ids == before[b].tolist()
                continue
            for i, free in enumerate(block.editable):
                if not free:
                    assert ids[i] == before[b, i]
                elif block.stable:
                    assert ids[i] == block.rows[i].token
                elif i in block.accepted:
                    assert ids[i] == draws[b, i]
                else:
                    assert 0 <= ids[i] < script.mask
            block.ids = ids
        assert state.done.tolist() == [block.done for block in blocks]
        assert state.counts.forwards.tolist() == [block.forwards for block in blocks]
        if not repeat:
            logits = script.logits(-60.0)


@settings(max_examples=100, deadline=None)
@given(
    sizes=st.fixed_dictionaries(SIZES),
    options=st.fixed_dictionaries(
        {
            "temperature": st.sampled_from([0.1, 0.5, 2.0]),
            "k": st.integers(1, 3),
            "patience": st.integers(0, 3),
            "max_steps": st.integers(1, 6),
            "greedy": st.booleans(),
        }
    ),
)
def test_self_correction_steps_equal_the_oracle(sizes, options):
    """Whatever is drawn; the mask is out of reach, and its probability with it."""
    steps = 2 * sizes.pop("steps")
    script = Script(**sizes)
    blocks = script.oracles(oracles.SelfCorrection, **options)
    state = script.open(policies.SelfCorrection(**options))
    for _ in range(steps):
        logits = script.logits(-60.0)
        draws = script.random.integers(0, script.mask, script.shape)
        given_draws = None if options["greedy"] else torch.tensor(draws)
        policies.step_(state, torch.tensor(logits, dtype=torch.float32), draws=given_draws)
        for block, z, drawn in zip(blocks, logits, draws.tolist(), strict=True):
            block.draws = drawn
            block.step(z)
        if min(block.near for block in blocks) < CLOSE:
            return
        assert state.ids.tolist() == [block.ids for block in blocks]
        assert state.done.tolist() == [block.done for block in blocks]
        assert counts_of(state) == [counted(block) for block in blocks]


HALF = [0.0, 0.0, -math.inf, -math.inf]  # two tokens at exactly one half; the mask is the last id
SURE = [0.0, -math.inf, -math.inf, -math.inf]


def after(policy, ids: list[int], *forwards: list[list[float]]) -> list[int]:
    state = policies.open(policy, torch.tensor([ids]), mask_token_id=3)
    for logits in forwards:
        policies.step_(state, torch.tensor([logits]))
    return state.ids[0].tolist()


def test_a_confidence_at_the_threshold_is_not_above_it():
    """Then the first of the equal masks commits alone, with the lower of its equal tokens."""
    for name in ("joint_threshold", "remask", "low_confidence"):
        below = policies.POLICIES[name](threshold=0.49)
        at = policies.POLICIES[name](threshold=0.5)
        assert after(below, [3, 3, 3], [HALF] * 3) == [0, 0, 0], name
        assert after(at, [3, 3, 3], [HALF] * 3) == [0, 3, 3], name
    edits = {tau: policies.JointThreshold(editing_threshold=tau) for tau in (0.49, 0.5)}
    assert after(edits[0.49], [2, 3], [HALF, SURE]) == [0, 0]
    assert after(edits[0.5], [2, 3], [HALF, SURE]) == [2, 0]


def test_fast_dllm_fills_at_its_threshold_and_at_its_factors_bound():
    """The second passes at 1 - f / 3 = 1 / 2, the third at 1 - f / 4 = 1 / 2."""
    for threshold, ids in ((0.5, [0, 0, 0]), (0.501, [0, 3, 3])):
        assert after(policies.Confidence(threshold=threshold), [3] * 3, [HALF] * 3) == ids
    for factor, ids in ((2.0, [0, 0, 0]), (1.5, [0, 0, 3]), (1.4, [0, 3, 3]), (0.0, [0, 3, 3])):
        policy = policies.Confidence(rule="factor", factor=factor)
        assert after(policy, [3] * 3, [HALF] * 3) == ids, factor
    sure_first = [HALF, SURE, HALF]
    assert after(policies.Confidence(rule="factor"), [3] * 3, sure_first) == [3, 0, 3]
    assert after(policies.Confidence(rule="factor"), [3], [HALF]) == [0]
    for quirk, ids in ((False, [0, 3]), (True, [0, 0])):
        policy = policies.Confidence(rule="factor", quirk=quirk)
        assert after(policy, [3, 3], [HALF, HALF]) == ids


@pytest.mark.parametrize("trigger", ["low_prob", "t2t", "logit_diff"])
def test_a_doubt_at_the_threshold_is_none(trigger):
    """Position 0 is visible from the start: 0 at one half (1 sure before it, of a history)."""
    first = [SURE, SURE] if trigger == "logit_diff" else []
    held = 1 if trigger == "t2t" else 0
    for tau, doubted in ((0.5, False), (0.501 if trigger == "low_prob" else 0.499, True)):
        policy = policies.Remask(trigger=trigger, tau=tau, threshold=0.99)
        forwards = [first, [HALF, HALF]] if first else [[HALF, HALF]]
        ids = after(policy, [held, 3], *forwards)
        assert (ids[0] == 3) == doubted, (tau, ids)


def test_a_forward_that_sees_no_token_clears_the_counts():
    """So one position is remasked once in every post step, whatever its cap is."""
    policy = policies.Remask(tau=0.6, cap=1, max_post_steps=4)
    state = policies.open(policy, torch.tensor([[3]]), mask_token_id=3)
    for _ in range(12):
        policies.step_(state, torch.tensor([[HALF]]))
    assert counts_of(state) == [[9, 5, 0, 4]]
    assert state.done.all() and state.ids.tolist() == [[0]]


def test_an_entropy_sum_at_the_bound_is_accepted():
    """Before the second of three equal rows stands the entropy of one, before the third of two."""
    logits = torch.tensor([HALF] * 3)
    entropy = ops.row_stats(logits, torch.zeros(3).long(), forbid=(3,), entropy=True).entropy
    policy = policies.EntropyBound(bound=entropy[0].item(), t_min=1.0, t_max=1.0)
    new = []
    for token in (0, 1):
        state = policies.open(policy, torch.tensor([[2, 2, 2]]), mask_token_id=3)
        policies.step_(state, logits[None], draws=torch.full((1, 3), token))
        new.append(state.ids[0])
    assert (new[0] != new[1]).tolist() == [True, True, False]
