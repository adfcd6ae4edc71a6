"""Prompts in every form, and every error before the model is called."""

import numpy as np
import pytest
import torch
from fakes import ScriptedModel, saying

from fastedit import Decoder
from fastedit.prompts.inputs import as_ids, one_by_one

V, MASK, EOS = 300, 257, 256
OPTIONS = {"block_length": 4, "max_new_tokens": 3, "use_cache": False}


class Untouchable:
    """A model that must not be called."""

    def __init__(self, vocab=V, positions=64):
        config = {"vocab_size": vocab, "max_position_embeddings": positions, "eos_token_id": EOS}
        self.config = type("Config", (), config)()

    def __call__(self, **_):
        raise AssertionError("the model was called")


def ids(prompts, tokenizer, mask=None):
    each = one_by_one(prompts, mask)
    return [as_ids(prompt, tokenizer, MASK).tolist() for prompt in each]


def seen(prompts, tokenizer, **options):
    """The prompts as the model saw them in its first forwards."""
    model = ScriptedModel(V, saying([], V), max_position_embeddings=64)
    Decoder(model, tokenizer).generate(prompts, **(OPTIONS | options))
    return model.calls[0]


def test_texts_chats_and_ids_in_every_form(tokenizer):
    a, b = list(tokenizer("ab").input_ids), list(tokenizer("c").input_ids)
    chat = [{"role": "user", "content": "hi"}]
    spoken = list(tokenizer("<|user|>hi<|bot|>").input_ids)
    assert ids("ab", tokenizer) == [a]
    assert ids(["ab", "c"], tokenizer) == ids(("ab", "c"), tokenizer) == [a, b]
    assert ids(chat, tokenizer) == [spoken]
    assert ids([chat, chat], tokenizer) == [spoken, spoken]
    assert ids(torch.tensor(a), tokenizer) == ids(torch.tensor([a]), None) == [a]
    assert ids(torch.tensor([a, a], dtype=torch.int32), None) == [a, a]
    assert ids([torch.tensor(a), torch.tensor(b)], None) == [a, b]
    assert ids([torch.tensor([a]), b, "c", chat], tokenizer) == [a, b, b, spoken]
    mask = torch.tensor([[0, 1, 1], [1, 0, 0], [0, 0, 1]])
    assert ids(torch.tensor([[9, *a], [7, 9, 9], [9, 9, 8]]), None, mask) == [a, [7], [8]]
    assert ids(torch.tensor([9, *a]), None, torch.tensor([0, 1, 1])) == [a]


def test_what_tokenizers_and_numpy_give_are_prompts(tokenizer):
    a, b = list(tokenizer("ab").input_ids), list(tokenizer("c").input_ids)
    for kind in (np.int8, np.uint16, np.int32, np.uint64):
        row = [x % 100 for x in a]
        assert ids(np.array(row, dtype=kind), None) == [row]
        assert ids(np.array([row, row], dtype=kind), None) == [row, row]
        assert ids([np.array(row, dtype=kind), torch.tensor(b)], None) == [row, b]
        assert ids([[kind(x) for x in row]], None) == [row]
    assert ids(np.array([[9, *a]]), None, np.array([[0, 1, 1]])) == [a]
    assert ids(np.array(["ab", "c"]), tokenizer) == [a, b]
    tokenizer.pad_token = "<eos>"
    for side in ("left", "right"):
        for form in ("pt", "np"):
            both = tokenizer(["ab", "c"], padding=True, padding_side=side, return_tensors=form)
            assert ids(both, None) == ids(dict(both), None) == [a, b]
    assert ids(tokenizer(["ab", "c"]), None) == [a, b]  # lists of different lengths
    assert ids(tokenizer("ab"), None) == ids({"input_ids": a}, None) == [a]
    assert ids([tokenizer("ab"), {"input_ids": [b]}], None) == [a, b]
    with_types = tokenizer("ab", return_token_type_ids=True, return_special_tokens_mask=True)
    assert ids(with_types, None) == [a]


def test_a_mask_that_is_given_twice_is_refused(tokenizer):
    with pytest.raises(ValueError, match="given twice"):
        one_by_one(tokenizer(["ab"], return_tensors="pt"), torch.ones(1, 2))


def test_options_of_chats_reach_the_template(tokenizer, monkeypatch):
    template = "{{ mood }}|{% if tools %}{{ tools[0].name }}{% endif %}|{{ messages[0].content }}"
    monkeypatch.setattr(tokenizer, "chat_template", template)
    chat, tools = [{"role": "user", "content": "hi"}], [{"name": "f"}]
    options = {"tools": tools, "chat_template_kwargs": {"mood": "calm"}, "mask_id": MASK}
    expected = list(tokenizer("calm|f|hi").input_ids)
    assert seen(chat, tokenizer, **options)[0][: len(expected)] == expected
    spelled = [{"messages": chat, "tools": tools, "chat_template_kwargs": {"mood": "sad"}}]
    own = list(tokenizer("sad|f|hi").input_ids)
    assert seen(spelled, tokenizer, **options)[0][: len(own)] == own  # a chat knows better
    model = ScriptedModel(V, saying([], V), max_position_embeddings=64)
    list(Decoder(model, tokenizer).stream(chat, **OPTIONS, **options))
    list(Decoder(model, tokenizer).as_completed(chat, **OPTIONS, **options))
    assert all(call[0][: len(expected)] == expected for call in model.calls[:1])


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"tools": [{"name": "f"}]}, ValueError, "prompt 0: tools goes with chats"),
        ({"chat_template_kwargs": {"a": 1}}, ValueError, "chat_template_kwargs goes with chats"),
        ({"continue_final_message": True}, ValueError, "continue_final_message goes with chats"),
        ({"tools": "f"}, TypeError, "tools must be a list"),
        ({"tools": {"name": "f"}}, TypeError, "tools must be a list"),
        ({"chat_template_kwargs": ["a"]}, TypeError, "chat_template_kwargs must be a mapping"),
        ({"continue_final_message": "yes"}, TypeError, "must be True or False"),
    ],
)
def test_wrong_options_of_chats_are_named(tokenizer, options, error, words):
    decoder = Decoder(Untouchable(), tokenizer)
    for how in (decoder.generate, decoder.stream):
        with pytest.raises(error, match=words):
            how("hi", mask_token_id=MASK, **OPTIONS, **options)


def test_the_model_sees_the_prompt_and_masks_behind_it(tokenizer):
    assert seen("hi", tokenizer, mask_id=MASK) == [[*tokenizer("hi").input_ids, MASK, MASK]]
    assert seen(torch.tensor([5, 6, 7]), None, mask_id=2)[0] == [5, 6, 7, 2]


def test_mask_text_inside_a_text_or_chat_is_plain_text(tokenizer):
    text = "é<|mask|>b"
    assert MASK in tokenizer(text).input_ids
    plain = [t for part in ("é<", "|mask|>b") for t in tokenizer(part).input_ids]
    assert ids(text, tokenizer) == [plain]
    spoken = ids([{"role": "user", "content": text}], tokenizer)[0]
    assert MASK not in spoken
    assert tokenizer.decode(spoken) == f"<|user|>{text}<|bot|>"


def test_mask_text_is_plain_text_for_any_kind_of_added_token(tokenizer):
    note = tokenizer.convert_tokens_to_ids("<note>")
    row = as_ids("a<note>", tokenizer, note)
    assert note not in row.tolist() and tokenizer.decode(row) == "a<note>"


def test_lone_special_texts_of_other_tokens_stay_tokens(tokenizer):
    assert ids("a<eos>", tokenizer)[0][-1] == EOS


@pytest.mark.parametrize(
    ("prompts", "error", "named"),
    [
        ("", ValueError, "prompt 0 is empty"),
        (["a", ""], ValueError, "prompt 1 is empty"),
        (torch.zeros(0, dtype=torch.int64), ValueError, "empty"),
        ([torch.tensor([1]), torch.zeros(0, dtype=torch.int64)], ValueError, "prompt 1 is empty"),
        ([[]], TypeError, r"\[\]"),
        (torch.tensor([1, 300]), ValueError, "300"),
        ([torch.tensor([1]), torch.tensor([-7])], ValueError, "prompt 1.*-7"),
        (torch.tensor([1, MASK, 2]), ValueError, "mask token 257"),
        (torch.arange(62), ValueError, "62 tokens.*max_new_tokens=3.*65.*64"),
        (torch.tensor([1.0]), TypeError, "float32"),
        (torch.tensor(3), ValueError, r"\[\]"),
        (torch.zeros(1, 1, 2, dtype=torch.int64), ValueError, r"\[1, 1, 2\]"),
        ([torch.zeros(2, 2, dtype=torch.int64)], ValueError, r"\[2, 2\]"),
        (np.array([1.0]), TypeError, "float64"),
        (np.array([True]), TypeError, "bool"),
        (torch.tensor([True]), TypeError, "bool"),
        (np.zeros((1, 1, 2), dtype=np.int32), ValueError, r"\[1, 1, 2\]"),
        (np.array([1, 300]), ValueError, "300"),
        (np.array([1, 2**63], dtype=np.uint64), ValueError, "no int64"),
        (["a", np.array([0.5])], TypeError, "prompt 1: .*float64"),
        ([[True, False]], TypeError, "True"),
        ({"input_ids": [1.5]}, TypeError, "float64"),
        ({"input_ids": [1], "inputs_embeds": [2]}, ValueError, "inputs_embeds"),
        ({"input_ids": [1], "token_type_ids": [1]}, ValueError, "token_type_ids"),
        ({"input_ids": [1, 2], "attention_mask": [1]}, ValueError, r"\[1, 1\].*\[1, 2\]"),
        ({"ids": [1]}, TypeError, "`messages` or `input_ids`.*'ids'"),
        ({"role": "user", "content": "a"}, TypeError, "`messages` or `input_ids`"),
        ({"messages": [], "tools": []}, ValueError, "`messages` must be a list"),
        ({"messages": [{"role": "user", "content": "a"}], "images": [1]}, ValueError, "`images`"),
        (None, TypeError, "NoneType"),
        ([None], TypeError, "NoneType"),
        ([1, 2], TypeError, r"list of int.*\[\[1, 2\]\]"),
        (b"ab", TypeError, "bytes"),
        (["a", b"b"], TypeError, "prompt 1: .*bytes"),
        (["a", None], TypeError, "prompt 1: .*NoneType"),
        (["a", [{"content": "b"}]], ValueError, "prompt 1: message 0 needs a `role`"),
        (["a", "b\ud800"], ValueError, r"prompt 1: character 1 is '.ud800', half of one"),
        ([["a", "b"]], TypeError, "list"),
    ],
)
def test_a_wrong_prompt_is_named_before_any_model_call(tokenizer, prompts, error, named):
    decoder = Decoder(Untouchable(), tokenizer)
    with pytest.raises(error, match=named):
        decoder.generate(prompts, mask_token_id=MASK, **OPTIONS)


@pytest.mark.parametrize(
    ("mask", "named"),
    [
        (torch.ones(1, 3), r"\[1, 3\].*\[2, 3\]"),
        (torch.ones(2, 4), r"\[2, 4\]"),
        (torch.tensor([[1, 0, 1], [1, 1, 1]]), "gap"),
        (torch.tensor([[0.0, 0.0, -1e9], [0.0, 0.0, 0.0]]), "1 for ids of the prompt and 0"),
        (torch.tensor([[1, 1, 1], [0, 0, 0]]), "prompt 1 is empty"),
    ],
)
def test_a_wrong_attention_mask_is_named_before_any_model_call(mask, named):
    with pytest.raises(ValueError, match=named):
        Decoder(Untouchable()).generate(
            torch.ones(2, 3, dtype=torch.int64), mask, mask_token_id=MASK, **OPTIONS
        )


def test_an_attention_mask_beside_a_list_is_refused():
    with pytest.raises(ValueError, match="attention_mask"):
        Decoder(Untouchable()).generate(
            [torch.tensor([1])], torch.ones(1, 1), mask_token_id=MASK, **OPTIONS
        )


@pytest.mark.parametrize(
    ("options", "error", "named"),
    [
        ({}, ValueError, "mask_token_id"),  # nothing names one
        ({"mask_token_id": 300}, ValueError, "mask_token_id=300.*300"),
        ({"mask_token_id": MASK, "eos_token_id": 300}, ValueError, "eos_token_id=300"),
        ({"mask_token_id": MASK, "eos_token_id": [2, 999]}, ValueError, "eos_token_id=999"),
        ({"mask_token_id": EOS}, ValueError, f"{EOS}.*EOS"),
        ({"mask_token_id": MASK, "seed": [1, 2]}, ValueError, "2.*1"),
        ({"mask_token_id": MASK, "stop": "x"}, ValueError, "tokenizer"),
        ({"mask_token_id": MASK, "top_q": 1}, TypeError, "top_q"),
        ({"mask_token_id": MASK, "threshold": -1}, ValueError, "-1"),
    ],
)
@pytest.mark.parametrize("how", ["generate", "stream"])
def test_wrong_options_are_named_before_any_model_call(options, error, named, how):
    decoder = Decoder(Untouchable())
    with pytest.raises(error, match=named):
        getattr(decoder, how)(torch.tensor([1]), **(OPTIONS | options))


@pytest.mark.parametrize("option", [{"threshold": 1e39}, {"max_post_steps": 2**31}])
def test_numbers_beyond_the_tensor_type_are_named(option):
    try:
        Decoder(ScriptedModel(V, saying([], V))).generate(
            torch.tensor([1]), mask_token_id=MASK, **(OPTIONS | option)
        )
    except ValueError as error:
        assert next(iter(option)) in str(error)


@pytest.mark.parametrize("prompts", ["hi", ["hi"], [{"role": "user", "content": "hi"}]])
def test_text_without_a_tokenizer_is_refused(prompts):
    with pytest.raises(ValueError, match="tokenizer"):
        Decoder(Untouchable()).generate(prompts, mask_token_id=MASK, **OPTIONS)


def test_a_chat_without_a_template_is_refused(tokenizer, monkeypatch):
    monkeypatch.setattr(tokenizer, "chat_template", None)
    with pytest.raises(ValueError, match="chat template"):
        Decoder(Untouchable(), tokenizer).generate(
            [{"role": "user", "content": "hi"}], mask_token_id=MASK, **OPTIONS
        )


STRICT = "{% set r = {'user': 'U', 'assistant': 'A'} %}{{ r[messages[0]['role']] + '' }}"


@pytest.mark.parametrize(
    ("template", "message", "words"),
    [
        (STRICT, {"role": "usr", "content": "a"}, r"role 'usr' .*knows \(user, assistant\)"),
        ("{{ raise_exception('only once') }}", {"role": "user", "content": "a"}, "only once"),
        (STRICT, {"role": "user"}, "message 0 needs `content`"),
        (STRICT, {"content": "a"}, "message 0 needs a `role`"),
    ],
)
def test_a_message_that_the_template_refuses_is_named(
    tokenizer, monkeypatch, template, message, words
):
    monkeypatch.setattr(tokenizer, "chat_template", template)
    with pytest.raises(ValueError, match=words):
        Decoder(Untouchable(), tokenizer).generate([message], mask_token_id=MASK, **OPTIONS)


def test_prompt_and_output_may_fill_the_positions_exactly():
    model = ScriptedModel(V, saying([], V), max_position_embeddings=8)
    out = Decoder(model).generate(torch.arange(5), mask_token_id=MASK, **OPTIONS)
    assert len(out.sequences[0]) == 3


def test_no_prompts_give_no_results(tokenizer):
    out = Decoder(Untouchable(), tokenizer).generate([], mask_token_id=MASK, **OPTIONS)
    assert (out.sequences, out.texts, out.stats, out.errors) == ([], [], [], [])
