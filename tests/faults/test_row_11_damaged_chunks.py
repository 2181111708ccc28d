"""Row 11: a chunk is truncated, or a byte of it flipped: reading raises, never a wrong value."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from zarr.codecs import BytesCodec, GzipCodec

from lazychunks import IdentityConverter, LazyChunkSequence
from tests.faults.jobs import ZARR

Array = NDArray[Any]
WHOLE = np.arange(4096.0).reshape(64, 64) % 97
STRIDE = 37
"""A byte is flipped in every so many: coprime to whatever has a period of eight bytes."""


@pytest.fixture(name="chunk", params=[None, (32, 64)], ids=["chunks", "shards"])
def _chunk(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Store an array, and return the file of its first chunk or shard."""
    rows = LazyChunkSequence.from_map(lambda row: WHOLE[row : row + 16], range(0, 64, 16))
    rows.to_zarr(tmp_path / "array.zarr", IdentityConverter(), chunks=16, shards=request.param)
    return tmp_path / "array.zarr" / "c" / "0" / "0"


def _read(chunk: Path) -> Array:
    return np.asarray(ZARR.open_array(store=chunk.parents[2], mode="r")[...])


def _read_back(chunk: Path) -> Array:
    sequence = LazyChunkSequence.from_zarr(chunk.parents[2], IdentityConverter(), rows=16)
    return np.concatenate(sequence.compute())


READERS = [_read, _read_back]


def flipped(content: bytes, start: int = 0) -> Iterator[bytes]:
    """Each of the contents that differ in one byte, every so many bytes."""
    for place in range(start, len(content), STRIDE):
        changed = bytearray(content)
        changed[place] ^= 0xFF
        yield bytes(changed)


@pytest.mark.parametrize("read", READERS, ids=["zarr", "from_zarr"])
def test_a_truncated_chunk_raises(chunk: Path, read: Callable[[Path], Array]) -> None:
    content = chunk.read_bytes()
    for length in range(1, len(content), 7):
        chunk.write_bytes(content[:length])
        with pytest.raises((RuntimeError, ValueError)):
            read(chunk)
    chunk.write_bytes(content)
    assert np.array_equal(read(chunk), WHOLE)


@pytest.mark.parametrize("rows", [None, 16, 64])
def test_an_empty_chunk_raises(chunk: Path, rows: int | None) -> None:
    """By itself, zarr takes an empty shard that is read as a whole for one of zeros."""
    content = chunk.read_bytes()
    sequence = LazyChunkSequence.from_zarr(chunk.parents[2], IdentityConverter(), rows=rows)
    chunk.write_bytes(b"")
    with pytest.raises((RuntimeError, ValueError)):
        sequence.compute()
    chunk.write_bytes(content)
    assert np.array_equal(np.concatenate(sequence.compute()), WHOLE)


@pytest.mark.parametrize("read", READERS, ids=["zarr", "from_zarr"])
@pytest.mark.parametrize("start", [0, 11, 23])
def test_a_flipped_byte_raises(chunk: Path, start: int, read: Callable[[Path], Array]) -> None:
    content = chunk.read_bytes()
    count = 0
    for changed in flipped(content, start):
        chunk.write_bytes(changed)
        try:
            values = read(chunk)
        except (RuntimeError, ValueError, IndexError, OverflowError, MemoryError):
            count += 1
        else:
            assert np.array_equal(values, WHOLE), "a byte that nobody reads"
    assert count >= len(content) // STRIDE // 2


@pytest.mark.parametrize("compressors", [None, BytesCodec], ids=["none", "zarr's zstd"])
def test_this_finds_chunks_without_a_checksum(compressors: object, tmp_path: Path) -> None:
    """The negative control: what the default protects from, and ``compressors=None`` does not."""
    sequence = LazyChunkSequence.from_map(lambda _: np.random.default_rng(1).random((32, 64)), [0])
    path = tmp_path / "array.zarr"
    if compressors is None:
        sequence.to_zarr(path, IdentityConverter(), chunks="blocks", compressors=None)
    else:
        ZARR.create_array(store=path, data=sequence.compute()[0], chunks=(32, 64))
    chunk = path / "c" / "0" / "0"
    content = chunk.read_bytes()
    right = _read(chunk)
    for changed in flipped(content, 23):
        chunk.write_bytes(changed)
        try:
            values = _read(chunk)
        except (RuntimeError, ValueError):
            continue
        if not np.array_equal(values, right):
            return
    pytest.fail("no wrong value was read")


def test_gzip_has_a_checksum_as_well(tmp_path: Path) -> None:
    sequence = LazyChunkSequence.from_map(lambda _: WHOLE, [0])
    path = tmp_path / "array.zarr"
    sequence.to_zarr(path, IdentityConverter(), chunks="blocks", compressors=GzipCodec())
    chunk = path / "c" / "0" / "0"
    for changed in flipped(chunk.read_bytes(), 23):
        chunk.write_bytes(changed)
        with pytest.raises(Exception):  # noqa: B017, PT011  # whatever Python's zlib raises
            _read(chunk)
