"""Many workers: each computes blocks and writes their chunks; here they are told which.

Workers cannot know where a block lies unless all blocks before it have known sizes, so here all
blocks have the size of the first, but for the last along each axis. They never share a chunk (a
shard, where there are shards), so blocks are grouped until they fall on whole ones.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, TypeVar

from lazychunks.blocks.factories import BlockCall
from lazychunks.errors import BlockShapeError, NotSpreadableError
from lazychunks.layout.checks import block_name, check_block, check_row, empty_sequence
from lazychunks.layout.shapes import Region, Shape, align_down, group_count
from lazychunks.storage.attempt import Attempt
from lazychunks.storage.crew import Crew
from lazychunks.storage.stage import Stage
from lazychunks.storage.workers import (
    MARK,
    Assignment,
    Maker,
    Receipt,
    Sent,
    Site,
    compare,
    probe,
)

if TYPE_CHECKING:
    from lazychunks.converters import ToNumpy

T = TypeVar("T")


def spread(
    attempt: Attempt,
    rows: Iterator[Sequence[BlockCall[T]]],
    converter: ToNumpy[T],
) -> None:
    """Have the blocks of a sequence computed and stored by an executor's workers.

    Parameters
    ----------
    attempt
        The write; entered.
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
    EmptySequenceError, EmptyRowError
        If there is no block, or none in a row.
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
        raise empty_sequence()
    check_row(0, len(first), len(first))
    maker = Maker(first[0].func, converter, attempt.options.dtype is not None)
    sent = crew.send(maker, "the function that computes blocks, or the converter,")
    if not crew.shares_memory:
        crew.pickled(first[0].args, "an item")
        crew.pickled(attempt.publication.where.store, "the store")
    with crew:
        axes = len(attempt.counts)
        if attempt.stage is None:
            shape, dtype = crew.ask(probe, sent, first[0].args, axes)
            _check_first(shape, axes)
            attempt.begin(shape, dtype)
        else:
            _check_first(attempt.stage.first, axes)
        _Coordinator(attempt, crew, sent).run(chain((first,), rows))


class _Coordinator:
    """Cuts the rows of calls into assignments, and gives those that are not stored to the crew.

    Blocks have the first one's size, but for the last along each block axis.
    """

    def __init__(self, attempt: Attempt, crew: Crew, maker: Sent[Maker[Any]]) -> None:
        assert attempt.stage is not None
        self._attempt = attempt
        self._stage: Stage = attempt.stage
        self._axes = self._stage.plan.block_axes
        self._first: Shape = self._stage.first
        self._crew = crew
        self._maker = maker
        self._verified = False
        self._rows = 0
        self._columns = 0
        self._last: list[int | None] = [None] * self._axes
        """Size of the last block along each axis, once it is known."""
        self._site = self._opened()

    def run(self, rows: Iterator[Sequence[BlockCall[Any]]]) -> None:
        """Store everything."""
        below, across = (*map(group_count, self._first, self._stage.plan.unit), 1)[:2]
        for band, is_last in _bands(rows, below or 1):
            if below is None and not is_last:
                raise self._misaligned(0)
            if not self._rows:
                self._columns = len(band[0])
                if self._axes == 2:
                    self._stage.end(1, self._columns)
                if across is None and self._columns > 1:
                    raise self._misaligned(1)
            for number, row in enumerate(band, start=self._rows):
                check_row(number, len(row), self._columns)
            if is_last:
                self._stage.end(0, self._rows + len(band))
            for column in range(0, self._columns, across or 1):
                calls = [row[column : column + (across or 1)] for row in band]
                self._take(self._assignment(calls, column, is_last=is_last))
            self._rows += len(band)
        self._settle(self._crew.collect_all())
        lengths = tuple(
            (count - 1) * first + (first if last is None else last)
            for count, first, last in zip(self._counts, self._first, self._last, strict=False)
        )
        self._attempt.trim(self._counts, lengths)

    @property
    def _counts(self) -> Shape:
        return (self._rows, self._columns)[: self._axes]

    def _assignment(
        self, calls: list[Sequence[BlockCall[Any]]], column: int, *, is_last: bool
    ) -> Assignment:
        """Describe a group of calls: where it is, and what sizes its blocks have."""
        index = (self._rows, column)[: self._axes]
        numbers = (len(calls), len(calls[0]))[: self._axes]
        ends = (is_last, column + len(calls[0]) == self._columns)
        return Assignment(
            index,
            numbers,
            tuple(
                self._last_size(axis, start + number - 1) if ends[axis] else self._first[axis]
                for axis, (start, number) in enumerate(zip(index, numbers, strict=True))
            ),
            tuple(call.args for row in calls for call in row),
        )

    def _last_size(self, axis: int, number: int) -> int | None:
        """Size of the last block along an axis, where it is known."""
        if number == 0:
            return self._first[axis]
        if self._last[axis] is None:
            noted = self._stage.size(axis, number)
            if noted != self._first[axis]:  # by an earlier start; the first's size may be a guess
                self._last[axis] = noted
        return self._last[axis]

    def _take(self, assignment: Assignment) -> None:
        """See that the units of an assignment are stored; what is stored is not computed again."""
        region = assignment.region(self._first, assignment.last)
        if not self._is_stored(assignment, region):
            self._stage.make_room(tuple(span.stop for span in region[: self._axes]))
            self._give(assignment)
            return
        if not self._verified:
            rtol = self._attempt.options.rtol
            self._crew.ask(compare, self._maker, self._site, assignment, rtol)
            self._verified = True
        last = (
            first if size is None else size
            for size, first in zip(assignment.last, self._first, strict=False)
        )
        self._note(assignment, Receipt(tuple(last), written=True))

    def _give(self, assignment: Assignment) -> None:
        while self._crew.is_busy:
            self._settle(self._crew.collect())
        self._crew.give(assignment, self._maker, self._site)
        while any(
            size is None and known is None
            for size, known in zip(assignment.last, self._last, strict=True)
        ):
            self._settle(self._crew.collect())  # others need to know this size as well

    def _settle(self, receipts: Iterator[tuple[Assignment, Receipt]]) -> None:
        again: list[Assignment] = []
        for assignment, receipt in receipts:
            self._note(assignment, receipt)
            if not receipt.written:
                again.append(replace(assignment, last=receipt.last))
        for assignment in again:
            self._give(assignment)

    def _note(self, assignment: Assignment, receipt: Receipt) -> None:
        """Learn from a receipt what sizes the last blocks have, before they are written."""
        for axis, (known, size) in enumerate(zip(assignment.last, receipt.last, strict=True)):
            if known is None:
                self._last[axis] = size
                if size != self._first[axis]:
                    number = assignment.index[axis] + assignment.numbers[axis] - 1
                    self._stage.note(axis, number, size)
        if receipt.written:
            self._attempt.taken += len(assignment.arguments)

    def _is_stored(self, assignment: Assignment, region: Region) -> bool:
        if not self._stage.done.cells:
            return False
        for axis, start in enumerate(assignment.index):
            end = start + assignment.numbers[axis] - 1
            for number in range(start, end + 1):
                noted = self._stage.size(axis, number)
                if noted is None:
                    return False  # it was noted, and has been lost
                size = self._first[axis] if number < end else assignment.last[axis]
                if size is not None and noted != size:
                    raise BlockShapeError(
                        f"block {number} along axis {axis} has size {noted} in the unfinished "
                        f"write, expected {size}; with an executor all blocks but the last have "
                        "the size of the first: leave out executor= to go on",
                        block=block_name(assignment.index),
                        expected=size,
                        got=noted,
                    )
        return self._stage.done.cover(region)

    def _opened(self) -> Sent[Site]:
        """Mark the unfinished write as this run's, and tell the workers where it is."""
        staged = self._stage.staged
        mark = None if self._crew.shares_memory else secrets.token_hex(8)
        if mark is not None:
            staged.where.write(MARK, mark.encode())
        site = Site(
            staged.where,
            dict(staged.document),
            staged.array.dtype,
            self._first,
            mark,
            str(self._attempt.place),
        )
        return self._crew.send(site, "the store")

    def _misaligned(self, axis: int) -> BlockShapeError:
        size, unit = self._first[axis], self._stage.plan.unit[axis]
        what = "shard" if self._stage.plan.shards else "chunk"
        index = tuple(int(axis == number) for number in range(self._axes))
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
    check_block(shape, shape, (None,) * axes, block=block_name((0,) * axes))
    if 0 in shape[:axes]:
        raise BlockShapeError(
            f"the first block has shape {shape}, and with an executor all blocks have its size; "
            "leave out executor=, or the empty block",
            block=block_name((0,) * axes),
            expected="positive sizes",
            got=shape,
        )
