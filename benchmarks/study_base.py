"""The base of `study.py --over-edit`: a model that changes its mind a lot.

The checkpoint of the study hardly edits. The block-causal base of `make bases` has learnt from
masks alone; here all its weights train on with M2T and random T2T, as LLaDA2.1 was trained (arXiv
2602.08676, 3.1), with AdamW and for few steps. Then it knows that a visible token may be wrong, and
not yet which.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edits_arms import DATA, LENGTH

RECIPE: dict[str, Any] = {
    "data": DATA,
    "steps": 200,
    "batch_size": 32,
    "max_length": LENGTH,
    "lora_rank": 0,
    "learning_rate": 5e-4,
    "eval_examples": 0,
    "edit": {"t2t": "random", "noise": "uniform_block(0.3,1)"},
}
SELECTED = range(500, 600)  # held-out problems of each task that the study does not report


def train_base(checkpoint: str, folder: Path) -> Path:
    """The checkpoint of the base in `folder`; it is trained, or trained further, where missing."""
    from fastedit.training.runs.run import run
    from fastedit.training.runs.settings import RunOptions

    result = folder / "checkpoint"
    if not result.exists():
        options = {"checkpoint": checkpoint, "output": str(folder), "save_every": 50, **RECIPE}
        run(RunOptions.from_mapping(options), resume=folder.exists())
    return result
