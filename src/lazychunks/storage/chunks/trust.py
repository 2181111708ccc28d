"""An array's metadata is judged before anything that it names is run, read or allocated."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from lazychunks.errors import UntrustedArrayError
from lazychunks.sequences import MAX_CHUNK_BYTES
from lazychunks.storage.chunks import bfloat16
from lazychunks.storage.chunks.metadata import described, parsed
from lazychunks.storage.places.protocol import Place

if TYPE_CHECKING:
    from lazychunks.storage.chunks.metadata import StoredArray
    from lazychunks.storage.keys import Keys
    from lazychunks.storage.record import Document

_CODECS = frozenset({"bytes", "transpose", "blosc", "gzip", "zstd", "crc32c", "sharding_indexed"})
_CODECS_OF_V2 = frozenset(
    {"blosc", "bz2", "crc32", "gzip", "lz4", "lzma", "shuffle", "zlib", "zstd"}
)
_CHECKING = frozenset({"bz2", "crc32", "crc32c", "gzip", "lzma", "zlib"})
"""Codecs that keep a checksum; zstd does if it is asked to."""

BYTES_EACH = 2**11
"""Bytes that zarr needs for each chunk that it reads at the same time, whatever its size; about."""


def found(place: Place) -> Document | None:
    """Read the metadata of an array of Zarr 3 or 2, if there is any.

    Raises
    ------
    UntrustedArrayError
        If it is damaged, or that of a group.
    """
    for name, zarr_format in (("zarr.json", 3), (".zarray", 2)):
        value = place.read(name)
        if value is not None:
            return document_of(value, zarr_format, str(place))
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


def opened(place: Place, max_chunk_bytes: int) -> StoredArray:
    """Open an array whose metadata promises nothing unexpected.

    Raises
    ------
    FileNotFoundError
        If there is none.
    UntrustedArrayError
        As :func:`judged`.
    """
    document = found(place)
    if document is None:
        raise FileNotFoundError(
            f"there is no Zarr array at {place}; if a write there was killed, nothing was published"
        )
    return judged(place.in_store(read_only=True), document, str(place), max_chunk_bytes)


def judged(
    where: Keys, document: Document, place: str, max_chunk_bytes: int = sys.maxsize
) -> StoredArray:
    """Return the array that metadata describes, if that promises nothing unexpected.

    Raises
    ------
    UntrustedArrayError
        If it names a codec or dtype that is not known to be harmless, or a chunk too large, or a
        shard of too many, or if zarr finds more wrong with it.
    """
    try:
        known = _CODECS_OF_V2 if document.get("zarr_format") == 2 else _CODECS
        unknown = sorted({name for name, _ in _codecs(document)} - known)
    except (AttributeError, KeyError, TypeError) as error:
        raise UntrustedArrayError(f"the metadata of {place} is damaged: {error!r}") from error
    if unknown:
        raise UntrustedArrayError(
            f"{place} is stored with {', '.join(unknown)}, which may run code or is not known "
            "here; read it with zarr itself if you trust its origin"
        )
    try:
        array = described(where, document)
    except ImportError:
        raise  # that of ml_dtypes
    except Exception as error:
        raise UntrustedArrayError(f"zarr refuses the metadata of {place}: {error}") from error
    dtype, shape, chunks = array.dtype, array.shape, array.chunks
    if (
        not (dtype.kind in "biufc" or dtype.name == bfloat16.NAME)
        or not all(0 <= length <= sys.maxsize for length in shape)
        or not all(extent > 0 for extent in (*chunks, *(array.shards or ())))
        or len(chunks) != len(shape)
    ):
        raise UntrustedArrayError(
            f"{place} has dtype {dtype}, shape {shape} and chunks {chunks}, expected numbers of a "
            "fixed size in positive chunks"
        )
    size = math.prod(chunks) * dtype.itemsize
    if size > max_chunk_bytes:
        raise UntrustedArrayError(
            f"one chunk of {place} has {size} bytes, more than max_chunk_bytes={max_chunk_bytes}; "
            "raise that if you trust its origin and have the memory"
        )
    for name, settings in _codecs(document):
        if name == "sharding_indexed":
            number = math.prod(array.shards or chunks) // max(math.prod(settings["chunk_shape"]), 1)
            check_number(number, f"one shard of {place}", max_chunk_bytes)
    return array


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


def has_checksums(document: Document) -> bool:
    """Whether a chunk that was damaged cannot be read."""
    return any(
        name in _CHECKING or (name == "zstd" and bool(settings.get("checksum")))
        for name, settings in _codecs(document)
    )


def _codecs(document: Document) -> Iterator[tuple[str, Document]]:
    """Names and settings of codecs, those within shards included, and names of all else that runs.

    Names of what is always harmless may be left out.
    """
    if document["zarr_format"] == 2:
        for codec in (*(document.get("filters") or ()), document.get("compressor")):
            if codec is not None:
                yield str(codec["id"]), codec
        return
    grid, keys = document["chunk_grid"]["name"], document["chunk_key_encoding"]["name"]
    if grid != "regular":
        yield f"chunk grid {grid}", {}
    if keys not in ("default", "v2"):
        yield f"chunk keys {keys}", {}
    if document.get("storage_transformers"):
        yield "storage transformers", {}
    pending: list[Any] = [*document["codecs"]]
    while pending:
        codec = pending.pop()
        settings: Any = codec.get("configuration") or {}
        yield str(codec["name"]), settings
        if codec["name"] == "sharding_indexed":
            pending += settings["codecs"]
            for each in settings.get("index_codecs", ()):
                if each["name"] not in ("bytes", "crc32c"):
                    yield f"{each['name']} for an index", {}
