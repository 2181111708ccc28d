"""Where the next block of a part lies, and which sizes it may have."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lazychunks.errors import BlockShapeError
from lazychunks.layout.checks import block_name, check_block, check_listed, check_row
from lazychunks.layout.parts import AnyPart
from lazychunks.layout.shapes import Shape
from lazychunks.storage.resuming.mismatches import mismatch
from lazychunks.storage.writing.target import Target


class Cursor:
    """A place in a part that goes on from block to block, and learns sizes and lengths.

    Parameters
    ----------
    target
        Where blocks go: what is known of sizes and lengths beforehand.
    part
        Which blocks come.
    is_whole
        Whether the part is everything. Then the sizes of blocks need not be known.
    """

    def __init__(self, target: Target[Any], part: AnyPart, *, is_whole: bool) -> None:
        self._target = target
        self._part = part
        self._is_whole = is_whole
        self._row, self._column = part.index
        self._columns: int | None = None
        """Number of blocks in each row of the part, once its first row has ended."""
        starts = zip(target.plan.axes, part.index, strict=False)
        self.origin: Shape = tuple(axis.start_of(number) for axis, number in starts)
        """Where the next block goes."""
        self._left: Shape = self.origin[1:]
        self.stops: Shape = self.origin
        """Where the part ends so far along each block axis."""
        self._height = 0
        """Height of the current row, once its first block has come."""
        self.widths: list[int] = []
        """Sizes of the columns, as the first row of the part has them."""
        self.is_uneven: list[bool] = [axis.sizes is not None for axis in target.plan.axes]
        """Along which axes blocks may lie elsewhere than the size of the first one tells."""
        self._lengths: list[int | None] = list(target.lengths)
        """Of the block axes, where their ends are known."""
        self.is_bounded: bool = any(length is not None for length in target.lengths)
        """Whether one of them is known."""
        self.usual: Shape | None = self._find_usual()
        """Shape that the next block most likely has, and with which it needs no check."""
        self.taken: int = 0
        """Number of blocks so far."""

    @property
    def index(self) -> Shape:
        """Row, and column, of the next block."""
        return (self._row, self._column)[: len(self.origin)]

    @property
    def counts(self) -> Shape:
        """Number of blocks along each block axis so far."""
        columns = self._column if self._columns is None else self._columns
        return (self._row, columns)[: len(self.origin)]

    # --- moves ---------------------------------------------------------------------------------

    def advance(self, shape: Shape) -> Shape:
        """Go on to the next block, and return the origin of this one, by its shape."""
        origin = self.origin
        self.taken += 1
        if len(origin) == 1:
            self._row += 1
            self.origin = self.stops = (origin[0] + shape[0],)
            # The usual shape stays what it is.
        else:
            if self._columns is None:
                self.widths.append(shape[1])
            self._column += 1
            self.origin = (origin[0], origin[1] + shape[1])
            self.stops = (origin[0] + shape[0], max(self.origin[1], self.stops[1]))
            self._height = shape[0]
            self.usual = self._find_usual()
        return origin

    def end_row(self) -> bool:
        """Go on to the next row; whether this was the first one."""
        columns = self._column - self._part.index[1]
        check_row(self._row, columns, self._columns or columns)
        is_first, self._columns = self._columns is None, columns
        self._row, self._column = self._row + 1, self._part.index[1]
        self.origin = (self.stops[0], *self._left)
        self.usual = self._find_usual()
        return is_first

    def fix_length(self, axis: int, reach: int) -> int | None:
        """Learn that the array ends here along an axis; return the length if it is new.

        Raises
        ------
        ResumeMismatchError
            If it ends elsewhere by what is known, or if something is stored beyond: up to
            ``reach``.
        BlockShapeError
            If more sizes are listed than blocks have come.
        """
        length, known = self.stops[axis], self._lengths[axis]
        sizes = self._target.plan.axes[axis].sizes
        if self._target.lists_sizes and self._is_whole and sizes is not None:
            check_listed(axis, self.counts[axis], len(sizes), is_all=True)
        if known not in (None, length) or length < reach:
            was = known if length >= reach else f"at least {reach}"
            raise self._target.refuse_length(axis, was, length)
        self._lengths[axis] = length
        self.is_bounded = True
        return length if known is None else None

    # --- sizes ---------------------------------------------------------------------------------

    def is_first_along(self, axis: int) -> bool:
        """Whether the next block is the first one of its row, or of its column."""
        return self._columns is None if axis == 1 else self._column == self._part.index[1]

    def is_news(self, axis: int, size: int) -> bool:
        """Whether the next block is the first one that tells that blocks have uneven sizes."""
        return (
            size != self._target.first[axis]
            and not self.is_uneven[axis]
            and self.is_first_along(axis)
            and self.origin[axis] + size != self._lengths[axis]
        )

    def known_sizes(self) -> Shape:
        """Return the sizes of the next block, which is stored."""
        column = self._column - self._part.index[1]
        sizes: list[int] = []
        for axis, number in enumerate(self.index):
            partition, length = self._target.plan.axes[axis], self._lengths[axis]
            if axis == 1 and self._columns is not None:
                sizes.append(self.widths[column])  # what this start has learned comes first
            elif axis == 0 and column and len(self.origin) == 2:
                sizes.append(self._height)
            elif partition.sizes is not None:
                sizes.append(partition.sizes[number])
            else:
                start = partition.start_of(number)
                most = partition.size if length is None else length - start
                sizes.append(min(partition.size, most))
        return tuple(sizes)

    def check_lengths(self, shape: Shape) -> None:
        """Refuse a block beyond the end of the array, where that is known."""
        for axis, (start, size, length) in enumerate(
            zip(self.origin, shape, self._lengths, strict=False)
        ):
            if length is not None and start + size > length:
                raise self._target.refuse_length(axis, length, start + size)

    def check_sizes(self, shape: Shape) -> None:
        """Refuse a block that does not fit where it has to go."""
        target, axes = self._target, len(self.origin)
        is_alike = len(shape) == len(target.first) and shape[axes:] == target.plan.trailing
        if is_alike and axes == 1 and self._is_whole and not target.plan.axes[0].sizes:
            return  # it may have any number of rows
        wanted = self._wanted_sizes()
        if is_alike and all(
            want == size if want is not None else self._is_whole or size <= most
            for want, size, most in zip(wanted, shape, target.first, strict=False)
        ):
            return
        if len(shape) == len(target.first):
            for axis, (number, want) in enumerate(zip(self.index, wanted, strict=True)):
                if target.knows_size(axis, number) and want != shape[axis]:
                    raise self._other_size(axis, want, shape[axis])
        name = block_name(self.index)
        check_block(shape, target.first, wanted, block=name, is_even=not self._is_whole)

    def _other_size(self, axis: int, expected: int | None, size: int) -> Exception:
        """Return the error for a block that has another size than has been told."""
        index = self.index
        if not self._target.lists_sizes:
            what = f"the size of block {index[axis]} along axis {axis}"
            return mismatch(what, "size", expected, size)
        return BlockShapeError(
            f"block {block_name(index)} has size {size} along axis {axis}, and sizes= lists "
            f"{expected}; list the sizes that the blocks have, or leave out sizes=",
            block=block_name(index),
            expected=expected,
            got=size,
        )

    def _wanted_sizes(self) -> tuple[int | None, ...]:
        """Return the size that the next block must have along each block axis; None for any."""
        if len(self.origin) == 1:
            return (self._wanted(0, self._row),)
        column = self._column - self._part.index[1]
        if self._columns is not None and column == self._columns:
            check_row(self._row, column + 1, self._columns)
        return (
            self._height if column else self._wanted(0, self._row),
            self._wanted(1, self._column) if self._columns is None else self.widths[column],
        )

    def _wanted(self, axis: int, number: int) -> int | None:
        """Return the size that a block must have by its number along an axis."""
        target = self._target
        partition = target.plan.axes[axis]
        if partition.sizes is not None:
            if number < len(partition.sizes):
                return partition.sizes[number]
            if target.lists_sizes:
                check_listed(axis, number + 1, len(partition.sizes), is_all=False)
            return None
        if self._is_whole:
            return None
        if not (self._part.ends[axis] and number == self._last_number(axis)):
            return partition.size
        length = target.lengths[axis]
        return None if length is None else length - partition.start_of(number)

    def _last_number(self, axis: int) -> int:
        rows = self._part.rows
        assert isinstance(rows, Sequence)  # only the part that is everything is lazy
        return self._part.index[axis] + (len(rows[0]) if axis else len(rows)) - 1

    def _find_usual(self) -> Shape | None:
        """Return the shape that the next block most likely has.

        To check each block takes longer than all else that is done for a small one.
        """
        if any(self.is_uneven) or not self._is_whole:
            return None
        first = self._target.first
        if len(self.origin) == 1:
            return first
        height = self._height if self._column else first[0]
        if self._columns is None:
            return (height, *first[1:])
        if self._column >= self._columns:
            return None
        return (height, self.widths[self._column], *first[2:])
