"""Choosing positions by score, and writing into blocks: one set of cases for every back end."""

import itertools
import math
import operator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastedit import ops

BACKENDS = ["reference", "cpp"]  # on a GPU the reference runs
MASK = 9


def highest_by_hand(score, among, count, above, inclusive, judged):
    rows = []
    for row in range(len(score)):
        places = [i for i, wanted in enumerate(among[row]) if wanted]
        if above is not None:
            better = operator.ge if inclusive else operator.gt
            passing = [i for i in places if better(judged[row][i], above[row])]
            if len(passing) >= count[row]:
                rows.append([i in passing for i in range(len(score[row]))])
                continue
        nan = [s != s for s in score[row]]
        places.sort(key=lambda i: (nan[i], 0 if nan[i] else -score[row][i], i))
        chosen = places[: max(count[row], 0)]
        rows.append([i in chosen for i in range(len(score[row]))])
    return rows


numbers = st.sampled_from([0.0, -0.0, 0.5, 1.0, *map(float, ("-inf", "inf", "nan"))])


@settings(max_examples=60, deadline=None)
@given(data=st.data(), blocks=st.integers(0, 3), length=st.integers(1, 9), known=st.booleans())
@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
def test_highest_equals_a_sort_of_lists(data, blocks, length, known, kind):
    def table(values):
        row = st.lists(values, min_size=length, max_size=length)
        return data.draw(st.lists(row, min_size=blocks, max_size=blocks))

    values = numbers if known else st.floats(width=32)
    score, among, judged = table(values), table(st.booleans()), table(values)
    levels = st.lists(values, min_size=blocks, max_size=blocks)
    above, inclusive = data.draw(st.none() | levels), data.draw(st.booleans())
    apart = data.draw(st.booleans())
    count = data.draw(st.lists(st.integers(-1, 10), min_size=blocks, max_size=blocks))
    want = highest_by_hand(score, among, count, above, inclusive, judged if apart else score)
    given_ = (
        torch.tensor(score, dtype=torch.float32).reshape(blocks, length),
        torch.tensor(among, dtype=torch.bool).reshape(blocks, length),
        torch.tensor(count, dtype=torch.int64),
    )
    options = {
        "above": None if above is None else torch.tensor(above, dtype=kind),
        "inclusive": inclusive,
        "judged": torch.tensor(judged, dtype=torch.float32).reshape(blocks, length),
    }
    if not apart:
        del options["judged"]
    for backend in BACKENDS:
        with ops.use_backend(backend):
            assert ops.highest(*given_, **options).tolist() == want, backend


@settings(max_examples=60, deadline=None)
@given(data=st.data(), blocks=st.integers(0, 3), length=st.integers(1, 9))
def test_a_budget_is_spent_on_the_lowest_costs(data, blocks, length):
    """Costs are small multiples of 1/8, so that sums are exact and ties are common."""
    costs = st.sampled_from([*(i / 8 for i in range(5)), float("inf"), float("nan")])
    cost, among = (
        data.draw(st.lists(st.lists(each, min_size=length, max_size=length), min_size=blocks))
        for each in (costs, st.booleans())
    )
    blocks = min(len(cost), len(among))
    budget = [data.draw(st.integers(-1, 12)) / 8 for _ in range(blocks)]
    want, totals = [], []
    for row, places, least in zip(cost, among, budget, strict=False):
        spent, taken = 0.0, [False] * length
        there = [i for i in range(length) if places[i] and math.isfinite(row[i])]
        for i in sorted(there, key=lambda i: row[i]):
            taken[i] = spent <= least
            spent += row[i]
        want.append(taken)
        totals.append(spent)
    given_ = (
        torch.tensor(cost[:blocks], dtype=torch.float32).reshape(blocks, length),
        torch.tensor(among[:blocks], dtype=torch.bool).reshape(blocks, length),
        torch.tensor(budget, dtype=torch.float32),
    )
    for backend in BACKENDS:
        with ops.use_backend(backend):
            taken, total = ops.within_budget(*given_)
        assert (taken.tolist(), total.tolist()) == (want, totals), backend


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
    with pytest.raises(ValueError, match="above must be fp32 or fp64"):
        ops.highest(score, among, 1, above=torch.ones(3))
    with pytest.raises(ValueError, match="judged must be float32"):
        ops.highest(score, among, 1, judged=score[:1])
    with pytest.raises(ValueError, match=r"count must be .*\[2\]"):
        ops.highest(score, among, torch.ones(3, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"budget must be float32 \[2\]"):
        ops.within_budget(score, among, torch.ones(3))
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
    with pytest.raises(ValueError, match="may must be bool"):
        ops.contents(torch.zeros(2, 3, dtype=torch.int64), among.int(), mask_token_id=MASK)


@pytest.mark.parametrize("backend", BACKENDS)
def test_contents_are_the_masks_and_tokens_of_what_may_change(backend):
    generator = torch.Generator().manual_seed(0)
    ids = (7 + torch.randint(0, 3, (5, 8), generator=generator))[:, ::2]
    may = torch.rand(8, 5, generator=generator).t()[:, ::2] > 0.3
    with ops.use_backend(backend):
        masked, tokens, masks, held = ops.contents(ids, may, mask_token_id=MASK)
    assert masked.equal((ids == MASK) & may) and tokens.equal((ids != MASK) & may)
    assert masks.tolist() == [sum(row) for row in masked.tolist()]
    assert held.tolist() == [sum(row) for row in tokens.tolist()]


def written_by_hand(ids, wanted, may, finished, bad, flags, counts, judges_tokens, buffers, bound):
    for b, row in enumerate(ids):
        if flags[0][b]:
            continue
        for old, now in buffers:
            old[b] = now[b]
        if bound is not None and counts[0][b] + 1 >= bound[0][b]:
            whole = all(w != MASK for w, m in zip(wanted[b], may[b], strict=True) if m)
            if not (finished[b] and whole):
                flags[3][b] = finished[b] = True
                wanted[b] = [f if i == MASK else i for f, i in zip(bound[1][b], row, strict=True)]
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

    for judges_tokens, bounded in itertools.product((False, True), repeat=2):
        ids = 7 + some(3, blocks, length)
        wanted = 7 + some(3, blocks, length)
        may, bad = some(4, blocks, length) > 0, some(4, blocks, length) == 0
        finished, flags = some(2, blocks) > 0, some(4, 4, 2 * blocks) == 0
        counts = some(5, 6, 2 * blocks).int()
        want = [x.tolist() for x in (ids, flags[:, :blocks], counts[:, :blocks])]
        # Per position and per block; the first gets what the second has.
        kept = some(9, blocks, length).float(), some(9, blocks, length).float()
        kept += some(9, blocks).int(), some(9, blocks, 2 * length)[:, ::2]
        fresh = kept[1], some(9, blocks, length).float(), some(9, blocks).int(), ids
        bound = 1 + some(6, blocks).int(), 7 + some(3, blocks, length)
        held = [x.tolist() for x in kept]
        written_by_hand(
            want[0],
            wanted.tolist(),
            may.tolist(),
            finished.tolist(),
            bad.tolist(),
            want[1],
            want[2][:4],
            judges_tokens,
            list(zip(held, [x.tolist() for x in fresh], strict=True)),
            [x.tolist() for x in bound] if bounded else None,
        )
        for backend in BACKENDS:
            mine = [x.clone() for x in (ids, flags, counts)]
            own = [x.clone() for x in kept]
            new = [own[1], *fresh[1:]]
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
                    buffers=list(zip(own, new, strict=True)),
                    limit=bound[0] if bounded else None,
                    fallback=bound[1] if bounded else None,
                )
            assert [x.tolist() for x in own] == held
            assert mine[0].tolist() == want[0] and mine[1][:, :blocks].tolist() == want[1]
            assert mine[2][:, :blocks].tolist() == want[2]
            # The blocks beside them are others'.
            assert mine[1][:, blocks:].equal(flags[:, blocks:])
            assert mine[2][:, blocks:].equal(counts[:, blocks:])
