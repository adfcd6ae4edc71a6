"""A denoising step of DiffusionGemma beside transformers' own loop, at its vocabulary of 262,144.

A small model with random weights, on the CPU: what is measured is the step, not the trunk. First
both decode from the same draws, and canvases and results must be equal; then each draws for itself,
in turn, for the same number of steps. Needs Linux, for the memory.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import pytest
import random_diffusion_gemma
import torch
from resident import PEAK, peak_of, resident

from fastedit.integrations.diffusion_gemma import generate

VOCAB, CANVAS, STEPS, ROUNDS = 262_144, 32, 3, 3
# So that no canvas settles, and the work is known.
GIVEN = {"max_new_tokens": CANVAS, "max_denoising_steps": STEPS, "confidence_threshold": 1e-9}


@pytest.fixture(scope="module")
def model():
    return random_diffusion_gemma.model(VOCAB, CANVAS, hidden=64)


def measured(
    monkeypatch: pytest.MonkeyPatch, model: Any, loop: Callable[[], Any]
) -> dict[str, float]:
    """Of a run of `loop`, by step: what its forward takes, and its decision, which is the rest.

    ms, and MiB that come on top of what is resident: before the run, and before the decision.
    """
    forward, forwards, decisions, tops, more = type(model).forward, [], [], [], []
    ended, held = 0.0, 0.0

    def watched(*args: Any, **given: Any) -> Any:
        nonlocal ended, held
        begin = time.perf_counter()
        tops.append(resident("VmHWM"))
        if ended:
            decisions.append(begin - ended)
            more.append(tops[-1] - held)
        begin = time.perf_counter()
        out = forward(model, *args, **given)
        forwards.append(time.perf_counter() - begin)
        tops.append(resident("VmHWM"))
        PEAK.write_text("5")
        held, ended = resident(), time.perf_counter()
        return out

    monkeypatch.setattr(model, "forward", watched)
    before = resident()
    last, _ = peak_of(loop)
    monkeypatch.undo()
    decision = 1e3 * statistics.median(decisions)
    return {
        "step, ms": 1e3 * statistics.median(forwards) + decision,
        "decision, ms": decision,
        "step, MiB": max(last, max(tops) - before),
        "decision, MiB": max(more),
    }


@pytest.mark.skipif(not PEAK.exists(), reason="needs /proc")
@pytest.mark.parametrize("rows", [1, 2])
def test_step_beside_transformers(benchmark, report, monkeypatch, model, rows):
    ids = torch.randint(3, VOCAB, (rows, 8), generator=torch.Generator().manual_seed(0))
    inputs = {"input_ids": ids}
    out, recorded = random_diffusion_gemma.theirs(model, inputs, GIVEN)
    found, run = random_diffusion_gemma.ours(model, inputs, GIVEN, recorded)
    assert torch.equal(found.sequences, out.sequences)
    for mine, expected in zip(run.canvases[0], recorded.canvases[0], strict=True):
        assert torch.equal(mine, expected)

    loops = {
        "fastedit": lambda: generate(model, ids, seed=0, **GIVEN),
        "transformers": lambda: model.generate(ids, **GIVEN),
    }
    rounds = [
        {name: measured(monkeypatch, model, loop) for name, loop in loops.items()}
        for _ in range(ROUNDS)
    ]
    benchmark.pedantic(loops["fastedit"], rounds=1)
    for name in loops:
        values = {key: [round[name][key] for round in rounds] for key in rounds[0][name]}
        steps = values["step, ms"]
        report(
            "diffusion_gemma",
            canvas=f"{rows} x {CANVAS}",
            loop=name,
            **{key: f"{statistics.median(of_it):.0f}" for key, of_it in values.items()},
            **{"step, range": f"{min(steps):.0f} to {max(steps):.0f}"},
        )
