"""A fold of rows of blocks, made of a fold of blocks and a fold of row results."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, Generic, Self, TypeGuard, TypeVar, overload

from lazychunks.blocks.factories import counts_of
from lazychunks.errors import NotResumableError
from lazychunks.folds.fold import (
    AnyFold,
    AnyNestedFold,
    AnyPass,
    CollectBlocks,
    Fold,
    KeepsBlockType,
    NestedFold,
    PassAround,
)
from lazychunks.layout.parts import AnyPart, Part
from lazychunks.runs.passes import (
    AnyBlock,
    AnyPartFold,
    AnyPartRunning,
    AnyResult,
    AnyRunning,
    Counts,
    Setup,
    State,
    step_band,
)
from lazychunks.sequences import LazyChunkSequence, NestedLazyChunkSequence

T = TypeVar("T")
A = TypeVar("A")
R = TypeVar("R")
T_contra = TypeVar("T_contra", contravariant=True)
R_co = TypeVar("R_co", covariant=True)


@overload
def nest(inner: Fold[T, A], outer: KeepsBlockType) -> NestedFold[T, A]: ...
@overload
def nest(inner: Fold[T, A], outer: Fold[A, R]) -> NestedFold[T, R]: ...
@overload
def nest(
    inner: Fold[T, A], outer: Callable[[LazyChunkSequence[A]], R]
) -> Callable[[NestedLazyChunkSequence[T]], R]: ...
@overload
def nest(
    inner: Callable[[LazyChunkSequence[T]], A], outer: Callable[[LazyChunkSequence[A]], R]
) -> Callable[[NestedLazyChunkSequence[T]], R]: ...
def nest(
    inner: AnyFold | Callable[[LazyChunkSequence[Any]], Any], outer: Any
) -> AnyNestedFold | Callable[[NestedLazyChunkSequence[Any]], Any]:
    """Make an aggregator over rows of blocks from two flat ones.

    Parameters
    ----------
    inner
        Folds each row of blocks.
    outer
        Folds the row results.

    Returns
    -------
    NestedFold or callable
        A nested fold, which can be teed with others, if both are folds; else a plain aggregator.

    Examples
    --------
    >>> from operator import mul
    >>> nested = NestedLazyChunkSequence.from_product(mul, [1, 2], [3, 4])
    >>> nested.compute(nest(sum, max))
    14
    """
    if _is_fold(inner):
        inner = inner.in_rows()
        if _is_fold(outer):
            return NestFold(inner, outer)
    return NestedCallables(inner, outer)


def _is_fold(x: object) -> TypeGuard[AnyFold]:
    return isinstance(x, Fold)


@dataclass(frozen=True, slots=True, repr=False)
class NestFold(NestedFold[T_contra, R_co]):
    """The fold that :func:`nest` returns."""

    inner: Fold[T_contra, AnyResult]
    outer: Fold[AnyResult, R_co]

    def __repr__(self) -> str:
        """Return one line: both folds."""
        return f"nest({self.inner!r}, {self.outer!r})"

    @property
    def merges(self) -> bool:
        """Whether workers fold their part of each row."""
        return self.inner.merges

    @property
    def sends_blocks(self) -> bool:
        """Whether the fold of rows makes workers send blocks."""
        return self.inner.sends_blocks

    def for_parts(self, running: AnyPass, /) -> AnyPartFold:
        """Return the fold of rows for workers; row results are folded at the coordinator."""
        if running.stores_rows:
            return CollectBlocks()
        # Starting a pass has no effect before it is entered.
        return NestInParts(self.inner.for_parts(self.inner.start(running.counts)))

    def start_rows(self, counts: Counts, /) -> NestPass:
        """Start a pass."""
        outer = self.outer.start(counts[:1])
        for sink in outer.sinks:
            sink.is_behind_a_fold = True
        running = NestPass([outer], self.inner, counts[1:])
        for sink in (*outer.sinks, *running.started[0].sinks):
            if sink.resumes:
                raise NotResumableError(
                    "a sink inside of nest() stores single rows, or the results of rows, and only "
                    "the fold knows how they are made; leave out resume=True, or store the blocks "
                    "themselves"
                )
        return running

    def start_part(self, part: AnyPart, /) -> NestPart:
        """Start a pass over a part."""
        return NestInParts(self.inner).start_part(part)


@dataclass(slots=True, eq=False)
class NestPass(PassAround):
    """The outer pass, and the inner passes of the rows that have begun: of one row, or a band."""

    inner: AnyFold
    counts: Counts
    """Number of blocks in a row, if it is known."""
    blocks: int = field(default=0, init=False)
    """Number of blocks in the current row."""
    started: list[AnyRunning] = field(init=False)
    """Inner passes of rows that have not begun. The first one tells which sinks there are."""
    stores_rows: bool = field(init=False)
    """Whether inner passes have sinks, so that rows are gone through one after the other."""
    band: list[list[AnyBlock]] = field(default_factory=list[list[AnyBlock]], init=False)
    """Rows of blocks that wait for the other columns of their band, if rows are stored."""
    rows: list[AnyRunning] = field(default_factory=list[AnyRunning], init=False)
    row_stack: ExitStack = field(default_factory=ExitStack, init=False)

    def __post_init__(self) -> None:
        self.started = [self._start_row()]
        self.stores_rows = bool(self.started[0].sinks)

    def __enter__(self) -> Self:
        PassAround.__enter__(self)
        # Closed first: an inner pass is given up before the outer one.
        self.stack.enter_context(self.row_stack)
        return self

    def step(self, block: object, /) -> None:
        """Step the inner pass of the row."""
        rows = self.rows or self._open_rows(1)
        rows[0].step(block)
        self.blocks += 1

    def end_row(self) -> None:
        """Step the outer pass with the result of the row."""
        self._close_rows(self.rows or self._open_rows(1))  # a row may have no block
        # Where nobody knows the number of columns, the last row is a good guess for the next one.
        self.counts, self.blocks = (self.blocks,), 0

    def absorb(self, state: list[State], part: AnyPart, /) -> None:
        """Hand the states on to the inner passes; after the last column, step the outer pass."""
        if self.stores_rows:
            self.band = step_band(self, self.band, state, part)
            return
        # The first part of a band has a state for each of its rows; so do those in other columns.
        rows = self.rows or self._open_rows(len(state))
        for running, one in zip(rows, state, strict=True):
            running.absorb(one, _flat_part(part))
        if part.ends[1]:
            self._close_rows(rows)

    def finish(self) -> AnyResult:
        """Return the result of the outer pass."""
        return self.passes[0].finish()

    def _start_row(self) -> AnyRunning:
        running = self.inner.start(self.counts)
        for sink in running.sinks:
            sink.setup = Setup(can_skip=False)
        return running

    def _open_rows(self, number: int) -> list[AnyRunning]:
        rows, self.started = self.started, []
        while len(rows) < number:
            rows.append(self._start_row())
        self.rows = [self.row_stack.enter_context(row) for row in rows]
        return self.rows

    def _close_rows(self, rows: list[AnyRunning]) -> None:
        results = [running.finish() for running in rows]
        self.rows = []
        # Before the outer pass takes the results: it may fail, and these passes have ended well.
        self.row_stack.close()
        for result in results:
            self.passes[0].step(result)


@dataclass(frozen=True, slots=True)
class NestInParts:
    """What workers get of a :class:`NestFold`."""

    inner: AnyPartFold

    @property
    def sends_blocks(self) -> bool:
        """Whether workers send blocks for the fold of rows."""
        return self.inner.sends_blocks

    def start_part(self, part: AnyPart, /) -> NestPart:
        """Start a pass over a part."""
        return NestPart([], self.inner, _flat_part(part))


@dataclass(slots=True, eq=False)
class NestPart(PassAround):
    """Passes over the rows of a part, one after the other."""

    inner: AnyPartFold
    part: AnyPart
    """The part of each row."""
    row: AnyPartRunning | None = field(default=None, init=False)
    states: list[State] = field(default_factory=list[State], init=False)

    def step(self, block: object, /) -> None:
        """Step the pass over the row."""
        self._current_row().step(block)

    def end_row(self) -> None:
        """Keep the state of the row."""
        self.states.append(self._current_row().state())  # a row without blocks has a state as well
        self.row = None
        self.stack.close()

    def state(self) -> list[State]:
        """Return the states of the rows."""
        return self.states

    def _current_row(self) -> AnyPartRunning:
        if self.row is None:
            self.row = self.stack.enter_context(self.inner.start_part(self.part))
        return self.row


def _flat_part(part: AnyPart) -> AnyPart:
    """Return a part of a nested sequence as the inner fold sees it: a part of one row."""
    # Blocks are numbered within the row, so that the row is folded like a sequence of its own.
    return Part(part.number, (part.index[1], 0), (), (part.ends[1], True), axes=1)


@dataclass(frozen=True, slots=True)
class NestedCallables(Generic[T_contra, R_co]):
    """The plain aggregator that :func:`nest` returns."""

    inner: Callable[[LazyChunkSequence[T_contra]], Any]
    outer: Callable[[LazyChunkSequence[Any]], R_co]

    def __call__(self, rows: Iterable[Iterable[T_contra]], /) -> R_co:
        """Aggregate the results of rows, each of which is aggregated when it is asked for."""
        # Lazily: a row may only be iterated while it is the current one.
        results = (self.inner(_sequence_of(row)) for row in rows)
        return self.outer(LazyChunkSequence(lambda: results, counts_of(rows)[0]))


def _sequence_of(row: Iterable[T]) -> LazyChunkSequence[T]:
    # A generator, since it may be empty, and is refused once it has run.
    blocks = _generate(row) if isinstance(row, Iterator) else row
    return LazyChunkSequence(lambda: blocks)


def _generate(row: Iterable[T]) -> Iterator[T]:
    yield from row
