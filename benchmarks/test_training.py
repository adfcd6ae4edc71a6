"""Training steps: beside the same step written plainly, and drafts beside random wrong tokens.

Loss, gradients and right argmaxes are asserted equal before a time is reported. Both sides take
turns in one process; ratios are per turn, quoted as median and range. Times are CPU seconds of the
process, all threads together: what it waits for on a shared machine is not the step's. Memory is
the peak of what is resident during a step above what was before it: no weights, their gradients.
"""

from __future__ import annotations

import ctypes
import re
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from training_case import VOCAB, Case, build_batch, build_model

from fastedit.training.options import EditOptions
from fastedit.training.step import EditStep

TURNS = 3
CASES = [("random", "lora"), ("self", "lora"), ("self", "all")]
LINUX = sys.platform == "linux"


def timed(run: Callable[[], object]) -> float:
    began = time.process_time()
    run()
    return time.process_time() - began


def timed_with_peak(run: Callable[[], object]) -> tuple[float, float]:
    """CPU seconds, and the peak of resident memory above what was there before (Linux), in MiB."""
    if not LINUX:
        return timed(run), float("nan")
    ctypes.CDLL(None).malloc_trim(0)  # what earlier steps freed would hide the first of this one
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = resident("VmRSS")
    seconds = timed(run)
    return seconds, resident("VmHWM") - before


def resident(field: str) -> float:
    """VmRSS, or VmHWM, its peak, of this process in MiB."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(rf"{field}:\s+(\d+) kB", status).group(1)) / 1024


def spread(ratios: list[float]) -> str:
    return f"{min(ratios):.2f} to {max(ratios):.2f}"


@pytest.mark.parametrize(("recipe", "weights"), CASES)
def test_step_beside_the_plain_one(benchmark, report, recipe, weights):
    case = Case(recipe, weights)
    ours, hits = case.fastedit()
    gradients = case.gradients()
    theirs, plain_hits = case.plain()
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=0.0)
    assert hits == plain_hits > 0
    expected = case.gradients()
    assert gradients.keys() == expected.keys()
    for name, gradient in gradients.items():
        scale = float(expected[name].abs().max())
        torch.testing.assert_close(gradient, expected[name], rtol=0.0, atol=1e-4 * scale)
    del gradients, expected

    turns: list[list[tuple[float, float]]] = []

    def turn():
        turns.append([])
        for run in (case.plain, case.fastedit):
            turns[-1].append(timed_with_peak(run))
            case.model.zero_grad()

    benchmark.pedantic(turn, rounds=TURNS)
    tokens = case.batch["input_ids"].numel()
    faster = [plain[0] / fast[0] for plain, fast in turns]
    less = statistics.median(plain[1] / fast[1] for plain, fast in turns)
    for number, side in enumerate(("full logits, both halves", "fastedit")):
        seconds = statistics.median(turn[number][0] for turn in turns)
        peak = statistics.median(turn[number][1] for turn in turns)
        report(
            "training",
            step=f"{recipe} T2T, {'LoRA' if weights == 'lora' else 'all weights'}, V = {VOCAB:,}",
            code=side,
            **{
                "tokens/CPU s": round(tokens / seconds),
                "times faster": f"{statistics.median(faster) if number else 1.0:.2f}",
                "range": spread(faster) if number else "",
                "peak MiB": round(peak) if LINUX else None,
                "times less": f"{less if number else 1.0:.1f}" if LINUX else None,
            },
        )
    assert statistics.median(faster) >= 1.5 or less >= 3.0


@pytest.mark.parametrize("weights", ["lora", "all"])
def test_drafts_beside_random_wrong_tokens(benchmark, report, weights):
    """A model in which the layers dominate: 4 of width 512, and 4096 ids; every sample drafted."""
    model = build_model(4096, 512, 4, weights)
    batch = build_batch(4096, rows=2, prompt=96, response=416)
    recipes = {
        "random": EditOptions(t2t="random"),
        "own drafts": EditOptions(t2t="self", draft_share=1.0),
    }
    steps = [EditStep(model, o, seed=0, mask_token_id=4095) for o in recipes.values()]
    times: list[list[float]] = []

    def turn():
        times.append([timed(lambda step=step: step(**batch).loss.backward()) for step in steps])
        model.zero_grad()

    benchmark.pedantic(turn, warmup_rounds=1, rounds=5)
    ratios = [own / random for random, own in times[1:]]
    for number, recipe in enumerate(recipes):
        report(
            "training_drafts",
            weights="LoRA" if weights == "lora" else "all",
            **{
                "wrong tokens": recipe,
                "CPU ms": round(1000 * statistics.median(turn[number] for turn in times[1:])),
                "times the cost": f"{statistics.median(ratios) if number else 1.0:.2f}",
                "range": spread(ratios) if number else "",
            },
        )
    assert statistics.median(ratios) <= 1.35
