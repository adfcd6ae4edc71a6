"""ReMDM against its equations, restated here in float64, and the rates at which it draws."""

from __future__ import annotations

import math

import pytest
import torch

from fastedit import DecodeConfig, Decoder, policies
from fastedit.ops import uniform
from fastedit.ops.sampling import CHANCE

V, MASK, L = 12, 11, 40
VARIANTS = ("cap", "rescale", "conf", "loop")
STEPS = (1, 2, 3, 7, 16, 25)


def alpha(variant: str, t: float, on=0.55, off=0.05, at=0.9) -> float:
    """Share of tokens at time t: linear, or with a level stretch from `on` down to `off`."""
    if variant != "loop":
        return 1 - t
    if t > on:
        return at * (1 - t) / (1 - on)
    return at if t > off else 1 - (1 - at) * t / off


def paper(variant: str, eta: float, steps: int, step: int, doubts: list[float]) -> tuple:
    """sigma of every token, of which `doubts` are exp(-p), and the chance that a mask is filled."""
    t, s = 1 - step / steps, 1 - (step + 1) / steps
    last = step + 1 == steps
    inside = variant == "loop" and 0.05 < t <= 0.55 and not last
    before = alpha(variant, t)
    after = 1.0 if last else before if inside else alpha(variant, s)
    most = min(1.0, (1 - after) / before) if before > 0 else 1.0
    sigma = eta * most if variant in ("rescale", "conf") else min(eta, most)
    if last or (variant == "loop" and not inside):
        sigma = 0.0
    if variant == "conf":  # no mask is remasked, so none is filled in its stead
        total = sum(doubts)
        return [sigma * d / total for d in doubts], (after - before) / (1 - before)
    fill = (after - (1 - sigma) * before) / (1 - before)
    return [sigma for _ in doubts], fill


def state_at(policy, step: int, blocks: int = 3, masked: float = 0.5):
    generator = torch.Generator().manual_seed(step)
    ids = torch.randint(0, MASK, (blocks, L), generator=generator)
    ids[torch.rand(blocks, L, generator=generator) < masked] = MASK
    state = policies.open(policy, ids, mask_token_id=MASK)
    state.sampling.seed.copy_(torch.arange(blocks))
    state.counts.forwards.fill_(step)
    if policy.variant == "conf":
        state.buffers.filled_with.copy_(torch.rand(blocks, L, generator=generator))
    return state


@pytest.mark.parametrize("eta", [None, 0.0, 0.3, 1.0])
@pytest.mark.parametrize("variant", VARIANTS)
def test_chances_are_those_of_the_paper(variant, eta):
    paper_eta = {"cap": 0.008, "rescale": 0.015, "conf": 1.0, "loop": 0.02}[variant]
    for steps in STEPS:
        policy = policies.ReMDM(variant=variant, eta=eta, steps=steps)
        for step in range(steps):
            state = state_at(policy, step)
            masked = state.masked()
            remask, fill, last = policy.rates(state, masked)
            remask, fill = remask.expand(3, L), fill.expand(3, L)
            assert last.tolist() == [step + 1 == steps] * 3
            for b in range(3):
                doubts = [1.0] * int((~masked[b]).sum())
                if variant == "conf":
                    held = state.buffers.filled_with[b, ~masked[b]].tolist()
                    doubts = [math.exp(-p) for p in held]
                want = paper(variant, paper_eta if eta is None else eta, steps, step, doubts)
                assert remask[b, ~masked[b]].tolist() == pytest.approx(want[0], abs=1e-6)
                assert fill[b, masked[b]].tolist() == pytest.approx(
                    [want[1]] * int(masked[b].sum()), abs=2e-6
                )
                assert min(want[0]) >= 0 and max(want[0]) <= 1 and 0 <= want[1] <= 1 + 1e-9


@pytest.mark.parametrize("alpha_on", [0.0, 0.4, 0.95, 1.0])
@pytest.mark.parametrize("window", [(1.0, 0.0), (0.5, 0.5), (0.0, 0.0), (1.0, 1.0), (0.8, 0.3)])
def test_chances_stay_chances_for_any_window(window, alpha_on):
    """Also where a window is empty or everything, and where the paper's rate would exceed one."""
    on, off = window
    for steps in (1, 3, 20):
        policy = policies.ReMDM(
            variant="loop", eta=1.0, t_on=on, t_off=off, alpha_on=alpha_on, steps=steps
        )
        for step in range(steps):
            state = state_at(policy, step)
            for rate in policy.rates(state, state.masked())[:2]:
                assert ((rate >= 0) & (rate <= 1 + 1e-6)).all(), (window, alpha_on, step, rate)


@pytest.mark.parametrize(
    ("variant", "step"),
    [("cap", 0), ("cap", 5), ("rescale", 5), ("rescale", 8), ("conf", 6), ("loop", 1), ("loop", 5)],
)
def test_positions_change_at_these_rates(variant, step):
    """Chi-square over 8000 positions: three standard deviations of what two rates allow."""
    policy = policies.ReMDM(variant=variant, eta=0.3, steps=10)
    state = state_at(policy, step, blocks=200)
    masked = state.masked()
    remask, fill, _ = (rate.clone() for rate in policy.rates(state, masked))
    policies.step_(state, torch.zeros(200, L, V))
    remasked, filled = (state.ids == MASK) & ~masked, (state.ids != MASK) & masked
    for happened, rate, among in ((remasked, remask, ~masked), (filled, fill, masked)):
        chance = rate.expand(200, L)[among].double()
        expected, variance = chance.sum(), (chance * (1 - chance)).sum()
        got = happened[among].sum()
        assert (got - expected) ** 2 <= 9 * variance + 1e-9, (got, expected)
    assert state.counts.remasks.sum() == remasked.sum()
    assert state.counts.m2t_commits.sum() == filled.sum()
    assert not state.counts.t2t_edits.any()


def test_a_position_changes_by_its_own_number():
    """Its chance comes from the seed, where it stands and the forward, and from nothing else."""
    policy = policies.ReMDM(variant="cap", eta=0.4, steps=10)
    state = state_at(policy, 4)
    state.sampling.start.copy_(torch.tensor([0, 64, 7]))
    masked, before = state.masked(), state.ids.clone()
    remask, fill, _ = policy.rates(state, masked)
    position = state.sampling.start[:, None] + torch.arange(L)
    seed, forward = torch.arange(3)[:, None], torch.tensor([[4]])
    number = uniform(seed, position, forward, purpose=CHANCE)
    changes = number < torch.where(masked, fill, remask)
    policies.step_(state, torch.zeros(3, L, V))
    assert changes.any() and (state.ids != before).equal(changes)


@pytest.mark.parametrize("variant", VARIANTS)
def test_without_eta_no_token_changes(variant):
    """MDLM: a mask is filled in forward i of T with chance 1 / (T - i), outside of a loop."""
    policy = policies.ReMDM(variant=variant, eta=0.0, steps=9)
    state = policies.open(policy, torch.full((4, L), MASK), mask_token_id=MASK)
    state.sampling.seed.copy_(torch.arange(4))
    for step in range(9):
        before = state.ids.clone()
        fill = policy.rates(state, state.masked())[1]
        if variant != "loop":
            assert fill.flatten().tolist() == pytest.approx([1 / (9 - step)] * 4)
        policies.step_(state, torch.randn(4, L, V))
        held = before != MASK
        assert state.ids[held].equal(before[held])
    assert state.done.all() and (state.ids != MASK).all()


def test_draws_are_from_the_nucleus():
    """One token has three quarters and another a fifth: the third and others are never drawn."""
    logits = torch.full((1, L, V), -20.0)
    logits[..., :4] = torch.tensor([0.75, 0.2, 0.04, 0.01]).log()
    drawn = {}
    for top_p in (0.5, 0.9, 1.0):
        found = set()
        for seed in range(30):
            policy = policies.ReMDM(steps=1, top_p=top_p)
            state = policies.open(policy, torch.full((1, L), MASK), mask_token_id=MASK, seed=seed)
            policies.step_(state, logits)
            found |= set(state.ids[0].tolist())
        drawn[top_p] = found
    assert drawn == {0.5: {0}, 0.9: {0, 1}, 1.0: {0, 1, 2, 3}}


def test_what_a_mask_was_filled_with_is_kept():
    policy = policies.ReMDM(variant="conf", steps=3, top_p=1.0)
    state = policies.open(policy, torch.full((2, L), MASK), mask_token_id=MASK)
    logits = torch.randn(2, L, V)
    logits[..., MASK] = -torch.inf
    policies.step_(state, logits)
    filled = state.ids != MASK
    prob = logits.softmax(-1).gather(-1, state.ids[..., None])[..., 0]
    assert filled.any() and torch.allclose(state.buffers.filled_with[filled], prob[filled])
    assert (state.buffers.filled_with[~filled] == 0).all()


def test_settings_that_do_not_go_together_are_named(golden_model):
    with pytest.raises(ValueError, match=r"t_off must be at most t_on=0\.2"):
        policies.ReMDM(variant="loop", t_on=0.2, t_off=0.3)
    config = DecodeConfig(policy="remdm", temperature=1.0, top_p=0.5, mask_token_id=127)
    with pytest.raises(ValueError, match=r"top_p of its own.*top_p=0\.5"):
        Decoder(golden_model).generate([[1, 2]], config=config)
