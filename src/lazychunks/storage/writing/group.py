"""A write whose blocks are mappings: what they hold under each name goes into an array of a group.

The group has one draft and one commit, so that readers find all of its arrays, or none. The names
are those of the first block; an unfinished group notes them in its metadata.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import zarr
from zarr.storage import StorePath

from lazychunks.errors import BlockError
from lazychunks.layout.checks import block_name, empty_sequence
from lazychunks.layout.parts import AnyPart
from lazychunks.layout.shapes import Shape
from lazychunks.runs.interrupts import uninterrupted
from lazychunks.runs.passes import Ends, PartFold, Shelf
from lazychunks.storage.chunks.background import WriterThreads
from lazychunks.storage.coordinates import check_coordinates
from lazychunks.storage.group_options import GroupOptions
from lazychunks.storage.keys import Keys
from lazychunks.storage.resuming.base import Base
from lazychunks.storage.resuming.mismatches import mismatch
from lazychunks.storage.resuming.record import (
    Document,
    Record,
    own_attributes,
    parse,
    record_of,
    seal,
    serialize,
    with_record,
)
from lazychunks.storage.writing.mappings import (
    FirstBlocks,
    GroupShelf,
    GroupWriters,
    name_member,
    step_each,
)
from lazychunks.storage.writing.member import WRITES_IN_FLIGHT, Member
from lazychunks.storage.writing.notes import VERSION
from lazychunks.storage.writing.part_writer import Receipt
from lazychunks.storage.writing.refusals import check_listing
from lazychunks.storage.writing.write import Write

if TYPE_CHECKING:
    from lazychunks.converters import ToNumpy
    from lazychunks.storage.places.protocol import Draft, Place

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class MemberDraft:
    """What the unfinished write of a group is for one of its arrays."""

    draft: Draft
    name: str

    @property
    def where(self) -> Keys:
        """Where the chunks are stored."""
        return self.draft.where.below(self.name)

    @property
    def can_be_kept(self) -> bool:
        """Whether the group can be kept aside for another start."""
        return self.draft.can_be_kept

    @property
    def can_spill(self) -> bool:
        """Whether files beside its chunks cost little."""
        return self.draft.can_spill

    def keys(self) -> Iterable[str]:
        """List the keys that are stored whole."""
        return self.draft.keys(below=self.name)


class GroupWrite(Write[T]):
    """One start of a write of a group.

    Parameters
    ----------
    place, converter, overwrite, counts
        As for a :class:`.write.Write`.
    group
        Validated options.
    """

    def __init__(
        self,
        place: Place,
        converter: ToNumpy[T],
        overwrite: bool,
        group: GroupOptions,
        counts: tuple[int | None, ...],
    ) -> None:
        super().__init__(place.for_group(), converter, overwrite, group.common, counts)
        self._group = group
        self._threads = WriterThreads(group.common.max_in_flight or WRITES_IN_FLIGHT)
        self._has_stored_coordinates = False
        self._next = (0,) * len(counts)
        """Row, and column, of the next block that is stepped."""

    # --- the pass of a fold --------------------------------------------------------------------

    def step(self, block: Mapping[str, T] | Any, /) -> None:
        """Take the next block, and hand on what it holds under each name."""
        if not self._members:
            self.begin(self.probe()(block))
        step_each(self._members, block, block_name(self._next))
        self._next = (*self._next[:-1], self._next[-1] + 1)

    def end_row(self) -> None:
        """Close a row of blocks of all arrays."""
        if not self._members:
            raise empty_sequence()
        super().end_row()
        self._next = (self._next[0] + 1, 0)

    def absorb(self, receipt: dict[str, Receipt] | list[list[T]], part: AnyPart, /) -> None:
        """Take the receipts of a part that has been stored elsewhere, or else its blocks."""
        if isinstance(receipt, dict):
            for name, member in self._members.items():
                member.absorb(receipt[name], part)
        else:
            super().absorb(receipt, part)

    def prepare(self) -> None:
        """Do what may fail before publishing, and store the coordinates."""
        if not self._members:
            raise empty_sequence()
        super().prepare()
        if self._stored is None and not self._has_stored_coordinates:
            documents = {name: each.notes.document for name, each in self._members.items()}
            check_coordinates(self._group.coordinates, documents)
            self.setup.peers.once(self._store_coordinates)
            self._has_stored_coordinates = True

    # --- as a driver of passes sees it ---------------------------------------------------------

    @property
    def shelf(self) -> Shelf | None:
        """What an earlier start has stored of all arrays."""
        shelves = [member.shelf for member in self._members.values()]
        return None if None in shelves or not shelves else self._all_targets

    def has(self, index: Shape, is_last: Ends) -> bool:
        """Whether a block is stored in all arrays, by what is known now."""
        return self.shelf is not None and self._all_targets.has(index, is_last)

    def read_block(self, index: Shape, is_last: Ends) -> dict[str, Any]:
        """Read back a block that is stored."""
        return self._all_targets.read_block(index, is_last)

    def compare(self, index: Shape, is_last: Ends, block: Mapping[str, T]) -> None:
        """Refuse a block that is not the one that is stored."""
        self._all_targets.compare(index, is_last, block)

    def for_parts(self) -> PartFold[Any]:
        """Return what stores parts; there is nothing to store before the first block."""
        return GroupWriters(self._all_targets.targets)

    def probe(self) -> FirstBlocks[T]:
        """Return what tells names, shapes and dtypes of the first block."""
        own = {name: options.dtype is not None for name, options in self._group.arrays.items()}
        casts = {"": self._options.dtype is not None, **own}
        return FirstBlocks(self._converter, casts, block_name((0,) * len(self._counts)))

    def begin(self, found: Mapping[str, tuple[Shape, np.dtype[Any]]], /) -> None:
        """Start to write, with names, shapes and dtypes of the first block."""
        members = self._make_members(found)
        documents: dict[str, bytes] = {}
        for name, member in members.items():
            try:
                documents[name] = member.begin(*found[name])
            except BlockError as error:
                name_member(error, name)
                raise
        described = {name: member.notes.document for name, member in members.items()}
        check_coordinates(self._group.coordinates, described, open_axes=len(self._counts))
        self._members = members
        root = self._describe_group(run_id=self._options.run_id)
        sealed = seal(root) if self._draft.can_be_kept else serialize(root)
        self._begin_draft({"": sealed, **documents})

    # --- inside --------------------------------------------------------------------------------

    @property
    def _all_targets(self) -> GroupShelf[T]:
        return GroupShelf({name: each.known_target for name, each in self._members.items()})

    def _store_coordinates(self) -> None:
        for coordinate in self._group.coordinates:
            coordinate.store(self._draft.where)

    def _close_threads(self) -> None:
        with uninterrupted():
            self._threads.close()

    def _first_members(self, base: Base | None = None) -> dict[str, Member[T]]:  # noqa: ARG002
        return {}  # the first block tells their names

    def _noted_members(self, where: Keys, key: str) -> dict[str, Member[T]]:
        document = parse(where.read(key))
        record = record_of(document)
        if document is None or record is None:
            return {}
        if not record.members:
            raise mismatch(f"at {self.place}, what is stored", "kind", "an array", "a group")
        was, now = own_attributes(document), self._group.attributes
        if was != now:
            way_out = "pass the same options"
            raise mismatch(f"at {self.place}, attributes", "attributes", was, now, way_out)
        names = tuple(each.name for each in self._group.coordinates)
        if record.coordinates != names:
            way_out = "pass the same options"
            what = f"at {self.place}, coordinates"
            raise mismatch(what, "coordinates", record.coordinates, names, way_out)
        return self._make_members(record.members)

    def _make_members(self, names: Iterable[str]) -> dict[str, Member[T]]:
        names = tuple(names)
        self._group.check_names(names)
        members: dict[str, Member[T]] = {}
        for name in names:
            options = self._group.options_of(name)
            check_listing(options.sizes, len(self._counts))
            members[name] = Member(
                f"{self.place}/{name}",
                MemberDraft(self._draft, name),
                self._converter,
                options,
                self._counts,
                self.setup,
                self._threads,
            )
        return members

    def _return_to_finished(self) -> None:
        super()._return_to_finished()
        for coordinate in self._group.coordinates:
            coordinate.check_same(self.place.in_store(read_only=True), self._options.rtol)

    def _make_documents(self) -> Mapping[str, bytes]:
        arrays = {
            name: member.make_document(keeps_sizes=True) for name, member in self._members.items()
        }
        described = {name: member.notes.document for name, member in self._members.items()}
        beside = {each.name: each.document for each in self._group.coordinates}
        root = self._describe_group(run_id=self._options.run_id)
        root["consolidated_metadata"] = {
            "kind": "inline",
            "must_understand": False,
            "metadata": {**described, **beside},
        }
        return {"": serialize(root), **arrays}

    def _describe_group(self, run_id: str | None) -> Document:
        coordinates = self._group.coordinates
        record = Record(
            VERSION,
            run_id=run_id,
            counts=self._counts,
            members=tuple(self._members),
            coordinates=tuple(each.name for each in coordinates),
        )
        document: Document = {
            "zarr_format": 3,
            "node_type": "group",
            "attributes": self._group.attributes,
        }
        return with_record(document, record)

    def _open_stored(self) -> zarr.Group:
        where = self.place.in_store(read_only=False)
        return zarr.open_group(  # pyright: ignore[reportUnknownMemberType]  # names an FSMap
            StorePath(where.store, where.path), mode="r+"
        )
