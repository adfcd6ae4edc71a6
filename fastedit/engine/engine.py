"""The loop: requests come in, steps are taken and followed, requests leave.

Block progress is one state machine, on the device (`Live.advance_`): a row that finishes a block
opens its next one by itself, and nothing that the next step needs waits for the host. The host
follows from the flags of a step. On a CPU it looks at once; on a GPU one step late, while the next
step runs, from a CUDA graph where there is one; so at most one forward per request is for nothing.

Nothing of a request is on the device before it comes in, and the cache is as long as the longest
request in it. When memory runs out, half as many go on, each from where its block began.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any

import torch

from fastedit import ops
from fastedit.engine.call import ModelCall
from fastedit.engine.graphs import Graphs, on_device
from fastedit.engine.memory import Capacity, out_of_memory
from fastedit.engine.plans import plan_for
from fastedit.engine.request import Request
from fastedit.engine.scheduler import Scheduler
from fastedit.engine.slots import Slots
from fastedit.engine.step import Record, Steps
from fastedit.models.threads import using
from fastedit.results import BadLogitsError, DecodeMemoryError

# Steps that the host lags behind the device, by device type; 0 elsewhere. 1 where the device works
# while the host goes on and an event tells when a copy has arrived.
DELAY = {"cuda": 1}


class Engine:
    """Decodes requests that share a model and what `prepare.shared` names.

    model: as `ModelCall` calls it. capacity: how many decode at once; the others wait.
    threads: of torch's operations on a CPU, while a step runs.
    """

    def __init__(
        self,
        model: Callable[..., Any],
        requests: list[Request],
        mask_token_id: int,
        device: torch.device,
        capacity: Capacity,
        threads: int | None = None,
    ) -> None:
        self.threads, self.device = threads, device
        self.scheduler = Scheduler(requests, capacity)
        self.live, self.waiting = self.scheduler.live, self.scheduler.waiting
        self.step = self.launched = 0
        if not self.waiting:
            return
        self.first, self.call = self.waiting[0], ModelCall(model)
        vocab = getattr(getattr(model, "config", None), "vocab_size", None)
        self.slots = Slots(self.scheduler.slots, self.first, mask_token_id, device, vocab)
        self._make_plan()
        delay = 0 if self.plan.waits else DELAY.get(device.type, 0)
        graphs = self.first.config.cuda_graphs and self.plan.cache is not None and delay > 0
        # A capture would not own the memory on the other devices of a model that has several.
        several = len(set((getattr(model, "hf_device_map", None) or {}).values())) > 1
        self.graphs = Graphs(device, wanted=graphs and not several)
        self.steps = Steps(self.slots, self.plan, self.graphs, delay)

    def _make_plan(self) -> None:
        self.plan = plan_for(self.call, self.slots, self.first)

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

    @torch.inference_mode()
    def _round(self, finished: list[Request]) -> None:
        """Let in who fits, take one step, and follow; adds those that end here to `finished`."""
        self.step = self.launched
        self._admit(finished)
        if not self.live:
            return
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

    def _admit(self, finished: list[Request]) -> None:
        """Let waiting requests in, in order, as long as there is room."""
        before = len(self.live)
        while self.waiting:
            length = max(self.plan.span(request) for request in (*self.live, self.waiting[0]))
            if not self.scheduler.lets_in(length):
                break
            request = self.scheduler.enter(self.step)
            if self.plan.reserve(len(self.live), self.scheduler.rows, length):
                self.graphs.clear()
            self.slots.load(request.slot, request)
            self.plan.prefill(request.slot, request)
        if len(self.live) > before:
            self.steps.place(self.live)

    def _start_again(self, shortage: str) -> list[Request]:
        """After memory ran out: free all of it, and let half as many requests go on.

        Each starts again where its active block began, so with the same draws. One that does not
        fit alone ends with an error and is returned.
        """
        live, several = self.scheduler.halve()
        self.steps.copies.clear()
        self.graphs.clear()
        self.slots.free(slice(None))
        self.slots.select(0, draws=False)
        self._make_plan()
        self.steps.plan = self.plan
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        for request in live:
            request.rewind()
        if not several:
            for request in live:
                request.fail(DecodeMemoryError(request.index, request.span, shortage))
            return live
        self.waiting.extendleft(reversed(live))
        return []

    def _follow(self, record: Record, finished: list[Request]) -> list[tuple[int, Request]]:
        """Do on the host what the rows of `record` did; returns those that opened a block."""
        self.step = record.step
        opened: list[tuple[int, Request]] = []
        before = len(finished)
        for row, request in enumerate(record.requests):
            if request.finished:  # its end was seen while this step was under way
                continue
            if request.on_draft and record.logits is not None:
                request.on_draft(request, record.ids[row], record.logits[row])
            if record.bad[row] and request.bad is None:
                request.bad = self._bad_logits(request, record, row)
            if request.follow(record, row):
                opened.append((row, request))
            if request.finished:
                finished.append(request)
        for request in finished[before:]:
            self._leave(request.slot)
        if finished[before:]:
            self.slots.select(len(self.live), self.slots.live.blocks.draws)
        return opened

    def _bad_logits(self, request: Request, record: Record, row: int) -> BadLogitsError:
        """The error that ends the block, with the first place where its logits are bad.

        Where those of the step are gone, a forward of the blocks as they stand now has the next.
        """
        logits, ids = record.logits, record.ids
        if logits is None:
            row, ids = request.slot, self.slots.blocks.ids
            self.slots.select(len(self.live), draws=False)
            # Rows behind this one are yet to be followed.
            reach = self.plan.reach(self.live, self.steps.delay + 1)
            self.plan.place(reach, level=False)
            logits = self.plan.forward().block
        forbid = self.slots.blocks.forbidden(logits.shape[-1])
        current = ids[row].to(logits.device)
        bad = ops.row_stats(logits[row].contiguous(), current, forbid=forbid).bad[request.head :]
        return BadLogitsError(request.index, request.start + request.head + int(bad.int().argmax()))

    def _leave(self, slot: int) -> None:
        last = self.scheduler.leave(slot)
        if slot != last:
            self.slots.move(last, slot)
            self.plan.move(last, slot)
        self.slots.free(slice(last, last + 1))
