"""Which places this process writes, and which arrays it reads there.

Most stores have no lock, and an array that is replaced in one of them is removed before its blocks
are written. So within a process, writers and readers are told of each other here.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from typing import Protocol
from weakref import WeakSet

from zarr.abc.store import Store
from zarr.storage import FsspecStore, LocalStore, MemoryStore, ObjectStore, WrapperStore, ZipStore

from lazychunks.errors import DestinationBusyError
from lazychunks.storage.places.refusals import refuse_readers, refuse_second_writer


@dataclass(frozen=True, slots=True)
class Location:
    """Where a place is, the same for all its names as far as that is cheap to know."""

    root: object
    """What the path is in: the name of a protocol, or a store that is known by itself."""
    path: str

    def overlaps(self, other: Location) -> bool:
        """Whether one of the two is within the other, or both are the same."""
        # Some stores compare as equal if they are the same, others only look the same as text.
        if self.root != other.root and str(self.root) != str(other.root):
            return False
        one, two = (f"{path}/" if path else "" for path in (self.path, other.path))
        return one.startswith(two) or two.startswith(one)

    @property
    def is_private(self) -> bool:
        """Whether no other process sees what this one writes there."""
        return str(self.root).startswith(("memory", "zip"))  # a zip file has one writer


def locate(store: Store, path: str) -> Location:
    """Tell where a path in a store is.

    Of a bucket, its name counts and not its endpoint: two buckets of one name count as one, so that
    a writer may be refused in vain rather than two arrays be mixed.
    """
    store = unwrap(store)
    match store:
        case LocalStore():
            return _locate_file(store.root, path)
        case MemoryStore():
            return Location(str(store), path)  # names the dict, while == compares what it holds
        case FsspecStore():
            return _locate_in_filesystem(store.fs, _join(store.path, path))
        case ObjectStore():
            return _locate_in_obstore(store.store, path)
        case ZipStore():
            return Location(f"zip {os.path.realpath(store.path)}", path)
        case _:
            return Location(store, path)


def unwrap(store: Store) -> Store:
    """Return the store within a zarr ``WrapperStore``, or the store itself."""
    inner: Store = vars(store)["_store"] if isinstance(store, WrapperStore) else store
    return inner if inner is store else unwrap(inner)


class _FileSystem(Protocol):
    """The part of an fsspec file system that tells where it is."""

    protocol: str | tuple[str, ...]


_INNER_FILE_SYSTEM = {
    "fsspec.implementations.asyn_wrapper": "sync_fs",
    "fsspec.implementations.cached": "fs",
    "fsspec.implementations.dirfs": "fs",
}
"""File systems of fsspec that show another one: their module, and the attribute that has it."""


def _locate_in_filesystem(fs: _FileSystem, path: str) -> Location:
    for kind in type(fs).__mro__:
        attribute = _INNER_FILE_SYSTEM.get(kind.__module__)
        inner: _FileSystem | None = getattr(fs, attribute, None) if attribute else None
        if inner is not None:
            below = str(getattr(fs, "path", "")) if kind.__name__ == "DirFileSystem" else ""
            return _locate_in_filesystem(inner, _join(below, path))
    protocol = fs.protocol if isinstance(fs.protocol, str) else fs.protocol[0]
    return _locate_file("/", path) if protocol in ("file", "local") else Location(protocol, path)


_BUCKETS = {
    "S3Store": ("s3", "bucket"),
    "GCSStore": ("gs", "bucket"),
    "AzureStore": ("abfs", "container_name"),
}
"""Stores of obstore: what fsspec calls their protocol, and the setting with the bucket's name."""


def _locate_in_obstore(store: object, path: str) -> Location:
    kind = type(store).__name__
    prefix = str(getattr(store, "prefix", None) or "")
    if kind == "LocalStore":
        return _locate_file(prefix or "/", path)
    if kind == "MemoryStore":
        return Location(f"memory of obstore, {id(store)}", path)
    protocol, setting = _BUCKETS.get(kind, ("", ""))
    bucket = getattr(store, "config", {}).get(setting)
    if bucket is None:
        return Location(store, _join(prefix, path))
    return Location(protocol, _join(bucket, prefix, path))


def _locate_file(*parts: str | os.PathLike[str]) -> Location:
    return Location("file", _join(os.path.realpath(os.path.join(*parts))))


def _join(*parts: str) -> str:
    return "/".join(filter(None, (part.strip("/") for part in parts)))


@dataclass(eq=False, slots=True, weakref_slot=True)
class _Writer:
    location: Location
    is_staged: bool
    """Whether an array that it replaces stays until the new one is complete."""
    is_removing: bool = False
    """Whether it has begun to remove an array."""
    has_readers: bool = False
    """Whether this process has read from there since it is at work."""


@dataclass(slots=True)
class Register:
    """The writers at work in this process."""

    # Weak: a writer whose end was cut short by an interrupt is not at work for ever.
    _writers: WeakSet[_Writer] = field(default_factory=WeakSet[_Writer])
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @contextlib.contextmanager
    def enter(self, location: Location, name: str, *, is_staged: bool = False) -> Generator[None]:
        """Be a writer at a place.

        Parameters
        ----------
        location, name
            Where it is, and what the user calls it.
        is_staged
            Whether an array that is replaced stays until the new one is complete.

        Raises
        ------
        DestinationBusyError
            If another one is at work there, within it, or around it.
        """
        writer = _Writer(location, is_staged)
        try:
            with self._lock:
                if any(location.overlaps(other.location) for other in self._writers):
                    raise refuse_second_writer(name)
                self._writers.add(writer)
            yield
        finally:
            self._writers.discard(writer)

    def begin_removal(self, location: Location, name: str) -> None:
        """Refuse to remove an array that is read, and all reading from now on.

        Raises
        ------
        DestinationExistsError
            If this process has read from there since the writer entered.
        """
        with self._lock:
            for writer in self._find(location):
                if writer.has_readers:
                    raise refuse_readers(name)
                writer.is_removing = True

    def note_read(self, store: Store, path: str) -> None:
        """Keep in mind that an array is read, in case somebody is about to replace it.

        Raises
        ------
        DestinationBusyError
            If a writer has begun to: chunks that are gone would read as fill values.
        """
        if all(writer.is_staged for writer in self._writers):  # hot: called for each block
            return
        location = locate(store, path)
        with self._lock:
            for writer in self._find(location):
                if writer.is_removing:
                    name = f"{store}/{path}" if path else str(store)
                    raise DestinationBusyError(
                        f"{name} is being replaced, so it cannot be read; read it before, or write "
                        "to another destination",
                        path=name,
                    )
                writer.has_readers = True

    def _find(self, location: Location) -> Iterator[_Writer]:
        return (
            writer
            for writer in self._writers
            if not writer.is_staged and writer.location.overlaps(location)
        )


REGISTER = Register()
"""That of this process."""
