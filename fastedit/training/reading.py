"""How a model reads the rows that it is trained on."""

from __future__ import annotations

from typing import Any, NamedTuple

from fastedit.models.families import BLOCK_LENGTH, Family, family_of, named_block_length


class Reading(NamedTuple):
    """What of a family decides how its passes run.

    attention   "block_causal": a noisy block sees itself and the clean blocks before it; "full": a
                document sees all of itself, and there is no clean copy
    shift       0: the state at a position predicts its own token; 1: the state before it does
    block_size  tokens per block. With full attention the unit of rows, and of `uniform_block`
    """

    attention: str
    shift: int
    block_size: int

    @classmethod
    def of(cls, model: Any, family: Family | None = None) -> Reading:
        """Of `model`; family: None, what the model is known as.

        Raises ValueError for a model whose blocks have no length, or begin behind a prompt though
        it reads them one after another.
        """
        family = family or family_of(model)
        full = family.attention == "full"
        config: Any = getattr(model, "config", None)
        size: Any = named_block_length(family, config)
        if full and not isinstance(size, int):  # one block for all that is generated, or none said
            size = BLOCK_LENGTH
        if size is None:
            name = getattr(config, "name_or_path", None) or "this checkpoint"
            raise ValueError(
                f"{name} has no block_size in its config, without which there are no "
                "examples for it"
            )
        if family.blocks == "after_prompt" and not full:
            raise ValueError(
                "block-causal models train on blocks at multiples of their length; this family's "
                "begin behind the prompt"
            )
        return cls(family.attention, family.shift, size)

    @property
    def full(self) -> bool:
        return self.attention == "full"
