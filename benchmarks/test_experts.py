"""The routed experts of one layer of LLaDA2.1-mini, by implementation: time, bytes, bandwidth.

The experts dominate a decoding forward, and a block touches most of them. Bytes are the weights of
the experts that the tokens chose (random tokens, so nearly uniform routing). Outputs are compared
with the "eager" ones first; all implementations take turns. Memory bandwidth is measured beside.
On a GPU a call is the replay of its CUDA graph, as in decoding, except for those that wait.
"""

from __future__ import annotations

import statistics
from functools import partial

import pytest
import torch

from fastedit.engine.graphs import CudaGraph
from fastedit.evaluation.bench.clock import probes, timed
from fastedit.models.llada2 import LLaDA2MoeConfig
from fastedit.models.llada2.modeling import LLaDA2MoeSparseBlock, grouped_products_wait

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
IMPLEMENTATIONS = ("eager", "grouped_mm", "batched_mm")
ROUNDS = 7
COPIED = 4e9  # bytes; more is not tried
SLOW = 3.0  # seconds; what takes longer is timed once
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


@pytest.fixture(scope="module", params=DTYPES)
def layer(request):
    """Routed and shared experts of a layer, random weights: 1.6 GB in bf16."""
    torch.manual_seed(0)
    config = LLaDA2MoeConfig.mini()
    with torch.device("meta"):
        block = LLaDA2MoeSparseBlock(config).to(DTYPES[request.param])
    block = block.to_empty(device=DEVICE)
    for name, tensor in block.state_dict().items():
        # Filled by repetition: drawing 800 million numbers would take longer than the benchmark.
        flat = tensor.view(-1)
        scale = 0.0 if name.endswith("expert_bias") else 0.02
        part = scale * torch.randn(min(len(flat), 1_000_003))
        for start in range(0, len(flat), len(part)):
            flat[start : start + len(part)] = part[: len(flat) - start].to(tensor)
    return block.eval(), config, request.param


@pytest.mark.parametrize("tokens", [32, 128, 512])
def test_experts(benchmark, report, layer, tokens):
    block, config, dtype = layer
    hidden = torch.randn(tokens, config.hidden_size).to(DEVICE, DTYPES[dtype])
    with torch.no_grad():
        chosen, weights = block.gate(hidden, None)
    touched = len(chosen.unique())
    expert = 3 * config.hidden_size * config.moe_intermediate_size * hidden.element_size()
    calls, missing = {}, {}
    expected = None
    for name in IMPLEMENTATIONS:
        call = partial(run, block, name, hidden, chosen, weights)
        copied = chosen.numel() * expert if name == "batched_mm" else 0  # a copy per choice
        if copied > COPIED:
            missing[name] = f"would copy {copied / 1e9:.0f} GB of weights"
            continue
        try:
            output = call()
        except (RuntimeError, ValueError, NotImplementedError, ImportError) as error:
            missing[name] = str(error).splitlines()[0][:60]
            continue
        output = output.float()
        expected = output if expected is None else expected
        assert (output - expected).norm() < 1e-2 * expected.norm()
        waits = name == "eager" or (name == "grouped_mm" and grouped_products_wait(hidden))
        calls[name] = call if waits or DEVICE.type != "cuda" else CudaGraph(call, []).replay

    read = next(probe for probe in probes(DEVICE) if probe.name == "read")
    times: dict[str, list[float]] = {name: [] for name in (*calls, "read")}

    def turn():
        for name, call in calls.items():
            if max(times[name], default=0.0) < SLOW:
                times[name].append(timed(call, DEVICE)[0])
        times["read"].append(read())

    benchmark.pedantic(turn, rounds=ROUNDS, warmup_rounds=1)
    bandwidth = read.bytes / statistics.median(times["read"])
    for name in IMPLEMENTATIONS:
        row = {"implementation": name, "dtype": dtype, "tokens": tokens, "experts": touched}
        row["MB"] = round(touched * expert / 1e6)
        if name in calls:
            seconds = statistics.median(times[name])
            share = touched * expert / seconds / bandwidth
            row |= {"ms": f"{1e3 * seconds:.2f}", "% of read bandwidth": round(100 * share)}
        else:
            row |= {"ms": missing[name], "% of read bandwidth": ""}
        report("experts", **row)


@torch.no_grad()
def run(block, name, hidden, chosen, weights):
    block.experts.config._experts_implementation = name
    return block.experts(hidden, chosen, weights)
