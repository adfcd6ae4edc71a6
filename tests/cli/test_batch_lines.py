"""`fastedit generate --input`: what a line of the input may hold."""

from __future__ import annotations

import gzip
import io
from pathlib import Path

import pytest
from batch_files import alone, in_order


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
