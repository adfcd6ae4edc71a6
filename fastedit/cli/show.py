"""`fastedit show`: traces in the terminal, or as one page for a browser."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fastedit.cli.errors import UserError, one_line
from fastedit.cli.terminal import plain, printable, stdout_console

if TYPE_CHECKING:
    from rich.console import Console

    from fastedit.traces import Trace

Files = Annotated[
    list[Path],
    typer.Argument(
        help="Of `generate --trace`; two are side by side in a page.", metavar="FILE [FILE]"
    ),
]
Which = Annotated[
    int | None, typer.Option("--request", help="The request to show, by its index.", metavar="N")
]
Html = Annotated[
    Path | None, typer.Option("--html", help="Write one page for a browser.", metavar="FILE")
]
Position = Annotated[
    int | None,
    typer.Option(help="Say what happened to this token, and why; 0 is the first.", metavar="N"),
]

_COUNTS = {
    "t2t_edits": "edits",
    "remasks": "remasks",
    "inserts": "inserts",
    "deletes": "deletes",
    "oscillations": "oscillations",
}


def show_command(
    files: Files, request: Which = None, html: Html = None, position: Position = None
) -> None:
    """Show how a text was drafted and edited: FILE is a trace."""
    if len(files) > 2:
        raise UserError(f"show takes one or two files; got {len(files)}")
    if html is not None and position is not None:
        raise UserError("--position is for the terminal; in a page, point at the token")
    groups = [_traces(file, request) for file in files]
    if html is not None:
        _write(html, groups, files)
        return
    console = stdout_console()
    for file, traces in zip(files, groups, strict=True):
        for trace in traces:
            title = f"{file}: " if len(files) > 1 else ""
            plain(console, printable(f"{title}request {trace.header['request']}, {trace.policy}"))
            if position is None:
                _play(trace, console)
            else:
                with one_line(IndexError):
                    plain(console, printable(str(trace.history(position))))


def _traces(file: Path, request: int | None) -> list[Trace]:
    from fastedit import traces

    with one_line(OSError, ValueError):
        found = sorted(traces.load(file), key=lambda trace: trace.header["request"])
    if request is None:
        return found
    chosen = [trace for trace in found if trace.header["request"] == request]
    if not chosen:
        there = ", ".join(str(trace.header["request"]) for trace in found[:10])
        more = ", ..." if len(found) > 10 else ""
        raise UserError(f"--request {request}: {file} has {there}{more}")
    return chosen


def _play(trace: Trace, console: Console) -> None:
    from fastedit.cli.live import draw
    from fastedit.cli.replay import Replay

    replay = Replay(trace)
    draw(replay.frames(), replay.canvas, console)
    plain(console, printable(replay.canvas.text))
    plain(console, _summary(trace.stats))


def _summary(stats: dict[str, Any]) -> str:
    told = [f"{stats.get('tokens', '?')} tokens in {stats.get('forwards', '?')} forwards"]
    for name, words in _COUNTS.items():
        told += [f"{stats[name]} {words}"] if stats.get(name) else []
    share = stats.get("share_after_last_mask")
    if isinstance(share, (int, float)) and stats.get("m2t_commits"):
        told.append(f"{share:.0%} of the forwards after the last mask")
    return ", ".join(told)


def _write(path: Path, groups: list[list[Trace]], files: list[Path]) -> None:
    from fastedit.traces.page import page

    if any(path.exists() and path.samefile(file) for file in files):
        raise UserError(f"--html would overwrite {path}: give it a file of its own")
    try:
        path.write_text(page(groups, [file.name for file in files]), encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from error
    typer.echo(f"fastedit: {path} is written: open it in a browser", err=True)
