"""`fastedit eval`: how often the answers are right, and how few forwards they take."""

from __future__ import annotations

import dataclasses
import json as json_format
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fastedit.cli import options
from fastedit.cli.checkpoint import load_decoder
from fastedit.cli.errors import UserError, one_line
from fastedit.cli.evaluate_policies import compare_policies, refuse_beside_policies
from fastedit.cli.report import result_lines
from fastedit.cli.terminal import counting, plain, stdout_console
from fastedit.evaluation.accuracy import BATCH, evaluate
from fastedit.tasks import get_task, task_names

if TYPE_CHECKING:
    from fastedit.decoder import Decoder
    from fastedit.policies import Policy
    from fastedit.tasks import Task


def evaluate_command(
    context: typer.Context,
    task: Annotated[str, typer.Option(help=" or ".join(task_names()))] = "chain_sum",
    n: Annotated[int, typer.Option("--n", min=1, help="Held-out problems, always the same.")] = 200,
    batch_size: Annotated[int, typer.Option(min=1, help="Problems decoded together.")] = BATCH,
    policies: Annotated[
        list[str] | None,
        typer.Option(
            help="Compare these in one table; commas or repeated.", metavar="all|POLICY,..."
        ),
    ] = None,
    no_editing: Annotated[bool, typer.Option("--no-editing", help="Drafts stay.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One object.")] = False,
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
    seed: Annotated[
        int | None, typer.Option(help="Of draws; with --policies the first problem's.")
    ] = None,
) -> None:
    """Score a checkpoint on held-out problems, with speed and editing beside it."""
    if context.invoked_subcommand:
        _refuse_options(context)
        return
    if no_editing and editing_threshold is not None:
        raise UserError("--no-editing and --editing-threshold exclude each other")
    if policies is not None:
        of_one = {"policy": policy, "mode": mode, "threshold": threshold, "steps": steps}
        of_one |= {"editing-threshold": editing_threshold, "no-editing": no_editing or None}
        of_one |= {"max-post-steps": max_post_steps, "num-to-transfer": num_to_transfer}
        refuse_beside_policies(of_one)
    else:
        options.check_sampling(temperature, False, policy, seed=seed)
    with one_line(ValueError, ImportError):
        problems = get_task(task)
        compared = _named(policies)
    config = options.decode_config(
        policy=policy,
        mode=mode,
        threshold=threshold,
        editing_threshold="none" if no_editing else editing_threshold,
        max_new_tokens=max_new_tokens,
        block_length=block_length,
        max_post_steps=max_post_steps,
        num_to_transfer=num_to_transfer,
        steps=steps,
        mask_token_id=mask_token_id,
        eos_token_id=eos_token_id,
        temperature=temperature,
        lookahead=lookahead,
        cache=cache,
        seed=seed,
    )
    from fastedit.config import DEFAULT_POLICY, OF_THE_POLICY
    from fastedit.engine.prepare import with_block_length
    from fastedit.engine.settled import rule_of

    decoder = load_decoder(checkpoint, config, adapter, revision, dtype, device, head)
    model = {"checkpoint": checkpoint, "adapter": adapter, "head": head}
    if compared is not None:
        raise typer.Exit(
            compare_policies(decoder, problems, compared, n, batch_size, seed or 0, model, as_json)
        )
    result = _measured(decoder, problems, n, batch_size)
    (config,) = with_block_length([config], decoder.model, decoder.family)
    released = decoder.family.policy
    rule = rule_of(config, decoder.family)
    as_used = {name: getattr(rule, name, None) for name in OF_THE_POLICY} | {"policy": str(rule)}
    result |= {
        **rule.as_dict(),
        "mode": mode or ("quality" if policy is None and released == DEFAULT_POLICY else None),
        **model,
        "config": dataclasses.asdict(config) | as_used,
    }
    if as_json:
        typer.echo(json_format.dumps(result))
    else:
        console = stdout_console()
        for line in result_lines(result):
            plain(console, line)
        plain(console, f"{task}, batches of {batch_size}, {result['hardware']}")
    raise typer.Exit(1 if result["failed"] else 0)


def _named(texts: list[str] | None) -> list[Policy] | None:
    from fastedit.evaluation.policies import named

    return None if texts is None else named(texts)


def _refuse_options(context: typer.Context) -> None:
    """A subcommand has options of its own; those before its name would be lost."""
    sources = [context.get_parameter_source(name) for name in context.params]
    if any(source is not None and source.name == "COMMANDLINE" for source in sources):
        name = context.invoked_subcommand
        raise UserError(f"options of `fastedit eval {name}` stand behind `{name}`")


def _measured(decoder: Decoder, task: Task, n: int, batch_size: int) -> dict[str, Any]:
    from fastedit.evaluation.machine import hardware

    # What a user may have got wrong, before it counts as a bug.
    with one_line(ValueError, TypeError):
        decoder.stream(task.messages(task.test_set(n)[0].question))
    with counting(task.name, n) as advance:
        result = evaluate(decoder, task, n, batch_size=batch_size, on_done=advance)
    return result | {"hardware": hardware(decoder.device)}
