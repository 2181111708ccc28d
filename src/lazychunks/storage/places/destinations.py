"""Where an array goes, and what is there already."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal
from urllib.parse import urlsplit
from urllib.request import url2pathname

from zarr.abc.store import Store
from zarr.storage import (
    FsspecStore,
    LocalStore,
    MemoryStore,
    ObjectStore,
    StorePath,
    ZipStore,
)

from lazychunks.errors import DestinationExistsError, DestinationReadOnlyError
from lazychunks.storage.chunks.metadata import KEPT_BACK, METADATA, Document, parsed
from lazychunks.storage.keys import Keys, listed
from lazychunks.storage.options import Destination

_PART_OF_AN_ARRAY = re.compile(
    r"zarr\.json(\.partial)?|lazychunks\.open(\.\d+)+|\.zarray|\.zattrs|\.zmetadata|c(\.\d+)*"
    r"|zarr\.(json\.)?[0-9a-f]{32}\.partial"  # under which zarr writes a file at first
    r"|(?P<older>\d+(\.\d+)*)"  # an array's whose keys are as in Zarr 2
)

METADATA_NAMES = (METADATA, ".zarray")
"""Names of the key that makes an array one, in Zarr 3 and in Zarr 2."""

_USUAL_KEYS = {"name": "default", "configuration": {"separator": "/"}}


@dataclass(frozen=True, slots=True)
class LocalPath:
    """A directory on the local file system."""

    is_seen_by_processes: ClassVar[bool] = True
    """Whether other processes see what is written here."""
    path: Path
    """Absolute: whoever changes the working directory meanwhile changes nothing here."""
    given: str = ""
    """What the user has called it, for messages."""

    def __str__(self) -> str:
        return self.given or str(self.path)

    def in_store(self, *, read_only: bool) -> Keys:
        """Return the same place as one in a store."""
        return Keys(LocalStore(self.path, read_only=read_only), "")

    def beside(self, what: Literal["lock", "old", "partial"]) -> Path:
        """Path of a hidden sibling that writers use."""
        return self.path.parent / f".{self.path.name}.{what}"

    @property
    def set_aside(self) -> Path | None:
        """Where a dead writer has moved the array that was here, unless it was being removed."""
        old = self.beside("old")
        is_array = any(os.path.isfile(old / name) for name in METADATA_NAMES)
        is_free = not self.path.exists() or (self.path.is_dir() and not os.listdir(self.path))
        return old if is_array and is_free else None

    def read(self, name: str) -> bytes | None:
        """Read a file, if it is there."""
        file = self.path / name
        return file.read_bytes() if file.is_file() else None

    def keys(self) -> list[str]:
        """Files below, by their paths relative to this one."""
        return [key for key, _ in files_below(self.path)]

    def holds_array(self) -> bool:
        """Tell whether an array is there.

        Raises
        ------
        DestinationExistsError
            If something else is there: whatever ``overwrite`` says, it is not ours to replace.
        DestinationReadOnlyError
            If the directory that would hold the array cannot be written.
        """
        path = self.path
        if path.name in ("", ".."):
            raise ValueError(f"{self} does not name a directory that could be made; say its name")
        if path.is_symlink():
            raise _refused(self, "a symbolic link")
        real = Path(os.path.realpath(path))
        _check_above(self, map(LocalPath, dict.fromkeys((*path.parents, *real.parents))))
        _check_directory(next(parent for parent in path.parents if parent.exists()), self)
        if not path.exists():
            return False
        if not path.is_dir():
            raise _refused(self, "a file")
        if os.path.ismount(path):
            raise _refused(self, "a mount point")
        if _is_inside(path):
            raise _refused(self, "the working directory of this process, or above it")
        names = sorted(member.name for member in path.iterdir())
        return _holds_array(self, names, _metadata(self))

    def check_removable(self) -> None:
        """Refuse an array that could be moved out of the way, but then not be removed.

        Raises
        ------
        DestinationReadOnlyError
            If its directories cannot be written.
        """
        for directory in filter(Path.is_dir, (self.path, self.path / "c")):
            _check_directory(directory, self, "replaced")


@dataclass(frozen=True, slots=True)
class InStore(Keys):
    """A place in a zarr store."""

    def __str__(self) -> str:
        return f"{self.store}/{self.path}" if self.path else str(self.store)

    def holds_array(self) -> bool:
        """Tell whether an array is there; raises as :meth:`LocalPath.holds_array` does."""
        if self.store.read_only:
            raise DestinationReadOnlyError(
                f"{self} is read-only; open the store for writing", path=str(self)
            )
        document = _metadata(self)
        parts = self.path.split("/") if self.path else ()
        _check_above(self, (InStore(self.store, "/".join(parts[:n])) for n in range(len(parts))))
        names = sorted(set(self._members()))
        is_unfinished = document is None and KEPT_BACK in names and ".zarray" not in names
        known = {"node_type": "array"} if is_unfinished else document
        return _holds_array(self, names, known) and not is_unfinished

    @property
    def is_seen_by_processes(self) -> bool:
        """Whether other processes see what is written here; a zip file has one writer only."""
        store = _innermost(self.store)
        in_memory = isinstance(store, FsspecStore) and "memory" in store.fs.protocol
        return not (in_memory or isinstance(store, MemoryStore | ZipStore))

    @property
    def name(self) -> str:
        """Name that tells the place from others, as far as known the same however it is reached."""
        parts = (*_root(self.store), self.path)
        return "/".join(filter(None, (part.strip("/") for part in parts)))

    def in_store(self, *, read_only: bool) -> Keys:  # noqa: ARG002  # it is as it is
        """Return the place itself."""
        return self

    def _members(self) -> list[str]:
        """First parts of the keys below this place."""
        if not self.store.supports_listing:
            few = ("zarr.json", ".zarray", ".zgroup")
            return [name for name in few if self.read(name) is not None]
        names = listed(self.store.list_dir, self.path)
        return [name.strip("/").rsplit("/", 1)[-1] for name in names]


def located(destination: Destination) -> LocalPath | InStore:
    """Resolve what a user passes as destination.

    Raises
    ------
    TypeError
        If it is neither a path, nor a URL, nor a zarr store, nor a dict.
    """
    match destination:
        case StorePath():
            return _in_store(destination.store, destination.path)
        case Store():
            return _in_store(destination, "")
        case dict():
            return InStore(MemoryStore(destination), "")
        case str() if "://" in destination:
            return _at_url(destination)
        case _:
            return _local(destination)


def files_below(directory: str | Path, prefix: str = "") -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Files and links below a directory, by their keys relative to it."""
    with os.scandir(directory) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield from files_below(entry.path, f"{prefix}{entry.name}/")
            else:
                yield prefix + entry.name, entry


def foreign_among(names: Iterable[str], *, is_usual: bool = False) -> list[str]:
    """Names that no array, or no array with the usual keys, and no writer gives to a member."""
    parts = ((name, _PART_OF_AN_ARRAY.fullmatch(name)) for name in names)
    return sorted(name for name, part in parts if part is None or (is_usual and part["older"]))


def _at_url(url: str) -> LocalPath | InStore:
    parts = urlsplit(url)
    if parts.scheme in ("file", "local"):
        if "?" in url or "#" in url:
            raise ValueError(f"{url} is more than a path; write ? as %3F and # as %23")
        host = "" if parts.netloc == "localhost" else parts.netloc
        return _local(url2pathname(host + parts.path))
    return InStore(FsspecStore.from_url(url), "")


def _local(path: str | os.PathLike[str]) -> LocalPath:
    try:
        name = os.fspath(path)
    except TypeError:
        raise TypeError(
            f"cannot store at a {type(path).__name__}; pass a path, a URL, a zarr store, or a dict"
        ) from None
    if not name:
        raise ValueError("the destination is an empty path; name a directory for the array")
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", name):
        raise ValueError(
            f"{name} looks like a URL that was made a path, and lost a slash; pass it as a str, or "
            "put ./ before it if that is what the directory is called"
        )
    return LocalPath(Path(name).absolute(), name)


def _in_store(store: Store, path: str) -> LocalPath | InStore:
    if type(store) is not LocalStore:
        return InStore(store, path)
    if not store.read_only:
        return LocalPath((store.root / path).absolute())
    return InStore(LocalStore(store.root.absolute(), read_only=True), path)


def _root(store: Store) -> tuple[str, str]:
    """Name what a store is in, and tell where in there it is: a prefix is part of the path."""
    inner: Any = store
    wrapped: Any = getattr(store, "_store", None)
    if wrapped is not None and type(store).__module__.startswith("zarr."):
        return _root(wrapped)
    if isinstance(store, LocalStore):
        return "file", str(store.root.absolute())
    if isinstance(store, FsspecStore):
        protocol = inner.fs.protocol
        return protocol if isinstance(protocol, str) else protocol[0], store.path
    if isinstance(store, ObjectStore):
        prefix = str(getattr(inner.store, "prefix", None) or "")
        name = re.sub(r', prefix="[^"]*"', "", str(inner.store))
        return "file" if type(inner.store).__name__ == "LocalStore" else name, prefix
    return str(store), ""


def _innermost(store: object) -> object:
    """Store within a zarr ``WrapperStore`` within others, where there are any."""
    inner: object = getattr(store, "_store", None)
    return store if inner is None else _innermost(inner)


def _metadata(place: LocalPath | InStore) -> Document | None:
    """Metadata of Zarr 3, which are empty if damaged; None where there are none."""
    value = place.read(METADATA)
    return None if value is None else parsed(value) or {}


def _check_above(place: LocalPath | InStore, above: Iterable[LocalPath | InStore]) -> None:
    for parent in above:
        document = _metadata(parent) or {}
        if document.get("node_type") == "array" or any(map(parent.read, (KEPT_BACK, ".zarray"))):
            raise _refused(place, f"inside the array at {parent}")


def _holds_array(place: LocalPath | InStore, names: list[str], document: Document | None) -> bool:
    """Tell of a place with these members whether an array is there, and refuse anything else."""
    if not names:
        return False
    if document is None:
        kind = "array" if ".zarray" in names else "group" if ".zgroup" in names else None
    else:
        kind = document.get("node_type")
    if kind == "group":
        raise _refused(place, "a zarr group")
    if kind != "array":
        raise _refused(place, f"no array but other content ({_listed(names)})")
    keys = (document or {}).get("chunk_key_encoding")
    foreign = foreign_among(names, is_usual=keys == _USUAL_KEYS)
    if foreign:
        raise _refused(place, f"an array beside other content ({_listed(foreign)})")
    return True


def _is_inside(directory: Path) -> bool:
    """Whether a directory is this process's working directory, or above it."""
    try:
        return Path.cwd().is_relative_to(directory.resolve())
    except FileNotFoundError:  # that is gone
        return False


def _check_directory(directory: Path, place: LocalPath, what: str = "created") -> None:
    if not directory.is_dir():
        raise _refused(place, f"below {directory}, which is a file")
    if not os.access(directory, os.W_OK | os.X_OK):
        raise DestinationReadOnlyError(
            f"{place} cannot be {what}, since {directory} is not writable",
            path=str(place),
        )


def _refused(place: LocalPath | InStore, found: str) -> DestinationExistsError:
    return DestinationExistsError(
        f"{place} is {found}; that is never replaced: choose another destination, or move away "
        "what is there",
        path=str(place),
    )


def _listed(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
