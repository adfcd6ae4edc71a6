"""Every registered rule with small settings, for tests that hold for all of them."""

from __future__ import annotations

import dataclasses
from typing import Any

from spread_head import spread_head

from fastedit import DecodeConfig, Decoder
from fastedit.heads import NextTokenHead
from fastedit.models import Family
from fastedit.policies import POLICIES

# What a rule cannot do without, of a vocabulary of eight tokens or more, or takes long without.
GIVEN: dict[str, dict[str, Any]] = {
    "entropy_bound": {"steps": 8},
    "joint_threshold_indel": {"delete_token_id": 5, "insert_token_id": 6},
    "correction": {"scorer": "confidence"},
    "me_dlm": {"delete_token_id": 5, "pad_token_id": 6},
    "correction, head": {"fill": "confidence;threshold=0.1"},
}
# Those that have a name, and what else their parameters make of them.
RULES = [*POLICIES, "correction, head"]
# Ends soon, where nothing else is asked for.
SMALL = {"max_post_steps": 3, "mask_steps": 4, "edit_steps": 3, "max_steps": 6, "patience": 2}
# Rules that begin with random tokens, and those whose results depend on the seed in any case.
NOISE = {"entropy_bound"}
RANDOM = NOISE | {"remdm", "self_correction"}
# Rules that change blocks before the active one, which its drafts do not show.
REOPENING = {"multi_block"}
# Rules whose texts shrink and grow, in one block: with full attention and a second head.
VARIABLE = {"me_dlm"}
# Rules with temperatures of their own take no other.
HEATED = {"entropy_bound", "self_correction"}


def small(name: str, **options: Any):
    """The policy of that name; of `options`, those that it has."""
    kind = POLICIES[name.partition(",")[0]]
    fields = {field.name for field in dataclasses.fields(kind)}
    wanted = {key: value for key, value in (SMALL | options).items() if key in fields}
    if "fill" in GIVEN.get(name, {}):  # it goes its own pace
        wanted.pop("steps", None)
    return kind(**GIVEN.get(name, {}) | wanted)


def second_head(name: str, model: Any) -> dict[str, Any]:
    """What a Decoder of a real model needs for the rule: a head for the next token, untrained."""
    if name not in VARIABLE:
        return {}
    family = Family(attention="full", blocks="after_prompt")
    return {"head": NextTokenHead.of(model), "family": family}


def drawing(name: str) -> dict[str, float]:
    """Options that make the rule draw its tokens."""
    return {} if name in HEATED else {"temperature": 1.0}


def decoder_of(model: Any, tokenizer: Any, name: str, **options: Any) -> Decoder:
    """One that fills, edits and remasks a lot on the golden model, with blocks of eight tokens."""
    rules = {"threshold": 0.3, "editing_threshold": 0.2, "tau": 0.1, "steps": 6}
    config = DecodeConfig(
        policy=small(name, **rules),
        block_length=8,
        mask_token_id=127,
        eos_token_id=[],
        seed=4,
        **options,
    )
    heads = second_head(name, model)
    if "head" in name:
        heads = {"head": spread_head(model.config)}
    return Decoder(model, tokenizer, config=config, **heads)
