"""What ME-DLM's training has beside `EditOptions`, with its defaults."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from fastedit.training.typed import set_types

# What becomes of a missing token that equals the token behind its gap, by the name of the option.
FIRST_GAPS: dict[str, Any] = {"canonical": True, "released": False, "strict": "strict"}


@dataclass(frozen=True)
class RefinementOptions:
    """Drafts and labels of the edit stage, and what a text is made of.

    mask_first    whether the first token of an answer is masked and learnt as the others are. False
                  as released: nothing then teaches a model from nothing to fill it
    fills         masks that a forward of a draft fills, one of these numbers per row
    edit_steps    forwards that edit a draft: the integer part of this times the share of the run
                  that is done. In validation the share is drawn
    first_gap     labels of a missing token that equals the token behind its gap: "canonical",
                  "released", "strict"; see `ops.levenshtein_labels`
    label_after_delete  whether a gap behind a deleted token has a label
    pad_token_id  what fills an answer behind its EOS; None: what the model's config or the
                  tokenizer has, else the EOS
    eos_token_id  what ends an answer; None: the EOS of the data
    start         output folder of an earlier run to go on from: its head, and with LoRA its
                  adapter. None: the head is the model's, or a copy of its output embedding

    Raises ValueError, naming the option, for a value that is none of these.
    """

    mask_first: bool = False
    fills: tuple[int, ...] = (2, 4, 8, 16)
    edit_steps: int = 32
    first_gap: str = "canonical"
    label_after_delete: bool = False
    pad_token_id: int | None = None
    eos_token_id: int | None = None
    start: str | None = None

    def __post_init__(self) -> None:
        set_types(self)
        if not self.fills or min(self.fills) < 1:
            raise ValueError(f"fills must be numbers of at least 1, got {list(self.fills)}")
        if self.first_gap not in FIRST_GAPS:
            raise ValueError(
                f"first_gap must be one of {', '.join(FIRST_GAPS)}; got {self.first_gap!r}"
            )
        for name in ("edit_steps", "pad_token_id", "eos_token_id"):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise ValueError(f"{name} must not be negative, got {value}")

    def settled(self, pads: Sequence[int | None], eos_token_id: int) -> RefinementOptions:
        """These, with the ids that are None: the first of `pads` that there is, and the EOS."""
        eos = eos_token_id if self.eos_token_id is None else self.eos_token_id
        pad = next((i for i in (self.pad_token_id, *pads) if i is not None), eos)
        return replace(self, pad_token_id=pad, eos_token_id=eos)

    @property
    def of_labels(self) -> dict[str, Any]:
        """Options of `ops.levenshtein_labels`."""
        return {
            "canonical_first_gap": FIRST_GAPS[self.first_gap],
            "label_after_delete": self.label_after_delete,
        }
