"""`fastedit generate --input`: checked first, written as it finishes, resumed where it stopped."""

from __future__ import annotations

import itertools
import os
import signal

import pytest
from batch_files import LENGTH, alone, in_order, requests

from fastedit import Decoder
from fastedit.files.locks import locked


def test_results_are_those_of_each_request_alone(decode, results, decoder):
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "é\u2028"}]
    lines = [
        {"prompt": "one", "id": "first", "seed": 1},
        {"messages": messages, "seed": 2, "continue_final_message": True},
        {"prompt": "two", "mode": "speed", "gen_length": 24, "seed": 3},
        {"prompt": "three", "edit_threshold": None, "id": 4, "seed": 4},
    ]
    assert decode(lines)[0] == 0
    by_index = {record["index"]: record for record in results()}
    assert len({record.pop("made_from") for record in by_index.values()}) == len(lines)
    options = (
        {},
        {"continue_final_message": True},
        {"mode": "speed", "max_new_tokens": 24},
        {"editing_threshold": None},
    )
    for index, (line, own) in enumerate(zip(lines, options, strict=True)):
        prompt = line.get("prompt", messages)
        text, stats = alone(decoder, prompt, seed=index + 1, **own)
        assert by_index[index] == {
            "index": index, "id": line.get("id"), "text": text, "stats": stats,
        }  # fmt: skip


def test_raw_switches_the_chat_template_off(decode, results, decoder):
    decode([{"prompt": "hello"}], "--raw")
    assert results()[0]["text"] == decoder.generate(["hello"], max_new_tokens=LENGTH).texts[0]


def test_lines_share_a_run_whatever_their_own_settings(decode, results, monkeypatch):
    calls, as_completed = [], Decoder.as_completed
    monkeypatch.setattr(
        Decoder,
        "as_completed",
        lambda self, prompts, **o: calls.append(1) or as_completed(self, prompts, **o),
    )
    lines = requests(10)
    for line in lines[::2]:
        line |= {"mode": "speed", "seed": 5}
    lines[3]["use_cache"] = False  # a forward is with a cache or without
    lines[4]["block_length"] = 8
    assert decode(lines)[0] == 0
    assert calls == [1] and len(results()) == 10


def test_lines_are_read_as_they_are_decoded(decode, results, monkeypatch):
    """Of a long file no more is held than what decodes or waits."""
    from fastedit.cli import batch

    read, most, left = 0, 0, batch._left

    def counted(rows, done):
        nonlocal read
        read = 0
        for row in left(rows, done):
            read += 1
            yield row

    written = batch.write_line

    def watched(file, record):
        nonlocal most
        written(file, record)
        watched.count += 1
        most = max(most, read - watched.count)

    watched.count = 0
    monkeypatch.setattr(batch, "_left", counted)
    monkeypatch.setattr(batch, "write_line", watched)
    count = 200
    assert decode([r | {"max_new_tokens": 1} for r in requests(count)])[0] == 0
    assert sorted(record["index"] for record in results()) == list(range(count))
    assert 0 < most <= 3 * 32 < count


def test_a_long_line_holds_up_no_other(decode, results):
    lines = requests(40)  # more than decode at once
    lines[0]["max_new_tokens"] = 10 * LENGTH
    assert decode(lines)[0] == 0
    order = [record["index"] for record in results()]
    assert sorted(order) == list(range(40)) and order[-1] == 0


def test_a_killed_run_goes_on_where_it_stopped(decode, results, tmp_path):
    decode(requests(6))
    complete, output = in_order(results()), tmp_path / "g.jsonl"
    head = b"".join(output.read_bytes().splitlines(keepends=True)[:3])
    for torn in (b'{"ind', b'{"index": 3, "id": "r3", "te', b'{"index": 3, "\xc3'):
        output.write_bytes(head + torn)
        code, err = decode(requests(6))
        assert code == 0
        assert "3 results written" in err and "3 were there already" in err
        assert output.read_bytes().startswith(head)
        assert [r["text"] for r in in_order(results())] == [r["text"] for r in complete]


def test_a_finished_run_does_nothing(decode, tmp_path, monkeypatch):
    decode(requests(3))
    before = (tmp_path / "g.jsonl").read_bytes()
    monkeypatch.delattr(Decoder, "from_pretrained")  # not even loaded
    code, err = decode(requests(3))
    assert code == 0 and "nothing to do" in err
    assert (tmp_path / "g.jsonl").read_bytes() == before


@pytest.mark.parametrize("begun", [False, True])
def test_a_second_run_on_an_output_is_refused_at_once(decode, tmp_path, monkeypatch, begun):
    if begun:
        decode(requests(2))
    before = {path.name: path.read_bytes() for path in tmp_path.glob("g*")}
    with monkeypatch.context() as patch, locked(tmp_path / "g.jsonl"):
        patch.delattr(Decoder, "from_pretrained")  # not even loaded
        code, err = decode(requests(2))
    assert code == 2 and err.count("\n") == 1
    assert f"g.jsonl is in use by another run (pid {os.getpid()} on " in err
    assert {path.name: path.read_bytes() for path in tmp_path.glob("g*")} == before
    assert decode(requests(2))[0] == 0
    assert not (tmp_path / "g.jsonl.lock").exists()


def test_interrupt_says_what_is_saved_and_loses_nothing(decode, results, monkeypatch):
    as_completed = Decoder.as_completed

    def interrupted(self, prompts, **options):
        yield from itertools.islice(as_completed(self, prompts, **options), 2)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Decoder, "as_completed", interrupted)
        code, err = decode(requests(5))
    assert code == 130
    assert "interrupted: 2 of 5 results are in" in err
    before = results()
    assert len(before) == 2
    assert decode(requests(5))[0] == 0
    assert results()[:2] == before
    assert [record["index"] for record in in_order(results())] == [0, 1, 2, 3, 4]


def test_interrupt_within_a_batch_keeps_what_had_ended(decode, results, monkeypatch):
    from fastedit.request.request import Request

    commit = Request.commit

    def interrupted(self, block):
        commit(self, block)
        if self.finished and not interrupted.done:
            interrupted.done = True
            signal.raise_signal(signal.SIGINT)

    interrupted.done = False
    monkeypatch.setattr(Request, "commit", interrupted)
    rows = requests(3)
    rows[1] |= {"max_new_tokens": 1}
    code, err = decode(rows)
    assert code == 130 and "interrupted: 1 of 3 results are in" in err
    assert [record["index"] for record in results()] == [1]
    assert decode(rows)[0] == 0
    assert sorted(record["index"] for record in results()) == [0, 1, 2]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", "is not JSON"),
        ("[1]", "must be a JSON object, not list"),
        ({"id": 1}, "needs one of `prompt` and `messages`"),
        ({"prompt": "a", "messages": []}, "needs one of `prompt` and `messages`"),
        ({"prompt": 3}, "`prompt` must be a text; got int"),
        ({"messages": ["hi"]}, "`messages` must be a list of objects"),
        ({"prompt": "a", "threshhold": 0.5}, "unknown decoding option 'threshhold'"),
        ({"prompt": "a", "threshold": -1}, "threshold must be a number from 0 to 1"),
        ({"prompt": "a", "gen_length": 4, "max_new_tokens": 5}, "are the same option"),
        ({"prompt": "a", "seed": [1, 2]}, "`seed` must be one integer"),
        ({"prompt": "x" * 600}, "the model has 512"),
        ({"messages": [{"role": "user"}]}, "message 0 needs `content`"),
        ({"prompt": "a", "mask_id": 10**6}, "outside the model's vocabulary"),
        ('{"prompt": "\\ud800"}', "is not valid UTF-8"),
    ],
)
def test_a_bad_line_is_reported_before_any_model_call(decode, tmp_path, line, words):
    code, err = decode([{"prompt": "fine"}, "", line])
    assert code == 2
    assert "f.jsonl:3: " in err and words in err and err.count("\n") == 1
    assert "prompt 0" not in err  # a line has its number and is no prompt of a list
    assert not (tmp_path / "g.jsonl").exists()


def test_bad_lines_are_skipped_with_a_record(decode, results, tmp_path):
    lines = [{"prompt": "one"}, "", "{", {"prompt": "two", "threshhold": 1, "id": "t"}]
    lines += [{"prompt": "x" * 600}, {"prompt": "three", "id": "last"}]
    code, err = decode(lines, "--on-bad-line", "skip")
    assert code == 1 and "skipped 3 bad lines" in err and "3 of them failed" in err
    found = in_order(results())
    assert [record["index"] for record in found] == [0, 1, 2, 3, 4]
    assert [record["id"] for record in found] == [None, None, "t", None, "last"]
    reasons = ("is not JSON", "threshhold", "512")
    for record, line, words in zip(found[1:4], (3, 4, 5), reasons, strict=True):
        assert f"f.jsonl:{line}: " in record["error"] and words in record["error"]
        assert record["line"] == line and "text" not in record and record["made_from"]
    assert "text" in found[0] and "text" in found[4]
    before = (tmp_path / "g.jsonl").read_bytes()
    code, err = decode(lines, "--on-bad-line", "skip")
    assert code == 1 and "nothing to do" in err and "3 of them errors" in err
    assert (tmp_path / "g.jsonl").read_bytes() == before


def test_a_line_that_was_mended_is_decoded_and_counts(decode, results, tmp_path):
    lines = [{"prompt": "one"}, {"prompt": "two", "threshhold": 1}]
    assert decode(lines, "--on-bad-line", "skip")[0] == 1
    lines[1] = {"prompt": "two", "threshold": 0.9}
    for said in ("1 results written", "nothing to do"):
        code, err = decode(lines, "--on-bad-line", "skip")
        assert code == 0 and said in err
    found = [(record["index"], "error" in record) for record in results()]
    assert sorted(found[:2]) == [(0, False), (1, True)] and found[2:] == [(1, False)]


def test_other_kept_columns_are_other_options(decode):
    lines = [{"prompt": "one", "rank": 3, "topic": "sums"}]
    assert decode(lines, "--keep", "rank")[0] == 0
    code, err = decode(lines, "--keep", "rank,topic")
    assert code == 2 and "other options" in err


def test_only_bad_lines_need_no_model(decode, results, monkeypatch):
    monkeypatch.delattr(Decoder, "from_pretrained")
    assert decode(["{", "[]"], "--on-bad-line", "skip")[0] == 1
    assert [record["index"] for record in results()] == [0, 1]
