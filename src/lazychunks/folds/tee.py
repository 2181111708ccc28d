"""Several folds in one pass: over the blocks, or over what blocks hold under names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeGuard, TypeVar, overload

from lazychunks.errors import BlockNamesError, BlockTypeError
from lazychunks.folds.fold import (
    AnyEitherFold,
    AnyFold,
    AnyNestedFold,
    AnyPass,
    CollectBlocks,
    EitherFold,
    Fold,
    NestedFold,
    PassAround,
)
from lazychunks.layout.parts import AnyPart
from lazychunks.runs.passes import AnyPartFold, AnyPartRunning, AnyResult, Counts, State

T = TypeVar("T")
R = TypeVar("R")
R1 = TypeVar("R1")
R2 = TypeVar("R2")
R3 = TypeVar("R3")
R4 = TypeVar("R4")
R5 = TypeVar("R5")
R6 = TypeVar("R6")


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
@overload
def tee(folds: Mapping[str, EitherFold[T, R]], /) -> EitherFold[T, dict[str, R]]: ...
@overload
def tee(folds: Mapping[str, Fold[T, R]], /) -> Fold[T, dict[str, R]]: ...
@overload
def tee(folds: Mapping[str, NestedFold[T, R]], /) -> NestedFold[T, dict[str, R]]: ...
@overload
def tee(*folds: EitherFold[T, R]) -> EitherFold[T, tuple[R, ...]]: ...
@overload
def tee(*folds: Fold[T, R]) -> Fold[T, tuple[R, ...]]: ...
@overload
def tee(*folds: NestedFold[T, R]) -> NestedFold[T, tuple[R, ...]]: ...
def tee(*folds: Any) -> AnyFold | AnyNestedFold:
    """Run several folds in one pass, which generates the blocks once.

    Law: ``tee(f, g)(blocks) == (f(blocks), g(blocks))``. If the pass fails, each fold releases what
    it holds, so that a sink leaves its destination as it was; sinks finish last, after all other
    results are there.

    Parameters
    ----------
    *folds
        Folds over blocks, or over rows of blocks; results of ``tee`` included. Or one mapping from
        names to such folds.

    Returns
    -------
    Fold or NestedFold
        Its result is the tuple of the folds' results; of a mapping, the dict of them.

    Raises
    ------
    TypeError
        If the folds cannot go through the same blocks.

    Examples
    --------
    >>> from lazychunks import fold
    >>> both = tee(fold(lambda n, x: n + 1, 0), fold(max, 0))
    >>> both([3, 1, 2])
    (3, 3)
    >>> tee({"sum": fold(lambda s, x: s + x, 0), "largest": fold(max, 0)})([3, 1, 2])
    {'sum': 6, 'largest': 3}
    """
    names: tuple[str, ...] | None = None
    # One fold is a tee as well: an unpacked list may have any number.
    if len(folds) == 1 and _is_mapping(folds[0]):
        names, folds = tuple(folds[0]), tuple(folds[0].values())
    of_blocks = all(isinstance(f, Fold) for f in folds)
    # Of no fold at all, and of sinks, both hold.
    of_rows = all(isinstance(f, NestedFold) for f in folds)
    if not (of_blocks or of_rows):
        raise TypeError(
            "tee takes folds over blocks, or folds over rows of blocks, not both: "
            f"{', '.join(type(f).__name__ for f in folds)}; fold() makes a fold of a plain "
            "function, nest() a nested one of two flat ones"
        )
    if of_blocks and of_rows:
        return EitherTee(folds, names)
    return Tee(folds, names) if of_blocks else NestedTee(folds, names)


def _is_mapping(x: object) -> TypeGuard[Mapping[str, AnyFold]]:
    return isinstance(x, Mapping)


@dataclass(frozen=True, slots=True, repr=False)
class _Folds:
    """Folds in one pass; the result has their names, if they have any."""

    folds: tuple[Any, ...]
    names: tuple[str, ...] | None

    def __repr__(self) -> str:
        """Return one line: the folds, with their names if they have any."""
        if self.names is None:
            return f"tee({', '.join(map(repr, self.folds))})"
        pairs = zip(self.names, self.folds, strict=True)
        return f"tee({{{', '.join(f'{name!r}: {fold!r}' for name, fold in pairs)}}})"

    @property
    def merges(self) -> bool:
        """Whether one of the folds merges; the others get the blocks beside its state."""
        return any(fold.merges for fold in self.folds)

    @property
    def needs_blocks(self) -> bool:
        """Whether one of the folds needs blocks that are stored."""
        return any(fold.needs_blocks for fold in self.folds)

    @property
    def sends_blocks(self) -> bool:
        """Whether one of the folds makes workers send blocks."""
        return any(fold.sends_blocks for fold in self.folds)

    def for_parts(self, running: AnyPass, /) -> AnyPartFold:
        """Return the folds for workers."""
        pairs = zip(self.folds, running.passes, strict=True)
        return replace(self, folds=tuple(fold.for_parts(inner) for fold, inner in pairs))

    def start_part(self, part: AnyPart, /) -> AnyPartRunning:
        """Start a pass over a part."""
        # One copy of each block serves all folds that need the blocks.
        collected = CollectBlocks().start_part(part)
        of_folds = [
            collected if isinstance(fold, CollectBlocks) else fold.start_part(part)
            for fold in self.folds
        ]
        unique = {id(running): running for running in of_folds}
        return TeePart(list(unique.values()), of_folds)


class Tee(_Folds, AnyFold):
    """The fold over blocks that :func:`tee` returns."""

    __slots__ = ()

    def in_rows(self) -> AnyFold:
        """Return the folds for rows."""
        return replace(self, folds=tuple(fold.in_rows() for fold in self.folds))

    def start(self, counts: Counts, /) -> TeePass:
        """Start a pass."""
        return TeePass([fold.start(counts) for fold in self.folds], self.names)


class NestedTee(_Folds, AnyNestedFold):
    """The fold over rows of blocks that :func:`tee` returns."""

    __slots__ = ()

    def start_rows(self, counts: Counts, /) -> TeePass:
        """Start a pass."""
        return TeePass([fold.start_rows(counts) for fold in self.folds], self.names)


class EitherTee(Tee, NestedTee, AnyEitherFold):
    """The fold over blocks, or over rows of blocks, that :func:`tee` returns."""

    __slots__ = ()


@dataclass(slots=True, eq=False)
class TeePart(PassAround):
    """A pass of several folds over a part."""

    of_folds: Sequence[AnyPartRunning]
    """The pass that has the state of each fold."""

    def state(self) -> list[State]:
        """Return the states of the folds."""
        states = {id(running): running.state() for running in self.passes}
        return [states[id(running)] for running in self.of_folds]


@dataclass(slots=True, eq=False)
class TeePass(PassAround):
    """A pass of several folds."""

    names: tuple[str, ...] | None
    results: dict[int, AnyResult] = field(default_factory=dict[int, AnyResult], init=False)
    """Of the passes that have finished, by number."""

    def absorb(self, state: list[State], part: AnyPart, /) -> None:
        """Hand each state on to its pass."""
        for running, one in zip(self.passes, state, strict=True):
            running.absorb(one, part)

    def prepare(self) -> None:
        """Make all results but those of sinks, also those in a tee inside that has sinks."""
        # All that may fail comes first: no array appears if another one cannot.
        for sink in self.sinks:
            sink.prepare()
        for number, running in enumerate(self.passes):
            if not running.sinks and number not in self.results:
                self.results[number] = running.finish()
        PassAround.prepare(self)

    def finish(self) -> AnyResult:
        """Return the results. Arrays that sinks store appear once all other results are there."""
        self.prepare()
        for number, running in enumerate(self.passes):
            if number not in self.results:
                self.results[number] = running.finish()
        results = [self.results[number] for number in range(len(self.passes))]
        return tuple(results) if self.names is None else dict(zip(self.names, results, strict=True))


@overload
def each(folds: Mapping[str, EitherFold[T, R]], /) -> EitherFold[Mapping[str, T], dict[str, R]]: ...
@overload
def each(folds: Mapping[str, Fold[T, R]], /) -> Fold[Mapping[str, T], dict[str, R]]: ...
@overload
def each(folds: Mapping[str, NestedFold[T, R]], /) -> NestedFold[Mapping[str, T], dict[str, R]]: ...
def each(folds: Mapping[str, Any], /) -> AnyFold | AnyNestedFold:
    """Fold what blocks hold under each name, in one pass.

    Law: ``each({"a": f})(blocks) == {"a": f([block["a"] for block in blocks])}``. Blocks may have
    names that no fold is for.

    Parameters
    ----------
    folds
        Folds by name: over blocks, or over rows of blocks.

    Returns
    -------
    Fold or NestedFold
        Its result is the dict of the folds' results.

    Raises
    ------
    TypeError
        If the folds cannot go through the same blocks.
    BlockNamesError, BlockTypeError
        In a pass, if a block does not have all of the names, or is no mapping.

    Examples
    --------
    >>> from lazychunks import each, fold
    >>> both = each({"a": fold(max, 0), "b": fold(lambda n, x: n + x, 0)})
    >>> both([{"a": 3, "b": 1}, {"a": 2, "b": 1}])
    {'a': 3, 'b': 2}
    """
    picking: Mapping[str, Any] = {name: f.contramap(Pick(name)) for name, f in folds.items()}
    combined: AnyFold | AnyNestedFold = tee(picking)
    return combined


@dataclass(frozen=True, slots=True)
class Pick:
    """Takes what a block holds under a name."""

    name: str

    def __call__(self, block: Any) -> Any:
        """Return it."""
        given: Any = block  # checkers narrow it to a mapping of what they do not know
        is_mapping = isinstance(block, Mapping)
        if is_mapping and self.name in given:
            return given[self.name]
        if is_mapping:
            names: list[Any] = list(given)
            raise BlockNamesError(
                f"a block has no {self.name!r}, only {', '.join(map(repr, names)) or 'no names'}; "
                "each() needs a block to have the names of all its folds",
                expected=self.name,
                got=names,
                member=self.name,
            )
        raise BlockTypeError(
            f"a block is of type {type(given).__name__}, and each() takes mappings from names to "
            "arrays",
            expected="a mapping",
            got=type(given).__name__,
            member=self.name,
        )
