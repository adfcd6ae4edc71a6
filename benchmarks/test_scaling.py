"""A decoding step by batch and prefix beside the cost model: does the roofline hold?

The step is the loop's: forward of the live blocks, decision, advance. Weights are random, so a
step commits about one token per row. Shapes: `random_model`. Roofline:
`fastedit.models.llada2.cost` at the read bandwidth and the speed of a large matrix product that
are measured beside, with the experts that the steps touch: the masks of a block are alike and
choose alike, so they are counted, in a run of the same steps that is not timed.
"""

from __future__ import annotations

import statistics
import time
from itertools import islice

import pytest
import torch
from random_model import DEVICE, DTYPE, GPU, random_decoder, stepping

from fastedit.evaluation.bench.clock import probes, synchronize, timed
from fastedit.models.llada2.cost import forward_cost
from fastedit.models.llada2.routing import LLaDA2MoeRouter

WARM_UP = 4  # steps that are not timed: beside a GPU a graph is captured in them
STEPS = 26 if GPU else 8  # of the first block, after those


@pytest.fixture(scope="module")
def decoder():
    return random_decoder()


def machine_limits() -> tuple[float, float]:
    """(bytes/s read, flop/s of a large product)."""
    read = next(probe for probe in probes(DEVICE) if probe.name == "read")
    side = 8192 if GPU else 1536
    a, b = (torch.randn(side, side).to(DEVICE, DTYPE) for _ in range(2))
    for _ in range(2):
        read(), a @ b
    bandwidth = read.bytes / statistics.median(read() for _ in range(5))
    speed = 2 * side**3 / statistics.median(timed(lambda: a @ b, DEVICE)[0] for _ in range(5))
    return bandwidth, speed


@pytest.mark.parametrize("prefix", [128, 1024])
@pytest.mark.parametrize("batch", [1, 4, 16, 64])
def test_step(benchmark, report, decoder, batch, prefix):
    generator = torch.Generator().manual_seed(batch)
    prompts = torch.randint(0, 16_000, (batch, prefix), generator=generator)
    settings = {"max_new_tokens": 32, "editing_threshold": None, "eos_early_stop": False}
    times: list[float] = []

    def steps(cuda_graphs=True):
        """The first steps of all rows; their times are left in `times`."""
        times.clear()
        options = settings | {"cuda_graphs": cuda_graphs}
        _, run = stepping(decoder, prompts, options, batch)
        last = time.perf_counter()
        for _ in islice(run, STEPS + WARM_UP):
            synchronize(DEVICE)
            now = time.perf_counter()
            times.append(now - last)
            last = now

    touched = counted_experts(decoder.model, steps)
    before = machine_limits()
    benchmark.pedantic(steps, rounds=1)
    limits = map(max, before, machine_limits())  # of a shared machine: the better of two moments
    seconds = statistics.median(times[WARM_UP:])
    config, item = decoder.model.config, torch.finfo(DTYPE).bits // 8
    cost = forward_cost(config, batch, 32, prefix, item=item, experts=touched)
    roof = cost.seconds(*limits)
    report(
        "scaling",
        **{
            "batch": batch,
            "prefix": prefix,
            "experts": f"{touched:.1f}",
            "GB": f"{cost.bytes / 1e9:.2f}",
            "GFLOP": f"{cost.operations / 1e9:.1f}",
            "roofline ms": f"{1e3 * roof:.1f}",
            "measured ms": f"{1e3 * seconds:.1f}",
            "times the roofline": f"{seconds / roof:.2f}",
            "ms per row": f"{1e3 * seconds / batch:.2f}",
        },
    )
    assert seconds > 0.9 * roof  # a floor is a floor


def counted_experts(model, steps) -> float:
    """Experts of a layer that tokens choose, on average over layers and steps."""
    counts: list[int] = []

    def count(gate, inputs, output):
        counts.append(len(output[0].unique()))

    gates = [m for m in model.modules() if isinstance(m, LLaDA2MoeRouter)]
    hooks = [gate.register_forward_hook(count) for gate in gates]
    steps(cuda_graphs=False)  # a graph would not run the hooks
    for hook in hooks:
        hook.remove()
    return statistics.mean(counts[-STEPS * len(gates) :])
