"""`fastedit eval` of several settings: side by side, in one table or one object."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fastedit.cli.errors import UserError, one_line
from fastedit.cli.questions import source_line
from fastedit.cli.report import POLICIES_CAPTION, paired_lines, policies_table, remarks
from fastedit.cli.terminal import counting, plain, stdout_console

if TYPE_CHECKING:
    from fastedit.decoder import Decoder
    from fastedit.evaluation.answers import Record
    from fastedit.evaluation.tuning.questions import Questions
    from fastedit.policies import Policy


def refuse_beside_policies(options: Mapping[str, Any]) -> None:
    """Options of a single rule; those that were not given are None."""
    for name, value in options.items():
        if value is not None:
            raise UserError(
                f"--{name} is of one policy and does not go with --policies: write "
                "--policies NAME:FIELD=VALUE,..."
            )


def measure_rows(
    decoders: Mapping[str, Callable[[], Decoder]],
    questions: Questions,
    policies: Sequence[Policy],
    record: Record,
    batch_size: int,
    seed: int,
) -> dict[str, Any]:
    """A row for each policy and decoder, by the name of which they are paired; for JSON.

    Ctrl-C ends it with the rows that are there, and `interrupted`.
    """
    from fastedit.evaluation.machine import hardware
    from fastedit.evaluation.paired import paired
    from fastedit.evaluation.policies import compared

    rows: list[dict[str, Any]] = []
    right: dict[str, list[list[bool]]] = {}
    place, interrupted = "", False
    label = questions.source.rpartition("/")[2].removeprefix("task:")
    total = len(questions.items) * len(policies) * len(decoders)
    try:
        for model, load in decoders.items():
            decoder = load()
            place = hardware(decoder.device)
            # What a user may have got wrong is found before the first row.
            with counting(label, total, sum(row.get("n", 0) for row in rows)) as advance:
                found = compared(
                    decoder,
                    questions,
                    policies,
                    record=record,
                    model=model,
                    batch_size=batch_size,
                    seed=seed,
                    on_done=advance,
                )
                with one_line(ValueError, TypeError):
                    for measured in found:
                        rows.append(({"model": model} if model else {}) | measured.numbers)
                        right.setdefault(measured.numbers["policy"], []).append(measured.right)
    except KeyboardInterrupt:
        interrupted = True
    pairs = [
        {"policy": policy} | paired(*both)
        for policy, both in right.items()
        if len(both) == 2 and all(both)
    ]
    return {
        "hardware": place,
        "interrupted": interrupted,
        "rows": rows,
        **({"paired": pairs} if len(decoders) == 2 else {}),
    }


def print_rows(result: Mapping[str, Any], questions: Questions) -> None:
    console, rows = stdout_console(), result["rows"]
    console.print(policies_table(rows))
    for line in paired_lines(result.get("paired", ())):
        console.print(line, markup=False)
    for line in remarks(rows):
        console.print(line, markup=False)
    console.print(POLICIES_CAPTION, markup=False)
    batches = f"batches of {result['batch_size']}, {result['hardware']}"
    plain(console, f"{source_line(questions)}, {batches}")
