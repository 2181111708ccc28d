"""What a write notes beside its chunks, so that another start of it may go on."""

from __future__ import annotations

import secrets
from collections.abc import Collection, Sequence
from dataclasses import replace
from functools import partial
from importlib import metadata
from typing import TYPE_CHECKING, Generic, TypeVar

from lazychunks.layout.shapes import Shape
from lazychunks.runs.passes import ALONE, Peers
from lazychunks.storage.chunks.metadata import KEPT_BACK
from lazychunks.storage.resuming.record import (
    Document,
    Record,
    Sizes,
    known_sizes,
    seal,
    serialize,
    with_record,
    with_shape,
)
from lazychunks.storage.resuming.survey import check_appended, check_complete

if TYPE_CHECKING:
    from lazychunks.storage.places.protocol import ArrayDraft
    from lazychunks.storage.writing.target import Target

T = TypeVar("T")

VERSION = metadata.version("lazychunks")


class Notes(Generic[T]):
    """The metadata of an unfinished array, its record, and what they say about where blocks go.

    Parameters
    ----------
    draft
        Where the array is written.
    peers
        Who notes the same; the leader alone writes it down.
    """

    def __init__(self, draft: ArrayDraft, peers: Peers = ALONE) -> None:
        self._draft = draft
        self._peers = peers
        self.document: Document = {}
        self.record: Record = Record(VERSION)
        self.target: Target[T] | None = None
        """Where blocks go, once the first of them is known, or an earlier start is taken up."""

        self.keys: Collection[str] = ()
        """Of the unfinished array, as an earlier start has left it; in the end, all of them."""

    def begin(self, document: Document, record: Record) -> bytes:
        """Note the first of them, and return the metadata that the unfinished write starts with."""
        self.document, self.record = with_record(document, record), record
        return seal(self.document) if self._draft.can_be_kept else serialize(self.document)

    def forget_units(self, cells: Collection[Shape]) -> None:
        """Remove units that an earlier start has stored, since they are not where they belong."""
        assert self.target is not None
        # Under another name, so that workers which outlive that start do not write them again.
        self.write(replace(self.record, attempt=secrets.token_hex(8)))
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
        record = self.record
        noted = known_sizes(tuple(map(_longer, record.first, record.counts, sizes, record.sizes)))
        if noted == record.sizes:
            return
        self.write(replace(record, sizes=noted))
        # Later blocks may lie anywhere from now on, whatever is stored where they were thought to.
        plan = self.target.plan
        axes = (replace(axis, sizes=known) for axis, known in zip(plan.axes, noted, strict=True))
        self.target = replace(self.target, plan=replace(plan, axes=tuple(axes)))

    def note_length(self, axis: int, length: int) -> None:
        """Note where an axis ends; writers of other parts have to know it as well."""
        lengths = list(self.record.lengths)
        lengths[axis] = length
        self.write(replace(self.record, lengths=tuple(lengths)))
        if self.target is not None:
            self.target = replace(self.target, lengths=tuple(lengths))

    def note_all_written(self, counts: tuple[int | None, ...], lengths: Shape, name: str) -> None:
        """Note that only publishing is left.

        Raises
        ------
        DestinationError
            If chunks are not there that have been written at ``name``.
        """
        assert self.target is not None
        self.document = with_shape(self.document, (*lengths, *self.target.plan.trailing))
        self._peers.once(partial(self._check_complete, name))
        self.write(replace(self.record, counts=counts, lengths=lengths, is_written=True))

    def write(self, record: Record) -> None:
        """Replace the record, at the destination as well, if that can keep it."""
        self.document, self.record = with_record(self.document, record), record
        if self._draft.can_be_kept:
            self._peers.once(lambda: self._draft.where.write(KEPT_BACK, seal(self.document)))

    def _check_complete(self, name: str) -> None:
        way_out = "see that nothing removes them, and that workers share the store"
        base = None if self.target is None else self.target.base
        if base is not None:  # the old chunks may be many, and are not this run's
            check_appended(self._draft.where, self.document, base, name, way_out)
            return
        # Listed once, for publishing too: to list many small files takes as long as to make some.
        self.keys = tuple(self._draft.keys())
        check_complete(self._draft.where, self.document, self.keys, name, way_out)


def _longer(
    first: int, count: int | None, sizes: Sequence[int], noted: Sizes | None
) -> Sizes | None:
    """Return the sizes along an axis that are to be noted: those so far, if they tell anything.

    That is, if they differ; or if they are those of all blocks, since the last one may be smaller.
    """
    is_news = len(sizes) > len(noted or ()) and (len(sizes) == count or {*sizes} != {first})
    return tuple(sizes) if is_news else noted
