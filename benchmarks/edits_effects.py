"""The study of edits: what each replacement, deletion and insertion did to its answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

KINDS = ("replace", "delete", "insert")
EFFECTS = ("all", "repairs", "breaks", "right_to_wrong", "wrong_to_right")


def no_counts() -> dict[str, dict[str, int]]:
    """Of single edits, by kind: all of them, and of these what each alone would have done.

    repairs, breaks  the edit brings the text nearer to the right answer, or takes it away from it
    right_to_wrong, wrong_to_right  of these: from an answer without an error, and to one
    """
    return {kind: dict.fromkeys(EFFECTS, 0) for kind in KINDS}


def distance(ids: Sequence[int], target: Sequence[int], mask: int, eos: int) -> int:
    """Edits between an answer and the right one; a mask stands for any one token.

    An answer ends before its EOS. One without is not finished: it is compared with the beginning of
    the right one that is nearest to it.
    """
    ended = eos in ids
    text = ids[: ids.index(eos)] if ended else ids
    row = list(range(len(target) + 1))
    for number, token in enumerate(text, 1):
        before, row = row, [number]
        for place, right in enumerate(target, 1):
            same = token in (right, mask)
            row.append(min(before[place - 1] + (not same), before[place] + 1, row[-1] + 1))
    return row[-1] if ended else min(row)


class Watched:
    """One answer as it is decoded, from draft to draft."""

    def __init__(
        self, target: Sequence[int], mask: int, eos: int, counts: dict[str, dict[str, int]]
    ) -> None:
        self.target, self.mask, self.eos, self.counts = list(target), mask, eos, counts
        self.committed: list[int] = []
        self.held: list[int] | None = None  # of the active block
        self.block = -1
        # Whether the last complete text was right, the first one, and what was done since.
        self.right: bool | None = None
        self.first: bool | None = None
        self.since: set[str] = set()
        self.turns: list[tuple[str, bool]] = []  # kind, and what the answer became

    def commit(self, ids: Sequence[int]) -> None:
        """Ids that are final from now on."""
        self.committed += ids

    def draft(self, event: Any) -> None:
        """The block after a forward: an `Event` of kind "draft"."""
        after = list(event.ids)
        if event.block != self.block:
            self.block, self.held = event.block, [self.mask] * len(after)
        before = self.held
        assert before is not None
        edits = self._edits(before, after, event)
        if edits:
            self._judge(before, edits)
        self.since |= {kind for kind, _, _ in edits}
        self.held = after
        text = self.committed + after
        if self.mask not in after and self.eos in text:
            self._complete(text[: text.index(self.eos)] == self.target)

    def _edits(self, before: list[int], after: list[int], event: Any) -> list[tuple[str, int, int]]:
        """(kind, position before, new token)"""
        moved = event.moved or list(range(len(after)))
        end = before.index(self.eos) if self.eos in before else len(before)
        found = [("delete", place, -1) for place in event.deleted]
        for place in event.inserted:
            at = moved.index(place) - 1 if place in moved else -1
            put = after[at] if at >= 0 and moved[at] < 0 else self.mask
            found.append(("insert", place, put))
        for place, token in zip(moved, after, strict=True):
            if 0 <= place < len(before) and before[place] not in (self.mask, token):
                found.append(("replace", place, token))
        # What stands behind the end is no part of the answer.
        return [edit for edit in found if edit[1] <= end]

    def _judge(self, before: list[int], edits: list[tuple[str, int, int]]) -> None:
        def far(block: list[int]) -> int:
            return distance(self.committed + block, self.target, self.mask, self.eos)

        known = far(before)
        for kind, place, token in edits:
            put = {"replace": [token], "delete": [], "insert": [token, *before[place : place + 1]]}
            now = far(before[:place] + put[kind] + before[place + 1 :])
            count = self.counts[kind]
            count["all"] += 1
            count["repairs"] += now < known
            count["breaks"] += now > known
            count["right_to_wrong"] += known == 0 < now
            count["wrong_to_right"] += now == 0 < known

    def _complete(self, right: bool) -> None:
        if self.right is not None and right != self.right and self.since:
            kind = next(iter(self.since)) if len(self.since) == 1 else "several"
            self.turns.append((kind, right))
        if self.first is None:
            self.first = right
        self.right, self.since = right, set()
