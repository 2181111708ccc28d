"""Shape arithmetic against naive oracles: exhaustively over small ranges, then by Hypothesis."""

import itertools
import math
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lazychunks import BlockShapeError
from lazychunks.layout.shapes import (
    Region,
    Shape,
    align_down,
    align_up,
    cell_count,
    cell_region,
    check_block,
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


# check_block along one axis: what np.concatenate accepts


def accepts_flat(shape: Shape, first: Shape) -> bool:
    try:
        np.concatenate([np.empty(first), np.empty(shape)])
    except ValueError:
        return False
    return True


def refusal(check: Callable[[], None]) -> BlockShapeError | None:
    try:
        check()
    except BlockShapeError as error:
        return error
    return None


def accepted_flat(shape: Shape, first: Shape) -> bool:
    error = refusal(lambda: check_block(shape, first, [None], block=1))
    assert error is None or (error.block, error.got) == (1, shape)
    return error is None


def few_shapes(most_axes: int) -> list[Shape]:
    return [s for ndim in range(most_axes + 1) for s in itertools.product(range(3), repeat=ndim)]


def test_every_small_block_is_accepted_as_np_concatenate_does() -> None:
    for shape, first in itertools.product(few_shapes(3), few_shapes(2)[1:]):
        assert accepted_flat(shape, first) == accepts_flat(shape, first), (shape, first)


@given(st.data(), st.integers(1, 4).flatmap(shapes))
def test_a_block_is_accepted_as_np_concatenate_does(data: st.DataObject, first: Shape) -> None:
    other = data.draw(st.integers(0, 4).flatmap(shapes) | st.just((3, *first[1:])))
    assert accepted_flat(other, first) == accepts_flat(other, first)


# check_block along two axes: what np.block accepts, and a grid at that


def test_every_small_block_is_accepted_if_it_fits_its_row_and_column() -> None:
    options: list[int | None] = [None, 1, 2]
    for shape, first in itertools.product(few_shapes(3), [(1, 2), (2, 1), (1, 1, 2)]):
        for height, width in itertools.product(options, repeat=2):
            fits = (
                len(shape) == len(first)
                and height in (None, shape[0])
                and width in (None, shape[1])
                and shape[2:] == first[2:]
            )
            check = partial(check_block, shape, first, (height, width), block=(3, 4))
            error = refusal(check)
            assert (error is None) == fits
            assert error is None or (error.block, error.got) == ((3, 4), shape)


@given(st.data(), partitions(3, 3), partitions(3, 3), st.integers(0, 2).flatmap(shapes))
def test_the_blocks_of_a_grid_are_accepted_and_a_changed_one_is_not(
    data: st.DataObject, heights: Shape, widths: Shape, trailing: Shape
) -> None:
    first = (heights[0], widths[0], *trailing)
    row = data.draw(st.integers(0, len(heights) - 1))
    column = data.draw(st.integers(0, len(widths) - 1))
    shape = (heights[row], widths[column], *trailing)
    where = (row, column)
    check_block(shape, first, shape[:2], block=where)
    axis = data.draw(st.integers(0, len(shape) - 1))
    changed = tuple(n + (number == axis) for number, n in enumerate(shape))
    with pytest.raises(BlockShapeError):
        check_block(changed, first, shape[:2], block=where)


# check_block where places are fixed beforehand


def test_every_small_block_is_accepted_if_it_is_even() -> None:
    options: list[int | None] = [None, 1, 2]
    for shape, first in itertools.product(few_shapes(3), [(1, 2), (2, 1), (1, 1, 2)]):
        for sizes in itertools.product(options, repeat=2):
            fits = (
                len(shape) == len(first)
                and shape[2:] == first[2:]
                and all(
                    have == size or (size is None and have <= most)
                    for have, size, most in zip(shape, sizes, first, strict=False)
                )
            )
            check = partial(check_block, shape, first, sizes, block=(3, 4), is_even=True)
            assert (refusal(check) is None) == fits


WAY_OUT = "; pad or reshape it, or store it as an array of its own"
EVEN_WAY_OUT = (
    "; with an executor only the last block along an axis may be smaller than the first: leave out "
    "executor=, or pad it"
)

MISFITS: dict[str, tuple[Callable[[], None], str, tuple[object, object, object]]] = {
    "other width": (
        lambda: check_block((7, 31), (5, 32), [None], block=17),
        f"block 17 has shape (7, 31), expected (*, 32) like the blocks before it{WAY_OUT}",
        (17, ("*", 32), (7, 31)),
    ),
    "one axis": (
        lambda: check_block((7, 1), (5,), [None], block=2),
        f"block 2 has shape (7, 1), expected (*,) like the blocks before it{WAY_OUT}",
        (2, ("*",), (7, 1)),
    ),
    "no axis": (
        lambda: check_block((), (), [None], block=0),
        (
            "block 0 has shape (), expected at least 1 axis to be laid out along; yield blocks "
            "with more axes, e.g. block[None]"
        ),
        (0, "at least 1 axis", ()),
    ),
    "nested, one axis": (
        lambda: check_block((7,), (7,), [None, None], block=(0, 0)),
        (
            "block (0, 0) has shape (7,), expected at least 2 axes to be laid out along; yield "
            "blocks with more axes, or use a flat LazyChunkSequence"
        ),
        ((0, 0), "at least 2 axes", (7,)),
    ),
    "nested, other height": (
        lambda: check_block((7, 3), (2, 9), [2, 3], block=(1, 2)),
        f"block (1, 2) has shape (7, 3), expected (2, 3) like the blocks before it{WAY_OUT}",
        ((1, 2), (2, 3), (7, 3)),
    ),
    "even, smaller than the first": (
        lambda: check_block((2, 3), (4, 3), [4], block=1, is_even=True),
        f"block 1 has shape (2, 3), expected (4, 3){EVEN_WAY_OUT}",
        (1, (4, 3), (2, 3)),
    ),
    "even, larger than the first": (
        lambda: check_block((5, 3), (4, 3), [None, 3], block=(9, 0), is_even=True),
        f"block (9, 0) has shape (5, 3), expected (at most 4, 3){EVEN_WAY_OUT}",
        ((9, 0), ("*", 3), (5, 3)),
    ),
}


@pytest.mark.parametrize("name", MISFITS)
def test_a_message_says_what_place_and_way_out(name: str) -> None:
    check, message, facts = MISFITS[name]
    with pytest.raises(BlockShapeError) as caught:
        check()
    error = caught.value
    assert (str(error), (error.block, error.expected, error.got)) == (message, facts)


def test_a_region_is_a_tuple_of_slices_that_arrays_take() -> None:
    region: Region = region_at((1,), (2, 3))
    assert np.zeros((4, 3))[region].shape == (2, 3)
