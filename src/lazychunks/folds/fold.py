"""Folds as values: one pass over the blocks, many results.

A :class:`Fold` describes how to go through blocks and what comes out; it holds nothing itself.
Starting it gives a :class:`Running`, the short-lived state of one pass. That is enough to combine
folds: :func:`tee` steps several through one generation of the blocks, :func:`nest` makes one over
rows of blocks from one for a row and one for the row results.

Source: "beautiful folds" (Max Rabkin, 2008; Gabriella Gonzalez' Haskell package ``foldl``).
"""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Generic, Protocol, Self, TypeGuard, TypeVar, overload

from lazychunks.blocks.factories import counts_of, is_nested
from lazychunks.blocks.iterate import closing_generator, refuse_array
from lazychunks.sequences import LazyChunkSequence, NestedLazyChunkSequence

S = TypeVar("S")
T = TypeVar("T")
A = TypeVar("A")
U = TypeVar("U")
R = TypeVar("R")
R1 = TypeVar("R1")
R2 = TypeVar("R2")
R3 = TypeVar("R3")
R4 = TypeVar("R4")
R5 = TypeVar("R5")
R6 = TypeVar("R6")
T_contra = TypeVar("T_contra", contravariant=True)
R_co = TypeVar("R_co", covariant=True)

Counts = tuple[int | None, ...]
"""Number of blocks along each block axis, where it is known: one for a flat sequence, or two."""


class Running(AbstractContextManager["Running[T_contra, R_co]", None], Protocol[T_contra, R_co]):
    """One pass of a fold.

    A context manager: entering it begins the pass; leaving it releases what the pass holds, and by
    an exception gives the pass up, that is, undoes what it has done.
    """

    def step(self, block: T_contra, /) -> None:
        """Take the next block, whose memory may be reused as soon as this returns."""
        ...

    def finish(self) -> R_co:
        """Return the result; called once, after the last block."""
        ...

    @property
    def publishes(self) -> bool:
        """Whether :meth:`finish` shows something to others: such passes finish last."""
        ...

    def prepare(self) -> None:
        """Do what may fail before :meth:`finish`; harmless if called twice."""
        ...


class RunningRows(Running[T_contra, R_co], Protocol[T_contra, R_co]):
    """One pass of a fold over rows of blocks."""

    def __enter__(self) -> Self:
        """Begin the pass."""
        ...

    def end_row(self) -> None:
        """Close a row."""
        ...


class Pass:
    """Base of a :class:`Running` that has nothing to release."""

    __slots__ = ()

    publishes: bool = False

    def prepare(self) -> None:
        """There is nothing to prepare."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
        /,
    ) -> None:
        return None


class Fold(Generic[T_contra, R_co]):
    """A left fold over blocks, as a value; callable over any iterable of them.

    Subclasses say how to :meth:`start`; :func:`fold` makes one from plain functions.

    Examples
    --------
    >>> rows = fold(lambda n, block: n + len(block), 0)
    >>> rows([[1, 2], [3]])
    3
    >>> rows.then(str)([[1, 2], [3]])
    '3'
    """

    __slots__ = ()

    @abstractmethod
    def start(self, counts: Counts, /) -> Running[T_contra, R_co]:
        """Start a pass; ``counts`` is a hint."""

    def __call__(self, blocks: Iterable[T_contra], /) -> R_co:
        """Fold blocks in one pass; a pass that fails releases what it holds."""
        with self.start(counts_of(blocks)[:1]) as running:
            step = running.step
            for block in blocks:
                step(block)
            return running.finish()

    def then(self, fn: Callable[[R_co], U]) -> Fold[T_contra, U]:
        """Return the fold whose result is ``fn`` of this one's."""
        return _Tee((self,), after=fn)

    def contramap(self, fn: Callable[[A], T_contra]) -> Fold[A, R_co]:
        """Return the fold that takes ``fn(block)`` for each block."""
        return _Tee((self,), fn, _same)


class Joins:
    """Mark of a fold whose result is of its blocks' type, whatever that is, for :func:`nest`."""

    __slots__ = ()


class NestedFold(Generic[T_contra, R_co]):
    """A left fold over rows of blocks, as a value; callable over any iterable of rows."""

    __slots__ = ()

    @abstractmethod
    def start_rows(self, counts: Counts, /) -> RunningRows[T_contra, R_co]:
        """Start a pass; ``counts`` is a hint."""

    def __call__(self, rows: Iterable[Iterable[T_contra]], /) -> R_co:
        """Fold rows of blocks in one pass; a pass that fails releases what it holds.

        Raises
        ------
        SourceTypeError
            If a row is an array, whose own rows would pass for blocks.
        """
        with self.start_rows(counts_of(rows)) as running:
            step = running.step
            for row in rows:
                refuse_array(row, "a row")
                with closing_generator(row):
                    for block in row:
                        step(block)
                running.end_row()
            return running.finish()


class EitherFold(Fold[T_contra, R_co], NestedFold[T_contra, R_co]):
    """A fold over blocks, and over rows of blocks if they are a nested sequence, as a sink is."""

    __slots__ = ()

    def __call__(self, blocks: Iterable[T_contra] | Iterable[Iterable[T_contra]], /) -> R_co:
        """Fold blocks, or rows of blocks if they are a nested sequence."""
        asked: Any = blocks
        if is_nested(asked):
            return super(Fold, self).__call__(asked)  # as a NestedFold, which comes after Fold
        return super().__call__(asked)


@overload
def fold(step: Callable[[S, T], S], initial: S) -> Fold[T, S]: ...
@overload
def fold(step: Callable[[S, T], S], initial: S, finish: Callable[[S], R]) -> Fold[T, R]: ...
def fold(
    step: Callable[[Any, T], Any], initial: object, finish: Callable[[Any], Any] | None = None
) -> Fold[T, Any]:
    """Make a fold from plain functions.

    Parameters
    ----------
    step
        Takes the state and a block, and returns the next state; it may change the state in place.
    initial
        The state before the first block; copied (deeply) for each pass.
    finish
        Makes the result of the last state; by default it is that state.

    Examples
    --------
    >>> mean = fold(lambda s, x: (s[0] + x, s[1] + 1), (0.0, 0), lambda s: s[0] / s[1])
    >>> mean([1.0, 2.0, 6.0])
    3.0
    """
    return _Stepwise(step, initial, finish or _same)


@overload
def tee(f1: EitherFold[T, R1], f2: EitherFold[T, R2], /) -> EitherFold[T, tuple[R1, R2]]: ...
@overload
def tee(f1: Fold[T, R1], f2: Fold[T, R2], /) -> Fold[T, tuple[R1, R2]]: ...
@overload
def tee(f1: Fold[T, R1], f2: Fold[T, R2], f3: Fold[T, R3], /) -> Fold[T, tuple[R1, R2, R3]]: ...
@overload
def tee(
    f1: Fold[T, R1], f2: Fold[T, R2], f3: Fold[T, R3], f4: Fold[T, R4], /
) -> Fold[T, tuple[R1, R2, R3, R4]]: ...
@overload
def tee(
    f1: Fold[T, R1], f2: Fold[T, R2], f3: Fold[T, R3], f4: Fold[T, R4], f5: Fold[T, R5], /
) -> Fold[T, tuple[R1, R2, R3, R4, R5]]: ...
@overload
def tee(
    f1: Fold[T, R1],
    f2: Fold[T, R2],
    f3: Fold[T, R3],
    f4: Fold[T, R4],
    f5: Fold[T, R5],
    f6: Fold[T, R6],
    /,
) -> Fold[T, tuple[R1, R2, R3, R4, R5, R6]]: ...
@overload
def tee(f1: NestedFold[T, R1], f2: NestedFold[T, R2], /) -> NestedFold[T, tuple[R1, R2]]: ...
@overload
def tee(
    f1: NestedFold[T, R1], f2: NestedFold[T, R2], f3: NestedFold[T, R3], /
) -> NestedFold[T, tuple[R1, R2, R3]]: ...
@overload
def tee(
    f1: NestedFold[T, R1],
    f2: NestedFold[T, R2],
    f3: NestedFold[T, R3],
    f4: NestedFold[T, R4],
    /,
) -> NestedFold[T, tuple[R1, R2, R3, R4]]: ...
@overload
def tee(
    f1: NestedFold[T, R1],
    f2: NestedFold[T, R2],
    f3: NestedFold[T, R3],
    f4: NestedFold[T, R4],
    f5: NestedFold[T, R5],
    /,
) -> NestedFold[T, tuple[R1, R2, R3, R4, R5]]: ...
@overload
def tee(
    f1: NestedFold[T, R1],
    f2: NestedFold[T, R2],
    f3: NestedFold[T, R3],
    f4: NestedFold[T, R4],
    f5: NestedFold[T, R5],
    f6: NestedFold[T, R6],
    /,
) -> NestedFold[T, tuple[R1, R2, R3, R4, R5, R6]]: ...
def tee(*folds: Fold[Any, Any] | NestedFold[Any, Any]) -> Fold[Any, Any] | NestedFold[Any, Any]:
    """Run several folds over one generation of the blocks.

    Law: ``tee(f, g)(blocks) == (f(blocks), g(blocks))``, while the blocks are generated once. If
    the pass fails, each fold releases what it holds, so that a sink leaves its destination as it
    was; sinks finish last, after all other results are there.

    Parameters
    ----------
    *folds
        Two to six folds over blocks, or over rows of blocks; results of ``tee`` included.

    Returns
    -------
    Fold or NestedFold
        Its result is the tuple of the folds' results.

    Raises
    ------
    TypeError
        If the folds cannot go through the same blocks.

    Examples
    --------
    >>> both = tee(fold(lambda n, x: n + 1, 0), fold(max, 0))
    >>> both([3, 1, 2])
    (3, 3)
    """
    of_blocks = all(isinstance(f, Fold) for f in folds)
    of_rows = all(isinstance(f, NestedFold) for f in folds)
    if not (of_blocks or of_rows):
        raise TypeError(
            "tee takes folds over blocks, or folds over rows of blocks, not both: "
            f"{', '.join(type(f).__name__ for f in folds)}; fold() makes a fold of a plain "
            "function, nest() a nested one of two flat ones"
        )
    if of_blocks and of_rows:
        return _EitherTee(folds)
    return _Tee(folds) if of_blocks else _NestedTee(folds)


@overload
def nest(inner: Fold[T, A], outer: Joins) -> NestedFold[T, A]: ...
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
    inner: Fold[Any, Any] | Callable[[LazyChunkSequence[Any]], Any],
    outer: Any,
) -> NestedFold[Any, Any] | Callable[[NestedLazyChunkSequence[Any]], Any]:
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
    if _is_fold(inner) and _is_fold(outer):
        return _Nested(inner, outer)
    return _NestedCalls(inner, outer)


def _is_fold(x: object) -> TypeGuard[Fold[Any, Any]]:
    return isinstance(x, Fold)


def _same(result: T) -> T:
    return result


def _all(*results: Any) -> tuple[Any, ...]:
    return results


@dataclass(frozen=True, slots=True)
class _Stepwise(Fold[T_contra, R_co]):
    step: Callable[[Any, T_contra], Any]
    initial: object
    finish: Callable[[Any], R_co]

    def start(self, counts: Counts, /) -> Running[T_contra, R_co]:  # noqa: ARG002
        return _StepwiseRunning(self.step, copy.deepcopy(self.initial), self.finish)


@dataclass(frozen=True, slots=True)
class _Teed:
    """Folds in one pass, with a function before them, and one of their results."""

    folds: tuple[Any, ...]
    before: Callable[[Any], Any] | None = None
    after: Callable[..., Any] = _all


class _Tee(_Teed, Fold[Any, Any]):
    __slots__ = ()

    def start(self, counts: Counts, /) -> Running[Any, Any]:
        return _TeeRunning([f.start(counts) for f in self.folds], self.before, self.after)


class _NestedTee(_Teed, NestedFold[Any, Any]):
    __slots__ = ()

    def start_rows(self, counts: Counts, /) -> RunningRows[Any, Any]:
        return _TeeRunning([f.start_rows(counts) for f in self.folds], self.before, self.after)


class _EitherTee(_Tee, _NestedTee, EitherFold[Any, Any]):
    __slots__ = ()


@dataclass(frozen=True, slots=True)
class _Nested(NestedFold[T_contra, R_co]):
    inner: Fold[T_contra, Any]
    outer: Fold[Any, R_co]

    def start_rows(self, counts: Counts, /) -> RunningRows[T_contra, R_co]:
        return _NestedRunning([self.outer.start(counts[:1])], self.inner, counts[1:])


@dataclass(frozen=True, slots=True)
class _NestedCalls(Generic[T_contra, R_co]):
    inner: Callable[[LazyChunkSequence[T_contra]], Any]
    outer: Callable[[LazyChunkSequence[Any]], R_co]

    def __call__(self, rows: Iterable[Iterable[T_contra]], /) -> R_co:
        results = (self.inner(_sequence_of(row)) for row in rows)
        return self.outer(LazyChunkSequence(lambda: results, counts_of(rows)[0]))


def _sequence_of(row: Iterable[T]) -> LazyChunkSequence[T]:
    # A generator, since it may be empty, and is refused once it has run.
    blocks = _blocks_of(row) if isinstance(row, Iterator) else row
    return LazyChunkSequence(lambda: blocks)


def _blocks_of(row: Iterable[T]) -> Iterator[T]:
    yield from row


@dataclass(slots=True, eq=False)
class _StepwiseRunning(Pass, Generic[T_contra, R_co]):
    fn: Callable[[Any, T_contra], Any]
    state: Any
    after: Callable[[Any], R_co]

    def step(self, block: T_contra, /) -> None:
        self.state = self.fn(self.state, block)

    def finish(self) -> R_co:
        return self.after(self.state)


@dataclass(slots=True, eq=False)
class _Around:
    """What is the same for all passes around others: these open in order, and close in reverse."""

    passes: Sequence[Any]
    stack: ExitStack = field(init=False)

    @property
    def publishes(self) -> bool:
        return any(running.publishes for running in self.passes)

    def prepare(self) -> None:
        for running in self.passes:
            running.prepare()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            for running in self.passes:
                stack.enter_context(running)
            self.stack = stack.pop_all()
        return self

    def __exit__(self, *error: Any) -> None:  # noqa: PYI036 -- passed on
        self.stack.__exit__(*error)


@dataclass(slots=True, eq=False)
class _TeeRunning(_Around):
    before: Callable[[Any], Any] | None
    after: Callable[..., Any]
    step: Callable[[Any], None] = field(init=False)
    """Chosen here, so that a block costs no more calls than it must."""

    def __post_init__(self) -> None:
        steps = [running.step for running in self.passes]
        before = self.before

        def each(block: Any) -> None:
            for step in steps:
                step(block)

        step = steps[0] if len(steps) == 1 else each
        self.step = step if before is None else lambda block: step(before(block))

    def end_row(self) -> None:
        for running in self.passes:
            running.end_row()

    def finish(self) -> Any:
        self.prepare()
        publishing_last = sorted(enumerate(self.passes), key=lambda entry: entry[1].publishes)
        results = {number: running.finish() for number, running in publishing_last}
        return self.after(*(results[number] for number in range(len(results))))


@dataclass(slots=True, eq=False)
class _NestedRunning(_Around, Generic[T_contra]):
    """The outer pass, and the inner one of the current row."""

    inner: Fold[T_contra, Any]
    counts: Counts
    blocks: int = field(default=0, init=False)
    row: Running[T_contra, Any] | None = field(default=None, init=False)
    row_stack: ExitStack = field(default_factory=ExitStack, init=False)

    def __enter__(self) -> Self:
        _Around.__enter__(self)
        self.stack.push(self.row_stack)
        return self

    def step(self, block: T_contra, /) -> None:
        self._begun().step(block)
        self.blocks += 1

    def end_row(self) -> None:
        result = self._begun().finish()  # a row without blocks is folded like any other
        self.row = None
        self.row_stack.close()
        self.counts, self.blocks = (self.blocks,), 0  # rows are alike, most of the time
        self.passes[0].step(result)

    def finish(self) -> Any:
        return self.passes[0].finish()

    def _begun(self) -> Running[T_contra, Any]:
        if self.row is None:
            self.row = self.row_stack.enter_context(self.inner.start(self.counts))
        return self.row
