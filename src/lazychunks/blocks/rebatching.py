"""Factories of blocks with other numbers of rows: joined and cut, in the same order."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, ClassVar, Generic, TypeAlias, TypeVar

from lazychunks.blocks.combining import Choose, ComputeEach
from lazychunks.blocks.factories import Items, MapBacked, is_map_backed, without_progress
from lazychunks.blocks.iterate import open_blocks
from lazychunks.blocks.rows import copy_rows, count_rows, join_rows, take_rows
from lazychunks.errors import BlockShapeError

T = TypeVar("T")
P = TypeVar("P")
T_co = TypeVar("T_co", covariant=True)

Piece: TypeAlias = tuple[Items, int, int, int]
"""Items of a block, the first row and the row after the last that are taken of it, and its rows."""


def rebatch_blocks(
    factory: Callable[[], Iterable[T]], rows: int, sizes: tuple[int, ...] | None
) -> tuple[Callable[[], Iterator[T]], int | None]:
    """Return the factory of blocks of a number of rows, and their number where it is known.

    Parameters
    ----------
    factory
        The blocks.
    rows
        Number of rows of each new block but the last, which may have fewer.
    sizes
        Numbers of rows of the blocks, where they are known.
    """
    inner = without_progress(factory)
    if is_map_backed(inner, 1) and (sizes is not None or find_counter(inner.function)):
        made: Rebatched[T] = Rebatched(inner, rows, sizes)
        lengths = (length for _, length in made.list_lengths()) if sizes is None else sizes
        total = sum(lengths)
        return made, max(-(-total // rows), 1)
    return RebatchedBlocks(factory, rows, sizes), None


def find_counter(fn: Callable[..., Any]) -> Callable[..., int] | None:
    """Return what tells the rows of a block, given its items, if its function knows that."""
    if isinstance(fn, Choose):
        counters = [find_counter(one) for one in fn.fns]
        known = tuple(counter for counter in counters if counter is not None)
        return Choose(known) if len(known) == len(counters) else None
    if isinstance(fn, ComputeEach):
        first = find_counter(fn.fns[0])
        return None if first is None else CountFirst(first)
    counter: Callable[..., int] | None = getattr(fn, "count_rows", None)
    return counter


@dataclass(frozen=True, slots=True)
class CountFirst:
    """Tells the rows of a tuple of blocks by the first of them."""

    counter: Callable[..., int]

    def __call__(self, first: Items, *_: Items) -> int:
        """Return the number of rows."""
        return self.counter(*first)


def cut(
    sized: Iterable[tuple[T, int]],
    rows: int,
    take: Callable[[T, int, int], P],
    keep: Callable[[P], P],
) -> Iterator[list[P]]:
    """Cut what has rows into pieces, and yield the pieces of each new block.

    Parameters
    ----------
    sized
        What is cut, with its number of rows.
    rows
        Number of rows of each new block but the last. If there is no row at all, there is one new
        block, which still tells shape and dtype.
    take
        Returns a piece, given the first row and the one after the last.
    keep
        Returns a piece that can wait until the next ones come.

    Examples
    --------
    >>> list(cut([("abcde", 5), ("fg", 2)], 3, lambda text, start, stop: text[start:stop], str))
    [['abc'], ['de', 'f'], ['g']]
    """
    pieces = list[P]()
    waiting, is_first = 0, True
    for whole, length in sized:
        start = 0
        while waiting + length - start >= rows:
            stop = start + rows - waiting
            yield [*(pieces if waiting else ()), take(whole, start, stop)]
            pieces, waiting, start, is_first = [], 0, stop, False
        if start < length or (is_first and not pieces):
            pieces.append(keep(take(whole, start, length)))
            waiting += length - start
        del whole  # otherwise it would live on while the next one is computed
    if pieces:
        yield pieces


@dataclass(frozen=True, slots=True)
class RebatchedBlocks(Generic[T_co]):
    """New blocks of a factory whose blocks have to be computed to tell where rows lie."""

    label: ClassVar[str] = "rebatch"

    way_out: ClassVar[str] = "give rebatch() the sizes of the blocks, with sizes="

    inner: Callable[[], Iterable[T_co]]
    rows: int
    sizes: Sequence[int] | None

    def __call__(self) -> Iterator[T_co]:
        """All new blocks, in order."""
        return _cut_blocks(open_blocks(self.inner), self.rows, self.sizes)


@dataclass(frozen=True, slots=True)
class Rebatched(MapBacked[T_co], Generic[T_co]):
    """New blocks of a map-backed factory of which it is known where rows lie."""

    inner: MapBacked[T_co]
    rows: int
    sizes: Sequence[int] | None
    """Numbers of rows of the blocks; None, if their function knows them."""

    @property
    def axes(self) -> int:
        """Number of block axes."""
        return 1

    @property
    def function(self) -> ComputeRows[T_co]:
        """Computes the blocks that have rows of a new block, and joins these."""
        return ComputeRows(self.inner.function)

    def __call__(self) -> Iterator[T_co]:
        """All new blocks, in order; each block is computed once."""
        return _cut_blocks(self.inner(), self.rows, self.sizes)

    def rows_of_items(self) -> Iterator[Iterator[Items]]:
        """Pieces of each new block; a block of which several have rows is computed for each."""
        lengths = self.list_lengths()
        for pieces in cut(((one, one[1]) for one in lengths), self.rows, _take_piece, _pass_on):
            yield iter(((tuple(pieces),),))

    def list_lengths(self) -> Iterator[tuple[Items, int]]:
        """Yield items and number of rows of each block."""
        all_items = chain.from_iterable(self.inner.rows_of_items())
        if self.sizes is not None:
            return _with_sizes(all_items, self.sizes)
        count = find_counter(self.inner.function)
        assert count is not None
        return ((items, count(*items)) for items in all_items)


@dataclass(frozen=True, slots=True)
class ComputeRows(Generic[T_co]):
    """Computes the blocks that have rows of a new block, and joins these rows."""

    label: ClassVar[str] = "rebatch"

    fn: Callable[..., T_co]

    def __call__(self, pieces: Sequence[Piece]) -> T_co:
        """Compute the new block."""
        found = list[T_co]()
        for items, start, stop, length in pieces:
            block = self.fn(*items)
            _check_length(count_rows(block, 0), length, "a block")
            taken = take_rows(block, slice(start, stop))
            # A function may use the memory of its block for the next one.
            found.append(taken if len(pieces) == 1 else copy_rows(taken))
            del block, taken  # otherwise they would live on while the next one is computed
        return join_rows(found)

    def count_rows(self, pieces: Sequence[Piece]) -> int:
        """Return the number of rows of a new block, without computing it."""
        return sum(stop - start for _, start, stop, _ in pieces)


def _take_piece(sized: tuple[Items, int], start: int, stop: int) -> Piece:
    items, length = sized
    return items, start, stop, length


def _pass_on(piece: Piece) -> Piece:
    return piece


def _cut_blocks(blocks: Iterator[T], rows: int, sizes: Sequence[int] | None) -> Iterator[T]:
    measured = _measure(blocks, sizes)
    # Rows that wait are copied, since a producer may use the memory of its block for the next one.
    for pieces in cut(measured, rows, _take_rows, copy_rows):
        joined = join_rows(pieces)
        del pieces  # otherwise they would live on while the next block is computed
        yield joined
        del joined


def _take_rows(block: T, start: int, stop: int) -> T:
    return take_rows(block, slice(start, stop))


def _measure(blocks: Iterator[T], sizes: Sequence[int] | None) -> Iterator[tuple[T, int]]:
    """Yield blocks with their numbers of rows, compared with those that are listed."""
    number = 0
    for block in blocks:  # not enumerated, which would keep the last one alive
        length = count_rows(block, number)
        if sizes is not None:
            _check_count(number + 1, sizes, is_end=False)
            _check_length(length, sizes[number], f"block {number}")
        yield block, length
        del block
        number += 1
    if sizes is not None:
        _check_count(number, sizes, is_end=True)


def _with_sizes(items: Iterable[T], sizes: Sequence[int]) -> Iterator[tuple[T, int]]:
    number = 0
    for item in items:
        number += 1
        _check_count(number, sizes, is_end=False)
        yield item, sizes[number - 1]
    _check_count(number, sizes, is_end=True)


def _check_count(number: int, sizes: Sequence[int], *, is_end: bool) -> None:
    """Refuse more blocks than sizes, and at the end fewer."""
    if number < len(sizes) if is_end else number > len(sizes):
        found = f"{number} blocks" if is_end else f"more than {len(sizes)} blocks"
        raise BlockShapeError(
            f"rebatch was given {len(sizes)} sizes, and the sequence has {found}; list the rows of "
            "each block, or leave sizes out",
            block=min(number, len(sizes)),
            expected=len(sizes),
            got=found,
        )


def _check_length(length: int, size: int, name: str) -> None:
    if length != size:
        raise BlockShapeError(
            f"{name} has {length} rows, and rebatch was told {size}; correct its sizes, or leave "
            "them out",
            expected=size,
            got=length,
        )
