"""What the embedded checkpoint is trained on: two runs of `fastedit train`."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from fastedit.training.data.problems import parse_task
from fastedit.training.options import EditOptions
from fastedit.training.runs.checkpoints import publish
from fastedit.training.runs.run import run
from fastedit.training.runs.settings import RunOptions
from recipes.tiny.model import build_model, build_optimizer
from recipes.tiny.tokenizer import build_tokenizer

# The sum of two digits modulo 10 shows in neither digit alone, so two-digit sums by themselves stay
# on a plateau for thousands of steps. Sums of single digits, which can be approached through their
# size, lead out of it. One question in five stands bare, without the chat around it.
FROM_NOTHING = (
    "task:chain_sum,examples=40000,seed=1,max_terms=2,max_digits=1",
    "task:chain_sum,examples=80000,seed=2,max_terms=2,mixed_share=0.3",
    "task:chain_sum,examples=20000,seed=3,max_terms=2,mixed_share=0.3,raw=true",
    "task:chain_sum,examples=48000,seed=4,min_terms=3,mixed_share=0.3",
    "task:chain_sum,examples=12000,seed=5,min_terms=3,mixed_share=0.3,raw=true",
    "task:leg_counting,examples=20000,seed=6",
    "task:leg_counting,examples=5000,seed=7,raw=true",
)
ON_DRAFTS = (
    "task:chain_sum,examples=12000,mixed_share=0.3,seed=8",
    "task:leg_counting,examples=12000,seed=8",
)


def first_stage(output: Path, steps: int, seed: int) -> RunOptions:
    """From nothing: masks and random wrong tokens."""
    return RunOptions(
        checkpoint=str(output / "start"),
        data=FROM_NOTHING,
        output=str(output),
        steps=steps,
        seed=seed,
        max_length=128,
        batch_size=96,
        lora_rank=0,
        learning_rate=0.02,
        min_learning_rate=0.0,
        precision="fp32",
        eval_data="task:chain_sum",
        edit=EditOptions(t2t="random", noise="uniform_block(0,1)"),
    )


def second_stage(output: Path, seed: int) -> RunOptions:
    """On wrong tokens that the model drafts itself.

    Mask rates go up to 1, as in decoding: most errors of a draft are made where little is visible.
    """
    return RunOptions(
        checkpoint=str(output / "checkpoint"),
        data=ON_DRAFTS,
        output=str(output / "edited"),
        steps=400,
        seed=seed,
        max_length=128,
        batch_size=48,
        lora_rank=0,
        learning_rate=5e-4,
        precision="fp32",
        edit=EditOptions(t2t="self", noise="uniform_block(0.3,1)"),
    )


def build_start(folder: Path, data: Sequence[str], seed: int, width: int = 160) -> None:
    """A tokenizer of the texts of `data` and an untrained model, as a checkpoint on the Hub."""
    tokenizer = build_tokenizer(_texts(data))
    save(build_model(tokenizer, seed, width), tokenizer, folder)


def save(model: Any, tokenizer: Any, folder: Path) -> None:
    """As a checkpoint on the Hub, which is there once it is whole."""
    unfinished = folder.with_name(f"{folder.name}.unfinished")
    model.save_pretrained(unfinished)
    tokenizer.save_pretrained(unfinished)
    publish(unfinished, folder)


def make(first: RunOptions, second: RunOptions, *, resume: bool) -> Path:
    """Both stages; returns the checkpoint. Raises what `run` raises."""
    start = Path(first.checkpoint)
    if not start.exists():
        build_start(start, first.data, first.seed)
    run(first, resume=resume, say=print, optimizer=build_optimizer)
    return run(second, resume=resume, say=print)


def _texts(data: Sequence[str], problems: int = 2000) -> Iterator[str]:
    for source in data:
        for problem in itertools.islice(parse_task(source).problems(), problems):
            yield problem.question
            yield problem.solution
