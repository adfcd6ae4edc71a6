"""One request and what is shown of it: its text as it comes, one JSON object, or the canvas."""

from __future__ import annotations

import functools
import io
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fastedit.cli.errors import InterruptedRunError, RequestFailedError, UserError, one_line
from fastedit.cli.terminal import (
    is_terminal,
    plain,
    printable,
    stderr_console,
    stdout_console,
)
from fastedit.cli.tracing import writing
from fastedit.files.jsonl import not_utf8

if TYPE_CHECKING:
    from fastedit.decoder import Decoder
    from fastedit.policies import Policy
    from fastedit.results import DecodeStats, Event

AsJson = Annotated[bool, typer.Option("--json", help="One object: text, token_ids, stats, policy.")]
AsLive = Annotated[bool, typer.Option("--live", help="Show the canvas at every forward, slowed.")]


def check_form(as_json: bool, live: bool) -> None:
    if as_json and live:
        raise UserError("--json and --live exclude each other")


def read_text(argument: str | None) -> str:
    """The text of an argument; "-" is standard input without its last newline.

    Raises `UserError` for bytes that are no UTF-8.
    """
    text = argument or ""
    if argument == "-":
        if hasattr(sys.stdin, "reconfigure"):  # bytes as they are, so that offsets are right
            sys.stdin.reconfigure(encoding="utf-8", errors="surrogateescape", newline="")
        text = sys.stdin.read()
    try:
        text = text.encode(errors="surrogateescape").decode()
    except UnicodeDecodeError as error:
        source = "standard input" if argument == "-" else "the text"
        raise UserError(f"{source} {not_utf8(error)}") from None
    if argument == "-":
        text = io.StringIO(text, newline=None).getvalue().removesuffix("\n")
    return text


def answer(
    decoder: Decoder,
    prompt: Any,
    as_json: bool,
    live: bool,
    before: str = "",
    trace: Path | None = None,
    **options: Any,
) -> str:
    """Decode `prompt` and show what comes, behind the text `before`; returns all of the text.

    trace: where its trace goes. options: of `Decoder.stream`. What is wrong with them is a
    `UserError`.
    """
    from fastedit.request.settled import rule_of
    from fastedit.results import RequestError

    with one_line(ValueError, TypeError):  # everything is checked before the first forward
        events = decoder.stream(prompt, drafts=live, trace=trace is not None, **options)
    if trace is not None:
        events = writing(events, trace)
    show: Callable[[Iterator[Event], str], str] = _as_text
    if as_json:
        show = functools.partial(_as_json, rule_of(decoder.config, decoder.family))
    elif live:
        show = functools.partial(_as_live, decoder)
    try:
        return show(events, before)
    except RequestError as error:
        raise RequestFailedError(str(error).removeprefix("request 0: ")) from error
    except KeyboardInterrupt:
        typer.echo(err=True)  # the answer so far may stand in the line
        raise InterruptedRunError("interrupted") from None


def _as_json(rule: Policy, events: Iterator[Event], before: str) -> str:
    *commits, end = events
    text = before + "".join(event.text for event in commits)
    record = {
        "text": text,
        "token_ids": [token for event in commits for token in event.ids],
        "stats": _stats(end).as_dict(),
        **rule.as_dict(),
    }
    typer.echo(json.dumps(record, ensure_ascii=False))
    return text


def _as_live(decoder: Decoder, events: Iterator[Event], before: str) -> str:
    from fastedit.cli.live import show

    console = stdout_console()
    text, stats = show(events, decoder, console, before)
    plain(console, printable(text) if console.is_terminal else text)
    _summary(stats)
    return text


def _as_text(events: Iterator[Event], before: str) -> str:
    _write(before)
    text = before
    for event in events:
        _write(event.text)
        text += event.text
    sys.stdout.write("\n")
    _summary(_stats(event))
    return text


def _write(piece: str) -> None:
    sys.stdout.write(printable(piece) if is_terminal(sys.stdout) else piece)
    sys.stdout.flush()


def _stats(end: Event) -> DecodeStats:
    if end.stats is None:
        raise AssertionError("the last event carries the stats")
    return end.stats


def _summary(stats: DecodeStats) -> None:
    console = stderr_console()
    if console.is_terminal:
        console.print(
            f"{stats.tokens} tokens in {stats.forwards} forwards "
            f"({stats.tokens_per_forward:.2f} per forward), {stats.t2t_edits} edits, "
            f"ended by {stats.finish_reason}",
            style="dim",
        )
