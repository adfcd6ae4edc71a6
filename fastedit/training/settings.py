"""The options of a run, beside those of the step (`EditOptions`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, TypeVar

from .lora import TARGETS
from .options import EditOptions

# May change between a run and its resumption: none of them changes what is computed, other than by
# the rounding of differently shaped products.
FREE = frozenset(
    "data output micro_batch device gradient_checkpointing save_every keep eval_data eval_every "
    "eval_examples".split()
)
Options = TypeVar("Options")


@dataclass(frozen=True)
class RunOptions:
    """What `fastedit train` does; docs/training.md says where the defaults come from.

    checkpoint     folder, Hub id, or "tiny"
    data           files of JSON Lines and tasks, see `fastedit.training.data`
    output         folder of checkpoints, metrics and the result
    batch_size     rows per optimiser step, over all processes
    micro_batch    rows per forward and process; None: all of them at once
    max_length     tokens per row, a multiple of the model's block size
    lora_rank      0: every weight trains
    warmup, min_learning_rate   shares of the steps and of the learning rate
    dtype          of the checkpoint's weights; "auto": as stored, float32 where they all train
    precision      "bf16" (autocast), "fp32" or "auto": bf16 on a GPU
    gradient_checkpointing  compute activations again in the backward pass, for less memory
    eval_data      None: held-out problems where the first of the data is a task, else none

    Raises ValueError naming the value and what is allowed.
    """

    checkpoint: str
    data: tuple[str, ...]
    output: str
    steps: int
    seed: int = 0
    edit: EditOptions = field(default_factory=EditOptions)
    on_bad_line: str = "stop"
    raw: bool = False
    prompt_field: str = "prompt"
    completion_field: str = "completion"
    max_length: int = 2048
    packing: bool = True
    batch_size: int = 8
    micro_batch: int | None = None
    lora_rank: int = 16
    lora_alpha: int = 32
    lora_targets: tuple[str, ...] = TARGETS
    lora_experts: bool = False
    learning_rate: float = 1e-4
    min_learning_rate: float = 0.1
    warmup: float = 0.03
    weight_decay: float = 0.0
    clip: float = 1.0
    dtype: str = "auto"
    precision: str = "auto"
    device: str = "auto"
    gradient_checkpointing: bool = False
    save_every: int = 100
    keep: int = 2
    eval_data: str | None = None
    eval_every: int = 100
    eval_examples: int = 64

    def __post_init__(self) -> None:
        for name in ("checkpoint", "output"):
            if not getattr(self, name):
                raise ValueError(f"{name} is missing")
        if not self.data:
            raise ValueError("data is missing: name a file or task:NAME")
        least = dict.fromkeys(
            (
                "steps",
                "batch_size",
                "micro_batch",
                "lora_alpha",
                "save_every",
                "keep",
                "eval_every",
            ),
            1,
        ) | dict.fromkeys(("lora_rank", "eval_examples", "seed"), 0)
        for name, low in least.items():
            value = getattr(self, name)
            if value is not None and (type(value) is not int or value < low):
                raise ValueError(f"{name}={value!r} must be an integer of at least {low}")
        for name in ("min_learning_rate", "warmup"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}={getattr(self, name)} must lie between 0 and 1")
        for name in ("learning_rate", "clip"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ValueError(f"{name}={getattr(self, name)} must be positive")
        if not 0 <= self.weight_decay < float("inf"):
            raise ValueError(f"weight_decay={self.weight_decay} must not be negative")
        choices = {
            "on_bad_line": ("stop", "skip"),
            "dtype": ("auto", "float32", "bfloat16", "float16"),
            "precision": ("auto", "bf16", "fp32"),
            "device": ("auto", "cpu"),
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name}={getattr(self, name)!r} must be {' or '.join(allowed)}")

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> RunOptions:
        """From a file's or command line's names; `edit` holds a mapping of `EditOptions`.

        Raises ValueError for an unknown name, TypeError for a missing one.
        """
        given = _checked(cls, values, "")
        edit = given.get("edit", {})
        if isinstance(edit, Mapping):
            given["edit"] = EditOptions(**_checked(EditOptions, edit, "edit."))
        return cls(**given)

    def micro_batches(self, processes: int) -> tuple[int, int]:
        """(rows per forward, forwards per step and process). Raises ValueError if uneven."""
        share, left = divmod(self.batch_size, processes)
        rows = self.micro_batch or share
        if left or not rows or share % rows:
            raise ValueError(
                f"batch_size={self.batch_size} must be a multiple of {processes} processes times "
                f"micro_batch={rows}"
            )
        return rows, share // rows

    def facts(self) -> dict[str, Any]:
        """What a resumed run must have in common with the run before."""
        return {name: value for name, value in asdict(self).items() if name not in FREE}


def _checked(cls: type, values: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """`values` as they were meant where YAML reads another type: 1e-4 as text, off as False."""
    types = {f.name: str(f.type) for f in fields(cls)}
    unknown = sorted(f"{prefix}{name}" for name in values if name not in types)
    if unknown:
        raise ValueError(
            f"unknown option {', '.join(unknown)}; known: {', '.join(prefix + n for n in types)}"
        )
    checked = dict(values)
    for name, value in values.items():
        if types[name] == "float":
            try:
                checked[name] = float(value)
            except (TypeError, ValueError):
                raise ValueError(f"{prefix}{name}={value!r} must be a number") from None
        elif types[name] == "str" and isinstance(value, bool):
            checked[name] = "on" if value else "off"
        elif types[name] == "str" and isinstance(value, (int, float)):
            checked[name] = str(value)
        elif types[name] == "bool" and not isinstance(value, bool):
            raise ValueError(f"{prefix}{name}={value!r} must be true or false")
        elif types[name].startswith("tuple") and isinstance(value, (list, str)):
            checked[name] = (value,) if isinstance(value, str) else tuple(value)
    return checked
