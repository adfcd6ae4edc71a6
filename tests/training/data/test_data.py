"""Lines and problems into documents, rows and batches."""

from __future__ import annotations

import gzip
import itertools
import json
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fastedit.files.jsonl import BadLines, DataError
from fastedit.training.data.collator import Collator
from fastedit.training.data.documents import Form, tokenise
from fastedit.training.data.order import RunOrder, Turn
from fastedit.training.data.packing import pack
from fastedit.training.data.texts import read_examples

EOS, MASK, BLOCK = 0, 1, 32
CHAT = [
    {"role": "user", "content": "2 + 2 ="},
    {"role": "assistant", "content": "4"},
    {"role": "user", "content": "and 3?"},
    {"role": "assistant", "content": "7"},
]


@pytest.fixture
def write(tmp_path):
    def write_lines(*records, name="data.jsonl"):
        path = tmp_path / name
        lines = [r if isinstance(r, bytes) else json.dumps(r).encode() for r in records]
        path.write_bytes(b"\n".join(lines) + b"\n")
        return str(path)

    return write_lines


@pytest.fixture
def documents(tiny_tokenizer):
    def build(*sources, policy="stop", max_length=128, **options):
        bad = BadLines(policy)
        examples = read_examples(sources, tiny_tokenizer, bad, **options)
        return tokenise(examples, tiny_tokenizer, bad, Form(BLOCK, max_length, EOS, MASK))

    return build


def texts(document, tokenizer):
    """What is read and what is learnt, special tokens included."""
    ids = torch.from_numpy(document.ids)
    response = torch.from_numpy(document.response)
    return tokenizer.decode(ids[~response]), tokenizer.decode(ids[response])


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


def test_files_are_read_as_requests_are(write, documents, tmp_path):
    """The one parser for both: gzip, BOM, paths, and other files by name."""
    path = Path(write({"text": "one"}, {"text": "two"}))
    packed = tmp_path / "data.jsonl.gz"
    packed.write_bytes(gzip.compress(b"\xef\xbb\xbf" + path.read_bytes()))
    assert documents(packed).fingerprint() == documents(path).fingerprint()
    (tmp_path / "array.json").write_text('[{"text": "one"}]')
    with pytest.raises(DataError, match=r"array\.json is a JSON array"):
        documents(tmp_path / "array.json")
    (tmp_path / "wide.jsonl").write_bytes('{"text": "one"}'.encode("utf-16"))
    with pytest.raises(DataError, match="is UTF-16 text"):
        documents(tmp_path / "wide.jsonl")


def test_a_pipe_is_read_whole(documents):
    from fastedit.training.data.texts import check_sources

    lines = b"".join(b'{"text": "%d"}\n' % n for n in range(100))
    reads, writes = os.pipe()
    os.write(writes, lines)
    os.close(writes)
    try:
        check_sources([f"/dev/fd/{reads}"])
        assert len(documents(f"/dev/fd/{reads}").items) == 100
    finally:
        os.close(reads)


def test_findings_name_their_own_source(write, tiny_tokenizer):
    pytest.importorskip("reasoning_gym")
    from fastedit.training.data.texts import held_out_examples

    first = write({"text": "a"}, {"text": "b"}, {"text": "c"})
    second = write(b"", {"text": "d"}, name="second.jsonl")
    task = "task:chain_sum,examples=2"
    examples = list(read_examples([first, task, second], tiny_tokenizer, BadLines()))
    expected = [f"{first}:{n}" for n in (1, 2, 3)] + [f"{task}:1", f"{task}:2", f"{second}:2"]
    assert [example.where for example in examples] == expected
    [held_out] = held_out_examples(task, tiny_tokenizer, 1)
    assert held_out.where == f"{task}:1, held out"


@pytest.mark.parametrize("raw", [False, True])
def test_questions_of_a_task_stand_bare_where_the_run_or_the_source_says_so(tiny_tokenizer, raw):
    pytest.importorskip("reasoning_gym")
    from fastedit.training.data.texts import held_out_examples

    task = "task:chain_sum,examples=1"
    for source, bare in ((task, raw), (f"{task},raw=true", True), (f"{task},raw=false", False)):
        read = list(read_examples([source], tiny_tokenizer, BadLines(), raw=raw))
        for example in read + held_out_examples(source, tiny_tokenizer, 1, raw=raw):
            assert example.parts[0].text.startswith("State" if bare else "<role>HUMAN</role>State")


def test_bad_lines_are_named(write, documents, tiny_tokenizer):
    good = {"prompt": "1 + 1 =", "completion": "2"}
    bad = [
        (b'{"prompt": "x"', "is not JSON"),
        (b'{"text": "\xff"}', "not valid UTF-8"),
        (b'{"text": "\\ud800"}', "lone surrogate"),
        ([1], "must be a JSON object, not list"),
        ({"prompt": "x"}, "needs one of"),
        ({"text": "x", "completion": "y"}, "no `prompt`"),
        ({"completion": "y"}, "no `prompt`"),
        ({"text": ""}, "not empty"),
        ({"messages": []}, "must be a list of objects"),
        ({"messages": [{"role": "user"}]}, "`role` and `content`"),
        ({"messages": CHAT[:1]}, "no assistant turn"),
        ({"messages": [{"role": "pope", "content": "x"}, CHAT[1]]}, "chat template fails"),
        ({"prompt": "5" * 300, "completion": "y"}, "raise --max-length"),
    ]
    path = write(good, b"", *(record for record, _ in bad), good)
    with pytest.raises(DataError) as error:
        documents(path)
    shown = str(error.value).splitlines()
    assert shown[0].startswith(f"{path}:3: is not JSON") and "skip" in shown[-1]
    with pytest.warns(UserWarning, match=f"skipped {len(bad)} bad lines"):
        kept = documents(path, policy="skip").items
    assert [document.example for document in kept] == [0, len(bad) + 2]
    for record, reason in bad:
        with pytest.raises(DataError, match=f":2: .*{reason}"):
            documents(write(good, record))


def test_indexes_run_on_over_sources(write, documents):
    pytest.importorskip("reasoning_gym")
    first = write({"text": "a"}, {"text": "b"})
    items = documents(first, "task:chain_sum,examples=3,seed=2", first).items
    assert [document.example for document in items] == [0, 1, 3, 4, 5, 6, 7]
    [other] = documents("task:chain_sum,examples=1,seed=3").items
    assert other.ids.tolist() != items[2].ids.tolist()


def test_tasks_train_on_what_is_not_held_out(documents, tiny_tokenizer):
    pytest.importorskip("reasoning_gym")
    from fastedit.tasks import get_task, is_held_out
    from fastedit.training.data.texts import held_out_examples

    held_out = held_out_examples("task:chain_sum,min_terms=4", tiny_tokenizer, 5)
    task = get_task("chain_sum", min_terms=4)
    for problem, example in zip(task.test_set(5), held_out, strict=True):
        assert problem.question in example.parts[0].text and is_held_out(problem.question)
        assert example.parts[1].text == problem.solution
    items = documents("task:chain_sum,examples=40,max_terms=2,max_digits=1").items
    asked = [texts(document, tiny_tokenizer)[0] for document in items]
    questions = [text.removeprefix("<role>HUMAN</role>").partition("<|")[0] for text in asked]
    assert len(questions) == 40 and not any(map(is_held_out, questions))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("task:nothing", "unknown task 'nothing'; known"),
        ("task:chain_sum,examples=0", "examples must be an integer of at least 1"),
        ("task:chain_sum,examples", "'examples' must be option=number"),
        ("task:chain_sum,raw=3", "raw must be true or false"),
        ("task:chain_sum,colour=3", "colour"),
    ],
)
def test_a_bad_task_is_explained(documents, source, message):
    pytest.importorskip("reasoning_gym")
    with pytest.raises(ValueError, match=message):
        documents(source)


def test_max_length_must_be_whole_blocks(write, documents):
    with pytest.raises(ValueError, match=r"max_length=100 must be a multiple .* 32, such as 96"):
        documents(write({"text": "a"}), max_length=100)


@given(
    st.lists(st.integers(1, 8), max_size=40),
    st.integers(8, 20),
)
def test_packing_loses_nothing_and_fits(lengths, row_length):
    rows = pack(lengths, row_length)
    assert sorted(number for row in rows for number in row) == list(range(len(lengths)))
    used = [sum(lengths[number] for number in row) for row in rows]
    assert all(0 < total <= row_length for total in used)
    # No two rows could be one: each was opened when no other had the room.
    assert all(a + b > row_length for a, b in itertools.combinations(used, 2))
    assert pack(lengths, row_length, together=False) == [[n] for n in range(len(lengths))]


def test_a_batch_keeps_documents_apart(write, documents):
    items = documents(write(*({"text": "7" * n} for n in (40, 20, 90)))).items
    collate = Collator(items, examples=3, eos_token_id=EOS, block_size=BLOCK)
    batch = collate([Turn([0, 1], 3), Turn([2], 3), Turn([], 3)])
    assert batch["epoch"] == 3
    again = collate([Turn([0, 1], 3, repeat=2), Turn([2], 3)])
    assert again["example"].tolist() == [[6] * 64 + [7] * 32, [2] * 96]
    assert batch["input_ids"].shape == (3, 96)
    assert batch["example"].tolist() == [[0] * 64 + [1] * 32, [2] * 96, [-1] * 96]
    positions = [*range(64), *range(32)]
    assert batch["positions"].tolist() == [positions, [*range(96)], [0] * 96]
    assert batch["input_ids"][0, 64:].tolist() == items[1].ids.tolist()
    assert not batch["response"][2].any() and (batch["input_ids"][2] == EOS).all()


@given(st.integers(1, 12), st.integers(1, 5), st.integers(1, 9), st.integers(0, 3))
def test_the_order_of_a_run(rows, batch, steps, seed):
    """Each epoch reads every row, batches are of one epoch, and places decide alone."""
    order = RunOrder([[n] for n in range(rows)], batch_size=batch, steps=steps, seed=seed)
    turns = [order[place] for place in range(len(order))]
    assert len(turns) == batch * steps
    per_epoch = -(-rows // batch) * batch
    for start in range(0, len(turns), batch):
        assert len({turn.epoch for turn in turns[start : start + batch]}) == 1
    for epoch in range(len(turns) // per_epoch):
        read = turns[epoch * per_epoch : (epoch + 1) * per_epoch]
        assert sorted({turn.documents[0] for turn in read}) == list(range(rows))
        assert {turn.epoch for turn in read} == {epoch}
    times = Counter((turn.epoch, turn.documents[0], turn.repeat) for turn in turns)
    assert set(times.values()) == {1}  # a key of its own for the noise of each
    again = RunOrder(order.rows, batch_size=batch, steps=steps, seed=seed)
    assert [again[place] for place in reversed(range(len(again)))] == turns[::-1]


def test_epochs_and_seeds_shuffle_differently():
    def epoch(seed, number):
        order = RunOrder([[n] for n in range(50)], batch_size=50, steps=3, seed=seed)
        return [order[50 * number + place].documents[0] for place in range(50)]

    orders = [epoch(0, 0), epoch(0, 1), epoch(1, 0), list(range(50))]
    assert len(set(map(tuple, orders))) == 4


def test_the_fingerprint_sees_every_token(write, documents):
    one = documents(write({"text": "1 + 1"}, {"text": "2"}))
    same = documents(write({"text": "1 + 1"}, {"text": "2"}, name="other.jsonl"))
    other = documents(write({"text": "1 + 1"}, {"text": "3"}))
    assert one.fingerprint() == same.fingerprint() != other.fingerprint()
    flipped = one.items[1]._replace(response=np.zeros_like(one.items[1].response))
    assert one._replace(items=[one.items[0], flipped]).fingerprint() != one.fingerprint()


def test_more_epochs_than_noise_has_keys_for_are_refused():
    with pytest.raises(ValueError, match="fewer steps or more data"):
        RunOrder([[0]], batch_size=1, steps=2**16, seed=0)


def test_what_a_checkpoint_must_have(tiny_model, tiny_tokenizer):
    assert Form.of(tiny_model, tiny_tokenizer, None) == Form(BLOCK, 1024, EOS, MASK)
    with pytest.raises(ValueError, match="tiny has no tokenizer, without which"):
        Form.of(tiny_model, None, None)
    with pytest.raises(ValueError, match="this checkpoint has no block_size in its config"):
        Form.of(object(), tiny_tokenizer, None)
    with pytest.raises(ValueError, match="max_length=1056 is beyond the model's 1024 positions"):
        Form.of(tiny_model, tiny_tokenizer, 1056)
