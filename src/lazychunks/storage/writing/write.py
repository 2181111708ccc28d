"""The life of a write: the array appears in one act when all is written, or not at all.

A write is the running pass of a fold. Its blocks are either stepped one by one, or stored by others
part by part, of which it takes the receipts. Either way a
:class:`~lazychunks.storage.writing.part_writer.PartWriter` does the work. What happens at the
destination is up to its place and draft (:mod:`lazychunks.storage.places.protocol`).
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack
from dataclasses import replace
from itertools import chain
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

import numpy as np

from lazychunks.layout.checks import block_name, check_block, check_row, empty_sequence
from lazychunks.layout.partition import ArrayPlan
from lazychunks.layout.parts import AnyPart, Part
from lazychunks.layout.shapes import Shape
from lazychunks.runs.passes import Ends, Setup
from lazychunks.storage.chunks.metadata import open_array
from lazychunks.storage.options import Destination, WriteOptions
from lazychunks.storage.places.place import resolve_destination
from lazychunks.storage.resuming import spill
from lazychunks.storage.resuming.mismatches import mismatch
from lazychunks.storage.resuming.record import (
    Record,
    hash_sizes,
    known_sizes,
    serialize,
    with_record,
)
from lazychunks.storage.resuming.survey import Found, plan_document, survey
from lazychunks.storage.resuming.unfinished import count_done, target_of
from lazychunks.storage.writing.failure import Failure
from lazychunks.storage.writing.notes import VERSION, Notes
from lazychunks.storage.writing.part_writer import PartWriter, Receipt
from lazychunks.storage.writing.refusals import (
    check_can_resume,
    check_even,
    check_listing,
    check_sizes,
    check_workers,
)
from lazychunks.storage.writing.target import FirstBlock, Target

if TYPE_CHECKING:
    from lazychunks.converters import ToNumpy
    from lazychunks.storage.chunks.metadata import StoredArray
    from lazychunks.storage.keys import Keys
    from lazychunks.storage.places.protocol import Draft, Place

T = TypeVar("T")

WRITES_IN_FLIGHT = 2
"""Number of chunks being written at the same time, where the user does not say."""


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
        self.setup: Setup = Setup()
        self.before: Callable[[Any], T] | None = None
        self.is_behind_a_fold = False
        self._notes: Notes[T] = Notes(self._draft)
        self._stored: StoredArray | None = None
        """The array, once readers see it."""
        self._dtype: np.dtype[Any] | None = None
        """Of the first block, if this start has computed it."""
        self._writer: PartWriter[T] | None = None
        """Stores blocks that are stepped."""
        self._taken = 0
        """Number of blocks that others have stored."""
        self._stops: Shape = (0,) * len(counts)
        self._has_begun = False
        self._stack = ExitStack()
        self._process = os.getpid()

    # --- the pass of a fold --------------------------------------------------------------------

    def __enter__(self) -> Self:
        """Lock the destination, and look at it.

        Raises
        ------
        DestinationExistsError, DestinationReadOnlyError, DestinationBusyError
            If the destination may not, or cannot, be written.
        ResumeMismatchError, NotResumableError, NotSpreadableError
            If the pass cannot go on with an earlier start, or workers cannot do it.
        ValueError
            If ``sizes=`` is not for this kind of sequence.
        """
        check_listing(self._options.sizes, len(self._counts))
        name, options, setup = str(self.place), self._options, self.setup
        can_be_kept = self._draft.can_be_kept
        check_can_resume(
            name, options, setup, self._converter, self.before, can_be_kept=can_be_kept
        )
        with ExitStack() as stack:
            stack.enter_context(self.place.lock())
            found = survey(
                self.place, self._draft, options, self._counts, overwrite=self._overwrite
            )
            check_workers(name, setup, is_seen_by_processes=self.place.is_seen_by_processes)
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
                self._notes.note_length(axis, length)
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
        self._notes.note_all_written(self._counts, self._stops, str(self.place))

    def finish(self) -> StoredArray:
        """Write what is left, and publish."""
        if self._stored is None:
            self.prepare()
            self._stored = self._publish()
        return self._stored

    # --- as a driver of passes sees it ---------------------------------------------------------

    @property
    def target(self) -> Target[T] | None:
        """Where blocks go, once the first of them is known, or an earlier start is taken up."""
        return self._notes.target

    @property
    def resumes(self) -> bool:
        """Whether it was asked to go on with an earlier start."""
        return self._options.resume

    @property
    def is_finished(self) -> bool:
        """Whether an earlier start has stored everything; perhaps only publishing is left."""
        return self._stored is not None or self._notes.record.is_written

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
        noted = self._notes.record.counts
        if None in noted or not noted or noted == self._counts:
            return
        counts = count()
        if 0 not in counts and counts != noted:
            way_out = "a run that has grown needs a run_id of its own"
            was, now = (noted, counts) if len(counts) > 1 else (*noted, *counts)
            raise mismatch("the number of blocks", "count", was, now, way_out)

    def begin(self, first: Shape, dtype: np.dtype[Any], /) -> None:
        """Start to write, with the shape and the dtype of the first block."""
        options, axes = self._options, len(self._counts)
        check_block(first, first, (None,) * axes, block=self._first_name)
        check_sizes(first, axes, options, self.setup)
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
            sizes=known_sizes(options.sizes or (None,) * axes),
            listed=hash_sizes(options.sizes),
        )
        document = plan_document(first, dtype, options, self._counts, self.setup.workers)
        sealed = self._notes.begin(document, record)
        target = self._target_of(self._draft.where, ())
        self._has_begun = True
        self._draft.begin({"": sealed})
        self._notes.target = target

    # --- inside --------------------------------------------------------------------------------

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
            notebook = self._notes if self._keeps else None
            self._writer = PartWriter(self.target, part, is_whole=True, notebook=notebook)
        return self._writer

    def _go_on(self, found: Found) -> None:
        """Go on with an earlier start, or with what it has finished."""
        notes = self._notes
        notes.document, notes.record, notes.keys = found.document, found.record, found.keys
        if found.is_published:
            self._stored = self._open_stored()
        else:
            self._has_begun = True
        if found.record.first and not found.record.omits_sizes:
            self._notes.target = self._target_of(found.where, found.keys)
        if self.setup.workers and self.target is not None and not self.is_finished:
            check_sizes(found.record.first, len(self._counts), self._options, self.setup)
            check_even(self.target.plan, self._notes.record)

    def _target_of(self, where: Keys, keys: Collection[str]) -> Target[T]:
        """Return where blocks go, and what is stored of them."""
        options = self._options
        target: Target[T] = target_of(
            where,
            self._notes.document,
            self._notes.record,
            self._converter,
            keys=keys,
            listed=options.sizes,
            dtype=self._dtype,
            casts=options.dtype is not None,
            name=str(self.place),
            attempt=None if self.setup.shares_memory else self._notes.record.attempt,
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
        self._draft.where.delete(*spill.list_keys(self._notes.keys))
        record, run_id = Record(VERSION), self._options.run_id
        if run_id is not None:
            record = replace(self._notes.record.finished(), run_id=run_id)
        self._notes.document = with_record(self._notes.document, record)
        self._draft.commit({"": serialize(self._notes.document)}, durable=self._options.durable)
        return self._open_stored()

    def _open_stored(self) -> StoredArray:
        return open_array(self.place.in_store(read_only=False), self._notes.document)

    # --- failures ------------------------------------------------------------------------------

    def _give_up(self, error: BaseException) -> None:
        """Leave the destination as it was, and say how to go on."""
        if self._draft.is_committed:
            error.add_note(f"{self.place} is stored: this failed afterwards")
            return
        taken = self._taken if self._writer is None else self._writer.taken
        failure = Failure(
            str(self.place),
            done=self._count_done() if self._keeps else taken,
            taken=taken,
            counts=self._counts,
            run_id=self._options.run_id if self._keeps else None,
            is_removed=not self._keeps and self._discard(),
        )
        failure.report(error)

    def _count_done(self) -> int | None:
        """Count the blocks that the next start does not compute."""
        with contextlib.suppress(Exception):  # the failure of the write is what counts
            target = self._target_of(self._draft.where, tuple(self._draft.keys()))
            return count_done(target, self._notes.record.counts)
        return None

    def _discard(self) -> bool:
        """Remove what was written; whether nothing of it remains."""
        with contextlib.suppress(Exception):  # the failure of the write is what counts
            self._draft.discard()
            return self._draft.supports_deletes and not self._draft.exists()
        return False
