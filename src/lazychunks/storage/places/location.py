"""Where a path in a store is, the same for all its names as far as that is cheap to know.

Nothing is asked of a server, and no credentials are compared: a place is known by what its store
says of itself.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Protocol

from zarr.abc.store import Store
from zarr.storage import FsspecStore, LocalStore, MemoryStore, ObjectStore, WrapperStore, ZipStore


@dataclass(frozen=True, slots=True)
class Location:
    """Where a place is, the same for all its names as far as that is cheap to know."""

    root: object
    """What the path is in: the name of a protocol, or a store that is known by itself."""
    path: str

    def overlaps(self, other: Location) -> bool:
        """Whether one of the two is within the other, or both are the same."""
        # Of stores that are not known here, some compare as equal where they are the same, and
        # some only look the same as text. To refuse a writer is better than to mix two arrays.
        if self.root != other.root and str(self.root) != str(other.root):
            return False
        one, two = (f"{path}/" if path else "" for path in (self.path, other.path))
        return one.startswith(two) or two.startswith(one)

    @property
    def is_private(self) -> bool:
        """Whether no other process sees what this one writes there."""
        # A zip file is one too: it has one writer, in one process.
        return str(self.root).startswith(("memory", "zip"))


def locate(store: Store, path: str) -> Location:
    """Tell where a path in a store is.

    A bucket is known by its name and not by its endpoint, so two buckets of one name count as one.
    """
    store = unwrap(store)
    match store:
        case LocalStore():
            return _locate_file(store.root, path)
        case MemoryStore():
            # The text names the dict; == would compare what two stores hold.
            return Location(str(store), path)
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


def writes_in_place(store: Store) -> bool:
    """Whether a kill may leave a part of a value, as in a file system that is no object store."""
    store = unwrap(store)
    return isinstance(store, FsspecStore) and str(locate(store, "").root) not in _OBJECT_STORES


_OBJECT_STORES = frozenset(
    {"abfs", "abfss", "adl", "az", "gcs", "gs", "memory", "oci", "oss", "r2", "s3", "s3a", "tos"}
)
"""What fsspec calls the protocols of stores that set a value whole, or not at all."""


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
            # Only a DirFileSystem has a path of its own, below which it shows the inner one.
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
