"""What a plan is: the rows of a forward, and what they see."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from fastedit.memory.extents import Extent
from fastedit.plans.call import ModelCall
from fastedit.plans.scores import Scorer
from fastedit.request.request import Request
from fastedit.request.slots import Live, Slots


class Logits(NamedTuple):
    """Of one forward, [n, L, V] each: the active blocks, their shadows, the blocks behind them.

    The first may begin with what stands before the blocks: then it is [n, earlier + L, V]. Of
    blocks that vary in length, it has as many positions as the longest.
    lengths: of the blocks, where `block` and `following` are packed, [N, V]: the rows that there
    are, block after block.
    scores, ahead_scores: error probabilities [n, L] by a head, of the active blocks and of those
    behind them. following: logits of the next token of the active blocks.
    """

    block: Tensor
    shadow: Tensor | None = None
    ahead: Tensor | None = None
    scores: Tensor | None = None
    ahead_scores: Tensor | None = None
    following: Tensor | None = None
    lengths: list[int] | None = None

    @property
    def width(self) -> int:
        """Positions of a block, or of the longest."""
        return self.block.shape[1] if self.lengths is None else max(self.lengths)

    def each(self) -> Tensor | Sequence[Tensor]:
        """Of one block after another, [L, V]."""
        return self.block if self.lengths is None else self.block.split(self.lengths)


class Piece(NamedTuple):
    """A block to prefill: `width` positions from `start` on of a request in `extent`."""

    extent: Extent
    start: int
    width: int


class Plan:
    """A plan over the live rows of `slots`; `place` says where they are before `forward`.

    cached  whether keys and values of committed blocks are kept
    waits   whether it has to know what a step did before the next one
    """

    cached = False
    waits = False

    def __init__(self, call: ModelCall, slots: Slots, shadow: bool = False) -> None:
        self.call, self.slots, self.pool, self.shadow = call, slots, slots.pool, shadow
        self.length, self.earlier = slots.block_length, slots.earlier
        self.scorer = None if call.head is None else Scorer(call.head, slots)

    def columns(self, count: int) -> Tensor:
        return torch.arange(count, device=self.slots.start.device)

    def reach(self, live: Sequence[Request], unread: int) -> int:
        """One past the furthest position of an active block.

        unread: steps that the host has not followed; each may have opened a block.
        """
        beyond = unread * self.length
        starts = (min(request.start + beyond, request.last) for request in live)
        return max(starts) + self.length

    def look(self, live: Sequence[Request]) -> bool:
        """Choose the rows of the next forward; True where they have changed."""
        return False

    @property
    def most_pieces(self) -> int:
        """How many pieces one prefill takes at most."""
        return 1

    def fits(self, pieces: Sequence[Piece]) -> int:
        """How many of `pieces`, from the first on, one prefill takes; at least one."""
        raise NotImplementedError

    def prefill(self, pieces: Sequence[Piece]) -> None:
        """Commit pieces that fit, in one forward.

        Pieces of one request come in order: a block sees those before it.
        """
        raise NotImplementedError

    def place(
        self, reach: int, extents: Sequence[Extent] | None = None, level: bool = False
    ) -> None:
        """Positions and masks of the live rows; again only when one of them moves.

        reach: one past the last position to see, at least; level: all blocks end there;
        extents: of the rows, where the host may say how they lie: a graph may not depend on it.
        """
        raise NotImplementedError

    def forward(self) -> Logits:
        raise NotImplementedError

    def shadows(self) -> Tensor:
        """Ids [n, L] of the shadows of the active blocks: masks."""
        return torch.full_like(self.slots.live.blocks.ids, self.slots.mask_token_id)

    def split(self, logits: Tensor, scores: Tensor | None = None) -> Logits:
        """Logits of the active blocks, and of the shadows that stand behind them, if any do."""
        if not self.shadow:
            return Logits(logits, scores=scores)
        block, shadow = logits.split(self.length, dim=1)
        return Logits(block, shadow=shadow, scores=scores)

    def more(
        self, logits: Logits, opened: Sequence[tuple[int, Request]]
    ) -> Iterator[tuple[Live, Logits, Request]]:
        """Further decisions from the same forward, for rows that have just opened a block."""
        return iter(())
