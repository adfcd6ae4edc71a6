"""The rounds of one case: equal outputs first, then everybody in turn, medians and ratios.

Each round times every competitor once, so a slow spell of the machine hits all; slow ones sit out
rounds, evenly. Outputs are compared with the reference in every round, before its time counts.
"""

from __future__ import annotations

import statistics
import time
from typing import Any

import torch
from torch import Tensor

from fastedit.evaluation.bench.case import LENGTH, Case
from fastedit.evaluation.bench.clock import Replay, Wall, probes, stopwatches
from fastedit.evaluation.bench.peers import (
    Competitor,
    Outcome,
    competitors,
    fastedit_backend,
    reason,
)

SECONDS = 1.0  # for each competitor and case, within these numbers of rounds
FEWEST, MOST = 5, 40

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Lane:
    """One competitor on one stopwatch, and its times by round."""

    def __init__(self, competitor: Competitor, watch: Wall | Replay, expected: Outcome) -> None:
        self.competitor, self.watch, self.expected = competitor, watch, expected
        self.times: dict[int, float] = {}
        self.differing = 0
        # First calls allocate and compile; the second tells how many rounds the time allows.
        self.first_call = self._shoot()
        before = _start_counting_memory()
        self.rounds = _rounds(self._shoot())
        self.extra_bytes = _peak_memory() - before

    @property
    def wrong(self) -> bool:
        return self.differing > 0 and self.competitor.exact

    def take_part(self, turn: int) -> None:
        seconds, outcomes = self.watch()
        self._check(outcomes)
        self.times[turn] = seconds

    def _shoot(self) -> float:
        """One shot with everything around it; its wall time."""
        started = time.perf_counter()
        _, outcomes = self.watch()
        seconds = time.perf_counter() - started
        self._check(outcomes)
        return seconds

    def _check(self, outcomes: list[Outcome]) -> None:
        worst = max(differing(outcome, self.expected) for outcome in outcomes)
        self.differing = max(self.differing, worst)


def measure(case: Case) -> list[dict[str, Any]]:
    """One row per competitor and clock, ready for JSON; fastedit's default back end comes first.

    A row has times, or `error` where outputs differ, or `missing`, why a competitor cannot run.
    `times_faster` is the row's time over that of the default back end, per round: above 1, fastedit
    is the faster one.
    """
    taking_part, missing = competitors(case)
    lanes = _lanes(case, taking_part, missing)
    memory = probes(case.device)
    speeds: dict[str, list[float]] = {probe.name: [] for probe in memory}
    for probe in memory:
        probe()

    turns = max(lane.rounds for lane in lanes if lane.competitor.ours)
    for turn in range(turns):
        for lane in lanes:
            rounds = turns if lane.competitor.ours else min(lane.rounds, turns)
            if _has_turn(turn, turns, rounds) and not lane.wrong:
                lane.take_part(turn)
        for probe in memory:
            if _has_turn(turn, turns, min(turns, 15)):
                speeds[probe.name].append(probe.bytes / probe() / 1e9)

    bandwidth = {f"{name}_gbps": statistics.median(speeds[name]) for name in speeds}
    rows = [_row(lane, _baseline(lane, lanes), case, bandwidth) for lane in lanes]
    return rows + [_head(case, name) | {"missing": why} for name, why in missing.items()]


def differing(outcome: Outcome, expected: Outcome) -> int:
    """Positions with another id; a block with another flag counts as one more."""
    total = int(outcome.ids.ne(expected.ids).sum())
    for told, right in ((outcome.done, expected.done), (outcome.changed, expected.changed)):
        if told is not None and isinstance(right, Tensor):
            total += int(right.ne(torch.as_tensor(told, device=right.device)).sum())
    return total


def _lanes(case: Case, taking_part: list[Competitor], missing: dict[str, str]) -> list[Lane]:
    reference = fastedit_backend("reference", case)
    with reference.setting():
        expected = reference.begin().step(case.logits[0])
    pool = torch.cuda.graph_pool_handle() if case.device.type == "cuda" else None
    lanes = []
    for competitor in taking_part:
        try:
            for watch in stopwatches(competitor, case, pool):
                lanes.append(Lane(competitor, watch, expected))
        except Exception as error:
            if competitor.ours:
                raise
            missing[competitor.name] = reason(error)  # no compiler for torch.compile, say
    return lanes


def _rounds(seconds: float) -> int:
    return min(max(FEWEST, int(SECONDS / seconds)), MOST)


def _has_turn(turn: int, turns: int, rounds: int) -> bool:
    """Whether one of `rounds` rounds, spread evenly over all, is this one."""
    return (turn + 1) * rounds // turns > turn * rounds // turns


def _baseline(lane: Lane, lanes: list[Lane]) -> Lane:
    """fastedit's default back end on the same clock."""
    watch = lane.watch
    return next(a for a in lanes if (a.watch.clock, a.watch.cold) == (watch.clock, watch.cold))


def _head(case: Case, name: str) -> dict[str, Any]:
    return {
        "op": "joint_threshold_step_",
        "competitor": name,
        "device": case.device.type,
        "dtype": next(name for name, dtype in DTYPES.items() if dtype == case.dtype),
        "blocks": case.blocks,
        "block": LENGTH,
        "rows": case.blocks * LENGTH,
        "vocab": case.vocab,
    }


def _row(lane: Lane, baseline: Lane, case: Case, bandwidth: dict[str, float]) -> dict[str, Any]:
    competitor, positions = lane.competitor, lane.expected.ids.numel()
    row = _head(case, competitor.name) | {
        "version": competitor.version,
        "ours": competitor.ours,
        "clock": lane.watch.clock,
        "cold": lane.watch.cold,
        "equal": lane.differing == 0,
        "differing": lane.differing,
        "first_call_s": lane.first_call,
        **bandwidth,
    }
    if lane.wrong:
        return row | {
            "error": f"output differs from the reference in {lane.differing} of {positions} places"
        }
    times = list(lane.times.values())
    p20, _, _, p80 = statistics.quantiles(times, n=5, method="inclusive")
    median = statistics.median(times)
    gbps = case.bytes / median / 1e9
    # A CPU step only reads; what a GPU's copy reaches is its customary yardstick.
    yardstick = "read" if case.device.type == "cpu" else "copy"
    row |= {
        "median_us": median * 1e6,
        "p20_us": p20 * 1e6,
        "p80_us": p80 * 1e6,
        "repeats": len(times),
        "bytes": case.bytes,
        "gbps": gbps,
        f"pct_{yardstick}": 100 * gbps / bandwidth[f"{yardstick}_gbps"],
    }
    if case.device.type == "cuda":
        row["peak_extra_bytes"] = lane.extra_bytes
    shared = lane.times.keys() & baseline.times.keys()
    if shared and not baseline.wrong:
        ratios = [lane.times[turn] / baseline.times[turn] for turn in shared]
        low, _, _, high = statistics.quantiles(ratios, n=5, method="inclusive")
        row |= {
            "baseline": baseline.competitor.name,
            "times_faster": statistics.median(ratios),
            "times_faster_p20": low,
            "times_faster_p80": high,
        }
    return row


def _start_counting_memory() -> int:
    if not torch.cuda.is_available():
        return 0
    torch.cuda.reset_peak_memory_stats()
    return torch.cuda.memory_allocated()


def _peak_memory() -> int:
    return torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
