"""Blocks read back from an array, which need not be trusted: its metadata is judged first."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar, overload

import zarr

from lazychunks.ahead import Ahead, AheadRows
from lazychunks.errors import UntrustedArrayError
from lazychunks.shapes import Shape, fit_extent
from lazychunks.sources import Mapped, Product
from lazychunks.storage.destinations import located
from lazychunks.storage.filing import Reader
from lazychunks.storage.judging import judged, opened
from lazychunks.storage.options import Destination
from lazychunks.storage.plan import MERGE_BELOW
from lazychunks.storage.publishing import MetadataLast

if TYPE_CHECKING:
    from lazychunks.converters import FromNumpy
    from lazychunks.storage.arrays import StoredArray

    Source: TypeAlias = Destination | StoredArray

__all__ = ["Spans", "read_flat", "read_nested"]

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

READ_AHEAD = 2
"""Number of blocks read ahead of their consumer."""


def read_flat(
    source: Source, converter: FromNumpy[T], rows: int | None, max_chunk_bytes: int
) -> tuple[Ahead[T], int]:
    """Return the factory of the blocks of an array along axis 0, and their number."""
    array, chunks = _opened(source, 1, max_chunk_bytes)
    trailing = _bytes_across(array, 1, max_chunk_bytes)
    merged = min(MERGE_BELOW, max_chunk_bytes)
    if rows is None:
        rows = fit_extent(chunks[0], trailing, merged, max_chunk_bytes)
    spans = Spans(array.shape[0], _positive(rows, "rows"))
    read = _Read(Reader.of(array), converter)
    return Ahead(Mapped(read, spans), None, READ_AHEAD), len(spans)


def read_nested(
    source: Source,
    converter: FromNumpy[T],
    rows: int | None,
    columns: int | None,
    max_chunk_bytes: int,
) -> tuple[AheadRows[T], int]:
    """Return the factory of the blocks of an array along axes 0 and 1, and the number of rows."""
    array, chunks = _opened(source, 2, max_chunk_bytes)
    trailing = _bytes_across(array, 2, max_chunk_bytes)
    merged = min(MERGE_BELOW, max_chunk_bytes)
    if rows is None:
        rows = fit_extent(chunks[0], trailing, 0, max_chunk_bytes)
    below = Spans(array.shape[0], _positive(rows, "rows"))
    if columns is None:
        columns = fit_extent(chunks[1], rows * trailing, merged, max_chunk_bytes)
    across = Spans(array.shape[1], _positive(columns, "columns"))
    read = _Read(Reader.of(array), converter)
    return AheadRows(Product(read, below, across), None, READ_AHEAD), len(below)


@dataclass(frozen=True, slots=True)
class Spans(Sequence[slice]):
    """The slices that cut an axis into pieces of one size, of which the last may be smaller.

    An axis of length zero is one piece: a block without elements still tells shape and dtype.
    The slices are made when asked for: metadata may claim any length.
    """

    length: int
    size: int

    def __len__(self) -> int:
        return len(self._starts)

    @overload
    def __getitem__(self, index: int) -> slice: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[slice]: ...
    def __getitem__(self, index: int | slice) -> slice | Sequence[slice]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        start = self._starts[index]
        return slice(start, min(start + self.size, self.length))

    @property
    def _starts(self) -> range:
        return range(0, max(self.length, 1), self.size)


@dataclass(frozen=True, slots=True)
class _Read(Generic[T_co]):
    """Reads one region of an array and converts it."""

    reader: Reader
    converter: FromNumpy[T_co]

    def __call__(self, *spans: slice) -> T_co:
        array = self.reader.array
        MetadataLast.note_read(array)
        rest = (slice(0, length) for length in array.shape[len(spans) :])
        return self.converter.from_numpy(self.reader((*spans, *rest)))


def _opened(source: Source, axes: int, max_chunk_bytes: int) -> tuple[StoredArray, Shape]:
    """Judge an array by its metadata, and open it; its chunk shape comes along."""
    _positive(max_chunk_bytes, "max_chunk_bytes")
    if isinstance(source, zarr.Array):
        array: StoredArray = source
        where = str(array.store_path)
        metadata: Any = array.metadata  # of Zarr 2 or 3
        facts = judged(metadata.to_dict(), where, max_chunk_bytes)
    else:
        place = located(source)
        where = str(place)
        array, facts = opened(place, max_chunk_bytes)
    if len(facts.shape) < axes:
        raise ValueError(
            f"{where} has {len(facts.shape)} axes, a {'nested' if axes == 2 else 'flat'} sequence "
            f"needs at least {axes}"
        )
    return array, facts.chunks


def _bytes_across(array: StoredArray, axes: int, max_chunk_bytes: int) -> int:
    """Bytes of the smallest block along some axes, which is whole along the others.

    Raises
    ------
    UntrustedArrayError
        If not even that is small enough: chunks may be missing, and are filled in memory.
    """
    size = math.prod(array.shape[axes:]) * array.dtype.itemsize
    if size > max_chunk_bytes:
        raise UntrustedArrayError(
            f"one {'row' if axes == 1 else 'cell of axes 0 and 1'} of an array of shape "
            f"{array.shape} has {size} bytes, more than max_chunk_bytes={max_chunk_bytes}; raise "
            "that if you trust its origin and have the memory"
        )
    return size


def _positive(number: int, name: str) -> int:
    try:
        size = operator.index(number)
    except TypeError:
        raise TypeError(f"{name} must be an integer, got {number!r}") from None
    if size < 1:
        raise ValueError(f"{name} must be at least 1, got {number}")
    return size
