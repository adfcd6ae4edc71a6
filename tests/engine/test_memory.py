"""How many requests decode at once, and how much memory they hold."""

import gc
import math
import weakref
from types import SimpleNamespace

import pytest
import torch
from cases import GOLDEN, PROMPTS, SCRIPTED, V, results, scripted
from fakes import Recorder, ScriptedModel, saying

from fastedit import DecodeConfig, Decoder
from fastedit.engine import engine, memory
from fastedit.engine.kv import BlockCache, _BlockLayer
from fastedit.engine.memory import Capacity, capacity
from fastedit.engine.slots import Slots


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
    """(slots, positions) of the cache after every change."""
    seen, resize = [], BlockCache.resize

    def watched(cache, slots, length):
        resize(cache, slots, length)
        seen.append((slots, length))
        for layer in cache.layers:
            assert layer.keys.shape[:2] == layer.values.shape[:2] == (slots, length)

    monkeypatch.setattr(BlockCache, "resize", watched)
    return seen


def test_the_cache_is_as_long_as_the_longest_request_admitted(golden_model, reserved):
    options = GOLDEN | {"max_new_tokens": 8, "max_batch": 2, "eos_token_id": []}
    prompts = [PROMPTS[i] for i in (0, 1, 0, 0, 4)]  # the long one is last
    want = [results(Decoder(golden_model).generate(p, **options))[0] for p in prompts]
    reserved.clear()
    assert results(Decoder(golden_model).generate(prompts, **options)) == want
    assert reserved == [(2, 16), (2, 24), (2, 40)]


def test_within_a_budget_long_requests_decode_in_smaller_batches(
    golden_model, reserved, monkeypatch
):
    """Room for 96 positions: four requests of 24, or two of 48. Order and results stay."""
    monkeypatch.setattr("fastedit.decoder.capacity", lambda *_, **__: Capacity(4, 96, 0, 1))
    lengths = (9, 9, 9, 9, 9, 30, 30, 9, 9, 9, 9, 9)
    prompts = [torch.arange(20 + i, 20 + i + n) for i, n in enumerate(lengths)]
    options = GOLDEN | {"max_new_tokens": 15, "eos_token_id": []}
    model = Recorder(golden_model)
    got = Decoder(model).generate(prompts, **options)
    assert all(slots * length <= 96 for slots, length in reserved)
    assert {(4, 24), (2, 48)} <= set(reserved)
    steps = [call for call in model.calls if 127 in call[0][0]]
    wide = [max(max(row) for row in call[1]) >= 32 for call in steps]
    assert max(len(call[0]) for call, far in zip(steps, wide, strict=True) if not far) == 4
    assert all(len(call[0]) <= 2 for call, far in zip(steps, wide, strict=True) if far)
    for prompt, result in zip(prompts, results(got), strict=True):
        assert results(Decoder(golden_model).generate(prompt, **options)) == [result]


def test_hundreds_of_requests_hold_what_a_full_batch_holds(monkeypatch):
    """Nothing of a request is on the device before it is let in: the canvas never grows again."""
    shapes, grow = [], Slots.grow

    def watched(canvas, length):
        grow(canvas, length)
        shapes.append(tuple(canvas.tokens.shape))

    monkeypatch.setattr(Slots, "grow", watched)
    model = ScriptedModel(V, saying([], V, then=1))
    out = Decoder(model).generate([[1, 2]] * 200, max_batch=4, **SCRIPTED)
    assert all(ids.tolist() == [1] * 6 for ids in out.sequences)
    assert shapes == [(4, 8)] and max(len(rows) for rows in model.calls) == 4


@pytest.fixture
def kept(monkeypatch):
    """How many layers' keys and values are still there, while Python does not look for cycles."""
    layers, make = [], _BlockLayer.lazy_initialization

    def watched(layer, keys, values):
        make(layer, keys, values)
        layers.append(weakref.ref(layer))

    monkeypatch.setattr(_BlockLayer, "lazy_initialization", watched)
    gc.collect()
    gc.disable()
    yield lambda: sum(layer() is not None for layer in layers)
    gc.enable()
    assert layers


def test_keys_and_values_go_with_the_call(golden_model, kept):
    decoder = Decoder(golden_model)
    decoder.generate(PROMPTS, **GOLDEN)
    assert not kept()
    list(decoder.stream(PROMPTS[0], drafts=True, **GOLDEN))
    assert not kept()
    events = decoder.stream(PROMPTS[0], **GOLDEN)
    next(events)
    assert kept()
    events.close()  # by one who has seen enough
    assert not kept()


@pytest.mark.parametrize("delay", [0, 1])
def test_out_of_memory_their_room_is_there_for_those_that_go_on(
    golden_model, kept, monkeypatch, delay
):
    monkeypatch.setitem(engine.DELAY, "cpu", delay)
    start_again, left = engine.Engine._start_again, []

    def watched(self, shortage):
        result = start_again(self, shortage)
        left.append(kept())
        return result

    monkeypatch.setattr(engine.Engine, "_start_again", watched)

    def model(**inputs):
        if len(inputs["input_ids"]) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return golden_model(**inputs)

    out = Decoder(model).generate(PROMPTS, **GOLDEN)
    assert out.errors == [None] * len(PROMPTS) and left and not any(left)


@pytest.fixture
def card(monkeypatch):
    """A CUDA device with 10 GB free, of which torch holds 1 GB unused and 1 GB in use besides."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (9_000_000_000, 20_000_000_000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 2_000_000_000)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 1_000_000_000)
    return torch.device("cuda")


SIZES = {
    "num_hidden_layers": 20,
    "num_attention_heads": 16,
    "num_key_value_heads": 4,
    "head_dim": 128,
    "hidden_size": 2048,
    "vocab_size": 157184,
}


def model_of(dtype=torch.bfloat16, **sizes):
    weight = torch.nn.Parameter(torch.zeros(1, dtype=dtype))
    return SimpleNamespace(config=SimpleNamespace(**sizes), parameters=lambda: iter([weight]))


def test_auto_counts_the_bytes_of_keys_values_and_logits(card):
    room = capacity("auto", model_of(**SIZES), DecodeConfig(), card)
    assert room.memory == memory.SHARE * 10_000_000_000
    # LLaDA2-mini in bfloat16: 40 KiB of keys and values per position, 8 KiB for attention.
    assert room.per_position == 2 * 20 * 4 * 128 * 2 + 2 * 16 * 128 * 2
    assert room.per_request == 3 * 32 * 157184 * 4
    for length in (512, 4096, 32768):
        rows = room.rows(length)
        each = room.per_request + length * room.per_position
        assert rows * each <= room.memory < (rows + 1) * each
    assert room.rows(10**9) == 1 and room.rows(1) == memory.MOST
    wide = capacity("auto", model_of(**SIZES), DecodeConfig(lookahead=True), card)
    assert wide.per_request == 2 * room.per_request
    double = capacity("auto", model_of(torch.float32, **SIZES), DecodeConfig(), card)
    assert double.per_position == 2 * room.per_position
    shadows = capacity("auto", model_of(**SIZES), DecodeConfig(), card, shadow=True)
    assert shadows.per_request == 2 * room.per_request
    whole = capacity("auto", model_of(**SIZES), DecodeConfig(use_cache=False), card)
    assert capacity("auto", model_of(**SIZES), DecodeConfig(), card, full=True) == whole
    assert (whole.per_request, whole.per_position) == (0, 3 * 157184 * 4)


def test_auto_without_sizes_or_on_a_cpu_is_a_constant(card):
    for model, device in (
        (model_of(**SIZES), torch.device("cpu")),
        (lambda **inputs: None, card),
        (model_of(vocab_size=100), card),
    ):
        assert capacity("auto", model, DecodeConfig(), device) == Capacity(memory.ROWS)
    assert Capacity(memory.ROWS).rows(10**9) == memory.ROWS and math.isinf(Capacity(1).memory)
    assert capacity(500, model_of(**SIZES), DecodeConfig(), card) == Capacity(500)
