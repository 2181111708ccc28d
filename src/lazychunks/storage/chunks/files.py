"""Direct file access: reads and writes chunk files in the calling thread, without zarr.

zarr goes through an event loop and its thread pool: writing a small chunk costs as much again as
compressing it, and two threads read hardly faster than one. Where the layout is plain (no shards,
no filters, zstd or no compression, a local directory), this module makes the same bytes, which a
test holds against zarr's, and decompresses right into a block. zarr handles any other layout.
"""

from __future__ import annotations

import os
import stat
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeGuard

import numpy as np
from numcodecs.zstd import Zstd
from numpy.typing import NDArray
from zarr.core.sync import sync
from zarr.storage import LocalStore

from lazychunks.errors import MissingChunkError, UntrustedArrayError
from lazychunks.layout.shapes import Region, Shape, region_shape
from lazychunks.storage.chunks.filled import meet_chunks
from lazychunks.storage.chunks.whole import read_frame_header

if TYPE_CHECKING:
    from io import FileIO

    from zarr.abc.store import Store
    from zarr.storage import StorePath

    from lazychunks.storage.chunks.filled import Filled
    from lazychunks.storage.chunks.metadata import StoredArray
    from lazychunks.storage.keys import Keys
    from lazychunks.storage.resuming.record import Document


@dataclass(frozen=True, slots=True)
class ChunkFiles:
    """Writes the chunks of one array to files, and reads them."""

    root: str
    """Directory of the chunks."""
    chunks: Shape
    """Shape of a chunk."""
    codec: Zstd | None
    """Compresses the values, unless they are stored as they are."""
    atomic: bool
    """Whether a file appears whole or not at all, at the cost of a rename. Without that, another
    run that goes on with the files may take half a chunk for a whole one."""
    syncs: bool = False
    """Whether a file is on the device before it takes the place of an older one."""

    @classmethod
    def of(
        cls,
        where: Keys | StorePath,
        document: Document,
        *,
        atomic: bool = True,
        syncs: bool = False,
    ) -> ChunkFiles | None:
        """Return the files of an array if its layout is plain."""
        if not is_plain_layout(where.store, document):
            return None
        chunks = tuple(document["chunk_grid"]["configuration"]["chunk_shape"])
        settings = [codec["configuration"] for codec in document["codecs"][1:]]
        codec = Zstd(settings[0]["level"], settings[0]["checksum"]) if settings else None
        return cls(os.path.join(where.store.root, where.path, "c"), chunks, codec, atomic, syncs)

    def write(self, filled: Filled) -> None:
        """Encode and write the chunks of a buffer."""
        data = filled.data
        for index, in_data, in_chunk in meet_chunks(filled.region, self.chunks):
            piece = data[in_data]
            if piece.shape == self.chunks:
                chunk = np.ascontiguousarray(piece)
            else:  # at the end of the array, where a stored chunk goes on with zeros
                chunk = np.zeros(self.chunks, piece.dtype)
                chunk[in_chunk] = piece
            values = _bytes_of(chunk)
            encoded = values if self.codec is None else self.codec.encode(values)
            self._write_file(self._file(index), encoded)

    def read(
        self, region: Region, dtype: np.dtype[Any], *, fill_value: object, refuse_missing: bool
    ) -> NDArray[Any]:
        """Return a region, which must lie within the array.

        Raises
        ------
        MissingChunkError
            If a chunk is missing, and ``refuse_missing`` is set; otherwise it has the fill value.
        UntrustedArrayError
            If a file holds more than a chunk; no memory is allocated for it.
        RuntimeError, ValueError
            If a file is damaged.
        """
        block = np.empty(region_shape(region), dtype)
        for index, in_block, in_chunk in meet_chunks(region, self.chunks):
            part = block[in_block]
            # Decoded in place where a chunk is a contiguous part of the block.
            is_direct = part.shape == self.chunks and part.flags.c_contiguous
            chunk = part if is_direct else np.empty(self.chunks, dtype)
            file = self._file(index)
            try:
                # A FIFO in place of a chunk would block until somebody writes to it.
                with open(file, "rb", buffering=0, opener=_open_nonblocking) as stream:
                    self._read_file(_bytes_of(chunk), stream, file)
            except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
                if refuse_missing:
                    raise _missing("/".join(map(str, ("c", *index))), file) from None
                part[...] = fill_value
            else:
                if not is_direct:
                    part[...] = chunk[in_chunk]
        return block

    def _file(self, index: Shape) -> str:
        return os.path.join(self.root, *map(str, index))

    def _write_file(self, file: str, value: Any) -> None:
        # Under another name first: a process that dies meanwhile leaves no half chunk.
        partial = f"{file}.partial" if self.atomic else file
        try:
            stream = open(partial, "wb", buffering=0)  # noqa: SIM115
        except FileNotFoundError:  # the first chunk in its directory
            os.makedirs(os.path.dirname(file), exist_ok=True)
            stream = open(partial, "wb", buffering=0)  # noqa: SIM115
        with stream:
            view = memoryview(value).cast("B")
            while view.nbytes:
                view = view[stream.write(view) :]
            if self.syncs:
                os.fsync(stream.fileno())
        if self.atomic:
            os.replace(partial, file)

    def _read_file(self, values: NDArray[np.uint8], stream: FileIO, file: str) -> None:
        """Decode a file into the bytes of a chunk, which it must fill exactly."""
        found = os.fstat(stream.fileno())
        # Compressors add little to what they cannot compress.
        most = values.size if self.codec is None else 2 * values.size + 2**10
        if found.st_size > most or not stat.S_ISREG(found.st_mode):
            raise _too_large(file, values.size)
        size = 0
        if self.codec is None:
            while count := stream.readinto(values[size:].data):
                size += count
        else:
            frame = stream.read()
            header = read_frame_header(frame)
            # A frame may keep its size to itself. Then numcodecs refuses any other than that of the
            # chunk; where the size is said, it fills a part of the chunk without an error.
            said = None if header is None else header.content_size
            size = values.size if said is None else said
            if size == values.size:
                try:
                    self.codec.decode(frame, values)
                except (RuntimeError, ValueError) as error:
                    raise RuntimeError(f"{file} is damaged: {error}") from error
        if size > values.size:
            raise _too_large(file, values.size)
        if size < values.size:
            raise ValueError(f"{file} is damaged: it holds {size} of {values.size} bytes")


@dataclass(frozen=True, slots=True)
class Reader:
    """Reads regions of an array, directly from files if its layout is plain."""

    array: StoredArray
    files: ChunkFiles | None
    refuse_missing: bool = False
    """Whether a missing chunk is an error, or has the fill value."""

    @classmethod
    def of(cls, array: StoredArray, *, refuse_missing: bool = False) -> Reader:
        """Return the reader of an array."""
        metadata: Any = array.metadata  # of Zarr 2 or 3
        # A file holds values in this machine's byte order, a block has that of the array.
        files = None
        if array.dtype.isnative:
            files = ChunkFiles.of(array.store_path, metadata.to_dict())
        return cls(array, files, refuse_missing)

    def __call__(self, region: Region) -> NDArray[Any]:
        """Read a region, with a slice for each axis; raises as :meth:`ChunkFiles.read` does."""
        array = self.array
        if self.files is not None:
            return self.files.read(
                region,
                array.dtype,
                fill_value=array.fill_value,
                refuse_missing=self.refuse_missing,
            )
        values = np.asarray(array[region])
        # zarr takes a missing chunk, and a shard of no bytes, for fill values without an error.
        if self.refuse_missing or array.shards:
            self._check_all_stored(region, values)
        return values

    def _check_all_stored(self, region: Region, values: NDArray[Any]) -> None:
        """Look for a chunk's key where all values that were read of it are the fill value."""
        array = self.array
        for index, in_region, _ in meet_chunks(region, array.shards or array.chunks):
            part = values[in_region]
            # By bits, as NaN does not equal itself; and by the first value, which mostly differs.
            fill_bits = np.asarray(array.fill_value, part.dtype).tobytes()
            starts_so = part.size > 0 and part.flat[0].tobytes() == fill_bits
            if starts_so and part.tobytes() == fill_bits * part.size:
                key = array.metadata.encode_chunk_key(index)
                place = array.store_path / key
                try:
                    is_empty = sync(array.store.getsize(place.path)) == 0
                except FileNotFoundError:
                    if self.refuse_missing:
                        raise _missing(key, str(place)) from None
                else:
                    if is_empty:
                        raise RuntimeError(f"{place} is damaged: it is empty")


def is_plain_layout(store: Store, document: Document) -> TypeGuard[LocalStore]:
    """Whether chunks are files of plain values in a local directory, compressed by zstd at most."""
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


def _missing(key: str, place: str) -> MissingChunkError:
    return MissingChunkError(
        f"the chunk {place} is missing, or was left out by a copy that skips fill values; pass "
        'missing="fill" to take the fill value for it',
        key=key,
    )


def _bytes_of(chunk: NDArray[Any]) -> NDArray[np.uint8]:
    return chunk.reshape(-1).view(np.uint8)


def _too_large(file: str, size: int) -> UntrustedArrayError:
    return UntrustedArrayError(
        f"{file} holds more than a chunk, which has {size} bytes; it is damaged, or meant to "
        "exhaust memory"
    )


def _open_nonblocking(file: str, flags: int) -> int:
    return os.open(file, flags | os.O_NONBLOCK)
