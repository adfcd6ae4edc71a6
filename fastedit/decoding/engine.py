"""The block loop: forward, decide in place, read one flag per row, advance the rows that are done.

Rows advance independently. A finished request leaves its slot to the last live one, so the live
slots are always the first n and every tensor of a step is a view.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from fastedit import ops
from fastedit.decoding.canvas import Canvas, Window
from fastedit.decoding.forward import BlockForward
from fastedit.decoding.request import Request
from fastedit.decoding.results import BadLogitsError, DecodeStalledError, RequestError

# Requests that decode together; the others wait for a slot.
SLOTS = 32
# With `lookahead`: the share of live blocks that must be able to use their next block for a
# forward to take the next blocks along. Below it, those that cannot cost more than is saved.
AHEAD_SHARE = 0.75


class Engine:
    """Decodes requests that share a model, a block length, a policy and a mask token.

    model: as `BlockForward` calls it.
    """

    def __init__(
        self,
        model: Callable[..., Any],
        requests: list[Request],
        mask_token_id: int,
        device: torch.device,
        slots: int = SLOTS,
    ) -> None:
        self.waiting = deque(request for request in requests if not request.finished)
        self.live: list[Request] = []
        self.step = 0
        if not self.waiting:
            return
        first = self.waiting[0]
        self.slots, self.block_length = min(slots, len(self.waiting)), first.block_length
        self.lookahead = first.config.lookahead and first.config.use_cache
        length = max(request.span for request in self.waiting)
        length += self.block_length if self.lookahead else 0
        self.canvas = Canvas(self.slots, length, first, mask_token_id, device)
        self.forward = BlockForward(model, self.canvas, first.config.use_cache, device)

    def run(self) -> Iterator[list[Request]]:
        """Decode everything; yields after every step the requests that finished in it."""
        while self.waiting or self.live:
            if self.waiting and len(self.live) < self.slots:
                self._admit()
            if self.lookahead:
                self._look_ahead()
            logits = self.forward()
            self.step += 1
            self._decide(self.canvas.live, logits[:, : self.block_length])
            yield self._advance(logits)

    @torch.inference_mode()
    def _admit(self) -> None:
        while self.waiting and len(self.live) < self.slots:
            request = self.waiting.popleft()
            slot = len(self.live)
            self.live.append(request)
            self.canvas.load(slot, request)
            request.entered = self.step
            self.forward.prefill(slot, request)
        self._place()

    def _place(self, ahead: bool = False) -> None:
        starts = [request.start for request in self.live]
        self.canvas.select(len(starts))
        self.sampled = any(request.config.temperature > 0.0 for request in self.live)
        if starts:
            self.forward.place(starts, ahead)

    @torch.inference_mode()
    def _look_ahead(self) -> None:
        """Take the next blocks along in a forward that probably only verifies the active ones.

        Where it changes nothing, the next block saw the final ids: its first forward is done.
        """
        settled = (~self.canvas.live.masked().any(dim=1)).tolist()
        wanted = sum(
            free and request.start + self.block_length < request.end
            for free, request in zip(settled, self.live, strict=True)
        )
        ahead = wanted >= AHEAD_SHARE * len(self.live)
        if ahead != self.forward.ahead:
            self._place(ahead)

    @torch.inference_mode()
    def _decide(self, window: Window, logits: Tensor) -> None:
        """One decision on the blocks of `window`; logits [n, L, V]."""
        window.step_(logits, self.sampled)
        for request, ids, row in zip(self.live[window.rows], window.ids, logits, strict=True):
            if request.on_draft:
                request.on_draft(request, ids, row)

    @torch.inference_mode()
    def _advance(self, logits: Tensor) -> list[Request]:
        """Open the next block of every row that is done; returns the requests that finished."""
        finished, moved = [], False
        flags = self._flags(self.canvas.live)
        for slot in reversed(range(len(self.live))):  # a freed slot is filled from behind
            request = self.live[slot]
            current, *following = logits[slot].split(self.block_length)
            opened = self._settle(slot, flags[slot], current)
            if opened and following and not request.finished:  # what it saw had become final
                window = self.canvas.window(slice(slot, slot + 1))
                self._decide(window, following[0][None])
                self._settle(slot, self._flags(window)[0], following[0])
            if request.finished:
                finished.append(request)
                self._leave(slot)
            moved |= opened or request.finished
        if moved:
            self._place()
        return finished

    def _settle(self, slot: int, flags: tuple[bool, bool, bool], logits: Tensor) -> bool:
        """Act on the flags of one block; logits [L, V]. True when its row opened the next one."""
        request, (done, dirty, bad) = self.live[slot], flags
        if bad and request.bad is None:
            request.bad = self._bad_logits(request, slot, logits)
        if done:
            return self._end_block(request, slot, dirty)
        self._check_progress(request, slot, dirty)
        return False

    def _flags(self, window: Window) -> list[tuple[bool, bool, bool]]:
        state = window.state
        return torch.stack((state.done, state.dirty, state.bad), dim=1).tolist()

    def _end_block(self, request: Request, slot: int, dirty: bool) -> bool:
        """Commit a block that is done; True when the row opened its next block."""
        canvas = self.canvas
        if request.committed:  # the forward that only refreshed the KV is over
            request.stats.forwards += 1
        else:
            if request.bad:
                self._stop(request, slot, request.bad)
                return False
            self._count(request, slot)
            request.commit(canvas.ids[slot].tolist())
            if request.finished:
                return False
            if dirty and request.config.use_cache:
                # This forward saw older ids: one more, in which the block decides nothing.
                canvas.state.dirty[slot] = False
                return False
        canvas.close_block(slot, request)
        request.next_block(self.step)
        canvas.open_block(slot, request)
        return True

    def _count(self, request: Request, slot: int) -> None:
        state, stats = self.canvas.state, request.stats
        stats.forwards += self.step - request.entered
        stats.m2t_commits += int(state.m2t_commits[slot])
        stats.t2t_edits += int(state.t2t_edits[slot])

    def _check_progress(self, request: Request, slot: int, changed: bool) -> None:
        """Every forward commits a mask or spends budget: no block can take longer than this.

        A greedy forward that changes nothing while masks are left would repeat itself for ever.
        """
        config = request.config
        head = 0 if config.strict_reference else request.head  # there, its masks count
        bound = self.block_length - head + config.max_post_steps
        stuck = not changed and config.temperature == 0.0
        if not stuck and self.step - request.entered <= bound:
            return
        if request.bad:
            self._stop(request, slot, request.bad)
        elif config.strict_reference:
            self._stop(request, slot, DecodeStalledError(request.index))
        else:
            raise RuntimeError(f"request {request.index} passed its bound of {bound} forwards")

    def _bad_logits(self, request: Request, slot: int, logits: Tensor) -> BadLogitsError:
        """The error that ends the block, with the first place where this step's logits are bad."""
        canvas = self.canvas
        mask = canvas.mask_token_id
        forbid = () if canvas.strict or mask >= logits.shape[-1] else (mask,)
        bad = ops.row_stats(logits.contiguous(), canvas.ids[slot], forbid=forbid).bad
        offset = int((bad & canvas.editable[slot]).int().argmax())
        return BadLogitsError(request.index, request.start + offset)

    def _stop(self, request: Request, slot: int, error: RequestError) -> None:
        """End one request early; what it has committed so far stays its result."""
        self._count(request, slot)
        request.error, request.finished = error, True
        request.stats.finish_reason = "error"

    def _leave(self, slot: int) -> None:
        last = len(self.live) - 1
        if slot != last:
            self.canvas.move(last, slot)
            self.forward.move(last, slot)
            self.live[slot] = self.live[last]
        self.live.pop()
