"""Hypothesis strategies: partitions of an axis, blocks of any dtype, and sequences of them.

Values are arbitrary *bits*: not-a-numbers of every payload, negative zeros and the ends of each
range are among them. Compare bits, by :func:`lazychunks.testing.bits`, and never numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from importlib.util import find_spec
from itertools import pairwise
from typing import Any, Literal, TypeAlias, TypeVar, get_args

import numpy as np
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from numpy.typing import NDArray

from lazychunks import converters
from lazychunks.blocks.factories import Mapped, Product
from lazychunks.sequences import LazyChunkSequence, NestedLazyChunkSequence
from lazychunks.testing.values import (
    LAYOUTS,
    NUMPY_DTYPES,
    Layout,
    any_bits,
    whole_numbers,
)

T = TypeVar("T")

Values: TypeAlias = Literal["any", "whole"]
"""Arbitrary bits; or whole numbers, so small that sums and products of a few are exact."""

Backing: TypeAlias = Literal["list", "generator", "map"]
"""What is behind a sequence: a list, a generator function, or a map over items."""

Hint: TypeAlias = Literal["none", "right", "short", "long"]
"""Which length hint a sequence has."""

HINTS: tuple[Hint, ...] = get_args(Hint)

_seeds = st.integers(0, 2**32 - 1)
_layouts: SearchStrategy[Layout] = st.sampled_from(LAYOUTS)

WAYS: dict[str, SearchStrategy[Any]] = {
    "backing": st.sampled_from(get_args(Backing)),
    "hint": st.sampled_from(HINTS),
}
"""How blocks come."""

_RIGHT: dict[str, SearchStrategy[Any]] = WAYS | {"hint": st.sampled_from(HINTS[:2])}


def dtypes(kinds: str = "biufc", *, bfloat16: bool = True) -> SearchStrategy[np.dtype[Any]]:
    """Draw a dtype that can be stored, in either byte order.

    Parameters
    ----------
    kinds
        NumPy's letters of the kinds to draw from.
    bfloat16
        Whether bfloat16 is among the floating ones (``"f"``), where ml_dtypes is installed.

    Examples
    --------
    >>> from hypothesis import given
    >>> @given(dtypes("iu"))
    ... def test(dtype):
    ...     assert dtype.kind in "iu"
    >>> test()
    """
    drawn = [np.dtype(name) for name in NUMPY_DTYPES if np.dtype(name).kind in kinds]
    if bfloat16 and "f" in kinds and find_spec("ml_dtypes") is not None:
        drawn.append(converters.bfloat16())
    return st.sampled_from(drawn)


def partitions(
    length: int | None = None, *, max_parts: int = 6, max_size: int = 5
) -> SearchStrategy[tuple[int, ...]]:
    """Draw the sizes into which an axis is cut: ragged, and some of them zero.

    Parameters
    ----------
    length
        Length of the axis, to which the sizes add up; by default any.
    max_parts
        Number of sizes, at most; there is one at least.
    max_size
        The largest size, where no length is given.

    Examples
    --------
    >>> from hypothesis import given
    >>> @given(partitions(7))
    ... def test(sizes):
    ...     assert sum(sizes) == 7
    >>> test()
    """
    if length is None:
        sizes = st.lists(st.integers(0, max_size), min_size=1, max_size=max_parts)
        return sizes.map(tuple)
    cuts = st.lists(st.integers(0, length), max_size=max_parts - 1)
    return cuts.map(partial(_between, length))


def arrays(
    shapes: SearchStrategy[tuple[int, ...]],
    dtypes: SearchStrategy[np.dtype[Any]] | None = None,
    *,
    values: Values = "any",
) -> SearchStrategy[NDArray[Any]]:
    """Draw arrays of every memory layout: in C and F order, strided, reversed, read-only.

    Parameters
    ----------
    shapes, dtypes
        What to draw shapes and dtypes from; by default every dtype that can be stored.
    values
        ``"any"`` bits; or ``"whole"`` numbers, so small that sums and products of a few are exact.

    Examples
    --------
    >>> from hypothesis import given, strategies as st
    >>> @given(arrays(st.just((2, 3)), dtypes("f")))
    ... def test(array):
    ...     assert array.shape == (2, 3)
    >>> test()
    """
    return st.builds(_array, shapes, _or_any(dtypes), _seeds, _layouts, st.just(values))


@st.composite
def flat_blocks(
    draw: st.DrawFn,
    dtypes: SearchStrategy[np.dtype[Any]] | None = None,
    *,
    values: Values = "any",
    max_ndim: int = 3,
) -> list[NDArray[Any]]:
    """Draw the blocks of a flat sequence: arrays that ``np.concatenate`` joins.

    There is one block at least; heights are ragged, and every length may be zero.

    Parameters
    ----------
    dtypes, values
        As in :func:`arrays`; the blocks of one example have one dtype.
    max_ndim
        Number of axes, at most.

    Examples
    --------
    >>> import numpy as np
    >>> from hypothesis import given
    >>> @given(flat_blocks())
    ... def test(blocks):
    ...     assert np.concatenate(blocks).shape[1:] == blocks[0].shape[1:]
    >>> test()
    """
    dtype = draw(_or_any(dtypes))
    trailing = draw(st.lists(st.integers(0, 4), max_size=max_ndim - 1))
    return [
        _array((height, *trailing), dtype, draw(_seeds), draw(_layouts), values)
        for height in draw(partitions())
    ]


@st.composite
def nested_blocks(
    draw: st.DrawFn,
    dtypes: SearchStrategy[np.dtype[Any]] | None = None,
    *,
    values: Values = "any",
    max_ndim: int = 3,
) -> list[list[NDArray[Any]]]:
    """Draw the blocks of a nested sequence by row: arrays that ``np.block`` lays out.

    There is one block at least; heights and widths are ragged, and every length may be zero.

    Parameters
    ----------
    dtypes, values, max_ndim
        As in :func:`flat_blocks`; there are two axes at least.

    Examples
    --------
    >>> from hypothesis import given
    >>> @given(nested_blocks())
    ... def test(rows):
    ...     assert len({len(row) for row in rows}) == 1
    >>> test()
    """
    dtype = draw(_or_any(dtypes))
    trailing = draw(st.lists(st.integers(0, 3), max_size=max_ndim - 2))
    heights = draw(partitions(max_parts=4, max_size=4))
    widths = draw(partitions(max_parts=4, max_size=4))
    return [
        [
            _array((height, width, *trailing), dtype, draw(_seeds), draw(_layouts), values)
            for width in widths
        ]
        for height in heights
    ]


def flat_sequences(blocks: SearchStrategy[Sequence[T]]) -> SearchStrategy[LazyChunkSequence[T]]:
    """Draw sequences of the blocks drawn: list-, generator- or map-backed, hinted or not.

    Examples
    --------
    >>> from hypothesis import given
    >>> @given(flat_sequences(flat_blocks()))
    ... def test(sequence):
    ...     assert len(sequence.compute()) >= 1
    >>> test()
    """
    made: Callable[..., LazyChunkSequence[T]] = flat_sequence
    return st.builds(made, blocks, **_RIGHT)


def nested_sequences(
    rows: SearchStrategy[Sequence[Sequence[T]]],
) -> SearchStrategy[NestedLazyChunkSequence[T]]:
    """Draw nested sequences of the rows drawn: list-, generator- or map-backed, hinted or not.

    Examples
    --------
    >>> from hypothesis import given
    >>> @given(nested_sequences(nested_blocks()))
    ... def test(sequence):
    ...     assert all(sequence.compute())
    >>> test()
    """
    made: Callable[..., NestedLazyChunkSequence[T]] = nested_sequence
    return st.builds(made, rows, **_RIGHT)


def length_hint(blocks: Sequence[object], hint: Hint) -> int | None:
    """Return the length hint of a sequence of blocks, or of rows."""
    number = len(blocks)
    return {"none": None, "right": number, "short": number // 2, "long": number + 2}[hint]


def flat_sequence(blocks: Sequence[T], backing: Backing, hint: Hint) -> LazyChunkSequence[T]:
    """Make a sequence of blocks."""
    factories: dict[Backing, Callable[[], Iterable[T]]] = {
        "map": Mapped(blocks.__getitem__, range(len(blocks))),
        "generator": partial(_generated, blocks),
        "list": partial(_handed_out, blocks),
    }
    return LazyChunkSequence(factories[backing], length_hint(blocks, hint))


def nested_sequence(
    rows: Sequence[Sequence[T]], backing: Backing, hint: Hint
) -> NestedLazyChunkSequence[T]:
    """Make a nested sequence of rows; generator-backed at least, if rows differ in length."""
    widths = {len(row) for row in rows}
    factory: Callable[[], Iterable[Iterable[T]]] = partial(map, _generated, rows)
    if backing == "map" and len(widths) == 1:
        factory = Product(partial(_entry, rows), range(len(rows)), range(*widths))
    elif backing == "list":
        factory = partial(_handed_out, rows)
    return NestedLazyChunkSequence(factory, length_hint(rows, hint))


def _entry(rows: Sequence[Sequence[T]], row: int, column: int) -> T:
    return rows[row][column]


def _between(length: int, cuts: list[int]) -> tuple[int, ...]:
    return tuple(stop - start for start, stop in pairwise((0, *sorted(cuts), length)))


def _handed_out(blocks: Sequence[T]) -> Sequence[T]:
    return blocks


def _generated(blocks: Sequence[T]) -> Iterator[T]:
    yield from blocks


def _or_any(drawn: SearchStrategy[np.dtype[Any]] | None) -> SearchStrategy[np.dtype[Any]]:
    return dtypes() if drawn is None else drawn


def _array(
    shape: tuple[int, ...], dtype: np.dtype[Any], seed: int, layout: Layout, values: Values
) -> NDArray[Any]:
    return (any_bits if values == "any" else whole_numbers)(shape, dtype, seed, layout)
