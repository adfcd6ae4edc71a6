"""The host may follow one step late, as beside a GPU: the same results, at most one forward more,
and no step reads the device before the next one is under way."""

import pytest
import torch
from fakes import Recorder
from torch.utils._python_dispatch import TorchDispatchMode

from fastedit import Decoder
from fastedit.decoding import engine
from fastedit.decoding.record import Record

B = 8
BASE = {
    "mask_token_id": 127,
    "eos_token_id": [17, 40, 63],
    "block_length": B,
    "max_new_tokens": 43,
    "seed": 4,
}
ENDS = [
    {"threshold": 0.7, "editing_threshold": 0.5},
    {"threshold": 0.5, "editing_threshold": 0.0, "max_post_steps": 0},
    {"threshold": 0.5, "editing_threshold": 0.0, "max_post_steps": 2},
    {"threshold": 0.3, "editing_threshold": 0.2, "temperature": 1.0},
]
PROMPTS = [
    torch.randint(7, 120, (length,), generator=torch.Generator().manual_seed(length))
    for length in (3, 9, 16, 30, 31)
]


@pytest.fixture
def without_reads(golden_model):
    """Experts that do not count their tokens on the host."""
    before = golden_model.config._experts_implementation
    golden_model.set_experts_implementation("batched_mm")
    yield golden_model
    golden_model.set_experts_implementation(before)


@pytest.fixture
def late(monkeypatch):
    monkeypatch.setitem(engine.DELAY, "cpu", 1)


def results(out):
    return [(ids.tolist(), stats) for ids, stats in zip(out.sequences, out.stats, strict=True)]


@pytest.mark.filterwarnings("ignore:temperature")
@pytest.mark.parametrize("use_cache", [True, False])
@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("slots", [2, 5])
def test_same_results_and_stats(golden_model, monkeypatch, end, use_cache, slots):
    """Also where requests wait for a slot, and where slots change hands between two steps."""
    monkeypatch.setattr(engine.Engine.__init__, "__defaults__", (slots,))
    options = BASE | end | {"use_cache": use_cache}
    want = results(Decoder(golden_model).generate(PROMPTS, **options))
    monkeypatch.setitem(engine.DELAY, "cpu", 1)
    assert results(Decoder(golden_model).generate(PROMPTS, **options)) == want


def test_golden_cases(golden_model, golden_cases, late):
    for case in golden_cases:
        out = Decoder(golden_model).generate(torch.tensor(case["prompt"]), **case["params"])
        assert out.sequences[0].tolist() == case["output"]


def test_one_forward_per_request_is_for_nothing(golden_model, late):
    for prompt in PROMPTS:
        model = Recorder(golden_model)
        stats = Decoder(model).generate(prompt, **BASE).stats[0]
        assert len(model.calls) == stats.prefill_forwards + stats.forwards + 1


def test_one_bad_request_fails_alone(golden_model, late):
    def poisoned(**inputs):
        out = golden_model(**inputs)
        rows = (inputs["position_ids"].expand_as(inputs["input_ids"]) == 35).nonzero()
        for row, place in rows.tolist():
            if inputs["input_ids"].shape[0] > 1 and bool((inputs["input_ids"][row] == 99).any()):
                out.logits[row, place] = torch.nan
        return out

    prompts = [*PROMPTS[:2], torch.tensor([*range(7, 39), 99])]
    options = BASE | {"eos_token_id": []}
    clean = Decoder(golden_model).generate(prompts, **options)
    out = Decoder(poisoned).generate(prompts, **options)
    assert [str(error) for error in out.errors if error] == [str(out.errors[2])]
    assert (out.errors[2].index, out.errors[2].position) == (2, 35)
    assert results(out)[:2] == results(clean)[:2]


class NoReading(TorchDispatchMode):
    """Refuses what would wait for a device."""

    REFUSED = (
        torch.ops.aten._local_scalar_dense.default,
        torch.ops.aten.nonzero.default,
        torch.ops.aten.masked_select.default,
        torch.ops.aten.is_nonzero.default,
        torch.ops.aten.equal.default,
    )

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert func not in self.REFUSED, f"{func} reads a value"
        return func(*args, **(kwargs or {}))


def test_no_step_reads_a_value(without_reads, monkeypatch, late):
    """Everything of a step but the reading of the record before it, model included."""
    read, steps = Record.read, []

    def allowed(record):
        steps.append(record.step)
        with torch.utils._python_dispatch._disable_current_modes():
            read(record)

    monkeypatch.setattr(Record, "read", allowed)
    run = engine.Engine._step

    def guarded(self, logits, number):
        with NoReading():
            finished = run(self, logits, number)
            if self.live:
                self.forward()
        return finished

    monkeypatch.setattr(engine.Engine, "_step", guarded)
    options = BASE | {"eos_token_id": []}
    got = Decoder(without_reads).generate(PROMPTS, **options)
    assert len(steps) > 20 and all(got.stats[i].tokens == 43 for i in range(len(PROMPTS)))
    with pytest.raises(AssertionError, match="reads a value"), NoReading():
        bool(torch.ones(1).any())
