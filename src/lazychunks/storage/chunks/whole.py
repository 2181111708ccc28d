"""Whether a stored chunk or shard is complete, told from headers and sizes without decoding it.

After a power cut, or when a file system is full, files may be left empty or cut short. A write that
goes on with such a file would publish it. Source of the format of zstd frames: RFC 8878, section
3.1.1.
"""

from __future__ import annotations

import math
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from zarr.core.sync import sync
from zarr.storage import LocalStore

if TYPE_CHECKING:
    from lazychunks.storage.chunks.metadata import StoredArray

ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"

CONTENT_SIZE_BYTES = (0, 2, 4, 8)
"""Width of the content size, by the two highest bits of the frame header's first byte."""

DICTIONARY_ID_BYTES = (0, 1, 2, 4)
"""Width of the dictionary's number, by the two lowest bits of that byte."""

LONGEST_HEADER = 18
"""Bytes of a zstd frame header, at most."""

NO_CHUNK = 2**64 - 1
"""Offset, in the index of a shard, of a chunk that is not in it."""


class FrameHeader(NamedTuple):
    """What a zstd frame says of itself."""

    content_size: int | None
    """Bytes that it holds, if it says so."""
    length: int
    """Bytes of the header."""
    checksum_bytes: int
    """Bytes of the checksum at the end of the frame."""


def read_frame_header(frame: bytes) -> FrameHeader | None:
    """Parse the header of a zstd frame; None if there is no complete one."""
    if len(frame) < 5 or not frame.startswith(ZSTD_MAGIC):
        return None
    flags = frame[4]
    is_single_segment = bool(flags & 0x20)  # then, there is no byte for the size of the window
    width = CONTENT_SIZE_BYTES[flags >> 6]
    if is_single_segment and width == 0:
        width = 1  # a single segment always says its size
    start = 5 + (not is_single_segment) + DICTIONARY_ID_BYTES[flags & 0x03]
    if len(frame) < start + width:
        return None
    size = int.from_bytes(frame[start : start + width], "little")
    if width == 2:
        size += 256  # smaller sizes take one byte
    return FrameHeader(size if width else None, start + width, 4 if flags & 0x04 else 0)


@dataclass(frozen=True, slots=True)
class WholeUnits:
    """Tells which stored units (chunks, or shards) of an array of this library are complete.

    - In a local directory, a file that is cut anywhere, or longer, is found if its values are not
      compressed, or compressed by zstd, or if it is a shard.
    - With any other codec, or in another store, a unit that is missing or empty is found.

    Bytes that were overwritten in place are found by decoding only.
    """

    array: StoredArray
    find_end: Callable[[int], int | None] | None
    """Tells from the headers in an open file where its content ends, for the formats above."""

    @classmethod
    def of(cls, array: StoredArray) -> WholeUnits:
        """Return the check for an array."""
        metadata: Any = array.metadata  # of Zarr 2 or 3
        codecs = [codec["name"] for codec in metadata.to_dict().get("codecs", ())]
        size = math.prod(array.chunks) * array.dtype.itemsize
        # These two only reorder bytes.
        match [name for name in codecs if name not in ("transpose", "bytes")]:
            case []:
                return cls(array, partial(_find_end_of_values, size=size))
            case ["crc32c"]:
                return cls(array, partial(_find_end_of_values, size=size + 4))
            case ["zstd"]:
                return cls(array, partial(_find_end_of_zstd, content_size=size))
            case ["sharding_indexed"] if array.shards:
                chunks = math.prod(array.shards) // math.prod(array.chunks)
                return cls(array, partial(_find_end_of_shard, chunks=chunks))
            case _:
                return cls(array, None)

    def is_whole(self, key: str) -> bool:
        """Whether the unit with a key, relative to the array, is stored and complete."""
        store, path = self.array.store, (self.array.store_path / key).path
        if type(store) is not LocalStore:
            try:
                return sync(store.getsize(path)) > 0
            except FileNotFoundError:
                return False
        try:
            # No symbolic link, which may lead anywhere; and no wait for the writer of a FIFO.
            file = os.open(store.root / path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError:
            return False  # whatever is wrong with it, the unit must be written again
        try:
            found = os.fstat(file)
            if not stat.S_ISREG(found.st_mode) or found.st_size == 0:
                return False
            return self.find_end is None or self.find_end(file) == found.st_size
        finally:
            os.close(file)


def _find_end_of_values(_: int, size: int) -> int:
    return size


def _find_end_of_zstd(file: int, content_size: int) -> int | None:
    """Where a frame of so many bytes of content ends, by the headers of its blocks."""
    header = read_frame_header(os.pread(file, LONGEST_HEADER, 0))
    if header is None or header.content_size != content_size:
        return None
    position, is_last = header.length, False
    while not is_last:
        block = os.pread(file, 3, position)
        fields = int.from_bytes(block, "little")
        is_last, kind, size = bool(fields & 1), fields >> 1 & 3, fields >> 3
        # Compressors end with an empty block at most. Others are what a hole in a file looks like.
        if len(block) < 3 or kind == 3 or (size == 0 and not is_last):
            return None
        position += 3 + (1 if kind == 1 else size)  # kind 1: one byte that is repeated
    return position + header.checksum_bytes


def _find_end_of_shard(file: int, chunks: int) -> int | None:
    """Where a shard ends, if its chunks leave no gap before the index, which comes last.

    The index has offset and length of each chunk, and a checksum of four bytes.
    """
    index_bytes = 16 * chunks + 4
    start = os.fstat(file).st_size - index_bytes
    if start < 0:
        return None
    entries = np.frombuffer(os.pread(file, 16 * chunks, start), "<u8").reshape(-1, 2)
    entries = entries[entries[:, 0] != NO_CHUNK]
    offsets, lengths = entries[np.argsort(entries[:, 0])].T
    ends = np.cumsum(lengths)
    if not len(ends) or (lengths == 0).any() or (ends - lengths != offsets).any():
        return None
    return int(ends[-1]) + index_bytes
