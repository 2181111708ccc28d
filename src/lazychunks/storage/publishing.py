"""A destination is complete or absent: write aside, then publish at once."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Protocol

from zarr.abc.store import ByteRequest, Store
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.core.sync import sync
from zarr.storage import LocalStore, WrapperStore

from lazychunks.storage.arrays import metadata_key, open_array
from lazychunks.storage.destinations import InStore, LocalPath

if TYPE_CHECKING:
    from lazychunks.storage.arrays import StoredArray

__all__ = ["DirectorySwap", "MetadataLast", "Publication", "publication_at"]


class Publication(Protocol):
    """A place where an array is written unseen, until :meth:`commit` shows it."""

    @property
    def store(self) -> Store:
        """Where to write."""
        ...

    @property
    def path(self) -> str:
        """Path of the array in the store."""
        ...

    def begin(self) -> None:
        """Make room; called once there is something to write."""
        ...

    def commit(self) -> StoredArray:
        """Show the array at its destination, and open it there."""
        ...

    def discard(self) -> None:
        """Remove what has been written."""
        ...


class DirectorySwap:
    """Writes in a hidden sibling directory and renames it into place."""

    path = ""

    def __init__(self, place: LocalPath) -> None:
        self._target = place.path.absolute()
        self._staging = self._target.with_name(f".{self._target.name}.partial")
        self.store: Store = LocalStore(self._staging)

    def begin(self) -> None:
        """Make an empty staging directory."""
        self._target.parent.mkdir(parents=True, exist_ok=True)
        if self._staging.exists():
            shutil.rmtree(self._staging)
        self._staging.mkdir()

    def commit(self) -> StoredArray:
        """Rename the staging directory into place."""
        old = self._target.with_name(f".{self._target.name}.old")
        if self._target.exists():
            self._target.rename(old)
        self._staging.rename(self._target)
        if old.exists():
            shutil.rmtree(old)
        return open_array(LocalStore(self._target), "")

    def discard(self) -> None:
        """Remove the staging directory."""
        shutil.rmtree(self._staging, ignore_errors=True)


class MetadataLast:
    """Writes chunks to their final keys and holds the metadata back until the end."""

    def __init__(self, place: InStore) -> None:
        self._place = place
        self._held = HeldMetadata(place.store, metadata_key(place.path))
        self.store: Store = self._held
        self.path = place.path

    def begin(self) -> None:
        """Remove what is there, metadata first."""
        store, path = self._place.store, self._place.path
        if not store.supports_deletes:
            return
        for name in ("zarr.json", ".zarray"):
            sync(store.delete(self._place.key(name)))
        if path:
            sync(store.delete_dir(path))
        else:
            sync(store.clear())

    def commit(self) -> StoredArray:
        """Write the metadata."""
        sync(self._held.release())
        return open_array(self._place.store, self.path)

    def discard(self) -> None:
        """Remove the chunks."""
        self.begin()


class HeldMetadata(WrapperStore[Store]):
    """A store that keeps one key to itself until it is released."""

    def __init__(self, store: Store, key: str = "") -> None:
        super().__init__(store)
        self._key = key
        self._value: Buffer | None = None

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """Read a key; the held one is seen here only."""
        if key == self._key:
            return self._value
        return await self._store.get(key, prototype, byte_range)

    async def set(self, key: str, value: Buffer) -> None:
        """Write a key; the held one is only remembered."""
        if key == self._key:
            self._value = value
        else:
            await self._store.set(key, value)

    async def exists(self, key: str) -> bool:
        """Whether a key is there; the held one is seen here only."""
        if key == self._key:
            return self._value is not None
        return await self._store.exists(key)

    async def release(self) -> None:
        """Write the held key."""
        assert self._value is not None
        await self._store.set(self._key, self._value)


def publication_at(place: LocalPath | InStore) -> Publication:
    """Choose the way of publishing that a place allows."""
    return DirectorySwap(place) if isinstance(place, LocalPath) else MetadataLast(place)
