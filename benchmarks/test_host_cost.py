"""Host time per call of the operations: what a step costs before a logit is read.

A block that is done reads nothing, so its call is checks, dispatch and, on a GPU, the launch. Each
figure is the median over rounds of `CALLS` calls; a GPU is not waited for inside a round.
"""

from __future__ import annotations

import statistics

import pytest
import torch

from fastedit import ops

CALLS = 200
ROUNDS = 15
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
LENGTH, VOCAB = 32, 640


def step(done: bool):
    """A decision on one block without masks, which changes nothing, so every call is the same."""
    ids = torch.ones(1, LENGTH, dtype=torch.int64, device=DEVICE)
    logits = torch.zeros(1, LENGTH, VOCAB, device=DEVICE)
    logits[..., 1] = 9.0
    editable = torch.ones(1, LENGTH, dtype=torch.bool, device=DEVICE)
    state = ops.StepState.new(1, DEVICE)
    state.done[:] = done
    settings = {"threshold": 0.7, "editing_threshold": 0.5, "max_post_steps": 2**30}

    def call():
        if not done:
            state.done.zero_()  # the step sets it; about 1 us of the figure
        ops.joint_threshold_step_(ids, logits, editable, state, mask_token_id=0, **settings)

    return call


def stats():
    logits = torch.zeros(1, VOCAB, device=DEVICE)
    current = torch.zeros(1, dtype=torch.int64, device=DEVICE)
    return lambda: ops.row_stats(logits, current)


CASES = {
    "decision, done block": lambda: step(True),
    f"decision, {LENGTH} x {VOCAB}": lambda: step(False),
    f"row_stats, 1 x {VOCAB}": stats,
}


def serving() -> list[str]:
    """Back ends that run here; the interpreter is no back end to time."""
    report = ops.backend_report()["row_stats"]
    return [name for name, state in report.items() if state in ("in use", "available, not chosen")]


@pytest.mark.parametrize("backend", serving())
@pytest.mark.parametrize("case", CASES)
def test_host_cost(benchmark, report, case, backend):
    with ops.use_backend(backend):
        call = CASES[case]()
        benchmark.pedantic(call, rounds=ROUNDS, iterations=CALLS, warmup_rounds=2)
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()
    times = [1e6 * seconds for seconds in benchmark.stats.stats.data]
    report(
        "host_cost",
        call=case,
        backend=backend,
        **{"us per call, median": f"{statistics.median(times):.1f}"},
        range=f"{min(times):.1f} to {max(times):.1f}",
    )
