"""Where blocks come from: factories that hand out iterators, and the checks on what they hand out.

A *generator-backed* factory is any callable that returns an iterable; it is opaque and sequential.
A *map-backed* one (:class:`Mapped`, :class:`Product`) applies a function to items, so that blocks
can be skipped, repeated or computed elsewhere without computing the others.
"""

from __future__ import annotations

import inspect
import operator
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from dataclasses import dataclass
from itertools import chain, compress, islice, repeat
from types import GeneratorType
from typing import Any, Generic, Protocol, SupportsIndex, TypeGuard, TypeVar, runtime_checkable

from lazychunks.errors import LengthHintWarning, SourceExhaustedError

__all__ = [
    "Composed",
    "Mapped",
    "MappedBlocks",
    "MappedRows",
    "Product",
    "Wrapper",
    "block_counts",
    "counted",
    "length_of",
    "mapped",
    "mapped_rows",
    "opened",
    "opened_row",
    "run_through",
    "unwrapped",
    "validated_hint",
]

T = TypeVar("T")
U = TypeVar("U")
T_co = TypeVar("T_co", covariant=True)


@dataclass(frozen=True, slots=True)
class Composed(Generic[T_co]):
    """``second(first(...))`` as a value: comparable, and picklable when both functions are."""

    first: Callable[..., Any]
    second: Callable[[Any], T_co]

    def __call__(self, *args: Any) -> T_co:
        """Apply both functions."""
        return self.second(self.first(*args))


@dataclass(frozen=True, slots=True)
class Mapped(Generic[T_co]):
    """Block ``i`` is ``fn(item_i)``."""

    fn: Callable[[Any], T_co]
    """Computes a block from its item."""
    items: Iterable[Any]
    """Anything that can be iterated afresh: a range, a list, a DataLoader."""

    def __call__(self) -> Iterator[T_co]:
        """All blocks, in order."""
        return map(self.fn, run_through(self.items))

    def starting_at(self, block: int) -> Iterator[T_co]:
        """Blocks from number ``block`` on; those before it are not computed."""
        return map(self.fn, _skip(self.items, block))


@dataclass(frozen=True, slots=True)
class Product(Generic[T_co]):
    """Block ``(i, j)`` is ``fn(row_i, column_j)``."""

    fn: Callable[[Any, Any], T_co]
    """Computes a block from the item of its row and that of its column."""
    rows: Iterable[Any]
    """Items of the rows, iterated once a run."""
    columns: Iterable[Any]
    """Items of the columns, iterated once a row."""

    def __call__(self) -> Iterator[Iterator[T_co]]:
        """All rows, in order."""
        return map(self._row, run_through(self.rows))

    def starting_at(self, row: int, column: int = 0) -> Iterator[Iterator[T_co]]:
        """Rows from number ``row`` on, the first of them from ``column`` on."""
        rest = _skip(self.rows, row)
        partial = (
            map(self.fn, repeat(item), _skip(self.columns, column)) for item in islice(rest, 1)
        )
        return chain(partial, map(self._row, rest))

    def _row(self, item: Any) -> Iterator[T_co]:
        return map(self.fn, repeat(item), run_through(self.columns))


@dataclass(frozen=True, slots=True)
class MappedRows(Generic[T_co]):
    """Rows of an opaque nested factory, with ``fn`` applied to every block."""

    fn: Callable[[Any], T_co]
    factory: Callable[[], Iterable[Iterable[Any]]]

    def __call__(self) -> Iterator[Iterator[T_co]]:
        """All rows, in order."""
        return (map(self.fn, opened_row(row)) for row in opened(self.factory))


@dataclass(frozen=True, slots=True)
class MappedBlocks(Generic[T_co]):
    """Blocks of an opaque factory, with ``fn`` applied to every block."""

    fn: Callable[[Any], T_co]
    factory: Callable[[], Iterable[Any]]

    def __call__(self) -> Iterator[T_co]:
        """All blocks, in order."""
        return map(self.fn, opened(self.factory))


def opened(factory: Callable[[], Iterable[T]]) -> Iterator[T]:
    """Call a factory and return an iterator that has certainly not run yet.

    Raises
    ------
    TypeError
        If the factory returned an array (whose rows would pass for blocks), text, or something
        that is not iterable.
    SourceExhaustedError
        If it returned an iterator that has already been consumed: at once for a generator, at the
        end of an otherwise empty run for an iterator that cannot be asked.
    """
    made = factory()
    _refuse_array(made, "the factory")
    return _fresh(made, lambda: factory() is made)


def opened_row(row: Iterable[T]) -> Iterator[T]:
    """Like :func:`opened`, for a row of a nested sequence; it may be empty."""
    _refuse_array(row, "a row of the nested sequence")
    _refuse_started(row)
    return iter(row)


def mapped(factory: Callable[[], Iterable[T]], fn: Callable[[T], U]) -> Callable[[], Iterator[U]]:
    """Make the factory of ``fn(block)``, map-backed where ``factory`` is."""
    if isinstance(factory, Mapped):
        return Mapped(Composed(factory.fn, fn), factory.items)
    return MappedBlocks(fn, factory)


def mapped_rows(
    factory: Callable[[], Iterable[Iterable[T]]], fn: Callable[[T], U]
) -> Callable[[], Iterator[Iterator[U]]]:
    """Make the nested factory of ``fn(block)``, map-backed where ``factory`` is."""
    if isinstance(factory, Product):
        return Product(Composed(factory.fn, fn), factory.rows, factory.columns)
    return MappedRows(fn, factory)


def run_through(items: Iterable[T]) -> Iterator[T]:
    """Return a new iterator over items that may be iterated again and again, or once if need be.

    Raises
    ------
    SourceExhaustedError
        If the items are an iterator that has already been consumed.
    """
    return _fresh(items, lambda: True)


def counted(blocks: Iterator[T], hint: int, noun: str) -> Iterator[T]:
    """Pass blocks on, and warn at the end if there were not ``hint`` of them.

    Source: counting in C, by what is left of a long ``repeat``; a generator that counts would
    double the cost of a run over many small blocks.
    """
    ticks = repeat(True, sys.maxsize)
    return chain(compress(blocks, ticks), _checked_count(ticks, hint, noun))


def length_of(items: Iterable[object]) -> int | None:
    """Ask items for their number (a DataLoader over a stream has none)."""
    try:
        return len(items) if isinstance(items, Sized) else None
    except TypeError:
        return None


@runtime_checkable
class Wrapper(Protocol):
    """A factory around another one, such as one that reports."""

    @property
    def source(self) -> object:
        """The factory inside."""
        ...


def unwrapped(factory: object) -> object:
    """Return the factory inside all wrappers."""
    while isinstance(factory, Wrapper):
        factory = factory.source
    return factory


def block_counts(factory: object, hint: int | None) -> tuple[int | None, int | None]:
    """Tell the number of blocks along the two block axes where they are known.

    A map-backed nested factory knows its columns.
    """
    factory = unwrapped(factory)
    return (hint, length_of(factory.columns) if isinstance(factory, Product) else None)


def validated_hint(hint: SupportsIndex | None, name: str) -> int | None:
    """Check a length hint.

    Raises
    ------
    TypeError
        If it is neither ``None`` nor an integer.
    ValueError
        If it is negative.
    """
    if hint is None:
        return None
    if isinstance(hint, bool):
        raise TypeError(f"{name} must be an integer or None, got {hint!r}")
    try:
        number = operator.index(hint)
    except TypeError:
        raise TypeError(f"{name} must be an integer or None, got {hint!r}") from None
    if number < 0:
        raise ValueError(f"{name} must not be negative, got {number}; leave it out if unknown")
    return number


def _checked_count(ticks: Iterator[bool], hint: int, noun: str) -> Iterator[Any]:
    """Yield nothing, and warn when asked for it."""
    seen = sys.maxsize - operator.length_hint(ticks)
    if seen != hint:
        warnings.warn(
            f"the sequence ended after {seen} {noun}, its length hint said {hint}; the result is "
            "complete, but correct the hint, or leave it out",
            LengthHintWarning,
            stacklevel=2,
        )
    yield from ()


def _refuse_array(made: object, who: str) -> None:
    if hasattr(made, "shape") and hasattr(made, "dtype"):
        raise TypeError(
            f"{who} gave one array ({type(made).__name__}), whose rows would be taken "
            "for blocks; give an iterable of blocks, e.g. [array]"
        )
    if isinstance(made, str | bytes) or not isinstance(made, Iterable):
        raise TypeError(
            f"{who} gave {type(made).__name__}, expected an iterable of blocks "
            "(a generator, a list, ...)"
        )


def _fresh(made: Iterable[T], handed_out_before: Callable[[], bool]) -> Iterator[T]:
    _refuse_started(made)
    iterator = iter(made)
    if iterator is not made or _is_generator(made):
        return iterator
    return _refuse_silence(iterator, handed_out_before)


def _refuse_started(made: Iterable[object]) -> None:
    if _is_generator(made) and inspect.getgeneratorstate(made) != inspect.GEN_CREATED:
        raise SourceExhaustedError(
            "the blocks come from a generator that has already run; pass a factory that makes a "
            "new generator each time (the generator function itself, not its result)"
        )


def _is_generator(x: object) -> TypeGuard[GeneratorType[Any, Any, Any]]:
    return isinstance(x, GeneratorType)


def _refuse_silence(iterator: Iterator[T], handed_out_before: Callable[[], bool]) -> Iterator[T]:
    for first in iterator:
        yield first
        yield from iterator
        return
    if handed_out_before():
        raise SourceExhaustedError(
            "the blocks come from an iterator that yields nothing (any more) and that is handed "
            "out again and again; pass a factory that makes a new iterator each time"
        )


def _skip(items: Iterable[T], number: int) -> Iterator[T]:
    if isinstance(items, Sequence):
        return map(items.__getitem__, range(number, len(items)))
    return islice(run_through(items), number, None)
