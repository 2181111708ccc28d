"""The serial writer: blocks in order, copied into whole chunks, written in the background."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from lazychunks.errors import BlockIndex
from lazychunks.layout.shapes import region_at, region_shape
from lazychunks.runs.passes import Pass, Sink
from lazychunks.storage.assembly import Assembly, Layout
from lazychunks.storage.attempt import Attempt
from lazychunks.storage.chunks.background import BackgroundWriter
from lazychunks.storage.chunks.dtypes import checked_block
from lazychunks.storage.options import Destination, WriteOptions
from lazychunks.storage.resuming import check_same_dtype, check_same_values, stored_values
from lazychunks.storage.stage import Stage

if TYPE_CHECKING:
    from lazychunks.converters import ToNumpy
    from lazychunks.storage.chunks.metadata import StoredArray

T = TypeVar("T")

WRITES_IN_FLIGHT = 2
"""Number of chunks being written at the same time, where the user does not say."""


class ArrayWriter(Attempt, Pass, Generic[T]):
    """Takes blocks in order; a pass of a fold.

    Parameters
    ----------
    layout
        Places the blocks.
    converter
        As in ``to_zarr``.
    destination, overwrite, options, counts, can_skip
        As in :class:`~lazychunks.storage.attempt.Attempt`.
    """

    is_behind_a_function: bool = False
    is_behind_a_fold: bool = False

    def __init__(
        self,
        layout: Layout,
        converter: ToNumpy[T],
        destination: Destination,
        overwrite: bool,
        options: WriteOptions,
        counts: tuple[int | None, ...],
        *,
        can_skip: bool,
    ) -> None:
        super().__init__(destination, overwrite, options, counts, can_skip=can_skip)
        self._layout = layout
        self._converter = converter
        self._dtype: np.dtype[Any] | None = None
        self._verified = False
        self._assembly: Assembly | None = None
        self._background: BackgroundWriter | None = None

    @property
    def sinks(self) -> tuple[Sink]:
        """The writer itself."""
        return (self,)

    def offer(self, task: Callable[[], T]) -> None:
        """Take the next block, computing it only if it is not stored already."""
        assert self.stage is not None
        index = self._layout.next_block
        # A size that is not known counts as zero: nothing is stored of an empty block.
        sizes = [self.stage.size(axis, number) or 0 for axis, number in enumerate(_numbers(index))]
        region = region_at(self._layout.origin, (*sizes, *self.stage.plan.trailing))
        if not self.stage.done.cover(region):
            self.step(task())
            return
        if not self._verified:
            block = self._numpy(task())
            stored = stored_values(self.stage.staged.array, region, index)
            check_same_values(stored, block, index, self.options.rtol)
            self._verified = True
        self._layout.place(region_shape(region))

    def step(self, block: T, /) -> None:
        """Take the next block; its memory may be reused as soon as this returns."""
        array = self._numpy(block)
        index = self._layout.next_block
        origin = self._layout.place(array.shape)
        stage = self.stage or self.begin(array.shape, array.dtype)
        stage.check_lengths(self._layout.lengths)
        assembly = self._assembly or self._start(stage)
        if stage.staged.resumable:
            for axis, number in enumerate(_numbers(index)):
                stage.note(axis, number, array.shape[axis])
        stage.make_room(self._layout.lengths)
        assembly.add(origin, array)

    def end_row(self) -> None:
        """Close a row of blocks; the first one fixes the width of the array."""
        self._layout.end_row()
        if self._layout.row == 1 and self.stage is not None:
            self.stage.fix_length(1, self._layout.lengths[1])
            self._tell_lengths(self.stage)

    def prepare(self) -> None:
        """Write what is left, so that only publishing remains."""
        self.trim(self._layout.counts, self._layout.lengths)
        if self.stage is not None and self._assembly is not None and self._background is not None:
            self._tell_lengths(self.stage)
            assert self._assembly.is_empty
            self._background.drain()

    def finish(self) -> StoredArray:
        """Write what is left, and publish."""
        self.prepare()
        return self.publish()

    def _close(self) -> None:
        self.taken: int = self._layout.taken
        if self._background is not None:
            self._background.close(drop=not self._keeps)

    def _go_on(self) -> None:
        super()._go_on()
        self._layout.first = None if self.stage is None else self.stage.first

    def _start(self, stage: Stage) -> Assembly:
        """Make ready what takes blocks apart and what writes chunks in the background."""
        plan, staged = stage.plan, stage.staged
        self._background = BackgroundWriter(
            staged.write,
            plan.unit_shape,
            staged.array.dtype,
            self.options.max_in_flight or WRITES_IN_FLIGHT,
            recycle=staged.lets_go,
        )
        self._assembly = Assembly(
            plan.unit,
            plan.trailing,
            self._background.allocate,
            self._background.submit,
            stage.done.cells,
        )
        self._tell_lengths(stage)
        return self._assembly

    def _tell_lengths(self, stage: Stage) -> None:
        """Have what is complete written, now that the lengths of axes are known."""
        if self._assembly is not None:
            for axis, length in stage.fixed.items():
                self._assembly.fix_length(axis, length)

    def _numpy(self, block: T) -> NDArray[Any]:
        """Convert and check a block."""
        array = checked_block(
            self._converter.to_numpy(block),
            block=self._layout.next_block,
            dtype=self._dtype,
            cast=self.options.dtype is not None,
        )
        if self._dtype is None:
            self._dtype = array.dtype
            if self.stage is not None and self.options.dtype is None:
                check_same_dtype(self.stage.staged.array.dtype, array.dtype)
        return array


def _numbers(index: BlockIndex) -> tuple[int, ...]:
    return index if isinstance(index, tuple) else (index,)
