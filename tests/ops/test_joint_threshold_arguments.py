"""The decision step refuses wrong arguments, by name and value."""

import math

import pytest
import torch
from blocks import values

from fastedit import ops

GOOD = {
    "ids": torch.zeros(2, 3, dtype=torch.int64),
    "logits": torch.zeros(2, 3, 4),
    "editable": torch.ones(2, 3, dtype=torch.bool),
    "state": ops.StepState.new(2),
    "mask_token_id": 3,
    "threshold": 0.7,
    "editing_threshold": 0.5,
    "max_post_steps": 4,
}


@pytest.mark.parametrize(
    ("change", "error", "named"),
    [
        ({"logits": torch.zeros(2, 3, 4).double()}, TypeError, "float64"),
        ({"logits": torch.zeros(6, 4)}, ValueError, r"\[6, 4\]"),
        ({"logits": torch.zeros(2, 4, 3).transpose(1, 2)}, ValueError, "contiguous"),
        ({"ids": torch.zeros(2, 3, dtype=torch.int32)}, ValueError, "int32"),
        ({"ids": torch.zeros(2, 4, dtype=torch.int64)}, ValueError, r"\[2, 4\]"),
        ({"editable": torch.ones(2, 3, dtype=torch.int64)}, ValueError, "int64"),
        ({"editable": torch.ones(2, 1, dtype=torch.bool)}, ValueError, r"\[2, 1\]"),
        ({"state": ops.StepState.new(3)}, ValueError, "3"),
        ({"threshold": -0.5}, ValueError, "threshold .*-0.5"),
        ({"threshold": math.nan}, ValueError, "threshold .*nan"),
        ({"editing_threshold": -0.25}, ValueError, "editing_threshold .*-0.25"),
        ({"editing_threshold": math.nan}, ValueError, "editing_threshold .*nan"),
        ({"threshold": torch.zeros(3)}, ValueError, r"\[3\]"),
        ({"threshold": torch.zeros(2).double()}, ValueError, "float64"),
        ({"max_post_steps": -1}, ValueError, "max_post_steps .*-1"),
        ({"max_post_steps": torch.zeros(2, dtype=torch.int64)}, ValueError, "int64"),
        ({"num_to_transfer": 0}, ValueError, "num_to_transfer .*0"),
        ({"num_to_transfer": torch.ones(1, dtype=torch.int32)}, ValueError, r"\[1\]"),
        ({"forbid": [4]}, ValueError, "4"),
        ({"forbid": [-1]}, ValueError, "-1"),
    ],
)
def test_wrong_arguments_raise_name_the_value_and_change_nothing(change, error, named):
    with pytest.raises(error, match=named):
        ops.joint_threshold_step_(**(GOOD | change))
    assert values(GOOD["state"]) == [(0, 0, 0, 0, False, False, False)] * 2


@pytest.mark.parametrize("change", [{"threshold": 1e39}, {"max_post_steps": 2**31}])
def test_numbers_beyond_the_tensor_type_are_clamped_or_named(change):
    try:
        ops.joint_threshold_step_(**(GOOD | change | {"state": ops.StepState.new(2)}))
    except ValueError as error:
        assert next(iter(change)) in str(error)
