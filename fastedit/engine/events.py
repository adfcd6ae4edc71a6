"""What `Decoder.engine` returns: requests by number, and events of what they do."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from numbers import Integral
from types import TracebackType
from typing import Any

from torch import Tensor

from fastedit.config import DecodeConfig
from fastedit.engine.engine import Engine
from fastedit.models.weights import evaluating
from fastedit.request.request import Request
from fastedit.results import Event
from fastedit.traces.trace import Trace


def report(request: Request, events: deque[Event], drafts: bool = False) -> None:
    """Have `request` put its commits, and with `drafts` its drafts, into `events`."""

    def event(kind: str, request: Request, text: str, ids: list[int]) -> None:
        block = request.start // request.block_length
        step = request.step - request.entered
        events.append(Event(kind, text, ids, block, step, request=request.number))

    def on_block(request: Request, ids: list[int]) -> None:
        text = request.text.take(final=request.finished) if request.text else ""
        event("commit", request, text, ids)

    def on_draft(request: Request, ids: Tensor, logits: Tensor) -> None:
        if not request.committed:
            # What lies behind the canvas is never filled.
            shown = slice(request.head, request.seen - request.base)
            draft = ids[shown].tolist()
            event("draft", request, request.text.decode(draft) if request.text else "", draft)
            events[-1].within = min(len(draft), request.end - request.base - request.head)
            if request.moves is not None:
                _tell_moves(events[-1], request.moves[:, shown], request.head)

    request.on_block = on_block
    request.on_draft = on_draft if drafts else None


def _tell_moves(draft: Event, moves: Tensor, head: int) -> None:
    """moves: as of `policies.State`, [3, L] of the positions behind the first `head` ones."""
    source, inserted, deleted = moves.tolist()
    here = source[: len(draft.ids)]  # a text that has shrunk had more
    draft.moved = [place - head if place >= 0 else -1 for place in here]
    draft.inserted = [i for i, bit in enumerate(inserted) if bit]
    draft.deleted = [i for i, bit in enumerate(deleted) if bit]


def end_of(request: Request) -> Event:
    """The last event of a request that has ended."""
    request.on_block = request.on_draft = None  # these hold the events, and so what holds them
    return Event(
        "end",
        block=request.start // request.block_length,
        stats=request.stats,
        request=request.number,
        error=request.error,
        trace=trace_of(request),
    )


def trace_of(request: Request) -> Trace | None:
    """Of a request that has ended, where it was traced."""
    return None if request.recorder is None else request.recorder.trace(request)


class OpenEngine:
    """Decodes requests that come and go, for any number of callers in any threads.

    `add` returns the number of a request, which all its events bear. Whoever calls `step` has one
    forward done, and gets what happened since the last one, of all requests; steps are taken one
    after the other. Ends with `close`, or as a context.
    """

    def __init__(self, engine: Engine, prepare: Callable[..., list[Request]]) -> None:
        self._engine, self._prepare = engine, prepare
        self._events: deque[Event] = deque()
        self._requests: dict[int, Request] = {}
        self._adding = threading.Lock()
        self._stepping = threading.RLock()
        self._next, self._closed = 0, False

    def add(
        self,
        prompt: Any,
        config: DecodeConfig | None = None,
        drafts: bool = False,
        *,
        draft: Any = None,
        keep_draft: bool = False,
        trace: bool = False,
        **overrides: Any,
    ) -> int:
        """Let a request wait for its turn; returns its number.

        prompt: one, as `Decoder.generate` takes it. config: in place of the Decoder's; draft,
        keep_draft, trace and overrides as of `generate`. drafts: whether a "draft" event follows
        each of its forwards.

        Raises TypeError and ValueError for what cannot be decoded, and RuntimeError once closed.
        """
        with self._adding:
            self._check_open()
            (request,) = self._prepare(prompt, config, overrides, draft, keep_draft, trace)
            number = request.number = request.index = self._next
            self._next += 1
            report(request, self._events, drafts)  # all of it before a step can see the request
            self._requests[number] = request
            if request.finished:  # nothing was to be generated
                self._end(request)
            else:
                self._engine.enqueue([request])
        return number

    def step(self) -> list[Event]:
        """One forward of requests that decode together, and the events since the last step.

        [] when there is nothing to do. An exception of the model ends the requests of its forward,
        whose "end" events have it as `error`.
        """
        with self._stepping:
            self._check_open()
            with evaluating(self._engine.model):
                for request in self._engine.step():
                    self._end(request)
            return self._taken()

    def abort(self, number: int) -> None:
        """End a request now; its last event, with what it had committed, comes with the next step.

        Nothing happens to one that has ended. Raises ValueError for a number that was never given,
        and TypeError for what is no number.
        """
        if not isinstance(number, Integral) or isinstance(number, bool):
            raise TypeError(f"abort takes the number that `add` returned; got {number!r:.80}")
        with self._adding:  # one that is being added is there, or is not yet
            if not 0 <= number < self._next:
                given = f"0 to {self._next - 1}" if self._next else "none yet"
                raise ValueError(f"no request has number {number}: `add` has given {given}")
            request = self._requests.get(number)
        if request is not None:
            for ended in self._engine.abort([request]):
                self._end(ended)

    def reset(self) -> None:
        """Forget all keys, values and graphs, as behind writes into weights that torch does not
        see: through `.data`, or into inference tensors. What decodes begins its block again."""
        self._engine.reset()

    @property
    def idle(self) -> bool:
        """Whether all requests have ended and all events were taken."""
        return not self._requests and not self._events

    def close(self) -> None:
        """Abort what is left, and give the memory back."""
        with self._stepping, self._adding:
            self._closed = True
            self._engine.close()
            self._requests.clear()
            self._events.clear()

    def __enter__(self) -> OpenEngine:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _end(self, request: Request) -> None:
        if request.number in self._requests:
            rest = request.text.take(final=True) if request.text else ""
            if rest:  # might have become a stop text, and now does not
                block = request.start // request.block_length
                self._events.append(Event("commit", rest, [], block, request=request.number))
            self._events.append(end_of(request))  # before it leaves: what has events is not idle
            self._requests.pop(request.number, None)

    def _taken(self) -> list[Event]:
        events = []
        while self._events:
            events.append(self._events.popleft())
        return events

    def _check_open(self) -> None:
        if self._closed:
            raise RuntimeError("this engine is closed")
