"""The engine: requests come in at any time, steps are taken, requests leave.

Block progress is one state machine, on the device (`Live.advance_`): a row that finishes a block
opens its next one by itself, and nothing that the next step needs waits for the host. The host
follows from the flags of a step. On a CPU it looks at once; on a GPU one step late, while the next
step runs, from a CUDA graph where there is one; so at most one forward per request is for nothing.

Requests that share what `prepare.shared` names decode in one lane. Lanes are stepped in turn, over
one pool of keys and values, and all of it is kept for the requests to come.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from typing import Any

import torch

from fastedit.engine.graphs import on_device
from fastedit.engine.lane import Lane
from fastedit.engine.lanes import DELAY as DELAY
from fastedit.engine.lanes import LANES as LANES
from fastedit.engine.lanes import Lanes
from fastedit.engine.scheduler import Scheduler
from fastedit.engine.store import Store
from fastedit.heads import Head
from fastedit.memory.capacity import Capacity, out_of_memory
from fastedit.models.threads import using
from fastedit.models.weights import Weights, device_of
from fastedit.request.request import Request
from fastedit.results import DecodeMemoryError, ModelError

# Positions per unit of the pool where memory counts, in whole blocks. Elsewhere a unit has room for
# the longest request that waits when the pool is laid out: extents of one size are read in place.
UNIT = 128


class Engine:
    """Decodes requests of one model; safe to call from several threads.

    model: as `ModelCall` calls it. capacity: how many decode at once; the others wait.
    threads: of torch's operations on a CPU, while a step runs. head: for policies that need scores.
    """

    def __init__(
        self,
        model: Callable[..., Any],
        device: torch.device,
        capacity: Capacity,
        threads: int | None = None,
        head: Head | None = None,
    ) -> None:
        self.model, self.device, self.threads, self.head = model, device, threads, head
        self.scheduler = Scheduler(capacity)
        self.inside: list[Request] = []  # that have an extent
        self._ended: list[Request] = []  # that no step has returned yet
        self.lanes = Lanes()
        self.store: Store | None = None
        self._turn = 0
        self._numbers = itertools.count()
        self._changing = threading.RLock()  # who waits and who is in
        self._stepping = threading.RLock()  # taken first where both are
        self._weights: Any = None

    def enqueue(self, requests: Sequence[Request]) -> None:
        """These wait from now on, behind those that do already."""
        with self._changing:
            for request in requests:
                if request.number < 0:
                    request.number = next(self._numbers)
                if not request.finished:
                    self.scheduler.waiting.append(request)

    @torch.inference_mode()
    def abort(self, requests: Sequence[Request], reason: str = "aborted") -> list[Request]:
        """These end now, with what they have committed; waits for a step that is under way.

        Returns those that had not ended.
        """
        with self._stepping, self._changing:
            requests = [request for request in requests if not request.finished]
            for request in requests:
                request.stop(reason)
            self._leave([request for request in requests if request in self.inside])
            self.scheduler.drop_finished()
            return requests

    @property
    def idle(self) -> bool:
        return not (self.scheduler.waiting or self.inside)

    def step(self) -> list[Request]:
        """One forward of one lane, after who fits was let in; returns the requests that ended.

        An exception of the model ends those of its forward, as `ModelError`. Whatever else is
        raised, all go on from where their blocks began, in the next step.
        """
        with self._stepping:
            finished: list[Request] = []
            shortage = None
            try:
                with on_device(self.device), using(self.threads), torch.inference_mode():
                    finished = self._round()
            except RuntimeError as error:
                if not out_of_memory(error):
                    self._start_again()
                    raise
                shortage = str(error).partition("\n")[0]
            except BaseException:
                self._start_again()
                raise
            if shortage is not None:  # only here, as the error keeps the tensors of its frames
                finished = self._halve(shortage)
            ended, self._ended = self._ended, []
            return ended + finished

    def run(self, requests: Iterable[Request]) -> Generator[list[Request]]:
        """Decode these; yields after every step those of them that ended in it.

        They are read as far as two batches of them are in or waiting. Those that had ended before
        are yielded as they are read. What reading raises is raised once those before have ended,
        and what the model raises at once. Whatever has not ended when this is closed is aborted.
        """
        unread: Iterator[Request] | None = iter(requests)
        most = 2 * self.scheduler.capacity.most
        mine: dict[int, Request] = {}
        broken: Exception | None = None
        try:
            while True:
                while unread is not None and len(mine) < most:
                    try:
                        request = next(unread, None)
                    except Exception as error:
                        request, broken = None, error
                    if request is None:
                        unread = None
                    elif request.finished:
                        yield [request]
                    else:
                        self.enqueue([request])
                        mine[request.number] = request
                if not mine:
                    break
                finished = [r for r in self.step() if mine.pop(r.number, None) is not None]
                failed = [r.error for r in finished if isinstance(r.error, ModelError)]
                yield [r for r in finished if not isinstance(r.error, ModelError)]
                for failure in failed:
                    raise failure.__cause__ or failure
            if broken is not None:
                raise broken
        finally:
            self.abort(list(mine.values()), "interrupted")

    def close(self) -> None:
        """Abort everything, and give the memory back; `add` starts anew."""
        with self._stepping, self._changing:
            self.abort([*self.scheduler.waiting, *self.inside])
            self.reset()

    def reset(self) -> None:
        """Forget all keys, values and graphs: of weights that are no longer the model's, say."""
        with self._stepping, self._changing:
            self._start_again()

    def _round(self) -> list[Request]:
        if self.scheduler.waiting:
            self._admit()
        lanes = self.lanes.busy()
        if not lanes:
            return []
        self._turn += 1
        lane = lanes[self._turn % len(lanes)]
        try:
            finished = lane.round()
        except Exception as error:
            if isinstance(error, RuntimeError) and out_of_memory(error):
                raise
            finished = [request for request in lane.involved if request in self.inside]
            if not finished:  # of no forward: whatever it is, it would come again
                raise
            for request in finished:
                if not request.finished:
                    request.fail(ModelError(request.index, error))
        if finished:
            with self._changing:
                self._leave(finished)
        return finished

    def _leave(self, requests: Sequence[Request]) -> None:
        for request in requests:
            assert self.store is not None
            self.inside.remove(request)
            self.store.give(request)
        for lane in self.lanes.values():
            lane.leave(list(requests))

    def _admit(self) -> None:
        """Let waiting requests in, in order, while there is room."""
        with self._changing:
            looked = False
            while self.scheduler.waiting:
                request = self.scheduler.waiting[0]
                if not (self.inside or looked):
                    self._look_at_weights()
                    looked = True
                store = self._store()
                positions = sum(other.extent.size for other in self.inside)
                positions += store.size_of(request.room)
                if not self.scheduler.lets_in(len(self.inside) + 1, positions):
                    break
                if not looked:
                    self._look_at_weights()
                    looked = True
                    continue  # all those that were in may wait again
                grown, lane = store.grown, self._lane_or_end(request, store)
                if lane is None:
                    continue
                if store.take(request, alone=not self.inside):
                    self.inside.append(self.scheduler.waiting.popleft())
                    lane.filling.append(request)
                if store.grown != grown:  # graphs work on the tensors that were
                    self.lanes.clear_graphs()
                if request not in lane.filling:
                    break

    def _store(self) -> Store:
        """Laid out anew while nobody is in, where extents are to be alike and one is longer."""
        if self.store is not None and self.inside:
            return self.store
        capacity = self.scheduler.capacity
        known = list(itertools.islice(self.scheduler.waiting, capacity.most))
        unit = self.scheduler.common_room()
        even = self.device.type == "cpu" and not capacity.counted
        if not even:
            unit = -(-UNIT // known[0].block_length) * known[0].block_length
        if self.store is None:
            limit = capacity.positions(len(known))
            self.store = Store(self.device, unit, even=even, limit=limit)
            self.store.reserve([request.room for request in known])
        elif self.store.extents.unit < unit:
            self.store.lay_out(unit, len(known))
            self.lanes.forget()  # their spare extents are no longer theirs
        return self.store

    def _lane_or_end(self, request: Request, store: Store) -> Lane | None:
        """Its lane; a request whose policy cannot be opened ends, alone."""
        try:
            return self.lanes.of(
                request, self.model, self.head, self.device, store, self.scheduler.capacity.most
            )
        except Exception as error:
            if isinstance(error, RuntimeError) and out_of_memory(error):
                raise
            request.fail(ModelError(request.index, error))
            self._ended.append(self.scheduler.waiting.popleft())
            return None

    def _look_at_weights(self) -> None:
        """Nothing that other weights have computed is used again, not even by those inside."""
        now = Weights(self.model), Weights(self.head)
        if now != self._weights:
            self._start_again()
            self.device = device_of(self.model)
        self._weights = now

    def _forget(self) -> None:
        self.lanes.forget()
        self.store = None
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def _start_again(self) -> list[Request]:
        """Let go of everything on the device; those that were in wait again.

        Each starts where its active block began, so with the same draws.
        """
        with self._changing:
            requests = [request for request in self.inside if not request.finished]
            self._ended += [request for request in self.inside if request.finished]
            self.inside.clear()
            self._forget()
            for request in requests:
                request.rewind()
            self.scheduler.put_back(requests)
            return requests

    def _halve(self, shortage: str) -> list[Request]:
        """After memory ran out, let half as many go on; one that was alone ends and is returned."""
        with self._changing:
            requests = self._start_again()
            if self.scheduler.halve(requests):
                return []
            requests = requests or list(self.scheduler.waiting)[:1]  # it did not even come in
            for request in requests:
                request.fail(DecodeMemoryError(request.index, request.span, shortage))
            self.scheduler.drop_finished()
            return requests
