"""Orthogonal updates, for matrices and for stacks of them."""

from __future__ import annotations

import copy

import pytest
import torch

from recipes.tiny.muon import Muon, orthogonalise


def muon(matrices, *groups, lr: float = 0.1) -> Muon:
    return Muon([{"params": matrices, "momentum": 0.95}, *groups], lr=lr, weight_decay=0.0)


@pytest.mark.parametrize("shape", [(16, 48), (48, 16), (4, 24, 12)])
def test_singular_values_end_near_one(shape):
    torch.manual_seed(0)
    values = torch.linalg.svdvals(orthogonalise(torch.randn(shape)))
    assert values.min() > 0.5 and values.max() < 1.4


def test_a_stack_is_updated_as_its_matrices_are():
    torch.manual_seed(0)
    stack = torch.nn.Parameter(torch.randn(3, 8, 12))
    single = [torch.nn.Parameter(matrix.clone()) for matrix in stack.detach()]
    together, apart = muon([stack]), muon(single)
    for _ in range(3):
        gradient = torch.randn(3, 8, 12)
        stack.grad = gradient.clone()
        for parameter, part in zip(single, gradient, strict=True):
            parameter.grad = part.clone()
        together.step()
        apart.step()
    torch.testing.assert_close(stack.detach(), torch.stack([p.detach() for p in single]))


def test_it_descends_and_leaves_other_groups_to_adamw():
    torch.manual_seed(0)
    target, weight, bias = torch.randn(8, 8), torch.zeros(8, 8), torch.zeros(8)
    alone = torch.nn.Parameter(bias.clone())
    weight, bias = torch.nn.Parameter(weight), torch.nn.Parameter(bias)
    both = muon([weight], {"params": [bias], "lr": 0.02}, lr=0.05)
    adam = torch.optim.AdamW([alone], lr=0.02, weight_decay=0.0)
    losses = []
    for _ in range(60):
        loss = (weight - target).square().mean()
        both.zero_grad()
        loss.backward()
        bias.grad = torch.randn(8)
        alone.grad = bias.grad.clone()
        both.step()
        adam.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    assert torch.equal(bias, alone)


def test_it_goes_on_from_its_state():
    """As a checkpoint of a run has it."""
    torch.manual_seed(0)
    weights = [torch.nn.Parameter(torch.zeros(4, 4)) for _ in range(2)]
    first, second = (muon([weight]) for weight in weights)
    for part in ([first], [first, second]):
        for _ in range(2):
            gradient = torch.randn(4, 4)
            for weight in weights:
                weight.grad = gradient.clone()
            for optimizer in part:
                optimizer.step()
        if len(part) == 1:
            weights[1].data.copy_(weights[0])
            second.load_state_dict(copy.deepcopy(first.state_dict()))
    assert torch.equal(*weights)
