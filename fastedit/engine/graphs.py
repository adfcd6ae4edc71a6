"""Steps as CUDA graphs: one per shape of a step, captured when that shape comes back.

A replay launches all kernels of a step at once, in the memory they were captured with. Graphs last
until the pool grows or the weights change; what else a model may do from some moment on, hooks for
one, a graph does not see.

A forward that waits for the device cannot be captured. transformers' default for experts is one on
many GPUs: see `grouped_products_wait` beside the model. The last step before a capture finds out: a
capture that fails costs memory, as torch's allocator keeps what was allocated in it.
"""

from __future__ import annotations

import contextlib
import functools
import warnings
from collections import Counter
from collections.abc import Callable, Hashable, Iterator
from typing import Any

import torch

from fastedit.memory.capacity import out_of_memory

# A step runs this often before it is captured: kernels are compiled by then, and the graph pays.
WARM_UP = 2
# Positions that a graph's attention covers, at least; else the next power of two.
SHORTEST = 256

Step = Callable[[], Any]


class CudaGraph:
    """One captured step; all graphs of a call share a memory pool, and none runs beside another."""

    def __init__(self, step: Step, pool: list[Any]) -> None:
        if not pool:
            pool.append(torch.cuda.graph_pool_handle())
        device = torch.cuda.current_device()
        self.graph = torch.cuda.CUDAGraph()
        try:
            # The outer context puts the stream back where a failed capture does not.
            with (
                torch.cuda.stream(torch.cuda.current_stream()),
                torch.cuda.graph(
                    self.graph,
                    pool[0],
                    stream=_capture_stream(device),
                    capture_error_mode="thread_local",
                ),
            ):
                self.outputs = step()
        except RuntimeError:
            _draw_again(device)
            raise

    def replay(self) -> Any:
        self.graph.replay()
        return self.outputs


@functools.cache
def _capture_stream(device: int) -> torch.cuda.Stream:
    """The one that torch would take is on the device that captured first."""
    return torch.cuda.Stream(device)


def _draw_again(device: int) -> None:
    """After a failed capture the default generator of torch 2.11 would never draw again."""
    generator = torch.cuda.default_generators[device]
    state = generator.get_state()
    try:
        torch.rand(1, device=f"cuda:{device}")
    except RuntimeError:
        generator.graphsafe_set_state(generator.clone_state())
    generator.set_state(state)


@contextlib.contextmanager
def _waiting_raises() -> Iterator[None]:
    """Within, an operation that waits for the device raises RuntimeError, as far as torch knows."""
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


# How a step is captured, by device type; elsewhere it is not.
CAPTURE: dict[str, Callable[[Step, list[Any]], Any]] = {"cuda": CudaGraph}

# What makes a device the current one, by device type; elsewhere there is nothing to make.
CURRENT: dict[str, Callable[[torch.device], contextlib.AbstractContextManager]] = {
    "cuda": torch.cuda.device
}


# Within which a step that cannot be captured raises, by device type.
REHEARSAL: dict[str, Callable[[], contextlib.AbstractContextManager]] = {"cuda": _waiting_raises}


def on_device(device: torch.device) -> contextlib.AbstractContextManager:
    """Streams, events and graphs are of the current device, wherever the tensors are."""
    return CURRENT.get(device.type, contextlib.nullcontext)(device)


class Graphs:
    """Runs steps, from their graph where there is one.

    A step is a function without arguments that does nothing but enqueue work on the device, the
    same work whenever its key is the same; it returns what it leaves there.
    """

    def __init__(self, device: torch.device, wanted: bool) -> None:
        self.device = device
        self.capture = CAPTURE.get(device.type) if wanted else None
        self.captured: dict[Hashable, Any] = {}
        self.clear()

    def clear(self) -> None:
        """Forget all graphs: the tensors they work on are no longer the ones in use."""
        if self.captured and self.device.type == "cuda":
            # Expandable segments are unmapped without waiting for a replay on another stream.
            torch.cuda.synchronize(self.device)
        self.captured = {}
        self.seen: Counter[Hashable] = Counter()
        self.pool: list[Any] = []

    def run(self, key: Hashable, step: Step) -> Any:
        graph = self.captured.get(key)
        if graph is not None:
            return graph.replay()
        if self.capture is None:
            return step()
        self.seen[key] += 1
        try:
            if self.seen[key] < WARM_UP:
                return step()
            if self.seen[key] == WARM_UP:
                with REHEARSAL.get(self.device.type, contextlib.nullcontext)():
                    return step()
            graph = self.captured[key] = self.capture(step, self.pool)
        except RuntimeError as error:
            if out_of_memory(error) or self.seen[key] < WARM_UP:
                raise
            self._give_up(error)
            return step()
        return graph.replay()

    def _give_up(self, error: RuntimeError) -> None:
        self.capture = None
        self.clear()  # a failed capture can break the graphs before it
        # Where a capture was broken, torch raises once more as it ends it.
        reason = str(error.__context__ or error).partition("\n")[0]
        warnings.warn(
            f"this model's forward cannot be captured in a CUDA graph ({reason}); decoding "
            "goes on without graphs, and cuda_graphs=False silences this warning. Experts in "
            "grouped products can be captured in bfloat16 on compute capability 9.x and 10.x",
            stacklevel=2,
        )


def graph_shape(rows: int, reach: int, slots: int) -> tuple[int, int]:
    """Rows and positions of the graph that serves `rows` rows up to position `reach`.

    Rows: 1, 2, 4, then multiples of 8, at most `slots`. Positions: powers of two.
    """
    bucket = next((size for size in (1, 2, 4) if rows <= size), -(-rows // 8) * 8)
    return min(bucket, slots), max(1 << (reach - 1).bit_length(), SHORTEST)
