"""Many workers: each computes blocks and writes their chunks; here they are told which.

Workers cannot know where a block lies unless all blocks before it have known sizes, so here all
blocks have the size of the first, but for the last along each axis. They never share a chunk (a
shard, where there are shards), so blocks are grouped until they fall on whole ones.
"""

from __future__ import annotations

import importlib
import math
import os
import pickle
import secrets
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

from lazychunks.errors import BlockShapeError, DestinationError, NotSpreadableError
from lazychunks.shapes import Shape, align_down, check_flat_block, check_grid_block, group_count
from lazychunks.sources import Task
from lazychunks.storage.arrays import write_key
from lazychunks.storage.assembly import empty_row, ragged_row
from lazychunks.storage.attempt import Attempt, Stage
from lazychunks.storage.options import Provider
from lazychunks.storage.resuming import DoneUnits
from lazychunks.storage.workers import (
    Assignment,
    Maker,
    Receipt,
    Sent,
    Shared,
    Shipped,
    Site,
    block_name,
    compare,
    mark_key,
    probe,
    store,
)

if TYPE_CHECKING:
    from lazychunks.converters import ToNumpy

__all__ = ["Crew", "EvenLayout", "spread"]

T = TypeVar("T")

SENT_WITH_EACH_TASK = 2**20
"""Bytes up to which dask gets what all tasks share with each of them, and not beforehand."""

_CLOUDPICKLING = frozenset({"distributed", "loky"})

TASKS_EACH = 2
"""Number of tasks under way for each worker, where the user does not say: one waits for it."""


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


class Crew:
    """The workers of an executor, and what they have been given.

    Leaving it waits for what has begun, so that nothing is written later.

    Parameters
    ----------
    asked
        An executor, or what provides one.
    max_in_flight
        Number of tasks given and not ended, at most.
    """

    def __init__(self, asked: Executor | Provider, max_in_flight: int | None) -> None:
        self._client = asked if isinstance(asked, Provider) else None
        # Equal calls are not one call: a task that ran before must run again to write again.
        self._executor = asked.get_executor(pure=False) if isinstance(asked, Provider) else asked
        self.shares_memory: bool = type(self._executor) is ThreadPoolExecutor
        self._bound = max_in_flight or TASKS_EACH * _worker_count(asked)
        self._pending: dict[Future[Receipt], Assignment] = {}
        context = getattr(self._executor, "_mp_context", None)
        if context is not None and context.get_start_method() == "fork" and "torch" in sys.modules:
            raise NotSpreadableError(
                "torch does not survive a fork, and this executor forks its workers; make it with "
                'mp_context=multiprocessing.get_context("spawn")'
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
        /,
    ) -> None:
        interrupt: KeyboardInterrupt | None = None
        if self._client is None:  # dask forgets what is cancelled, but does not stop it
            for future in self._pending:
                future.cancel()
        while True:
            try:
                wait(self._pending)
                break
            except KeyboardInterrupt as again:  # what is under way ends all the same
                interrupt = again
        self._pending.clear()
        if interrupt is not None:
            raise interrupt

    def send(self, value: T, what: str) -> Sent[T]:
        """Make a value that every task gets.

        Raises
        ------
        NotSpreadableError
            If it cannot be sent to other processes.
        """
        if self.shares_memory:
            return Shared(value)
        shipped: Shipped[T] = Shipped(self.pickled(value, what))
        if self._client is not None and len(shipped.data) > SENT_WITH_EACH_TASK:
            scattered: Sent[T] = self._client.scatter(shipped, broadcast=True)
            return scattered
        return shipped

    def pickled(self, value: object, what: str) -> bytes:
        """Pickle a value, as the executor does: dask and loky send what is defined inline, too."""
        package = type(self._executor).__module__.partition(".")[0]
        pickler: Any = (
            importlib.import_module("cloudpickle") if package in _CLOUDPICKLING else pickle
        )
        try:
            data: bytes = pickler.dumps(value)
        except Exception as error:
            raise NotSpreadableError(
                f"{what} cannot be sent to other processes ({type(error).__name__}: {error}); "
                "define functions and classes at the top level of a module, or use a "
                "ThreadPoolExecutor"
            ) from error
        return data

    def ask(self, fn: Callable[..., T], /, *args: object) -> T:
        """Give a task and wait for its result."""
        future: Future[Any] = self._executor.submit(fn, *args)
        self._pending[future] = _NOTHING
        wait((future,))
        del self._pending[future]
        result: T = future.result()
        return result

    def give(self, assignment: Assignment, maker: Sent[Maker[Any]], site: Sent[Site]) -> None:
        """Give an assignment to store."""
        self._pending[self._executor.submit(store, maker, site, assignment)] = assignment

    @property
    def is_busy(self) -> bool:
        """Whether no more may be given for now."""
        return len(self._pending) >= self._bound

    def collect(self) -> Iterator[tuple[Assignment, Receipt]]:
        """Wait until something has ended, and hand it out."""
        ended, _ = wait(self._pending, return_when=FIRST_COMPLETED)
        for future in ended:
            yield self._pending.pop(future), future.result()

    def collect_all(self) -> Iterator[tuple[Assignment, Receipt]]:
        """Wait until everything has ended, and hand it out."""
        while self._pending:
            yield from self.collect()


_NOTHING = Assignment((), (), (), ())


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
        self._check_complete()

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

    def _check_complete(self) -> None:
        """Refuse to publish what is not all there, whatever the receipts say."""
        lengths = self._layout.lengths
        if not (math.prod(lengths) and self._attempt.store.supports_listing):
            return
        if not DoneUnits(self._attempt.keys(), self._stage.plan).cover(
            (0,) * len(lengths), lengths
        ):
            raise DestinationError(
                f"chunks of {self._attempt.place} that workers have written are not there; use a "
                "store that all of them share",
                path=str(self._attempt.place),
            )

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


def _worker_count(asked: Executor | Provider) -> int:
    """Ask for the number of workers; the number of cores where nobody says."""
    threads = getattr(asked, "nthreads", None)
    if threads is not None:
        count: int = sum(threads().values())
        return max(count, 1)
    workers: int | None = getattr(asked, "_max_workers", None)
    return workers or os.cpu_count() or 1
