"""Uniform random numbers: the same bits on every back end, and what they follow from."""

import pytest
import torch

from fastedit import ops
from fastedit.ops.sampling import DECODE, NOISE, philox, unit


def keys(n=50):
    generator = torch.Generator().manual_seed(1)
    seed, position, forward = torch.randint(-(2**62), 2**62, (3, n), generator=generator)
    return seed, position, forward


def test_numbers_are_those_of_the_words(backend):
    seed, position, forward = keys()
    with ops.use_backend(backend):
        one = ops.uniform(seed, position, forward, purpose=NOISE)
        six = ops.uniform(seed, position, forward, purpose=NOISE, count=6)
    words = [philox(seed, torch.full_like(seed, c), position, forward, NOISE) for c in (0, 1)]
    want = torch.stack([unit(word) for word in (*words[0], *words[1])], dim=-1)
    assert six.equal(want[:, :6]) and one.equal(want[:, 0])
    assert one.dtype == torch.float32 and one.shape == (50,)


def test_shapes_broadcast(backend):
    seed, position, forward = torch.tensor([[1], [2]]), torch.arange(5), torch.tensor(3)
    with ops.use_backend(backend):
        got = ops.uniform(seed, position, forward, purpose=DECODE, count=2)
        empty = ops.uniform(seed, position[:0], forward, purpose=DECODE)
        dense = ops.uniform(
            seed.repeat(1, 5), position.repeat(2, 1), forward.repeat(2, 5), purpose=DECODE, count=2
        )
    assert got.shape == (2, 5, 2) and got.equal(dense) and empty.shape == (2, 0)
    assert len(got.unique()) == 20 and got.min() >= 0.0 and got.max() < 1.0


def test_a_number_is_what_a_row_draws_with(backend):
    """Two equal logits: the lower id wherever the uniform of the key lies below one half."""
    seed, position, forward = keys(40)
    zero = torch.zeros_like(seed)
    with ops.use_backend(backend):
        u = ops.uniform(seed, position, forward, purpose=NOISE)
        how = ops.RowDraws(seed, position, forward, zero, zero.float() + 1, purpose=NOISE)
        sample = ops.row_stats(torch.zeros(40, 2), zero, draws=how).sample
    assert sample.equal((u >= 0.5).long())


@pytest.mark.parametrize("forbidden", [None, 0, 3, 6, 7, -1])
def test_random_ids_are_numbers_times_ids_and_never_what_is_forbidden(backend, forbidden):
    seed, position, forward = keys(2000)
    with ops.use_backend(backend):
        number = ops.uniform(seed, position, forward, purpose=NOISE)
        ids = ops.random_ids(seed, position, forward, purpose=NOISE, vocab=7, forbidden=forbidden)
    there = [i for i in range(7) if i != forbidden]
    assert ids.equal(torch.tensor(there)[(number * len(there)).long()])
    assert ids.unique().tolist() == there


def test_there_has_to_be_an_id():
    zero = torch.zeros(2, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"vocab=1 .*forbidden=0"):
        ops.random_ids(zero, zero, zero, purpose=NOISE, vocab=1, forbidden=0)
    with pytest.raises(TypeError, match=r"seed .*float32"):
        ops.random_ids(zero.float(), zero, zero, purpose=NOISE, vocab=4)


@pytest.mark.parametrize(
    ("change", "error", "named"),
    [
        ({"seed": torch.zeros(2)}, TypeError, "seed .*float32"),
        ({"forward": torch.zeros(2).int()}, TypeError, "forward .*int32"),
        ({"position": torch.zeros(3, dtype=torch.int64)}, ValueError, r"\[3\]"),
        ({"position": torch.zeros(2, dtype=torch.int64, device="meta")}, ValueError, "meta"),
        ({"purpose": 256}, ValueError, "256"),
        ({"count": 0}, ValueError, "count .*0"),
        ({"count": 1.5}, ValueError, r"count .*1\.5"),
    ],
)
def test_wrong_arguments_raise_and_name_the_value(change, error, named):
    zero = torch.zeros(2, dtype=torch.int64)
    arguments = {"seed": zero, "position": zero, "forward": zero, "purpose": NOISE}
    with pytest.raises(error, match=named):
        ops.uniform(**(arguments | change))
