"""How many requests decode at once, how much memory they hold, and what happens without any."""

import math
from types import SimpleNamespace

import pytest
import torch
from fakes import Recorder, ScriptedModel, hashed, saying

from fastedit import DecodeConfig, Decoder
from fastedit.decoding import DecodeMemoryError, engine, memory
from fastedit.decoding.cache import BlockCache
from fastedit.decoding.canvas import Canvas
from fastedit.decoding.memory import Capacity, capacity

V, MASK, B = 9, 8, 8
SCRIPTED = {
    "mask_token_id": MASK,
    "eos_token_id": [],
    "use_cache": False,
    "block_length": 4,
    "max_new_tokens": 6,
    "max_post_steps": 1,
    "seed": 3,
}
GOLDEN = {
    "mask_token_id": 127,
    "eos_token_id": [17, 40, 63],
    "block_length": B,
    "max_new_tokens": 43,
    "seed": 4,
}
ENDS = [
    {"threshold": 0.7, "editing_threshold": 0.5},
    {"threshold": 0.5, "editing_threshold": 0.0, "max_post_steps": 0},  # commit forwards are due
    {"threshold": 0.5, "editing_threshold": 0.0, "max_post_steps": 2, "eos_early_stop": False},
    {"threshold": 0.3, "editing_threshold": 0.2, "temperature": 1.0},
    {"threshold": 0.7, "editing_threshold": 0.5, "lookahead": True},
]
PROMPTS = [
    torch.randint(7, 120, (length,), generator=torch.Generator().manual_seed(length))
    for length in (3, 9, 16, 30, 31)
]


def results(out):
    return [(ids.tolist(), stats) for ids, stats in zip(out.sequences, out.stats, strict=True)]


class Short:
    """A model that runs out of memory where `fails(call number, rows)` says so.

    rows    of every call that went through
    failed  the number of those before each call that did not
    """

    def __init__(self, model, fails):
        self.model, self.config, self.fails = model, model.config, fails
        self.parameters = getattr(model, "parameters", lambda: iter(()))
        self.calls, self.rows, self.failed = 0, [], []

    def __call__(self, **inputs):
        self.calls += 1
        if self.fails(self.calls, len(inputs["input_ids"])):
            self.failed.append(len(self.rows))
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nmore")
        self.rows.append(len(inputs["input_ids"]))
        return self.model(**inputs)


@pytest.mark.filterwarnings("ignore:temperature")
@pytest.mark.parametrize("delay", [0, 1])
@pytest.mark.parametrize("end", ENDS)
def test_running_out_once_changes_no_result(golden_model, monkeypatch, end, delay):
    """At any forward: of a prefill, in a block, where the keys of a final block are refreshed."""
    monkeypatch.setitem(engine.DELAY, "cpu", delay)
    options = GOLDEN | end | {"max_new_tokens": 27}
    prompts = PROMPTS[::2]
    undisturbed = Short(golden_model, lambda call, rows: False)
    want = results(Decoder(undisturbed).generate(prompts, **options))
    for at in range(2, undisturbed.calls + 1, undisturbed.calls // 3):
        model = Short(golden_model, lambda call, rows, at=at: call == at)
        got = results(Decoder(model).generate(prompts, **options))
        if end.get("lookahead"):  # whether a forward takes two blocks depends on the neighbours
            for (_, ours), (_, theirs) in zip(got, want, strict=True):
                ours.forwards = theirs.forwards
        assert got == want


@pytest.mark.parametrize("most", [1, 2, 3])
@pytest.mark.parametrize("use_cache", [True, False])
def test_batches_are_halved_until_they_fit(golden_model, most, use_cache):
    options = GOLDEN | {"use_cache": use_cache}
    want = results(Decoder(golden_model).generate(PROMPTS, **options))
    model = Short(golden_model, lambda call, rows: rows > most)
    assert results(Decoder(model).generate(PROMPTS, **options)) == want
    assert max(model.rows) == {1: 1, 2: 2, 3: 2}[most]  # five at first, then two, then one


def test_out_of_memory_while_requests_are_let_in_halves_the_room_made_for_them(golden_model):
    model = Short(golden_model, lambda call, rows: call == 1)  # the first of eight prefills
    options = GOLDEN | {"max_new_tokens": 8, "max_batch": 8, "eos_token_id": []}
    Decoder(model).generate([PROMPTS[2]] * 8, **options)
    assert next(rows for rows in model.rows if rows > 1) == 4


@pytest.mark.parametrize("said", ["DefaultCPUAllocator: not enough memory", "shapes differ"])
def test_a_cpu_that_runs_out_says_so_in_words(said):
    class Model(ScriptedModel):
        def __call__(self, **inputs):
            if len(inputs["input_ids"]) > 1:
                raise RuntimeError(said)
            return super().__call__(**inputs)

    decode = Decoder(Model(V, hashed(V, MASK, 1))).generate
    if "memory" in said:
        assert decode([[1], [2]], **SCRIPTED).errors == [None, None]
    else:
        with pytest.raises(RuntimeError, match=said):
            decode([[1], [2]], **SCRIPTED)


def test_all_the_room_is_there_again_behind_a_long_one_that_decoded_alone():
    class Model(Short):
        def __call__(self, **inputs):
            self.fails = lambda call, rows: rows > 1 and inputs["position_ids"].max() >= 20
            return super().__call__(**inputs)

    prompts = [torch.ones(n, dtype=torch.int64) for n in (40, *[2] * 16)]
    model = Model(ScriptedModel(V, hashed(V, MASK, 1)), None)
    got = results(Decoder(model).generate(prompts, max_batch=8, **SCRIPTED))
    want = Decoder(ScriptedModel(V, hashed(V, MASK, 1))).generate(prompts, **SCRIPTED)
    assert got == results(want)
    behind = model.rows[model.failed[-1] :]
    assert behind[0] == 1 and max(behind) == 8


def test_where_there_is_never_room_for_all_shortages_stay_few():
    model = Short(ScriptedModel(V, hashed(V, MASK, 1)), lambda call, rows: rows > 3)
    prompts = [torch.tensor([i % 7, 1]) for i in range(40)]
    Decoder(model).generate(prompts, max_batch=8, **SCRIPTED)
    assert 2 <= len(model.failed) <= 40


def test_no_block_is_handed_out_twice(golden_model):
    """Blocks that were handed out stay as they are when their request starts its block again."""

    def blocks(model):
        options = GOLDEN | ENDS[1] | {"max_new_tokens": 27}
        requests, engine = Decoder(model)._prepare(PROMPTS[::2], None, None, options)
        got = [[] for _ in requests]
        for request in requests:
            request.on_block = lambda request, ids: got[request.index].append((request.start, ids))
        for _ in engine.run():
            if any(request.committed for request in engine.live):
                due.append(model.calls + 1)  # the forward that refreshes its keys
        return got, [request.stats for request in requests]

    due = []
    want = blocks(Short(golden_model, lambda call, rows: False))
    assert due
    for at in due[:3]:
        assert blocks(Short(golden_model, lambda call, rows, at=at: call == at)) == want


def test_bad_logits_of_a_block_that_starts_again_are_forgotten():
    class Model(Short):
        def __call__(self, **inputs):
            out = super().__call__(**inputs)
            if self.calls == 1:
                out.logits[0, 3] = math.nan
            return out

    prompts = [torch.tensor([i]) for i in range(3)]
    model = Model(ScriptedModel(V, hashed(V, MASK, 1)), lambda call, rows: call == 2)
    out = Decoder(model).generate(prompts, **SCRIPTED)
    want = Decoder(ScriptedModel(V, hashed(V, MASK, 1))).generate(prompts, **SCRIPTED)
    assert model.failed == [1] and out.errors == [None] * 3 and results(out) == results(want)


def test_a_stream_that_runs_out_raises_behind_its_blocks(tokenizer):
    rule = hashed(300, 257, 5)
    options = {"block_length": 4, "max_new_tokens": 13, "use_cache": False, "mask_token_id": 257}
    whole = Decoder(ScriptedModel(300, rule), tokenizer)
    want = [e.text for e in whole.stream("ab", **options) if e.kind == "commit"]
    model = Short(ScriptedModel(300, rule), lambda call, rows: call == 14)
    # One at a time there is nothing to halve, so this request is one that fails.
    events = Decoder(model, tokenizer).stream("ab", **options)
    got = []
    with pytest.raises(DecodeMemoryError):
        got.extend(event.text for event in events if event.kind == "commit")
    assert got == want[: len(got)]


def too_long(limit):
    """Fails where any row holds more than `limit` positions."""

    class Model(Short):
        def __call__(self, **inputs):
            self.fails = lambda call, rows: inputs["position_ids"].max() >= limit
            return super().__call__(**inputs)

    return Model(ScriptedModel(V, hashed(V, MASK, 1)), None)


def test_one_that_does_not_fit_alone_raises_with_all_results_so_far():
    prompts = [torch.ones(n, dtype=torch.int64) for n in (2, 3, 40, 5, 2)]
    with pytest.raises(DecodeMemoryError, match=r"request 2: .*48 positions.*max_new_to") as caught:
        Decoder(too_long(20)).generate(prompts, max_batch=2, **SCRIPTED)
    assert isinstance(caught.value, torch.OutOfMemoryError)
    assert "2 GiB.)" in str(caught.value) and caught.value.index == 2
    out = caught.value.output
    assert not out.interrupted
    reasons = [stats.finish_reason for stats in out.stats]
    assert reasons == ["length", "length", "error", "interrupted", "interrupted"]
    want = Decoder(ScriptedModel(V, hashed(V, MASK, 1))).generate(prompts, **SCRIPTED)
    assert results(out)[:2] == results(want)[:2]
    assert out.errors == [None, None, caught.value, None, None]


def test_one_that_does_not_fit_alone_fails_alone_where_errors_are_returned():
    prompts = [torch.ones(n, dtype=torch.int64) for n in (2, 3, 40, 5, 2, 2, 3, 4)]
    model = too_long(20)
    out = Decoder(model).generate(prompts, max_batch=4, errors="return", **SCRIPTED)
    want = Decoder(ScriptedModel(V, hashed(V, MASK, 1))).generate(prompts, **SCRIPTED)
    assert [type(error) for error in out.errors] == [
        DecodeMemoryError if i == 2 else type(None) for i in range(8)
    ]
    others = [i for i in range(8) if i != 2]
    assert [results(out)[i] for i in others] == [results(want)[i] for i in others]
    assert max(model.rows[model.failed[-1] :]) == 4  # the others had all the room again


def test_a_single_prompt_without_memory_raises_or_returns():
    for errors in ("raise", "return"):
        model = Short(ScriptedModel(V, hashed(V, MASK, 1)), lambda call, rows: call > 2)
        decode = Decoder(model).generate
        if errors == "return":
            out = decode(torch.tensor([1]), errors=errors, **SCRIPTED)
        else:
            with pytest.raises(DecodeMemoryError, match="request 0") as caught:
                decode(torch.tensor([1]), **SCRIPTED)
            out = caught.value.output
        assert out.stats[0].finish_reason == "error"
        assert isinstance(out.errors[0], DecodeMemoryError)


@pytest.mark.parametrize("max_batch", [1, 3, 8])
def test_no_more_than_max_batch_decode_together(max_batch):
    model = ScriptedModel(V, hashed(V, MASK, 1))
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
    monkeypatch.setattr("fastedit.decoding.decoder.capacity", lambda *_: Capacity(4, 96, 0, 1))
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


def test_thousands_of_requests_hold_what_a_full_batch_holds(monkeypatch):
    """Nothing of a request is on the device before it is let in: the canvas never grows again."""
    shapes, grow = [], Canvas.grow

    def watched(canvas, length):
        grow(canvas, length)
        shapes.append(tuple(canvas.tokens.shape))

    monkeypatch.setattr(Canvas, "grow", watched)
    model = ScriptedModel(V, saying([], V, then=1))
    out = Decoder(model).generate([[1, 2]] * 2000, max_batch=4, **SCRIPTED)
    assert all(ids.tolist() == [1] * 6 for ids in out.sequences)
    assert shapes == [(4, 8)] and max(len(rows) for rows in model.calls) == 4


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
    whole = capacity("auto", model_of(**SIZES), DecodeConfig(use_cache=False), card)
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
