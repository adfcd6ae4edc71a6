"""Logits that no one can decide on end one request, by name and position, and no other."""

import math

import pytest
import torch
from fakes import ScriptedModel, hashed, one_hot

from fastedit import BadLogitsError, Decoder
from fastedit.results import DecodeStalledError

V, MASK, EOS = 7, 6, 5
OPTIONS = {
    "mask_token_id": MASK,
    "eos_token_id": EOS,
    "use_cache": False,
    "block_length": 4,
    "max_new_tokens": 6,
    "max_post_steps": 2,
}
BAD = {
    "a NaN": [math.nan] + [0.0] * 6,
    "only NaN": [math.nan] * 7,
    "infinity": [0.0, math.inf] + [0.0] * 5,
    "nothing finite": [-math.inf] * 7,
}


def fails_at(place, logits, first=0):
    """`saying` ones, but `logits` at `place` for prompts that begin with `first`."""
    return lambda seen, i: logits if i == place and seen[0] == first else one_hot(1, V)


@pytest.mark.parametrize("logits", BAD.values(), ids=BAD)
@pytest.mark.parametrize("place", [3, 5, 7])
def test_the_only_request_raises_with_its_index_and_position(logits, place):
    model = ScriptedModel(V, fails_at(place, logits))
    with pytest.raises(BadLogitsError, match=rf"request 0.*position {place}\b") as caught:
        Decoder(model).generate(torch.tensor([0, 1, 1]), **OPTIONS)
    assert (caught.value.index, caught.value.position) == (0, place)
    assert len(model.calls) <= (4 + 2 + 1) * 2


@pytest.mark.parametrize("logits", BAD.values(), ids=BAD)
def test_bad_logits_of_a_prompt_position_do_not_matter(logits):
    model = ScriptedModel(V, fails_at(1, logits))
    out = Decoder(model).generate(torch.tensor([0, 1, 1]), **OPTIONS)
    assert out.sequences[0].tolist() == [1] * 6


def test_the_position_is_not_that_of_a_bad_prompt_position():
    bad = BAD["a NaN"]
    rule = lambda seen, i: bad if i in (4, 6) else one_hot(1, V)  # noqa: E731
    with pytest.raises(BadLogitsError) as caught:
        Decoder(ScriptedModel(V, rule)).generate(torch.tensor([0, 1, 1, 1, 1]), **OPTIONS)
    assert caught.value.position == 6


def test_the_position_is_known_when_only_an_early_step_was_bad():
    def rule(seen, i):
        return BAD["a NaN"] if i == 2 and seen[i] == MASK else one_hot(1, V)

    with pytest.raises(BadLogitsError) as caught:
        Decoder(ScriptedModel(V, rule)).generate(torch.tensor([0]), **OPTIONS)
    assert caught.value.position == 2


def test_the_position_is_known_when_only_the_mask_is_finite():
    rule = fails_at(2, [-math.inf] * 6 + [0.0])
    with pytest.raises(BadLogitsError) as caught:
        Decoder(ScriptedModel(V, rule)).generate(torch.tensor([0]), **OPTIONS)
    assert caught.value.position == 2


@pytest.mark.parametrize("logits", BAD.values(), ids=BAD)
@pytest.mark.parametrize("max_batch", [1, 2, 4])
def test_in_a_batch_only_the_bad_request_fails(logits, max_batch):
    good = hashed(V, MASK, 3)

    def rule(seen, i):
        return logits if seen[0] == 4 and i == 6 else good(seen, i)

    decoder = Decoder(ScriptedModel(V, rule))
    prompts = [torch.tensor(p) for p in ([1, 2], [4, 2, 3], [2], [3, 3, 3, 3])]
    out = decoder.generate(prompts, max_batch=max_batch, **OPTIONS)
    assert isinstance(out.errors[1], BadLogitsError)
    assert (out.errors[1].index, out.errors[1].position) == (1, 6)
    assert out.stats[1].finish_reason == "error"
    assert len(out.sequences[1]) == out.stats[1].tokens == 1  # the block before it stays
    for i in (0, 2, 3):
        solo = decoder.generate(prompts[i], seed=out.stats[i].seed, **OPTIONS)
        assert out.errors[i] is None
        assert out.sequences[i].tolist() == solo.sequences[0].tolist()
        assert out.stats[i] == solo.stats[0]


@pytest.fixture
def poisoned(golden_model):
    """The golden model, whose token 5 now has an embedding of NaN."""
    weight = golden_model.model.word_embeddings.weight.data
    kept = weight[5].clone()
    weight[5] = math.nan
    yield golden_model
    weight[5] = kept


@pytest.mark.parametrize("use_cache", [True, False])
def test_a_failed_request_leaves_no_nan_in_its_slot(poisoned, use_cache):
    """The long request keeps the slots' columns in view while the short one follows the bad one."""
    generator = torch.Generator().manual_seed(0)
    long, bad, short = (torch.randint(6, 120, (n,), generator=generator) for n in (60, 40, 3))
    bad[3] = 5
    options = {"mask_token_id": 127, "eos_token_id": [], "block_length": 8, "max_new_tokens": 16}
    options |= {"max_post_steps": 1, "use_cache": use_cache}
    decoder = Decoder(poisoned)
    out = decoder.generate([long, bad, short], max_batch=2, **options)
    assert [type(error) for error in out.errors] == [type(None), BadLogitsError, type(None)]
    assert out.errors[1].position == 40
    for i, ids in ((0, long), (2, short)):
        assert out.sequences[i].tolist() == decoder.generate(ids, **options).sequences[0].tolist()


def test_a_stalled_request_of_a_batch_fails_alone():
    def rule(seen, i):
        return one_hot(MASK if seen[0] == 4 else 1, V)

    out = Decoder(ScriptedModel(V, rule)).generate(
        [torch.tensor([4]), torch.tensor([2])], strict_reference=True, **OPTIONS
    )
    assert isinstance(out.errors[0], DecodeStalledError) and out.errors[1] is None
    assert out.sequences[1].tolist() == [1] * 6


def test_streams_raise_the_error():
    decoder = Decoder(ScriptedModel(V, fails_at(5, BAD["only NaN"])))
    events = decoder.stream(torch.tensor([0, 1]), **OPTIONS)
    assert next(events).ids == [1, 1]
    with pytest.raises(BadLogitsError):
        list(events)
