"""What is at a destination; nothing is changed by looking.

Metadata need not be trusted: it is judged as for reading, and what it claims is never counted out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Literal

from zarr.core.sync import sync
from zarr.storage import StorePath

from lazychunks.converters import IdentityConverter
from lazychunks.errors import UntrustedArrayError
from lazychunks.storage.chunks.metadata import KEPT_BACK, is_overwriting
from lazychunks.storage.chunks.trust import check_metadata, read_metadata
from lazychunks.storage.options import Destination
from lazychunks.storage.places.directory import LocalDirectory
from lazychunks.storage.places.file_system import walk_files
from lazychunks.storage.places.place import resolve_destination
from lazychunks.storage.places.protocol import Place
from lazychunks.storage.resuming import spill
from lazychunks.storage.resuming.record import (
    DamagedRecordError,
    Document,
    Record,
    record_of,
    unseal,
)
from lazychunks.storage.resuming.unfinished import count_done, target_of

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


def status(source: Destination) -> Status:
    """Tell what is at a destination: an array, an unfinished write, or nothing.

    Nothing is changed, and no chunk is decoded. Where a writer is at work, this is how far it is.

    Parameters
    ----------
    source
        A path, a URL, a zarr store, a dict.

    Raises
    ------
    UntrustedArrayError
        If its metadata is damaged or unexpected, or that of a group.

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
    document = read_metadata(place)
    is_published = document is not None
    state: Literal["complete", "unfinished", "absent"] = "complete" if is_published else "absent"
    where = place
    record = record_of(document)
    if under_way is not None:
        state = "unfinished"
        where, document, record = under_way
    known = Status(str(place), state, is_published=is_published, set_aside=place.backup)
    if document is None:
        return known
    array = check_metadata(where.in_store(read_only=True), document, str(place))
    shape: tuple[int | None, ...] = array.shape
    is_begun = state == "unfinished" and record is not None and not record.is_written
    if is_begun and record is not None:
        lengths = record.with_even_ends().lengths
        shape = (*lengths, *array.shape[len(lengths) :])
    items = _product(shape)
    return replace(
        known,
        shape=shape,
        dtype=str(array.dtype),
        chunks=array.chunks,
        shards=array.shards,
        nbytes=None if items is None else items * array.dtype.itemsize,
        stored_bytes=_stored_bytes(where),
        run_id=None if record is None else record.run_id,
        done_blocks=_done_blocks(where, document, record) if is_begun and record else None,
        blocks=_product(record.counts) if is_begun and record else None,
        is_written=record is not None and record.is_written,
    )


def _unfinished(place: Place) -> tuple[Place, Document | None, Record | None] | None:
    """Where an unfinished write is, with its metadata and its record, if it has some."""
    draft = place.draft(overwrite=False)
    if not draft.exists():
        return None
    where = resolve_destination(StorePath(draft.where.store, draft.where.path))
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


def _done_blocks(staging: Place, document: Document, record: Record) -> int | None:
    """Count the blocks that resuming skips, if they are not too many."""
    if record.run_id is None or not record.counts:
        return None
    keys = staging.keys() or ()
    where = staging.in_store(read_only=True)
    try:
        target = target_of(where, document, record, IdentityConverter(), keys=keys)
        spilled = spill.read_pieces(where, keys, len(record.counts))
        return count_done([replace(target, spilled=spilled)], record.counts)
    except (ArithmeticError, TypeError, ValueError, RecursionError):
        return None  # what was written by another program need make no sense


def _stored_bytes(place: Place) -> int | None:
    if not isinstance(place, LocalDirectory):
        where = place.in_store(read_only=True)
        listed = where.store.supports_listing
        return sync(where.store.getsize_prefix(where.key(""))) if listed else None
    size = 0
    for _, entry in walk_files(place.path):
        with suppress(FileNotFoundError):  # temporary files come and go
            size += entry.stat(follow_symlinks=False).st_size
    return size


def _product(numbers: Sequence[int | None]) -> int | None:
    known = [number for number in numbers if number is not None]
    return math.prod(known) if len(known) == len(numbers) else None
