"""From prompts and configs to requests, everything checked before any model call."""

from __future__ import annotations

import contextlib
import itertools
import secrets
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from fastedit.chats.messages import ChatOptions
from fastedit.config import DecodeConfig
from fastedit.heads import Head
from fastedit.models.families import WHOLE, Family
from fastedit.policies import Policy
from fastedit.prompts.drafts import as_draft, check_draft
from fastedit.prompts.inputs import as_ids, check_prompt
from fastedit.prompts.tokens import vocab_size
from fastedit.prompts.tracker import TextTracker
from fastedit.request.recorder import Recorder
from fastedit.request.request import Request
from fastedit.request.settled import Settled
from fastedit.results import RefusedError

# Positions of a block whose text shrinks and grows, at least.
SHORTEST = 64
# Options that requests of one forward share, beside the static part of their policy; those that
# differ in one of them decode in turn.
SHARED = (
    "block_length",
    "mask_token_id",
    "strict_reference",
    "cache",
    "lookahead",
    "cuda_graphs",
)


def shared(request: Request) -> tuple[Any, ...]:
    """The values that requests of one forward have in common."""
    options = (getattr(request.config, name) for name in SHARED)
    traced = request.recorder is not None
    return *options, request.policy.static(), request.mask_token_id, request.width, traced


def as_requests(
    prompts: Iterable[Any],
    configs: Iterable[DecodeConfig],
    model: Callable[..., Any],
    tokenizer: Any,
    family: Family,
    *,
    chats: ChatOptions | None = None,
    allow_mask: bool = False,
    keep_refused: bool = False,
    count: int | None = None,
    drafts: Iterable[Any] | None = None,
    keep_draft: bool = False,
    head: Head | None = None,
    settled: Settled | None = None,
    trace: bool = False,
) -> Iterator[Request]:
    """A request per prompt, made when it is asked for; with `keep_refused`, bad prompts end with an
    error.

    prompts: as `inputs.one_by_one` gives them; chats: how those that are chats are rendered; count:
    how many there are, where that is known. drafts: one per prompt, or None, as
    `drafts.one_per_prompt` gives them; keep_draft: whether their tokens are protected. A draft says
    `max_new_tokens` where the config does not. head: what policies that need scores have of them;
    settled: what calls before this one looked up. trace: whether they are recorded.
    Raises TypeError and ValueError.
    """
    if not isinstance(trace, bool):
        raise TypeError(f"trace must be True or False; got {trace!r:.80}")
    positions = getattr(getattr(model, "config", None), "max_position_embeddings", None)
    settled = settled or Settled(model, tokenizer, family, head)
    asked = zip(prompts, configs, strict=count is not None)
    with_drafts = zip(asked, drafts or itertools.repeat(None), strict=False)
    for index, ((prompt, config), given) in enumerate(with_drafts):
        if index == 0:
            _check_model(model)
        rule, mask = settled.rule_and_mask(config)
        eos, known = settled.eos(config, mask), settled.stops(config)
        ids, refusal = torch.empty(0, dtype=torch.int64), None
        draft, grows = None, config.max_new_tokens
        try:
            with _told(f"prompt {index}"):
                ids = as_ids(prompt, tokenizer, mask, chats, may_be_empty=given is not None)
            if given is not None:
                with _told(f"the draft of prompt {index}"):
                    draft = as_draft(given, tokenizer, mask)
                most = config.max_new_tokens if config.gives("max_new_tokens") else None
                check_draft(
                    draft,
                    index,
                    vocab_size=vocab_size(model),
                    max_new_tokens=most,
                    control_ids=rule.control_ids,
                )
                if most is None:
                    length, grows = len(draft), 2 * len(draft)
                    whole = {"block_length": length} if family.block_length == WHOLE else {}
                    config = config.replace(max_new_tokens=length, **whole)
            check_prompt(
                ids,
                index,
                mask_token_id=mask,
                vocab_size=vocab_size(model),
                max_positions=positions,
                max_new_tokens=config.max_new_tokens,
                allow_mask=allow_mask,
                draft=draft,
            )
        except (TypeError, ValueError) as error:
            if not keep_refused:
                raise
            refusal = RefusedError(index, str(error))
        if rule.variable and refusal is None:
            rule, draft, config = _varying(rule, config, len(ids), draft, grows, positions, mask)
        request = Request(
            index=index,
            prompt=ids,
            config=config,
            seed=_seed(config.seed, index, count),
            eos=eos,
            policy=rule,
            mask_token_id=mask,
            family=family,
            text=TextTracker(tokenizer, known) if known else None,
            draft=draft,
            keep_draft=keep_draft,
            recorder=Recorder.of(model, tokenizer) if trace else None,
        )
        if refusal is not None:
            request.fail(refusal)
        yield request


def _varying(
    rule: Policy,
    config: DecodeConfig,
    prompt: int,
    draft: Tensor | None,
    grows: int,
    positions: int | None,
    mask_token_id: int,
) -> tuple[Policy, Tensor | None, DecodeConfig]:
    """Of a text that shrinks and grows: the rule, what it begins with, and a config whose one block
    has room for it.

    prompt: its tokens; grows: how many more there may be, where the rule does not say it.
    """
    masks = begins = config.max_new_tokens
    most = prompt + grows if rule.most_tokens is None else rule.most_tokens
    if positions is not None:
        most = min(most, positions)
    if draft is not None:
        if positions is None or prompt + len(draft) < positions:
            draft = rule.drafted(draft)
        masks, begins = int((draft == mask_token_id).sum()), len(draft)
    room = max(most, prompt + begins) - max(prompt - 1, 0)
    # Texts of many lengths decode together: there are four lengths of a block per power of two.
    unit = max((1 << (room - 1).bit_length()) // 8, SHORTEST)
    length = -(-room // unit) * unit
    return rule.sized(masks, most), draft, config.replace(block_length=length)


def _check_model(model: Any) -> None:
    """Raises ValueError for a model that would decode as another one, or not at all."""
    # peft's prompt learning leaves a bound method of its own on the model that it wraps.
    bound = getattr(getattr(model, "prepare_inputs_for_generation", None), "__self__", None)
    for owner in (model, bound):
        active = getattr(owner, "active_peft_config", None)
        if getattr(active, "is_prompt_learning", False):
            kind = getattr(active.peft_type, "value", active.peft_type)  # type: ignore[union-attr]
            raise ValueError(
                f"this model has an adapter of type {kind}, which puts virtual tokens before the "
                "prompt: blocks cannot be decoded behind them. Use an adapter of weights, as LoRA"
            )
    if getattr(model, "dtype", None) == torch.float64:
        raise ValueError(
            "this model is in float64, in which nothing here decodes: call model.float()"
        )


@contextlib.contextmanager
def _told(which: str) -> Iterator[None]:
    """Say which of thousands an error is of."""
    try:
        yield
    except (TypeError, ValueError) as error:
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(f"{which}: {error}") from error


def _seed(seed: int | list[int] | None, index: int, count: int | None) -> int:
    if seed is None:
        return secrets.randbits(63)
    if isinstance(seed, int):
        return seed
    if len(seed) != count and (count is not None or index >= len(seed)):
        many = f"at least {index + 1}" if count is None else count
        raise ValueError(f"seed has {len(seed)} entries for {many} prompts: give one each")
    return seed[index]
