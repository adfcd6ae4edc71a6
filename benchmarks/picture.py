"""The moving picture of the README: a canvas of the embedded checkpoint, a frame per forward.

    python benchmarks/picture.py docs/figures/canvas.svg      (make picture)

One answer of the demo is decoded; nothing is drawn by hand. States are told apart by shape: a mask
is a bar, a draft is underlined, an edit is framed with the token that it replaced above it, and
what is committed stands plain. The SVG moves by CSS alone, and shows its last frame where motion
is unwanted.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from fastedit import Decoder
from fastedit.cli.canvas import SPECIAL_SIGN
from fastedit.prompts.tokens import special_ids
from fastedit.tasks import get_task

TASK, PLACE, MODE = "leg_counting", 16, "speed"
CELL, LINE, LEFT, TOP = 13, 40, 28, 96  # pixels
SECONDS, LAST = 1.1, 4.0  # of a frame, and of the last one
MASK, DRAFT, EDITED, COMMITTED = "mask", "draft", "edited", "committed"
STYLE = """
.panel{fill:#fff;stroke:#d0d7de}text{font:21px ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;
fill:#1f2328;white-space:pre}.note{font-size:14px;fill:#59636e}.mask{fill:#afb8c1}
.draft{fill:#0550ae}.edited{fill:#953800;font-weight:700}.old{font-size:14px;fill:#953800}
.under{stroke:#0550ae;stroke-width:2}.strike{stroke:#953800;stroke-width:1.5}
.frame{fill:#fff1e5;stroke:#bc4c00;stroke-width:2}
@media(prefers-color-scheme:dark){.panel{fill:#0d1117;stroke:#3d444d}text{fill:#f0f6fc}
.note{fill:#9198a1}.mask{fill:#656c76}.draft{fill:#79c0ff}.edited,.old{fill:#ffb77c}
.under{stroke:#79c0ff}.strike{stroke:#ffb77c}.frame{fill:#3d2310;stroke:#f0883e}}
"""


@dataclass(frozen=True)
class Cell:
    """A position of the answer in one frame; old: the text that an edit replaced just now."""

    text: str
    state: str
    old: str = ""


@dataclass(frozen=True)
class Frame:
    cells: list[Cell]
    note: str


def frames(decoder: Decoder, question: list[dict[str, str]]) -> list[Frame]:
    """The canvas before the first forward of each block, and behind every forward."""
    mask, special = decoder.tokenizer.mask_token_id, special_ids(decoder.tokenizer)

    def shown(token: int) -> str:
        return SPECIAL_SIGN if token in special else decoder.tokenizer.decode([token])

    found: list[Frame] = []
    committed: list[Cell] = []
    block: list[Cell] = []
    before: list[int] = []
    forwards = edits = 0
    for event in decoder.stream(question, drafts=True, mode=MODE):
        if event.kind == "commit":
            committed += [Cell(shown(token), COMMITTED) for token in event.ids]
            before, block = [], []
        elif event.kind == "draft":
            if not before:
                before = [mask] * len(event.ids)
                block = [Cell("", MASK)] * len(event.ids)
                found.append(Frame(committed + block, _note(forwards, edits, "a block opens")))
            forwards += 1
            changed = [a != b for a, b in zip(before, event.ids, strict=True)]
            new = sum(c and a != mask for c, a in zip(changed, before, strict=True))
            edits += new
            block = [
                Cell(
                    shown(now), EDITED if old != mask else DRAFT, shown(old) if old != mask else ""
                )
                if change
                else Cell(cell.text, cell.state)
                for change, old, now, cell in zip(changed, before, event.ids, block, strict=True)
            ]
            before = list(event.ids)
            does = f"{new} edited" if new else "masks filled" if any(changed) else "nothing changes"
            found.append(Frame(committed + block, _note(forwards, edits, does)))
    found.append(Frame(committed, _note(forwards, edits, f"{len(committed)} tokens committed")))
    return found


def _note(forwards: int, edits: int, what: str) -> str:
    return f"forward {forwards:2}   edits {edits}   {what}"


def drawing(pictures: list[Frame], question: str) -> str:
    """The SVG of these frames, one after the other."""
    final = [cell.text for cell in pictures[-1].cells]
    lines = "".join(final).count("\n") + 1
    widest = max(map(len, "".join(final).split("\n")))
    width = LEFT * 2 + CELL * max(widest + 6, 56)
    height = TOP + LINE * lines + 34
    times = [SECONDS] * (len(pictures) - 1) + [LAST]
    total, begin = sum(times), 0.0
    styles, groups = [STYLE], []
    for number, (picture, seconds) in enumerate(zip(pictures, times, strict=True)):
        start, end = 100 * begin / total, 100 * (begin + seconds) / total
        begin += seconds
        hidden = f"0%{{visibility:hidden}}{start:.3f}%{{visibility:visible}}"
        hidden = hidden if number else "0%{visibility:visible}"
        styles.append(f"@keyframes k{number}{{{hidden}{end:.3f}%,100%{{visibility:hidden}}}}")
        styles.append(
            f"#f{number}{{visibility:hidden;animation:k{number} {total:.1f}s step-end infinite}}"
        )
        groups.append(f'<g id="f{number}">{_cells(picture, final, height)}</g>')
    last = len(pictures) - 1
    styles.append(f"#f{last}{{animation-name:l}}@keyframes l{{0%{{visibility:hidden}}")
    styles.append(f"{100 * (total - LAST) / total:.3f}%,100%{{visibility:visible}}}}")
    styles.append(
        "@media(prefers-reduced-motion:reduce){g{animation:none!important}"
        f"#f{last}{{visibility:visible}}}}"
    )
    asked = f'<text class="note" x="{LEFT}" y="34">{escape(question)}</text>'
    legend = (
        f'<g class="legend"><rect class="mask" x="{LEFT}" y="53" width="9" height="11" rx="2"/>'
        f'<text class="note" x="{LEFT + 16}" y="64">mask</text>'
        f'<line class="under" x1="{LEFT + 70}" x2="{LEFT + 106}" y1="68" y2="68"/>'
        f'<text class="note" x="{LEFT + 70}" y="64">draft may change</text>'
        f'<rect class="frame" x="{LEFT + 220}" y="50" width="56" height="18" rx="3"/>'
        f'<text class="note" x="{LEFT + 224}" y="64">edited</text>'
        f'<text class="note" x="{LEFT + 292}" y="64">committed</text></g>'
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
        f'height="{height}" role="img" aria-label="a canvas being drafted and edited">'
        f"<style>{''.join(styles)}</style>"
        f'<rect class="panel" x=".5" y=".5" width="{width - 1}" height="{height - 1}" rx="8"/>'
        f"{asked}{legend}{''.join(groups)}</svg>\n"
    )


def _cells(picture: Frame, final: list[str], height: int) -> str:
    """A frame, each position where it stands in the finished answer."""
    column, line, parts = 0, 0, []
    for cell, text in zip(picture.cells, final, strict=False):
        x, y = LEFT + CELL * column, TOP + 24 + LINE * line
        wide = CELL * max(len(text.strip("\n")), len(cell.text.strip("\n")), 1)
        parts.append(_cell(cell, x, y, wide))
        column += len(text.strip("\n"))
        if "\n" in text:
            column, line = 0, line + text.count("\n")
    note = escape(picture.note)
    return "".join(parts) + f'<text class="note" x="{LEFT}" y="{height - 16}">{note}</text>'


def _cell(cell: Cell, x: int, y: int, wide: int) -> str:
    if cell.state == MASK:
        return (
            f'<rect class="mask" x="{x + 2}" y="{y - 14}" width="{wide - 4}" height="14" rx="3"/>'
        )
    text = cell.text.strip("\n")
    if not text.strip():
        return ""
    length, below = CELL * len(text), y + 6
    letters = (
        f'<text class="{cell.state}" x="{x}" y="{y}" textLength="{length}">{escape(text)}</text>'
    )
    if cell.state == DRAFT:
        under = f'x1="{x + 1}" x2="{x + wide - 1}" y1="{below}" y2="{below}"'
        return f'{letters}<line class="under" {under}/>'
    if cell.state == EDITED:
        frame = f'<rect class="frame" x="{x}" y="{y - 18}" width="{wide}" height="24" rx="3"/>'
        old = escape(cell.old.strip("\n"))
        gone = (
            f'<text class="old" x="{x + 2}" y="{y - 22}">{old}</text>'
            f'<line class="strike" x1="{x}" x2="{x + wide}" y1="{y - 27}" y2="{y - 27}"/>'
        )
        return frame + letters + (gone if old else "")
    return letters


def picture() -> str:
    task = get_task(TASK)
    problem = task.test_set(PLACE + 1)[PLACE]
    made = frames(Decoder.from_pretrained("tiny"), task.messages(problem.question))
    asked = problem.question.strip().splitlines()[-1].removeprefix("Now, ")
    return drawing(made, asked[0].upper() + asked[1:])


def main(arguments: Any = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path)
    path = parser.parse_args(arguments).output
    path.write_text(picture(), encoding="utf-8")
    print(f"{path}: {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
