"""Factories made of the blocks of several factories, or of the rows of one.

They are map-backed if the factories inside are, so that their blocks can be skipped, repeated or
computed elsewhere too. Nothing is computed by combining.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, Protocol, TypeAlias, TypeVar

from lazychunks.blocks.ahead import Ahead
from lazychunks.blocks.factories import Items, MapBacked, is_map_backed, without_progress
from lazychunks.blocks.iterate import closing_generator, open_blocks, open_rows
from lazychunks.errors import BlockShapeError

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
R_co = TypeVar("R_co", covariant=True)

AnyFactory: TypeAlias = Callable[[], Iterable[Any]]
AnyMapBacked: TypeAlias = MapBacked[Any]
AnyFunction: TypeAlias = Callable[..., Any]


def chain_blocks(factories: Iterable[AnyFactory], axes: int) -> AnyFactory:
    """Return the factory of all blocks (nested: rows), those of one factory after the other."""
    parts = [without_progress(factory) for factory in factories]
    if not all(is_map_backed(part, axes) for part in parts):
        return ChainedBlocks(tuple(parts), axes)
    sources, fns = _look_inside_ahead(parts)
    # Together, the end of one array and the beginning of the next are read at the same time.
    if sources and all(fn is fns[0] for fn in fns):
        return Ahead(Chained(sources, axes), None, parts[0].max_in_flight, fns[0])
    return Chained(tuple(parts), axes)


def zip_factories(factories: Iterable[AnyFactory], axes: int) -> AnyFactory:
    """Return the factory of tuples, which have the blocks at one place in all factories."""
    parts = [without_progress(factory) for factory in factories]
    if not all(is_map_backed(part, axes) for part in parts):
        return ZippedBlocks(tuple(parts), axes)
    sources, fns = _look_inside_ahead(parts)
    if sources:
        fn = None if not any(fns) else ApplyEach(tuple(fns))
        return Ahead(Zipped(sources, axes), None, parts[0].max_in_flight, fn)
    return Zipped(tuple(parts), axes)


def fold_rows(factory: AnyFactory, fold: RowFold[T_co]) -> AnyFactory:
    """Return the flat factory whose blocks are the folded rows of a nested one."""
    inner = without_progress(factory)
    return FoldedRows(inner, fold) if is_map_backed(inner, 2) else FoldedBlocks(inner, fold)


class RowFold(Protocol[R_co]):
    """Folds a row of blocks; a value that can be pickled if blocks are computed elsewhere."""

    def __call__(self, row: Iterator[Any], count: int | None, /) -> R_co:
        """Fold a row; the number of its blocks is told where it is known."""
        ...


@dataclass(frozen=True, slots=True)
class Choose(Generic[T_co]):
    """Applies one of several functions; the first item of a block is its number."""

    label: ClassVar[str] = "chain"

    fns: tuple[Callable[..., T_co], ...]

    def __call__(self, number: int, *items: object) -> T_co:
        """Compute the block."""
        return self.fns[number](*items)


@dataclass(frozen=True, slots=True)
class Chained(MapBacked[T_co], Generic[T_co]):
    """The blocks of several map-backed factories, one factory after the other."""

    parts: tuple[MapBacked[T_co], ...]
    block_axes: int

    @property
    def axes(self) -> int:
        """Number of block axes."""
        return self.block_axes

    @property
    def function(self) -> Choose[T_co]:
        """Computes a block of any part."""
        return Choose(tuple(part.function for part in self.parts))

    def __call__(self) -> Iterator[Any]:
        """All blocks (nested: rows), in order; each part goes through its own in its own way."""
        for part in self.parts:
            yield from part()

    def rows_of_items(self) -> Iterator[Iterator[Items]]:
        """Items of each block, behind the number of its part."""
        for number, part in enumerate(self.parts):
            for row in part.rows_of_items():
                yield _prefix(number, row)

    def column_count(self) -> int | None:
        """Return the number of blocks in a row, where it is known."""
        counts = {part.column_count() for part in self.parts}
        return counts.pop() if len(counts) == 1 else None


@dataclass(frozen=True, slots=True)
class ChainedBlocks:
    """The blocks (or rows) of several factories, of which some are generator-backed."""

    label: ClassVar[str] = "chain"

    parts: tuple[AnyFactory, ...]
    axes: int

    def __call__(self) -> Iterator[Any]:
        """All blocks (nested: rows), in order."""
        for part in self.parts:
            yield from _open(part, self.axes)


@dataclass(frozen=True, slots=True)
class ApplyEach:
    """Applies a function of its own to each member of a tuple; ``None`` leaves it as it is."""

    fns: tuple[AnyFunction | None, ...]

    def __call__(self, blocks: tuple[Any, ...]) -> tuple[Any, ...]:
        """Return the tuple of the functions' results."""
        pairs = zip(self.fns, blocks, strict=True)
        return tuple(block if fn is None else fn(block) for fn, block in pairs)


@dataclass(frozen=True, slots=True)
class ComputeEach:
    """Computes the tuple of the blocks at one place, each from items of its own."""

    label: ClassVar[str] = "zip_blocks"

    fns: tuple[AnyFunction, ...]

    def __call__(self, *items: Items) -> tuple[Any, ...]:
        """Compute the blocks."""
        return tuple(fn(*its) for fn, its in zip(self.fns, items, strict=True))


@dataclass(frozen=True, slots=True)
class Zipped(MapBacked[tuple[Any, ...]]):
    """Tuples of the blocks at one place in several map-backed factories."""

    parts: tuple[AnyMapBacked, ...]
    block_axes: int

    @property
    def axes(self) -> int:
        """Number of block axes."""
        return self.block_axes

    @property
    def function(self) -> ComputeEach:
        """Computes all blocks of a tuple."""
        return ComputeEach(tuple(part.function for part in self.parts))

    def __call__(self) -> Iterator[Any]:
        """All tuples, in order; each part goes through its blocks in its own way."""
        return _zip([part() for part in self.parts], self.axes)

    def rows_of_items(self) -> Iterator[Iterator[Items]]:
        """Tuples of the items of each part."""
        noun = "row" if self.axes == 2 else "block"
        return _zip_rows([part.rows_of_items() for part in self.parts], noun)

    def column_count(self) -> int | None:
        """Return the number of blocks in a row, where it is known."""
        return next((part.column_count() for part in self.parts), None)


@dataclass(frozen=True, slots=True)
class ZippedBlocks:
    """Tuples of the blocks of several factories, of which some are generator-backed."""

    label: ClassVar[str] = "zip_blocks"

    parts: tuple[AnyFactory, ...]
    axes: int

    def __call__(self) -> Iterator[Any]:
        """All tuples, in order."""
        return _zip([_open(part, self.axes) for part in self.parts], self.axes)


@dataclass(frozen=True, slots=True)
class ComputeRow(Generic[R_co]):
    """Computes the blocks of a row, one after the other, and folds them."""

    label: ClassVar[str] = "rows"

    fn: AnyFunction
    fold: RowFold[R_co]

    def __call__(self, row: tuple[Items, ...]) -> R_co:
        """Compute and fold the row."""
        return self.fold((self.fn(*items) for items in row), len(row))


@dataclass(frozen=True, slots=True)
class FoldedRows(MapBacked[R_co], Generic[R_co]):
    """Each row of a map-backed nested factory, folded to one block."""

    inner: AnyMapBacked
    fold: RowFold[R_co]

    @property
    def axes(self) -> int:
        """Number of block axes."""
        return 1

    @property
    def function(self) -> ComputeRow[R_co]:
        """Computes and folds a row."""
        return ComputeRow(self.inner.function, self.fold)

    def __call__(self) -> Iterator[R_co]:
        """All folded rows, in order."""
        count = self.inner.column_count()
        return (self.fold(row, count) for row in self.inner())

    def rows_of_items(self) -> Iterator[Iterator[Items]]:
        """For each row, the items of all of its blocks."""
        return (iter(((tuple(row),),)) for row in self.inner.rows_of_items())


@dataclass(frozen=True, slots=True)
class FoldedBlocks(Generic[R_co]):
    """Each row of a generator-backed nested factory, folded to one block."""

    label: ClassVar[str] = "rows"

    inner: AnyFactory
    fold: RowFold[R_co]

    def __call__(self) -> Iterator[R_co]:
        """All folded rows, in order."""
        return (self.fold(row, None) for row in open_rows(self.inner))


def _look_inside_ahead(
    parts: Sequence[Any],
) -> tuple[tuple[AnyMapBacked, ...], list[AnyFunction | None]]:
    """Return what is computed ahead and what is done with it, if threads of each run do that."""
    if not all(isinstance(part, Ahead) and part.executor is None for part in parts):
        return (), []
    return tuple(part.source for part in parts), [part.fn for part in parts]


def _open(factory: AnyFactory, axes: int) -> Iterator[Any]:
    return open_rows(factory) if axes == 2 else open_blocks(factory)


def _prefix(number: int, row: Iterator[Items]) -> Iterator[Items]:
    return ((number, *items) for items in row)


def _zip(parts: Sequence[Iterator[Any]], axes: int) -> Iterator[Any]:
    return _zip_rows(parts, "row") if axes == 2 else _zip_strictly(parts, "block")


def _zip_rows(rows: Sequence[Iterator[Iterator[Any]]], noun: str) -> Iterator[Iterator[Any]]:
    """Yield rows of tuples of what lies at one place in all parts."""
    for number, row in enumerate(_zip_strictly(rows, noun)):
        yield _zip_strictly(row, "block", f" of row {number}")


def _zip_strictly(
    parts: Sequence[Iterator[Any]], noun: str, place: str = ""
) -> Iterator[tuple[Any, ...]]:
    """Yield tuples of what comes next in all parts.

    Raises
    ------
    BlockShapeError
        If one part ends before another.
    """
    number = 0
    with ExitStack() as stack:
        for part in parts:
            stack.enter_context(closing_generator(part))
        while True:
            one = tuple(next(part, _END) for part in parts)
            ended = [index for index, value in enumerate(one) if value is _END]
            if len(ended) == len(parts):
                return
            if ended:
                raise BlockShapeError(
                    f"sequence {ended[0]} of those that are zipped ends before {noun} {number}"
                    f"{place}, and others go on; slice them to the same number of {noun}s",
                    block=number,
                    expected=f"the same number of {noun}s in all sequences",
                    got=f"{number} {noun}s in sequence {ended[0]}",
                )
            yield one
            del one  # otherwise it would live on while the next ones are computed
            number += 1


_END: Any = object()
