"""Blocks computed ahead of their consumer: in order, a bounded number of them at a time."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any, Generic, Self, TypeAlias, TypeVar

from lazychunks.blocks.sources import Composed, MapBacked, positive
from lazychunks.errors import SourceExhaustedError

T_co = TypeVar("T_co", covariant=True)

_Entry: TypeAlias = tuple[Callable[[], Any], Future[Any]]


@dataclass(frozen=True, slots=True)
class _Ahead(MapBacked, Generic[T_co]):
    """What is the same whether blocks come in rows or not."""

    source: MapBacked
    executor: Executor | None
    """Computes the blocks; ``None`` for threads of each run's own."""
    max_in_flight: int
    """Number of blocks that are being computed or wait to be consumed, at most."""
    fn: Callable[[Any], T_co] | None = None
    """Applied to each block by its consumer, who need not know of the run's own threads."""

    @classmethod
    def of(cls, factory: object, *, executor: Executor, max_in_flight: int | None) -> Self:
        """Compute the blocks of a factory ahead.

        Raises
        ------
        TypeError
            If it is not map-backed, or the bound is no integer.
        ValueError
            If the bound is not positive.
        """
        if max_in_flight is None:
            max_in_flight = 2 * (os.cpu_count() or 1)
        bound = positive(max_in_flight, "max_in_flight")
        if isinstance(factory, MapBacked):
            return cls(factory, executor, bound)
        raise TypeError(
            "only the blocks of a map-backed sequence can be computed one by one; build it with "
            "LazyChunkSequence.from_map or NestedLazyChunkSequence.from_product"
        )

    def tasks(self) -> Iterator[Any]:
        """Calls that compute the blocks; nothing is computed ahead."""
        return (self.source if self.fn is None else self.source.mapped(self.fn)).tasks()

    def mapped(self, fn: Callable[[Any], Any]) -> Self:
        """Factory of ``fn(block)``, where an executor applies ``fn`` as well."""
        if self.executor is not None:
            return replace(self, source=self.source.mapped(fn))
        return replace(self, fn=fn if self.fn is None else Composed(self.fn, fn))

    def column_count(self) -> int | None:
        """Number of blocks in a row, where it is known."""
        return self.source.column_count()


@dataclass(frozen=True, slots=True)
class Ahead(_Ahead[T_co]):
    """A map-backed factory whose blocks are computed ahead by an executor."""

    def __call__(self) -> Iterator[T_co]:
        """All blocks, in order."""
        with _Queue(self.executor, self.source.tasks(), self.max_in_flight, self.fn) as queue:
            while queue.has_more():
                yield queue.take()


@dataclass(frozen=True, slots=True)
class AheadRows(_Ahead[T_co]):
    """A nested map-backed factory whose blocks are computed ahead, beyond the ends of rows too."""

    def __call__(self) -> Iterator[Iterator[T_co]]:
        """All rows, in order."""
        tasks = _flattened(self.source.tasks())
        with _Queue(self.executor, tasks, self.max_in_flight, self.fn) as queue:
            while queue.has_more():
                yield queue.row(queue.number)
                queue.end_row()


@dataclass(slots=True, eq=False)
class _Queue:
    """Calls for the next blocks, in order, with their futures; ``None`` ends a row.

    Leaving it cancels what has not begun. A row that is still held then goes on, one block at a
    time and without the executor.
    """

    executor: Executor | None
    tasks: Iterator[Callable[[], Any] | None]
    max_in_flight: int
    fn: Callable[[Any], Any] | None
    entries: deque[_Entry | None] = field(default_factory=deque[_Entry | None])
    in_flight: int = 0
    number: int = 0
    """Of the row."""
    stack: ExitStack = field(default_factory=ExitStack)

    def __enter__(self) -> Self:
        if self.executor is None:
            own = ThreadPoolExecutor(self.max_in_flight, thread_name_prefix="lazychunks-ahead")
            self.executor = self.stack.enter_context(own)
        return self

    def __exit__(self, *error: object) -> None:
        self.executor = None
        self.max_in_flight = 1
        for entry in self.entries:
            if entry is not None:
                entry[1].cancel()
        self.stack.close()

    def has_more(self) -> bool:
        """Submit as much as there is room for; whether anything is left."""
        entry: _Entry | None
        while self.in_flight < self.max_in_flight:
            try:
                task = next(self.tasks)
            except StopIteration:
                break
            except Exception as error:  # noqa: BLE001  # raised when its turn comes
                entry = _failed(error)
            else:
                entry = None if task is None else (task, self._submit(task))
            self.entries.append(entry)
            self.in_flight += entry is not None
        return bool(self.entries)

    def take(self) -> Any:
        """Wait for the next block; others are computed while the consumer has it."""
        entry = self.entries.popleft()
        assert entry is not None
        task, future = entry
        self.in_flight -= 1
        block = task() if self.executor is None and future.cancelled() else future.result()
        self.has_more()
        return block if self.fn is None else self.fn(block)

    def row(self, number: int) -> Iterator[Any]:
        """Blocks up to the end of the row; an error where the next row has been asked for."""
        while self.number == number:
            if not self.has_more() or self.entries[0] is None:
                return
            yield self.take()
        raise SourceExhaustedError(
            f"row {number} is asked for blocks after the next row; consume each row before the "
            "next one is asked for, e.g. [list(row) for row in sequence]"
        )

    def end_row(self) -> None:
        """Drop what the consumer did not want of the row; what has not begun is not computed."""
        self.number += 1
        while self.entries:
            entry = self.entries.popleft()
            if entry is None:
                return
            self.in_flight -= 1
            if not entry[1].cancel():
                entry[1].exception()  # wait: it is in flight until it ends
        for task in self.tasks:
            if task is None:
                return

    def _submit(self, task: Callable[[], Any]) -> Future[Any]:
        if self.executor is not None:
            return self.executor.submit(task)
        future: Future[Any] = Future()
        future.cancel()
        return future


def _failed(error: Exception) -> _Entry:
    future: Future[Any] = Future()
    future.set_exception(error)
    return future.result, future


def _flattened(rows: Iterator[Iterator[Callable[[], Any]]]) -> Iterator[Callable[[], Any] | None]:
    for row in rows:
        yield from row
        yield None
