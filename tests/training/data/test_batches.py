"""Documents into rows and batches, in the order of a run."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest
from documents import BLOCK, EOS
from hypothesis import given
from hypothesis import strategies as st

from fastedit.training.data.collator import Collator
from fastedit.training.data.order import RunOrder, Turn
from fastedit.training.data.packing import pack


@given(
    st.lists(st.integers(1, 8), max_size=40),
    st.integers(8, 20),
)
def test_packing_loses_nothing_and_fits(lengths, row_length):
    rows = pack(lengths, row_length)
    assert sorted(number for row in rows for number in row) == list(range(len(lengths)))
    used = [sum(lengths[number] for number in row) for row in rows]
    assert all(0 < total <= row_length for total in used)
    # No two rows could be one: each was opened when no other had the room.
    assert all(a + b > row_length for a, b in itertools.combinations(used, 2))
    assert pack(lengths, row_length, together=False) == [[n] for n in range(len(lengths))]


def test_a_batch_keeps_documents_apart(write, documents):
    items = documents(write(*({"text": "7" * n} for n in (40, 20, 90)))).items
    collate = Collator(items, examples=3, eos_token_id=EOS, block_size=BLOCK)
    batch = collate([Turn([0, 1], 3), Turn([2], 3), Turn([], 3)])
    assert batch["epoch"] == 3
    again = collate([Turn([0, 1], 3, repeat=2), Turn([2], 3)])
    assert again["example"].tolist() == [[6] * 64 + [7] * 32, [2] * 96]
    assert batch["input_ids"].shape == (3, 96)
    assert batch["example"].tolist() == [[0] * 64 + [1] * 32, [2] * 96, [-1] * 96]
    positions = [*range(64), *range(32)]
    assert batch["positions"].tolist() == [positions, [*range(96)], [0] * 96]
    assert batch["input_ids"][0, 64:].tolist() == items[1].ids.tolist()
    assert not batch["response"][2].any() and (batch["input_ids"][2] == EOS).all()


@given(st.integers(1, 12), st.integers(1, 5), st.integers(1, 9), st.integers(0, 3))
def test_the_order_of_a_run(rows, batch, steps, seed):
    """Each epoch reads every row, batches are of one epoch, and places decide alone."""
    order = RunOrder([[n] for n in range(rows)], batch_size=batch, steps=steps, seed=seed)
    turns = [order[place] for place in range(len(order))]
    assert len(turns) == batch * steps
    per_epoch = -(-rows // batch) * batch
    for start in range(0, len(turns), batch):
        assert len({turn.epoch for turn in turns[start : start + batch]}) == 1
    for epoch in range(len(turns) // per_epoch):
        read = turns[epoch * per_epoch : (epoch + 1) * per_epoch]
        assert sorted({turn.documents[0] for turn in read}) == list(range(rows))
        assert {turn.epoch for turn in read} == {epoch}
    times = Counter((turn.epoch, turn.documents[0], turn.repeat) for turn in turns)
    assert set(times.values()) == {1}  # a key of its own for the noise of each
    again = RunOrder(order.rows, batch_size=batch, steps=steps, seed=seed)
    assert [again[place] for place in reversed(range(len(again)))] == turns[::-1]


def test_epochs_and_seeds_shuffle_differently():
    def epoch(seed, number):
        order = RunOrder([[n] for n in range(50)], batch_size=50, steps=3, seed=seed)
        return [order[50 * number + place].documents[0] for place in range(50)]

    orders = [epoch(0, 0), epoch(0, 1), epoch(1, 0), list(range(50))]
    assert len(set(map(tuple, orders))) == 4


def test_more_epochs_than_noise_has_keys_for_are_refused():
    with pytest.raises(ValueError, match="fewer steps or more data"):
        RunOrder([[0]], batch_size=1, steps=2**16, seed=0)
