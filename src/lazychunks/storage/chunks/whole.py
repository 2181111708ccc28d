"""Whether a stored chunk or shard is complete, told from headers and sizes without decoding it.

After a power cut, or when a file system is full, files may be left empty or cut short. A write that
goes on with such a file would publish it. The formats of the frames: RFC 8878, section 3.1.1, for
zstd, and the description of the header in Blosc 1 for blosc.
"""

from __future__ import annotations

import math
import os
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from zarr.core.sync import sync
from zarr.storage import LocalStore

if TYPE_CHECKING:
    from lazychunks.storage.chunks.metadata import StoredArray
    from lazychunks.storage.resuming.record import Document

ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"

CONTENT_SIZE_BYTES = (0, 2, 4, 8)
"""Width of the content size, by the two highest bits of the frame header's first byte."""

DICTIONARY_ID_BYTES = (0, 1, 2, 4)
"""Width of the dictionary's number, by the two lowest bits of that byte."""

LONGEST_HEADER = 18
"""Bytes of a zstd frame header, at most."""

BLOSC_HEADER = 16

NO_CHUNK = np.uint64(2**64 - 1)
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
    """Tells which stored units (chunks, or shards) of an array are complete.

    What it can tell depends on the codecs, and on a local directory:

    - Values that are not compressed, with or without a CRC32C, zstd frames, blosc frames, and
      shards with their index at the end: a file that is cut anywhere, or longer, is found.
    - Any other codec, or another store: a unit that is missing or empty is found.

    Bytes that were overwritten in place are found by decoding only.
    """

    array: StoredArray
    kind: str | None
    """Format of a unit: ``"raw"``, ``"zstd"``, ``"blosc"``, ``"shard"``, or unknown."""
    expected: int
    """Bytes of a unit before it is compressed; of the index, for a shard."""

    @classmethod
    def of(cls, array: StoredArray) -> WholeUnits:
        """Return the check for an array."""
        metadata: Any = array.metadata  # of Zarr 2 or 3
        codecs: list[Document] = [*metadata.to_dict().get("codecs", ())]
        names = [codec["name"] for codec in codecs]
        size = math.prod(array.shards or array.chunks) * array.dtype.itemsize
        # These two only reorder bytes.
        while names and names[0] in ("transpose", "bytes"):
            del names[0]
        match names:
            case []:
                return cls(array, "raw", size)
            case ["crc32c"]:
                return cls(array, "raw", size + 4)
            case ["zstd" | "blosc" as kind]:
                return cls(array, kind, size)
            case ["sharding_indexed"] if array.shards:
                settings = codecs[0]["configuration"]
                index = [codec["name"] for codec in settings["index_codecs"]]
                count = math.prod(array.shards) // math.prod(array.chunks)
                if settings["index_location"] == "end" and index == ["bytes", "crc32c"]:
                    return cls(array, "shard", 16 * count + 4)
            case _:
                pass
        return cls(array, None, 0)

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
            return False  # whatever it is, the unit must be computed again
        try:
            return self._is_whole_file(file)
        finally:
            os.close(file)

    def _is_whole_file(self, file: int) -> bool:
        found = os.fstat(file)
        if not stat.S_ISREG(found.st_mode) or found.st_size == 0:
            return False
        match self.kind:
            case "raw":
                return found.st_size == self.expected
            case "zstd":
                return _zstd_frame_end(file, self.expected) == found.st_size
            case "blosc":
                return _blosc_frame_end(file, self.expected) == found.st_size
            case "shard":
                return _shard_chunks_end(file, self.expected) == found.st_size - self.expected
            case _:
                return True


def _zstd_frame_end(file: int, content_size: int) -> int | None:
    """Where a frame of so many bytes of content ends, if it is one."""
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


def _blosc_frame_end(file: int, content_size: int) -> int | None:
    """Where a frame of so many bytes of content ends, if it is one."""
    header = os.pread(file, BLOSC_HEADER, 0)
    if int.from_bytes(header[4:8], "little") != content_size:
        return None
    return int.from_bytes(header[12:16], "little")


def _shard_chunks_end(file: int, index_bytes: int) -> int | None:
    """Where the chunks of a shard end, by the index in its last bytes, if they leave no gap."""
    start = os.fstat(file).st_size - index_bytes
    if start < 0:
        return None
    index = os.pread(file, index_bytes - 4, start)  # without its checksum
    entries = np.frombuffer(index, "<u8").reshape(-1, 2)
    entries = entries[entries[:, 0] != NO_CHUNK]
    offsets, lengths = entries[np.argsort(entries[:, 0])].T
    ends = np.cumsum(lengths)
    if not len(ends) or (lengths == 0).any() or (ends - lengths != offsets).any():
        return None
    return int(ends[-1])
