"""Every test of an operation that takes `backend` runs once per back end that works here.

Triton runs on the GPU where there is one (`pytest -m gpu`), else in its interpreter.
"""

import contextlib

import pytest
import torch
from on_device import cpu_tensors_served

from fastedit import ops
from fastedit.ops.dispatch import ORDER


def works(name: str) -> bool:
    try:
        with ops.use_backend(name):
            return True
    except RuntimeError:
        return False


def parameter(name: str):
    """Triton's interpreter takes a thousand times as long as the others: `make test-all`."""
    mark = pytest.mark.gpu if torch.cuda.is_available() else pytest.mark.slow
    return pytest.param(name, marks=[mark] if name == "triton" else [])


@pytest.fixture(scope="module", params=[parameter(name) for name in ORDER if works(name)])
def backend(request):
    gpu = request.param == "triton" and torch.cuda.is_available()
    with cpu_tensors_served("cuda") if gpu else contextlib.nullcontext():
        yield request.param


@pytest.fixture
def two_threads():
    """A switch between one thread and two; the number before the test comes back after it."""
    before = torch.get_num_threads()
    yield lambda on: torch.set_num_threads(2 if on else 1)
    torch.set_num_threads(before)
