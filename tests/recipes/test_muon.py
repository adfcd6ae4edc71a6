"""Orthogonal updates, for matrices and for stacks of them."""

from __future__ import annotations

import pytest
import torch

from recipes.tiny.muon import Muon, orthogonalise


@pytest.mark.parametrize("shape", [(16, 48), (48, 16), (4, 24, 12)])
def test_singular_values_end_near_one(shape):
    torch.manual_seed(0)
    values = torch.linalg.svdvals(orthogonalise(torch.randn(shape)))
    assert values.min() > 0.5 and values.max() < 1.4


def test_a_stack_is_updated_as_its_matrices_are():
    torch.manual_seed(0)
    stack = torch.nn.Parameter(torch.randn(3, 8, 12))
    single = [torch.nn.Parameter(matrix.clone()) for matrix in stack.detach()]
    together, apart = Muon([stack], lr=0.1), Muon(single, lr=0.1)
    for _ in range(3):
        gradient = torch.randn(3, 8, 12)
        stack.grad = gradient.clone()
        for parameter, part in zip(single, gradient, strict=True):
            parameter.grad = part.clone()
        together.step()
        apart.step()
    torch.testing.assert_close(stack.detach(), torch.stack([p.detach() for p in single]))


def test_it_descends_and_refuses_vectors():
    torch.manual_seed(0)
    target, weight = torch.randn(8, 8), torch.nn.Parameter(torch.zeros(8, 8))
    optimizer = Muon([weight], lr=0.05)
    losses = []
    for _ in range(60):
        loss = (weight - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss))
    assert losses[-1] < 0.5 * losses[0]
    with pytest.raises(ValueError, match="matrices"):
        Muon([torch.nn.Parameter(torch.zeros(3))], lr=0.1)
