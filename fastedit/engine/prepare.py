"""From prompts and configs to requests, everything checked before any model call."""

from __future__ import annotations

import contextlib
import secrets
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from fastedit.chats.messages import ChatOptions
from fastedit.config import DecodeConfig
from fastedit.engine.request import Request
from fastedit.models.families import Family
from fastedit.policies import Policy
from fastedit.prompts.drafts import as_draft, check_draft
from fastedit.prompts.inputs import as_ids, check_prompt
from fastedit.prompts.stops import Stops
from fastedit.prompts.tokens import resolve_eos, resolve_mask, vocab_size
from fastedit.prompts.tracker import TextTracker
from fastedit.results import RefusedError

# Options that requests which decode together share, beside the static part of their policy:
# one model call serves them all.
SHARED = (
    "block_length",
    "mask_token_id",
    "strict_reference",
    "cache",
    "lookahead",
    "cuda_graphs",
)


def shared(config: DecodeConfig, family: Family) -> dict[str, Any]:
    """The values that requests must agree on to decode together, by name."""
    options = {name: getattr(config, name) for name in SHARED}
    return options | {"policy": config.rule(family.policy).static()}


def one_per_prompt(
    config: DecodeConfig | Sequence[DecodeConfig],
    overrides: dict[str, Any],
    count: int,
    model: Any,
    family: Family,
) -> list[DecodeConfig]:
    """A config for each of `count` prompts, overrides applied and the block length filled in.

    Raises TypeError and ValueError where they, or their number, or what they share, is wrong.
    """
    if isinstance(config, DecodeConfig):
        return with_block_length([config.replace(**overrides)], model, family) * count
    if not isinstance(config, Sequence):
        raise TypeError(f"config must be a DecodeConfig or a list of them; got {config!r:.80}")
    for index, one in enumerate(config):
        if not isinstance(one, DecodeConfig):
            raise TypeError(f"config of prompt {index} must be a DecodeConfig; got {one!r:.80}")
    if len(config) != count:
        raise ValueError(f"config has {len(config)} entries for {count} prompts: give one each")
    configs = with_block_length([one.replace(**overrides) for one in config], model, family)
    every = [shared(config, family) for config in configs]
    for index, other in enumerate(every):
        for name, first in every[0].items():
            value = other[name]
            if value != first:
                if name == "policy":
                    first, value = (configs[i].rule(family.policy) for i in (0, index))
                raise ValueError(
                    f"{name} must be the same for all prompts of a call; got {first!r} for prompt "
                    f"0 and {value!r} for prompt {index}: decode these in calls of their own"
                )
    return configs


def with_block_length(
    configs: Sequence[DecodeConfig], model: Any, family: Family
) -> list[DecodeConfig]:
    """`configs` with the block length of `model` where they leave it open; warns of another one."""
    sizes = getattr(model, "config", None)
    trained: Any = family.block_length
    if trained is None:
        trained = getattr(sizes, "block_size", None)
    if not trained:
        return list(configs)
    asked = {config.block_length for config in configs if config.gives("block_length")} - {trained}
    if asked and getattr(sizes, "trained_block_size", trained):  # ours has a default of its own
        warnings.warn(
            f"block_length={', '.join(map(str, sorted(asked)))}, but the model's config has "
            f"block_size={trained}: drafts may be worse in blocks that it was not trained with",
            stacklevel=5,
        )
    return [
        config if config.gives("block_length") else config.replace(block_length=trained)
        for config in configs
    ]


def as_requests(
    prompts: Sequence[Any],
    configs: list[DecodeConfig],
    model: Callable[..., Any],
    tokenizer: Any,
    family: Family,
    *,
    chats: ChatOptions | None = None,
    allow_mask: bool = False,
    keep_refused: bool = False,
    drafts: Sequence[Any] | None = None,
    keep_draft: bool = False,
) -> list[Request]:
    """A request per prompt; with `keep_refused`, bad prompts end with an error.

    prompts: as `inputs.one_by_one` gives them; chats: how those that are chats are rendered.
    drafts: one per prompt, or None, as `drafts.one_per_prompt` gives them; keep_draft: whether
    their tokens are protected. A draft says `max_new_tokens` where the config does not.
    Raises TypeError and ValueError.
    """
    if not prompts:
        return []
    _check_model(model)
    override = configs[0].mask_token_id
    if override is None:
        override = family.mask_token_id
    mask = resolve_mask(override, model, tokenizer)
    # By identity: equal configs may differ in what they leave to the family's policy.
    rules = {id(config): config.rule(family.policy) for config in configs}
    for config in {id(config): config for config in configs}.values():
        _check_together(config, rules[id(config)], family, vocab_size(model))
    positions = getattr(getattr(model, "config", None), "max_position_embeddings", None)
    # Looked up once per setting: a tokenizer may take long to tell its special tokens.
    ends: dict[Any, frozenset[int]] = {}
    stops: dict[Any, Stops | None] = {}
    requests = []
    drafts = drafts or [None] * len(prompts)
    for index, (prompt, config, given) in enumerate(zip(prompts, configs, drafts, strict=True)):
        eos, texts = _hashable(config.eos_token_id), _hashable(config.stop)
        if eos not in ends:
            ends[eos] = _ends(config, model, tokenizer, mask)
        if texts not in stops:
            stops[texts] = _stops(config, tokenizer)
        ids, refusal = torch.empty(0, dtype=torch.int64), None
        draft, rule = None, rules[id(config)]
        try:
            with _told(f"prompt {index}"):
                ids = as_ids(prompt, tokenizer, mask, chats, may_be_empty=given is not None)
            if given is not None:
                with _told(f"the draft of prompt {index}"):
                    draft = as_draft(given, tokenizer, mask)
                most = config.max_new_tokens if config.gives("max_new_tokens") else None
                check_draft(draft, index, vocab_size=vocab_size(model), max_new_tokens=most)
                if most is None:
                    config = config.replace(max_new_tokens=len(draft))
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
        known = stops[texts]
        request = Request(
            index=index,
            prompt=ids,
            config=config,
            seed=_seed(config.seed, index, len(prompts)),
            eos=ends[eos],
            policy=rule,
            mask_token_id=mask,
            family=family,
            text=TextTracker(tokenizer, known) if known else None,
            draft=draft,
            keep_draft=keep_draft,
        )
        if refusal is not None:
            request.fail(refusal)
        requests.append(request)
    return requests


def _check_together(config: DecodeConfig, rule: Policy, family: Family, vocab: int | None) -> None:
    """Raises ValueError for options, a rule and a model that do not go together."""
    if config.steps is not None and "steps" not in rule.parameters():
        warnings.warn(
            f"steps={config.steps} has no effect in LLaDA2.1 decoding: the thresholds say how many "
            "forwards a block takes",
            stacklevel=5,
        )
    if config.temperature > 0.0 and "editing_threshold" in rule.parameters():
        warnings.warn(
            "temperature > 0 draws anew at every forward, so blocks keep changing until "
            "max_post_steps",
            stacklevel=5,
        )
    if config.temperature > 0.0 and type(rule).temperature is not Policy.temperature:
        raise ValueError(
            f"policy {rule} has temperatures of its own; leave temperature={config.temperature} out"
        )
    if rule.noise and vocab is None:
        raise ValueError(
            f"policy {rule} starts from random ids and has to know how many there are: give the "
            "model a config with vocab_size"
        )
    if rule.noise and config.strict_reference:
        raise ValueError(
            f"strict_reference is for rules that fill masks; policy {rule} starts from random ids"
        )
    if family.shift and rule.plan == "shadow":
        raise ValueError(f"policy {rule} needs shadows, which a model with shift=1 does not have")
    if family.shift and family.attention != "full" and config.use_cache:
        raise ValueError(
            'a block-causal model with shift=1 decodes without a cache only: set cache="none"'
        )


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


def _ends(config: DecodeConfig, model: Any, tokenizer: Any, mask: int) -> frozenset[int]:
    eos = resolve_eos(config.eos_token_id, model, tokenizer)
    if mask in eos:
        raise ValueError(f"id {mask} is both the mask token and an EOS: set eos_token_id")
    return eos


def _stops(config: DecodeConfig, tokenizer: Any) -> Stops | None:
    texts = [config.stop] if isinstance(config.stop, str) else config.stop or []
    if texts and tokenizer is None:
        raise ValueError("stop texts need a tokenizer; use eos_token_id for ids")
    return Stops(tokenizer, texts) if tokenizer is not None else None


def _hashable(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _seed(seed: int | list[int] | None, index: int, count: int) -> int:
    if seed is None:
        return secrets.randbits(63)
    if isinstance(seed, int):
        return seed
    if len(seed) != count:
        raise ValueError(f"seed has {len(seed)} entries for {count} prompts: give one each")
    return seed[index]
