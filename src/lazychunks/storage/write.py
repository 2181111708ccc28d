"""The life of a write: the array appears in one act when all is written, or not at all.

A write is the running pass of a fold. Its blocks are either stepped one by one, or stored by others
part by part, of which it takes the receipts. Either way a
:class:`~lazychunks.storage.part_writer.PartWriter` does the work. What happens at the destination
is up to its place and draft (:mod:`lazychunks.storage.places.protocol`).
"""

from __future__ import annotations

import contextlib
import math
import os
import secrets
from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack
from dataclasses import replace
from importlib import metadata
from itertools import chain
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

import numpy as np

from lazychunks.errors import (
    BlockShapeError,
    LazyChunksError,
    NotResumableError,
    NotSpreadableError,
    ResumeMismatchError,
    WriteAbortedError,
)
from lazychunks.layout.checks import block_name, check_block, check_row, empty_sequence
from lazychunks.layout.partition import ArrayPlan, Partition
from lazychunks.layout.parts import AnyPart, Part
from lazychunks.layout.shapes import Shape
from lazychunks.runs.passes import Ends, Setup
from lazychunks.storage import spill
from lazychunks.storage.chunks.metadata import KEPT_BACK, open_array
from lazychunks.storage.mismatches import mismatch
from lazychunks.storage.options import Destination, WriteOptions
from lazychunks.storage.part_writer import PartWriter, Receipt
from lazychunks.storage.places.place import resolve_destination
from lazychunks.storage.record import (
    Document,
    Record,
    Sizes,
    hash_sizes,
    seal,
    serialize,
    with_record,
    with_shape,
)
from lazychunks.storage.survey import Found, check_complete, plan_document, survey
from lazychunks.storage.target import FirstBlock, Target
from lazychunks.storage.unfinished import count_done, target_of

if TYPE_CHECKING:
    from lazychunks.converters import ToNumpy
    from lazychunks.storage.chunks.metadata import StoredArray
    from lazychunks.storage.keys import Keys
    from lazychunks.storage.places.protocol import Draft, Place

T = TypeVar("T")

WRITES_IN_FLIGHT = 2
"""Number of chunks being written at the same time, where the user does not say."""

VERSION = metadata.version("lazychunks")


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
        self._options = options
        self._counts = counts
        self.setup = Setup()
        self.before: Callable[[Any], T] | None = None
        self.is_behind_a_fold = False
        self.target: Target[T] | None = None
        """Where blocks go, once the first of them is known, or an earlier start is taken up."""
        self._stored: StoredArray | None = None
        """The array, once readers see it."""
        self._dtype: np.dtype[Any] | None = None
        """Of the first block, if this start has computed it."""
        self._document: Document = {}
        self._record = Record(VERSION)
        self._writer: PartWriter[T] | None = None
        """Stores blocks that are stepped."""
        self._taken = 0
        """Number of blocks that others have stored."""
        self._stops: Shape = (0,) * len(counts)
        self._keys: Collection[str] = ()
        """Names of the unfinished write's keys, as an earlier start left them, or all of them."""
        self._has_begun = False
        self._stack = ExitStack()
        self._process = os.getpid()

    # --- the pass of a fold ---------------------------------------------------------------------

    def __enter__(self) -> Self:
        """Lock the destination, and look at it.

        Raises
        ------
        DestinationExistsError, DestinationReadOnlyError, DestinationBusyError
            If the destination may not, or cannot, be written.
        ResumeMismatchError, NotResumableError, NotSpreadableError
            If the pass cannot go on with an earlier start, or workers cannot do it.
        """
        self._check_setup()
        with ExitStack() as stack:
            stack.enter_context(self.place.lock())
            found = survey(
                self.place, self._draft, self._options, self._counts, overwrite=self._overwrite
            )
            self._check_workers()
            if found is not None:
                self._go_on(found)
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
    def sinks(self) -> Sequence[Write[Any]]:
        """The write itself: a pass that shows something to others, and so finishes last."""
        return (self,)

    def step(self, block: T, /) -> None:
        """Take the next block; its memory may be reused as soon as this returns."""
        if self._writer is not None:
            self._writer.step(block)
        elif self.is_finished:
            pass  # other folds of the pass need the block, which is stored already
        elif self.target is not None:
            self._write_all().step(block)
        else:
            array = self.probe().convert(block)
            self.begin(array.shape, array.dtype)
            self._write_all().add(array)

    def end_row(self) -> None:
        """Close a row of blocks; the first one fixes the width of the array."""
        if self.is_finished:
            return
        if self._writer is None and self.target is None:
            check_row(0, 0, 0)
        self._write_all().end_row()

    def absorb(self, receipt: Receipt | Sequence[Sequence[T]], part: AnyPart, /) -> None:
        """Take the receipt of a part that has been stored elsewhere, or else its blocks."""
        if not isinstance(receipt, Receipt):
            for block in chain.from_iterable(receipt):  # of one row, inside of nest()
                self.step(block)
            return
        assert self.target is not None
        self._taken += receipt.blocks
        self._stops = tuple(map(max, self._stops, receipt.stops))
        for axis, length in enumerate(receipt.stops):
            known = self.target.lengths[axis]
            if part.ends[axis] and known is None:
                self.note_length(axis, length)
            elif part.ends[axis] and known != length:
                raise mismatch(f"the length of axis {axis}", "length", known, length)

    def prepare(self) -> None:
        """Do what may fail before publishing. It is harmless to call this twice.

        It is noted that all is written. So, if several arrays are written at a time and a kill
        comes between the first publishing and the last, the next start computes nothing.
        """
        if self.is_finished:
            return
        if self._writer is not None:
            self._stops = self._writer.state().stops
            self._counts = self._writer.counts
        if self.target is None or not (self._writer or self._taken):
            raise empty_sequence()
        self._note_all_written()

    def finish(self) -> StoredArray:
        """Write what is left, and publish."""
        if self._stored is None:
            self.prepare()
            self._stored = self._publish()
        return self._stored

    # --- as a driver of passes sees it ----------------------------------------------------------

    @property
    def resumes(self) -> bool:
        """Whether it was asked to go on with an earlier start."""
        return self._options.resume

    @property
    def is_finished(self) -> bool:
        """Whether an earlier start has stored everything; perhaps only publishing is left."""
        return self._stored is not None or self._record.is_written

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

    @property
    def stores_parts(self) -> bool:
        """Whether workers store blocks; inside of nest() they do not, where rows do not begin."""
        return self.target is not None and not (self.is_finished and self.shelf is None)

    def is_open_at(self, part: AnyPart, /) -> bool:
        """Whether a part has the end of an axis, and it is not known yet where that lies."""
        assert self.target is not None
        lengths = self.target.lengths
        return any(end and length is None for end, length in zip(part.ends, lengths, strict=False))

    def probe(self) -> FirstBlock[T]:
        """Return what tells the shape and the dtype of the first block."""
        return FirstBlock(self._converter, self._options.dtype is not None, self._first_name)

    def check_counts(self, count: Callable[[], Shape], /) -> None:
        """Refuse to go on where the sequence has another number of blocks than it had.

        ``count`` counts the blocks along each block axis; it is called only if the hints differ.

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

    def begin(self, first: Shape, dtype: np.dtype[Any], /) -> None:
        """Start to write, with the shape and the dtype of the first block."""
        options, axes = self._options, len(self._counts)
        check_block(first, first, (None,) * axes, block=self._first_name)
        self._check_first(first)
        self._dtype = dtype
        if options.dtype is not None:
            dtype = np.dtype(options.dtype)
        record = Record(
            VERSION,
            run_id=options.run_id if self._keeps else None,
            attempt=secrets.token_hex(8),
            first=first,
            counts=self._counts,
            lengths=tuple(map(sum, options.sizes)) if options.sizes else (None,) * axes,
            sizes=(None,) * axes,
            listed=hash_sizes(options.sizes),
        )
        document = plan_document(first, dtype, options, self._counts, self.setup.workers)
        self._document, self._record = with_record(document, record), record
        target = self._target_of(self._draft.where, ())
        self._has_begun = True
        self._draft.begin({"": self._first_document()})
        self.target = target

    # --- what is noted for another start, as the part writer's notebook -------------------------

    def forget_units(self, cells: Collection[Shape]) -> None:
        """Remove units that an earlier start has stored, since they are not where they belong."""
        assert self.target is not None
        # Under another name, so that workers which outlive that start do not write them again.
        self._write_draft(replace(self._record, attempt=secrets.token_hex(8)))
        self.target.delete_units(cells)
        spilled = self.target.spilled
        if spilled is not None:
            spilled = {cell: pieces for cell, pieces in spilled.items() if cell not in cells}
        stored = self.target.stored.difference(cells)
        self.target = replace(self.target, stored=stored, spilled=spilled)

    def note_sizes(self, sizes: Sequence[Sequence[int]]) -> None:
        """Note the sizes of the blocks so far, as far as another start could not tell them."""
        assert self.target is not None
        if self.target.lists_sizes:
            return  # they are known as it is
        record = self._record
        noted = tuple(map(_longer, record.first, record.counts, sizes, record.sizes))
        if noted == record.sizes:
            return
        self._write_draft(replace(record, sizes=noted))
        # Later blocks may lie anywhere from now on, whatever is stored where they were thought to.
        axes = tuple(map(Partition, self.target.first, noted))
        self.target = replace(self.target, plan=replace(self.target.plan, axes=axes))

    def note_length(self, axis: int, length: int) -> None:
        """Note where an axis ends; writers of other parts have to know it as well."""
        lengths = list(self._record.lengths)
        lengths[axis] = length
        self._write_draft(replace(self._record, lengths=tuple(lengths)))
        if self.target is not None:
            self.target = replace(self.target, lengths=tuple(lengths))

    def _note_all_written(self) -> None:
        assert self.target is not None
        shape = (*self._stops, *self.target.plan.trailing)
        self._document = with_shape(self._document, shape)
        way_out = "see that nothing removes them, and that workers share the store"
        # Listed once, for publishing too: listing many small files takes as long as making some.
        self._keys = tuple(self._draft.keys())
        check_complete(self._draft.where, self._document, self._keys, str(self.place), way_out)
        record = replace(self._record, counts=self._counts, lengths=self._stops)
        self._write_draft(replace(record, is_written=True))

    def _write_draft(self, record: Record) -> None:
        self._document, self._record = with_record(self._document, record), record
        if self._draft.can_be_kept:
            self._draft.where.write(KEPT_BACK, seal(self._document))

    def _first_document(self) -> bytes:
        """Return the metadata that the unfinished write starts with."""
        if self._draft.can_be_kept:
            return seal(self._document)
        return serialize(self._document)

    # --- inside ---------------------------------------------------------------------------------

    @property
    def _keeps(self) -> bool:
        """Whether a failed start leaves what the next one can go on with."""
        named = self._options.run_id is not None
        return named and self.setup.can_skip and self._draft.can_be_kept

    @property
    def _first_name(self) -> Any:
        return block_name((0,) * len(self._counts))

    def _write_all(self) -> PartWriter[T]:
        """Return the writer of everything, which stores blocks that are stepped."""
        if self._writer is None:
            assert self.target is not None
            part: AnyPart = Part(0, (0, 0), (), (True, True), len(self._counts))
            notebook = self if self._keeps else None
            self._writer = PartWriter(self.target, part, is_whole=True, notebook=notebook)
        return self._writer

    def _go_on(self, found: Found) -> None:
        """Go on with an earlier start, or with what it has finished."""
        self._document, self._record, self._keys = found.document, found.record, found.keys
        if found.is_published:
            self._stored = self._open_stored()
        else:
            self._has_begun = True
        if found.record.first:
            self.target = self._target_of(found.where, found.keys)
        if self.setup.workers is not None and self.target is not None:
            self._check_even(self.target)

    def _target_of(self, where: Keys, keys: Collection[str]) -> Target[T]:
        """Return where blocks go, and what is stored of them."""
        options = self._options
        target: Target[T] = target_of(
            where,
            self._document,
            self._record,
            self._converter,
            keys=keys,
            listed=options.sizes,
            dtype=self._dtype,
            casts=options.dtype is not None,
            name=str(self.place),
            attempt=None if self.setup.shares_memory else self._record.attempt,
            rtol=options.rtol,
            max_in_flight=options.max_in_flight or WRITES_IN_FLIGHT,
            is_taken_up=self._dtype is None,
            is_resumable=self._keeps,
        )
        if self._keeps and self._draft.can_spill and self._stored is None:
            spilled = spill.read_pieces(where, keys, len(self._counts))
            target = replace(target, spilled=spilled)
        return target

    def _publish(self) -> StoredArray:
        """Show the array, whose units are all written."""
        self._draft.where.delete(*spill.list_keys(self._keys))
        record, run_id = Record(VERSION), self._options.run_id
        if run_id is not None:
            record = replace(self._record.finished(), run_id=run_id)
        self._document = with_record(self._document, record)
        self._draft.commit({"": serialize(self._document)}, durable=self._options.durable)
        return self._open_stored()

    def _open_stored(self) -> StoredArray:
        return open_array(self.place.in_store(read_only=False), self._document)

    # --- refusals -------------------------------------------------------------------------------

    def _check_setup(self) -> None:
        """Refuse what cannot be resumed in this pass, before anything is looked at."""
        if not self._options.resume:
            return
        if not self._draft.can_be_kept:
            raise NotResumableError(
                f"{self.place} cannot keep an unfinished write for another start: a zip file "
                "cannot delete, and what a session has not committed ends with its process; leave "
                "out resume=True, or write to a directory or another store"
            )
        if self.before is not None:
            raise NotResumableError(
                f"contramap changes blocks on their way to the sink at {self.place}, so that those "
                "it has stored cannot be compared, nor given to other folds; apply the function "
                "with .map, or leave out resume=True"
            )
        why = None
        if not hasattr(self._converter, "from_numpy"):
            why = "its converter has no from_numpy; give it one"
        elif self._options.dtype is not None:
            why = "dtype= casts what is stored; cast the blocks themselves, with .map"
        if why is not None and self.setup.needs_blocks:
            raise NotResumableError(
                f"the other folds of this pass need every block, and the sink at {self.place} "
                f"cannot give back those that it has stored: {why}, or store with to_zarr first"
            )

    def _check_workers(self) -> None:
        """Refuse workers that would not see what they are to write."""
        if not (self.setup.shares_memory or self.place.is_seen_by_processes):
            raise NotSpreadableError(
                f"workers in other processes do not see {self.place}; write to a directory or an "
                "object store, or use a ThreadPoolExecutor"
            )

    def _check_first(self, first: Shape) -> None:
        """Refuse workers where the size of the first block cannot be that of all blocks."""
        sizes = first[: len(self._counts)]
        if self.setup.workers is not None and self._options.sizes is None and 0 in sizes:
            raise BlockShapeError(
                f"the first block has shape {first}, and with an executor all blocks have its "
                "size; list the sizes in sizes=, or leave out executor=, or the empty block",
                block=self._first_name,
                expected="positive sizes",
                got=first,
            )

    def _check_even(self, target: Target[T]) -> None:
        """Refuse workers where an earlier start has met blocks of uneven sizes."""
        self._check_first(target.first)
        for axis, count in enumerate(self._record.counts):
            sizes = target.plan.axes[axis].sizes
            if sizes is not None and len(sizes) != count:
                few = "..., " if len(sizes) > 4 else ""
                raise BlockShapeError(
                    f"blocks have sizes {few}{str(sizes[-4:])[1:-1]} along axis {axis}, as an "
                    "earlier start has found; with an executor all blocks but the last have the "
                    "size of the first: list them in sizes=, or leave out executor= to go on",
                    expected=target.plan.axes[axis].size,
                    got=sizes[-1],
                )

    # --- failures -------------------------------------------------------------------------------

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
                f"run_id={self._options.run_id!r} goes on from here"
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
            target = self._target_of(self._draft.where, tuple(self._draft.keys()))
            return count_done(target, self._record.counts)
        return None

    def _discard(self) -> bool:
        """Remove what was written; whether nothing of it remains."""
        with contextlib.suppress(Exception):  # the failure of the write is what counts
            self._draft.discard()
            return self._draft.supports_deletes and not self._draft.exists()
        return False


def _longer(
    first: int, count: int | None, sizes: Sequence[int], noted: Sizes | None
) -> Sizes | None:
    """Return the sizes along an axis that are to be noted: those so far, if they tell anything.

    That is, if they differ; or if they are those of all blocks, since the last one may be smaller.
    """
    is_news = len(sizes) > len(noted or ()) and (len(sizes) == count or {*sizes} != {first})
    return tuple(sizes) if is_news else noted
