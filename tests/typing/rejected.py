"""What both checkers must reject: checked by ``tests/test_typing.py``, never run.

A line marked at its end has an error under both, and no other line has one.
"""

# What is not accessed must not be what a line is rejected for:
# pyright: reportUnusedExpression=false, reportUnusedVariable=false
# ruff: noqa: ARG002, B018, F841

from collections.abc import Iterator
from concurrent.futures import Executor
from typing import Any, assert_type

import dask.array as da
import numpy as np
import zarr
from numpy.typing import NDArray
from torch import Tensor

from lazychunks import (
    Fold,
    IdentityConverter,
    LazyChunkSequence,
    ListAggregator,
    NestedFold,
    NestedLazyChunkSequence,
    NestedListAggregator,
    NumpyConverter,
    Ranks,
    SequenceAggregator,
    ToNumpy,
    chain,
    concatenate,
    fold,
    moments,
    nest,
    nested_concatenate,
    tee,
    top_k,
    total,
    zarr_sink,
    zip_blocks,
)
from lazychunks import torch as of_tensors
from lazychunks.dask import from_dask_array, to_dask_array
from lazychunks.mpi import MPIRanks
from lazychunks.torch import NestedTorchCatAggregator, TorchCatAggregator, TorchNumpyConverter

Array = NDArray[np.float64]
Flat = LazyChunkSequence
Nested = NestedLazyChunkSequence


def generate() -> Iterator[int]:
    yield 1


def total_length(blocks: LazyChunkSequence[str]) -> int:
    return sum(len(block) for block in blocks)


class WrongBlockType(SequenceAggregator[Tensor]):
    def __call__(self, tensor_sequence: Flat[Array], /) -> None: ...  # expect: error


class WrongResult(SequenceAggregator[Tensor, float]):
    def __call__(self, tensor_sequence: Flat[Tensor], /) -> str:  # expect: error
        return ""


class WrongConverter(NumpyConverter[Tensor]):
    def to_numpy(self, x: Array, /) -> NDArray[Any]:  # expect: error
        return x

    def from_numpy(self, x: NDArray[Any], /) -> Array:  # expect: error
        return x


class HalfConverter:
    def from_numpy(self, x: NDArray[Any], /) -> Tensor:
        raise NotImplementedError


def construction(names: list[str], numbers: range) -> None:
    LazyChunkSequence(generate())  # expect: error
    LazyChunkSequence(lambda: 3)  # expect: error
    LazyChunkSequence(generate, "many")  # expect: error
    LazyChunkSequence[str](generate)  # expect: error
    NestedLazyChunkSequence(generate)  # expect: error
    LazyChunkSequence.from_map(str.upper, numbers)  # expect: error
    LazyChunkSequence.from_map(len, numbers)  # expect: error
    LazyChunkSequence.from_map(lambda number: number.upper(), numbers)  # expect: error
    LazyChunkSequence.from_map(divmod, numbers)  # expect: error
    LazyChunkSequence.from_map(str, 3)  # expect: error
    NestedLazyChunkSequence.from_product(divmod, numbers, names)  # expect: error
    NestedLazyChunkSequence.from_product(len, names, names)  # expect: error


def fields(flat: LazyChunkSequence[int], nested: NestedLazyChunkSequence[int]) -> None:
    flat.generator_factory = generate  # expect: error
    flat.len_generator = 3  # expect: error
    nested.len_outer_generator = 3  # expect: error
    nested.generator_factory = lambda: [[1]]  # expect: error
    flat.name = "flat"  # expect: error
    concatenate().axis = 1  # expect: error
    TorchNumpyConverter().device = "cpu"  # expect: error
    len(flat)  # expect: error


def mapping(flat: LazyChunkSequence[int], nested: NestedLazyChunkSequence[int]) -> None:
    flat.map(len)  # expect: error
    nested.map(len)  # expect: error
    flat.map(str).map(abs)  # expect: error


def composing(flat: Flat[int], nested: Nested[int], tensors: Nested[Tensor]) -> None:
    flat["1"]  # expect: error
    flat[1, 2]  # expect: error
    nested[1, 2, 3]  # expect: error
    nested.shuffle(1)  # expect: error
    nested.rebatch(1)  # expect: error
    flat.shuffle()  # expect: error
    flat.rows(sum)  # expect: error
    chain(flat, nested)  # expect: error
    zip_blocks(flat, nested)  # expect: error
    tensors.rows(total())  # expect: error
    assert_type(flat[1:], list[int])  # expect: error


def computing(arrays: Flat[Array], tensors: Flat[Tensor], numbers: Flat[int]) -> None:
    arrays.compute(TorchCatAggregator())  # expect: error
    tensors.compute(concatenate())  # expect: error
    numbers.compute(NestedTorchCatAggregator())  # expect: error
    tensors.compute(NestedListAggregator())  # expect: error
    tensors.compute(concatenate)  # expect: error
    tensors.compute(ListAggregator)  # expect: error
    tensors.compute(3)  # expect: error
    tensors.compute(max, True)  # expect: error
    numbers.compute(total_length)  # expect: error
    numbers.compute("".join)  # expect: error


def computing_nested(arrays: Nested[Array], tensors: Nested[Tensor]) -> None:
    arrays.compute(NestedTorchCatAggregator())  # expect: error
    tensors.compute(TorchCatAggregator())  # expect: error
    tensors.compute(ListAggregator())  # expect: error
    tensors.compute(nested_concatenate())  # expect: error


def storing(arrays: Flat[Array], tensors: Flat[Tensor], whether: bool) -> None:
    tensors.to_zarr("a.zarr", IdentityConverter())  # expect: error
    arrays.to_zarr("a.zarr", TorchNumpyConverter())  # expect: error
    tensors.to_zarr("a.zarr", HalfConverter())  # expect: error
    tensors.to_zarr("a.zarr", TorchNumpyConverter)  # expect: error
    tensors.to_zarr("a.zarr")  # expect: error
    tensors.to_zarr("a.zarr", return_stored=True)  # expect: error
    tensors.map(abs).to_zarr("a.zarr", None)  # expect: error
    arrays.to_zarr(3, IdentityConverter())  # expect: error
    arrays.to_zarr("a.zarr", IdentityConverter(), chunk=3)  # expect: error
    arrays.to_zarr("a.zarr", IdentityConverter(), chunks="every")  # expect: error
    arrays.to_zarr("a.zarr", IdentityConverter(), shards="auto")  # expect: error
    arrays.to_zarr("a.zarr", IdentityConverter(), True, True, True)  # expect: error
    arrays.to_zarr("a.zarr", IdentityConverter()).shape  # expect: error
    arrays.to_zarr("a.zarr", IdentityConverter(), whether).shape  # expect: error


def storing_nested(arrays: Nested[Array], tensors: Nested[Tensor]) -> None:
    tensors.to_zarr("a.zarr", IdentityConverter())  # expect: error
    arrays.to_zarr("a.zarr", TorchNumpyConverter())  # expect: error
    arrays.to_zarr("a.zarr", IdentityConverter(), overwrites=True)  # expect: error


def folding(
    numbers: Flat[int],
    tensors: Flat[Tensor],
    grid: Nested[Tensor],
    total: Fold[Array, float],
    length: Fold[Tensor, int],
    of_rows: NestedFold[Tensor, str],
) -> None:
    numbers.compute(total)  # expect: error
    tensors.compute(total)  # expect: error
    tensors.compute(total.then(str))  # expect: error
    numbers.compute(of_rows)  # expect: error
    grid.compute(length)  # expect: error
    fold(str.upper, 0)  # expect: error
    total([1, 2])  # expect: error
    total.then(str.upper)  # expect: error
    total.fold = total  # expect: error
    tee(total, of_rows)  # expect: error
    tee(of_rows, length)  # expect: error
    tee(length, len)  # expect: error
    tee({"a": length, "b": of_rows})  # expect: error
    tee({"a": len})  # expect: error
    tee({1: length})  # expect: error
    tee(*[length, of_rows])  # expect: error
    tee([length, length])  # expect: error
    fold(str.upper, "a", merge=len)  # expect: error
    assert_type(tee({"a": length})([]), dict[str, str])  # expect: error
    tensors.compute(tee(length, total))  # expect: error
    tensors.compute(tee(length, concatenate()))  # expect: error
    numbers.compute(tee(of_rows, of_rows))  # expect: error
    grid.compute(tee(length, length))  # expect: error
    grid.compute(nest(total, length))  # expect: error
    nest(length, total)  # expect: error
    assert_type(tensors.compute(tee(length, length)), tuple[int, float])  # expect: error
    assert_type(grid.compute(of_rows), Any)  # expect: error


def library_folds(arrays: Flat[Array], tensors: Flat[Tensor], grid: Nested[Array]) -> None:
    tensors.compute(total())  # expect: error
    arrays.compute(of_tensors.top_k(3))  # expect: error
    grid.compute(total())  # expect: error
    grid.compute(nest(of_tensors.total(1), concatenate()))  # expect: error
    nest(top_k(3, axis=1), total())  # expect: error
    arrays.compute(tee(total(), of_tensors.total()))  # expect: error
    tee(total(), nest(total(1), concatenate()))  # expect: error
    top_k("3")  # expect: error
    moments(axis=(0, 1))  # expect: error
    moments(along="rows")  # expect: error
    assert_type(grid.compute(nest(total(1), concatenate())), Any)  # expect: error
    assert_type(arrays.compute(top_k(3)).values, Any)  # expect: error


def sinks(numbers: Flat[int], arrays: Flat[Array], length: Fold[Tensor, int]) -> None:
    arrays.compute(zarr_sink("a.zarr")).nothing  # expect: error
    numbers.compute(zarr_sink("a.zarr"))  # expect: error
    zarr_sink("a.zarr", TorchNumpyConverter)  # expect: error
    zarr_sink("a.zarr", IdentityConverter(), chunk=3)  # expect: error
    zarr_sink("a.zarr", IdentityConverter(), True)  # expect: error
    numbers.compute(zarr_sink("a.zarr", IdentityConverter()))  # expect: error
    arrays.compute(tee(zarr_sink("a.zarr", IdentityConverter()), length))  # expect: error


def reading_and_computing_ahead(tensors: Flat[Tensor], executor: Executor) -> None:
    Flat.from_zarr(3, IdentityConverter())  # expect: error
    Flat.from_zarr("a.zarr", IdentityConverter(), 3)  # expect: error
    Flat.from_zarr("a.zarr", IdentityConverter(), columns=3)  # expect: error
    Flat.from_zarr("a.zarr", TorchNumpyConverter(), rows="3")  # expect: error
    assert_type(Flat.from_zarr("a.zarr", IdentityConverter()), Flat[Tensor])  # expect: error
    tensors.parallel()  # expect: error
    tensors.parallel(3)  # expect: error
    tensors.parallel(executor, "many")  # expect: error


def by_ranks(arrays: Flat[Array], ranks: Ranks, executor: Executor) -> None:
    arrays.compute(total(), ranks=executor)  # expect: error
    arrays.compute(total(), ranks=2)  # expect: error
    arrays.compute(total(), executor=ranks)  # expect: error
    zarr_sink("a.zarr", IdentityConverter(), ranks=ranks)  # expect: error
    MPIRanks(ranks)  # expect: error
    assert_type(arrays.compute(ranks=ranks), list[Tensor])  # expect: error


def dask_arrays(arrays: Flat[Array], tensors: Flat[Tensor], x: da.Array) -> None:
    to_dask_array(tensors, IdentityConverter())  # expect: error
    to_dask_array(arrays, TorchNumpyConverter())  # expect: error
    to_dask_array(arrays)  # expect: error
    to_dask_array(arrays, IdentityConverter(), chunks=3)  # expect: error
    to_dask_array(x, IdentityConverter())  # expect: error
    from_dask_array(arrays)  # expect: error
    from_dask_array(x, scheduler=4)  # expect: error


def variance(
    numbers: LazyChunkSequence[int],
    rows: NestedLazyChunkSequence[int],
    aggregator: SequenceAggregator[int, object],
    to_numpy: ToNumpy[bool],
    tensors: LazyChunkSequence[Tensor],
) -> None:
    flags: LazyChunkSequence[bool] = numbers  # expect: error
    rows_of_flags: NestedLazyChunkSequence[bool] = rows  # expect: error
    flat: LazyChunkSequence[int] = rows  # expect: error
    of_objects: SequenceAggregator[object, object] = aggregator  # expect: error
    gives_int: SequenceAggregator[int, int] = aggregator  # expect: error
    numbers.to_zarr("a.zarr", to_numpy)  # expect: error
    identity: NumpyConverter[Tensor] = IdentityConverter()  # expect: error


def inferred_wrongly(numbers: Flat[int], tensors: Nested[Tensor], array: zarr.Array[Any]) -> None:
    """The negative control of ``accepted.py``: its assertions can fail."""
    assert_type(numbers.compute(), list[str])  # expect: error
    assert_type(numbers.compute(max), str)  # expect: error
    assert_type(numbers.compute(list), Any)  # expect: error
    assert_type(tensors.compute(NestedTorchCatAggregator()), Any)  # expect: error
    assert_type(tensors.compute(NestedListAggregator()), list[Tensor])  # expect: error
    assert_type(numbers.map(str), Flat[int])  # expect: error
    assert_type(Flat.from_map(str, [1]), Flat[Any])  # expect: error
    assert_type(array, None)  # expect: error
