"""A whole `step` of `FastEdit` beside `JointThreshold`'s, as SGLang's loops call them.

Needs `pip install --no-deps sglang`. The first step of fresh blocks, reading of flags included;
ids must be equal behind it.
"""

from __future__ import annotations

import importlib
import statistics
import sys
import time
from types import SimpleNamespace

import pytest
import torch

from fastedit.evaluation.bench.sglang_step import RUN, loaded

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
LENGTH, VOCAB, MASK, PROMPT, ROUNDS = 32, 157_184, 156_895, 8, 9
PEER = "sglang.srt.dllm.algorithm.joint_threshold"
OURS = "fastedit.integrations.sglang.algorithm"
SETTINGS = {"threshold": 0.7, "edit_threshold": 0.5, "max_post_edit_steps": 16}


def made(module, name: str, blocks: int, **more):
    config = sys.modules[RUN[0]].DllmConfig(
        algorithm=name,
        algorithm_config=SETTINGS | more,
        block_size=LENGTH,
        mask_id=MASK,
        max_running_requests=blocks,
    )
    return getattr(module, name)(config)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("blocks", [1, 4, 16])
def test_step_beside_the_built_in_one(benchmark, report, blocks, dtype):
    name = {"blocks": blocks, "dtype": str(dtype).removeprefix("torch.")}
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(blocks * LENGTH, VOCAB, generator=generator).to(DEVICE)
    winner = torch.randint(0, VOCAB // 2, (len(logits), 1), generator=generator)
    height = 9.0 + 7.0 * torch.rand(winner.shape, generator=generator)
    logits.scatter_(-1, winner.to(DEVICE), height.to(DEVICE))
    logits = logits.to(dtype)
    ids = torch.full((blocks, LENGTH), MASK, device=DEVICE)
    ids[:, :PROMPT] = torch.arange(PROMPT)
    try:
        with loaded(*RUN, PEER):
            sys.modules.pop(OURS, None)
            peer, ours = sys.modules[PEER], importlib.import_module(OURS)
            algorithms = {
                "fastedit": made(ours, "FastEdit", blocks),
                "per row": made(peer, "JointThreshold", blocks, vectorized_decoding=False),
                "vectorised": made(peer, "JointThreshold", blocks, vectorized_decoding=True),
            }
    except ImportError as error:
        report("sglang_step", **name, missing=str(error))
        pytest.skip(str(error))

    def step(algorithm) -> tuple[float, torch.Tensor]:
        batch = SimpleNamespace(
            batch_size=blocks, input_ids=ids.clone().view(-1), dllm_prompt_mask=None
        )
        states = algorithm.init_step_state(batch)
        if DEVICE.type == "cuda":
            torch.cuda.synchronize()
        begin = time.perf_counter()
        algorithm.step(batch, logits, states)
        return time.perf_counter() - begin, batch.input_ids

    times: dict[str, list[float]] = {key: [] for key in algorithms}
    for round in range(ROUNDS + 1):
        after = {}
        for key, algorithm in algorithms.items():
            spent, after[key] = step(algorithm)
            if round:
                times[key].append(1e3 * spent)
        if dtype == torch.float32:  # else its softmax has eight bits for a probability
            assert all(torch.equal(after["fastedit"], other) for other in after.values())
    benchmark.pedantic(lambda: step(algorithms["fastedit"]), rounds=3)
    middle = {key: statistics.median(of_it) for key, of_it in times.items()}
    ratios = {
        f"{key}, times slower": f"{middle[key] / middle['fastedit']:.1f}"
        for key in ("per row", "vectorised")
    }
    spread = times["fastedit"]
    report(
        "sglang_step",
        **name,
        **{f"{key}, ms": f"{value:.2f}" for key, value in middle.items()},
        **{"fastedit, range": f"{min(spread):.2f} to {max(spread):.2f}"},
        **ratios,
    )
