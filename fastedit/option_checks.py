"""What each option of `DecodeConfig` takes: checks that return the value or say what it may be."""

from __future__ import annotations

from typing import Any

from fastedit.policies import POLICIES, Policy
from fastedit.policies.fields import HEAT, real, whole

# What is kept from forward to forward; the last two are Fast-dLLM's.
APPROXIMATE = ("prefix", "dual")
CACHES = ("exact", "none", *APPROXIMATE)


def _one_or_many(check_one, words: str):
    """None, one value or a list of values; a list stays a list."""

    def check(value: Any) -> Any:
        if value is None:
            return None
        try:
            if isinstance(value, (list, tuple)):
                return [check_one(item) for item in value]
            return check_one(value)
        except (TypeError, ValueError):
            raise ValueError(words) from None

    return check


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError
    return value


def flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("True or False")
    return value


def _policy(value: Any) -> str | Policy | None:
    if value is None or isinstance(value, Policy):
        return value
    if not isinstance(value, str):
        raise ValueError(f"None, a policy, or its text: one of {', '.join(sorted(POLICIES))}")
    return value


def _cache(value: Any) -> str:
    if value not in CACHES:
        raise ValueError(f"one of {', '.join(map(repr, CACHES))}")
    return value


_SEED = whole(-(2**63), "an integer")
CHECKS = {
    "threshold": real(0.0, 1.0, "a number from 0 to 1 (1 is never)"),
    "editing_threshold": real(0.0, 1.0, "None (off) or a number from 0 to 1", True),
    "max_post_steps": whole(0, "an integer from 0 to 2**31 - 1", most=2**31 - 1),
    "num_to_transfer": whole(1, "an integer from 1 to 2**31 - 1", most=2**31 - 1),
    "block_length": whole(1, "an integer of at least 1"),
    "max_new_tokens": whole(0, "an integer of at least 0"),
    "temperature": HEAT,
    "top_p": real(0.0, 1.0, "None or a number from 0 to 1", True),
    "top_k": whole(-1, "None, an integer of at least 1, or 0 or -1 (off)", True),
    "seed": _one_or_many(_SEED, "None, an integer, or a list of integers"),
    "eos_token_id": _one_or_many(whole(0, ""), "None, a token id, or a list of token ids"),
    "eos_early_stop": flag,
    "stop": _one_or_many(_text, "None, a text, or a list of texts, none of them empty"),
    "mask_token_id": whole(0, "None or a token id", True),
    "steps": whole(1, "None or an integer of at least 1", True),
    "policy": _policy,
    "strict_reference": flag,
    "cache": _cache,
    "lookahead": flag,
    "cuda_graphs": flag,
}
