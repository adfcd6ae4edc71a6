"""`fastedit eval`: how often the answers are right, and how few forwards they take."""

from __future__ import annotations

import contextlib
import dataclasses
import json as json_format
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fastedit.cli import options, questions
from fastedit.cli.checkpoint import load_decoder
from fastedit.cli.errors import InterruptedRunError, RequestFailedError, UserError, one_line
from fastedit.cli.evaluate_rows import measure_rows, print_rows, refuse_beside_policies
from fastedit.cli.options import option
from fastedit.cli.output import held
from fastedit.cli.report import result_lines
from fastedit.cli.terminal import counting, plain, stdout_console
from fastedit.evaluation.answers import BATCH, Record
from fastedit.files.jsonl import BadLines
from fastedit.files.locks import locked_folder

if TYPE_CHECKING:
    from fastedit.config import DecodeConfig
    from fastedit.decoder import Decoder
    from fastedit.evaluation.tuning.questions import Questions
    from fastedit.policies import Policy


def evaluate_command(
    context: typer.Context,
    output: Annotated[
        Path | None, option("Folder for answers, report.json and a plot; a rerun goes on.")
    ] = None,
    as_json: Annotated[bool, option("One object.", None, "--json")] = False,
    batch_size: Annotated[int, typer.Option(min=1, help="Questions decoded together.")] = BATCH,
    policies: Annotated[
        list[str] | None,
        option("Compare these in one table; commas or repeated.", metavar="all|POLICY,..."),
    ] = None,
    grid: Annotated[
        list[str] | None,
        option("Compare these values of the policy; repeatable.", metavar="FIELD=VALUE,..."),
    ] = None,
    baseline: Annotated[
        bool, option("Compare with the checkpoint before --adapter.", None, "--baseline")
    ] = False,
    no_editing: Annotated[bool, option("Drafts stay.", None, "--no-editing")] = False,
    seed: Annotated[int | None, option("Of draws; in a table the first question's.")] = None,
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
    policy: options.Policy = None,
    mode: options.Mode = None,
    threshold: options.Threshold = None,
    editing_threshold: options.EditingThreshold = None,
    max_new_tokens: options.MaxNewTokens = None,
    block_length: options.BlockLength = None,
    max_post_steps: options.MaxPostSteps = None,
    num_to_transfer: options.NumToTransfer = None,
    steps: options.Steps = None,
    mask_token_id: options.MaskTokenId = None,
    eos_token_id: options.EosTokenId = None,
    temperature: options.Temperature = None,
    lookahead: options.Lookahead = None,
    cache: options.Cache = None,
) -> None:
    """Score a checkpoint on a task or on your own questions, with speed and editing beside it."""
    if context.invoked_subcommand:
        _refuse_options(context)
        return
    if no_editing and editing_threshold is not None:
        raise UserError("--no-editing and --editing-threshold exclude each other")
    if baseline and adapter is None:
        raise UserError("--baseline is the checkpoint without its adapter: pass --adapter")
    if policies is not None and grid is not None:
        raise UserError("--policies and --grid exclude each other: --grid is of one --policy")
    if task is not None and data is not None:
        raise UserError("--task and --data exclude each other")
    of_one = {
        "policy": policy,
        "mode": mode,
        "threshold": threshold,
        "steps": steps,
        "editing_threshold": "none" if no_editing else editing_threshold,
        "max_post_steps": max_post_steps,
        "num_to_transfer": num_to_transfer,
    }
    decoding = {
        "max_new_tokens": max_new_tokens,
        "block_length": block_length,
        "mask_token_id": mask_token_id,
        "eos_token_id": eos_token_id,
        "temperature": temperature,
        "lookahead": lookahead,
        "cache": cache,
    }
    if policies is not None:
        named = {**of_one, "editing_threshold": editing_threshold}
        refuse_beside_policies({n.replace("_", "-"): v for n, v in named.items()})
        refuse_beside_policies({"no-editing": no_editing or None})
    elif not grid:
        options.check_sampling(temperature, False, policy, seed=seed)
    if output is not None:
        from fastedit.evaluation.errors.plots import require

        with one_line(ImportError):
            require()  # before hours of decoding
    asked, bad = questions.read_questions(
        task if data or task else "chain_sum",
        data,
        n,
        on_bad_line,
        scorer=scorer,
        answer_field=answer_field,
        prompt_field=prompt_field,
        raw=raw,
        ignore_fields=ignore_fields,
    )
    config = options.decode_config(**of_one, **decoding, seed=seed)
    several = policies is not None or grid is not None or baseline
    rules = _rules(config, policies, grid, checkpoint, revision) if several else []
    if several:  # each rule has its options
        config = options.decode_config(**decoding, seed=seed)
    model: dict[str, Any] = {"checkpoint": checkpoint, "adapter": adapter, "head": head}

    def load(adapter: str | None = adapter) -> Decoder:
        return load_decoder(checkpoint, config, adapter, revision, dtype, device, head)

    record = Record()
    with contextlib.ExitStack() as stack:
        stack.enter_context(held(output, locked_folder))
        if output is not None:
            with one_line(ValueError, OSError):
                facts = {
                    "checkpoint": {**_identity(**model, revision=revision), "dtype": dtype},
                    "data set": asked.asked(),
                    "set of options": {**decoding, "on_bad_line": on_bad_line},
                }
                stack.enter_context(record.open(output, facts))
        first = load(None if baseline else adapter)
        if data is not None:
            with one_line(ValueError, TypeError):
                asked = _askable(first, asked, bad, several)
        result: dict[str, Any] = {**asked.named(), "n": len(asked.items), "batch_size": batch_size}
        if several:
            decoders = {"before": lambda: first, "after": load} if baseline else {"": lambda: first}
            result |= {"seed": seed or 0, **model}
            result |= measure_rows(decoders, asked, rules, record, batch_size, seed or 0)
        else:
            of_mode = mode or ("quality" if policy is None else None)
            result |= _measured(first, asked, record, batch_size, of_mode) | model
        rows = result.get("rows", [result])
        text = json_format.dumps(result)
        if output is not None and not result.get("interrupted"):
            _write(rows, text, asked, output)
    if as_json:
        typer.echo(text)
    else:
        _print(result, asked, output)
        if hint := questions.better_scorer(asked, record):
            plain(stdout_console(), hint)
    total = len(rules) * (2 if baseline else 1)
    if result.get("interrupted"):
        kept = f"; {len(record)} answers are in {output}, and the same command goes on from there"
        kinds = "settings" if grid or baseline else "policies"
        raise InterruptedRunError(
            f"interrupted: {len(rows)} of {total} {kinds} are done{kept if output else ''}"
        )
    ran = [row for row in rows if "reason" not in row]
    unscored = [row for row in ran if row["unscored"]]
    if unscored:
        count, first_one = sum(row["unscored"] for row in unscored), unscored[0]["unscored_because"]
        raise RequestFailedError(
            f"{count} answers could not be scored and count as wrong: {first_one}"
            + ("; mend the scorer: the same command scores them again" if output else "")
        )
    raise typer.Exit(1 if not ran or any(row["failed"] for row in ran) else 0)


def _rules(
    config: DecodeConfig,
    policies: list[str] | None,
    grid: list[str] | None,
    checkpoint: str,
    revision: str | None,
) -> list[Policy]:
    """The rules that are compared; one where there is but one."""
    from fastedit.evaluation import policies as side_by_side
    from fastedit.models.load import released_policy

    with one_line(ValueError, TypeError, OSError):
        if policies is not None:
            return side_by_side.named(policies)
        base = config.rule(released_policy(checkpoint, revision))
        return side_by_side.grid(base, grid or [], config.given_to(base))


def _askable(decoder: Decoder, asked: Questions, bad: BadLines, several: bool) -> Questions:
    from fastedit.evaluation.answers import askable
    from fastedit.policies import Confidence

    found = askable(decoder, asked, bad, **({"policy": Confidence()} if several else {}))
    if bad.found and not found.items:  # what is wrong is no line's
        raise ValueError(f"no question can be decoded: {bad.found[-1]}")
    bad.check()
    return found


def _identity(
    checkpoint: str, adapter: str | None, head: str | None, revision: str | None
) -> dict[str, str]:
    from fastedit.models.identity import identity

    return identity(checkpoint, adapter, revision, head)


def _measured(
    decoder: Decoder, asked: Questions, record: Record, batch_size: int, mode: str | None
) -> dict[str, Any]:
    """The numbers of one setting, that of the decoder's config; for JSON."""
    from fastedit.config import DEFAULT_POLICY, OF_THE_POLICY
    from fastedit.evaluation.accuracy import measure
    from fastedit.evaluation.answers import prompt_of
    from fastedit.evaluation.machine import hardware
    from fastedit.request.configs import with_block_length
    from fastedit.request.settled import rule_of

    # What a user may have got wrong, before it counts as a bug.
    with one_line(ValueError, TypeError):
        decoder.stream(prompt_of(decoder, asked, asked.items[0]))
        rule = rule_of(decoder.config, decoder.family)
    setting = ("", str(rule), str(decoder.config.seed))
    label = asked.source.rpartition("/")[2].removeprefix("task:")
    with counting(label, len(asked.items)) as advance:
        found = measure(
            decoder, asked, record=record, setting=setting, batch_size=batch_size, on_done=advance
        )
    (config,) = with_block_length([decoder.config], decoder.model, decoder.family)
    released = decoder.family.policy
    as_used = {name: getattr(rule, name, None) for name in OF_THE_POLICY} | {"policy": str(rule)}
    return {
        **found.numbers,
        "hardware": hardware(decoder.device),
        **rule.as_dict(),
        "mode": mode if released == DEFAULT_POLICY or mode != "quality" else None,
        "config": dataclasses.asdict(config) | as_used,
    }


def _print(result: dict[str, Any], asked: Questions, output: Path | None) -> None:
    if "rows" in result:
        print_rows(result, asked)
    else:
        for line in result_lines(result):
            plain(stdout_console(), line)
        name, batch_size = questions.source_line(asked), result["batch_size"]
        plain(stdout_console(), f"{name}, batches of {batch_size}, {result['hardware']}")
    if output is not None and not result.get("interrupted"):
        plain(stdout_console(), f"report.json and the plot are in {output}")


def _write(rows: list[dict[str, Any]], text: str, asked: Questions, folder: Path) -> None:
    from fastedit.evaluation.plot import draw

    with one_line(OSError):
        (folder / "report.json").write_text(text + "\n", encoding="utf-8")
        draw(rows, f"{len(asked.items)} questions of {asked.source}", folder)


def _refuse_options(context: typer.Context) -> None:
    """A subcommand has options of its own; those before its name would be lost."""
    sources = [context.get_parameter_source(name) for name in context.params]
    if any(source is not None and source.name == "COMMANDLINE" for source in sources):
        name = context.invoked_subcommand
        raise UserError(f"options of `fastedit eval {name}` stand behind `{name}`")
