"""`strict_reference`: edits write masks back; what the released loop never ends, stalls."""

import pytest
import torch
from fakes import ScriptedModel, hashed, one_hot
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle_loop import decode

from fastedit import Decoder
from fastedit.request import stalls as progress
from fastedit.results import DecodeStalledError

V, MASK = 5, 4
OPTIONS = {"mask_token_id": MASK, "eos_token_id": [], "strict_reference": True, "use_cache": False}


def run(rule, prompt=(1,), **options):
    """(ids, stats, whether it stalled, model) of one prompt."""
    model = ScriptedModel(V, rule)
    out = Decoder(model).generate(
        [torch.tensor(prompt)] * 2, allow_mask_in_prompt=True, **(OPTIONS | options)
    )
    assert out.sequences[0].equal(out.sequences[1])
    error = out.errors[0]
    assert error is None or isinstance(error, DecodeStalledError)
    return out.sequences[0].tolist(), out.stats[0], error is not None, model


def masks_liked(seed, bias):
    """`hashed`, with the mask liked by `bias` more: it is written, and written back, often."""
    rule = hashed(V, MASK, seed, loyalty=0.0)

    def biased(seen, position):
        logits = rule(seen, position).copy()
        logits[MASK] += bias
        return logits

    return biased


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    bias=st.sampled_from([-1.0, 0.0, 1.0, 3.0]),
    prompt=st.lists(st.integers(0, MASK), min_size=1, max_size=6),
    options=st.fixed_dictionaries(
        {
            "block_length": st.sampled_from([1, 2, 4]),
            "max_new_tokens": st.integers(1, 8),
            "threshold": st.sampled_from([0.0, 0.3, 0.7]),
            "editing_threshold": st.sampled_from([None, 0.0, 0.3, 0.7]),
            "max_post_steps": st.sampled_from([0, 1, 2, 8]),
            "num_to_transfer": st.integers(1, 3),
        }
    ),
)
def test_ends_and_stalls_where_the_released_loop_does(seed, bias, prompt, options):
    rule = masks_liked(seed, bias)
    want = decode(rule, prompt, mask_token_id=MASK, strict=True, **options)
    ids, stats, stalled, _ = run(rule, prompt, **options)
    assert stalled == (want.reason == "stalled")
    assert ids == want.sequence[: options["max_new_tokens"]]
    if not stalled:
        # The oracle's edits are all changes of tokens, masks that were written back included.
        changed = stats.t2t_edits + stats.remasks
        assert (stats.forwards, stats.m2t_commits, changed) == (want.forwards, want.m2t, want.t2t)


def counter(period, then):
    """A block of 4 counts its forwards in base 2, masks as the 0, up to `period`, then `then`."""

    def rule(seen, i):
        if i < 4:
            return one_hot(0, V)
        count = sum((seen[j] != MASK) << (j - 4) for j in range(4, 8))
        if count < period:
            return one_hot(1 if (count + 1) >> (i - 4) & 1 else MASK, V)
        return one_hot(then, V)

    return rule


def test_a_block_that_takes_its_masks_back_many_times_ends():
    """15 forwards with a mask, where one without edits has 4 at most."""
    options = {"threshold": 0.5, "editing_threshold": 0.5, "block_length": 4, "max_post_steps": 0}
    ids, stats, stalled, _ = run(counter(15, 2), [0] * 4, max_new_tokens=4, **options)
    assert (ids, stats.forwards, stalled) == ([1] * 4, 15, False)


@pytest.mark.parametrize("period", [1, 2, 5, 11, 14])
def test_a_cycle_ends_within_three_times_its_length(period):
    options = {"threshold": 0.5, "editing_threshold": 0.5, "block_length": 4, "max_post_steps": 16}
    _, _, stalled, model = run(counter(period, MASK), [0] * 4, max_new_tokens=4, **options)
    assert stalled and len(model.calls) <= 3 * (period + 1)


def test_a_cycle_through_a_block_without_masks_spends_the_budget():
    """Full and empty in turn: post steps are counted on, not afresh, when a mask comes back."""

    def rule(seen, i):
        return one_hot(1 if MASK in seen[4:8] else MASK, V)

    for budget in (0, 1, 7):
        options = {"threshold": 0.5, "editing_threshold": 0.5, "max_post_steps": budget}
        ids, stats, stalled, _ = run(rule, [0] * 4, max_new_tokens=4, block_length=4, **options)
        assert (ids, stats.forwards, stalled) == ([1] * 4, 1 + 2 * budget, False)


def test_draws_of_nothing_but_masks_end_at_the_bound(monkeypatch):
    monkeypatch.setattr(progress, "MOST_WITH_MASKS", 40)
    options = {"temperature": 1.0, "seed": 0, "block_length": 4, "max_new_tokens": 4}
    with pytest.warns(UserWarning, match="temperature"):
        _, _, stalled, model = run(lambda seen, i: one_hot(MASK, V, 200.0), **options)
    assert stalled and len(model.calls) == 41
