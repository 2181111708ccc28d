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

from lazychunks.ahead import Ahead
from lazychunks.progress import is_shown, with_bar
from lazychunks.sequences import MAX_CHUNK_BYTES
from lazychunks.shapes import Region, Shape, cell_region, cut, partition_slices
from lazychunks.sources import Mapped
from lazychunks.storage.arrays import record_of
from lazychunks.storage.destinations import located
from lazychunks.storage.filing import Reader
from lazychunks.storage.judging import Facts, opened
from lazychunks.storage.options import Destination

if TYPE_CHECKING:
    from lazychunks.storage.arrays import StoredArray

__all__ = ["Verification", "verify"]

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
    place = located(source)
    array, facts = opened(place, max_chunk_bytes)
    chunks = _Chunks(array, facts, max_chunk_bytes)
    stored = sorted(chunks.stored(place.keys()))
    each = math.prod(facts.unit) * facts.dtype.itemsize
    at_once = max(min(READ_BYTES // max(each, 1), 8), 1)
    ahead: Ahead[str | None] = Ahead(Mapped(chunks.fault, stored), None, at_once)
    faults = with_bar(ahead(), len(stored), "chunk") if is_shown(progress) else ahead()
    bad = {
        chunks.key(cell): fault
        for cell, fault in zip(stored, faults, strict=True)
        if fault is not None
    }
    missing = chunks.count - len(stored)
    return Verification(
        place=str(place),
        chunks=chunks.count,
        read=len(stored),
        bad=bad,
        missing=missing,
        missing_keys=tuple(islice(chunks.missing(frozenset(stored)), min(missing, NAMED))),
        misses_none="version" in record_of(chunks.metadata.to_dict()),
        has_checksums=facts.has_checksums,
    )


class _Chunks:
    """The chunks of an array, by what is stored under one key.

    Parameters
    ----------
    array
        The array.
    facts
        What its metadata says.
    max_chunk_bytes
        Bytes up to which what is stored under one key is read at once.
    """

    def __init__(self, array: StoredArray, facts: Facts, max_chunk_bytes: int) -> None:
        self._array = array
        self._reader = Reader.of(array)
        self.metadata: Any = array.metadata  # of Zarr 2 or 3
        self._facts = facts
        unit_bytes = math.prod(facts.unit) * facts.dtype.itemsize
        self._read = facts.unit if unit_bytes <= max_chunk_bytes else facts.chunks
        self._grid = tuple(
            -(-length // extent) for length, extent in zip(facts.shape, facts.unit, strict=True)
        )
        self.count = math.prod(self._grid)

    def key(self, cell: Shape) -> str:
        """Key of a chunk, relative to the array."""
        key: str = self.metadata.encode_chunk_key(cell)
        return key

    def stored(self, keys: Iterable[str] | None) -> Iterator[Shape]:
        """Tell which chunks are there."""
        if keys is None:  # the store cannot list
            for cell in self._cells():
                if sync(self._at(cell).exists()):
                    yield cell
            return
        for key in keys:
            numbers = re.findall(r"\d{1,19}", key)[-len(self._grid) :] if self._grid else []
            cell = tuple(map(int, numbers))
            inside = len(cell) == len(self._grid) and all(map(operator.lt, cell, self._grid))
            if inside and self.key(cell) == key:
                yield cell

    def missing(self, stored: frozenset[Shape]) -> Iterator[str]:
        """Keys of the chunks that are not there."""
        return (self.key(cell) for cell in self._cells() if cell not in stored)

    def fault(self, cell: Shape) -> str | None:
        """Read a chunk, and say what is wrong with it."""
        region = cell_region(cell, self._facts.unit, self._facts.shape)
        try:
            # zarr takes a shard of no bytes for one of fill values.
            is_shard = self._facts.unit != self._facts.chunks
            if is_shard and sync(self._array.store.getsize(self._at(cell).path)) == 0:
                return "it is empty"
            for part in _parts(region, self._read):
                self._reader(part)
        except Exception as error:  # noqa: BLE001  # whatever a codec, or a store, raises
            return f"{type(error).__name__}: {error}"
        return None

    def _at(self, cell: Shape) -> StorePath:
        return self._array.store_path / self.key(cell)

    def _cells(self) -> Iterator[Shape]:
        """All cells of the grid, one by one: metadata may claim any number."""
        for number in range(self.count):
            cell: Shape = ()
            rest = number
            for length in reversed(self._grid):
                rest, index = divmod(rest, length)
                cell = (index, *cell)
            yield cell


def _parts(region: Region, size: Shape) -> Iterator[Region]:
    """Cut a region into parts of a size."""
    spans = (
        partition_slices(cut(span.stop - span.start, extent), span.start)
        for span, extent in zip(region, size, strict=True)
    )
    return product(*spans)
