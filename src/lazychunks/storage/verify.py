"""Tells whether the chunks of an array are as they were stored."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice, product
from typing import TYPE_CHECKING, Any

from zarr.core.sync import sync
from zarr.storage import StorePath

from lazychunks.blocks.ahead import Ahead
from lazychunks.blocks.factories import Mapped
from lazychunks.layout.plan import MAX_CHUNK_BYTES
from lazychunks.layout.shapes import Shape, cell_region, overlaps
from lazychunks.progress import add_bar, is_shown
from lazychunks.storage.chunks.files import Reader
from lazychunks.storage.chunks.metadata import METADATA
from lazychunks.storage.chunks.trust import check_chunk_count, has_checksums, open_checked
from lazychunks.storage.options import Destination
from lazychunks.storage.places.place import resolve_destination
from lazychunks.storage.resuming.record import misses_none, names_of_arrays, parse

if TYPE_CHECKING:
    from lazychunks.storage.chunks.metadata import StoredArray

NAMED = 100
"""Number of missing chunks that are named."""

READ_BYTES = 2**28
"""Bytes of chunks that are read at the same time, about."""

MOST_AT_ONCE = 8
"""Number of chunks that are read at the same time."""


@dataclass(frozen=True, slots=True)
class Verification:
    """Whether the chunks of an array are sound (the shards, where there are shards)."""

    place: str
    """The array."""
    chunks: int
    """Number of chunks that belong to it."""
    read: int
    """Number of those that are stored, and have been read."""
    bad: Mapping[str, str]
    """Keys of chunks that cannot be read, and why."""
    missing: int
    """Number of chunks that are not stored."""
    missing_keys: tuple[str, ...]
    """Keys of the first 100 of them."""
    misses_none: bool
    """Whether a missing chunk is a fault. This library stores every chunk, so one that is missing
    has been lost, unless the array is a copy made by a tool that leaves out chunks of fill values.
    In arrays of other programs, a missing chunk stands for the fill value."""
    has_checksums: bool
    """Whether chunks have checksums. Without, only what cannot be decoded is found."""

    @property
    def is_sound(self) -> bool:
        """Whether no chunk is bad, or is missing where that is a fault."""
        return not (self.bad or (self.missing and self.misses_none))


def verify(
    source: Destination, *, max_chunk_bytes: int = MAX_CHUNK_BYTES, progress: bool | None = None
) -> Verification:
    """Read every chunk of an array, or of a group, against its checksum where it has one.

    Parameters
    ----------
    source
        A path, a URL, a zarr store, a dict.
    max_chunk_bytes
        Bytes of one chunk, uncompressed, above which the array is refused.
    progress
        True shows a progress bar on stderr, False does not; by default it is shown where stderr
        is a terminal.

    Raises
    ------
    FileNotFoundError
        If there is no array.
    UntrustedArrayError
        If its metadata is damaged or unexpected, or that of a group of another program.

    Examples
    --------
    >>> import numpy as np
    >>> from lazychunks import IdentityConverter, LazyChunkSequence
    >>> store = {}
    >>> sequence = LazyChunkSequence.from_map(np.arange, [3, 3])
    >>> sequence.to_zarr(store, IdentityConverter(), chunks="blocks")
    >>> verify(store).is_sound
    True
    >>> del store["c/1"]
    >>> verify(store).is_sound, verify(store).missing_keys
    (False, ('c/1',))
    """
    place = resolve_destination(source)
    names = names_of_arrays(parse(place.read(METADATA)))
    if names:
        where = place.in_store(read_only=True)
        arrays = {
            name: verify(
                StorePath(where.store, where.key(name)),
                max_chunk_bytes=max_chunk_bytes,
                progress=progress,
            )
            for name in names
        }
        return _combine(str(place), arrays)
    array = open_checked(place, max_chunk_bytes)
    units = _Units(array, max_chunk_bytes)
    keys = place.keys()
    if keys is None:  # the store cannot list, so each unit costs a request
        check_chunk_count(units.count, str(place), max_chunk_bytes)
    stored = sorted(units.find_stored() if keys is None else units.find_among(keys))
    unit_bytes = math.prod(units.extents) * array.dtype.itemsize
    # In threads: decompressing a chunk takes longer than reading it.
    at_once = max(min(READ_BYTES // max(unit_bytes, 1), MOST_AT_ONCE), 1)
    ahead: Ahead[str | None] = Ahead(Mapped(units.find_fault, stored), None, at_once)
    faults = add_bar(ahead(), len(stored), "chunk") if is_shown(progress) else ahead()
    bad = {units.key(index): fault for index, fault in zip(stored, faults, strict=True) if fault}
    missing = units.count - len(stored)
    document = units.metadata.to_dict()
    return Verification(
        place=str(place),
        chunks=units.count,
        read=len(stored),
        bad=bad,
        missing=missing,
        missing_keys=tuple(islice(units.missing_keys({*stored}), min(missing, NAMED))),
        misses_none=misses_none(document),
        has_checksums=has_checksums(document),
    )


def _combine(place: str, arrays: Mapping[str, Verification]) -> Verification:
    """Return what is known of all arrays of a group; keys are relative to the group."""
    return Verification(
        place=place,
        chunks=sum(array.chunks for array in arrays.values()),
        read=sum(array.read for array in arrays.values()),
        bad={
            f"{name}/{key}": why for name, each in arrays.items() for key, why in each.bad.items()
        },
        missing=sum(array.missing for array in arrays.values()),
        missing_keys=tuple(
            islice(
                (f"{name}/{key}" for name, each in arrays.items() for key in each.missing_keys),
                NAMED,
            )
        ),
        misses_none=True,
        has_checksums=all(array.has_checksums for array in arrays.values()),
    )


class _Units:
    """What is stored under one key each: the chunks of an array, or its shards.

    Parameters
    ----------
    array
        The array.
    max_chunk_bytes
        Bytes up to which a shard is read at once, rather than chunk by chunk.
    """

    def __init__(self, array: StoredArray, max_chunk_bytes: int) -> None:
        self._array = array
        self._reader = Reader.of(array)
        self.metadata: Any = array.metadata  # of Zarr 2 or 3
        self.extents: Shape = array.shards or array.chunks
        unit_bytes = math.prod(self.extents) * array.dtype.itemsize
        self._read_at_once = self.extents if unit_bytes <= max_chunk_bytes else array.chunks
        self._grid = tuple(
            -(-length // extent) for length, extent in zip(array.shape, self.extents, strict=True)
        )
        self.count = math.prod(self._grid)

    def key(self, index: Shape) -> str:
        """Key of a unit, relative to the array."""
        key: str = self.metadata.encode_chunk_key(index)
        return key

    def find_among(self, keys: Iterable[str]) -> Iterator[Shape]:
        """Pick the units that these keys name."""
        for key in keys:
            numbers = re.findall(r"\d{1,19}", key)[: len(self._grid)]
            index = tuple(map(int, numbers))
            is_inside = len(index) == len(self._grid) and all(map(operator.lt, index, self._grid))
            # Exactly as zarr writes it: `c/03` names no chunk, as zarr does not look for it.
            if is_inside and self.key(index) == key:
                yield index

    def find_stored(self) -> Iterator[Shape]:
        """Ask the store for one unit after the other."""
        at = self._array.store_path
        return (index for index in _indices(self._grid) if sync((at / self.key(index)).exists()))

    def missing_keys(self, stored: set[Shape]) -> Iterator[str]:
        """Keys of the units that are not stored."""
        return (self.key(index) for index in _indices(self._grid) if index not in stored)

    def find_fault(self, index: Shape) -> str | None:
        """Read a unit, and say what is wrong with it, if anything is."""
        shape = self._array.shape
        region = cell_region(index, self.extents, shape)
        parts = (
            [overlap.cell for overlap in overlaps(span.start, span.stop - span.start, extent)]
            for span, extent in zip(region, self._read_at_once, strict=True)
        )
        try:
            # A shard that is larger than a chunk may be is read chunk by chunk.
            for part in product(*parts):
                self._reader(cell_region(part, self._read_at_once, shape))
        except Exception as error:  # noqa: BLE001  # whatever a codec, or a store, raises
            return f"{type(error).__name__}: {error}"
        return None


def _indices(grid: Shape) -> Iterator[Shape]:
    """All indices of a grid, one by one: metadata may claim any number."""
    if not grid:
        yield ()
    elif all(grid):
        for number in range(grid[0]):
            yield from ((number, *rest) for rest in _indices(grid[1:]))
