"""Tests of what only the Triton kernels have: splits, a workspace, compiled code."""

import pytest
import torch

from fastedit.ops import triton as back_end


@pytest.fixture(scope="session")
def triton() -> str:
    """The name of the back end, where it can run on the CPU: under Triton's interpreter."""
    reason = back_end.why_not("cpu")
    if reason:
        pytest.skip(reason)
    return "triton"


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
