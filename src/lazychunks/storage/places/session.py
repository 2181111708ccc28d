"""A path in a writable session of Icechunk, whose own commit shows everything at once.

Within the session nothing is hidden: the array is written where it will be. Others see it when the
user commits the session, or never. Icechunk is not imported here: its stores are known by name.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar

from zarr.abc.store import Store

from lazychunks.storage.chunks.metadata import METADATA
from lazychunks.storage.keys import Keys
from lazychunks.storage.places.location import unwrap
from lazychunks.storage.places.metadata_last import StoreKeys
from lazychunks.storage.places.protocol import NO_DOCUMENTS, Draft
from lazychunks.storage.places.refusals import refuse_append, refuse_newcomer
from lazychunks.storage.places.register import REGISTER

_MANY_CHUNKS = 2**31 - 1
"""Number of chunks along each axis of an array whose length is not known yet."""


def is_icechunk(store: Store) -> bool:
    """Whether a store is that of an Icechunk session, or around one."""
    kinds = type(unwrap(store)).__mro__
    return any(kind.__module__.split(".")[0] == "icechunk" for kind in kinds)


@dataclass(frozen=True, slots=True)
class IcechunkSession(StoreKeys):
    """A path in an Icechunk session."""

    has_other_keys: ClassVar[bool] = False  # Icechunk takes none but Zarr's own

    def __str__(self) -> str:
        return f"{self.path or 'the root'} of an Icechunk session"

    @property
    def is_seen_by_processes(self) -> bool:
        """Whether other processes see what is written there: not before the commit."""
        return False

    def list_keys(self) -> list[str] | None:
        """List all names below; Icechunk itself lists only below an array or a group."""
        return StoreKeys.list_keys(self) if self.read(METADATA) is not None else []

    def check_can_append(self) -> None:
        """Refuse all: Icechunk takes no chunk beyond the shape of an array.

        Raises
        ------
        DestinationError
            Always.
        """
        raise refuse_append(str(self), "Icechunk takes no chunk beyond the shape of an array")

    def draft(self, *, overwrite: bool) -> Draft:
        """Return what may become a write in the session."""
        return SessionDraft(self, overwrite=overwrite)


class SessionDraft:
    """A write in a session, which the session's own commit shows.

    Parameters
    ----------
    place
        The destination.
    overwrite
        Whether an array that is there may be replaced.
    """

    is_in_place: bool = True
    can_be_kept: bool = False  # what is not committed ends with the process
    supports_deletes: bool = True
    can_spill: bool = False  # Icechunk takes no keys but Zarr's own

    def __init__(self, place: IcechunkSession, *, overwrite: bool) -> None:
        self._place = place
        self._overwrite = overwrite
        self._has_begun = False
        self.where: Keys = place
        self.is_committed: bool = False

    def exists(self) -> bool:
        """Whether an earlier start has left something: it is gone with its session."""
        return False

    def begin(self, documents: Mapping[str, bytes] = NO_DOCUMENTS) -> None:
        """Remove an array that is there, and tell Icechunk of the arrays whose chunks follow.

        Icechunk refuses chunks of an array that it does not know, or beyond its shape. How long an
        array gets is known only in the end, so its axes are left open until then.

        Raises
        ------
        DestinationExistsError
            If an array came to be there since the write began, or this process reads the array.
        """
        place = self._place
        is_taken = place.is_taken_itself()
        if is_taken and not self._overwrite:
            raise refuse_newcomer(str(place))
        REGISTER.begin_removal(place.location, str(place))
        self._has_begun = True
        # New metadata alone would keep the old chunks, whatever their shape is.
        if is_taken:
            place.delete_directory()
        for path, document in documents.items():
            place.write(f"{path}/{METADATA}" if path else METADATA, _open_axes(document))

    def keys(self, *, below: str = "", tidy: bool = False) -> Iterable[str]:  # noqa: ARG002  # keys appear whole
        """List the keys that are stored."""
        return self._place.below(below).list_keys() or ()

    def commit(self, documents: Mapping[str, bytes], *, durable: bool) -> None:  # noqa: ARG002  # the session's commit is
        """Set the metadata, that of the destination itself last."""
        for path, document in sorted(documents.items(), reverse=True):  # the root's path is ""
            self._place.write(f"{path}/{METADATA}" if path else METADATA, document)
        self.is_committed = True

    def discard(self) -> None:
        """Remove what has been written in the session."""
        if self._has_begun and not self.is_committed:
            self._place.delete_directory()


def _open_axes(document: bytes) -> bytes:
    """Return metadata of an array that has room for many chunks along each axis."""
    metadata = json.loads(document)
    if metadata.get("node_type") == "array":
        chunks = metadata["chunk_grid"]["configuration"]["chunk_shape"]
        metadata["shape"] = [size * _MANY_CHUNKS for size in chunks]
    return json.dumps(metadata).encode()
