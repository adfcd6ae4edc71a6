"""Models and ids that ME-DLM's training does not go with, refused before anything is computed."""

from __future__ import annotations

from fastedit.training.reading import Reading


def check_reading(reading: Reading) -> None:
    """Raises ValueError for a model whose positions predict others, or do not see all."""
    if not reading.full or reading.shift:
        raise ValueError(
            "labels=levenshtein move tokens of the whole text, and need a model with full "
            f"attention and no shift; this one has attention={reading.attention!r} and "
            f"shift={reading.shift}: take labels=plain, or a checkpoint such as LLaDA's"
        )


def check_ids(named: dict[str, int], vocab: int) -> None:
    """Raises ValueError for an id that the model does not have, and for two that are the same."""
    for name, token in named.items():
        if not 0 <= token < vocab:
            raise ValueError(f"{name}_token_id {token} is outside the vocabulary [0, {vocab})")
    for one, other in (("mask", "delete"), ("mask", "eos"), ("mask", "pad"), ("delete", "eos")):
        if named[one] == named[other]:
            raise ValueError(
                f"{one}_token_id and {other}_token_id are both {named[one]}: they must differ"
            )
