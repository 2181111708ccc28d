"""What every destination can do: hide a write from readers, and show it in one act."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from types import MappingProxyType
from typing import Protocol

from lazychunks.storage.keys import Keys
from lazychunks.storage.places.consolidated import Copies

NO_DOCUMENTS: Mapping[str, bytes] = MappingProxyType({})
"""Metadata of no array."""


class ArrayDraft(Protocol):
    """What an unfinished write is for each of its arrays."""

    @property
    def where(self) -> Keys:
        """Where the chunks are stored."""
        ...

    @property
    def can_be_kept(self) -> bool:
        """Whether it can be kept aside for another start."""
        ...

    @property
    def can_spill(self) -> bool:
        """Whether files beside its chunks cost little, as they do on a local file system."""
        ...

    def keys(self) -> Iterable[str]:
        """List the keys that are stored whole."""
        ...


class Draft(ArrayDraft, Protocol):
    """An unfinished write, which readers do not see.

    Its three verbs are :meth:`begin`, :meth:`commit` and :meth:`discard`; all are called by the
    holder of the place's lock.
    """

    @property
    def is_committed(self) -> bool:
        """Whether readers see it, whatever fails after that."""
        ...

    @property
    def is_in_place(self) -> bool:
        """Whether its chunks have their final keys from the beginning."""
        ...

    @property
    def supports_deletes(self) -> bool:
        """Whether it can be removed again."""
        ...

    def exists(self) -> bool:
        """Whether an earlier start has left something."""
        ...

    def begin(self, documents: Mapping[str, bytes] = NO_DOCUMENTS) -> None:
        """Make room: after this, the draft is empty.

        Parameters
        ----------
        documents
            What is known of the ``zarr.json`` of each array of the write, by the path of its node
            below the destination; the destination itself has an empty path, and its document is
            kept back. Only a session needs them: it refuses chunks of arrays that it does not know.

        Raises
        ------
        DestinationExistsError
            If something came to be there since the write began, or cannot be replaced.
        """
        ...

    def keys(self, *, below: str = "", tidy: bool = False) -> Iterable[str]:
        """List the keys below a name that are stored whole, relative to it.

        With ``tidy``, remove what a dead writer wrote.
        """
        ...

    def commit(self, documents: Mapping[str, bytes], *, durable: bool) -> None:
        """Show it in one act.

        Parameters
        ----------
        documents
            Content of ``zarr.json``, by the path of its node below the destination; that of the
            destination itself, whose path is empty, makes the write visible and is written last.
        durable
            Whether all of it must be on the device before.

        Raises
        ------
        DestinationExistsError
            If something came to be there that this write must not replace.
        """
        ...

    def discard(self) -> None:
        """Remove it, unless it has been committed."""
        ...


class Place(Protocol):
    """A destination."""

    def __str__(self) -> str:
        """Return what the user calls it."""
        ...

    @property
    def is_seen_by_processes(self) -> bool:
        """Whether other processes see what is written there."""
        ...

    @property
    def backup(self) -> str | None:
        """Where the array is that a dead writer has moved aside, and the next one puts back."""
        ...

    def read(self, name: str) -> bytes | None:
        """Read a key that readers see."""
        ...

    def keys(self) -> list[str] | None:
        """List the keys that readers see; None where the store cannot list."""
        ...

    def in_store(self, *, read_only: bool) -> Keys:
        """Return the same place as one in a zarr store."""
        ...

    def for_group(self) -> Place:
        """Return the same place, as one for a group of arrays."""
        ...

    def is_taken(self) -> bool:
        """Tell whether an array is there, or a group; anything else there is refused."""
        ...

    def check_removable(self) -> None:
        """Refuse an array that could not be removed once another one has taken its place."""
        ...

    def check_can_append(self) -> None:
        """Refuse a place where a kill could take rows that are stored already."""
        ...

    @property
    def copies(self) -> Copies:
        """The copies of its metadata in groups above."""
        ...

    def replace(self, name: str, value: bytes, *, durable: bool) -> None:
        """Replace a key in one step."""
        ...

    def sync(self, names: Iterable[str]) -> None:
        """Have keys written to the device, where that can be asked for."""
        ...

    def draft(self, *, overwrite: bool) -> Draft:
        """Return the unfinished write that this place has, or may get."""
        ...

    def lock(self) -> AbstractContextManager[None]:
        """Be the only writer. A place is looked at before anything is changed there."""
        ...
