"""What a correction head costs: beside whole decoding of the embedded model, and beside the layers
of LLaDA2.x-mini, one of each kind with random weights, of which its share of a forward follows.

No score is above `tau`, so every way takes the same forwards and gives the same tokens.
"""

from __future__ import annotations

import statistics

import pytest
import torch
from random_model import DEVICE

from fastedit import Decoder
from fastedit.evaluation.bench.clock import timed
from fastedit.heads import CorrectionHead, CorrectionHeadConfig
from fastedit.models.llada2 import LLaDA2MoeConfig
from fastedit.models.llada2.modeling import LLaDA2MoeDecoderLayer
from fastedit.models.llada2.rotary import rotary_tables

TURNS = 3
STRIDES = (1, 2, 4, 8)
SETTINGS = {"max_new_tokens": 32, "eos_token_id": []}
RULE = "correction:tau=1,steps=32,scorer={scorer},stride={stride}"


@pytest.mark.parametrize("batch", [1, 16])
def test_beside_the_embedded_model(benchmark, decoder, prompts, report, batch):
    """Times of a forward without a head, and with one that runs every `stride` forwards."""
    config = CorrectionHeadConfig.of(decoder.model.config, decoder.family.attention)
    head = CorrectionHead(config).to(decoder.device).eval()
    own = Decoder(decoder.model, decoder.tokenizer, head=head)
    ways = {"no head": RULE.format(scorer="confidence", stride=4)}
    ways |= {f"stride {n}": RULE.format(scorer="head", stride=n) for n in STRIDES}
    times: dict[str, list[float]] = {way: [] for way in ways}
    outs = {}

    def turn():
        for way, policy in ways.items():
            spent, outs[way] = timed(
                lambda rule=policy: own.generate(prompts[:batch], policy=rule, **SETTINGS), DEVICE
            )
            times[way].append(spent)

    turn()
    for spent in times.values():
        spent.clear()
    benchmark.pedantic(turn, rounds=TURNS)
    forwards = {sum(stats.forwards for stats in out.stats) for out in outs.values()}
    assert len(forwards) == 1
    plain = [ids.tolist() for ids in outs["no head"].sequences]
    for way, spent in times.items():
        assert [ids.tolist() for ids in outs[way].sequences] == plain
        ratios = [a / b for a, b in zip(spent, times["no head"], strict=True)]
        report(
            "correction head",
            model="tiny",
            requests=batch,
            way=way,
            **{"of the time without": f"{statistics.median(ratios):.2f}"},
            range=f"{min(ratios):.2f} to {max(ratios):.2f}",
        )
        benchmark.extra_info[way] = {"seconds": spent, "forwards": max(forwards) / batch}


@torch.inference_mode()
@pytest.mark.parametrize("batch", [1, 16])
def test_beside_layers_of_mini(benchmark, report, batch):
    """A forward of `batch` blocks is one dense layer, the sparse ones and the vocabulary."""
    sizes = LLaDA2MoeConfig.mini()
    sizes._attn_implementation = "sdpa"
    with torch.device("meta"):
        layers = {
            "dense": LLaDA2MoeDecoderLayer(sizes, 0),
            "sparse": LLaDA2MoeDecoderLayer(sizes, 1),
        }
        parts = {
            **layers,
            "vocabulary": torch.nn.Linear(sizes.hidden_size, sizes.vocab_size, False),
        }
    for part in parts.values():
        part.to(torch.bfloat16).to_empty(device=DEVICE)
        for tensor in part.state_dict().values():
            tensor.fill_(1.0) if tensor.ndim == 1 else tensor.normal_(std=sizes.initializer_range)
    heads = {}
    for depth in (0, 1, 2):
        config = CorrectionHeadConfig.of(sizes, "block_causal", depth=depth)
        heads[f"{depth} blocks"] = CorrectionHead(config).to(DEVICE, torch.bfloat16).eval()
    hidden = torch.randn(batch, 32, sizes.hidden_size, device=DEVICE, dtype=torch.bfloat16)
    positions = torch.arange(32, device=DEVICE).expand(batch, -1)
    rotary = rotary_tables(sizes, positions, hidden.dtype, 32)
    runs = {
        name: lambda layer=layer: layer(hidden, None, rotary, None)
        for name, layer in layers.items()
    }
    runs["vocabulary"] = lambda: parts["vocabulary"](hidden)
    runs |= {name: lambda head=head: head(hidden, None, positions) for name, head in heads.items()}
    times: dict[str, list[float]] = {name: [] for name in runs}

    def turn():
        for name, run in runs.items():
            times[name].append(timed(run, DEVICE)[0])

    turn()
    for spent in times.values():
        spent.clear()
    benchmark.pedantic(turn, rounds=TURNS)
    dense, sparse, last = (statistics.median(times[name]) for name in parts)
    count = sizes.num_hidden_layers - 1
    forward = dense + count * sparse + last
    weights = {name: sum(p.numel() for p in part.parameters()) for name, part in parts.items()}
    read = weights["dense"] + count * weights["sparse"] + weights["vocabulary"]
    for name, head in heads.items():
        spent = statistics.median(times[name])
        bytes_share = sum(p.numel() for p in head.parameters()) / read
        report(
            "correction head",
            model="mini",
            requests=batch,
            way=name,
            **{"of the time without": f"{1 + spent / forward:.4f}"},
            range=f"{bytes_share:.2%} of the weights",
        )
    benchmark.extra_info |= {name: statistics.median(spent) for name, spent in times.items()}
