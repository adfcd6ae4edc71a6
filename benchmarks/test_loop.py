"""What the loop adds to bare forwards, and what tokens per forward make of it.

Bare: the same forward of the live blocks in a row, nothing decided; on a GPU replays of its CUDA
graph. The loop: steps of the engine, forward, decision, advance and host. Tokens per forward are
forced by `num_to_transfer`, as weights are random; outputs equal the plain rule's, which is
asserted in fp32 and reported in bf16. Shapes: `random_model`.
"""

from __future__ import annotations

import statistics
import time

import plain
import pytest
import torch
from random_model import DEVICE, DTYPE, GPU, random_decoder, stepping

from fastedit import Decoder
from fastedit.engine.graphs import CudaGraph
from fastedit.evaluation.bench.clock import synchronize

PREFIX = 128
WARM_UP = 4  # steps that are not timed: beside a GPU a graph is captured in them
STEPS = 24 if GPU else 6  # of the first block, after those
TURNS = 5 if GPU else 3
NEW_TOKENS = 256 if GPU else 64


@pytest.fixture(scope="module")
def decoder():
    return random_decoder()


def prompts_of(batch: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(batch)
    return torch.randint(0, 16_000, (batch, PREFIX), generator=generator)


@pytest.mark.parametrize("batch", [1, 4, 16, 64])
def test_loop_over_bare_forwards(benchmark, report, decoder, batch):
    settings = {"max_new_tokens": 32, "editing_threshold": None, "eos_token_id": []}
    loop, bare = [], []

    def turn():
        engine, run = stepping(decoder, prompts_of(batch), settings, batch)
        loop.append(per_step(lambda: next(run)))
        with torch.inference_mode():
            forward = next(iter(engine.lanes.values())).plan.forward
            bare.append(per_step(CudaGraph(forward, []).replay if GPU else forward))

    benchmark.pedantic(turn, rounds=TURNS)
    ratios = [whole / part for whole, part in zip(loop, bare, strict=True)]
    report(
        "loop",
        batch=batch,
        **{
            "bare forward ms": f"{1e3 * statistics.median(bare):.2f}",
            "step ms": f"{1e3 * statistics.median(loop):.2f}",
            "overhead %": f"{100 * (statistics.median(ratios) - 1):.1f}",
            "range": f"{100 * (min(ratios) - 1):.1f} to {100 * (max(ratios) - 1):.1f}",
        },
    )


def per_step(step) -> float:
    """Seconds per step, the device working through them without a pause."""
    for _ in range(WARM_UP):
        step()
    synchronize(DEVICE)
    begin = time.perf_counter()
    for _ in range(STEPS):
        step()
    synchronize(DEVICE)
    return (time.perf_counter() - begin) / STEPS


@pytest.mark.parametrize("commits", [1, 4, 8])
def test_tokens_per_forward(benchmark, report, decoder, commits):
    settings = {"threshold": 1.0, "editing_threshold": 1.0, "num_to_transfer": commits}
    config = decoder.config.replace(max_new_tokens=NEW_TOKENS, eos_token_id=[], **settings)
    decoder = Decoder(decoder.model, config=config)
    prompt, times = prompts_of(1)[0], []

    def ours():
        begin = time.perf_counter()
        out = decoder.generate(prompt)
        times.append(time.perf_counter() - begin)
        return out

    out = benchmark.pedantic(ours, rounds=TURNS, warmup_rounds=1)
    begin = time.perf_counter()
    want = plain.like(decoder, prompt, NEW_TOKENS)
    slow = time.perf_counter() - begin
    agree = (out.sequences[0].cpu() == want).float().mean().item()
    assert agree == 1.0 or torch.float32 != DTYPE
    seconds = statistics.median(times[1:])
    report(
        "tokens_per_forward",
        **{
            "tokens per forward": f"{out.stats[0].tokens_per_forward:.2f}",
            "tokens/s": f"{NEW_TOKENS / seconds:.1f}",
            "plain rule, tokens/s": f"{NEW_TOKENS / slow:.1f}",
            "times faster": f"{slow / seconds:.1f}",
            "as the plain rule": f"{100 * agree:.1f} %",
        },
    )
