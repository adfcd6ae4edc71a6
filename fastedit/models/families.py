"""What differs between models that decode by the same engine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Family:
    """How a model reads its canvas.

    attention      "block_causal": a position sees its block and those before; "full": everything,
                   the masks of all blocks to come included
    shift          0: logits at a position are of its own token; 1: of the next one's
    blocks         "aligned": blocks begin at multiples of their length, the first one may hold the
                   prompt's tail; "after_prompt": the first one begins behind the prompt
    mask_token_id, block_length  None: as the model's config says
    policy         rule that the model was released with, `name:field=value,...`
    """

    attention: str = "block_causal"
    shift: int = 0
    blocks: str = "aligned"
    mask_token_id: int | None = None
    block_length: int | None = None
    policy: str = "joint_threshold"

    def __post_init__(self) -> None:
        for name, allowed in (
            ("attention", ("block_causal", "full")),
            ("shift", (0, 1)),
            ("blocks", ("aligned", "after_prompt")),
        ):
            if getattr(self, name) not in allowed:
                raise ValueError(
                    f"{name} must be {' or '.join(map(repr, allowed))}; got {getattr(self, name)!r}"
                )


def family_of(model: Any) -> Family:
    """The family of `model`; without a known one that of LLaDA2.x, block by block."""
    return Family()
