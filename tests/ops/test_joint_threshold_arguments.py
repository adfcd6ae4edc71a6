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


def tensors_of(arguments) -> dict[str, torch.Tensor]:
    """Every tensor of a call by its name in messages."""
    named = {name: value for name, value in arguments.items() if torch.is_tensor(value)}
    for group in ("state", "sampling"):
        named |= {f"{group}.{name}": value for name, value in vars(arguments[group]).items()}
    return named


def all_tensors() -> dict:
    """Arguments of a call without a Python number."""
    long = torch.zeros(2, dtype=torch.int64)
    return {
        "ids": torch.full((2, 3), MASK),
        "logits": torch.arange(24.0).view(2, 3, 4) % 5 / 4,
        "editable": torch.ones(2, 3, dtype=torch.bool),
        "state": ops.StepState.new(2),
        "mask_token_id": MASK,
        "threshold": torch.zeros(2),
        "editing_threshold": torch.full((2,), 0.5),
        "max_post_steps": torch.full((2,), 4, dtype=torch.int32),
        "num_to_transfer": torch.ones(2, dtype=torch.int32),
        "sampling": ops.Sampling(torch.ones(2), long, torch.ones(2), long.clone(), long.clone()),
    }


@pytest.mark.parametrize("name", tensors_of(all_tensors()))
@pytest.mark.parametrize("wrong", ["length", "dims", "dtype"])
def test_a_tensor_that_was_good_before_is_looked_at_again(name, wrong):
    """The same objects, one of them changed in place since the last call."""
    arguments = all_tensors()
    ops.joint_threshold_step_(**arguments)
    tensor = tensors_of(arguments)[name]
    odd = tensor.int() if tensor.dtype in (torch.int64, torch.bool) else tensor.double()
    tensor.data = {"length": tensor[:1], "dims": tensor[None], "dtype": odd}[wrong].clone()
    before = {key: value.clone() for key, value in tensors_of(arguments).items()}
    blamed = "(ids|logits)" if name in ("ids", "logits") else name.replace(".", r"\.")
    with pytest.raises((TypeError, ValueError), match=blamed):
        ops.joint_threshold_step_(**arguments)
    assert all(value.equal(before[key]) for key, value in tensors_of(arguments).items())


@pytest.mark.parametrize("name", [n for n in tensors_of(all_tensors()) if n != "logits"])
def test_a_tensor_that_turned_strided_decides_alike(backend, name):
    """Bytes beside it that a dense reader would take instead are other values.

    Logits may have strides of their own, which other tests are about.
    """
    results = []
    for strided in (False, True):
        arguments = all_tensors()
        tensor = tensors_of(arguments)[name]
        with ops.use_backend(backend):
            ops.joint_threshold_step_(**arguments)
            if strided:
                beside = ~tensor if tensor.dtype == torch.bool else tensor + 1
                tensor.data = torch.stack((tensor, beside), -1)[..., 0]
                assert not tensor.is_contiguous()
            arguments["logits"][:, 1, 1] = 99.0
            arguments["ids"].fill_(MASK)
            ops.joint_threshold_step_(**arguments)
        results.append(tensors_of(arguments))
    dense, other = results
    assert all(value.equal(dense[key]) for key, value in other.items())
    assert dense["ids"][:, 1].tolist() == [1, 1]


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
