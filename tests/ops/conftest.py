"""Every test of an operation that takes `backend` runs once per back end that works here."""

import pytest
import torch

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
    interpreted = name == "triton" and not torch.cuda.is_available()
    return pytest.param(name, marks=[pytest.mark.slow] if interpreted else [])


@pytest.fixture(scope="module", params=[parameter(name) for name in ORDER if works(name)])
def backend(request):
    return request.param


@pytest.fixture
def two_threads():
    """A switch between one thread and two; the number before the test comes back after it."""
    before = torch.get_num_threads()
    yield lambda on: torch.set_num_threads(2 if on else 1)
    torch.set_num_threads(before)
