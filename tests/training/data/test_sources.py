"""Files and tasks that examples come from."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import pytest
from documents import CHAT, texts

from fastedit.files.jsonl import BadLines, DataError
from fastedit.training.data.texts import read_examples


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
