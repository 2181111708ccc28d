"""The life of a write: the array appears in one act when all is written, or not at all.

A write is the running pass of a fold, whose blocks are either stepped one by one, or stored by
others part by part, in which case it takes their receipts. Either way a
:class:`~lazychunks.storage.part_writer.PartWriter` does the work. What happens at the destination
is up to its place and draft (:mod:`lazychunks.storage.places.protocol`).
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import secrets
from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack
from dataclasses import replace
from importlib import metadata
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

import numpy as np

from lazychunks.errors import (
    BlockIndex,
    BlockShapeError,
    DestinationError,
    DestinationExistsError,
    LazyChunksError,
    NotResumableError,
    NotSpreadableError,
    ResumeMismatchError,
    WriteAbortedError,
)
from lazychunks.layout.checks import block_name, check_block, check_row, empty_sequence
from lazychunks.layout.partition import ArrayPlan, Partition
from lazychunks.layout.parts import AnyPart, Part
from lazychunks.layout.plan import WritePlan
from lazychunks.layout.shapes import Shape, cell_count
from lazychunks.runs.passes import Ends
from lazychunks.storage import spill
from lazychunks.storage.chunks.metadata import OVERWRITING, make_document, open_array
from lazychunks.storage.mismatches import (
    check_same_dtype,
    check_same_layout,
    check_same_run,
    mismatch,
)
from lazychunks.storage.options import Destination, WriteOptions
from lazychunks.storage.part_writer import PartWriter, Receipt
from lazychunks.storage.places.place import resolve_destination
from lazychunks.storage.record import (
    DamagedRecordError,
    Document,
    Record,
    hash_sizes,
    parse,
    record_of,
    seal,
    serialize,
    unseal,
    with_record,
    with_shape,
)
from lazychunks.storage.target import DRAFT, FirstBlock, Target, count_chunks
from lazychunks.storage.unfinished import count_done, note_even_ends, target_of

if TYPE_CHECKING:
    from lazychunks.converters import ToNumpy
    from lazychunks.storage.chunks.metadata import StoredArray
    from lazychunks.storage.keys import Keys
    from lazychunks.storage.places.protocol import Draft, Place

T = TypeVar("T")

WRITES_IN_FLIGHT = 2
"""Number of chunks being written at the same time, where the user does not say."""

MOST_UNITS = 2**31
"""Number of units along an axis whose end is not known yet, for stores that must know."""

VERSION = metadata.version("lazychunks")

_logger = logging.getLogger("lazychunks")


class Write(Generic[T]):
    """One start of a write.

    Nothing at the destination changes before :meth:`begin`, which follows the first block. Leaving
    the ``with`` block by an exception waits for writes under way, and removes what was written,
    unless the run has a name and can be resumed.

    Parameters
    ----------
    destination, converter, overwrite
        As in ``to_zarr``.
    options
        Validated options.
    counts
        Number of blocks along each block axis, where it is known.

    Raises
    ------
    DestinationExistsError, DestinationReadOnlyError, DestinationBusyError
        On entering, if the destination may not, or cannot, be written.
    """

    def __init__(
        self,
        destination: Destination,
        converter: ToNumpy[T],
        overwrite: bool,
        options: WriteOptions,
        counts: tuple[int | None, ...],
    ) -> None:
        self.place: Place = resolve_destination(destination)
        self._draft: Draft = self.place.draft(overwrite=overwrite)
        self._converter = converter
        self._overwrite = overwrite
        self.options = options
        self._counts = counts
        self.can_skip = True
        """Whether the sequence can skip blocks, so that a failed run with a name is kept."""
        self.before: Callable[[Any], T] | None = None
        """What is applied to blocks before they come here, if anything is."""
        self.workers: int | None = None
        """Number of workers that will store parts, if it is not this thread alone."""
        self.target: Target[T] | None = None
        """Where blocks go, once the first block is known, or the unfinished write is taken up."""
        self.finished: StoredArray | None = None
        """The array, where an earlier start of this run has finished it."""
        self._dtype: np.dtype[Any] | None = None
        """Of the first block, if this start has computed it."""
        self._document: Document = {}
        self._record = Record(VERSION)
        self._writer: PartWriter[T] | None = None
        self._stack = ExitStack()
        self._taken = 0
        """Number of blocks that others have stored."""
        self._stops: Shape = (0,) * len(counts)
        self._has_begun = False
        self._is_spread = False
        """Whether writers run in other processes, and may outlive this one."""
        self._process = os.getpid()
        if options.resume and not self._draft.can_be_kept:
            raise NotResumableError(
                f"{self.place} cannot keep an unfinished write for another start: a zip file "
                "cannot delete, and what a session has not committed ends with its process; leave "
                "out resume=True, or write to a directory or another store"
            )

    # --- the pass of a fold -------------------------------------------------------------------

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.enter_context(self.place.lock())
            self._survey()
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
        /,
    ) -> None:
        if os.getpid() != self._process:
            return  # a block forked, and this is the child: what is under way is its parent's
        with self._stack:
            failure = error
            try:
                if self._writer is not None:
                    self._writer.__exit__(kind, error, traceback)
            except BaseException as interrupt:
                failure = interrupt
                raise
            finally:
                if failure is not None and self._has_begun:
                    self._give_up(failure)

    @property
    def _keeps(self) -> bool:
        """Whether a failed start leaves what the next one can go on with."""
        return self.can_skip and self.options.run_id is not None and self._draft.can_be_kept

    @property
    def sinks(self) -> Sequence[Write[Any]]:
        """The write itself: a pass that shows something to others, and finishes last."""
        return (self,)

    def step(self, block: T, /) -> None:
        """Take the next block; its memory may be reused as soon as this returns."""
        if self._writer is None and self.target is None:
            array = self.probe().convert(block)
            self.begin(array.shape, array.dtype)
            self._write_all().add(array)
        else:
            self._write_all().step(block)

    def end_row(self) -> None:
        """Close a row of blocks; the first one fixes the width of the array."""
        if self._writer is None and self.target is None:
            check_row(0, 0, 0)
        self._write_all().end_row()

    def absorb(self, receipt: Receipt, part: AnyPart, /) -> None:
        """Take the receipt of a part that has been stored elsewhere."""
        assert self.target is not None
        self._taken += receipt.blocks
        self._stops = tuple(map(max, self._stops, receipt.stops))
        for axis, length in enumerate(receipt.stops):
            if part.ends[axis]:
                known = self.target.lengths[axis]
                if known is None:
                    self.note_length(axis, length)
                elif known != length:
                    raise mismatch(f"the length of axis {axis}", "length", known, length)

    def prepare(self) -> None:
        """Do what may fail before publishing. It is harmless to call this twice."""
        if self.is_finished:
            return
        if self._writer is not None:
            self._stops = self._writer.state().stops
            self._counts = self._writer.counts
        if self.target is None or not (self._writer or self._taken):
            raise empty_sequence()

    def finish(self) -> StoredArray:
        """Write what is left, and publish."""
        if self.finished is None:
            self.prepare()
            if not self._record.is_written:
                self._note_all_written()
            self.finished = self._publish()
        return self.finished

    # --- as a driver of passes sees it ----------------------------------------------------------

    @property
    def resumes(self) -> bool:
        """Whether it was asked to go on with an earlier start."""
        return self.options.resume

    @property
    def is_finished(self) -> bool:
        """Whether an earlier start has stored everything; perhaps only publishing is left."""
        return self.finished is not None or self._record.is_written

    @property
    def shelf(self) -> Target[T] | None:
        """What an earlier start has stored."""
        target = self.target
        return target if target is not None and (target.stored or target.spilled) else None

    def has(self, index: Shape, is_last: Ends) -> bool:
        """Whether a block is stored, by what is known now: more than when the pass began."""
        return self.target is not None and self.target.has(index, is_last)

    def read_block(self, index: Shape, is_last: Ends) -> T:
        """Read back a block that is stored."""
        assert self.target is not None
        return self.target.read_block(index, is_last)

    def compare(self, index: Shape, is_last: Ends, block: T) -> None:
        """Refuse a block that is not the one that is stored."""
        assert self.target is not None
        self.target.compare(index, is_last, block)

    @property
    def plan(self) -> ArrayPlan | None:
        """Where blocks lie, once the first of them is known."""
        return None if self.target is None else self.target.plan

    def is_open_at(self, part: AnyPart, /) -> bool:
        """Whether a part has the end of an axis, and it is not known yet where that lies."""
        assert self.target is not None
        lengths = self.target.lengths
        return any(end and length is None for end, length in zip(part.ends, lengths, strict=False))

    def probe(self) -> FirstBlock[T]:
        """Return what tells the shape and the dtype of the first block."""
        return FirstBlock(self._converter, self.options.dtype is not None, self._first_name)

    # --- before the first block ---------------------------------------------------------------

    def check_spreadable(self, *, shares_memory: bool) -> None:
        """Refuse workers that would not see what they are to write.

        Raises
        ------
        NotSpreadableError
            If they run in other processes, and the store is in the memory of this one.
        """
        if not (shares_memory or self.place.is_seen_by_processes):
            raise NotSpreadableError(
                f"workers in other processes do not see {self.place}; write to a directory or an "
                "object store, or use a ThreadPoolExecutor"
            )
        self._is_spread = not shares_memory

    def check_readable(self) -> None:
        """Refuse to resume a pass with other folds if they could not get what is stored.

        Raises
        ------
        NotResumableError
            If blocks cannot be made of what is stored.
        """
        why = None
        if not hasattr(self._converter, "from_numpy"):
            why = "its converter has no from_numpy; give it one"
        elif self.options.dtype is not None:
            why = "dtype= casts what is stored; cast the blocks themselves, with .map"
        elif self.before is not None:
            why = "contramap changes blocks on their way to it; apply the function with .map"
        if why is not None:
            raise NotResumableError(
                f"the other folds of this pass need every block, and the sink at {self.place} "
                f"cannot give back those that it has stored: {why}, or store with to_zarr first"
            )

    def check_even(self) -> None:
        """Refuse writers of parts where an earlier start has met blocks of uneven sizes.

        Raises
        ------
        BlockShapeError
            If their sizes are not known for all blocks.
        """
        assert self.target is not None
        if self.target.lists_sizes:
            return
        self._check_first(self.target.first)
        for axis, (partition, count) in enumerate(
            zip(self.target.plan.axes, self._record.counts, strict=True)
        ):
            if partition.sizes is not None and len(partition.sizes) != count:
                raise BlockShapeError(
                    f"blocks have sizes {_shorten(partition.sizes)} along axis {axis}, as an "
                    "earlier start has found; with an executor all blocks but the last have the "
                    "size of the first: list them in sizes=, or leave out executor= to go on",
                    expected=partition.size,
                    got=partition.sizes[-1],
                )

    def _check_first(self, first: Shape) -> None:
        """Refuse workers where the size of the first block cannot be that of all blocks."""
        if (
            self.workers is not None
            and self.options.sizes is None
            and 0 in first[: len(self._counts)]
        ):
            raise BlockShapeError(
                f"the first block has shape {first}, and with an executor all blocks have its "
                "size; list the sizes in sizes=, or leave out executor=, or the empty block",
                block=self._first_name,
                expected="positive sizes",
                got=first,
            )

    def check_counts(self, count: Callable[[], Shape]) -> None:
        """Refuse to return a finished array that has another number of blocks than the sequence.

        ``count`` counts the blocks along each block axis; it is called only where hints do not
        already agree.

        Raises
        ------
        ResumeMismatchError
            If the numbers differ.
        """
        noted = self._record.counts
        if None in noted or not noted or noted == self._counts:
            return
        counts = count()
        if 0 not in counts and counts != noted:
            way_out = "a run that has grown needs a run_id of its own"
            raise mismatch("the number of blocks", "count", noted, counts, way_out)

    def _survey(self) -> None:
        """Look at what is at the destination, and decide where to begin."""
        options = self.options
        document = parse(self.place.read("zarr.json"))
        record = record_of(document)
        if options.resume and document and record and record.run_id == options.run_id:
            self._take_finished(document, record)
            return
        if self.place.holds_array():
            if not self._overwrite:
                raise DestinationExistsError(
                    f"{self.place} holds an array; pass overwrite=True to replace it",
                    path=str(self.place),
                )
            self.place.check_removable()
        if not self._draft.exists():
            return
        if options.resume:
            self._take_up()
        elif not self._overwrite:
            raise DestinationExistsError(
                f"an unfinished write was left at {self.place}; pass overwrite=True to clear it, "
                "or resume=True with its run_id to go on with it",
                path=str(self.place),
            )

    def _take_finished(self, document: Document, record: Record) -> None:
        """Return to an array that an earlier start has finished."""
        self._compare(document, record)
        where = self.place.in_store(read_only=True)
        keys = self.place.keys()
        if keys is not None:
            way_out = "pass overwrite=True without resume to start anew"
            self._check_complete(document, keys, way_out)
        if self._draft.exists() and not self._is_draft_of_another_run():
            self._draft.discard()  # a start that died when all was published
        self._document, self._record = document, record
        self.finished = self._open_stored(document)
        if record.first:
            self.target = self._target_of(where, document, record, keys or ())
        _logger.info("%s was finished by an earlier start of run %r", self.place, record.run_id)

    def _take_up(self) -> None:
        """Go on with an unfinished write."""
        value = self._draft.where.read(DRAFT)
        keys = tuple(self._draft.keys(tidy=True))
        try:
            document, record = unseal(value or b"")
        except DamagedRecordError:
            if any(key.startswith("c/") for key in keys) and value != OVERWRITING:
                raise ResumeMismatchError(
                    f"the metadata of the unfinished write at {self.place} is damaged, so that "
                    "nobody can tell what its chunks hold; pass overwrite=True without resume to "
                    "start anew",
                    field="metadata",
                ) from None
            return  # it died before anything was stored: there is nothing to go on with
        check_same_run(self.options.run_id, record.run_id, str(self.place))
        self._compare(document, record)
        record = note_even_ends(record)
        self._document, self._record = document, record
        self._has_begun = True
        if record.is_written:
            way_out = "pass overwrite=True without resume to start anew"
            self._check_complete(document, keys, way_out)
        self.target = self._target_of(self._draft.where, document, record, keys)

    def _compare(self, document: Document, record: Record) -> None:
        """Refuse to go on with another kind of sequence, layout or dtype."""
        axes, place = len(record.counts), str(self.place)
        if not axes:
            return  # written by a version that noted no more than the name
        if axes != len(self._counts):
            way_out = "store a sequence of its kind"
            raise mismatch("the number of block axes", "axes", axes, len(self._counts), way_out)
        array = open_array(self._draft.where, document)
        if self.options.dtype is not None:
            check_same_dtype(array.dtype, np.dtype(self.options.dtype))
        options = self.options
        if options.chunks == "auto":  # it may depend on who computes, which may change
            options = replace(options, chunks=tuple(array.chunks))
        planned = self._plan(record.first, array.dtype, options)
        check_same_layout(document, planned, place)
        listed = hash_sizes(self.options.sizes)
        if listed != record.listed:
            raise mismatch(f"at {place}, sizes", "sizes", record.listed, listed)

    def _is_draft_of_another_run(self) -> bool:
        """Whether what is unfinished is for another run to go on with."""
        try:
            record = unseal(self._draft.where.read(DRAFT) or b"")[1]
        except DamagedRecordError:
            return False
        return bool(record.counts) and record.run_id not in (None, self.options.run_id)

    # --- the array under way ------------------------------------------------------------------

    def begin(self, first: Shape, dtype: np.dtype[Any]) -> None:
        """Start to write, with the shape and the dtype of the first block."""
        options = self.options
        self._dtype = dtype
        if options.dtype is not None:
            dtype = np.dtype(options.dtype)
        check_block(first, first, (None,) * len(self._counts), block=self._first_name)
        self._check_first(first)
        document = self._plan(first, dtype, options)
        self._has_begun = True
        record = Record(
            VERSION,
            run_id=options.run_id if self._keeps else None,
            attempt=secrets.token_hex(8),
            first=first,
            counts=self._counts,
            lengths=tuple(map(sum, options.sizes)) if options.sizes else self._unknown,
            sizes=self._unknown,
            listed=hash_sizes(options.sizes),
        )
        self._document, self._record = with_record(document, record), record
        target = self._target_of(self._draft.where, self._document, record, ())
        self._draft.begin({"": self._kept_back(target)})
        self.target = target

    def forget_units(self, cells: Collection[Shape]) -> None:
        """Remove units that an earlier start has stored, since they are not where they belong."""
        assert self.target is not None
        # Under another name, so that workers which outlive that start do not write them again.
        record = replace(self._record, attempt=secrets.token_hex(8))
        self._write_draft(self._document, record)
        target = self.target
        target.delete_units(cells)
        spilled = target.spilled
        if spilled is not None:
            spilled = {cell: pieces for cell, pieces in spilled.items() if cell not in cells}
        self.target = replace(target, stored=target.stored.difference(cells), spilled=spilled)

    def note_sizes(self, sizes: Sequence[Sequence[int] | None]) -> None:
        """Note the sizes of blocks along the axes on which they are uneven, for another start."""
        assert self.target is not None
        if self.target.lists_sizes:
            return  # they are known as it is
        noted = tuple(
            old if new is None else max(tuple(new), old or (), key=len)
            for new, old in zip(sizes, self._record.sizes, strict=True)
        )
        self._write_draft(self._document, replace(self._record, sizes=noted))
        # Later blocks may lie anywhere from now on, whatever is stored where they were thought to.
        axes = map(Partition, self.target.first, noted)
        self.target = replace(self.target, plan=replace(self.target.plan, axes=tuple(axes)))

    def note_length(self, axis: int, length: int) -> None:
        """Note where an axis ends, for another start, and for the writers of other parts."""
        lengths = list(self._record.lengths)
        lengths[axis] = length
        self._write_draft(self._document, replace(self._record, lengths=tuple(lengths)))
        if self.target is not None:
            self.target = replace(self.target, lengths=tuple(lengths))

    @property
    def _unknown(self) -> tuple[None, ...]:
        return (None,) * len(self._counts)

    @property
    def _first_name(self) -> BlockIndex:
        return block_name((0,) * len(self._counts))

    def _write_all(self) -> PartWriter[T]:
        """Return the writer of everything, which stores blocks that are stepped."""
        if self._writer is None:
            assert self.target is not None
            axes = len(self._counts)
            part: AnyPart = Part(0, (0, 0), (), (True, True), axes)
            notebook = self if self._keeps else None
            self._writer = PartWriter(self.target, part, is_whole=True, notebook=notebook)
        return self._writer

    def _plan(self, first: Shape, dtype: np.dtype[Any], options: WriteOptions) -> Document:
        """Return the metadata of a new array, of which the lengths are not known yet."""
        plan = WritePlan.from_first_block(
            first,
            dtype.itemsize,
            len(self._counts),
            chunks=options.chunks,
            shards=options.shards,
            counts=self._counts,
        )
        shape = (*(0 for _ in self._counts), *plan.trailing)
        return make_document(shape, plan.chunks, plan.shards, dtype, options)

    def _target_of(
        self, where: Keys, document: Document, record: Record, keys: Collection[str]
    ) -> Target[T]:
        """Return where blocks go, and what is stored of them."""
        target: Target[T] = target_of(
            where,
            document,
            record,
            self._converter,
            keys=keys,
            listed=self.options.sizes,
            dtype=self._dtype,
            casts=self.options.dtype is not None,
            is_taken_up=self._dtype is None,
            name=str(self.place),
            attempt=record.attempt if self._is_spread else None,
            rtol=self.options.rtol,
            max_in_flight=self.options.max_in_flight or WRITES_IN_FLIGHT,
            is_resumable=self._keeps,
        )
        if self._keeps and self._draft.can_spill and self.finished is None:
            spilled = spill.read_pieces(where, keys, len(self._counts))
            target = replace(target, spilled=spilled)
        return target

    def _write_draft(self, document: Document, record: Record) -> None:
        """Write what a later start has to know."""
        self._document, self._record = with_record(document, record), record
        if self._draft.can_be_kept:
            self._draft.where.write(DRAFT, seal(self._document))

    def _kept_back(self, target: Target[T]) -> bytes:
        """Return the metadata that the unfinished write starts with."""
        if self._draft.can_be_kept:
            return seal(self._document)
        # Where nothing can be kept back, as in a session, chunks may lie anywhere below the shape.
        lengths = (extent * MOST_UNITS for extent in target.unit)
        return serialize(with_shape(self._document, (*lengths, *target.plan.trailing)))

    # --- the end --------------------------------------------------------------------------------

    def _note_all_written(self) -> None:
        """Note that only publishing is left."""
        assert self.target is not None
        trailing = self.target.plan.trailing
        document = with_shape(self._document, (*self._stops, *trailing))
        way_out = "see that nothing removes them, and that workers share the store"
        self._check_complete(document, tuple(self._draft.keys()), way_out)
        record = replace(self._record, counts=self._counts, lengths=self._stops)
        self._write_draft(document, replace(record, is_written=True))

    def _publish(self) -> StoredArray:
        """Show the array, whose units are all written."""
        spilled = tuple(spill.list_keys(self._draft.keys()))
        self._draft.where.delete(*spilled)
        record = Record(VERSION)
        if self.options.run_id is not None:
            record = replace(self._record.finished(), run_id=self.options.run_id)
        document = with_record(self._document, record)
        self._draft.commit({"": serialize(document)}, durable=self.options.durable)
        return self._open_stored(document)

    def _open_stored(self, document: Document) -> StoredArray:
        return open_array(self.place.in_store(read_only=False), document)

    def _check_complete(self, document: Document, keys: Collection[str], way_out: str) -> None:
        """Refuse an array of which chunks are not there, whatever has become of them."""
        array = open_array(self._draft.where, document)
        unit = array.shards or array.chunks
        expected = cell_count(array.shape, unit)
        if not (expected and self._draft.where.store.supports_listing):
            return
        found = count_chunks(keys, array.shape, unit)
        if found < expected:
            raise DestinationError(
                f"{expected - found} of {expected} chunks of {self.place} are not there, although "
                f"they have been written; {way_out}",
                path=str(self.place),
            )

    def _give_up(self, error: BaseException) -> None:
        """Leave the destination as it was, and say how to go on."""
        if self._draft.is_committed:
            error.add_note(f"{self.place} is stored: this failed afterwards")
            return
        known = [count for count in self._counts if count is not None]
        total = math.prod(known) if len(known) == len(self._counts) else None
        taken = self._taken if self._writer is None else self._writer.taken
        done = self._count_done() if self._keeps else taken
        message = (
            f"writing {self.place} stopped after {taken if done is None else done} of "
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
        if not isinstance(error, ResumeMismatchError):  # its own message says: do not resume
            error.add_note(message)

    def _count_done(self) -> int | None:
        """Count the blocks that the next start does not compute."""
        with contextlib.suppress(Exception):  # the failure of the write is what counts
            keys = tuple(self._draft.keys())
            target = self._target_of(self._draft.where, self._document, self._record, keys)
            return count_done(target, self._record.counts)
        return None

    def _discard(self) -> bool:
        """Remove what was written; whether nothing of it remains."""
        with contextlib.suppress(Exception):  # the failure of the write is what counts
            self._draft.discard()
            return self._draft.supports_deletes and not self._draft.exists()
        return False


def _shorten(sizes: Sequence[int]) -> str:
    """Write down sizes, of which there may be many: the last ones."""
    return str(tuple(sizes)) if len(sizes) <= 5 else f"(..., {str(tuple(sizes[-4:]))[1:]}"
