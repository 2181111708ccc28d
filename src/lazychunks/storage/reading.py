"""Blocks read back from an array, which need not be trusted: its metadata is judged first."""

from __future__ import annotations

import math
import operator
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar, overload

import numpy as np
import zarr
from zarr.core.sync import sync
from zarr.storage import LocalStore, StorePath

from lazychunks.ahead import Ahead, AheadRows
from lazychunks.errors import UntrustedArrayError
from lazychunks.shapes import Shape, fit_extent
from lazychunks.sources import Mapped, Product
from lazychunks.storage import bfloat16
from lazychunks.storage.arrays import described, parsed, read_key
from lazychunks.storage.destinations import InStore, LocalPath, located
from lazychunks.storage.options import Destination
from lazychunks.storage.plan import MERGE_BELOW
from lazychunks.storage.publishing import MetadataLast

if TYPE_CHECKING:
    from zarr.abc.store import Store

    from lazychunks.converters import FromNumpy
    from lazychunks.storage.arrays import Document, StoredArray

    Source: TypeAlias = Destination | StoredArray

__all__ = ["Spans", "read_flat", "read_nested"]

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

READ_AHEAD = 2
"""Number of blocks read ahead of their consumer."""

_CODECS = frozenset({"bytes", "transpose", "blosc", "gzip", "zstd", "crc32c", "sharding_indexed"})
_CODECS_OF_V2 = frozenset(
    {"blosc", "bz2", "crc32", "gzip", "lz4", "lzma", "shuffle", "zlib", "zstd"}
)
_KINDS = "biufc"


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
    return Ahead(Mapped(_Read(array, converter), spans), None, READ_AHEAD), len(spans)


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
    factory = Product(_Read(array, converter), below, across)
    return AheadRows(factory, None, READ_AHEAD), len(below)


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

    array: StoredArray
    converter: FromNumpy[T_co]

    def __call__(self, *spans: slice) -> T_co:
        MetadataLast.note_read(self.array)
        values: Any = self.array[spans]
        return self.converter.from_numpy(np.asarray(values))


def _opened(source: Source, axes: int, max_chunk_bytes: int) -> tuple[StoredArray, Shape]:
    """Judge an array by its metadata, and open it; its chunk shape comes along."""
    _positive(max_chunk_bytes, "max_chunk_bytes")
    if isinstance(source, zarr.Array):
        array: StoredArray = source
        where = str(array.store_path)
        metadata: Any = array.metadata  # of Zarr 2 or 3
        document: Document = metadata.to_dict()
        chunks = _judged(document, where, axes, max_chunk_bytes)
        return array, chunks
    place = located(source)
    store: Store
    if isinstance(place, LocalPath):
        store, path = LocalStore(place.path, read_only=True), ""
    else:
        store, path = place.store, place.path
    prefix = f"{path}/" if path else ""
    try:
        sync(StorePath.open(store, path))  # reading does not always open it
        found = _document(store, f"{prefix}zarr.json", 3, place)
        if found is None:
            found = _document(store, f"{prefix}.zarray", 2, place)
    except FileNotFoundError:  # not even the directory
        found = None
    if found is None:
        raise FileNotFoundError(
            f"there is no Zarr array at {place}; if a write there was killed, nothing was published"
        )
    chunks = _judged(found, str(place), axes, max_chunk_bytes)
    try:
        return described(store, path, found), chunks
    except Exception as error:
        raise UntrustedArrayError(f"zarr refuses the metadata of {place}: {error}") from error


def _document(
    store: Store, key: str, zarr_format: int, place: LocalPath | InStore
) -> Document | None:
    """Read an array's metadata, if there is any."""
    value = read_key(store, key)
    if value is None:
        return None
    try:
        found = parsed(value)
    except RecursionError:
        found = None
    if found is None or found.get("zarr_format") != zarr_format:
        raise UntrustedArrayError(
            f"the metadata of {place} is damaged: {key} holds no JSON object of Zarr {zarr_format}"
        )
    if found.get("node_type", "array") != "array":
        raise UntrustedArrayError(f"{place} holds a zarr group; name an array within it")
    return found


def _judged(document: Document, where: str, axes: int, max_chunk_bytes: int) -> Shape:
    """Return the chunk shape of an array whose metadata promises nothing unexpected.

    Raises
    ------
    UntrustedArrayError
        If it names a codec or dtype that is not known to be harmless, or a chunk too large.
    ValueError
        If it has too few axes to be cut.
    """
    try:
        if document.get("zarr_format") == 2:
            codecs, dtype, chunks = _parts_of_v2(document)
        else:
            codecs, dtype, chunks = _parts(document)
        shape = tuple(operator.index(length) for length in document["shape"])
        lawful = all(extent > 0 for extent in chunks) and len(chunks) == len(shape)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise UntrustedArrayError(f"the metadata of {where} is damaged: {error!r}") from error
    unknown = sorted({*codecs} - (_CODECS_OF_V2 if document.get("zarr_format") == 2 else _CODECS))
    if unknown:
        raise UntrustedArrayError(
            f"{where} is stored with {', '.join(unknown)}, which may run code or is not known "
            "here; read it with zarr itself if you trust its origin"
        )
    if dtype is None or not lawful or not all(0 <= length <= sys.maxsize for length in shape):
        raise UntrustedArrayError(
            f"{where} has dtype {document.get('data_type', document.get('dtype'))!r}, shape "
            f"{shape} and chunks {chunks}, expected numbers of a fixed size in positive chunks"
        )
    size = math.prod(chunks) * dtype.itemsize
    if size > max_chunk_bytes:
        raise UntrustedArrayError(
            f"one chunk of {where} has {size} bytes, more than max_chunk_bytes={max_chunk_bytes}; "
            "raise that if you trust its origin and have the memory"
        )
    if len(shape) < axes:
        raise ValueError(
            f"{where} has {len(shape)} axes, a {'nested' if axes == 2 else 'flat'} sequence needs "
            f"at least {axes}"
        )
    return chunks


def _parts(document: Document) -> tuple[list[str], np.dtype[Any] | None, Shape]:
    """Codecs (those within shards too), dtype and chunk shape that Zarr 3 metadata names."""
    grid = document["chunk_grid"]
    names = [] if grid["name"] == "regular" else [f"chunk grid {grid['name']}"]
    if document.get("storage_transformers"):
        names.append("storage transformers")
    keys = document["chunk_key_encoding"]["name"]
    names += [] if keys in ("default", "v2") else [f"chunk keys {keys}"]
    chunks = grid["configuration"]["chunk_shape"]
    if any(operator.index(extent) < 1 for extent in chunks):
        raise ValueError(f"chunk shape {chunks}")
    codecs = document["codecs"]
    pending = [*codecs]
    while pending:
        codec = pending.pop()
        names.append(str(codec["name"]))
        if codec["name"] == "sharding_indexed":
            pending += codec["configuration"]["codecs"]
            of_index = {
                str(each["name"]) for each in codec["configuration"].get("index_codecs", ())
            }
            names += [f"{name} for an index" for name in of_index - {"bytes", "crc32c"}]
    # A shard can be read in parts, unless another codec beside asks for it as a whole.
    while len(codecs) == 1 and codecs[0]["name"] == "sharding_indexed":
        chunks = codecs[0]["configuration"]["chunk_shape"]
        codecs = codecs[0]["configuration"]["codecs"]
    return names, _dtype(document["data_type"]), tuple(map(operator.index, chunks))


def _parts_of_v2(document: Document) -> tuple[list[str], np.dtype[Any] | None, Shape]:
    """Codecs, dtype and chunk shape that Zarr 2 metadata names."""
    compressor = document.get("compressor")
    filters: Iterable[Any] = document.get("filters") or ()
    codecs = [str(codec["id"]) for codec in (*filters, *([compressor] if compressor else []))]
    name = document["dtype"]
    return codecs, _dtype(name), tuple(map(operator.index, document["chunks"]))


def _dtype(name: object) -> np.dtype[Any] | None:
    """Return the dtype of a name, if it is one of numbers of a fixed size."""
    if name == bfloat16.NAME:
        return bfloat16.register()
    try:
        dtype = np.dtype(name) if isinstance(name, str) else None
    except TypeError:
        return None
    return dtype if dtype is not None and dtype.kind in _KINDS else None


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
    if operator.index(number) < 1:
        raise ValueError(f"{name} must be at least 1, got {number}")
    return number
