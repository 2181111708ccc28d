"""The short way of a chunk to its file and back, taken by the thread that has it or wants it.

zarr's own way leads through an event loop and its thread pool: to write a chunk costs as much again
as compressing it, and two threads read hardly faster than one. Where the layout is the usual one
(no shards, no filters, zstd or no compression, a local directory), the same bytes can be made and
written at once, and decompressed right into a block; a test holds them against zarr's. For
everything else there is zarr's way.
"""

from __future__ import annotations

import contextlib
import os
import stat
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any, TypeGuard

import numpy as np
from numcodecs.zstd import Zstd
from numpy.typing import NDArray
from zarr.storage import LocalStore

from lazychunks.errors import UntrustedArrayError
from lazychunks.layout.shapes import Region, Shape, overlaps, region_shape

if TYPE_CHECKING:
    from io import FileIO

    from zarr.abc.store import Store
    from zarr.storage import StorePath

    from lazychunks.storage.assembly import Filled
    from lazychunks.storage.chunks.metadata import StoredArray
    from lazychunks.storage.keys import Keys
    from lazychunks.storage.record import Document


@dataclass(frozen=True, slots=True)
class ChunkFiles:
    """Writes the chunks of one array to files, and reads them."""

    root: str
    """Directory of the chunks."""
    chunks: Shape
    """Shape of a chunk."""
    codec: Zstd | None
    """What compresses, if anything does."""
    atomic: bool
    """Whether a file appears whole or not at all, as it must where another run may go on with what
    is there; it costs a rename."""

    @classmethod
    def of(
        cls, where: Keys | StorePath, document: Document, *, atomic: bool = True
    ) -> ChunkFiles | None:
        """Return the files of an array, if its layout is the usual one."""
        if not _is_usual(where.store, document):
            return None
        codecs = document["codecs"]
        chunks = tuple(document["chunk_grid"]["configuration"]["chunk_shape"])
        zstd = _zstd(codecs[1]["configuration"]) if len(codecs) == 2 else None
        return cls(os.path.join(where.store.root, where.path, "c"), chunks, zstd, atomic)

    def write(self, filled: Filled) -> None:
        """Encode and write the chunks of a buffer."""
        data = filled.data
        for file, in_data, in_chunk in self._parts(filled.region):
            piece = data[in_data]
            if piece.shape == self.chunks:
                chunk = np.ascontiguousarray(piece)
            else:  # at the array's end: a stored chunk is always whole
                chunk = np.zeros(self.chunks, piece.dtype)
                chunk[in_chunk] = piece
            values = _bytes_of(chunk)
            self._write(file, values if self.codec is None else self.codec.encode(values))

    def read(self, region: Region, dtype: np.dtype[Any], missing: object) -> NDArray[Any]:
        """Return a region, which must lie within the array; a missing chunk reads as a fill value.

        Raises
        ------
        UntrustedArrayError
            If a file holds more than a chunk, for which no memory is taken.
        RuntimeError, ValueError
            If it is damaged.
        """
        block = np.empty(region_shape(region), dtype)
        for file, in_block, in_chunk in self._parts(region):
            part = block[in_block]
            whole = part.shape == self.chunks and part.flags.c_contiguous
            chunk = part if whole else np.empty(self.chunks, dtype)
            try:
                with open(file, "rb", buffering=0) as stream:
                    self._fill(_bytes_of(chunk), stream, file)
            except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
                part[...] = missing
            else:
                if not whole:
                    part[...] = chunk[in_chunk]
        return block

    def _parts(self, region: Region) -> Iterator[tuple[str, Region, Region]]:
        """Of each chunk that a region touches: its file, and what they share, seen from both."""
        spans = (
            overlaps(span.start, span.stop - span.start, size)
            for span, size in zip(region, self.chunks, strict=True)
        )
        for parts in product(*spans):  # hot
            file = os.path.join(self.root, *[str(part.cell) for part in parts])
            yield file, tuple([part.in_span for part in parts]), tuple([p.in_cell for p in parts])

    def _write(self, file: str, value: Any) -> None:
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

    def _fill(self, values: NDArray[np.uint8], stream: FileIO, file: str) -> None:
        most = values.size if self.codec is None else 2 * values.size + 2**10
        found = os.fstat(stream.fileno())
        if found.st_size > most or not stat.S_ISREG(found.st_mode):
            raise _too_large(file, values.size)
        if self.codec is None:
            rest = values.data
            while rest and (count := stream.readinto(rest)):
                rest = rest[count:]
            is_whole = not rest
        else:
            frame = stream.read()
            is_whole = content_size(frame) == values.size or not self._fits(frame, values[:-1])
            try:
                self.codec.decode(frame, values)
            except ValueError as error:
                raise _too_large(file, values.size) from error
            except RuntimeError as error:
                raise RuntimeError(f"{file} is damaged: {error}") from error
        if not is_whole:
            raise ValueError(f"{file} is damaged: it holds less than {values.size} bytes")

    def _fits(self, frame: bytes, room: NDArray[np.uint8]) -> bool:
        """Whether a frame holds no more than there is room for.

        numcodecs refuses more, by what the frame says of itself and before it allocates or decodes,
        but takes less without a word.
        """
        assert self.codec is not None
        try:
            self.codec.decode(frame, room)
        except (RuntimeError, ValueError):
            return False
        return True


@dataclass(frozen=True, slots=True)
class Reader:
    """Reads regions of an array, the short way where that can be."""

    array: StoredArray
    files: ChunkFiles | None

    @classmethod
    def of(cls, array: StoredArray) -> Reader:
        """Return the reader of an array."""
        metadata: Any = array.metadata  # of Zarr 2 or 3
        usual = array.dtype.isnative
        return cls(array, ChunkFiles.of(array.store_path, metadata.to_dict()) if usual else None)

    def __call__(self, region: Region) -> NDArray[Any]:
        """Read a region, with a slice for each axis."""
        if self.files is None:
            return np.asarray(self.array[region])
        return self.files.read(region, self.array.dtype, self.array.fill_value)


def content_size(frame: bytes) -> int | None:
    """Number of bytes that a zstd frame says it holds, if it does (RFC 8878, section 3.1.1.1)."""
    if len(frame) < 5 or frame[:4] != b"\x28\xb5\x2f\xfd":
        return None
    flags = frame[4]
    is_single = flags >> 5 & 1
    width = (is_single, 2, 4, 8)[flags >> 6]
    start = 6 - is_single + (0, 1, 2, 4)[flags & 3]
    size = int.from_bytes(frame[start : start + width], "little")
    return (size + 256 if width == 2 else size) if width else None


def keep_freed_memory() -> None:
    """Have what compressing frees stay in the process, for the next chunk.

    A codec takes memory of the size of a chunk and frees it, and glibc gives it back to the system
    where it is above thresholds that start low. To get it anew, page by page, takes 6 % of the time
    of zstd at its default level. The thresholds rise with the largest block that was mapped and
    freed, up to 32 MiB. Where that is not so, this does nothing. Source: ``mallopt(3)``.
    """
    with contextlib.suppress(MemoryError):
        np.empty(31 * 2**20, np.uint8)


def _is_usual(store: Store, document: Document) -> TypeGuard[LocalStore]:
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


def _zstd(settings: Document) -> Zstd:
    return Zstd(level=settings["level"], checksum=settings["checksum"])


def _bytes_of(chunk: NDArray[Any]) -> NDArray[np.uint8]:
    return chunk.reshape(-1).view(np.uint8)


def _too_large(file: str, size: int) -> UntrustedArrayError:
    return UntrustedArrayError(
        f"{file} holds more than a chunk, which has {size} bytes; it is damaged, or "
        "meant to exhaust memory"
    )
