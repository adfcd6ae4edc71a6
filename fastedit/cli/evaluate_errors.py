"""`fastedit eval errors`: what a model drafts wrongly before and after it was adapted."""

from __future__ import annotations

import json as json_format
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fastedit.cli import options
from fastedit.cli.checkpoint import load_decoder
from fastedit.cli.error_tables import report_lines
from fastedit.cli.errors import UserError, one_line
from fastedit.cli.options import option
from fastedit.cli.output import held
from fastedit.cli.terminal import counting, plain, stdout_console
from fastedit.files.locks import locked_folder
from fastedit.tasks import task_names

if TYPE_CHECKING:
    from fastedit.evaluation.errors.survey import Answers, Survey

_DATA = "Samples"


def errors_command(
    before: Annotated[str, option("Folder, Hub id or 'tiny'.", metavar="PATH|ID")] = "tiny",
    after: Annotated[
        str | None, option("Another checkpoint, or that of --adapter.", metavar="PATH|ID")
    ] = None,
    adapter: Annotated[str | None, option("LoRA folder or Hub id, merged into `after`.")] = None,
    output: Annotated[
        Path | None, option("Folder for report.json and plots (PNG and SVG).")
    ] = None,
    as_json: Annotated[bool, option("One object.", None, "--json")] = False,
    decode: Annotated[
        bool, option("Also tokens edited in decoding.", None, "--decode/--no-decode")
    ] = True,
    policy: Annotated[
        str, option("Of decoding, as of `fastedit generate`.", metavar="NAME")
    ] = "joint_threshold",
    draft_mode: Annotated[
        str, option("The best id, or a draw.", metavar="argmax|sample")
    ] = "argmax",
    draft_temperature: Annotated[float, option("Of draws.")] = 1.0,
    seed: Annotated[int, option("Of masks, draws and intervals.")] = 0,
    batch_size: Annotated[int, typer.Option(min=1, help="Samples in a draft pass.")] = 8,
    task: Annotated[
        str | None, option(f"{' or '.join(task_names())}: held-out problems.", _DATA)
    ] = None,
    data: Annotated[
        str | None,
        option("JSON Lines as in training; or task:NAME,option=number.", _DATA, metavar="FILE"),
    ] = None,
    n: Annotated[int, typer.Option("--n", min=2, help="The first n.", rich_help_panel=_DATA)] = 200,
    max_length: Annotated[int | None, option("Tokens; longer is cut off.", _DATA)] = None,
    on_bad_line: Annotated[
        str, option("What a bad line does.", _DATA, metavar="stop|skip")
    ] = "stop",
    raw: Annotated[bool, option("No chat template around prompts.", _DATA, "--raw")] = False,
    prompt_field: Annotated[str, option("Where prompts are in the data.", _DATA)] = "prompt",
    completion_field: Annotated[str, option("Where answers are.", _DATA)] = "completion",
    ignore_fields: Annotated[
        list[str] | None, option("Keys of lines that may be left unread; repeatable.", _DATA)
    ] = None,
    dtype: options.Dtype = "auto",
    device: options.Device = "auto",
) -> None:
    """Compare the errors of a model before and after adaptation: same samples, same masks."""
    if after is None and adapter is None:
        raise UserError("nothing to compare with: pass --after or --adapter")
    if task is not None and data is not None:
        raise UserError("--task and --data exclude each other")
    from fastedit.evaluation.errors import plots
    from fastedit.evaluation.errors.survey import Survey

    with one_line(ValueError, ImportError):
        if output is not None:
            plots.require()  # before hours of drafts
        survey = Survey(
            source=data or f"task:{task or 'chain_sum'}",
            samples=n,
            seed=seed,
            draft_mode=draft_mode,
            draft_temperature=draft_temperature,
            decode=decode,
            policy=policy,
            batch_size=batch_size,
            max_length=max_length,
            on_bad_line=on_bad_line,
            raw=raw,
            prompt_field=prompt_field,
            completion_field=completion_field,
            ignore_fields=tuple(ignore_fields) if ignore_fields else None,
        )
    models = {
        "before": os.fspath(before),
        "after": os.fspath(after or before),
        "adapter": adapter and os.fspath(adapter),
    }
    with held(output, locked_folder):
        first = _ask(survey, "before", before, None, dtype, device)
        second = _ask(survey, "after", after or before, adapter, dtype, device)
        with one_line(ValueError):
            report = models | survey.report(first, second)
        text = json_format.dumps(_finite(report))
        if output is not None:
            _write(report, text, output)
    if as_json:
        typer.echo(text)
        return
    console = stdout_console()
    for line in report_lines(report):
        plain(console, line)
    if output is not None:
        plain(console, f"\nreport.json and plots are in {output}")


def _ask(
    survey: Survey, name: str, checkpoint: str, adapter: str | None, dtype: str, device: str
) -> Answers:
    from fastedit.config import DecodeConfig
    from fastedit.results import RequestError

    twice = name == "before"
    decoder = load_decoder(checkpoint, DecodeConfig(), adapter, None, dtype, device)
    with (
        one_line(ValueError, OSError, ImportError, RequestError),
        counting(name, survey.samples * survey.passes(twice)) as advance,
    ):
        return survey.ask(decoder.model, decoder.tokenizer, twice=twice, on_samples=advance)


def _finite(value: Any) -> Any:
    """`value` with null for every NaN, which JSON does not have."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def _write(report: dict[str, Any], text: str, folder: Path) -> None:
    from fastedit.evaluation.errors.plots import draw

    with one_line(OSError):
        (folder / "report.json").write_text(text + "\n", encoding="utf-8")
        draw(report, folder)
