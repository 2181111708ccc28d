"""Blocks into whole chunks: where each block goes, and the buffers that fill up."""

from __future__ import annotations

import math
from collections.abc import Callable, Container
from dataclasses import dataclass, field
from itertools import product
from typing import Any

from numpy.typing import NDArray

from lazychunks.errors import BlockIndex, BlockShapeError, EmptyRowError, EmptySequenceError
from lazychunks.layout.shapes import (
    Region,
    Shape,
    cell_region,
    check_block,
    overlaps,
    region_shape,
)
from lazychunks.storage.chunks.filled import Filled


@dataclass(slots=True)
class Layout:
    """Places blocks, and refuses what does not fit.

    With one block axis, each is a row of its own, below the one before. With two, the blocks of a
    row are beside each other, and the first row fixes the widths.
    """

    axes: int
    """Number of block axes."""
    first: Shape | None = None
    """Shape of the first block."""
    row: int = 0
    column: int = 0
    widths: list[int] = field(default_factory=list[int])
    row_height: int | None = None
    origin: Shape = field(init=False)
    """Where the next block goes."""
    lengths: Shape = field(init=False)
    """Lengths along the block axes so far, the current row included."""

    def __post_init__(self) -> None:
        self.origin = self.lengths = (0,) * self.axes

    @property
    def next_block(self) -> BlockIndex:
        """Place of the next block."""
        return self.row if self.axes == 1 else (self.row, self.column)

    @property
    def taken(self) -> int:
        """Number of blocks placed."""
        return self.row if self.axes == 1 else self.row * len(self.widths) + self.column

    @property
    def counts(self) -> Shape:
        """Number of blocks along each block axis so far."""
        return (self.row, len(self.widths))[: self.axes]

    def place(self, shape: Shape) -> Shape:
        """Return the origin of the next block (of the row)."""
        first = shape if self.first is None else self.first
        sizes = (None,) if self.axes == 1 else (self.row_height, self._next_width())
        # hot: tells most of those that fit, and the check takes longer
        if not shape or shape != (*(sizes if self.axes == 2 else shape[:1]), *first[self.axes :]):
            check_block(shape, first, sizes, block=self.next_block)
        self.first = first
        origin = self.origin
        if self.axes == 1:
            self.row += 1
            self.origin = self.lengths = (origin[0] + shape[0],)
            return origin
        if self.row == 0:
            self.widths.append(shape[1])
        self.column += 1
        self.row_height = shape[0]
        self.origin = (origin[0], origin[1] + shape[1])
        self.lengths = (origin[0] + shape[0], max(self.origin[1], self.lengths[1]))
        return origin

    def end_row(self) -> None:
        """Close a row of blocks beside each other."""
        check_row(self.row, self.column, len(self.widths))
        self.row, self.column, self.row_height = self.row + 1, 0, None
        self.origin = (self.lengths[0], 0)

    def _next_width(self) -> int | None:
        """Width of the column, where the first row has told it."""
        if self.row == 0:
            return None
        if self.column == len(self.widths):
            check_row(self.row, self.column + 1, len(self.widths))
        return self.widths[self.column]


def empty_sequence() -> EmptySequenceError:
    """Refuse a sequence without blocks."""
    return EmptySequenceError(
        "the sequence holds no block, hence neither shape nor dtype; check the factory, or do not "
        "store an empty sequence"
    )


def check_row(row: int, found: int, columns: int) -> None:
    """Refuse a row without blocks, or with another number of them than the rows before it.

    Raises
    ------
    EmptyRowError, BlockShapeError
        If it is one.
    """
    if not found:
        raise EmptyRowError(
            f"row {row} holds no block, so its height is not known; leave the row out, or yield "
            "blocks of height zero",
            row=row,
        )
    if found != columns:
        said = f"{found} blocks" if found < columns else f"more than {columns} blocks"
        raise BlockShapeError(
            f"row {row} has {said}, expected {columns} like the rows before it; yield the same "
            "number of blocks in each row",
            block=(row, min(found, columns)),
            expected=columns,
            got=said,
        )


@dataclass(slots=True)
class _Open:
    buffer: NDArray[Any]
    size: int
    filled: int = 0


class Assembly:
    """Scatters blocks over buffers, one for each unit (chunk or shard) of the array.

    Postconditions, whatever the partition into blocks:

    - Every element goes into exactly one buffer, and every buffer is handed out exactly once.
    - A buffer is handed out as soon as the last element that belongs into it has come.

    Parameters
    ----------
    unit
        Extents of a unit along the block axes.
    trailing
        Lengths of the other axes.
    allocate
        Gives a free buffer of shape ``(*unit, *trailing)``.
    hand_out
        Takes a buffer that is complete.
    done
        Units that are stored already: what belongs into them is dropped.
    """

    def __init__(
        self,
        unit: Shape,
        trailing: Shape,
        allocate: Callable[[], NDArray[Any]],
        hand_out: Callable[[Filled], None],
        done: Container[Shape] = (),
    ) -> None:
        self._unit = unit
        self._trailing = trailing
        self._allocate = allocate
        self._take = hand_out
        self._done = done
        self._open: dict[Shape, _Open] = {}
        self._lengths: list[int | None] = [None] * len(unit)

    def add(self, origin: Shape, block: NDArray[Any]) -> None:
        """Copy a block to its place, and hand out what it completes."""
        if block.size == 0:
            return
        cell: list[int] = []
        within: list[slice] = []
        for start, length, size in zip(origin, block.shape, self._unit, strict=False):  # hot
            index, offset = divmod(start, size)
            if offset + length > size:
                self._scatter(origin, block)
                return
            cell.append(index)
            within.append(slice(offset, offset + length))
        self._fill(tuple(cell), tuple(within), block)  # one cell: no need to cut

    def _scatter(self, origin: Shape, block: NDArray[Any]) -> None:
        parts = map(overlaps, origin, block.shape, self._unit)
        for meeting in product(*parts):
            cell = tuple(overlap.cell for overlap in meeting)
            piece = block[tuple(overlap.in_span for overlap in meeting)]
            self._fill(cell, tuple(overlap.in_cell for overlap in meeting), piece)

    def _fill(self, cell: Shape, within: Region, piece: NDArray[Any]) -> None:
        """Copy a piece to its place in a cell, and hand out the cell if that completes it."""
        if cell in self._done:
            return
        target = self._open.get(cell)
        if target is None:
            target = self._open[cell] = _Open(self._allocate(), self._size(cell))
        target.buffer[within] = piece
        target.filled += math.prod(piece.shape[: len(self._unit)])
        if target.filled == target.size:
            self._hand_out(cell)

    def fix_length(self, axis: int, length: int) -> None:
        """Learn where a block axis ends, and hand out what is complete thereby."""
        self._lengths[axis] = length
        for cell, target in tuple(self._open.items()):
            target.size = self._size(cell)
            if target.filled == target.size:
                self._hand_out(cell)

    @property
    def is_empty(self) -> bool:
        """Whether every buffer has been handed out."""
        return not self._open

    def _region(self, cell: Shape) -> Region:
        lengths = tuple(
            (index + 1) * size if length is None else length
            for index, size, length in zip(cell, self._unit, self._lengths, strict=True)
        )
        return cell_region(cell, self._unit, lengths)

    def _size(self, cell: Shape) -> int:
        return math.prod(region_shape(self._region(cell)))

    def _hand_out(self, cell: Shape) -> None:
        rest = tuple(slice(0, length) for length in self._trailing)
        self._take(Filled((*self._region(cell), *rest), self._open.pop(cell).buffer))
