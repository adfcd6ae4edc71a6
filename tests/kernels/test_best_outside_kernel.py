"""The best token outside a set, from rows of several splits; other rows are not read."""

import math

import pytest
import torch

from fastedit import ops


def rows(dtype):
    """Two blocks of two rows of two splits, the best ids of which lie in both of them."""
    logits = torch.randn(2, 3, 9000, generator=torch.Generator().manual_seed(7))[:, 1:]
    logits[0, 1, [4, 8191, 8192, 8999]] = 9.0
    logits[1, 0, :8990] = -math.inf
    logits[1, 1, 100], logits[1, 1, 200] = math.nan, math.inf
    return logits.to(dtype)


@pytest.mark.parametrize(
    ("dtype", "width"), [(torch.float32, 0), (torch.bfloat16, 5), (torch.float32, 33)]
)
def test_rows_of_several_splits_equal_the_reference(triton, poisoned, dtype, width):
    logits = rows(dtype)
    best = logits.float().nan_to_num(nan=-math.inf).topk(33, dim=-1).indices[..., :width]
    excluded = torch.cat([torch.full_like(best, -1), best.flip(-1)], dim=-1)
    only = torch.tensor([[False, True], [True, width < 33]])
    found = []
    for backend in (triton, "reference"):
        with ops.use_backend(backend):
            found.append(ops.best_outside(logits, excluded, only=only, forbid=(0, 8192)))
    assert found[0][0].equal(found[1][0])
    torch.testing.assert_close(found[0][1], found[1][1], rtol=1e-5, atol=1e-30)


def test_a_row_that_is_not_asked_for_is_not_read(triton, kernels, monkeypatch):
    """Its splits stay as they were in the workspace."""
    _, arrivals = kernels
    works = []

    def fresh(device, spots):
        works.append(arrivals.Workspace.new(device, spots))
        works[-1].numbers.fill_(math.nan)
        return works[-1]

    monkeypatch.setattr("fastedit_kernels.best_outside.workspace", fresh)
    logits = rows(torch.float32)
    only = torch.tensor([[False, False], [True, False]])
    with ops.use_backend(triton):
        token, prob = ops.best_outside(logits, torch.full((2, 2, 1), -1), only=only)
    assert token[only] == logits[1, 0].argmax() and (token[~only] == -1).all()
    assert not prob[~only].any()
    read = ~works[0].numbers[:8].isnan().view(4, 2)
    assert read.tolist() == [[row == 2] * 2 for row in range(4)]
    assert not works[0].counters.any()
