"""The compiled code of the kernels, for GPUs that need not be here."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
KERNELS = str(HERE.parents[1] / "kernels")


@pytest.fixture(scope="session", params=["--quick", pytest.param("--json", marks=pytest.mark.slow)])
def code(request) -> list[dict]:
    """One process for all: kernels that are interpreted here are compiled there."""
    if importlib.util.find_spec("triton") is None:
        pytest.skip("Triton is not installed")
    done = subprocess.run(
        [sys.executable, HERE / "aot.py", "--json", request.param],
        env=os.environ | {"PYTHONPATH": KERNELS},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout)


def with_logits(code):
    return [row for row in code if row["logits"]]


def test_every_kernel_compiles_for_every_target(code):
    everything = "row_stats with top_k and sampling"
    kernels = ("row_stats", everything, "joint_threshold", "draft_and_corrupt", "best_outside")
    for kernel in (*kernels, "rewrite_blocks", "compact"):
        targets = {row["target"] for row in code if row["kernel"] == kernel}
        assert targets == {"sm_80", "sm_90", "sm_100", "gfx942"}


def test_nothing_spills(code):
    assert [row for row in code if row["spills"]] == []


def test_aligned_logits_are_read_sixteen_bytes_at_a_time(code):
    for row in with_logits(code):
        if row["aligned"]:  # single numbers, those of the current and the drawn token, stay narrow
            least = 10 if row["logits"] == "fp32" else 5 if row["vocab"] > 100_000 else 1
            assert row["wide"] >= least and row["narrow"] <= 2, row
        else:
            assert row["wide"] == 0 and row["narrow"] >= 40, row


def published(order: list[str]) -> bool:
    """Whether between any atomic and the stores before it there is a barrier."""
    open_stores, atomics = False, 0
    for event in order:
        open_stores = event == "store" or (open_stores and event != "barrier")
        atomics += event == "atomic"
        if event == "atomic" and open_stores:
            return False
    return atomics > 0


@pytest.mark.parametrize(
    ("order", "good"),
    [
        ("store barrier atomic", True),
        ("barrier store atomic", False),
        ("store barrier atomic store barrier atomic store", True),
        ("store barrier atomic store atomic", False),
        ("store barrier", False),
    ],
)
def test_a_missing_barrier_would_be_seen(order, good):
    assert published(order.split()) == good


def test_results_are_published_before_arrival(code):
    """A barrier stands between the stores of all threads and the one thread's atomic."""
    for row in with_logits(code):
        blocks = row["kernel"].startswith(("joint_threshold", "draft_and_corrupt"))
        assert row["order"].count("atomic") == (2 if blocks else 1)
        assert published(row["order"]), row


def test_four_blocks_of_threads_fit_a_multiprocessor(code):
    """Enough loads in flight: 4 * 128 threads at 128 of 65,536 registers, greedy on NVIDIA.

    Rows that draw or rank take more, three blocks of them fit.
    """
    for row in code:
        if row["target"].startswith("sm_") and row["vocab"] == 157184:
            assert row["registers"] <= (168 if "with" in row["kernel"] else 128), row
