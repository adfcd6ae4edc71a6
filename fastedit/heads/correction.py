"""The correction head: which of the tokens that a canvas holds are wrong, from hidden states.

Source: Decoupled Self-Correction (arXiv 2601.06428): a frozen model, and a few transformer blocks
on the hidden states before its last block.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastedit.heads.base import Head, base_of, checked_base, whole
from fastedit.models.llada2.rotary import rotary_tables, rotate

PATTERNS = {"block_causal": "block", "full": "full"}  # by the attention of the base


@dataclass(frozen=True)
class CorrectionHeadConfig:
    """Sizes of a correction head, and where its input comes from.

    hidden_size        of the base
    depth              transformer blocks; 0 is a linear probe
    width              of the blocks; None = hidden_size. Another one is projected to
    intermediate_size  of their feed-forward; None = 4 * width
    num_heads          None = one for every 64 of the width, or the next number that divides it
    layer              index into the base's `hidden_states`: 0 is the embedding, -2 the output of
                       the last block but one. The output of the last block (-1) is not offered:
                       transformers' models have it behind their final norm alone
    attention          "block": a position sees those of its own block; "full": all of the canvas
    rope_theta         base of the rotary frequencies
    eps                of the norms
    base               of the model that it was made for, see `heads.base.BASE`

    Raises ValueError for sizes that do not fit together.
    """

    hidden_size: int
    depth: int = 2
    width: int | None = None
    intermediate_size: int | None = None
    num_heads: int | None = None
    layer: int = -2
    attention: str = "block"
    rope_theta: float = 10000.0
    eps: float = 1e-6
    base: dict[str, Any] | None = None

    rope_type: ClassVar[str] = "default"

    def __post_init__(self) -> None:
        hidden, depth = whole("hidden_size", self.hidden_size, 1), whole("depth", self.depth, 0)
        width = hidden if self.width is None else whole("width", self.width, 2)
        if not depth and width != hidden:
            raise ValueError(
                f"width={width} needs blocks: depth is 0, a linear probe; leave it out"
            )
        wanted = self.intermediate_size
        inner = 4 * width if wanted is None else whole("intermediate_size", wanted, 1)
        heads = _heads(width) if self.num_heads is None else whole("num_heads", self.num_heads, 1)
        if depth and (width % heads or width // heads % 2):
            raise ValueError(
                f"width={width} must be {heads} heads (num_heads) of an even size each"
            )
        if isinstance(self.layer, bool) or not isinstance(self.layer, int) or self.layer == -1:
            raise ValueError(
                "layer must be an index into hidden_states, 0 the embedding and -2 the output of "
                f"the last block but one; got {self.layer!r}"
            )
        if self.attention not in PATTERNS.values():
            raise ValueError(f'attention must be "block" or "full"; got {self.attention!r}')
        for name in ("rope_theta", "eps"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
                raise ValueError(f"{name} must be a number above 0; got {value!r}")
        found = {"width": width, "intermediate_size": inner, "num_heads": heads}
        for name, value in {**found, "base": checked_base(self.base)}.items():
            object.__setattr__(self, name, value)

    @classmethod
    def of(cls, model_config: Any, attention: str, **options: Any) -> CorrectionHeadConfig:
        """For a model with this config, whose family has `attention` "block_causal" or "full"."""
        given = {"attention": PATTERNS.get(attention, attention), "base": base_of(model_config)}
        return cls(hidden_size=model_config.hidden_size, **{**given, **options})

    @property
    def rotary_dim(self) -> int:
        """Size of an attention head: all of it is rotated."""
        assert self.width is not None and self.num_heads is not None
        return self.width // self.num_heads

    def input_of(self, layers: int) -> int:
        """The base's block, of `layers`, whose input are the hidden states of `layer`.

        Raises ValueError where there is none.
        """
        index = self.layer + layers + 1 if self.layer < 0 else self.layer
        if not 0 <= index < layers:
            raise ValueError(
                f"the head reads layer={self.layer} of the hidden states, and a model of {layers} "
                f"blocks has 0 to {layers - 1}, or {-layers - 1} to -2"
            )
        return index


class CorrectionHead(Head):
    """One logit per position: positive where the token that it holds is probably wrong.

    Pre-norm transformer blocks over hidden states [B, L, hidden_size] of the base. What a position
    may see is what decoding has at hand, so that training can show the same:

    * A block-causal base decodes its active block beside cached keys and values, and hidden states
      are there of the block alone. So a position sees its own block (`attention="block"`), with the
      prompt's tail where the first block begins inside the prompt, and with the masks behind the
      last token that is asked for. What
      stands before has gone into its hidden states already; a head that looks at it as well would
      need a cache and prefills of its own.
    * With full attention every forward has all positions, and each sees all (`"full"`), masks
      that are yet to be decoded included.

    Queries and keys are rotated by their positions: attention without them cannot tell a neighbour
    from a token further off, and in rotary models the hidden states say little of where they stand.
    Only distances count, so a block may be numbered from 0 or from its place in the text.

    The input is normalised first: hidden states of late layers are large, and blocks that add to
    them would hardly be heard.
    """

    name = "correction_head"
    config_class = CorrectionHeadConfig
    config: CorrectionHeadConfig

    def __init__(self, config: CorrectionHeadConfig) -> None:
        super().__init__(config)
        assert config.width is not None
        self.norm = nn.RMSNorm(config.hidden_size, eps=config.eps)
        self.project = (
            nn.Linear(config.hidden_size, config.width, bias=False)
            if config.width != config.hidden_size
            else nn.Identity()
        )
        self.blocks = nn.ModuleList(_Block(config) for _ in range(config.depth))
        self.last_norm = nn.RMSNorm(config.width, eps=config.eps) if config.depth else nn.Identity()
        self.score = nn.Linear(config.width, 1)
        self.apply(_initialise)

    def forward(
        self,
        hidden: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
    ) -> Tensor:
        """Error logits [B, L] in fp32 of `hidden` [B, L, hidden_size], moved to the head's dtype
        and device.

        attention_mask: bool [1 or B, 1, 1 or L, L], True = may attend; None: all L see each other.
        A row of it without a True is not allowed. position_ids: [1 or B, L]; None: 0 to L - 1.
        """
        x = self.project(self.norm(hidden.to(self.score.weight)))
        if self.blocks:
            if position_ids is None:
                position_ids = torch.arange(hidden.shape[1], device=hidden.device)[None]
            rotary = rotary_tables(self.config, position_ids, x.dtype, hidden.shape[1])
            for block in self.blocks:
                x = block(x, attention_mask, rotary)
        return self.score(self.last_norm(x)).squeeze(-1).float()


class _Block(nn.Module):
    """x + attention(norm(x)), then x + feed-forward(norm(x))."""

    def __init__(self, config: CorrectionHeadConfig) -> None:
        super().__init__()
        assert config.width is not None and config.intermediate_size is not None
        width, inner = config.width, config.intermediate_size
        self.head_dim = config.rotary_dim
        self.attention_norm = nn.RMSNorm(width, eps=config.eps)
        self.query_key_value = nn.Linear(width, 3 * width, bias=False)
        self.dense = nn.Linear(width, width, bias=False)
        self.mlp_norm = nn.RMSNorm(width, eps=config.eps)
        self.up = nn.Linear(width, inner, bias=False)
        self.down = nn.Linear(inner, width, bias=False)

    def forward(self, x: Tensor, mask: Tensor | None, rotary: tuple[Tensor, Tensor]) -> Tensor:
        qkv = self.query_key_value(self.attention_norm(x)).unflatten(-1, (-1, self.head_dim))
        query, key, value = qkv.transpose(1, 2).chunk(3, dim=1)
        seen = F.scaled_dot_product_attention(
            rotate(query, *rotary), rotate(key, *rotary), value, attn_mask=mask
        )
        x = x + self.dense(seen.transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.mlp_norm(x))))


@torch.no_grad()
def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def _heads(width: int) -> int:
    """One for every 64 of `width`, or fewer so that they divide it into even sizes."""
    fitting = (n for n in range(max(width // 64, 1), 0, -1) if not width % n and not width // n % 2)
    return next(fitting, 1)
