"""The block loop: forward, decide in place, advance on the device, read what has happened.

A step reads nothing from the device that the next one waits for: rows that finish a block open
their next one by themselves (`Window.advance_`), and the host follows from a `Record` of the
step. On a CPU it looks at once; on a GPU one step late, while the next step runs, from a CUDA
graph where there is one; so at most one forward per request is for nothing. A finished request
leaves its slot to the last live one, so the live slots are always the first n and every tensor of
a step is a view.

Nothing of a request is on the device before it is admitted, and the cache is as long as the
longest request in it. When memory runs out, half as many go on, each from where its block began.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from fastedit import ops
from fastedit.engine.graphs import Graphs, graph_shape, on_device
from fastedit.engine.memory import Capacity, Room, out_of_memory
from fastedit.engine.plans import BlockForward
from fastedit.engine.record import Copy, Record, packed
from fastedit.engine.request import Request
from fastedit.engine.slots import Canvas, Window
from fastedit.engine.threads import using
from fastedit.results import (
    BadLogitsError,
    DecodeMemoryError,
    DecodeStalledError,
    RequestError,
)

# With `lookahead`: the share of live blocks that must be able to use their next block for a
# forward to take the next blocks along. Below it, those that cannot cost more than is saved.
AHEAD_SHARE = 0.75
# By how many steps the host follows, by device type; 0 elsewhere. 1 where the device works while
# the host goes on and an event tells when a copy has arrived.
DELAY = {"cuda": 1}


class Engine:
    """Decodes requests that share a model and the options named in `SHARED`.

    model: as `BlockForward` calls it. capacity: how many decode at once; the others wait.
    threads: of torch's operations on a CPU, while a step runs.
    """

    # One model call serves all requests, so these options are those of the first one.
    SHARED = (
        "block_length",
        "mask_token_id",
        "policy",
        "strict_reference",
        "use_cache",
        "lookahead",
        "cuda_graphs",
    )

    def __init__(
        self,
        model: Callable[..., Any],
        requests: list[Request],
        mask_token_id: int,
        device: torch.device,
        capacity: Capacity,
        threads: int | None = None,
    ) -> None:
        self.threads = threads
        self.waiting = deque(request for request in requests if not request.finished)
        self.live: list[Request] = []
        self.step = self.launched = 0
        if not self.waiting:
            return
        first = self.waiting[0]
        self.model, self.device, self.block_length = model, device, first.block_length
        self.use_cache = first.config.use_cache
        self.lookahead = first.config.lookahead and self.use_cache
        slots = min(capacity.most, len(self.waiting))
        self.room = Room(replace(capacity, most=slots))
        self.canvas = Canvas(slots, first, mask_token_id, device)
        self.forward = BlockForward(model, self.canvas, self.use_cache, device)
        # Lookahead has to know what a step did before the next one.
        self.delay = 0 if self.lookahead else DELAY.get(device.type, 0)
        self.copies: deque[Copy] = deque()
        graphs = first.config.cuda_graphs and self.use_cache and self.delay > 0
        # A capture would not own the memory on the other devices of a model that has several.
        several = len(set((getattr(model, "hf_device_map", None) or {}).values())) > 1
        self.graphs = Graphs(device, wanted=graphs and not several)

    def run(self) -> Generator[list[Request]]:
        """Decode everything; yields after every step the requests that finished in it."""
        while self.waiting or self.live:
            finished: list[Request] = []
            shortage = None
            try:
                with on_device(self.device), using(self.threads):
                    self._round(finished)
            except RuntimeError as error:
                if not out_of_memory(error):
                    raise
                shortage = str(error).partition("\n")[0]
            if shortage is not None:  # only here, as the error keeps the tensors of its frames
                finished += self._start_again(shortage)
            yield finished

    def _round(self, finished: list[Request]) -> None:
        self.step = self.launched
        self._admit()
        if self.lookahead:
            self._look_ahead()
        self.launched += 1
        if self.delay:
            self._step_late(self.launched, finished)
        else:
            self._step(self.forward(), self.launched, finished)

    def _start_again(self, shortage: str) -> list[Request]:
        """After memory ran out: free all of it, and let half as many requests go on.

        Each starts again where its active block began, so with the same draws. One that does not
        fit alone ends with an error and is returned.
        """
        live = [request for request in self.live if not request.finished]
        self.live.clear()
        self.copies.clear()
        self.graphs.clear()
        self.canvas.free(slice(None))
        self.canvas.select(0)
        self.forward = BlockForward(self.model, self.canvas, self.use_cache, self.device)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        enough = self.room.halve(live, len(self.waiting))
        for request in live:
            request.rewind()
        if not enough:
            for request in live:
                request.fail(DecodeMemoryError(request.index, request.span, shortage))
            return live
        self.waiting.extendleft(reversed(live))
        return []

    @torch.inference_mode()
    def _step(self, logits: Tensor, number: int, finished: list[Request]) -> None:
        """Decide, see what it did, advance; adds the requests whose end it saw to `finished`.

        logits [n, L, V], or [n, 2 L, V] with those of the blocks ahead.
        """
        current, *ahead = logits.split(self.block_length, dim=1)
        record = self._decide(self.canvas.live, current, number)
        opened = self._follow(record, finished)
        if record.ends and self.live:
            self.canvas.live.advance_()
        for row, request in opened if ahead else ():  # what these rows saw had become final
            window = self.canvas.window(slice(request.slot, request.slot + 1))
            record = self._decide(window, ahead[0][row : row + 1], number)
            self._follow(record, finished)
            if record.ends and not request.finished:
                window.advance_()
        if opened or finished:
            self._place()

    def _decide(self, window: Window, logits: Tensor, number: int) -> Record:
        window.step_(logits, self.sampled)
        return Record.now(number, self.live[window.rows], window, logits)

    @torch.inference_mode()
    def _step_late(self, number: int, finished: list[Request]) -> None:
        """Have the device take a step, and see what the one before did."""
        rows, reach = len(self.live), self._reach(self.delay)
        sampled = any(request.config.temperature > 0.0 for request in self.live)
        if any(request.on_draft for request in self.live):  # it is shown the logits, and waits
            flags, logits = self._enqueue(rows, reach, sampled)
        else:
            cache = self.forward.cache
            if self.graphs.capture is not None and cache is not None:
                rows, reach = graph_shape(rows, reach, cache.slots, cache.length)
            shape = rows, reach, sampled
            # Without the logits: a graph would keep them for as long as it is kept itself.
            flags, logits = self.graphs.run(shape, lambda: self._enqueue(*shape)[0]), None
        self.copies.append(Copy(number, self.live[:], flags, logits))
        if len(self.copies) > self.delay:
            self._follow(self.copies.popleft().read(), finished)

    def _enqueue(self, rows: int, reach: int, sampled: bool) -> tuple[Tensor, Tensor]:
        """Forward, decision, advance; returns `packed` flags and the logits, and waits for nothing.

        rows: of the canvas, at least the live ones; reach: one past the last position to attend to.
        """
        self.canvas.select(rows)
        self.forward.place(reach - self.block_length, level=False)
        logits = self.forward()
        self.canvas.live.step_(logits, sampled)
        flags = packed(self.canvas.live)
        self.canvas.live.advance_()
        return flags, logits

    def _reach(self, unread: int) -> int:
        """One past the furthest position of an active block.

        unread: steps that the host has not followed; each may have opened a block.
        """
        beyond = unread * self.block_length
        starts = (min(request.start + beyond, request.last) for request in self.live)
        return max(starts) + self.block_length

    @torch.inference_mode()
    def _admit(self) -> None:
        """Let waiting requests in, in order, as long as there is room."""
        before = len(self.live)
        while self.waiting:
            length = max(request.span for request in (*self.live, self.waiting[0]))
            length += self.block_length if self.lookahead else 0
            if not self.room.lets_in(length, len(self.live)):
                break
            request = self.waiting.popleft()
            request.slot, request.entered = len(self.live), self.step
            self.live.append(request)
            if self.forward.reserve(len(self.live), self.room.rows, length):
                self.graphs.clear()
            self.canvas.load(request.slot, request)
            self.forward.prefill(request.slot, request)
        if len(self.live) > before:
            self._place()

    def _place(self, ahead: bool = False) -> None:
        if self.live and not self.delay:
            self.canvas.select(len(self.live))
            self.sampled = any(request.config.temperature > 0.0 for request in self.live)
            level = len({request.start for request in self.live}) == 1
            self.forward.place(self._reach(0) - self.block_length, level, ahead)

    @torch.inference_mode()
    def _look_ahead(self) -> None:
        """Take the next blocks along in a forward that probably only verifies the active ones.

        Where it changes nothing, the next block saw the final ids: its first forward is done.
        """
        settled = (~self.canvas.live.masked().any(dim=1)).tolist()
        wanted = sum(
            free and request.start < request.last
            for free, request in zip(settled, self.live, strict=True)
        )
        ahead = wanted >= AHEAD_SHARE * len(self.live)
        if ahead != self.forward.ahead:
            self._place(ahead)

    def _follow(self, record: Record, finished: list[Request]) -> list[tuple[int, Request]]:
        """Do on the host what the rows of `record` did; returns those that opened a block.

        Adds the requests that end here to `finished`.
        """
        self.step = record.step
        opened: list[tuple[int, Request]] = []
        before = len(finished)
        for row, request in enumerate(record.requests):
            if request.finished:  # its end was seen while this step was under way
                continue
            if request.on_draft and record.logits is not None:
                request.on_draft(request, record.ids[row], record.logits[row])
            if self._settle(request, record, row):
                opened.append((row, request))
            if request.finished:
                finished.append(request)
        for request in finished[before:]:
            self._leave(request.slot)
        if finished[before:]:
            self.canvas.select(len(self.live))
        return opened

    def _settle(self, request: Request, record: Record, row: int) -> bool:
        """Follow one row; True when it opened its next block."""
        flags = record.rows[row]
        if flags.bad and request.bad is None:
            request.bad = self._bad_logits(request, record, row)
        if not flags.done:
            self._check_progress(request, record, row)
            return False
        if request.committed:  # the forward that only refreshed the KV is over
            request.stats.forwards += 1
        else:
            if request.bad:
                self._stop(request, record, row, request.bad)
                return False
            self._count(request, record, row)
            request.commit(record.ids[row].tolist())
            if request.finished or (flags.dirty and request.config.use_cache):
                return False
        request.next_block(self.step)
        return True

    def _count(self, request: Request, record: Record, row: int) -> None:
        stats = request.stats
        stats.forwards += self.step - request.entered
        stats.m2t_commits += record.rows[row].m2t_commits
        stats.t2t_edits += record.rows[row].t2t_edits

    def _check_progress(self, request: Request, record: Record, row: int) -> None:
        """End a request whose active block cannot end by itself.

        Every forward commits a mask or spends budget, so no block takes longer than `bound`, unless
        edits may write masks back. A greedy forward that changes nothing while masks are left would
        repeat itself for ever.
        """
        config = request.config
        bound = self.block_length - request.head + config.max_post_steps
        greedy = config.temperature == 0.0
        stuck = greedy and not record.rows[row].dirty
        over = self.step - request.entered > bound
        if request.bad and (stuck or over):
            self._stop(request, record, row, request.bad)
        elif config.strict_reference:
            ids = record.ids[row].tolist()
            if stuck or request.progress.stalled(ids, self.canvas.mask_token_id, greedy):
                self._stop(request, record, row, DecodeStalledError(request.index))
        elif stuck or over:
            raise RuntimeError(f"request {request.index} passed its bound of {bound} forwards")

    def _bad_logits(self, request: Request, record: Record, row: int) -> BadLogitsError:
        """The error that ends the block, with the first place where its logits are bad.

        Where those of the step are gone, a forward of the blocks as they stand now has the next.
        """
        logits, ids = record.logits, record.ids
        if logits is None:
            row, ids = request.slot, self.canvas.ids
            self.canvas.select(len(self.live))
            reach = self._reach(self.delay + 1)  # rows behind this one are yet to be followed
            self.forward.place(reach - self.block_length, level=False)
            logits = self.forward()
        mask = self.canvas.mask_token_id
        forbid = () if self.canvas.strict or mask >= logits.shape[-1] else (mask,)
        current = ids[row].to(logits.device)
        bad = ops.row_stats(logits[row].contiguous(), current, forbid=forbid).bad[request.head :]
        return BadLogitsError(request.index, request.start + request.head + int(bad.int().argmax()))

    def _stop(self, request: Request, record: Record, row: int, error: RequestError) -> None:
        """End one request early; what it has committed so far stays its result."""
        self._count(request, record, row)
        request.fail(error)

    def _leave(self, slot: int) -> None:
        last = len(self.live) - 1
        if slot != last:
            self.canvas.move(last, slot)
            self.forward.move(last, slot)
            self.live[slot] = self.live[last]
            self.live[slot].slot = slot
        self.canvas.free(slice(last, last + 1))
        self.live.pop()
