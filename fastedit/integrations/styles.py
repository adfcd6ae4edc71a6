"""`model.generate` of LLaDA2.x: the released signature and transformers', told apart by names.

The released style is a call with `inputs` (positional or by name) and nothing but arguments of
`released.released_generate`; it returns the generated ids. A call with any argument that only
transformers knows (`input_ids`, `max_new_tokens`, `generation_config`, `do_sample`, ..., so what a
tokenizer returns and what pipelines pass) is in transformers' style: it returns prompt and
generated ids, and takes the options of `transformers.generate`, which decodes it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from transformers import GenerationConfig
from transformers.generation import GenerationMixin

from fastedit.integrations import transformers
from fastedit.integrations.arguments import (
    DEFAULTS,
    FIELDS,
    HONOURED,
    KEYWORDS,
    SAMPLING,
    check_values,
    fields_given,
    refuse,
    spell_out,
)
from fastedit.integrations.released import released_generate

_RELEASED = set(inspect.signature(released_generate).parameters) - {"model"}
_TRANSFORMERS = FIELDS | KEYWORDS | HONOURED | transformers.OPTIONS
_LENGTHS = ("max_length", "max_new_tokens")
# Honoured where the caller gives them, and not where a checkpoint does.
_NEVER_SAVED = ("do_sample", "num_return_sequences", "stop_strings")


def generate(model: Any, *args: Any, **kwargs: Any) -> Any:
    """Decode in the style of the call. Raises ValueError for a mixture of both."""
    if (custom := kwargs.get("custom_generate")) is None:
        kwargs.pop("custom_generate", None)
    if custom is not None and custom is not transformers.generate:
        return _inherited(model)(model, *args, **kwargs)
    if custom is None and _is_released(args, kwargs):
        return released_generate(model, *args, **kwargs)
    bound = inspect.signature(GenerationMixin.generate).bind(model, *args, **kwargs).arguments
    named = {name: value for name, value in bound.items() if name not in ("self", "kwargs")}
    return _through_transformers(model, named | bound.get("kwargs", {}))


def _is_released(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    several = len(args) > 1 and not isinstance(args[1], GenerationConfig)
    theirs = [name for name in kwargs if name not in _RELEASED]
    ours = [name for name in kwargs if name not in _TRANSFORMERS and name in _RELEASED]
    if several:
        ours.append(f"{len(args)} positional arguments")
    known = [name for name in theirs if name in _TRANSFORMERS]
    if ours and known:
        raise ValueError(
            f"generate got {', '.join(ours)} of the released LLaDA2.1 signature and "
            f"{', '.join(known)} of transformers': use the names of one of them (gen_length, "
            "mask_id and eos_id are max_new_tokens, mask_token_id and eos_token_id)"
        )
    return bool(ours) or not theirs


def _through_transformers(model: Any, given: dict[str, Any]) -> Any:
    """Check everything first, then call with what is honoured, under names that arrive.

    Values of the checkpoint's generation config that would prepare another kind of generation are
    set to their defaults.
    """
    inherited, saved = _inherited(model), getattr(model, "generation_config", None)
    config = given.pop("generation_config", None)
    spell_out(given, given)
    given = _with_fields(fields_given(config, saved), given)
    refuse(given, transformers.OPTIONS)
    check_values(given, getattr(getattr(model, "config", None), "vocab_size", None))
    if not given.get("do_sample"):
        given = {name: value for name, value in given.items() if name not in SAMPLING}
    tokenizer, stop = given.pop("tokenizer", None), given.pop("stop_strings", None)
    if tokenizer is not None and given.get("text_tokenizer") is None:
        given["text_tokenizer"] = tokenizer
    if stop is not None:
        if given.get("stop") is not None:
            raise ValueError(f"stop_strings={stop!r} and stop={given['stop']!r}: give one of them")
        given["stop"] = stop
    aside = {
        name: DEFAULTS[name]
        for name in fields_given(saved)
        if name in FIELDS - HONOURED or name in _NEVER_SAVED
    }
    if any(given.get(name) is not None for name in _LENGTHS):
        aside |= dict.fromkeys(_LENGTHS)
    passed = {
        name: value for name, value in given.items() if name in HONOURED | transformers.OPTIONS
    }
    passed["custom_generate"] = transformers.generate
    return inherited(model, **aside | passed)


def _inherited(model: Any) -> Callable[..., Any]:
    """transformers' own `generate`, or that of a wrapper around one of its models."""
    if isinstance(model, GenerationMixin):
        return GenerationMixin.generate
    if hasattr(type(model), "generate"):
        return type(model).generate
    raise TypeError(
        f"{type(model).__name__} is no model of transformers: use the released signature of "
        "generate (inputs, gen_length, mask_id, eos_id, ...) or a Decoder"
    )


def _with_fields(fields: dict[str, Any], keywords: dict[str, Any]) -> dict[str, Any]:
    """The caller's fields of a generation config below the keywords, which overrule them."""
    if any(keywords.get(name) is not None for name in _LENGTHS):
        fields = {name: value for name, value in fields.items() if name not in _LENGTHS}
    elif "max_new_tokens" in fields:  # a config that holds both is none of the caller's making
        fields.pop("max_length", None)
    if keywords.get("do_sample") is False:
        fields = {name: value for name, value in fields.items() if name not in SAMPLING}
    return fields | keywords
