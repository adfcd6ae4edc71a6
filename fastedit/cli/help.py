"""What `--help` prints: options under their headings, no name cut, within the terminal's width."""

from __future__ import annotations

from typing import Any

import typer.core

WIDEST = 100


def settings() -> dict[str, Any]:
    """Of every command: `-h` asks for help too, and lines are no longer than can be read."""
    return {"help_option_names": ["-h", "--help"], "max_content_width": WIDEST}


class Command(typer.core.TyperCommand):
    """A command whose options stand under the headings that `rich_help_panel` names."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        _write_options(self, ctx, formatter)


class Group(typer.core.TyperGroup):
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
