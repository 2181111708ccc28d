"""The writer of one array: the one place where a write has state."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from importlib import metadata
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from lazychunks.errors import (
    DestinationExistsError,
    EmptySequenceError,
    LazyChunksError,
    NotResumableError,
    ResumeMismatchError,
    WriteAbortedError,
)
from lazychunks.shapes import Shape, grow, region_at
from lazychunks.storage.arrays import (
    Document,
    StagedArray,
    metadata_key,
    new_document,
    parsed,
    read_key,
    record_of,
)
from lazychunks.storage.assembly import Assembly, FlatLayout, GridLayout
from lazychunks.storage.destinations import located
from lazychunks.storage.dtypes import checked_block
from lazychunks.storage.options import Destination, WriteOptions
from lazychunks.storage.plan import WritePlan
from lazychunks.storage.publishing import publication_at
from lazychunks.storage.resuming import (
    DoneUnits,
    Journal,
    check_same_plan,
    check_same_run,
    check_same_values,
)
from lazychunks.storage.writing import BackgroundWriter

if TYPE_CHECKING:
    from lazychunks.converters import ToNumpy
    from lazychunks.storage.arrays import StoredArray

__all__ = ["ArrayWriter"]

T = TypeVar("T")
T_contra = TypeVar("T_contra", contravariant=True)


class ArrayWriter(Generic[T]):
    """Takes blocks in order; the array appears with :meth:`finish`, or not at all.

    Nothing at the destination changes before the first block has been accepted. Leaving the
    ``with`` block by an exception waits for writes under way, and removes what was written,
    unless the run has a name and can be resumed.

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
    can_skip
        Whether the sequence can skip blocks, so that a failed run with a name is kept.

    Raises
    ------
    DestinationExistsError, DestinationReadOnlyError, DestinationBusyError
        On entering, if the destination may not, or cannot, be written.
    """

    def __init__(
        self,
        layout: FlatLayout | GridLayout,
        destination: Destination,
        converter: ToNumpy[T],
        overwrite: bool,
        options: WriteOptions,
        counts: tuple[int | None, ...],
        *,
        can_skip: bool,
    ) -> None:
        self._place = located(destination)
        self._publication = publication_at(self._place, overwrite=overwrite)
        self._layout = layout
        self._converter = converter
        self._overwrite = overwrite
        self._options = options
        self._counts = counts
        self._keeps = can_skip and options.run_id is not None and self._publication.can_resume
        if options.resume and not self._publication.can_resume:
            raise NotResumableError(
                f"{self._place} cannot delete, so nothing can be kept aside there to go on with; "
                "leave out resume=True, or write to a directory or another store"
            )
        self._dtype: np.dtype[Any] | None = None
        self._run: _Run | None = None
        self._published = False
        self.publishes = True
        self.finished: StoredArray | None = None
        """The array, where an earlier start of this run has finished it."""

    @property
    def goes_on(self) -> bool:
        """Whether an unfinished write was taken up, so that blocks should be offered, not given."""
        return self._run is not None

    def __enter__(self) -> Self:
        self._publication.lock()
        try:
            self._survey()
        except BaseException:
            self._publication.unlock()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
        /,
    ) -> None:
        try:
            if self._run is not None:
                self._run.background.close(drop=not self._keeps)
                if error is not None and self._published:
                    error.add_note(f"{self._place} is stored: this failed afterwards")
                elif error is not None:
                    self._abort(error)
        finally:
            self._publication.unlock()

    def offer(self, task: Callable[[], T]) -> None:
        """Take the next block, computing it only if it is not stored already."""
        shape = None if self._run is None else self._run.stored_shape(self._layout)
        if shape is None:
            self.step(task())
            return
        assert self._run is not None
        if not self._run.verified:
            block = self._numpy(task())
            region = region_at(self._layout.origin, shape)
            stored = self._run.staged.array[region]
            check_same_values(
                np.asarray(stored), block, self._layout.next_block, self._options.rtol
            )
            self._run.verified = True
        self._layout.place(shape)

    def step(self, block: T, /) -> None:
        """Take the next block; its memory may be reused as soon as this returns."""
        array = self._numpy(block)
        numbers = self._layout.numbers()
        origin = self._layout.place(array.shape)
        if self._run is None:
            self._run = self._begin(array)
        self._run.add(origin, array, numbers, self._layout.lengths)

    def end_row(self) -> None:
        """Close a row of blocks; the first one fixes the width of the array."""
        assert isinstance(self._layout, GridLayout)
        self._layout.end_row()
        if self._layout.row == 1 and self._run is not None:
            self._run.fix_length(1, self._layout.width)

    def prepare(self) -> None:
        """Write what is left, so that only publishing remains."""
        if self._run is None:
            raise EmptySequenceError(
                "the sequence holds no block, hence neither shape nor dtype; check the factory, or "
                "do not store an empty sequence"
            )
        for axis, length in enumerate(self._layout.lengths):
            self._run.fix_length(axis, length)
        self._run.finish()

    def finish(self) -> StoredArray:
        """Write what is left, and publish."""
        self.prepare()
        assert self._run is not None
        return self._publish(self._run.staged)

    def _numpy(self, block: T) -> NDArray[Any]:
        """Convert and check a block."""
        array = checked_block(
            self._converter.to_numpy(block),
            block=self._layout.next_block,
            dtype=self._dtype,
            cast=self._options.dtype is not None,
        )
        if self._dtype is None:
            self._dtype = array.dtype
            if self._run is not None and self._options.dtype is None:
                self._run.check_dtype(array.dtype)
        return array

    def _survey(self) -> None:
        """Look at what is there, and decide where to begin."""
        options = self._options
        published = self._publication.published()
        if options.resume and record_of(published).get("run_id") == options.run_id:
            if self._publication.has_leftovers():
                self._publication.discard()
            assert published is not None
            self.finished = self._publication.opened(published)
            return
        if self._place.inspect() == "array" and not self._overwrite:
            raise DestinationExistsError(
                f"{self._place} holds an array; pass overwrite=True to replace it",
                path=str(self._place),
            )
        if not self._publication.has_leftovers():
            return
        if options.resume:
            self._go_on()
        elif not self._overwrite:
            raise DestinationExistsError(
                f"an unfinished write was left at {self._place}; pass overwrite=True to clear it, "
                "or resume=True with its run_id to go on with it",
                path=str(self._place),
            )

    def _go_on(self) -> None:
        """Take up an unfinished write."""
        store, path = self._publication.store, self._publication.path
        document = parsed(read_key(store, metadata_key(path)))
        if document is None:
            return  # it died before it could write anything
        record = record_of(document)
        check_same_run(self._options.run_id, record, str(self._place))
        staged = StagedArray(store, path, document, resumable=True)
        if "first" not in record:  # all was written, only publishing was left
            self.finished = self._publish(staged)
            return
        first = tuple(record["first"])
        dtype: np.dtype[Any] = staged.array.dtype
        plan = self._plan(first, dtype)
        check_same_plan(document, new_document(plan, dtype, self._options), str(self._place))
        keys = tuple(self._publication.keys())
        done = DoneUnits(keys, plan)
        journals = self._journals(first, keys)
        self._layout.first = first
        lengths = record.get("lengths") or [None] * plan.block_axes
        self._run = _Run(staged, plan, self._options, journals, done, lengths)

    def _begin(self, first: NDArray[Any]) -> _Run:
        """Start a new write with the first block."""
        options = self._options
        dtype = first.dtype if options.dtype is None else np.dtype(options.dtype)
        plan = self._plan(first.shape, dtype)
        document = new_document(plan, dtype, options)
        self._publication.begin()
        try:
            lengths = tuple(
                extent * (count or 1)
                for extent, count in zip(first.shape, self._counts, strict=False)
            )
            staged = StagedArray(
                self._publication.store,
                self._publication.path,
                document,
                resumable=self._keeps,
            )
            staged.reshape(plan.capacity(lengths), self._record(first.shape))
            journals = self._journals(first.shape, ()) if self._keeps else ()
            return _Run(staged, plan, options, journals, None, [None] * plan.block_axes)
        except BaseException:
            self._publication.discard()
            raise

    def _plan(self, first: Shape, dtype: np.dtype[Any]) -> WritePlan:
        return WritePlan.from_first_block(
            first,
            dtype.itemsize,
            self._layout.axes,
            chunks=self._options.chunks,
            shards=self._options.shards,
            counts=self._counts,
        )

    def _journals(self, first: Shape, keys: tuple[str, ...]) -> tuple[Journal, ...]:
        store, path = self._publication.store, self._publication.path
        return tuple(
            Journal(store, path, axis, first[axis], keys) for axis in range(self._layout.axes)
        )

    def _record(self, first: Shape | None) -> Document:
        record: Document = {"version": metadata.version("lazychunks")}
        # What is unfinished has a name only if it was written so that another start can go on: with
        # a journal of sizes, and chunk files that appear whole.
        if self._options.run_id is not None and (self._keeps or first is None):
            record["run_id"] = self._options.run_id
        if first is not None:
            record["first"] = list(first)
        return record

    def _publish(self, staged: StagedArray) -> StoredArray:
        # In this order: without the journal, the record would have to tell how to go on.
        staged.record(None if self._options.run_id is None else self._record(None))
        self._publication.clear_journal()
        self._publication.commit(durable=self._options.durable)
        self._published = True
        return self._publication.opened(staged.document)

    def _abort(self, error: BaseException) -> None:
        """Leave the destination as it was, and say how to go on."""
        if not self._keeps:
            with contextlib.suppress(Exception):
                self._publication.discard()
        total = None
        if all(count is not None for count in self._counts):
            total = int(np.prod([count or 0 for count in self._counts]))
        done = self._layout.taken
        message = (
            f"writing {self._place} stopped after {done} of "
            f"{'an unknown number of' if total is None else total} blocks; "
        )
        if self._keeps:
            message += (
                "what was written is kept aside: to_zarr with resume=True and "
                f"run_id={self._options.run_id!r} goes on from here"
            )
        else:
            message += (
                "what was written has been removed; to be able to go on after a failure, use "
                "from_map or from_product, and pass run_id= and resume=True"
            )
        if isinstance(error, Exception) and not isinstance(error, LazyChunksError):
            raise WriteAbortedError(
                f"{message} (the failure: {type(error).__name__}: {error})",
                done=done,
                total=total,
                resumable=self._keeps,
            ) from error
        error.add_note(message)


class _Run:
    """A write that has begun: its array, its buffers and the writes in the background."""

    def __init__(
        self,
        staged: StagedArray,
        plan: WritePlan,
        options: WriteOptions,
        journals: tuple[Journal, ...],
        done: DoneUnits | None,
        lengths: Sequence[int | None],
    ) -> None:
        self.staged = staged
        self.verified = False
        self._plan = plan
        self._journals = journals
        self._done = done
        self._lengths = list(lengths)
        self._fixed: dict[int, int] = {}
        dtype = staged.array.dtype
        self.background = BackgroundWriter(
            staged.write,
            plan.unit_shape,
            dtype,
            options.max_in_flight,
            recycle=staged.lets_go,
        )
        self._assembly = Assembly(
            plan.unit,
            plan.trailing,
            self.background.allocate,
            DoneUnits((), plan) if done is None else done,
        )

    def stored_shape(self, layout: FlatLayout | GridLayout) -> Shape | None:
        """Shape of the next block, if it is known to be stored."""
        if self._done is None:
            return None
        index = layout.next_block
        numbers = index if isinstance(index, tuple) else (index,)
        sizes = [
            journal.size(number) for journal, number in zip(self._journals, numbers, strict=True)
        ]
        known = tuple(size for size in sizes if size is not None)
        if len(known) < len(sizes):
            return None
        shape = (*known, *self._plan.trailing)
        return shape if self._done.cover(layout.origin, shape) else None

    def check_dtype(self, dtype: np.dtype[Any]) -> None:
        """Refuse blocks of another dtype than the stored ones."""
        if dtype.newbyteorder("=") != self.staged.array.dtype.newbyteorder("="):
            raise ResumeMismatchError(
                f"the unfinished write has dtype {self.staged.array.dtype}, the blocks have "
                f"{dtype}; pass overwrite=True without resume to start anew",
                field="dtype",
                expected=self.staged.array.dtype,
                got=dtype,
            )

    def add(
        self,
        origin: Shape,
        block: NDArray[Any],
        numbers: tuple[int | None, ...],
        lengths: Shape,
    ) -> None:
        """Take a block at its place; ``numbers`` where it is the first to set a size."""
        for journal, number, size in zip(self._journals, numbers, block.shape, strict=False):
            if number is not None:
                journal.note(number, size)
        room = self.staged.shape
        if any(length > there for length, there in zip(lengths, room, strict=False)):
            grown = self._plan.capacity(tuple(map(grow, room, lengths)))
            self.staged.reshape(
                tuple(self._fixed.get(axis, length) for axis, length in enumerate(grown))
            )
        for filled in self._assembly.add(origin, block):
            self.background.submit(filled)

    def fix_length(self, axis: int, length: int) -> None:
        """Set the final length of an axis, once, and write what is complete thereby."""
        if self._fixed.get(axis) == length:
            return
        expected = self._lengths[axis]
        if expected not in (None, length):
            raise ResumeMismatchError(
                f"axis {axis} ends at {length}, ended at {expected} in the unfinished write; the "
                "sequence must be the same each time, or pass overwrite=True without resume",
                field="length",
                expected=expected,
                got=length,
            )
        self._fixed[axis] = self._lengths[axis] = length
        shape = tuple(
            length if number == axis else there for number, there in enumerate(self.staged.shape)
        )
        self.staged.end_axis(shape, self._lengths)
        for filled in self._assembly.fix_length(axis, length):
            self.background.submit(filled)

    def finish(self) -> None:
        """Wait until all is written."""
        assert self._assembly.is_empty
        self.background.drain()
