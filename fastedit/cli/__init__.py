"""The `fastedit` command: one file per subcommand, imports of torch only inside them.

`main` is the entry point. Exit codes: 0 done, 1 a request failed, 2 bad options or input, 130
interrupted.
"""

from __future__ import annotations

import contextlib
import functools
import os
import sys
import warnings
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from fastedit import __version__
from fastedit.chats.template import RawTextWarning
from fastedit.cli.bench import bench_command
from fastedit.cli.demo import demo_command
from fastedit.cli.errors import CommandLineError, UserError, message
from fastedit.cli.evaluate import evaluate_command
from fastedit.cli.evaluate_errors import errors_command
from fastedit.cli.fill import fill_command
from fastedit.cli.generate import generate_command
from fastedit.cli.help import Command, Group, settings
from fastedit.cli.info import info_command
from fastedit.cli.merge import merge_command
from fastedit.cli.show import show_command
from fastedit.cli.terminal import tell
from fastedit.cli.train import train_command
from fastedit.cli.tune import tune_command
from fastedit.files.disk import full

INTERRUPTED = 130
app = typer.Typer(
    cls=Group,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings=settings(),
)
evaluations = typer.Typer(rich_markup_mode=None)
evaluations.callback(invoke_without_command=True, cls=Group)(evaluate_command)
for folder, name, function in (
    (app, "generate", generate_command),
    (app, "fill", fill_command),
    (app, "show", show_command),
    (app, "train", train_command),
    (app, "merge", merge_command),
    (evaluations, "errors", errors_command),
    (app, "tune", tune_command),
    (app, "bench", bench_command),
    (app, "info", info_command),
    (app, "demo", demo_command),
):
    folder.command(name, cls=Command)(function)
app.add_typer(evaluations, name="eval")


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"fastedit {__version__}")
        raise typer.Exit


@app.callback(
    invoke_without_command=True,
    epilog="Exit codes: 0 done, 1 a request failed, 2 bad options or input, 130 Ctrl-C.",
)
def fastedit(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print and exit."),
    ] = False,
) -> None:
    """Decode with diffusion language models that edit what they drafted."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def main(arguments: Sequence[str | os.PathLike[str]] | None = None) -> int:
    """Run the command line, by default that of the process; returns the exit code.

    A user's mistake is one line on stderr.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a terminal without UTF-8 shows ? for what it lacks
            stream.reconfigure(errors="replace")
    words = None if arguments is None else [os.fspath(argument) for argument in arguments]
    with warnings.catch_warnings():
        warnings.showwarning = _show_warning
        # Commands decode texts as they stand where they are asked to: --raw, holes.
        warnings.simplefilter("ignore", RawTextWarning)
        try:
            code = _command()(args=words, prog_name="fastedit", standalone_mode=False)
            sys.stdout.flush()
        except OSError as error:
            reason = full(error)
            if reason is None:
                raise
            tell(f"cannot write {error.filename or 'the output'}: {reason}")
            _drop_output()
            return UserError.exit_code
        except CommandLineError as error:
            tell(message(error))
            return error.exit_code
        except (KeyboardInterrupt, typer.Abort):
            code = INTERRUPTED
    if code == INTERRUPTED:  # typer makes it of Ctrl-C by itself
        tell("interrupted")
    return code if isinstance(code, int) else 0


@functools.cache
def _command() -> Any:
    """All commands and their options; `app` would put them together at every call."""
    return typer.main.get_command(app)


def _drop_output() -> None:
    """What could not be written to stdout would be tried again, and fail again, at the exit."""
    with contextlib.suppress(OSError):  # it is no file
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    tell(f"warning: {message}")
