"""Whether the chunks of an array are as they were stored."""

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
from lazychunks.layout.shapes import Shape, cell_region
from lazychunks.progress import add_bar, is_shown
from lazychunks.sequences import MAX_CHUNK_BYTES
from lazychunks.storage.chunks.files import Reader
from lazychunks.storage.chunks.trust import has_checksums, opened
from lazychunks.storage.options import Destination
from lazychunks.storage.places.place import resolve_destination
from lazychunks.storage.record import record_of

if TYPE_CHECKING:
    from lazychunks.storage.chunks.metadata import StoredArray
    from lazychunks.storage.record import Document

NAMED = 100
"""Number of missing chunks that are named."""

READ_BYTES = 2**28
"""Bytes of chunks that are read at the same time, about."""


@dataclass(frozen=True, slots=True)
class Verification:
    """Whether the chunks of an array are sound (the shards, where there are shards)."""

    place: str
    """The array."""
    chunks: int
    """Number of chunks that belong to it."""
    read: int
    """Number of those that were there, and have been read."""
    bad: Mapping[str, str]
    """Keys of chunks that cannot be read, and why."""
    missing: int
    """Number of chunks that are not there, and read as the fill value."""
    missing_keys: tuple[str, ...]
    """Keys of the first 100 of them."""
    misses_none: bool
    """Whether the array was written here, so that a chunk that is not there has been lost."""
    has_checksums: bool
    """Whether chunks have checksums. Without, only what cannot be decoded is found."""

    @property
    def is_sound(self) -> bool:
        """Whether no chunk is bad, or has been lost."""
        return not (self.bad or (self.missing and self.misses_none))


def verify(
    source: Destination, *, max_chunk_bytes: int = MAX_CHUNK_BYTES, progress: bool | None = None
) -> Verification:
    """Read every chunk of an array, against its checksum where it has one.

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
        If its metadata is damaged or unexpected, or that of a group.

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
    array = opened(place, max_chunk_bytes)
    chunks = _Chunks(array, max_chunk_bytes)
    stored = sorted(chunks.stored(place.keys()))
    each = math.prod(chunks.unit) * array.dtype.itemsize
    at_once = max(min(READ_BYTES // max(each, 1), 8), 1)
    ahead: Ahead[str | None] = Ahead(Mapped(chunks.fault, stored), None, at_once)
    faults = add_bar(ahead(), len(stored), "chunk") if is_shown(progress) else ahead()
    bad = {
        chunks.key(cell): fault
        for cell, fault in zip(stored, faults, strict=True)
        if fault is not None
    }
    missing = chunks.count - len(stored)
    document: Document = chunks.metadata.to_dict()
    return Verification(
        place=str(place),
        chunks=chunks.count,
        read=len(stored),
        bad=bad,
        missing=missing,
        missing_keys=tuple(islice(chunks.missing(frozenset(stored)), min(missing, NAMED))),
        misses_none=record_of(document) is not None,
        has_checksums=has_checksums(document),
    )


class _Chunks:
    """The chunks of an array, by what is stored under one key.

    Parameters
    ----------
    array
        The array.
    max_chunk_bytes
        Bytes up to which what is stored under one key is read at once.
    """

    def __init__(self, array: StoredArray, max_chunk_bytes: int) -> None:
        self._array = array
        self._reader = Reader.of(array)
        self.metadata: Any = array.metadata  # of Zarr 2 or 3
        self.unit: Shape = array.shards or array.chunks
        unit_bytes = math.prod(self.unit) * array.dtype.itemsize
        self._read = self.unit if unit_bytes <= max_chunk_bytes else array.chunks
        self._grid = tuple(
            -(-length // extent) for length, extent in zip(array.shape, self.unit, strict=True)
        )
        self.count = math.prod(self._grid)

    def key(self, cell: Shape) -> str:
        """Key of a chunk, relative to the array."""
        key: str = self.metadata.encode_chunk_key(cell)
        return key

    def stored(self, keys: Iterable[str] | None) -> Iterator[Shape]:
        """Tell which chunks are there."""
        if keys is None:  # the store cannot list
            for cell in _cells(self._grid):
                if sync(self._at(cell).exists()):
                    yield cell
            return
        for key in keys:
            cell = tuple(map(int, re.findall(r"\d{1,19}", key)[: len(self._grid)]))
            inside = len(cell) == len(self._grid) and all(map(operator.lt, cell, self._grid))
            if inside and self.key(cell) == key:
                yield cell

    def missing(self, stored: frozenset[Shape]) -> Iterator[str]:
        """Keys of the chunks that are not there."""
        return (self.key(cell) for cell in _cells(self._grid) if cell not in stored)

    def fault(self, cell: Shape) -> str | None:
        """Read a chunk, and say what is wrong with it."""
        shape = self._array.shape
        touched = (
            range(span.start // extent, -(-span.stop // extent))
            for span, extent in zip(cell_region(cell, self.unit, shape), self._read, strict=True)
        )
        try:
            # zarr takes a shard of no bytes for one of fill values.
            if self._array.shards and sync(self._array.store.getsize(self._at(cell).path)) == 0:
                return "it is empty"
            for part in product(*touched):
                self._reader(cell_region(part, self._read, shape))
        except Exception as error:  # noqa: BLE001  # whatever a codec, or a store, raises
            return f"{type(error).__name__}: {error}"
        return None

    def _at(self, cell: Shape) -> StorePath:
        return self._array.store_path / self.key(cell)


def _cells(grid: Shape) -> Iterator[Shape]:
    """All cells of a grid, one by one: metadata may claim any number."""
    if not grid:
        yield ()
    elif all(grid):
        for index in range(grid[0]):
            yield from ((index, *rest) for rest in _cells(grid[1:]))
