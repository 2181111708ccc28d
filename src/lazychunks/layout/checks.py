"""Checks of numbers, blocks and rows, each with its message: what, where, expected, way out."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import SupportsIndex

from lazychunks.errors import BlockIndex, BlockShapeError, EmptyRowError, EmptySequenceError
from lazychunks.layout.partition import Partition
from lazychunks.layout.shapes import Shape, align_down


def check_integer(value: SupportsIndex, name: str) -> int:
    """Return a value as an int; a boolean is refused, although Python counts it as one.

    Raises
    ------
    TypeError
        If it is no integer.
    """
    try:
        if not isinstance(value, bool):
            return operator.index(value)  # NumPy's integers too, but neither 1.0 nor "1"
    except TypeError:
        pass  # one error for all, which names the option
    raise TypeError(f"{name} must be an integer, got {value!r}")


def check_positive(value: SupportsIndex, name: str) -> int:
    """Return a value as a positive int.

    Raises
    ------
    TypeError, ValueError
        If it is no integer, or not positive.
    """
    number = check_integer(value, name)
    if number < 1:
        raise ValueError(f"{name} must be at least 1, got {value}")
    return number


def check_size(value: SupportsIndex) -> int:
    """Return the size of a block as an int that is not negative.

    Raises
    ------
    TypeError, ValueError
        If it is no integer, or negative.
    """
    number = check_integer(value, "a size of a block")
    if number < 0:
        raise ValueError(f"a size of a block must not be negative, got {number}")
    return number


def block_name(index: Sequence[int]) -> BlockIndex:
    """Return the place of a block as messages and errors give it.

    >>> block_name((3,)), block_name((3, 4))
    (3, (3, 4))
    """
    return index[0] if len(index) == 1 else (index[0], index[1])


def empty_sequence() -> EmptySequenceError:
    """Make the error for a sequence without blocks."""
    return EmptySequenceError(
        "the sequence holds no block, hence neither shape nor dtype; check the factory, or do not "
        "store an empty sequence"
    )


def check_row(row: int, count: int, columns: int) -> None:
    """Refuse a row without blocks, or with another number of blocks than the rows before it.

    Parameters
    ----------
    row
        Number of the row.
    count
        Number of blocks in it, or one more than ``columns`` as soon as there are too many.
    columns
        Number of blocks in each of the rows before it.

    Raises
    ------
    EmptyRowError
        If there is no block.
    BlockShapeError
        If there is another number of blocks.

    Examples
    --------
    >>> check_row(1, 2, columns=3)
    Traceback (most recent call last):
    lazychunks.errors.BlockShapeError: row 1 has 2 blocks, expected 3 like the rows before it; \
yield the same number of blocks in each row
    """
    if count == 0:
        raise EmptyRowError(
            f"row {row} holds no block, so its height is not known; leave the row out, or yield "
            "blocks of height zero",
            row=row,
        )
    if count != columns:
        found = f"{count} blocks" if count < columns else f"more than {columns} blocks"
        raise BlockShapeError(
            f"row {row} has {found}, expected {columns} like the rows before it; yield the same "
            "number of blocks in each row",
            block=(row, min(count, columns)),
            expected=columns,
            got=found,
        )


def check_block(
    shape: Shape,
    first: Shape,
    sizes: Sequence[int | None],
    *,
    block: BlockIndex,
    is_even: bool = False,
) -> None:
    """Refuse a block that cannot be laid out beside those before it.

    Parameters
    ----------
    shape, first
        Shapes of the block and of the first one.
    sizes
        For each block axis, the size that is expected; ``None`` where any size will do.
    block
        Place of the block, for the message.
    is_even
        Whether the first block's size fixes the places of all blocks, as with an executor or ranks.
        A block whose size is ``None`` is then at most as large as the first.

    Raises
    ------
    BlockShapeError
        If the block has fewer axes than there are block axes, or differs from the first one in
        number of axes or trailing shape, or is of another size than expected.

    Examples
    --------
    >>> check_block((7, 3), (2, 3), [None], block=1)
    >>> check_block((7, 4), (2, 3), [None], block=1)
    Traceback (most recent call last):
    lazychunks.errors.BlockShapeError: block 1 has shape (7, 4), expected (*, 3) like the \
blocks before it; pad or reshape it, or store it as an array of its own
    >>> check_block((7, 4), (2, 3), [None, 3], block=(1, 0))
    Traceback (most recent call last):
    lazychunks.errors.BlockShapeError: block (1, 0) has shape (7, 4), expected (*, 3) like the \
blocks before it; pad or reshape it, or store it as an array of its own
    """
    axes = len(sizes)
    # First, or a block without axes would be told to have the sizes of axes that it lacks.
    if len(shape) < axes:
        raise _too_few_axes(shape, axes, block)
    expected = (*sizes, *first[axes:])
    limits = first if is_even else (None,) * len(expected)
    if len(shape) != len(expected) or not all(map(_fits, shape, expected, limits)):
        raise _wrong_size(shape, expected, limits, block, is_even=is_even)


def _fits(length: int, expected: int | None, limit: int | None) -> bool:
    if expected is not None:
        return length == expected
    return limit is None or length <= limit


def _too_few_axes(shape: Shape, axes: int, block: BlockIndex) -> BlockShapeError:
    if axes == 1:
        least = "at least 1 axis"
        message = (
            f"block {block} has shape {shape}, expected {least} to be laid out along; yield "
            "blocks with more axes, e.g. block[None]"
        )
    else:
        least = "at least 2 axes"
        message = (
            f"block {block} has shape {shape}, expected {least} to be laid out along; yield "
            "blocks with more axes, or use a flat LazyChunkSequence"
        )
    return BlockShapeError(message, block=block, expected=least, got=shape)


def _wrong_size(
    shape: Shape,
    expected: Sequence[int | None],
    limits: Sequence[int | None],
    block: BlockIndex,
    *,
    is_even: bool,
) -> BlockShapeError:
    wanted = _shape_text(expected, limits)
    if is_even:
        message = (
            f"block {block} has shape {shape}, expected {wanted}; with an executor or ranks only "
            "the last block along an axis may be smaller than the first: leave out executor= and "
            "ranks=, or pad it"
        )
    else:
        message = (
            f"block {block} has shape {shape}, expected {wanted} like the blocks before it; pad or "
            "reshape it, or store it as an array of its own"
        )
    lengths = tuple("*" if length is None else length for length in expected)
    return BlockShapeError(message, block=block, expected=lengths, got=shape)


def _shape_text(expected: Sequence[int | None], limits: Sequence[int | None]) -> str:
    lengths = [_length_text(length, limit) for length, limit in zip(expected, limits, strict=True)]
    return f"({lengths[0]},)" if len(lengths) == 1 else f"({', '.join(lengths)})"


def _length_text(length: int | None, limit: int | None) -> str:
    if length is not None:
        return str(length)
    return "*" if limit is None else f"at most {limit}"


def check_listed(axis: int, count: int, listed: int, *, is_all: bool) -> None:
    """Refuse more blocks along an axis than sizes are listed, or fewer blocks in all.

    Raises
    ------
    BlockShapeError
        If the numbers differ.

    Examples
    --------
    >>> check_listed(0, 3, listed=2, is_all=False)
    Traceback (most recent call last):
    lazychunks.errors.BlockShapeError: there are more than 2 blocks along axis 0, but sizes= lists \
2 sizes; list one size for each block
    """
    if count > listed or (is_all and count < listed):
        found = f"more than {listed}" if count > listed else str(count)
        raise BlockShapeError(
            f"there are {found} blocks along axis {axis}, but sizes= lists {listed} sizes; list "
            "one size for each block",
            expected=listed,
            got=count,
        )


def misaligned(axis: int, axes: int, partition: Partition, unit: int, what: str) -> BlockShapeError:
    """Make the error for blocks that do not fall on whole units, so nobody can share the work.

    Parameters
    ----------
    axis, axes
        The axis, and the number of block axes.
    partition
        How blocks cut the axis.
    unit, what
        Extent of a unit along the axis, and what it is: ``"chunk"`` or ``"shard"``.
    """
    # Of two blocks of one size that follow each other, one at least begins inside a unit; block 1
    # itself may begin on one if blocks are appended to an array.
    count = 3 if partition.sizes is None else len(partition.sizes)
    number = next(n for n in range(1, count) if not partition.is_boundary(n, unit))
    start = partition.start_of(number)
    cell = align_down(start, unit)
    if partition.sizes is None:
        way_out = (
            f'pass chunks="blocks", or {what}s whose extent divides {partition.size} or is a '
            "multiple of it"
        )
    else:
        divisor = math.gcd(*partition.sizes)
        way_out = f"pass {what}s whose extent divides {divisor}, or leave out executor= and ranks="
    block = block_name([number if axis == other else 0 for other in range(axes)])
    return BlockShapeError(
        f"block {block} begins at {start} along axis {axis}, inside the {what} of {cell} to "
        f"{cell + unit - 1}; with an executor or ranks no two workers may share a {what}: "
        f"{way_out}",
        block=block,
        expected=f"a multiple of {unit}",
        got=start,
    )
