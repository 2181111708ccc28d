"""Storing a sequence of blocks: the one place where a write has state."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

import numpy as np
from typing_extensions import Unpack

from lazychunks.errors import DestinationExistsError, EmptySequenceError
from lazychunks.shapes import Shape, grow
from lazychunks.sources import block_counts
from lazychunks.storage import arrays
from lazychunks.storage.assembly import Assembly, Filled, FlatLayout, GridLayout
from lazychunks.storage.destinations import located
from lazychunks.storage.dtypes import checked_block
from lazychunks.storage.options import Destination, WriteOptions, ZarrOptions
from lazychunks.storage.plan import WritePlan
from lazychunks.storage.publishing import publication_at
from lazychunks.storage.writing import BackgroundWriter

if TYPE_CHECKING:
    from lazychunks.converters import ToNumpy
    from lazychunks.sequences import LazyChunkSequence, NestedLazyChunkSequence
    from lazychunks.storage.arrays import StoredArray

__all__ = ["ArrayWriter", "store_flat", "store_nested"]

T = TypeVar("T")


def store_flat(
    sequence: LazyChunkSequence[T],
    destination: Destination,
    converter: ToNumpy[T],
    *,
    overwrite: bool = False,
    **options: Unpack[ZarrOptions],
) -> StoredArray:
    """Store a sequence; see :meth:`lazychunks.LazyChunkSequence.to_zarr`."""
    layout = FlatLayout()
    counts = block_counts(sequence.generator_factory, sequence.len_generator)[:1]
    settings = WriteOptions(**options)
    with ArrayWriter(layout, destination, converter, overwrite, settings, counts) as writer:
        for block in sequence:
            writer.add(block)
        return writer.finish()


def store_nested(
    sequence: NestedLazyChunkSequence[T],
    destination: Destination,
    converter: ToNumpy[T],
    *,
    overwrite: bool = False,
    **options: Unpack[ZarrOptions],
) -> StoredArray:
    """Store a nested sequence; see :meth:`lazychunks.NestedLazyChunkSequence.to_zarr`."""
    layout = GridLayout()
    counts = block_counts(sequence.generator_factory, sequence.len_outer_generator)
    settings = WriteOptions(**options)
    with ArrayWriter(layout, destination, converter, overwrite, settings, counts) as writer:
        for row in sequence:
            for block in row:
                writer.add(block)
            layout.end_row()
            if layout.row == 1:
                writer.fix_length(1, layout.width)
        return writer.finish()


class ArrayWriter(Generic[T]):
    """Takes converted blocks in order; the array appears with :meth:`finish`, or not at all.

    Nothing at the destination changes before the first block has been accepted. Leaving the
    ``with`` block by an exception waits for writes under way and removes what was written.

    Parameters
    ----------
    layout
        Places the blocks.
    destination, converter, overwrite
        As in ``to_zarr``.
    options
        Validated options.
    counts
        Number of blocks along each block axis, where it is known.
    """

    def __init__(
        self,
        layout: FlatLayout | GridLayout,
        destination: Destination,
        converter: ToNumpy[T],
        overwrite: bool,
        options: WriteOptions,
        counts: tuple[int | None, ...],
    ) -> None:
        place = located(destination)
        if place.inspect() == "array" and not overwrite:
            raise DestinationExistsError(
                f"{place} holds an array; pass overwrite=True to replace it", path=str(place)
            )
        self._layout = layout
        self._converter = converter
        self._options = options
        self._counts = counts
        self._publication = publication_at(place)
        self._dtype: np.dtype[Any] | None = None
        self._run: _Run | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._run is not None:
            self._run.background.close()
            if error is not None:
                self._publication.discard()

    def add(self, block: T) -> None:
        """Take the next block; its memory may be reused as soon as this returns."""
        index = self._layout.next_block
        array = checked_block(
            self._converter.to_numpy(block),
            block=index,
            dtype=self._dtype,
            cast=self._options.dtype is not None,
        )
        origin = self._layout.place(array.shape)
        if self._run is None:
            self._dtype = array.dtype
            self._run = self._begin(array)
        self._run.reserve(self._layout.lengths)
        for filled in self._run.assembly.add(origin, array):
            self._run.background.submit(filled)

    def fix_length(self, axis: int, length: int) -> None:
        """Learn where a block axis ends."""
        if self._run is not None:
            self._run.fix_length(axis, length)

    def finish(self) -> StoredArray:
        """Write what is left, and publish."""
        if self._run is None:
            raise EmptySequenceError(
                "the sequence holds no block, hence neither shape nor dtype; check the factory, or "
                "do not store an empty sequence"
            )
        for axis, length in enumerate(self._layout.lengths):
            self._run.fix_length(axis, length)
        assert self._run.assembly.is_empty
        self._run.background.drain()
        return self._publication.commit()

    def _begin(self, first: np.ndarray[Any, Any]) -> _Run:
        options = self._options
        dtype = first.dtype if options.dtype is None else np.dtype(options.dtype)
        plan = WritePlan.from_first_block(
            first.shape,
            dtype.itemsize,
            len(self._layout.lengths),
            chunks=options.chunks,
            shards=options.shards,
            counts=self._counts,
        )
        self._publication.begin()
        try:
            lengths = tuple(
                extent * (count or 1)
                for extent, count in zip(first.shape, self._counts, strict=False)
            )
            store, path = self._publication.store, self._publication.path
            array = arrays.create(store, path, plan, dtype, lengths, options)
            return _Run(self._publication.store, path, plan, array, options.max_in_flight)
        except BaseException:
            self._publication.discard()
            raise


class _Run:
    """A write that has begun: its array, its buffers and the writes in the background."""

    def __init__(
        self, store: Any, path: str, plan: WritePlan, array: StoredArray, max_in_flight: int
    ) -> None:
        self._store = store
        self._path = path
        self._plan = plan
        self._array = array
        self.background = BackgroundWriter(self._write, plan.unit_shape, array.dtype, max_in_flight)
        self.assembly = Assembly(plan.unit, plan.trailing, self.background.allocate)

    def reserve(self, lengths: Shape) -> None:
        """Make room, in steps that grow geometrically."""
        room = self._array.shape
        if any(length > there for length, there in zip(lengths, room, strict=False)):
            grown = tuple(map(grow, room, lengths))
            self._array = arrays.reshape(self._store, self._path, self._plan.capacity(grown))

    def fix_length(self, axis: int, length: int) -> None:
        """Set the final length of an axis, once, and write what is complete thereby."""
        shape = tuple(
            length if number == axis else there for number, there in enumerate(self._array.shape)
        )
        if shape != self._array.shape:
            self._array = arrays.reshape(self._store, self._path, shape)
        for filled in self.assembly.fix_length(axis, length):
            self.background.submit(filled)

    def _write(self, filled: Filled) -> None:
        arrays.write(self._array, filled)
