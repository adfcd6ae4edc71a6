"""LLaDA2.2's step takes bare addresses of what it is given: what does not fit is refused before."""

import dataclasses

import pytest
import torch

from fastedit import ops, policies

L, V = 5, 9


def state() -> ops.InDelState:
    """Of one block whose twin has not been called."""
    policy = policies.JointThresholdInDel(delete_token_id=2, insert_token_id=3)
    held = policies.open(policy, torch.ones(1, L, dtype=torch.int64), mask_token_id=1)
    names = [field.name for field in dataclasses.fields(ops.InDelState)]
    flags = {name: getattr(held, name) for name in ("done", "dirty", "bad")}
    moves = dict(zip(("source", "inserted", "deleted"), held.moves, strict=True))
    everything = {**held.buffers, **held.counts, **flags, **moves}
    return ops.InDelState(**{name: everything[name] for name in names})


def given() -> dict:
    return {
        "ids": torch.ones(1, L, dtype=torch.int64),
        "logits": torch.zeros(1, L, V),
        "editable": torch.ones(1, L, dtype=torch.bool),
        "threshold": torch.full((1,), 0.5),
        "editing_threshold": torch.full((1,), 0.5),
    }


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ids", torch.ones(1, L, dtype=torch.int32)),
        ("ids", torch.ones(1, L, dtype=torch.int64, device="meta")),
        ("logits", torch.zeros(1, L + 1, V)),
        ("logits", torch.zeros(2, L, V)),
        ("editable", torch.ones(1, 2, dtype=torch.bool)),
        ("editable", torch.ones(1, L)),
        ("threshold", torch.full((1,), 0.5, dtype=torch.float64)),
        ("editing_threshold", torch.full((2,), 0.5)),
    ],
)
def test_arguments_that_do_not_fit(name, value):
    settings = {"mask_token_id": 1, "delete_token_id": 2, "insert_token_id": 3, "max_post_steps": 2}
    held = state()
    ops.joint_threshold_indel_step_(**given(), state=held, **settings)
    assert held.forwards.item() == 1
    with pytest.raises(ValueError, match=name):
        ops.joint_threshold_indel_step_(**given() | {name: value}, state=held, **settings)
    assert held.forwards.item() == 1


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(ops.InDelState)])
def test_a_state_that_does_not_fit_together(name):
    held = state()
    for wrong in (getattr(held, name)[..., None], getattr(held, name).double()):
        with pytest.raises(ValueError, match=r"must be"):
            dataclasses.replace(held, **{name: wrong})
