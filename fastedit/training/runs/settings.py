"""The options of a run, beside those of the step (`EditOptions`)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from fastedit.files.jsonl import ON_BAD_LINE
from fastedit.training.correction.options import CorrectionOptions
from fastedit.training.options import EditOptions
from fastedit.training.refinement.options import RefinementOptions
from fastedit.training.typed import set_types

# May change between a run and its resumption: none of them changes what is computed, other than by
# the rounding of differently shaped products. Checkpoint and data are compared by their content.
FREE = frozenset(
    "checkpoint data output micro_batch device gradient_checkpointing save_every keep eval_data "
    "eval_every eval_examples report_to".split()
)
# Options that hold options of their own, and how one writes them.
PARTS: dict[str, tuple[type, str]] = {
    "edit": (EditOptions, "{t2t: self}"),
    "refinement": (RefinementOptions, "{edit_steps: 16}"),
    "correction": (CorrectionOptions, "{delta_t: 0.1}"),
}
LEARNING_RATES = {None: 1e-4, "correction": 3e-4}
_OF_WEIGHTS = "lora_rank lora_alpha lora_targets lora_experts gradient_checkpointing".split()
_POSITIVE = "steps batch_size micro_batch max_length lora_alpha save_every keep eval_every".split()


@dataclass(frozen=True)
class RunOptions:
    """What `fastedit train` does; docs/training.md says where the defaults come from.

    checkpoint     folder, Hub id, or "tiny"
    data           files of JSON Lines and tasks, see `fastedit.training.data.texts`
    output         folder of checkpoints, metrics and the result
    steps          None: they follow from the data, see `amounts`
    batch_size     rows per optimiser step, over all processes
    micro_batch    rows per forward and process; None: all of them at once
    ignore_fields  keys of lines that may be left unread
    max_length     tokens per row, a multiple of the model's block size; None: 2048, or as many as
                   the model has positions
    head           "correction": a new correction head trains, with the options `correction`; the
                   checkpoint is frozen, and the options of edits and LoRA say nothing
    packing        several documents in a row; None: unless that leaves too few steps to a run
                   whose steps follow from the data
    lora_rank      0: every weight trains
    lora_targets   ends of module names; None: see `lora.default_targets`
    learning_rate  None: it follows from the steps, see `amounts`; of a head 3e-4
    warmup, min_learning_rate   shares of the steps and of the learning rate; less than a step of
                                warmup is none
    dtype          of the checkpoint's weights; "auto": as stored, float32 where they all train
    precision      "bf16" (autocast), "fp32" or "auto": bf16 on a GPU
    gradient_checkpointing  compute activations again in the backward pass, for less memory
    report_to      names of trackers that transformers reports to, such as tensorboard
    eval_data      None: held-out problems where the first of the data is a task, else none

    Raises ValueError naming the value and what is allowed.
    """

    checkpoint: str
    data: tuple[str, ...]
    output: str = "run"
    steps: int | None = None
    seed: int = 0
    edit: EditOptions = field(default_factory=EditOptions)
    refinement: RefinementOptions = field(default_factory=RefinementOptions)
    head: str | None = None
    correction: CorrectionOptions = field(default_factory=CorrectionOptions)
    on_bad_line: str = "stop"
    raw: bool = False
    prompt_field: str = "prompt"
    completion_field: str = "completion"
    ignore_fields: tuple[str, ...] | None = None
    max_length: int | None = None
    packing: bool | None = None
    batch_size: int = 8
    micro_batch: int | None = None
    lora_rank: int = 16
    lora_alpha: int = 32
    lora_targets: tuple[str, ...] | None = None
    lora_experts: bool = False
    learning_rate: float | None = None
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
    report_to: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        set_types(self)
        for name, (kind, example) in PARTS.items():
            value = getattr(self, name)
            if not isinstance(value, kind):
                raise ValueError(
                    f"{name}={value!r} must be a mapping of its options, such as {example}"
                )
        self._check_head()
        for name in ("checkpoint", "output"):
            if not getattr(self, name):
                raise ValueError(f"{name} is missing")
        if not self.data:
            raise ValueError("data is missing: name a file or task:NAME")
        least = dict.fromkeys(_POSITIVE, 1) | dict.fromkeys(("lora_rank", "eval_examples"), 0)
        for name, low in least.items():
            value = getattr(self, name)
            if value is not None and value < low:
                raise ValueError(f"{name}={value} must be an integer of at least {low}")
        if not 0 <= self.seed < 2**32:  # numpy takes no other
            raise ValueError(f"seed={self.seed} must be an integer from 0 to {2**32 - 1}")
        for name in ("min_learning_rate", "warmup"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}={getattr(self, name)} must lie between 0 and 1")
        for name in ("learning_rate", "clip"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise ValueError(f"{name}={value} must be positive")
        if not 0 <= self.weight_decay < float("inf"):
            raise ValueError(f"weight_decay={self.weight_decay} must not be negative")
        choices = {
            "on_bad_line": ON_BAD_LINE,
            "dtype": ("auto", "float32", "bfloat16", "float16"),
            "precision": ("auto", "bf16", "fp32"),
            "device": ("auto", "cpu"),
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name}={getattr(self, name)!r} must be {' or '.join(allowed)}")

    def _check_head(self) -> None:
        """Raises ValueError for an unknown head, and for options that would say nothing."""
        if self.head not in LEARNING_RATES:
            raise ValueError(f"head={self.head!r} must be correction, or left out")
        of_edits = dict.fromkeys(("edit", *_OF_WEIGHTS), "of a head's training")
        unused = {"correction": "without --head correction"} if self.head is None else of_edits
        if self.edit.labels != "levenshtein":
            unused["refinement"] = "without --labels levenshtein"
        for option in fields(self):
            name, value = option.name, getattr(self, option.name)
            default = PARTS[name][0]() if name in PARTS else option.default
            if name in unused and value != default:
                given = f"{name}.{_first_given(value, default)}" if name in PARTS else name
                raise ValueError(f"{name} says nothing {unused[name]}: leave {given} out")

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> RunOptions:
        """From a file's or command line's names; `PARTS` hold mappings of their options.

        Raises ValueError for an unknown name or a bad value, TypeError for a missing name.
        """
        _check_names(cls, values, "")
        given = dict(values)
        for name, (kind, _) in PARTS.items():
            if isinstance(part := given.get(name), Mapping):
                _check_names(kind, part, f"{name}.")
                given[name] = kind(**part)
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

    def differences(self, before: Mapping[str, Any]) -> list[str]:
        """`name=old, not new` for each option that differs from the facts of an earlier run.

        Options that are newer than that run have their defaults in it.
        """
        defaults = _flat(RunOptions("-", ("-",), head=self.head).facts())
        old, new = defaults | _flat(before), _flat(self.facts())
        names = [name for name in old if name not in FREE and old[name] != new.get(name)]
        return [f"{name}={old[name]}, not {new.get(name)}" for name in names]


def _first_given(options: Any, defaults: Any) -> str:
    """The name of the first field in which they differ."""
    names = (field.name for field in fields(options))
    return next(name for name in names if getattr(options, name) != getattr(defaults, name))


def _flat(facts: Mapping[str, Any]) -> dict[str, Any]:
    """As `run.json` has them, with the options of parts beside the others."""
    plain = json.loads(json.dumps(facts))
    parts = {part: plain.pop(part, {}) for part in PARTS}
    flat = (
        (f"{part}.{n}", value) for part, options in parts.items() for n, value in options.items()
    )
    return plain | dict(flat)


def _check_names(cls: type, values: Mapping[str, Any], prefix: str) -> None:
    known = [f.name for f in fields(cls)]
    unknown = sorted(f"{prefix}{name}" for name in values if name not in known)
    if unknown:
        raise ValueError(
            f"unknown option {', '.join(unknown)}; known: {', '.join(prefix + n for n in known)}"
        )
