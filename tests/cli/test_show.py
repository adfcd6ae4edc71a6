"""`generate --trace` and `show`: a trace per request, lines without a terminal, one page."""

from __future__ import annotations

import io
import json

import pytest
from rich.console import Console

from fastedit import Decoder, traces
from fastedit.cli import live
from fastedit.cli.replay import Replay
from fastedit.cli.terminal import printable

LENGTH = 40
EDITS = ("--threshold", ".3", "--editing-threshold", "0")


@pytest.fixture
def generate(run, checkpoint):
    def generate(*arguments):
        at = "--checkpoint", checkpoint, "--max-new-tokens", LENGTH
        return run("generate", *at, *EDITS, *arguments)

    return generate


@pytest.fixture
def traced(generate, tmp_path):
    """(file of a trace, answer)"""
    path = tmp_path / "t.jsonl"
    code, out, _ = generate("hello", "--trace", path)
    assert code == 0
    return path, out


def test_a_trace_beside_the_answer(traced, generate):
    path, out = traced
    (trace,) = traces.load(path)
    assert out == generate("hello")[1]
    assert trace.header["request"] == 0 and trace.counts()["edit"]
    code, out, _ = generate("hello", "--json", "--trace", path)
    assert code == 0 and json.loads(out)["token_ids"] == traces.load(path)[0].sequence


def test_a_file_of_prompts_gives_a_trace_of_each(run, generate, tmp_path):
    source, path = tmp_path / "f.jsonl", tmp_path / "t.jsonl"
    source.write_text("".join(f'{{"prompt": "number {i}", "id": "r{i}"}}\n' for i in range(3)))
    out = tmp_path / "g.jsonl"
    assert generate("--input", source, "--output", out, "--trace", path)[0] == 0
    found = {trace.header["request"]: trace for trace in traces.load(path)}
    results = {r["index"]: r for r in map(json.loads, out.read_text().splitlines())}
    assert {i: trace.header["id"] for i, trace in found.items()} == {0: "r0", 1: "r1", 2: "r2"}
    for i, trace in found.items():
        assert trace.stats == results[i]["stats"]
    out.write_text("".join(out.read_text().splitlines(keepends=True)[:2]))
    assert generate("--input", source, "--output", out, "--trace", path)[0] == 0
    assert len(traces.load(path)) == 4  # behind those of the run before
    code, shown, _ = run("show", path, "--request", 2)
    assert code == 0 and shown.startswith("request 2, joint_threshold")
    code, _, err = run("show", path, "--request", 7)
    assert code == 2 and "--request 7: " in err and " has " in err


@pytest.mark.parametrize("no_color", [False, True])
def test_lines_without_a_terminal(run, traced, monkeypatch, no_color):
    if no_color:
        monkeypatch.setenv("NO_COLOR", "1")
    path, _ = traced
    code, out, err = run("show", path)
    (trace,) = traces.load(path)
    lines = out.splitlines()
    assert code == 0 and "\x1b" not in out + err
    assert lines[0].startswith("request 0, joint_threshold:")
    forwards = [line for line in lines if line.startswith("forward ")]
    assert len(forwards) == len(trace.forwards)
    edits = trace.counts()["edit"]
    assert f"edits {edits:2}" in forwards[-1] and any("[" in line for line in forwards)
    text = "".join(map(trace.text, trace.sequence))
    assert printable(text) in out and f"{edits} edits" in lines[-1]


def test_the_canvas_is_what_the_trace_replays(traced):
    (trace,) = traces.load(traced[0])
    replay = Replay(trace)
    for _, (_, _, canvas) in zip(replay.frames(), trace.replay(), strict=True):
        assert (
            replay.canvas.ids
            == [canvas[p] for p in sorted(canvas) if p >= 0][replay.canvas.committed :]
        )
    assert replay.canvas.committed == trace.stats["tokens"]
    console = Console(file=io.StringIO(), width=80, height=9, force_terminal=True)
    console.print(live.CanvasView(replay.canvas))


def test_what_lies_behind_the_end_is_no_text():
    ask = "State the final answer to the following arithmetic problem: 27 + 45 - 86 ="
    out = Decoder.from_pretrained("tiny", device="cpu").chat(ask, trace=True, max_new_tokens=64)
    replay = Replay(out.traces[0])
    assert list(replay.frames()) and max(out.traces[0].final()) >= out.stats[0].tokens
    assert (replay.canvas.tokens, replay.canvas.text) == (out.stats[0].tokens, out.texts[0])


def test_what_moves(tmp_path):
    steps = [
        traces.Opened(1, 0, 0, [1, 9]),
        traces.Forward(1, 0, 0, [0.5, 0.5], moved=[-1, 1], put=[9]),
        traces.TraceEvent("insert", 1, 0, 1, None, 9),
        traces.TraceEvent("delete", 1, 0, 0, 1, None),
        traces.Forward(2, 0, 0, [0.5, 0.5]),
        traces.TraceEvent("fill", 2, 0, 0, 9, 2),
        traces.TraceEvent("remask", 2, 0, 1, 1, 9),
    ]
    header = {"request": 0, "policy": "x", "mask_token_id": 9}
    replay = Replay(traces.Trace(header, steps, {1: "a", 2: "b"}, {}))
    lines = [replay.canvas.line() for _ in replay.frames()]
    assert lines == ["⁺⌫░", "b↺"]
    assert (replay.canvas.inserts, replay.canvas.deletes, replay.canvas.remasks) == (1, 1, 1)


def test_one_position(run, traced):
    code, out, _ = run("show", traced[0], "--position", 1)
    assert code == 0 and out.splitlines()[1].startswith("Position 1 holds ")
    code, _, err = run("show", traced[0], "--position", 999)
    assert code == 2 and "position 999 was not decoded" in err


def test_a_page(run, traced, tmp_path):
    path, _ = traced
    page = tmp_path / "t.html"
    code, out, err = run("show", path, path, "--html", page)
    assert (code, out) == (0, "") and "t.html is written" in err
    text = page.read_text(encoding="utf-8")
    assert text.startswith("<!DOCTYPE html>") and "http://" not in text and "https://" not in text


def test_mistakes_are_one_line(run, generate, traced, tmp_path, decoder):
    path, _ = traced
    broken = tmp_path / "broken.jsonl"
    broken.write_text(path.read_text() + '{"kind":')
    for words, message in (
        (("show", broken), "broken.jsonl:"),
        (("show", tmp_path / "none"), "No such file"),
        (("show", path, path, path), "show takes one or two files; got 3"),
        (("show", path, "--html", path), "--html would overwrite"),
        (("show", path, "--html", tmp_path / "no" / "t.html"), "cannot write"),
        (("show", path, "--html", tmp_path / "t.html", "--position", 1), "--position is for"),
        (("generate", "x", "--trace", tmp_path), "is a folder"),
        (("generate", "x", "--trace", tmp_path / "no" / "t"), "there is no folder"),
        (("generate", "--input", path, "--trace", path), "--trace would overwrite"),
    ):
        code, out, err = run(*words)
        assert (code, out) == (2, "") and message in err and len(err.splitlines()) == 1
    with pytest.raises(TypeError, match=r"trace must be True or False; got 't\.jsonl'"):
        decoder.generate("x", trace="t.jsonl")
