"""Laws of ``to_zarr``: what is stored equals in-memory concatenation, bitwise.

``tests/test_bad_inputs.py`` has what is refused, ``tests/test_destinations.py`` where arrays go.
"""

import itertools
import json
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st
from zarr.codecs import GzipCodec, TransposeCodec, ZstdCodec
from zarr.core.buffer import Buffer

from lazychunks import (
    BlockDTypeError,
    BlockTypeError,
    IdentityConverter,
    LazyChunkSequence,
    LengthHintWarning,
    NestedLazyChunkSequence,
    WriteAbortedError,
    ZarrOptions,
    concatenate,
    nested_concatenate,
    zarr_group_sink,
    zarr_sink,
)
from lazychunks.layout.shapes import Shape
from tests.places import opened
from tests.strategies import (
    DTYPES,
    Array,
    Flat,
    Nested,
    any_bits,
    bits,
    dtypes,
    flat_blocks,
    hints,
    nested_blocks,
    partitions,
    seeds,
    zarr_options,
)

CONVERTER = IdentityConverter()


def stored(
    given: Flat | Nested, hint: int | None = None, *, at: Any = None, **options: Any
) -> "zarr.Array[Any]":
    """Store, without the warning about a hint (which has tests of its own)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LengthHintWarning)
        array: zarr.Array[Any] = given.sequence(hint).to_zarr(
            {} if at is None else at, CONVERTER, return_stored=True, overwrite=True, **options
        )
        return array


def read(array: "zarr.Array[Any]") -> Array:
    """Open the array anew, as another program would, and read all of it."""
    anew = opened(array.store, array.path)
    assert anew.shape == array.shape
    return np.asarray(anew[...])


@pytest.fixture(scope="module")
def directory() -> Iterator[Path]:
    """One directory for all examples of a test: each overwrites the one before."""
    path = Path(tempfile.mkdtemp())
    yield path
    shutil.rmtree(path)


# Law: to_zarr, then read, equals np.concatenate / np.block, bitwise.


@given(st.data(), flat_blocks())
def test_a_stored_sequence_equals_concatenation(data: st.DataObject, flat: Flat) -> None:
    chosen = data.draw(zarr_options(flat.whole.ndim), "options")
    hint = data.draw(hints(len(flat.blocks)), "hint")
    assert bits(read(stored(flat, hint, **chosen))) == bits(flat.whole)


@given(st.data(), nested_blocks())
def test_a_stored_nested_sequence_equals_block(data: st.DataObject, nested: Nested) -> None:
    chosen = data.draw(zarr_options(nested.whole.ndim), "options")
    hint = data.draw(hints(len(nested.rows)), "hint")
    assert bits(read(stored(nested, hint, **chosen))) == bits(nested.whole)


@given(st.data(), flat_blocks() | nested_blocks())
def test_the_same_holds_for_a_local_path(
    directory: Path, data: st.DataObject, given: Flat | Nested
) -> None:
    chosen = data.draw(zarr_options(given.whole.ndim), "options")
    array = stored(given, at=directory / "array.zarr", **chosen)
    assert bits(read(array)) == bits(given.whole)
    assert [path.name for path in directory.iterdir()] == ["array.zarr"]


@given(st.data(), flat_blocks() | nested_blocks())
def test_the_array_has_the_shape_dtype_and_chunks_asked_for(
    data: st.DataObject, given: Flat | Nested
) -> None:
    whole = given.whole
    chosen = data.draw(zarr_options(whole.ndim), "options")
    array = stored(given, **chosen)
    assert array.shape == whole.shape
    assert array.dtype == whole.dtype.newbyteorder("=")
    block_axes = 1 if isinstance(given, Flat) else 2
    match chosen.get("chunks"):
        case tuple(chunks):
            assert array.chunks == chunks
        case int(extent):
            trailing = tuple(max(length, 1) for length in whole.shape[block_axes:])
            assert array.chunks == (extent,) * block_axes + trailing
        case "blocks":
            first = given.blocks[0] if isinstance(given, Flat) else given.rows[0][0]
            assert array.chunks == tuple(max(length, 1) for length in first.shape)
        case _:
            assert all(extent > 0 for extent in array.chunks)
    assert (array.shards is None) == (chosen.get("shards") is None)


@given(st.data(), partitions(), dtypes, seeds)
def test_the_stored_bytes_do_not_depend_on_the_partition(
    data: st.DataObject, heights: tuple[int, ...], dtype: np.dtype[Any], seed: int
) -> None:
    whole = any_bits((sum(heights), 3), dtype, seed)
    cuts = np.cumsum(heights)[:-1]
    one: dict[str, Buffer] = {}
    other: dict[str, Buffer] = {}
    stored(Flat((whole,)), at=one, chunks=(4, 3))
    stored(
        Flat(tuple(np.split(whole, cuts))),
        data.draw(hints(len(heights))),
        at=other,
        chunks=(4, 3),
        max_in_flight=data.draw(st.integers(1, 4)),
    )
    assert content(one) == content(other)


def content(store: dict[str, Buffer]) -> dict[str, bytes]:
    return {key: value.to_bytes() for key, value in store.items() if key != "zarr.json"}


# Exhaustive small ranges.


def test_every_partition_of_up_to_five_rows_with_every_chunk_height() -> None:
    for length in range(6):
        whole = np.arange(2 * length, dtype=np.int16).reshape(length, 2)
        for parts in range(1, 4):
            for heights in itertools.product(range(length + 1), repeat=parts):
                if sum(heights) == length:
                    flat = Flat(tuple(np.split(whole, np.cumsum(heights)[:-1])))
                    chunk = 1 + sum(heights[:1]) % 3
                    array = stored(flat, chunks=chunk, compressors=None, max_in_flight=1)
                    np.testing.assert_array_equal(read(array), whole)


@pytest.mark.slow
def test_every_small_grid_with_every_chunk_shape() -> None:
    sizes = [(2,), (1, 2), (2, 0, 1), (0, 3)]
    extents = itertools.product((1, 2, 3), repeat=2)
    for heights, widths, chunks in itertools.product(sizes, sizes, extents):
        count = sum(heights) * sum(widths)
        whole = np.arange(count, dtype=np.int16).reshape(sum(heights), sum(widths))
        nested = grid(whole, heights, widths)
        for hint in (None, len(heights), 1):
            array = stored(nested, hint, chunks=chunks, compressors=None, max_in_flight=1)
            np.testing.assert_array_equal(read(array), whole)


def grid(whole: Array, heights: Shape, widths: Shape) -> Nested:
    return Nested(
        tuple(
            tuple(np.split(row, np.cumsum(widths)[:-1], axis=1))
            for row in np.split(whole, np.cumsum(heights)[:-1])
        )
    )


# Explicit cases: values.


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", ["flat", "nested"])
def test_every_dtype_keeps_its_bits(dtype: str, kind: str) -> None:
    blocks = tuple(any_bits((2, 3), np.dtype(dtype), seed) for seed in (1, 4, 2))
    given = Flat(blocks) if kind == "flat" else Nested((blocks, blocks))
    assert bits(read(stored(given, chunks="blocks"))) == bits(given.whole)


def test_nan_payloads_and_negative_zeros_survive() -> None:
    patterns = np.array(
        [0x7FF8000000000000, 0x7FF0000000000001, 0xFFF8DEADBEEF0001, 0x8000000000000000, 0],
        dtype=np.uint64,
    )
    array = stored(Flat((patterns.view(np.float64),) * 3), chunks=2)
    assert read(array).view(np.uint64).tolist() == patterns.tolist() * 3


@pytest.mark.parametrize("options", [{}, {"chunks": (2, 2)}, {"chunks": (2, 2), "shards": (4, 4)}])
def test_all_zero_chunks_are_stored(options: ZarrOptions) -> None:
    store: dict[str, Buffer] = {}
    array = stored(Flat((np.zeros((3, 4), np.int8),) * 4), at=store, **options)
    assert len(content(store)) == array.nchunks // (4 if "shards" in options else 1)
    assert array.nchunks_initialized == array.nchunks


@pytest.mark.parametrize("kind", ["flat", "nested"])
def test_negative_zeros_alone_are_not_taken_for_zeros(kind: str) -> None:
    block = np.full((2, 2), -0.0)
    given = Flat((block,) * 2) if kind == "flat" else Nested(((block,) * 2,) * 2)
    assert np.signbit(read(stored(given, chunks="blocks"))).all()


@pytest.mark.parametrize("kind", ["flat", "nested"])
@pytest.mark.parametrize("compressors", ["auto", None])
@pytest.mark.parametrize("max_in_flight", [1, 2, 4])
def test_a_producer_may_reuse_its_output_buffer(
    kind: str, compressors: Any, max_in_flight: int
) -> None:
    output = np.empty((3, 2), np.int32)

    def block(number: int) -> Array:
        output[:] = number
        return output

    def row(number: int) -> Iterator[Array]:
        return (block(10 * number + column) for column in range(5))

    numbers = range(12)
    array = (
        LazyChunkSequence(lambda: map(block, numbers)).to_zarr
        if kind == "flat"
        else NestedLazyChunkSequence(lambda: map(row, numbers)).to_zarr
    )({}, CONVERTER, True, chunks="blocks", compressors=compressors, max_in_flight=max_in_flight)
    expected = (
        np.repeat(numbers, 3)[:, None] * np.ones((1, 2), int)
        if kind == "flat"
        else np.repeat(10 * np.arange(12), 3)[:, None] + np.repeat(np.arange(5), 2)[None, :]
    )
    np.testing.assert_array_equal(read(array), expected)


@pytest.mark.parametrize("chunks", ["auto", "blocks", 3])
def test_what_is_stored_without_compression_is_no_view_of_our_buffers(chunks: Any) -> None:
    """Regression: a store in memory may keep what it is given, which must not change later."""
    whole = np.arange(240.0).reshape(40, 6)
    flat = Flat(tuple(np.split(whole, 10)))
    for max_in_flight in (1, 2, 4):
        store: dict[str, Buffer] = {}
        array = stored(flat, at=store, chunks=chunks, compressors=None, max_in_flight=max_in_flight)
        np.testing.assert_array_equal(read(array), whole)


def test_blocks_are_written_while_they_are_borrowed_only() -> None:
    """The blocks stay as they are, and read-only ones are welcome."""
    block = np.arange(6.0).reshape(2, 3)
    block.flags.writeable = False
    array = stored(Flat((block,) * 3), chunks="blocks", compressors=None)
    array[:] = 0
    np.testing.assert_array_equal(block, np.arange(6.0).reshape(2, 3))


# Explicit cases: layout.


def test_none_is_returned_unless_the_array_is_asked_for() -> None:
    flat = Flat((np.ones((2, 3)),))
    assert flat.sequence().to_zarr({}, CONVERTER) is None
    assert flat.sequence().to_zarr({}, CONVERTER, return_stored=False) is None
    assert isinstance(flat.sequence().to_zarr({}, CONVERTER, return_stored=True), zarr.Array)
    nested = Nested((flat.blocks,))
    assert nested.sequence().to_zarr({}, CONVERTER) is None
    assert isinstance(nested.sequence().to_zarr({}, CONVERTER, True), zarr.Array)


def test_the_array_returned_can_be_written_all_zero_chunks_included() -> None:
    store: dict[str, Buffer] = {}
    array = stored(Flat((np.ones((4, 2)),)), at=store, chunks=(2, 2))
    array[:2] = 0
    assert "c/0/0" in store
    np.testing.assert_array_equal(read(array), [[0, 0], [0, 0], [1, 1], [1, 1]])


def test_names_and_attributes_are_stored() -> None:
    attributes = {"unit": "m", "history": [1, {"by": None}]}
    array = stored(Flat((np.ones((2, 3)),)), dimension_names=["test", None], attributes=attributes)
    anew = opened(array.store)
    record = json.loads(str(anew.attrs["lazychunks"]))  # a string, which xarray can write to netCDF
    assert dict(anew.attrs) == {**attributes, "lazychunks": anew.attrs["lazychunks"]}
    assert record == {"version": version("lazychunks")}
    metadata: Any = anew.metadata
    assert metadata.dimension_names == ("test", None)


def test_the_default_codec_carries_a_checksum() -> None:
    array = stored(Flat((np.ones((2, 3)),)))
    assert array.compressors == (ZstdCodec(level=3, checksum=True),)


def test_no_compression_stores_the_bytes_of_the_blocks() -> None:
    block = np.arange(6, dtype="<i4").reshape(2, 3)
    store: dict[str, Buffer] = {}
    stored(Flat((block,)), at=store, chunks="blocks", compressors=None)
    assert content(store) == {"c/0/0": block.tobytes()}


@pytest.mark.parametrize(
    "compressors",
    [
        GzipCodec(level=1),
        [GzipCodec(level=1)],
        (GzipCodec(level=1),),
        {"name": "gzip", "configuration": {"level": 1}},
        [{"name": "gzip", "configuration": {"level": 1}}],
    ],
)
def test_compressors_are_those_asked_for(compressors: Any) -> None:
    array = stored(Flat((np.ones((2, 3)),)), compressors=compressors)
    assert array.compressors == (GzipCodec(level=1),)


def test_compressors_given_as_an_iterator_are_not_lost() -> None:
    array = stored(Flat((np.ones((2, 3)),)), compressors=iter([GzipCodec(level=1)]))
    assert array.compressors == (GzipCodec(level=1),)


@pytest.mark.parametrize(
    "filters",
    [
        TransposeCodec(order=(1, 0)),
        [TransposeCodec(order=(1, 0))],
        [{"name": "transpose", "configuration": {"order": [1, 0]}}],
    ],
)
def test_filters_pass_through(filters: Any) -> None:
    whole = np.arange(24).reshape(4, 6)
    array = stored(Flat((whole[:3], whole[3:])), filters=filters)
    assert array.filters == (TransposeCodec(order=(1, 0)),)
    np.testing.assert_array_equal(read(array), whole)


@given(flat_blocks(block_dtypes=st.sampled_from(["?", "<i2", ">u4"]).map(np.dtype)), dtypes)
def test_dtype_casts_every_block_as_astype_does(flat: Flat, dtype: np.dtype[Any]) -> None:
    with np.errstate(all="ignore"):  # a large integer is infinite as float16
        array = stored(flat, dtype=dtype)
        assert bits(read(array)) == bits(flat.whole.astype(dtype))


def test_dtype_lets_blocks_differ() -> None:
    blocks = (np.arange(3, dtype="i2"), np.array([0.5]), np.array([True]))
    assert read(stored(Flat(blocks), dtype="f4")).tolist() == [0, 1, 2, 0.5, 1]


@pytest.mark.parametrize("dtype", ["M8[s]", "U3", "O"])
def test_dtype_casts_numbers_only(dtype: str) -> None:
    blocks = (np.ones(2), np.zeros(3, dtype))
    said = r"block 1 has dtype .*, which is no number to cast"
    with pytest.raises(BlockDTypeError, match=said):
        stored(Flat(blocks), dtype="f4")


def test_without_hint_the_array_grows() -> None:
    whole = np.arange(3000).reshape(1000, 3)
    array = stored(Flat(tuple(np.split(whole, 200))), chunks=(7, 2))
    np.testing.assert_array_equal(read(array), whole)


@pytest.mark.parametrize("hint", [0, 1, 2, 4, 10**6, 2**40])
def test_a_wrong_hint_warns_and_the_array_is_right(hint: int) -> None:
    whole = np.arange(30).reshape(10, 3)
    flat = Flat(tuple(np.split(whole, [2, 5])))
    with pytest.warns(LengthHintWarning, match="3 blocks"):
        array = flat.sequence(hint).to_zarr({}, CONVERTER, True, chunks=4)
    np.testing.assert_array_equal(read(array), whole)
    nested = grid(whole, (2, 3, 5), (1, 2))
    with pytest.warns(LengthHintWarning, match="3 rows"):
        array = nested.sequence(hint).to_zarr({}, CONVERTER, True, chunks=(4, 2))
    np.testing.assert_array_equal(read(array), whole)


@pytest.mark.parametrize("hint", [2, 4])
def test_where_that_warning_is_an_error_nothing_is_stored(hint: int, tmp_path: Path) -> None:
    """A call that raises has stored nothing, whatever it raises."""
    whole = np.arange(30).reshape(10, 3)
    for blocks in (Flat(tuple(np.split(whole, [2, 5]))), grid(whole, (2, 3, 5), (1, 2))):
        sequence = blocks.sequence(hint)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with pytest.raises(WriteAbortedError, match="hint") as caught:
                sequence.to_zarr(tmp_path / "array.zarr", CONVERTER)
        assert isinstance(caught.value.__cause__, LengthHintWarning)
        assert list(tmp_path.iterdir()) == []


def test_a_progress_bar_changes_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    whole = np.arange(30).reshape(10, 3)
    for blocks in (Flat(tuple(np.split(whole, 5))), grid(whole, (2, 3, 5), (1, 2))):
        np.testing.assert_array_equal(read(stored(blocks, progress=True)), whole)
    assert "5" in capsys.readouterr().err


# Invalid options are refused before the first block is computed.

INVALID: dict[str, tuple[dict[str, Any], type[Exception]]] = {
    "chunks: word": ({"chunks": "block"}, ValueError),
    "chunks: zero": ({"chunks": 0}, ValueError),
    "chunks: negative": ({"chunks": -2}, ValueError),
    "chunks: negative in an axis": ({"chunks": (2, -2)}, ValueError),
    "chunks: whole": ({"chunks": -1}, ValueError),
    "chunks: nothing": ({"chunks": None}, ValueError),
    "chunks: whole axis 0": ({"chunks": (None, 2)}, ValueError),
    "chunks: whole axis 0, as -1": ({"chunks": (-1, 2)}, ValueError),
    "shards: whole axis 0": ({"shards": (-1, 2)}, ValueError),
    "chunks: zero in an axis": ({"chunks": (2, 0)}, ValueError),
    "chunks: no axis": ({"chunks": ()}, ValueError),
    "chunks: float": ({"chunks": 1.5}, TypeError),
    "chunks: bool": ({"chunks": True}, TypeError),
    "chunks: float in an axis": ({"chunks": (2, 1.5)}, TypeError),
    "shards: word": ({"shards": "auto"}, TypeError),
    "shards: zero": ({"shards": 0}, ValueError),
    "shards: float": ({"shards": 2.0}, TypeError),
    "max_in_flight: zero": ({"max_in_flight": 0}, ValueError),
    "max_in_flight: bool": ({"max_in_flight": True}, TypeError),
    "max_in_flight: float": ({"max_in_flight": 2.0}, TypeError),
    "dtype: unknown": ({"dtype": "nonsense"}, TypeError),
    "dtype: object": ({"dtype": object}, BlockDTypeError),
    "dtype: text": ({"dtype": "U4"}, BlockDTypeError),
    "dtype: float8": ({"dtype": "float8_e5m2"}, TypeError),
    "dtype: structured": ({"dtype": [("a", "i4")]}, BlockDTypeError),
    "compressors: word": ({"compressors": "zstd"}, TypeError),
    "compressors: object": ({"compressors": object()}, TypeError),
    "compressors: filter": ({"compressors": TransposeCodec(order=(0, 1))}, TypeError),
    "filters: word": ({"filters": "delta"}, TypeError),
    "filters: object": ({"filters": object()}, TypeError),
    "filters: compressor": ({"filters": GzipCodec()}, TypeError),
    "dimension_names: number": ({"dimension_names": 3}, TypeError),
    "dimension_names: numbers": ({"dimension_names": [1, 2]}, TypeError),
    "attributes: no mapping": ({"attributes": 3}, TypeError),
    "attributes: no JSON": ({"attributes": {"a": {1, 2}}}, TypeError),
    "attributes: no number": ({"attributes": {"a": [float("nan")]}}, ValueError),
    "attributes: large": ({"attributes": {"a": "x" * 2**21}}, ValueError),
    "sizes: number": ({"sizes": 3}, TypeError),
    "sizes: word": ({"sizes": "3"}, TypeError),
    "sizes: none": ({"sizes": []}, ValueError),
    "sizes: none along an axis": ({"sizes": ([2], [])}, ValueError),
    "sizes: negative": ({"sizes": [2, -1]}, ValueError),
    "sizes: float": ({"sizes": [2.0]}, TypeError),
    "sizes: bool": ({"sizes": [True]}, TypeError),
    "sizes: of three axes": ({"sizes": ([1], [1], [1])}, ValueError),
    "sizes: mixed": ({"sizes": ([1], 1)}, ValueError),
    "resume: no name": ({"resume": True}, ValueError),
    "unknown option": ({"chunk": 3}, TypeError),
}


@pytest.mark.parametrize("name", INVALID)
@pytest.mark.parametrize("kind", [LazyChunkSequence, NestedLazyChunkSequence])
def test_an_invalid_option_is_refused_before_block_0(name: str, kind: Any) -> None:
    wrong, error = INVALID[name]

    def never() -> Iterator[Array]:
        yield pytest.fail("a block was asked for")

    store: dict[str, Buffer] = {}
    with pytest.raises(error):
        kind(never).to_zarr(store, CONVERTER, **wrong)
    assert not store


def test_arrays_need_no_converter() -> None:
    rows = [np.arange(3), np.arange(2)]
    grid = [[np.ones((2, 3)), np.zeros((2, 1))]]
    store: dict[str, Buffer] = {}
    array = LazyChunkSequence(lambda: rows).to_zarr(store, return_stored=True)
    assert np.asarray(array[:]).tolist() == [0, 1, 2, 0, 1]
    assert bits(LazyChunkSequence.from_zarr(store).compute(concatenate())) == bits(
        np.concatenate(rows)
    )
    nested = NestedLazyChunkSequence(lambda: grid)
    nested.to_zarr(store, overwrite=True)
    assert bits(NestedLazyChunkSequence.from_zarr(store).compute(nested_concatenate())) == bits(
        np.block(grid)
    )
    assert bits(np.asarray(nested.compute(zarr_sink({}))[:])) == bits(np.block(grid))


def test_mappings_of_arrays_need_no_converter() -> None:
    blocks = [{"a": np.arange(3), "b": np.ones(1)}] * 2
    sequence = LazyChunkSequence(lambda: blocks)
    store: dict[str, Buffer] = {}
    group = sequence.to_zarr_group(store, return_stored=True, chunks="blocks")
    assert sorted(group.array_keys()) == ["a", "b"]
    found = LazyChunkSequence.from_zarr_group(store).compute()
    assert repr(found) == repr(blocks)
    assert sorted(sequence.compute(zarr_group_sink({})).array_keys()) == ["a", "b"]


def test_a_tensor_without_a_converter_is_refused_by_name() -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    tensors: Any = LazyChunkSequence(lambda: [torch.zeros(3)])
    store: dict[str, Buffer] = {}
    with pytest.raises(BlockTypeError, match=r"lazychunks\.torch\.TorchNumpyConverter\(\)"):
        tensors.to_zarr(store)
    with pytest.raises(BlockTypeError, match=r"lazychunks\.torch\.TorchNumpyConverter\(\)"):
        tensors.compute(zarr_sink(store))
    assert not store


@pytest.mark.parametrize("wrong", [IdentityConverter, np.asarray], ids=repr)
def test_what_is_no_converter_is_refused_before_block_0(wrong: Any) -> None:
    """The class itself is no converter either."""

    def never() -> Iterator[Array]:
        yield pytest.fail("a block was asked for")

    with pytest.raises(TypeError, match=r"to_numpy, got .* IdentityConverter\(\)"):
        LazyChunkSequence(never).to_zarr({}, wrong)


@pytest.mark.parametrize(
    "wrong",
    [
        {"chunks": (2,)},
        {"chunks": (2, 3, 1)},
        {"shards": (4,), "chunks": 2},
        {"shards": (3, 3), "chunks": (2, 3)},
        {"dimension_names": ["rows"]},
        {"dimension_names": ["rows", "columns", "depth"]},
        {"filters": [TransposeCodec(order=(0,))]},
    ],
    ids=str,
)
@pytest.mark.parametrize("kind", ["flat", "nested"])
def test_what_only_the_first_block_can_tell_leaves_the_old_array(
    wrong: dict[str, Any], kind: str
) -> None:
    flat = Flat((np.ones((2, 3)),))
    store: dict[str, Buffer] = {}
    stored(flat, at=store)
    before = {key: value.to_bytes() for key, value in store.items()}
    with pytest.raises(ValueError):  # noqa: PT011  # zarr says some of them in its own words
        stored(flat if kind == "flat" else Nested((flat.blocks,)), at=store, **wrong)
    assert {key: value.to_bytes() for key, value in store.items()} == before


def test_extents_may_be_any_integers() -> None:
    whole = np.arange(30).reshape(10, 3)
    array = stored(Flat((whole,)), chunks=np.int64(2), shards=np.int64(4), max_in_flight=np.int8(1))
    assert (array.chunks, array.shards) == ((2, 3), (4, 3))
    np.testing.assert_array_equal(read(array), whole)
    assert stored(Flat((whole,)), chunks=(np.int64(2), np.int32(3))).chunks == (2, 3)
