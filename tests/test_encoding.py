"""The short way of a chunk to its file: its bytes are zarr's, or it is not taken."""

# pyright: reportUnknownMemberType=false
# The functions of zarr name a type of fsspec, which is optional and has no types.

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st
from zarr.codecs import BloscCodec, BytesCodec, Crc32cCodec, GzipCodec, TransposeCodec, ZstdCodec
from zarr.core.buffer import Buffer
from zarr.storage import LocalStore, MemoryStore, StorePath, WrapperStore

from lazychunks import IdentityConverter, LazyChunkSequence, zarr_sink
from lazychunks.shapes import Shape
from lazychunks.storage.arrays import Document, described, parsed
from lazychunks.storage.assembly import Filled
from lazychunks.storage.filing import ChunkFiles
from lazychunks.storage.keys import Keys
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
)

CONVERTER = IdentityConverter()


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[Filled]:
    """What went the short way."""
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
    array = described(Keys(MemoryStore(store), ""), document)
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
    document = parsed((root / "zarr.json").read_bytes())
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


# Whose way is the short one.


def chunk_files(directory: Path, **options: Any) -> tuple[ChunkFiles | None, LocalStore]:
    store = LocalStore(directory)
    zarr.create_array(store, dtype=options.pop("dtype", "f8"), overwrite=True, **options)
    document = parsed(Keys(store, "").read("zarr.json"))
    assert document is not None
    return ChunkFiles.of(Keys(store, ""), document), store


USUAL: dict[str, dict[str, Any]] = {
    "default of zarr": {},
    "no compression": {"compressors": None},
    "zstd": {"compressors": ZstdCodec(level=5)},
    "bytes without an order": {"dtype": "i1"},
}

UNUSUAL: dict[str, dict[str, Any]] = {
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


@pytest.mark.parametrize("name", [*USUAL, *UNUSUAL])
def test_the_usual_layout_goes_the_short_way_and_no_other(name: str, directory: Path) -> None:
    options = (USUAL | UNUSUAL)[name]
    files, _ = chunk_files(directory, shape=(4, 4), chunks=(2, 2), **options)
    assert (files is not None) == (name in USUAL)


class Wrapped(WrapperStore[LocalStore]):
    """Whatever a store does besides must not be passed by."""


class Derived(LocalStore):
    """The same, by inheritance."""


def test_only_a_plain_directory_goes_the_short_way(directory: Path) -> None:
    _, store = chunk_files(directory, shape=(4, 4), chunks=(2, 2))
    document = parsed(Keys(store, "").read("zarr.json"))
    assert document is not None
    assert ChunkFiles.of(Keys(store, ""), document) is not None
    for other in (MemoryStore(), Wrapped(store), Derived(directory)):
        assert ChunkFiles.of(Keys(other, ""), document) is None


UNUSUAL_OPTIONS: dict[str, dict[str, Any]] = {
    "shards": {"chunks": (2, 2), "shards": (4, 4)},
    "filter": {"chunks": (2, 2), "filters": TransposeCodec(order=(1, 0))},
    "gzip": {"chunks": (2, 2), "compressors": GzipCodec(level=1)},
    "two codecs": {"chunks": (2, 2), "compressors": [ZstdCodec(), Crc32cCodec()]},
}


@pytest.mark.parametrize("name", UNUSUAL_OPTIONS)
def test_any_other_layout_is_left_to_zarr(
    name: str, directory: Path, written: list[Filled]
) -> None:
    whole = np.arange(35.0).reshape(7, 5)
    LazyChunkSequence(lambda: [whole]).to_zarr(directory / "a", CONVERTER, **UNUSUAL_OPTIONS[name])
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


def test_a_document_says_what_the_short_way_needs_to_know(directory: Path) -> None:
    """A layout of a later zarr is not taken for the usual one."""
    _, store = chunk_files(directory, shape=(4, 4), chunks=(2, 2))
    document = parsed(Keys(store, "").read("zarr.json"))
    assert document is not None
    later: list[Document] = [
        document | {"chunk_grid": {"name": "later", "configuration": {"chunk_shape": [2, 2]}}},
        document | {"data_type": {"name": "later"}},
        document | {"codecs": [{"name": "later"}]},
        document | {"codecs": []},
    ]
    for each in later:
        assert ChunkFiles.of(Keys(store, ""), each) is None
