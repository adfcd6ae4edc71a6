"""One request shown while it decodes: the canvas in place, or a line per forward."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.text import Text

from fastedit.cli.canvas import (
    DELETED,
    DRAFT,
    EDITED,
    INSERTED,
    MASK,
    NEWLINE_SIGN,
    REMASKED,
    SIGNS,
    SPECIAL_SIGN,
    Canvas,
)
from fastedit.cli.terminal import can_redraw, plain, printable, stderr_console

if TYPE_CHECKING:
    from fastedit.decoder import Decoder
    from fastedit.results import DecodeStats, Event

# A frame stays at least this long, so that the eye can follow a model that is faster.
FRAME_SECONDS = 0.08
# Told apart without colour too: signs, underline, brackets, plain.
STYLES = {
    MASK: "dim",
    DRAFT: "underline cyan",
    EDITED: "bold yellow",
    REMASKED: "bold magenta",
    INSERTED: "bold green",
    DELETED: "bold red",
}
_LEGEND_LINES = 2


def show(
    events: Iterator[Event], decoder: Decoder, console: Console, before: str = ""
) -> tuple[str, DecodeStats]:
    """Show what `Decoder.stream(..., drafts=True)` yields, behind the text `before`;
    returns all of the text, and the stats.

    On a terminal the canvas is drawn in place and removed at the end; elsewhere, every forward is
    one line.
    """
    from fastedit.request.settled import mask_of

    mask = mask_of(decoder.config, decoder.model, decoder.tokenizer, decoder.family)
    canvas = Canvas(decoder.tokenizer, mask, before)
    stats: list[Any] = []

    def frames() -> Iterator[bool]:
        for event in events:
            canvas.update(event)
            stats.append(event.stats)
            yield event.kind == "draft"

    draw(frames(), canvas, console)
    return canvas.text, stats[-1]


def draw(frames: Iterator[bool], canvas: Canvas, console: Console) -> None:
    """Show `canvas` whenever one of `frames` comes, which change it; it says whether it is a step.

    On a terminal in place, and removed at the end; elsewhere a line per step.
    """
    if not can_redraw(console):
        plain(stderr_console(), LINES_LEGEND)
        for step in frames:
            if step:
                plain(console, f"{canvas.status()}  {canvas.line()}")
        return
    view = CanvasView(canvas)
    with Live(view, console=console, auto_refresh=False, transient=True) as live:
        for step in frames:
            live.refresh()
            if step:
                time.sleep(FRAME_SECONDS)


class CanvasView:
    """Draws a `Canvas`: its last lines, as many as the terminal holds, a status and a legend."""

    def __init__(self, canvas: Canvas) -> None:
        self.canvas = canvas

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        lines = self.text().wrap(console, options.max_width)
        room = max(console.size.height - _LEGEND_LINES - 1, 1)
        yield from lines[-room:]
        yield Text(self.canvas.status(), style="dim", no_wrap=True, overflow="ellipsis")
        yield LEGEND_OF_MOVES if self.canvas.moves else LEGEND

    def text(self) -> Text:
        text = Text(printable(self.canvas.text))
        for state, piece in self.canvas.pieces(NEWLINE_SIGN + "\n"):
            text.append(f"[{piece}]" if state == EDITED else piece, STYLES[state])
        return text


LEGEND = Text.assemble(
    (SIGNS[MASK], STYLES[MASK]), " mask  ",
    ("filled", STYLES[DRAFT]), " may change  ",
    ("[edited]", STYLES[EDITED]), "  ",
    (SIGNS[REMASKED], STYLES[REMASKED]), " mask again  ",
    "committed  ", SPECIAL_SIGN, " end",
    no_wrap=True, overflow="ellipsis", style="dim",
)  # fmt: skip
LEGEND_OF_MOVES = Text.assemble(
    (SIGNS[INSERTED], STYLES[INSERTED]), " mask put in  ",
    (SIGNS[DELETED], STYLES[DELETED]), " taken out  ", LEGEND,
    no_wrap=True, overflow="ellipsis", style="dim",
)  # fmt: skip
# Of lines without styles, which show the active block alone.
LINES_LEGEND = (
    f"{SIGNS[MASK]} mask  {SIGNS[REMASKED]} mask again  {SIGNS[INSERTED]} mask put in  "
    f"{SIGNS[DELETED]} taken out  [edited]  {NEWLINE_SIGN} new line  "
    f"{SPECIAL_SIGN} end; all else is filled, and may change"
)
