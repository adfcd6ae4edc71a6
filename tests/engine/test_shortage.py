"""Memory runs out: half as many requests go on, with the same results, down to one that fails."""

import math

import pytest
import torch
from cases import DRAWN, ENDS, GOLDEN, MASK, PROMPTS, SCRIPTED, V, results, scripted
from fakes import ScriptedModel, hashed

from fastedit import Decoder
from fastedit.engine import engine
from fastedit.memory.capacity import capacity
from fastedit.results import DecodeMemoryError

SEEDED = SCRIPTED | {"seed": 3}


class Short:
    """A model that runs out of memory where `fails(call number, requests)` says so.

    rows    requests of every call that went through, 1 for a prefill, whose rows are blocks
    failed  the number of those before each call that did not
    """

    def __init__(self, model, fails):
        self.model, self.config, self.fails = model, model.config, fails
        self.parameters = getattr(model, "parameters", lambda: iter(()))
        self.calls, self.rows, self.failed = 0, [], []

    def __call__(self, **inputs):
        self.calls += 1
        ids = inputs["input_ids"]
        rows = len(ids) if bool(((ids == 127) | (ids == MASK)).any()) else 1
        if self.fails(self.calls, rows):
            self.failed.append(len(self.rows))
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nmore")
        self.rows.append(rows)
        return self.model(**inputs)


@pytest.mark.filterwarnings("ignore:temperature")
@pytest.mark.parametrize(
    ("end", "delay"),
    [
        (ENDS[0], 0),
        (ENDS[1], 1),
        (ENDS[2] | {"eos_early_stop": False}, 1),
        (DRAWN, 0),
        (ENDS[0] | {"lookahead": True}, 0),  # which is never followed late
    ],
)
def test_running_out_once_changes_no_result(golden_model, monkeypatch, end, delay):
    """At any forward: of a prefill, in a block, where the keys of a final block are refreshed."""
    monkeypatch.setitem(engine.DELAY, "cpu", delay)
    options = GOLDEN | end
    prompts = PROMPTS[::2]
    undisturbed = Short(golden_model, lambda call, rows: False)
    want = results(Decoder(undisturbed).generate(prompts, **options))
    for at in range(2, undisturbed.calls + 1, undisturbed.calls // 3):
        model = Short(golden_model, lambda call, rows, at=at: call == at)
        got = results(Decoder(model).generate(prompts, **options))
        if end.get("lookahead"):  # whether a forward takes two blocks depends on the neighbours
            for (_, ours), (_, theirs) in zip(got, want, strict=True):
                for name in ("forwards", "block_forwards"):
                    setattr(ours, name, getattr(theirs, name))
        assert got == want


@pytest.mark.parametrize(("most", "use_cache"), [(1, True), (3, False)])
def test_batches_are_halved_until_they_fit(golden_model, most, use_cache):
    options = GOLDEN | {"use_cache": use_cache}
    want = results(Decoder(golden_model).generate(PROMPTS, **options))
    model = Short(golden_model, lambda call, rows: rows > most)
    assert results(Decoder(model).generate(PROMPTS, **options)) == want
    assert max(model.rows) == {1: 1, 3: 2}[most]  # five at first, then two, then one


def test_out_of_memory_while_requests_are_let_in_halves_the_room_made_for_them(golden_model):
    model = Short(golden_model, lambda call, rows: call == 1)  # their prefill
    options = GOLDEN | {"max_new_tokens": 8, "max_batch": 8, "eos_token_id": []}
    Decoder(model).generate([PROMPTS[2]] * 8, **options)
    assert next(rows for rows in model.rows if rows > 1) == 4


@pytest.mark.parametrize(
    "said",
    [
        "DefaultCPUAllocator: not enough memory",
        "CUDA error: out of memory\nSearch for `cudaErrorMemoryAllocation'",
        "CUDA driver error: out of memory",
        "HIP error: out of memory\nSearch for `hipErrorOutOfMemory'",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "CUDA error: HIPBLAS_STATUS_ALLOC_FAILED when calling `hipblasCreate(handle)`",
        "Triton Error [CUDA]: out of memory",
        "Triton Error [HIP]:  Code: 2, Messsage: out of memory",
        "shapes differ",
    ],
)
def test_where_torch_has_no_class_for_it_a_shortage_is_known_by_its_words(said):
    class Model(ScriptedModel):
        def __call__(self, **inputs):
            if len(inputs["input_ids"]) > 1:
                raise RuntimeError(said)
            return super().__call__(**inputs)

    decode = Decoder(Model(V, hashed(V, MASK, 1))).generate
    if said != "shapes differ":
        assert decode([[1], [2]], **SEEDED).errors == [None, None]
    else:
        with pytest.raises(RuntimeError, match=said):
            decode([[1], [2]], **SEEDED)


def test_all_the_room_is_there_again_behind_a_long_one_that_decoded_alone():
    class Model(Short):
        def __call__(self, **inputs):
            self.fails = lambda call, rows: rows > 1 and inputs["position_ids"].max() >= 20
            return super().__call__(**inputs)

    prompts = [torch.ones(n, dtype=torch.int64) for n in (40, *[2] * 16)]
    model = Model(scripted(), None)
    got = results(Decoder(model).generate(prompts, max_batch=8, **SEEDED))
    want = Decoder(scripted()).generate(prompts, **SEEDED)
    assert got == results(want)
    behind = model.rows[model.failed[-1] :]
    assert behind[0] == 1 and max(behind) == 8


def test_where_there_is_never_room_for_all_shortages_stay_few():
    model = Short(scripted(), lambda call, rows: rows > 3)
    prompts = [torch.tensor([i % 7, 1]) for i in range(40)]
    Decoder(model).generate(prompts, max_batch=8, **SEEDED)
    assert 2 <= len(model.failed) <= 40


def test_no_block_is_handed_out_twice(golden_model):
    """Blocks that were handed out stay as they are when their request starts its block again."""

    def blocks(model):
        options = GOLDEN | ENDS[1]
        decoder = Decoder(model)
        requests, room = decoder._prepare(PROMPTS[::2], None, None, options)
        living = engine.Engine(model, decoder.device, capacity(room, model, decoder.device))
        got = [[] for _ in requests]
        for request in requests:
            request.on_block = lambda request, ids: got[request.index].append((request.start, ids))
        for _ in living.run(requests):
            if any(request.committed for request in living.inside):
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
    model = Model(scripted(), lambda call, rows: call == 2)
    out = Decoder(model).generate(prompts, **SEEDED)
    want = Decoder(scripted()).generate(prompts, **SEEDED)
    assert model.failed == [1] and out.errors == [None] * 3 and results(out) == results(want)


def test_a_stream_that_runs_out_raises_behind_its_blocks(tokenizer):
    rule = hashed(300, 257, 5)
    options = {"block_length": 4, "max_new_tokens": 13, "use_cache": False, "mask_token_id": 257}
    whole = Decoder(ScriptedModel(300, rule), tokenizer)
    want = [e.text for e in whole.stream("ab", **options) if e.kind == "commit"]
    model = Short(ScriptedModel(300, rule), lambda call, rows: call >= 14)
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

    return Model(scripted(), None)


def test_one_that_does_not_fit_alone_raises_with_all_results_so_far():
    prompts = [torch.ones(n, dtype=torch.int64) for n in (2, 3, 40, 5, 2)]
    with pytest.raises(DecodeMemoryError, match=r"request 2: .*48 positions.*max_new_to") as caught:
        Decoder(too_long(20)).generate(prompts, max_batch=2, **SEEDED)
    assert isinstance(caught.value, torch.OutOfMemoryError)
    assert "2 GiB.)" in str(caught.value) and caught.value.index == 2
    out = caught.value.output
    assert not out.interrupted
    reasons = [stats.finish_reason for stats in out.stats]
    assert reasons == ["length", "length", "error", "interrupted", "interrupted"]
    want = Decoder(scripted()).generate(prompts, **SEEDED)
    assert results(out)[:2] == results(want)[:2]
    assert out.errors == [None, None, caught.value, None, None]


def test_one_that_does_not_fit_alone_fails_alone_where_errors_are_returned():
    prompts = [torch.ones(n, dtype=torch.int64) for n in (2, 3, 40, 5, 2, 2, 3, 4)]
    model = too_long(20)
    out = Decoder(model).generate(prompts, max_batch=4, errors="return", **SEEDED)
    want = Decoder(scripted()).generate(prompts, **SEEDED)
    assert [type(error) for error in out.errors] == [
        DecodeMemoryError if i == 2 else type(None) for i in range(8)
    ]
    others = [i for i in range(8) if i != 2]
    assert [results(out)[i] for i in others] == [results(want)[i] for i in others]
    assert max(model.rows[model.failed[-1] :]) == 4  # the others had all the room again


def test_a_single_prompt_without_memory_raises_or_returns():
    for errors in ("raise", "return"):
        model = Short(scripted(), lambda call, rows: call > 2)
        decode = Decoder(model).generate
        if errors == "return":
            out = decode(torch.tensor([1]), errors=errors, **SEEDED)
        else:
            with pytest.raises(DecodeMemoryError, match="request 0") as caught:
                decode(torch.tensor([1]), **SEEDED)
            out = caught.value.output
        assert out.stats[0].finish_reason == "error"
        assert isinstance(out.errors[0], DecodeMemoryError)
