"""A stored unit is told from one that is cut, empty or longer, without decoding it."""

# pyright: reportUnknownMemberType=false
# The functions of zarr name a type of fsspec, which is optional and has no types.

import math
import os
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st
from numcodecs.zstd import Zstd
from zarr.codecs import Crc32cCodec, GzipCodec, TransposeCodec, ZstdCodec
from zarr.core.buffer import Buffer, default_buffer_prototype
from zarr.storage import MemoryStore

from lazychunks import IdentityConverter, LazyChunkSequence
from lazychunks.storage.chunks.whole import WholeUnits, read_frame_header
from tests.strategies import Array, any_bits, seeds
from tests.test_filing import encoded, streamed

LAYOUTS: dict[str, dict[str, Any]] = {
    "default": {},
    "not compressed": {"compressors": None},
    "not compressed, with a checksum": {"compressors": Crc32cCodec()},
    "transposed": {"compressors": None, "filters": TransposeCodec(order=(1, 0))},
    "transposed, zstd": {"filters": TransposeCodec(order=(1, 0))},
    "zstd without a checksum": {"compressors": ZstdCodec(checksum=False)},
    "zstd at a high level": {"compressors": ZstdCodec(level=19)},
    "shards": {"shards": (8, 12)},
    "shards of one chunk": {"shards": (4, 6)},
    "shards of values that are not compressed": {"shards": (8, 6), "compressors": None},
}
"""Layouts of which every cut is found."""


def stored(directory: Path, values: Array, **options: Any) -> "zarr.Array[Any]":
    """Store an array in units of which the last along each axis are cut off."""
    blocks = LazyChunkSequence(lambda: np.array_split(values, 3))
    array: zarr.Array[Any] = blocks.to_zarr(
        directory / "a", IdentityConverter(), return_stored=True, chunks=(4, 6), **options
    )
    return array


def keys_of(array: "zarr.Array[Any]", directory: Path) -> list[str]:
    files = (directory / "a" / "c").rglob("*")
    names = [path.relative_to(directory / "a").as_posix() for path in files if path.is_file()]
    units = array.shards or array.chunks
    assert len(names) == math.prod(
        -(-n // unit) for n, unit in zip(array.shape, units, strict=True)
    )
    return names


def values_of(kind: str) -> Array:
    shape = (17, 13)
    if kind == "zeros":
        return np.zeros(shape)
    if kind == "noise":
        return np.random.default_rng(0).random(shape)
    return np.arange(math.prod(shape)).reshape(shape)


# Law: a unit that was stored is whole, and no proper part of it is.


@pytest.mark.parametrize("kind", ["zeros", "noise", "ramp"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_unit_that_is_cut_anywhere_or_longer_is_found(
    layout: str, kind: str, tmp_path: Path
) -> None:
    array = stored(tmp_path, values_of(kind), **LAYOUTS[layout])
    check = WholeUnits.of(array)
    keys = keys_of(array, tmp_path)
    assert all(map(check.is_whole, keys))
    key = max(keys)
    file = tmp_path / "a" / key
    content = file.read_bytes()
    for length in range(len(content)):
        file.write_bytes(content[:length])
        assert not check.is_whole(key), length
    file.write_bytes(content + b"\x00")
    assert not check.is_whole(key)
    file.write_bytes(content)
    assert check.is_whole(key)


@given(seeds, st.sampled_from([1, 3, 19]), st.booleans(), st.integers(1, 300_000), st.data())
def test_a_frame_of_several_blocks_is_whole_and_no_part_of_it_is(
    seed: int, level: int, checksum: bool, size: int, data: st.DataObject
) -> None:
    """One of zstd's blocks holds up to 128 KiB."""
    values = any_bits((size,), np.dtype("u1"), seed) >> data.draw(st.integers(0, 7))
    with tempfile.TemporaryDirectory() as directory:
        array = zarr.create_array(
            Path(directory, "a"),
            data=values,
            chunks=(size,),
            compressors=ZstdCodec(level=level, checksum=checksum),
            config={"write_empty_chunks": True},
        )
        check = WholeUnits.of(array)
        assert check.is_whole("c/0")
        file = Path(directory, "a", "c", "0")
        length = data.draw(st.integers(0, file.stat().st_size - 1))
        os.truncate(file, length)
        assert not check.is_whole("c/0")
        os.truncate(file, length + data.draw(st.integers(0, size)))
        assert not check.is_whole("c/0") or length == file.stat().st_size


def test_a_hole_in_place_of_a_block_is_found_and_takes_no_time(tmp_path: Path) -> None:
    """What some file systems leave after a power cut: the size, and zeros."""
    array = stored(tmp_path, values_of("noise"))
    file = tmp_path / "a" / "c" / "0" / "0"
    header = file.read_bytes()[:9]
    file.write_bytes(header)
    os.truncate(file, 2**40)
    assert not WholeUnits.of(array).is_whole("c/0/0")


@pytest.mark.parametrize("layout", ["default", "not compressed", "shards"])
def test_a_unit_of_another_size_is_not_whole(layout: str, tmp_path: Path) -> None:
    """It is complete, but of another array."""
    array = stored(tmp_path, values_of("noise"), **LAYOUTS[layout])
    other = stored(tmp_path / "other", values_of("noise").astype("f4"), **LAYOUTS[layout])
    foreign = (tmp_path / "other" / "a" / "c" / "0" / "0").read_bytes()
    assert WholeUnits.of(other).is_whole("c/0/0")
    (tmp_path / "a" / "c" / "0" / "0").write_bytes(foreign)
    if layout != "shards":  # whose chunks are not looked at
        assert not WholeUnits.of(array).is_whole("c/0/0")


def test_rubbish_is_not_whole(tmp_path: Path) -> None:
    for layout in ("default", "not compressed", "shards"):
        array = stored(tmp_path / layout, values_of("noise"), **LAYOUTS[layout])
        for length in (1, 4, 5, 17, 100, 1000):
            for content in (bytes(length), b"\xff" * length, os.urandom(length)):
                (tmp_path / layout / "a" / "c" / "0" / "0").write_bytes(content)
                assert not WholeUnits.of(array).is_whole("c/0/0")


# What is no file of its own.


@contextmanager
def replaced(file: Path) -> Generator[None]:
    content = file.read_bytes()
    file.unlink()
    yield
    if file.is_dir():
        file.rmdir()
    else:
        file.unlink(missing_ok=True)
    file.write_bytes(content)


def test_what_is_no_regular_file_is_not_whole(tmp_path: Path) -> None:
    array = stored(tmp_path, values_of("noise"))
    check = WholeUnits.of(array)
    file = tmp_path / "a" / "c" / "0" / "0"
    (tmp_path / "elsewhere").write_bytes(file.read_bytes())
    with replaced(file):
        assert not check.is_whole("c/0/0")
    with replaced(file):
        file.mkdir()
        assert not check.is_whole("c/0/0")
    with replaced(file):
        os.mkfifo(file)
        assert not check.is_whole("c/0/0"), "and nobody waits for its writer"
    with replaced(file):
        file.symlink_to(tmp_path / "elsewhere")
        assert not check.is_whole("c/0/0")
    assert check.is_whole("c/0/0")
    assert not check.is_whole("c/0/0/0")
    assert not check.is_whole("c/9/9")


# Where less can be told.


def test_of_any_other_layout_only_an_empty_file_is_found(tmp_path: Path) -> None:
    array = stored(tmp_path, values_of("noise"), compressors=GzipCodec())
    check = WholeUnits.of(array)
    assert check.is_whole("c/0/0")
    file = tmp_path / "a" / "c" / "0" / "0"
    os.truncate(file, 20)
    assert check.is_whole("c/0/0")
    os.truncate(file, 0)
    assert not check.is_whole("c/0/0")


def test_in_another_store_only_an_empty_value_is_found() -> None:
    content: dict[str, Buffer] = {}
    array = zarr.create_array(MemoryStore(content), data=values_of("noise"), chunks=(17, 13))
    check = WholeUnits.of(array)
    assert check.is_whole("c/0/0")
    assert not check.is_whole("c/0/1")
    content["c/0/0"] = default_buffer_prototype().buffer.from_bytes(b"")
    assert not check.is_whole("c/0/0")


# The header of a frame.


@given(st.integers(0, 70_000), st.booleans(), st.integers(1, 19))
def test_the_content_size_is_what_the_frame_holds(size: int, checksum: bool, level: int) -> None:
    header = read_frame_header(encoded(bytes(size), level, checksum=checksum))
    assert header is not None
    assert header.content_size == size
    assert header.checksum_bytes == 4 * checksum


@pytest.mark.parametrize("size", [0, 1, 255, 256, 65_791, 65_792, 2**20])
def test_the_content_size_of_every_width(size: int) -> None:
    frame = encoded(bytes(size))
    header = read_frame_header(frame)
    assert header is not None
    assert header.content_size == size
    for length in range(header.length):
        assert read_frame_header(frame[:length]) is None
    assert read_frame_header(frame[: header.length]) == header


def test_a_frame_may_keep_its_content_size_to_itself() -> None:
    header = read_frame_header(streamed(bytes(10)))
    assert header is not None
    assert (header.content_size, header.length) == (None, 6)


def test_a_content_size_may_take_eight_bytes_and_a_dictionary_four() -> None:
    flags = bytes([0b11_0_0_0_0_11])
    frame = Zstd().encode(b"")[:4] + flags + b"\x50\x01\x02\x03\x04" + (2**48).to_bytes(8, "little")
    assert read_frame_header(frame) == (2**48, 18, 0)


@pytest.mark.parametrize("content", [b"", b"\x28\xb5\x2f", b"rubbish", b"\x00" * 20])
def test_what_is_no_frame_has_no_header(content: bytes) -> None:
    assert read_frame_header(content) is None
