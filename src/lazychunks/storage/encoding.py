"""The short way of a chunk to its file: encoded and written by the thread that has it.

zarr's own way of a chunk leads through an event loop and its thread pool, and costs as much again
as compressing and writing. Where the layout is the usual one (no shards, no filters, zstd or no
compression, a local directory), the same bytes can be made and written at once; a test holds them
against zarr's. For everything else there is zarr's way.
"""

from __future__ import annotations

import contextlib
import math
import os
import sys
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numcodecs.zstd import Zstd
from numpy.typing import NDArray
from zarr.storage import LocalStore

from lazychunks.shapes import Shape, overlaps

if TYPE_CHECKING:
    from zarr.abc.store import Store

    from lazychunks.storage.arrays import Document
    from lazychunks.storage.assembly import Filled

__all__ = ["ChunkFiles", "keep_freed_memory"]

Encode = Callable[[NDArray[Any]], Any]


class ChunkFiles:
    """Writes the chunks of one array to files.

    Parameters
    ----------
    root
        Directory of the array.
    chunks
        Shape of a chunk.
    encode
        Makes the bytes of a chunk of its values.
    atomic
        Whether a file appears whole or not at all, as it must where another run may go on with
        what is there; it costs a rename.
    """

    def __init__(self, root: Path, chunks: Shape, encode: Encode, *, atomic: bool) -> None:
        self._atomic = atomic
        self._root = root
        self._chunks = chunks
        self._encode = encode

    @classmethod
    def of(cls, store: Store, document: Document, *, atomic: bool = True) -> ChunkFiles | None:
        """Return a writer for an array, if its layout is the usual one."""
        encode = _encoder(document)
        keys = document["chunk_key_encoding"]
        if type(store) is not LocalStore or encode is None or keys["name"] != "default":
            return None
        if keys.get("configuration", {}).get("separator", "/") != "/":
            return None
        grid = document["chunk_grid"]
        chunks = tuple(grid["configuration"]["chunk_shape"])
        if grid["name"] != "regular":
            return None
        return cls(store.root, chunks, encode, atomic=atomic)

    def write(self, filled: Filled) -> None:
        """Encode and write the chunks of a buffer."""
        data = filled.data
        parts = [
            tuple(overlaps(span.start, length, size))
            for span, length, size in zip(filled.region, data.shape, self._chunks, strict=True)
        ]
        for meeting in product(*parts):
            piece = data[tuple(part.in_span for part in meeting)]
            index = [part.cell for part in meeting]
            self._write(index, self._encode(self._whole(piece)))

    def _whole(self, piece: NDArray[Any]) -> NDArray[Any]:
        """Pad what the array's end cuts off, as zarr does: a stored chunk is always whole."""
        if piece.shape == self._chunks:
            return np.ascontiguousarray(piece)
        chunk = np.zeros(self._chunks, piece.dtype)
        chunk[tuple(slice(0, length) for length in piece.shape)] = piece
        return chunk

    def _write(self, index: list[int], value: Any) -> None:
        file = os.path.join(self._root, "c", *map(str, index))  # hot
        partial = f"{file}.partial" if self._atomic else file
        try:
            stream = open(partial, "wb", buffering=0)  # noqa: SIM115
        except FileNotFoundError:
            os.makedirs(os.path.dirname(file), exist_ok=True)
            stream = open(partial, "wb", buffering=0)  # noqa: SIM115
        with stream:
            view = memoryview(value).cast("B")
            while view.nbytes:
                view = view[stream.write(view) :]
        if self._atomic:
            os.replace(partial, file)


def keep_freed_memory() -> None:
    """Have what compressing frees stay in the process, for the next chunk.

    A codec takes memory of the size of a chunk and frees it, and glibc gives it back to the system
    where it is above thresholds that start low. To get it anew, page by page, takes 6 % of the time
    of zstd at its default level. The thresholds rise with the largest block that was mapped and
    freed, up to 32 MiB. Where that is not so, this does nothing. Source: ``mallopt(3)``.
    """
    with contextlib.suppress(MemoryError):
        np.empty(31 * 2**20, np.uint8)


def _encoder(document: Document) -> Encode | None:
    """Return the function that encodes a chunk, where its codecs are the usual ones."""
    names = [codec["name"] for codec in document["codecs"]]
    if names not in (["bytes"], ["bytes", "zstd"]) or not _is_plain(document):
        return None
    if len(names) == 1:
        return _bytes_of
    settings = document["codecs"][1]["configuration"]
    codec = Zstd(level=settings["level"], checksum=settings["checksum"])
    return lambda chunk: codec.encode(_bytes_of(chunk))


def _bytes_of(chunk: NDArray[Any]) -> NDArray[Any]:
    return chunk.reshape(-1).view(np.uint8)


def _is_plain(document: Document) -> bool:
    """Whether values are stored as they are in memory."""
    endian = document["codecs"][0].get("configuration", {}).get("endian", sys.byteorder)
    trailing = math.prod(document["shape"][1:])
    return endian == sys.byteorder and trailing >= 0 and isinstance(document["data_type"], str)
