"""Blocks into whole units: each element goes into one buffer, each buffer is handed out once."""

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lazychunks import DestinationError
from lazychunks.layout.shapes import Region, Shape, cell_count, region_shape
from lazychunks.storage.chunks.filled import Filled
from lazychunks.storage.resuming import spill
from lazychunks.storage.resuming.spill import Pieces
from lazychunks.storage.writing.open_units import OpenUnits
from lazychunks.storage.writing.target import Target
from tests.strategies import Array, partitions, shapes
from tests.targets import make_target

units = st.integers(1, 5)

GARBAGE = -1
"""What a buffer holds that is handed out by ``allocate``."""


class Run:
    """Scatters blocks over units, and checks the postconditions on the way."""

    def __init__(self, target: Target[Array]) -> None:
        self.target = target
        self.shape = (*target.unit, *target.plan.trailing)
        self.allocated = 0
        self.handed_out: list[Filled] = []
        self.units = OpenUnits(target, self.allocate, self.take)

    def allocate(self) -> Array:
        self.allocated += 1
        return np.full(self.shape, GARBAGE)

    def take(self, one: Filled) -> None:
        assert region_shape(one.region) == one.data.shape
        assert one.buffer.shape == self.shape
        self.handed_out.append(Filled(one.region, one.buffer.copy()))
        one.buffer[...] = -2  # it is written and reused

    @property
    def cells(self) -> set[Shape]:
        """Places of the units that were handed out."""
        return {
            tuple(s.start // size for s, size in zip(one.region, self.target.unit, strict=False))
            for one in self.handed_out
        }

    def check(self, whole: Array, skipped: frozenset[Shape] = frozenset()) -> None:
        """All but what was stored is handed out, once, and is right."""
        axes = len(self.target.unit)
        assert self.units.is_empty
        assert self.allocated == len(self.handed_out)
        expected = cell_count(whole.shape[:axes], self.target.unit) if whole.size else 0
        assert self.allocated == expected - len(skipped)
        times = np.zeros(whole.shape, int)
        for one in self.handed_out:
            np.testing.assert_array_equal(one.data, whole[one.region])
            times[one.region] += 1
            starts = zip(one.region, self.target.unit, strict=False)
            assert all(span.start % size == 0 for span, size in starts)
        for cell in skipped:
            times[place_of(cell, self.target.unit)] += 1
        assert (times == 1).all()


def place_of(cell: Shape, unit: Shape) -> Region:
    return tuple(slice(at * size, (at + 1) * size) for at, size in zip(cell, unit, strict=True))


def arranged(shape: Shape) -> Array:
    """Values that are all different."""
    return np.arange(int(np.prod(shape, dtype=int))).reshape(shape)


def placed(heights: Shape, whole: Array) -> Iterator[tuple[Shape, Array]]:
    """Origins and blocks of rows."""
    for start, height in zip(np.cumsum((0, *heights[:-1])), heights, strict=True):
        yield (int(start),), whole[start : start + height]


def placed_in_grid(heights: Shape, widths: Shape, whole: Array) -> Iterator[tuple[Shape, Array]]:
    """Origins and blocks of a grid, row by row."""
    for (top,), row in placed(heights, whole):
        for (left,), block in placed(widths, np.swapaxes(row, 0, 1)):
            yield (top, left), np.swapaxes(block, 0, 1)


def fill_rows(heights: Shape, trailing: Shape, unit: int) -> Run:
    """Add rows, and check that each buffer comes as soon as its last element has come."""
    whole = arranged((sum(heights), *trailing))
    run = Run(make_target((heights[0], *trailing), (unit,)))
    for (start,), block in placed(heights, whole):
        run.units.add((start,), block)
        if 0 not in trailing:
            assert len(run.handed_out) == (start + len(block)) // unit
    run.units.fix_length(0, len(whole))
    run.check(whole)
    return run


def fill_grid(heights: Shape, widths: Shape, trailing: Shape, unit: Shape) -> Run:
    whole = arranged((sum(heights), sum(widths), *trailing))
    run = Run(make_target((heights[0], widths[0], *trailing), unit, axes=2))
    number = 0
    for number, (origin, block) in enumerate(placed_in_grid(heights, widths, whole), start=1):
        run.units.add(origin, block)
        if number == len(widths):
            run.units.fix_length(1, sum(widths))
        if number % len(widths) == 0 and whole.size:
            bands = (origin[0] + block.shape[0]) // unit[0]
            assert len(run.handed_out) == bands * -(-sum(widths) // unit[1])
    for axis, length in enumerate(whole.shape[:2]):
        run.units.fix_length(axis, length)
    run.check(whole)
    return run


# Postconditions, whatever the partition.


@given(partitions(8, 6), st.integers(0, 2).flatmap(lambda ndim: shapes(ndim, 3)), units)
def test_rows_go_into_buffers(heights: Shape, trailing: Shape, unit: int) -> None:
    fill_rows(heights, trailing, unit)


@given(
    partitions(5, 5),
    partitions(5, 5),
    st.integers(0, 1).flatmap(lambda ndim: shapes(ndim, 2)),
    st.tuples(units, units),
)
def test_a_grid_goes_into_buffers(
    heights: Shape, widths: Shape, trailing: Shape, unit: Shape
) -> None:
    fill_grid(heights, widths, trailing, unit)


def test_every_small_partition_of_rows() -> None:
    for parts in range(1, 4):
        for heights in itertools.product(range(4), repeat=parts):
            for unit in range(1, 4):
                fill_rows(heights, (2,), unit)


def test_every_small_grid() -> None:
    few = [(0,), (2,), (1, 2), (3, 0, 1)]
    for heights, widths in itertools.product(few, repeat=2):
        for unit in itertools.product((1, 2, 3), repeat=2):
            fill_grid(heights, widths, (), unit)


@given(partitions(8, 6), units)
def test_a_flat_run_has_one_buffer_open(heights: Shape, unit: int) -> None:
    run = Run(make_target((heights[0],), (unit,)))
    for origin, block in placed(heights, arranged((sum(heights),))):
        run.units.add(origin, block)
        assert run.allocated - len(run.handed_out) <= 1


def test_buffers_come_before_the_next_is_allocated() -> None:
    """So that a ring of few buffers suffices for a block of many units."""

    class Counting(Run):
        def take(self, one: Filled) -> None:
            super().take(one)
            assert self.allocated == len(self.handed_out)

    run = Counting(make_target((20,), (2,)))
    run.units.add((0,), np.arange(20))
    assert run.allocated == 10


def test_a_block_is_copied() -> None:
    run, block = Run(make_target((2,), (4,))), np.arange(2)
    run.units.add((0,), block)
    block[:] = 7
    run.units.add((2,), block)
    assert run.handed_out[0].buffer.tolist() == [0, 1, 7, 7]


def test_the_last_buffer_waits_until_the_length_is_known() -> None:
    run = Run(make_target((6,), (4,)))
    run.units.add((0,), np.arange(6))
    assert len(run.handed_out) == 1
    run.units.fix_length(0, 6)
    assert run.units.is_empty
    assert run.handed_out[1].data.tolist() == [4, 5]


def test_it_does_not_wait_where_the_length_was_known_before() -> None:
    run = Run(make_target((6,), (4,), lengths=(6,)))
    run.units.add((0,), np.arange(6))
    assert run.units.is_empty
    assert run.handed_out[1].data.tolist() == [4, 5]


# What an earlier start has stored goes nowhere.


@given(st.data(), partitions(8, 6), partitions(4, 4) | st.none(), st.tuples(units, units))
def test_what_is_stored_is_dropped(
    data: st.DataObject, heights: Shape, widths: Shape | None, unit: Shape
) -> None:
    axes = 1 if widths is None else 2
    whole = arranged((sum(heights), *((sum(widths),) if widths else ())))
    cells = [
        range(-(-length // size)) for length, size in zip(whole.shape, unit[:axes], strict=True)
    ]
    grid = list(itertools.product(*cells)) if whole.size else []
    stored = data.draw(st.frozensets(st.sampled_from(grid)) if grid else st.just(frozenset()))
    first = (heights[0], *((widths[0],) if widths else ()))
    run = Run(make_target(first, unit[:axes], axes=axes, stored=stored))
    blocks = placed_in_grid(heights, widths, whole) if widths else placed(heights, whole)
    for origin, block in blocks:
        run.units.add(origin, block)
    for axis, length in enumerate(whole.shape):
        run.units.fix_length(axis, length)
    run.check(whole, stored)
    assert not run.cells & stored


@pytest.mark.parametrize("axes", [1, 2])
def test_what_is_stored_tells_how_far_the_array_reaches(axes: int) -> None:
    stored = frozenset({(0, 0)[:axes], (3, 2)[:axes]})
    run = Run(make_target((2,) * axes, (4,) * axes, axes=axes, stored=stored))
    assert run.units.reach(0) == 13
    if axes == 2:
        assert run.units.reach(1) == 9
    assert Run(make_target((2,), (4,))).units.reach(0) == 0


# What an earlier start has spilled is loaded once.


def spilling(target: Target[Array]) -> Target[Array]:
    return replace(target, spilled={})


def next_start(target: Target[Array], **changes: Any) -> Target[Array]:
    """Return the target of a next start, which finds what is spilled."""
    keys = target.where.list_keys() or []
    spilled: Mapping[Shape, Pieces] = spill.read_pieces(target.where, keys, target.block_axes)
    return replace(target, spilled=spilled, **changes)


def half_done(
    heights: Shape, unit: int, done: int
) -> tuple[Target[Array], frozenset[Shape], Array]:
    """Add so many blocks, spill, and die: what a next start finds, what is stored, and all."""
    whole = arranged((sum(heights), 3))
    target = spilling(make_target((heights[0], 3), (unit,)))
    run = Run(target)
    for origin, block in itertools.islice(placed(heights, whole), done):
        run.units.add(origin, block)
    run.units.spill()
    stored = frozenset(run.cells)
    return next_start(target, stored=stored), stored, whole


@given(partitions(8, 6), units, st.data())
def test_a_next_start_goes_on_with_what_is_spilled(
    heights: Shape, unit: int, data: st.DataObject
) -> None:
    """Whether the blocks that are spilled come again or not."""
    done = data.draw(st.integers(0, len(heights)))
    target, stored, whole = half_done(heights, unit, done)
    run = Run(target)
    for number, (origin, block) in enumerate(placed(heights, whole)):
        if number < done and block.size and data.draw(st.booleans()):
            rows = slice(origin[0], origin[0] + len(block))
            run.units.take_spilled((rows, slice(0, 3)))
        else:
            run.units.add(origin, block)
    run.units.fix_length(0, len(whole))
    run.check(whole, stored)


def test_what_is_spilled_is_not_overwritten() -> None:
    """A block that comes again was computed for another reason than to be stored."""
    target, _, _ = half_done((2, 2, 2), 6, done=2)
    run = Run(target)
    for start in range(0, 6, 2):
        run.units.add((start,), np.full((2, 3), 77))
    assert run.handed_out[0].data[:, 0].tolist() == [0, 3, 6, 9, 77, 77]


def test_a_unit_that_is_spilled_whole_is_handed_out_when_it_is_met() -> None:
    """The last one of an array, whose length was not known when its run died."""
    target, _, whole = half_done((2, 2), 6, done=2)
    run = Run(replace(target, lengths=(4,)))
    run.units.take_spilled((slice(0, 2), slice(0, 3)))
    run.units.take_spilled((slice(2, 4), slice(0, 3)))
    run.check(whole)


def test_what_is_handed_out_does_not_begin_again() -> None:
    target, _, whole = half_done((2, 2, 2), 4, done=1)
    run = Run(target)
    run.units.take_spilled((slice(0, 2), slice(0, 3)))
    run.units.add((2,), whole[2:4])
    run.units.take_spilled((slice(0, 2), slice(0, 3)))
    assert run.units.is_empty
    assert len(run.handed_out) == 1


def test_a_unit_may_have_been_spilled_whole() -> None:
    """Regression: an interrupt came right before it was handed out, and so it began again."""
    whole = arranged((11, 3))
    target = spilling(make_target((4, 3), (4,), lengths=(11,), stored=frozenset({(0,)})))
    spill.spill(target.where, (1,), [((0, 3),), ((3, 4),)], whole[4:8])
    run = Run(next_start(target))
    run.units.take_spilled((slice(4, 7), slice(0, 3)))
    assert run.cells == {(1,)}
    run.units.add((7,), whole[7:])  # of which the part in the next unit is lost
    run.check(whole, frozenset({(0,)}))


def test_only_what_has_changed_is_spilled(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[Shape] = []

    def write(_: object, cell: Shape, *__: object) -> None:
        written.append(cell)

    monkeypatch.setattr(spill, "spill", write)
    run = Run(spilling(make_target((2, 2), (4, 2), axes=2)))
    for origin in ((0, 0), (0, 2)):
        run.units.add(origin, np.zeros((2, 2), int))
    run.units.spill()
    assert sorted(written) == [(0, 0), (0, 1)]
    run.units.spill()
    run.units.add((2, 0), np.zeros((2, 2), int))
    run.units.spill()
    assert len(written) == 2, "one is complete, the other as it was"
    assert run.units.is_spilled((0, 1))
    assert not run.units.is_spilled((1, 0))


def test_a_piece_that_was_not_copied_is_not_spilled() -> None:
    """Regression: an interrupt right before the copy, and what was in the buffer was believed."""

    class Buffer(np.ndarray[Any, Any]):
        def __setitem__(self, place: Any, values: Any) -> None:
            if place[0].start == 2:
                raise KeyboardInterrupt
            super().__setitem__(place, values)

    class Interrupting(Run):
        def allocate(self) -> Array:
            return super().allocate().view(Buffer)

    run = Interrupting(spilling(make_target((2, 3), (6,))))
    run.units.add((0,), np.ones((2, 3), int))
    with pytest.raises(KeyboardInterrupt):
        run.units.add((2,), np.ones((2, 3), int))
    run.units.spill()
    assert next_start(run.target).spilled == {(0,): frozenset({((0, 2),)})}


def test_a_run_that_cannot_be_resumed_spills_nothing() -> None:
    run = Run(make_target((2,), (4,)))
    run.units.add((0,), np.arange(2))
    run.units.spill()
    assert run.target.where.list_keys() == []


def test_what_was_spilled_and_is_gone_is_told() -> None:
    """Never a buffer with what happened to be in it."""
    target, _, whole = half_done((2, 2, 2), 6, done=2)
    target.where.delete(spill.key_of((0,)))
    run = Run(target)
    with pytest.raises(DestinationError, match="spilled"):
        run.units.add((4,), whole[4:6])
    assert not run.handed_out


# Units that are stored at wrong places are forgotten.


def test_what_was_stored_at_wrong_places_is_forgotten() -> None:
    """Workers had taken all blocks to have two rows, and the second one has three."""
    target = make_target((2,), (2,), stored=frozenset({(0,), (2,), (3,)}))
    run = Run(target)
    run.units.add((0,), np.arange(2))
    assert run.units.forget_earlier(0, 2) == {(2,), (3,)}
    assert run.units.reach(0) == 1
    for origin, length in (((2,), 3), ((5,), 2), ((7,), 1)):
        run.units.add(origin, np.full(length, origin[0]))
    assert run.units.is_empty
    assert run.cells == {(1,), (2,), (3,)}


def test_what_was_spilled_at_wrong_places_is_forgotten() -> None:
    """Also where the unit is open already, for the sake of what lies before these places."""
    whole = arranged((12, 3))
    target = spilling(make_target((2, 3), (12,)))
    workers = Run(target)
    workers.units.add((0,), whole[:2])
    workers.units.add((4,), np.full((2, 3), 88))
    workers.units.add((6,), np.full((2, 3), 99))
    workers.units.spill()
    run = Run(next_start(target))
    run.units.take_spilled((slice(0, 2), slice(0, 3)))
    assert run.units.forget_earlier(0, 2) == {(0,)}
    run.units.add((2,), whole[2:7])
    run.units.add((7,), whole[7:12])
    run.check(whole)


def test_what_remains_of_a_unit_is_spilled_again() -> None:
    """Its key has been deleted, with what was wrong in it."""
    target = spilling(make_target((2, 3), (12,)))
    workers = Run(target)
    workers.units.add((0,), np.full((2, 3), 1))
    workers.units.add((4,), np.full((2, 3), 88))
    workers.units.spill()
    run = Run(next_start(target))
    run.units.take_spilled((slice(0, 2), slice(0, 3)))
    target.delete_units(run.units.forget_earlier(0, 2))
    assert next_start(target).spilled == {}
    run.units.spill()
    assert next_start(target).spilled == {(0,): frozenset({((0, 2),)})}


def test_columns_at_wrong_places_are_forgotten_in_all_rows() -> None:
    """Found in the first row: there, pieces of columns before are right, and stay."""
    target = spilling(make_target((2, 2), (2, 6), axes=2))
    workers = Run(target)
    for origin in ((0, 0), (0, 4), (2, 0), (2, 4)):
        workers.units.add(origin, np.full((2, 2), sum(origin)))
    workers.units.spill()
    run = Run(next_start(target))
    run.units.take_spilled((slice(0, 2), slice(0, 2)))
    assert run.units.forget_earlier(1, 2) == {(0, 0), (1, 0)}
    run.units.add((0, 2), np.full((2, 4), 50))
    assert run.handed_out[0].data[0].tolist() == [0, 0, 50, 50, 50, 50]
    run.units.add((2, 0), np.full((2, 2), 51))
    run.units.add((2, 2), np.full((2, 4), 52))
    assert run.handed_out[1].data[0].tolist() == [51, 51, 52, 52, 52, 52]
