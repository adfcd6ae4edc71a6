"""What the package raises and returns comes back from another process, and from a copy, whole."""

from __future__ import annotations

import copy
import importlib
import multiprocessing
import pickle
import pkgutil
from concurrent.futures import ProcessPoolExecutor

import pytest
import torch

import fastedit
from fastedit.config import DecodeConfig
from fastedit.results import (
    BadLogitsError,
    DecodeBoundError,
    DecodeMemoryError,
    DecodeOutput,
    DecodeStalledError,
    DecodeStats,
    Event,
    ModelError,
    RefusedError,
    Result,
)

# Those whose arguments are more than what they say.
MADE = {
    BadLogitsError: lambda: BadLogitsError(3, 17),
    DecodeStalledError: lambda: DecodeStalledError(3),
    DecodeBoundError: lambda: DecodeBoundError(1, 9, "remask"),
    DecodeMemoryError: lambda: DecodeMemoryError(3, 99, "no room"),
    ModelError: lambda: ModelError(3, KeyError("a weight")),
    RefusedError: lambda: RefusedError(3, "prompt 3 is empty"),
}


def exception_classes() -> list[type[BaseException]]:
    found = set()
    for module in pkgutil.walk_packages(fastedit.__path__, "fastedit."):
        if module.name.endswith("__main__"):
            continue
        try:
            names = vars(importlib.import_module(module.name))
        except ImportError:  # of an extra that is not here
            continue
        found |= {
            value
            for value in names.values()
            if isinstance(value, type)
            and issubclass(value, BaseException)
            and value.__module__.partition(".")[0] == "fastedit"
        }
    return sorted(found, key=lambda kind: kind.__qualname__)


def example(kind: type[BaseException]) -> BaseException:
    """One with a field of its own, a note, and an output that holds the error itself."""
    error = MADE.get(kind, lambda: kind("what it says"))()
    error.output = output(error)
    error.add_note("a note")
    return error


def output(error: BaseException | None = None) -> DecodeOutput:
    sequences = [torch.tensor([1, 2]), torch.tensor([], dtype=torch.int64)]
    return DecodeOutput(sequences, ["a", ""], [DecodeStats(seed=5), DecodeStats()], [error, None])


def fields(error: BaseException) -> dict:
    return {name: value for name, value in vars(error).items() if name != "output"}


def assert_same(copied: BaseException, error: BaseException) -> None:
    assert type(copied) is type(error) and str(copied) == str(error)
    assert copied.args == error.args and fields(copied) == fields(error)
    assert copied.__notes__ == ["a note"]
    assert_same_output(copied.output, error.output)
    assert type(copied.output.errors[0]) is type(error)


def assert_same_output(copied: DecodeOutput, out: DecodeOutput) -> None:
    assert [s.tolist() for s in copied.sequences] == [s.tolist() for s in out.sequences]
    assert {s.dtype for s in copied.sequences} == {torch.int64}
    assert (copied.texts, copied.stats) == (out.texts, out.stats)


def raising(kind: type[BaseException]) -> None:
    raise example(kind)


def output_of(number: int) -> DecodeOutput:
    return output()


def test_there_are_exceptions_to_look_at():
    assert set(MADE) < set(exception_classes())


@pytest.mark.parametrize("kind", exception_classes(), ids=lambda kind: kind.__name__)
def test_every_exception_is_pickled_and_copied_with_its_fields(kind):
    error = example(kind)
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        assert_same(pickle.loads(pickle.dumps(error, protocol)), error)
    assert_same(copy.copy(error), error)
    deep = copy.deepcopy(error)
    assert_same(deep, error)
    assert deep.output.errors[0] is deep


def test_every_exception_comes_back_from_a_pool():
    """A class that cannot be made again hangs `multiprocessing.Pool`, so the wait has an end."""
    kinds, context = exception_classes(), multiprocessing.get_context("fork")
    with context.Pool(1) as pool:
        for kind in kinds:
            with pytest.raises(kind) as caught:
                pool.apply_async(raising, (kind,)).get(timeout=20)
            assert_same(caught.value, example(kind))
    with ProcessPoolExecutor(1, mp_context=context) as executor:
        for kind in kinds:
            error = executor.submit(raising, kind).exception(timeout=20)
            assert_same(error, example(kind))


def test_outputs_outlive_the_process_that_made_them():
    """A worker for each task: torch's way would ask one that has gone for its tensors."""
    context = multiprocessing.get_context("fork")
    with context.Pool(1, maxtasksperchild=1) as pool:
        results = [pool.apply_async(output_of, (number,)) for number in range(3)]
        for result in results:
            assert_same_output(result.get(timeout=20), output())


@pytest.mark.parametrize(
    "value",
    [
        DecodeStats(forwards=3, tokens=4, finish_reason="stop", seed=9),
        Event("commit", "text", [1, 2], 3, 4, DecodeStats()),
        DecodeConfig(threshold=0.9, stop=["a"]),
    ],
)
def test_stats_events_and_configs_are_pickled_and_copied(value):
    for copied in (pickle.loads(pickle.dumps(value)), copy.copy(value), copy.deepcopy(value)):
        assert copied == value and type(copied) is type(value)


def test_results_are_pickled_and_copied():
    result = Result(2, torch.tensor([7, 8]), "text", DecodeStats(tokens=2), BadLogitsError(2, 5))
    copies = (pickle.loads(pickle.dumps(result)), copy.copy(result), copy.deepcopy(result))
    for copied in copies:
        assert copied.sequence.tolist() == [7, 8] and copied.sequence.dtype == torch.int64
        assert (copied.index, copied.text, copied.stats) == (2, "text", DecodeStats(tokens=2))
        assert (copied.error.index, copied.error.position) == (2, 5)
