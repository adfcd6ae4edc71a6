"""Positions of the pool are handed out in whole units, to one at a time."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastedit.memory.extents import Extent, Extents


def test_the_lowest_free_range_is_taken():
    extents = Extents(100, 8, 4)
    assert extents.end == 132
    assert [extents.take(n) for n in (8, 3, 16)] == [
        Extent(100, 8),
        Extent(108, 8),
        Extent(116, 16),
    ]
    assert extents.take(1) is None
    extents.give(Extent(108, 8))
    assert extents.take(9) is None and extents.take(8) == Extent(108, 8)


@pytest.mark.parametrize(("positions", "units"), [(1, 1), (7, 1), (8, 1), (9, 2), (16, 2), (17, 3)])
def test_units_are_whole(positions, units):
    extents = Extents(0, 8, 3)
    assert extents.units_of(positions) == units
    assert extents.take(positions) == Extent(0, 8 * units)


@pytest.mark.parametrize(
    ("taken", "wanted", "missing"),
    [([], 8, 0), ([], 32, 1), ([8, 8, 8], 8, 1), ([8, 8], 16, 1), ([8, 8, 8], 20, 3)],
)
def test_what_is_missing_is_counted_from_the_free_end(taken, wanted, missing):
    extents = Extents(0, 8, 3)
    for positions in taken:
        extents.take(positions)
    assert extents.missing(wanted) == missing
    extents.add(missing)
    assert extents.take(wanted) is not None


@settings(max_examples=60, deadline=None)
@given(
    begin=st.integers(0, 5),
    unit=st.integers(1, 9),
    program=st.lists(
        st.one_of(
            st.tuples(st.just("take"), st.integers(1, 40)),
            st.tuples(st.just("give"), st.integers(0, 9)),
            st.tuples(st.just("grow"), st.integers(1, 40)),
        ),
        max_size=40,
    ),
)
def test_no_position_has_two_owners(begin, unit, program):
    extents, owned = Extents(begin, unit), []
    for kind, number in program:
        if kind == "give":
            if owned:
                extents.give(owned.pop(number % len(owned)))
            continue
        if kind == "grow":
            extents.add(extents.missing(number))
        taken = extents.take(number)
        if taken is None:
            wanted = extents.units_of(number)
            held = {(e.first - begin) // unit + i for e in owned for i in range(e.size // unit)}
            free = [unit_ not in held for unit_ in range(len(extents.free))]
            runs = "".join("x" if f else " " for f in free).split()
            assert kind == "take" and all(len(run) < wanted for run in runs)
            continue
        assert number <= taken.size < number + unit and (taken.first - begin) % unit == 0
        assert begin <= taken.first and taken.first + taken.size <= extents.end
        owned.append(taken)
        positions = [p for e in owned for p in range(e.first, e.first + e.size)]
        assert len(positions) == len(set(positions))
    assert extents.free.count(False) == sum(extent.size for extent in owned) // unit
