"""`pipeline("text-generation")` and calls in transformers' style on our own model class."""

import copy

import pytest
import torch
from transformers import GenerationConfig, pipeline

import fastedit
from fastedit import Decoder

ASK = "State the final answer to the following arithmetic problem: {} ="
TEXTS = [ASK.format("27 + 45 - 86"), ASK.format("1 + 2"), "What?"]
CHATS = [[{"role": "user", "content": text}] for text in TEXTS]


@pytest.fixture(scope="module")
def decoder():
    return Decoder.from_pretrained("tiny")


@pytest.fixture(params=["as it is", "patched"])
def pipe(request, decoder):
    model = copy.copy(decoder.model)
    if request.param == "patched":
        fastedit.patch(model)
    return pipeline("text-generation", model=model, tokenizer=decoder.tokenizer)


@pytest.mark.parametrize("batch", [1, 3])
def test_texts_and_chats_give_the_texts_of_the_decoder(pipe, decoder, batch):
    want = decoder.generate(TEXTS, max_new_tokens=40).texts
    full = pipe(TEXTS, batch_size=batch, max_new_tokens=40)
    new = pipe(TEXTS, batch_size=batch, max_new_tokens=40, return_full_text=False)
    assert [row[0]["generated_text"] for row in full] == [
        prompt + text for prompt, text in zip(TEXTS, want, strict=True)
    ]
    assert [row[0]["generated_text"] for row in new] == want
    want = decoder.generate(CHATS, max_new_tokens=40, mode="speed").texts
    chats = pipe(CHATS, batch_size=batch, max_new_tokens=40, do_sample=False, mode="speed")
    assert [row[0]["generated_text"][-1]["content"] for row in chats] == want


def test_one_prompt_and_the_length_of_pipelines(pipe, decoder):
    want = decoder.generate(CHATS[0], max_new_tokens=256).texts[0]
    assert pipe(CHATS[0], return_full_text=False)[0]["generated_text"] == want


def test_sampling_is_for_those_who_ask(pipe, decoder):
    options = {"temperature": 1.5, "top_k": 20, "seed": 4, "max_new_tokens": 40}
    with pytest.warns(UserWarning, match="temperature"):
        want = decoder.generate(CHATS[0], **options).texts[0]
        drawn = pipe(CHATS[0], do_sample=True, return_full_text=False, **options)
    assert drawn[0]["generated_text"] == want


def test_a_stop_sequence_ends_the_text_behind_it(pipe, decoder):
    out = pipe(CHATS[0], stop_sequence="\n", max_new_tokens=64, return_full_text=False)
    want = decoder.generate(CHATS[0], stop="\n", max_new_tokens=64).texts[0]
    assert out[0]["generated_text"] == want + "\n"


def test_ids_that_the_config_lacks_come_from_the_pipelines_tokenizer(pipe, decoder):
    """Hub configs name no mask token, and tokenizers know ends that generation configs lack."""
    ids = decoder.tokenizer(TEXTS[0])["input_ids"]
    end = decoder.generate(TEXTS[0], max_new_tokens=40).sequences[0][2].item()
    tokenizer = copy.deepcopy(decoder.tokenizer)
    tokenizer.eos_token = tokenizer.convert_ids_to_tokens(end)
    other = pipeline("text-generation", model=pipe.model, tokenizer=tokenizer)
    mask, pipe.model.config.mask_token_id = pipe.model.config.mask_token_id, None
    try:
        out = other(TEXTS[0], max_new_tokens=40, return_tensors=True)[0]["generated_token_ids"]
        want = Decoder(pipe.model, tokenizer).generate(TEXTS[0], max_new_tokens=40)
        assert out[: len(ids)] == ids and out[len(ids) :] == want.sequences[0].tolist()
        assert want.stats[0].finish_reason == "eos" and out[-1] == end
        with pytest.raises(ValueError, match="mask_token_id"):
            pipe.model.generate(input_ids=torch.tensor([ids]), max_new_tokens=8)
    finally:
        pipe.model.config.mask_token_id = mask


@pytest.mark.parametrize(
    ("name", "value"), [("num_beams", 2), ("repetition_penalty", 1.2), ("min_new_tokens", 3)]
)
def test_what_cannot_be_honoured_is_refused(pipe, name, value):
    with pytest.raises(ValueError, match=rf"^{name}={value}"):
        pipe(TEXTS[0], max_new_tokens=8, **{name: value})


def test_a_model_that_is_asked_for_no_sampling_says_so(decoder):
    model = copy.copy(decoder.model)
    model.generation_config = GenerationConfig(eos_token_id=0)
    assert model.generation_config.do_sample is False
    model.generation_config = GenerationConfig(eos_token_id=0, do_sample=True)
    assert model.generation_config.do_sample is True


# The two styles of `model.generate`.


@pytest.fixture
def inputs(decoder):
    return decoder.tokenizer.apply_chat_template(
        CHATS[:2],
        add_generation_prompt=True,
        return_tensors="pt",
        return_dict=True,
        padding=True,
        padding_side="left",
    )


def test_what_a_tokenizer_returns_decodes_with_the_prompt_in_front(pipe, decoder, inputs):
    want = decoder.generate(CHATS[:2], max_new_tokens=40).sequences
    inputs["token_type_ids"] = torch.zeros_like(inputs["input_ids"])
    for options in ({"max_new_tokens": 40}, {"generation_config": GenerationConfig(max_length=90)}):
        out = pipe.model.generate(**inputs, **options)
        width = inputs["input_ids"].shape[1]
        assert out[:, :width].equal(inputs["input_ids"])
        for row, ids in zip(out[:, width:].tolist(), want, strict=True):
            assert row[: len(ids)] == ids.tolist() and set(row[len(ids) :]) <= {0}


def test_the_released_style_returns_what_the_released_loop_does(pipe, decoder):
    ids = torch.tensor([decoder.tokenizer(TEXTS[0])["input_ids"]])
    released = {"gen_length": 40, "mask_id": 1, "eos_id": 0, "threshold": 0.7}
    want = decoder.generate(ids, max_new_tokens=40, editing_threshold=0.9, eos_token_id=0)
    out = pipe.model.generate(ids, **released)
    assert out.tolist() == [want.sequences[0].tolist()]
    assert pipe.model.generate(inputs=ids, **released).equal(out)
    assert pipe.model.generate(ids, 0.0, 32, 32, 40, mask_id=1, eos_id=0).shape[0] == 1


@pytest.mark.parametrize(
    "mixture",
    [
        {"gen_length": 8, "max_new_tokens": 8},
        {"mask_id": 1, "generation_config": GenerationConfig(max_new_tokens=8)},
        {"eos_id": 0, "do_sample": True},
        {"minimal_topk": 1, "return_dict_in_generate": True},
        {"gen_length": 8, "input_ids": torch.tensor([[5, 6]])},
    ],
)
def test_a_mixture_of_styles_is_refused_and_names_both(pipe, mixture):
    first, second = mixture
    prompt = () if "input_ids" in mixture else (torch.tensor([[5, 6]]),)
    with pytest.raises(ValueError, match=f"{first} .*{second}"):
        pipe.model.generate(*prompt, **mixture)
    with pytest.raises(ValueError, match=r"5 positional arguments .*max_new_tokens"):
        pipe.model.generate(torch.tensor([[5, 6]]), 0.0, 32, 32, 8, max_new_tokens=8)


def test_a_name_of_neither_style_is_refused(pipe):
    with pytest.raises(TypeError, match="thresold"):
        pipe.model.generate(torch.tensor([[5, 6]]), gen_length=8, thresold=0.5)
    with pytest.raises(ValueError, match=r"^thresold=0.5"):
        pipe.model.generate(input_ids=torch.tensor([[5, 6]]), max_new_tokens=8, thresold=0.5)
