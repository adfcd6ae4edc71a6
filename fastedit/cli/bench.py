"""The command `fastedit bench`."""

from __future__ import annotations

import json as json_format
from typing import Annotated

import typer

from fastedit.cli import options
from fastedit.cli.errors import UserError, one_line
from fastedit.cli.terminal import counting, plain, stdout_console

LEAST_VOCAB = 64
BUSY = 0.5  # load of others; compiled code with a thread per core suffers most from it


def bench_command(
    blocks: Annotated[str, typer.Option(help="Blocks of 32 positions, several sizes.")] = "1,4,16",
    vocab: Annotated[int, typer.Option(min=LEAST_VOCAB, help="LLaDA2.x has 157184.")] = 157184,
    dtype: Annotated[str, typer.Option(help="Of the logits: fp32, bf16, fp16.")] = "bf16,fp32",
    as_json: Annotated[bool, typer.Option("--json", help="One object.")] = False,
    device: options.Device = "auto",
) -> None:
    """Time the decision step beside its peers: same inputs, outputs compared first."""
    import torch

    from fastedit.cli.bench_table import remarks, rich_table
    from fastedit.evaluation.bench.case import make_case
    from fastedit.evaluation.bench.measure import DTYPES, measure
    from fastedit.evaluation.machine import hardware, load

    sizes = [_positive(text) for text in blocks.split(",")]
    with one_line(RuntimeError, AssertionError):  # what torch raises for a device that is not here
        found = "cuda" if torch.cuda.is_available() else "cpu"
        place = torch.empty(0, device=found if device == "auto" else device).device
    names = dtype.split(",")
    for name in names:
        if name not in DTYPES:
            raise UserError(f"unknown dtype {name!r}; choose from {', '.join(DTYPES)}")
    before = load()
    rows = []
    with counting("bench", len(sizes) * len(names)) as advance:
        for name in names:
            for size in sizes:
                rows += measure(make_case(size, vocab, DTYPES[name], place))
                advance(1)
    if as_json:
        result = {
            "hardware": hardware(place),
            "torch": torch.__version__,
            "load_before": before,
            "rows": rows,
        }
        typer.echo(json_format.dumps(result))
    else:
        console = stdout_console()
        plain(console, f"One decision step, blocks of 32 x {vocab} logits, {hardware(place)}\n")
        console.print(rich_table(rows))
        for line in remarks(rows):
            plain(console, line)
        if before is not None and before > BUSY:
            plain(console, f"load was {before} before the run: threads had to wait, times are off")
    raise typer.Exit(1 if any("error" in row for row in rows) else 0)


def _positive(text: str) -> int:
    if not text.strip().isdecimal() or int(text) < 1:
        raise UserError(f"--blocks takes numbers from 1 on, separated by commas; got {text!r}")
    return int(text)
