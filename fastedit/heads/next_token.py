"""The next-token head: what should stand behind each token, from the model's last hidden states.

Source: ME-DLM (arXiv 2605.09603), whose second head begins as a copy of the first and says where a
token is missing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from fastedit.heads.base import Head, base_of, checked_base, whole


@dataclass(frozen=True)
class NextTokenHeadConfig:
    """Sizes of a next-token head.

    hidden_size, vocab_size  of the model: columns and rows of the head
    base                     of the model that it was made for, see `heads.base.BASE`
    """

    hidden_size: int
    vocab_size: int
    base: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        for name in ("hidden_size", "vocab_size"):
            whole(name, getattr(self, name), 1)
        object.__setattr__(self, "base", checked_base(self.base))


class NextTokenHead(Head):
    """Logits of the token behind each position, a matrix [vocab_size, hidden_size] without bias.

    It reads what the output embedding of the model reads: the last hidden states, normalised.
    """

    name: ClassVar[str] = "next_token_head"
    config_class = NextTokenHeadConfig
    config: NextTokenHeadConfig

    def __init__(self, config: NextTokenHeadConfig) -> None:
        super().__init__(config)
        self.out = nn.Linear(config.hidden_size, config.vocab_size, bias=False)

    @classmethod
    def of(cls, model: Any) -> NextTokenHead:
        """A head for `model`, a copy of its output embedding, to be trained.

        Raises ValueError for a model without one.
        """
        output = getattr(model, "get_output_embeddings", lambda: None)()
        weight = getattr(output, "weight", None)
        if weight is None:
            raise ValueError(
                f"{type(model).__name__} has no output embedding to begin a next-token head from"
            )
        vocab, hidden = weight.shape
        with torch.device("meta"):
            head = cls(NextTokenHeadConfig(hidden, vocab, base_of(model.config)))
        head.out.weight = nn.Parameter(weight.detach().clone())
        return head

    def forward(self, hidden: Tensor) -> Tensor:
        """Logits [..., vocab_size] of `hidden` [..., hidden_size]."""
        return self.out(hidden)
