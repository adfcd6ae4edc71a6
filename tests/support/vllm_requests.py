"""Requests for vLLM's engine on a CPU, what `Decoder` makes of them, and the engine itself."""

from __future__ import annotations

import gc
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from fastedit import DecodeConfig, Decoder
from fastedit.models.load import TINY

ASK = "State the final answer to the following arithmetic problem: {} ="
OPTIONS: list[dict[str, Any]] = [
    {},
    {"threshold": 0.9},
    {"mode": "speed"},
    {"threshold": 0.6, "editing_threshold": None},
    {"threshold": 0.5, "editing_threshold": 0.0, "max_post_steps": 3},
    {"policy": "joint_threshold:threshold=.8,max_post_steps=2"},
    {"policy": "low_confidence:threshold=.8"},
    {"policy": "remask:tau=0.3"},
    {"policy": "saber"},
    {"policy": "entropy_bound", "seed": 11},
    {"policy": "low_confidence:threshold=.8", "temperature": 1.0, "top_p": 0.9, "seed": 3},
]


@dataclass
class Asked:
    """A request, and what `Decoder` makes of it."""

    prompt: list[int]
    options: dict[str, Any]
    max_tokens: int
    stop: list[str] | None
    ids: list[int] = field(default_factory=list)
    text: str = ""

    def extra_args(self) -> dict[str, Any]:
        """Options as vLLM's server takes them: it has no null, for which `none` stands."""
        return {name: "none" if v is None else v for name, v in self.options.items()}


def mixed(tokenizer: Any, count: int, seed: int) -> list[Asked]:
    """Requests whose prompts are less than a block, whole blocks, or whole blocks and a tail."""
    draw = random.Random(seed)
    found = []
    for number in range(count):
        terms = (f"{draw.randrange(99)} + {draw.randrange(99)}" for _ in range(draw.randint(1, 5)))
        ids = tokenizer(" ".join(map(ASK.format, terms))).input_ids
        if number % 4 == 0:
            ids = (ids * 8)[: draw.choice((1, 2, 31, 32, 33, 63, 64, 65, 96, 150))]
        found.append(
            Asked(
                ids,
                draw.choice(OPTIONS),
                draw.choice((1, 5, 31, 32, 33, 48, 64, 97)),
                draw.choice((None, None, None, ["9"], ["so", "3 "], ["####"])),
            )
        )
    return found


def decoded(decoder: Decoder, asked: list[Asked]) -> list[Asked]:
    """The same requests, with the results of `decoder`."""
    configs = [
        DecodeConfig(max_new_tokens=one.max_tokens, stop=one.stop, **one.options) for one in asked
    ]
    out = decoder.generate([torch.tensor(one.prompt) for one in asked], config=configs)
    for one, ids, text in zip(asked, out.sequences, out.texts, strict=True):
        one.ids, one.text = ids.tolist(), text
    return asked


@contextmanager
def engine(model: Any = TINY, **settings: Any) -> Iterator[Any]:
    """vLLM's engine in this process."""
    from vllm import LLM
    from vllm.distributed.parallel_state import cleanup_dist_env_and_memory

    llm = LLM(str(model), enforce_eager=True, dtype="float32", **settings)
    try:
        yield llm
    finally:
        del llm
        gc.collect()
        cleanup_dist_env_and_memory()


def inside(llm: Any) -> Any:
    """The engine's core, which has the scheduler and the model runner."""
    return llm.llm_engine.engine_core.engine_core


def params(one: Asked, **others: Any) -> Any:
    from vllm import SamplingParams

    return SamplingParams(
        max_tokens=one.max_tokens, stop=one.stop, extra_args=one.extra_args() or None, **others
    )
