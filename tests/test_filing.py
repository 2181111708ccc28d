"""Direct access to chunk files: bytes and values are zarr's."""

# pyright: reportUnknownMemberType=false
# The functions of zarr name a type of fsspec, which is optional and has no types.

import os
import re
import tempfile
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st
from numcodecs.zstd import Zstd
from zarr.codecs import BloscCodec, BytesCodec, Crc32cCodec, GzipCodec, TransposeCodec, ZstdCodec
from zarr.core.buffer import Buffer
from zarr.storage import LocalStore, MemoryStore, StorePath, WrapperStore

from lazychunks import (
    IdentityConverter,
    LazyChunkSequence,
    NestedLazyChunkSequence,
    UntrustedArrayError,
    verify,
    zarr_sink,
)
from lazychunks.layout.shapes import Shape
from lazychunks.storage.chunks.files import ChunkFiles, Reader
from lazychunks.storage.chunks.filled import Filled
from lazychunks.storage.chunks.metadata import open_array
from lazychunks.storage.keys import Keys
from lazychunks.storage.resuming.record import Document, parse
from tests.strategies import (
    DTYPES,
    Array,
    Flat,
    Nested,
    any_bits,
    bits,
    flat_blocks,
    nested_blocks,
    partitions,
    seeds,
    shapes,
)

CONVERTER = IdentityConverter()
NATIVE = tuple(dtype for dtype in DTYPES if np.dtype(dtype).isnative)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[Filled]:
    """Buffers that were written directly to files."""
    seen: list[Filled] = []
    write = ChunkFiles.write

    def noted(self: ChunkFiles, filled: Filled) -> None:
        seen.append(filled)
        write(self, filled)

    monkeypatch.setattr(ChunkFiles, "write", noted)
    return seen


def files_of(root: Path) -> dict[str, bytes]:
    """Every chunk of an array."""
    found = {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in (root / "c").rglob("*")
        if path.is_file()
    }
    assert not any(name.endswith(".partial") for name in found)
    return found


def as_zarr_writes(document: Document, values: Array) -> dict[str, bytes]:
    """Chunks of an array with the same metadata, all of them written by zarr alone."""
    store: dict[str, Buffer] = {}
    array = open_array(Keys(MemoryStore(store), ""), document)
    if values.size:
        array[...] = values
    return {key: value.to_bytes() for key, value in store.items()}


def timeless(files: dict[str, bytes]) -> dict[str, bytes]:
    """The same with the time blanked that gzip notes in its header, from byte 4 to byte 7."""
    return {
        name: data[:4] + bytes(4) + data[8:] if data.startswith(b"\x1f\x8b") else data
        for name, data in files.items()
    }


def check(root: Path, values: Array) -> dict[str, bytes]:
    """Hold the files against zarr's."""
    found = files_of(root)
    document = parse((root / "zarr.json").read_bytes())
    assert document is not None
    assert timeless(found) == timeless(as_zarr_writes(document, values))
    assert bits(np.asarray(zarr.open_array(root, mode="r")[...])) == bits(values)
    return found


compressors: st.SearchStrategy[Any] = st.sampled_from(
    ["auto", None, ZstdCodec(level=0), ZstdCodec(level=-3), ZstdCodec(level=9, checksum=True)]
)


@given(st.data(), flat_blocks() | nested_blocks(), compressors)
def test_every_file_has_the_bytes_that_zarr_writes(
    data: st.DataObject, given: Flat | Nested, compressors: Any
) -> None:
    whole = given.whole
    extents = st.integers(1, 5)
    chunks: Any = data.draw(
        st.sampled_from(["auto", "blocks"]) | st.tuples(*(extents,) * whole.ndim)
    )
    with tempfile.TemporaryDirectory() as root:
        path = Path(root, "a")
        given.sequence().to_zarr(path, CONVERTER, chunks=chunks, compressors=compressors)
        check(path, whole)


@pytest.mark.slow
@given(partitions(3, 4), seeds, st.sampled_from(DTYPES), compressors)
def test_a_band_may_hold_many_chunks(
    heights: Shape, seed: int, dtype: str, compressors: Any
) -> None:
    """The trailing axes are cut as well, and the last chunk of each is cut off."""
    whole = any_bits((sum(heights), 5, 7), np.dtype(dtype), seed)
    blocks = np.split(whole, np.cumsum(heights)[:-1])
    with tempfile.TemporaryDirectory() as root:
        path = Path(root, "a")
        sequence = LazyChunkSequence(lambda: blocks)
        sequence.to_zarr(path, CONVERTER, chunks=(2, 3, 4), compressors=compressors)
        check(path, whole)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("codec", ["auto", None])
def test_every_dtype(dtype: str, codec: Any, directory: Path, written: list[Filled]) -> None:
    whole = any_bits((7, 5), np.dtype(dtype), 3)
    sequence = LazyChunkSequence(lambda: np.split(whole, [3]))
    sequence.to_zarr(directory / "a", CONVERTER, chunks=(2, 3), compressors=codec)
    assert len(check(directory / "a", whole)) == 8
    assert written


def test_bfloat16(directory: Path, written: list[Filled]) -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes", reason="ml_dtypes is not installed")
    whole = np.arange(35, dtype=np.uint16).view(ml_dtypes.bfloat16).reshape(7, 5)
    LazyChunkSequence(lambda: [whole]).to_zarr(directory / "a", CONVERTER, chunks=(2, 3))
    assert len(check(directory / "a", whole)) == 8
    assert written


@pytest.mark.parametrize("level", [-7, 0, 1, 3, 19])
@pytest.mark.parametrize("checksum", [True, False])
def test_every_setting_of_zstd(
    level: int, checksum: bool, directory: Path, written: list[Filled]
) -> None:
    whole = np.arange(5000).reshape(50, 100) % 17
    codec = ZstdCodec(level=level, checksum=checksum)
    sequence = LazyChunkSequence(lambda: [whole])
    sequence.to_zarr(directory / "a", CONVERTER, chunks=(20, 30), compressors=codec)
    assert len(check(directory / "a", whole)) == 12
    assert written


@pytest.mark.parametrize("value", [0.0, -0.0, np.nan])
def test_what_an_array_cuts_off_is_padded_with_zeros(value: float, directory: Path) -> None:
    whole = np.full((3, 3), value)
    sequence = LazyChunkSequence(lambda: [whole])
    sequence.to_zarr(directory / "a", CONVERTER, chunks=(2, 2), compressors=None)
    last = np.frombuffer(check(directory / "a", whole)["c/1/1"])
    assert last[1:].tobytes() == bytes(24)


def test_a_file_is_replaced_as_a_whole(directory: Path) -> None:
    """Twice the same chunk: the second time with less in it."""
    files, store = chunk_files(directory, shape=(4,), chunks=(4,), compressors=None)
    assert files is not None
    for values in (np.arange(4.0), np.ones(2)):
        files.write(Filled((slice(0, len(values)),), values))
    assert np.frombuffer((directory / "c" / "0").read_bytes()).tolist() == [1, 1, 0, 0]
    assert [path.name for path in (directory / "c").iterdir()] == ["0"]
    assert Keys(store, "").read("c/0") == (directory / "c" / "0").read_bytes()


# Which layouts are plain.


def chunk_files(directory: Path, **options: Any) -> tuple[ChunkFiles | None, LocalStore]:
    store = LocalStore(directory)
    zarr.create_array(store, dtype=options.pop("dtype", "f8"), overwrite=True, **options)
    document = parse(Keys(store, "").read("zarr.json"))
    assert document is not None
    return ChunkFiles.of(Keys(store, ""), document), store


PLAIN_LAYOUTS: dict[str, dict[str, Any]] = {
    "default of zarr": {},
    "no compression": {"compressors": None},
    "zstd": {"compressors": ZstdCodec(level=5)},
    "bytes without an order": {"dtype": "i1"},
}

OTHER_LAYOUTS: dict[str, dict[str, Any]] = {
    "shards": {"shards": (4, 4)},
    "filter": {"filters": TransposeCodec(order=(1, 0))},
    "gzip": {"compressors": GzipCodec()},
    "blosc": {"compressors": BloscCodec()},
    "checksum": {"compressors": Crc32cCodec()},
    "two codecs": {"compressors": [ZstdCodec(), Crc32cCodec()]},
    "the same codec twice": {"compressors": [ZstdCodec(), ZstdCodec()]},
    "big-endian": {"serializer": BytesCodec(endian="big")},
    "names with dots": {"chunk_key_encoding": {"name": "default", "separator": "."}},
    "names of Zarr 2": {"chunk_key_encoding": {"name": "v2", "separator": "/"}},
}


@pytest.mark.parametrize("name", [*PLAIN_LAYOUTS, *OTHER_LAYOUTS])
def test_files_of_a_plain_layout_are_accessed_directly_and_of_no_other(
    name: str, directory: Path
) -> None:
    options = (PLAIN_LAYOUTS | OTHER_LAYOUTS)[name]
    files, _ = chunk_files(directory, shape=(4, 4), chunks=(2, 2), **options)
    assert (files is not None) == (name in PLAIN_LAYOUTS)


class Wrapped(WrapperStore[LocalStore]):
    """A store that may do more with each key than write a file."""


class Derived(LocalStore):
    """The same, by inheritance."""


def test_files_are_accessed_directly_in_a_local_directory_only(directory: Path) -> None:
    _, store = chunk_files(directory, shape=(4, 4), chunks=(2, 2))
    document = parse(Keys(store, "").read("zarr.json"))
    assert document is not None
    assert ChunkFiles.of(Keys(store, ""), document) is not None
    for other in (MemoryStore(), Wrapped(store), Derived(directory)):
        assert ChunkFiles.of(Keys(other, ""), document) is None


OTHER_OPTIONS: dict[str, dict[str, Any]] = {
    "shards": {"chunks": (2, 2), "shards": (4, 4)},
    "filter": {"chunks": (2, 2), "filters": TransposeCodec(order=(1, 0))},
    "gzip": {"chunks": (2, 2), "compressors": GzipCodec(level=1)},
    "two codecs": {"chunks": (2, 2), "compressors": [ZstdCodec(), Crc32cCodec()]},
}


@pytest.mark.parametrize("name", OTHER_OPTIONS)
def test_any_other_layout_is_left_to_zarr(
    name: str, directory: Path, written: list[Filled]
) -> None:
    whole = np.arange(35.0).reshape(7, 5)
    LazyChunkSequence(lambda: [whole]).to_zarr(directory / "a", CONVERTER, **OTHER_OPTIONS[name])
    check(directory / "a", whole)
    assert written == []


def destinations(directory: Path) -> Iterator[Any]:
    yield {}
    yield MemoryStore()
    yield StorePath(MemoryStore(), "a")
    yield Wrapped(LocalStore(directory / "wrapped"))
    yield Derived(directory / "derived")


def test_any_other_store_is_left_to_zarr(directory: Path, written: list[Filled]) -> None:
    whole = np.arange(35.0).reshape(7, 5)
    for destination in destinations(directory):
        array = zarr_sink(destination, CONVERTER, chunks=(2, 2))([whole])
        assert bits(np.asarray(array[...])) == bits(whole)
    assert written == []
    for destination in (directory / "a", str(directory / "b"), LocalStore(directory / "c")):
        zarr_sink(destination, CONVERTER, chunks=(2, 2))([whole])
        assert written
        written.clear()


def test_a_layout_of_a_later_zarr_is_not_taken_for_a_plain_one(directory: Path) -> None:
    _, store = chunk_files(directory, shape=(4, 4), chunks=(2, 2))
    document = parse(Keys(store, "").read("zarr.json"))
    assert document is not None
    later: list[Document] = [
        document | {"chunk_grid": {"name": "later", "configuration": {"chunk_shape": [2, 2]}}},
        document | {"data_type": {"name": "later"}},
        document | {"codecs": [{"name": "later"}]},
        document | {"codecs": []},
    ]
    for each in later:
        assert ChunkFiles.of(Keys(store, ""), each) is None


# Reading.


def put(path: Path, values: Array, **options: Any) -> "zarr.Array[Any]":
    """Store an array as any other program would."""
    options = {"config": {"write_empty_chunks": True}, **options}
    return zarr.create_array(path, data=values, **options)


def read_directly(array: "zarr.Array[Any]", *spans: slice) -> Array:
    """Values that are read directly from files."""
    files = Reader.of(array).files
    assert files is not None
    rest = (slice(0, length) for length in array.shape[len(spans) :])
    fill_value = array.fill_value
    return files.read((*spans, *rest), array.dtype, fill_value=fill_value, refuse_missing=False)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a"


# Law: a region is what zarr reads.


@st.composite
def regions(draw: st.DrawFn) -> tuple[Shape, Shape, tuple[slice, ...]]:
    """Draw shape, chunks and some spans."""
    shape = draw(st.integers(1, 3).flatmap(lambda axes: shapes(axes, 9)))
    chunks = draw(st.tuples(*(st.integers(1, 5),) * len(shape)))
    spans: list[slice] = []
    for length in shape[: draw(st.integers(1, min(2, len(shape))))]:
        ends = draw(st.tuples(st.integers(0, length), st.integers(0, length)))
        spans.append(slice(*sorted(ends)))
    return shape, chunks, tuple(spans)


@given(regions(), st.sampled_from(NATIVE), seeds, st.sampled_from([None, "auto"]))
def test_a_region_is_what_zarr_reads(
    region: tuple[Shape, Shape, tuple[slice, ...]], dtype: str, seed: int, compressors: Any
) -> None:
    shape, chunks, spans = region
    values = any_bits(shape, np.dtype(dtype), seed)
    with tempfile.TemporaryDirectory() as directory:
        array = put(Path(directory, "a"), values, chunks=chunks, compressors=compressors)
        block = read_directly(array, *spans)
    assert bits(block) == bits(values[spans])
    assert block.flags.c_contiguous


@pytest.mark.parametrize("compressors", [None, "auto"])
def test_blocks_are_read_directly(
    path: Path, compressors: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = np.arange(60, dtype="f4").reshape(12, 5)
    LazyChunkSequence(lambda: [values]).to_zarr(
        path, CONVERTER, chunks=(5, 2), compressors=compressors
    )
    monkeypatch.setattr(zarr.Array, "__getitem__", pytest.fail)
    opened = zarr.open_array(path, mode="r")
    for source in (path, path.as_uri(), LocalStore(path), StorePath(LocalStore(path)), opened):
        for rows in (None, 1, 5, 7):
            blocks = LazyChunkSequence.from_zarr(source, CONVERTER, rows=rows).compute()
            assert bits(np.concatenate(blocks)) == bits(values)
        grid = NestedLazyChunkSequence.from_zarr(source, CONVERTER, columns=2).compute()
        assert bits(np.block(grid)) == bits(values)


def test_bfloat16_is_read_directly(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes", reason="ml_dtypes is not installed")
    values = np.arange(65536, dtype=np.uint16).view(ml_dtypes.bfloat16).reshape(256, 256)
    LazyChunkSequence(lambda: [values]).to_zarr(path, CONVERTER, chunks=(100, 256))
    monkeypatch.setattr(zarr.Array, "__getitem__", pytest.fail)
    assert bits(np.concatenate(LazyChunkSequence.from_zarr(path, CONVERTER).compute())) == bits(
        values
    )


@pytest.mark.parametrize("name", [*OTHER_LAYOUTS, "Zarr 2"])
def test_any_other_layout_is_read_by_zarr(path: Path, name: str) -> None:
    values = np.arange(16.0).reshape(4, 4)
    array = put(path, values, chunks=(2, 2), **OTHER_LAYOUTS.get(name, {"zarr_format": 2}))
    assert Reader.of(array).files is None
    assert bits(np.concatenate(LazyChunkSequence.from_zarr(path, CONVERTER).compute())) == bits(
        values
    )


# A file that is missing, or unusual, is the same values as zarr's, or an error.


def test_a_missing_chunk_is_the_fill_value(path: Path) -> None:
    array = put(path, np.ones((4, 4)), chunks=(2, 2), fill_value=7)
    (path / "c" / "1" / "0").unlink()
    assert read_directly(array, slice(0, 4)).tolist() == [[1] * 4] * 2 + [[7, 7, 1, 1]] * 2
    assert read_directly(array, slice(1, 3), slice(1, 3)).tolist() == [[1, 1], [7, 1]]


@given(seeds, st.sampled_from(NATIVE))
def test_a_fill_value_is_as_zarr_has_it(seed: int, dtype: str) -> None:
    (fill_value,) = any_bits((1,), np.dtype(dtype), seed)
    with tempfile.TemporaryDirectory() as directory:
        array = zarr.create_array(
            Path(directory, "a"), shape=(4,), chunks=(3,), dtype=dtype, fill_value=fill_value
        )
        assert bits(read_directly(array, slice(0, 4))) == bits(np.asarray(array[...]))


def test_a_missing_chunk_is_no_way_around_what_is_refused(path: Path) -> None:
    put(path, np.arange(24).reshape(2, 12), chunks=(1, 12))
    (path / "c" / "0" / "0").unlink()
    (path / "c" / "1" / "0").write_bytes(BOMBS["a frame"])
    check_is_refused(path, "c/1/0")


def both(path: Path) -> tuple[bytes | str, bytes | str]:
    """What zarr reads and what we do: the bytes, or the type of the error."""

    def of(read: Callable[[], Array]) -> bytes | str:
        try:
            return read().tobytes()
        except Exception as error:  # noqa: BLE001  # whatever it is
            return type(error).__name__

    array = zarr.open_array(path, mode="r")
    return (
        of(lambda: np.asarray(array[:])),
        of(lambda: np.concatenate(LazyChunkSequence.from_zarr(path, CONVERTER).compute())),
    )


def encoded(plain: bytes, level: int = 1, *, checksum: bool = True) -> bytes:
    """One zstd frame, which says its size."""
    return Zstd(level=level, checksum=checksum).encode(np.frombuffer(plain, np.uint8))


def frames(values: Array) -> dict[str, bytes]:
    """What a file may hold in place of the chunk."""
    plain, half = values.tobytes(), values[: len(values) // 2].tobytes()
    whole, first, rest = encoded(plain), encoded(half), encoded(plain[len(half) :])
    empty = encoded(b"")
    return {
        "nothing": b"",
        "a part of the magic number": whole[:3],
        "the magic number": whole[:4],
        "no header": whole[:5],
        "half of the frame": whole[: len(whole) // 2],
        "no checksum": whole[:-1],
        "a smaller frame": first,
        "a larger frame": encoded(2 * plain),
        "two frames": first + rest,
        "a frame and an empty one": whole + empty,
        "an empty frame and a frame": empty + whole,
        "a frame and another": whole + first,
        "a frame and rubbish": whole + b"rubbish",
        "rubbish": b"rubbish" * 20,
        "raw values": plain,
        "a frame that does not say its size": streamed(plain),
    }


def streamed(plain: bytes, zeros: int = 0) -> bytes:
    """A frame of blocks of zeros, 128 KiB each, and a raw block, without its content size."""
    header = bytes.fromhex("28b52ffd") + b"\x00" + b"\x50"  # a window of 1 MiB
    run = (2**17 << 3 | 2).to_bytes(3, "little") + b"\x00"
    return header + zeros * run + (len(plain) << 3 | 1).to_bytes(3, "little") + plain


@pytest.mark.parametrize("name", frames(np.zeros(8)))
@pytest.mark.parametrize("compressors", [None, "auto"])
def test_an_unusual_file_is_read_as_zarr_does(path: Path, name: str, compressors: Any) -> None:
    values = np.random.default_rng(1).integers(0, 9, (40, 3))
    put(path, values, chunks=(40, 3), compressors=compressors)
    (path / "c" / "0" / "0").write_bytes(frames(values)[name])
    zarrs, ours = both(path)
    assert ours == zarrs or isinstance(ours, str)
    if name in ("a frame and an empty one", "a frame that does not say its size"):
        assert isinstance(ours, str) == isinstance(zarrs, str)
    if compressors == "auto" and name in ("a smaller frame", "a larger frame", "half of the frame"):
        assert isinstance(ours, str), "an error"


@pytest.mark.parametrize("compressors", [None, "auto"])
def test_a_file_of_another_length_is_an_error(path: Path, compressors: Any) -> None:
    put(path, np.arange(12), chunks=(12,), compressors=compressors)
    file = path / "c" / "0"
    content = file.read_bytes()
    for length in range(len(content)):
        file.write_bytes(content[:length])
        zarrs, ours = both(path)
        assert isinstance(ours, str)
        assert isinstance(zarrs, str)


PLAIN = bytes(np.arange(12))

BOMBS = {
    "a frame": encoded(bytes(2**24)),
    "a frame that fits, and another": encoded(PLAIN) + encoded(bytes(2**24)),
    "a smaller frame, and another": encoded(PLAIN[:8]) + encoded(bytes(2**24)),
    "a frame that does not say its size": streamed(PLAIN, 128),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_chunk_that_unpacks_to_more_takes_no_memory(path: Path, name: str) -> None:
    put(path, np.arange(12), chunks=(12,))
    (path / "c" / "0").write_bytes(BOMBS[name])
    check_is_refused(path, "c/0")


@pytest.mark.parametrize("compressors", [None, "auto"])
def test_a_file_that_is_larger_than_a_chunk_takes_no_memory(path: Path, compressors: Any) -> None:
    put(path, np.arange(12), chunks=(12,), compressors=compressors)
    with (path / "c" / "0").open("wb") as file:
        file.truncate(2**33)
    check_is_refused(path, "c/0")


@pytest.mark.skipif(not Path("/dev/zero").is_char_device(), reason="there is no /dev/zero")
@pytest.mark.parametrize("compressors", [None, "auto"])
def test_a_file_without_end_takes_no_memory(path: Path, compressors: Any) -> None:
    put(path, np.arange(12), chunks=(12,), compressors=compressors)
    (path / "c" / "0").unlink()
    (path / "c" / "0").symlink_to("/dev/zero")
    check_is_refused(path, "c/0")


@pytest.mark.parametrize("compressors", [None, "auto"])
def test_a_fifo_in_place_of_a_chunk_blocks_nobody(path: Path, compressors: Any) -> None:
    put(path, np.arange(12), chunks=(12,), compressors=compressors)
    (path / "c" / "0").unlink()
    os.mkfifo(path / "c" / "0")
    check_is_refused(path, "c/0")


def check_is_refused(path: Path, key: str) -> None:
    """Nothing of it can be read, and memory is not taken for it."""
    sequence = LazyChunkSequence.from_zarr(path, CONVERTER)
    tracemalloc.start()
    with pytest.raises((ValueError, RuntimeError)):
        sequence.compute()
    assert list(verify(path).bad) == [key]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**22


def test_a_frame_that_is_too_large_is_named(path: Path) -> None:
    put(path, np.arange(12), chunks=(12,))
    (path / "c" / "0").write_bytes(BOMBS["a frame"])
    file = re.escape(str(path / "c" / "0"))
    with pytest.raises(UntrustedArrayError, match=f"{file} holds more than a chunk.* 96 bytes"):
        LazyChunkSequence.from_zarr(path, CONVERTER).compute()


def test_a_damaged_frame_is_named(path: Path) -> None:
    put(path, np.arange(12), chunks=(12,))
    chunk = path / "c" / "0"
    chunk.write_bytes(chunk.read_bytes()[:-3])
    with pytest.raises(RuntimeError, match=f"{re.escape(str(chunk))} is damaged: "):
        LazyChunkSequence.from_zarr(path, CONVERTER).compute()


def test_a_directory_in_place_of_a_chunk(path: Path) -> None:
    array = put(path, np.arange(12), chunks=(12,))
    (path / "c" / "0").unlink()
    (path / "c" / "0").mkdir()
    assert (
        read_directly(array, slice(0, 12)).tolist() == np.asarray(array[...]).tolist() == [0] * 12
    )
