"""An array's metadata is judged before anything that it names is run, read or allocated."""

from __future__ import annotations

import math
import operator
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from lazychunks.errors import UntrustedArrayError
from lazychunks.sequences import MAX_CHUNK_BYTES
from lazychunks.shapes import Shape, cell_count
from lazychunks.storage import bfloat16
from lazychunks.storage.arrays import described, parsed
from lazychunks.storage.destinations import InStore, LocalPath

if TYPE_CHECKING:
    from lazychunks.storage.arrays import Document, StoredArray

__all__ = [
    "BYTES_EACH",
    "Facts",
    "check_number",
    "document_of",
    "found",
    "judged",
    "opened",
]

_CODECS = frozenset({"bytes", "transpose", "blosc", "gzip", "zstd", "crc32c", "sharding_indexed"})
_CODECS_OF_V2 = frozenset(
    {"blosc", "bz2", "crc32", "gzip", "lz4", "lzma", "shuffle", "zlib", "zstd"}
)
_CHECKING = frozenset({"bz2", "crc32", "crc32c", "gzip", "lzma", "zlib"})
"""Codecs that keep a checksum; zstd does if it is asked to."""

_KINDS = "biufc"

BYTES_EACH = 2**11
"""Bytes that zarr needs for each chunk that it reads at the same time, whatever its size; about."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What metadata says of an array, where it says nothing unexpected."""

    shape: Shape
    dtype: np.dtype[Any]
    chunks: Shape
    """Shape of what can be read by itself."""
    unit: Shape
    """Shape of what is stored under one key: a chunk, or a shard."""
    has_checksums: bool
    """Whether a chunk that was damaged cannot be read."""


def found(place: LocalPath | InStore) -> Document | None:
    """Read the metadata of an array of Zarr 3 or 2, if there is any.

    Raises
    ------
    UntrustedArrayError
        If it is damaged, or that of a group.
    """
    try:
        for name, zarr_format in (("zarr.json", 3), (".zarray", 2)):
            value = place.read(name)
            if value is not None:
                return document_of(value, zarr_format, str(place))
    except FileNotFoundError:  # not even the directory
        pass
    return None


def document_of(value: bytes, zarr_format: int, where: str) -> Document:
    """Parse the metadata of an array.

    Raises
    ------
    UntrustedArrayError
        If it is damaged, or that of a group.
    """
    try:
        document = parsed(value)
    except RecursionError:
        document = None
    if document is None or document.get("zarr_format") != zarr_format:
        raise UntrustedArrayError(
            f"the metadata of {where} is damaged: it is no JSON object of Zarr {zarr_format}"
        )
    if document.get("node_type", "array") != "array":
        raise UntrustedArrayError(f"{where} holds a zarr group; name an array within it")
    return document


def opened(place: LocalPath | InStore, max_chunk_bytes: int) -> tuple[StoredArray, Facts]:
    """Open an array whose metadata promises nothing unexpected.

    Raises
    ------
    FileNotFoundError
        If there is none.
    UntrustedArrayError
        As :func:`judged`, or if zarr finds more wrong with it.
    """
    document = found(place)
    if document is None:
        raise FileNotFoundError(
            f"there is no Zarr array at {place}; if a write there was killed, nothing was published"
        )
    facts = judged(document, str(place), max_chunk_bytes)
    try:
        return described(place.in_store(read_only=True), document), facts
    except Exception as error:
        raise UntrustedArrayError(f"zarr refuses the metadata of {place}: {error}") from error


def judged(document: Document, where: str, max_chunk_bytes: int = sys.maxsize) -> Facts:
    """Return the facts of an array whose metadata promises nothing unexpected.

    Raises
    ------
    UntrustedArrayError
        If it names a codec or dtype that is not known to be harmless, a chunk too large, or a shard
        of too many.
    """
    old = document.get("zarr_format") == 2
    try:
        names, has_checksums, dtype, chunks, unit = (_parts_of_v2 if old else _parts)(document)
        shape = tuple(operator.index(length) for length in document["shape"])
        lawful = all(extent > 0 for extent in chunks) and len(chunks) == len(unit) == len(shape)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise UntrustedArrayError(f"the metadata of {where} is damaged: {error!r}") from error
    unknown = sorted({*names} - (_CODECS_OF_V2 if old else _CODECS))
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
    check_number(cell_count(unit, chunks), f"one shard of {where}", max_chunk_bytes)
    return Facts(shape, dtype, chunks, unit, has_checksums)


def check_number(chunks: int, what: str, max_chunk_bytes: int) -> None:
    """Refuse what consists of more chunks than could be read at the same time.

    Raises
    ------
    UntrustedArrayError
        If they are too many, be they as small as they may.
    """
    most = max(max_chunk_bytes, MAX_CHUNK_BYTES) // BYTES_EACH
    if chunks > most:
        raise UntrustedArrayError(
            f"{what} consists of {chunks} chunks, more than {most}; raise max_chunk_bytes to "
            f"{chunks * BYTES_EACH} if you trust its origin and have the memory"
        )


_Parts: TypeAlias = tuple[list[str], bool, np.dtype[Any] | None, Shape, Shape]
"""Names of codecs, whether one checks, dtype, and shapes of a chunk and of what has a key."""


def _parts(document: Document) -> _Parts:
    """Parts of Zarr 3 metadata; codecs within shards are among them."""
    grid = document["chunk_grid"]
    names = [] if grid["name"] == "regular" else [f"chunk grid {grid['name']}"]
    if document.get("storage_transformers"):
        names.append("storage transformers")
    keys = document["chunk_key_encoding"]["name"]
    names += [] if keys in ("default", "v2") else [f"chunk keys {keys}"]
    chunks = unit = grid["configuration"]["chunk_shape"]
    if any(operator.index(extent) < 1 for extent in chunks):
        raise ValueError(f"chunk shape {chunks}")
    codecs = document["codecs"]
    pending = [*codecs]
    has_checksums = False
    while pending:
        codec = pending.pop()
        names.append(str(codec["name"]))
        has_checksums |= _checks(codec["name"], codec.get("configuration") or {})
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
    dtype = _dtype(document["data_type"])
    return names, has_checksums, dtype, _shape(chunks), _shape(unit)


def _parts_of_v2(document: Document) -> _Parts:
    """Parts of Zarr 2 metadata."""
    compressor = document.get("compressor")
    filters: Iterable[Any] = document.get("filters") or ()
    codecs = [*filters, *([compressor] if compressor else [])]
    names = [str(codec["id"]) for codec in codecs]
    has_checksums = any(_checks(codec["id"], codec) for codec in codecs)
    chunks = _shape(document["chunks"])
    return names, has_checksums, _dtype(document["dtype"]), chunks, chunks


def _shape(extents: Iterable[Any]) -> Shape:
    return tuple(map(operator.index, extents))


def _checks(name: object, settings: Document) -> bool:
    """Whether a codec keeps a checksum of what it encodes."""
    return name in _CHECKING or (name == "zstd" and bool(settings.get("checksum")))


def _dtype(name: object) -> np.dtype[Any] | None:
    """Return the dtype of a name, if it is one of numbers of a fixed size."""
    if name == bfloat16.NAME:
        return bfloat16.register()
    try:
        dtype = np.dtype(name) if isinstance(name, str) else None
    except TypeError:
        return None
    return dtype if dtype is not None and dtype.kind in _KINDS else None
