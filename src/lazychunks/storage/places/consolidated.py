"""Copies of an array's metadata in the groups above it, which readers trust.

A group with *consolidated metadata*, as xarray writes it, holds a copy of the metadata of each of
its members. A reader that has the copy does not look at the member, so the copy must never describe
an array that is not there any more. Where an array can be exchanged in one step, groups have no
copy at all for that moment; elsewhere the copy does not name the array from the moment on at which
the old one goes. Then the new one is added.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeAlias, cast

from lazychunks.errors import DestinationExistsError, DestinationReadOnlyError
from lazychunks.storage.chunks.metadata import METADATA
from lazychunks.storage.places.file_system import replace_file
from lazychunks.storage.places.lock import lock_directory
from lazychunks.storage.places.refusals import parse_metadata

Copy: TypeAlias = dict[str, dict[str, Any]]
"""Metadata of the members of a group, by their paths below it."""


class Group(Protocol):
    """What may be a group above an array."""

    def __str__(self) -> str: ...

    @property
    def can_be_changed(self) -> bool:
        """Whether its metadata can be replaced."""
        ...

    def read(self, name: str) -> bytes | None:
        """Read a key, if it is there."""
        ...

    def replace(self, name: str, value: bytes, *, durable: bool) -> None:
        """Write a key in one step."""
        ...

    def take_turn(self) -> AbstractContextManager[object]:
        """Keep other writers from changing it."""
        ...


@dataclass(frozen=True, slots=True)
class Copies:
    """The copies of one array's metadata."""

    groups: tuple[tuple[Group, tuple[str, ...]], ...]
    """What is above the array, the outermost first; and the array's paths below it."""

    def check(self, name: str) -> None:
        """Refuse an array below a group that cannot show it.

        Raises
        ------
        DestinationExistsError
            If a group above is one of Zarr 2.
        DestinationReadOnlyError
            If a group above has a copy that cannot be changed.
        """
        for group, _ in self.groups:
            if group.read(".zgroup") is not None:
                raise DestinationExistsError(
                    f"{name} is below {group}, a group of Zarr 2, whose readers would not find an "
                    "array of Zarr 3; choose another destination",
                    path=name,
                )
            if not group.can_be_changed and _copy_in(_parse(group)) is not None:
                raise DestinationReadOnlyError(
                    f"{name} is below the group {group}, whose consolidated metadata would have to "
                    "list it and cannot be changed; choose another destination, or remove that "
                    "metadata",
                    path=name,
                )

    def withdraw(self) -> None:
        """Remove the array, and what is below it, from all copies."""
        for group, paths in self.groups:
            with group.take_turn():
                _change(group, partial(_remove, paths=paths))

    def announce(self, metadata: bytes, *, durable: bool = False) -> None:
        """Add the array to all copies."""
        for group, paths in self.groups:
            with group.take_turn():
                put = partial(_put, paths=paths, metadata=metadata)
                _change(group, put, durable=durable)

    @contextmanager
    def set_aside(self, *, durable: bool) -> Generator[PutBack]:
        """Have no copy that names the array, and no other writer at one, in the ``with`` block.

        Its end puts the copies back. They name the array that has been given to :class:`PutBack`;
        if none has, they are as they were.
        """
        with ExitStack() as stack:
            for group, _ in self.groups:
                stack.enter_context(group.take_turn())
            put_back = PutBack()
            for group, paths in self.groups:
                stack.callback(put_back.restore, group, paths, group.read(METADATA), durable)
                _change(group, partial(_drop, paths=paths), durable=durable)
            yield put_back


@dataclass(frozen=True, slots=True)
class GroupDirectory:
    """A directory that may be a group."""

    path: Path
    """With all symbolic links resolved."""

    def __str__(self) -> str:
        return str(self.path)

    @property
    def can_be_changed(self) -> bool:
        """Whether a file in it can be replaced."""
        return os.access(self.path, os.W_OK | os.X_OK)

    def read(self, name: str) -> bytes | None:
        """Read a file, if it is there."""
        file = self.path / name
        return file.read_bytes() if file.is_file() else None

    def replace(self, name: str, value: bytes, *, durable: bool) -> None:
        """Write a file in one step; it keeps its mode."""
        replace_file(self.path / name, value, durable=durable)

    @contextmanager
    def take_turn(self) -> Generator[None]:
        """Lock the directory, if there is anything in it to change."""
        is_node = (self.path / METADATA).is_file()
        with lock_directory(self.path) if is_node else nullcontext():
            yield

    @classmethod
    def all_above(cls, path: Path) -> Copies:
        """Return the copies in the directories above a path, by all names of these."""
        found: dict[Path, dict[str, None]] = {}
        for node in (path, path.parent.resolve() / path.name):
            for parent in node.parents:
                names = found.setdefault(parent.resolve(), {})
                names[node.relative_to(parent).as_posix()] = None
        # All writers go through them in one order, so that no two of them wait for each other.
        return Copies(tuple((cls(parent), tuple(found[parent])) for parent in sorted(found)))


class PutBack:
    """Puts copies back that have been set aside."""

    metadata: bytes | None = None
    """Of the array that is there now; None if it is the same as before."""

    def restore(
        self, group: Group, paths: tuple[str, ...], before: bytes | None, durable: bool
    ) -> None:
        """Put back the copy of one group, whose metadata were as they are in ``before``."""
        document = _parse_value(before)
        if _copy_in(document) is None:
            return
        if self.metadata is not None:
            _put(document, paths, self.metadata)
            before = _serialize(document)
        if before is not None and before != group.read(METADATA):
            group.replace(METADATA, before, durable=durable)


def _change(
    group: Group, change: Callable[[dict[str, Any]], bool], *, durable: bool = False
) -> None:
    """Change the metadata of a group that has a copy, if the change says that it changes any."""
    document = _parse(group)
    if _copy_in(document) is not None and change(document):
        group.replace(METADATA, _serialize(document), durable=durable)


def _drop(document: dict[str, Any], paths: tuple[str, ...]) -> bool:
    """Drop a copy that names an array; whether it did."""
    if not _remove(document, paths):
        return False
    del document["consolidated_metadata"]
    return True


def _remove(document: dict[str, Any], paths: tuple[str, ...]) -> bool:
    """Remove nodes and what is below them from the copy of a group; whether any was there."""
    copy = _copy_in(document) or {}
    found = False
    for name in tuple(copy):
        if any(f"{name}/".startswith(f"{path}/") for path in paths):
            del copy[name]
            found = True
        else:  # a group that the copy names may itself have been copied with a copy
            within = tuple(
                path.removeprefix(f"{name}/") for path in paths if path.startswith(f"{name}/")
            )
            found |= bool(within) and _remove(copy[name], within)
    return found


def _put(document: dict[str, Any], paths: tuple[str, ...], metadata: bytes) -> bool:
    """Put a node, and what a copy of its own says to be below it, into the copy of a group."""
    copy = _copy_in(document)
    entry = _parse_value(metadata)
    if copy is None:
        return False
    before = dict(copy)
    _remove(document, paths)
    for path in paths:
        parents = path.split("/")[:-1]
        above = ["/".join(parents[: number + 1]) for number in range(len(parents))]
        # A copy that names something below a group that it does not name is one nobody can read.
        if all(copy.get(name, {}).get("node_type") == "group" for name in above):
            below = _copy_in(entry)
            copy[path] = entry
            if below is not None:  # zarr lists what is below beside the group, and not within
                copy[path] = {**entry, "consolidated_metadata": {**entry["consolidated_metadata"]}}
                copy[path]["consolidated_metadata"]["metadata"] = {}
                copy.update({f"{path}/{name}": found for name, found in below.items()})
    # An array that was named keeps its turn, which is the order of the variables in xarray.
    named = {name: copy[name] for name in (*before, *copy) if name in copy}
    copy.clear()
    copy.update(named)
    return copy != before


def _copy_in(document: dict[str, Any]) -> Copy | None:
    """Return the copy in the metadata of a group; changing it changes these."""
    consolidated = document.get("consolidated_metadata")
    if document.get("node_type") != "group" or not isinstance(consolidated, dict):
        return None
    metadata = cast("dict[str, Any]", consolidated).get("metadata")
    if not isinstance(metadata, dict):
        return None
    members = cast("dict[str, Any]", metadata)
    return members if all(isinstance(member, dict) for member in members.values()) else None


def _parse(group: Group) -> dict[str, Any]:
    return _parse_value(group.read(METADATA))


def _parse_value(value: bytes | None) -> dict[str, Any]:
    return dict(parse_metadata(value) or {})


def _serialize(document: dict[str, Any]) -> bytes:
    return json.dumps(document, indent=2).encode()
