"""What a user did wrong, as one line."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import typer

# typer brings its own copy of click in newer releases, so the class is found from typer's.
CommandLineError: Any = typer.BadParameter.__mro__[2]


class UserError(CommandLineError):
    """Bad options or input: shown as one line, exit code 2."""

    exit_code = 2


class RequestFailedError(CommandLineError):
    """The model could not answer: shown as one line, exit code 1."""

    exit_code = 1


@contextlib.contextmanager
def one_line(*kinds: type[Exception]) -> Iterator[None]:
    """Turn exceptions of these kinds into a `UserError`."""
    try:
        yield
    except kinds as error:
        raise UserError(" ".join(str(error).split()) or type(error).__name__) from error
