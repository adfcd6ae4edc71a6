"""`fastedit merge`: an adapter becomes part of the weights of a whole checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fastedit.cli import options
from fastedit.cli.checkpoint import DTYPES
from fastedit.cli.errors import UserError, one_line
from fastedit.cli.options import option
from fastedit.cli.terminal import stderr_console


def merge_command(
    adapter: Annotated[str | None, option("LoRA folder or Hub id.")] = None,
    output: Annotated[Path | None, option("New folder for the checkpoint.")] = None,
    checkpoint: Annotated[
        str, option("Folder, Hub id, or 'tiny' (embedded).", metavar="PATH|ID")
    ] = "tiny",
    head: Annotated[
        str | None, option("Folder of a head that goes along; default: beside the adapter.")
    ] = None,
    revision: options.Revision = None,
    dtype: options.Dtype = "auto",
) -> None:
    """Write a checkpoint with an adapter merged into its weights: it needs no peft."""
    missing = {"--adapter": adapter, "--output": output}
    if adapter is None or output is None:
        names = ", ".join(name for name, value in missing.items() if value is None)
        raise UserError(f"missing: {names}")
    if dtype not in DTYPES:
        raise UserError(f"--dtype must be one of {', '.join(DTYPES)}; got {dtype!r}")
    refusals = (ValueError, TypeError, OSError, ImportError)
    with stderr_console().status(f"merging {adapter}"), one_line(*refusals):
        from transformers.utils import logging

        from fastedit.training.merge import merge

        logging.disable_progress_bar()
        merged = merge(checkpoint, adapter, output, head=head, revision=revision, dtype=dtype)
    typer.echo(f"merged checkpoint in {merged.folder}", err=True)
    way = f"--checkpoint {merged.folder}"
    if merged.head is not None:
        typer.echo(f"its head came along, into {merged.head}", err=True)
        way += f" --head {merged.head}"
    if merged.left is not None:
        typer.echo(
            f"the head in {merged.left} is of the checkpoint before and stayed there; --head "
            "takes it along",
            err=True,
        )
    typer.echo(f"try it: fastedit generate {way} ...", err=True)
