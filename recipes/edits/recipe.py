"""What the bases of the study of edits are trained on: a run of `fastedit train` each."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from fastedit.training.options import EditOptions
from fastedit.training.runs.run import run
from fastedit.training.runs.settings import RunOptions
from recipes.edits.model import DEL, DELETE, INSERT, WIDTH, block_causal, full_attention
from recipes.tiny.model import build_optimizer
from recipes.tiny.recipe import save
from recipes.tiny.tokenizer import PAD, character_tokenizer

BASES: dict[str, Callable[..., Any]] = {
    "block_causal": block_causal,
    "full_attention": full_attention,
}
TASKS = ("word_sequence_reversal", "text_repair")
# What the questions have in common, and what stands between words.
PHRASES = (
    "Solve the following problem.\n\nProvide you answer as a comma-separated list of words with a "
    "space after the comma.\n\nReverse this list of words: ",
    "Repair this text: ",
    ", ",
)
# Question and answer fill 33 to 64 tokens, so that a canvas always ends with the second block.
LENGTH = 64
# Words have to be learnt for repairs, letter by letter; to put words in another order, little has.
EXAMPLES = (30_000, 70_000)
DATA = tuple(
    f"task:{task},examples={examples},seed=1"
    for task, examples in zip(TASKS, EXAMPLES, strict=True)
)


def base(kind: str, output: Path, steps: int, seed: int) -> RunOptions:
    """From nothing, by masks alone."""
    return RunOptions(
        checkpoint=str(output / "start"),
        data=DATA,
        output=str(output),
        steps=steps,
        seed=seed,
        max_length=LENGTH,
        batch_size=32,
        lora_rank=0,
        learning_rate=0.02,
        min_learning_rate=0.0,
        precision="fp32",
        eval_data=f"task:{TASKS[0]}",
        save_every=100,
        eval_every=250,
        edit=EditOptions(
            t2t="none", noise="uniform_block(0,1)", mask_weight="1", denominator="supervised"
        ),
    )


def build_start(kind: str, folder: Path, seed: int, width: int = WIDTH) -> None:
    """The tokenizer and an untrained model, as a checkpoint on the Hub."""
    tokenizer = character_tokenizer(PHRASES, control=(PAD, DELETE, INSERT, DEL))
    save(BASES[kind](tokenizer, seed, width), tokenizer, folder)


def make(kind: str, options: RunOptions, *, resume: bool) -> Path:
    """One base; returns its checkpoint. Raises what `run` raises."""
    start = Path(options.checkpoint)
    if not start.exists():
        build_start(kind, start, options.seed)
    return run(options, resume=resume, say=print, optimizer=build_optimizer)
