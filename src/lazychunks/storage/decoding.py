"""The short way of a chunk from its file: read and decoded by the thread that wants it.

zarr's own way leads through one event loop and a copy, so that two threads read hardly faster than
one. Where the layout is the usual one (a local directory, no shards, no filters, zstd or no
compression), a chunk can be decompressed right into the block. Whatever is unusual about a chunk
(it is missing, damaged, of another size), zarr's way is asked for the value, or for the error.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
from numcodecs.zstd import Zstd
from numpy.typing import NDArray

from lazychunks.shapes import Shape, overlaps
from lazychunks.storage.encoding import is_usual

if TYPE_CHECKING:
    from lazychunks.storage.arrays import Document, StoredArray

__all__ = ["ChunkReader", "content_size"]


@dataclass(frozen=True, slots=True)
class ChunkReader:
    """Reads the chunks of one array from their files."""

    root: str
    """Directory of the chunks."""
    shape: Shape
    chunks: Shape
    dtype: np.dtype[Any]
    compressed: bool

    @classmethod
    def of(cls, array: StoredArray) -> ChunkReader | None:
        """Return a reader for an array, if its layout is the usual one."""
        metadata: Any = array.metadata  # of Zarr 2 or 3
        document: Document = metadata.to_dict()
        store = array.store
        if not (is_usual(store, document) and array.dtype.isnative):
            return None
        root = os.path.join(store.root, array.path, "c")
        return cls(root, array.shape, array.chunks, array.dtype, len(document["codecs"]) == 2)

    def read(self, spans: Sequence[slice]) -> NDArray[Any] | None:
        """Return a region, whole along the axes that have no span; None if it is for zarr to read.

        The region must lie within the array.
        """
        starts = (*(span.start for span in spans), *(0 for _ in self.shape[len(spans) :]))
        lengths = (*(span.stop - span.start for span in spans), *self.shape[len(spans) :])
        block = np.empty(lengths, self.dtype)
        parts = map(overlaps, starts, lengths, self.chunks)
        try:
            for meeting in product(*parts):
                part = block[tuple(axis.in_span for axis in meeting)]
                whole = part.shape == self.chunks and part.flags.c_contiguous
                chunk = part if whole else np.empty(self.chunks, self.dtype)
                self._fill(chunk, [str(axis.cell) for axis in meeting])
                if not whole:
                    part[...] = chunk[tuple(axis.in_cell for axis in meeting)]
        except (OSError, RuntimeError, ValueError):
            return None
        return block

    def _fill(self, chunk: NDArray[Any], index: list[str]) -> None:
        values = chunk.reshape(-1).view(np.uint8)
        with open(os.path.join(self.root, *index), "rb", buffering=0) as file:
            if self.compressed:
                frame = file.read()
                if content_size(frame) != values.size:
                    raise ValueError(index)
                Zstd().decode(frame, values)
            elif os.fstat(file.fileno()).st_size != values.size:
                raise ValueError(index)
            else:
                rest = values.data
                while rest and (count := file.readinto(rest)):
                    rest = rest[count:]
                if rest:
                    raise ValueError(index)


def content_size(frame: bytes) -> int | None:
    """Number of bytes that a zstd frame says it holds, if it does (RFC 8878, section 3.1.1.1).

    numcodecs refuses more than there is room for, and takes less without a word.
    """
    if len(frame) < 5 or frame[:4] != b"\x28\xb5\x2f\xfd":
        return None
    flags = frame[4]
    is_single = flags >> 5 & 1
    width = (is_single, 2, 4, 8)[flags >> 6]
    start = 6 - is_single + (0, 1, 2, 4)[flags & 3]
    size = int.from_bytes(frame[start : start + width], "little")
    return (size + 256 if width == 2 else size) if width else None
