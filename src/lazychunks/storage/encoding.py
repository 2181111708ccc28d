"""The short way of a chunk to its file: encoded and written by the thread that has it.

zarr's own way of a chunk leads through an event loop and its thread pool, and costs as much again
as compressing and writing. Where the layout is the usual one (no shards, no filters, zstd or no
compression, a local directory), the same bytes can be made and written at once; a test holds them
against zarr's. For everything else there is zarr's way.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

import numpy as np
from numcodecs.zstd import Zstd
from numpy.typing import NDArray
from zarr.storage import LocalStore

from lazychunks.shapes import Shape, overlaps

if TYPE_CHECKING:
    from zarr.abc.store import Store

    from lazychunks.storage.arrays import Document
    from lazychunks.storage.assembly import Filled

__all__ = ["ChunkFiles", "is_usual", "keep_freed_memory"]

Encode = Callable[[NDArray[Any]], Any]


@dataclass(frozen=True, slots=True)
class ChunkFiles:
    """Writes the chunks of one array to files."""

    root: Path
    """Directory of the array."""
    chunks: Shape
    """Shape of a chunk."""
    encode: Encode
    """Makes the bytes of a chunk of its values."""
    atomic: bool
    """Whether a file appears whole or not at all, as it must where another run may go on with what
    is there; it costs a rename."""

    @classmethod
    def of(cls, store: Store, document: Document, *, atomic: bool = True) -> ChunkFiles | None:
        """Return a writer for an array, if its layout is the usual one."""
        if not is_usual(store, document):
            return None
        chunks = tuple(document["chunk_grid"]["configuration"]["chunk_shape"])
        return cls(store.root, chunks, _encoder(document["codecs"]), atomic)

    def write(self, filled: Filled) -> None:
        """Encode and write the chunks of a buffer."""
        data = filled.data
        starts = (span.start for span in filled.region)
        parts = map(overlaps, starts, data.shape, self.chunks)
        for meeting in product(*parts):
            piece = data[tuple(part.in_span for part in meeting)]
            index = [part.cell for part in meeting]
            self._write(index, self.encode(self._whole(piece)))

    def _whole(self, piece: NDArray[Any]) -> NDArray[Any]:
        """Pad what the array's end cuts off, as zarr does: a stored chunk is always whole."""
        if piece.shape == self.chunks:
            return np.ascontiguousarray(piece)
        chunk = np.zeros(self.chunks, piece.dtype)
        chunk[tuple(slice(0, length) for length in piece.shape)] = piece
        return chunk

    def _write(self, index: list[int], value: Any) -> None:
        file = os.path.join(self.root, "c", *map(str, index))  # hot
        partial = f"{file}.partial" if self.atomic else file
        try:
            stream = open(partial, "wb", buffering=0)  # noqa: SIM115
        except FileNotFoundError:
            os.makedirs(os.path.dirname(file), exist_ok=True)
            stream = open(partial, "wb", buffering=0)  # noqa: SIM115
        with stream:
            view = memoryview(value).cast("B")
            while view.nbytes:
                view = view[stream.write(view) :]
        if self.atomic:
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


def is_usual(store: Store, document: Document) -> TypeGuard[LocalStore]:
    """Whether chunks are files of plain values, compressed by zstd or by nothing."""
    if type(store) is not LocalStore or document["zarr_format"] != 3:
        return False
    codecs, keys = document["codecs"], document["chunk_key_encoding"]
    return (
        [codec["name"] for codec in codecs] in (["bytes"], ["bytes", "zstd"])
        and codecs[0].get("configuration", {}).get("endian", sys.byteorder) == sys.byteorder
        and isinstance(document["data_type"], str)
        and document["chunk_grid"]["name"] == "regular"
        and keys["name"] == "default"
        and keys.get("configuration", {}).get("separator", "/") == "/"
    )


def _encoder(codecs: Sequence[Document]) -> Encode:
    if len(codecs) == 1:
        return _bytes_of
    settings = codecs[1]["configuration"]
    codec = Zstd(level=settings["level"], checksum=settings["checksum"])
    return lambda chunk: codec.encode(_bytes_of(chunk))


def _bytes_of(chunk: NDArray[Any]) -> NDArray[Any]:
    return chunk.reshape(-1).view(np.uint8)
