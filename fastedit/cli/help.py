"""How commands read options, with their aliases, and what `--help` prints: options under their
headings, no name cut, within the terminal's width."""

from __future__ import annotations

from typing import Any

import typer.core

from fastedit.aliases import ALIASES
from fastedit.cli.errors import UserError

WIDEST = 100


def settings() -> dict[str, Any]:
    """Of every command: `-h` asks for help too, lines are no longer than can be read, and aliases
    of options are options."""
    return {
        "help_option_names": ["-h", "--help"],
        "max_content_width": WIDEST,
        "token_normalize_func": _spelled_out,
    }


def _spelled_out(token: str) -> str:
    name = ALIASES.get(token.replace("-", "_"))
    return name.replace("_", "-") if name else token


def _check_spelled_once(args: list[str]) -> None:
    """Raises UserError where an option is there under two names."""
    given = {arg.removeprefix("--").partition("=")[0] for arg in args if arg.startswith("--")}
    for name in given:
        if (own := _spelled_out(name)) != name and own in given:
            raise UserError(f"--{name} is --{own}: give one of them")


class Aliased:
    """A command that takes each option under one of its names."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        _check_spelled_once(args)
        return super().parse_args(ctx, args)  # type: ignore[misc]


class Command(Aliased, typer.core.TyperCommand):
    """A command whose options stand under the headings that `rich_help_panel` names."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        _write_options(self, ctx, formatter)


class Group(Aliased, typer.core.TyperGroup):
    """The same for a command that has others; each is told in full."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        _write_options(self, ctx, formatter)
        commands = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        rows = [
            (name, " ".join((c.help or "").partition("\n\n")[0].split()))
            for name, c in commands
            if c
        ]
        with formatter.section("Commands"):
            formatter.write_dl(rows)


def _write_options(command: Any, ctx: Any, formatter: Any) -> None:
    sections: dict[str, list[tuple[str, str]]] = {"Arguments": [], "Options": []}
    for parameter in command.get_params(ctx):
        record = parameter.get_help_record(ctx)
        if record is not None:
            default = "Arguments" if parameter.param_type_name == "argument" else "Options"
            heading = getattr(parameter, "rich_help_panel", None) or default
            sections.setdefault(heading, []).append(record)
    for heading, rows in sections.items():
        if rows:
            with formatter.section(heading):
                formatter.write_dl(rows)
