"""Prompts of one call with settings of their own, and prompts that cannot be decoded."""

import itertools

import pytest
import torch
from cases import GOLDEN, prompt
from fakes import ScriptedModel, hashed

from fastedit import BadLogitsError, DecodeConfig, Decoder
from fastedit.request import prepare
from fastedit.results import RefusedError

V, MASK = 9, 8
SHARED = {"mask_token_id": MASK, "use_cache": False, "block_length": 3}
CONFIGS = [
    DecodeConfig.quality(max_new_tokens=7, eos_token_id=7, **SHARED),
    DecodeConfig.speed(max_new_tokens=2, eos_token_id=[], max_post_steps=1, **SHARED),
    DecodeConfig(threshold=0.2, temperature=1.0, top_k=4, seed=5, max_new_tokens=9, **SHARED),
    DecodeConfig(threshold=0.9, editing_threshold=None, num_to_transfer=2, **SHARED).replace(
        max_new_tokens=11, max_post_steps=0, eos_token_id=[6, 7], eos_early_stop=False
    ),
    DecodeConfig(temperature=0.7, top_p=0.8, seed=6, max_new_tokens=5, **SHARED),
]
PROMPTS = [torch.tensor(ids) for ids in ([1], [2, 3, 4, 5], [0, 6], [1, 1, 1, 1, 1, 1, 2], [3])]
pytestmark = pytest.mark.filterwarnings("ignore:temperature")


def results(out):
    """Without the recorded seeds, which are fresh where nothing is drawn, and prefill forwards."""
    return [
        (ids.tolist(), stats.as_dict() | {"seed": 0, "prefill_forwards": 0})
        for ids, stats in zip(out.sequences, out.stats, strict=True)
    ]


@pytest.fixture
def decoder():
    return Decoder(ScriptedModel(V, hashed(V, MASK, 1)))


def test_different_settings_share_a_batch_in_any_order_of_arrival(decoder):
    alone = [
        results(decoder.generate(prompt, config=config))[0]
        for prompt, config in zip(PROMPTS, CONFIGS, strict=True)
    ]
    assert len({str(result) for result in alone}) == len(alone)
    for order in itertools.islice(itertools.permutations(range(5)), 0, None, 7):
        out = decoder.generate(
            [PROMPTS[i] for i in order], config=[CONFIGS[i] for i in order], max_batch=2
        )
        assert results(out) == [alone[i] for i in order]
    decoder.model.calls.clear()
    out = decoder.generate(PROMPTS, config=CONFIGS)
    assert results(out) == alone
    assert len(decoder.model.calls[0]) == 5
    assert len(decoder.model.calls) == max(stats.forwards for stats in out.stats)


def test_settings_of_real_requests_share_a_batch(golden_model):
    decoder = Decoder(golden_model)
    shared = {"mask_token_id": 127, "eos_token_id": [17, 40]}
    shared |= {"block_length": 8, "max_post_steps": 4}
    configs = [
        DecodeConfig.quality(max_new_tokens=30, **shared),
        DecodeConfig.speed(max_new_tokens=9, **shared),
        DecodeConfig(temperature=0.9, seed=2, threshold=0.3, max_new_tokens=20, **shared),
    ]
    prompts = [torch.arange(7 + n, 7 + 2 * n) for n in (30, 5, 17)]
    alone = [
        results(decoder.generate(prompt, config=config))[0]
        for prompt, config in zip(prompts, configs, strict=True)
    ]
    for order in ((0, 1, 2), (2, 0, 1), (1, 2, 0)):  # each is first, and each is last
        out = decoder.generate(
            [prompts[i] for i in order], config=[configs[i] for i in order], max_batch=2
        )
        assert results(out) == [alone[i] for i in order]


def test_one_config_stands_in_for_that_of_the_decoder(decoder):
    out = decoder.generate(PROMPTS[:2], config=CONFIGS[1])
    assert [stats.tokens for stats in out.stats] == [2, 2]
    assert decoder.config == DecodeConfig()


def test_overrides_and_a_list_of_seeds_go_on_top(decoder):
    out = decoder.generate(PROMPTS, config=CONFIGS, max_new_tokens=4, seed=[9, 8, 7, 6, 5])
    assert all(stats.tokens <= 4 for stats in out.stats)
    assert [stats.seed for stats in out.stats] == [9, 8, 7, 6, 5]


def test_stop_texts_are_those_of_the_request(tokenizer):
    text = tokenizer("one two three")["input_ids"]
    model = ScriptedModel(300, lambda seen, i: [20.0 * (t == text[min(i, 12)]) for t in range(300)])
    shared = {"use_cache": False, "block_length": 4, "max_new_tokens": 13}
    configs = [DecodeConfig(stop=stop, **shared) for stop in (None, "two", ["three", "ne"], "ee")]
    decoder = Decoder(model, tokenizer)
    # The prompt takes one place of the text, so every answer begins behind its first letter.
    out = decoder.generate(["o"] * 4, config=configs, max_new_tokens=12)
    assert out.texts == ["ne two three", "ne ", "", "ne two thr"]
    assert [stats.finish_reason for stats in out.stats] == ["length", "stop", "stop", "stop"]


OTHERS = {
    "block_length": 4,
    "mask_token_id": 126,
    "strict_reference": True,
    "cache": "exact",
    "lookahead": True,
    "cuda_graphs": False,
    "policy": "low_confidence:rank=entropy",
}


def test_what_one_forward_cannot_serve_decodes_in_turn(golden_model):
    assert OTHERS.keys() == {*prepare.SHARED, "policy"}
    decoder = Decoder(golden_model)
    options = GOLDEN | {"max_new_tokens": 10}
    del options["max_post_steps"]  # a parameter of one of the policies
    first = DecodeConfig(**options, cache="none")
    configs = [first, *(first.replace(**{name: other}) for name, other in OTHERS.items()), first]
    prompts = [prompt(5 + 4 * n) for n in range(len(configs))]
    alone = [
        results(decoder.generate(prompt, config=config))[0]
        for prompt, config in zip(prompts, configs, strict=True)
    ]
    assert results(decoder.generate(prompts, config=configs, max_batch=3)) == alone
    ended = {r.index: r for r in decoder.as_completed(iter(prompts), config=iter(configs))}
    assert [ended[i].sequence.tolist() for i in range(len(prompts))] == [ids for ids, _ in alone]


def test_configs_that_do_not_fit_the_prompts_are_refused(decoder):
    with pytest.raises(ValueError, match="config has 2 entries for 5 prompts"):
        decoder.generate(PROMPTS, config=CONFIGS[:2])
    with pytest.raises(TypeError, match="config of prompt 1 must be a DecodeConfig; got None"):
        decoder.generate(PROMPTS[:2], config=[CONFIGS[0], None])
    with pytest.raises(TypeError, match="config must be a DecodeConfig or a list of them"):
        decoder.generate(PROMPTS[:1], config={"threshold": 0.5})
    with pytest.raises(ValueError, match="seed has 2 entries for 5 prompts"):
        decoder.generate(PROMPTS, config=CONFIGS, seed=[1, 2])
    assert decoder.generate([], config=[]).sequences == []
    assert not decoder.model.calls


BAD = {
    "empty": ([], "empty|must be"),
    "beyond the vocabulary": ([1, 99], "id 99"),
    "a mask": ([1, MASK], "mask token"),
    "too long": ([1] * 60, "64"),
    "no prompt": (None, "NoneType"),
    "text without a tokenizer": ("hello", "no tokenizer"),
}


@pytest.mark.parametrize(("prompt", "words"), BAD.values(), ids=BAD)
def test_a_bad_prompt_refuses_the_call_or_fails_alone(prompt, words):
    model = ScriptedModel(V, hashed(V, MASK, 1), max_position_embeddings=64)
    decoder = Decoder(model, config=CONFIGS[0])
    prompts = [[1, 2], prompt, [3]]
    with pytest.raises((TypeError, ValueError), match=words):
        decoder.generate(prompts)
    assert not model.calls
    out = decoder.generate(prompts, errors="return")
    assert isinstance(out.errors[1], RefusedError) and out.errors[1].index == 1
    with pytest.raises(ValueError, match=words):
        raise out.errors[1]
    assert out.errors[::2] == [None, None]
    assert out.sequences[1].tolist() == [] and out.stats[1].finish_reason == "error"
    good = decoder.generate(prompts[::2])
    assert results(good) == results(out)[::2]


def test_bad_logits_of_the_only_request_can_be_returned():
    model = ScriptedModel(V, lambda seen, i: [float("nan")] * V)
    with pytest.raises(BadLogitsError) as caught:
        Decoder(model, config=CONFIGS[0]).generate(PROMPTS[0])
    out = Decoder(model, config=CONFIGS[0]).generate(PROMPTS[:1], errors="return")
    assert str(out.errors[0]) == str(caught.value)
    assert caught.value.output.errors == [caught.value]


def test_other_values_of_errors_are_refused(decoder):
    with pytest.raises(ValueError, match='"raise" or "return"'):
        decoder.generate(PROMPTS, config=CONFIGS, errors="ignore")


def test_results_come_as_requests_end(decoder):
    prompts = [torch.tensor([i, 1, 2]) for i in range(3)] + [torch.tensor([MASK])]
    lengths = [40, 5, 9, 5]
    configs = [
        DecodeConfig(**SHARED, max_new_tokens=n, eos_token_id=[], seed=i)
        for i, n in enumerate(lengths)
    ]
    options = {"config": configs, "max_batch": 2}
    whole = decoder.generate(prompts, **options, errors="return")
    results = list(decoder.as_completed(prompts, **options))
    assert [result.index for result in results] == [3, 1, 2, 0]  # the refused one had ended before
    for result in results:
        assert result.sequence.equal(whole.sequences[result.index])
        assert result.stats == whole.stats[result.index] and result.text is None
        assert str(result.error) == str(whole.errors[result.index])


def test_an_iteration_over_results_checks_before_its_first_result(decoder):
    with pytest.raises(ValueError, match="max_batch"):
        decoder.as_completed(torch.tensor([[1, 2]]), max_batch=0, **SHARED)


def test_an_iteration_that_is_left_calls_the_model_no_more():
    model = ScriptedModel(V, hashed(V, MASK, 1))
    for _ in Decoder(model).as_completed(torch.tensor([[1], [2]]), max_batch=1, **SHARED):
        calls = len(model.calls)
        break
    assert len(model.calls) == calls


def test_what_had_ended_is_not_lost_when_the_model_fails():
    class Failing(ScriptedModel):
        def __call__(self, **inputs):
            if len(self.calls) == 20:
                raise KeyError("a weight")
            return super().__call__(**inputs)

    prompts = [torch.tensor([i, 1, 2]) for i in range(5)]
    options = SHARED | {"max_new_tokens": 9, "eos_token_id": [], "max_batch": 2, "seed": 0}
    whole = Decoder(ScriptedModel(V, hashed(V, MASK, 1))).generate(prompts, **options)
    with pytest.raises(KeyError, match="a weight") as caught:
        Decoder(Failing(V, hashed(V, MASK, 1))).generate(prompts, **options)
    out = caught.value.output
    reasons = [stats.finish_reason for stats in out.stats]
    assert reasons.count("error") == 2  # that were in its forward
    assert {"length", "error", "interrupted"} == set(reasons)
    for reason, ids, full in zip(reasons, out.sequences, whole.sequences, strict=True):
        assert ids.equal(full if reason == "length" else full[: len(ids)])
    assert f"{reasons.count('length')} of 5 requests had ended" in caught.value.__notes__[0]
