"""One step: forward, decide, advance, flags."""

from __future__ import annotations

from collections import deque

import torch
from torch import Tensor

from fastedit import policies
from fastedit.engine.copies import Copy
from fastedit.engine.graphs import Graphs, graph_shape
from fastedit.engine.traced import Seen, packed
from fastedit.plans import Logits, Plan
from fastedit.policies import State
from fastedit.request.record import PLANES, Record
from fastedit.request.request import Request
from fastedit.request.slots import Live, Slots


class Steps:
    """Takes steps on the live rows of `slots`: at once, or `delay` steps ahead of the host.

    traced: what a decision goes by is recorded with it, captured in a graph or not.
    """

    def __init__(
        self, slots: Slots, plan: Plan, graphs: Graphs, delay: int, traced: bool = False
    ) -> None:
        self.slots, self.plan, self.graphs, self.delay = slots, plan, graphs, delay
        self.traced = traced
        self.copies: deque[Copy] = deque()

    def place(self, live: list[Request]) -> None:
        """The live rows have changed or moved: lay the next forward out anew."""
        if live and not self.delay:
            self.slots.select(len(live), _draws(live))
            level = len({request.start for request in live}) == 1
            extents = [request.extent for request in live]
            self.plan.place(self.plan.reach(live, 0), extents, level)

    def decide(self, live: Live, logits: Logits, number: int, requests: list[Request]) -> Record:
        """One decision now; waits for the device."""
        blocks = live.blocks
        planes = self._decide(blocks, logits)
        flags = blocks.flags.tolist()
        lengths = None if blocks.lengths is None else blocks.lengths.tolist()
        counts, moves = blocks.count_rows, blocks.moves
        held = blocks.ids, flags, counts, logits.each(), moves, lengths, planes
        return Record(number, requests, *held)

    def ahead(self, number: int, live: list[Request]) -> Record | None:
        """Have the device take a step, and read what the one `delay` steps before did."""
        rows, reach = len(live), self.plan.reach(live, self.delay)
        draws = _draws(live)
        if any(request.on_draft for request in live):  # it is shown the logits, and waits
            enqueued, logits = self._enqueue(rows, reach, draws)
        else:
            if self.graphs.capture is not None:
                rows, reach = graph_shape(rows, reach, len(self.slots.start))
            shape = rows, reach, draws
            # Without the logits: a graph would keep them for as long as it is kept itself.
            key = *shape, self.slots.drafts
            enqueued, logits = self.graphs.run(key, lambda: self._enqueue(*shape)[0]), None
        length, moves = self.slots.blocks.length, self.slots.blocks.moves
        widths = [length, *([] if moves is None else [3 * length])]
        if self.traced:
            widths.append(len(PLANES) * length)
        self.copies.append(Copy(number, live[:], enqueued, logits, widths, self.traced))
        return self.copies.popleft().read() if len(self.copies) > self.delay else None

    def _enqueue(self, rows: int, reach: int, draws: bool) -> tuple[Tensor, Tensor]:
        """Forward, decision, advance: flags, counts and ids [5 + 6 + L, n] int64, and the logits.

        Behind the ids are moves, [3 L, n], where the policy inserts and deletes, and `PLANES`,
        [8 L, n], where steps are traced. Waits for nothing.
        rows: slots to step, at least the live ones; reach: one past the last position to see.
        """
        self.slots.select(rows, draws)
        self.plan.place(reach)
        logits, live = self.plan.forward(), self.slots.live
        blocks = live.blocks
        planes = self._decide(blocks, logits)
        parts = [blocks.flags.long(), blocks.count_rows.long(), blocks.ids.t()]
        if blocks.moves is not None:
            parts.append(blocks.moves.mT.flatten(0, 1))
        if planes is not None:
            parts.append(packed(planes))
        enqueued = torch.cat(parts)
        live.advance_()
        return enqueued, logits.block

    def _decide(self, blocks: State, logits: Logits) -> Tensor | None:
        """With logits of the blocks alone, or of what stands before them as well; where lengths
        vary, of as many positions as the longest has. Returns what is recorded of it, if traced."""
        width = logits.width
        if blocks.lengths is not None:
            those = blocks.first(width)
            those.wants_next = logits.following is not None
        else:
            those = blocks if width == blocks.length else blocks.block
        those.draws = blocks.draws
        seen = Seen(blocks, those, logits) if self.traced else None
        policies.step_(
            those,
            logits.block,
            scores=logits.scores,
            next_logits=logits.following,
            shadow_logits=logits.shadow,
            watch=seen,
        )
        return None if seen is None else seen.planes()


def _draws(live: list[Request]) -> bool:
    return any(request.config.temperature > 0.0 for request in live)
