"""Tests of what only the Triton kernels have: splits, a workspace, compiled code."""

import math

import pytest
import torch

from fastedit.ops import launch


@pytest.fixture(scope="session")
def triton() -> str:
    """The name of the back end, where it can run on the CPU: under Triton's interpreter."""
    reason = launch.why_not("cpu")
    if reason:
        pytest.skip(reason)
    return "triton"


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def kernels(triton):
    from fastedit_kernels import arrivals, splits

    yield splits, arrivals
    for work in arrivals._kept.values():
        assert not work.counters.any()  # every launch sets its counters back


@pytest.fixture
def poisoned(kernels, monkeypatch):
    """Workspaces are full of NaN and of absurd tokens before every launch."""
    _, arrivals = kernels
    get = arrivals.workspace

    def poison(device, spots):
        work = get(device, spots)
        work.numbers.fill_(math.nan)
        work.tokens.fill_(-(2**30))
        return work

    for module in ("row_stats", "joint_threshold", "draft_and_corrupt", "best_outside"):
        monkeypatch.setattr(f"fastedit_kernels.{module}.workspace", poison)
