"""Many workers: each computes blocks and writes their chunks; here they are told which.

Workers cannot know where a block lies unless all blocks before it have known sizes, so here all
blocks have the size of the first, but for the last along each axis. They never share a chunk (a
shard, where there are shards), so blocks are grouped until they fall on whole ones.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, TypeVar

from lazychunks.errors import BlockShapeError, NotSpreadableError
from lazychunks.shapes import Shape, align_down, check_flat_block, check_grid_block, group_count
from lazychunks.sources import Task
from lazychunks.storage.arrays import write_key
from lazychunks.storage.assembly import empty_row, ragged_row
from lazychunks.storage.attempt import Attempt, Stage
from lazychunks.storage.crew import Crew
from lazychunks.storage.workers import (
    Assignment,
    Maker,
    Receipt,
    Sent,
    Site,
    block_name,
    compare,
    mark_key,
    probe,
)

if TYPE_CHECKING:
    from lazychunks.converters import ToNumpy

__all__ = ["EvenLayout", "spread"]

T = TypeVar("T")


@dataclass(slots=True)
class EvenLayout:
    """Blocks of one size, but for the last along each block axis, which may be smaller."""

    axes: int
    first: Shape | None = None
    taken: int = 0
    counts: list[int] = field(default_factory=list[int])
    """Number of blocks along each axis so far."""
    last: list[int | None] = field(default_factory=list[int | None])
    """Size of the last block along each axis, once it is known."""

    def __post_init__(self) -> None:
        self.counts = [0] * self.axes
        self.last = [None] * self.axes

    @property
    def lengths(self) -> Shape:
        """Lengths along the block axes so far."""
        if self.first is None:
            return (0,) * self.axes
        return tuple(
            count * size - (0 if last is None else size - last)
            for count, size, last in zip(self.counts, self.first, self.last, strict=False)
        )


def spread(
    attempt: Attempt,
    layout: EvenLayout,
    rows: Iterator[Sequence[Task[T]]],
    converter: ToNumpy[T],
) -> None:
    """Have the blocks of a sequence computed and stored by an executor's workers.

    Parameters
    ----------
    attempt
        The write; entered.
    layout
        Its layout, of no block yet.
    rows
        Rows of calls that compute the blocks; for a flat sequence, one call each.
    converter
        As in ``to_zarr``.

    Raises
    ------
    NotSpreadableError
        Before any block is computed, if the workers could not do it.
    BlockShapeError
        If blocks do not fall on whole units, or are of uneven sizes.
    """
    executor = attempt.options.executor
    assert executor is not None
    crew = Crew(executor, attempt.options.max_in_flight)
    if not (crew.shares_memory or attempt.place.is_seen_by_processes):
        raise NotSpreadableError(
            f"workers in other processes do not see {attempt.place}; write to a directory or an "
            "object store, or use a ThreadPoolExecutor"
        )
    first = next(rows, None)
    if first is None:
        return
    if not first:
        raise empty_row(0)
    maker = Maker(first[0].func, converter, attempt.options.dtype is not None)
    sent = crew.send(maker, "the function that computes blocks, or the converter,")
    if not crew.shares_memory:
        crew.pickled(first[0].args, "an item")
        crew.pickled(attempt.store, "the store")
    with crew:
        if attempt.stage is None:
            shape, dtype = crew.ask(probe, sent, first[0].args, layout.axes)
            _check_first(shape, layout.axes)
            attempt.begin(shape, dtype)
        else:
            _check_first(attempt.stage.first, layout.axes)
        _Coordinator(attempt, layout, crew, sent).run(chain((first,), rows))


class _Coordinator:
    """Cuts the rows of calls into assignments, and gives those that are not stored to the crew."""

    def __init__(
        self, attempt: Attempt, layout: EvenLayout, crew: Crew, maker: Sent[Maker[Any]]
    ) -> None:
        assert attempt.stage is not None
        self._attempt = attempt
        self._stage: Stage = attempt.stage
        self._layout = layout
        self._crew = crew
        self._maker = maker
        self._verified = False
        self._first: Shape = attempt.stage.first
        layout.first = self._first
        self._site = self._opened()

    def run(self, rows: Iterator[Sequence[Task[Any]]]) -> None:
        """Store everything."""
        layout = self._layout
        unit = self._stage.plan.unit
        groups = [group_count(size, one) for size, one in zip(self._first, unit, strict=False)]
        for band, is_last in _bands(rows, groups[0] or 1):
            if groups[0] is None and not is_last:
                raise self._misaligned(0)
            if not layout.counts[0] and layout.axes == 2:
                layout.counts[1] = len(band[0])
                self._stage.end(1, len(band[0]))
                if groups[1] is None and len(band[0]) > 1:
                    raise self._misaligned(1)
            columns = layout.counts[1] if layout.axes == 2 else 1
            for number, row in enumerate(band, start=layout.counts[0]):
                _check_row(row, columns, number)
            if is_last:
                self._stage.end(0, layout.counts[0] + len(band))
            across = (groups[1] or 1) if layout.axes == 2 else 1
            for column in range(0, columns, across):
                calls = [row[column : column + across] for row in band]
                self._take(self._assignment(calls, column, is_last=is_last))
            layout.counts[0] += len(band)
        self._settle(self._crew.collect_all())

    def _assignment(
        self, calls: list[Sequence[Task[Any]]], column: int, *, is_last: bool
    ) -> Assignment:
        """Describe a group of calls: where it is, and what sizes its blocks have."""
        axes = self._layout.axes
        index = (self._layout.counts[0], column)[:axes]
        numbers = (len(calls), len(calls[0]))[:axes]
        ends = (is_last, axes == 2 and column + len(calls[0]) == self._layout.counts[1])
        return Assignment(
            index,
            tuple(number * size for number, size in zip(index, self._first, strict=False)),
            tuple(
                (
                    *(self._first[axis],) * (numbers[axis] - 1),
                    self._last_size(axis, index[axis] + numbers[axis] - 1, ends=ends[axis]),
                )
                for axis in range(axes)
            ),
            tuple(call.args for row in calls for call in row),
        )

    def _last_size(self, axis: int, number: int, *, ends: bool) -> int | None:
        """Size of the last block of a group along an axis, where it is known."""
        first = self._first[axis]
        if not ends or number == 0:
            return first
        if self._layout.last[axis] is None:
            noted = self._stage.size(axis, number)
            if noted != first:  # an earlier start has come so far; the first's size may be a guess
                self._layout.last[axis] = noted
        return self._layout.last[axis]

    def _take(self, assignment: Assignment) -> None:
        """See that the units of an assignment are stored; what is stored is not computed again."""
        if self._is_stored(assignment):
            if not self._verified:
                one = Assignment(
                    assignment.index,
                    assignment.origin,
                    tuple((sizes[0],) for sizes in assignment.sizes),
                    assignment.arguments[:1],
                )
                self._crew.ask(compare, self._maker, self._site, one, self._attempt.options.rtol)
                self._verified = True
            last = (sizes[-1] for sizes in assignment.sizes)
            self._note(
                assignment,
                Receipt(
                    tuple(
                        first if size is None else size
                        for size, first in zip(last, self._first, strict=False)
                    ),
                    written=True,
                ),
            )
            return
        ends = (
            at + size for at, size in zip(assignment.origin, self._extents(assignment), strict=True)
        )
        self._stage.make_room(tuple(ends))
        self._give(assignment)

    def _give(self, assignment: Assignment) -> None:
        while self._crew.is_busy:
            self._settle(self._crew.collect())
        self._crew.give(assignment, self._maker, self._site)
        axes = range(self._layout.axes)
        while any(assignment.sizes[n][-1] is None and self._layout.last[n] is None for n in axes):
            self._settle(self._crew.collect())  # others need to know this size as well

    def _settle(self, receipts: Iterator[tuple[Assignment, Receipt]]) -> None:
        again: list[Assignment] = []
        for assignment, receipt in receipts:
            self._note(assignment, receipt)
            if not receipt.written:
                sizes = tuple(
                    (*sizes[:-1], last)
                    for sizes, last in zip(assignment.sizes, receipt.last, strict=True)
                )
                again.append(replace(assignment, sizes=sizes))
        for assignment in again:
            self._give(assignment)

    def _note(self, assignment: Assignment, receipt: Receipt) -> None:
        """Learn from a receipt what sizes the last blocks have, before they are written."""
        for axis, (sizes, size) in enumerate(zip(assignment.sizes, receipt.last, strict=True)):
            if sizes[-1] is None:
                self._layout.last[axis] = size
                if size != self._first[axis]:
                    number = assignment.index[axis] + len(sizes) - 1
                    self._stage.note(axis, number, size)
        if receipt.written:
            self._layout.taken += assignment.count

    def _is_stored(self, assignment: Assignment) -> bool:
        if self._stage.done is None:
            return False
        for axis, sizes in enumerate(assignment.sizes):
            for number, size in enumerate(sizes, start=assignment.index[axis]):
                noted = self._stage.size(axis, number)
                if noted is not None and size is not None and noted != size:
                    raise BlockShapeError(
                        f"block {number} along axis {axis} has size {noted} in the unfinished "
                        f"write, expected {size}; with an executor all blocks but the last have "
                        "the size of the first: leave out executor= to go on",
                        block=block_name(assignment.index),
                        expected=size,
                        got=noted,
                    )
        return self._stage.is_stored(assignment.origin, self._extents(assignment))

    def _extents(self, assignment: Assignment) -> Shape:
        """Extents of an assignment along the block axes, at most."""
        return tuple(
            sum(first if size is None else size for size in sizes)
            for sizes, first in zip(assignment.sizes, self._first, strict=False)
        )

    def _opened(self) -> Sent[Site]:
        """Mark the unfinished write as this run's, and tell the workers where it is."""
        attempt, staged = self._attempt, self._stage.staged
        mark = None if self._crew.shares_memory else secrets.token_hex(8)
        if mark is not None:
            write_key(attempt.store, mark_key(attempt.path), mark.encode())
        site = Site(
            attempt.store,
            attempt.path,
            dict(staged.document),
            staged.array.dtype,
            self._first,
            mark,
            str(attempt.place),
        )
        return self._crew.send(site, "the store")

    def _misaligned(self, axis: int) -> BlockShapeError:
        size, unit = self._first[axis], self._stage.plan.unit[axis]
        what = "shard" if self._stage.plan.shards else "chunk"
        index = tuple(int(axis == number) for number in range(self._layout.axes))
        cell = align_down(size, unit)
        return BlockShapeError(
            f"block {block_name(index)} begins at {size} along axis {axis}, inside the {what} of "
            f"{cell} to {cell + unit - 1}; with an executor no two workers may share a {what}: "
            f'pass chunks="blocks", or {what}s whose extent divides {size} or is a multiple of it',
            block=block_name(index),
            expected=f"a multiple of {unit}",
            got=size,
        )


def _bands(rows: Iterator[T], size: int) -> Iterator[tuple[Sequence[T], bool]]:
    """Group rows, and tell of each group whether it is the last."""
    band = tuple(islice(rows, size))
    while band:
        following = tuple(islice(rows, size))
        yield band, not following
        band = following


def _check_first(shape: Shape, axes: int) -> None:
    if axes == 1:
        check_flat_block(shape, shape, block=0)
    else:
        check_grid_block(shape, shape, block=(0, 0))
    if 0 in shape[:axes]:
        raise BlockShapeError(
            f"the first block has shape {shape}, and with an executor all blocks have its size; "
            "leave out executor=, or the empty block",
            block=block_name((0,) * axes),
            expected="positive sizes",
            got=shape,
        )


def _check_row(row: Sequence[object], columns: int, number: int) -> None:
    if not row:
        raise empty_row(number)
    if len(row) != columns:
        raise ragged_row(number, min(len(row), columns), f"{len(row)} blocks", columns)
