"""Pure shape, slice and partition arithmetic, on ints and tuples only.

An *axis* has a length. A *partition* of it is a tuple of sizes that sum to the length; sizes may
be zero. A *region* is a tuple of slices, one for each axis, with explicit starts and stops.
A *grid* cuts every axis at the multiples of a cell size, so that only the last cell of an axis may
be smaller. Nothing here knows arrays: laws are tested against in-memory concatenation.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate, pairwise, starmap
from typing import NamedTuple

Shape = tuple[int, ...]
"""Lengths of the axes of an array."""

Region = tuple[slice, ...]
"""One slice with explicit start and stop for each axis."""


def partition_slices(sizes: Iterable[int]) -> Iterator[slice]:
    """Turn a partition into the slices that tile its axis, in order.

    - Slice ``k`` has length ``sizes[k]``; it starts where slice ``k - 1`` stops.
    - Together they cover ``range(sum(sizes))`` exactly once.

    >>> list(partition_slices((2, 0, 3)))
    [slice(0, 2, None), slice(2, 2, None), slice(2, 5, None)]
    """
    return starmap(slice, pairwise(accumulate(sizes, initial=0)))


def region_at(origin: Sequence[int], shape: Sequence[int]) -> Region:
    """Region of a block of ``shape`` at ``origin``; axes beyond the origin start at zero.

    >>> region_at((4, 6), (2, 3, 5))
    (slice(4, 6, None), slice(6, 9, None), slice(0, 5, None))
    """
    starts = (*origin, *(0,) * (len(shape) - len(origin)))
    return tuple(slice(start, start + length) for start, length in zip(starts, shape, strict=True))


def region_shape(region: Region) -> Shape:
    """Shape of what a region selects.

    >>> region_shape((slice(4, 6), slice(6, 9)))
    (2, 3)
    """
    return tuple(s.stop - s.start for s in region)


def align_down(position: int, size: int) -> int:
    """Largest multiple of ``size`` that is not above ``position``.

    >>> align_down(7, 3)
    6
    """
    return position - position % size


def align_up(position: int, size: int) -> int:
    """Smallest multiple of ``size`` that is not below ``position``.

    >>> align_up(7, 3)
    9
    """
    return position + -position % size


def grow(capacity: int, needed: int) -> int:
    """Capacity after geometric growth: at least ``needed``, and at least doubled if it grows.

    Reaching ``n`` from any start takes at most ``ceil(log2(n)) + 1`` growths.

    >>> grow(8, 8), grow(8, 9), grow(8, 100)
    (8, 16, 100)
    """
    return capacity if needed <= capacity else max(needed, 2 * capacity)


def cell_count(shape: Sequence[int], cell: Sequence[int]) -> int:
    """Count the grid cells that cover an array.

    >>> cell_count((5, 4), (2, 2))
    6
    """
    return math.prod(-(-length // size) for length, size in zip(shape, cell, strict=True))


def cell_region(index: Sequence[int], cell: Sequence[int], shape: Sequence[int]) -> Region:
    """Region of a grid cell, clipped to the array.

    >>> cell_region((2, 0), (2, 3), (5, 3))
    (slice(4, 5, None), slice(0, 3, None))
    """
    return tuple(
        slice(min(i * size, length), min((i + 1) * size, length))
        for i, size, length in zip(index, cell, shape, strict=True)
    )


class Overlap(NamedTuple):
    """Where a span meets a grid cell."""

    cell: int
    """Index of the cell."""
    in_cell: slice
    """The common part, counted from the cell's start."""
    in_span: slice
    """The common part, counted from the span's start."""


def overlaps(start: int, length: int, size: int) -> Iterator[Overlap]:
    """Cut the span ``[start, start + length)`` at the multiples of ``size``.

    - The parts ``in_span`` tile ``range(length)`` in order.
    - Each part has the same length in its cell, and lies within it.

    >>> list(overlaps(3, 4, 5))  # doctest: +NORMALIZE_WHITESPACE
    [Overlap(cell=0, in_cell=slice(3, 5, None), in_span=slice(0, 2, None)),
     Overlap(cell=1, in_cell=slice(0, 2, None), in_span=slice(2, 4, None))]
    """
    done = 0
    while done < length:
        cell, offset = divmod(start + done, size)
        step = min(size - offset, length - done)
        yield Overlap(cell, slice(offset, offset + step), slice(done, done + step))
        done += step


def fit_extent(extent: int, bytes_each: int, lower: int, upper: int) -> int:
    """Merge or split an extent so that its bytes lie between two bounds, where that is possible.

    Parameters
    ----------
    extent
        Number of elements along the axis in one block.
    bytes_each
        Bytes of one element along the axis (all other axes included).
    lower, upper
        Bytes below which whole extents are merged, and above which one is split into equal parts.

    Returns
    -------
    int
        A multiple of ``extent`` whose bytes do not exceed ``lower``; or ``extent`` itself; or a
        part of it, never below one, if its bytes exceed ``upper``: one that divides it, if there is
        one near.

    Examples
    --------
    >>> fit_extent(4, 10, lower=100, upper=1000)  # 40 bytes: two fit into 100
    8
    >>> fit_extent(300, 10, lower=100, upper=1000)  # 3000 bytes: three parts
    100
    """
    extent = max(extent, 1)
    bytes_each = max(bytes_each, 1)
    size = extent * bytes_each
    if size > upper:
        parts = -(-extent // max(upper // bytes_each, 1))
        near = range(parts, min(2 * parts, parts + 64) + 1)
        even = next((number for number in near if extent % number == 0), parts)
        return -(-extent // even)
    return extent * max(lower // size, 1)


def group_count(extent: int, unit: int) -> int | None:
    """Count the blocks that together fall on whole units of an axis; None if no number does.

    - A block that is a whole number of units is a group of its own.
    - Smaller blocks form groups that fill one unit exactly.

    >>> group_count(8, 4), group_count(2, 8), group_count(6, 4)
    (1, 4, None)
    """
    if extent and extent % unit == 0:
        return 1
    return unit // extent if extent and unit % extent == 0 else None
