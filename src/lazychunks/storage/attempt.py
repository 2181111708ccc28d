"""One attempt at an array: from the lock to the commit, whoever makes the chunks."""

from __future__ import annotations

import contextlib
import functools
import math
import os
from collections.abc import Iterable, Sequence
from importlib import metadata
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from lazychunks.errors import (
    DestinationError,
    DestinationExistsError,
    LazyChunksError,
    NotResumableError,
    ResumeMismatchError,
    WriteAbortedError,
)
from lazychunks.layout.plan import WritePlan
from lazychunks.layout.shapes import Shape, cell_count
from lazychunks.storage.assembly import empty_sequence
from lazychunks.storage.chunks.metadata import (
    KEPT_BACK,
    METADATA,
    OVERWRITING,
    Document,
    StagedArray,
    described,
    new_document,
    parsed,
    record_of,
    serialized,
)
from lazychunks.storage.options import RESERVED, Destination, WriteOptions
from lazychunks.storage.places.place import resolve_destination
from lazychunks.storage.places.protocol import Draft, Place
from lazychunks.storage.resuming import (
    JOURNAL,
    check_same_dtype,
    check_same_plan,
    check_same_run,
    mismatch,
)
from lazychunks.storage.stage import Stage

if TYPE_CHECKING:
    from lazychunks.storage.chunks.metadata import StoredArray


class Attempt:
    """The life of a write: the array appears with :meth:`publish`, or not at all.

    Nothing at the destination changes before :meth:`begin`, which follows the first block. Leaving
    the ``with`` block by an exception waits for writes under way, and removes what was written,
    unless the run has a name and can be resumed.

    Parameters
    ----------
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
        destination: Destination,
        overwrite: bool,
        options: WriteOptions,
        counts: tuple[int | None, ...],
        *,
        can_skip: bool,
    ) -> None:
        self.place: Place = resolve_destination(destination)
        self.options = options
        self.stage: Stage | None = None
        """The array under way, once there is one; or that of an unfinished write, taken up."""
        self.finished: StoredArray | None = None
        """The array, where an earlier start of this run has finished it."""
        self.taken = 0
        """Number of blocks taken, for who asks after a failure."""
        self._has_begun = False
        self._process = os.getpid()
        self._overwrite = overwrite
        self.counts = counts
        self.publication: Draft = self.place.draft(overwrite=overwrite)
        self._lock = contextlib.ExitStack()
        can_resume = self.publication.can_be_kept
        self._keeps = can_skip and options.run_id is not None and can_resume
        if options.resume and not can_resume:
            raise NotResumableError(
                f"{self.place} cannot keep an unfinished write for a next start: a zip file cannot "
                "delete, and what a session has not committed ends with its process; leave out "
                "resume=True, or write to a directory or another store"
            )

    def __enter__(self) -> Self:
        try:
            self._lock.enter_context(self.place.lock())
            self._survey()
        except BaseException:
            self._lock.close()
            raise
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object, /) -> None:
        if os.getpid() != self._process:
            return  # forked by a block: what is under way is its parent's
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
            self._lock.close()

    def begin(self, first: Shape, dtype: np.dtype[Any]) -> Stage:
        """Start a new write, with the shape and the dtype of the first block."""
        options = self.options
        if options.dtype is not None:
            dtype = np.dtype(options.dtype)
        plan = self._plan(first, dtype)
        document = new_document(plan, dtype, options)
        lengths = (size * (count or 1) for size, count in zip(first, self.counts, strict=False))
        document["shape"] = list(plan.capacity(tuple(lengths)))
        self._has_begun = True
        document.setdefault("attributes", {})[RESERVED] = self._record(first)
        self.publication.begin({"": serialized(document)})
        staged = self._staged(document)
        self.stage = Stage(staged, plan, first)
        return self.stage

    def publish(self) -> StoredArray:
        """Show the array, whose chunks are all written."""
        assert self.stage is not None
        staged = self.stage.staged
        way_out = "see that nothing removes them, and that workers share the store"
        self._check_complete(staged.document, self.publication.keys(), way_out)
        return self._publish(staged)

    def trim(self, counts: Sequence[int], lengths: Shape) -> None:
        """Set the final number of blocks and the final length of every block axis."""
        if self.stage is None or 0 in counts:
            raise empty_sequence()
        for axis, (count, length) in enumerate(zip(counts, lengths, strict=True)):
            self.stage.check_count(axis, count)
            self.stage.fix_length(axis, length)

    def _close(self) -> None:
        """Wait for what is under way."""

    def _survey(self) -> None:
        """Look at what is there, and decide where to begin."""
        options = self.options
        document = parsed(self.place.read(METADATA))
        if document and options.resume and record_of(document).get("run_id") == options.run_id:
            if self.publication.exists() and not self._is_of_another_run():
                self.publication.discard()
            self.finished = self._opened(document)
            return
        if self.place.holds_array():
            if not self._overwrite:
                raise DestinationExistsError(
                    f"{self.place} holds an array; pass overwrite=True to replace it",
                    path=str(self.place),
                )
            self.place.check_removable()
        if not self.publication.exists():
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
        document = self._unfinished()
        if document is None:
            self._check_empty()
            return
        record = record_of(document)
        check_same_run(self.options.run_id, record, str(self.place))
        keys = tuple(self.publication.keys(tidy=True))
        staged = self._staged(document)
        if "first" not in record:  # all was written, only publishing was left
            self._check_complete(document, keys, "pass overwrite=True without resume to start anew")
            self.finished = self._publish(staged)
            return
        axes = len(record["hints"])
        if axes != len(self.counts):
            way_out = "store a sequence of its kind"
            raise mismatch("the number of block axes", "axes", axes, len(self.counts), way_out)
        first = tuple(record["first"])
        dtype: np.dtype[Any] = staged.array.dtype
        if self.options.dtype is not None:
            check_same_dtype(dtype, np.dtype(self.options.dtype))
        plan = self._plan(first, dtype)
        check_same_plan(document, new_document(plan, dtype, self.options), str(self.place))
        self.stage = Stage(staged, plan, first, keys)
        self._has_begun = True

    def _check_empty(self) -> None:
        """Refuse to begin anew where metadata is lost, and not merely still to be written."""
        keys: Iterable[str] = self.publication.keys()
        has_begun = any(key.startswith("c/") for key in keys)
        if has_begun and self.publication.where.read(KEPT_BACK) != OVERWRITING:
            raise ResumeMismatchError(
                f"the metadata of the unfinished write at {self.place} is damaged, so that nobody "
                "can tell what its chunks hold; pass overwrite=True without resume to start anew",
                field="metadata",
            )

    def _unfinished(self) -> Document | None:
        return parsed(self.publication.where.read(KEPT_BACK))

    def _is_of_another_run(self) -> bool:
        """Whether what is unfinished is for another run to go on with."""
        record = record_of(self._unfinished())
        return "first" in record and record.get("run_id") not in (None, self.options.run_id)

    def _plan(self, first: Shape, dtype: np.dtype[Any]) -> WritePlan:
        return WritePlan.from_first_block(
            first,
            dtype.itemsize,
            len(self.counts),
            chunks=self.options.chunks,
            shards=self.options.shards,
            counts=self.counts,
        )

    def _staged(self, document: Document) -> StagedArray:
        where, keeps_back = self.publication.where, self.publication.can_be_kept
        return StagedArray(where, document, keeps_back=keeps_back, resumable=self._keeps)

    def _record(self, first: Shape | None) -> Document:
        record: Document = {"version": _version()}
        # What is unfinished has a name only if it was written so that another start can go on: with
        # a journal of sizes, and chunk files that appear whole.
        if self.options.run_id is not None and (self._keeps or first is None):
            record["run_id"] = self.options.run_id
        if first is not None:
            record["first"] = list(first)
            record["hints"] = list(self.counts)  # for who asks how far it is
        return record

    def _publish(self, staged: StagedArray) -> StoredArray:
        # In this order: without the journal, the record would have to tell how to go on.
        staged.record(self._record(None))
        if self.publication.can_be_kept:
            self.publication.where.delete_directory(JOURNAL)
        self.publication.commit({"": serialized(staged.document)}, durable=self.options.durable)
        return self._opened(staged.document)

    def _opened(self, document: Document) -> StoredArray:
        return described(self.place.in_store(read_only=False), document)

    def _check_complete(self, document: Document, keys: Iterable[str], way_out: str) -> None:
        """Refuse to show an array of which chunks are not there, whatever has become of them."""
        expected = cell_count(
            document["shape"], document["chunk_grid"]["configuration"]["chunk_shape"]
        )
        if not (expected and self.publication.where.store.supports_listing):
            return
        names = (key for key in keys if key.startswith("c/"))
        found = sum(not name.endswith(".partial") for name in names)
        if found < expected:
            raise DestinationError(
                f"{expected - found} of {expected} chunks of {self.place} are not there, although "
                f"they have been written; {way_out}",
                path=str(self.place),
            )

    def _give_up(self, error: BaseException) -> None:
        """Leave the destination as it was, and say how to go on."""
        if self.publication.is_committed:
            error.add_note(f"{self.place} is stored: this failed afterwards")
            return
        total = None
        if all(count is not None for count in self.counts):
            total = math.prod(count or 0 for count in self.counts)
        message = (
            f"writing {self.place} stopped after {self.taken} of "
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
                done=self.taken,
                total=total,
                resumable=self._keeps,
            ) from error
        if not isinstance(error, ResumeMismatchError):  # which names the way out, and it is another
            error.add_note(message)

    def _discard(self) -> bool:
        """Remove what was written; whether nothing of it remains."""
        with contextlib.suppress(Exception):  # that of the write is what counts
            self.publication.discard()
            return self.publication.supports_deletes and not self.publication.exists()
        return False


@functools.cache  # it parses a file
def _version() -> str:
    return metadata.version("lazychunks")
