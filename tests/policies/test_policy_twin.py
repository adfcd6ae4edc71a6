"""A fused twin decides what its rule decides: ids, flags, counts and what is kept of a block."""

import pytest
import torch

from fastedit import ops, policies
from fastedit.policies import POLICIES

V, L, MASK = 23, 9, 22


def has_twin(policy):
    return policies.open(policy, torch.zeros(1, 1).long(), mask_token_id=1).twin is not None


TWINS = [name for name, kind in POLICIES.items() if has_twin(kind())]
SETTINGS = {
    "joint_threshold": [
        "",
        ":threshold=.3,editing_threshold=.1,max_post_steps=2",
        ":editing_threshold=none,num_to_transfer=3",
        ":threshold=1,editing_threshold=0,max_post_steps=0",
        ":threshold=.5,editing_threshold=.5,max_post_steps=1,num_to_transfer=20",
    ],
    "multi_block": [
        "",
        ":rounds=0",
        ":editing_threshold=none,max_post_steps=1",
        ":threshold=.1,editing_threshold=.1,max_post_steps=0,rounds=2,share=.5",
    ],
    "entropy_bound": [
        "",
        ":bound=2,steps=5,confidence=.5,stability=0",
        ":t_min=0,t_max=0,bound=0,confidence=9,stability=2",
    ],
    "correction": [
        ":scorer=confidence",
        ":scorer=confidence,stride=1,ring=1,tau=.2,budget=3,steps=4",
        ":scorer=confidence,stride=1,ring=0,tau=0,budget=20,steps=40",
    ],
    "remask": [
        "",
        ":tau=.9,cap=2,share=.5,threshold=.2,max_post_steps=2",
        ":tau=1,cap=9,share=1,threshold=0,max_post_steps=0",
        ":trigger=t2t,tau=.1,cap=3,share=.4,threshold=.3,num_to_transfer=2",
        ":trigger=t2t,tau=.2,share=0,threshold=.1,max_post_steps=1",
        ":trigger=logit_diff,tau=.05,cap=2,threshold=.1",
        ":trigger=logit_diff,tau=0,cap=9,share=1,threshold=0,num_to_transfer=20",
    ],
    "joint_threshold_indel": [
        f":delete_token_id=1,insert_token_id=2,{rest}"
        for rest in (
            "threshold=.3,editing_threshold=.1,max_post_steps=2",
            "editing_threshold=none,max_post_steps=4",
            "threshold=1,editing_threshold=0,max_post_steps=0",
        )
    ],
}

THRESHOLDS = ("joint_threshold", "multi_block")
GREEDY = {"joint_threshold_indel"}  # does not draw, and makes no difference of `strict`


def pair(name, temperature, strict, seed):
    """A state that steps by the twin and one that steps by the rule, the same otherwise."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, V, (4, L), generator=generator)
    ids[torch.rand(4, L, generator=generator) < 0.6] = MASK
    editable = torch.rand(4, L, generator=generator) < 0.8
    settings = {"seed": seed, "start": 32, "temperature": temperature, "strict_reference": strict}
    fused, plain = (
        policies.open(name, ids, editable, mask_token_id=MASK, **settings) for _ in range(2)
    )
    plain.twin = None
    return fused, plain


def test_there_is_one():
    assert {*TWINS, "correction"} == SETTINGS.keys()
    assert not has_twin("correction") and has_twin("correction:scorer=confidence")


@pytest.mark.parametrize(
    "settings",
    [
        "mode=rank",
        "fill=confidence",
        "fill=low_confidence;rank=entropy",
        "fill=low_confidence;schedule=dream",
    ],
)
def test_correction_has_one_for_the_fill_by_a_clock_and_confidence_alone(settings):
    assert not has_twin(f"correction:scorer=confidence,{settings}")


def test_a_rule_that_derives_from_another_has_not_its_twin():
    class Later(policies.EntropyBound):
        def rule(self, stats, view):
            return super().rule(stats, view)

    assert has_twin(policies.EntropyBound()) and not has_twin(Later())


@pytest.mark.parametrize("backend", ["reference", "cpp"])
@pytest.mark.parametrize(
    ("name", "strict", "temperature"),
    [
        (name + settings, strict, temperature)
        for name in SETTINGS
        for settings in SETTINGS[name]
        for strict in (False, True)
        for temperature in (0.0, 0.7)
        if name not in GREEDY or not (strict or temperature)
    ],
)
def test_the_twin_is_the_rule(name, strict, temperature, backend):
    """A few values of logits, so that ties are common and nothing lies near a threshold."""
    for seed in range(4):
        fused, plain = pair(name, temperature, strict, seed)
        generator = torch.Generator().manual_seed(100 + seed)
        for step in range(6):
            logits = torch.randint(-2, 5, (4, L, V), generator=generator).float() * 1.37
            if step == 3:
                logits[1, 2] = torch.nan
                logits[2, 4, 5] = torch.inf
            if strict:
                logits[..., MASK] += 2.0
            with ops.use_backend(backend):
                policies.step_(fused, logits)
                policies.step_(plain, logits)
            # Masks that edits write count as edits in joint threshold's, in the core as remasks.
            for state in (fused, plain) if name.startswith(THRESHOLDS) else ():
                state.counts.t2t_edits.add_(state.counts.remasks)
                state.counts.remasks.zero_()
            for mine, its in zip(fused.fields(), plain.fields(), strict=True):
                assert mine.equal(its), (name, seed, step)


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("settings", ["", ":rounds=0", ":editing_threshold=none,max_post_steps=1"])
def test_alone_multi_block_never_asks_what_is_reopened(settings, strict):
    """It is joint threshold's, and reopens what that is done with; here that is done for good."""
    reopened = 0
    for seed in range(6):
        fused, plain = pair("multi_block" + settings, 0.0, strict, seed)
        fused.alone = True
        generator = torch.Generator().manual_seed(seed)
        for _ in range(8):
            logits = torch.randint(-2, 5, (4, L, V), generator=generator).float() * 1.37
            for state in (fused, plain):
                policies.step_(state, logits)
                state.counts.t2t_edits.add_(state.counts.remasks)
                state.counts.remasks.zero_()
            for mine, its in zip(fused.fields(), plain.fields(), strict=True):
                assert mine.equal(its), seed
            reopened += int(plain.reopened.sum())
            for state in (fused, plain):
                state.done.logical_or_(state.reopened)
                state.reopened.zero_()
    assert bool(reopened) == (not settings)


def test_where_a_block_is_reopened_multi_block_goes_by_its_rule():
    state, _ = pair("multi_block", 0.0, False, 0)
    logits = torch.zeros(4, L, V)
    assert state.twin(logits, False)
    state.reopened[1] = True
    assert not state.twin(logits, False)
