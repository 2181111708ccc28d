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
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, compress, repeat
from types import GeneratorType
from typing import Any, Generic, SupportsIndex, TypeGuard, TypeVar

from tqdm import tqdm

from lazychunks.errors import LengthHintWarning, SourceExhaustedError, SourceTypeError
from lazychunks.progress import with_bar

T = TypeVar("T")
U = TypeVar("U")
T_co = TypeVar("T_co", covariant=True)


class MapBacked:
    """Base of a factory that applies a function to items.

    Its blocks can be skipped, repeated or computed elsewhere without computing the others.
    """

    __slots__ = ()

    @abstractmethod
    def tasks(self) -> Iterator[Any]:
        """For each block, in order, a call that computes it (nested: rows of such calls).

        What is not called is not computed. Each is a :class:`Task`, of one function for all blocks,
        so that the function can be sent elsewhere once and its arguments block by block.
        """

    @abstractmethod
    def mapped(self, fn: Callable[[Any], Any]) -> MapBacked:
        """Return the map-backed factory of ``fn(block)``."""

    def column_count(self) -> int | None:
        """Return the number of blocks in a row of a nested factory, where it is known."""
        return None

    @abstractmethod
    def __call__(self) -> Iterator[Any]:
        """All blocks (nested: rows of blocks), in order."""


@dataclass(frozen=True, slots=True)
class Task(Generic[T_co]):
    """A call as a value: comparable, and picklable where its function and arguments are.

    A ``partial`` does not keep them apart: of a function that is a ``partial`` itself, it takes
    over the arguments.
    """

    func: Callable[..., T_co]
    """For all blocks the same, where a block is computed."""
    args: tuple[Any, ...]
    """Of a block: one item; nested: that of the row and that of the column."""

    def __call__(self) -> T_co:
        """Compute the block, or whatever it is."""
        return self.func(*self.args)


@dataclass(frozen=True, slots=True)
class Composed(Generic[T_co]):
    """``second(first(...))`` as a value: comparable, and picklable when both functions are."""

    first: Callable[..., Any]
    second: Callable[[Any], T_co]

    def __call__(self, *args: Any) -> T_co:
        """Apply both functions."""
        return self.second(self.first(*args))


@dataclass(frozen=True, slots=True)
class Mapped(MapBacked, Generic[T_co]):
    """Block ``i`` is ``fn(item_i)``."""

    fn: Callable[[Any], T_co]
    """Computes a block from its item."""
    items: Iterable[Any]
    """Anything that can be iterated afresh: a range, a list, a DataLoader."""

    def __call__(self) -> Iterator[T_co]:
        """All blocks, in order."""
        return (self.fn(item) for item in run_through(self.items))

    def tasks(self) -> Iterator[Task[T_co]]:
        """Calls that compute the blocks."""
        return map(Task, repeat(self.fn), zip(run_through(self.items)))

    def mapped(self, fn: Callable[[Any], Any]) -> Mapped[Any]:
        """Factory of ``fn(block)``."""
        return Mapped(Composed(self.fn, fn), self.items)


@dataclass(frozen=True, slots=True)
class Product(MapBacked, Generic[T_co]):
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

    def tasks(self) -> Iterator[Iterator[Task[T_co]]]:
        """Rows of calls that compute the blocks."""
        return map(self._row_of_tasks, run_through(self.rows))

    def mapped(self, fn: Callable[[Any], Any]) -> Product[Any]:
        """Factory of ``fn(block)``."""
        return Product(Composed(self.fn, fn), self.rows, self.columns)

    def column_count(self) -> int | None:
        """Number of columns, where they know it."""
        return length_of(self.columns)

    def _row(self, item: Any) -> Iterator[T_co]:
        return (self.fn(item, column) for column in run_through(self.columns))

    def _row_of_tasks(self, item: Any) -> Iterator[Task[T_co]]:
        return map(Task, repeat(self.fn), zip(repeat(item), run_through(self.columns)))


@dataclass(frozen=True, slots=True)
class Reported:
    """A factory around another one, whose blocks move a progress bar.

    The sequence that reaches an aggregator reports by itself, so that every aggregator (``list``
    and ``max`` included) has a bar for free.
    """

    inner: Callable[[], Iterable[Any]]
    """The factory inside."""
    total: int | None
    """Number of blocks (nested: rows), where it is known."""
    nested: bool

    def __call__(self) -> Iterator[Any]:
        """All blocks (nested: rows of blocks), in order."""
        if self.nested:
            return self._rows()
        return iter(with_bar(opened(self.inner), self.total, "block"))

    def _rows(self) -> Iterator[Iterator[Any]]:
        """Rows of one bar, whose total is known once the first has told how many blocks it has."""
        with tqdm(total=None, desc="blocks", unit="block") as bar:
            for index, row in enumerate(opened_rows(self.inner)):
                yield self._row(row, bar)
                if index == 0 and self.total is not None:
                    bar.total = bar.n * self.total
                    bar.refresh()

    def _row(self, row: Iterator[T], bar: tqdm[None]) -> Iterator[T]:
        for block in row:
            yield block
            bar.update()


def opened(factory: Callable[[], Iterable[T]]) -> Iterator[T]:
    """Call a factory and return an iterator that has certainly not run yet.

    Raises
    ------
    SourceTypeError
        If the factory returned an array (whose rows would pass for blocks), text, or something
        that is not iterable.
    SourceExhaustedError
        If it returned an iterator that has already been consumed: at once for a generator, at the
        end of an otherwise empty run for an iterator that cannot be asked.
    """
    made = factory()
    refuse_array(made, "the factory")
    return _fresh(made, lambda: factory() is made)


def opened_rows(factory: Callable[[], Iterable[Iterable[T]]]) -> Iterator[Iterator[T]]:
    """Like :func:`opened`, for the rows of a nested sequence as well; a row may be empty."""
    rows = factory()
    refuse_array(rows, "the factory")
    fresh = _fresh(rows, lambda: factory() is rows)
    # Rows that a list holds are the same at each run; those that an iterator makes are new.
    kept = not isinstance(rows, Iterator)
    return (_opened_row(row, kept=kept) for row in fresh)


def _opened_row(row: Iterable[T], *, kept: bool) -> Iterator[T]:
    refuse_array(row, "a row of the nested sequence")
    return _fresh(row, (lambda: True) if kept else None)


def ended(row: Iterable[object]) -> AbstractContextManager[object]:
    """End a row's generator on leaving, whoever else still refers to it (a traceback does)."""
    return closing(row) if _is_generator(row) else nullcontext()


def mapped(factory: Callable[[], Iterable[T]], fn: Callable[[T], U]) -> Callable[[], Iterator[U]]:
    """Make the factory of ``fn(block)``, map-backed where ``factory`` is."""
    return within(factory, partial(_mapped, fn=fn, opaque=_mapped_blocks))


def mapped_rows(
    factory: Callable[[], Iterable[Iterable[T]]], fn: Callable[[T], U]
) -> Callable[[], Iterator[Iterator[U]]]:
    """Make the nested factory of ``fn(block)``, map-backed where ``factory`` is."""
    return within(factory, partial(_mapped, fn=fn, opaque=_mapped_rows))


def _mapped(
    factory: Callable[[], Iterable[Any]], *, fn: Callable[[Any], Any], opaque: Callable[..., Any]
) -> Any:
    return factory.mapped(fn) if isinstance(factory, MapBacked) else Task(opaque, (fn, factory))


def _mapped_blocks(fn: Callable[[T], U], factory: Callable[[], Iterable[T]]) -> Iterator[U]:
    return (fn(block) for block in opened(factory))


def _mapped_rows(
    fn: Callable[[T], U], factory: Callable[[], Iterable[Iterable[T]]]
) -> Iterator[Iterator[U]]:
    return ((fn(block) for block in row) for row in opened_rows(factory))


def within(
    factory: Callable[[], Iterable[T]],
    change: Callable[[Callable[[], Iterable[T]]], Callable[[], Iterator[U]]],
) -> Callable[[], Iterator[U]]:
    """Change a factory, or the one that is wrapped in it, for instance by one that reports."""
    if isinstance(factory, Reported):
        return replace(factory, inner=within(factory.inner, change))
    return change(factory)


def run_through(items: Iterable[T]) -> Iterator[T]:
    """Return a new iterator over items that may be iterated again and again, or once if need be.

    Raises
    ------
    SourceExhaustedError
        If the items are an iterator that has already been consumed.
    """
    return _fresh(items, lambda: True)


def counted(blocks: Iterator[T], hint: int | None, noun: str) -> Iterator[T]:
    """Pass blocks on, and warn at the end if there were not as many as a hint says.

    Source: counting in C, by what is left of a long ``repeat``; a generator that counts would
    double the cost of a run over many small blocks.
    """
    if hint is None:
        return blocks
    ticks = repeat(True, sys.maxsize)
    return chain(compress(blocks, ticks), _checked_count(ticks, hint, noun))


def length_of(items: Iterable[object]) -> int | None:
    """Ask items for their number; a loader of a stream refuses it, and a range may be too long."""
    try:
        return len(items) if isinstance(items, Sized) else None
    except (NotImplementedError, OverflowError, TypeError):
        return None


def tasks_of(factory: object) -> Callable[[], Iterator[Any]] | None:
    """Make the factory of calls that compute the blocks of a map-backed one, reporting included.

    Returns ``None`` for a factory that is not map-backed.
    """
    if isinstance(factory, MapBacked):
        return factory.tasks
    if isinstance(factory, Reported):
        inner = tasks_of(factory.inner)
        return None if inner is None else replace(factory, inner=inner)
    return None


def column_count(factory: object) -> int | None:
    """Tell the number of blocks in a row where it is known: by a map-backed nested factory."""
    while isinstance(factory, Reported):
        factory = factory.inner
    return factory.column_count() if isinstance(factory, MapBacked) else None


def validated_hint(hint: SupportsIndex | None, name: str) -> int | None:
    """Check a length hint.

    Raises
    ------
    TypeError
        If it is neither ``None`` nor an integer.
    ValueError
        If it is negative, or larger than any length.
    """
    number = None if hint is None else integer(hint, name)
    if number is not None and not 0 <= number <= sys.maxsize:
        raise ValueError(
            f"{name} must lie between 0 and {sys.maxsize}, got {number}; leave it out if unknown"
        )
    return number


def integer(value: SupportsIndex, name: str) -> int:
    """Check that a value is an integer, and no boolean.

    Raises
    ------
    TypeError
        If it is not.
    """
    try:
        if not isinstance(value, bool):
            return operator.index(value)
    except TypeError:
        pass
    raise TypeError(f"{name} must be an integer, got {value!r}")


def positive(value: SupportsIndex, name: str) -> int:
    """Check that a value is a positive integer.

    Raises
    ------
    TypeError, ValueError
        If it is no integer, or not positive.
    """
    number = integer(value, name)
    if number < 1:
        raise ValueError(f"{name} must be at least 1, got {value}")
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


def refuse_array(made: object, who: str) -> None:
    """Refuse what would pass for an iterable of blocks, and what is none."""
    if hasattr(made, "shape") and hasattr(made, "dtype"):
        raise SourceTypeError(
            f"{who} gave one array ({type(made).__name__}), whose rows would be taken "
            "for blocks; give an iterable of blocks, e.g. [array]"
        )
    if isinstance(made, str | bytes) or not isinstance(made, Iterable):
        raise SourceTypeError(
            f"{who} gave {type(made).__name__}, expected an iterable of blocks "
            "(a generator, a list, ...)"
        )


def _fresh(made: Iterable[T], handed_out_before: Callable[[], bool] | None) -> Iterator[T]:
    if _is_generator(made):
        if inspect.getgeneratorstate(made) != inspect.GEN_CREATED:
            raise SourceExhaustedError(
                "the blocks come from a generator that has already run; pass a factory that makes "
                "a new generator each time (the generator function itself, not its result)"
            )
        return made
    iterator = iter(made)
    if iterator is not made or handed_out_before is None:
        return iterator
    return _refuse_silence(iterator, handed_out_before)


def _is_generator(x: object) -> TypeGuard[GeneratorType[Any, Any, Any]]:
    return isinstance(x, GeneratorType)


def _refuse_silence(iterator: Iterator[T], handed_out_before: Callable[[], bool]) -> Iterator[T]:
    ticks = repeat(True, sys.maxsize)
    # Not of the iterator itself: to be asked for an iterator once more begins some of them anew.
    blocks = compress(map(next, repeat(iterator)), ticks)
    return chain(blocks, _checked_silence(ticks, handed_out_before))


def _checked_silence(ticks: Iterator[bool], handed_out_before: Callable[[], bool]) -> Iterator[Any]:
    """Yield nothing, and refuse to have yielded nothing before."""
    if operator.length_hint(ticks) == sys.maxsize and handed_out_before():
        raise SourceExhaustedError(
            "the blocks come from an iterator that yields nothing (any more) and that is handed "
            "out again and again; pass a factory that makes a new iterator each time"
        )
    yield from ()
