"""Parts: they tile the blocks exactly once, share no unit, and are as small as that allows."""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lazychunks import BlockShapeError, EmptyRowError
from lazychunks.layout.partition import ArrayPlan, Partition
from lazychunks.layout.parts import AnyPart, split, whole
from tests.strategies import partitions

Place = tuple[int, int]


def place_of(row: int, column: int) -> Place:
    return row, column


def calls_of(rows: int, columns: int) -> list[list[Callable[[], Place]]]:
    """Rows of calls, each of which tells its place."""
    return [[partial(place_of, row, column) for column in range(columns)] for row in range(rows)]


@dataclass(frozen=True)
class Job:
    """Blocks, and the plans of the arrays that they are written to."""

    sizes: tuple[tuple[int, ...], ...]
    """Sizes of the blocks along each block axis."""
    plans: tuple[ArrayPlan, ...]

    @property
    def axes(self) -> int:
        return len(self.sizes)

    @property
    def counts(self) -> tuple[int, int]:
        return len(self.sizes[0]), len(self.sizes[1]) if self.axes == 2 else 1

    def parts(self, blocks: int = 1) -> list[AnyPart]:
        return list(split(calls_of(*self.counts), self.plans, self.axes, blocks=blocks))

    def units_of(self, part: AnyPart) -> set[tuple[Any, ...]]:
        """Units of all arrays that a part writes, found without asking the plan."""
        found: set[tuple[Any, ...]] = set()
        for place in places_of(part):
            for number, plan in enumerate(self.plans):
                touched: list[range] = []
                for axis, index, along, unit in zip(
                    plan.axes, place, self.sizes, plan.unit, strict=False
                ):
                    start = axis.start + sum(along[:index])
                    touched.append(range(start // unit, -(-(start + along[index]) // unit)))
                    if not along[index]:
                        touched[-1] = range(0)
                found |= {(number, *unit) for unit in itertools.product(*touched)}
        return found


def places_of(part: AnyPart) -> list[Place]:
    return [call() for row in part.rows for call in row]


@st.composite
def jobs(draw: st.DrawFn) -> Job:
    """Draw jobs whose blocks fall on whole units, or may do so."""
    axes = draw(st.integers(1, 2))
    times = st.integers(1, 3)
    sizes: list[tuple[int, ...]] = []
    is_listed: list[bool] = []
    for _ in range(axes):
        is_listed.append(draw(st.booleans()))
        if is_listed[-1]:
            extent = draw(times)
            sizes.append(tuple(extent * size for size in draw(partitions(8, 4))))
        else:
            size = draw(st.integers(0, 6))
            count = draw(st.integers(0, 8))
            sizes.append((*(size,) * count, draw(st.integers(0, size)) if count else size))
    plans: list[ArrayPlan] = []
    for _ in range(draw(st.integers(0, 2))):
        units = [draw(times) * (max(along[0], 1) if draw(st.booleans()) else 1) for along in sizes]
        cut = [
            Partition(along[0], along if listed else None)
            for along, listed in zip(sizes, is_listed, strict=True)
        ]
        plans.append(ArrayPlan(tuple(cut), (3,), (*units, 2)))
    return Job(tuple(sizes), tuple(plans))


def is_refused(job: Job) -> bool:
    """Whether blocks do not fall on whole units, so that they cannot be shared out."""
    return any(
        len(along) > 1 and not plan.axes[axis].can_be_divided(plan.unit[axis])
        for plan in job.plans
        for axis, along in enumerate(job.sizes)
    )


# Laws


@given(jobs(), st.integers(1, 9))
def test_parts_tile_the_blocks_exactly_once_in_order(job: Job, blocks: int) -> None:
    if is_refused(job):
        with pytest.raises(BlockShapeError, match="inside the chunk"):
            job.parts(blocks)
        return
    parts = job.parts(blocks)
    rows, columns = job.counts
    everything = list(itertools.chain.from_iterable(map(places_of, parts)))
    assert sorted(everything) == list(itertools.product(range(rows), range(columns)))
    assert [part.number for part in parts] == list(range(len(parts)))
    for part in parts:
        found = places_of(part)
        assert part.axes == job.axes
        assert found[0] == part.index
        last = found[-1]
        assert found == list(
            itertools.product(range(part.index[0], last[0] + 1), range(part.index[1], last[1] + 1))
        ), "a part is a rectangle"
        assert part.ends == (last[0] == rows - 1, last[1] == columns - 1)
    assert [part.index for part in parts] == sorted(part.index for part in parts)
    bands = {part.index[0]: places_of(part)[-1][0] for part in parts}
    for part in parts:
        assert places_of(part)[-1][0] == bands[part.index[0]], "a band has one height"


@given(jobs(), st.integers(1, 9))
def test_two_parts_share_no_unit(job: Job, blocks: int) -> None:
    if is_refused(job):
        return
    touched: set[tuple[Any, ...]] = set()
    for part in job.parts(blocks):
        units = job.units_of(part)
        assert touched.isdisjoint(units)
        touched |= units


@given(jobs())
def test_parts_are_as_small_as_units_allow(job: Job) -> None:
    if is_refused(job):
        return
    for part in job.parts():
        rows = [*part.rows]
        for axis, count in enumerate((len(rows), len(rows[0]))[: job.axes]):
            start = part.index[axis]
            for number in range(start + 1, start + count):
                assert not all(
                    plan.axes[axis].is_boundary(number, plan.unit[axis]) for plan in job.plans
                )


@given(jobs(), st.integers(1, 30))
def test_cheap_blocks_are_grouped(job: Job, blocks: int) -> None:
    if is_refused(job):
        return
    for part in job.parts(blocks):
        assert any(part.ends) or len(places_of(part)) >= blocks
    if not job.plans:
        for part in job.parts(blocks):
            rows = [*part.rows]
            assert (len(rows) - 1) * job.counts[1] < blocks
            assert len(rows) * (len(rows[0]) - 1) < blocks


@given(jobs())
def test_rows_are_read_when_a_part_needs_them(job: Job) -> None:
    if is_refused(job):
        return
    read = 0

    def rows() -> Iterator[Sequence[Callable[[], Place]]]:
        nonlocal read
        for row in calls_of(*job.counts):
            read += 1
            yield row

    parts = split(rows(), job.plans, job.axes)
    assert read == 0
    for part in parts:
        end = places_of(part)[-1][0] + 1
        assert read == min(end + 1, job.counts[0]), "one row beyond the part, to see the end"


@given(st.integers(0, 9), st.integers(1, 9))
def test_the_part_that_is_everything_is_lazy(rows: int, columns: int) -> None:
    lazy = iter(calls_of(rows, columns))
    part = whole(lazy, 2)
    assert part.rows is lazy
    assert (part.number, part.index, part.ends, part.axes) == (0, (0, 0), (True, True), 2)
    assert whole(lazy, 1).axes == 1


# Cases


def flat(*plans: tuple[Partition, int], rows: int, blocks: int = 1) -> list[list[int]]:
    """Cut a flat sequence, and list the rows of each part."""
    arrays = [ArrayPlan((partition,), (), (unit,)) for partition, unit in plans]
    parts = split(calls_of(rows, 1), arrays, 1, blocks=blocks)
    return [[row for row, _ in places_of(part)] for part in parts]


def test_parts_of_a_flat_sequence() -> None:
    assert flat((Partition(4), 2), rows=3) == [[0], [1], [2]]
    assert flat((Partition(2), 4), rows=5) == [[0, 1], [2, 3], [4]]
    assert flat((Partition(2), 4), (Partition(2), 6), rows=7) == [[0, 1, 2, 3, 4, 5], [6]]
    assert flat((Partition(64), 64), (Partition(1), 4), rows=5) == [[0, 1, 2, 3], [4]]
    assert flat(rows=3) == [[0], [1], [2]]
    assert flat(rows=5, blocks=2) == [[0, 1], [2, 3], [4]]
    assert flat((Partition(2), 4), rows=8, blocks=3) == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert flat((Partition(2), 4), rows=0) == []
    assert flat((Partition(5), 4), rows=1) == [[0]], "the array ends where the only block ends"


def test_parts_that_are_appended_begin_inside_a_unit() -> None:
    assert flat((Partition(2, start=6), 4), rows=6) == [[0], [1, 2], [3, 4], [5]]
    assert flat((Partition(4, start=8), 4), rows=2) == [[0], [1]]
    with pytest.raises(BlockShapeError, match="block 1 begins at 9 along axis 0, inside the chunk"):
        flat((Partition(4, start=5), 4), rows=2)
    with pytest.raises(
        BlockShapeError, match="block 2 begins at 14 along axis 0, inside the chunk"
    ):
        flat((Partition(6, start=2), 4), rows=3)


def test_parts_of_listed_sizes() -> None:
    sizes = (3, 1, 0, 5, 3, 4)
    assert flat((Partition(3, sizes), 4), rows=6) == [[0, 1], [2], [3, 4], [5]]
    assert flat((Partition(3, (3, 0, 2)), 64), rows=3) == [[0, 1, 2]], "all in one unit"


def test_parts_of_a_nested_sequence_are_rectangles() -> None:
    plan = ArrayPlan((Partition(2), Partition(3)), (), (4, 6))
    parts = list(split(calls_of(5, 3), [plan], 2))
    assert [(part.index, len(list(part.rows)), part.ends) for part in parts] == [
        ((0, 0), 2, (False, False)),
        ((0, 2), 2, (False, True)),
        ((2, 0), 2, (False, False)),
        ((2, 2), 2, (False, True)),
        ((4, 0), 1, (True, False)),
        ((4, 2), 1, (True, True)),
    ]
    assert [len(places_of(part)) for part in parts] == [4, 2, 4, 2, 2, 1]


@given(st.integers(2, 10), st.integers(1, 20), st.integers(2, 5))
def test_blocks_of_which_neither_divides_the_other_are_refused(
    size: int, unit: int, rows: int
) -> None:
    divides = size % unit == 0 or unit % size == 0
    if divides:
        assert len(flat((Partition(size), unit), rows=rows)) == math.ceil(
            rows / max(unit // size, 1)
        )
    else:
        with pytest.raises(BlockShapeError):
            flat((Partition(size), unit), rows=rows)


MISALIGNED: dict[str, tuple[ArrayPlan, str, tuple[object, object, object]]] = {
    "flat": (
        ArrayPlan((Partition(100),), (5,), (64, 5)),
        (
            "block 1 begins at 100 along axis 0, inside the chunk of 64 to 127; with an executor "
            'or ranks no two workers may share a chunk: pass chunks="blocks", or chunks '
            "whose extent divides 100 or is a multiple of it"
        ),
        (1, "a multiple of 64", 100),
    ),
    "nested, rows": (
        ArrayPlan((Partition(4), Partition(6)), (), (3, 6)),
        (
            "block (1, 0) begins at 4 along axis 0, inside the chunk of 3 to 5; with an executor "
            'or ranks no two workers may share a chunk: pass chunks="blocks", or chunks '
            "whose extent divides 4 or is a multiple of it"
        ),
        ((1, 0), "a multiple of 3", 4),
    ),
    "nested, columns": (
        ArrayPlan((Partition(4), Partition(6)), (), (4, 4), "shard"),
        (
            "block (0, 1) begins at 6 along axis 1, inside the shard of 4 to 7; with an executor "
            'or ranks no two workers may share a shard: pass chunks="blocks", or shards '
            "whose extent divides 6 or is a multiple of it"
        ),
        ((0, 1), "a multiple of 4", 6),
    ),
    "listed": (
        ArrayPlan((Partition(4, (4, 6)),), (5,), (3, 5)),
        (
            "block 1 begins at 4 along axis 0, inside the chunk of 3 to 5; with an executor "
            "or ranks no two workers may share a chunk: pass chunks whose extent divides 2, or "
            "leave out executor= and ranks="
        ),
        (1, "a multiple of 3", 4),
    ),
}


@pytest.mark.parametrize("name", MISALIGNED)
def test_a_message_says_block_chunk_and_remedy(name: str) -> None:
    plan, message, facts = MISALIGNED[name]
    axes = len(plan.axes)
    rows = calls_of(2, 2 if axes == 2 else 1)
    with pytest.raises(BlockShapeError) as caught:
        next(split(rows, [plan], axes))
    error = caught.value
    assert (str(error), (error.block, error.expected, error.got)) == (message, facts)


def test_an_array_takes_no_rows_of_another_length() -> None:
    plan = ArrayPlan((Partition(2), Partition(2)), (), (2, 2))
    rows = [*calls_of(2, 3), *calls_of(1, 2)]
    with pytest.raises(BlockShapeError, match="row 2 has 2 blocks, expected 3"):
        list(split(rows, [plan], 2))
    empty: list[list[Callable[[], Place]]] = [[]]
    with pytest.raises(EmptyRowError, match="row 0"):
        list(split(empty, [plan], 2))


@given(st.lists(st.integers(0, 4), max_size=6), st.integers(1, 9))
def test_without_an_array_rows_may_be_of_any_length(lengths: list[int], blocks: int) -> None:
    rows = [calls_of(1, length)[0] for length in lengths]
    found: dict[int, list[Callable[[], Place]]] = {row: [] for row in range(len(rows))}
    parts = list(split(rows, [], 2, blocks=blocks))
    for part in parts:
        assert isinstance(part.rows, list)
        for number, calls in enumerate(part.rows, start=part.index[0]):
            assert part.index[1] == len(found[number])
            found[number] += calls
        assert part.ends[0] == (part.index[0] + len(part.rows) == len(rows))
        assert part.ends[1] == all(
            len(found[number]) == lengths[number]
            for number in range(part.index[0], part.index[0] + len(part.rows))
        )
    assert list(found.values()) == rows


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("count", [1, 3])
def test_listed_sizes_are_as_many_as_the_blocks(axis: int, count: int) -> None:
    cut = [Partition(2, (2, 2)), Partition(2, (2, 2))]
    plan = ArrayPlan((cut[0], cut[1]), (), (2, 2))
    shape = (count, 2) if axis == 0 else (2, count)
    found = "more than 2" if count > 2 else "1"
    with pytest.raises(BlockShapeError, match=f"there are {found} blocks along axis {axis}, but"):
        list(split(calls_of(*shape), [plan], 2))
