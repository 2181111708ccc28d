"""What may be replaced, what is refused, and with which words: judgments of names and metadata."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Mapping
from typing import Protocol, TypeGuard

from lazychunks.errors import (
    DestinationBusyError,
    DestinationError,
    DestinationExistsError,
    DestinationReadOnlyError,
)
from lazychunks.storage.chunks.metadata import (
    KEPT_BACK,
    METADATA,
    is_overwriting,
    read_overwritten_names,
)
from lazychunks.storage.resuming.record import is_segment, names_of_arrays, parse

REPLACED = "lazychunks.replaced"
"""Name of the file that marks an array, or a group, as one that a writer is about to replace. It
holds the names of the arrays in the group."""

METADATA_NAMES = (METADATA, ".zarray")
"""Names of the key that makes an array one, in Zarr 3 and in Zarr 2."""

_NAMES_OF_A_WRITER = re.compile(
    # What begins with our name is ours, of whatever version.
    r"zarr\.json(\.partial)?|lazychunks\.\w+"
    r"|(zarr|lazychunks)\.(json\.)?[0-9a-f]{32}\.partial"  # zarr's name of a file until it is whole
)

_NAMES_OF_AN_ARRAY = re.compile(
    rf"{_NAMES_OF_A_WRITER.pattern}|\.zarray|\.zattrs|\.zmetadata|c(\.\d+)*"
    r"|(?P<older>\d+(\.\d+)*)"  # chunk keys as in Zarr 2
)

# zarr's own choice: all chunks are below one member, `c`, so that numbers are foreign there.
_USUAL_KEYS = {"name": "default", "configuration": {"separator": "/"}}


def parse_metadata(value: bytes | None) -> Mapping[str, object] | None:
    """Parse ``zarr.json``: None where there is none, empty where it is damaged."""
    if value is None:
        return None
    try:
        document = json.loads(value)
    except (ValueError, RecursionError):  # the second for lists within lists within lists
        return {}
    return document if _is_object(document) else {}


def is_array(name: str, members: Collection[str], document: Mapping[str, object] | None) -> bool:
    """Tell whether a destination holds an array, rather than nothing.

    Parameters
    ----------
    name
        The destination, for messages.
    members
        First parts of the keys below it.
    document
        Its metadata of Zarr 3, if there is any.

    Raises
    ------
    DestinationExistsError
        If it holds anything else: that is never replaced, whatever ``overwrite`` says.
    """
    if not members:
        return False
    older = "array" if ".zarray" in members else "group" if ".zgroup" in members else None
    kind = older if document is None else document.get("node_type")
    if kind == "group":
        raise refuse(name, "a zarr group")
    if kind != "array":
        raise refuse(name, f"no array but other content ({_enumerate(sorted(members))})")
    # What is replaced is removed whole, so nothing may be in it that is not the array's.
    keys = (document or {}).get("chunk_key_encoding")
    foreign = find_foreign_names(members, are_keys_usual=keys == _USUAL_KEYS)
    if foreign:
        raise refuse(name, f"an array beside other content ({_enumerate(foreign)})")
    return True


class Readable(Protocol):
    """A place whose keys can be read."""

    def __str__(self) -> str: ...

    def read(self, name: str) -> bytes | None:
        """Read a key, if it is there."""
        ...


class Listable(Readable, Protocol):
    """A place whose keys can be listed as well."""

    def list_below(self, name: str = "") -> Collection[str]:
        """Return the first parts of the keys below a name."""
        ...

    def is_empty(self, name: str) -> bool:
        """Whether a name that is listed is an empty directory that a store has left."""
        ...


def is_group(place: Listable, members: Collection[str]) -> bool:
    """Tell whether a destination holds a group that this library wrote, rather than nothing.

    Raises
    ------
    DestinationExistsError
        If it holds anything else, beside the group or within it.
    """
    if not members:
        return False
    name, document = str(place), parse_metadata(place.read(METADATA)) or {}
    if document.get("node_type") == "array" or ".zarray" in members:
        raise refuse(name, "an array, where a group is to be")
    if document.get("node_type") != "group":
        raise refuse(name, f"no group but other content ({_enumerate(sorted(members))})")
    own = names_of_arrays({**document})
    if not own:
        raise refuse(name, "a zarr group that another program wrote")
    foreign = find_foreign_in_group(place, members, own)
    if foreign:
        raise refuse(name, f"a group beside other content ({_enumerate(foreign)})")
    return True


def find_foreign_in_group(
    place: Listable, members: Collection[str], own: Collection[str]
) -> list[str]:
    """Return the names that neither a group of these arrays nor a writer gives to a member."""
    beside = [
        name
        for name in members
        if not (name in own or _NAMES_OF_A_WRITER.fullmatch(name) or place.is_empty(name))
    ]
    below = [
        f"{array}/{name}"
        for array in sorted({*own}.intersection(members))
        for name in find_foreign_names(place.list_below(array), are_keys_usual=True)
    ]
    return sorted(beside) + below


def check_above(
    name: str, above: Iterable[Readable], marks: Iterable[str] = (KEPT_BACK, ".zarray")
) -> None:
    """Refuse a destination below an array, finished or not.

    Parameters
    ----------
    name
        The destination, for messages.
    above
        The places above it.
    marks
        Names of keys, besides ``zarr.json``, that tell an array.

    Raises
    ------
    DestinationExistsError
        If one of them is an array.
    """
    for place in above:
        document = parse_metadata(place.read(METADATA)) or {}
        if document.get("node_type") == "array" or any(map(place.read, marks)):
            raise refuse(name, f"inside the array at {place}")


def find_foreign_names(members: Iterable[str], *, are_keys_usual: bool = False) -> list[str]:
    """Return the names that neither an array nor a writer gives to a member."""
    matches = ((name, _NAMES_OF_AN_ARRAY.fullmatch(name)) for name in members)
    return sorted(
        name for name, match in matches if match is None or (are_keys_usual and match["older"])
    )


def has_metadata(members: Collection[str]) -> bool:
    """Whether readers take a directory with these members for an array or a group."""
    return any(name in members for name in METADATA_NAMES)


def is_draft(place: Listable) -> bool:
    """Whether a directory is an unfinished write, or what remains of one.

    A writer keeps ``zarr.json.partial`` in it from the beginning to the end, so an array without
    that is somebody else's, whatever the directory is called.
    """
    members = place.list_below()
    is_marked = KEPT_BACK in members or not has_metadata(members)
    return is_marked and is_of_a_writer(place, members)


def is_of_a_writer(place: Listable, members: Collection[str]) -> bool:
    """Whether nothing is in a place but what an array, or a group that it notes, consists of."""
    own = [
        name for key in (METADATA, KEPT_BACK) for name in names_of_arrays(parse(place.read(key)))
    ]
    noted = (place.read(REPLACED) or b"").decode(errors="replace")
    own += filter(is_segment, noted.split("\n"))
    return not (find_foreign_in_group(place, members, own) if own else find_foreign_names(members))


def is_unfinished(place: Listable, members: Collection[str], *, as_group: bool) -> bool:
    """Whether an unfinished write of the same kind is at its final keys, and nothing else.

    Raises
    ------
    DestinationExistsError
        If something else is beside it, or it is one of the other kind.
    """
    kept_back = place.read(KEPT_BACK)
    if kept_back is None or ".zarray" in members:
        return False
    own = read_overwritten_names(kept_back) or names_of_arrays(parse(kept_back))
    if bool(own) != as_group and not is_overwriting(kept_back):
        raise refuse(str(place), f"an unfinished write of {'a group' if own else 'an array'}")
    foreign = find_foreign_in_group(place, members, own) if own else find_foreign_names(members)
    if foreign:
        raise refuse(
            str(place), f"an unfinished write beside other content ({_enumerate(foreign)})"
        )
    return True


def refuse(name: str, found: str) -> DestinationExistsError:
    """Refuse a destination for what it is."""
    return DestinationExistsError(
        f"{name} is {found}; that is never replaced: choose another destination, or move away "
        "what is there",
        path=name,
    )


def refuse_neighbor(path: str) -> DestinationExistsError:
    """Refuse something at a path that writers use beside the destination."""
    return DestinationExistsError(
        f"{path} is in the way and was not left by a writer; move or remove it", path=path
    )


def refuse_link(path: str) -> DestinationExistsError:
    """Refuse a symbolic link where a writer would have made a file or a directory."""
    return DestinationExistsError(
        f"{path} is a symbolic link, which no writer has made; remove it", path=path
    )


def refuse_second_writer(name: str) -> DestinationBusyError:
    """Refuse a writer while another one is at work."""
    return DestinationBusyError(
        f"another writer is at work on {name}; wait for it, or choose another destination",
        path=name,
    )


def refuse_newcomer(name: str) -> DestinationExistsError:
    """Refuse to replace an array that was not there when the write began."""
    return DestinationExistsError(
        f"{name} was created by another writer in the meantime; pass overwrite=True to replace it",
        path=name,
    )


def refuse_readers(name: str) -> DestinationExistsError:
    """Refuse to remove an array that this process reads."""
    return DestinationExistsError(
        f"{name} is being read, perhaps for these very blocks, and its store cannot keep it until "
        "they are written; write to another destination",
        path=name,
    )


def refuse_append(name: str, why: str) -> DestinationError:
    """Refuse to append to an array for what its store is."""
    return DestinationError(
        f"rows cannot be appended to {name}: {why}; append to a local path or to an object store",
        path=name,
    )


def refuse_read_only(name: str) -> DestinationReadOnlyError:
    """Refuse a store that was opened for reading."""
    return DestinationReadOnlyError(f"{name} is read-only; open the store for writing", path=name)


def _is_object(document: object) -> TypeGuard[Mapping[str, object]]:
    return isinstance(document, dict)  # with keys that are text, as JSON has no others


def _enumerate(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
