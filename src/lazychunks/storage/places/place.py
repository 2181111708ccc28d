"""Which place a destination means: rules of paths and URLs, and the kinds of stores."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

from zarr.abc.store import Store
from zarr.storage import FsspecStore, LocalStore, MemoryStore, StorePath

from lazychunks.storage.options import Destination
from lazychunks.storage.places.directory import LocalDirectory
from lazychunks.storage.places.metadata_last import StoreKeys
from lazychunks.storage.places.protocol import Place
from lazychunks.storage.places.session import IcechunkSession, is_icechunk


def resolve_destination(destination: Destination) -> Place:
    """Return the place that a user means.

    Raises
    ------
    TypeError
        If it is neither a path, nor a URL, nor a zarr store, nor a dict, nor a mapper of fsspec.
    ValueError
        If it is a path or a URL that cannot name a directory for an array.
    """
    match destination:
        case StorePath():
            return _resolve_store(destination.store, destination.path)
        case Store():
            return _resolve_store(destination, "")
        case dict():
            return StoreKeys(MemoryStore(destination), "")
        case str() if "://" in destination:
            return _resolve_url(destination)
        case _ if _is_mapper(destination):
            return _resolve_mapper(destination)
        case _:
            return _resolve_path(destination)


def _resolve_store(store: Store, path: str) -> Place:
    """Return a place in a store, by the store's kind: each has one line here."""
    # Paths are made absolute, since the working directory may change during a write. A subclass of
    # LocalStore may keep its values anywhere.
    if type(store) is LocalStore and not store.read_only:
        return LocalDirectory((store.root / path).absolute())
    if type(store) is LocalStore:
        return StoreKeys(LocalStore(store.root.absolute(), read_only=True), path)
    if is_icechunk(store):
        return IcechunkSession(store, path)
    return StoreKeys(store, path)


def _resolve_url(url: str) -> Place:
    parts = urlsplit(url)
    # Not by fsspec, which takes file://localhost/a for a relative path and does not unquote %20.
    if parts.scheme in ("file", "local"):
        if "?" in url or "#" in url:
            raise ValueError(f"{url} is more than a path; write ? as %3F and # as %23")
        host = "" if parts.netloc == "localhost" else parts.netloc
        return _resolve_path(url2pathname(host + parts.path))
    return StoreKeys(FsspecStore.from_url(url), "")


def _is_mapper(value: object) -> bool:
    """Whether a value is a directory of fsspec as a mapping; who has one has imported fsspec."""
    mapping = sys.modules.get("fsspec.mapping")
    return mapping is not None and isinstance(value, mapping.FSMap)


def _resolve_mapper(mapper: Any) -> Place:  # fsspec has no types
    # A directory keeps more promises as a path than as a store of files.
    protocol: str | tuple[str, ...] = mapper.fs.protocol
    if "file" in ((protocol,) if isinstance(protocol, str) else protocol):
        return LocalDirectory(Path(mapper.root).absolute())
    return StoreKeys(FsspecStore.from_mapper(mapper), "")


def _resolve_path(path: str | os.PathLike[str]) -> LocalDirectory:
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
    # A shell does this; a program would make a directory called ~ in the working directory.
    expanded = os.path.expanduser(name)
    if name.startswith("~") and expanded == name:
        raise ValueError(
            f"{name} begins with ~ as a home directory does, and there is no such user; put ./ "
            "before it if that is what the directory is called"
        )
    return LocalDirectory(Path(expanded).absolute(), expanded)
