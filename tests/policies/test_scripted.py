"""Scripted logits equal their published test vectors, row by row and in any batch."""

import hashlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scripted import ScriptedLogits, mix

VECTOR = ScriptedLogits(seed=12345, vocab=48, gain=8192, keep=2048)
IDS = [3, 47, 10, 47, 47, 5]


def scaled(model, ids, **inputs):
    """z of every row: logits are z / 1024, exactly."""
    return (model(input_ids=torch.tensor(ids), **inputs).logits * 1024).long()


def plain_mix(h, a):
    h ^= a % 2**32
    h = h * 0x9E3779B1 % 2**32
    h ^= h >> 16
    h = h * 0x85EBCA6B % 2**32
    return h ^ h >> 13


def plain_row(model, own, q, l2, l1, r1, r2):
    """One row once more, number by number."""
    mask, vocab = model.mask, model.vocab

    def digest(tag, *values):
        h = plain_mix(model.seed, tag)
        for value in values:
            h = plain_mix(h, value + 1)
        return h

    z = [digest(7, q, t, l1, r1) % 2048 for t in range(vocab)]
    left = 1024 + digest(4, q, l2, l1) % model.gain
    right = digest(5, q, r1, r2) % model.gain
    z[digest(1, q, l1) % (vocab - 1)] += left // 4 if l1 in (mask, -1) else left
    z[digest(2, q, r1) % (vocab - 1)] += right // 4 if r1 in (mask, -1) else right
    z[digest(3, q) % (vocab - 1)] += digest(6, q, l1, r1) % model.gain
    if own != mask:
        z[own] += model.keep
    z[mask] -= 16384
    return z


def test_published_vectors():
    assert mix(torch.tensor(1), torch.tensor(2)).item() == plain_mix(1, 2) == 2630778099
    z = scaled(VECTOR, [IDS])[0]
    assert z[0, :8].tolist() == [278, 1816, 442, 2972, 632, 1426, 1590, 681]
    assert z[1, :8].tolist() == [1170, 960, 1425, 804, 619, 1277, 610, 1546]
    assert z[5, 40:].tolist() == [2473, 401, 1290, 1896, 1335, 997, 1862, -15477]
    assert z.argmax(-1).tolist() == [8, 40, 45, 8, 16, 21]
    assert z.sum().item() == 267583
    digest = hashlib.sha256(z.numpy().astype("<i4").tobytes()).hexdigest()
    assert digest == "0f2cb95c4ef7dbfda471bfec45b32e54a9254220c13296961e18fdb6cc36ae5d"


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    gain=st.integers(1, 10240),
    keep=st.integers(-4096, 4096),
    rows=st.lists(st.lists(st.integers(0, 8), min_size=1, max_size=7), min_size=1, max_size=3),
    last=st.integers(0, 6),
)
def test_batches_of_all_lengths_and_views(seed, gain, keep, rows, last):
    """Rows are padded to the right; the first half of each sees nothing behind column `last`."""
    model = ScriptedLogits(seed, 9, gain, keep)
    width = max(map(len, rows))
    ids = torch.tensor([row + [0] * (width - len(row)) for row in rows])
    seen = torch.zeros(len(rows), 1, width, width, dtype=torch.bool)
    for b, row in enumerate(rows):
        seen[b, 0, :, : len(row)] = True
        seen[b, 0, : len(row) // 2, last + 1 :] = False
    z = scaled(model, ids.tolist(), attention_mask=seen)
    for b, row in enumerate(rows):
        for q, own in enumerate(row):
            ends = min(last + 1, len(row)) if q < len(row) // 2 else len(row)
            near = [row[i] if 0 <= i < ends else -1 for i in (q - 2, q - 1, q + 1, q + 2)]
            assert z[b, q].tolist() == plain_row(model, own, q, *near)


def test_without_a_mask_every_row_sees_everything():
    everything = torch.ones(1, 1, 1, 6, dtype=torch.bool)
    assert scaled(VECTOR, [IDS]).equal(scaled(VECTOR, [IDS], attention_mask=everything))


@pytest.mark.parametrize("shadows_see_each_other", [False, True])
def test_a_shadow_row_is_the_real_row_with_its_id_masked(shadows_see_each_other):
    length, block = len(IDS), [2, 3, 5]
    positions = torch.tensor([[*range(length), *block]])
    seen = torch.zeros(length + 3, length + 3, dtype=torch.bool)
    seen[:, :length] = True
    for row, position in enumerate(block, length):
        seen[row, position] = False
        seen[row, row] = True
        seen[row, length:] |= shadows_see_each_other
    z = scaled(
        VECTOR,
        [IDS + [VECTOR.mask] * 3],
        attention_mask=seen[None, None],
        position_ids=positions,
    )[0]
    assert z[:length].equal(scaled(VECTOR, [IDS])[0])
    for row, position in enumerate(block, length):
        masked = [*IDS[:position], VECTOR.mask, *IDS[position + 1 :]]
        assert z[row].equal(scaled(VECTOR, [masked])[0, position])


def test_positions_may_begin_anywhere():
    """Position ids, not columns, are what a row is a function of."""
    z = scaled(VECTOR, [IDS[2:]], position_ids=torch.arange(2, 6)[None])[0]
    want = [plain_row(VECTOR, 10, 2, -1, -1, 47, 47), plain_row(VECTOR, 47, 3, -1, 10, 47, 5)]
    assert np.array_equal(z[:2].numpy(), want)
