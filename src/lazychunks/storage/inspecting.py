"""What is at a destination; nothing is changed by looking.

Metadata need not be trusted: it is judged as for reading, and what it claims is never counted out.
"""

from __future__ import annotations

import math
import operator
import os
import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import islice, product, repeat, takewhile
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from zarr.core.sync import sync

from lazychunks.layout.plan import WritePlan
from lazychunks.layout.shapes import partition_slices
from lazychunks.storage.chunks.metadata import KEPT_BACK, OVERWRITING, Document, record_of
from lazychunks.storage.chunks.trust import check_metadata, parse_metadata, read_metadata
from lazychunks.storage.options import Destination
from lazychunks.storage.places.destinations import InStore, LocalPath, files_below, located
from lazychunks.storage.resuming import DoneUnits, noted_sizes, segments_of

if TYPE_CHECKING:
    from lazychunks.storage.chunks.metadata import StoredArray

COUNTED = 10**6
"""Number of blocks up to which those that are done are counted."""

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
    place = located(source)
    for _ in range(LOOKS - 1):
        with suppress(FileNotFoundError):  # it was renamed, or removed, while this looked
            return _status(place)
    return _status(place)


def _status(place: LocalPath | InStore) -> Status:
    under_way = _unfinished(place)
    document = read_metadata(place)
    is_published = document is not None
    state: Literal["complete", "unfinished", "absent"] = "complete" if is_published else "absent"
    where = place
    if under_way is not None:
        state = "unfinished"
        where, document = under_way
    known = Status(str(place), state, is_published=is_published, set_aside=_set_aside(place))
    if document is None:
        return known
    array = check_metadata(where.in_store(read_only=True), document, str(place))
    record = record_of(document)
    run_id = record.get("run_id")
    is_begun = state == "unfinished" and "first" in record
    shape: tuple[int | None, ...] | None = array.shape
    axes: list[_Axis] = []
    if is_begun:
        try:
            axes = _axes(record)
            shape = (*(axis.length for axis in axes), *array.shape[len(axes) :])
        except (KeyError, TypeError, ValueError):
            shape = None  # of another version, or damaged
    items = None if shape is None else _product(shape)
    return replace(
        known,
        shape=shape,
        dtype=str(array.dtype),
        chunks=array.chunks,
        shards=array.shards,
        nbytes=None if items is None else items * array.dtype.itemsize,
        stored_bytes=_stored_bytes(where),
        run_id=run_id if isinstance(run_id, str) else None,
        done_blocks=_done_blocks(where, array, axes) if axes and isinstance(run_id, str) else None,
        blocks=_product([axis.number for axis in axes]) if axes else None,
        is_written=state == "unfinished" and not is_begun and "version" in record,
    )


def _unfinished(place: LocalPath | InStore) -> tuple[LocalPath | InStore, Document | None] | None:
    """Where an unfinished write is, and its metadata, if it has some."""
    if isinstance(place, LocalPath):
        staging = LocalPath(place.beside("partial"))
        if not os.path.isdir(staging.path):  # whose name may be too long, where the array's is not
            return None
        draft = staging.read(KEPT_BACK)
        if draft is not None:
            return staging, parse_metadata(draft, 3, str(place))
        return staging, read_metadata(
            staging
        )  # it died when it was about to publish, or before it began
    kept_back = place.read(KEPT_BACK)
    if kept_back is None or kept_back == place.read("zarr.json"):
        return None
    is_mark = kept_back == OVERWRITING  # of an overwrite that has only begun
    return place, None if is_mark else parse_metadata(kept_back, 3, str(place))


class _Axis(NamedTuple):
    """What the record of an unfinished write says of a block axis."""

    first: int
    """Size of the first block."""
    number: int | None
    """Number of blocks."""
    length: int | None
    """Length, if it has ended."""


def _axes(record: Document) -> list[_Axis]:
    """Read a record, which need not be trusted."""
    hints = _numbers(record["hints"])
    unknown = [None] * len(hints)
    first = [size for size in _numbers(record["first"])[: len(hints)] if size is not None]
    counts, lengths = (_numbers(record.get(name) or unknown) for name in ("counts", "lengths"))
    if not hints:
        raise ValueError("there is no block axis")
    return [
        _Axis(size, hint if count is None else count, length)
        for size, hint, count, length in zip(first, hints, counts, lengths, strict=True)
    ]


def _done_blocks(
    staging: LocalPath | InStore, array: StoredArray, axes: Sequence[_Axis]
) -> int | None:
    """Count the blocks that resuming skips, if they are not too many."""
    keys = [key for key in staging.keys() or () if not key.endswith(".partial")]
    plan = WritePlan(len(axes), array.shape[len(axes) :], array.chunks, array.shards)
    spans: list[list[slice]] = []
    try:
        done = DoneUnits(keys, plan)
        for index, (axis, unit, length) in enumerate(
            zip(axes, plan.unit, array.shape, strict=False)
        ):
            stored = (1 + max((cell[index] for cell in done.cells), default=-1)) * unit
            segments = segments_of(index, keys)
            most = sys.maxsize if axis.number is None else axis.number
            alike = repeat(axis.first, most if axis.first else 0)  # an empty block is never done
            sizes = noted_sizes(staging.read, segments) if segments else alike
            spans.append(_spans(sizes, min(stored, length)))
        if math.prod(map(len, spans)) > COUNTED:
            return None
        return sum(map(done.cover, product(*spans)))
    except (TypeError, ValueError, OverflowError, RecursionError):
        return None


def _spans(sizes: Iterable[int], end: int) -> list[slice]:
    """Where each block along an axis lies, as far as there is something stored."""
    few = (max(operator.index(size), 0) for size in islice(sizes, COUNTED + 1))
    return list(takewhile(lambda span: span.start < end, partition_slices(few)))


def _set_aside(place: LocalPath | InStore) -> str | None:
    old = place.set_aside if isinstance(place, LocalPath) else None
    return None if old is None else str(old)


def _stored_bytes(place: LocalPath | InStore) -> int | None:
    if isinstance(place, InStore):
        listed = place.store.supports_listing
        return sync(place.store.getsize_prefix(place.key(""))) if listed else None
    size = 0
    for _, entry in files_below(place.path):
        with suppress(FileNotFoundError):  # temporary files come and go
            size += entry.stat(follow_symlinks=False).st_size
    return size


def _product(numbers: Sequence[int | None]) -> int | None:
    known = [number for number in numbers if number is not None]
    return math.prod(known) if len(known) == len(numbers) else None


def _numbers(value: Any) -> list[int | None]:
    """Check a list of lengths, or of None.

    Raises
    ------
    TypeError
        If it is something else.
    """
    numbers: list[int | None] = value
    if type(value) is not list:
        raise TypeError(f"{value!r} is no list")
    for number in numbers:
        if number is not None and not (type(number) is int and 0 <= number <= sys.maxsize):
            raise TypeError(f"{number!r} is no length")
    return numbers
