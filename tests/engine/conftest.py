"""The golden model as a step that can be captured."""

import pytest


@pytest.fixture
def countless_experts(golden_model):
    """The golden model with experts that do not count their tokens on the host."""
    before = golden_model.config._experts_implementation
    golden_model.set_experts_implementation("batched_mm")
    yield golden_model
    golden_model.set_experts_implementation(before)
