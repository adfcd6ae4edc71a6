"""The decision step refuses wrong arguments, by name and value."""

import math

import pytest
import torch
from blocks import MASK, QUALITY, values

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


FIELDS = ["post_steps", "forwards", "m2t_commits", "t2t_edits", "done", "dirty", "bad"]


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("wrong", ["length", "dtype", "device"])
def test_a_state_that_does_not_fit_never_reaches_a_back_end(field, wrong):
    state = ops.StepState.new(2)
    value = getattr(state, field)
    odd = {"length": value[:1], "dtype": value.long(), "device": value.to("meta")}[wrong]
    state = ops.StepState(**(vars(state) | {field: odd}))
    with pytest.raises(ValueError, match=rf"state\.{field}"):
        ops.joint_threshold_step_(
            torch.full((2, 3), MASK),
            torch.zeros(2, 3, 4),
            torch.ones(2, 3).bool(),
            state,
            **QUALITY,
        )


def test_sampling_and_devices_that_do_not_fit_are_named():
    ids, logits, editable = torch.full((2, 3), MASK), torch.zeros(2, 3, 4), torch.ones(2, 3).bool()
    draws = {
        "temperature": torch.ones(2),
        "top_k": torch.zeros(2, dtype=torch.int64),
        "top_p": torch.ones(2),
        "seed": torch.zeros(2, dtype=torch.int64),
        "start": torch.zeros(2, dtype=torch.int64),
    }
    for name, odd in (("temperature", torch.ones(2).double()), ("top_k", torch.ones(2).int())):
        sampling = ops.Sampling(**(draws | {name: odd}))
        with pytest.raises(ValueError, match=rf"sampling\.{name}"):
            ops.joint_threshold_step_(
                ids, logits, editable, ops.StepState.new(2), sampling=sampling, **QUALITY
            )
    for one, other in ((ids.to("meta"), editable), (ids, editable.to("meta"))):
        with pytest.raises(ValueError, match="meta"):
            ops.joint_threshold_step_(one, logits, other, ops.StepState.new(2), **QUALITY)
    with pytest.raises(ValueError, match="meta"):
        ops.row_stats(logits[0], torch.zeros(3, dtype=torch.int64, device="meta"))


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan, 1e-39, 4e36, math.inf])
def test_a_temperature_out_of_range_is_refused(temperature):
    with pytest.raises(ValueError, match="temperature"):
        ops.row_stats(torch.zeros(1, 4), torch.tensor([0]), temperature=temperature)


def test_counts_below_one_on_the_device_force_nothing(backend):
    logits = torch.zeros(2, 3, 5)
    logits[..., 2] = 1.0
    ids, state = torch.full((2, 3), 4), ops.StepState.new(2)
    with ops.use_backend(backend):
        ops.joint_threshold_step_(
            ids,
            logits,
            torch.ones(2, 3).bool(),
            state,
            mask_token_id=4,
            threshold=0.9,
            editing_threshold=None,
            max_post_steps=1,
            num_to_transfer=torch.tensor([-1, 0], dtype=torch.int32),
        )
    assert ids.tolist() == [[4] * 3] * 2


def test_a_top_p_below_zero_keeps_the_best(backend):
    logits = torch.tensor([[[0.0, 2.0, 1.0, 0.5]]])
    sampling = ops.Sampling(
        temperature=torch.ones(1),
        top_k=torch.zeros(1, dtype=torch.int64),
        top_p=torch.full((1,), -0.5),
        seed=torch.zeros(1, dtype=torch.int64),
        start=torch.zeros(1, dtype=torch.int64),
    )
    ids = torch.tensor([[MASK]])
    with ops.use_backend(backend):
        ops.joint_threshold_step_(
            ids, logits, ids >= 0, ops.StepState.new(1), sampling=sampling, **QUALITY
        )
    assert ids.tolist() == [[1]]
