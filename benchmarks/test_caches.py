"""Exact full attention beside Fast-dLLM's approximate caches: speed, and how many tokens agree.

A model of LLaDA's kind with random weights, LLaDA-8B's shape in bf16 on a GPU, a small one in fp32
elsewhere. All ways decode the same prompts by the same schedule, so that they take equally many
forwards, and take turns. Random weights make tokens agree less than trained ones do.
"""

from __future__ import annotations

import pytest
import torch
from random_model import DEVICE, DTYPE, GPU
from throughput import row
from transformers import LlamaConfig, LlamaForCausalLM

from fastedit import DecodeConfig, Decoder
from fastedit.evaluation.bench.clock import timed
from fastedit.models import Family

CACHES = ("exact", "prefix", "dual")
NEW_TOKENS, LENGTH, STEPS = 64, 16, 4
PROMPTS = (32, 256)
BATCH = 4
TURNS = 3


@pytest.fixture(scope="module")
def decoder() -> Decoder:
    sizes = {
        "vocab_size": 126_464 if GPU else 4_096,
        "hidden_size": 4096 if GPU else 192,
        "intermediate_size": 12_288 if GPU else 512,
        "num_hidden_layers": 32 if GPU else 3,
        "num_attention_heads": 32 if GPU else 4,
        "num_key_value_heads": 32 if GPU else 4,
        "max_position_embeddings": 4096,
        "initializer_range": 0.02 if GPU else 0.1,  # below it, all positions get one token
    }
    torch.manual_seed(0)
    with torch.device(DEVICE):
        model = LlamaForCausalLM(LlamaConfig(**sizes)).to(DTYPE).eval()
    config = DecodeConfig(
        policy=f"confidence:rule=schedule,steps={STEPS}",
        block_length=LENGTH,
        max_new_tokens=NEW_TOKENS,
        mask_token_id=sizes["vocab_size"] - 1,
        eos_token_id=[],
    )
    return Decoder(model, config=config, family=Family(attention="full", blocks="after_prompt"))


@pytest.mark.parametrize("batch", [1, BATCH])
@pytest.mark.parametrize("prompt", PROMPTS)
def test_what_is_kept(benchmark, decoder, report, prompt, batch):
    generator = torch.Generator().manual_seed(prompt)
    prompts = list(torch.randint(4_000, (batch, prompt), generator=generator))
    times: dict[str, list[float]] = {cache: [] for cache in CACHES}
    outs = {}

    def turn():
        for cache in CACHES:
            spent, outs[cache] = timed(
                lambda way=cache: decoder.generate(prompts, cache=way), DEVICE
            )
            times[cache].append(spent)

    turn()  # warms up
    for spent in times.values():
        spent.clear()
    benchmark.pedantic(turn, rounds=TURNS)
    exact = torch.stack(outs["exact"].sequences)
    for cache, spent in times.items():
        forwards = {stats.forwards for stats in outs[cache].stats}
        assert forwards == {STEPS * NEW_TOKENS // LENGTH}
        agree = (torch.stack(outs[cache].sequences) == exact).float().mean().item()
        ratios = [slow / own for slow, own in zip(times["exact"], spent, strict=True)]
        label = f"{batch} of {NEW_TOKENS} tokens behind {prompt}"
        columns = row(label, cache, exact.numel(), spent, ratios)
        report("caches", **columns, **{"tokens as exact": f"{agree:.0%}"})
        benchmark.extra_info[cache] = {"seconds": spent, "tokens as exact": agree}
