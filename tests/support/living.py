"""Requests of all kinds for a living engine, and what each of them gives when it decodes alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from cases import DRAWN, ENDS, GOLDEN, prompt

from fastedit import DecodeConfig, Decoder
from fastedit.results import DecodeStats, Event

_TOLD = prompt(40)
# Three begin alike, for different numbers of blocks; one is the beginning of another.
PROMPTS = [
    _TOLD[:19],
    _TOLD[:33],
    torch.cat((_TOLD[:24], prompt(11))),
    prompt(5),
    prompt(16),
]
SHORT = {key: value for key, value in GOLDEN.items() if key != "max_post_steps"}
CONFIGS = {
    "quality": DecodeConfig(**GOLDEN | ENDS[0]),
    "speed": DecodeConfig(**GOLDEN | ENDS[1]),
    "drawn": DecodeConfig(**GOLDEN | DRAWN),
    "stopped": DecodeConfig(**GOLDEN | ENDS[2] | {"stop": ["J", "Y"], "max_new_tokens": 40}),
    "nothing": DecodeConfig(**GOLDEN | {"max_new_tokens": 0}),
    "one": DecodeConfig(**GOLDEN | {"max_new_tokens": 1}),
    "uncached": DecodeConfig(**GOLDEN | ENDS[2] | {"use_cache": False, "max_new_tokens": 12}),
    "lookahead": DecodeConfig(**GOLDEN | ENDS[0] | {"lookahead": True}),
    "longer blocks": DecodeConfig(**GOLDEN | ENDS[1] | {"block_length": 12}),
    "low confidence": DecodeConfig(**SHORT | {"policy": "low_confidence:threshold=.6"}),
    "remasked": DecodeConfig(**SHORT | {"policy": "remask", "max_new_tokens": 14}),
    "gains": DecodeConfig(**SHORT | {"policy": "saber", "max_new_tokens": 14}),
    "corrected": DecodeConfig(**SHORT | {"policy": "proseco:threshold=.3", "max_new_tokens": 14}),
    "all corrected": DecodeConfig(
        **SHORT
        | {"policy": "proseco:threshold=.3,scope=generated", "cache": "none"}
        | {"max_new_tokens": 20}
    ),
    "ranked": DecodeConfig(**SHORT | {"policy": "correction:mode=rank,steps=5"}),
    "verified": DecodeConfig(**SHORT | {"policy": "wino:threshold=.3", "max_new_tokens": 14}),
    "remasked by chance": DecodeConfig(
        **SHORT | {"policy": "remdm:eta=.3,steps=6", "max_new_tokens": 14}
    ),
    "reopened": DecodeConfig(
        **GOLDEN | ENDS[0] | {"policy": "multi_block:rounds=2,share=.5", "max_new_tokens": 14}
    ),
    "put in and taken out": DecodeConfig(
        **GOLDEN
        | ENDS[2]
        | {"policy": "joint_threshold_indel:delete_token_id=74,insert_token_id=53"}
        | {"max_new_tokens": 14}
    ),
    "rewritten": DecodeConfig(
        **SHORT | {"policy": "self_correction:max_steps=3", "max_new_tokens": 14}
    ),
}


class Alone:
    """What `Decoder.generate` of one request gives: (ids, text, stats), computed once."""

    def __init__(self, model: Any, tokenizer: Any = None) -> None:
        self.decoder, self.known = Decoder(model, tokenizer), {}

    def __call__(self, which: int, name: str) -> tuple[list[int], str, DecodeStats]:
        if (which, name) not in self.known:
            out = self.decoder.generate(PROMPTS[which], config=CONFIGS[name])
            text = out.texts[0] if out.texts is not None else ""
            self.known[which, name] = out.sequences[0].tolist(), text, comparable(out.stats[0])
        return self.known[which, name]


def comparable(stats: DecodeStats) -> DecodeStats:
    """Without prefill forwards, which depend on what was in the pool already."""
    return replace(stats, prefill_forwards=0)


def by_request(events: Sequence[Event]) -> dict[int, list[Event]]:
    """In order; each request has one "end", behind which nothing comes."""
    own: dict[int, list[Event]] = {}
    for event in events:
        own.setdefault(event.request, []).append(event)
    for number, its in own.items():
        kinds = [event.kind for event in its]
        assert kinds.count("end") == 1 and kinds[-1] == "end", (number, kinds)
    return own


def ids_of(events: Sequence[Event]) -> list[int]:
    return [token for event in events if event.kind == "commit" for token in event.ids]


def text_of(events: Sequence[Event]) -> str:
    return "".join(event.text for event in events if event.kind == "commit")


def check(events: Sequence[Event], want: tuple[list[int], str, DecodeStats], name: str) -> None:
    """Events of one request against what it gives alone; an aborted one gives a beginning."""
    ids, text, stats = want
    got, end = ids_of(events), events[-1]
    assert end.error is None and end.stats.tokens == len(got)
    if end.stats.finish_reason == "aborted":
        assert got == ids[: len(got)] and text.startswith(text_of(events))
        return
    assert (got, text_of(events)) == (ids, text)
    ended = comparable(end.stats)
    if CONFIGS[name].lookahead:  # whether a forward takes two blocks depends on the neighbours
        ended = replace(ended, forwards=stats.forwards, block_forwards=stats.block_forwards)
    assert ended == stats


def check_empty(living: Any) -> None:
    """Nothing is inside; what of the pool is taken is kept for reuse; no slot decodes."""
    engine = living._engine
    assert living.idle and engine.idle and not engine.inside
    for lane in engine.lanes.values():
        assert not lane.busy and bool(lane.slots.blocks.done.all())
    if engine.store is not None:
        extents, prefixes = engine.store.extents, engine.store.prefixes
        assert set(prefixes.paths) == set(prefixes.unused)
        taken = sum(extent.size // extents.unit for extent in prefixes.unused)
        assert extents.free.count(False) == taken
