"""Blocks into whole chunks: each element goes into one buffer, each buffer is handed out once."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lazychunks import BlockShapeError, EmptyRowError
from lazychunks.layout.shapes import Shape, cell_count, region_shape
from lazychunks.storage.assembly import Assembly, Layout
from lazychunks.storage.chunks.filled import Filled
from tests.strategies import Array, partitions, shapes

units = st.integers(1, 5)


class Run:
    """Assembles blocks, and checks the postconditions on the way."""

    def __init__(self, unit: Shape, trailing: Shape) -> None:
        self.unit = unit
        self.trailing = trailing
        self.allocated = 0
        self.handed_out: list[Filled] = []
        self.assembly = Assembly(unit, trailing, self.allocate, self.take)

    def allocate(self) -> Array:
        self.allocated += 1
        return np.full((*self.unit, *self.trailing), -1)  # what must not come out

    def take(self, one: Filled) -> None:
        assert region_shape(one.region) == one.data.shape
        assert one.buffer.shape == (*self.unit, *self.trailing)
        self.handed_out.append(Filled(one.region, one.buffer.copy()))
        one.buffer[...] = -2  # it is written and reused

    def check(self, whole: Array) -> None:
        """All is handed out, once, and is right."""
        assert self.assembly.is_empty
        assert self.allocated == len(self.handed_out)
        if whole.size:
            axes = len(self.unit)
            assert self.allocated == cell_count(whole.shape[:axes], self.unit)
        else:
            assert self.allocated == 0
        made = np.full(whole.shape, -3)
        times = np.zeros(whole.shape, int)
        for one in self.handed_out:
            made[one.region] = one.data
            times[one.region] += 1
            assert all(s.start % size == 0 for s, size in zip(one.region, self.unit, strict=False))
        np.testing.assert_array_equal(made, whole)
        assert (times == 1).all()


def assemble_flat(heights: Shape, trailing: Shape, unit: int) -> Run:
    """Assemble rows, and check that each buffer comes as soon as its last element has come."""
    whole = np.arange(sum(heights) * int(np.prod(trailing, dtype=int)))
    whole = whole.reshape(sum(heights), *trailing)
    run, layout = Run((unit,), trailing), Layout(1)
    for block in np.split(whole, np.cumsum(heights)[:-1]):
        run.assembly.add(layout.place(block.shape), block)
        if 0 not in trailing:
            assert len(run.handed_out) == layout.lengths[0] // unit
    run.assembly.fix_length(0, layout.lengths[0])
    run.check(whole)
    return run


def assemble_grid(heights: Shape, widths: Shape, trailing: Shape, unit: Shape) -> Run:
    shape = (sum(heights), sum(widths), *trailing)
    whole = np.arange(int(np.prod(shape, dtype=int))).reshape(shape)
    run, layout = Run(unit, trailing), Layout(2)
    for number, row in enumerate(np.split(whole, np.cumsum(heights)[:-1])):
        for block in np.split(row, np.cumsum(widths)[:-1], axis=1):
            run.assembly.add(layout.place(block.shape), block)
        layout.end_row()
        if number == 0:
            run.assembly.fix_length(1, layout.lengths[1])
        if whole.size:
            bands = layout.lengths[0] // unit[0]
            assert len(run.handed_out) == bands * -(-layout.lengths[1] // unit[1])
    for axis, length in enumerate(layout.lengths):
        run.assembly.fix_length(axis, length)
    run.check(whole)
    return run


# Postconditions, whatever the partition.


@given(partitions(8, 6), st.integers(0, 2).flatmap(lambda ndim: shapes(ndim, 3)), units)
def test_rows_go_into_buffers(heights: Shape, trailing: Shape, unit: int) -> None:
    assemble_flat(heights, trailing, unit)


@given(
    partitions(5, 5),
    partitions(5, 5),
    st.integers(0, 1).flatmap(lambda ndim: shapes(ndim, 2)),
    st.tuples(units, units),
)
def test_a_grid_goes_into_buffers(
    heights: Shape, widths: Shape, trailing: Shape, unit: Shape
) -> None:
    assemble_grid(heights, widths, trailing, unit)


def test_every_small_partition_of_rows() -> None:
    for parts in range(1, 4):
        for heights in itertools.product(range(4), repeat=parts):
            for unit in range(1, 4):
                assemble_flat(heights, (2,), unit)


def test_every_small_grid() -> None:
    few = [(0,), (2,), (1, 2), (3, 0, 1)]
    for heights, widths in itertools.product(few, repeat=2):
        for unit in itertools.product((1, 2, 3), repeat=2):
            assemble_grid(heights, widths, (), unit)


@given(partitions(8, 6), units)
def test_a_flat_assembly_has_one_buffer_open(heights: Shape, unit: int) -> None:
    run, layout = Run((unit,), ()), Layout(1)
    for height in heights:
        run.assembly.add(layout.place((height,)), np.zeros(height, int))
        assert run.allocated - len(run.handed_out) <= 1


def test_buffers_come_before_the_next_is_allocated() -> None:
    """So that a ring of few buffers suffices for a block of many chunks."""

    class Counting(Run):
        def take(self, one: Filled) -> None:
            super().take(one)
            assert self.allocated == len(self.handed_out)

    run = Counting((2,), ())
    run.assembly.add((0,), np.arange(20))
    assert run.allocated == 10


def test_a_block_is_copied() -> None:
    run, block = Run((4,), ()), np.arange(2)
    run.assembly.add((0,), block)
    block[:] = 7
    run.assembly.add((2,), block)
    assert run.handed_out[0].buffer.tolist() == [0, 1, 7, 7]


def test_the_last_buffer_waits_until_the_length_is_known() -> None:
    run = Run((4,), ())
    run.assembly.add((0,), np.arange(6))
    assert len(run.handed_out) == 1
    run.assembly.fix_length(0, 6)
    assert run.assembly.is_empty
    assert run.handed_out[1].data.tolist() == [4, 5]


# Layouts.


@given(partitions(8, 6))
def test_a_flat_layout_puts_blocks_below_each_other(heights: Shape) -> None:
    layout = Layout(1)
    for number, height in enumerate(heights):
        assert layout.next_block == layout.taken == number
        assert layout.origin == (sum(heights[:number]),)
        assert layout.place((height, 3)) == (sum(heights[:number]),)
        assert layout.lengths == (sum(heights[: number + 1]),)


@given(partitions(5, 5), partitions(5, 5))
def test_a_grid_layout_puts_blocks_beside_and_rows_below_each_other(
    heights: Shape, widths: Shape
) -> None:
    layout = Layout(2)
    for row, height in enumerate(heights):
        for column, width in enumerate(widths):
            origin = (sum(heights[:row]), sum(widths[:column]))
            assert layout.next_block == (row, column)
            assert layout.taken == row * len(widths) + column
            assert layout.place((height, width)) == origin
        layout.end_row()
        assert layout.lengths == (sum(heights[: row + 1]), sum(widths))


def test_a_block_that_is_refused_leaves_the_layout_as_it_was() -> None:
    flat = Layout(1)
    with pytest.raises(BlockShapeError, match=r"^block 0 "):
        flat.place(())
    flat.place((2, 3))
    with pytest.raises(BlockShapeError):
        flat.place((2, 4))
    assert (flat.next_block, flat.lengths) == (1, (2,))
    grid = Layout(2)
    grid.place((2, 3))
    with pytest.raises(BlockShapeError):
        grid.place((1, 3))
    assert (grid.next_block, grid.lengths) == ((0, 1), (2, 3))
    grid.end_row()
    with pytest.raises(BlockShapeError):
        grid.place((2, 4))
    assert grid.next_block == (1, 0)


def test_a_row_has_as_many_blocks_as_the_first() -> None:
    layout = Layout(2)
    for _ in range(2):
        layout.place((2, 3))
    layout.end_row()
    layout.place((1, 3))
    way_out = "expected 2 like the rows before it; yield the same number of blocks in each row"
    with pytest.raises(BlockShapeError, match=f"^row 1 has 1 blocks, {way_out}$") as caught:
        layout.end_row()
    error = caught.value
    assert (error.block, error.expected, error.got) == ((1, 1), 2, "1 blocks")
    layout.place((1, 3))
    with pytest.raises(BlockShapeError, match=f"^row 1 has more than 2 blocks, {way_out}$") as more:
        layout.place((1, 3))
    error = more.value
    assert (error.block, error.expected, error.got) == ((1, 2), 2, "more than 2 blocks")


@pytest.mark.parametrize("row", [0, 1])
def test_a_row_holds_a_block(row: int) -> None:
    layout = Layout(2)
    for _ in range(row):
        layout.place((2, 3))
        layout.end_row()
    said = (
        f"^row {row} holds no block, so its height is not known; leave the row out, or yield "
        "blocks of height zero$"
    )
    with pytest.raises(EmptyRowError, match=said) as caught:
        layout.end_row()
    assert caught.value.row == row
