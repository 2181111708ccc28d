"""Checks an array's metadata before anything that it names is run, read or allocated."""

from __future__ import annotations

import math
import os
import stat
import sys
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol

from zarr.abc.store import RangeByteRequest
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync
from zarr.storage import StorePath

from lazychunks.errors import UntrustedArrayError
from lazychunks.layout.plan import MAX_CHUNK_BYTES
from lazychunks.storage.chunks import bfloat16
from lazychunks.storage.chunks.dtypes import is_numeric, is_time
from lazychunks.storage.chunks.metadata import open_array
from lazychunks.storage.keys import Keys
from lazychunks.storage.places.location import locate
from lazychunks.storage.resuming.record import Document, parse

if TYPE_CHECKING:
    from lazychunks.storage.chunks.metadata import StoredArray

_BYTES_OF_NUMCODECS = {"blosc", "bz2", "crc32", "gzip", "lz4", "lzma", "shuffle", "zlib", "zstd"}
"""Codecs of numcodecs that only compress, or check."""

_NUMBERS_OF_NUMCODECS = {"bitround", "delta", "fixedscaleoffset", "quantize"}
"""Codecs of numcodecs that only compute with numbers."""

_CODECS = {
    2: _BYTES_OF_NUMCODECS,
    3: {"bytes", "transpose", "blosc", "gzip", "zstd", "crc32c", "sharding_indexed"}.union(
        f"numcodecs.{name}" for name in _BYTES_OF_NUMCODECS | _NUMBERS_OF_NUMCODECS
    ),
}
"""Codecs that are known to be harmless, by version of Zarr."""

_CHECKSUMS = frozenset({"bz2", "crc32", "crc32c", "gzip", "lzma", "zlib"})
"""Codecs that keep a checksum; zstd does if its settings say so."""

MOST_METADATA_BYTES = 2**22
"""Bytes of metadata, above which they are not read."""

MOST_LISTED = 64
"""Length of a list in metadata, such as the shape: NumPy has no array of more axes."""

MOST_LISTED_IN_ALL = 512
"""Length of all lists together, such as those of the codecs in shards within shards."""

BYTES_PER_CHUNK = 2**14
"""Share of ``max_chunk_bytes`` for each chunk that is read at the same time, however small it is.

zarr needs some 2 KiB and 0.2 ms for each (measured): the 2^16 chunks that 1 GiB allows take 13 s.
"""


class Location(Protocol):
    """A place, as far as reading from it goes; its ``str`` is its name for messages."""

    def in_store(self, *, read_only: bool) -> Keys:
        """Return the same place as one in a zarr store."""
        ...


def read_metadata(place: Location) -> Document | None:
    """Read the metadata of an array of Zarr 3 or 2; None if there is no array.

    Raises
    ------
    UntrustedArrayError
        If it is damaged, or that of a group.
    """
    for name, zarr_format in (("zarr.json", 3), (".zarray", 2)):
        value = _read_bounded(place.in_store(read_only=True), name, str(place))
        if value is not None:
            return parse_metadata(value, zarr_format, str(place))
    return None


def parse_metadata(value: bytes, zarr_format: int, name: str) -> Document:
    """Parse the metadata of an array; raises as :func:`read_metadata` does."""
    try:
        document = parse(value)
    except RecursionError:  # lists in lists, thousands deep
        document = None
    if document is None or document.get("zarr_format") != zarr_format:
        raise UntrustedArrayError(
            f"the metadata of {name} is damaged: it is no JSON object of Zarr {zarr_format}"
        )
    if document.get("node_type", "array") != "array":
        raise UntrustedArrayError(f"{name} holds a zarr group; name an array within it")
    return document


def open_checked(place: Location, max_chunk_bytes: int) -> StoredArray:
    """Open an array whose metadata promises nothing unexpected.

    Raises
    ------
    FileNotFoundError
        If there is none.
    UntrustedArrayError
        As :func:`check_metadata`.
    """
    document = read_metadata(place)
    if document is None:
        raise FileNotFoundError(
            f"there is no Zarr array at {place}; if a write there was killed, nothing was published"
        )
    return check_metadata(place.in_store(read_only=True), document, str(place), max_chunk_bytes)


def check_metadata(
    where: Keys, document: Document, name: str, max_chunk_bytes: int = sys.maxsize
) -> StoredArray:
    """Return the array that metadata describes, if that promises nothing unexpected.

    Raises
    ------
    UntrustedArrayError
        If it has too many axes or codecs, names a codec, an extension or a dtype that is not known
        to be harmless, a chunk too large, or a shard of too many chunks, or if zarr refuses it.
    """
    try:
        # First, and before zarr parses them.
        _check_lists(document, name)
        known = _CODECS[2 if document.get("zarr_format") == 2 else 3]
        names = {codec for codec, _ in codecs(document)}
        unknown = sorted(names - known | {*unknown_extensions(document)})
    except (AttributeError, KeyError, TypeError) as error:
        raise UntrustedArrayError(f"the metadata of {name} is damaged: {error!r}") from error
    if unknown:
        raise UntrustedArrayError(
            f"{name} is stored with {', '.join(unknown)}, which may run code or is not known "
            "here; read it with zarr itself if you trust its origin"
        )
    try:
        array = open_array(where, document)
    except ImportError:
        raise  # ml_dtypes is not installed: the message says how to install it
    except Exception as error:
        raise UntrustedArrayError(f"zarr refuses the metadata of {name}: {error}") from error
    dtype, shape, chunks = array.dtype, array.shape, array.chunks
    if (
        not (is_numeric(dtype) or is_time(dtype) or dtype.name == bfloat16.NAME)
        or not all(0 <= length <= sys.maxsize for length in shape)
        or not all(extent > 0 for extent in (*chunks, *(array.shards or ())))
        or len(chunks) != len(shape)
    ):
        raise UntrustedArrayError(
            f"{name} has dtype {dtype}, shape {shape} and chunks {chunks}, expected numbers or "
            "times of a fixed size in positive chunks"
        )
    size = math.prod(chunks) * dtype.itemsize
    if size > max_chunk_bytes:
        raise UntrustedArrayError(
            f"one chunk of {name} has {size} bytes, more than max_chunk_bytes={max_chunk_bytes}; "
            "raise that if you trust its origin and have the memory"
        )
    for codec, settings in codecs(document):
        # zarr reads the whole index of a shard, and makes a task for each chunk in it.
        if codec == "sharding_indexed":
            number = math.prod(array.shards or chunks) // max(math.prod(settings["chunk_shape"]), 1)
            check_chunk_count(number, f"one shard of {name}", max_chunk_bytes)
    return array


def check_chunk_count(chunks: int, what: str, max_chunk_bytes: int) -> None:
    """Refuse what consists of more chunks than can be read at the same time.

    Raises
    ------
    UntrustedArrayError
        If there are too many, however small they are.
    """
    most = max(max_chunk_bytes, MAX_CHUNK_BYTES) // BYTES_PER_CHUNK
    if chunks > most:
        raise UntrustedArrayError(
            f"{what} consists of {chunks} chunks, more than {most}; raise max_chunk_bytes to "
            f"{chunks * BYTES_PER_CHUNK} if you trust its origin and have the time and memory"
        )


def has_checksums(document: Document) -> bool:
    """Whether a chunk that was damaged cannot be read."""
    return any(
        name in _CHECKSUMS or (name == "zstd" and bool(settings.get("checksum")))
        for name, settings in codecs(document)
    )


def codecs(document: Document) -> Iterator[tuple[str, Document]]:
    """Names and settings of all codecs, those within shards included."""
    if document["zarr_format"] == 2:
        for codec in (*(document.get("filters") or ()), document.get("compressor")):
            if codec is not None:
                yield str(codec["id"]), codec
        return
    pending: list[Document] = [*document["codecs"]]
    while pending:
        codec = pending.pop()
        settings: Document = codec.get("configuration") or {}
        yield str(codec["name"]), settings
        if codec["name"] == "sharding_indexed":
            pending += settings["codecs"]


def unknown_extensions(document: Document) -> Iterator[str]:
    """Extension points of Zarr 3, other than codecs, with a value that may run unknown code."""
    if document["zarr_format"] == 2:
        return
    grid, keys = document["chunk_grid"]["name"], document["chunk_key_encoding"]["name"]
    if grid != "regular":
        yield f"chunk grid {grid}"
    if keys not in ("default", "v2"):
        yield f"chunk keys {keys}"
    if document.get("storage_transformers"):
        yield "storage transformers"
    for name, settings in codecs(document):
        if name == "sharding_indexed":
            # An index is decoded by codecs of its own, of which zarr writes these two only.
            for codec in settings.get("index_codecs", ()):
                if codec["name"] not in ("bytes", "crc32c"):
                    yield f"{codec['name']} for an index"


def _read_bounded(where: Keys, name: str, place: str) -> bytes | None:
    """Read a value of metadata, unless it has more bytes than any metadata need."""
    too_large = UntrustedArrayError(
        f"the metadata of {place} have more than {MOST_METADATA_BYTES} bytes, or no end; read the "
        "array with zarr itself if you trust its origin"
    )
    store, key = where.store, where.key(name)
    location = locate(store, where.path)
    if location.root == "file":
        # Reading a FIFO waits for a writer, and a device may have no end.
        with suppress(OSError):
            found = os.stat(f"/{location.path}/{name}")
            is_endless = not (stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode))
            if is_endless or found.st_size > MOST_METADATA_BYTES:
                raise too_large
        return where.read(name)

    async def read_part() -> bytes | None:
        await StorePath.open(store, where.path)  # reading does not always open it
        part = RangeByteRequest(0, MOST_METADATA_BYTES + 1)
        value = await store.get(key, default_buffer_prototype(), part)
        return None if value is None else value.to_bytes()

    try:
        value = sync(read_part())
    except FileNotFoundError:  # not even the directory, or the file
        return None
    except Exception:  # noqa: BLE001  # some stores refuse to read a part of an empty value
        return where.read(name)
    if value is not None and len(value) > MOST_METADATA_BYTES:
        raise too_large
    return value


def _check_lists(document: Document, name: str) -> None:
    """Refuse longer lists (of lengths, extents, codecs) than any array needs.

    zarr takes minutes for 100,000 axes or codecs, and then fails by an error without a type.
    """
    pending: list[Any] = [value for key, value in document.items() if key != "attributes"]
    count = 0
    while pending:
        part = pending.pop()
        if type(part) is dict:
            pending += part.values()
        elif type(part) in (list, tuple):
            count += len(part)
            if len(part) > MOST_LISTED or count > MOST_LISTED_IN_ALL:
                raise UntrustedArrayError(
                    f"the metadata of {name} list more than the {MOST_LISTED} axes or codecs that "
                    f"an array can have, or {MOST_LISTED_IN_ALL} in all"
                )
            pending += part
