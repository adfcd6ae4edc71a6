"""What a line reads and what it learns."""

from __future__ import annotations

import numpy as np
import pytest
from documents import BLOCK, CHAT, EOS, MASK, texts

from fastedit.files.jsonl import DataError
from fastedit.training.data.documents import Form


def test_assistant_turns_are_learnt(write, documents, tiny_tokenizer):
    [document] = documents(write({"messages": CHAT})).items
    eos = tiny_tokenizer.eos_token
    read, learnt = texts(document, tiny_tokenizer)
    ask = "<role>HUMAN</role>{}<|role_end|><role>ASSISTANT</role>"
    assert read == ask.format("2 + 2 =") + ask.format("and 3?")
    assert learnt.replace(eos, "") == "4<|role_end|>7<|role_end|>"
    assert learnt.endswith(eos) and len(document.ids) % BLOCK == 0


def test_a_prompt_is_tokenised_as_the_decoder_does(write, documents, tiny_tokenizer):
    from fastedit.prompts.inputs import as_ids

    record = {"prompt": "2 + 2 =", "completion": "4"}
    for raw, prompt in ((False, CHAT[:1]), (True, "2 + 2 =")):
        [document] = documents(write(record), raw=raw).items
        ids = as_ids(prompt, tiny_tokenizer, MASK)
        start = int(document.response.argmax())
        assert document.ids[:start].tolist() == ids.tolist()
        assert tiny_tokenizer.decode(document.ids[start:], skip_special_tokens=True) == "4"
    [chat] = documents(write({"prompt": CHAT[:1], "completion": "4"})).items
    assert chat.ids.tolist() == documents(write(record)).items[0].ids.tolist()


def test_all_of_a_text_is_learnt(write, documents):
    [document] = documents(write({"text": "one two three"})).items
    assert document.response.all()


def test_there_is_always_an_eos_and_it_is_learnt(documents, write, tiny_tokenizer):
    """Also when the last token ends a block: then the EOS run is a block of its own."""
    answers = ["5" * n for n in range(1, 2 * BLOCK)]
    items = documents(write(*({"prompt": "?", "completion": a} for a in answers))).items
    for answer, document in zip(answers, items, strict=True):
        learnt = document.ids[document.response]
        assert learnt[: len(answer)].tolist() == tiny_tokenizer(answer)["input_ids"]
        tail = learnt[len(answer) :]
        assert (tail == EOS).all() and 1 <= len(tail) <= BLOCK
        assert document.response[-1]


def test_a_long_example_loses_its_end(write, documents):
    found = documents(write({"prompt": "?", "completion": "5" * 300}), max_length=64)
    [document] = found.items
    assert found.truncated == 1
    assert len(document.ids) == 64 and EOS not in document.ids


def test_an_example_without_room_for_its_eos_counts_as_cut_off(write, documents):
    tokens = 64
    fits, full = ({"text": "5" * n} for n in (tokens - 1, tokens))
    found = documents(write(fits, full), max_length=tokens)
    assert [document.ids.tolist().count(EOS) for document in found.items] == [1, 0]
    assert found.truncated == 1


def test_text_that_spells_the_mask_is_plain_text(write, documents, tiny_tokenizer):
    """As in a prompt: `<|mask|>` is read as the characters that it consists of."""
    from fastedit.prompts.inputs import as_ids

    text = "a <|mask|> b"
    [document] = documents(write({"text": text})).items
    ids = as_ids(text, tiny_tokenizer, MASK)
    assert document.ids[: len(ids)].tolist() == ids.tolist() and MASK not in document.ids
    [pair] = documents(write({"prompt": text, "completion": text})).items
    read, learnt = texts(pair, tiny_tokenizer)
    assert text in read and text in learnt and MASK not in pair.ids


def test_messages_go_before_a_pair_and_a_pair_before_a_text(write, documents, tiny_tokenizer):
    def learnt(record, **options):
        [document] = documents(write(record), **options).items
        return texts(document, tiny_tokenizer)[1].replace(tiny_tokenizer.eos_token, "")

    pair = {"prompt": "5?", "completion": "8"}
    chat = {"messages": CHAT[:2], "text": "9"}
    assert learnt({**chat, **pair}) == learnt(chat) == "4<|role_end|>"
    assert learnt({**pair, "text": "9"}) == "8"
    assert learnt({"text": "9", "prompt": "5?"}, completion_field="text") == "9"
    assert (
        learnt({"text": "5?", "answer": "8"}, prompt_field="text", completion_field="answer") == "8"
    )
    names = {"prompt_field": "messages", "completion_field": "answer"}
    assert learnt({"messages": CHAT[:3], "answer": "8"}, **names) == "8"


USER, SAID = CHAT[:1], [{"role": "assistant", "content": "4"}]


@pytest.mark.parametrize(
    ("flag", "read"),
    [({"weight": 0}, 1), ({"train": False}, 1), ({"loss": 0.0}, 1), ({"weight": 1}, 2)],
)
def test_turns_that_are_not_learnt_are_read(write, documents, tiny_tokenizer, flag, read):
    marked = [CHAT[0], CHAT[1] | flag, CHAT[2] | {"weight": 0}, CHAT[3] | {"train": True}]
    [plain], [document] = (documents(write({"messages": m})).items for m in (CHAT, marked))
    assert document.ids.tolist() == plain.ids.tolist()
    learnt = texts(document, tiny_tokenizer)[1].replace(tiny_tokenizer.eos_token, "")
    assert learnt == "4<|role_end|>7<|role_end|>"[-13 * read :]


@pytest.mark.parametrize(
    ("record", "words"),
    [
        ({"messages": [*USER, SAID[0] | {"weight": 0.5}]}, "message 1: `weight` = 0.5 cannot be"),
        ({"messages": [*USER, SAID[0] | {"train": "no"}]}, "message 1: `train` = 'no' cannot be"),
        ({"messages": [*USER, SAID[0] | {"weight": 0, "train": True}]}, "say different things"),
        (
            {"messages": [USER[0] | {"train": True}, *SAID]},
            "message 0: only turns of the assistant",
        ),
        ({"messages": [*USER, SAID[0] | {"weight": 0}]}, "no assistant turn to learn"),
        ({"messages": [*USER, SAID[0] | {"mask": 1}]}, "leaves out `mask` of message 1"),
        ({"messages": CHAT, "weight": 0}, "`weight` = 0: a line counts once"),
        ({"messages": CHAT, "tools": [{"name": "f"}]}, "no place for `tools`"),
        ({"messages": CHAT, "functions": [{"name": "f"}]}, "`functions` would be left unread"),
        ({"messages": [*USER, SAID[0] | {"reasoning_content": "2"}]}, "leaves out `reasoning_cont"),
        ({"messages": [*USER, {**SAID[0], "tool_calls": [{"name": "f"}]}]}, "out `tool_calls`"),
        ({"messages": [*USER, {**SAID[0], "name": "Bob"}]}, "leaves out `name`"),
        ({"messages": [*USER, {"role": "assistant", "content": None}]}, "needs `content`"),
        ({"messages": CHAT, "images": ["a.png"]}, "`images` would be left unread: .*text only"),
        ({"prompt": "a", "completion": "b", "input": "c"}, "`input` would be left unread: join"),
        ({"prompt": "a", "completion": "b", "context": "c"}, "`context` would be left unread"),
        ({"prompt": CHAT[:2], "completion": "b"}, "ends in a turn of the assistant"),
        ({"prompt": "a", "chosen": "b", "rejected": "c"}, "needs one of"),
        ({"instruction": "a", "output": "b"}, "needs one of"),
        ({"text": "a", "system": "b"}, "`system` would be left unread"),
        ({"text": "a", "prompt": "b"}, "`prompt` would be left unread"),
        ({"text": "a", "rubric": 3}, "`rubric` would be left unread: .*ignore_fields"),
        (
            {"messages": [{"role": "system", "content": "a"}, *CHAT], "system": "b"},
            "beside a first",
        ),
        ({"conversations": [{"from": "human", "value": [1]}]}, "part 0 is of type 'int'"),
        ({"conversations": CHAT, "messages": CHAT}, "has both"),
        ({"text": "a", "text_": 1}, "`text_` would be left unread"),
    ],
)
def test_keys_that_change_the_meaning_are_refused(write, documents, record, words):
    with pytest.raises(DataError, match=f":1: .*{words}"):
        documents(write(record))


def test_keys_that_are_honoured_or_say_nothing(write, documents, tiny_tokenizer):
    def ids(record, **options):
        return documents(write(record), **options).items[0].ids.tolist()

    system = [{"role": "system", "content": "Be brief."}]
    plain = ids({"messages": CHAT})
    speakers = {"user": "human", "assistant": "gpt"}
    shared = [{"from": speakers[m["role"]], "value": m["content"]} for m in CHAT]
    assert ids({"conversations": shared}) == plain
    notes = {"id": 1, "source": "x", "metadata": {"a": 1}, "tools": [], "input": "", "weight": 1}
    assert ids({"messages": CHAT, **notes}) == plain
    parts = [{**m, "content": [{"type": "text", "text": m["content"]}]} for m in CHAT]
    assert ids({"messages": parts}) == plain
    assert ids({"messages": CHAT, "rubric": 3}, ignore_fields=["rubric"]) == plain
    with_system = ids({"messages": [*system, *CHAT]})
    assert ids({"messages": CHAT, "system": "Be brief."}) == with_system != plain
    pair = {"prompt": "2 + 2 =", "completion": "4"}
    chat = {"prompt": [*system, *USER], "completion": "4"}
    assert ids(pair | {"system": "Be brief."}) == ids(chat)


def test_null_keys_are_not_there(write, documents):
    """As exports of tables have them, where lines of several forms are in one file."""

    def ids(record):
        return documents(write(record)).items[0].ids.tolist()

    names = ("messages", "conversations", "prompt", "completion", "text", "system", "tools")
    nulls = dict.fromkeys((*names, "weight", "chat_template_kwargs", "add_generation_prompt"))
    for record in (
        {"messages": CHAT},
        {"conversations": CHAT},
        {"prompt": "q", "completion": "a"},
        {"text": "t"},
    ):
        assert ids(nulls | record) == ids(record)
    with pytest.raises(DataError, match=":1: needs one of"):
        documents(write(nulls))


def test_no_generation_prompt_behind_a_chat_that_is_learnt(write, documents):
    plain = documents(write({"messages": CHAT})).items[0].ids.tolist()
    for value in (False, True):
        record = {"messages": CHAT, "add_generation_prompt": value}
        assert documents(write(record)).items[0].ids.tolist() == plain


def test_reasoning_that_the_template_cuts_off_is_refused(write, documents, tiny_tokenizer):
    template = tiny_tokenizer.chat_template
    cuts = template.replace("message.content", "message.content.split('</think>')[-1]")
    cuts = cuts.replace("message['content']", "message['content'].split('</think>')[-1]")
    assert cuts != template
    answer = {"role": "assistant", "content": "<think>r</think>4"}
    try:
        tiny_tokenizer.chat_template = cuts
        with pytest.raises(DataError, match="leaves out a part of message 1"):
            documents(write({"messages": [*USER, answer]}))
        [pair] = documents(write({"prompt": USER, "completion": answer["content"]})).items
    finally:
        tiny_tokenizer.chat_template = template
    assert "<think>r</think>4" in texts(pair, tiny_tokenizer)[1]


def test_an_answer_by_an_unknown_speaker_is_refused(write, documents):
    turns = [{"from": name, "value": "a"} for name in ("human", "gpt", "human", "chatgpt")]
    with pytest.raises(DataError, match="message 3: role 'chatgpt' is unknown"):
        documents(write({"conversations": turns}))


def test_a_completion_may_be_messages(write, documents, tiny_tokenizer):
    """Of a prompt that is messages too; its own turns of the assistant are only read."""
    [document] = documents(write({"prompt": CHAT[:3], "completion": CHAT[3:]})).items
    assert document.ids.tolist() == documents(write({"messages": CHAT})).items[0].ids.tolist()
    learnt = texts(document, tiny_tokenizer)[1].replace(tiny_tokenizer.eos_token, "")
    assert learnt == "7<|role_end|>"
    with pytest.raises(DataError, match="so must its prompt be"):
        documents(write({"prompt": "2 + 2 =", "completion": SAID}))


def test_tools_and_variables_reach_the_template_of_training(write, documents, tiny_tokenizer):
    template = tiny_tokenizer.chat_template
    extra = "{% if tools %}{{ tools[0].name }}{% endif %}{{ mood or '' }}"
    record = {"messages": CHAT, "tools": [{"name": "weather"}]}
    record |= {"chat_template_kwargs": {"mood": "calm"}}
    try:
        tiny_tokenizer.chat_template = extra + template
        [document] = documents(write(record)).items
    finally:
        tiny_tokenizer.chat_template = template
    read = texts(document, tiny_tokenizer)[0]
    assert read.startswith("weathercalm<role>HUMAN") and read.count("weather") == 1


def test_max_length_must_be_whole_blocks(write, documents):
    with pytest.raises(ValueError, match=r"max_length=100 must be a multiple .* 32, such as 96"):
        documents(write({"text": "a"}), max_length=100)


def test_the_fingerprint_sees_every_token(write, documents):
    one = documents(write({"text": "1 + 1"}, {"text": "2"}))
    same = documents(write({"text": "1 + 1"}, {"text": "2"}, name="other.jsonl"))
    other = documents(write({"text": "1 + 1"}, {"text": "3"}))
    assert one.fingerprint() == same.fingerprint() != other.fingerprint()
    flipped = one.items[1]._replace(response=np.zeros_like(one.items[1].response))
    assert one._replace(items=[one.items[0], flipped]).fingerprint() != one.fingerprint()


def test_what_a_checkpoint_must_have(tiny_model, tiny_tokenizer):
    assert Form.of(tiny_model, tiny_tokenizer, None) == Form(BLOCK, 1024, EOS, MASK)
    with pytest.raises(ValueError, match="tiny has no tokenizer, without which"):
        Form.of(tiny_model, None, None)
    with pytest.raises(ValueError, match="this checkpoint has no block_size in its config"):
        Form.of(object(), tiny_tokenizer, None)
    with pytest.raises(ValueError, match="max_length=1056 is beyond the model's 1024 positions"):
        Form.of(tiny_model, tiny_tokenizer, 1056)
