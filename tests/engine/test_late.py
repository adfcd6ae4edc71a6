"""The host may follow one step late, as beside a GPU: the same results, at most one forward more,
and no step reads the device before the next one is under way."""

import numpy as np
import pytest
import torch
from cases import DRAWN, ENDS, GOLDEN, PROMPTS, SCRIPTED, V, results
from fakes import Recorder, ScriptedModel, one_hot
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from fastedit import Decoder
from fastedit.engine import engine
from fastedit.engine.copies import Copy
from fastedit.engine.step import Steps


@pytest.fixture
def late(monkeypatch):
    monkeypatch.setitem(engine.DELAY, "cpu", 1)


def test_devices_without_events_are_followed_at_once():
    """Only on CUDA does an event tell when a copy has arrived."""
    assert engine.DELAY == {"cuda": 1}


@pytest.mark.filterwarnings("ignore:temperature")
@pytest.mark.parametrize(
    ("end", "use_cache", "max_batch"),
    [
        (ENDS[0], True, 2),
        (ENDS[1], True, 5),
        (ENDS[1], False, 2),
        (ENDS[2], True, 2),
        (DRAWN, True, 5),
        (DRAWN, False, 2),
        *(
            pytest.param(end, use_cache, most, marks=pytest.mark.slow)
            for end in (*ENDS, DRAWN)
            for use_cache, most in ((True, 2), (True, 5), (False, 2), (False, 5))
        ),
    ],
)
def test_same_results_and_stats(golden_model, monkeypatch, end, use_cache, max_batch):
    """Also where requests wait for a slot, and where slots change hands between two steps."""
    options = GOLDEN | end | {"use_cache": use_cache, "max_batch": max_batch}
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
        stats = Decoder(model).generate(prompt, **GOLDEN).stats[0]
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
    options = GOLDEN | {"eos_token_id": []}
    clean = Decoder(golden_model).generate(prompts, **options)
    out = Decoder(poisoned).generate(prompts, **options)
    assert [str(error) for error in out.errors if error] == [str(out.errors[2])]
    assert (out.errors[2].index, out.errors[2].position) == (2, 35)
    assert results(out)[:2] == results(clean)[:2]


def test_a_bad_request_before_one_that_opens_a_block_in_every_step(late):
    """The row behind it in the batch is two blocks past the host by then."""

    def rule(seen, place):
        return [np.nan] * V if seen[0] == 4 and place >= 4 else one_hot(1, V)

    options = SCRIPTED | {"max_new_tokens": 24, "max_post_steps": 0}
    out = Decoder(ScriptedModel(V, rule)).generate([[4, 4, 4], [2]], **options)
    assert out.errors[0].position == 4 and out.errors[1] is None
    assert out.sequences[1].tolist() == [1] * 24


class NoReadingOperations(TorchDispatchMode):
    """Refuses operations whose result or its shape waits for a device."""

    REFUSED = (
        torch.ops.aten._local_scalar_dense,
        torch.ops.aten.nonzero,
        torch.ops.aten.masked_select,
        torch.ops.aten.is_nonzero,
        torch.ops.aten.equal,
        torch.ops.aten._unique,
        torch.ops.aten._unique2,
        torch.ops.aten.unique_dim,
        torch.ops.aten.unique_consecutive,
    )
    INDEXING = (
        torch.ops.aten.index,
        torch.ops.aten.index_put,
        torch.ops.aten.index_put_,
        torch.ops.aten._index_put_impl_,
    )

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        packet, kwargs = func.overloadpacket, kwargs or {}
        reads = packet in self.REFUSED
        if packet in self.INDEXING:
            by_flags = (torch.bool, torch.uint8)
            reads = any(index is not None and index.dtype in by_flags for index in args[1])
        if func is torch.ops.aten.repeat_interleave.Tensor:
            reads = kwargs.get("output_size") is None
        assert not reads, f"{func} reads a value"
        return func(*args, **kwargs)


class NoReading(TorchFunctionMode):
    """Refuses what would wait for a device, also where a CPU tensor gives its values directly.

    copies  tensors that are the host's own; they and views of them may be read
    """

    REFUSED = frozenset(
        getattr(torch.Tensor, name)
        for name in "tolist numpy item cpu __array__ __bool__ __int__ __float__ __index__".split()
    )

    def __init__(self, copies=()):
        super().__init__()
        self.copies = copies

    def __enter__(self):
        self.operations = NoReadingOperations()
        self.operations.__enter__()
        return super().__enter__()

    def __exit__(self, *error):
        super().__exit__(*error)
        self.operations.__exit__(*error)

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func in self.REFUSED:
            storage = args[0].untyped_storage().data_ptr()
            own = any(storage == copy.untyped_storage().data_ptr() for copy in self.copies)
            assert own, f"{func.__name__} reads a value"
        return func(*args, **(kwargs or {}))


READS = {
    "tolist": lambda x: x.tolist(),
    "numpy": lambda x: x.numpy(),
    "asarray": lambda x: np.asarray(x),
    "item": lambda x: x[0].item(),
    "cpu": lambda x: x.cpu(),
    "if": lambda x: bool(x.any()),
    "int": lambda x: int(x[0]),
    "float": lambda x: float(x[0]),
    "slice": lambda x: [1, 2, 3][x[0] :],
    "range": lambda x: range(x[0]),
    "nonzero": lambda x: x.nonzero(),
    "where": lambda x: torch.where(x > 1),
    "equal": lambda x: x.equal(x),
    "flags": lambda x: x[x > 1],
    "assignment by flags": lambda x: x.__setitem__(x > 1, x[:2].clone()),
    "masked_select": lambda x: x.masked_select(x > 1),
    "unique": lambda x: x.unique(),
    "unique of rows": lambda x: torch.unique(x[:, None], dim=0),
    "unique_consecutive": lambda x: x.unique_consecutive(),
    "repeat_interleave": lambda x: x.repeat_interleave(x),
}


@pytest.mark.parametrize("read", READS.values(), ids=READS)
def test_reads_are_refused(read):
    x = torch.tensor([1, 2, 3])
    with pytest.raises(AssertionError, match="reads a value"), NoReading():
        read(x)
    read(x)


def test_what_reads_nothing_is_not_refused():
    x = torch.tensor([1, 2, 3])
    with NoReading():
        x[torch.arange(2)].masked_fill_(x[:2] > 1, 0)
        x.repeat_interleave(x, output_size=6)
        x[:2] = 5
    assert x.tolist() == [5, 5, 3]


@pytest.mark.parametrize("trace", [False, True])
def test_no_step_reads_a_value(countless_experts, monkeypatch, late, trace):
    """Everything of a step but the reading of the record before it, model included."""
    read, steps, copies = Copy.read, [], []

    def allowed(copy):
        steps.append(copy.step)
        copies.append(copy.copy)
        with torch._C.DisableTorchFunction(), _disable_current_modes():
            return read(copy)

    monkeypatch.setattr(Copy, "read", allowed)
    run = Steps.ahead

    def guarded(self, number, live):
        with NoReading(copies):
            return run(self, number, live)

    monkeypatch.setattr(Steps, "ahead", guarded)
    options = GOLDEN | {"eos_token_id": []}
    got = Decoder(countless_experts).generate(PROMPTS, trace=trace, **options)
    assert len(steps) > 20 and all(
        got.stats[i].tokens == GOLDEN["max_new_tokens"] for i in range(len(PROMPTS))
    )
