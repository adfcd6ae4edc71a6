"""A decoding step by batch and prefix beside the cost model: does the roofline hold?

The step is the loop's: forward of the live blocks, decision, advance. Weights are random, so a
step commits about one token per row. On a GPU the shape is LLaDA2.1-mini's in bf16, on a CPU one
that its memory and its patience allow, in fp32. Roofline: `fastedit.models.llada2.cost` at the read
bandwidth and the speed of a large matrix product that are measured beside, with the experts that
the steps touch: the masks of a block are alike and choose alike, so they are counted, in a run of
the same steps that is not timed.
"""

from __future__ import annotations

import statistics
import time
from itertools import islice

import pytest
import torch

from fastedit import Decoder
from fastedit.cli.bench.clock import probes, synchronize, timed
from fastedit.models.llada2 import LLaDA2MoeConfig, LLaDA2MoeModelLM
from fastedit.models.llada2.cost import forward_cost
from fastedit.models.llada2.routing import LLaDA2MoeRouter

GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if GPU else "cpu")
DTYPE = torch.bfloat16 if GPU else torch.float32
STEPS = 30 if GPU else 8  # of the first block, after two that warm up


def shape() -> LLaDA2MoeConfig:
    if GPU:
        return LLaDA2MoeConfig.mini()
    return LLaDA2MoeConfig(
        vocab_size=16_384,
        hidden_size=512,
        intermediate_size=1024,
        moe_intermediate_size=256,
        num_hidden_layers=6,
        num_attention_heads=8,
        num_key_value_heads=2,
        head_dim=64,
        num_experts=32,
        num_experts_per_tok=4,
        n_group=1,
        topk_group=1,
        max_position_embeddings=4096,
        mask_token_id=16_383,
        eos_token_id=16_382,
    )


@pytest.fixture(scope="module")
def decoder():
    torch.manual_seed(0)
    config = shape()
    with torch.device("meta"):
        model = LLaDA2MoeModelLM(config).to(DTYPE)
    model = model.to_empty(device=DEVICE)
    for name, tensor in model.state_dict().items():
        if name.endswith("expert_bias"):
            tensor.zero_()
        elif tensor.ndim == 1:
            tensor.fill_(1.0)
        else:
            tensor.normal_(std=config.initializer_range)
    return Decoder(model.eval())


@pytest.fixture(scope="module")
def machine_limits():
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
def test_step(benchmark, report, decoder, machine_limits, batch, prefix):
    generator = torch.Generator().manual_seed(batch)
    prompts = torch.randint(0, 16_000, (batch, prefix), generator=generator)
    settings = {"max_new_tokens": 32, "editing_threshold": None, "eos_early_stop": False}
    times: list[float] = []

    def steps():
        """The first steps of all rows; their times are left in `times`."""
        times.clear()
        _, engine = decoder._prepare(prompts, None, None, settings, max_batch=batch)
        last = time.perf_counter()
        for _ in islice(engine.run(), STEPS + 2):
            synchronize(DEVICE)
            now = time.perf_counter()
            times.append(now - last)
            last = now

    touched = counted_experts(decoder.model, steps)
    benchmark.pedantic(steps, rounds=1)
    seconds = statistics.median(times[2:])
    config, item = decoder.model.config, torch.finfo(DTYPE).bits // 8
    cost = forward_cost(config, batch, 32, prefix, item=item, experts=touched)
    roof = cost.seconds(*machine_limits)
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
    steps()
    for hook in hooks:
        hook.remove()
    return statistics.mean(counts[-STEPS * len(gates) :])
