"""`fastedit eval --policies`: rules side by side, in one table or one object."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import typer

from fastedit.cli.errors import InterruptedRunError, UserError, one_line
from fastedit.cli.report import POLICIES_CAPTION, policies_table, remarks
from fastedit.cli.terminal import counting, plain, stdout_console

if TYPE_CHECKING:
    from fastedit.decoder import Decoder
    from fastedit.policies import Policy
    from fastedit.tasks import Task


def refuse_beside_policies(options: Mapping[str, Any]) -> None:
    """Options of a single rule; those that were not given are None."""
    for name, value in options.items():
        if value is not None:
            raise UserError(
                f"--{name} is of one policy and does not go with --policies: write "
                "--policies NAME:FIELD=VALUE,..."
            )


def compare_policies(
    decoder: Decoder,
    task: Task,
    policies: Sequence[Policy],
    n: int,
    batch_size: int,
    seed: int,
    model: Mapping[str, Any],
    as_json: bool,
) -> int:
    """Measure and print; returns the exit code. Ctrl-C prints the rows that are there."""
    from fastedit.evaluation.machine import hardware
    from fastedit.evaluation.policies import compare

    rows: list[dict[str, Any]] = []
    interrupted = False
    # What a user may have got wrong is found before the first row.
    with counting(task.name, n * len(policies)) as advance, one_line(ValueError, TypeError):
        found = compare(
            decoder, task, policies, n, batch_size=batch_size, seed=seed, on_done=advance
        )
        try:
            for row in found:
                rows.append(row)
        except KeyboardInterrupt:
            interrupted = True
    place = hardware(decoder.device)
    if as_json:
        result = {"task": task.name, "n": n, "batch_size": batch_size, "seed": seed}
        result |= {**model, "hardware": place}
        typer.echo(json.dumps(result | {"interrupted": interrupted, "rows": rows}))
    else:
        console = stdout_console()
        console.print(policies_table(rows))
        for line in remarks(rows):
            console.print(line, markup=False)
        console.print(POLICIES_CAPTION, markup=False)
        plain(console, f"{task.name}, {n} problems, batches of {batch_size}, {place}")
    if interrupted:
        raise InterruptedRunError(f"interrupted: {len(rows)} of {len(policies)} policies are done")
    measured = [row for row in rows if "reason" not in row]
    return 1 if not measured or any(row["failed"] for row in measured) else 0
