"""The block loop: forward, decide in place, read one flag per row, advance the rows that are done.

Rows advance independently. A finished request leaves its slot to the last live one, so the live
slots are always the first n and every tensor of a step is a view.
"""

from __future__ import annotations

import inspect
from collections import deque
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fastedit import ops
from fastedit.decoding.canvas import Canvas
from fastedit.decoding.request import Request
from fastedit.decoding.results import BadLogitsError, DecodeStalledError, RequestError

if TYPE_CHECKING:
    from fastedit.decoding.cache import BlockCache

# Requests that decode together; the others wait for a slot.
SLOTS = 32
# Prompt positions per prefill forward, rounded down to whole blocks: bounds the attention mask.
PREFILL_CHUNK = 2048


class Engine:
    """Decodes requests that share a model, a block length, a policy and a mask token.

    model: `model(input_ids=[B, L], attention_mask=bool [B, 1, L, T], position_ids=[B, L],
    past_key_values=Cache or None, use_cache=bool)` -> an object with `.logits` [B, L, V].
    """

    def __init__(
        self,
        model: Callable[..., Any],
        requests: list[Request],
        mask_token_id: int,
        device: torch.device,
        slots: int = SLOTS,
    ) -> None:
        self.model, self.device = model, device
        self.waiting = deque(request for request in requests if not request.finished)
        self.live: list[Request] = []
        self.step = 0
        if not self.waiting:
            return
        first = self.waiting[0]
        length = max(request.span for request in self.waiting)
        slots = min(slots, len(self.waiting))
        self.slots, self.block_length = slots, first.block_length
        self.canvas = Canvas(slots, length, first, mask_token_id, device)
        self.cache = _new_cache(slots, length) if first.config.use_cache else None
        # A prefill needs no logits; transformers' models can leave most of them out.
        forward = inspect.signature(getattr(model, "forward", model)).parameters
        self.last_logits_only = {"logits_to_keep": 1} if "logits_to_keep" in forward else {}
        self.offsets = torch.arange(self.block_length, device=device)
        self.columns = torch.arange(length, device=device)

    def run(self) -> Iterator[list[Request]]:
        """Decode everything; yields after every step the requests that finished in it."""
        while self.waiting or self.live:
            if self.waiting and len(self.live) < self.slots:
                self._admit()
            logits = self._forward_and_decide()
            self.step += 1
            for slot, request in enumerate(self.live):
                if request.on_draft:
                    request.on_draft(request, self.canvas.ids[slot], logits[slot])
            yield self._advance(logits)

    @torch.inference_mode()
    def _admit(self) -> None:
        while self.waiting and len(self.live) < self.slots:
            request = self.waiting.popleft()
            slot = len(self.live)
            self.live.append(request)
            self.canvas.load(slot, request)
            request.entered = self.step
            if self.cache is not None:
                for layer in self.cache.layers:  # a NaN left behind would pass through any mask
                    layer.keys[slot] = layer.values[slot] = 0
                self._prefill(self.cache, slot, request)
        self._place()

    def _prefill(self, cache: BlockCache, slot: int, request: Request) -> None:
        """Commit the prompt's whole blocks; its tail rides in the first generated block."""
        chunk = max(PREFILL_CHUNK // self.block_length, 1) * self.block_length
        for start in range(0, request.start, chunk):
            stop = min(start + chunk, request.start)
            positions = self.columns[start:stop]
            seen = self.columns[:stop] // self.block_length
            mask = seen[None, :] <= positions[:, None] // self.block_length
            cache.place(slice(slot, slot + 1), [start], stop - start, self.device)
            ids = self.canvas.tokens[slot : slot + 1, start:stop]
            self._call(ids, mask[None, None], positions[None], **self.last_logits_only)
            request.stats.prefill_forwards += 1

    def _place(self) -> None:
        """Positions and masks of the live blocks; needed again only when one of them moves."""
        starts = [request.start for request in self.live]
        self.canvas.select(len(starts))
        self.sampled = any(request.config.temperature > 0.0 for request in self.live)
        if not starts:
            return
        begin = torch.tensor(starts, device=self.device)[:, None]
        self.positions = begin + self.offsets
        self.visible = max(starts) + self.block_length
        columns = self.columns[: self.visible]
        within = columns < begin + self.block_length  # [n, T]
        if self.cache is not None:
            self.cache.place(self.canvas.rows, starts, self.block_length, self.device)
            shape = (len(starts), 1, self.block_length, self.visible)
            self.mask = within[:, None, None, :].expand(shape)
        else:
            blocks = columns // self.block_length
            causal = blocks[None, :] <= blocks[:, None]
            self.mask = within[:, None, None, :] & causal

    @torch.inference_mode()
    def _forward_and_decide(self) -> Tensor:
        """One forward of the live blocks and the decision on it; returns logits [n, L, V]."""
        canvas = self.canvas
        if self.cache is not None:
            logits = self._call(canvas.live_ids, self.mask, self.positions)
        else:
            canvas.tokens[canvas.rows].scatter_(1, self.positions, canvas.live_ids)
            everywhere = self.columns[None, : self.visible].expand(len(self.live), -1)
            logits = self._call(canvas.tokens[canvas.rows, : self.visible], self.mask, everywhere)
            index = self.positions[..., None].expand(-1, -1, logits.shape[-1])
            logits = logits.gather(1, index)
        canvas.step_(logits, self.sampled)
        return logits

    def _call(self, input_ids: Tensor, mask: Tensor, positions: Tensor, **options: int) -> Tensor:
        return self.model(
            **options,
            input_ids=input_ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=self.cache,
            use_cache=self.cache is not None,
        ).logits

    @torch.inference_mode()
    def _advance(self, logits: Tensor) -> list[Request]:
        """Open the next block of every row that is done; returns the requests that finished."""
        done, dirty, bad = self._flags()
        finished, moved = [], False
        for slot in reversed(range(len(self.live))):  # a freed slot is filled from behind
            request = self.live[slot]
            if bad[slot] and request.bad is None:
                request.bad = self._bad_logits(request, slot, logits)
            if not done[slot]:
                self._check_progress(request, slot, dirty[slot])
            elif self._end_block(request, slot, dirty[slot]):
                moved = True
            if request.finished:
                finished.append(request)
                self._leave(slot)
                moved = True
        if moved:
            self._place()
        return finished

    def _flags(self) -> list[list[bool]]:
        state = self.canvas.live_state
        return torch.stack((state.done, state.dirty, state.bad)).tolist()

    def _end_block(self, request: Request, slot: int, dirty: bool) -> bool:
        """Commit a block that is done; True when the row moved on to its next block."""
        canvas = self.canvas
        if request.committed:  # the forward that only refreshed the KV is over
            request.stats.forwards += 1
        else:
            if request.bad:
                self._stop(request, slot, request.bad)
                return True
            self._count(request, slot)
            request.commit(canvas.ids[slot].tolist())
            if request.finished:
                return True
            if dirty and self.cache is not None:
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
        bad = ops.row_stats(logits[slot].contiguous(), canvas.ids[slot], forbid=forbid).bad
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
            if self.cache is not None:
                self.cache.move(last, slot)
            self.live[slot] = self.live[last]
        self.live.pop()


def _new_cache(slots: int, length: int) -> BlockCache:
    from fastedit.decoding.cache import BlockCache  # here, since it imports transformers

    return BlockCache(slots, length)
