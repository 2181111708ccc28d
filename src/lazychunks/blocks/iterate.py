"""Iterating what factories and users hand out: checked when it is opened, counted when it ends.

Two mistakes lose blocks without an error in plain Python, so everything is opened here. An iterator
that has already run looks like an empty sequence. And a ``StopIteration`` that ``__iter__`` or a
factory raises by mistake ends the ``map`` or ``zip`` around it.
"""

from __future__ import annotations

import inspect
import itertools
import operator
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import AbstractContextManager, closing, nullcontext
from itertools import chain, compress
from types import GeneratorType
from typing import Any, Never, SupportsIndex, TypeGuard, TypeVar

from lazychunks.errors import LengthHintWarning, SourceExhaustedError, SourceTypeError
from lazychunks.layout.checks import check_integer

T = TypeVar("T")
U = TypeVar("U")

MOST_BLOCKS = sys.maxsize
"""Number of blocks that nobody reaches."""


def check_factory(factory: object) -> None:
    """Refuse a factory that cannot be called, above all a generator in place of its function.

    Raises
    ------
    SourceTypeError
        If it cannot be called.
    """
    if callable(factory):
        return
    kind = type(factory).__name__
    if not _is_generator(factory):
        raise SourceTypeError(
            f"generator_factory must be callable, got {kind}; pass a function that returns the "
            "blocks, e.g. lambda: blocks"
        )
    name = factory.__name__
    way_out = "pass a lambda around it, lambda: (block for ...)"
    if name != "<genexpr>":
        way_out = f"pass {name} itself, or lambda: {name}(...) if it takes arguments"
    raise SourceTypeError(
        f"generator_factory must be callable, got a {kind}, which yields its blocks only once; "
        + way_out
    )


def refuse_array(iterable: object, owner: str) -> None:
    """Refuse an array or text in place of an iterable of blocks.

    Raises
    ------
    SourceTypeError
        If it is an array (its rows would be taken for blocks), text, or not iterable.
    """
    if hasattr(iterable, "shape") and hasattr(iterable, "dtype"):
        raise SourceTypeError(
            f"{owner} gave one array ({type(iterable).__name__}), whose rows would be taken "
            "for blocks; give an iterable of blocks, e.g. [array]"
        )
    if isinstance(iterable, str | bytes) or not isinstance(iterable, Iterable):
        raise SourceTypeError(
            f"{owner} gave {type(iterable).__name__}, expected an iterable of blocks "
            "(a generator, a list, ...)"
        )


def open_blocks(factory: Callable[[], Iterable[T]]) -> Iterator[T]:
    """Call a factory and return an iterator over its blocks, which has not run yet.

    Raises
    ------
    SourceTypeError
        If the factory returned an array (whose rows would be taken for blocks), text, or something
        that is not iterable.
    SourceExhaustedError
        If it returned an iterator that has already been consumed. A generator is refused at once;
        any other iterator when it ends without a block and the factory returns it again.
    """
    blocks = _call(factory)
    refuse_array(blocks, "the factory")
    return _open_shared(blocks, lambda: _call(factory) is blocks)


def open_rows(factory: Callable[[], Iterable[Iterable[T]]]) -> Iterator[Iterator[T]]:
    """Like :func:`open_blocks`, for the rows of a nested sequence as well; a row may be empty."""
    rows = _call(factory)
    refuse_array(rows, "the factory")
    # The rows in a list are the same objects in every run; an iterator makes new ones.
    open_row = _open_new_row if isinstance(rows, Iterator) else _open_kept_row
    return (open_row(row) for row in _open_shared(rows, lambda: _call(factory) is rows))


def iterate_items(items: Iterable[T]) -> Iterator[T]:
    """Return a new iterator over items, which may be one-shot if they are needed only once.

    Raises
    ------
    SourceExhaustedError
        If the items are an iterator that has already been consumed.
    """
    return _open_shared(items, lambda: True)


def closing_generator(row: Iterable[object]) -> AbstractContextManager[object]:
    """Close a row when the block of the ``with`` statement ends, if the row is a generator.

    Garbage collection may come too late: the traceback of an error keeps the generator alive.
    """
    return closing(row) if _is_generator(row) else nullcontext()


def apply_to_each(fn: Callable[[T], U], items: Iterator[T]) -> Iterator[U]:
    """Yield ``fn(item)`` of each item; a generator of items is closed when this ends or fails."""
    with closing_generator(items):
        for item in items:
            made = fn(item)
            del item  # otherwise it would live on while what is made of it is used
            yield made
            del made


def count_blocks(blocks: Iterator[T], hint: int | None, noun: str) -> Iterator[T]:
    """Pass blocks on, and warn at the end if their number differs from the length hint."""
    if hint is None:
        return blocks
    # compress draws a tick for each block, and holds on to no block. It takes 7 ns for each; a
    # generator that counts takes 30 ns, as long as all else that an empty pass does.
    ticks = itertools.repeat(True, MOST_BLOCKS)
    return chain(compress(blocks, ticks), _check_count(ticks, hint, noun))


def known_length(items: Iterable[object]) -> int | None:
    """Return ``len(items)``, or None where it is not known.

    An iterable may have no length. A DataLoader over a stream raises TypeError, a huge range
    OverflowError, and a class that leaves the method to its subclasses NotImplementedError.
    """
    try:
        return len(items) if isinstance(items, Sized) else None
    except (NotImplementedError, OverflowError, TypeError):
        return None


def check_hint(hint: SupportsIndex | None, name: str) -> int | None:
    """Return a length hint as an int, or refuse it.

    Raises
    ------
    TypeError
        If it is neither ``None`` nor an integer.
    ValueError
        If it is negative, or larger than any length.
    """
    if hint is None:
        return None
    number = check_integer(hint, name)
    if not 0 <= number <= sys.maxsize:
        raise ValueError(
            f"{name} must lie between 0 and {sys.maxsize}, got {number}; leave it out if unknown"
        )
    return number


def _is_generator(iterable: object) -> TypeGuard[GeneratorType[Any, Any, Any]]:
    return isinstance(iterable, GeneratorType)


def _call(factory: Callable[[], T]) -> T:
    try:
        return factory()
    except StopIteration as error:
        raise RuntimeError(
            "the factory raised StopIteration, which would be taken for the end of the blocks; "
            "give the next() in it a default, or raise another exception"
        ) from error


def _iterate(iterable: Iterable[T]) -> Iterator[T]:
    try:
        return iter(iterable)
    except StopIteration as error:
        raise RuntimeError(
            f"__iter__ of {type(iterable).__name__} raised StopIteration, which would be taken for "
            "the end of the blocks; raise another exception there"
        ) from error


def _open(iterable: Iterable[T]) -> Iterator[T]:
    """Return an iterator; a generator that has started is refused."""
    if _is_generator(iterable):
        state = inspect.getgeneratorstate(iterable)
        if state != inspect.GEN_CREATED:
            raise SourceExhaustedError(
                "the blocks come from a generator that has already run; pass a factory that makes "
                "a new generator each time (the generator function itself, not its result)"
            )
    return _iterate(iterable)


def _open_shared(iterable: Iterable[T], is_shared: Callable[[], bool]) -> Iterator[T]:
    """Open what several runs may share; ``is_shared`` tells whether they do, if it was empty."""
    iterator = _open(iterable)
    # A list makes a new iterator for each run, and a generator has told whether it has run.
    if iterator is not iterable or _is_generator(iterator):
        return iterator
    return _refuse_spent(iterator, is_shared)


def _open_new_row(row: Iterable[T]) -> Iterator[T]:
    refuse_array(row, "a row of the nested sequence")
    return _open(row)


def _open_kept_row(row: Iterable[T]) -> Iterator[T]:
    refuse_array(row, "a row of the nested sequence")
    return _open_shared(row, lambda: True)


def _refuse_spent(iterator: Iterator[T], is_shared: Callable[[], bool]) -> Iterator[T]:
    """Pass blocks on; an iterator that has none and that several runs share has run before."""
    is_empty = True
    while True:
        try:
            block = next(iterator)  # not `for`: calling iter() again restarts some iterators
        except StopIteration:
            break
        is_empty = False
        yield block
        del block  # otherwise it would live on while the next one is computed
    if is_empty and is_shared():
        raise SourceExhaustedError(
            "the blocks come from an iterator that yields nothing (any more) and that is handed "
            "out again and again; pass a factory that makes a new iterator each time"
        )


def _check_count(ticks: Iterator[object], hint: int, noun: str) -> Iterator[Never]:
    """Yield nothing; compare how many ticks have been drawn with a length hint."""
    count = MOST_BLOCKS - operator.length_hint(ticks)
    if count != hint:
        warnings.warn(
            f"the sequence ended after {count} {noun}, its length hint said {hint}; the result is "
            "complete, but correct the hint, or leave it out",
            LengthHintWarning,
            stacklevel=2,
        )
    yield from ()
