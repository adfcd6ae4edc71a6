"""`fastedit generate`: one prompt to the terminal, or a file of requests to a file of results."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Annotated, Any

import typer

from fastedit.chats.template import as_user
from fastedit.cli import options
from fastedit.cli.answer import AsJson, AsLive, answer, check_form, read_text
from fastedit.cli.checkpoint import load_decoder
from fastedit.cli.errors import UserError
from fastedit.cli.terminal import tell
from fastedit.cli.tracing import AsTrace, check_target
from fastedit.files.jsonl import ON_BAD_LINE

Prompt = Annotated[str | None, typer.Argument(help="Text to answer; - reads stdin.")]
Input = Annotated[
    Path | None,
    typer.Option(
        "--input",
        "-i",
        help="JSON Lines (.gz too; - is stdin): prompt or messages, optional id and options; or "
        "OpenAI's batch lines. See docs/files.md.",
    ),
]
PromptField = Annotated[
    str | None,
    typer.Option(help="Key of the prompts in --input, if not prompt or messages.", metavar="NAME"),
]
Keep = Annotated[
    list[str] | None,
    typer.Option(
        help="Columns of --input that go along to the results; repeatable.", metavar="NAME|all"
    ),
]
OnBadLine = Annotated[
    str, typer.Option(help="What a bad line of --input does.", metavar="stop|skip")
]
Output = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        help="Results of --input, a line each; a rerun does only what is missing. Default: stdout.",
    ),
]
Raw = Annotated[bool, typer.Option("--raw", help="No chat template, also for prompts of --input.")]


def generate_command(
    prompt: Prompt = None,
    input: Input = None,
    output: Output = None,
    json: AsJson = False,
    live: AsLive = False,
    trace: AsTrace = None,
    raw: Raw = False,
    prompt_field: PromptField = None,
    keep: Keep = None,
    on_bad_line: OnBadLine = "stop",
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
    top_p: options.TopP = None,
    top_k: options.TopK = None,
    seed: options.Seed = None,
    lookahead: options.Lookahead = None,
    cache: options.Cache = None,
    stop: options.Stop = None,
) -> None:
    """Answer PROMPT, or every line of --input.

    A prompt is one user message where the checkpoint has a chat template, unless --raw.
    """
    of_files = {"output": output, "prompt-field": prompt_field, "keep": keep}
    _check_usage(prompt, input, of_files, on_bad_line, json, live)
    check_target(trace, input, output)
    options.check_sampling(
        temperature, input is not None, policy, top_p=top_p, top_k=top_k, seed=seed
    )
    config = options.decode_config(
        policy=policy,
        mode=mode,
        threshold=threshold,
        editing_threshold=editing_threshold,
        max_new_tokens=max_new_tokens,
        block_length=block_length,
        max_post_steps=max_post_steps,
        num_to_transfer=num_to_transfer,
        steps=steps,
        mask_token_id=mask_token_id,
        eos_token_id=eos_token_id,
        temperature=temperature,
        top_p=top_p,
        top_k=top_k,
        seed=seed,
        lookahead=lookahead,
        cache=cache,
        stop=stop,
    )
    load = functools.partial(
        load_decoder,
        checkpoint,
        config,
        adapter,
        revision=revision,
        dtype=dtype,
        device=device,
        head=head,
    )
    if input is not None:
        from fastedit.cli.batch import ModelNames, decode_file
        from fastedit.cli.requests import Form

        model = ModelNames(checkpoint, adapter, revision, dtype, head)
        columns = [name.strip() for entry in keep or () for name in entry.split(",")]
        form = Form(raw, prompt_field, columns)
        failed = decode_file(load, config, input, output, form, model, on_bad_line, trace)
        raise typer.Exit(1 if failed else 0)
    text = read_text(prompt)
    if not text.strip():
        raise UserError("the prompt is empty: give a text to answer")
    decoder = load()
    if head is not None:
        _tell_unread_head(decoder)
    if not answer(decoder, as_user(text, decoder.tokenizer, raw), json, live, trace=trace):
        card = "; the embedded checkpoint knows only the wordings in its card"
        hint = card if checkpoint == "tiny" and adapter is None else ""
        reason = f"the model ended it at once{hint}"
        if config.max_new_tokens == 0:
            reason = "--max-new-tokens is 0"
        tell(f"the answer is empty: {reason}")


def _tell_unread_head(decoder: Any) -> None:
    from fastedit.request.settled import rule_of

    rule = rule_of(decoder.config, decoder.family)
    if not rule.needs & {"score", "next_token"}:
        tell(f"policy {rule} does not read --head: correction does")


def _check_usage(
    prompt: str | None,
    source: Path | None,
    of_files: dict[str, Any],
    on_bad_line: str,
    as_json: bool,
    live: bool,
) -> None:
    if (prompt is None) == (source is None):
        raise UserError("give a PROMPT (- reads stdin) or --input FILE, one of them")
    given = [name for name, value in of_files.items() if value]
    if source is None and given:
        raise UserError(f"--{given[0]} goes with --input")
    if on_bad_line not in ON_BAD_LINE:
        raise UserError(f"--on-bad-line must be {' or '.join(ON_BAD_LINE)}; got {on_bad_line!r}")
    if source is None and on_bad_line == "skip":
        raise UserError("--on-bad-line goes with --input")
    if source is not None and live:
        raise UserError("--live goes with a PROMPT, not with --input")
    check_form(as_json, live)
