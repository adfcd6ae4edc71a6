"""ME-DLM's texts end to end in one row, beside a padded row for each, through a Decoder.

A model of LLaDA's kind with two heads and random weights, LLaDA-8B's shape in bf16 on a GPU, a
small one in fp32 elsewhere: some masks become padding, and its edits delete and insert all along.
Both ways decode the same prompts in turn. On a CPU tokens and stats are asserted equal before a
time counts, which is that of the processor; in bf16 on a GPU matrix products depend on shapes.
"""

from __future__ import annotations

import statistics
import time

import pytest
import torch
from random_model import DEVICE, DTYPE, GPU

from fastedit import DecodeConfig, Decoder, policies
from fastedit.evaluation.bench.clock import timed
from fastedit.heads import NextTokenHead
from fastedit.models import packed
from fastedit.models.families import row_of
from fastedit.models.hub.modeling import model_class

SIZES = {
    "d_model": 4096 if GPU else 256,
    "n_heads": 32 if GPU else 4,
    "n_layers": 32 if GPU else 4,
    "mlp_hidden_size": 12_288 if GPU else 768,
    "vocab_size": 126_464 if GPU else 4096,
    "max_sequence_length": 4096,
    "rope_theta": 500_000.0,
}
MASK, DEL, PAD, EOS = (SIZES["vocab_size"] - i for i in range(1, 5))
NEW_TOKENS = 64  # what is wanted with another length may decode apart
PROMPTS = {  # by how long the texts begin
    "1 of 160": [96],
    "4 of 160": [96] * 4,
    "8 of 256": [192] * 8,
    "32 of 72": [8] * 32,
    "4 of 80 to 320": range(16, 257, 80),
    "8 of 80 to 514": range(16, 451, 62),
    "16 of 80 to 380": range(16, 317, 20),
    "7 of 80 and one of 512": [16] * 7 + [448],
}
TURNS = 3


@pytest.fixture(scope="module")
def decoder() -> Decoder:
    kind = {"architectures": ["LLaDAModelLM"], "model_type": "llada"}
    made = model_class(row_of(kind))
    torch.manual_seed(0)
    with torch.device(DEVICE):
        model = made(made.config_class(**kind, **SIZES)).to(DTYPE).eval()
    head = NextTokenHead.of(model)
    with torch.no_grad():
        for weight in (w for w in model.parameters() if w.ndim == 2 and not GPU):
            weight.normal_(std=0.1)  # below it, all positions get one token
        head.out.weight.normal_(std=0.1)
        model.lm_head.weight[[PAD, DEL]] *= 2  # so that some of the tokens are one of them
    policy = policies.MEDLM(6, 6, delete_token_id=DEL, pad_token_id=PAD, eos_token_id=EOS)
    config = DecodeConfig(
        policy=policy, mask_token_id=MASK, eos_token_id=[], seed=0, max_new_tokens=NEW_TOKENS
    )
    return Decoder(model, config=config, head=head)


@pytest.mark.parametrize("which", PROMPTS)
def test_packed_beside_padded(benchmark, decoder, report, monkeypatch, which):
    generator = torch.Generator().manual_seed(0)
    prompts = [torch.randint(4000, (n,), generator=generator) for n in PROMPTS[which]]
    ways = {"padded": lambda *_: False, "packed": packed.serves}
    times: dict[str, list[float]] = {way: [] for way in ways}
    outs = {}

    def turn():
        for way, serves in ways.items():
            monkeypatch.setattr(packed, "serves", serves)
            begin = time.process_time()
            spent, outs[way] = timed(lambda: decoder.generate(prompts), DEVICE)
            times[way].append(spent if GPU else time.process_time() - begin)

    turn()  # warms up
    for spent in times.values():
        spent.clear()
    benchmark.pedantic(turn, rounds=TURNS)
    ids = [[each.tolist() for each in out.sequences] for out in outs.values()]
    if not GPU:
        assert ids[0] == ids[1] and outs["padded"].stats == outs["packed"].stats
    ratios = [one / rows for rows, one in zip(*times.values(), strict=True)]
    stats = outs["packed"].stats
    report(
        "packed texts",
        texts=which,
        **{f"{way}, s": f"{statistics.median(spent):.2f}" for way, spent in times.items()},
        **{"packed / padded": f"{statistics.median(ratios):.2f}"},
        range=f"{min(ratios):.2f} to {max(ratios):.2f}",
        inserts=sum(each.inserts for each in stats),
        deletes=sum(each.deletes for each in stats),
        same=f"{sum(map(list.__eq__, *ids))} of {len(prompts)}",
    )
