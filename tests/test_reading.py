"""Blocks read back: they equal the array, nothing is read too early, and nothing is trusted."""

# pyright: reportUnknownMemberType=false
# The functions of zarr name a type of fsspec, which is optional and has no types.

import copy
import json
import math
import os
import pickle
import sys
import threading
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
import zarr.registry
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from zarr.abc.codec import BytesBytesCodec
from zarr.abc.store import ByteRequest, Store
from zarr.codecs import BloscCodec, BytesCodec, Crc32cCodec, GzipCodec, TransposeCodec, ZstdCodec
from zarr.core.buffer import Buffer, BufferPrototype, default_buffer_prototype
from zarr.core.chunk_key_encodings import V2ChunkKeyEncoding
from zarr.registry import register_codec
from zarr.storage import (
    FsspecStore,
    LocalStore,
    LoggingStore,
    MemoryStore,
    ObjectStore,
    StorePath,
    WrapperStore,
    ZipStore,
)

from lazychunks import (
    DestinationBusyError,
    DestinationExistsError,
    IdentityConverter,
    LazyChunkSequence,
    LazyChunksError,
    MissingChunkError,
    NestedLazyChunkSequence,
    UntrustedArrayError,
    WriteAbortedError,
    concatenate,
    status,
    tee,
    total,
    verify,
    zarr_sink,
)
from lazychunks.blocks.ahead import Ahead
from lazychunks.blocks.factories import is_map_backed, rows_of_calls
from lazychunks.storage.keys import Keys
from lazychunks.storage.read import READ_AHEAD
from tests.faults.seed_writer import seed_flat, seed_nested
from tests.places import OLD, put_array, put_group
from tests.strategies import Array, any_bits, bits, dtypes, partitions, seeds, shapes

CONVERTER = IdentityConverter()
Flat = LazyChunkSequence
Nested = NestedLazyChunkSequence
KINDS: tuple[Any, ...] = (LazyChunkSequence, NestedLazyChunkSequence)


class CountingStore(WrapperStore[Store]):
    """Remembers which chunks were asked for, and tells when one is."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.asked: list[str] = []
        self.begun: dict[str, threading.Event] = {}

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """Get a value."""
        if not key.endswith((".json", ".zarray", ".zattrs", ".zgroup", ".zmetadata")):
            self.asked.append(key)
            if key in self.begun:
                self.begun[key].set()
        return await super().get(key, prototype, byte_range)


def stored(values: Array, **options: Any) -> MemoryStore:
    """Store an array as any other program would."""
    store = MemoryStore()
    zarr.create_array(store, data=values, config={"write_empty_chunks": True}, **options)
    return store


def joined(rows: Nested[Array]) -> Array:
    return np.concatenate([np.concatenate(list(row), axis=1) for row in rows])


@dataclass(frozen=True)
class Case:
    """An array, and how it is stored and read."""

    values: Array
    layout: dict[str, Any] = field(default_factory=dict[str, Any])

    @property
    def store(self) -> MemoryStore:
        return stored(self.values, **self.layout)


@st.composite
def cases(draw: st.DrawFn, ndim: int) -> Case:
    """Draw an array of at least some axes, in Zarr 2 or 3, sharded or not."""
    shape = draw(st.integers(ndim, 3).flatmap(lambda axes: shapes(axes, 9)))
    values = any_bits(shape, draw(dtypes), draw(seeds))
    chunks = draw(st.tuples(*(st.integers(1, 5),) * len(shape)))
    layout: dict[str, Any] = {"chunks": chunks, "zarr_format": draw(st.sampled_from([2, 3]))}
    if layout["zarr_format"] == 2:
        layout["order"] = draw(st.sampled_from("CF"))
    elif draw(st.booleans()):
        layout["shards"] = tuple(draw(st.integers(1, 3)) * extent for extent in chunks)
    if draw(st.booleans()):
        layout["compressors"] = None
    return Case(values, layout)


sizes = st.none() | st.integers(1, 12)


# Law: the blocks, concatenated, equal the array, bitwise.


@given(cases(1), sizes)
def test_blocks_are_the_array(case: Case, rows: int | None) -> None:
    sequence = Flat.from_zarr(case.store, CONVERTER, rows=rows)
    blocks = sequence.compute()
    assert bits(np.concatenate(blocks)) == bits(case.values)
    assert len(blocks) == sequence.len_generator
    if rows is not None:
        assert all(len(block) == rows for block in blocks[:-1])


@given(cases(2), sizes, sizes)
def test_rows_of_blocks_are_the_array(case: Case, rows: int | None, columns: int | None) -> None:
    sequence = Nested.from_zarr(case.store, CONVERTER, rows=rows, columns=columns)
    assert bits(joined(sequence)) == bits(case.values)
    grid = sequence.compute()
    assert len(grid) == sequence.len_outer_generator
    assert len({len(row) for row in grid}) == 1
    if rows is not None:
        assert all(block.shape[0] == rows for row in grid[:-1] for block in row)
    if columns is not None:
        assert all(block.shape[1] == columns for row in grid for block in row[:-1])


def test_every_length_chunk_and_height_up_to_six() -> None:
    for length in range(7):
        values = np.arange(2 * length, dtype=np.int16).reshape(length, 2)
        for extent in range(1, 7):
            store = stored(values, chunks=(extent, 2))
            for rows in range(1, 7):
                blocks = Flat.from_zarr(store, CONVERTER, rows=rows).compute()
                np.testing.assert_array_equal(np.concatenate(blocks), values)
                assert len(blocks) == max(math.ceil(length / rows), 1)


@given(st.data(), partitions(), seeds)
def test_what_to_zarr_stores_is_read_back(
    data: st.DataObject, heights: tuple[int, ...], seed: int
) -> None:
    values = any_bits((sum(heights), 3), np.dtype("f4"), seed)
    store: dict[str, Buffer] = {}
    blocks = np.split(values, np.cumsum(heights)[:-1])
    Flat(lambda: blocks).to_zarr(store, CONVERTER, chunks=data.draw(st.integers(1, 4)))
    assert bits(np.concatenate(Flat.from_zarr(store, CONVERTER).compute())) == bits(values)


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_what_the_seed_stores_is_read_back(zarr_format: int, tmp_path: Path) -> None:
    """The seed, pyDVL 0.10, lets zarr choose the format; older versions of zarr chose Zarr 2."""
    values = np.arange(63.0).reshape(9, 7)
    heights, widths = [4, 4, 1], [3, 3, 1]
    bands = np.split(values, np.cumsum(heights)[:-1])
    with zarr.config.set({"default_zarr_format": zarr_format}):
        seed_flat(bands, tmp_path / "flat")
        seed_nested(
            [np.split(band, np.cumsum(widths)[:-1], axis=1) for band in bands], tmp_path / "nested"
        )
    name = ".zarray" if zarr_format == 2 else "zarr.json"
    assert (tmp_path / "flat" / name).exists()
    for path in (tmp_path / "flat", tmp_path / "nested"):
        flat = Flat.from_zarr(path, CONVERTER, rows=4).compute()
        np.testing.assert_array_equal(np.concatenate(flat), values)
        nested = Nested.from_zarr(path, CONVERTER, columns=3)
        assert [[b.shape for b in row] for row in nested] == [
            [(h, w) for w in widths] for h in heights
        ]
        np.testing.assert_array_equal(joined(nested), values)


def test_bfloat16_is_read_bitwise() -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes", reason="ml_dtypes is not installed")
    values = np.arange(65536, dtype=np.uint16).view(ml_dtypes.bfloat16).reshape(256, 256)
    store: dict[str, Buffer] = {}
    array = Flat(lambda: [values]).to_zarr(store, CONVERTER, True, chunks=(100, 256))
    for source in (store, array):
        assert bits(np.concatenate(Flat.from_zarr(source, CONVERTER).compute())) == bits(values)
        assert bits(joined(Nested.from_zarr(source, CONVERTER, columns=100))) == bits(values)


class Doubled:
    """A converter that does something."""

    def from_numpy(self, x: NDArray[Any], /) -> list[float]:
        return [2 * float(value) for value in x.flat]


def test_blocks_are_what_the_converter_makes() -> None:
    store = stored(np.arange(5.0), chunks=(2,))
    assert Flat.from_zarr(store, Doubled(), rows=2).compute() == [[0, 2], [4, 6], [8]]
    nested = Nested.from_zarr(stored(np.arange(4.0).reshape(2, 2)), Doubled(), rows=1, columns=1)
    assert nested.compute() == [[[0], [2]], [[4], [6]]]


def test_torch_blocks(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    from lazychunks.torch import TorchCatAggregator, TorchNumpyConverter

    for dtype in ("<f4", ">f4"):
        store = stored(np.arange(6, dtype=dtype).reshape(3, 2), chunks=(1, 2), zarr_format=2)
        sequence = Flat.from_zarr(store, TorchNumpyConverter(), rows=2)
        assert torch.equal(sequence.compute(TorchCatAggregator()), torch.arange(6.0).view(3, 2))


# Sources.


def sources_of(values: Array, directory: Path, zarr_format: int) -> Iterator[Any]:
    """Every way to name an array."""
    path = directory / "a.zarr"
    put_array(path, values, zarr_format=zarr_format)
    yield path
    yield str(path)
    yield path.as_uri()
    yield LocalStore(path)
    yield LocalStore(path, read_only=True)
    yield StorePath(LocalStore(directory), "a.zarr")
    yield zarr.open_array(path, mode="r")
    yield zarr.open_array(path, mode="r+")
    memory = MemoryStore()
    put_array(memory, values, path="in/a", zarr_format=zarr_format)
    yield StorePath(memory, "in/a")
    yield zarr.open_array(memory, path="in/a")
    whole = stored(values, chunks=(2, 3), zarr_format=zarr_format)
    yield whole
    content: dict[str, Buffer] = {}
    put_array(MemoryStore(content), values, zarr_format=zarr_format)
    yield content
    with ZipStore(directory / "a.zip", mode="w") as written:
        put_array(written, values, zarr_format=zarr_format)
    with ZipStore(directory / "a.zip", mode="r") as opened:
        yield opened
    unopened = ZipStore(directory / "a.zip", mode="r")
    yield unopened
    unopened.close()


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_an_array_is_found_wherever_it_is(tmp_path: Path, zarr_format: int) -> None:
    for source in sources_of(OLD, tmp_path, zarr_format):
        flat = Flat.from_zarr(source, CONVERTER, rows=4)
        np.testing.assert_array_equal(np.concatenate(flat.compute()), OLD, err_msg=repr(source))
        nested = Nested.from_zarr(source, CONVERTER, columns=2)
        np.testing.assert_array_equal(joined(nested), OLD, err_msg=repr(source))


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_a_relative_path_stays_where_it_was(
    zarr_format: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Elsewhere all chunks would be missing, and read as the fill value."""
    put_array(tmp_path / "array.zarr", OLD, zarr_format=zarr_format)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    read_only = LocalStore("array.zarr", read_only=True)
    group = StorePath(LocalStore(".", read_only=True), "array.zarr")
    places: list[Any] = [
        "array.zarr",
        LocalStore("array.zarr"),
        read_only,
        group,
        zarr.open_array(read_only),
    ]
    sequences = [LazyChunkSequence.from_zarr(place, IdentityConverter()) for place in places]
    monkeypatch.chdir("elsewhere")
    for sequence in sequences:
        np.testing.assert_array_equal(sequence.compute(concatenate()), OLD)


def test_reading_leaves_no_trace(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Flat.from_zarr(tmp_path / "not" / "there", CONVERTER)
    assert list(tmp_path.iterdir()) == []
    put_array(tmp_path / "a", OLD)
    for path in (tmp_path / "a").rglob("*"):
        path.chmod(0o555 if path.is_dir() else 0o444)
    np.testing.assert_array_equal(joined(Nested.from_zarr(tmp_path / "a", CONVERTER)), OLD)


# Blocks are those of the chunks by default.


@pytest.mark.parametrize(
    ("shape", "chunks", "limit", "expected"),
    [
        ((2000, 1000), (500, 1000), 2**30, (500, 2000)),  # 4 MB a chunk: as they are
        ((2000, 1000), (10, 1000), 2**30, (130, 1000)),  # 80 kB: up to 1 MiB
        ((2000, 1000), (500, 1000), 2**20, (125, 500)),  # a block keeps to the limit as well
    ],
)
def test_blocks_are_aligned_to_chunks(
    shape: tuple[int, int], chunks: tuple[int, int], limit: int, expected: tuple[int, int]
) -> None:
    store = MemoryStore()
    zarr.create_array(store, shape=shape, chunks=chunks, dtype="f8")
    if limit < 2**30:  # only the blocks are larger than it
        store = MemoryStore()
        zarr.create_array(store, shape=shape, chunks=(chunks[0], 100), dtype="f8")
    sequence = Flat.from_zarr(store, CONVERTER, max_chunk_bytes=limit)
    heights = [len(block) for block in islice(sequence, 2)]
    assert heights[0] == expected[0]
    nested = Nested.from_zarr(store, CONVERTER, max_chunk_bytes=limit)
    first = next(next(iter(nested)))
    assert first.nbytes <= limit
    assert first.shape[0] == chunks[0]


def test_blocks_of_a_sharded_array_are_those_of_its_chunks() -> None:
    store = MemoryStore()
    zarr.create_array(store, shape=(4096, 64), chunks=(1024, 64), shards=(4096, 64), dtype="f8")
    blocks = Flat.from_zarr(store, CONVERTER).compute()
    assert {len(block) for block in blocks} == {2048}  # two chunks make 1 MiB


# Map-backed: blocks can be skipped, repeated, computed elsewhere.


def chunked(count: int = 6) -> CountingStore:
    """An array of chunks ``c/0`` to ``c/n``, one element each."""
    return CountingStore(stored(np.arange(count), chunks=(1,)))


def test_calls_read_what_they_are_for() -> None:
    store = chunked()
    factory = Flat.from_zarr(store, CONVERTER, rows=1).map(str).generator_factory
    assert is_map_backed(factory)
    calls = [call for (call,) in factory.rows_of_calls()]
    assert store.asked == []
    assert [calls[4](), calls[1](), calls[4]()] == ["[4]", "[1]", "[4]"]
    assert store.asked == ["c/4", "c/1", "c/4"]

    store = CountingStore(stored(np.arange(6).reshape(2, 3), chunks=(1, 1)))
    rows = Nested.from_zarr(store, CONVERTER, rows=1, columns=1).map(str).generator_factory
    assert is_map_backed(rows)
    grid = [list(row) for row in rows.rows_of_calls()]
    assert [len(row) for row in grid] == [3, 3]
    assert rows.column_count() == 3
    assert grid[1][2]() == "[[5]]"
    assert store.asked == ["c/1/2"]


@pytest.mark.parametrize("kind", KINDS)
def test_map_keeps_reading_ahead(kind: Any) -> None:
    sequence = kind.from_zarr(stored(np.zeros((4, 4)), chunks=(2, 2)), CONVERTER)
    mapped = (sequence, sequence.map(np.negative), sequence.map(np.negative).map(abs))
    for source in [each.generator_factory for each in mapped]:
        made: Ahead[Any] = source
        assert (type(made), made.max_in_flight) == (Ahead, READ_AHEAD)
        assert rows_of_calls(made, 1 if kind is Flat else 2) is not None


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_mapped_is_computed_where_it_is_consumed(kind: Any) -> None:
    """So a function may reuse its output, and modes of a thread (``torch.no_grad``) hold for it."""
    values = np.arange(12.0).reshape(6, 2)
    output = np.empty((1, 2))
    threads: set[int] = set()

    def negated(block: Array) -> Array:
        threads.add(threading.get_ident())
        return np.negative(block, out=output)

    sequence = kind.from_zarr(stored(values, chunks=(1, 2)), CONVERTER, rows=1)
    for each in (sequence.map(negated), sequence.map(np.abs).map(negated)):
        np.testing.assert_array_equal(each.to_zarr({}, CONVERTER, True)[:], -values)
    assert threads == {threading.get_ident()}


@pytest.mark.parametrize("kind", KINDS)
def test_a_copy_can_be_resumed(kind: Any, tmp_path: Path) -> None:
    values = np.arange(48.0).reshape(12, 4)
    source = CountingStore(stored(values, chunks=(2, 4)))
    fails = True

    def negated(block: Array) -> Array:
        if fails and block[0, 0] >= 24:
            raise ZeroDivisionError
        return -block

    sequence = kind.from_zarr(source, CONVERTER, rows=2).map(negated)
    arguments: dict[str, Any] = {"run_id": "copy", "resume": True, "chunks": "blocks"}
    with pytest.raises(WriteAbortedError):
        sequence.to_zarr(tmp_path / "a", CONVERTER, **arguments)
    fails = False
    source.asked.clear()
    array = sequence.to_zarr(tmp_path / "a", CONVERTER, True, **arguments)
    np.testing.assert_array_equal(array[:], -values)
    assert len(source.asked) < 6


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_a_sequence_can_be_sent_elsewhere(kind: Any, zarr_format: int, tmp_path: Path) -> None:
    put_array(tmp_path / "a", OLD, zarr_format=zarr_format)
    sequence = kind.from_zarr(tmp_path / "a", CONVERTER, rows=4).map(np.negative)
    copied = pickle.loads(pickle.dumps(sequence))  # noqa: S301  # our own bytes
    blocks = copied.compute()
    np.testing.assert_array_equal(
        np.block(blocks if kind is Nested else [[b] for b in blocks]), -OLD
    )
    first = next(next(copied.generator_factory.rows_of_calls()))
    moved = pickle.loads(pickle.dumps(first))()  # noqa: S301  # our own bytes
    np.testing.assert_array_equal(moved, -OLD[:4])


# Laziness, and reading ahead.


@pytest.mark.parametrize("kind", KINDS)
def test_no_chunk_is_read_before_iteration(kind: Any) -> None:
    store = CountingStore(stored(np.zeros((6, 6)), chunks=(1, 1)))
    sequence = kind.from_zarr(store, CONVERTER, rows=1).map(abs)
    iterator = iter(sequence)
    repr(sequence)
    [list(row) for row in sequence.generator_factory.rows_of_calls()]
    assert store.asked == []
    next(iterator)
    del iterator


def test_what_is_read_ahead_is_bounded() -> None:
    store = chunked(30)
    for number, block in enumerate(Flat.from_zarr(store, CONVERTER, rows=1)):
        assert block.tolist() == [number]
        assert len(store.asked) <= number + 1 + READ_AHEAD
    assert sorted(store.asked) == sorted(f"c/{n}" for n in range(30))
    store = CountingStore(stored(np.arange(30).reshape(5, 6), chunks=(1, 1)))
    seen = 0
    for row in Nested.from_zarr(store, CONVERTER, rows=1, columns=1):
        for _ in row:
            seen += 1
            assert len(store.asked) <= seen + READ_AHEAD
    assert seen == len(store.asked) == 30


@pytest.mark.parametrize("kind", KINDS)
def test_the_next_blocks_are_read_while_one_is_consumed(kind: Any) -> None:
    store = CountingStore(stored(np.arange(12).reshape(6, 2), chunks=(1, 1)))
    keys = ["c/1/0", "c/2/0"] if kind is Flat else ["c/0/1", "c/1/0"]  # beyond the end of a row
    store.begun = {key: threading.Event() for key in keys}
    sequence = kind.from_zarr(store, CONVERTER, rows=1)
    if kind is Nested:
        sequence = kind.from_zarr(store, CONVERTER, rows=1, columns=1)
    blocks: Any = iter(sequence)
    first: Any = next(blocks) if kind is Flat else next(next(blocks))
    assert first.flat[0] == 0
    for begun in store.begun.values():
        assert begun.wait(timeout=60)


def test_threads_end_with_the_run() -> None:
    store = chunked()
    blocks = iter(Flat.from_zarr(store, CONVERTER, rows=1))
    next(blocks)
    del blocks
    Flat.from_zarr(store, CONVERTER, rows=1).compute()
    names = [thread.name for thread in threading.enumerate()]
    assert not any(name.startswith("lazychunks-ahead") for name in names)


# Axes of length zero.


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("shape", [(0,), (0, 3), (3, 0), (0, 0), (0, 2, 3), (2, 0, 3), (2, 3, 0)])
def test_an_array_without_elements_keeps_its_shape_and_dtype(
    shape: tuple[int, ...], zarr_format: int
) -> None:
    store = stored(np.empty(shape, "f4"), chunks=(2,) * len(shape), zarr_format=zarr_format)
    flat = np.concatenate(Flat.from_zarr(store, CONVERTER).compute())
    assert flat.shape == shape
    assert flat.dtype == np.dtype("f4")
    if len(shape) > 1:
        nested = joined(Nested.from_zarr(store, CONVERTER))
        assert nested.shape == shape
        assert nested.dtype == np.dtype("f4")
        again = Nested.from_zarr(store, CONVERTER).to_zarr({}, CONVERTER, True)
        assert again.shape == shape


# What is refused because it is not there, or does not fit.


def test_nothing_is_there(tmp_path: Path) -> None:
    nowhere: list[Any] = [tmp_path / "a", {}, MemoryStore(), StorePath(MemoryStore(), "a")]
    for kind in KINDS:
        for source in nowhere:
            with pytest.raises(FileNotFoundError, match="there is no Zarr array at"):
                kind.from_zarr(source, CONVERTER)


def test_an_unfinished_write_is_not_read(tmp_path: Path) -> None:
    def failing(number: int) -> Array:
        if number == 3:
            raise ZeroDivisionError
        return np.ones(3)

    memory: dict[str, Buffer] = {}
    for destination in (tmp_path / "a", memory):
        with pytest.raises(WriteAbortedError):
            Flat.from_map(failing, range(5)).to_zarr(destination, CONVERTER, run_id="r")
        with pytest.raises(FileNotFoundError, match="nothing was published"):
            Flat.from_zarr(destination, CONVERTER)
    assert "zarr.json.partial" in memory
    assert any("partial" in path.name for path in tmp_path.iterdir())


def test_too_few_axes() -> None:
    with pytest.raises(ValueError, match="1 axes, a nested sequence needs at least 2"):
        Nested.from_zarr(stored(np.arange(3)), CONVERTER)
    with pytest.raises(ValueError, match="0 axes, a flat sequence needs at least 1"):
        Flat.from_zarr(stored(np.array(1.0)), CONVERTER)


@pytest.mark.parametrize("wrong", [0, -1])
def test_sizes_must_be_positive(wrong: int) -> None:
    store = stored(np.zeros((4, 4)))
    for name in ("rows", "max_chunk_bytes"):
        for kind in KINDS:
            with pytest.raises(ValueError, match=f"{name} must be at least 1, got {wrong}"):
                kind.from_zarr(store, CONVERTER, **{name: wrong})
    with pytest.raises(ValueError, match=f"columns must be at least 1, got {wrong}"):
        Nested.from_zarr(store, CONVERTER, columns=wrong)
    with pytest.raises(TypeError, match=r"rows must be an integer, got 1\.5"):
        Flat.from_zarr(store, CONVERTER, rows=1.5)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]


def test_a_group_is_no_array(tmp_path: Path) -> None:
    put_group(tmp_path / "three")
    put_group(tmp_path / "two", zarr_format=2)
    with pytest.raises(UntrustedArrayError, match="group; name an array within"):
        Flat.from_zarr(tmp_path / "three", CONVERTER)
    with pytest.raises(FileNotFoundError):
        Flat.from_zarr(tmp_path / "two", CONVERTER)


def test_what_is_no_source() -> None:
    with pytest.raises(TypeError):
        Flat.from_zarr(3, CONVERTER)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]


# Hostile metadata: refused before a chunk is read.


@dataclass(frozen=True)
class Canary:
    """Unpickling it creates a file."""

    path: Path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


class EvilCodec(BytesBytesCodec):
    """Runs code when metadata that names it is read."""

    is_fixed_size = True
    touched: list[str] = []  # noqa: RUF012  # a class is all that metadata can name

    @classmethod
    def from_dict(cls, data: Any) -> "EvilCodec":  # noqa: ARG003
        cls.touched.append("from metadata")
        return cls()

    def to_dict(self) -> Any:
        return {"name": "tests.evil", "configuration": {}}

    def compute_encoded_size(self, input_byte_length: int, chunk_spec: Any) -> int:  # noqa: ARG002
        return input_byte_length


register_codec("tests.evil", EvilCodec)


class EvilNames(V2ChunkKeyEncoding):
    """Runs code as well, in the versions of zarr that let packages name chunks."""

    @classmethod
    def from_dict(cls, data: Any) -> "EvilNames":
        EvilCodec.touched.append("from metadata")
        return cls(**data.get("configuration", {}))


if (register_names := getattr(zarr.registry, "register_chunk_key_encoding", None)) is not None:
    register_names("tests.evil", EvilNames)


Document = dict[str, Any]
PLAIN: Any = {"name": "bytes", "configuration": {"endian": "little"}}
EVIL: Any = {"name": "tests.evil", "configuration": {}}
GZIP: Any = {"name": "gzip", "configuration": {"level": 1}}


def document_of(store: Store, key: str) -> Document:
    found: Document = json.loads(Keys(store, "").read(key) or b"")
    return found


VERSION_3 = document_of(stored(np.zeros((4, 4)), chunks=(2, 2)), "zarr.json")
SHARDED = document_of(stored(np.zeros((4, 4)), chunks=(2, 2), shards=(4, 4)), "zarr.json")
VERSION_2 = document_of(stored(np.zeros((4, 4)), chunks=(2, 2), zarr_format=2), ".zarray")


def edited(document: Document, *path: Any, to: Any) -> Document:
    """Copy a document with one part replaced."""
    copied = copy.deepcopy(document)
    part: Any = copied
    for key in path[:-1]:
        part = part[key]
    part[path[-1]] = to
    return copied


def three(*path: Any, to: Any) -> Document:
    return edited(VERSION_3, *path, to=to)


def two(*path: Any, to: Any) -> Document:
    return edited(VERSION_2, *path, to=to)


def shard(*path: Any, to: Any) -> Document:
    return edited(SHARDED, "codecs", 0, "configuration", *path, to=to)


GRID = ("chunk_grid", "configuration", "chunk_shape")
BOMB = edited(SHARDED, *GRID, to=[2**20, 2**20])
NESTED_SHARD: Any = {
    "name": "sharding_indexed",
    "configuration": {"chunk_shape": [1, 1], "codecs": [PLAIN, EVIL], "index_codecs": [PLAIN]},
}

ONE_BY_ONE: Any = {"chunk_shape": [1, 1], "codecs": [PLAIN], "index_codecs": [PLAIN]}
NEST_OF_SHARDS: Any = {
    "name": "sharding_indexed",
    "configuration": ONE_BY_ONE | {"codecs": [PLAIN, *[GZIP] * 63]},
}

HOSTILE: dict[str, Document | bytes] = {
    "2: pickle as compressor": two("compressor", to={"id": "pickle", "protocol": 5}),
    "2: pickle as filter": two("filters", to=[{"id": "pickle", "protocol": 5}]),
    "2: pickle as second filter": two("filters", to=[{"id": "shuffle"}, {"id": "pickle"}]),
    "2: objects": two("dtype", to="|O") | {"filters": [{"id": "pickle"}]},
    "2: objects as text": two("dtype", to="|O") | {"filters": [{"id": "vlen-utf8"}]},
    "2: unknown codec": two("compressor", to={"id": "tests.evil"}),
    "2: codec without a name": two("compressor", to={"level": 1}),
    "2: codec of another kind": two("compressor", to=["zstd"]),
    "2: text": two("dtype", to="<U8"),
    "2: records": two("dtype", to=[["a", "<f8"], ["b", "|O"]]),
    "2: records in a word": two("dtype", to="f8,O"),
    "2: large chunk": two("chunks", to=[2**20, 2**20]),
    "2: format of another": two("zarr_format", to=3),
    "2: damaged": b'{"zarr_format": 2, "shape": [4',
    "3: pickle": three("codecs", to=[PLAIN, {"name": "pickle", "configuration": {}}]),
    "3: numcodecs' pickle": three("codecs", to=[PLAIN, {"name": "numcodecs.pickle"}]),
    "3: unknown codec": three("codecs", to=[PLAIN, EVIL]),
    "3: unknown codec in shards": shard("codecs", to=[PLAIN, EVIL]),
    "3: unknown codec in shards of shards": shard("codecs", to=[NESTED_SHARD]),
    "3: unknown codec in an index": shard("index_codecs", to=[PLAIN, EVIL]),
    "3: shards in an index": shard("index_codecs", to=[NESTED_SHARD]),
    "3: unknown storage transformer": VERSION_3 | {"storage_transformers": [EVIL]},
    "3: unknown grid": three("chunk_grid", "name", to="rectilinear"),
    "3: unknown member": VERSION_3 | {"evil": {"must_understand": True}},
    "3: no codecs": three("codecs", to=[]),
    "3: codec with wrong settings": three("codecs", to=[{**PLAIN, "configuration": {"endian": 7}}]),
    "3: objects": three("data_type", to="object"),
    "3: text": three("data_type", to="string"),
    "3: dtype of settings": three("data_type", to={"name": "numpy.datetime64"}),
    "3: dtype of NumPy's only": three("data_type", to="float128"),
    "3: dtype like an expression": three("data_type", to="(" * 10**5 + "f8"),
    "3: large chunk": three(*GRID, to=[2**20, 2**20]),
    "3: large chunk in a shard": edited(
        BOMB, "codecs", 0, "configuration", "chunk_shape", to=[2**20, 2**20]
    ),
    "3: shard that is compressed as a whole": BOMB | {"codecs": [*BOMB["codecs"], GZIP]},
    "3: shard that is transposed as a whole": BOMB
    | {"codecs": [TransposeCodec(order=(1, 0)).to_dict(), *BOMB["codecs"]]},
    "3: chunk of nothing": three(*GRID, to=[0, 2]),
    "3: shard of nothing": edited(SHARDED, *GRID, to=[0, 4]),
    "3: shard of fewer axes": edited(SHARDED, *GRID, to=[4]),
    "3: unknown names of chunks": three("chunk_key_encoding", to={"name": "tests.evil"}),
    "3: chunk of fewer axes": three(*GRID, to=[2]),
    "3: negative length": three("shape", to=[-4, 4]),
    "3: length beyond any": three("shape", to=[10**30, 4]),
    "3: long rows": three("shape", to=[4, 10**5, 10**11])
    | {
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [1, 1, 1]}},
    },
    "3: 100,000 axes": three("shape", to=[1] * 10**5)
    | {"chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [1] * 10**5}}},
    "3: more chunk axes than NumPy has": three(*GRID, to=[1] * 65),
    "3: 100,000 names of axes": VERSION_3 | {"dimension_names": ["x"] * 10**5},
    "3: 100,000 codecs": three("codecs", to=[PLAIN, *[{"name": "crc32c"}] * 10**5]),
    "3: 4,000 codecs in shards": shard("codecs", to=[NEST_OF_SHARDS] * 63),
    "3: an order of 100,000 axes": three(
        "codecs",
        to=[{"name": "transpose", "configuration": {"order": [*range(10**5)]}}, PLAIN],
    ),
    "3: large shard of tiny chunks": edited(SHARDED, *GRID, to=[2**10, 2**9])
    | {"codecs": [{"name": "sharding_indexed", "configuration": ONE_BY_ONE}]},
    "2: 100,000 axes": two("shape", to=[1] * 10**5) | {"chunks": [1] * 10**5},
    "2: 100,000 filters": two("filters", to=[{"id": "shuffle"}] * 10**5),
    "3: fractional length": three("shape", to=[4.5, 4]),
    "3: no shape": {key: value for key, value in VERSION_3.items() if key != "shape"},
    "3: format of another": three("zarr_format", to=2),
    "3: format of the future": three("zarr_format", to=4),
    "3: damaged": b'{"zarr_format": 3, "node_type": "arr',
    "3: no object": b"[]",
    "3: empty": b"",
    "3: no text": bytes(range(256)),
    "3: too deep": b'{"a":' * 10**5,
}


def planted(document: Document | bytes, canary: Path | None, name: str) -> CountingStore:
    """A store with some metadata, all of whose chunks are canaries, if there is one."""
    value = document if isinstance(document, bytes) else json.dumps(document).encode()
    key = ".zarray" if name.startswith("2") else "zarr.json"
    content = {key: value}
    if canary is not None:
        chunk = pickle.dumps(Canary(canary))
        content |= dict.fromkeys(("0.0", "c/0/0", "c/0/0/0"), chunk)
    make = default_buffer_prototype().buffer.from_bytes
    return CountingStore(MemoryStore({key: make(value) for key, value in content.items()}))


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_metadata_is_refused_before_a_chunk_is_read(name: str, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    store = planted(HOSTILE[name], canary, name)
    EvilCodec.touched.clear()
    tracemalloc.start()
    for kind in KINDS:
        with pytest.raises(UntrustedArrayError) as caught:
            kind.from_zarr(store, CONVERTER)
        assert isinstance(caught.value, ValueError)
        assert isinstance(caught.value, LazyChunksError)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**26
    assert store.asked == []
    assert EvilCodec.touched == []
    assert not canary.exists()


def make_fifo(file: Path) -> None:
    """A file that blocks whoever opens it until somebody writes to it."""
    os.mkfifo(file)


def make_sparse(file: Path) -> None:
    """A file of 1 TiB that takes no space."""
    file.touch()
    os.truncate(file, 2**40)


ENDLESS: dict[str, Callable[[Path], None]] = {
    "a FIFO": make_fifo,
    "a sparse file": make_sparse,
    "a device": lambda file: file.symlink_to("/dev/zero"),
}


@pytest.mark.parametrize("name", ["zarr.json", ".zarray"])
@pytest.mark.parametrize("kind", ENDLESS)
def test_metadata_without_end_are_not_read(kind: str, name: str, tmp_path: Path) -> None:
    ENDLESS[kind](tmp_path / name)
    sources: list[Any] = [
        LocalStore(tmp_path, read_only=True),
        LoggingStore(LocalStore(tmp_path), log_level="ERROR"),
        FsspecStore.from_url(f"file://{tmp_path}"),
    ]
    if find_spec("obstore"):
        sources.append(ObjectStore(import_module("obstore.store").LocalStore(tmp_path)))
    if kind == "a sparse file":
        sources.append(tmp_path)
    for source in sources:
        with pytest.raises(UntrustedArrayError, match="4194304 bytes"):
            Flat.from_zarr(source, CONVERTER)


def test_metadata_in_a_zip_file_are_read_in_part(tmp_path: Path) -> None:
    """Zeros are compressed a thousand times."""
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as zipped:
        zipped.writestr("zarr.json", bytes(2**26))
    with (
        ZipStore(tmp_path / "a.zip", mode="r") as store,
        pytest.raises(UntrustedArrayError, match="4194304 bytes"),
    ):
        Flat.from_zarr(store, CONVERTER)


def test_empty_metadata_are_damaged_in_every_store(tmp_path: Path) -> None:
    """Some stores refuse to read a part of an empty value."""
    obstore = pytest.importorskip("obstore.store", reason="obstore is not installed")
    (tmp_path / "zarr.json").touch()
    for store in (LocalStore(tmp_path), ObjectStore(obstore.LocalStore(tmp_path))):
        with pytest.raises(UntrustedArrayError, match="is damaged"):
            Flat.from_zarr(store, CONVERTER)


def test_the_canaries_sing(tmp_path: Path) -> None:
    """The negative control: without refusal, each of them would be seen."""
    canary = tmp_path / "canary"
    pickle.loads(pickle.dumps(Canary(canary)))  # noqa: S301  # as an older numcodecs does
    assert canary.exists()
    EvilCodec.touched.clear()
    zarr.open_array(planted(HOSTILE["3: unknown codec"], canary, "3"), mode="r+")
    assert EvilCodec.touched
    for document, name in ((VERSION_2, "2"), (VERSION_3, "3")):
        store = planted(document, canary, name)
        with pytest.raises(Exception):  # noqa: B017, PT011  # a canary is no zstd frame
            Flat.from_zarr(store, CONVERTER).compute()
        assert store.asked


def test_an_array_that_is_open_already_is_judged_as_well() -> None:
    opened = zarr.open_array(planted(HOSTILE["3: unknown codec"], None, "3"), mode="r+")
    with pytest.raises(UntrustedArrayError, match=r"tests\.evil"):
        Flat.from_zarr(opened, CONVERTER)
    for zarr_format in (2, 3):
        opened = zarr.open_array(stored(np.zeros((4, 4)), zarr_format=zarr_format))
        with pytest.raises(UntrustedArrayError, match="has 128 bytes, more than max_chunk_bytes"):
            Flat.from_zarr(opened, CONVERTER, max_chunk_bytes=127)
        assert len(Flat.from_zarr(opened, CONVERTER, max_chunk_bytes=128).compute()) == 1


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_a_chunk_may_have_as_many_bytes_as_are_allowed(zarr_format: int) -> None:
    store = stored(np.zeros((8, 4)), chunks=(4, 2), zarr_format=zarr_format)
    for kind in KINDS:
        sequence = kind.from_zarr(store, CONVERTER, max_chunk_bytes=64)
        assert len(sequence.compute()) >= 2
        with pytest.raises(UntrustedArrayError, match=r"one chunk of .* has 64 bytes"):
            kind.from_zarr(store, CONVERTER, max_chunk_bytes=63)


def test_a_row_must_not_be_larger_than_a_chunk_may_be() -> None:
    store = stored(np.zeros((4, 40)), chunks=(4, 2))
    with pytest.raises(UntrustedArrayError, match=r"one row .* 320 bytes"):
        Flat.from_zarr(store, CONVERTER, max_chunk_bytes=319)
    blocks = Flat.from_zarr(store, CONVERTER, max_chunk_bytes=320).compute()
    assert [block.shape for block in blocks] == [(1, 40)] * 4
    nested = Nested.from_zarr(store, CONVERTER, max_chunk_bytes=64).compute()
    assert {block.shape for row in nested for block in row} == {(4, 2)}


@pytest.mark.parametrize(
    ("kind", "shape", "shards", "what"),
    [
        (Flat, (4, 2**22), None, "one row"),
        (Nested, (4, 4, 2**22), None, "one cell"),
        (Flat, (2**22,), (2**22,), "one shard"),
    ],
)
def test_a_block_must_not_consist_of_more_chunks_than_can_be_read_at_once(
    kind: Any, shape: tuple[int, ...], shards: tuple[int, ...] | None, what: str
) -> None:
    """Each of them takes memory and time, be it there or not."""
    store = MemoryStore()
    zarr.create_array(store, shape=shape, chunks=(1,) * len(shape), shards=shards, dtype="u1")
    with pytest.raises(UntrustedArrayError, match=f"{what} .* of 4194304 chunks"):
        kind.from_zarr(store, CONVERTER)
    assert kind.from_zarr(store, CONVERTER, max_chunk_bytes=2**36)


def test_a_block_of_tiny_chunks_has_not_too_many() -> None:
    store = MemoryStore()
    zarr.create_array(store, shape=(2**30, 2**30), chunks=(1, 1), dtype="u1")
    narrow = MemoryStore()
    zarr.create_array(narrow, shape=(2**30, 4), chunks=(1, 1), dtype="u1")
    assert len(next(iter(Flat.from_zarr(narrow, CONVERTER)))) == 128
    assert next(next(iter(Nested.from_zarr(store, CONVERTER)))).shape == (1, 512)


@pytest.mark.parametrize("length", [10**18, sys.maxsize])
def test_a_huge_shape_costs_nothing(length: int) -> None:
    """Chunks that are missing are no fault, and blocks come one by one."""
    for document in (three("shape", to=[length, 4]), two("shape", to=[length, 4])):
        store = planted(document, None, str(document["zarr_format"]))
        tracemalloc.start()
        flat = Flat.from_zarr(store, CONVERTER, rows=8)
        assert flat.len_generator == math.ceil(length / 8)
        assert next(iter(flat)).tolist() == [[0.0] * 4] * 8
        nested = Nested.from_zarr(store, CONVERTER, rows=8)
        assert next(next(iter(nested))).shape == (8, 4)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 2 * 2**20


def test_what_the_writer_may_use_can_be_read() -> None:
    """No codec that is known to be harmless is refused."""
    values = np.arange(24.0).reshape(4, 6)
    for codec in (BloscCodec(), GzipCodec(), ZstdCodec(), Crc32cCodec()):
        store = stored(values, chunks=(2, 3), compressors=[codec])
        assert bits(np.concatenate(Flat.from_zarr(store, CONVERTER).compute())) == bits(values)
    store = stored(
        values,
        chunks=(2, 3),
        filters=[TransposeCodec(order=(1, 0))],
        serializer=BytesCodec(endian="big"),
    )
    assert bits(joined(Nested.from_zarr(store, CONVERTER))) == bits(values)
    for name in ("blosc", "bz2", "gzip", "lz4", "lzma", "zlib", "zstd"):
        store = stored(values, chunks=(2, 3), compressors={"id": name}, zarr_format=2)
        assert bits(np.concatenate(Flat.from_zarr(store, CONVERTER).compute())) == bits(values)


@pytest.mark.filterwarnings("ignore:Numcodecs codecs are not in")
@pytest.mark.parametrize("name", ["bz2", "lzma", "zlib", "lz4", "zstd", "delta", "quantize"])
def test_what_the_writer_may_use_of_numcodecs_can_be_read(name: str, tmp_path: Path) -> None:
    numcodecs = pytest.importorskip("zarr.codecs.numcodecs")
    settings: dict[str, dict[str, Any]] = {
        "delta": {"dtype": "<f8"},
        "quantize": {"digits": 3, "dtype": "<f8"},
    }
    codec = {kind.lower(): getattr(numcodecs, kind) for kind in numcodecs.__all__}[name]
    values = np.arange(24.0).reshape(4, 6)
    key = "filters" if name in settings else "compressors"
    options: Any = {key: codec(**settings.get(name, {})), "chunks": (2, 6)}
    LazyChunkSequence(lambda: [values]).to_zarr(tmp_path / "a", CONVERTER, **options)
    found = np.concatenate(Flat.from_zarr(tmp_path / "a", CONVERTER).compute())
    np.testing.assert_array_equal(found, values)
    assert verify(tmp_path / "a").bad == {}
    assert status(tmp_path / "a").state == "complete"


# A missing chunk.

MISSING_LAYOUTS: dict[str, dict[str, Any]] = {
    "read directly": {},
    "read by zarr": {"compressors": GzipCodec()},
    "shards": {"shards": (4, 4)},
}


@pytest.mark.parametrize("layout", MISSING_LAYOUTS)
@pytest.mark.parametrize("place", ["path", "memory"])
@pytest.mark.parametrize("value", [0.0, np.nan, 3.0])
def test_an_array_of_ours_without_one_of_its_chunks_is_not_read(
    value: float, place: str, layout: str, tmp_path: Path
) -> None:
    whole = np.full((8, 8), value)
    content: dict[str, Buffer] = {}
    destination: Any = tmp_path / "a" if place == "path" else content
    options: dict[str, Any] = {"chunks": (2, 4), **MISSING_LAYOUTS[layout]}
    Flat(lambda: [whole]).to_zarr(destination, CONVERTER, **options)
    key = "c/1/1" if layout == "shards" else "c/2/1"
    if place == "path":
        (tmp_path / "a" / key).unlink()
    else:
        del content[key]

    message = (
        rf"block 2: the chunk .*{key} is missing, or was left out by a copy .*missing=\"fill\""
    )
    blocks = iter(Flat.from_zarr(destination, CONVERTER, rows=2))
    for _ in range(2):
        next(blocks)
    with pytest.raises(MissingChunkError, match=message) as caught:
        next(blocks)
    assert (caught.value.key, caught.value.block) == (key, 2)
    with pytest.raises(MissingChunkError) as caught:
        Nested.from_zarr(destination, CONVERTER, rows=2, columns=4).compute()
    assert (caught.value.key, caught.value.block) == (key, (2, 1))
    copied = pickle.loads(pickle.dumps(caught.value))  # noqa: S301  # our own bytes
    assert copied.block == (2, 1)

    whole[4 : 8 if layout == "shards" else 6, 4:] = 0
    flat = Flat.from_zarr(destination, CONVERTER, missing="fill")
    assert bits(flat.compute(concatenate())) == bits(whole)
    nested = Nested.from_zarr(destination, CONVERTER, missing="fill", columns=4)
    assert bits(joined(nested)) == bits(whole)


@pytest.mark.parametrize("layout", MISSING_LAYOUTS)
def test_zeros_that_are_stored_are_not_missing(layout: str) -> None:
    content: dict[str, Buffer] = {}
    options: dict[str, Any] = {"chunks": (2, 4), **MISSING_LAYOUTS[layout]}
    Flat(lambda: [np.zeros((8, 8))]).to_zarr(content, CONVERTER, **options)
    assert not Flat.from_zarr(content, CONVERTER).compute(concatenate()).any()


@pytest.mark.parametrize("compressors", ["auto", GzipCodec()])
def test_arrays_of_others_may_leave_chunks_out(compressors: Any, tmp_path: Path) -> None:
    array = zarr.create_array(
        tmp_path / "a", shape=(4,), chunks=(2,), dtype="f4", fill_value=7, compressors=compressors
    )
    array[:2] = 1
    for missing in (None, "fill"):
        sequence = Flat.from_zarr(tmp_path / "a", CONVERTER, missing=missing)
        assert sequence.compute(concatenate()).tolist() == [1, 1, 7, 7]


def test_what_may_be_said_of_missing_chunks() -> None:
    with pytest.raises(ValueError, match="missing must be None or \"fill\", got 'raise'"):
        Flat.from_zarr(stored(np.zeros(3)), CONVERTER, missing="raise")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]


# Written where it is read from.


VALUES = np.arange(24.0).reshape(8, 3)


def replaceable(kind: str, directory: Path) -> tuple[Any, Any]:
    """Put an array somewhere; return source and destination, which are the same place."""
    memory = MemoryStore()
    places: dict[str, Any] = {
        "path": directory / "a",
        "LocalStore": LocalStore(directory / "a"),
        "dict": {},
        "MemoryStore": memory,
        "StorePath": StorePath(memory, "in/a"),
        "array": memory,
    }
    sources: dict[str, Callable[[], Any]] = {"array": lambda: zarr.open_array(memory, mode="r+")}
    if kind == "wrapped":
        places[kind] = memory
        sources[kind] = lambda: LoggingStore(memory, log_level="ERROR")
    elif kind == "member":
        pytest.importorskip("fsspec")
        places[kind] = f"memory://{directory.name}/in/a"
        sources[kind] = lambda: StorePath(
            FsspecStore.from_url(f"memory://{directory.name}"), "in/a"
        )
    elif kind == "prefix":
        local = pytest.importorskip("obstore.store").LocalStore
        (directory / "in" / "a").mkdir(parents=True)
        places[kind] = ObjectStore(local(directory / "in" / "a"))
        sources[kind] = lambda: StorePath(ObjectStore(local(directory)), "in/a")
    place = places[kind]
    Flat(lambda: [VALUES]).to_zarr(place, CONVERTER, chunks=(2, 3))
    return sources.get(kind, lambda: place)(), place


def by_workers(source: Any, place: Any) -> None:
    blocks = Flat.from_zarr(source, CONVERTER, rows=2).map(np.negative)
    with ThreadPoolExecutor(2) as pool:
        blocks.to_zarr(place, CONVERTER, overwrite=True, executor=pool, chunks="blocks")


def ahead(source: Any, place: Any) -> None:
    with ThreadPoolExecutor(2) as pool:
        blocks = Flat.from_zarr(source, CONVERTER, rows=2).parallel(pool)
        blocks.map(np.negative).to_zarr(place, CONVERTER, overwrite=True)


WAYS: dict[str, Callable[[Any, Any], object]] = {
    "flat": lambda source, place: (
        Flat.from_zarr(source, CONVERTER, rows=2)
        .map(np.negative)
        .to_zarr(place, CONVERTER, overwrite=True)
    ),
    "nested": lambda source, place: (
        Nested.from_zarr(source, CONVERTER, rows=2, columns=1)
        .map(np.negative)
        .to_zarr(place, CONVERTER, overwrite=True, run_id="r", resume=True)
    ),
    "workers": by_workers,
    "ahead": ahead,
    "tee": lambda source, place: (
        Flat.from_zarr(source, CONVERTER, rows=2)
        .map(np.negative)
        .compute(tee(total(), zarr_sink(place, CONVERTER, overwrite=True)))
    ),
    "generator": lambda source, place: Flat(
        lambda: (-block for block in Flat.from_zarr(source, CONVERTER, rows=2))
    ).to_zarr(place, CONVERTER, overwrite=True),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", ["path", "LocalStore"])
def test_a_local_array_can_be_replaced_by_what_is_made_of_it(
    kind: str, way: str, tmp_path: Path
) -> None:
    source, place = replaceable(kind, tmp_path)
    WAYS[way](source, place)
    assert bits(joined(Nested.from_zarr(place, CONVERTER))) == bits(-VALUES)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    "kind", ["dict", "MemoryStore", "StorePath", "array", "wrapped", "member", "prefix"]
)
def test_elsewhere_an_array_is_not_replaced_while_it_is_read(
    kind: str, way: str, tmp_path: Path
) -> None:
    """Regression: what had not been read yet was read as zeros."""
    source, place = replaceable(kind, tmp_path)
    with pytest.raises(DestinationExistsError, match="is being read"):
        WAYS[way](source, place)
    assert bits(joined(Nested.from_zarr(place, CONVERTER))) == bits(VALUES)
    other: dict[str, Buffer] = {}
    WAYS[way](source, other)
    assert bits(joined(Nested.from_zarr(other, CONVERTER))) == bits(-VALUES)
    Flat(lambda: [VALUES]).to_zarr(place, CONVERTER, overwrite=True)  # nothing is held


def test_what_is_being_replaced_is_not_read() -> None:
    _, place = replaceable("MemoryStore", Path())

    def blocks() -> Iterator[Array]:
        sequence = Flat.from_zarr(place, CONVERTER, rows=2)
        yield np.zeros((2, 3))
        yield from sequence

    with pytest.raises(DestinationBusyError, match="is being replaced"):
        Flat(blocks).to_zarr(place, CONVERTER, overwrite=True)
