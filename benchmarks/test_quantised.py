"""Weight-only quantisation by torchao on a CPU: tokens per second beside bf16.

torchao quantises linear layers: attention, dense and shared MLPs, the head. The routed experts are
one tensor per layer and stay in bf16. Interleaved rounds in one process, on the random weights of
`random_model`; every decoding takes the same number of forwards, which is asserted.
"""

from __future__ import annotations

import copy
import statistics
import time

import pytest
import torch
from random_model import GPU, random_decoder
from torchao_weights import quantise

from fastedit import Decoder

pytestmark = pytest.mark.skipif(GPU, reason="of weights on a CPU")

OPTIONS = {"threshold": 1.0, "editing_threshold": None, "num_to_transfer": 4, "eos_token_id": []}
TURNS = 5


@pytest.fixture(scope="module")
def models():
    base = random_decoder().model.to(torch.bfloat16)
    eight, four = copy.deepcopy(base), copy.deepcopy(base)
    quantise(eight, "int8")
    quantise(four, "int4")
    return {"bf16": base, "int8": eight, "int4": four}


@pytest.mark.parametrize("batch", [1, 4])
def test_tokens_per_second(benchmark, report, models, batch):
    prompts = torch.randint(0, 16_000, (batch, 64), generator=torch.Generator().manual_seed(batch))
    seconds: dict[str, list[float]] = {name: [] for name in models}
    forwards = set()

    def turn():
        for name, model in models.items():
            began = time.perf_counter()
            out = Decoder(model).generate(prompts, max_new_tokens=64, **OPTIONS)
            seconds[name].append(time.perf_counter() - began)
            forwards.update(stats.forwards for stats in out.stats)

    benchmark.pedantic(turn, rounds=TURNS, warmup_rounds=1)
    assert len(forwards) == 1
    with torch.no_grad():
        logits = {name: model(prompts).logits for name, model in models.items()}
    for name, times in seconds.items():
        times = times[-TURNS:]
        faster = [a / b for a, b in zip(seconds["bf16"][-TURNS:], times, strict=True)]
        off = (logits[name] - logits["bf16"]).norm() / logits["bf16"].norm()
        report(
            "quantised",
            batch=batch,
            weights=name,
            **{
                "tokens/s": f"{batch * 64 / statistics.median(times):.0f}",
                "times faster, median": f"{statistics.median(faster):.2f}",
                "range": f"{min(faster):.2f} to {max(faster):.2f}",
                "logits off by": f"{float(off):.3f}",
            },
        )
