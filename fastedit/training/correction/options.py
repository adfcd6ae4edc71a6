"""What a correction head trains on: every knob, with its default."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Any

from fastedit.ops.draft_and_corrupt import DRAFT_MODES
from fastedit.training.typed import set_types

_CHOICES: dict[str, tuple[str, ...]] = {
    "targets": ("fca", "filling", "prism"),
    "unit": ("block", "document"),
    "candidates": ("all", "extra"),
    "tokens": DRAFT_MODES,
    "confidence": ("written", "best"),
    "scope": ("visible", "drafted", "all"),
    "weighting": ("clamped", "balanced", "none"),
}
# What is None follows from the targets; PRISM's K = 8 is that of its released training.
_BY_TARGETS: dict[str, dict[str, Any]] = {
    "fca": {"scope": "visible"},
    "filling": {"scope": "visible"},
    "prism": {"scope": "drafted", "count": 8},
}
_UNITS = {"block_causal": "block", "full": "document"}
_AT_LEAST: dict[str, int] = {"count": 1, "max_error_weight": 1, "depth": 0, "width": 2}


@dataclass(frozen=True)
class CorrectionOptions:
    """Samples, loss and size of a correction head.

    targets      "fca": errors are made with less context than they are judged with (Future-Context
                 Augmentation). x_t masks the response at a rate t, x_more also some of what x_t
                 shows; the model fills the surest masks of x_more, and the head judges them in x_t.
                 "filling": without it; tokens are judged in the x_t that they were written into.
                 "prism": the same, with K tokens, and of those alone (arXiv 2510.01384)
    unit         what has a rate and writes tokens of its own: the "block" that is decoded at once,
                 beside clean blocks before it, or the whole "document". None: "block" for
                 block-causal models, "document" with full attention
    delta_t      share of the unit's response that is written, and least extra rate of x_more
    count        tokens written per unit; None: ceil(delta_t * response), at least 1; of "prism" 8
    candidates   of "fca": "all" masks of x_more; "extra", only those that x_t shows
    tokens       "argmax", or "sample" at `temperature`
    confidence   the surest by the probability of the token "written", or of the "best" one
    ban          ids beside the mask that are never written; None: special tokens, but for EOS
    scope        judged positions of the response: "visible" ones; those "drafted"; or "all", of
                 which a mask is always wrong. None: by the targets
    weighting    weight of wrong tokens. "clamped": right / wrong of the step, from 1 to
                 `max_error_weight`, and the sum is divided by the tokens; "balanced": the same
                 without bounds, divided by the sum of weights; "none": 1

    depth, width, layer   of the head, see `CorrectionHeadConfig`; width None: that of the model

    Raises ValueError, naming the option, for a value that is none of these.
    """

    targets: str = "fca"
    unit: str | None = None
    delta_t: float = 1 / 32
    count: int | None = None
    candidates: str = "all"
    tokens: str = "argmax"
    temperature: float = 1.0
    confidence: str = "written"
    ban: tuple[int, ...] | None = None
    scope: str | None = None
    weighting: str = "clamped"
    max_error_weight: float = 20.0
    depth: int = 2
    width: int | None = None
    layer: int = -2

    def __post_init__(self) -> None:
        set_types(self)
        for name, choices in _CHOICES.items():
            value = getattr(self, name)
            if value is not None and value not in choices:
                raise ValueError(f"{name} must be one of {', '.join(choices)}; got {value!r}")
        for name, least in _AT_LEAST.items():
            value = getattr(self, name)
            if value is not None and not least <= value < math.inf:
                raise ValueError(f"{name} must be finite and at least {least}, got {value}")
        if self.candidates == "extra" and self.targets != "fca":
            raise ValueError(
                f"candidates=extra: targets={self.targets} have no masks but those of x_t, so "
                "nothing would be written; leave it out, or take targets=fca"
            )
        if not 0 < self.delta_t < 1:
            raise ValueError(f"delta_t must lie between 0 and 1, got {self.delta_t}")
        if not 1e-30 <= self.temperature <= 1e30:
            raise ValueError(f"temperature must be from 1e-30 to 1e30, got {self.temperature}")

    def settled(self, attention: str, special_ids: tuple[int, ...]) -> CorrectionOptions:
        """These, with what is None filled in for a model of this attention and its special ids."""
        values = {"unit": _UNITS[attention], "ban": special_ids, **_BY_TARGETS[self.targets]}
        settled = copy.copy(self)
        for name, value in values.items():
            if getattr(self, name) is None:
                object.__setattr__(settled, name, value)
        return settled
