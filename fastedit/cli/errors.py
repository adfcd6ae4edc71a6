"""What a user did wrong, as one line."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import typer

from fastedit.files.jsonl import DataError, as_line

# typer brings its own copy of click in newer releases, so the class is found from typer's.
CommandLineError: Any = typer.BadParameter.__mro__[2]


class UserError(CommandLineError):
    """Bad options or input: shown as one line, exit code 2."""

    exit_code = 2


class RequestFailedError(CommandLineError):
    """The model could not answer: shown as one line, exit code 1."""

    exit_code = 1


class InterruptedRunError(CommandLineError):
    """Ctrl-C, and what there is of the work: shown as one line, exit code 130."""

    exit_code = 130


def message(error: Any) -> str:
    """What a `CommandLineError` says, with the value that an option was given.

    Newer releases of typer leave the value in the cause, a pydantic ValidationError.
    """
    text: str = error.format_message()
    details: Any = getattr(error.__cause__, "errors", list)()
    if details and error.message in text:
        text = text.replace(error.message, f"{details[0]['input']!r}: {error.message}")
    return text


@contextlib.contextmanager
def one_line(*kinds: type[Exception]) -> Iterator[None]:
    """Turn exceptions of these kinds into a `UserError`: bad lines of a file keep a line each."""
    try:
        yield
    except kinds as error:
        raise UserError(_told(error)) from error


def _told(error: Exception) -> str:
    if isinstance(error, DataError):
        return str(error)
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        return as_line(f"{error.filename}: {error.strerror}")  # without "[Errno 2]"
    return as_line(error)
