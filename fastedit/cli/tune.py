"""`fastedit tune`: which settings of a policy are worth their forwards, on a user's own data."""

from __future__ import annotations

import contextlib
import json as json_format
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table

from fastedit.cli import options, questions
from fastedit.cli.checkpoint import load_decoder
from fastedit.cli.errors import InterruptedRunError, UserError, one_line
from fastedit.cli.options import option
from fastedit.cli.output import held
from fastedit.cli.terminal import counting, plain, stderr_console, stdout_console
from fastedit.evaluation.answers import BATCH
from fastedit.files.locks import locked_folder

if TYPE_CHECKING:
    from fastedit.evaluation.tuning.search import Search

_SEARCH = "Search"
HEADERS = (
    "",
    "right answers\n(95% interval)",
    "forwards/\nanswer",
    "tokens/\nforward",
    "chosen by",
)


def tune_command(
    output: Annotated[
        Path | None, option("Folder for the numbers, report.json and a plot; a rerun goes on.")
    ] = None,
    as_json: Annotated[bool, option("One object.", None, "--json")] = False,
    batch_size: Annotated[int, typer.Option(min=1, help="Questions decoded together.")] = BATCH,
    seed: Annotated[int, option("Of the halves, the settings and draws.", _SEARCH)] = 0,
    candidates: Annotated[int, option("Settings to try, the default among them.", _SEARCH)] = 32,
    budget: Annotated[int | None, option("Forwards of all requests together.", _SEARCH)] = None,
    minutes: Annotated[float | None, option("Of this run.", _SEARCH)] = None,
    task: questions.Task = None,
    data: questions.Data = None,
    n: questions.Number = None,
    scorer: questions.Scorer = None,
    answer_field: questions.AnswerField = None,
    prompt_field: questions.PromptField = None,
    raw: questions.Raw = False,
    on_bad_line: questions.OnBadLine = None,
    ignore_fields: questions.IgnoreFields = None,
    checkpoint: options.Checkpoint = "tiny",
    adapter: options.Adapter = None,
    head: options.Head = None,
    revision: options.Revision = None,
    dtype: options.Dtype = "auto",
    device: options.Device = "auto",
    policy: Annotated[
        str | None,
        option(
            "Decision rule, NAME or NAME:FIELD=VALUE,...: what is given stays as it is.",
            "Decoding",
            metavar="POLICY",
        ),
    ] = None,
    max_new_tokens: options.MaxNewTokens = None,
    block_length: options.BlockLength = None,
    mask_token_id: options.MaskTokenId = None,
    eos_token_id: options.EosTokenId = None,
    temperature: options.Temperature = None,
    lookahead: options.Lookahead = None,
    cache: options.Cache = None,
) -> None:
    """Find settings of a policy that give more right answers, or as many for fewer forwards."""
    if (task is None) == (data is None):
        raise UserError("pass one of --task and --data")
    decoding = {
        "max_new_tokens": max_new_tokens,
        "block_length": block_length,
        "mask_token_id": mask_token_id,
        "eos_token_id": eos_token_id,
        "temperature": temperature,
        "lookahead": lookahead,
        "cache": cache,
        "seed": seed,
    }
    config = options.decode_config(policy=policy, **decoding)
    from fastedit.evaluation.errors.plots import require
    from fastedit.evaluation.machine import hardware
    from fastedit.evaluation.tuning.measure import Measure
    from fastedit.evaluation.tuning.record import Record
    from fastedit.evaluation.tuning.search import FEWEST, Limits, Search
    from fastedit.evaluation.tuning.space import Space
    from fastedit.policies.registry import given_in

    fixed = given_in(policy or "")
    with one_line(ValueError, ImportError, OSError):
        if output is not None:
            require()  # before hours of decoding
        limits = Limits(candidates, budget, minutes)
        if n is not None and n < FEWEST:
            raise ValueError(f"--n must be at least {FEWEST}; got {n}")
        if policy is not None:
            Space.of(config.rule(), fixed)
    asked, bad = questions.read_questions(
        task,
        data,
        n,
        on_bad_line,
        scorer=scorer,
        answer_field=answer_field,
        prompt_field=prompt_field,
        raw=raw,
        ignore_fields=ignore_fields,
    )
    record = Record()
    with contextlib.ExitStack() as stack:
        stack.enter_context(held(output, locked_folder))
        with one_line(ValueError, OSError):
            if output is not None:
                facts = {
                    "checkpoint": {
                        **_identity(checkpoint, adapter, revision, head),
                        "dtype": dtype,
                    },
                    "data set": asked.digest(),
                    "policy": policy and f"{config.rule()}, given: {', '.join(fixed)}",
                    "set of options": decoding,
                }
                stack.enter_context(record.open(output, facts))
        decoder = load_decoder(checkpoint, config, adapter, revision, dtype, device, head)
        measure = Measure(decoder, asked, batch_size=batch_size, seed=seed)
        with one_line(ValueError, TypeError):
            space = Space.of(config.rule(decoder.family.policy), fixed)
            items = measure.checked(space.base, bad)
            bad.check()
            search = Search(space, items, measure, record, seed=seed, limits=limits)
        report = {
            "checkpoint": os.fspath(checkpoint),
            "adapter": adapter and os.fspath(adapter),
            "head": head and os.fspath(head),
            "source": asked.source,
            "scorer": asked.scorer,
            **_run(search, output),
            "hardware": hardware(decoder.device),
        }
        text = json_format.dumps(report)
        if output is not None:
            _write(report, text, output)
    if as_json:
        typer.echo(text)
    else:
        _print(report, output)
    points = [report["default"], *report["front"]]
    failed = any(point[half]["failed"] for point in points for half in ("selection", "held_out"))
    raise typer.Exit(1 if failed else 0)


def _run(search: Search, output: Path | None) -> dict[str, Any]:
    try:
        with counting("settings", search.limits.candidates) as advance:
            return search.run(advance)
    except KeyboardInterrupt:
        kept = "nothing is kept without --output"
        if output is not None:
            count = len(search.record)
            kept = f"{count} measurements are in {output}; the same command goes on from there"
        raise InterruptedRunError(f"interrupted: {kept}") from None


def _identity(
    checkpoint: str, adapter: str | None, revision: str | None, head: str | None
) -> dict[str, str]:
    from fastedit.models.identity import identity

    with stderr_console().status("reading the checkpoint"), one_line(OSError, ValueError):
        return identity(checkpoint, adapter, revision, head)


def _write(report: dict[str, Any], text: str, folder: Path) -> None:
    from fastedit.evaluation.tuning.plot import draw

    with one_line(OSError):
        (folder / "report.json").write_text(text + "\n", encoding="utf-8")
        draw(report, folder)


def _print(report: Mapping[str, Any], output: Path | None) -> None:
    """The front, held out, in a table that fits 80 columns, then the text of each setting."""
    console, rows = stdout_console(), list(report["front"])
    if not any(row["default"] for row in rows):
        rows.append(report["default"])
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for header in HEADERS:
        table.add_column(header, justify="right", no_wrap=True)
    for number, row in enumerate(rows, start=1):
        found, chosen = row["held_out"], row["selection"]
        low, high = found["interval"]
        table.add_row(
            f"{number}{'*' if row['beaten'] else ' '}",
            f"{found['accuracy']:.0%} ({100 * low:.0f}-{high:.0%})",
            f"{found['forwards_per_answer']:.1f}",
            f"{found['tokens_per_forward']:.2f}",
            f"{chosen['accuracy']:.0%}, {chosen['forwards_per_answer']:.1f}",
        )
    console.print(table)
    for number, row in enumerate(rows, start=1):
        plain(console, f"{number}  {row['policy']}{'  (default)' if row['default'] else ''}")
    halves = report["questions"]
    plain(
        console,
        f"\n{report['tried']} settings tried on {halves['selection']} questions of "
        f"{report['source']}; held out: {halves['held_out']}.",
    )
    plain(console, f"{report['forwards']} forwards; ended by: {report['stopped']}.")
    if any(row["beaten"] for row in rows):
        plain(console, "* another one is better on the held-out half.")
    if report["plan"] == "shadow":
        plain(console, "A forward of this policy has two rows per position of the block.")
    if output is not None:
        plain(console, f"report.json and the plot are in {output}")
