"""What is at a destination; nothing is changed by looking.

Metadata need not be trusted: it is judged as for reading, and what it claims is never counted out.
"""

from __future__ import annotations

import math
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Literal

from zarr.core.sync import sync
from zarr.storage import LocalStore

from lazychunks.converters import IdentityConverter
from lazychunks.errors import UntrustedArrayError
from lazychunks.storage.chunks.metadata import KEPT_BACK, METADATA, is_overwriting
from lazychunks.storage.chunks.trust import check_metadata, read_metadata
from lazychunks.storage.keys import Keys
from lazychunks.storage.options import Destination
from lazychunks.storage.places.file_system import walk_files
from lazychunks.storage.places.place import resolve_destination
from lazychunks.storage.places.protocol import Place
from lazychunks.storage.resuming import spill
from lazychunks.storage.resuming.record import (
    DamagedRecordError,
    Document,
    Record,
    names_of_arrays,
    parse,
    record_of,
    unseal,
)
from lazychunks.storage.resuming.unfinished import count_done, target_of
from lazychunks.storage.writing.target import Target

LOOKS = 5
"""Number of times that this looks at an array that somebody replaces meanwhile."""


@dataclass(frozen=True, slots=True)
class Status:
    """What is at a destination; that which is not known, or not there, is None."""

    place: str
    """The destination."""
    state: Literal["complete", "unfinished", "absent"]
    """Whether there is an array, an unfinished write (of a writer at work, or of a dead one), or
    nothing."""
    is_published: bool
    """Whether there is an array that readers see, be it one that an unfinished write is to
    replace."""
    set_aside: str | None = None
    """Where an array is that a dead writer has moved aside, and that the next one puts back."""
    shape: tuple[int | None, ...] | None = None
    """Of the unfinished write, where there is one, like all that follows. The length of an axis
    that has not ended is not known."""
    dtype: str | None = None
    chunks: tuple[int, ...] | None = None
    shards: tuple[int, ...] | None = None
    nbytes: int | None = None
    """Bytes of its values."""
    stored_bytes: int | None = None
    """Bytes that the store holds for it, metadata included."""
    run_id: str | None = None
    """Name of the run. An unfinished write without one cannot be resumed."""
    done_blocks: int | None = None
    """Number of blocks that resuming skips."""
    blocks: int | None = None
    """Number of all blocks."""
    is_written: bool = False
    """Whether all of an unfinished write is stored, and only publishing it is left."""
    members: Mapping[str, Status] | None = None
    """What is known of each array, by name, if it is a group that this library wrote."""


def status(source: Destination) -> Status:
    """Tell what is at a destination: an array, a group, an unfinished write, or nothing.

    Nothing is changed, and no chunk is decoded. Where a writer is at work, this is how far it is.

    Parameters
    ----------
    source
        A path, a URL, a zarr store, a dict.

    Raises
    ------
    UntrustedArrayError
        If its metadata is damaged or unexpected, or that of a group of another program.

    Examples
    --------
    >>> import numpy as np
    >>> from lazychunks import IdentityConverter, LazyChunkSequence
    >>> store = {}
    >>> status(store).state
    'absent'
    >>> LazyChunkSequence.from_map(np.arange, [2, 3]).to_zarr(store, IdentityConverter())
    >>> status(store).state, status(store).shape, status(store).nbytes
    ('complete', (5,), 40)
    """
    place = resolve_destination(source)
    for _ in range(LOOKS - 1):
        with suppress(FileNotFoundError):  # it was renamed, or removed, while this looked
            return _status(place)
    return _status(place)


def _status(place: Place) -> Status:
    under_way = _unfinished(place)
    published = parse(place.read(METADATA))
    is_group = names_of_arrays(published if under_way is None else under_way[1]) != ()
    document = published if is_group else read_metadata(place)
    known = Status(
        str(place),
        "unfinished" if under_way else "absent" if document is None else "complete",
        is_published=document is not None,
        set_aside=place.backup,
    )
    where, record = place.in_store(read_only=True), record_of(document)
    if under_way is not None:
        where, document, record = under_way
    if document is None:
        return known
    describe = _describe_group if is_group else _describe_array
    return replace(describe(where, document, record, known), stored_bytes=_stored_bytes(where))


def _describe_array(
    where: Keys, document: Document, record: Record | None, known: Status
) -> Status:
    """Add what metadata and a record tell of an array."""
    array = check_metadata(where, document, known.place)
    shape: tuple[int | None, ...] = array.shape
    begun = record if known.state == "unfinished" and record and not record.is_written else None
    if begun is not None:
        lengths = begun.with_even_ends().lengths
        shape = (*lengths, *array.shape[len(lengths) :])
    items = _product(shape)
    return replace(
        known,
        shape=shape,
        dtype=str(array.dtype),
        chunks=array.chunks,
        shards=array.shards,
        nbytes=None if items is None else items * array.dtype.itemsize,
        run_id=None if record is None else record.run_id,
        done_blocks=_done_blocks([(where, document, begun)]) if begun else None,
        blocks=_product(begun.counts) if begun else None,
        is_written=record is not None and record.is_written,
    )


def _describe_group(
    where: Keys, document: Document, record: Record | None, known: Status
) -> Status:
    """Add what metadata and records tell of a group and its arrays."""
    members: dict[str, Status] = {}
    begun: list[tuple[Keys, Document, Record]] = []
    for name in names_of_arrays(document):
        below, its_name = where.below(name), f"{known.place}/{name}"
        member = Status(its_name, known.state, is_published=known.is_published)
        kept_back = below.read(KEPT_BACK) if known.state == "unfinished" else None
        if kept_back is not None:
            its_document, its_record = _unsealed(kept_back, its_name)
            members[name] = _describe_array(below, its_document, its_record, member)
            begun.append((below, its_document, its_record))
        elif (published := parse(below.read(METADATA))) is not None:
            members[name] = _describe_array(below, published, record_of(published), member)
    is_begun = known.state == "unfinished" and record is not None
    sizes = [member.nbytes for member in members.values()]
    return replace(
        known,
        members=members,
        nbytes=sum(size for size in sizes if size) if None not in sizes else None,
        run_id=None if record is None else record.run_id,
        done_blocks=_done_blocks(begun) if is_begun else None,
        blocks=_product(record.counts) if is_begun and record else None,
        is_written=is_begun and bool(begun) and all(each.is_written for _, _, each in begun),
    )


def _unfinished(place: Place) -> tuple[Keys, Document | None, Record | None] | None:
    """Where an unfinished write is, with its metadata and its record, if it has some."""
    draft = place.draft(overwrite=False)
    if not draft.exists():
        return None
    where = draft.where
    kept_back = where.read(KEPT_BACK)
    if kept_back is None or is_overwriting(kept_back):  # it died before it had metadata
        return where, None, None
    return where, *_unsealed(kept_back, str(place))


def _unsealed(draft: bytes, place: str) -> tuple[Document, Record]:
    try:
        return unseal(draft)
    except DamagedRecordError as error:
        raise UntrustedArrayError(
            f"the metadata of the unfinished write at {place} is damaged: {error}"
        ) from error


def _done_blocks(arrays: Sequence[tuple[Keys, Document, Record]]) -> int | None:
    """Count the blocks that resuming skips, if they are not too many."""
    targets: list[Target[Any]] = []
    counts: tuple[int | None, ...] = ()
    try:
        for where, document, record in arrays:
            if record.run_id is None or not record.counts:
                return None
            keys, counts = _list_keys(where), record.counts
            target = target_of(where, document, record, IdentityConverter(), keys=keys)
            spilled = spill.read_pieces(where, keys, len(counts))
            targets.append(replace(target, spilled=spilled))
        return count_done(targets, counts) if targets else None
    except (ArithmeticError, TypeError, ValueError, RecursionError):
        return None  # what was written by another program need make no sense


def _stored_bytes(where: Keys) -> int | None:
    if not isinstance(where.store, LocalStore):
        listed = where.store.supports_listing
        return sync(where.store.getsize_prefix(where.key(""))) if listed else None
    size = 0
    for _, entry in _walk(where.store, where.path):
        with suppress(FileNotFoundError):  # temporary files come and go
            size += entry.stat(follow_symlinks=False).st_size
    return size


def _list_keys(where: Keys) -> Collection[str]:
    if isinstance(where.store, LocalStore):
        return [key for key, _ in _walk(where.store, where.path)]
    return where.list_keys() or ()


def _walk(store: LocalStore, path: str) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Go through files; zarr would take a directory that has been renamed for an empty one."""
    return walk_files(store.root / path)


def _product(numbers: Sequence[int | None]) -> int | None:
    known = [number for number in numbers if number is not None]
    return math.prod(known) if len(known) == len(numbers) else None
