"""`--trace`: traces of what a command decodes, into a file."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fastedit.cli.errors import UserError

if TYPE_CHECKING:
    from fastedit.results import Event
    from fastedit.traces import Trace

AsTrace = Annotated[
    Path | None,
    typer.Option(
        "--trace",
        help="Write what every forward changed, and why; `fastedit show` shows it.",
        metavar="FILE",
    ),
]
# Takes the trace of a request, the index of its prompt and the id that it was given.
Keep = Callable[["Trace", int, Any], None]


def check_target(trace: Path | None, *others: Path | None) -> None:
    """Raises `UserError` for a trace that cannot go there."""
    if trace is None:
        return
    if trace.is_dir():
        raise UserError(f"--trace {trace} is a folder: give the name of a file in it")
    if not trace.parent.is_dir():
        raise UserError(f"cannot write {trace}: there is no folder {trace.parent}")
    if trace.suffix == ".gz":
        raise UserError(f"--trace {trace}: traces are written as they end, and not compressed")
    for other in others:
        if other is not None and os.path.abspath(other) == os.path.abspath(trace):
            raise UserError(f"--trace would overwrite {other}: give it a file of its own")


def writing(events: Iterator[Event], path: Path) -> Iterator[Event]:
    """The events of one request, whose trace is written when it ends."""
    for event in events:
        if event.trace is not None:
            with traced(path) as keep:
                assert keep is not None
                keep(event.trace, 0, None)
        yield event


@contextlib.contextmanager
def traced(path: Path | None, more: bool = False) -> Iterator[Keep | None]:
    """What writes a trace to `path`, behind those that are there where there are `more`."""
    if path is None:
        yield None
        return
    from fastedit.traces.files import lines

    with contextlib.ExitStack() as stack:
        try:
            file = stack.enter_context(path.open("a" if more else "w", encoding="utf-8"))
        except OSError as error:
            raise UserError(f"cannot write {path}: {error.strerror}") from error

        def keep(trace: Trace, index: int, name: Any) -> None:
            trace.header |= {"request": index} | ({} if name is None else {"id": name})
            try:
                file.writelines(line + "\n" for line in lines(trace))
                file.flush()
            except OSError as error:
                raise UserError(f"cannot write {path}: {error.strerror}") from error

        yield keep
