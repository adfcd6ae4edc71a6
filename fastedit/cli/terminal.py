"""What the terminal can do, and text that is safe to show in it."""

from __future__ import annotations

import contextlib
import os
import re
import sys
import textwrap
import unicodedata
from collections.abc import Callable, Iterator
from typing import TextIO

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

# Controls, lone surrogates, line and paragraph separators; overrides of the writing direction.
_HIDDEN = ("Cc", "Cs", "Zl", "Zp")
_BIDI = ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")

# Broken in two, it could not be copied.
_COMMAND = re.compile(r"pip install(?: -[\w-]+)* '[^']*'")


def stderr_console() -> Console:
    """For progress and remarks; stdout carries results only."""
    return _console(sys.stderr)


def stdout_console() -> Console:
    return _console(sys.stdout)


def _console(stream: TextIO) -> Console:
    """Escape codes go to terminals alone, whatever FORCE_COLOR says: notebooks set it."""
    return Console(
        file=stream, highlight=False, force_terminal=is_terminal(stream), force_jupyter=False
    )


def is_terminal(stream: TextIO) -> bool:
    """Whether a person looks at it in a terminal. A notebook, too, gives its commands one, and
    shows movements of the cursor as letters.
    """
    environment = os.environ
    notebook = "JPY_PARENT_PID" in environment or "inline" in environment.get("MPLBACKEND", "")
    return stream.isatty() and not notebook


def can_redraw(console: Console) -> bool:
    """Whether lines can be drawn over: a terminal that is not dumb, and colours not refused."""
    return console.is_terminal and not console.is_dumb_terminal and not os.environ.get("NO_COLOR")


def tell(text: str) -> None:
    """A remark or an error on stderr: one line, broken between words for a terminal."""
    typer.echo(wrapped(f"fastedit: {text}", _columns(sys.stderr)), err=True)


def in_columns(text: str, indent: int = 2) -> str:
    """`text` for stdout, broken between words for a terminal; later lines are indented."""
    return wrapped(text, _columns(sys.stdout), indent)


def wrapped(text: str, columns: int | None, indent: int = 2) -> str:
    """`text` with no line above `columns`, if that can be; commands to copy stay in one line."""
    if columns is None:
        return text
    whole = _COMMAND.sub(lambda found: found[0].replace(" ", "\0"), text)
    rows: list[str] = []
    for line in whole.splitlines():
        rows += textwrap.wrap(
            line,
            columns,
            subsequent_indent=" " * indent,
            break_long_words=False,
            break_on_hyphens=False,
        )
    return "\n".join(rows).replace("\0", " ")


def _columns(stream: TextIO) -> int | None:
    """The width that COLUMNS names, or of the terminal; None where neither is there."""
    if (named := os.environ.get("COLUMNS", "")).isdigit() and int(named):
        return int(named)
    if not stream.isatty():
        return None
    try:
        return os.get_terminal_size(stream.fileno()).columns or None
    except (OSError, ValueError):
        return None


def plain(console: Console, text: str) -> None:
    """One line as it is: no wrapping, no markup."""
    console.out(text, highlight=False)


def printable(text: str, newline: str = "\n") -> str:
    """`text` without control characters, which could move the cursor or recolour the terminal."""
    return "".join(
        newline if char == "\n" else " " if char == "\t" else _visible(char) for char in text
    )


def _visible(char: str) -> str:
    hidden = unicodedata.category(char) in _HIDDEN or unicodedata.bidirectional(char) in _BIDI
    return "\N{REPLACEMENT CHARACTER}" if hidden else char


def progress_bar(
    label: str, *columns: str, visible: bool = True, transient: bool = True
) -> Progress:
    """A bar on stderr, where that is a terminal; `columns` stand behind it."""
    console = stderr_console()
    return Progress(
        label,
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        *columns,
        console=console,
        disable=not (visible and console.is_terminal),
        transient=transient,
    )


@contextlib.contextmanager
def counting(label: str, total: int, done: int = 0) -> Iterator[Callable[[int], None]]:
    """A progress bar on stderr, where that is a terminal; yields `advance(count)`."""
    with progress_bar(label) as progress:
        task = progress.add_task(label, total=total, completed=done)
        yield lambda count: progress.advance(task, count)
