"""How many requests decode at once, and how much memory they hold."""

import gc
import weakref

import pytest
import torch
from cases import GOLDEN, PROMPTS, SCRIPTED, V, results, scripted
from fakes import Recorder, ScriptedModel, saying

from fastedit import Decoder
from fastedit.engine import engine
from fastedit.engine.store import KEPT
from fastedit.memory.capacity import Capacity
from fastedit.memory.kv import Layer, Pool


@pytest.mark.parametrize("max_batch", [1, 3, 8])
def test_no_more_than_max_batch_decode_together(max_batch):
    model = scripted()
    prompts = [torch.tensor([i % 7, 1]) for i in range(8)]
    Decoder(model).generate(prompts, max_batch=max_batch, **SCRIPTED)
    assert max(len(rows) for rows in model.calls) == max_batch


@pytest.mark.parametrize("max_batch", [0, -1, 1.5, True, None, "all"])
def test_other_values_of_max_batch_are_refused(max_batch):
    with pytest.raises(ValueError, match=rf"max_batch.*{max_batch}"):
        Decoder(ScriptedModel(V, None)).generate(torch.tensor([1]), max_batch=max_batch, **SCRIPTED)


@pytest.fixture
def reserved(monkeypatch):
    """Positions of the pool after every change."""
    seen = []

    def watched(change):
        def changed(pool, *arguments):
            change(pool, *arguments)
            seen.append(pool.positions)
            for layer in pool.layers:
                assert len(layer.keys) == len(layer.values) == pool.positions

        return changed

    monkeypatch.setattr(Pool, "rearrange", watched(Pool.rearrange))
    return seen


def test_the_pool_has_room_for_those_that_decode_together(golden_model, reserved):
    options = GOLDEN | {"max_new_tokens": 8, "max_batch": 2, "eos_token_id": []}
    prompts = [PROMPTS[i] for i in (0, 1, 0, 0, 4)]  # the long one is last
    want = [results(Decoder(golden_model).generate(p, **options))[0] for p in prompts]
    reserved.clear()
    decoder = Decoder(golden_model)
    assert results(decoder.generate(prompts, **options)) == want
    assert reserved[0] == 2 * 24  # of the first two; the others find what those before them left
    for _ in range(2):
        assert results(decoder.generate(prompts, **options)) == want
    assert max(reserved) <= 2 * (2 + KEPT) * 24
    before = list(reserved)
    assert results(decoder.generate(prompts, **options)) == want
    assert reserved == before  # kept between calls


def test_within_a_budget_long_requests_decode_in_smaller_batches(
    golden_model, reserved, monkeypatch
):
    """Room for 96 positions: four requests of 24, or two of 48. Order and results stay."""
    monkeypatch.setattr(engine, "UNIT", 8)
    monkeypatch.setattr("fastedit.engine.kept.capacity", lambda *_: Capacity(4, 96, 0, 1))
    lengths = (9, 9, 9, 9, 9, 30, 30, 30, 9, 9, 9, 9)
    prompts = [torch.arange(20 + i, 20 + i + n) for i, n in enumerate(lengths)]
    options = GOLDEN | {"max_new_tokens": 15, "eos_token_id": []}
    model = Recorder(golden_model)
    got = Decoder(model).generate(prompts, **options)
    assert max(reserved) <= 96
    steps = [call for call in model.calls if 127 in call[0][0]]
    assert {len(call[0]) for call in steps} == {1, 2, 3, 4}
    for prompt, result in zip(prompts, results(got), strict=True):
        assert results(Decoder(golden_model).generate(prompt, **options)) == [result]


def test_hundreds_of_requests_hold_what_a_full_batch_holds(reserved):
    """Nothing of a request is on the device before it is let in."""
    model = ScriptedModel(V, saying([], V, then=1))
    out = Decoder(model).generate([[1, 2]] * 200, max_batch=4, **SCRIPTED)
    assert all(ids.tolist() == [1] * 6 for ids in out.sequences)
    assert reserved == [4 * 8] and max(len(rows) for rows in model.calls) == 4


@pytest.fixture
def kept(monkeypatch):
    """How many layers' keys and values are still there, while Python does not look for cycles."""
    layers, make = [], Layer.__init__

    def watched(layer, *arguments):
        make(layer, *arguments)
        layers.append(weakref.ref(layer))

    monkeypatch.setattr(Layer, "__init__", watched)
    gc.collect()
    gc.disable()
    yield lambda: sum(layer() is not None for layer in layers)
    gc.enable()
    assert layers


def test_keys_and_values_stay_for_the_next_call_and_go_with_the_decoder(golden_model, kept):
    decoder = Decoder(golden_model)
    decoder.generate(PROMPTS, **GOLDEN)
    layers = kept()
    assert layers
    decoder.generate(PROMPTS, **GOLDEN)
    assert kept() == layers
    events = decoder.stream(PROMPTS[0], **GOLDEN)
    next(events)
    assert kept() == layers
    decoder.generate(PROMPTS[1], **GOLDEN)  # beside the stream, so on an engine of its own
    assert kept() == layers
    events.close()  # by one who has seen enough
    decoder.close()
    assert not kept()
    decoder.generate(PROMPTS, **GOLDEN)
    assert kept()
    del decoder, events
    assert not kept()


@pytest.mark.parametrize("delay", [0, 1])
def test_out_of_memory_their_room_is_there_for_those_that_go_on(
    golden_model, kept, monkeypatch, delay
):
    monkeypatch.setitem(engine.DELAY, "cpu", delay)
    forget, left = engine.Engine._forget, []

    def watched(self):
        forget(self)
        left.append(kept())

    monkeypatch.setattr(engine.Engine, "_forget", watched)

    def model(**inputs):
        if len(inputs["input_ids"]) > 2 and (inputs["input_ids"] == 127).any():
            raise torch.OutOfMemoryError("CUDA out of memory")
        return golden_model(**inputs)

    out = Decoder(model).generate(PROMPTS, **GOLDEN)
    assert out.errors == [None] * len(PROMPTS) and len(left) > 1 and not any(left)
