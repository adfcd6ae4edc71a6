"""The two masks of block diffusion against their rules written out, and the door of the model."""

from __future__ import annotations

import pytest
import torch

from fastedit.models.masks import (
    block_causal_mask,
    is_one_block,
    open_empty_rows,
    resolve_mask,
)


def positions(length: int, start: int = 0) -> torch.Tensor:
    return torch.arange(start, start + length)[None]


@pytest.mark.parametrize("length,block", [(1, 1), (7, 3), (8, 4), (5, 32)])
def test_block_causal_rule(length, block):
    mask = block_causal_mask(positions(length), block_size=block)
    assert mask.dtype == torch.bool and mask.shape == (1, 1, length, length)
    for query in range(length):
        for key in range(length):
            assert mask[0, 0, query, key] == (key // block <= query // block)


def test_blocks_have_a_length():
    with pytest.raises(ValueError, match="positive"):
        block_causal_mask(positions(4), block_size=0)


def test_one_block_needs_no_mask():
    shape = torch.Size((1, 8))
    assert is_one_block(None, shape, 16, 8)
    assert not is_one_block(None, shape, 12, 8)
    assert is_one_block(positions(8, 16), shape, 16, 8)
    assert not is_one_block(positions(8), shape, 0, 8)
    assert not is_one_block(positions(9, 16), torch.Size((1, 9)), 16, 8)


def test_no_mask_beside_a_cache_sees_the_cache():
    mask = resolve_mask(None, positions(8, 4), torch.Size((1, 8)), 4, 4)
    assert mask[..., :4].all()
    assert torch.equal(mask[..., 4:], block_causal_mask(positions(8), block_size=4))


def test_padding_mask_is_combined_with_the_block_rule():
    padding = torch.tensor([[0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 1, 0]])
    own = torch.tensor([[0, 0, 0, 1, 2, 3], [0, 1, 2, 3, 4, 4]])
    mask = resolve_mask(padding, own, torch.Size((2, 6)), 0, 2)
    assert not mask[0, 0, :, :2].any() and not mask[1, 0, :, 5].any()
    assert torch.equal(mask[0, 0, 2:, 2:], block_causal_mask(positions(4), block_size=2)[0, 0])
    assert torch.equal(mask[1, 0, :5, :5], block_causal_mask(positions(5), block_size=2)[0, 0])


def test_additive_float_masks_become_bool():
    allowed = block_causal_mask(positions(6), block_size=2)
    for lowest in (float("-inf"), torch.finfo(torch.float16).min):
        additive = torch.zeros(1, 1, 6, 6).masked_fill(~allowed, lowest)
        assert torch.equal(resolve_mask(additive, positions(6), torch.Size((1, 6)), 0, 2), allowed)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64])
def test_zero_one_masks_are_refused(dtype):
    mask = block_causal_mask(positions(6), block_size=2).to(dtype)
    with pytest.raises(ValueError, match="must be bool"):
        resolve_mask(mask, positions(6), torch.Size((1, 6)), 0, 2)


@pytest.mark.parametrize("shape", [(6, 6), (3, 6), (1, 6, 6), (2, 1, 5, 6), (3, 1, 6, 6)])
def test_misshapen_masks_are_refused(shape):
    with pytest.raises(ValueError, match="attention_mask must be"):
        resolve_mask(torch.ones(shape, dtype=torch.bool), positions(6), torch.Size((2, 6)), 0, 2)


def test_rows_that_see_nothing_are_opened():
    mask = torch.tensor([[False, False], [True, False]])[None, None]
    assert open_empty_rows(mask)[0, 0].tolist() == [[True, True], [True, False]]
