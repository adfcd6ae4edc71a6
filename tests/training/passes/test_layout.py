"""Masks of the shared form against those of the doubled sequence, and the choice of blocks."""

from __future__ import annotations

import pytest
import torch
from editing import BLOCK, packed
from plain_masks import doubled_block_mask

from fastedit.training.passes.layout import Blocks, Tokens, clean_mask, doubled_mask, noisy_mask


def test_masks_are_the_doubled_one_in_parts():
    batch = packed()
    rows = Tokens.of_rows(batch["example"], batch["positions"], BLOCK)
    length = batch["input_ids"].shape[1]
    whole = doubled_block_mask(length, BLOCK, document_ids=batch["example"])
    noisy, clean = slice(0, length), slice(length, None)
    assert torch.equal(clean_mask(rows), whole[..., clean, clean])
    sees = torch.cat([whole[..., noisy, clean], whole[..., noisy, noisy]], dim=-1)
    assert torch.equal(noisy_mask(rows, rows), sees)
    assert not doubled_mask(rows, rows)[..., :length, length:].any()
    assert torch.equal(doubled_mask(rows, rows)[..., length:, :], sees)


def test_chosen_blocks_keep_their_order_and_what_fills_up_does_not_count():
    where = torch.zeros(3, 16, dtype=torch.bool)
    where[0, [1, 14, 15]] = True
    where[1, 8] = True
    blocks = Blocks.holding(where, BLOCK)
    assert blocks.index.shape == (3, 8)
    assert blocks.index[0].tolist() == [0, 1, 2, 3, 12, 13, 14, 15]
    assert blocks.index[1, :4].tolist() == [8, 9, 10, 11]
    assert blocks.valid.sum(1).tolist() == [8, 4, 0] and blocks.valid[1, :4].all()
    values = torch.arange(48).view(3, 16)
    chosen = blocks.take(values)[blocks.take(where) & blocks.valid]
    assert torch.equal(chosen, values[where])


def test_a_pass_is_never_empty():
    assert Blocks.holding(torch.zeros(2, 8, dtype=torch.bool), BLOCK).index.shape == (2, 4)


def test_blocks_that_fill_up_are_padding():
    batch = packed()
    where = torch.zeros_like(batch["response"])
    where[0, [0, 5]] = True
    where[1, 5] = True
    rows = Tokens.of_rows(batch["example"], batch["positions"], BLOCK)
    tokens = Blocks.holding(where, BLOCK).tokens(rows)
    assert tokens.document.tolist() == [[5] * 8, [70] * 4 + [-1] * 4]
    mask = noisy_mask(tokens, rows)
    assert not mask[1, 0, 4:].any() and not mask[1, 0, :, -4:].any()


@pytest.mark.parametrize("blocks,block", [(1, 4), (3, 2), (2, 5)])
def test_doubled_rule(blocks, block):
    length = blocks * block
    mask = doubled_block_mask(length, block)
    assert mask.dtype == torch.bool and mask.shape == (1, 1, 2 * length, 2 * length)
    for query in range(2 * length):
        for key in range(2 * length):
            noisy_query, noisy_key = query < length, key < length
            own, other = (query % length) // block, (key % length) // block
            allowed = (
                (noisy_query == noisy_key and own == other)
                or (noisy_query and not noisy_key and own > other)
                or (not noisy_query and not noisy_key and own >= other)
            )
            assert mask[0, 0, query, key] == allowed


def test_doubled_mask_keeps_documents_apart():
    documents = torch.tensor([[0, 0, 1, 1, 2, -1]])
    mask = doubled_block_mask(6, 2, document_ids=documents)[0, 0]
    ids = torch.cat([documents, documents], 1)[0]
    assert not mask[ids[:, None] != ids[None, :]].any()
    assert not mask[:, ids < 0].any()
    plain = doubled_block_mask(6, 2)[0, 0]
    same = (ids[:, None] == ids[None, :]) & (ids >= 0)[None, :]
    assert torch.equal(mask, plain & same)
