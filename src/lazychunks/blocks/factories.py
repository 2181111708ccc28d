"""Factories of blocks: those that apply a function to items, and those that wrap another factory.

A *generator-backed* factory is any callable that returns an iterable; it is opaque and sequential.
A *map-backed* one (:class:`Mapped`, :class:`Product`) applies a function to items, so that blocks
can be skipped, repeated or computed elsewhere without computing the others.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from operator import length_hint
from typing import Any, ClassVar, Generic, TypeAlias, TypeGuard, TypeVar

from tqdm import tqdm

from lazychunks.blocks.iterate import (
    apply_to_each,
    count_blocks,
    iterate_items,
    known_length,
    open_blocks,
    open_rows,
)
from lazychunks.progress import add_bar, open_bar

T = TypeVar("T")
U = TypeVar("U")
T_co = TypeVar("T_co", covariant=True)


@dataclass(frozen=True, slots=True)
class BlockCall(Generic[T_co]):
    """A call that computes a block, as a value: comparable, and picklable if its parts are.

    A ``partial`` would merge its arguments with those of a function that is a ``partial`` itself;
    here function and arguments stay apart, so the function can be sent to a worker only once.
    """

    func: Callable[..., T_co]
    """The same for all blocks of a sequence."""
    args: tuple[object, ...]
    """Arguments of this block: its item; in a nested sequence, the items of its row and column."""

    def __call__(self) -> T_co:
        """Compute the block."""
        return self.func(*self.args)


RowOfCalls: TypeAlias = tuple[BlockCall[T_co], ...]
"""The calls of one row of blocks; in a flat sequence, each row has one call."""

Items: TypeAlias = tuple[object, ...]
"""All that the function of a sequence needs to know for one block."""


class MapBacked(Generic[T_co]):
    """Base of a factory that applies a function to items.

    Its blocks can be skipped, repeated or computed elsewhere without computing the others.
    """

    __slots__ = ()

    @property
    @abstractmethod
    def axes(self) -> int:
        """Number of block axes: 1 if it makes blocks, 2 if it makes rows of blocks."""

    @property
    @abstractmethod
    def function(self) -> Callable[..., T_co]:
        """Computes each block from its items."""

    @abstractmethod
    def rows_of_items(self) -> Iterator[Iterator[Items]]:
        """For each row of blocks, in order, the items of its blocks; flat, each row has one block.

        Rows can be consumed in any order, and after the rows have ended.
        """

    # Generators throughout this file, not `map` or `zip`: if the function or an iterable raises
    # StopIteration, a generator raises RuntimeError, while `map` would end without an error.

    def __call__(self) -> Iterator[Any]:
        """All blocks (nested: rows of blocks), in order."""
        compute, rows = partial(_compute, self.function), self.rows_of_items()
        if self.axes == 2:
            return (apply_to_each(compute, row) for row in rows)
        return apply_to_each(compute, (items for row in rows for items in row))

    def rows_of_calls(self) -> Iterator[Iterator[BlockCall[T_co]]]:
        """For each row of blocks, in order, the calls that compute them.

        A block is computed only if its call is called. All calls have the same function.
        """
        fn = self.function
        return ((BlockCall(fn, items) for items in row) for row in self.rows_of_items())

    def map(self, fn: Callable[[T_co], U]) -> MapBacked[U]:
        """Return the map-backed factory of ``fn(block)``."""
        return Changed(self, fn)

    def column_count(self) -> int | None:
        """Return the number of blocks in a row of a nested factory, where it is known."""
        return None


def _compute(fn: Callable[..., T], items: Items) -> T:
    return fn(*items)


@dataclass(frozen=True, slots=True)
class Composed(Generic[T_co]):
    """``second(first(...))`` as a value: comparable, and picklable when both functions are."""

    first: Callable[..., object]
    second: Callable[..., T_co]

    def __call__(self, *args: object) -> T_co:
        """Apply both functions."""
        return self.second(self.first(*args))


@dataclass(frozen=True, slots=True)
class Mapped(MapBacked[T_co], Generic[T_co]):
    """Block ``i`` is ``fn(item_i)``."""

    fn: Callable[..., T_co]
    """Computes a block from its item."""
    items: Iterable[object]
    """Anything that can be iterated afresh: a range, a list, a DataLoader."""

    @property
    def axes(self) -> int:
        """Number of block axes."""
        return 1

    @property
    def function(self) -> Callable[..., T_co]:
        """Computes a block from its item."""
        return self.fn

    def __call__(self) -> Iterator[T_co]:
        """All blocks, in order."""
        return apply_to_each(self.fn, iterate_items(self.items))

    def rows_of_items(self) -> Iterator[Iterator[Items]]:
        """Rows of one block each."""
        return (iter(((item,),)) for item in iterate_items(self.items))

    def map(self, fn: Callable[[T_co], U]) -> Mapped[U]:
        """Return the factory of ``fn(block)``."""
        return Mapped(Composed(self.fn, fn), self.items)


@dataclass(frozen=True, slots=True)
class Product(MapBacked[T_co], Generic[T_co]):
    """Block ``(i, j)`` is ``fn(row_i, column_j)``."""

    fn: Callable[..., T_co]
    """Computes a block from the item of its row and the item of its column."""
    rows: Iterable[object]
    """Items of the rows, iterated once in each run."""
    columns: Iterable[object]
    """Items of the columns, iterated once for each row."""

    @property
    def axes(self) -> int:
        """Number of block axes."""
        return 2

    @property
    def function(self) -> Callable[..., T_co]:
        """Computes a block from the item of its row and the item of its column."""
        return self.fn

    def rows_of_items(self) -> Iterator[Iterator[Items]]:
        """Rows with one block for each column."""
        return (self._list_row(row) for row in iterate_items(self.rows))

    def map(self, fn: Callable[[T_co], U]) -> Product[U]:
        """Return the factory of ``fn(block)``."""
        return Product(Composed(self.fn, fn), self.rows, self.columns)

    def column_count(self) -> int | None:
        """Return the number of columns, where it is known."""
        return known_length(self.columns)

    def _list_row(self, row: object) -> Iterator[Items]:
        return ((row, column) for column in iterate_items(self.columns))


@dataclass(frozen=True, slots=True)
class Changed(MapBacked[T_co], Generic[T_co]):
    """``fn`` of each block of a map-backed factory that goes through its blocks in its own way."""

    inner: MapBacked[Any]
    fn: Callable[..., T_co]

    @property
    def axes(self) -> int:
        """Number of block axes."""
        return self.inner.axes

    @property
    def function(self) -> Callable[..., T_co]:
        """Computes a block of the factory inside, and applies ``fn``."""
        return Composed(self.inner.function, self.fn)

    def __call__(self) -> Iterator[Any]:
        """All blocks (nested: rows of blocks), in order."""
        if self.axes == 2:
            return (apply_to_each(self.fn, row) for row in self.inner())
        return apply_to_each(self.fn, self.inner())

    def rows_of_items(self) -> Iterator[Iterator[Items]]:
        """Items of the factory inside."""
        return self.inner.rows_of_items()

    def map(self, fn: Callable[[T_co], U]) -> Changed[U]:
        """Return the factory of ``fn(block)``."""
        return Changed(self.inner, Composed(self.fn, fn))

    def column_count(self) -> int | None:
        """Return the number of blocks in a row, where it is known."""
        return self.inner.column_count()


@dataclass(frozen=True, slots=True)
class _OpaqueBlocks(Generic[T_co]):
    """``fn`` of each block of a generator-backed factory."""

    label: ClassVar[str] = "map"

    factory: Callable[[], Iterable[object]]
    fn: Callable[..., T_co]

    def __call__(self) -> Iterator[T_co]:
        return apply_to_each(self.fn, open_blocks(self.factory))


@dataclass(frozen=True, slots=True)
class _OpaqueRows(Generic[T_co]):
    """``fn`` of each block of a generator-backed nested factory."""

    label: ClassVar[str] = "map"

    factory: Callable[[], Iterable[Iterable[object]]]
    fn: Callable[..., T_co]

    def __call__(self) -> Iterator[Iterator[T_co]]:
        return (apply_to_each(self.fn, row) for row in open_rows(self.factory))


@dataclass(frozen=True, slots=True)
class WithProgress:
    """A factory whose blocks move a progress bar.

    The sequence that reaches an aggregator has this factory, so that every aggregator (``list`` and
    ``max`` included) shows a bar.
    """

    inner: Callable[[], Iterable[Any]]
    """The factory inside."""
    total: int | None
    """Number of rows of blocks, where it is known; in a flat sequence, number of blocks."""
    axes: int
    """Number of block axes of the sequence."""

    def __call__(self) -> Iterator[Any]:
        """All blocks (nested: rows of blocks), in order."""
        if self.axes == 2:
            return self._report_rows()
        return iter(add_bar(open_blocks(self.inner), self.total, "block"))

    def report_calls(self, rows: Iterator[RowOfCalls[T]]) -> Iterator[RowOfCalls[T]]:
        """Pass rows of calls on; the bar moves when the next row is asked for."""
        with open_bar("block") as bar:
            for row in rows:
                if bar.total is None and self.total is not None:
                    bar.total = self.total * len(row)
                yield row
                bar.update(len(row))

    def _report_rows(self) -> Iterator[Iterator[Any]]:
        with open_bar("block") as bar:
            for row in open_rows(self.inner):
                yield self._report_row(row, bar)
                if bar.total is None and self.total is not None:
                    # The first row has told how many blocks a row has.
                    bar.total = self.total * bar.n
                    bar.refresh()

    def _report_row(self, row: Iterator[T], bar: tqdm[None]) -> Iterator[T]:
        for block in row:
            yield block
            del block  # otherwise it would live on while the next one is computed
            bar.update()


def map_blocks(
    factory: Callable[[], Iterable[T]], fn: Callable[[T], U]
) -> Callable[[], Iterator[U]]:
    """Make the factory of ``fn(block)``, map-backed if ``factory`` is."""

    def change(inner: Callable[[], Iterable[T]]) -> Callable[[], Iterator[U]]:
        return inner.map(fn) if is_map_backed(inner, axes=1) else _OpaqueBlocks(inner, fn)

    return change_inside_progress(factory, change)


def map_rows(
    factory: Callable[[], Iterable[Iterable[T]]], fn: Callable[[T], U]
) -> Callable[[], Iterator[Iterator[U]]]:
    """Make the nested factory of ``fn(block)``, map-backed if ``factory`` is."""

    def change(inner: Callable[[], Iterable[Iterable[T]]]) -> Callable[[], Iterator[Iterator[U]]]:
        return inner.map(fn) if is_map_backed(inner, axes=2) else _OpaqueRows(inner, fn)

    return change_inside_progress(factory, change)


def change_inside_progress(
    factory: Callable[[], Iterable[T]],
    change: Callable[[Callable[[], Iterable[T]]], Callable[[], Iterator[U]]],
) -> Callable[[], Iterator[U]]:
    """Change a factory; if it shows progress, change the one inside, so that the bar stays."""
    if isinstance(factory, WithProgress):
        return replace(factory, inner=change_inside_progress(factory.inner, change))
    return change(factory)


def rows_of_calls(
    factory: Callable[[], Iterable[object]], axes: int, hint: int | None = None
) -> Iterator[RowOfCalls[Any]] | None:
    """Return rows of the calls that compute the blocks, or None if it is not map-backed.

    The rows are made one by one, when they are asked for. If the factory shows progress, they do.

    Parameters
    ----------
    factory
        The factory of a sequence.
    axes
        Number of block axes: 1 (flat: each row has one call) or 2 (nested).
    hint
        Number of rows where it is known; another number warns, as it does for blocks.

    Examples
    --------
    >>> [[call() for call in row] for row in rows_of_calls(Mapped(abs, [-1, 2]), axes=1)]
    [[1], [2]]
    >>> rows_of_calls(lambda: [1, 2], axes=1) is None
    True
    """
    if isinstance(factory, WithProgress):
        inner = rows_of_calls(factory.inner, axes, hint)
        return None if inner is None else factory.report_calls(inner)
    if not is_map_backed(factory, axes):
        return None
    rows = (tuple(row) for row in factory.rows_of_calls())
    return count_blocks(rows, hint, "rows" if axes == 2 else "blocks")


def without_progress(factory: object) -> Any:
    """Return a factory, or the one inside if it shows progress."""
    while isinstance(factory, WithProgress):
        factory = factory.inner
    return factory


def is_map_backed(factory: object, axes: int | None = None) -> TypeGuard[MapBacked[Any]]:
    """Whether a factory is map-backed, with this number of block axes if one is given."""
    # The axes matter where a nested sequence has a flat factory, whose blocks are the rows. That
    # sequence cannot skip a block, only a row, so it counts as generator-backed.
    return isinstance(factory, MapBacked) and axes in (None, factory.axes)


def how_to_skip(factory: object) -> str:
    """Return what a user can do so that a sequence with such a factory can skip blocks."""
    way_out: str = getattr(
        without_progress(factory),
        "way_out",
        "build it with LazyChunkSequence.from_map or NestedLazyChunkSequence.from_product",
    )
    return way_out


def is_nested(blocks: object) -> bool:
    """Whether it is a nested sequence, told by the name of its field for the length hint."""
    return hasattr(blocks, "len_outer_generator")


def counts_of(blocks: Iterable[object]) -> tuple[int | None, int | None]:
    """Return the numbers of blocks along both block axes of a sequence, where they are known."""
    hint = length_hint(blocks, -1)
    return None if hint < 0 else hint, column_count(getattr(blocks, "generator_factory", None))


def column_count(factory: object) -> int | None:
    """Return the number of blocks in a row of a map-backed nested factory, where it is known."""
    inner = without_progress(factory)
    return inner.column_count() if isinstance(inner, MapBacked) else None
