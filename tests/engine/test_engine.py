"""The block loop with scripted models: the oracle, bounds, stopping, EOS."""

import contextlib

import numpy as np
import pytest
import torch
from fakes import ScriptedModel, hashed, one_hot, saying
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle_loop import decode

from fastedit import DecodeConfig, Decoder
from fastedit.engine import graphs as graph
from fastedit.results import DecodeStalledError

V, MASK, EOS = 7, 6, 5
IDS = {"mask_token_id": MASK, "eos_token_id": EOS, "use_cache": False}


def run(rule, prompt=(1,), vocab=V, **options):
    """(ids, stats, model) of one prompt."""
    model = ScriptedModel(vocab, rule)
    out = Decoder(model).generate(torch.tensor(prompt), **(IDS | options))
    return out.sequences[0].tolist(), out.stats[0], model


@settings(max_examples=120, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    prompt=st.lists(st.integers(0, 4), min_size=1, max_size=9),
    options=st.fixed_dictionaries(
        {
            "block_length": st.sampled_from([1, 2, 4, 5]),
            "max_new_tokens": st.integers(0, 11),
            "threshold": st.sampled_from([0.0, 0.3, 0.5, 0.7, 1.0]),
            "editing_threshold": st.sampled_from([None, 0.0, 0.3, 0.5, 1.0]),
            "max_post_steps": st.sampled_from([0, 1, 2, 16]),
            "num_to_transfer": st.integers(1, 6),
            "eos_early_stop": st.booleans(),
        }
    ),
)
def test_any_request_is_decoded_as_the_oracle_does(seed, prompt, options):
    rule = hashed(V, MASK, seed)
    want = decode(rule, prompt, mask_token_id=MASK, eos_token_id=EOS, **options)
    ids, stats, model = run(rule, prompt, **options)
    assert ids == want.sequence
    assert (stats.forwards, stats.m2t_commits, stats.t2t_edits, stats.finish_reason) == (
        want.forwards,
        want.m2t,
        want.t2t,
        want.reason,
    )
    assert stats.tokens == len(ids) and stats.prefill_forwards == 0
    assert len(model.calls) == stats.forwards
    assert all(call[0][: len(prompt)] == prompt for call in model.calls)
    # What holds for every request, whatever the oracle says:
    size, new = options["block_length"], options["max_new_tokens"]
    assert MASK not in ids and len(ids) <= new and EOS not in ids[:-1]
    first = len(prompt) // size
    blocks = -(-(len(prompt) + new) // size) - first if new else 0
    masks = blocks * size - len(prompt) % size if new else 0
    assert stats.forwards <= masks + blocks * options["max_post_steps"]


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), permutation=st.permutations(range(V - 1)))
def test_permuting_the_vocabulary_permutes_the_output(seed, permutation):
    there = [*permutation, MASK]
    back = np.argsort(there)
    rule = hashed(V, MASK, seed)

    def permuted(seen, position):
        return rule(tuple(back[list(seen)].tolist()), position)[back]

    plain, _, _ = run(rule, [1, 2, 3], max_new_tokens=9, block_length=4)
    options = {"max_new_tokens": 9, "block_length": 4, "eos_token_id": there[EOS]}
    other, _, _ = run(permuted, [there[1], there[2], there[3]], **options)
    assert other == [there[token] for token in plain]


def test_editing_off_equals_one_and_full_threshold_commits_the_forced_only():
    rule = hashed(V, MASK, 3)
    options = {"max_new_tokens": 11, "block_length": 4, "eos_token_id": []}
    off, stats, _ = run(rule, editing_threshold=None, **options)
    assert off == run(rule, editing_threshold=1.0, **options)[0]
    assert stats.t2t_edits == 0
    _, stats, _ = run(rule, threshold=1.0, max_post_steps=0, num_to_transfer=2, **options)
    assert stats.forwards == 2 + 2 + 2 and stats.m2t_commits == 11


@pytest.mark.parametrize("option", [{"steps": 3}, {"minimal_topk": 2}])
def test_released_options_without_effect_change_nothing(option):
    rule = hashed(V, MASK, 4)
    plain = run(rule, max_new_tokens=8, block_length=4)[0]
    with pytest.warns(UserWarning, match=next(iter(option))):
        assert run(rule, max_new_tokens=8, block_length=4, **option)[0] == plain


@pytest.mark.parametrize("max_post_steps", [0, 1, 2, 5])
def test_a_model_that_never_settles_stops_after_the_budget_with_the_last_edit(max_post_steps):
    def flip(seen, i):
        return one_hot(2 if seen[i] != 2 else 3, V)

    ids, stats, _ = run(
        flip, [1] * 4, block_length=4, max_new_tokens=4, max_post_steps=max_post_steps
    )
    assert stats.forwards == 1 + max_post_steps
    assert ids == [2 + max_post_steps % 2] * 4
    assert stats.t2t_edits == 4 * max_post_steps


def test_a_settled_block_spends_one_more_forward_and_no_more():
    for max_post_steps, forwards in ((0, 1), (1, 2), (16, 2)):
        _, stats, _ = run(
            saying([1] * 9, V), block_length=4, max_new_tokens=3, max_post_steps=max_post_steps
        )
        assert stats.forwards == forwards


@pytest.mark.parametrize("editing_threshold", [None, 0.0, 0.5])
def test_a_model_that_predicts_only_masks_terminates(editing_threshold):
    ids, stats, _ = run(
        saying([], V, then=MASK),
        block_length=4,
        max_new_tokens=7,
        editing_threshold=editing_threshold,
        max_post_steps=2,
    )
    assert ids == [0] * 7
    assert stats.forwards == 3 + 1 + 4 + 1  # one forced commit each, then nothing changes


@pytest.mark.parametrize("budget", [0, 3])
def test_strict_reference_stalls_with_an_error_within_the_bound(budget):
    model = ScriptedModel(V, saying([], V, then=MASK))
    options = IDS | {"strict_reference": True, "block_length": 4, "max_post_steps": budget}
    with pytest.raises(DecodeStalledError, match="request 0") as caught:
        Decoder(model).generate(torch.tensor([1]), max_new_tokens=7, **options)
    assert caught.value.index == 0
    assert len(model.calls) <= 4 + budget + 1


def test_strict_reference_may_write_a_mask_over_a_token():
    """Position 1 is committed, masked again, committed again; the others wait to be forced."""

    def rule(seen, i):
        if i == 1:
            return one_hot(MASK if seen[1] == 2 and seen[2] == MASK else 2, V)
        return one_hot(3, V, height=1.0)

    options = {"block_length": 4, "max_new_tokens": 3, "strict_reference": True}
    ids, stats, _ = run(rule, [0], **options)
    assert (ids, stats.forwards, stats.m2t_commits) == ([2, 3, 3], 5, 4)
    assert (stats.t2t_edits, stats.remasks) == (0, 1)
    ids, stats, _ = run(rule, [0], **(options | {"strict_reference": False}))
    assert (ids, stats.m2t_commits) == ([2, 3, 3], 3)


def test_strict_reference_has_time_for_masks_of_the_prompt():
    model = ScriptedModel(V, saying([1, 2, 3, 4], V))
    options = IDS | {"strict_reference": True, "block_length": 4, "threshold": 1.0}
    out = Decoder(model).generate(
        torch.tensor([1, MASK, MASK]),
        max_new_tokens=1,
        max_post_steps=0,
        allow_mask_in_prompt=True,
        **options,
    )
    assert out.sequences[0].tolist() == [4]
    assert out.stats[0].m2t_commits == 3


@pytest.mark.parametrize(("prompt", "commits"), [([1, MASK, 2], 5), ([MASK] * 6, 2)])
def test_a_literal_mask_in_the_prompt_is_kept_and_not_counted(prompt, commits):
    model = ScriptedModel(V, saying([], V, then=1))
    out = Decoder(model).generate(
        torch.tensor(prompt), max_new_tokens=2, block_length=4, allow_mask_in_prompt=True, **IDS
    )
    assert out.stats[0].m2t_commits == commits
    assert all(call[0][: len(prompt)] == prompt for call in model.calls)
    assert out.sequences[0].tolist() == [1, 1]


EOS_CASES = [  # tokens said from position 3 on (P = 3, B = 4, G = 9), kept, reason, blocks
    ([1, EOS, 2, 2, 2, 2, 2, 2, 2], [1, EOS], "eos", 2),
    ([EOS, 2, 2, 2, 2, 2, 2, 2, 2], [EOS], "eos", 1),
    ([1, 2, EOS, EOS, 2, EOS, 2, 2, 2], [1, 2, EOS], "eos", 2),
    ([1, 2, 3, 4, 1, 2, 3, 4, 1, EOS], [1, 2, 3, 4, 1, 2, 3, 4, 1], "length", 3),  # past P + G
    ([1, 2, 3, 4, 1, 2, 3, 4, EOS], [1, 2, 3, 4, 1, 2, 3, 4, EOS], "eos", 3),
]


@pytest.mark.parametrize(("said", "kept", "reason", "blocks"), EOS_CASES)
@pytest.mark.parametrize("early", [True, False])
def test_output_ends_with_the_first_eos(said, kept, reason, blocks, early):
    ids, stats, model = run(
        saying([0, 0, EOS, *said], V),
        [0, 0, EOS],  # an EOS in the prompt does not count
        block_length=4,
        max_new_tokens=9,
        eos_early_stop=early,
    )
    assert (ids, stats.finish_reason, stats.tokens) == (kept, reason, len(kept))
    assert len({len(call[0]) for call in model.calls}) == (blocks if early else 3)


def test_an_eos_that_is_edited_away_does_not_end_the_output():
    def rule(seen, i):
        return one_hot(EOS if seen[i] == MASK and i == 2 else 1, V)

    ids, stats, _ = run(rule, [1], block_length=4, max_new_tokens=7)
    assert (ids, stats.finish_reason, stats.t2t_edits) == ([1] * 7, "length", 1)
    ids, _, _ = run(rule, [1], block_length=4, max_new_tokens=7, editing_threshold=None)
    assert ids == [1, EOS]


def test_the_earliest_of_several_eos_ids_ends_the_output():
    rule = saying([0, 1, 4, EOS, 1], V)
    assert run(rule, [0], block_length=4, max_new_tokens=7, eos_token_id=[EOS, 4])[0] == [1, 4]
    assert run(rule, [0], block_length=4, max_new_tokens=7, eos_token_id=[])[1].tokens == 7


def test_nothing_to_generate_calls_no_model():
    ids, stats, model = run(hashed(V, MASK), max_new_tokens=0)
    assert (ids, model.calls, stats.forwards, stats.prefill_forwards) == ([], [], 0, 0)
    assert (stats.tokens_per_forward, stats.edits_per_100_tokens) == (0.0, 0.0)


def test_stats_add_up():
    ids, stats, _ = run(hashed(V, MASK, 1), max_new_tokens=10, block_length=4, eos_token_id=[])
    assert stats.tokens == len(ids) == 10 and stats.m2t_commits == 11
    assert stats.tokens_per_forward == 10 / stats.forwards
    assert stats.edits_per_100_tokens == 10 * stats.t2t_edits
    assert stats.as_dict()["tokens_per_forward"] == stats.tokens_per_forward


def test_presets_decode_as_their_thresholds():
    rule = hashed(V, MASK, 8)
    for preset, options in (
        (DecodeConfig.quality(), {"threshold": 0.7, "editing_threshold": 0.5}),
        (DecodeConfig.speed(), {"threshold": 0.5, "editing_threshold": 0.0}),
    ):
        sizes = {"block_length": 4, "max_new_tokens": 8}
        out = Decoder(ScriptedModel(V, rule), config=preset).generate(
            torch.tensor([1]), **IDS, **sizes
        )
        want = decode(rule, [1], mask_token_id=MASK, eos_token_id=EOS, **sizes, **options)
        assert out.sequences[0].tolist() == want.sequence


def test_a_round_runs_on_the_device_of_the_model(monkeypatch):
    """Beside several GPUs; between two rounds the caller has the device back."""
    entered = []

    @contextlib.contextmanager
    def current(device):
        entered.append(device)
        yield
        entered.pop()

    monkeypatch.setitem(graph.CURRENT, "cpu", current)
    rule = saying([], V, then=1)

    def watched(seen, place):
        assert entered == [torch.device("cpu")]
        return rule(seen, place)

    for _ in Decoder(ScriptedModel(V, watched)).stream(torch.tensor([1]), drafts=True, **IDS):
        assert not entered
