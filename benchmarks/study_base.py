"""The base of `study.py --over-edit`: a model that drafts boldly and changes its mind a lot.

The checkpoint of the study hardly edits, for two reasons. At a threshold of .5 it writes little
that is wrong. And what it wrote stands: a random id of its 595 is hardly ever a digit, so a visible
digit has nearly always been right. Here all weights train on with what LLaDA2.x describes; the
values are ours, as its reports give none.

M2T and random T2T (arXiv 2602.08676, 3.1), to recover the original tokens from random noise, read
to the letter: the loss is on masked and on wrong tokens alone. Half of the visible tokens are
wrong, and are digits. Confidence-aware training (CAP) adds the entropy of right drafts to the loss,
so that many pass the threshold at once; dFactory's recipe has a weight of 2.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

DIGITS = "0123456789"
RECIPE: dict[str, Any] = {
    "data": ("task:chain_sum,examples=6000", "task:leg_counting,examples=6000"),
    "steps": 60,
    "batch_size": 16,
    "max_length": 128,
    "lora_rank": 0,
    "learning_rate": 1e-3,
    "precision": "fp32",
    "eval_examples": 0,
    "edit": {
        "t2t": "random",
        "noise": "uniform_block(0,1)",
        "r_edit": 0.5,
        "lambda_keep": 0.0,
        "cap_beta": 10.0,
    },
}
FEWER = ("task:chain_sum,examples=2000", "task:leg_counting,examples=2000")  # for the arms
# threshold, editing threshold: the preset of speed mode, and all of a block in one forward
BOLD = {
    "speed": (0.5, 0.0),
    "whole block": (0.0, 0.0),
    "whole block, no editing": (0.0, None),
}
SELECTED = range(500, 600)  # held-out problems of each task that the study does not report


class OfDigits(TrainerCallback):
    """Random wrong tokens are digits."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        ids = given["processing_class"].convert_tokens_to_ids(list(DIGITS))
        given["model"].candidates = torch.tensor(sorted(ids))


def train_base(checkpoint: str, folder: Path) -> Path:
    """The checkpoint of the base in `folder`; it is trained, or trained further, where missing."""
    from fastedit.training.runs.run import run
    from fastedit.training.runs.settings import RunOptions

    result = folder / "checkpoint"
    if not result.exists():
        options = {"checkpoint": checkpoint, "output": str(folder), "save_every": 20, **RECIPE}
        run(RunOptions.from_mapping(options), resume=folder.exists(), callbacks=[OfDigits()])
    return result
