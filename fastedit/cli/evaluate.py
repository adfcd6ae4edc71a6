"""`fastedit eval`: how often the answers are right, and how few forwards they take."""

from __future__ import annotations

import dataclasses
import json as json_format
import math
import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fastedit.cli import options
from fastedit.cli.checkpoint import load_decoder
from fastedit.cli.errors import UserError, one_line
from fastedit.cli.report import result_lines
from fastedit.cli.terminal import counting, plain, stdout_console
from fastedit.tasks import get_task, task_names

if TYPE_CHECKING:
    from fastedit.decoder import Decoder
    from fastedit.results import DecodeOutput
    from fastedit.tasks import Task

BATCH = 32  # what the engine runs at once


def evaluate(
    decoder: Decoder,
    task: Task,
    n: int,
    *,
    batch_size: int = BATCH,
    on_batch: Callable[[int], None] = lambda done: None,
    **overrides: Any,
) -> dict[str, Any]:
    """Decode the first n held-out problems of `task` and score them; a dictionary for JSON.

    batch_size  problems per `Decoder.generate`; on_batch(k) is called after each k of them
    overrides   options of `DecodeConfig`

    accuracy is the share of exact answers, interval its 95 % Wilson interval, partial_credit the
    scorer's mean. Ratios are of sums over all problems. seconds hold decoding alone: loading,
    scoring and one untimed problem at the start are left out. A failed request counts as wrong.
    truncated: answers that max_new_tokens cut off.
    Raises ValueError and TypeError for bad options, and what `Decoder.generate` raises.
    """
    for name, value in (("n", n), ("batch_size", batch_size)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1; got {value}")
    problems = task.test_set(n)
    prompts = [task.messages(problem.question) for problem in problems]
    _generate(decoder, prompts[:1], overrides)  # first calls allocate and compile
    stats, scores, failed, seconds = [], [], 0, 0.0
    for start in range(0, n, batch_size):
        batch = prompts[start : start + batch_size]
        started = time.perf_counter()
        out = _generate(decoder, batch, overrides)
        seconds += time.perf_counter() - started
        stats += out.stats
        failed += sum(error is not None for error in out.errors)
        answers = zip(out.texts or [], problems[start:], strict=False)
        scores += [task.score(text, problem) for text, problem in answers]
        on_batch(len(batch))
    exact = sum(score.exact for score in scores)
    tokens, forwards = (sum(getattr(s, name) for s in stats) for name in ("tokens", "forwards"))
    edits = sum(s.t2t_edits for s in stats)
    return {
        "task": task.name,
        "n": n,
        "exact": exact,
        "accuracy": exact / n,
        "interval": list(wilson_interval(exact, n)),
        "partial_credit": sum(score.credit for score in scores) / n,
        "tokens": tokens,
        "forwards": forwards,
        "edits": edits,
        "failed": failed,
        "truncated": sum(s.finish_reason == "length" for s in stats),
        "tokens_per_forward": tokens / forwards if forwards else 0.0,
        "edits_per_100_tokens": 100.0 * edits / tokens if tokens else 0.0,
        "tokens_per_second": tokens / seconds,
        "seconds": seconds,
        "batch_size": batch_size,
    }


def _generate(decoder: Decoder, prompts: list, overrides: dict[str, Any]) -> DecodeOutput:
    """`Decoder.generate`, with every request's error in the output; raises on Ctrl-C."""
    out = decoder.generate(prompts, errors="return", **overrides)
    if out.interrupted:
        raise KeyboardInterrupt
    return out


def wilson_interval(successes: int, n: int, z: float = 1.959964) -> tuple[float, float]:
    """Wilson score interval of a proportion, 95 % by default; inside [0, 1], also at 0 and n."""
    share = successes / n
    spread = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    centre, scale = share + z * z / (2 * n), 1 + z * z / n
    return max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale)


def evaluate_command(
    context: typer.Context,
    task: Annotated[str, typer.Option(help=" or ".join(task_names()))] = "chain_sum",
    n: Annotated[int, typer.Option("--n", min=1, help="Held-out problems, always the same.")] = 200,
    batch_size: Annotated[int, typer.Option(min=1, help="Problems decoded together.")] = BATCH,
    no_editing: Annotated[bool, typer.Option("--no-editing", help="Drafts stay.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One object.")] = False,
    checkpoint: options.Checkpoint = "tiny",
    adapter: options.Adapter = None,
    revision: options.Revision = None,
    dtype: options.Dtype = "auto",
    device: options.Device = "auto",
    mode: options.Mode = None,
    threshold: options.Threshold = None,
    editing_threshold: options.EditingThreshold = None,
    max_new_tokens: options.MaxNewTokens = None,
    block_length: options.BlockLength = None,
    max_post_steps: options.MaxPostSteps = None,
    num_to_transfer: options.NumToTransfer = None,
    mask_token_id: options.MaskTokenId = None,
    eos_token_id: options.EosTokenId = None,
    temperature: options.Temperature = None,
    lookahead: options.Lookahead = None,
    seed: Annotated[int | None, typer.Option(help="Of the draws, when sampling.")] = None,
) -> None:
    """Score a checkpoint on held-out problems, with speed and editing beside it."""
    if context.invoked_subcommand:
        _refuse_options(context)
        return
    if no_editing and editing_threshold is not None:
        raise UserError("--no-editing and --editing-threshold exclude each other")
    options.check_sampling(temperature, False, seed=seed)
    with one_line(ValueError, ImportError):
        problems = get_task(task)
    config = options.decode_config(
        mode=mode,
        threshold=threshold,
        editing_threshold="none" if no_editing else editing_threshold,
        max_new_tokens=max_new_tokens,
        block_length=block_length,
        max_post_steps=max_post_steps,
        num_to_transfer=num_to_transfer,
        mask_token_id=mask_token_id,
        eos_token_id=eos_token_id,
        temperature=temperature,
        lookahead=lookahead,
        seed=seed,
    )
    from fastedit.engine.prepare import with_block_length

    decoder = load_decoder(checkpoint, config, adapter, revision, dtype, device)
    result = _measured(decoder, problems, n, batch_size)
    (config,) = with_block_length([config], decoder.model)
    result |= {
        "mode": mode or "quality",
        "checkpoint": os.fspath(checkpoint),
        "adapter": adapter and os.fspath(adapter),
        "config": dataclasses.asdict(config),
    }
    if as_json:
        typer.echo(json_format.dumps(result))
    else:
        console = stdout_console()
        for line in result_lines(result):
            plain(console, line)
        plain(console, f"{task}, batches of {batch_size}, {result['hardware']}")
    raise typer.Exit(1 if result["failed"] else 0)


def _refuse_options(context: typer.Context) -> None:
    """A subcommand has options of its own; those before its name would be lost."""
    sources = [context.get_parameter_source(name) for name in context.params]
    if any(source is not None and source.name == "COMMANDLINE" for source in sources):
        name = context.invoked_subcommand
        raise UserError(f"options of `fastedit eval {name}` stand behind `{name}`")


def _measured(decoder: Decoder, task: Task, n: int, batch_size: int) -> dict[str, Any]:
    from fastedit.cli.machine import hardware

    # What a user may have got wrong, before it counts as a bug.
    with one_line(ValueError, TypeError):
        decoder.stream(task.messages(task.test_set(n)[0].question))
    with counting(task.name, n) as advance:
        result = evaluate(decoder, task, n, batch_size=batch_size, on_batch=advance)
    return result | {"hardware": hardware(decoder.device)}
