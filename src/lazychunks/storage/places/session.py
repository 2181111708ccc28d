"""A path in a writable session of Icechunk, whose own commit shows everything at once.

Within the session nothing is hidden: the array is written where it will be. Others see it when the
user commits the session, or never. Icechunk is not imported here: its stores are known by name.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Generator, Iterable, Mapping
from dataclasses import dataclass

from zarr.abc.store import Store

from lazychunks.storage.chunks.metadata import METADATA
from lazychunks.storage.keys import Keys
from lazychunks.storage.places.protocol import NO_DOCUMENTS
from lazychunks.storage.places.refusals import (
    check_above,
    is_array,
    parse_metadata,
    refuse_newcomer,
    refuse_read_only,
)
from lazychunks.storage.places.register import REGISTER, Location, locate

_MANY_CHUNKS = 2**31 - 1
"""Number of chunks along each axis of an array whose length is not known yet."""


def is_icechunk(store: Store) -> bool:
    """Whether a store is that of an Icechunk session."""
    return any(kind.__module__.split(".")[0] == "icechunk" for kind in type(store).__mro__)


@dataclass(frozen=True, slots=True)
class IcechunkSession(Keys):
    """A path in an Icechunk session."""

    def __str__(self) -> str:
        return f"{self.path or 'the root'} of an Icechunk session"

    @property
    def location(self) -> Location:
        """Where it is: stores of one session are equal."""
        return locate(self.store, self.path)

    @property
    def is_seen_by_processes(self) -> bool:
        """Whether other processes see what is written there: not before the commit."""
        return False

    @property
    def backup(self) -> str | None:
        """Where an array was moved aside: nowhere."""
        return None

    def keys(self) -> list[str] | None:
        """List the keys that readers of the session see."""
        # Icechunk lists only what is below an array or a group.
        return self.list_keys() if self.read(METADATA) is not None else []

    def in_store(self, *, read_only: bool) -> Keys:  # noqa: ARG002  # the session is as the user opened it
        """Return the place itself."""
        return self

    def holds_array(self) -> bool:
        """Tell whether an array is there.

        Raises
        ------
        DestinationExistsError
            If something else is there.
        DestinationReadOnlyError
            If the session cannot be written.
        """
        if self.store.read_only:
            raise refuse_read_only(str(self))
        parts = self.path.split("/") if self.path else []
        above = ("/".join(parts[:number]) for number in range(len(parts)))
        check_above(str(self), (IcechunkSession(self.store, path) for path in above), marks=())
        members = self.list_directory() or []
        return is_array(str(self), members, parse_metadata(self.read(METADATA)))

    def check_removable(self) -> None:
        """Refuse nothing: whatever a session removes, others see until its commit."""

    def draft(self, *, overwrite: bool) -> SessionDraft:
        """Return what may become a write in the session."""
        return SessionDraft(self, overwrite=overwrite)

    @contextlib.contextmanager
    def lock(self) -> Generator[None]:
        """Be the only writer at the path in this process; Icechunk itself tells other sessions.

        Raises
        ------
        DestinationBusyError
            If another writer of this process is at work there, within it, or around it.
        DestinationExistsError, DestinationReadOnlyError
            As :meth:`holds_array`.
        """
        with REGISTER.enter(self.location, str(self)):
            self.holds_array()
            yield


class SessionDraft:
    """A write in a session, which the session's own commit shows.

    Parameters
    ----------
    place
        The destination.
    overwrite
        Whether an array that is there may be replaced.
    """

    def __init__(self, place: IcechunkSession, *, overwrite: bool) -> None:
        self._place = place
        self._overwrite = overwrite
        self._has_begun = False
        self._is_committed = False

    @property
    def where(self) -> Keys:
        """Where its chunks are stored."""
        return self._place

    @property
    def is_committed(self) -> bool:
        """Whether the array is complete in the session."""
        return self._is_committed

    @property
    def can_be_kept(self) -> bool:
        """Whether it can be kept for another start: what is not committed ends with the process."""
        return False

    @property
    def supports_deletes(self) -> bool:
        """Whether it can be removed again."""
        return True

    @property
    def can_spill(self) -> bool:
        """Whether there may be files beside its chunks: Icechunk knows no other keys."""
        return False

    def exists(self) -> bool:
        """Whether an earlier start has left something: it would be gone with its session."""
        return False

    def begin(self, documents: Mapping[str, bytes] = NO_DOCUMENTS) -> None:
        """Remove an array that is there, and tell Icechunk of the arrays whose chunks follow.

        Icechunk refuses chunks of arrays that it does not know, or beyond their shapes. How long an
        array gets is known in the end only, so its axes are left open until then.

        Raises
        ------
        DestinationExistsError
            If an array came to be there since the write began, or this process reads the array.
        """
        place = self._place
        holds_array = place.holds_array()
        if holds_array and not self._overwrite:
            raise refuse_newcomer(str(place))
        REGISTER.begin_removal(place.location, str(place))
        self._has_begun = True
        if holds_array:
            place.delete_directory()
        for path, document in documents.items():
            place.write(f"{path}/{METADATA}" if path else METADATA, _open_axes(document))

    def keys(self, *, tidy: bool = False) -> Iterable[str]:  # noqa: ARG002  # keys appear whole
        """List the keys that are stored."""
        return self._place.keys() or ()

    def commit(self, documents: Mapping[str, bytes], *, durable: bool) -> None:  # noqa: ARG002  # the session's commit makes it so
        """Set the metadata, that of the destination itself last."""
        for path, document in sorted(documents.items(), reverse=True):  # the root's path is ""
            self._place.write(f"{path}/{METADATA}" if path else METADATA, document)
        self._is_committed = True

    def discard(self) -> None:
        """Remove what has been written in the session."""
        if self._has_begun and not self._is_committed:
            self._place.delete_directory()


def _open_axes(document: bytes) -> bytes:
    """Return metadata of an array that has room for many chunks along each axis."""
    metadata = json.loads(document)
    if metadata.get("node_type") == "array":
        chunks = metadata["chunk_grid"]["configuration"]["chunk_shape"]
        metadata["shape"] = [size * _MANY_CHUNKS for size in chunks]
    return json.dumps(metadata).encode()
