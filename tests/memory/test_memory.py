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
from fastedit.engine import engine
from fastedit.engine.store import KEPT
from fastedit.memory import capacity as counting
from fastedit.memory.capacity import Capacity, Room, capacity
from fastedit.memory.kv import Layer, Pool
from fastedit.models.families import Family


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


def room(max_batch="auto", family=None, **options):
    return Room.of(max_batch, [DecodeConfig(**options)], family or Family())


def test_auto_counts_the_bytes_of_keys_values_logits_and_activations(card):
    had = capacity(room(), model_of(**SIZES), card)
    # Of a position of LLaDA2-mini in bfloat16, here without its experts.
    activations = 2 * (8 * 2048 + 3 * 4 * 2048) * 2
    assert had.memory == counting.SHARE * 10_000_000_000 - 2048 * activations
    # 40 KiB of keys and values per position, 8 KiB for attention.
    assert had.per_position == 2 * 20 * 4 * 128 * 2 + 2 * 16 * 128 * 2
    assert had.per_request == 32 * (3 * 157184 * 4 + activations)
    for length in (512, 4096, 32768):
        rows = int(had.memory // (had.per_request + length * had.per_position))
        assert had.holds(rows, rows * length) and not had.holds(rows + 1, (rows + 1) * length)
    assert not had.holds(counting.MOST + 1, 1)
    wide = capacity(room(lookahead=True), model_of(**SIZES), card)
    assert wide.per_request == 2 * had.per_request
    double = capacity(room(), model_of(torch.float32, **SIZES), card)
    assert double.per_position == 2 * had.per_position and double.memory < had.memory
    routed = {"num_experts_per_tok": 8, "moe_intermediate_size": 512, "intermediate_size": 5120}
    experts = capacity(room(), model_of(**SIZES | routed), card)
    of_a_position = 2 * (8 * 2048 + 3 * 5120 + 8 * (2 * 2048 + 3 * 512)) * 2
    assert 200 * 1024 < of_a_position == experts.per_request // 32 - 3 * 157184 * 4
    whole = capacity(room(use_cache=False), model_of(**SIZES), card)
    assert capacity(room(family=Family(attention="full")), model_of(**SIZES), card) == whole
    assert (whole.per_request, whole.per_position) == (0, 3 * 157184 * 4 + activations)


def test_auto_without_sizes_or_on_a_cpu_is_a_constant(card):
    for model, device in (
        (model_of(**SIZES), torch.device("cpu")),
        (lambda **inputs: None, card),
        (model_of(vocab_size=100), card),
    ):
        assert capacity(room(), model, device) == Capacity(counting.ROWS)
    assert not Capacity(counting.ROWS).counted and math.isinf(Capacity(1).memory)
    assert capacity(room(500), model_of(**SIZES), card) == Capacity(500)
