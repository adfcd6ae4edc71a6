"""`fastedit fill`: a text with holes, and what the model puts into them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from fastedit.cli import options
from fastedit.cli.answer import AsJson, AsLive, answer, check_form, read_text
from fastedit.cli.checkpoint import load_decoder
from fastedit.cli.errors import UserError, one_line
from fastedit.cli.tracing import AsTrace, check_target

if TYPE_CHECKING:
    from fastedit.decoder import Decoder

Text = Annotated[
    str,
    typer.Argument(
        metavar="TEXT", help="Text in which [MASK:8] is a hole of 8 tokens; - reads stdin."
    ),
]


def fill_command(
    text: Text,
    json: AsJson = False,
    live: AsLive = False,
    trace: AsTrace = None,
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
    input: Annotated[str | None, typer.Option("--input", "-i", hidden=True)] = None,
    max_new_tokens: Annotated[str | None, typer.Option(hidden=True)] = None,
) -> None:
    """Fill the holes of TEXT, and keep everything else.

    A hole is [MASK:8] for 8 tokens, or the tokenizer's own mask token for each. TEXT goes to the
    model as it stands, without a chat template. See docs/drafts.md.
    """
    check_form(json, live)
    check_target(trace)
    _check_not_given(input, max_new_tokens)
    options.check_sampling(temperature, False, policy, top_p=top_p, top_k=top_k, seed=seed)
    config = options.decode_config(
        policy=policy,
        mode=mode,
        threshold=threshold,
        editing_threshold=editing_threshold,
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
    )
    whole = read_text(text)
    decoder = load_decoder(
        checkpoint, config, adapter, revision=revision, dtype=dtype, device=device, head=head
    )
    from fastedit.prompts.holes import split_at_holes

    mask = _mask_text(decoder)
    with one_line(ValueError):
        prompt, draft = split_at_holes(whole, mask)
    more: dict[str, Any] = {}
    if draft.replace(mask, "").strip() and not eos_token_id:
        more["eos_token_id"] = []  # an end in a hole would cut off what is kept behind it
    more |= {"draft": draft, "keep_draft": True}
    answer(decoder, prompt, json, live, prompt, trace, **more)


def _check_not_given(source: str | None, max_new_tokens: str | None) -> None:
    """Options that `fastedit generate` has, and whoever comes from there tries."""
    if source is not None:
        raise UserError(
            f"--input {source}: fill takes one TEXT, - reads it from stdin; for many of them, "
            "Decoder.generate takes `draft` (docs/drafts.md)"
        )
    if max_new_tokens is not None:
        raise UserError(
            f"--max-new-tokens {max_new_tokens}: the holes say how many tokens are filled; write "
            f"[MASK:{max_new_tokens}] for so many"
        )


def _mask_text(decoder: Decoder) -> str:
    from fastedit.prompts.drafts import mask_text
    from fastedit.request.settled import mask_of

    tokenizer = decoder.tokenizer
    with one_line(ValueError):
        mask = mask_of(decoder.config, decoder.model, tokenizer, decoder.family)
    text = None if tokenizer is None else mask_text(tokenizer, mask)
    if text is None:
        raise UserError(f"the checkpoint's tokenizer has no text for the mask token {mask}")
    return text
