"""Prompts are prefilled a row per block: no mask of queries times keys is ever made."""

import pytest
import torch
from cases import GOLDEN, B, prompt, results
from fakes import Recorder
from family_models import family_model

from fastedit import DecodeConfig, Decoder
from fastedit.memory.capacity import PREFILL_CHUNK
from fastedit.memory.extents import NOWHERE, Extent
from fastedit.memory.kv import Pool
from fastedit.models import Family
from fastedit.models.llada2 import LLaDA2MoeConfig, LLaDA2MoeModelLM, attention, modeling
from fastedit.plans import Piece, block, plan_for
from fastedit.plans.call import ModelCall
from fastedit.request.request import Request
from fastedit.request.slots import Slots

POSITIONS = 32768


def test_masks_of_a_prefill_of_32k_positions_are_small(monkeypatch):
    """A layer of LLaDA2.1-mini on tensors without data: what a mask and its copies would hold."""
    held, convert = [], attention.convert_mask

    def watched(mask, *arguments):
        converted = convert(mask, *arguments)
        held.append(sum(x.untyped_storage().nbytes() for x in (mask, converted)))
        return converted

    monkeypatch.setattr(modeling, "convert_mask", watched)
    config = LLaDA2MoeConfig.mini()
    config.num_hidden_layers = 1
    with torch.device("meta"):
        model = LLaDA2MoeModelLM(config).to(torch.bfloat16).eval()
    options = DecodeConfig(block_length=32, mask_token_id=5, max_new_tokens=1)
    request = Request(0, torch.ones(POSITIONS, dtype=torch.int64), options, 0, frozenset(),
                      options.rule(), mask_token_id=5)  # fmt: skip
    pool = Pool(torch.device("meta"))
    pool.resize(request.room)
    plan = plan_for(ModelCall(model), Slots(1, request, pool, NOWHERE), request)
    extent = Extent(0, request.room)
    pieces = [Piece(extent, start, width) for start, width in request.unfilled()]
    while pieces:
        count = plan.fits(pieces)
        plan.prefill(pieces[:count])
        pieces = pieces[count:]
    assert len(held) == POSITIONS // PREFILL_CHUNK
    assert POSITIONS * PREFILL_CHUNK // 32 <= max(held) < 8 * 2**20
    assert pool.layers[0].keys.shape == (request.room, 4, 128)


def test_those_that_come_together_are_prefilled_together(golden_model):
    prompts = [prompt(length) for length in (2 * B, 5 * B + 3, 3, 3 * B)]
    model = Recorder(golden_model)
    out = Decoder(model).generate(prompts, **GOLDEN)
    assert [len(rows) for rows, *_ in model.calls[:2]] == [2 + 5 + 0 + 3, 4]
    alone = [Decoder(golden_model).generate(ids, **GOLDEN) for ids in prompts]
    assert results(out) == [results(one)[0] for one in alone]
    assert [stats.prefill_forwards for stats in out.stats] == [1, 1, 0, 1]


@pytest.mark.parametrize("copied", [0, 10 * B])
def test_long_prompts_come_in_beside_those_that_decode(golden_model, monkeypatch, copied):
    """A chunk per step, so no step waits for more; and no more is copied together than allowed."""
    monkeypatch.setattr(block, "PREFILL_CHUNK", 2 * B)
    monkeypatch.setattr(block, "COPIED", copied)
    prompts = [prompt(3), prompt(9 * B), prompt(2 * B)]
    model = Recorder(golden_model)
    out = Decoder(model).generate(prompts, **GOLDEN)
    mask = GOLDEN["mask_token_id"]
    prefills = [mask not in rows[0] and len(rows) <= 2 for rows, *_ in model.calls]
    first = prefills.index(False)
    assert first < 3 and sum(prefills[first:]) >= 4  # the short one decodes from the start
    alone = [Decoder(golden_model).generate(ids, **GOLDEN) for ids in prompts]
    assert results(out) == [results(one)[0] for one in alone]


def test_keys_of_long_prompts_are_not_copied_for_every_block(monkeypatch):
    """Models of transformers take a row per prompt, where a row per block would copy too much."""
    monkeypatch.setattr(block, "COPIES", 8)
    model = family_model("sdar")
    long = 4 * (block.COPIES + 2)
    prompts = [torch.arange(length) % 20 for length in (long, long, long + 4, 9)]
    options = {"mask_token_id": 23, "eos_token_id": [], "max_new_tokens": 9, "block_length": 4}
    recorder = Recorder(model)
    out = Decoder(recorder, family=Family(block_length=4)).generate(prompts, **options)
    prefilled = [rows for rows, *_ in recorder.calls if not any(23 in row for row in rows)]
    assert [len(row) for row in prefilled[0]] == [long]  # the second has the same, and reuses it
    assert sorted({len(row) for rows in prefilled for row in rows}) == [4, long]
    whole = Decoder(model, family=Family(block_length=4))
    alone = [whole.generate(ids, use_cache=False, **options) for ids in prompts]
    assert [x.tolist() for x in out.sequences] == [x.sequences[0].tolist() for x in alone]
    assert len({tuple(x.tolist()) for x in out.sequences}) > 1
