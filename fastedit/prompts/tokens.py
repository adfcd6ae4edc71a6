"""Which ids mask and end a sequence: from the override, the model, then the tokenizer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fastedit.prompts.text import spell_out

__all__ = ["check_id", "resolve_eos", "resolve_mask", "special_ids", "spell_out", "vocab_size"]

# Named by the LLaDA2 releases, whose config.json carries neither.
MASK_TEXT, END_OF_TURN_TEXT = "<|mask|>", "<|role_end|>"


def resolve_mask(override: int | None, model: Any, tokenizer: Any) -> int:
    """The mask token's id. Raises ValueError where nothing names one: it is never guessed."""
    for value in _masks(override, model, tokenizer):
        if value is not None:
            return check_id("mask_token_id", value, vocab_size(model))
    raise ValueError(
        "no mask token: neither the model's config nor the tokenizer names one; "
        "pass mask_token_id (156895 for LLaDA2.x checkpoints)"
    )


def resolve_eos(override: int | list[int] | None, model: Any, tokenizer: Any) -> frozenset[int]:
    """Ids that end a generation; empty where nothing names one."""
    if override is not None:
        found = _ids(override)
    else:
        found = set()
        for owner in (getattr(model, "generation_config", None), getattr(model, "config", None)):
            found |= _ids(getattr(owner, "eos_token_id", None))
        found |= _ids(getattr(tokenizer, "eos_token_id", None))
        found |= _ids(id_of(tokenizer, END_OF_TURN_TEXT))
    return frozenset(check_id("eos_token_id", i, vocab_size(model)) for i in found)


def special_ids(tokenizer: Any) -> set[int]:
    """Ids of special tokens, those included that were added without a name."""
    added = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    return {*tokenizer.all_special_ids, *added}


def vocab_size(model: Any) -> int | None:
    return getattr(getattr(model, "config", None), "vocab_size", None)


def check_id(name: str, value: int, vocab: int | None) -> int:
    if value < 0 or (vocab is not None and value >= vocab):
        raise ValueError(
            f"{name}={value} lies outside the model's vocabulary [0, {vocab}): pass {name} "
            "(mask_id or eos_id in the released generate) as this checkpoint has it"
        )
    return int(value)


def _masks(override: int | None, model: Any, tokenizer: Any) -> Iterator[int | None]:
    """What names a mask, one after the other: each is asked only where those before name none."""
    yield override
    yield getattr(getattr(model, "config", None), "mask_token_id", None)
    yield getattr(tokenizer, "mask_token_id", None)
    yield id_of(tokenizer, MASK_TEXT)


def _ids(value: int | list[int] | None) -> set[int]:
    if value is None:
        return set()
    return set(value) if isinstance(value, (list, tuple)) else {value}


def id_of(tokenizer: Any, text: str) -> int | None:
    """The id of the token that is `text`, if there is one; never that of an unknown token.

    It is looked up and read back: to copy a whole vocabulary takes longer than a forward.
    """
    ways = "convert_tokens_to_ids", "convert_ids_to_tokens"
    if not all(hasattr(tokenizer, way) for way in ways):
        return tokenizer.get_vocab().get(text) if hasattr(tokenizer, "get_vocab") else None
    try:
        found = tokenizer.convert_tokens_to_ids(text)
    except (KeyError, ValueError):  # what some raise for a text that is no token
        return None
    known = found is not None and tokenizer.convert_ids_to_tokens(found) == text
    return found if known else None
