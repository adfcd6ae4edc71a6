"""The canvas: what it counts, how it draws, and what is left of it without a terminal."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from fastedit.cli import live
from fastedit.cli.canvas import DRAFT, EDITED, INSERTED, MASK, REMASKED, Canvas
from fastedit.cli.terminal import can_redraw, printable
from fastedit.results import Event

CHAT = [{"role": "user", "content": "hello"}]
OPTIONS = {"max_new_tokens": 70, "threshold": 0.4, "editing_threshold": 0.6}


@pytest.fixture
def canvas(decoder):
    return Canvas(decoder.tokenizer, decoder.tokenizer.mask_token_id)


@pytest.fixture
def ids(decoder):
    """Ids of a text in which _ stands for a mask and $ for the end."""
    tokenizer = decoder.tokenizer
    marks = {"_": tokenizer.mask_token_id, "$": tokenizer.eos_token_id}
    return lambda text: [marks.get(c) or tokenizer(c)["input_ids"][0] for c in text]


def test_states_of_a_token(canvas, ids):
    for text in ("____", "ab_$", "ax_$", "ax\n$"):
        canvas.update(Event("draft", ids=ids(text), block=4))
    assert canvas.states == [DRAFT, EDITED, DRAFT, DRAFT]
    assert list(canvas.pieces()) == [(DRAFT, "a"), (EDITED, "x"), (DRAFT, "↵"), (DRAFT, "∎")]
    assert canvas.line() == "a[x]↵∎"
    assert (canvas.forwards, canvas.tokens, canvas.edits) == (4, 4, 1)
    canvas.update(Event("commit", text="ax\n", ids=ids("ax\n$"), block=4))
    assert (canvas.text, canvas.line()) == ("ax\n", "")
    canvas.update(Event("draft", ids=ids("__b$$_"), block=5))
    assert canvas.states == [MASK, MASK, DRAFT, DRAFT, DRAFT, MASK]
    assert canvas.tokens == 4 + 2  # what follows the end does not count
    assert canvas.block == 5


def test_fills_edits_and_remasks_have_signs_of_their_own(canvas, ids):
    for text in ("____", "abc_", "a_x_", "__x_"):
        canvas.update(Event("draft", ids=ids(text), block=4))
    assert canvas.states == [REMASKED, REMASKED, EDITED, MASK]
    assert canvas.line() == "↺↺[x]░"
    assert (canvas.tokens, canvas.edits, canvas.remasks) == (1, 1, 2)
    canvas.update(Event("draft", ids=ids("abx_"), block=4))
    assert canvas.states == [DRAFT, DRAFT, EDITED, MASK]
    assert canvas.line() == "ab[x]░"
    console = Console(file=io.StringIO(), width=80, height=9, no_color=True)
    canvas.update(Event("draft", ids=ids("_bx_"), block=4))
    console.print(live.CanvasView(canvas))
    block, status, legend = console.file.getvalue().splitlines()
    assert block.rstrip() == "↺b[x]░" and "edits  1  remasks  3" in status
    assert all(sign in legend for sign in ("░ mask", "filled", "[edited]", "↺ mask again"))


def test_inserts_and_deletes_have_signs_of_their_own(canvas, ids):
    """A mask is put in before b, which pushes d out; then a and the mask go, and c is edited."""
    canvas.update(Event("draft", ids=ids("abcd"), block=4, moved=[0, 1, 2, 3]))
    assert canvas.line() == "abcd" and "inserts  0  deletes  0" in canvas.status()
    canvas.update(Event("draft", ids=ids("a_bc"), block=4, moved=[0, -1, 1, 2], inserted=[1]))
    assert canvas.states == [DRAFT, INSERTED, DRAFT, DRAFT]
    assert canvas.line() == "a⁺bc" and canvas.tokens == 3
    moves = {"moved": [2, 3, -1, -1], "deleted": [0, 1]}
    canvas.update(Event("draft", ids=ids("bx__"), block=4, **moves))
    assert canvas.states == [DRAFT, EDITED, MASK, MASK] and canvas.line() == "⌫⌫b[x]░░"
    assert (canvas.inserts, canvas.deletes, canvas.edits, canvas.remasks) == (1, 2, 1, 0)
    console = Console(file=io.StringIO(), width=130, height=9, no_color=True)
    console.print(live.CanvasView(canvas))
    block, status, legend = console.file.getvalue().splitlines()
    assert block.rstrip() == "⌫⌫b[x]░░" and "inserts  1  deletes  2" in status
    assert all(sign in legend for sign in ("░ mask", "⁺ mask put in", "⌫ taken out"))
    canvas.update(Event("draft", ids=ids("bxyz"), block=4, moved=[0, 1, 2, 3]))
    assert canvas.line() == "b[x]yz"


@pytest.mark.parametrize(
    "policy", [None, "remask:tau=.9,threshold=.4", "remask:trigger=t2t,tau=.5"]
)
def test_counts_are_those_of_the_stats(canvas, decoder, policy):
    options = OPTIONS if policy is None else {"max_new_tokens": 70, "policy": policy}
    *events, end = decoder.stream(CHAT, drafts=True, **options)
    for event in events:
        canvas.update(event)
    stats = end.stats
    assert (canvas.tokens, canvas.edits, canvas.remasks) == (
        stats.tokens,
        stats.t2t_edits,
        stats.remasks,
    )
    assert stats.remasks > 0 if policy else stats.t2t_edits > 0
    assert canvas.text == decoder.generate([CHAT], **options).texts[0]


def test_what_lies_behind_the_end_is_counted_and_not_shown(canvas, ids):
    for text in ("____", "ab__", "abcd", "abxd"):
        canvas.update(Event("draft", ids=ids(text), block=4, within=2))
    assert canvas.line() == "ab" and (canvas.tokens, canvas.edits) == (2, 1)


def test_a_character_of_several_tokens_shows_whole(canvas, decoder):
    pair = decoder.tokenizer("é")["input_ids"]
    assert len(pair) == 2
    canvas.update(Event("draft", ids=pair))
    assert canvas.line() == "é"


@pytest.mark.parametrize(("width", "height"), [(20, 6), (1, 4), (80, 3), (33, 24)])
def test_the_view_stays_inside_the_terminal(canvas, ids, width, height):
    canvas.update(Event("commit", text="宽 words\nthat wrap, " * 30))
    canvas.update(Event("draft", ids=ids("a\n_" * 30)))
    console = Console(file=io.StringIO(), width=width, height=height, force_terminal=True)
    lines = console.render_lines(live.CanvasView(canvas), pad=False)
    assert len(lines) <= height
    assert all(sum(segment.cell_length for segment in line) <= max(width, 2) for line in lines)
    shown = "".join(segment.text for segment in lines[-3] if width > 1)
    assert width == 1 or "░" in shown or "a" in shown  # the active block, not the beginning


def test_without_a_terminal_every_forward_is_a_line(run, checkpoint, decoder):
    arguments = ("--max-new-tokens", "70", "--threshold", ".4", "--editing-threshold", ".6")
    code, out, err = run("generate", "hello", "--live", "--checkpoint", checkpoint, *arguments)
    assert "░ mask" in err and "↺ mask again" in err and "[edited]" in err
    answer = decoder.generate([CHAT], **OPTIONS)
    assert code == 0
    lines = out.removesuffix(answer.texts[0] + "\n").split("\n")
    assert lines.pop() == ""
    assert lines[0].startswith("forward   1  block 0  tokens ")
    assert all(line.startswith(f"forward {i:3}  ") for i, line in enumerate(lines, 1))
    assert "\x1b" not in "".join(lines) and any("░" in line for line in lines)
    assert any("[" in line for line in lines)


def test_on_a_terminal_the_canvas_is_drawn_and_removed(decoder, monkeypatch):
    monkeypatch.setattr(live, "FRAME_SECONDS", 0.0)
    monkeypatch.setattr(live, "can_redraw", lambda console: True)
    monkeypatch.setenv("TERM", "xterm")
    console = Console(file=io.StringIO(), width=80, height=12, force_terminal=True)
    text, stats = live.show(decoder.stream(CHAT, drafts=True, **OPTIONS), decoder, console)
    drawn = console.file.getvalue()
    assert text == decoder.generate([CHAT], **OPTIONS).texts[0]
    assert f"edits {stats.t2t_edits}" in drawn and "may change" in drawn
    assert drawn.endswith("\x1b[2K")  # the last thing done is to clear the canvas


@pytest.mark.parametrize(
    ("variable", "value", "expected"),
    [("NO_COLOR", "1", False), ("TERM", "dumb", False), ("TERM", "xterm", True)],
)
def test_when_lines_can_be_redrawn(monkeypatch, variable, value, expected):
    for name in ("NO_COLOR", "TERM", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv(variable, value)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    assert can_redraw(Console(force_terminal=True)) is expected


def test_text_cannot_command_the_terminal():
    assert printable("a\x1b[2Jb\rc\x07\td\ne\u202ef👩\u200d🚀") == "a�[2Jb�c� d\ne�f👩\u200d🚀"
