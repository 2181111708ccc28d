"""Sequences made of several sequences: one after the other, or side by side."""

from __future__ import annotations

from typing import Any, TypeVar, overload

from lazychunks.blocks.combining import chain_blocks, zip_factories
from lazychunks.blocks.factories import is_nested
from lazychunks.errors import BlockShapeError, SourceTypeError
from lazychunks.sequences import LazyChunkSequence, NestedLazyChunkSequence

T = TypeVar("T")
A = TypeVar("A")
B = TypeVar("B")
C = TypeVar("C")


@overload
def chain(*sequences: LazyChunkSequence[T]) -> LazyChunkSequence[T]: ...
@overload
def chain(*sequences: NestedLazyChunkSequence[T]) -> NestedLazyChunkSequence[T]: ...
def chain(*sequences: Any) -> LazyChunkSequence[Any] | NestedLazyChunkSequence[Any]:
    """Return all blocks of several sequences, one sequence after the other, as one sequence.

    It is map-backed if all of them are. Of nested sequences, the rows follow each other.

    Parameters
    ----------
    *sequences
        All flat, or all nested.

    Raises
    ------
    SourceTypeError
        If some are flat and some are nested, or something is no sequence.

    Examples
    --------
    >>> low, high = (LazyChunkSequence.from_map(str, range(n, n + 2)) for n in (0, 7))
    >>> chain(low, high).compute()
    ['0', '1', '7', '8']
    """
    axes = _block_axes(sequences, "chain")
    factory = chain_blocks([one.generator_factory for one in sequences], axes)
    hints = _list_hints(sequences)
    hint = None if None in hints else sum(filter(None, hints))
    return NestedLazyChunkSequence(factory, hint) if axes == 2 else LazyChunkSequence(factory, hint)


@overload
def zip_blocks(
    first: LazyChunkSequence[A], second: LazyChunkSequence[B], /
) -> LazyChunkSequence[tuple[A, B]]: ...
@overload
def zip_blocks(
    first: NestedLazyChunkSequence[A], second: NestedLazyChunkSequence[B], /
) -> NestedLazyChunkSequence[tuple[A, B]]: ...
@overload
def zip_blocks(
    first: LazyChunkSequence[A], second: LazyChunkSequence[B], third: LazyChunkSequence[C], /
) -> LazyChunkSequence[tuple[A, B, C]]: ...
@overload
def zip_blocks(
    first: NestedLazyChunkSequence[A],
    second: NestedLazyChunkSequence[B],
    third: NestedLazyChunkSequence[C],
    /,
) -> NestedLazyChunkSequence[tuple[A, B, C]]: ...
@overload
def zip_blocks(*sequences: LazyChunkSequence[T]) -> LazyChunkSequence[tuple[T, ...]]: ...
@overload
def zip_blocks(
    *sequences: NestedLazyChunkSequence[T],
) -> NestedLazyChunkSequence[tuple[T, ...]]: ...
def zip_blocks(*sequences: Any) -> LazyChunkSequence[Any] | NestedLazyChunkSequence[Any]:
    """Return tuples of the blocks at the same place in several sequences, as one sequence.

    It is map-backed if all of them are.

    Parameters
    ----------
    *sequences
        All flat, or all nested, with the same number of blocks (and rows).

    Raises
    ------
    SourceTypeError
        If some are flat and some are nested, or something is no sequence.
    BlockShapeError
        If their length hints differ; when iterated, if their numbers of blocks do.

    Examples
    --------
    >>> letters = LazyChunkSequence.from_map(chr, [97, 98])
    >>> numbers = LazyChunkSequence.from_map(abs, [-1, -2])
    >>> zip_blocks(letters, numbers).compute()
    [('a', 1), ('b', 2)]
    """
    axes = _block_axes(sequences, "zip_blocks")
    known = {hint for hint in _list_hints(sequences) if hint is not None}
    if len(known) > 1:
        # At the end of a long run, which stores nothing then, it would be too late to tell.
        raise BlockShapeError(
            f"the sequences to be zipped have {', '.join(map(str, sorted(known)))} "
            f"{'rows' if axes == 2 else 'blocks'} by their length hints; slice them to the same "
            "number, or correct the hints",
            expected="the same number in all sequences",
            got=sorted(known),
        )
    factory = zip_factories([one.generator_factory for one in sequences], axes)
    hint = next(iter(known), None)
    return NestedLazyChunkSequence(factory, hint) if axes == 2 else LazyChunkSequence(factory, hint)


def _block_axes(sequences: tuple[object, ...], name: str) -> int:
    kinds = {type(one).__name__ for one in sequences}
    are_sequences = all(hasattr(one, "generator_factory") for one in sequences)
    nested = {is_nested(one) for one in sequences}
    if not are_sequences or len(nested) > 1:
        raise SourceTypeError(
            f"{name} takes sequences that are all flat or all nested, got "
            f"{', '.join(sorted(kinds))}; make a sequence of the blocks first, e.g. with "
            "LazyChunkSequence.from_map"
        )
    return 2 if nested == {True} else 1


def _list_hints(sequences: tuple[Any, ...]) -> list[int | None]:
    return [one.len_outer_generator if is_nested(one) else one.len_generator for one in sequences]
