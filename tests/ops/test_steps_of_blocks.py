"""Fused steps take bare addresses of what they are given: what does not fit is refused before."""

import dataclasses

import pytest
import torch

from fastedit import ops

B, L, V = 2, 3, 5


def blocks() -> ops.Blocks:
    ids, may = torch.zeros(B, L, dtype=torch.int64), torch.ones(B, L, dtype=torch.bool)
    flags, counts = torch.zeros(4, B, dtype=torch.bool), torch.zeros(4, B, dtype=torch.int32)
    return ops.Blocks(ids, may, flags, counts, mask_token_id=4)


def integers(*shape: int) -> torch.Tensor:
    return torch.ones(shape, dtype=torch.int32)


def entropy_bound() -> dict:
    numbers = {name: torch.ones(B) for name in ("bound", "t_min", "t_max", "confidence")}
    seed = torch.zeros(B, dtype=torch.int64)
    return {
        "logits": torch.zeros(B, L, V),
        "best": torch.zeros(B, L, dtype=torch.int64),
        **{name: integers(B) for name in ("stable", "steps", "stability")},
        **numbers,
        "sampling": ops.Sampling(torch.zeros(B), seed, torch.ones(B), seed, seed),
    }


def correction() -> dict:
    names = ("steps", "stride", "budget", "ring", "limit")
    logits, tau = torch.zeros(B, L, V), torch.ones(B)
    return {
        "logits": logits,
        "turn": integers(B, L),
        "tau": tau,
        **{name: integers(B) for name in names},
    }


def remask() -> dict:
    """Of the trigger that takes everything."""
    return {
        "logits": torch.zeros(B, L, V),
        "remasked": integers(B, L),
        "before": torch.ones(B, L),
        "trigger": "logit_diff",
        **{name: torch.ones(B) for name in ("tau", "threshold")},
        "share": torch.ones(B, dtype=torch.float64),
        **{k: integers(B) for k in ("post_steps", "cap", "max_post_steps", "num_to_transfer")},
    }


STEPS = {
    ops.entropy_bound_step_: entropy_bound,
    ops.correction_step_: correction,
    ops.remask_step_: remask,
}
WRITTEN = ("best", "stable", "turn", "post_steps", "remasked", "before")


@pytest.mark.parametrize("step", STEPS)
def test_what_does_not_fit_is_refused(step):
    """Each argument of another shape, and of another type."""
    step(blocks(), **STEPS[step]())
    for name, value in STEPS[step]().items():
        if name in ("sampling", "trigger"):
            continue
        for wrong in (value[:1], value.short(), value.to("meta")):
            with pytest.raises((TypeError, ValueError), match=name):
                step(blocks(), **{**STEPS[step](), name: wrong})
    for name in ("ids", "may", "flags", "counts"):
        value = getattr(blocks(), name)
        for wrong in (value[:1], value[:, :1], value.double(), value.to("meta")):
            with pytest.raises(ValueError, match=name):
                step(dataclasses.replace(blocks(), **{name: wrong}), **STEPS[step]())


@pytest.mark.parametrize("name", ["top_k", "top_p", "seed", "start"])
def test_keys_of_draws_are_per_block(name):
    given = entropy_bound()
    sampling = given.pop("sampling")
    wrong = dataclasses.replace(sampling, **{name: getattr(sampling, name)[:1]})
    with pytest.raises(ValueError, match=name):
        ops.entropy_bound_step_(blocks(), sampling=wrong, **given)


def test_a_vocabulary_of_the_mask_alone_leaves_no_noise():
    given = entropy_bound() | {"logits": torch.zeros(B, L, 1)}
    held = dataclasses.replace(blocks(), mask_token_id=0)
    with pytest.raises(ValueError, match="one id"):
        ops.entropy_bound_step_(held, **given)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"before": None}, "before is for"),
        ({"trigger": "t2t"}, "before is for"),
        ({"trigger": "tau", "before": None}, "low_prob, t2t, logit_diff; got 'tau'"),
    ],
)
def test_a_trigger_has_what_it_compares_with(wrong, told):
    with pytest.raises(ValueError, match=told):
        ops.remask_step_(blocks(), **remask() | wrong)


# Of a token of probability 1/2, and one that had 3/4 in the step before.
TIES = {"low_prob": 0.5, "t2t": 0.5, "logit_diff": 0.25}


@pytest.mark.parametrize("backend", ["reference", "cpp"])
@pytest.mark.parametrize("trigger", TIES)
def test_what_equals_a_threshold_is_not_above_it(trigger, backend):
    logits = torch.full((B, L, V), -torch.inf)
    logits[..., :2] = 0.0
    more = 0.01 if trigger == "low_prob" else -0.01  # of tau, so that it is passed
    taus = torch.tensor([TIES[trigger], TIES[trigger] + more])
    for threshold, filled in ((0.5, 1), (0.49, 2)):
        held = blocks()
        held.ids[:] = torch.tensor([4, 4, 1])  # two masks, and the best token is 0
        given = remask() | {
            "logits": logits,
            "trigger": trigger,
            "tau": taus,
            "cap": 9 * integers(B),
        }
        given["threshold"][:] = threshold
        given["before"] = torch.full((B, L), 0.75) if trigger == "logit_diff" else None
        with ops.use_backend(backend):
            ops.remask_step_(held, **given)
        assert held.counts[1].tolist() == [filled] * B
        assert held.counts[3].tolist() == [0, 1]


@pytest.mark.parametrize("backend", ["reference", "cpp"])
@pytest.mark.parametrize("step", STEPS)
def test_steps_on_views_are_those_on_tensors_of_their_own(step, backend):
    """Rows and columns of larger tensors get what dense ones get, and nothing else changes."""
    generator = torch.Generator().manual_seed(0)
    results = []
    for apart in (False, True):
        given, held = STEPS[step](), blocks()
        given["logits"] = torch.rand(B, L, V, generator=generator.manual_seed(0))
        if apart:
            fields = ("ids", "may", "flags", "counts")
            held = dataclasses.replace(held, **{k: spread(getattr(held, k)) for k in fields})
            tensors = {
                k: spread(v) for k, v in given.items() if k not in ("logits", "sampling", "trigger")
            }
            given |= tensors
        with ops.use_backend(backend):
            step(held, **given)
        written = (given[name] for name in WRITTEN if name in given)
        results.append([held.ids, held.flags, held.counts, *written])
    assert all(one.equal(two) for one, two in zip(*results, strict=True))
    assert bool(results[0][2][0].all())  # a decision was taken


def spread(tensor: torch.Tensor) -> torch.Tensor:
    """The same values, every other one of a larger tensor."""
    wide = tensor.repeat_interleave(2, dim=-1)
    return wide[..., ::2]
