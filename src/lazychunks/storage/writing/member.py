"""One array of a write: where its blocks go, and what is stored of it."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np

from lazychunks.layout.checks import block_name, check_block, check_row, empty_sequence
from lazychunks.layout.partition import ArrayPlan
from lazychunks.layout.parts import AnyPart, Part
from lazychunks.layout.shapes import Shape
from lazychunks.runs.passes import ALONE, Setup
from lazychunks.storage.chunks.background import WriterThreads
from lazychunks.storage.options import WriteOptions
from lazychunks.storage.resuming import spill
from lazychunks.storage.resuming.base import Base, other_number
from lazychunks.storage.resuming.mismatches import mismatch
from lazychunks.storage.resuming.record import (
    Record,
    hash_sizes,
    known_sizes,
    serialize,
    with_record,
)
from lazychunks.storage.resuming.spill import Pieces
from lazychunks.storage.resuming.survey import Found, plan_document
from lazychunks.storage.resuming.unfinished import target_of
from lazychunks.storage.writing.notes import VERSION, Notes
from lazychunks.storage.writing.part_writer import PartWriter, Receipt
from lazychunks.storage.writing.refusals import check_even, check_sizes
from lazychunks.storage.writing.target import FirstBlock, Target

if TYPE_CHECKING:
    from lazychunks.converters import ToNumpy
    from lazychunks.storage.keys import Keys
    from lazychunks.storage.places.protocol import ArrayDraft

T = TypeVar("T")

WRITES_IN_FLIGHT = 2
"""Number of chunks being written at the same time, where the user does not say."""


class Member(Generic[T]):
    """One array of a write, which may be the only one.

    Parameters
    ----------
    name
        The array, for messages.
    draft
        Where it is written.
    converter, options
        How blocks are stored.
    counts
        Number of blocks along each block axis, where it is known.
    setup
        How the pass goes.
    threads
        What writes in the background, where that is shared with other members.
    base
        The array to which the blocks are appended, if they are.
    """

    def __init__(
        self,
        name: str,
        draft: ArrayDraft,
        converter: ToNumpy[T],
        options: WriteOptions,
        counts: tuple[int | None, ...],
        setup: Setup,
        threads: WriterThreads | None = None,
        base: Base | None = None,
    ) -> None:
        self._threads = threads
        self.name = name
        self._draft = draft
        self._converter = converter
        self.options = options
        self._setup = setup
        self.notes: Notes[T] = Notes(draft, setup.peers)
        self.counts: tuple[int | None, ...] = counts
        self.writer: PartWriter[T] | None = None
        """Stores blocks that are stepped."""
        self.is_published: bool = False
        """Whether readers see what an earlier start has finished."""
        self._dtype: np.dtype[Any] | None = None
        """Of the first block, if this start has computed it."""
        self._received = 0
        """Number of blocks that others have stored."""
        self._stops: Shape = (0,) * len(counts)
        self._base = base
        if base is not None and base.done is not None:
            self.is_published = True
            self.notes.document = base.document
            self.notes.record = Record(VERSION, base.done.run_id, counts=base.done.counts)

    # --- what is known -------------------------------------------------------------------------

    @property
    def target(self) -> Target[T] | None:
        """Where blocks go, once the first of them is known, or an earlier start is taken up."""
        return self.notes.target

    @property
    def known_target(self) -> Target[T]:
        """The target of a member that has begun."""
        assert self.notes.target is not None
        return self.notes.target

    @property
    def plan(self) -> ArrayPlan | None:
        """Where blocks lie, once the first of them is known."""
        return None if self.target is None else self.target.plan

    @property
    def shelf(self) -> Target[T] | None:
        """What an earlier start has stored."""
        target = self.target
        return target if target is not None and (target.stored or target.spilled) else None

    @property
    def is_finished(self) -> bool:
        """Whether an earlier start has stored everything; perhaps only publishing is left."""
        return self.is_published or self.notes.record.is_written

    @property
    def keeps(self) -> bool:
        """Whether a failed start leaves what the next one can go on with."""
        named = self.options.run_id is not None
        return named and self._setup.can_skip and self._draft.can_be_kept

    @property
    def taken(self) -> int:
        """Number of blocks that this start has taken."""
        return self._received if self.writer is None else self.writer.taken

    def is_open_at(self, part: AnyPart) -> bool:
        """Whether a part has the end of an axis, and it is not known yet where that lies."""
        lengths = self.known_target.lengths
        return any(end and length is None for end, length in zip(part.ends, lengths, strict=False))

    # --- the beginning -------------------------------------------------------------------------

    def take_up(self, found: Found, *, is_published: bool) -> None:
        """Go on with an earlier start, or with what it has finished."""
        notes = self.notes
        notes.document, notes.record, notes.keys = found.document, found.record, found.keys
        self.is_published = is_published
        if found.record.first and not found.record.omits_sizes:
            # Read once: as soon as one of the peers goes on, it writes units and removes these.
            read = partial(self._read_spilled, found.where, found.keys)
            notes.target = self._target_of(found.where, found.keys, self._setup.peers.once(read))
        if self._setup.workers and self.target is not None and not self.is_finished:
            check_sizes(found.record.first, len(self.counts), self.options, self._setup)
            check_even(self.target.plan, notes.record)

    def check_counts(self, count: Callable[[], Shape]) -> None:
        """Refuse to go on where the sequence has another number of blocks than it had.

        ``count`` counts the blocks along each block axis; it is called only if the hints differ.

        Raises
        ------
        ResumeMismatchError
            If the numbers differ.
        """
        noted = self.notes.record.counts
        if None in noted or not noted or noted == self.counts:
            return
        counts = count()
        if self._base is not None and counts != noted:
            raise other_number("blocks", self.options.run_id, self.name, noted, counts)
        if 0 not in counts and counts != noted:
            way_out = "a run that has grown needs a run_id of its own"
            was, now = (noted, counts) if len(counts) > 1 else (*noted, *counts)
            raise mismatch("the number of blocks", "count", was, now, way_out)

    def probe(self) -> FirstBlock[T]:
        """Return what tells the shape and the dtype of the first block."""
        name = block_name((0,) * len(self.counts))
        return FirstBlock(self._converter, self.options.dtype is not None, name)

    def begin(self, first: Shape, dtype: np.dtype[Any]) -> bytes:
        """Plan by the shape and the dtype of the first block; return the metadata to begin with."""
        options, axes = self.options, len(self.counts)
        check_block(first, first, (None,) * axes, block=block_name((0,) * axes))
        check_sizes(first, axes, options, self._setup)
        self._dtype = dtype
        if options.dtype is not None:
            dtype = np.dtype(options.dtype)
        base, starts = self._base, (0,) * axes
        lengths: tuple[int | None, ...] = (None,) * axes
        if base is not None:
            base.check_first(first, dtype, axes)
            starts, lengths = (base.rows, 0)[:axes], (None, *base.shape[1:axes])
        record = Record(
            VERSION,
            run_id=options.run_id if self.keeps or base is not None else None,
            attempt=self._setup.peers.once(partial(secrets.token_hex, 8)),
            first=first,
            counts=self.counts,
            lengths=tuple(map(sum, options.sizes, starts)) if options.sizes else lengths,
            sizes=known_sizes(options.sizes or (None,) * axes),
            listed=hash_sizes(options.sizes),
            start=starts[0],
        )
        if base is not None:
            document = base.document
        else:
            document = plan_document(first, dtype, options, self.counts, self._setup.workers)
        sealed = self.notes.begin(document, record)
        self.notes.target = self._target_of(self._draft.where, (), {})
        return sealed

    def _target_of(
        self, where: Keys, keys: Collection[str], spilled: Mapping[Shape, Pieces]
    ) -> Target[T]:
        """Return where blocks go, and what is stored of them."""
        options = self.options
        target: Target[T] = target_of(
            where,
            self.notes.document,
            self.notes.record,
            self._converter,
            keys=keys,
            listed=options.sizes,
            dtype=self._dtype,
            casts=options.dtype is not None,
            name=self.name,
            attempt=None if self._setup.shares_memory else self.notes.record.attempt,
            rtol=options.rtol,
            max_in_flight=options.max_in_flight or WRITES_IN_FLIGHT,
            is_taken_up=self._dtype is None,
            is_resumable=self.keeps,
            writes_behind=self._setup.peers is not ALONE,
            base=None if self._base is None else self._base.shape,
            syncs=self._base is not None and options.durable,
        )
        return replace(target, spilled=spilled) if self._spills else target

    @property
    def _spills(self) -> bool:
        return self.keeps and self._draft.can_spill and not self.is_published

    def _read_spilled(self, where: Keys, keys: Collection[str]) -> Mapping[Shape, Pieces]:
        return spill.read_pieces(where, keys, len(self.counts)) if self._spills else {}

    def look_again(self) -> Target[T]:
        """Return the target, with what is stored by now."""
        where, keys = self._draft.where, tuple(self._draft.keys())
        return self._target_of(where, keys, self._read_spilled(where, keys))

    # --- blocks --------------------------------------------------------------------------------

    def step(self, block: T) -> None:
        """Take the next block; its memory may be reused as soon as this returns."""
        if self.writer is not None:
            self.writer.step(block)
        elif not self.is_finished:  # else other folds of the pass need the block
            self.write_all().step(block)

    def end_row(self) -> None:
        """Close a row of blocks; the first one fixes the width of the array."""
        if self.is_finished:
            return
        if self.writer is None and self.target is None:
            check_row(0, 0, 0)
        self.write_all().end_row()

    def write_all(self) -> PartWriter[T]:
        """Return the writer of everything, which stores blocks that are stepped."""
        if self.writer is None:
            part: AnyPart = Part(0, (0, 0), (), (True, True), len(self.counts))
            # In a group, all sizes are noted, so that blocks can be read back as they came.
            notebook = self.notes if self.keeps or self.options.name else None
            self.writer = PartWriter(
                self.known_target, part, is_whole=True, notebook=notebook, threads=self._threads
            )
        return self.writer

    def absorb(self, receipt: Receipt, part: AnyPart) -> None:
        """Take the receipt of a part that has been stored elsewhere."""
        self._received += receipt.blocks
        self._stops = tuple(map(max, self._stops, receipt.stops))
        for axis, length in enumerate(receipt.stops):
            known = self.known_target.lengths[axis]
            if part.ends[axis] and known is None:
                self.notes.note_length(axis, length)
            elif part.ends[axis] and known != length:
                raise self.known_target.refuse_length(axis, known, length)

    # --- the end -------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Write what is left, and note that all is written. It is harmless to call this twice."""
        if self.is_finished:
            return
        if self.writer is not None:
            self._stops = self.writer.state().stops
            self.counts = self.writer.counts
        if self.target is None or not (self.writer or self._received):
            raise empty_sequence()
        self.notes.note_all_written(self.counts, self._stops, self.name)

    def make_document(self, *, keeps_sizes: bool) -> bytes:
        """Remove what was spilled, and return the metadata that readers will see."""
        spilled = spill.list_keys(self.notes.keys)
        self._setup.peers.once(partial(self._draft.where.delete, *spilled))
        record, run_id = Record(VERSION), self.options.run_id
        if self._base is not None:
            rows: int = self.notes.document["shape"][0]
            self.notes.document = self._base.grown(rows, run_id, self.counts)
            return serialize(self.notes.document)
        if run_id is not None or keeps_sizes:
            record = replace(self.notes.record.finished(), run_id=run_id)
        self.notes.document = with_record(self.notes.document, record)
        return serialize(self.notes.document)
