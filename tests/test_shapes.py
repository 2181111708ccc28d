"""Shape arithmetic against naive oracles: exhaustively over small ranges, then by Hypothesis."""

import itertools
import math
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lazychunks.layout.shapes import (
    Region,
    Shape,
    align_down,
    align_up,
    cell_count,
    cell_region,
    fit_extent,
    grow,
    overlaps,
    partition_slices,
    region_at,
    region_shape,
)
from tests.strategies import partitions, shapes

lengths = st.integers(0, 1000)
sizes = st.integers(1, 100)


def small_partitions() -> Iterator[Shape]:
    for parts in range(5):
        yield from itertools.product(range(4), repeat=parts)


# partition_slices


def check_partition_slices(parts: Shape) -> None:
    slices = list(partition_slices(parts))
    axis = list(range(sum(parts)))
    assert [len(axis[s]) for s in slices] == list(parts)
    assert [i for s in slices for i in axis[s]] == axis, "they tile the axis exactly once"


def test_slices_tile_the_axis_for_every_small_partition() -> None:
    for parts in small_partitions():
        check_partition_slices(parts)


@given(st.lists(lengths).map(tuple))
def test_slices_tile_the_axis(parts: Shape) -> None:
    check_partition_slices(parts)


@given(partitions())
def test_slices_find_each_block_in_the_concatenation(parts: Shape) -> None:
    blocks = [np.full((size, 2), number) for number, size in enumerate(parts)]
    whole = np.concatenate(blocks)
    for block, where in zip(blocks, partition_slices(parts), strict=True):
        np.testing.assert_array_equal(whole[where], block)


def test_slices_of_no_part() -> None:
    assert list(partition_slices(())) == []


# region_at, region_shape


def check_region_at(origin: Shape, shape: Shape) -> None:
    region = region_at(origin, shape)
    assert region_shape(region) == shape
    assert tuple(s.start for s in region) == origin + (0,) * (len(shape) - len(origin))


def test_every_small_region_has_its_shape_at_its_origin() -> None:
    for ndim in range(3):
        for shape in itertools.product(range(3), repeat=ndim):
            for axes in range(ndim + 1):
                for origin in itertools.product(range(3), repeat=axes):
                    check_region_at(origin, shape)


@given(st.data(), st.integers(0, 4).flatmap(shapes))
def test_a_region_has_its_shape_at_its_origin(data: st.DataObject, shape: Shape) -> None:
    axes = data.draw(st.integers(0, len(shape)))
    check_region_at(data.draw(shapes(axes, 100)), shape)


def test_an_origin_has_no_more_axes_than_the_block() -> None:
    with pytest.raises(ValueError, match="zip"):
        region_at((1, 2), (3,))


# align_down, align_up


def check_align(position: int, size: int) -> None:
    down, up = align_down(position, size), align_up(position, size)
    assert down <= position <= up
    assert down % size == up % size == 0
    assert up - down == (0 if position % size == 0 else size)


def test_every_small_position_is_aligned() -> None:
    for position, size in itertools.product(range(20), range(1, 8)):
        check_align(position, size)


@given(lengths, sizes)
def test_alignment_gives_the_nearest_multiples(position: int, size: int) -> None:
    check_align(position, size)


# grow


def check_grow(capacity: int, needed: int) -> None:
    grown = grow(capacity, needed)
    assert grown >= max(capacity, needed)
    assert grown == (max(needed, 2 * capacity) if needed > capacity else capacity)


def test_every_small_capacity_grows() -> None:
    for capacity, needed in itertools.product(range(20), repeat=2):
        check_grow(capacity, needed)


@given(lengths, lengths)
def test_growth_suffices_and_doubles(capacity: int, needed: int) -> None:
    check_grow(capacity, needed)


@given(st.integers(0, 10), st.integers(1, 2000))
def test_growths_are_few(capacity: int, length: int) -> None:
    growths = 0
    for needed in range(1, length + 1):
        grown = grow(capacity, needed)
        growths += grown != capacity
        capacity = grown
    assert growths <= math.ceil(math.log2(length)) + 1


# cell_count, cell_region


def check_cells(shape: Shape, cell: Shape) -> None:
    counts = [-(-length // size) for length, size in zip(shape, cell, strict=True)]
    indices = list(itertools.product(*map(range, counts)))
    assert cell_count(shape, cell) == len(indices)
    covered = np.zeros(shape, int)
    for index in indices:
        region = cell_region(index, cell, shape)
        assert all(0 < n <= size for n, size in zip(region_shape(region), cell, strict=True))
        covered[region] += 1
    assert (covered == 1).all(), "the cells cover each element exactly once"


def test_every_small_grid_of_cells_covers_its_array() -> None:
    for ndim in range(3):
        for shape in itertools.product(range(5), repeat=ndim):
            for cell in itertools.product(range(1, 4), repeat=ndim):
                check_cells(shape, cell)


@given(st.data(), st.integers(0, 3).flatmap(lambda ndim: shapes(ndim, 9)))
def test_cells_cover_the_array(data: st.DataObject, shape: Shape) -> None:
    check_cells(shape, data.draw(st.tuples(*(st.integers(1, 6) for _ in shape))))


def test_a_cell_has_the_axes_of_its_array() -> None:
    for cell in ((2,), (2, 2, 2)):
        with pytest.raises(ValueError, match="zip"):
            cell_count((4, 4), cell)
        with pytest.raises(ValueError, match="zip"):
            cell_region((0, 0), cell, (4, 4))


def test_a_cell_beyond_the_array_is_empty() -> None:
    assert cell_region((3,), (2,), (5,)) == (slice(5, 5),)


# overlaps


def check_overlaps(start: int, length: int, size: int) -> None:
    parts = list(overlaps(start, length, size))
    axis = list(range(start + length + size))
    cells = {part.cell: axis[part.cell * size :][:size] for part in parts}
    span = axis[start:][:length]
    assert [i for part in parts for i in span[part.in_span]] == span, "they tile the span in order"
    for part in parts:
        assert cells[part.cell][part.in_cell] == span[part.in_span], "the common part is the same"
        assert span[part.in_span], "no part is empty"
    assert len(cells) == len(parts), "one part for each cell"


def test_every_small_span_overlaps() -> None:
    for start, length, size in itertools.product(range(8), range(8), range(1, 6)):
        check_overlaps(start, length, size)


@given(lengths, lengths, sizes)
def test_a_span_is_cut_at_the_cells(start: int, length: int, size: int) -> None:
    check_overlaps(start, length, size)


# fit_extent


def check_fit_extent(extent: int, bytes_each: int, lower: int, upper: int) -> None:
    fitted = fit_extent(extent, bytes_each, lower, upper)
    size = extent * bytes_each
    assert fitted >= 1
    if size > upper:
        assert fitted <= extent
        assert fitted * bytes_each <= upper or fitted == 1
        parts = -(-extent // fitted)
        assert fitted == -(-extent // parts), "no smaller parts would do as few"
        fewest = -(-extent // max(upper // bytes_each, 1))
        if any(extent % number == 0 for number in range(fewest, min(2 * fewest, fewest + 64) + 1)):
            assert extent % fitted == 0, "parts of one size, where that takes few more of them"
    elif 2 * size <= lower:
        assert fitted % extent == 0
        assert fitted * bytes_each <= lower < (fitted + extent) * bytes_each
    else:
        assert fitted == extent


def test_every_small_extent_fits() -> None:
    for extent, bytes_each in itertools.product(range(1, 13), range(1, 6)):
        for lower, upper in itertools.combinations(range(4, 30, 5), 2):
            check_fit_extent(extent, bytes_each, lower, upper)


@given(st.integers(1, 1000), st.integers(1, 100), st.integers(0, 10**4), st.integers(0, 10**4))
def test_an_extent_is_merged_or_split_between_the_bounds(
    extent: int, bytes_each: int, lower: int, more: int
) -> None:
    check_fit_extent(extent, bytes_each, lower, lower + more)


@pytest.mark.parametrize("extent", [0, 1])
@pytest.mark.parametrize("bytes_each", [0, 1])
def test_blocks_without_bytes_are_merged_as_if_each_had_one(extent: int, bytes_each: int) -> None:
    assert fit_extent(extent, bytes_each, lower=8, upper=80) == 8


def test_a_region_is_a_tuple_of_slices_that_arrays_take() -> None:
    region: Region = region_at((1,), (2, 3))
    assert np.zeros((4, 3))[region].shape == (2, 3)
