"""Whether weights are what they were, and a model that several callers have evaluate."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fastedit.models.weights import Weights, evaluating


def replaced(layer):
    layer.weight = nn.Parameter(layer.weight.detach() * 1.5)


def cast(layer):
    layer.to(torch.float8_e5m2)
    layer.float()


def loaded(layer):
    layer.load_state_dict({"weight": layer.weight.detach() * 1.5}, assign=True)


def written(layer):
    with torch.no_grad():
        layer.weight.mul_(1.5)


@pytest.mark.parametrize("change", [replaced, cast, loaded, written])
def test_weights_that_were_changed_are_others_wherever_they_lie(change):
    """Twice, as the second ones are put where the first ones were."""
    layer = nn.Linear(1024, 512, bias=False)
    before = Weights(layer)
    assert before == Weights(layer)
    for _ in range(2):
        change(layer)
    again = Weights(layer)
    assert again != before and before != again
    assert again == Weights(layer) != Weights(None)


def test_offloaded_weights_are_the_same_behind_every_forward():
    layer = nn.Linear(4, 2, bias=False)
    states = []
    for _ in range(2):
        layer.weight = nn.Parameter(torch.empty(2, 4, device="meta"))
        states.append(Weights(layer))
    assert states[0] == states[1]


@pytest.mark.parametrize("training", [True, False])
def test_a_model_trains_again_when_the_last_caller_has_left(training):
    model = nn.Dropout().train(training)
    first, second = evaluating(model), evaluating(model)
    first.__enter__()
    second.__enter__()
    assert not model.training
    first.__exit__(None, None, None)
    assert not model.training
    model.train()  # by somebody else, in between
    with evaluating(model):
        assert not model.training
    second.__exit__(None, None, None)
    assert model.training


def test_what_is_no_module_is_left_as_it_is():
    with evaluating(print):
        pass
