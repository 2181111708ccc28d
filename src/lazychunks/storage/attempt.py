"""One attempt at an array: from the lock to the commit, whoever makes the chunks.

:class:`Attempt` is the life of a write, :class:`Stage` what is known of the array under way.
"""

from __future__ import annotations

import contextlib
import functools
import math
import operator
from collections.abc import Iterator, Sequence
from importlib import metadata
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self

import numpy as np

from lazychunks.errors import (
    DestinationError,
    DestinationExistsError,
    EmptySequenceError,
    LazyChunksError,
    NotResumableError,
    ResumeMismatchError,
    WriteAbortedError,
)
from lazychunks.shapes import Shape, cell_count, grow
from lazychunks.storage.arrays import (
    Document,
    StagedArray,
    new_document,
    parsed,
    read_key,
    record_of,
)
from lazychunks.storage.destinations import InStore, LocalPath, located
from lazychunks.storage.options import Destination, WriteOptions
from lazychunks.storage.plan import WritePlan
from lazychunks.storage.publishing import publication_at
from lazychunks.storage.resuming import (
    DoneUnits,
    Journal,
    check_same_dtype,
    check_same_plan,
    check_same_run,
)

if TYPE_CHECKING:
    from zarr.abc.store import Store

    from lazychunks.storage.arrays import StoredArray

__all__ = ["Attempt", "Layout", "Stage"]


class Layout(Protocol):
    """Places blocks."""

    first: Shape | None
    """Shape of the first block."""

    @property
    def axes(self) -> int:
        """Number of block axes."""
        ...

    @property
    def taken(self) -> int:
        """Number of blocks placed."""
        ...

    @property
    def counts(self) -> Sequence[int]:
        """Number of blocks along each block axis so far."""
        ...

    @property
    def lengths(self) -> Shape:
        """Lengths along the block axes so far."""
        ...


class Attempt:
    """The life of a write: the array appears with :meth:`publish`, or not at all.

    Nothing at the destination changes before :meth:`begin`, which follows the first block. Leaving
    the ``with`` block by an exception waits for writes under way, and removes what was written,
    unless the run has a name and can be resumed.

    Parameters
    ----------
    layout
        Places the blocks.
    destination, overwrite
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
        layout: Layout,
        destination: Destination,
        overwrite: bool,
        options: WriteOptions,
        counts: tuple[int | None, ...],
        *,
        can_skip: bool,
    ) -> None:
        self.place: LocalPath | InStore = located(destination)
        self.options = options
        self.stage: Stage | None = None
        """The array under way, once there is one; or that of an unfinished write, taken up."""
        self.finished: StoredArray | None = None
        """The array, where an earlier start of this run has finished it."""
        self._has_begun = False
        self._published = False
        self._layout = layout
        self._overwrite = overwrite
        self._counts = counts
        self._publication = publication_at(self.place, overwrite=overwrite)
        self._keeps = can_skip and options.run_id is not None and self._publication.can_resume
        if options.resume and not self._publication.can_resume:
            raise NotResumableError(
                f"{self.place} cannot delete, so nothing can be kept aside there to go on with; "
                "leave out resume=True, or write to a directory or another store"
            )

    @property
    def goes_on(self) -> bool:
        """Whether an unfinished write was taken up, so that blocks should be offered, not given."""
        return self.stage is not None

    @property
    def store(self) -> Store:
        """Where the array is written."""
        return self._publication.store

    @property
    def path(self) -> str:
        """Path of the array in the store."""
        return self._publication.path

    def keys(self) -> Iterator[str]:
        """Keys written so far, relative to the array."""
        return self._publication.keys()

    def __enter__(self) -> Self:
        try:
            self._publication.lock()
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
            if self._has_begun:
                try:
                    self._close()
                except BaseException as interrupt:
                    self._give_up(interrupt)
                    raise
                if error is not None:
                    self._give_up(error)
        finally:
            self._publication.unlock()

    def begin(self, first: Shape, dtype: np.dtype[Any]) -> Stage:
        """Start a new write, with the shape and the dtype of the first block."""
        options = self.options
        if options.dtype is not None:
            dtype = np.dtype(options.dtype)
        plan = self._plan(first, dtype)
        document = new_document(plan, dtype, options)
        lengths = tuple(
            extent * (count or 1) for extent, count in zip(first, self._counts, strict=False)
        )
        self._has_begun = True
        self._publication.begin()
        staged = StagedArray(
            self._publication.store,
            self._publication.path,
            document,
            key=self._publication.draft,
            resumable=self._keeps,
        )
        staged.reshape(plan.capacity(lengths), self._record(first))
        journals = self._journals(first, ()) if self._keeps else ()
        self.stage = Stage(staged, plan, first, journals, None)
        return self.stage

    def publish(self) -> StoredArray:
        """Show the array, whose chunks are all written."""
        assert self.stage is not None
        staged = self.stage.staged
        self._check_complete(
            staged.document, "see that nothing removes them, and that workers share the store"
        )
        return self._publish(staged)

    def trim(self) -> Stage:
        """Set the final length of every block axis."""
        if self.stage is None or 0 in self._layout.counts:
            raise EmptySequenceError(
                "the sequence holds no block, hence neither shape nor dtype; check the factory, or "
                "do not store an empty sequence"
            )
        for axis, length in enumerate(self._layout.lengths):
            self.stage.check_count(axis, self._layout.counts[axis])
            self.fix_length(axis, length)
        return self.stage

    def fix_length(self, axis: int, length: int) -> None:
        """Set the final length of an axis, once."""
        assert self.stage is not None
        self.stage.fix_length(axis, length)

    def _close(self) -> None:
        """Wait for what is under way."""

    def _survey(self) -> None:
        """Look at what is there, and decide where to begin."""
        options = self.options
        published = self._publication.published()
        if options.resume and record_of(published).get("run_id") == options.run_id:
            if self._publication.has_leftovers() and not self._is_of_another_run():
                self._publication.discard()
            assert published is not None
            self.finished = self._publication.opened(published)
            return
        if self.place.inspect() == "array" and not self._overwrite:
            raise DestinationExistsError(
                f"{self.place} holds an array; pass overwrite=True to replace it",
                path=str(self.place),
            )
        if not self._publication.has_leftovers():
            return
        if options.resume:
            self._go_on()
        elif not self._overwrite:
            raise DestinationExistsError(
                f"an unfinished write was left at {self.place}; pass overwrite=True to clear it, "
                "or resume=True with its run_id to go on with it",
                path=str(self.place),
            )

    def _go_on(self) -> None:
        """Take up an unfinished write."""
        store, path, draft = self.store, self.path, self._publication.draft
        document = self._unfinished()
        if document is None:
            return  # it died before it could write anything
        record = record_of(document)
        check_same_run(self.options.run_id, record, str(self.place))
        staged = StagedArray(store, path, document, key=draft, resumable=True)
        if "first" not in record:  # all was written, only publishing was left
            self._check_complete(document, "pass overwrite=True without resume to start anew")
            self.finished = self._publish(staged)
            return
        first = tuple(record["first"])
        dtype: np.dtype[Any] = staged.array.dtype
        if self.options.dtype is not None:
            check_same_dtype(dtype, np.dtype(self.options.dtype))
        plan = self._plan(first, dtype)
        check_same_plan(document, new_document(plan, dtype, self.options), str(self.place))
        keys = tuple(self._publication.keys())
        done = DoneUnits(keys, plan)
        journals = self._journals(first, keys)
        self._layout.first = first
        self.stage = Stage(staged, plan, first, journals, done)
        self._has_begun = True

    def _unfinished(self) -> Document | None:
        draft = self._publication.draft
        return None if draft is None else parsed(read_key(self.store, draft))

    def _is_of_another_run(self) -> bool:
        """Whether what is unfinished is for another run to go on with."""
        record = record_of(self._unfinished())
        return "first" in record and record.get("run_id") not in (None, self.options.run_id)

    def _plan(self, first: Shape, dtype: np.dtype[Any]) -> WritePlan:
        return WritePlan.from_first_block(
            first,
            dtype.itemsize,
            self._layout.axes,
            chunks=self.options.chunks,
            shards=self.options.shards,
            counts=self._counts,
        )

    def _journals(self, first: Shape, keys: tuple[str, ...]) -> tuple[Journal, ...]:
        store, path = self._publication.store, self._publication.path
        return tuple(
            Journal(store, path, axis, first[axis], keys) for axis in range(self._layout.axes)
        )

    def _record(self, first: Shape | None) -> Document:
        record: Document = {"version": _version()}
        # What is unfinished has a name only if it was written so that another start can go on: with
        # a journal of sizes, and chunk files that appear whole.
        if self.options.run_id is not None and (self._keeps or first is None):
            record["run_id"] = self.options.run_id
        if first is not None:
            record["first"] = list(first)
            record["hints"] = list(self._counts)  # for who asks how far it is
        return record

    def _publish(self, staged: StagedArray) -> StoredArray:
        # In this order: without the journal, the record would have to tell how to go on.
        staged.record(self._record(None))
        self._publication.clear_journal()
        self._publication.commit(staged.document, durable=self.options.durable)
        self._published = True
        return self._publication.opened(staged.document)

    def _check_complete(self, document: Document, way_out: str) -> None:
        """Refuse to show an array of which chunks are not there, whatever has become of them."""
        expected = cell_count(
            document["shape"], document["chunk_grid"]["configuration"]["chunk_shape"]
        )
        if not (expected and self.store.supports_listing):
            return
        names = (key for key in self.keys() if key.startswith("c/"))
        found = sum(not name.endswith(".partial") for name in names)
        if found < expected:
            raise DestinationError(
                f"{expected - found} of {expected} chunks of {self.place} are not there, although "
                f"they have been written; {way_out}",
                path=str(self.place),
            )

    def _give_up(self, error: BaseException) -> None:
        """Leave the destination as it was, and say how to go on."""
        if self._published:
            error.add_note(f"{self.place} is stored: this failed afterwards")
            return
        total = None
        if all(count is not None for count in self._counts):
            total = math.prod(count or 0 for count in self._counts)
        done = self._layout.taken
        message = (
            f"writing {self.place} stopped after {done} of "
            f"{'an unknown number of' if total is None else total} blocks; "
        )
        if self._keeps:
            message += (
                "what was written is kept aside: to_zarr with resume=True and "
                f"run_id={self.options.run_id!r} goes on from here"
            )
        else:
            message += (
                f"what was written {'has been' if self._discard() else 'could not be'} removed; to "
                "be able to go on after a failure, use from_map or from_product, and pass run_id= "
                "and resume=True"
            )
        if isinstance(error, Exception) and not isinstance(error, LazyChunksError):
            raise WriteAbortedError(
                f"{message} (the failure: {type(error).__name__}: {error})",
                done=done,
                total=total,
                resumable=self._keeps,
            ) from error
        if not isinstance(error, ResumeMismatchError):  # which names the way out, and it is another
            error.add_note(message)

    def _discard(self) -> bool:
        """Remove what was written; whether nothing of it remains."""
        with contextlib.suppress(Exception):  # that of the write is what counts
            self._publication.discard()
            return self._publication.can_resume and not self._publication.has_leftovers()
        return False


@functools.cache  # it parses a file
def _version() -> str:
    return metadata.version("lazychunks")


class Stage:
    """The array under way: its plan, what of it is stored already, and its sizes.

    Parameters
    ----------
    staged
        The array; of an unfinished write that was taken up, its record is heeded.
    plan
        Its plan.
    first
        Shape of the first block.
    journals
        Sizes of the blocks along each block axis, where the run can be resumed.
    done
        What is stored, of an unfinished write that was taken up.
    """

    def __init__(
        self,
        staged: StagedArray,
        plan: WritePlan,
        first: Shape,
        journals: tuple[Journal, ...],
        done: DoneUnits | None,
    ) -> None:
        self.staged = staged
        self.plan = plan
        self.first = first
        self.done = done
        self._journals = journals
        unknown = [None] * plan.block_axes
        record = record_of(staged.document)
        self._lengths: list[int | None] = list(record.get("lengths") or unknown)
        self._counts: list[int | None] = list(record.get("counts") or unknown)
        self.fixed: dict[int, int] = {}

    def size(self, axis: int, number: int) -> int | None:
        """Size of a block along an axis, as far as it is known without computing it."""
        return self._journals[axis].size(number) if self._journals else None

    def is_stored(self, origin: Shape, shape: Shape) -> bool:
        """Whether all units that a block touches are stored."""
        return self.done is not None and self.done.cover(origin, shape)

    def note(self, axis: int, number: int, size: int) -> None:
        """Learn a block's size along an axis, before anything of it is written."""
        if self._journals:
            self._journals[axis].note(number, size)

    def end(self, axis: int, count: int) -> None:
        """Learn the number of blocks along an axis, before the last of them is written."""
        self.check_count(axis, count)
        if self._counts[axis] is None:
            self._counts[axis] = count
            self.staged.note(counts=self._counts)

    def check_count(self, axis: int, count: int) -> None:
        """Compare the number of blocks along an axis with that of an earlier start."""
        expected = self._counts[axis]
        if expected not in (None, count):
            raise ResumeMismatchError(
                f"there are {count} blocks along axis {axis}, were {expected} in the unfinished "
                "write; the sequence must be the same each time, or pass overwrite=True without "
                "resume",
                field="count",
                expected=expected,
                got=count,
            )

    def check_lengths(self, lengths: Shape) -> None:
        """Compare lengths so far with those of an earlier start, where it has come to an end."""
        for axis, (length, known) in enumerate(zip(lengths, self._lengths, strict=False)):
            if known is not None and length > known:
                raise self._other_length(axis, length)

    def make_room(self, lengths: Shape) -> None:
        """Grow the array where it does not hold so much along the block axes."""
        room = self.staged.shape
        if any(map(operator.gt, lengths, room)):
            grown = self.plan.capacity(tuple(map(grow, room, lengths)))
            self.staged.reshape(
                tuple(self.fixed.get(axis, length) for axis, length in enumerate(grown))
            )

    def fix_length(self, axis: int, length: int) -> bool:
        """Set the final length of an axis; whether that is news."""
        if self.fixed.get(axis) == length:
            return False
        reach = 0 if self.done is None else self.done.reach(axis)
        if self._lengths[axis] not in (None, length) or length < reach:
            raise self._other_length(axis, length)
        self.fixed[axis] = self._lengths[axis] = length
        shape = tuple(
            length if number == axis else there for number, there in enumerate(self.staged.shape)
        )
        self.staged.end_axis(shape, self._lengths)
        return True

    def _other_length(self, axis: int, length: int) -> ResumeMismatchError:
        known = self._lengths[axis]
        reach = 0 if self.done is None else self.done.reach(axis)
        expected = f"at least {reach}" if known is None else known
        return ResumeMismatchError(
            f"axis {axis} has length {length}, had {expected} in the unfinished write; the "
            "sequence must be the same each time, or pass overwrite=True without resume to start "
            "anew",
            field="length",
            expected=expected,
            got=length,
        )
