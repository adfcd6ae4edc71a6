"""Which back end serves an operation, and what happens to one that cannot."""

import contextvars
import importlib
import importlib.util
import math

import pytest
import torch

from fastedit import ops
from fastedit.ops import dispatch

# On a GPU their rules run inside the captured step.
ON_A_CPU = {
    "joint_threshold_indel_step_",
    "entropy_bound_step_",
    "correction_step_",
    "remask_step_",
}


def call():
    return ops.row_stats(torch.zeros(1, 4), torch.tensor([0]))


def serving():
    return {op: [name for name, s in row.items() if s == "in use"] for op, row in report().items()}


def report():
    return ops.backend_report()


@pytest.fixture
def broken(monkeypatch):
    """A back end whose module does not exist."""
    monkeypatch.setattr(dispatch, "ORDER", {"broken": "fastedit.ops.nowhere"} | dispatch.ORDER)
    remembered = (dispatch._default, dispatch._why_not, dispatch._module)
    for cached in remembered:
        cached.cache_clear()
    yield
    for cached in remembered:
        cached.cache_clear()


def test_the_report_names_one_back_end_in_use_and_a_reason_for_each_other():
    assert {"row_stats", "joint_threshold_step_"} <= set(report())
    for row in report().values():
        assert list(row.values()).count("in use") == 1
        assert set(row) == {"triton", "cpp", "reference"} and all(row.values())


def test_every_operation_has_all_back_ends_and_goes_by_its_own_name():
    """Folders are named after operations, and importing a folder must not hide the function."""
    for op, folder in dispatch.OPERATIONS.items():
        for name in dispatch.ORDER:
            module = f"fastedit.ops.{folder}.{name}"
            on_gpu = op not in ON_A_CPU and importlib.util.find_spec("triton")
            if name != "triton" or on_gpu:
                assert callable(getattr(importlib.import_module(module), op))
        assert callable(getattr(ops, op))
    assert {row["reference"] for row in report().values()} <= {"in use", "available, not chosen"}
    serves = {(op, ops.serves(op, "cpu")) for op in ON_A_CPU}
    assert serves == {(op, True) for op in ON_A_CPU}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FASTEDIT_BACKEND", "triton")
        assert not any(ops.serves(op, "cpu") for op in ON_A_CPU)


def test_use_backend_holds_inside_the_block_only(monkeypatch):
    monkeypatch.delenv("FASTEDIT_BACKEND", raising=False)
    before = serving()
    with pytest.raises(KeyError), ops.use_backend("reference"):
        assert all(names == ["reference"] for names in serving().values())
        with ops.use_backend("reference"):
            call()
        assert all(names == ["reference"] for names in serving().values())
        raise KeyError
    assert serving() == before


def test_use_backend_as_a_statement_holds_from_there_on(monkeypatch):
    monkeypatch.delenv("FASTEDIT_BACKEND", raising=False)

    def alone() -> None:
        ops.use_backend("reference")
        assert all(names == ["reference"] for names in serving().values())
        with pytest.raises(ValueError, match="nonsense"):
            ops.use_backend("nonsense")
        assert all(names == ["reference"] for names in serving().values())

    before = serving()
    contextvars.copy_context().run(alone)  # what a test sets, others do not see
    assert serving() == before


def test_the_environment_sets_the_default_and_a_block_overrules_it(monkeypatch, broken):
    monkeypatch.setenv("FASTEDIT_BACKEND", "broken")
    with pytest.raises(RuntimeError, match="broken"):
        call()
    with ops.use_backend("reference"):
        assert math.isclose(call().prob.item(), 0.25)
    monkeypatch.setenv("FASTEDIT_BACKEND", "reference")
    assert all(names == ["reference"] for names in serving().values())
    monkeypatch.setenv("FASTEDIT_BACKEND", "")
    call()


def test_an_unusable_back_end_raises_and_is_passed_over(broken):
    with pytest.raises(RuntimeError, match=r"broken.*cannot run"), ops.use_backend("broken"):
        pass
    call()
    assert "not part" in report()["row_stats"]["broken"]


def test_an_unknown_back_end_is_named_with_the_known_ones(monkeypatch):
    with pytest.raises(ValueError, match=r"'cuda'.*reference"), ops.use_backend("cuda"):
        pass
    monkeypatch.setenv("FASTEDIT_BACKEND", "cuda")
    with pytest.raises(ValueError, match="cuda"):
        call()


def test_a_demanded_back_end_that_cannot_run_is_reported(monkeypatch, broken):
    monkeypatch.setenv("FASTEDIT_BACKEND", "broken")
    for row in ops.backend_report("cpu").values():
        assert row["broken"].startswith("demanded, but cannot run")
        assert "in use" not in row.values()
