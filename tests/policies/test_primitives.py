"""What rules share."""

import pytest
import torch

from fastedit.ops.plain import doubling_sums, running_sums


@pytest.mark.parametrize("length", [1, 2, 7, 32, 33])
@pytest.mark.parametrize("sums", [running_sums, doubling_sums])
def test_sums_run_over_each_row_and_do_not_depend_on_the_others(sums, length):
    """`doubling_sums` is what a GPU takes: the same bits for a row in any company."""
    values = torch.rand(9, length, generator=torch.Generator().manual_seed(length))
    got = sums(values)
    torch.testing.assert_close(got.double(), values.double().cumsum(-1), rtol=1e-5, atol=1e-6)
    for row in range(9):
        assert sums(values[row : row + 1]).equal(got[row : row + 1])
