"""Choosing positions by score, and writing into blocks: one set of cases for every back end."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastedit import ops

BACKENDS = ["reference", "cpp"]  # on a GPU the reference runs
MASK = 9


def highest_by_hand(score, among, count, unless):
    rows = []
    for row in range(len(score)):
        places = [i for i, wanted in enumerate(among[row]) if wanted]
        if unless is not None and sum(unless[row]) >= count[row]:
            rows.append(list(unless[row]))
            continue
        nan = [s != s for s in score[row]]
        places.sort(key=lambda i: (nan[i], 0 if nan[i] else -score[row][i], i))
        chosen = places[: max(count[row], 0)]
        rows.append([i in chosen for i in range(len(score[row]))])
    return rows


numbers = st.sampled_from([0.0, -0.0, 0.5, 1.0, *map(float, ("-inf", "inf", "nan"))])


@settings(max_examples=60, deadline=None)
@given(data=st.data(), blocks=st.integers(0, 3), length=st.integers(1, 9), known=st.booleans())
def test_highest_equals_a_sort_of_lists(data, blocks, length, known):
    def table(values):
        row = st.lists(values, min_size=length, max_size=length)
        return data.draw(st.lists(row, min_size=blocks, max_size=blocks))

    score = table(numbers if known else st.floats(width=32))
    among, unless = table(st.booleans()), data.draw(st.none() | st.just(table(st.booleans())))
    count = data.draw(st.lists(st.integers(-1, 10), min_size=blocks, max_size=blocks))
    want = highest_by_hand(score, among, count, unless)
    given_ = (
        torch.tensor(score, dtype=torch.float32).reshape(blocks, length),
        torch.tensor(among, dtype=torch.bool).reshape(blocks, length),
        torch.tensor(count, dtype=torch.int64),
        None if unless is None else torch.tensor(unless, dtype=torch.bool).reshape(blocks, length),
    )
    for backend in BACKENDS:
        with ops.use_backend(backend):
            assert ops.highest(*given_).tolist() == want, backend


@pytest.mark.parametrize("backend", BACKENDS)
def test_one_count_serves_all_blocks_and_tensors_may_be_strided(backend):
    score = torch.rand(6, 8, generator=torch.Generator().manual_seed(0)).t()[:, ::2]
    among = torch.ones(8, 3, dtype=torch.bool)
    with ops.use_backend(backend):
        chosen = ops.highest(score, among, 2)
        for kind in (torch.int32, torch.int64):
            assert ops.highest(score, among, torch.full((8,), 2, dtype=kind)).equal(chosen)
    assert chosen.equal(score > score.min(dim=1, keepdim=True).values)


def test_arguments_that_do_not_fit_are_named():
    score, among = torch.rand(2, 3), torch.ones(2, 3, dtype=torch.bool)
    with pytest.raises(ValueError, match="score must be float32"):
        ops.highest(score.double(), among, 1)
    with pytest.raises(ValueError, match=r"among must be bool \[2, 3\]"):
        ops.highest(score, among[:1], 1)
    with pytest.raises(ValueError, match="unless must be bool"):
        ops.highest(score, among, 1, among.int())
    with pytest.raises(ValueError, match=r"count must be .*\[2\]"):
        ops.highest(score, among, torch.ones(3, dtype=torch.int64))
    with pytest.raises(ValueError, match="finished"):
        ops.write_blocks_(
            *(torch.zeros(2, 3, dtype=torch.int64),) * 2,
            among,
            torch.zeros(3, dtype=torch.bool),
            among,
            torch.zeros(3, 2, dtype=torch.bool),
            torch.zeros(4, 2, dtype=torch.int32),
            mask_token_id=MASK,
            judges_tokens=True,
        )


def written_by_hand(ids, wanted, may, finished, bad, flags, counts, judges_tokens):
    for b, row in enumerate(ids):
        if flags[0][b]:
            continue
        kinds, left = [0, 0, 0], False
        for i, old in enumerate(list(row)):
            if not may[b][i]:
                continue
            flags[2][b] |= bad[b][i] and (judges_tokens or old == MASK)
            new = row[i] = wanted[b][i]
            left |= new == MASK
            if new != old:
                kinds[0 if old == MASK else 2 if new == MASK else 1] += 1
        flags[1][b] = any(kinds)
        flags[0][b] = finished[b] and not left
        for plane, more in zip(counts, (1, *kinds), strict=True):
            plane[b] += more


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**31), blocks=st.integers(0, 4), length=st.integers(1, 7))
def test_writing_equals_lists(seed, blocks, length):
    generator = torch.Generator().manual_seed(seed)

    def some(high, *shape):
        return torch.randint(0, high, shape, generator=generator)

    for judges_tokens in (False, True):
        ids = 7 + some(3, blocks, length)
        wanted = 7 + some(3, blocks, length)
        may, bad = some(4, blocks, length) > 0, some(4, blocks, length) == 0
        finished, flags = some(2, blocks) > 0, some(4, 4, 2 * blocks) == 0
        counts = some(5, 6, 2 * blocks).int()
        want = [x.tolist() for x in (ids, flags[:, :blocks], counts[:, :blocks])]
        written_by_hand(
            want[0],
            wanted.tolist(),
            may.tolist(),
            finished.tolist(),
            bad.tolist(),
            want[1],
            want[2][:4],
            judges_tokens,
        )
        for backend in BACKENDS:
            mine = [x.clone() for x in (ids, flags, counts)]
            with ops.use_backend(backend):
                ops.write_blocks_(
                    mine[0],
                    wanted,
                    may,
                    finished,
                    bad,
                    mine[1][:, :blocks],
                    mine[2][:, :blocks],
                    mask_token_id=MASK,
                    judges_tokens=judges_tokens,
                )
            assert mine[0].tolist() == want[0] and mine[1][:, :blocks].tolist() == want[1]
            assert mine[2][:, :blocks].tolist() == want[2]
            # The blocks beside them are others'.
            assert mine[1][:, blocks:].equal(flags[:, blocks:])
            assert mine[2][:, blocks:].equal(counts[:, blocks:])
