"""``verify``: every chunk that is damaged or lost is named, and no sound one."""

# pyright: reportUnknownMemberType=false
# The functions of zarr name a type of fsspec, which is optional and has no types.

import tracemalloc
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from zarr.codecs import BloscCodec, Crc32cCodec, GzipCodec, ZstdCodec
from zarr.core.buffer import Buffer, default_buffer_prototype
from zarr.storage import LocalStore, MemoryStore, StorePath, WrapperStore, ZipStore

from lazychunks import (
    IdentityConverter,
    LazyChunkSequence,
    UntrustedArrayError,
    ZarrOptions,
    verify,
)
from tests.places import put_array
from tests.strategies import Array
from tests.test_reading import HOSTILE, EvilCodec, planted, stored, three

CONVERTER = IdentityConverter()
WHOLE: Array = np.random.default_rng(0).integers(0, 9, (10, 7))

Content = dict[str, Buffer]

NUMCODECS: Any = import_module("numcodecs")
"""Its codecs have no types."""

LAYOUTS: dict[str, ZarrOptions] = {
    "chunks": {"chunks": (4, 3)},
    "shards": {"chunks": (2, 3), "shards": (4, 6)},
    "gzip": {"chunks": (4, 3), "compressors": GzipCodec()},
    "checksums alone": {"chunks": (4, 3), "compressors": Crc32cCodec()},
}


def written(**options: Any) -> Content:
    """An array that was written here."""
    store: Content = {}
    blocks = LazyChunkSequence.from_map(lambda row: WHOLE[row : row + 2], range(0, 10, 2))
    blocks.to_zarr(store, CONVERTER, **options)
    return store


def chunks_of(store: Content) -> list[str]:
    return sorted(key for key in store if key != "zarr.json")


def changed(value: Buffer, place: int) -> Buffer:
    """A value with one byte flipped."""
    data = bytearray(value.to_bytes())
    data[place] ^= 0xFF
    return default_buffer_prototype().buffer.from_bytes(bytes(data))


# Law: what was stored is sound, and what was damaged is named.


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_was_stored_is_sound(layout: str) -> None:
    store = written(**LAYOUTS[layout])
    before = dict(store)
    found = verify(store)
    assert found.is_sound
    assert found.chunks == found.read == len(chunks_of(store)) > 1
    assert (found.bad, found.missing, found.missing_keys) == ({}, 0, ())
    assert found.misses_none
    assert found.has_checksums
    assert store == before


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_chunk_with_a_flipped_byte_is_named(layout: str) -> None:
    whole = written(**LAYOUTS[layout])
    for key in chunks_of(whole)[::4]:
        for place in {0, 5, len(whole[key]) // 2, len(whole[key]) - 1}:
            found = verify({**whole, key: changed(whole[key], place)})
            if not found.is_sound:
                assert list(found.bad) == [key]
            else:  # a byte that says nothing, such as a time in a header
                assert layout == "gzip"
    found = verify({**whole, **{key: changed(whole[key], -1) for key in chunks_of(whole)}})
    assert list(found.bad) == chunks_of(whole)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_chunk_that_is_cut_short_is_named(layout: str) -> None:
    whole = written(**LAYOUTS[layout])
    make = default_buffer_prototype().buffer.from_bytes
    for key in chunks_of(whole)[::4]:
        for length in (0, 1, len(whole[key]) - 1):
            found = verify({**whole, key: make(whole[key].to_bytes()[:length])})
            assert list(found.bad) == [key]
            assert not found.is_sound
            assert found.bad[key]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_chunk_that_was_lost_is_named(layout: str) -> None:
    whole = written(**LAYOUTS[layout])
    keys = chunks_of(whole)
    for lost in ((keys[0],), (keys[-1],), (keys[1], keys[3]), tuple(keys)):
        found = verify({key: value for key, value in whole.items() if key not in lost})
        assert (found.missing, found.missing_keys) == (len(lost), lost)
        assert (found.bad, found.read) == ({}, len(keys) - len(lost))
        assert not found.is_sound


def test_in_an_array_of_others_a_chunk_may_be_missing() -> None:
    store = MemoryStore()
    array = zarr.create_array(store, shape=(10, 7), chunks=(4, 3), dtype="i8")
    array[:4] = WHOLE[:4]
    found = verify(store)
    assert found.is_sound
    assert not found.misses_none
    assert (found.chunks, found.read, found.missing) == (9, 3, 6)
    assert found.missing_keys[0] == "c/1/0"


def test_only_so_many_missing_chunks_are_named() -> None:
    """Metadata may claim any number."""
    grid = {"name": "regular", "configuration": {"chunk_shape": [1, 1]}}
    for lengths in ([20, 20], [10**9, 10**9], [2**62, 2**62]):
        document = three("shape", to=lengths) | {"chunk_grid": grid}
        tracemalloc.start()
        found = verify(planted(document, None, "3"))
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert found.missing == found.chunks == lengths[0] * lengths[1]
        assert len(found.missing_keys) == 100
        assert found.missing_keys[21] == f"c/{21 // lengths[1]}/{21 % lengths[1]}"
        assert peak < 2**20


# Arrays of every kind.


def foreign(**options: Any) -> Content:
    """An array that zarr has written by itself."""
    store: Content = {}
    zarr.create_array(
        MemoryStore(store), data=WHOLE, config={"write_empty_chunks": True}, **options
    )
    return store


def arrays() -> Iterator[Content]:
    whole = {"chunks": (4, 3)}
    for layout in (
        whole,
        {"chunks": (2, 3), "shards": (4, 6)},
        whole | {"zarr_format": 2},
        whole | {"zarr_format": 2, "order": "F", "filters": [NUMCODECS.Shuffle(8)]},
        whole | {"zarr_format": 2, "compressors": {"id": "zlib"}},
        whole | {"chunk_key_encoding": {"name": "v2", "separator": "."}},
        whole | {"chunk_key_encoding": {"name": "v2", "separator": "/"}},
        whole | {"chunk_key_encoding": {"name": "default", "separator": "."}},
        whole | {"zarr_format": 2, "chunk_key_encoding": {"name": "v2", "separator": "/"}},
    ):
        yield foreign(**layout)


def test_arrays_of_others_are_read() -> None:
    for store in arrays():
        found = verify(store)
        assert found.is_sound
        assert found.read == found.chunks in (9, 6)
        keys = [key for key in store if not key.endswith((".json", ".zarray", ".zattrs"))]
        content = {**store, keys[3]: default_buffer_prototype().buffer.from_bytes(b"?")}
        assert list(verify(content).bad) == [keys[3]]
        del content[keys[3]]
        assert verify(content).missing_keys == (keys[3],)


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("shape", [(), (0,), (3, 0), (1,)])
def test_arrays_with_few_elements(shape: tuple[int, ...], zarr_format: int) -> None:
    chunks = tuple(max(length, 1) for length in shape)
    store = stored(np.ones(shape), chunks=chunks, zarr_format=zarr_format)
    found = verify(store)
    assert found.is_sound
    assert found.read == found.chunks == (0 if 0 in shape else 1)


def test_bfloat16() -> None:
    dtype = pytest.importorskip("ml_dtypes", reason="ml_dtypes is not installed").bfloat16
    store: Content = {}
    LazyChunkSequence(lambda: [WHOLE.astype(dtype)]).to_zarr(store, CONVERTER, chunks=(4, 3))
    assert verify(store).is_sound
    store["c/1/2"] = changed(store["c/1/2"], -1)
    assert list(verify(store).bad) == ["c/1/2"]


@pytest.mark.parametrize(
    ("compressors", "expected"),
    [
        (ZstdCodec(checksum=True), True),
        (ZstdCodec(checksum=False), False),
        (GzipCodec(), True),
        (Crc32cCodec(), True),
        (BloscCodec(), False),
        ([BloscCodec(), Crc32cCodec()], True),
        (None, False),
    ],
    ids=repr,
)
@pytest.mark.parametrize("shards", [None, (10, 6)])
def test_whether_there_are_checksums(compressors: Any, expected: bool, shards: Any) -> None:
    store = written(chunks=(5, 3), compressors=compressors, shards=shards)
    assert verify(store).has_checksums is expected
    assert verify(store).is_sound


def test_whether_there_are_checksums_in_zarr_2() -> None:
    for compressor, expected in (
        ({"id": "zlib"}, True),
        ({"id": "lz4"}, False),
        ({"id": "zstd", "level": 1, "checksum": True}, True),
        ({"id": "zstd", "level": 1, "checksum": False}, False),
        (None, False),
    ):
        store = stored(WHOLE, chunks=(5, 3), zarr_format=2, compressors=compressor)
        assert verify(store).has_checksums is expected
    store = stored(WHOLE, zarr_format=2, compressors=None, filters=[NUMCODECS.CRC32()])
    assert verify(store).has_checksums


def test_a_shard_larger_than_a_chunk_may_be_is_read_in_parts() -> None:
    store = written(chunks=(2, 3), shards=(10, 9))
    limit = 2 * 3 * 8
    assert verify(store, max_chunk_bytes=limit).is_sound
    with pytest.raises(UntrustedArrayError, match="max_chunk_bytes"):
        verify(store, max_chunk_bytes=limit - 1)
    store["c/0/0"] = changed(store["c/0/0"], 3)
    assert list(verify(store, max_chunk_bytes=limit).bad) == ["c/0/0"]


class Unlisting(WrapperStore[MemoryStore]):
    """A store that cannot list, as one behind HTTP."""

    @property
    def supports_listing(self) -> bool:
        """No."""
        return False

    def list_prefix(self, prefix: str) -> Any:
        """List keys, or fail."""
        raise NotImplementedError


def test_wherever_it_is(tmp_path: Path) -> None:
    path = tmp_path / "a.zarr"
    put_array(path, WHOLE)
    memory = MemoryStore()
    put_array(memory, WHOLE, path="in/a")
    put_array(memory, WHOLE, path="in/a2")
    with ZipStore(tmp_path / "a.zip", mode="w") as zipped:
        put_array(zipped, WHOLE)
    content: Content = {}
    alone = MemoryStore(content)
    put_array(alone, WHOLE)
    sources: list[Any] = [path, str(path), path.as_uri(), LocalStore(path, read_only=True)]
    sources += [StorePath(memory, "in/a"), ZipStore(tmp_path / "a.zip", mode="r")]
    sources += [Unlisting(alone), StorePath(Unlisting(memory), "in/a")]
    for source in sources:
        found = verify(source)
        assert (found.chunks, found.read, found.missing) == (5, 5, 0), source
    (path / "c" / "3" / "0").unlink()
    del content["c/3/0"]
    left: list[Any] = [path, Unlisting(alone)]
    for source in left:
        found = verify(source)
        assert (found.read, found.missing_keys) == (4, ("c/3/0",))


def test_chunks_of_an_array_without_elements_are_not_looked_for() -> None:
    """An axis of length zero, and one of which each chunk would be asked for."""
    store = MemoryStore()
    zarr.create_array(store, shape=(10**15, 0), chunks=(1, 1), dtype="u1")
    assert verify(Unlisting(store)).chunks == 0


def test_without_an_array_there_is_nothing_to_verify(tmp_path: Path) -> None:
    nowhere: list[Any] = [tmp_path / "a", {}, LocalStore(tmp_path / "a", read_only=True)]
    for source in nowhere:
        with pytest.raises(FileNotFoundError, match="no Zarr array"):
            verify(source)
    assert list(tmp_path.iterdir()) == []


def test_a_progress_bar_is_shown_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    store = written(chunks=(4, 3))
    verify(store, progress=True)
    out, err = capsys.readouterr()
    assert out == ""
    assert "chunks: 100%" in err
    assert "9/9" in err
    verify(store, progress=False)
    verify(store)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_metadata_is_refused_before_a_chunk_is_read(name: str, tmp_path: Path) -> None:
    EvilCodec.touched.clear()
    canary = tmp_path / "canary"
    store = planted(HOSTILE[name], canary, name)
    if name == "3: long rows":  # each chunk is small
        assert verify(store).missing_keys
    else:
        with pytest.raises(UntrustedArrayError):
            verify(store)
        assert store.asked == []
    assert EvilCodec.touched == []
    assert not canary.exists()
