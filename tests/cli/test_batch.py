"""`fastedit generate --input`: checked first, written as it finishes, resumed where it stopped."""

from __future__ import annotations

import gzip
import io
import itertools
import json
import os
import shutil
import signal
from pathlib import Path

import pytest
import torch

from fastedit import Decoder
from fastedit.files.locks import locked

LENGTH = 16


@pytest.fixture
def decode(run, checkpoint, tmp_path):
    """Writes the input lines, runs the command: (exit code, stderr); files are f and g.jsonl."""

    def decode(lines, *arguments):
        text = "".join((x if isinstance(x, str) else json.dumps(x)) + "\n" for x in lines)
        (tmp_path / "f.jsonl").write_text(text, encoding="utf-8")
        code, out, err = run(
            "generate", "--checkpoint", checkpoint, "--max-new-tokens", LENGTH,
            "--input", tmp_path / "f.jsonl", "--output", tmp_path / "g.jsonl", *arguments,
        )  # fmt: skip
        assert out == ""
        return code, err

    return decode


@pytest.fixture
def results(tmp_path):
    def read():
        lines = (tmp_path / "g.jsonl").read_text(encoding="utf-8").split("\n")
        assert lines.pop() == ""
        return [json.loads(line) for line in lines]

    return read


def requests(count: int) -> list[dict]:
    return [{"prompt": f"number {i}", "id": f"r{i}"} for i in range(count)]


def in_order(records: list[dict]) -> list[dict]:
    return sorted(records, key=lambda record: record["index"])


def alone(decoder, prompt, **options):
    chat = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    out = decoder.generate([chat], **{"max_new_tokens": LENGTH, **options})
    return out.texts[0], out.stats[0].as_dict()


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
    from fastedit.engine.request import Request

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


def batch_line(name="a", **body):
    chat = {"messages": [{"role": "user", "content": "one"}]}
    url = "/v1/chat/completions"
    return {"custom_id": name, "method": "POST", "url": url, "body": {"model": "x", **chat, **body}}


def test_batch_lines_of_openai_are_requests(decode, results, decoder):
    neutral = {"n": 1, "stream": False, "top_p": None, "user": "u", "frequency_penalty": 0}
    lines = [
        batch_line("first", max_tokens=4, seed=1, **neutral),
        batch_line("second", max_completion_tokens=8, temperature=0, stop=["z"], seed=2),
    ]
    assert decode(lines)[0] == 0
    for record, options in zip(
        in_order(results()),
        ({"max_new_tokens": 4, "seed": 1}, {"max_new_tokens": 8, "stop": ["z"], "seed": 2}),
        strict=True,
    ):
        assert (record["text"], record["stats"]) == alone(decoder, "one", **options)
    assert [record["id"] for record in in_order(results())] == ["first", "second"]


def test_a_custom_id_is_an_id(decode, results):
    assert decode([{"prompt": "a", "custom_id": "c"}, batch_line("d", max_tokens=1)])[0] == 0
    assert [record["id"] for record in in_order(results())] == ["c", "d"]


def test_null_prompts_are_not_there(decode, results):
    """As exports of tables have them, where lines of several forms are in one file."""
    chat = [{"role": "user", "content": "one"}]
    nulls = dict.fromkeys(("prompt", "messages", "conversations", "system", "tools"))
    lines = [nulls | {"prompt": "one"}, nulls | {"messages": chat}, {"conversations": chat}]
    assert decode(lines, "--max-new-tokens", "1")[0] == 0
    assert len({record["text"] for record in results()}) == 1 and len(results()) == 3
    code, err = decode([nulls])
    assert code == 2 and "needs one of `prompt` and `messages`" in err


def test_null_columns_beside_the_prompt_field(decode, results):
    line = {"q": "one", "prompt": None, "messages": None}
    assert decode([line], "--prompt-field", "q", "--max-new-tokens", "1")[0] == 0
    code, err = decode([{"q": None}], "--prompt-field", "q")
    assert code == 2 and "has no `q`" in err


def test_a_body_that_is_a_column_makes_no_batch_line(decode, results):
    line = {"prompt": "one", "body": "a letter", "url": "https://a.b", "max_new_tokens": 1}
    assert decode([line], "--keep", "body")[0] == 0
    assert results()[0]["body"] == "a letter"


def test_an_unknown_option_names_its_neighbours(decode):
    err = decode([{"prompt": "a", "threshhold": 0.5}])[1]
    assert "unknown decoding option 'threshhold'; did you mean threshold" in err
    assert "max_new_tokens" not in err


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (batch_line(n=2), "`n` = 2 cannot be honoured"),
        (batch_line(stream=True), "`stream` = True cannot be honoured"),
        (batch_line(logprobs=True), "`logprobs` = True"),
        (batch_line(presence_penalty=0.5), "`presence_penalty` = 0.5"),
        (batch_line(response_format={"type": "json_object"}), "`response_format`"),
        (batch_line(tool_choice="required"), "`tool_choice` = required"),
        (batch_line(functions=[{"name": "f"}]), "`functions` would be left unread"),
        (batch_line(max_tokens=4, max_completion_tokens=5), "are the same option"),
        (batch_line(logit_bias={"5": 1}), "'logit_bias'"),
        (batch_line(tools=[{"name": "f"}]), "no place for `tools`"),
        (batch_line() | {"url": "/v1/embeddings"}, "`url` must be '/v1/chat/completions'"),
        (batch_line() | {"method": "GET"}, "`method` must be 'POST'"),
        (batch_line() | {"max_tokens": 3}, "`max_tokens` beside `body`"),
        (batch_line() | {"body": "x"}, "`body` must be an object"),
        ({"custom_id": "a", "body": {"prompt": "x"}}, "`body` needs `messages`"),
        ({"prompt": "a", "weight": 0}, "'weight'"),
        ({"prompt": "a", "images": ["x"]}, "`images` would be left unread"),
        ({"prompt": "a", "stop_token_ids": [3]}, "'stop_token_ids'"),
        ({"prompt": "a", "tools": [{"name": "f"}]}, "no place for `tools`"),
        ({"prompt": "a", "enable_thinking": False}, "in `chat_template_kwargs`"),
        ({"messages": [{"role": "assistant", "content": "a"}]}, "continue_final_message=True"),
        ({"prompt": [1, 2]}, "`prompt` must be a text; got list"),
        ('{"prompt": "a", "prompt": "b"}', "has the key 'prompt' twice"),
    ],
)
def test_what_cannot_be_honoured_is_refused(decode, tmp_path, line, words):
    code, err = decode([{"prompt": "fine"}, line])
    assert code == 2 and "f.jsonl:2: " in err and words in err and err.count("\n") == 1
    assert not (tmp_path / "g.jsonl").exists()


def test_columns_go_along_or_are_left_out(decode, results, decoder, tmp_path):
    line = {"question": "one", "answer": "4", "source": "s", "mine": {"a": 1}, "max_tokens": 4}
    names = ("--prompt-field", "question")
    code, err = decode([line], *names)
    assert code == 2 and "unknown decoding option 'mine'" in err and "--keep mine" in err
    wanted = {
        "mine": {"mine"},
        "answer,mine": {"answer", "mine"},
        "all": {"answer", "source", "mine"},
    }
    for keep, kept in wanted.items():
        (tmp_path / "g.jsonl").unlink(missing_ok=True)
        assert decode([line], *names, "--keep", keep)[0] == 0
        [record] = results()
        assert record["text"] == alone(decoder, "one", max_new_tokens=4)[0]
        assert {name: record[name] for name in line if name in record} == {k: line[k] for k in kept}


@pytest.mark.parametrize(
    ("line", "arguments", "words"),
    [
        ({"prompt": "a"}, ("--keep", "anser"), "--keep anser: no line of"),
        ({"prompt": "a"}, ("--keep", "text"), "--keep text: every result has a 'text' of its own"),
        ({"prompt": "a", "text": "b"}, ("--keep", "all"), "f.jsonl:1: --keep all: every result"),
        ({"prompt": "a"}, ("--prompt-field", "q"), "f.jsonl:1: has no `q`"),
        ({"prompt": "a", "q": "b"}, ("--prompt-field", "q"), "f.jsonl:1: has `prompt` beside `q`"),
        ({"prompt": "a", "system": "b"}, ("--raw",), "`system` needs the chat template"),
        ({"prompt": "a"}, ("--on-bad-line", "pause"), "must be stop or skip; got 'pause'"),
    ],
)
def test_wrong_columns_are_named(decode, tmp_path, line, arguments, words):
    code, err = decode([line], *arguments)
    assert code == 2 and words in err and err.count("\n") == 1
    assert not (tmp_path / "g.jsonl").exists()


def test_gzip_bom_and_stdin_are_read(run, checkpoint, tmp_path, monkeypatch):
    content = gzip.compress(b"\xef\xbb\xbf" + b'{"prompt": "a", "seed": 1}\n')
    (tmp_path / "f.gz").write_bytes(content)
    command = ("generate", "--checkpoint", checkpoint, "--max-new-tokens", 4, "--input")
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content)))
    outs = [run(*command, source)[:2] for source in (tmp_path / "f.gz", "-")]
    assert outs[0][0] == 0 and outs[0] == outs[1]
    (tmp_path / "f.json").write_text('[{"prompt": "a"}]')
    code, _, err = run(*command, tmp_path / "f.json")
    assert code == 2 and "is a JSON array" in err and err.count("\n") == 1
    code, _, err = run(*command, tmp_path / "f.gz", "--output", tmp_path / "g.gz")
    assert code == 2 and "not compressed" in err


def test_a_path_is_a_name(checkpoint, tmp_path, capsys):
    from fastedit.cli import main

    (tmp_path / "f.jsonl").write_text('{"prompt": "a", "max_tokens": 2}\n')
    files = ("--input", tmp_path / "f.jsonl", "--output", tmp_path / "g.jsonl")
    assert main(["generate", "--checkpoint", Path(checkpoint), *files]) == 0
    assert "1 results written" in capsys.readouterr().err


def test_options_of_files_need_a_file(run):
    for option in (("--keep", "a"), ("--prompt-field", "a"), ("--on-bad-line", "skip")):
        code, _, err = run("generate", "hello", *option)
        assert code == 2 and f"{option[0]} goes with --input" in err


def test_every_bad_line_is_named(decode):
    err = decode(["{", {"prompt": "fine"}] + ["[]"] * 12)[1].splitlines()
    assert "f.jsonl:1:" in err[0] and "f.jsonl:3:" in err[1]
    assert err[-1] == "... and 3 more"


@pytest.mark.parametrize(
    ("line", "arguments", "words"),
    [
        ({"prompt": "number 2"}, (), "another prompt;"),
        ({"mode": "speed"}, (), "other options;"),
        ({}, ("--raw",), "another prompt;"),
        ({}, ("--threshold", 0.9), "other options;"),
        ({}, ("--dtype", "float32"), "another model;"),
    ],
)
def test_results_of_other_requests_are_refused(decode, tmp_path, line, arguments, words):
    decode(requests(2))
    before = (tmp_path / "g.jsonl").read_bytes()
    code, err = decode([requests(1)[0], requests(2)[1] | line, *requests(3)[2:]], *arguments)
    number = 1 if arguments else 2
    assert code == 2 and f"g.jsonl:{number}: index {number - 1} (line {number} of" in err
    assert words in err and "choose another --output" in err
    assert (tmp_path / "g.jsonl").read_bytes() == before


@pytest.fixture
def copied(checkpoint, tmp_path):
    """A checkpoint of its own, to change."""
    return Path(shutil.copytree(checkpoint, tmp_path / "model"))


def of_model(decode, folder, *arguments):
    return decode(requests(2), "--checkpoint", folder, *arguments)


def another_weight(folder: Path) -> None:
    """As retraining does: same name, size and time."""
    [file] = folder.glob("*.safetensors")
    times = file.stat()
    data = bytearray(file.read_bytes())
    data[-3] ^= 1
    file.write_bytes(data)
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))


CHANGES = {
    "weights": another_weight,
    "weights, by config.json": lambda folder: edit_json(folder / "config.json", rope_theta=7.0),
    "weights, by generation_config.json": lambda folder: edit_json(
        folder / "generation_config.json", eos_token_id=[3]
    ),
    "tokenizer": lambda folder: edit_json(folder / "tokenizer_config.json", note="changed"),
    "tokenizer, by its template": lambda folder: append(folder / "chat_template.jinja", "{# #}"),
}


def edit_json(path: Path, **changes) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def append(path: Path, text: str) -> None:
    path.write_text(path.read_text() + text)


@pytest.mark.parametrize("change", CHANGES)
def test_a_model_that_changed_in_its_folder_is_another_one(decode, copied, tmp_path, change):
    assert of_model(decode, copied)[0] == 0
    before = (tmp_path / "g.jsonl").read_bytes()
    CHANGES[change](copied)
    code, err = of_model(decode, copied)
    part = change.partition(",")[0]
    assert code == 2 and f"was made from another model; other {part}; choose another" in err
    assert (tmp_path / "g.jsonl").read_bytes() == before


def test_a_model_is_the_same_wherever_it_lies_and_whatever_lies_beside_it(decode, copied, tmp_path):
    assert of_model(decode, copied)[0] == 0
    moved = copied.rename(tmp_path / "moved")
    (moved / "README.md").write_text("a card")
    (moved / "trainer_state.json").write_text("{}")
    (moved / "config.json").touch()
    code, err = of_model(decode, moved)
    assert code == 0 and "nothing to do" in err
    (tmp_path / "here").symlink_to(moved)
    assert "nothing to do" in of_model(decode, tmp_path / "here")[1]


def test_an_adapter_that_was_trained_again_is_another_one(decode, copied, tmp_path, adapter):
    assert of_model(decode, copied, "--adapter", adapter)[0] == 0
    elsewhere = Path(shutil.copytree(adapter, tmp_path / "elsewhere"))
    assert "nothing to do" in of_model(decode, copied, "--adapter", elsewhere)[1]
    another_weight(elsewhere)
    code, err = of_model(decode, copied, "--adapter", elsewhere)
    assert code == 2 and "another model; other adapter; " in err
    code, err = of_model(decode, copied)
    assert code == 2 and "another model; other adapter; " in err


@pytest.fixture
def adapter(copied, tmp_path):
    peft = pytest.importorskip("peft")
    from fastedit.models.load import load

    model, _ = load(copied, None, "auto", "cpu", None)
    torch.manual_seed(0)
    config = peft.LoraConfig(target_modules=["dense"], init_lora_weights=False)
    peft.get_peft_model(model, config).save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


def test_results_that_know_a_model_by_its_path_are_refused(decode, results, tmp_path):
    decode(requests(2))
    lines = results()
    for line in lines:
        line["made_from"] = line["made_from"][: 8 + 1 + 8 + 1 + 8]
    output = tmp_path / "g.jsonl"
    output.write_text("".join(json.dumps(line) + "\n" for line in lines))
    code, err = decode(requests(2))
    assert code == 2 and err.count("\n") == 1
    assert "g.jsonl:1: was written by an earlier fastedit, which knew a model by its path" in err


IDS = [1, "1", 1.0, True, None, False, 0, "null", "", [1], {"a": 1, "b": 2}, 1e100, "true"]


def test_ids_of_different_types_are_different_ids(decode, results, tmp_path):
    lines = [{"prompt": "a", "id": name, "max_new_tokens": 1} for name in IDS]
    assert decode(lines)[0] == 0
    found = [record["id"] for record in in_order(results())]
    assert [json.dumps(name) for name in found] == [json.dumps(name) for name in IDS]
    code, err = decode(lines)
    assert code == 0 and "nothing to do" in err
    for place, other in ((0, 1.0), (0, "1"), (0, True), (2, 1), (3, 1), (4, "null"), (6, False)):
        changed = [dict(line) for line in lines]
        for line in changed:
            line["id"] = f"other {line['id']!r}"
        changed[place]["id"] = other
        record = in_order(results())[place]
        (tmp_path / "one.jsonl").write_text(json.dumps(record) + "\n")
        code, err = decode(changed, "--output", tmp_path / "one.jsonl")
        assert code == 2 and "belongs to another input" in err


@pytest.mark.parametrize("name", ["NaN", "Infinity", "-Infinity", "1e999", "[NaN]", '{"a": NaN}'])
def test_an_id_that_equals_nothing_is_refused(decode, tmp_path, name):
    code, err = decode([{"prompt": "fine"}, '{"prompt": "a", "id": ' + name + "}"])
    assert code == 2 and "f.jsonl:2: " in err and err.count("\n") == 1
    assert not (tmp_path / "g.jsonl").exists()


@pytest.mark.parametrize("name", ["a", 0, 1.5, True, [1], {"b": 1, "a": 2}])
def test_an_id_that_two_lines_have_is_refused(decode, tmp_path, name):
    lines = [{"prompt": "a", "id": name}, {"prompt": "c"}, {"prompt": "b", "id": name}]
    code, err = decode(lines)
    assert code == 2 and "f.jsonl:3: `id` " in err and "is that of line 1 too" in err
    assert not (tmp_path / "g.jsonl").exists()


def test_an_index_that_is_there_twice_is_refused(decode, tmp_path):
    decode(requests(2))
    output = tmp_path / "g.jsonl"
    lines = output.read_bytes().splitlines(keepends=True)
    output.write_bytes(b"".join([*lines, lines[0]]))
    code, err = decode(requests(2))
    assert code == 2 and "g.jsonl:3: index " in err and "is there twice" in err


def test_results_that_do_not_say_their_origin_are_kept_with_a_warning(decode, tmp_path):
    old = '{"index": 0, "id": "r0", "text": "kept"}\n'
    (tmp_path / "g.jsonl").write_text(old)
    code, err = decode(requests(2))
    assert code == 0 and "1 lines of" in err and "do not say what they were made from" in err
    assert (tmp_path / "g.jsonl").read_text().startswith(old)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (
            '{"index": 7, "id": null, "text": ""}\n',
            "g.jsonl:1: index 7 is outside the input's 0..1",
        ),
        ('{"index": 0, "id": "other", "text": ""}\n', "g.jsonl:1: id 'other' where the input has"),
        ('{"index": 0, "id": "r0"}\n', "g.jsonl:1: is no line of results"),
        ("notes\n", "g.jsonl:1: is no line of results"),
        ("notes", "g.jsonl:1: is no line of results"),
    ],
)
def test_a_foreign_output_is_refused_and_left_alone(decode, tmp_path, content, words):
    (tmp_path / "g.jsonl").write_text(content)
    code, err = decode(requests(2))
    assert code == 2 and words in err
    assert (tmp_path / "g.jsonl").read_text() == content


def test_input_as_output_is_refused(run, checkpoint, tmp_path):
    path = tmp_path / "f.jsonl"
    path.write_text('{"prompt": "a"}\n')
    code, _, err = run("generate", "--checkpoint", checkpoint, "--input", path, "--output", path)
    assert code == 2 and "overwrite the input" in err
    assert path.read_text() == '{"prompt": "a"}\n'


def test_a_folder_as_output_is_refused(run, checkpoint, tmp_path):
    (tmp_path / "f.jsonl").write_text('{"prompt": "a"}\n')
    code, _, err = run("generate", "--input", tmp_path / "f.jsonl", "--output", tmp_path)
    assert code == 2 and f"--output {tmp_path} is a folder" in err


def test_without_output_results_go_to_stdout(run, checkpoint, tmp_path):
    path = tmp_path / "f.jsonl"
    path.write_text('{"prompt": "a"}\n{"prompt": "b"}\n')
    code, out, _ = run(
        "generate", "--checkpoint", checkpoint, "--max-new-tokens", 4, "--input", path
    )
    assert code == 0
    assert [json.loads(line)["index"] for line in out.splitlines()] == [0, 1]


@pytest.mark.parametrize("neighbours", [True, False])
def test_a_failed_request_gets_an_error_and_the_others_their_text(
    decode, results, decoder, monkeypatch, neighbours
):
    from fastedit.models.llada2 import LLaDA2MoeModelLM

    poison, forward = decoder.tokenizer("~")["input_ids"][0], LLaDA2MoeModelLM.forward

    def poisoned(self, input_ids=None, **options):
        output = forward(self, input_ids=input_ids, **options)
        output.logits[(input_ids == poison).any(1)] = float("nan")
        return output

    monkeypatch.setattr(LLaDA2MoeModelLM, "forward", poisoned)
    lines = requests(3) if neighbours else []
    lines.insert(1, {"prompt": "~", "id": "bad"})
    code, err = decode(lines, "--raw")
    assert code == 1 and "1 of them failed" in err
    by_id = {record["id"]: record for record in results()}
    assert len(by_id) == len(lines)
    assert by_id["bad"]["error"].startswith("bad logits") and "text" not in by_id["bad"]
    assert all("text" in record for name, record in by_id.items() if name != "bad")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_no_traceback(run, checkpoint, tmp_path):
    (tmp_path / "f.jsonl").write_text('{"prompt": "a"}\n')
    code, _, err = run(
        "generate", "--checkpoint", checkpoint, "--max-new-tokens", LENGTH,
        "--input", tmp_path / "f.jsonl", "--output", "/dev/full",
    )  # fmt: skip
    assert code == 2 and "cannot write /dev/full: No space left on device; 0 of 1 results" in err


def test_a_file_that_the_model_may_not_open_is_not_the_output(decode, monkeypatch):
    def forbidden(self, prompts, **options):
        raise PermissionError(13, "Permission denied", "/root/.triton/cache")
        yield

    monkeypatch.setattr(Decoder, "as_completed", forbidden)
    with pytest.raises(PermissionError, match=r"/root/\.triton/cache"):
        decode(requests(1))


def test_a_block_length_of_ones_own_is_another_option_than_the_models():
    from fastedit import DecodeConfig
    from fastedit.cli.made_from import made_from
    from fastedit.cli.requests import Row

    row = Row(0, 1, None, "1 + 1 =")
    origins = [
        made_from(row, DecodeConfig(**k), False, "m", "wino") for k in ({}, {"block_length": 32})
    ]
    assert origins[0] != origins[1]


def test_lines_have_policies_of_their_own_and_a_rerun_is_under_the_same(decode, results, decoder):
    policies = ["joint_threshold", "remask:tau=0.4", "low_confidence", "remask", "low_confidence"]
    lines = [{"prompt": f"number {i}", "policy": p} for i, p in enumerate(policies)]
    lines[4]["threshold"] = 0.5
    assert decode(lines)[0] == 0
    records = in_order(results())
    for line, record in zip(lines, records, strict=True):
        prompt = line.pop("prompt")
        text, stats = alone(decoder, prompt, **line)
        assert record["text"] == text and record["stats"] | {"seed": 0} == stats | {"seed": 0}
        line["prompt"] = prompt
    assert decode(lines)[0] == 0 and in_order(results()) == records
    # The same numbers under another rule, or left to the rule's own default, are another run.
    del lines[4]["threshold"]
    code, err = decode(lines)
    assert code == 2 and "other options" in err
