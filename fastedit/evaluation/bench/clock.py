"""How long a step takes: on the wall, or inside the replay of a CUDA graph.

A stopwatch is called without arguments, takes one shot and returns (seconds per step, outcomes).
What a step changes in place is made anew or put back before each shot, outside the time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor

from fastedit.evaluation.bench.case import Case
from fastedit.evaluation.bench.peers import Competitor, Outcome

STEPS = 32  # in a graph: enough to hide its launch behind steps of a few microseconds
PROBE_MEGABYTES = {"cpu": 512, "cuda": 1024}
PROBE_MOVES = {"cpu": 1, "cuda": 16}  # in a row, so that launches do not count

Shot = tuple[float, list[Outcome]]


class Wall:
    """One call as a user makes it, until the device has finished. Always with cold logits."""

    clock, cold = "wall", True

    def __init__(self, competitor: Competitor, case: Case) -> None:
        self.competitor, self.case = competitor, case

    def __call__(self) -> Shot:
        run, logits = self.competitor.begin(), next(self.case.rotation)
        with self.competitor.setting():
            seconds, outcome = timed(lambda: run.step(logits), self.case.device)
        return seconds, [outcome]


class Replay:
    """Steps in one CUDA graph, each with its own ids and state, so that each has work to do.

    cold  they read the copies of the logits in turn; else all read the same ones
    """

    clock: ClassVar[str] = "graph"

    def __init__(self, competitor: Competitor, case: Case, cold: bool, pool: Any) -> None:
        self.cold = cold
        logits = case.logits if cold else case.logits[:1]
        runs = [competitor.begin() for _ in range(max(STEPS, len(logits)))]
        self.mutated = [tensor for run in runs for tensor in run.mutated]
        self.fresh = [tensor.clone() for tensor in self.mutated]
        self.graph, stream = torch.cuda.CUDAGraph(), torch.cuda.Stream(case.device)
        stream.wait_stream(torch.cuda.current_stream(case.device))
        with competitor.setting():
            with torch.cuda.stream(stream):  # compiles and allocates what a capture may not
                for _ in range(3):
                    competitor.begin().step(logits[0])
            torch.cuda.synchronize(case.device)
            with torch.cuda.graph(self.graph, pool=pool, stream=stream):
                self.outcomes = [
                    run.step(logits[turn % len(logits)]) for turn, run in enumerate(runs)
                ]
        self.begin, self.end = (torch.cuda.Event(enable_timing=True) for _ in range(2))

    def __call__(self) -> Shot:
        for tensor, fresh in zip(self.mutated, self.fresh, strict=True):
            tensor.copy_(fresh)
        self.begin.record()
        self.graph.replay()
        self.end.record()
        self.end.synchronize()
        return self.begin.elapsed_time(self.end) / 1e3 / len(self.outcomes), self.outcomes


@dataclass(frozen=True)
class Probe:
    """Memory bandwidth as torch reaches it with all threads: a shot moves `bytes` at a time."""

    name: str
    bytes: int
    device: torch.device
    move: Callable[[], Tensor]

    def __call__(self) -> float:
        """Seconds for `bytes`."""
        moves = PROBE_MOVES[self.device.type]
        seconds, _ = timed(lambda: [self.move() for _ in range(moves)], self.device)
        return seconds / moves


def stopwatches(competitor: Competitor, case: Case, pool: Any) -> Iterator[Wall | Replay]:
    """Every way in which this competitor can be timed; `pool`: of CUDA graphs, None on a CPU."""
    yield Wall(competitor, case)
    if pool is not None and competitor.capturable:
        for cold in (True, False):
            yield Replay(competitor, case, cold, pool)


def probes(device: torch.device) -> list[Probe]:
    """Reading, and copying (bytes read and written), in fp32."""
    source = torch.ones(PROBE_MEGABYTES[device.type] * 2**18, device=device)
    target = torch.empty_like(source)
    return [
        Probe("read", source.nbytes, device, source.sum),
        Probe("copy", 2 * source.nbytes, device, partial(target.copy_, source)),
    ]


def timed(call: Callable[[], Any], device: torch.device) -> tuple[float, Any]:
    synchronize(device)
    start = time.perf_counter()
    result = call()
    synchronize(device)
    return time.perf_counter() - start, result


def synchronize(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
