"""A run as a picture: loss, accuracies, learning rate and speed by step."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from fastedit.extras import install
from fastedit.files.jsonl import as_line
from fastedit.training.runs.folder import CURVES, METRICS, VALIDATION

FEWEST = 10  # steps that make a curve
WIDTH, HEIGHT = 11, 7  # inches
PANELS = {
    "loss": ("loss",),
    "accuracy": ("masked_accuracy", "edit_accuracy", "recall_half", "next_accuracy"),
    "learning rate": ("learning_rate",),
    "tokens per second": ("tokens_per_second",),
}


class Curves(TrainerCallback):
    """Draws `curves.png` beside the logs at the end, where matplotlib is installed.

    `say` gets why there is none; training is none the worse for it.
    """

    def __init__(self, folder: Path, say: Callable[[str], None]) -> None:
        self.folder, self.say = folder, say

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step < FEWEST:
            return
        try:
            draw(self.folder)
        except ImportError:
            self.say(f"{CURVES} needs matplotlib: {install('plot')}")
        except Exception as error:  # whatever it is, the weights are fine
            self.say(f"{CURVES} cannot be drawn: {as_line(error)}")


def draw(folder: Path) -> Path:
    """Draw the logs in `folder`; what a validation has stands as dots. Raises ImportError."""
    from matplotlib.figure import Figure

    steps, validations = _read(folder / METRICS), _read(folder / VALIDATION)
    figure = Figure(figsize=(WIDTH, HEIGHT), layout="constrained")
    for axis, (title, names) in zip(figure.subplots(2, 2).flat, PANELS.items(), strict=True):
        for name in names:
            points = _points(steps, name)
            if points:
                (line,) = axis.plot(*zip(*points, strict=True), lw=1, label=name)
                held_out = _points(validations, f"eval_{name}")
                if held_out:
                    places, values = zip(*held_out, strict=True)
                    axis.plot(places, values, "o", color=line.get_color(), label=f"eval_{name}")
        axis.set_title(title)
        axis.set_xlabel("step")
        if title == "accuracy":
            axis.set_ylim(-0.03, 1.03)
        if axis.lines:
            axis.legend(frameon=False, fontsize=8)
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(folder / CURVES, dpi=120)
    return folder / CURVES


def _read(path: Path) -> list[dict[str, Any]]:
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return [json.loads(line) for line in lines]


def _points(records: list[dict[str, Any]], name: str) -> list[tuple[int, float]]:
    return [(r["step"], r[name]) for r in records if r.get(name) is not None]
