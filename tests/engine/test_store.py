"""The store finds only what is there, and gives no position to two requests."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastedit import DecodeConfig
from fastedit.engine.store import KEPT, Store
from fastedit.memory.extents import Extent
from fastedit.memory.kv import Layer
from fastedit.memory.prefixes import Prefixes
from fastedit.models.families import Family
from fastedit.policies import JointThreshold
from fastedit.request.request import Request

L, MASK = 2, 99
CPU = torch.device("cpu")


def request(ids, new=2, length=L, family=None, **options):
    config = DecodeConfig(block_length=length, max_new_tokens=new, **options)
    return Request(
        index=0,
        prompt=torch.tensor(ids),
        config=config,
        seed=0,
        eos=frozenset(),
        policy=JointThreshold(),
        mask_token_id=MASK,
        family=family or Family(),
    )


def value(ids):
    """What the keys of a block are, from all ids up to its end."""
    return float(hash(tuple(ids)) % 1_000_003)


def planes(store):
    """A layer in which every position has one number; made before anything is in the pool."""
    states = torch.zeros(1, 1, 1, 1, dtype=torch.float64)
    store.pool.layers.append(Layer(store.pool.positions, states, states))


def fill(store, one):
    """Compute what is missing of the blocks before the active one, as a prefill does."""
    ids, _ = one.canvas()
    for start, width in one.unfilled():
        where = one.extent.first + start
        store.pool.layers[0].keys[where : where + width] = value(ids[: start + width].tolist())
        one.filled = start + width
    store.filled(one)


def check_keys(store, one):
    """Its first `filled` positions hold what a prefill of it alone would have written."""
    ids, end = one.canvas()[0].tolist(), 0
    for count in range(1, one.block_of(one.filled) + 1):
        start, end = end, one.position(count)
        where = one.extent.first
        got = store.pool.layers[0].keys[where + start : where + end].flatten().tolist()
        assert got == [value(ids[:end])] * (end - start)


def store_of(units, unit=8, even=False, limit=math.inf):
    store = Store(CPU, unit, even=even, limit=limit)
    store.reserve([unit] * units)
    planes(store)
    return store


def ended(store, ids, **options):
    """A request that came, was prefilled and left."""
    one = request(ids, **options)
    assert store.take(one, alone=True)
    fill(store, one)
    store.give(one)
    return one


def known(store, ids, **options):
    """How many positions of its prompt a request finds; it leaves without a trace."""
    one = request(ids, **options)
    count, _ = store.prefixes.find((one.block_length, one.first), one.blocks())
    return one.position(count)


def test_the_least_recently_used_goes_first():
    store = store_of(3, limit=24)
    for first in (10, 20, 30):
        ended(store, [first, first, first, first])
    assert [known(store, [first] * 4) for first in (10, 20, 30)] == [4, 4, 4]
    ended(store, [10, 10, 10, 10])  # used again, so 20 is the oldest now
    ended(store, [40, 40, 40, 40])
    assert [known(store, [first] * 4) for first in (10, 20, 30, 40)] == [4, 0, 4, 4]
    ended(store, [50, 50, 50, 50])
    assert [known(store, [first] * 4) for first in (10, 20, 30, 40)] == [4, 0, 0, 4]


def test_what_is_copied_from_counts_as_used():
    """Also where it is too short to be taken over."""
    store = store_of(4, limit=32)
    ended(store, [10] * 4)
    ended(store, [20] * 4)
    longer = request([10] * 10)
    assert longer.room > 8 and store.take(longer, alone=True) and longer.filled == 4
    ended(store, [30] * 4)  # there is one unit less now
    assert [known(store, [first] * 4) for first in (10, 20, 30)] == [4, 0, 4]


def test_a_pool_may_grow_for_the_next_ones_where_extents_are_alike():
    store = store_of(1, even=True)
    for first in range(KEPT + 3):
        ended(store, [first] * 4)
    assert [known(store, [first] * 4) for first in range(KEPT + 3)] == [0, 0, *[4] * (KEPT + 1)]
    assert len(store.extents.free) == KEPT + 1


def test_there_is_no_room_until_another_leaves_unless_alone():
    store = store_of(1, limit=8)
    one, two = request([1, 2, 3]), request([4, 5, 6])
    assert store.take(one, alone=True) and not store.take(two, alone=False)
    assert two.filled == 0 and store.extents.free == [False]
    store.give(one)
    assert store.take(two, alone=True) and len(store.extents.free) == 1
    assert store.take(request([1] * 40), alone=True)  # one alone gets what it needs


def test_a_request_that_failed_or_has_no_cache_leaves_nothing():
    store = store_of(2)
    ended(store, [1, 2, 3, 4], use_cache=False)
    failed = request([1, 2, 3, 4])
    assert store.take(failed, alone=True) and failed.filled == 0
    fill(store, failed)
    failed.fail(RuntimeError())
    store.give(failed)
    assert known(store, [1, 2, 3, 4]) == 0 and all(store.extents.free)
    assert not store.prefixes.paths and not store.prefixes.root.children


def test_other_layouts_share_nothing():
    store = store_of(6)
    ended(store, [1, 2, 3, 4, 5])
    behind = Family(blocks="after_prompt")
    assert known(store, [1, 2, 3, 4, 9]) == 4 and known(store, [1, 2, 3, 4], length=4) == 0
    assert known(store, [1, 2, 3, 4, 5], family=behind) == 0
    ended(store, [1, 2, 3, 4, 5], family=behind)
    assert known(store, [1, 2, 3, 4, 5], family=behind) == 5
    assert known(store, [1, 2, 3, 7, 5], family=behind) == 3
    assert known(store, [1, 2, 3, 4], family=behind) == 4  # no block is shorter: laid out alike


def test_prefixes_find_what_is_filled_and_nothing_else():
    prefixes, one, two = Prefixes(), Extent(0, 8), Extent(8, 8)
    prefixes.open(one, "layout", "abc")
    assert prefixes.find("layout", "abc") == (0, None)
    prefixes.fill(one, 0, 2)
    assert prefixes.find("layout", "abc") == (2, one) == prefixes.find("layout", "abx")
    assert prefixes.find("other", "abc") == (0, None) == prefixes.find("layout", "b")
    prefixes.open(two, "layout", "abd")
    assert prefixes.shared(two) == (2, one) and prefixes.shared(one) == (0, None)
    prefixes.fill(two, 0, 1)
    prefixes.retire(two)
    assert prefixes.find("layout", "ab") == (2, one) and prefixes.find("layout", "a") == (1, two)
    prefixes.close(one)
    assert prefixes.find("layout", "ab") == (1, two)
    prefixes.close(two)
    assert not prefixes.root.children and not prefixes.paths and not prefixes.unused


PROMPT = st.lists(st.integers(0, 1), min_size=1, max_size=11)


@settings(max_examples=100, deadline=None)
@given(
    even=st.booleans(),
    limit=st.sampled_from([16, 40, math.inf]),
    after_prompt=st.booleans(),
    program=st.lists(
        st.one_of(
            st.tuples(st.just("take"), PROMPT, st.integers(1, 9)),
            st.tuples(st.just("fill"), st.integers(0, 9)),
            st.tuples(st.just("reuse"), st.integers(0, 9)),
            st.tuples(st.just("commit"), st.integers(0, 9), st.integers(0, 3)),
            st.tuples(st.just("give"), st.integers(0, 9)),
            st.tuples(st.just("fail"), st.integers(0, 9)),
            st.tuples(st.just("lay out"), st.integers(1, 24)),
        ),
        max_size=30,
    ),
)
def test_any_order_of_requests_finds_right_keys_and_shares_no_position(
    even, limit, after_prompt, program
):
    store, inside = store_of(2, even=even, limit=limit), []
    family = Family(blocks="after_prompt") if after_prompt else Family()
    for kind, *values in program:
        if kind == "lay out" and not inside and values[0] > store.extents.unit:
            store.lay_out(values[0], 1)
        elif kind == "take":
            one = request(values[0], values[1], family=family)
            if not store.take(one, alone=not inside):
                assert inside
                continue
            inside.append(one)
        elif inside and kind not in ("take", "lay out"):
            one = inside[values[0] % len(inside)]
            if kind == "fill":
                fill(store, one)
            elif kind == "reuse":
                store.reuse(one)
            elif kind == "commit" and one.start < one.last:
                fill(store, one)
                size = one.block_length - one.head
                one.written += [values[1] // 2, values[1] % 2][:size]
                one.next_block(0)
                ids = one.canvas()[0][: one.start].tolist()
                where = one.extent.first + one.start
                store.pool.layers[0].keys[where - L : where] = value(ids)
                store.committed(one)
            elif kind in ("give", "fail"):
                if kind == "fail":
                    one.fail(RuntimeError())
                inside = [other for other in inside if other is not one]
                store.give(one)
        extents = [one.extent for one in inside] + list(store.prefixes.unused)
        positions = [p for extent in extents for p in range(extent.first, sum(extent))]
        assert len(positions) == len(set(positions)) and store.pool.positions == store.extents.end
        assert store.extents.free.count(False) * store.extents.unit == len(positions)
        assert set(store.prefixes.paths) == set(extents)
        for one in inside:
            assert one.extent.size >= one.room
            check_keys(store, one)
    for one in inside:
        store.give(one)
    for extent in list(store.prefixes.unused):
        store.prefixes.close(extent)
    assert not store.prefixes.paths and not store.prefixes.root.children


@pytest.mark.parametrize("unit", [8, 12])
def test_what_is_kept_moves_along_when_extents_become_longer(unit):
    store = store_of(3, unit=4, even=True)
    for first in (1, 2, 3):
        ended(store, [first] * 3)
    store.lay_out(unit, 1)
    for first in (1, 2, 3):
        one = request([first] * 3)
        assert store.take(one, alone=False) and one.filled == 2
        check_keys(store, one)
