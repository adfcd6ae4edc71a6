"""What the terminal can do, and text that is safe to show in it."""

from __future__ import annotations

import contextlib
import os
import sys
import unicodedata
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

# Controls, lone surrogates, line and paragraph separators; overrides of the writing direction.
_HIDDEN = ("Cc", "Cs", "Zl", "Zp")
_BIDI = ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")


def stderr_console() -> Console:
    """For progress and remarks; stdout carries results only."""
    return Console(stderr=True, highlight=False)


def stdout_console() -> Console:
    return Console(highlight=False)


def can_redraw(console: Console) -> bool:
    """Whether lines can be drawn over: a terminal that is not dumb, and colours not refused."""
    return sys.stdout.isatty() and not console.is_dumb_terminal and not os.environ.get("NO_COLOR")


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
