"""How blocks cut an axis, and which units they touch, against naive oracles."""

import itertools
import math
import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lazychunks.layout.partition import ArrayPlan, Partition
from lazychunks.layout.shapes import Region, Shape, region_shape
from tests.strategies import partitions

units = st.integers(1, 12)


@st.composite
def cuts(draw: st.DrawFn) -> tuple[Partition, tuple[int, ...]]:
    """Draw a partition, listed or not, with the sizes of its blocks."""
    start = draw(st.integers(0, 20))
    if draw(st.booleans()):
        sizes = draw(partitions(8, 6))
        return Partition(sizes[0], sizes, start), sizes
    size = draw(st.integers(0, 6))
    last = draw(st.integers(0, size))
    return Partition(size, start=start), (*(size,) * draw(st.integers(0, 6)), last)


@given(cuts())
def test_blocks_tile_the_axis_from_the_start(cut: tuple[Partition, tuple[int, ...]]) -> None:
    partition, sizes = cut
    position = partition.start
    for number, size in enumerate(sizes):
        assert partition.start_of(number) == position
        told = partition.size_of(number, is_last=number == len(sizes) - 1)
        assert told == (None if partition.sizes is None and number == len(sizes) - 1 else size)
        position += size
    if partition.sizes is not None:
        assert partition.start_of(len(sizes)) == position


@given(cuts(), units)
def test_a_boundary_is_where_a_block_and_a_unit_begin(
    cut: tuple[Partition, tuple[int, ...]], unit: int
) -> None:
    partition, sizes = cut
    begin = [partition.start + sum(sizes[:number]) for number in range(len(sizes))]
    found = [partition.is_boundary(number, unit) for number in range(len(sizes))]
    assert found == [position % unit == 0 for position in begin]
    assert list(partition.boundaries(unit, len(sizes))) == [
        number for number in range(1, len(sizes)) if begin[number] % unit == 0
    ]


def check_blocks_per_unit(size: int, unit: int) -> None:
    count = Partition(size).blocks_per_unit(unit)
    if count is None:
        assert size % unit
        assert unit % size
    else:
        first = next(n for n in itertools.count(1) if n * size % unit == 0)
        assert count == first, "the first blocks that fall on whole units together"
        assert Partition(size).can_be_divided(unit)


def test_every_small_number_of_blocks_per_unit() -> None:
    for size, unit in itertools.product(range(13), range(1, 25)):
        check_blocks_per_unit(size, unit)
        assert Partition(size, (size, size)).blocks_per_unit(unit) is None


@given(st.integers(0, 10**6), st.integers(1, 10**6), st.integers(1, 100))
def test_blocks_per_unit_are_a_whole_number_where_one_divides_the_other(
    size: int, unit: int, times: int
) -> None:
    assert Partition(unit * times).blocks_per_unit(unit) == 1
    assert Partition(unit).blocks_per_unit(unit * times) == times
    divides = size % unit == 0 or unit % size == 0
    assert (Partition(size).blocks_per_unit(unit) is not None) == divides


@given(cuts(), units)
def test_blocks_that_cannot_be_divided_have_no_boundary_or_rare_ones(
    cut: tuple[Partition, tuple[int, ...]], unit: int
) -> None:
    partition, sizes = cut
    if partition.sizes is None:
        period = math.lcm(partition.size, unit) // partition.size if partition.size else 1
        exists = any(partition.is_boundary(number, unit) for number in range(period))
        divides = partition.size % unit == 0 or unit % partition.size == 0
        assert partition.can_be_divided(unit) == (exists and divides)
        return
    inside = list(partition.boundaries(unit, len(sizes)))
    end = partition.start + sum(sizes)
    touched = -(-end // unit) - partition.start // unit
    assert partition.can_be_divided(unit) == (bool(inside) or touched <= 1)


def test_a_partition_is_a_value() -> None:
    one = Partition(2, (2, 3), 1)
    assert one == Partition(2, (2, 3), 1)
    assert one != Partition(2, (2, 3))
    assert pickle.loads(pickle.dumps(one)) == one  # noqa: S301  # our own
    assert pickle.loads(pickle.dumps(one)).start_of(2) == 6  # noqa: S301
    assert repr(one) == "Partition(size=2, sizes=(2, 3), start=1)"


# ArrayPlan


@st.composite
def plans(draw: st.DrawFn) -> tuple[ArrayPlan, list[tuple[int, ...]]]:
    """Draw a plan with the sizes of its blocks along each block axis."""
    along = draw(st.lists(cuts(), min_size=1, max_size=2))
    trailing = draw(st.lists(st.integers(0, 5), max_size=2).map(tuple))
    unit = tuple(draw(units) for _ in (*along, *trailing))
    return ArrayPlan(tuple(cut for cut, _ in along), trailing, unit), [sizes for _, sizes in along]


def cells_of(region: Region, unit: Shape) -> set[tuple[int, ...]]:
    """Find the units of a region, element by element."""
    elements = itertools.product(*(range(span.start, span.stop) for span in region))
    return {tuple(i // n for i, n in zip(each, unit, strict=True)) for each in elements}


@given(plans())
def test_regions_tile_the_array_and_touch_their_units(
    planned: tuple[ArrayPlan, list[tuple[int, ...]]],
) -> None:
    plan, sizes = planned
    counts = [len(along) for along in sizes]
    lengths = [
        partition.start + sum(along) for partition, along in zip(plan.axes, sizes, strict=True)
    ]
    covered = np.zeros((*lengths, *plan.trailing), int)
    for index in itertools.product(*map(range, counts)):
        is_last = [number == count - 1 for number, count in zip(index, counts, strict=True)]
        region = plan.region(index, is_last)
        open_end = any(
            last and partition.sizes is None
            for last, partition in zip(is_last, plan.axes, strict=True)
        )
        assert (region is None) == open_end
        if region is None:
            block = tuple(along[number] for along, number in zip(sizes, index, strict=True))
            starts = [p.start_of(number) for p, number in zip(plan.axes, index, strict=True)]
            region = tuple(map(slice, starts, map(sum, zip(starts, block, strict=True))))
            region += tuple(slice(0, length) for length in plan.trailing)
        assert region_shape(region)[len(index) :] == plan.trailing
        covered[region] += 1
        found = list(plan.units(region))
        assert len(found) == len(set(found))
        assert set(found) == cells_of(region, plan.unit)
    inside = tuple(slice(partition.start, None) for partition in plan.axes)
    assert (covered[inside] == 1).all()
    assert covered.sum() == covered[inside].sum()


def test_the_row_is_enough_in_a_flat_sequence() -> None:
    plan = ArrayPlan((Partition(2),), (5,), (4, 5))
    assert plan.region((3,), (False,)) == plan.region((3, 0), (False, True))
    nested: Any = ArrayPlan((Partition(2), Partition(3)), (), (4, 6))
    with pytest.raises(ValueError, match="zip"):
        nested.region((3,), (False,))
