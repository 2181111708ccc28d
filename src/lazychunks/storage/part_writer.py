"""The part writer: takes the blocks of a part in order, and writes each unit that is complete.

It is the only place where a block is placed and counted. It runs in the thread that computes the
blocks: here, in a worker, on a rank.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Any, Generic, Protocol, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from lazychunks.errors import BlockShapeError
from lazychunks.layout.checks import block_name, check_block, check_row
from lazychunks.layout.parts import AnyPart
from lazychunks.layout.shapes import Shape, region_at
from lazychunks.runs.passes import STORED
from lazychunks.storage import spill
from lazychunks.storage.chunks.background import BackgroundWriter
from lazychunks.storage.chunks.filled import Filled
from lazychunks.storage.mismatches import mismatch
from lazychunks.storage.open_units import OpenUnits
from lazychunks.storage.target import Target

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Receipt:
    """What a part came to."""

    stops: Shape
    """Where it ends along each block axis."""
    blocks: int
    """Number of blocks that it has stored, or has found stored."""


@dataclass(frozen=True, slots=True)
class PartWriters(Generic[T]):
    """Makes the writers of parts, wherever they run: a value that can be pickled."""

    target: Target[T]

    @property
    def sends_blocks(self) -> bool:
        """Whether workers send blocks: they send receipts."""
        return False

    def start_part(self, part: AnyPart, /) -> PartWriter[T]:
        """Start to write a part."""
        return PartWriter(self.target, part)


class Notebook(Protocol):
    """Listens to the writer of a whole run, so that another start of it may go on."""

    def forget_units(self, cells: Collection[Shape]) -> None:
        """Remove units that an earlier start has stored, since they are not where they belong."""
        ...

    def note_sizes(self, sizes: Sequence[Sequence[int] | None]) -> None:
        """Note the sizes of the blocks so far, along each axis on which they are uneven."""
        ...

    def note_length(self, axis: int, length: int) -> None:
        """Note where an axis ends."""
        ...


class PartWriter(Generic[T]):
    """Takes blocks, row by row, and writes their units.

    Parameters
    ----------
    target
        Where they go.
    part
        Which blocks come.
    is_whole
        Whether the part is everything. Then blocks may have any sizes, which are learned as they
        come, and units are written in the background. Other parts know beforehand where each block
        lies, and run beside each other.
    notebook
        Listens, if another start may go on.
    """

    def __init__(
        self,
        target: Target[T],
        part: AnyPart,
        *,
        is_whole: bool = False,
        notebook: Notebook | None = None,
    ) -> None:
        self._target = target
        self._part = part
        self._is_whole = is_whole
        self._notebook = notebook
        self._row, self._column = part.index
        self._columns: int | None = None
        """Number of blocks in each row of the part, once its first row has ended."""
        starts = zip(target.plan.axes, part.index, strict=False)
        self._origin: Shape = tuple(axis.start_of(number) for axis, number in starts)
        """Where the next block goes."""
        self._left: Shape = self._origin[1:]
        self.stops: Shape = self._origin
        """Where the part ends so far along each block axis."""
        self._height = 0
        """Height of the current row, once its first block has come."""
        self._heights: list[int] = []
        """Of all rows, if they may have to be noted."""
        self._widths: list[int] = []
        """Of the columns, as the first row of the part has them."""
        self._is_uneven: list[bool] = [axis.sizes is not None for axis in target.plan.axes]
        self._lengths: list[int | None] = list(target.lengths)
        """Of the block axes, where their ends are known."""
        self._usual: Shape | None = self._find_usual()
        """Shape that the next block most likely has."""
        self.taken: int = 0
        """Number of blocks taken."""
        self._background: BackgroundWriter | None = None
        self._units: OpenUnits | None = None
        self._next_checkpoint: float = time.monotonic() + spill.SECONDS

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
        /,
    ) -> None:
        """Wait until nothing is written any more. After a failure, keep what has come."""
        keeps = self._target.is_resumable
        try:
            if error is not None and keeps:
                with contextlib.suppress(Exception):  # the failure before this one is what counts
                    self._checkpoint()
        finally:
            if self._background is not None:
                self._background.close(drop=not keeps)

    @property
    def next_index(self) -> Shape:
        """Row, and column, of the next block."""
        return (self._row, self._column)[: self._target.block_axes]

    @property
    def counts(self) -> Shape:
        """Number of blocks along each block axis so far."""
        columns = self._column if self._columns is None else self._columns
        return (self._row, columns)[: self._target.block_axes]

    def step(self, block: T, /) -> None:
        """Take the next block; its memory may be reused as soon as this returns."""
        if block is STORED:
            sizes = self._known_sizes()
            origin = self._advance(sizes)
            if self._target.spilled:
                (self._units or self._open()).take_spilled(region_at(origin, sizes))
        else:
            self.add(self._target.to_array(block, self.next_index))

    def add(self, array: NDArray[Any]) -> None:
        """Take the next block, which has been converted and checked."""
        shape = array.shape
        is_usual = shape == self._usual
        if not is_usual:
            self._check(shape)
        units = self._units or self._open()
        origin = self._advance(shape)
        if self._notebook is not None and not is_usual:
            self._notice_uneven(origin, shape, units)
        units.add(origin, array)
        if self._target.is_resumable and time.monotonic() >= self._next_checkpoint:
            self._checkpoint()

    def end_row(self) -> None:
        """Close a row of blocks beside each other."""
        columns = self._column - self._part.index[1]
        check_row(self._row, columns, self._columns or columns)
        if self._columns is None:
            self._columns = columns
            if self._part.ends[1]:
                self._fix_length(1)
        self._row, self._column = self._row + 1, self._part.index[1]
        self._origin = (self.stops[0], *self._left)
        self._usual = self._find_usual()

    def state(self) -> Receipt:
        """Write what is left of the part, and tell where it ends. Harmless if called twice."""
        for axis in range(len(self._origin)):
            if self._part.ends[axis]:
                self._fix_length(axis)
        if self._units is not None:
            assert self._units.is_empty
        if self._background is not None:
            self._background.drain()
        return Receipt(self.stops, self.taken)

    def _open(self) -> OpenUnits:
        """Get ready to write. A part whose blocks are all stored never does."""
        target, units = self._target, self._target.units
        shape = (*target.unit, *target.plan.trailing)
        if self._is_whole:
            self._background = BackgroundWriter(
                self._write,
                shape,
                units.dtype,
                target.max_in_flight,
                recycle=units.buffer_is_free_after_write,
            )
            allocate, hand_out = self._background.allocate, self._background.submit
        else:  # beside other writers: each of them writes what it has computed
            allocate, hand_out = partial(np.empty, shape, units.dtype), self._write
        self._units = OpenUnits(target, allocate, hand_out)
        return self._units

    def _write(self, filled: Filled) -> None:
        """Write one unit; in a background thread, where there is one."""
        target = self._target
        target.check_attempt()
        target.units.write(filled)
        cell = tuple(
            span.start // size for span, size in zip(filled.region, target.unit, strict=False)
        )
        if self._units is not None and self._units.is_spilled(cell):
            target.where.delete(spill.key_of(cell))

    def _check(self, shape: Shape) -> None:
        """Refuse a block that does not fit where it has to go."""
        target, axes = self._target, len(self._origin)
        is_alike = len(shape) == len(target.first) and shape[axes:] == target.plan.trailing
        if is_alike and axes == 1 and self._is_whole and not target.plan.axes[0].sizes:
            return  # it may have any number of rows
        wanted = self._wanted_sizes()
        if is_alike and all(
            want == size if want is not None else self._is_whole or size <= most
            for want, size, most in zip(wanted, shape, target.first, strict=False)
        ):
            return
        index = self.next_index
        if len(shape) == len(target.first):
            for axis, (number, want) in enumerate(zip(index, wanted, strict=True)):
                if target.knows_size(axis, number) and want != shape[axis]:
                    raise self._other_size(axis, want, shape[axis])
        name = block_name(index)
        check_block(shape, target.first, wanted, block=name, is_even=not self._is_whole)

    def _other_size(self, axis: int, expected: int | None, size: int) -> Exception:
        index = self.next_index
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
        if len(self._origin) == 1:
            return (self._wanted(0, self._row),)
        column = self._column - self._part.index[1]
        if self._columns is not None and column == self._columns:
            check_row(self._row, column + 1, self._columns)
        return (
            self._height if column else self._wanted(0, self._row),
            self._wanted(1, self._column) if self._columns is None else self._widths[column],
        )

    def _wanted(self, axis: int, number: int) -> int | None:
        """Return the size that a block must have by its number along an axis."""
        target = self._target
        partition = target.plan.axes[axis]
        if partition.sizes is not None:
            return partition.sizes[number] if number < len(partition.sizes) else None
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

    def _known_sizes(self) -> Shape:
        """Return the sizes of the next block, which is stored."""
        sizes: list[int] = []
        for axis, number in enumerate(self.next_index):
            partition, length = self._target.plan.axes[axis], self._target.lengths[axis]
            if partition.sizes is not None:
                sizes.append(partition.sizes[number])
            else:
                start = partition.start_of(number)
                most = partition.size if length is None else length - start
                sizes.append(min(partition.size, most))
        return tuple(sizes)

    def _advance(self, shape: Shape) -> Shape:
        """Go on to the next block, and return the origin of this one, by its sizes."""
        origin = self._origin
        self.taken += 1
        if len(origin) == 1:
            self._row += 1
            self._origin = self.stops = (origin[0] + shape[0],)
        else:
            if self._columns is None:
                self._widths.append(shape[1])
            self._column += 1
            self._origin = (origin[0], origin[1] + shape[1])
            self.stops = (origin[0] + shape[0], max(self._origin[1], self.stops[1]))
        self._height = shape[0]
        if self._notebook is not None and self._tells_size(0, origin):
            self._heights.append(shape[0])
        for axis, length in enumerate(self._lengths):
            if length is not None and self.stops[axis] > length:
                raise mismatch(f"the length of axis {axis}", "length", length, self.stops[axis])
        self._usual = self._find_usual()
        return origin

    def _find_usual(self) -> Shape | None:
        """Return the shape that the next block most likely has: that one needs no check.

        To check each block takes longer than all else that is done for a small one.
        """
        if any(self._is_uneven) or not self._is_whole:
            return None
        first = self._target.first
        if len(self._origin) == 1:
            return first
        height = self._height if self._column else first[0]
        if self._columns is None:
            return (height, *first[1:])
        if self._column >= self._columns:
            return None
        return (height, self._widths[self._column], *first[2:])

    def _notice_uneven(self, origin: Shape, shape: Shape, units: OpenUnits) -> None:
        """Have it noted that blocks are uneven, before anything is written at a place of theirs."""
        assert self._notebook is not None
        found = False
        for axis, start in enumerate(origin):
            if (
                shape[axis] != self._target.first[axis]
                and not self._is_uneven[axis]
                and self._tells_size(axis, origin)
                and start + shape[axis] != self._target.lengths[axis]
            ):
                # Workers had stored them where blocks of one size would lie. Sizes are noted once
                # they are gone: a start that knows the sizes would believe them.
                wrong = units.forget_earlier(axis, start)
                if wrong:
                    self._notebook.forget_units(wrong)
                self._is_uneven[axis] = found = True
        if found:
            self._note_sizes()

    def _tells_size(self, axis: int, origin: Shape) -> bool:
        """Whether the block that was placed last is the first one of its row, or of its column."""
        if axis == 1:
            return self._columns is None
        return len(origin) == 1 or self._column - self._part.index[1] == 1

    def _note_sizes(self) -> None:
        if self._notebook is not None and any(self._is_uneven):
            sizes = (self._heights, self._widths)
            noted = [s if odd else None for s, odd in zip(sizes, self._is_uneven, strict=False)]
            self._notebook.note_sizes(noted)

    def _checkpoint(self) -> None:
        """Keep what has come, so that another start need not compute it again."""
        began = time.monotonic()
        self._target.check_attempt()
        # Sizes first: what is spilled of a block whose size is not known could not be compared.
        self._note_sizes()
        if self._units is not None:
            self._units.spill()
        # Large units take long to write; at least nine tenths of the time are for the blocks.
        ended = time.monotonic()
        self._next_checkpoint = ended + max(spill.SECONDS, 9 * (ended - began))

    def _fix_length(self, axis: int) -> None:
        """Learn that the array ends here along an axis."""
        length, known = self.stops[axis], self._lengths[axis]
        reach = (self._units or self._target).reach(axis) if self._is_whole else 0
        if known not in (None, length) or length < reach:
            was = known if length >= reach else f"at least {reach}"
            raise mismatch(f"the length of axis {axis}", "length", was, length)
        if known is not None:
            return
        self._lengths[axis] = length
        if self._units is not None:
            self._units.fix_length(axis, length)
        if self._notebook is not None:
            self._notebook.note_length(axis, length)
