"""Dates and differences between them are stored and read back bitwise, NaT and units included."""

# pyright: reportUnknownMemberType=false
# zarr types some of its functions partially.

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from lazychunks import (
    BlockDTypeError,
    IdentityConverter,
    LazyChunkSequence,
    LazyChunksError,
    WriteAbortedError,
    concatenate,
    count,
    first,
    last,
    maximum,
    minimum,
    tee,
    total,
    verify,
)
from tests.strategies import Array, bits

UNITS = ("Y", "M", "W", "D", "h", "m", "s", "ms", "us", "ns", "ps", "fs", "as")
NAT = np.iinfo(np.int64).min


def make_dtype(kind: str, order: str, scale: str, unit: str) -> np.dtype[Any]:
    return np.dtype(f"{order}{kind}8[{scale}{unit}]")


dtypes = st.builds(
    make_dtype,
    st.sampled_from("mM"),
    st.sampled_from("<>"),
    st.sampled_from(["", "10"]),
    st.sampled_from(UNITS),
)
values = st.lists(st.integers(-(2**62), 2**62) | st.just(NAT), min_size=1, max_size=9)


def of(numbers: list[int], dtype: np.dtype[Any]) -> Array:
    native = np.asarray(numbers, "i8")
    return native.astype(native.dtype.newbyteorder(dtype.byteorder)).view(dtype)


@settings(max_examples=30)
@given(values, dtypes, st.integers(1, 4), st.booleans())
def test_times_are_stored_and_read_back_bitwise(
    numbers: list[int], dtype: np.dtype[Any], rows: int, sharded: bool
) -> None:
    whole = of(numbers, dtype)
    store: dict[str, Any] = {}
    blocks = LazyChunkSequence.from_map(
        lambda i: whole[3 * i : 3 * i + 3], range(-(-len(whole) // 3))
    )
    layout: Any = {"chunks": (2,), "shards": (4,)} if sharded else {"chunks": (2,)}
    sink = blocks.to_zarr(store, IdentityConverter(), return_stored=True, **layout)
    native = whole.astype(dtype.newbyteorder("="))
    assert bits(np.asarray(sink[:])) == bits(native)
    read = LazyChunkSequence.from_zarr(store, IdentityConverter(), rows=rows)
    assert bits(read.compute(concatenate())) == bits(native)
    assert verify(store).is_sound


def test_a_run_over_times_goes_on(tmp_path: Path) -> None:
    def block(number: int) -> Array:
        return of([number, NAT], np.dtype("M8[ns]"))

    def killed(number: int) -> Array:
        if number == 3:
            raise RuntimeError("killed")
        return block(number)

    options: Any = {"run_id": "a", "resume": True, "chunks": (2,), "rtol": 0.1}
    path = tmp_path / "a.zarr"
    with pytest.raises(WriteAbortedError):
        LazyChunkSequence.from_map(killed, range(5)).to_zarr(path, IdentityConverter(), **options)
    whole = LazyChunkSequence.from_map(block, range(5))
    whole.to_zarr(path, IdentityConverter(), **options)
    again = LazyChunkSequence.from_zarr(path, IdentityConverter()).compute(concatenate())
    assert bits(again) == bits(whole.compute(concatenate()))


def test_times_are_joined_counted_and_kept_and_not_reduced() -> None:
    blocks = [of([1, NAT], np.dtype("M8[s]")), of([5], np.dtype("M8[s]"))]
    joined, number, one, other = tee(concatenate(), count(), first(), last())(blocks)
    assert bits(joined) == bits(np.concatenate(blocks))
    assert (number, bits(one), bits(other)) == (3, bits(blocks[0]), bits(blocks[1]))
    for reduction in (minimum(), maximum(), total()):
        with pytest.raises(BlockDTypeError, match=r"datetime64\[s\] cannot be reduced"):
            reduction(blocks)
    mixed = LazyChunkSequence(lambda: [blocks[0], blocks[1].astype("M8[ms]")])
    with pytest.raises(LazyChunksError):
        mixed.to_zarr({}, IdentityConverter())


@pytest.mark.parametrize("kind", ["M8", "m8"])
def test_times_without_a_unit_are_refused(kind: str) -> None:
    with pytest.raises(BlockDTypeError, match="has no unit"):
        LazyChunkSequence(lambda: [of([NAT], np.dtype(kind))]).to_zarr({}, IdentityConverter())


def test_missing_chunks_of_times_of_others_are_not_a_time() -> None:
    array = zarr.create_array({}, shape=(4,), chunks=(2,), dtype="M8[ns]")
    array[:2] = of([1, 2], np.dtype("M8[ns]"))
    read = LazyChunkSequence.from_zarr(array, IdentityConverter()).compute(concatenate())
    assert bits(read) == bits(np.asarray(array[:]))


def test_xarray_reads_times(tmp_path: Path) -> None:
    xarray: Any = pytest.importorskip("xarray")
    times = of([10**18, NAT, 10**18 + 1], np.dtype("M8[ns]"))
    LazyChunkSequence(lambda: [times]).to_zarr(
        tmp_path / "t.zarr", IdentityConverter(), dimension_names=["time"]
    )
    zarr.open_group(tmp_path, mode="a", zarr_format=3)
    opened = xarray.open_zarr(tmp_path, consolidated=False)
    assert bits(opened["t.zarr"].to_numpy()) == bits(times)
