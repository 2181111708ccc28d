"""Options once they are validated; what is refused is in ``test_to_zarr``."""

# pyright: reportUnknownMemberType=false
# The functions of zarr name a type of fsspec, which is optional and has no types.

from collections.abc import Iterator
from dataclasses import fields
from typing import Any, get_type_hints

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from zarr.codecs import BloscCodec, GzipCodec, TransposeCodec
from zarr.core.buffer import Buffer

from lazychunks import (
    BlockDTypeError,
    IdentityConverter,
    LazyChunkSequence,
    NestedLazyChunkSequence,
    ZarrOptions,
)
from lazychunks.storage.options import ZSTD, WriteOptions

CONVERTER = IdentityConverter()


def test_the_options_are_those_of_to_zarr() -> None:
    # The name of an array in its group is no option: it comes with the blocks.
    names = {field.name for field in fields(WriteOptions)}
    assert names == {*get_type_hints(ZarrOptions), "name"}


def test_without_options_the_defaults_hold() -> None:
    assert WriteOptions.of() == WriteOptions()
    assert WriteOptions().compressors == ZSTD
    assert WriteOptions.of(compressors="auto", filters="auto", chunks="auto") == WriteOptions()


def test_an_unknown_option_is_named_beside_those_that_exist() -> None:
    wrong: Any = {"chunk": 3}
    with pytest.raises(TypeError, match="no option 'chunk'; it has chunks, shards, compressors"):
        WriteOptions.of(**wrong)


# Listings.


@pytest.mark.parametrize(
    "make", [list, tuple, iter, np.array], ids=["list", "tuple", "iterator", "array"]
)
def test_listings_may_be_generators_and_are_kept_as_tuples(make: Any) -> None:
    assert WriteOptions.of(chunks=make([2, 3])).chunks == (2, 3)
    assert WriteOptions.of(shards=make([2, 3])).shards == (2, 3)
    assert WriteOptions.of(sizes=make([2, 3])).sizes == ((2, 3),)
    assert WriteOptions.of(sizes=(make([2, 3]), make([4]))).sizes == ((2, 3), (4,))


@pytest.mark.parametrize("make", [list, tuple, iter])
def test_names_and_codecs_may_be_generators(make: Any) -> None:
    gzip, transpose = GzipCodec(), TransposeCodec(order=(1, 0))
    assert WriteOptions.of(dimension_names=make(["a", None])).dimension_names == ("a", None)
    assert WriteOptions.of(compressors=make([gzip])).compressors == (gzip,)
    assert WriteOptions.of(filters=make([transpose])).filters == (transpose,)


# Whole axes.


@pytest.mark.parametrize("whole", [None, -1, np.int64(-1)])
def test_an_axis_may_stay_whole(whole: Any) -> None:
    assert WriteOptions.of(chunks=(2, whole)).chunks == (2, None)
    assert WriteOptions.of(shards=(2, 4, whole)).shards == (2, 4, None)
    blocks = LazyChunkSequence(lambda: [np.zeros((3, 5, 4))])
    array = blocks.to_zarr({}, CONVERTER, True, chunks=(2, whole, 2), shards=(4, whole, whole))
    assert (array.chunks, array.shards) == ((2, 5, 2), (4, 5, 4))


def test_a_block_axis_may_not() -> None:
    nested = NestedLazyChunkSequence(lambda: [[np.zeros((3, 5))]])
    with pytest.raises(ValueError, match=r"chunks=\(2, None\) leaves a block axis whole.* first 2"):
        nested.to_zarr({}, CONVERTER, chunks=(2, -1))
    with pytest.raises(ValueError, match=r"chunks=-1 leaves axis 0 whole.*; give an extent"):
        WriteOptions.of(chunks=-1)


# Attributes.


def test_attributes_may_be_copied_from_an_array_of_ours() -> None:
    store: dict[str, Buffer] = {}
    blocks = LazyChunkSequence(lambda: [np.zeros((3, 5))])
    first = blocks.to_zarr(store, CONVERTER, True, attributes={"unit": "m"}, run_id="first")
    copied = dict(first.attrs)
    assert copied["lazychunks"] != {}
    second = blocks.to_zarr({}, CONVERTER, True, attributes=copied, run_id="second")
    assert second.attrs["unit"] == "m"
    assert second.attrs["lazychunks"] != copied["lazychunks"]
    assert "lazychunks" in copied, "what the user has given is not changed"
    assert WriteOptions.of(attributes=copied).attributes == {"unit": "m"}


def test_as_many_attributes_can_be_read_back_as_can_be_stored() -> None:
    attributes: Any = {"a": [[n] for n in range(60_000)]}
    store: dict[str, Buffer] = {}
    LazyChunkSequence(lambda: [np.zeros(3)]).to_zarr(store, CONVERTER, attributes=attributes)
    assert len(store["zarr.json"]) > 2**20
    assert LazyChunkSequence.from_zarr(store, CONVERTER).compute()


# Dtypes.


@pytest.mark.parametrize("name", ["float8_e5m2", "float8_e4m3fn", "int4"])
def test_dtypes_of_other_packages_are_refused_by_type(name: str) -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes", reason="ml_dtypes is not installed")
    dtype = np.dtype(getattr(ml_dtypes, name))

    def never() -> Iterator[Any]:
        yield pytest.fail("a block was asked for")

    with pytest.raises(BlockDTypeError, match=f"dtype= {name}, which cannot be stored"):
        LazyChunkSequence(never).to_zarr({}, CONVERTER, dtype=dtype)
    with pytest.raises(BlockDTypeError, match=f"block 0 has dtype {name}, which cannot be stored"):
        LazyChunkSequence(lambda: [np.zeros(3, dtype)]).to_zarr({}, CONVERTER)
    cast = LazyChunkSequence(lambda: [np.ones(3, dtype)]).to_zarr({}, CONVERTER, True, dtype="f4")
    assert np.asarray(cast[:]).tolist() == [1, 1, 1]


# Sizes.


@given(st.lists(st.integers(0, 9), min_size=1), st.lists(st.integers(0, 9), min_size=1))
def test_sizes_are_kept_for_each_block_axis(heights: list[int], widths: list[int]) -> None:
    assert WriteOptions.of(sizes=heights).sizes == (tuple(heights),)
    assert WriteOptions.of(sizes=(heights, widths)).sizes == (tuple(heights), tuple(widths))
    numbers: Any = np.array(heights, np.int8)
    kept = WriteOptions.of(sizes=numbers).sizes or ()
    assert [[type(size) for size in sizes] for sizes in kept] == [[int] * len(heights)]


def test_options_are_a_value() -> None:
    one = WriteOptions.of(chunks=(2, 3), sizes=[1, 2], dtype="f4", dimension_names=["a"])
    other = WriteOptions.of(chunks=(2, 3), sizes=(1, 2), dtype=np.float32, dimension_names=("a",))
    assert one == other
    assert hash(one) == hash(other)


@pytest.mark.filterwarnings("ignore:Numcodecs codecs are not in the Zarr version 3 specification")
@pytest.mark.parametrize("name", ["blosc", "lz4"])
@pytest.mark.parametrize("shards", [None, (2**32 + 16,)])
def test_a_chunk_that_its_codec_cannot_take_is_refused_with_the_first_block(
    name: str, shards: tuple[int, ...] | None
) -> None:
    codec: Any = BloscCodec()
    if name == "lz4":
        codec = pytest.importorskip("zarr.codecs.numcodecs").LZ4()
    computed: list[int] = []

    def block(number: int) -> Any:
        computed.append(number)
        return np.zeros(8, "u1")

    store: dict[str, Any] = {}
    blocks = LazyChunkSequence.from_map(block, range(3))
    with pytest.raises(ValueError, match=r"\(2147483656,\) hold \d+ bytes, .* at most; choose"):
        blocks.to_zarr(store, CONVERTER, chunks=(2**31 + 8,), compressors=codec, shards=shards)
    assert (computed, store) == ([0], {})
