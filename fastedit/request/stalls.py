"""Whether a block can still end, with `strict_reference`: its edits may write masks back."""

from __future__ import annotations

# Forwards that a block may begin with masks. A greedy block that never ends repeats itself, and is
# found out long before; draws do not repeat, and nothing else ends a block that draws masks.
MOST_WITH_MASKS = 2**16


class Progress:
    """Follows the active block of one request from forward to forward.

    A greedy forward is a function of the ids that it sees, and the released loop counts no post
    step while a mask is left: once ids with a mask come back, without a mask-free block in between,
    they come back for ever. Brent's method finds that from one earlier state, which moves on after
    1, 2, 4, ... forwards; it takes at most three times the forwards up to the first repetition.
    """

    def __init__(self) -> None:
        self.with_masks = 0
        self._restart()

    def _restart(self) -> None:
        self.anchor: list[int] | None = None
        self.since, self.span = 0, 1

    def stalled(self, ids: list[int], mask_token_id: int, greedy: bool) -> bool:
        """Take the ids [L] that a forward has left; True if the block can never end, or took
        more than `MOST_WITH_MASKS` forwards."""
        if mask_token_id not in ids:  # the next forward spends a post step
            self._restart()
            return False
        self.with_masks += 1
        if self.with_masks > MOST_WITH_MASKS:
            return True
        if greedy and ids == self.anchor:
            return True
        self.since += 1
        if self.anchor is None or self.since == self.span:
            self.anchor, self.since, self.span = ids, 0, 2 * self.span
        return False
