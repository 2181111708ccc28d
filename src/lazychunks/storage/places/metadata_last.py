"""A place in any zarr store: chunks at their final keys, metadata last.

What has no metadata is no array. Until all is written, the metadata of the array is kept back as
``zarr.json.partial``; then ``zarr.json`` is written, which is the one act that shows the array.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Collection, Generator, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from itertools import chain
from typing import ClassVar

from zarr.storage import FsspecStore

from lazychunks.errors import DestinationExistsError
from lazychunks.storage.chunks.metadata import (
    KEPT_BACK,
    METADATA,
    is_overwriting,
    mark_overwriting,
    read_overwritten_names,
)
from lazychunks.storage.keys import Keys
from lazychunks.storage.places.consolidated import Copies
from lazychunks.storage.places.location import Location, locate, writes_in_place
from lazychunks.storage.places.protocol import NO_DOCUMENTS, Draft, Place
from lazychunks.storage.places.refusals import (
    METADATA_NAMES,
    check_above,
    is_array,
    is_group,
    is_unfinished,
    parse_metadata,
    refuse_append,
    refuse_newcomer,
    refuse_read_only,
)
from lazychunks.storage.places.register import REGISTER
from lazychunks.storage.resuming.record import names_of_arrays, parse

_TURN = threading.RLock()
"""Held while the metadata of a group are read and written again."""


@dataclass(frozen=True, slots=True)
class StoreKeys(Keys):
    """A place in a zarr store."""

    is_for_group: bool = False
    """Whether the destination is one for a group of arrays."""
    has_other_keys: ClassVar[bool] = True
    """Whether the store takes keys that are not Zarr's own."""

    def __str__(self) -> str:
        return f"{self.store}/{self.path}" if self.path else str(self.store)

    @property
    def location(self) -> Location:
        """Where it is, the same for all its names as far as that is known."""
        return locate(self.store, self.path)

    @property
    def is_seen_by_processes(self) -> bool:
        """Whether other processes see what is written there."""
        return not self.location.is_private

    @property
    def backup(self) -> str | None:
        """Where an array was moved aside: nowhere."""
        return None

    @property
    def copies(self) -> Copies:
        """The copies of its metadata in groups above, by this store."""
        parts = self.path.split("/") if self.path else []
        above = [
            (StoreKeys(self.store, "/".join(parts[:number])), "/".join(parts[number:]))
            for number in range(len(parts))
        ]
        return Copies(tuple((place, (path,)) for place, path in (*self._outside(), *above)))

    @property
    def can_be_changed(self) -> bool:
        """Whether a key can be replaced."""
        return self.store.supports_deletes

    def replace(self, name: str, value: bytes, *, durable: bool = False) -> None:  # noqa: ARG002  # no store can sync
        """Write a key in one step."""
        self.write(name, value)

    def take_turn(self) -> AbstractContextManager[object]:
        """Keep other writers of this process from changing metadata of groups."""
        return _TURN

    def _outside(self) -> Generator[tuple[StoreKeys, str]]:
        """List the places above the store, each with the path of this one below it."""
        # A URL is that of the array itself, and the groups are in the same file system.
        if type(self.store) is FsspecStore:
            *parents, name = self.store.path.rstrip("/").split("/")
            for number in range(1, len(parents) + 1):
                place = "/".join(parents[:number])
                path = "/".join((*parents[number:], name, *filter(None, [self.path])))
                if place:
                    yield _Outside(FsspecStore(self.store.fs, path=place), ""), path

    def keys(self) -> list[str] | None:
        """List the keys that readers see; None where the store cannot list."""
        return self.list_keys()

    def in_store(self, *, read_only: bool) -> Keys:  # noqa: ARG002  # the user has opened the store
        """Return the place itself."""
        return self

    def is_taken(self) -> bool:
        """Tell whether an array is there.

        Raises
        ------
        DestinationExistsError
            If something else is there.
        DestinationReadOnlyError
            If the store was opened for reading.
        """
        if self.store.read_only:
            raise refuse_read_only(str(self))
        parts = self.path.split("/") if self.path else []
        above = (StoreKeys(self.store, "/".join(parts[:number])) for number in range(len(parts)))
        check_above(str(self), above, (KEPT_BACK, ".zarray") if self.has_other_keys else ())
        return self.is_taken_itself()

    def is_taken_itself(self) -> bool:
        """Tell whether an array is there, without a look at what is above."""
        document = parse_metadata(self.read(METADATA))
        members = self.list_directory()
        if members is None:  # the store cannot list, so the keys that tell are asked for
            members = [name for name in (*METADATA_NAMES, ".zgroup") if self.read(name) is not None]
        if document is None and KEPT_BACK in members:
            if is_unfinished(self, members, as_group=self.is_for_group):
                return False
        elif members and document is None and self.list_keys() == []:
            return False  # a store that keeps files leaves empty directories
        if self.is_for_group:
            return is_group(self, members)
        return is_array(str(self), members, document)

    def list_below(self, name: str = "") -> Collection[str]:
        """Return the first parts of the keys below a name; none where the store cannot list."""
        return self.below(name).list_directory() or ()

    def is_empty(self, name: str) -> bool:
        """Whether a name that is listed is an empty directory, as a store of files leaves them."""
        return self.read(name) is None and not self.below(name).list_keys()

    def for_group(self) -> Place:
        """Return the same place, as one for a group of arrays."""
        return replace(self, is_for_group=True)

    def check_removable(self) -> None:
        """Refuse an array in a store that cannot delete; others are removed before the first write.

        Raises
        ------
        DestinationExistsError
            If the store cannot delete.
        """
        if not self.store.supports_deletes:
            raise DestinationExistsError(
                f"{self} holds an array, and its store cannot delete, hence not replace it; choose "
                "another destination",
                path=str(self),
            )

    def check_can_append(self) -> None:
        """Refuse a store that cannot replace a key, or that writes it in place.

        Raises
        ------
        DestinationError
            If it is one.
        """
        if not self.store.supports_deletes:
            raise refuse_append(str(self), "its store cannot replace a key")
        if writes_in_place(self.store):
            raise refuse_append(
                str(self),
                "its file system writes a file where it is, so a kill would cut the chunk that "
                "holds the last rows",
            )

    def sync(self, names: Iterable[str]) -> None:
        """Do nothing: a store keeps what it has acknowledged."""

    def draft(self, *, overwrite: bool) -> Draft:
        """Return the unfinished write at the place, or what may become one."""
        return MetadataLast(self, overwrite=overwrite)

    @contextlib.contextmanager
    def lock(self) -> Generator[None]:
        """Be the only writer of this process, and finish what a dead one has left half-way.

        The place is looked at afterwards: what a writer at work has put there is not complete yet,
        and would be taken for something else.

        Raises
        ------
        DestinationBusyError
            If another writer of this process is at work there, within it, or around it.
        DestinationExistsError, DestinationReadOnlyError
            As :meth:`is_taken`.
        """
        with REGISTER.enter(self.location, str(self)):
            self.is_taken()
            if self.has_other_keys:
                self.copies.check(str(self))
            if self.has_other_keys and self.store.supports_deletes:
                kept_back = self.read(KEPT_BACK)
                metadata = self.read(METADATA) if kept_back else None
                if metadata is not None and (is_overwriting(kept_back) or kept_back == metadata):
                    self.copies.announce(metadata)
                if metadata is not None and kept_back == metadata:
                    self.delete(KEPT_BACK)
            yield


@dataclass(frozen=True, slots=True)
class _Outside(StoreKeys):
    """A place above the store that the user has named."""

    def read(self, name: str) -> bytes | None:
        """Read a value; None also where the user may not look."""
        try:
            return StoreKeys.read(self, name)
        except Exception:  # noqa: BLE001  # each file system says in its own way that it is forbidden
            return None


class MetadataLast:
    """An unfinished write at its final keys, without metadata that readers know.

    Parameters
    ----------
    place
        The destination.
    overwrite
        Whether an array that is there may be replaced.
    """

    is_in_place: bool = True
    can_spill: bool = False  # a file beside the chunks is a request each time

    def __init__(self, place: StoreKeys, *, overwrite: bool) -> None:
        self._place = place
        self._overwrite = overwrite
        self._is_refused = False
        """Whether what is there is not this write's."""
        self.where: Keys = place
        self.is_committed: bool = False
        self.supports_deletes: bool = place.store.supports_deletes
        self.can_be_kept: bool = self.supports_deletes

    def exists(self) -> bool:
        """Whether metadata is kept back that is not that of the array which readers see."""
        kept_back = self._place.read(KEPT_BACK) if self.supports_deletes else None
        return kept_back is not None and kept_back != self._place.read(METADATA)

    def begin(self, documents: Mapping[str, bytes] = NO_DOCUMENTS) -> None:
        """Remove what is there, metadata first, so that no reader sees a mixture.

        Metadata that says nothing is kept back meanwhile. It tells what remains, if this dies, from
        content that is not ours.

        Raises
        ------
        DestinationExistsError
            If something came to be there since the write began, or this process reads the array, or
            the store cannot delete it.
        """
        place = self._place
        self._is_refused = True
        is_taken = place.is_taken_itself()
        if is_taken and not self._overwrite:
            raise refuse_newcomer(str(place))
        REGISTER.begin_removal(place.location, str(place))
        if is_taken:
            place.check_removable()
        if not self.supports_deletes:
            return
        self._is_refused = False
        place.write(KEPT_BACK, mark_overwriting(self._list_arrays()))
        place.copies.withdraw()
        place.delete(*METADATA_NAMES)
        self._remove_chunks()
        for path, document in documents.items():
            place.below(path).write(KEPT_BACK, document)

    def keys(self, *, below: str = "", tidy: bool = False) -> Iterable[str]:  # noqa: ARG002  # keys appear whole
        """List the keys that are stored."""
        return self._place.below(below).list_keys() or ()

    def commit(self, documents: Mapping[str, bytes], *, durable: bool) -> None:  # noqa: ARG002  # no store can sync
        """Write the metadata, that of the destination itself last.

        Raises
        ------
        DestinationExistsError
            If another program has stored something there in the meantime.
        """
        place = self._place
        for path, document in sorted(documents.items(), reverse=True):  # the root's path is ""
            if path:
                place.write(f"{path}/{METADATA}", document)
        root = documents[""]
        if place.read(METADATA) is not None:
            raise refuse_newcomer(str(place))
        try:
            place.write(METADATA, root)
            self.is_committed = True
        except BaseException:
            # The answer may be lost, or an interrupt come, when it has taken effect.
            self.is_committed = place.read(METADATA) == root
            raise
        place.copies.announce(root)
        if self.supports_deletes:
            with contextlib.suppress(Exception):  # the array is there; the next writer tidies up
                self._delete_kept_back(path for path in documents if path)

    def discard(self) -> None:
        """Remove what has been written, unless it is complete and readers see it."""
        if self.supports_deletes and not (self.is_committed or self._is_refused):
            metadata = self._place.read(METADATA)
            if metadata is None:
                self._remove_chunks()
            else:  # this failed before it had removed the old array
                self._place.copies.announce(metadata)
            self._delete_kept_back(self._list_arrays())

    def _delete_kept_back(self, arrays: Iterable[str]) -> None:
        """Delete the metadata kept back; that of the destination, which names the arrays, last."""
        self._place.delete(*(f"{name}/{KEPT_BACK}" for name in arrays))
        self._place.delete(KEPT_BACK)

    def _list_arrays(self) -> Iterable[str]:
        """Return the names of the arrays in a group that is there, finished or not."""
        kept_back = self._place.read(KEPT_BACK) or b""
        documents = map(parse, (self._place.read(METADATA), kept_back))
        return dict.fromkeys(
            (*chain(*map(names_of_arrays, documents)), *read_overwritten_names(kept_back))
        )

    def _remove_chunks(self) -> None:
        """Remove all but the metadata that is kept back."""
        self._place.delete(*(key for key in self.keys() if key != KEPT_BACK))
