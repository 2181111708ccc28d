"""Blocks computed ahead of their consumer: in order, a bounded number of them at a time."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Generic, Self, TypeAlias, TypeVar

from lazychunks.blocks.factories import (
    BlockCall,
    Composed,
    Items,
    MapBacked,
    change_inside_progress,
    how_to_skip,
    is_map_backed,
)
from lazychunks.errors import SourceExhaustedError
from lazychunks.layout.checks import check_positive

T = TypeVar("T")
U = TypeVar("U")
T_co = TypeVar("T_co", covariant=True)


@dataclass(frozen=True, slots=True)
class Ahead(MapBacked[T_co], Generic[T_co]):
    """A map-backed factory whose blocks are computed ahead, beyond the ends of rows too."""

    source: MapBacked[Any]
    """Flat or nested; its blocks are computed ahead."""
    executor: Executor | None
    """Computes the blocks; ``None`` for threads that each run starts and ends itself."""
    max_in_flight: int
    """Largest number of blocks that are being computed or wait to be consumed."""
    fn: Callable[..., T_co] | None = None
    """Applied to each block in the thread that consumes it; only without an executor."""
    runs: list[_Run[Any]] | None = field(default=None, compare=False, repr=False)
    """The runs so far, where they are closed in the end: see :func:`closing_runs`."""

    @classmethod
    def of(cls, factory: object, *, executor: Executor, max_in_flight: int | None) -> Self:
        """Compute the blocks of a factory ahead.

        Raises
        ------
        TypeError
            If the factory is not map-backed, or the bound is no integer.
        ValueError
            If the bound is not positive.
        """
        if max_in_flight is None:
            max_in_flight = 2 * (os.cpu_count() or 1)
        bound = check_positive(max_in_flight, "max_in_flight")
        if is_map_backed(factory):
            return cls(factory, executor, bound)
        raise TypeError(
            "only the blocks of a map-backed sequence can be computed one by one; "
            + how_to_skip(factory)
        )

    @property
    def axes(self) -> int:
        """Number of block axes."""
        return self.source.axes

    def __call__(self) -> Iterator[Any]:
        """All blocks (nested: rows of blocks), in order."""
        with ExitStack() as stack:
            executor = self.executor
            if executor is None:
                own = ThreadPoolExecutor(self.max_in_flight, thread_name_prefix="lazychunks-ahead")
                executor = stack.enter_context(own)
            fn: Callable[..., T_co] = self.fn or _pass_on
            run = _Run(_list_steps(self.source), executor, self.max_in_flight, fn)
            if self.runs is not None:
                self.runs.append(run)
            # Left first: the threads end once no block waits for them any more.
            stack.enter_context(closing(run))
            while run.has_next():
                if self.axes == 1:
                    yield run.take_block()
                else:
                    yield run.take_row(run.row)
                    run.end_row()

    @property
    def function(self) -> Callable[..., T_co]:
        """Computes a block; nothing is computed ahead."""
        fn = self.source.function
        return fn if self.fn is None else Composed(fn, self.fn)

    def rows_of_items(self) -> Iterator[Iterator[Items]]:
        """Items of the source."""
        return self.source.rows_of_items()

    def map(self, fn: Callable[[T_co], U]) -> Ahead[U]:
        """Return the factory of ``fn(block)``, where an executor applies ``fn`` as well."""
        if self.executor is not None:
            return Ahead(self.source.map(fn), self.executor, self.max_in_flight)
        # The user knows nothing of the run's own threads. `fn` may reuse a buffer, or rely on a
        # mode of the consumer's thread, such as torch.no_grad.
        after = fn if self.fn is None else Composed(self.fn, fn)
        return Ahead(self.source, None, self.max_in_flight, after)

    def column_count(self) -> int | None:
        """Return the number of blocks in a row, where it is known."""
        return self.source.column_count()


@dataclass(frozen=True, slots=True)
class _Submitted:
    """A block that the executor computes."""

    call: BlockCall[object]
    future: Future[object]

    def result(self) -> object:
        return self.future.result()


@dataclass(frozen=True, slots=True)
class _Inline:
    """A block that is computed when it is taken."""

    call: BlockCall[object]

    def result(self) -> object:
        return self.call()


@dataclass(frozen=True, slots=True)
class _Failed:
    """An error of the columns' iterable, raised when the block would be taken."""

    error: Exception

    def result(self) -> object:
        raise self.error


@dataclass(frozen=True, slots=True)
class _RowEnd:
    """The end of a row of a nested sequence."""


_Step: TypeAlias = BlockCall[object] | _Failed | _RowEnd
_Entry: TypeAlias = _Submitted | _Inline | _Failed | _RowEnd


@dataclass(slots=True, eq=False)
class _Run(Generic[T]):
    """One run over the blocks: the next of them, in order, computed or being computed."""

    steps: Generator[_Step]
    executor: Executor
    max_in_flight: int
    fn: Callable[..., T]
    entries: deque[_Entry] = field(default_factory=deque[_Entry])
    in_flight: int = 0
    """Number of entries that are blocks."""
    row: int = 0
    """Number of the current row."""
    error: Exception | None = None
    """An error of the rows' iterable, raised once all blocks before it have been taken."""
    is_closed: bool = False
    """Whether the consumer has let go of the rows; one that it still holds is computed inline."""

    def has_next(self) -> bool:
        """Whether a block or the end of a row is left; raises an error whose turn has come."""
        self._look_ahead()
        if not self.entries and self.error is not None:
            raise self.error
        return bool(self.entries)

    def take_block(self) -> T:
        """Wait for the next block; the executor computes others while the consumer has it."""
        entry = self.entries.popleft()
        assert not isinstance(entry, _RowEnd)
        self.in_flight -= 1
        block = entry.result()
        self._look_ahead()
        return self.fn(block)

    def take_row(self, number: int) -> Iterator[T]:
        """Blocks up to the end of a row, unless the next row has been asked for."""
        while self.row == number:
            if not self.entries or isinstance(self.entries[0], _RowEnd):
                return
            yield self.take_block()
        raise SourceExhaustedError(
            f"row {number} is asked for blocks after the next row; consume each row before the "
            "next one is asked for, e.g. [list(row) for row in sequence]"
        )

    def end_row(self) -> None:
        """Drop the blocks of the row that the consumer did not want; cancel those not begun."""
        self.row += 1
        while self.entries:
            entry = self.entries.popleft()
            if isinstance(entry, _RowEnd):
                return
            self.in_flight -= 1
            if isinstance(entry, _Submitted) and not entry.future.cancel():
                # It has begun, so it occupies a worker until it ends. The bound would be exceeded
                # if the next row went ahead meanwhile.
                entry.future.exception()
        # The entries ended within the row: pass over its other calls, which were never submitted.
        for step in self.steps:
            if isinstance(step, _RowEnd):
                return

    def close(self) -> None:
        """Cancel blocks that have not begun; a row that is still held computes them inline."""
        # A consumer may hold a row longer than the rows: next(iter(sequence)) drops them at once.
        self.is_closed = True
        for index, entry in enumerate(self.entries):
            if isinstance(entry, _Submitted) and entry.future.cancel():
                self.entries[index] = _Inline(entry.call)

    def _look_ahead(self) -> None:
        """Start to compute as many blocks as the bound allows."""
        bound = 1 if self.is_closed else self.max_in_flight
        while self.in_flight < bound:
            try:
                step = next(self.steps)
            except StopIteration:
                return
            except Exception as error:  # noqa: BLE001  # raised when its turn comes
                self.error = error
                return
            self.entries.append(self._start(step))
            self.in_flight += not isinstance(step, _RowEnd)

    def _start(self, step: _Step) -> _Entry:
        if not isinstance(step, BlockCall):
            return step
        if self.is_closed:
            return _Inline(step)
        return _Submitted(step, self.executor.submit(step))


@contextmanager
def closing_runs(
    factory: Callable[[], Iterable[Any]],
) -> Generator[Callable[[], Iterable[Any]]]:
    """Yield a factory of which all runs are closed if the ``with`` block fails.

    Otherwise the traceback would keep alive what makes the items, such as processes.
    """
    runs: list[_Run[Any]] = []

    def change(inner: Any) -> Any:
        return replace(inner, runs=runs) if _is_shared(inner) else inner

    try:
        yield change_inside_progress(factory, change)
    except BaseException:
        for run in runs:
            run.close()
            run.steps.close()
        raise


def _is_shared(factory: object) -> bool:
    """Whether blocks are computed ahead by an executor that a run does not end itself."""
    return isinstance(factory, Ahead) and factory.executor is not None


def _pass_on(block: Any) -> Any:
    return block


def _list_steps(source: MapBacked[object]) -> Generator[_Step]:
    """Calls in order; in a nested sequence, with the ends of rows."""
    for row in source.rows_of_calls():
        try:
            yield from row
        except Exception as error:  # noqa: BLE001  # raised when its turn comes
            # Kept within its row. Otherwise a consumer that leaves the row before the error would
            # find no more rows, and no error.
            yield _Failed(error)
        if source.axes == 2:
            yield _RowEnd()
