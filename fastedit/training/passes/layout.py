"""Who sees whom in training: masks of the clean half and of chosen noisy blocks, documents apart.

Documents begin at block boundaries, so a block belongs to one document. Document -1 is padding,
which no one attends to.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Tokens:
    """Where tokens stand; every field [B, n] int64.

    block     number of the block in its row
    document  index of the document, -1: padding
    position  position within the document
    """

    block: Tensor
    document: Tensor
    position: Tensor

    @classmethod
    def of_rows(cls, document: Tensor, position: Tensor, block_size: int) -> Tokens:
        """All tokens of rows [B, L]."""
        place = torch.arange(document.shape[1], device=document.device)
        return cls(
            place.div(block_size, rounding_mode="floor").expand_as(document), document, position
        )

    def of(self, chosen: Tensor) -> Tokens:
        """The chosen rows, bool [B]."""
        return Tokens(self.block[chosen], self.document[chosen], self.position[chosen])

    def first(self, count: int) -> Tokens:
        return Tokens(self.block[:, :count], self.document[:, :count], self.position[:, :count])


def clean_mask(clean: Tokens) -> Tensor:
    """Clean queries see the clean blocks up to their own: bool [B, 1, n, n]."""
    return _together(clean, clean) & (_query(clean.block) >= _key(clean.block))


def noisy_mask(noisy: Tokens, clean: Tokens) -> Tensor:
    """Noisy queries see the clean blocks before theirs, and their noisy block.

    Keys are the clean tokens, then the noisy ones: bool [B, 1, n, clean + n].
    """
    before = _together(noisy, clean) & (_query(noisy.block) > _key(clean.block))
    own = _together(noisy, noisy) & (_query(noisy.block) == _key(noisy.block))
    return torch.cat([before, own], dim=-1)


def doubled_mask(clean: Tokens, noisy: Tokens) -> Tensor:
    """Both halves in one sequence, [x_0 ; x_t]: bool [B, 1, clean + n, clean + n].

    Clean queries never see noisy keys.
    """
    never = torch.zeros_like(_together(clean, noisy))
    return torch.cat(
        [torch.cat([clean_mask(clean), never], dim=-1), noisy_mask(noisy, clean)], dim=-2
    )


def whole_mask(rows: Tokens) -> Tensor:
    """A document sees all of itself: bool [B, 1, L, L]. Padding is a document of its own."""
    return _query(rows.document) == _key(rows.document)


@dataclass(frozen=True)
class Blocks:
    """A choice of blocks per row, as many in every row; some rows are filled up with blocks that
    do not count.

    index  [B, n] int64  tokens of the chosen blocks, in order
    valid  [B, n] bool   False: filled up
    """

    index: Tensor
    valid: Tensor

    @classmethod
    def holding(cls, where: Tensor, block_size: int) -> Blocks:
        """The blocks with a True in `where` [B, L]; at least one per row, so no pass is empty."""
        needed = where.unflatten(1, (-1, block_size)).any(-1)
        count = max(1, int(needed.sum(1).max()))
        block = needed.int().argsort(dim=1, descending=True, stable=True)[:, :count]
        offset = torch.arange(block_size, device=where.device)
        index = (block[..., None] * block_size + offset).flatten(1)
        return cls(index, needed.gather(1, block).repeat_interleave(block_size, dim=1))

    def take(self, values: Tensor) -> Tensor:
        """The chosen tokens of [B, L] as [B, n]."""
        return values.gather(1, self.index)

    def tokens(self, rows: Tokens) -> Tokens:
        document = self.take(rows.document).masked_fill(~self.valid, -1)
        return Tokens(self.take(rows.block), document, self.take(rows.position))


def _query(values: Tensor) -> Tensor:
    return values[:, None, :, None]


def _key(values: Tensor) -> Tensor:
    return values[:, None, None, :]


def _together(queries: Tokens, keys: Tokens) -> Tensor:
    """Same document, and no padding."""
    same = _query(queries.document) == _key(keys.document)
    return same & (_key(keys.document) >= 0)
