"""Folds as values: one pass over the blocks, many results.

A :class:`Fold` describes how to go through blocks and what comes out; it holds nothing itself.
Starting it gives a :class:`~lazychunks.runs.passes.Running`, the short-lived state of one pass.

Source: "beautiful folds" (Max Rabkin, 2008; Gabriella Gonzalez' Haskell package ``foldl``).
"""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any, Generic, Self, TypeAlias, TypeVar, overload

from lazychunks.arrays import copy_block
from lazychunks.blocks.describe import name_function
from lazychunks.blocks.factories import Composed, is_nested
from lazychunks.layout.parts import AnyPart
from lazychunks.runs.drive import run_fold
from lazychunks.runs.passes import (
    AnyBlock,
    AnyResult,
    AnyRunning,
    Counts,
    PartFold,
    PartRunning,
    Pass,
    Running,
    RunningRows,
    Scope,
    Sink,
    State,
)

S = TypeVar("S")
T = TypeVar("T")
A = TypeVar("A")
U = TypeVar("U")
R = TypeVar("R")
T_contra = TypeVar("T_contra", contravariant=True)
R_co = TypeVar("R_co", covariant=True)


class FoldInParts(Generic[T_contra]):
    """Base of both kinds of folds: how parts of the blocks are folded elsewhere.

    A fold that starts the pass of another fold hands all of these on to it as well.
    """

    __slots__ = ()

    @property
    def merges(self) -> bool:
        """Whether workers fold their parts, so that only states travel, and no blocks."""
        return False

    @property
    def needs_blocks(self) -> bool:
        """Whether it needs the blocks that its sinks have stored already, as all but sinks do."""
        return True

    @property
    def sends_blocks(self) -> bool:
        """Whether workers send blocks, as they do for whatever does not merge."""
        return not self.merges

    def for_parts(self, running: AnyRunning, /) -> PartFold[T_contra]:  # noqa: ARG002
        """Return what workers need to go through parts for a pass: a value that can be pickled."""
        return self if self.merges else CollectBlocks()

    def start_part(self, part: AnyPart, /) -> PartRunning[T_contra]:
        """Start a pass over a part; by default it copies the blocks, which the pass then steps."""
        return CollectBlocks().start_part(part)


class Fold(FoldInParts[T_contra], Generic[T_contra, R_co]):
    """A left fold over blocks, as a value; callable over any iterable of them.

    Subclasses say how to :meth:`start`; :func:`fold` makes one from plain functions. One whose
    parts can be merged says so by :attr:`merges`, and how to :meth:`start_part`.

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
        folded: R_co = run_fold(self, blocks, axes=1)
        return folded

    def in_rows(self) -> Fold[T_contra, R_co]:
        """Return the fold for the rows of a nested sequence, whose blocks lie along axis 1.

        A fold that starts the pass of another fold hands this on to it as well.
        """
        return self

    def then(self, fn: Callable[[R_co], U]) -> Fold[T_contra, U]:
        """Return the fold whose result is ``fn`` of this one's."""
        return MappedFold(self, None, fn)

    def contramap(self, fn: Callable[[A], T_contra]) -> Fold[A, R_co]:
        """Return the fold that takes ``fn(block)`` for each block."""
        return MappedFold(self, fn, _unchanged)


class KeepsBlockType:
    """Mark of a fold whose result is of its blocks' type, whatever that is, for :func:`nest`."""

    __slots__ = ()


class NestedFold(FoldInParts[T_contra], Generic[T_contra, R_co]):
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
        folded: R_co = run_fold(self, rows, axes=2)
        return folded

    def then(self, fn: Callable[[R_co], U]) -> NestedFold[T_contra, U]:
        """Return the fold whose result is ``fn`` of this one's."""
        return MappedNestedFold(self, None, fn)

    def contramap(self, fn: Callable[[A], T_contra]) -> NestedFold[A, R_co]:
        """Return the fold that takes ``fn(block)`` for each block."""
        return MappedNestedFold(self, fn, _unchanged)


class EitherFold(Fold[T_contra, R_co], NestedFold[T_contra, R_co]):
    """A fold over blocks, and over rows of blocks if they are a nested sequence, as a sink is."""

    __slots__ = ()

    def __call__(self, blocks: Iterable[T_contra] | Iterable[Iterable[T_contra]], /) -> R_co:
        """Fold blocks, or rows of blocks if they are a nested sequence."""
        folded: R_co = run_fold(self, blocks, axes=2 if is_nested(blocks) else 1)
        return folded

    def then(self, fn: Callable[[R_co], U]) -> EitherFold[T_contra, U]:
        """Return the fold whose result is ``fn`` of this one's."""
        return MappedEitherFold(self, None, fn)

    def contramap(self, fn: Callable[[A], T_contra]) -> EitherFold[A, R_co]:
        """Return the fold that takes ``fn(block)`` for each block."""
        return MappedEitherFold(self, fn, _unchanged)


# Where folds are combined, their types are known to the signatures only: in a tuple of folds, or
# in passes that are stepped together, each has another one.
AnyFold: TypeAlias = Fold[Any, Any]
AnyNestedFold: TypeAlias = NestedFold[Any, Any]
AnyEitherFold: TypeAlias = EitherFold[Any, Any]

AnyPass: TypeAlias = Any
"""A pass over all blocks, or over the blocks of a part."""


@overload
def fold(
    step: Callable[[S, T], S],
    initial: S,
    finish: None = None,
    *,
    merge: Callable[[S, S], S] | None = None,
) -> Fold[T, S]: ...
@overload
def fold(
    step: Callable[[S, T], S],
    initial: S,
    finish: Callable[[S], R],
    *,
    merge: Callable[[S, S], S] | None = None,
) -> Fold[T, R]: ...
def fold(
    step: Callable[[State, T], State],
    initial: State,
    finish: Callable[[State], AnyResult] | None = None,
    *,
    merge: Callable[[State, State], State] | None = None,
) -> Fold[T, AnyResult]:
    """Make a fold from plain functions.

    Parameters
    ----------
    step
        Takes the state and a block, and returns the next state; it may change the state in place.
    initial
        The state before the first block; copied (deeply) for each pass.
    finish
        Makes the result of the last state; by default it is that state.
    merge
        Takes the state of some blocks and the state of the blocks that follow them, and returns the
        state of all; it may change the first one in place. With it, workers fold parts of the
        blocks; without it, they send the blocks.

    Notes
    -----
    Each part starts with a copy of ``initial``, so ``merge(state, initial)`` must be ``state``: a
    sum starts with 0. It need not hold the other way round, since the state of the first part takes
    the place of ``initial``. :func:`lazychunks.testing.check_fold` tests a merge.

    Examples
    --------
    >>> mean = fold(lambda s, x: (s[0] + x, s[1] + 1), (0.0, 0), lambda s: s[0] / s[1])
    >>> mean([1.0, 2.0, 6.0])
    3.0
    >>> longest = fold(lambda n, x: max(n, len(x)), 0, merge=max)
    >>> longest([[1], [2, 3]])
    2
    """
    return FunctionFold(step, initial, finish or _unchanged, merge)


@dataclass(frozen=True, slots=True)
class CollectBlocks:
    """What workers get of a fold that does not merge, so that its blocks have to travel."""

    @property
    def sends_blocks(self) -> bool:
        """Whether workers send blocks: they do."""
        return True

    def start_part(self, part: AnyPart, /) -> CollectedBlocks:
        """Start to collect the blocks of a part."""
        return CollectedBlocks(part.axes)


@dataclass(slots=True, eq=False)
class CollectedBlocks(Scope):
    """Copies of the blocks of a part, by row; a part of a flat sequence has one row."""

    axes: int
    rows: list[list[AnyBlock]] = field(default_factory=lambda: [[]], init=False)

    def step(self, block: object, /) -> None:
        """Keep a copy of a block."""
        # Where worker and coordinator are threads, a tensor may keep its graph, as in one pass.
        self.rows[-1].append(copy_block(block, keep_graph=True))

    def end_row(self) -> None:
        """Close a row."""
        self.rows.append([])

    def state(self) -> list[list[AnyBlock]]:
        """Return the rows."""
        # Of a nested part, all rows are closed, and the last list is one too many.
        return self.rows[:-1] if self.axes == 2 else self.rows


def _unchanged(result: T) -> T:
    return result


def _compose(first: Callable[[Any], Any] | None, second: Callable[[Any], Any] | None) -> Any:
    return first if second is None or first is None else Composed(first, second)


@dataclass(frozen=True, slots=True, repr=False)
class FunctionFold(Fold[T_contra, R_co]):
    """The fold that :func:`fold` returns."""

    step: Callable[[State, T_contra], State]
    initial: State
    finish: Callable[[State], R_co]
    merge: Callable[[State, State], State] | None

    def __repr__(self) -> str:
        """Return one line: the functions' names, and not the initial state, which may be large."""
        names = [name_function(self.step), "..."]
        names += [] if self.finish is _unchanged else [name_function(self.finish)]
        names += [f"merge={name_function(self.merge)}"] if self.merge else []
        return f"fold({', '.join(names)})"

    @property
    def merges(self) -> bool:
        """Whether there is a function that merges."""
        return self.merge is not None

    def for_parts(self, running: AnyRunning, /) -> PartFold[T_contra]:  # noqa: ARG002
        """Return a fold without the function that workers do not call, and may fail to pickle."""
        # A lambda is welcome for a result, and for a fold that does not merge.
        return replace(self, finish=_unchanged) if self.merges else CollectBlocks()

    def start(self, counts: Counts, /) -> FunctionPass[T_contra, R_co]:  # noqa: ARG002
        """Start a pass."""
        # A step may change the state in place, and the next pass begins with the same one.
        return FunctionPass(self, copy.deepcopy(self.initial))

    def start_part(self, part: AnyPart, /) -> PartRunning[T_contra]:
        """Start a pass over a part."""
        return self.start(()) if self.merges else CollectBlocks().start_part(part)


@dataclass(slots=True, eq=False)
class FunctionPass(Pass, Generic[T_contra, R_co]):
    """A pass over all blocks, or over the blocks of a part."""

    fold: FunctionFold[T_contra, R_co]
    value: State
    is_initial: bool = True
    """Whether there was no block yet."""

    def step(self, block: T_contra, /) -> None:
        """Make the next state."""
        self.value = self.fold.step(self.value, block)
        self.is_initial = False

    def state(self) -> tuple[State, ...]:
        """Return the last state; none, if the part has no block."""
        return () if self.is_initial else (self.value,)

    def absorb(self, state: tuple[State, ...], part: AnyPart, /) -> None:
        """Merge the state of the next part; without a merge, step its blocks."""
        merge = self.fold.merge
        if merge is None:
            Pass.absorb(self, state, part)
            return
        for value in state:
            # The initial state is not merged: then it need not be neutral on this side.
            self.value = value if self.is_initial else merge(self.value, value)
            self.is_initial = False

    def finish(self) -> R_co:
        """Return the result."""
        return self.fold.finish(self.value)


@dataclass(slots=True, eq=False)
class PassAround:
    """Base of a pass around others: these open in order, and close in reverse."""

    passes: Sequence[AnyPass]
    stack: ExitStack = field(default_factory=ExitStack, init=False)

    @property
    def sinks(self) -> Sequence[Sink]:
        """The sinks of all passes, in order."""
        return [sink for running in self.passes for sink in running.sinks]

    def __enter__(self) -> Self:
        # If one of them cannot open, those before it are closed.
        with ExitStack() as stack:
            for running in self.passes:
                stack.enter_context(running)
            self.stack = stack.pop_all()
        return self

    def __exit__(self, *error: Any) -> None:  # noqa: PYI036  # handed on as they are
        self.stack.__exit__(*error)

    def step(self, block: object, /) -> None:
        """Step all passes."""
        for running in self.passes:
            running.step(block)

    def end_row(self) -> None:
        """Close a row of all passes."""
        for running in self.passes:
            running.end_row()

    def prepare(self) -> None:
        """Prepare the passes that have sinks."""
        for running in self.passes:
            if running.sinks:
                running.prepare()


@dataclass(frozen=True, slots=True, repr=False)
class _Mapped(Generic[T_contra, R_co]):
    """A fold with a function before its steps (``contramap``), or after its end (``then``)."""

    inner: Any
    before: Callable[[T_contra], AnyBlock] | None
    after: Callable[[AnyResult], R_co]

    def __repr__(self) -> str:
        """Return one line: the fold inside, and the functions' names."""
        before = "" if self.before is None else f".contramap({name_function(self.before)})"
        after = "" if self.after is _unchanged else f".then({name_function(self.after)})"
        return f"{self.inner!r}{before}{after}"

    @property
    def merges(self) -> bool:
        """Whether the fold inside merges."""
        return bool(self.inner.merges)

    @property
    def needs_blocks(self) -> bool:
        """Whether the fold inside needs blocks that are stored."""
        return bool(self.inner.needs_blocks)

    @property
    def sends_blocks(self) -> bool:
        """Whether the fold inside makes workers send blocks."""
        return bool(self.inner.sends_blocks)

    def for_parts(self, running: AnyPass, /) -> PartFold[T_contra]:
        """Return the fold inside, and the function before it."""
        inner: Any = self.inner.for_parts(running.passes[0])
        return inner if self.before is None else replace(self, inner=inner, after=_unchanged)

    def start_part(self, part: AnyPart, /) -> PartRunning[T_contra]:
        """Start a pass over a part."""
        return MappedPass([self.inner.start_part(part)], self.before, self.after)

    def wrap(self, inner: AnyPass) -> MappedPass:
        """Return the pass with the functions around a pass of the fold inside."""
        for sink in inner.sinks if self.before else ():
            sink.before = _compose(self.before, sink.before)
        return MappedPass([inner], self.before, self.after)


class MappedFold(_Mapped[T_contra, R_co], Fold[T_contra, R_co]):
    """A fold over blocks with functions around it."""

    __slots__ = ()

    def in_rows(self) -> Fold[T_contra, R_co]:
        """Return the functions around the fold for rows."""
        return replace(self, inner=self.inner.in_rows())

    def start(self, counts: Counts, /) -> MappedPass:
        """Start a pass."""
        return self.wrap(self.inner.start(counts))


class MappedNestedFold(_Mapped[T_contra, R_co], NestedFold[T_contra, R_co]):
    """A fold over rows of blocks with functions around it."""

    __slots__ = ()

    def start_rows(self, counts: Counts, /) -> MappedPass:
        """Start a pass."""
        return self.wrap(self.inner.start_rows(counts))


class MappedEitherFold(
    MappedFold[T_contra, R_co], MappedNestedFold[T_contra, R_co], EitherFold[T_contra, R_co]
):
    """A fold over blocks, or over rows of blocks, with functions around it."""

    __slots__ = ()


@dataclass(slots=True, eq=False)
class MappedPass(PassAround):
    """A pass over all blocks, or over the blocks of a part, with functions around it."""

    before: Callable[[AnyBlock], AnyBlock] | None
    after: Callable[[AnyResult], AnyResult]

    def step(self, block: object, /) -> None:
        """Step the pass inside with a function of the block."""
        self.passes[0].step(block if self.before is None else self.before(block))

    def state(self) -> State:
        """Return the state of the pass inside."""
        return self.passes[0].state()

    def absorb(self, state: State, part: AnyPart, /) -> None:
        """Hand on the state, whose blocks have gone through the function already."""
        self.passes[0].absorb(state, part)

    def finish(self) -> AnyResult:
        """Return a function of the result."""
        return self.after(self.passes[0].finish())
