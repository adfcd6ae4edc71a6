"""Rows whose extents lie without a gap are read in place: whoever ends, and comes after them."""

from collections import Counter

import pytest
import torch
from cases import GOLDEN, B, prompt, results

from fastedit import DecodeConfig, Decoder
from fastedit.memory import kv
from fastedit.plans import Block

PROMPTS = [prompt(3 + 7 * number % 20) for number in range(12)]
LENGTHS = [8, 40, 16, 24, 8, 56, 16, 8, 32, 64, 24, 48]


@pytest.fixture
def read(monkeypatch):
    """How often steps copy keys or values of their rows together, and how often they do not."""
    counts, as_before, prefill = Counter(), kv._read, Block.prefill

    def counted(plane, where):
        counts["in place" if isinstance(where, tuple) else "copied"] += 1
        return as_before(plane, where)

    def uncounted(plan, pieces):
        with monkeypatch.context() as patch:
            patch.setattr(kv, "_read", as_before)
            prefill(plan, pieces)

    monkeypatch.setattr(kv, "_read", counted)
    monkeypatch.setattr(Block, "prefill", uncounted)
    return counts


@pytest.mark.parametrize("policy", ["joint_threshold", "low_confidence", "multi_block"])
def test_what_ends_leaves_no_gap(golden_model, read, policy):
    options = GOLDEN | {"eos_token_id": [], "policy": policy, "seed": 0}
    for name in ("max_new_tokens", "max_post_steps", "threshold", "editing_threshold"):
        options.pop(name, None)
    configs = [DecodeConfig(max_new_tokens=length, **options) for length in LENGTHS]
    alone = [
        results(Decoder(golden_model, config=config).generate(ids))[0]
        for ids, config in zip(PROMPTS, configs, strict=True)
    ]
    decoder = Decoder(golden_model)
    read.clear()
    for _ in range(2):
        out = decoder.generate(PROMPTS, config=configs, max_batch=5)
        assert results(out) == alone
    assert read["in place"] > 100 and not read["copied"]


def test_what_has_moved_is_found_as_a_prefix(golden_model):
    options = GOLDEN | {"eos_token_id": [], "max_batch": 5}
    configs = [DecodeConfig(max_new_tokens=length, mask_token_id=127, eos_token_id=[],
                            block_length=B) for length in LENGTHS]  # fmt: skip
    decoder = Decoder(golden_model)
    out = decoder.generate(PROMPTS, config=configs, max_batch=5)
    longer = [torch.cat(pair) for pair in zip(PROMPTS, out.sequences, strict=True)]
    found = decoder.generate(longer, **options)
    fresh = Decoder(golden_model).generate(longer, **options)
    assert results(found) == results(fresh)
    prefilled = [sum(stats.prefill_forwards for stats in o.stats) for o in (found, fresh)]
    assert prefilled[0] < prefilled[1]
