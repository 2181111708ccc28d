"""The part writer: takes the blocks of a part in order, and writes each unit that is complete.

It runs in the thread that computes the blocks: here, in a worker, on a rank.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Any, Generic, Protocol, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from lazychunks.layout.parts import AnyPart
from lazychunks.layout.shapes import Shape, region_at
from lazychunks.runs.passes import STORED
from lazychunks.storage.chunks.background import BackgroundWriter, WriterThreads, refuse_forked
from lazychunks.storage.chunks.filled import Filled
from lazychunks.storage.resuming import spill
from lazychunks.storage.writing.cursor import Cursor
from lazychunks.storage.writing.open_units import OpenUnits
from lazychunks.storage.writing.target import Target

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

    def note_sizes(self, sizes: Sequence[Sequence[int]]) -> None:
        """Note the sizes of the blocks so far along each block axis."""
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
        lies, and run beside each other; the target says whether they write in the background.
    notebook
        Listens, if another start may go on.
    threads
        What writes in the background, where that is shared: then nothing is written any more once
        its owner has closed it.
    """

    def __init__(
        self,
        target: Target[T],
        part: AnyPart,
        *,
        is_whole: bool = False,
        notebook: Notebook | None = None,
        threads: WriterThreads | None = None,
    ) -> None:
        self._target = target
        self._threads = threads
        self._part = part
        self._is_whole = is_whole
        self._notebook = notebook
        self.cursor: Cursor = Cursor(target, part, is_whole=is_whole)
        """Where the next block lies."""
        self._heights: list[int] = []
        """Sizes of the rows, if they may have to be noted."""
        self._process = os.getpid()
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
    def counts(self) -> Shape:
        """Number of blocks along each block axis so far."""
        return self.cursor.counts

    @property
    def taken(self) -> int:
        """Number of blocks so far."""
        return self.cursor.taken

    def step(self, block: T, /) -> None:
        """Take the next block; its memory may be reused as soon as this returns."""
        if block is STORED:
            sizes = self.cursor.known_sizes()
            origin = self._advance(sizes)
            if self._target.spilled:
                (self._units or self._open()).take_spilled(region_at(origin, sizes))
        else:
            self.add(self._target.to_array(block, self.cursor.index))

    def add(self, array: NDArray[Any]) -> None:
        """Take the next block, which has been converted and checked."""
        shape, cursor = array.shape, self.cursor
        if shape != cursor.usual:
            cursor.check_sizes(shape)
        if cursor.is_bounded:
            cursor.check_lengths(shape)
        units = self._units or self._open()
        notes, first = self._notebook is not None, self._target.first
        is_news = notes and shape != first and self._notice_uneven(shape, units)
        origin = self._advance(shape)
        if is_news:
            self._note_sizes()
        units.add(origin, array)
        if self._target.is_resumable and time.monotonic() >= self._next_checkpoint:
            self._checkpoint()

    def end_row(self) -> None:
        """Close a row of blocks beside each other."""
        is_first = self.cursor.end_row()
        if is_first and self._part.ends[1]:
            self._fix_length(1)

    def state(self) -> Receipt:
        """Write what is left of the part, and tell where it ends. Harmless if called twice."""
        for axis in range(self._target.block_axes):
            if self._part.ends[axis]:
                self._fix_length(axis)
        if any(self.cursor.is_uneven):
            self._note_sizes()  # all of them, so that each block can be read back
        if self._units is not None:
            assert self._units.is_empty
        if self._background is not None:
            self._background.drain()
        return Receipt(self.cursor.stops, self.cursor.taken)

    def _open(self) -> OpenUnits:
        """Get ready to write. A part whose blocks are all stored never does."""
        target, units = self._target, self._target.units
        shape = (*target.unit, *target.plan.trailing)
        if self._is_whole or target.writes_behind:
            self._background = BackgroundWriter(
                self._write,
                shape,
                units.dtype,
                self._threads or target.max_in_flight,
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
        refuse_forked(self._process)
        with target.hold_attempt():
            target.units.write(filled)
        cell = tuple(
            span.start // size for span, size in zip(filled.region, target.unit, strict=False)
        )
        if self._units is not None and self._units.is_spilled(cell):
            target.where.delete(spill.key_of(cell))

    def _advance(self, shape: Shape) -> Shape:
        """Go on to the next block, and return the origin of this one."""
        cursor = self.cursor
        if self._notebook is not None and cursor.is_first_along(0):
            self._heights.append(shape[0])
        return cursor.advance(shape)

    def _notice_uneven(self, shape: Shape, units: OpenUnits) -> bool:
        """Tell whether the next block is the first of another size; forget what that disproves.

        The sizes must be noted before anything is written at a place of such a block.
        """
        assert self._notebook is not None
        cursor = self.cursor
        found = False
        for axis, start in enumerate(cursor.origin):
            if cursor.is_news(axis, shape[axis]):
                # Workers had stored them where blocks of one size would lie. Sizes are noted once
                # they are gone: a start that knows the sizes would believe them.
                wrong = units.forget_earlier(axis, start)
                if wrong:
                    self._notebook.forget_units(wrong)
                cursor.is_uneven[axis] = found = True
        return found

    def _note_sizes(self) -> None:
        if self._notebook is not None:
            sizes = (self._heights, self.cursor.widths)
            self._notebook.note_sizes(sizes[: self._target.block_axes])

    def _checkpoint(self) -> None:
        """Keep what has come, so that another start need not compute it again."""
        began = time.monotonic()
        refuse_forked(self._process)
        with self._target.hold_attempt():
            # Sizes first: what is spilled of a block whose size is not known could not be compared.
            self._note_sizes()
            if self._units is not None:
                self._units.spill()
        # Large units take long to write; at least nine tenths of the time are for the blocks.
        ended = time.monotonic()
        self._next_checkpoint = ended + max(spill.SECONDS, 9 * (ended - began))

    def _fix_length(self, axis: int) -> None:
        """Learn that the array ends here along an axis."""
        reach = (self._units or self._target).reach(axis) if self._is_whole else 0
        length = self.cursor.fix_length(axis, reach)
        if length is None:
            return
        if self._units is not None:
            self._units.fix_length(axis, length)
        if self._notebook is not None:
            self._notebook.note_length(axis, length)
