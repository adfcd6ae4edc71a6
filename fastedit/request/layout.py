"""Where the blocks of a request lie, and what stands in them before they are decoded."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import Tensor

from fastedit.config import DecodeConfig
from fastedit.models.families import Family
from fastedit.policies import Policy


class Layout:
    """Positions of a request, counted from the first id of its prompt.

    first   first position of a block, of all that begin a whole number of blocks later
    origin  that of the first block that is decoded; start: and of the active one
    filled  positions whose keys and values are in the pool
    written  ids of the blocks so far, behind the prompt
    """

    prompt: Tensor
    config: DecodeConfig
    family: Family
    policy: Policy
    mask_token_id: int
    draft: Tensor | None
    keep_draft: bool
    written: list[int]
    first: int
    origin: int
    start: int
    filled: int

    @property
    def block_length(self) -> int:
        return self.config.block_length

    @property
    def cached(self) -> bool:
        """Whether keys and values of committed blocks are kept, where that changes no result."""
        return self.config.use_cache and self.family.exact_cache

    @property
    def end(self) -> int:
        """One past the last generated position that is returned."""
        return len(self.prompt) + self.config.max_new_tokens

    @property
    def span(self) -> int:
        """Positions that decoding touches: `end`, rounded up to whole blocks."""
        return self.last + self.block_length

    @property
    def begins(self) -> int:
        """Positions that its block begins with, where the policy has them shrink and grow."""
        new = self.config.max_new_tokens if self.draft is None else len(self.draft)
        return len(self.prompt) + new - self.start

    @property
    def seen(self) -> int:
        """One past the last position that a forward may see: with full attention the canvas is the
        prompt and `max_new_tokens` positions, so the last block may be shorter than the others."""
        whole = self.family.attention == "full" and not self.policy.variable
        return self.end if whole else self.span

    @property
    def room(self) -> int:
        """Positions that it needs in the pool: forwards may take a further block along."""
        beside = self.config.lookahead or self.policy.plan == "shadow"
        blocks = max(int(beside), self.policy.window - 1)
        # One more, for rows of a forward that are beyond the span of a shorter request.
        return self.span + blocks * self.block_length + self.config.approximate

    @property
    def last(self) -> int:
        """First position of the last block."""
        length = self.block_length
        return (self.end - 1 - self.first) // length * length + self.first

    @property
    def fixed(self) -> int:
        """Positions from the first on that never change any more, while the active block does."""
        return self._fixed_at(self.start)

    def _fixed_at(self, start: int) -> int:
        if self.policy.wide:
            return self.origin
        reopened = self.policy.window - 1 if self.policy.reopens else 0
        return max(start - reopened * self.block_length, self.origin)

    @property
    def base(self) -> int:
        """First position of its slot: of the active block, or of all that the policy may write."""
        return self.origin if self.policy.wide else self.start

    @property
    def width(self) -> int:
        """Positions of its slot."""
        return self.span - self.origin if self.policy.wide else self.block_length

    @property
    def head(self) -> int:
        """Positions of its slot that belong to the prompt."""
        return max(0, len(self.prompt) - self.base)

    def canvas(self) -> tuple[Tensor, Tensor]:
        """Ids, and which of them never change, from the first position to the last, on the CPU.

        The prompt, what was written, what the draft has behind that, and masks.
        """
        first = len(self.prompt)
        ids = torch.full((self.span,), self.mask_token_id)
        protected = torch.arange(self.span) < first
        ids[:first] = self.prompt
        if self.draft is not None:
            behind = slice(first, first + len(self.draft))
            ids[behind] = self.draft
            protected[behind] = self.keep_draft & (self.draft != self.mask_token_id)
        ids[first : first + len(self.written)] = torch.tensor(self.written, dtype=torch.int64)
        protected[self.seen :] = True
        return ids, protected

    def blocks(self) -> list[bytes]:
        """Ids of each block before the active one."""
        if not self.start:
            return []
        ids, _ = self.canvas()
        numbers = ids[: self.start].numpy()
        bounds = [0, *range(self.first or self.block_length, self.start + 1, self.block_length)]
        return [numbers[a:b].tobytes() for a, b in pairwise(bounds)]

    def last_fixed(self) -> bytes:
        """Ids of the last block that never changes any more, as `blocks` has them."""
        prompt, stop = len(self.prompt), self.fixed
        first = stop - self.block_length
        ids = self.prompt[first:stop].tolist() if first < prompt else []
        ids += self.written[max(first - prompt, 0) : stop - prompt]
        return torch.tensor(ids, dtype=torch.int64).numpy().tobytes()

    def position(self, blocks: int) -> int:
        """First position behind that many blocks."""
        if self.first and blocks:
            return self.first + (blocks - 1) * self.block_length
        return blocks * self.block_length

    def block_of(self, position: int) -> int:
        """How many blocks end at `position`, at the latest."""
        if self.first and position:
            return (position - self.first) // self.block_length + 1
        return position // self.block_length

    def unfilled(self) -> Iterator[tuple[int, int]]:
        """(start, width) of each block before the active one that is not in the pool."""
        start = self.filled
        while start < self.start:
            width = self.block_length
            if self.first and start == 0:  # blocks begin behind a shorter one
                width = self.first
            yield start, width
            start += width
