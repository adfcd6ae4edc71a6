"""A lane: requests that decode in the same forwards, and how the host follows them."""

from __future__ import annotations

from fastedit import ops
from fastedit.engine.graphs import Graphs
from fastedit.engine.step import Steps
from fastedit.engine.store import Store
from fastedit.memory.extents import Extent
from fastedit.plans import Piece, plan_for
from fastedit.plans.call import ModelCall
from fastedit.request.record import Record
from fastedit.request.request import Request
from fastedit.request.slots import Slots
from fastedit.results import BadLogitsError


class Lane:
    """Requests that share what `prepare.shared` names.

    filling  those whose prompts are not in the pool yet; live[i] decodes in slot i, in the order of
             their extents
    involved  those of the last forward
    step, launched  steps that the host has followed, and that the device was given
    """

    def __init__(
        self,
        call: ModelCall,
        store: Store,
        request: Request,
        slots: int,
        spare: Extent,
        graphs: Graphs,
        delay: int,
    ) -> None:
        vocab = getattr(getattr(call.model, "config", None), "vocab_size", None)
        self.store, self.slots = store, Slots(slots, request, store.pool, spare, vocab)
        self.plan = plan_for(call, self.slots, request)
        if self.plan.waits or not self.plan.cached:
            graphs.capture = None
        traced = request.recorder is not None
        self.steps = Steps(self.slots, self.plan, graphs, 0 if self.plan.waits else delay, traced)
        if self.plan.scorer is not None:
            self.plan.scorer.looks = not self.steps.delay
        self.filling: list[Request] = []
        self.live: list[Request] = []
        self.involved: list[Request] = []
        self.step = self.launched = 0

    @property
    def busy(self) -> bool:
        return bool(self.filling or self.live)

    def round(self) -> list[Request]:
        """Prefill and take one step, and follow; returns the requests that finished."""
        self.involved = []
        if self.filling:
            self.fill()
        finished: list[Request] = []
        if self.live:
            self._decode(finished)
        return finished

    def fill(self) -> None:
        """One forward over prompts, of all whose prompts are not in the pool yet."""
        pieces = self._pieces() if self.plan.cached else []
        if pieces:
            taken = pieces[: self.plan.fits([piece for _, piece in pieces])]
            self.involved = list({id(request): request for request, _ in taken}.values())
            self.plan.prefill([piece for _, piece in taken])
            for request, piece in taken:
                request.filled = piece.start + piece.width
            for request in self.involved:
                self.store.filled(request)
                # One that came back had its prompt prefilled before.
                request.stats.prefill_forwards += not request.restarts
        cached = self.plan.cached
        ready = [r for r in self.filling if not cached or r.filled >= r.start]
        if ready:
            self.filling = [r for r in self.filling if r not in ready]
            self.involved = ready
            self._enter(ready)

    def _pieces(self) -> list[tuple[Request, Piece]]:
        """Blocks to prefill; one that several requests need is computed for the first of them."""
        pieces: list[tuple[Request, Piece]] = []
        computed: set[int] = set()
        for request in self.filling:
            self.store.reuse(request)
            for start, width in request.unfilled():
                node = id(self.store.prefixes.node(request.extent, request.block_of(start)))
                if node in computed:
                    break
                computed.add(node)
                pieces.append((request, Piece(request.extent, start, width)))
                if len(pieces) == self.plan.most_pieces:
                    return pieces
        return pieces

    def _enter(self, requests: list[Request]) -> None:
        for slot, request in enumerate(requests, len(self.live)):
            request.slot, request.entered = slot, self.launched
        self.slots.load(len(self.live), requests)
        self.live += requests
        self._arrange(self.live)
        self.steps.place(self.live)

    def leave(self, gone: list[Request]) -> None:
        """These are in no forward from now on; nothing of the others moves in the pool."""
        before = len(self.live)
        self._remove(gone)
        if len(self.live) < before:
            self.steps.place(self.live)

    def _close_ranks(self, gone: list[Request]) -> None:
        """Move those that stay to the places of those that go, so that they lie without a gap.

        Where extents are alike, rows that lie so are read in place; others are copied in every
        forward. Not while a step is under way.
        """
        if self.steps.delay or not self.store.even or not self.store.pool.layers:
            return
        stay = [request for request in self.live if request not in gone]
        for leaving in sorted(gone, key=lambda request: request.extent):
            if not stay or stay[-1].extent < leaving.extent:
                return
            last = stay.pop()
            if last.extent.size == leaving.extent.size:
                self.store.exchange(leaving, last)
                self.slots.offset[last.slot] = last.extent.first

    def _remove(self, gone: list[Request]) -> None:
        self.filling = [request for request in self.filling if request not in gone]
        if not any(request in gone for request in self.live):
            return
        before = len(self.live)
        self._arrange([request for request in self.live if request not in gone])
        self.slots.free(slice(len(self.live), before))
        if not self.steps.delay:
            self.slots.select(len(self.live), self.slots.live.blocks.draws)

    def _arrange(self, requests: list[Request]) -> None:
        """Let these be live, in the order of their extents."""
        self.slots.drafts = any(
            request.draft is not None or request.seen < request.span for request in requests
        )
        self.live = sorted(requests, key=lambda request: request.extent)
        order = [request.slot for request in self.live]
        if order != list(range(len(order))):
            self.slots.arrange(order)
            for slot, request in enumerate(self.live):
                request.slot = slot

    def _decode(self, finished: list[Request]) -> None:
        self.involved = self.live[:]
        self.step = self.launched
        self.launched += 1
        if self.steps.delay:
            record = self.steps.ahead(self.launched, self.live)
            if record is not None:
                self._follow(record, finished)
            return
        if self.plan.look(self.live):
            self.steps.place(self.live)
        logits = self.plan.forward()
        record = self.steps.decide(self.slots.live, logits, self.launched, self.live[:])
        opened = self._follow(record, finished)
        if True in record.done and self.live:
            self.slots.live.advance_()
        for live, ahead, request in self.plan.more(logits, opened):
            record = self.steps.decide(live, ahead, self.launched, [request])
            self._follow(record, finished)
            if True in record.done and not request.finished:
                live.advance_()
        if opened or finished:
            self.steps.place(self.live)

    def _follow(self, record: Record, finished: list[Request]) -> list[tuple[int, Request]]:
        """Do on the host what the rows of `record` did; returns those that opened a block."""
        self.step = record.step
        opened: list[tuple[int, Request]] = []
        gone: list[Request] = []
        for row, request in enumerate(record.requests):
            if request.finished:  # its end was seen while this step was under way
                continue
            request.step = record.step
            if request.on_draft and record.logits is not None:
                ids, logits = record.row(row)[self.slots.earlier :], record.logits[row]
                request.moves = None if record.moves is None else record.moves[:, row]
                if record.lengths is None:
                    logits = logits[-len(ids) :]
                request.on_draft(request, ids, logits)
            if record.bad[row] and request.bad is None:
                request.bad = self._bad_logits(request, record, row)
            if request.recorder is not None:
                request.recorder.take(request, record, row)
            if request.follow(record, row):
                opened.append((row, request))
                if self.plan.cached:
                    self.store.committed(request)
            if request.finished:
                gone.append(request)
        if gone:
            finished += gone
            self._close_ranks(gone)
            self._remove(gone)
        return opened

    def _bad_logits(self, request: Request, record: Record, row: int) -> BadLogitsError:
        """The error that ends the block, with the first place where its logits are bad.

        Where those of the step are gone, a forward of the blocks as they stand now has the next.
        """
        rows, ids = record.logits, record.ids
        if rows is None:
            row, ids = request.slot, self.slots.blocks.ids
            self.slots.select(len(self.live), draws=False)
            # Rows behind this one are yet to be followed.
            reach = self.plan.reach(self.live, self.steps.delay + 1)
            self.plan.place(reach)
            rows = self.plan.forward().block
        logits = rows[row]
        forbid = self.slots.blocks.no_text(logits.shape[-1])
        width = len(logits)  # of the block, or with what stands before it
        columns, first = slice(-width, None), self.slots.width - width
        if record.lengths is not None:  # or of what there is of the block
            columns, first = slice(width), 0
        current = ids[row][columns].to(logits.device)
        bad = ops.row_stats(logits.contiguous(), current, forbid=forbid).bad
        matters = self.slots.blocks.may_change()[request.slot][columns].to(bad.device)
        place = int((bad & matters).int().argmax()) + first
        return BadLogitsError(request.index, max(request.base + place, len(request.prompt)))
