"""What blocks hold, in plain torch."""

from __future__ import annotations

from torch import Tensor

from fastedit.ops.contents import Contents


def contents(ids: Tensor, may: Tensor, mask_token_id: int) -> Contents:
    """Contract: `fastedit.ops.contents`."""
    masked = (ids == mask_token_id) & may
    tokens = may ^ masked
    return Contents(masked, tokens, masked.sum(-1), tokens.sum(-1))
