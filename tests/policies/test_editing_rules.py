"""Rules that take tokens back or pass over them again decide what their oracles decide."""

from __future__ import annotations

import math

import editing_oracles as oracles
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_policy_rules import CLOSE, SIZES, Script, counted, counts_of

from fastedit import policies

WIDE = SIZES | {"width": st.sampled_from([1, 5, 9, 40])}


def same(state, blocks) -> None:
    assert state.ids.tolist() == [block.ids for block in blocks]
    assert state.done.tolist() == [block.done for block in blocks]
    assert counts_of(state) == [counted(block) for block in blocks]


@settings(max_examples=100, deadline=None)
@given(
    sizes=st.fixed_dictionaries(WIDE),
    options=st.fixed_dictionaries(
        {
            "threshold": st.sampled_from([0.0, 0.3, 0.6, 1.0]),
            "verify_threshold": st.sampled_from([0.0, 0.2, 0.5, 1.0]),
        }
    ),
)
def test_wino_steps_equal_the_oracle(sizes, options):
    steps = sizes.pop("steps")
    script = Script(**sizes)
    blocks = script.oracles(oracles.Wino, **options)
    state = script.open(policies.Wino(**options))
    for _ in range(steps):
        logits, shadows = script.logits(0.0), script.logits(0.0)
        policies.step_(
            state, torch.tensor(logits).float(), shadow_logits=torch.tensor(shadows).float()
        )
        for block, z, shadow in zip(blocks, logits, shadows, strict=True):
            block.step(z, shadow)
        if min(block.near for block in blocks) < CLOSE:
            return
        same(state, blocks)


@settings(max_examples=100, deadline=None)
@given(
    sizes=st.fixed_dictionaries(WIDE),
    options=st.fixed_dictionaries({"least": st.integers(1, 5), "mu": st.integers(1, 9)}),
    scope=st.sampled_from([None, "block", "generated"]),
)
def test_saber_steps_equal_the_oracle(sizes, options, scope):
    """In one block all scopes are the same."""
    steps = sizes.pop("steps")
    script = Script(**sizes)
    blocks = script.oracles(oracles.Saber, **options)
    state = script.open(policies.Saber(**options, scope=scope))
    for _ in range(steps):
        logits = script.logits(0.0)
        policies.step_(state, torch.tensor(logits).float())
        for block, z in zip(blocks, logits, strict=True):
            block.step(z)
        if min(block.near for block in blocks) < CLOSE:
            return
        same(state, blocks)


@settings(max_examples=100, deadline=None)
@given(
    sizes=st.fixed_dictionaries(SIZES | {"steps": st.integers(1, 14)}),
    options=st.fixed_dictionaries(
        {
            "every": st.integers(1, 3),
            "passes": st.integers(0, 3),
            "threshold": st.sampled_from([None, 0.0, 0.4, 0.8]),
            "steps": st.sampled_from([None, 1, 2, 3, 9]),
        }
    ),
    scope=st.sampled_from(["block", "generated"]),
    repeat=st.booleans(),
)
def test_proseco_steps_equal_the_oracle(sizes, options, scope, repeat):
    """repeat: every forward has the same logits, so that corrector loops converge."""
    steps = sizes.pop("steps")
    script = Script(**sizes)
    blocks = script.oracles(oracles.ProSeCo, **options)
    state = script.open(policies.ProSeCo(**options, scope=scope))
    logits = script.logits(0.0)
    for _ in range(steps):
        policies.step_(state, torch.tensor(logits).float())
        for block, z in zip(blocks, logits, strict=True):
            block.step(z)
        if min(block.near for block in blocks) < CLOSE:
            return
        same(state, blocks)
        shown = zip(state.shown().tolist(), blocks, strict=True)
        assert all(ids == block.shown for ids, block in shown if not block.done)
        if not repeat:
            logits = script.logits(0.0)


CORRECTIONS = {
    "rank": (oracles.Ranked, {}),
    "threshold": (
        oracles.Corrected,
        {
            "stride": st.integers(1, 3),
            "budget": st.integers(0, 3),
            "tau": st.sampled_from([0.0, 0.3, 0.75]),
            "ring": st.integers(0, 4),
        },
    ),
}


@pytest.mark.parametrize("mode", CORRECTIONS)
@settings(max_examples=100, deadline=None)
@given(
    data=st.data(),
    sizes=st.fixed_dictionaries(SIZES | {"steps": st.integers(1, 14)}),
    shares=st.sampled_from([None, 1, 2, 3, 4, 9]),
)
def test_correction_steps_equal_the_oracle(mode, data, sizes, shares):
    kind, strategies = CORRECTIONS[mode]
    options = data.draw(st.fixed_dictionaries(strategies)) | {"steps": shares}
    steps = sizes.pop("steps")
    script = Script(**sizes)
    blocks = script.oracles(kind, **options)
    state = script.open(policies.Correction(mode=mode, scorer="confidence", **options))
    for _ in range(steps):
        logits = script.logits(-40.0)
        policies.step_(state, torch.tensor(logits).float())
        for block, z in zip(blocks, logits, strict=True):
            block.step(z)
        if min(block.near for block in blocks) < CLOSE:
            return
        same(state, blocks)


HALF = [0.0, 0.0, -math.inf, -math.inf]  # two tokens at exactly one half; the mask is the last id


def test_a_confidence_at_the_threshold():
    """WINO's and Saber's are strict, ProSeCo's is not."""
    logits = torch.tensor([[HALF] * 3])
    for policy, filled in (
        ("wino:threshold=.5", 1),
        ("wino:threshold=.49", 3),
        ("proseco:threshold=.5", 3),
        ("proseco:threshold=.51", 1),
    ):
        state = policies.open(policy, torch.full((1, 3), 3), mask_token_id=3)
        policies.step_(state, logits, shadow_logits=logits)
        assert (state.ids != 3).sum() == filled, policy
    state = policies.open("saber:least=1", torch.full((1, 4), 3), mask_token_id=3)
    for left in (3, 2, 1, 0):  # none is above the mean of its equals
        policies.step_(state, torch.tensor([[HALF] * 4]))
        assert (state.ids == 3).sum() == left
