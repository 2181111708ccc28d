"""The record that a run leaves in an array's metadata: what a later start has to know.

It is one string in the attribute ``lazychunks``. As long as the write is unfinished, the metadata
is stored under another name (``zarr.json.partial``) and carries a checksum, since a later start
believes it: one flipped bit in the size of a block would shift all blocks after it.
"""

from __future__ import annotations

import hashlib
import json
import sys
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any, TypeAlias, TypeGuard

from lazychunks.layout.shapes import Shape

MOST_APPENDED = 1000
"""Number of the last appends that an array knows by name."""

ATTRIBUTE = "lazychunks"
"""The attribute that holds the record."""

MOST_RUNS = 10_000
"""Number of runs of equal sizes that the metadata of a finished array may list."""

MOST_NAMES = 100_000
"""Number of arrays that a group may have."""

MOST_BLOCKS = 10**7
"""Number of blocks whose sizes a record may list."""

Document: TypeAlias = dict[str, Any]
"""An array's metadata as Zarr 3 stores it: a JSON object. Never changed in place."""

Sizes: TypeAlias = tuple[int, ...]


class DamagedRecordError(ValueError):
    """A record cannot be read, or does not fit its checksum."""


@dataclass(frozen=True, slots=True)
class Appended:
    """What a run with a name has stored of an array."""

    run_id: str
    counts: tuple[int | None, ...] = ()
    """Number of its blocks along each block axis."""
    rows: int | None = None
    """Number of its rows; None if an older version has not noted it."""


@dataclass(frozen=True, slots=True)
class Record:
    """What is known of a run."""

    version: str
    """Of the library that wrote the array; none (``""``) if another program did, and this library
    has appended to it."""
    run_id: str | None = None
    """Name of the run; none if it cannot be resumed."""
    attempt: str | None = None
    """Tells this unfinished write from any other at the same place. None once it is finished."""
    first: Shape = ()
    """Shape of the first block."""
    counts: tuple[int | None, ...] = ()
    """Number of blocks along each block axis: a hint until the write is finished."""
    lengths: tuple[int | None, ...] = ()
    """Length of each block axis, where its end has been reached."""
    sizes: tuple[Sizes | None, ...] = ()
    """For each block axis on which a block has another size than the first one (and is not the
    last): sizes of the blocks, as far as they are known."""
    omits_sizes: bool = False
    """Whether sizes are left out, since there are too many: nobody knows where the blocks lie."""
    listed: str | None = None
    """Hash of the option ``sizes=``, if it was given."""
    is_written: bool = False
    """Whether all is written, and only publishing is left."""
    members: tuple[str, ...] = ()
    """Of a group: names of the arrays that blocks are stored in."""
    coordinates: tuple[str, ...] = ()
    """Of a group: names of the arrays that are stored whole."""
    start: int = 0
    """Of an append that is unfinished: length of axis 0 before it."""
    appended: tuple[Appended, ...] = ()
    """The last appends of runs with a name, in their order."""

    def to_json(self) -> str:
        """Return the record as it is stored."""
        facts: Document = {"version": self.version}
        optional = {
            "run_id": self.run_id,
            "attempt": self.attempt,
            "first": list(self.first) or None,
            "counts": list(self.counts) or None,
            "lengths": list(self.lengths) if _has_known(self.lengths) else None,
            "sizes": [_packed(sizes) for sizes in self.sizes] if _has_known(self.sizes) else None,
            "omits_sizes": self.omits_sizes or None,
            "listed": self.listed,
            "is_written": self.is_written or None,
            "members": list(self.members) or None,
            "coordinates": list(self.coordinates) or None,
            "start": self.start or None,
            "appended": [[each.run_id, each.rows, *each.counts] for each in self.appended] or None,
        }
        return json.dumps(facts | {key: fact for key, fact in optional.items() if fact is not None})

    @classmethod
    def from_json(cls, text: object) -> Record:
        """Parse a record, which need not be trusted.

        Raises
        ------
        DamagedRecordError
            If it is none.
        """
        try:
            facts: Any = json.loads(text) if isinstance(text, str) else text
            axes = len(facts.get("counts") or ())
            unknown = [None] * axes
            first = tuple(_length(size) for size in facts.get("first") or ())
            sizes = facts.get("sizes") or unknown
            if not facts.get("members"):
                _check_axes(axes, first, sizes)
            return cls(
                version=_text(facts["version"]) or "",
                run_id=_text(facts.get("run_id")),
                attempt=_text(facts.get("attempt")),
                first=first,
                counts=_lengths(facts.get("counts") or (), axes),
                lengths=_lengths(facts.get("lengths") or unknown, axes),
                sizes=tuple(
                    None if packed is None else tuple(_unpacked(packed)) for packed in sizes
                ),
                omits_sizes=facts.get("omits_sizes") is True,
                listed=_text(facts.get("listed")),
                is_written=facts.get("is_written") is True,
                members=_names(facts.get("members") or ()),
                coordinates=_names(facts.get("coordinates") or ()),
                start=_length(facts.get("start", 0)),
                appended=tuple(_appended(*each) for each in facts.get("appended") or ()),
            )
        except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
            raise DamagedRecordError(f"this is no record of a run: {error!r}") from error

    def finished(self) -> Record:
        """Return what is kept of the record in a finished array."""
        kept = replace(self.with_even_ends(), attempt=None, is_written=False)
        runs = sum(len(list(groupby(sizes))) for sizes in kept.sizes if sizes is not None)
        if runs > MOST_RUNS and self.listed is None:
            kept = replace(kept, sizes=(None,) * len(self.sizes), omits_sizes=True)
        return kept

    def find_run(self, run_id: str | None) -> Appended | None:
        """Return what a run has stored of a finished array, if it is known by name."""
        for each in reversed(self.appended):
            if each.run_id == run_id:
                return each
        if run_id is None or self.run_id != run_id:
            return None
        return Appended(run_id, self.counts, self.lengths[0] if self.lengths else None)

    def with_even_ends(self) -> Record:
        """Return the record with a length in place of sizes if only the last block is smaller."""
        sizes, lengths = list(self.sizes), list(self.lengths)
        for axis, (noted, first) in enumerate(zip(self.sizes, self.first, strict=False)):
            complete = noted is not None and len(noted) == self.counts[axis]
            if noted and complete and {*noted[:-1]} <= {first} and noted[-1] <= first:
                sizes[axis], lengths[axis] = None, sum(noted, self.start if axis == 0 else 0)
        return replace(self, sizes=tuple(sizes), lengths=tuple(lengths))


def record_of(document: Document | None) -> Record | None:
    """Return the record in an array's metadata, if this library wrote the array."""
    attributes = (document or {}).get("attributes")
    if not is_document(attributes) or ATTRIBUTE not in attributes:
        return None
    try:
        return Record.from_json(attributes[ATTRIBUTE])
    except DamagedRecordError:
        return None


def misses_none(document: Document | None) -> bool:
    """Whether an array has every chunk, since this library wrote it: others may leave some out."""
    record = record_of(document)
    return record is not None and record.version != ""


def names_of_arrays(document: Document | None) -> tuple[str, ...]:
    """Return the names of the arrays in a group of this library, by the group's metadata."""
    record = record_of(document)
    return () if record is None else (*record.members, *record.coordinates)


def with_record(document: Document, record: Record) -> Document:
    """Return metadata that holds a record."""
    attributes: Document = document.get("attributes") or {}
    return {**document, "attributes": {**attributes, ATTRIBUTE: record.to_json()}}


def with_shape(document: Document, shape: Shape) -> Document:
    """Return metadata of another shape."""
    return {**document, "shape": list(shape)}


def own_attributes(document: Document) -> Document:
    """Return the attributes that the user has given."""
    attributes: Document = document.get("attributes") or {}
    return {key: value for key, value in attributes.items() if key != ATTRIBUTE}


def serialize(document: Document) -> bytes:
    """Return metadata as they are stored."""
    return json.dumps(document, indent=2).encode()


def seal(document: Document) -> bytes:
    """Return metadata of an unfinished write, with a checksum in its first line."""
    body = serialize(document)
    return b'{"crc32": "%08x",' % zlib.crc32(body) + b"\n" + body.removeprefix(b"{\n")


def unseal(value: bytes) -> tuple[Document, Record]:
    """Read the metadata of an unfinished write, and its record.

    Raises
    ------
    DamagedRecordError
        If it is damaged.
    """
    head, _, rest = value.partition(b"\n")
    if head != b'{"crc32": "%08x",' % zlib.crc32(b"{\n" + rest):
        raise DamagedRecordError("the metadata does not fit its checksum")
    document = parse(value)
    if document is None:
        raise DamagedRecordError("the metadata is no JSON object")
    del document["crc32"]
    return document, Record.from_json(document.get("attributes", {}).get(ATTRIBUTE))


def parse(value: bytes | None) -> Document | None:
    """Parse metadata; ``None`` where there is none that can be read."""
    try:
        document = json.loads(value or b"")
    except (ValueError, RecursionError):
        return None
    return document if is_document(document) else None


def is_document(value: object) -> TypeGuard[Document]:
    """Whether a value is a JSON object."""
    return isinstance(value, dict)


def hash_sizes(sizes: Sequence[Sizes] | None) -> str | None:
    """Return a hash of the sizes that a user lists, by which a later start knows them."""
    if sizes is None:
        return None
    return hashlib.sha256(json.dumps(sizes).encode()).hexdigest()[:16]


def is_segment(name: str) -> bool:
    """Whether a name is a single segment of a path; a hostile one would lead elsewhere."""
    return name.isprintable() and not {"/", "\\"}.intersection(name) and name.strip(".") != ""


def known_sizes(sizes: Sequence[Sizes | None]) -> tuple[Sizes | None, ...]:
    """Return sizes along the block axes as a record may hold them: none of too many blocks."""
    return tuple(along if along and len(along) <= MOST_BLOCKS else None for along in sizes)


def _has_known(values: Sequence[object]) -> bool:
    return any(value is not None for value in values)


def _packed(sizes: Sizes | None) -> list[list[int]] | None:
    """Pack sizes into pairs of a size and how often it comes in a row."""
    if sizes is None:
        return None
    return [[size, len(list(run))] for size, run in groupby(sizes)]


def _unpacked(packed: Sequence[Sequence[Any]]) -> Iterator[int]:
    total = 0
    for size, number in packed:
        total += _length(number)
        if total > MOST_BLOCKS:  # a hostile record must not fill memory
            raise ValueError(f"it lists more than {MOST_BLOCKS} blocks")
        yield from [_length(size)] * number


def _check_axes(axes: int, first: Shape, sizes: Sequence[object]) -> None:
    if len(first) < axes or len(sizes) != axes:
        raise ValueError(f"{first} and {sizes} are not of {axes} block axes")


def _lengths(values: Sequence[Any], axes: int) -> tuple[int | None, ...]:
    if len(values) != axes:
        raise ValueError(f"{values!r} has not {axes} entries")
    return tuple(None if value is None else _length(value) for value in values)


def _length(value: Any) -> int:
    if type(value) is not int or not 0 <= value <= sys.maxsize:
        raise ValueError(f"{value!r} is no length")
    return value


def _appended(run_id: Any, rows: Any, *counts: Any) -> Appended:
    known = _lengths((rows, *counts), 1 + len(counts))
    return Appended(_text(run_id) or "", known[1:], known[0])


def _names(values: Sequence[Any]) -> tuple[str, ...]:
    names = tuple(_text(name) or "" for name in values)
    if len(names) > MOST_NAMES or not all(map(is_segment, names)):
        raise ValueError(f"{names[:3]!r}... are no names of arrays")
    return names


def _text(value: Any) -> str | None:
    if value is not None and not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value
