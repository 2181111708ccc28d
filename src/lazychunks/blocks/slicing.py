"""Factories of some blocks of a map-backed factory, or of all of them in another order.

What is left out is not computed; nor is anything by slicing itself.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, Generic, TypeAlias, TypeGuard, TypeVar

from lazychunks.blocks.ahead import Ahead
from lazychunks.blocks.factories import (
    Items,
    MapBacked,
    Mapped,
    Product,
    change_inside_progress,
    how_to_skip,
    is_map_backed,
    without_progress,
)
from lazychunks.errors import SourceTypeError

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

AnyFactory: TypeAlias = Callable[[], Iterable[Any]]
AnyMapBacked: TypeAlias = MapBacked[Any]

ALL = slice(None)
"""Takes every block."""


def slice_blocks(factory: AnyFactory, slices: Sequence[slice]) -> AnyMapBacked:
    """Return the factory of some blocks: a slice for each block axis.

    Raises
    ------
    SourceTypeError
        If the factory is not map-backed.
    """
    for one in slices:
        one.indices(0)  # refuses a step of zero, and bounds that are no integers

    def change(inner: AnyMapBacked) -> AnyMapBacked:
        if isinstance(inner, Mapped) and _is_list(inner.items):
            return replace(inner, items=inner.items[slices[0]])
        if isinstance(inner, Product) and _is_list(inner.rows) and _is_list(inner.columns):
            rows, columns = slices
            return replace(inner, rows=inner.rows[rows], columns=inner.columns[columns])
        return Sliced(inner, tuple(slices))

    return _change_inside_ahead(_require_map_backed(factory, len(slices)), change)


def take_line(factory: AnyFactory, axis: int, index: int) -> AnyMapBacked:
    """Return the flat factory of one row of blocks (axis 0), or of one column (axis 1).

    Raises
    ------
    SourceTypeError
        If the factory is not map-backed.
    """
    return _change_inside_ahead(
        _require_map_backed(factory, axes=2), lambda inner: Line(inner, axis, index)
    )


def compute_block(factory: AnyFactory, index: Sequence[int]) -> Any:
    """Compute one block.

    Raises
    ------
    IndexError
        If there is no such block.
    SourceTypeError
        If the factory is not map-backed.
    """
    chosen = slice_blocks(factory, [_only(number) for number in index])
    for row in chosen.rows_of_items():
        for items in row:
            return chosen.function(*items)
    place = index[0] if len(index) == 1 else tuple(index)
    raise IndexError(f"there is no block {place}: the sequence ends before it")


def shuffle_blocks(factory: AnyFactory, seed: int) -> Callable[[], Iterator[Any]]:
    """Return the factory of the same blocks in an order that depends on the seed only.

    Raises
    ------
    SourceTypeError
        If the factory is not map-backed.
    """

    def change(inner: AnyFactory) -> AnyMapBacked:
        return _change_inside_ahead(
            _require_map_backed(inner, axes=1), lambda source: Shuffled(source, seed)
        )

    return change_inside_progress(factory, change)


def pick_blocks(factory: AnyFactory, numbers: Sequence[int]) -> AnyMapBacked:
    """Return the factory of the blocks with these numbers, in this order.

    Raises
    ------
    SourceTypeError
        If the factory is not map-backed.
    """
    return _change_inside_ahead(
        _require_map_backed(factory, axes=1), lambda inner: Picked(inner, tuple(numbers))
    )


def count_blocks_by_items(factory: AnyFactory) -> int:
    """Count the blocks of a flat map-backed factory; none is computed.

    Raises
    ------
    SourceTypeError
        If the factory is not map-backed.
    """
    return sum(1 for _ in _require_map_backed(factory, axes=1).rows_of_items())


def slice_count(count: int | None, chosen: slice) -> int | None:
    """Return how many items of a number of items a slice takes, where that is known.

    >>> slice_count(5, slice(1, None, 2)), slice_count(None, slice(1, 2))
    (2, None)
    """
    return None if count is None else len(range(count)[chosen])


def shuffled_order(count: int, seed: int) -> list[int]:
    """Return the numbers below ``count`` in an order that depends on the seed only.

    >>> sorted(shuffled_order(5, seed=1)) == [0, 1, 2, 3, 4]
    True
    """
    # Python promises that random() gives the same numbers in all versions; it does not promise it
    # of shuffle(). An order that changed would make a run go on with other blocks.
    draw = random.Random(seed).random  # noqa: S311  # an order is no secret
    return sorted(range(count), key=[draw() for _ in range(count)].__getitem__)


@dataclass(frozen=True, slots=True)
class Sliced(MapBacked[T_co], Generic[T_co]):
    """Some blocks of a factory."""

    inner: MapBacked[T_co]
    slices: tuple[slice, ...]
    """Which blocks to take along each block axis."""

    @property
    def axes(self) -> int:
        """Number of block axes."""
        return self.inner.axes

    @property
    def function(self) -> Callable[..., T_co]:
        """Computes each block from its items."""
        return self.inner.function

    def rows_of_items(self) -> Iterator[Iterator[Items]]:
        """Items of the blocks that are taken."""
        rows = _take_slice(self.inner.rows_of_items(), self.slices[0])
        if self.axes == 1:
            return rows
        return (_take_slice(row, self.slices[1]) for row in rows)

    def column_count(self) -> int | None:
        """Return the number of blocks in a row, where it is known."""
        return slice_count(self.inner.column_count(), self.slices[-1])


@dataclass(frozen=True, slots=True)
class _FlatSelection(MapBacked[T_co], Generic[T_co]):
    """Some blocks of another factory, as a flat factory."""

    inner: MapBacked[T_co]

    @property
    def axes(self) -> int:
        """Number of block axes."""
        return 1

    @property
    def function(self) -> Callable[..., T_co]:
        """Computes each block from its items."""
        return self.inner.function


@dataclass(frozen=True, slots=True)
class Line(_FlatSelection[T_co]):
    """The blocks of one row of a nested factory, or of one column, as a flat factory."""

    axis: int
    """0 for a row, 1 for a column."""
    index: int
    """Number of the row or the column; a negative one counts from the end."""

    def rows_of_items(self) -> Iterator[Iterator[Items]]:
        """Items of the blocks, in rows of one.

        Raises
        ------
        IndexError
            If there is no such row or column.
        """
        if self.axis == 1:
            for number, row in enumerate(self.inner.rows_of_items()):
                column = tuple(_take_slice(row, _only(self.index)))
                if not column:
                    raise IndexError(f"there is no column {self.index}: row {number} is shorter")
                yield iter(column)
            return
        rows = list(_take_slice(self.inner.rows_of_items(), _only(self.index)))
        if not rows:
            raise IndexError(f"there is no row {self.index}: the sequence ends before it")
        for items in rows[0]:
            yield iter((items,))


@dataclass(frozen=True, slots=True)
class Picked(_FlatSelection[T_co]):
    """Blocks of a flat factory, by their numbers."""

    numbers: tuple[int, ...]

    def rows_of_items(self) -> Iterator[Iterator[Items]]:
        """Items of the blocks in the order of the numbers; all of them are listed for it."""
        rows = list(self.inner.rows_of_items())
        return (rows[number] for number in self.numbers)


@dataclass(frozen=True, slots=True)
class Shuffled(_FlatSelection[T_co]):
    """The blocks of a flat factory in another order."""

    seed: int

    def rows_of_items(self) -> Iterator[Iterator[Items]]:
        """Items in the other order; all of them are listed for it."""
        rows = list(self.inner.rows_of_items())
        return (rows[number] for number in shuffled_order(len(rows), self.seed))


def _require_map_backed(factory: AnyFactory, axes: int) -> AnyMapBacked:
    inner = without_progress(factory)
    if is_map_backed(inner, axes):
        return inner
    raise SourceTypeError(
        "only a sequence that can skip blocks can be sliced or shuffled, and the blocks of this "
        f"one come one after the other; {how_to_skip(inner)}"
    )


def _change_inside_ahead(
    factory: AnyMapBacked, change: Callable[[AnyMapBacked], AnyMapBacked]
) -> AnyMapBacked:
    """Change a factory; if its blocks are computed ahead, those of the changed one are as well."""
    if isinstance(factory, Ahead):
        return replace(factory, source=change(factory.source))
    return change(factory)


def _is_list(items: object) -> TypeGuard[Sequence[object]]:
    """Whether slices of items are items again, and cost a copy of references at most."""
    # Not any Sequence: many of them take numbers only.
    return isinstance(items, range | list | tuple)


def _only(number: int) -> slice:
    """Return the slice of one item.

    >>> [1, 2, 3][_only(1)], [1, 2, 3][_only(-1)], [1, 2, 3][_only(-4)]
    ([2], [3], [])
    """
    return slice(number, number + 1 or None)


def _take_slice(items: Iterator[T], chosen: slice) -> Iterator[T]:
    """Take a slice of an iterator; a list of all items is made only where it has to be."""
    bounds = (chosen.start, chosen.stop, chosen.step)
    if any(bound is not None and bound < 0 for bound in bounds):
        return iter(list(items)[chosen])
    return islice(items, *bounds)
