"""word_sequence_reversal: a list of words from its last word to its first."""

from __future__ import annotations

from typing import Any, ClassVar

from .task import PlainAnswer


class WordSequenceReversal(PlainAnswer):
    """`now, the, world` is answered by `world, the, now`, and nothing else.

    Words come from a novel, so an answer is as long as its words happen to be: a model that drafts
    in parallel has to know the length of one word to place the next. `max_length`, in characters,
    cuts words from the end of longer lists, down to two.
    """

    name = "word_sequence_reversal"
    defaults: ClassVar[dict[str, Any]] = {"min_words": 4, "max_words": 6}

    def __init__(self, max_length: int = 31, **options: Any) -> None:
        if type(max_length) is not int or max_length < 1:
            raise ValueError(f"max_length={max_length} must be an integer of at least 1")
        self.max_length = max_length
        super().__init__(**options)

    def entry(self, dataset: Any, index: int) -> dict[str, Any]:
        """As reasoning-gym's, or with fewer words."""
        entry = dataset[index]
        words = entry["metadata"]["words"]
        before, most = ", ".join(words), len(words)
        while most > 2 and len(", ".join(words[:most])) > self.max_length:
            most -= 1
        kept = words[:most]
        return {
            **entry,
            "question": entry["question"].replace(before, ", ".join(kept)),
            "answer": ", ".join(reversed(kept)),
            "metadata": {**entry["metadata"], "words": kept, "num_words": most},
        }
