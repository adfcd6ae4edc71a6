"""Every argument of transformers' generation: honoured with an effect, neutral, or refused by name.

The walk takes the fields and keywords of the transformers that is installed, so one that a newer
version adds is tried too.
"""

import threading

import pytest
import torch
from transformers import GenerationConfig, LogitsProcessorList, TextIteratorStreamer
from transformers.generation import GenerationMixin

from fastedit import Decoder
from fastedit.integrations.arguments import DEFAULTS, FIELDS, HONOURED, INERT, KEYWORDS
from fastedit.integrations.transformers import OPTIONS, generate

P = [5, 6, 7, 9]
PROMPT = torch.tensor([P])
BASE = {"block_length": 8, "mask_token_id": 127, "eos_token_id": 126, "threshold": 0.9}
# Inputs that reach a model by keyword; none of them is a field or a named keyword.
INPUTS = {
    "inputs_embeds": torch.zeros(1, 4, 64),
    "position_ids": torch.tensor([[3, 4, 5, 6]]),
    "token_type_ids": torch.ones(1, 4, dtype=torch.int64),
    "past_key_values": object(),
    "cache": object(),
    "cache_position": torch.arange(4),
    "assistant_tokenizer": object(),
    "logits_to_keep": 1,
    "labels": PROMPT,
    "num_beems": 2,
    "trust_remote_code": True,
}
REFUSED = sorted((FIELDS | KEYWORDS) - HONOURED - INERT)
# Where 3 is no value that transformers lets through, or would not be one of a kind.
VALUES = {"bad_words_ids": [[3]], "suppress_tokens": [3], "renormalize_logits": True}


@pytest.fixture
def model(golden_model):
    """The golden model, whose generation config a test may change."""
    before = golden_model.generation_config
    golden_model.generation_config = GenerationConfig(**before.to_diff_dict())
    yield golden_model
    golden_model.generation_config = before


def run(model, prompt=PROMPT, **options):
    """Generated ids of every row."""
    length = {} if {"max_length", "generation_config"} & set(options) else {"max_new_tokens": 12}
    out = model.generate(prompt, custom_generate=generate, **(BASE | length | options))
    assert out[:, : prompt.shape[1]].equal(out[:1, : prompt.shape[1]].expand(len(out), -1))
    return out[:, prompt.shape[1] :].tolist()


def decoded(model, **options):
    return Decoder(model).generate(PROMPT, **(BASE | {"max_new_tokens": 12} | options))


@pytest.fixture(scope="module")
def plain(golden_model):
    return run(golden_model)


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_honoured_is_refused_by_name_and_value(model, plain, name):
    value = VALUES.get(name, 3)
    with pytest.raises(ValueError, match=rf"^{name}=.*3|^{name}=True") as caught:
        run(model, **{name: value})
    assert ": " in str(caught.value)  # and the remedy
    if name in FIELDS:
        config = GenerationConfig(max_new_tokens=12)
        setattr(config, name, value)
        with pytest.raises(ValueError, match=f"^{name}="):
            run(model, generation_config=config)
        if name not in DEFAULTS or DEFAULTS[name] is None:
            setattr(config, name, None)
            assert run(model, generation_config=config) == plain


@pytest.mark.parametrize("name", INPUTS)
def test_inputs_that_the_model_would_see_are_refused(model, name):
    with pytest.raises(ValueError, match=rf"^{name}="):
        run(model, **{name: INPUTS[name]})


def test_defaults_and_neutral_values_change_nothing(model):
    plain = run(model)
    skipped = {"max_length", "transformers_version"}
    neutral = {name: DEFAULTS[name] for name in FIELDS - skipped if DEFAULTS[name] is not None}
    neutral |= {"min_new_tokens": 0, "guidance_scale": 1.0, "temperature": 0.0, "top_k": 0}
    neutral |= {"logits_processor": LogitsProcessorList(), "stopping_criteria": []}
    neutral |= {"synced_gpus": False, "past_key_values": None, "disable_compile": True}
    neutral |= {"token_type_ids": torch.zeros_like(PROMPT), "position_ids": torch.arange(4)[None]}
    assert run(model, **neutral) == plain


def test_default_positions_of_padded_rows_pass_and_others_do_not(model):
    ids, mask = torch.tensor([[0, 0, 5, 6], P]), torch.tensor([[0, 0, 1, 1], [1] * 4])
    positions = (mask.cumsum(-1) - 1).masked_fill(mask == 0, 1)
    options = BASE | {"attention_mask": mask, "max_new_tokens": 12, "custom_generate": generate}
    assert model.generate(ids, position_ids=positions, **options).equal(
        model.generate(ids, **options)
    )
    with pytest.raises(ValueError, match="position_ids"):
        model.generate(ids, position_ids=positions + 1, **options)


# What honouring means, for every name in HONOURED.
def _lengths(model):
    assert [len(row) for row in run(model, max_new_tokens=5)] == [5]
    assert run(model, max_length=9) == run(model, max_new_tokens=5)
    model.generation_config.max_new_tokens = 3  # which must not go before the caller's
    assert run(model, max_length=9) == run(model, max_new_tokens=5)
    with pytest.raises(ValueError, match="max_length"):
        run(model, max_length=4)
    with pytest.raises(ValueError, match="not both"):
        run(model, max_length=9, max_new_tokens=5)


def _sampling(model):
    for options in ({}, {"temperature": 1.5}, {"top_k": 4, "temperature": 2.0}, {"top_p": 0.4}):
        with pytest.warns(UserWarning, match="temperature"):
            want = decoded(model, **({"temperature": 1.0, "top_k": 50, "seed": 3} | options))
            assert run(model, do_sample=True, seed=3, **options) == [want.sequences[0].tolist()]
    for name, value in {"temperature": 0.7, "top_k": 5, "top_p": 0.5}.items():
        with pytest.raises(ValueError, match=rf"^{name}={value} .*do_sample"):
            run(model, **{name: value})
    model.generation_config.do_sample, model.generation_config.temperature = True, 1.5
    assert run(model) == [decoded(model).sequences[0].tolist()]  # the checkpoint does not sample


def _rows(model):
    two = torch.tensor([P, [8, 9, 4, 3]])
    options = BASE | {"custom_generate": generate, "do_sample": True, "temperature": 2.0}
    options["max_new_tokens"] = 12
    with pytest.warns(UserWarning, match="temperature"):
        rows = model.generate(two, num_return_sequences=3, seed=[5, 9], **options)
        for row, (prompt, seed) in enumerate(
            (i, s + j) for i, s in ((0, 5), (1, 9)) for j in range(3)
        ):
            alone = model.generate(two[prompt : prompt + 1], seed=seed, **options)
            assert rows[row].equal(alone[0])
        fresh = run(model, do_sample=True, temperature=2.0, num_return_sequences=4)
    assert len({tuple(row) for row in fresh}) > 1
    with pytest.raises(ValueError, match=r"^num_return_sequences=2 .*do_sample"):
        run(model, num_return_sequences=2)
    model.generation_config.do_sample, model.generation_config.num_return_sequences = True, 2
    assert len(run(model)) == 1


def _cache(model):
    calls = []
    hook = model.register_forward_pre_hook(
        lambda _, args, kwargs: calls.append(kwargs["past_key_values"] is None), with_kwargs=True
    )
    with_cache = run(model, use_cache=True)
    assert not any(calls)
    model.generation_config.use_cache = False  # as released configs have it
    assert run(model) == with_cache and not any(calls)
    assert run(model, use_cache=False) == with_cache and any(calls)
    hook.remove()


def _ends(model):
    plain = run(model)[0]
    end = next(token for token in plain[2:] if token not in plain[:2])
    cut = plain[: plain.index(end) + 1]
    assert run(model, eos_token_id=end) == run(model, eos_token_id=torch.tensor([end])) == [cut]
    model.generation_config.eos_token_id = end
    without = {name: value for name, value in BASE.items() if name != "eos_token_id"}
    options = without | {"custom_generate": generate, "max_new_tokens": 12}
    assert model.generate(PROMPT, **options).tolist() == [P + cut]
    ids, mask = torch.tensor([P, [9, 9, 6, 6]]), torch.tensor([[1] * 4, [0, 0, 1, 1]])
    batch = model.generate(ids, attention_mask=mask, pad_token_id=99, **options)[:, 4:].tolist()
    assert batch[0] == cut + [99] * (len(batch[0]) - len(cut)) and len(batch[0]) > len(cut)


def _stops(model):
    decoder = Decoder.from_pretrained("tiny")
    ask = "State the final answer to the following arithmetic problem: 27 + 45 - 86 ="
    chat = [{"role": "user", "content": ask}]
    tiny, tokenizer = decoder.model, decoder.tokenizer
    inputs = tokenizer.apply_chat_template(
        chat, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    want = decoder.generate(chat, stop=["-86"], max_new_tokens=64)
    assert want.stats[0].finish_reason == "stop"
    for options in (
        {"stop_strings": ["-86"], "tokenizer": tokenizer},
        {"stop": "-86", "text_tokenizer": tokenizer},
        {"generation_config": GenerationConfig(stop_strings="-86"), "tokenizer": tokenizer},
    ):
        out = tiny.generate(**inputs, max_new_tokens=64, **options)
        assert out[0, inputs["input_ids"].shape[1] :].tolist() == want.sequences[0].tolist()
    with pytest.raises(ValueError, match=r"^stop_strings=.*tokenizer"):
        run(model, stop_strings=["-"])


def _outputs(model):
    out = model.generate(
        PROMPT, custom_generate=generate, return_dict_in_generate=True, max_new_tokens=12, **BASE
    )
    assert out.sequences[:, 4:].tolist() == run(model) and out.tokens_per_forward.shape == (1,)


def _prompts(model):
    options = BASE | {"max_new_tokens": 12}
    want = [P + run(model)[0]]
    assert model.generate(inputs=PROMPT, custom_generate=generate, **options).tolist() == want
    assert model.generate(input_ids=PROMPT, **options).tolist() == want
    config = GenerationConfig(max_new_tokens=12)
    assert model.generate(PROMPT, config, **BASE).tolist() == want
    padded, mask = torch.tensor([[1, 1, *P]]), torch.tensor([[0, 0, 1, 1, 1, 1]])
    out = model.generate(padded, custom_generate=generate, attention_mask=mask, **options)
    assert out.tolist() == [[1, 1, *want[0]]]
    alone = model.generate(custom_generate=generate, bos_token_id=5, **options)
    assert alone.tolist() == model.generate(torch.tensor([[5]]), config, **BASE).tolist()


def _streams(model):
    decoder = Decoder.from_pretrained("tiny")
    ask = "State the final answer to the following arithmetic problem: 27 + 45 - 86 ="
    inputs = decoder.tokenizer(ask, return_tensors="pt")
    want = decoder.generate(ask, max_new_tokens=40).texts[0]
    for call in (
        decoder.model.generate,
        lambda **given: GenerationMixin.generate(decoder.model, custom_generate=generate, **given),
    ):
        streamer = TextIteratorStreamer(decoder.tokenizer, skip_prompt=True, timeout=60)
        options = {"streamer": streamer, "text_tokenizer": decoder.tokenizer, "max_new_tokens": 40}
        thread = threading.Thread(target=call, kwargs={**inputs, **options})
        thread.start()
        assert "".join(streamer).removesuffix("<|endoftext|>") == want
        thread.join()


EFFECTS = {
    ("max_new_tokens", "max_length"): _lengths,
    ("do_sample", "temperature", "top_k", "top_p"): _sampling,
    ("num_return_sequences",): _rows,
    ("use_cache",): _cache,
    ("eos_token_id", "pad_token_id"): _ends,
    ("stop_strings", "tokenizer"): _stops,
    ("return_dict_in_generate",): _outputs,
    (
        "inputs",
        "input_ids",
        "attention_mask",
        "generation_config",
        "custom_generate",
        "bos_token_id",
    ): _prompts,
    ("streamer",): _streams,
}


def test_every_honoured_name_has_a_test_of_its_effect():
    assert {name for names in EFFECTS for name in names} == HONOURED


@pytest.mark.parametrize("names", EFFECTS, ids=lambda names: names[0])
def test_honoured(model, names):
    EFFECTS[names](model)


# The same callable where `generate` is transformers' own, which prepares before it calls.
KEPT_BACK = {
    "assistant_model": None,  # a model, made by the test
    "synced_gpus": True,
    "prefix_allowed_tokens_fn": lambda batch, ids: [3],
    "negative_prompt_ids": PROMPT,
    "negative_prompt_attention_mask": torch.ones_like(PROMPT),
    "num_beams": 2,
    "repetition_penalty": 1.2,
    "min_new_tokens": 4,
    "suppress_tokens": [3],
    "guidance_scale": 1.5,
    "output_scores": True,
    "max_time": 1.0,
    "position_ids": torch.tensor([[3, 4, 5, 6]]),
    "cache_implementation": "static",
    "temperature": 0.5,
}


@pytest.mark.parametrize("name", KEPT_BACK)
def test_what_transformers_keeps_to_itself_is_refused_too(model, name):
    value = model if name == "assistant_model" else KEPT_BACK[name]
    options = BASE | {"max_new_tokens": 12, "custom_generate": generate, name: value}
    with pytest.raises(ValueError, match=rf"^{name}="):
        GenerationMixin.generate(model, PROMPT, **options)


def test_values_of_the_checkpoint_are_neither_used_nor_refused(model):
    want = model.generate(PROMPT, custom_generate=generate, max_new_tokens=12, **BASE)
    for name, value in {
        "num_beams": 2,
        "do_sample": True,
        "temperature": 3.0,
        "repetition_penalty": 1.5,
        "min_new_tokens": 12,
        "suppress_tokens": [3],
        "forced_eos_token_id": 4,
        "cache_implementation": "static",
    }.items():
        setattr(model.generation_config, name, value)
    options = BASE | {"max_new_tokens": 12, "custom_generate": generate}
    assert model.generate(PROMPT, **options).equal(want)
    assert GenerationMixin.generate(model, PROMPT, **options).equal(want)


def test_a_direct_call_takes_nothing_that_it_would_drop(model):
    config = GenerationConfig(max_new_tokens=12, eos_token_id=126)
    options = {name: value for name, value in BASE.items() if name != "eos_token_id"}
    assert generate(model, PROMPT, generation_config=config, **options)[0, 4:].tolist() in run(
        model
    )
    for name, value in {
        "logits_processor": [print],
        "position_ids": PROMPT,
        "num_beams": 2,
    }.items():
        with pytest.raises(ValueError, match=f"^{name}="):
            generate(model, PROMPT, generation_config=config, **options, **{name: value})


def test_options_of_ours_are_no_fields_of_a_generation_config():
    assert not OPTIONS & (FIELDS | KEYWORDS)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"input_ids": [[1, 2]]}, TypeError),
        ({"input_ids": torch.tensor([1, 2])}, ValueError),
        ({"input_ids": torch.tensor([[1.0, 2.0]])}, ValueError),
        ({"attention_mask": torch.ones(1, 9)}, ValueError),
        ({"attention_mask": torch.ones(2, 3)}, ValueError),
        ({"attention_mask": torch.tensor([[0.0, 0.0, -1e9]])}, ValueError),
        ({"pad_token_id": -5}, ValueError),
        ({"pad_token_id": 99_999}, ValueError),
        ({"do_sample": "yes"}, ValueError),
        ({"do_sample": True, "num_return_sequences": 0}, ValueError),
        ({"streamer": 5}, TypeError),
    ],
)
def test_values_that_transformers_would_drop_are_refused(golden_model, change, error):
    call = {"input_ids": torch.tensor([[1, 2, 3]]), "max_new_tokens": 8, "mask_token_id": 127}
    with pytest.raises(error, match=list(change)[-1]):
        golden_model.generate(**(call | change))
