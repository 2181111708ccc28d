"""What both checkers must accept, and infer: checked by ``tests/test_typing.py``, never run."""

import operator
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeAlias, TypeVar, assert_type

import dask.array as da
import numpy as np
import zarr
import zarr.storage
from distributed import Client
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader

from lazychunks import (
    Covariance,
    Fold,
    FromNumpy,
    Histogram,
    IdentityConverter,
    LazyChunkSequence,
    ListAggregator,
    Moments,
    NestedFold,
    NestedLazyChunkSequence,
    NestedListAggregator,
    NestedSequenceAggregator,
    NumpyConverter,
    Ranks,
    SequenceAggregator,
    ToNumpy,
    TopK,
    ZarrOptions,
    chain,
    concatenate,
    count,
    covariance,
    each,
    fold,
    histogram,
    moments,
    nest,
    nested_concatenate,
    tee,
    top_k,
    total,
    zarr_group_sink,
    zarr_sink,
    zip_blocks,
)
from lazychunks import torch as of_tensors
from lazychunks.dask import from_dask_array, nested_from_dask_array, to_dask_array
from lazychunks.mpi import MPIRanks
from lazychunks.torch import (
    BlockDataset,
    DistributedRanks,
    NestedTorchCatAggregator,
    TorchCatAggregator,
    TorchNumpyConverter,
)

T = TypeVar("T")
Array = NDArray[np.float64]
Flat = LazyChunkSequence
Nested = NestedLazyChunkSequence
Stored: TypeAlias = zarr.Array[Any]


def number_of_blocks(blocks: LazyChunkSequence[object]) -> int:
    return sum(1 for _ in blocks)


def first_of(blocks: Iterable[Array]) -> Array:
    return next(iter(blocks))


def last_of(blocks: LazyChunkSequence[T]) -> T:
    return list(blocks)[-1]


def number_of_rows(rows: NestedLazyChunkSequence[Tensor]) -> int:
    return sum(1 for _ in rows)


def double(block: Tensor) -> Tensor:
    return 2 * block


def generate() -> Iterator[Array]:
    yield np.zeros(3)


def generate_rows() -> Iterator[Iterator[Array]]:
    yield generate()


class OneParameter(SequenceAggregator[Tensor]):
    def __call__(self, tensor_sequence: LazyChunkSequence[Tensor], /) -> int:
        return sum(len(block) for block in tensor_sequence)


class OneParameterNamed(SequenceAggregator[Tensor]):
    def __call__(self, tensor_sequence: LazyChunkSequence[Tensor]) -> int:
        return sum(len(block) for block in tensor_sequence)


class TwoParameters(SequenceAggregator[Tensor, float]):
    def __call__(self, tensor_sequence: LazyChunkSequence[Tensor], /) -> float:
        return float(sum(block.sum() for block in tensor_sequence))


class NestedOneParameter(NestedSequenceAggregator[Tensor]):
    def __call__(self, nested_sequence_of_tensors: NestedLazyChunkSequence[Tensor], /) -> int:
        return sum(1 for _ in nested_sequence_of_tensors)


class NestedTwoParameters(NestedSequenceAggregator[Tensor, str]):
    def __call__(self, nested_sequence_of_tensors: NestedLazyChunkSequence[Tensor]) -> str:
        return repr(nested_sequence_of_tensors)


class ListConverter(NumpyConverter[list[float]]):
    def to_numpy(self, x: list[float]) -> NDArray[np.float64]:
        return np.array(x)

    def from_numpy(self, x: NDArray[Any]) -> list[float]:
        return [float(value) for value in x]


class Structural:
    def to_numpy(self, x: list[float], /) -> NDArray[Any]:
        return np.array(x)

    def from_numpy(self, x: NDArray[Any], /) -> list[float]:
        return [float(value) for value in x]


class OnlyToNumpy:
    def to_numpy(self, x: list[float], /) -> NDArray[Any]:
        return np.array(x)


def construction(loader: DataLoader[Tensor], blocks: list[Tensor]) -> None:
    assert_type(LazyChunkSequence(generate), Flat[Array])
    assert_type(LazyChunkSequence(generate, len_generator=4), Flat[Array])
    assert_type(LazyChunkSequence(lambda: blocks, 4), Flat[Tensor])
    assert_type(LazyChunkSequence(lambda: (block.sum() for block in blocks)), Flat[Tensor])
    assert_type(NestedLazyChunkSequence(generate_rows), Nested[Array])
    assert_type(NestedLazyChunkSequence(lambda: [blocks, blocks], 2), Nested[Tensor])
    assert_type(Flat.from_map(str, range(3)), Flat[str])
    assert_type(Flat.from_map(Path, ["a", "b"]), Flat[Path])
    assert_type(Flat.from_map(double, loader), Flat[Tensor])
    assert_type(Flat.from_map(lambda i: i / 2, range(3)), Flat[float])
    assert_type(Nested.from_product(divmod, range(2), range(3)), Nested[tuple[int, int]])
    # Where a lambda does more with its item, mypy 2.4 needs the block type named: a class variable
    # that it cannot solve makes it take the lambda's result from before the item's type is known.
    assert_type(Flat[str].from_map(lambda name: name.upper(), ["a", "b"]), Flat[str])
    assert_type(Nested[float].from_product(lambda i, j: i / j, [1], [2]), Nested[float])
    assert_type(Nested[str].from_product(lambda i, x: x.upper() * i, [2], ["a"]), Nested[str])


def fields(flat: LazyChunkSequence[Tensor], nested: NestedLazyChunkSequence[Tensor]) -> None:
    assert_type(flat.generator_factory, Callable[[], Iterable[Tensor]])
    assert_type(flat.len_generator, int | None)
    assert_type(nested.generator_factory, Callable[[], Iterable[Iterable[Tensor]]])
    assert_type(nested.len_outer_generator, int | None)


def iteration(flat: LazyChunkSequence[Tensor], nested: NestedLazyChunkSequence[Tensor]) -> None:
    assert_type(iter(flat), Iterator[Tensor])
    assert_type(iter(nested), Iterator[Iterator[Tensor]])
    assert_type(list(flat), list[Tensor])
    for block in flat:
        assert_type(block, Tensor)
    for row in nested:
        for block in row:
            assert_type(block, Tensor)


def mapping(flat: LazyChunkSequence[Tensor], nested: NestedLazyChunkSequence[Tensor]) -> None:
    assert_type(flat.map(len), LazyChunkSequence[int])
    assert_type(flat.map(lambda block: block + 1), LazyChunkSequence[Tensor])
    assert_type(flat.map(lambda block: (len(block), block)), LazyChunkSequence[tuple[int, Tensor]])
    assert_type(flat.map(len).map(str), LazyChunkSequence[str])
    assert_type(nested.map(len), NestedLazyChunkSequence[int])
    assert_type(nested.map(lambda block: block.shape[0] / 2), NestedLazyChunkSequence[float])


def composing(
    flat: Flat[Tensor], arrays: Flat[Array], nested: Nested[Tensor], grid: Nested[Array]
) -> None:
    assert_type(flat[3], Tensor)
    assert_type(flat[np.int64(3)], Tensor)
    assert_type(flat[1:-1:2], LazyChunkSequence[Tensor])
    assert_type(nested[3], LazyChunkSequence[Tensor])
    assert_type(nested[:3], NestedLazyChunkSequence[Tensor])
    assert_type(nested[3, 4], Tensor)
    assert_type(nested[3, :4], LazyChunkSequence[Tensor])
    assert_type(nested[:, 4], LazyChunkSequence[Tensor])
    assert_type(nested[:, ::2], NestedLazyChunkSequence[Tensor])
    assert_type(chain(flat, flat), LazyChunkSequence[Tensor])
    assert_type(chain(nested, nested), NestedLazyChunkSequence[Tensor])
    assert_type(chain(*[arrays]), LazyChunkSequence[Array])
    assert_type(zip_blocks(flat, arrays), LazyChunkSequence[tuple[Tensor, Array]])
    assert_type(zip_blocks(flat, arrays, flat), LazyChunkSequence[tuple[Tensor, Array, Tensor]])
    assert_type(zip_blocks(nested, grid), NestedLazyChunkSequence[tuple[Tensor, Array]])
    assert_type(zip_blocks(*[arrays]), LazyChunkSequence[tuple[Array, ...]])
    assert_type(flat.shuffle(3), LazyChunkSequence[Tensor])
    assert_type(flat.rebatch(64, sizes=(32, 16)), LazyChunkSequence[Tensor])
    assert_type(grid.rows(top_k(20, axis=1)), LazyChunkSequence[TopK[NDArray[Any]]])
    assert_type(grid.rows(number_of_blocks), LazyChunkSequence[int])
    assert_type(nested.rows(of_tensors.total(axis=1)).map(double), LazyChunkSequence[Tensor])


def training(pairs: Flat[tuple[Tensor, Array]]) -> None:
    dataset = BlockDataset(pairs, 64, shuffle=1, window=4, lanes=2, drop_last=True)
    assert_type(dataset, BlockDataset[tuple[Tensor, Array]])
    for batch in dataset:
        assert_type(batch, tuple[Tensor, Array])
    DataLoader(dataset, batch_size=None)


def computing(
    numbers: LazyChunkSequence[int],
    tensors: LazyChunkSequence[Tensor],
    arrays: LazyChunkSequence[Array],
    one_of_two: SequenceAggregator[int, str],
    nothing: Callable[[LazyChunkSequence[int]], None],
) -> None:
    assert_type(numbers.compute(), list[int])
    assert_type(numbers.compute(None), list[int])
    assert_type(numbers.compute(progress=True), list[int])
    assert_type(numbers.compute(max), int)
    assert_type(numbers.compute(min, progress=False), int)
    assert_type(numbers.compute(sum), int)
    assert_type(numbers.compute(list), list[int])
    assert_type(numbers.compute(tuple), tuple[int, ...])
    assert_type(numbers.compute(set), set[int])
    assert_type(numbers.compute(sorted), list[int])
    assert_type(numbers.compute(iter), Iterator[int])
    assert_type(numbers.compute(enumerate), enumerate[int])
    assert_type(numbers.compute(any), bool)
    assert_type(numbers.compute(number_of_blocks), int)
    assert_type(numbers.compute(aggregator=number_of_blocks), int)
    assert_type(numbers.compute(one_of_two), str)
    assert_type(numbers.compute(nothing), None)
    assert_type(numbers.compute(ListAggregator()), list[int])
    assert_type(numbers.compute(lambda blocks: [str(n) for n in blocks]), list[str])
    assert_type(numbers.compute(lambda blocks: blocks.len_generator), int | None)
    assert_type(arrays.compute(first_of), Array)
    assert_type(arrays.compute(concatenate()), NDArray[Any])
    assert_type(arrays.compute(concatenate(axis=1)), NDArray[Any])
    assert_type(tensors.compute(list), list[Tensor])
    assert_type(tensors.compute(max), Tensor)
    assert_type(tensors.compute(TorchCatAggregator()), Tensor)
    assert_type(tensors.compute(OneParameter()), int)
    assert_type(tensors.compute(TwoParameters()), float)


def computing_nested(
    tensors: NestedLazyChunkSequence[Tensor],
    arrays: NestedLazyChunkSequence[Array],
    numbers: NestedLazyChunkSequence[int],
) -> None:
    assert_type(tensors.compute(), list[list[Tensor]])
    assert_type(tensors.compute(NestedListAggregator()), list[list[Tensor]])
    assert_type(tensors.compute(NestedTorchCatAggregator()), Tensor)
    assert_type(tensors.compute(aggregator=NestedTorchCatAggregator()), Tensor)
    assert_type(tensors.compute(NestedOneParameter()), int)
    assert_type(tensors.compute(NestedTwoParameters()), str)
    assert_type(tensors.compute(number_of_rows), int)
    assert_type(arrays.compute(nested_concatenate()), NDArray[Any])
    assert_type(numbers.compute(lambda rows: [max(row) for row in rows]), list[int])


def storing(
    arrays: LazyChunkSequence[Array],
    tensors: LazyChunkSequence[Tensor],
    where: Path | zarr.storage.MemoryStore,
    path: os.PathLike[str],
    whether: bool,
    options: ZarrOptions,
) -> None:
    arrays.to_zarr("a.zarr", IdentityConverter())
    assert_type(arrays.to_zarr("a.zarr"), None)
    assert_type(arrays.to_zarr("a.zarr", None, False, True, chunks=3), None)
    assert_type(arrays.to_zarr("a.zarr", return_stored=True, overwrite=True), zarr.Array[Any])
    tensors.to_zarr("a.zarr", TorchNumpyConverter(), False, True)
    arrays.to_zarr("a.zarr", IdentityConverter(), append=True, run_id="night 3")
    stored = arrays.to_zarr(where, IdentityConverter(), return_stored=True)
    assert_type(stored.shape, tuple[int, ...])
    stored = arrays.to_zarr({}, IdentityConverter(), True, overwrite=True, chunks="blocks")
    stored = arrays.to_zarr(path, IdentityConverter(), True, chunks=(3, 4), shards=None, dtype="f4")
    maybe = arrays.to_zarr("a.zarr", IdentityConverter(), whether, **options)
    if maybe is not None:
        stored = maybe


def storing_nested(
    arrays: NestedLazyChunkSequence[Array],
    tensors: NestedLazyChunkSequence[Tensor],
    whether: bool,
) -> None:
    tensors.to_zarr("a.zarr", TorchNumpyConverter())
    stored = arrays.to_zarr("a.zarr", IdentityConverter(), return_stored=True)
    assert_type(stored.shape, tuple[int, ...])
    maybe = arrays.to_zarr("a.zarr", IdentityConverter(), whether, attributes={"seed": 1})
    if maybe is not None:
        stored = maybe


def storing_gives(
    flat: LazyChunkSequence[Array], nested: NestedLazyChunkSequence[Array], whether: bool
) -> None:
    assert_type(flat.to_zarr("a.zarr", IdentityConverter()), None)
    assert_type(nested.to_zarr("a.zarr", IdentityConverter(), False), None)
    assert_type(flat.to_zarr("a.zarr", IdentityConverter(), return_stored=True), zarr.Array[Any])
    assert_type(nested.to_zarr("a.zarr", IdentityConverter(), True), zarr.Array[Any])
    assert_type(flat.to_zarr("a.zarr", IdentityConverter(), whether), zarr.Array[Any] | None)
    assert_type(nested.to_zarr("a.zarr", IdentityConverter(), whether), zarr.Array[Any] | None)


def converters(lists: LazyChunkSequence[list[float]]) -> None:
    lists.to_zarr("a.zarr", ListConverter())
    lists.to_zarr("a.zarr", Structural())
    lists.to_zarr("a.zarr", OnlyToNumpy())
    whole: NumpyConverter[list[float]] = Structural()
    half: ToNumpy[list[float]] = whole
    back: FromNumpy[list[float]] = whole
    assert_type(back.from_numpy(half.to_numpy([1.0])), list[float])
    torch: NumpyConverter[Tensor] = TorchNumpyConverter("cpu")
    assert_type(torch.from_numpy(np.zeros(3)), Tensor)
    identity: NumpyConverter[NDArray[Any]] = IdentityConverter()
    assert_type(identity.to_numpy(np.zeros(3)), NDArray[Any])


def variance_of_types(
    flags: LazyChunkSequence[bool],
    rows_of_flags: NestedLazyChunkSequence[bool],
    sum_of_numbers: Callable[[LazyChunkSequence[int]], int],
    of_objects: SequenceAggregator[object, bool],
    of_flags: SequenceAggregator[bool, int],
    float_to_numpy: ToNumpy[float],
) -> None:
    numbers: LazyChunkSequence[int] = flags
    rows_of_numbers: NestedLazyChunkSequence[int] = rows_of_flags
    objects: LazyChunkSequence[object] = numbers
    iterable: Iterable[object] = objects
    rows: Iterable[Iterable[object]] = rows_of_numbers
    assert_type(flags.compute(sum_of_numbers), int)
    assert_type(flags.compute(of_objects), bool)
    of_flags = of_objects
    flags.compute(of_flags)
    flags.to_zarr("a.zarr", float_to_numpy)
    list(iterable)
    list(rows)


def aggregators_by_protocol(
    flat: LazyChunkSequence[int],
    nested: NestedLazyChunkSequence[Tensor],
    whatever: SequenceAggregator[int],
    listed: SequenceAggregator[int, list[int]],
    cat: NestedSequenceAggregator[Tensor, Tensor],
) -> None:
    assert_type(flat.compute(whatever), Any)
    assert_type(flat.compute(listed), list[int])
    assert_type(nested.compute(cat), Tensor)
    whatever = max
    listed = ListAggregator()
    listed = list
    cat = NestedTorchCatAggregator()


def add(total: float, block: Array) -> float:
    return total + float(block.sum())


def append(rows: list[float], row: float) -> list[float]:
    return [*rows, row]


first_of_numbers: Fold[int, int] = fold(lambda first, number: first or number, 0)
total_of_numbers: Fold[int, int] = fold(operator.add, 0)


def making_folds(numbers: LazyChunkSequence[int], arrays: LazyChunkSequence[Array]) -> None:
    assert_type(fold(add, 0.0), Fold[Array, float])
    assert_type(fold(add, 0.0, str), Fold[Array, str])
    assert_type(fold(add, 0.0).then(str), Fold[Array, str])
    assert_type(fold(add, 0.0).then(lambda total: [total]), Fold[Array, list[float]])
    assert_type(fold(add, 0.0).contramap(np.asarray), Fold[Any, float])
    assert_type(concatenate().then(len), Fold[NDArray[Any], int])
    assert_type(arrays.compute(fold(add, 0.0)), float)
    assert_type(arrays.compute(fold(add, 0.0).then(str)), str)
    assert_type(fold(add, 0.0)([np.zeros(3)]), float)
    assert_type(numbers.compute(fold(operator.add, 0)), int)
    aggregator: SequenceAggregator[Array, float] = fold(add, 0.0)
    assert_type(arrays.compute(aggregator), float)


def teeing(arrays: Flat[Array], total: Fold[Array, float], count: Fold[object, int]) -> None:
    assert_type(tee(total, total), Fold[Array, tuple[float, float]])
    assert_type(arrays.compute(tee(total, concatenate())), tuple[float, NDArray[Any]])
    assert_type(arrays.compute(tee(total, count)), tuple[float, int])
    assert_type(arrays.compute(tee(total, count, total.then(str))), tuple[float, int, str])
    assert_type(
        arrays.compute(tee(total, tee(count, total.then(str)))), tuple[float, tuple[int, str]]
    )
    assert_type(
        arrays.compute(tee(total, count, total, count, total, count)),
        tuple[float, int, float, int, float, int],
    )
    assert_type(tee(total, count).then(lambda both: both[1]), Fold[Array, int])


def teeing_any_number(
    arrays: Flat[Array],
    grid: Nested[Tensor],
    total: Fold[Array, float],
    totals: list[Fold[Array, float]],
    of_rows: list[NestedFold[Tensor, str]],
    named: dict[str, Fold[Array, float]],
) -> None:
    assert_type(tee(*totals), Fold[Array, tuple[float, ...]])
    assert_type(arrays.compute(tee(*totals)), tuple[float, ...])
    assert_type(tee(total, total, total, total, total, total, total)([]), tuple[float, ...])
    assert_type(tee(total), Fold[Array, tuple[float, ...]])
    assert_type(grid.compute(tee(*of_rows)), tuple[str, ...])
    assert_type(tee(named), Fold[Array, dict[str, float]])
    assert_type(arrays.compute(tee(named)), dict[str, float])
    assert_type(arrays.compute(tee({"one": total, "other": total})), dict[str, float])
    assert_type(arrays.compute(tee(total, tee(named))), tuple[float, dict[str, float]])
    assert_type(grid.compute(tee({"one": of_rows[0]})), dict[str, str])
    sink = zarr_sink("a.zarr", TorchNumpyConverter())
    assert_type(grid.compute(tee({"one": sink, "other": sink})), dict[str, Stored])


def larger(one: Array, other: Array) -> Array:
    return one if one.sum() > other.sum() else other


def merging(words: Flat[str], zeros: Array) -> None:
    assert_type(fold(operator.add, 0.0, merge=operator.add)([1.0]), float)
    assert_type(fold(larger, zeros, merge=larger), Fold[Array, Array])
    assert_type(fold(add, 0.0, merge=max), Fold[Array, float])
    assert_type(fold(add, 0.0, str, merge=max), Fold[Array, str])
    assert_type(fold(add, 0.0, merge=lambda one, other: one + other), Fold[Array, float])
    longer: Fold[str, int] = fold(lambda n, word: n + len(word), 0, merge=lambda n, m: n + m)
    listed: Fold[str, list[int]] = fold(lambda n, _: n + 1, 0, lambda n: [n], merge=operator.add)
    assert_type(words.compute(tee(longer, listed)), tuple[int, list[int]])


def nesting(
    arrays: Nested[Array],
    tensors: Nested[Tensor],
    total: Fold[Array, float],
    rows: Fold[float, list[float]],
) -> None:
    assert_type(nest(total, rows), NestedFold[Array, list[float]])
    assert_type(arrays.compute(nest(total, rows)), list[float])
    assert_type(arrays.compute(nest(fold(add, 0.0), fold(append, [0.0]))), list[float])
    assert_type(arrays.compute(nest(last_of, last_of)), Array)
    assert_type(arrays.compute(nest(last_of, list)), list[Array])
    assert_type(arrays.compute(nest(number_of_blocks, last_of)), int)
    assert_type(tensors.compute(nest(TorchCatAggregator(), TorchCatAggregator())), Tensor)
    assert_type(
        arrays.compute(tee(nest(total, rows), nested_concatenate())),
        tuple[list[float], NDArray[Any]],
    )
    assert_type(
        arrays.compute(tee(tee(nest(total, rows), nest(total, rows.then(len))), nest(total, rows))),
        tuple[tuple[list[float], int], list[float]],
    )


def reading(array: zarr.Array[Any], store: zarr.storage.MemoryStore, path: Path) -> None:
    assert_type(Flat.from_zarr("a.zarr", IdentityConverter()), Flat[NDArray[Any]])
    assert_type(Flat.from_zarr("a.zarr"), Flat[NDArray[Any]])
    assert_type(Nested.from_zarr("a.zarr", columns=4), Nested[NDArray[Any]])
    assert_type(Flat.from_zarr_group("a.zarr"), Flat[dict[str, NDArray[Any]]])
    assert_type(Nested.from_zarr_group("a.zarr", rows=2), Nested[dict[str, NDArray[Any]]])
    assert_type(Flat.from_zarr(array, TorchNumpyConverter(), rows=3), Flat[Tensor])
    assert_type(Flat.from_zarr(store, ListConverter(), max_chunk_bytes=10), Flat[list[float]])
    assert_type(Nested.from_zarr(path, TorchNumpyConverter(), rows=3, columns=4), Nested[Tensor])
    assert_type(Flat.from_zarr({}, TorchNumpyConverter()).map(len).compute(), list[int])


def computing_ahead(
    flat: LazyChunkSequence[Tensor],
    nested: NestedLazyChunkSequence[Tensor],
    executor: Executor,
    threads: ThreadPoolExecutor,
    processes: ProcessPoolExecutor,
) -> None:
    assert_type(flat.parallel(executor), LazyChunkSequence[Tensor])
    assert_type(flat.parallel(threads, 3).map(len), LazyChunkSequence[int])
    assert_type(nested.parallel(processes, max_in_flight=None), NestedLazyChunkSequence[Tensor])
    assert_type(nested.parallel(threads).compute(), list[list[Tensor]])


def sinks(
    arrays: LazyChunkSequence[Array],
    tensors: LazyChunkSequence[Tensor],
    grid: NestedLazyChunkSequence[Tensor],
    total: Fold[Array, float],
    of_rows: NestedFold[Tensor, str],
) -> None:
    sink = zarr_sink("a.zarr", IdentityConverter(), chunks="blocks", overwrite=True)
    assert_type(arrays.compute(sink), zarr.Array[Any])
    assert_type(
        arrays.compute(tee(zarr_sink("a.zarr", overwrite=True), total)),
        tuple[zarr.Array[Any], float],
    )
    assert_type(arrays.compute(tee(sink, total)), tuple[zarr.Array[Any], float])
    assert_type(
        arrays.compute(tee(total, sink, sink)), tuple[float, zarr.Array[Any], zarr.Array[Any]]
    )
    torch_sink = zarr_sink("a.zarr", TorchNumpyConverter())
    assert_type(
        tensors.compute(tee(torch_sink, TorchCatAggregator())), tuple[zarr.Array[Any], Tensor]
    )
    assert_type(grid.compute(tee(torch_sink, of_rows)), tuple[zarr.Array[Any], str])
    assert_type(
        grid.compute(tee(torch_sink, NestedTorchCatAggregator(), of_rows)),
        tuple[zarr.Array[Any], Tensor, str],
    )
    assert_type(sink([np.zeros(3)]), zarr.Array[Any])


def groups(
    flat: Flat[dict[str, Array]],
    tensors: Flat[Mapping[str, Tensor]],
    grid: Nested[dict[str, Tensor]],
    total: Fold[Array, float],
) -> None:
    flat.to_zarr_group("a.zarr", IdentityConverter(), arrays={"a": {"chunks": (3, None)}})
    assert_type(flat.to_zarr_group("a.zarr", arrays={"a": {"chunks": (3, None)}}), None)
    assert_type(flat.to_zarr_group("a.zarr", return_stored=True), zarr.Group)
    assert_type(flat.compute(zarr_group_sink("a.zarr")), zarr.Group)
    stored = tensors.to_zarr_group("a.zarr", TorchNumpyConverter(), return_stored=True)
    assert_type(stored, zarr.Group)
    assert_type(
        grid.to_zarr_group("a", TorchNumpyConverter(), True, coordinates={"x": [1, 2]}), zarr.Group
    )
    both = each({"a": total, "b": total})
    assert_type(both, Fold[Mapping[str, Array], dict[str, float]])
    assert_type(flat.compute(both), dict[str, float])
    sink = zarr_group_sink("a.zarr", IdentityConverter(), run_id="run", resume=True)
    of_library = each({"a": moments()})
    assert_type(
        flat.compute(tee(sink, of_library)), tuple[zarr.Group, dict[str, Moments[NDArray[Any]]]]
    )
    torch_sink = zarr_group_sink("a.zarr", TorchNumpyConverter())
    of_rows = each({"a": NestedTorchCatAggregator()})
    assert_type(
        grid.compute(tee(torch_sink, of_rows.then(len))),
        tuple[zarr.Group, int],
    )
    assert_type(Flat.from_zarr_group("a", TorchNumpyConverter()), Flat[dict[str, Tensor]])
    assert_type(
        Nested.from_zarr_group(stored, IdentityConverter(), names=["a"]),
        Nested[dict[str, NDArray[Any]]],
    )


def library_folds(arrays: Flat[Array], tensors: Flat[Tensor], rows: Nested[Array]) -> None:
    assert_type(arrays.compute(top_k(3)), TopK[NDArray[Any]])
    assert_type(arrays.compute(total()), NDArray[Any])
    assert_type(arrays.compute(moments(None)), Moments[NDArray[Any]])
    assert_type(arrays.compute(count()), int)
    assert_type(arrays.compute(top_k(3)).values, NDArray[Any])
    assert_type(tensors.compute(of_tensors.top_k(3, largest=False)), TopK[Tensor])
    assert_type(tensors.compute(of_tensors.moments()).mean, Tensor)
    assert_type(tensors.compute(of_tensors.count()), int)
    assert_type(rows.compute(nest(total(axis=1), concatenate())), NDArray[Any])
    assert_type(rows.compute(nest(count(1), first_of_numbers)), int)
    assert_type(arrays.compute(total(axis=1, along=0)), NDArray[Any])
    assert_type(arrays.compute(top_k(3, 1, along=0)), TopK[NDArray[Any]])
    assert_type(tensors.compute(of_tensors.moments(0, 1)), Moments[Tensor])
    assert_type(tensors.compute(of_tensors.count(axis=1, along=0)), int)
    assert_type(arrays.compute(covariance()), Covariance[NDArray[Any]])
    assert_type(tensors.compute(of_tensors.covariance(ddof=0)).covariance, Tensor)
    assert_type(arrays.compute(histogram([0, 1])).counts, NDArray[Any])
    assert_type(tensors.compute(of_tensors.histogram(range(3))), Histogram[Tensor])
    assert_type(rows.compute(histogram(np.arange(3))), Histogram[NDArray[Any]])
    values, indices = rows.compute(nest(top_k(3, axis=1), concatenate()))
    assert_type(values, NDArray[Any])
    assert_type(indices, NDArray[Any])


def storing_and_ranking_in_one_pass(
    arrays: Flat[Array], grid: Nested[Array], tensors: Flat[Tensor], tensor_grid: Nested[Tensor]
) -> None:
    sink = zarr_sink("a.zarr", IdentityConverter())
    best = top_k(10, axis=1)
    assert_type(
        grid.compute(
            tee(
                zarr_sink("a.zarr", IdentityConverter()),
                nest(top_k(10, axis=1), concatenate()),
            )
        ),
        tuple[Stored, TopK[NDArray[Any]]],
    )
    assert_type(arrays.compute(tee(sink, best)), tuple[Stored, TopK[NDArray[Any]]])
    assert_type(
        grid.compute(
            tee(
                sink,
                nest(tee(best, top_k(10, axis=1, largest=False), moments(1)), concatenate()),
                nest(concatenate(axis=1), total()),
                tee(nested_concatenate(), nest(count(1), total_of_numbers)),
                nest(best.then(len), total_of_numbers),
                nest(total(None), concatenate()),
            )
        ),
        tuple[
            Stored,
            tuple[TopK[NDArray[Any]], TopK[NDArray[Any]], Moments[NDArray[Any]]],
            NDArray[Any],
            tuple[NDArray[Any], int],
            int,
            NDArray[Any],
        ],
    )
    torch_sink = zarr_sink("a.zarr", TorchNumpyConverter())
    torch_best = of_tensors.top_k(10, axis=1)
    assert_type(tensors.compute(tee(torch_sink, torch_best)), tuple[Stored, TopK[Tensor]])
    for joined in (of_tensors.concatenate(), of_tensors.concatenate(axis=0)):
        assert_type(
            tensor_grid.compute(tee(torch_sink, nest(torch_best, joined))),
            tuple[Stored, TopK[Tensor]],
        )
    assert_type(
        tensor_grid.compute(tee(nest(torch_best, concatenate()), torch_sink)),
        tuple[TopK[Tensor], Stored],
    )


def by_ranks(
    arrays: Flat[Array], grid: Nested[Tensor], ranks: Ranks, distributed: DistributedRanks
) -> None:
    assert_type(arrays.compute(ranks=ranks), list[Array])
    assert_type(grid.compute(ranks=distributed), list[list[Tensor]])
    assert_type(arrays.compute(total(), ranks=distributed), NDArray[Any])
    assert_type(arrays.compute(max, ranks=None), Array)
    sink = zarr_sink("a.zarr", IdentityConverter())
    assert_type(arrays.compute(tee(sink, sink), ranks=ranks), tuple[Stored, Stored])
    converter = TorchNumpyConverter()
    assert_type(grid.to_zarr("a.zarr", converter, True, ranks=distributed), Stored)
    grid.to_zarr("a.zarr", converter, ranks=MPIRanks(FakeCommunicator()))
    named = arrays.map(lambda block: {"x": block})
    named.to_zarr_group("g.zarr", IdentityConverter(), ranks=ranks)


class FakeCommunicator:
    def Get_rank(self) -> int:  # noqa: N802
        return 0

    def Get_size(self) -> int:  # noqa: N802
        return 1

    def allgather(self, sendobj: T) -> list[T]:
        return [sendobj]


def several_sinks(arrays: Flat[Array], grid: Nested[Array]) -> None:
    sink = zarr_sink("a.zarr", IdentityConverter())
    assert_type(arrays.compute(tee(sink, sink)), tuple[Stored, Stored])
    assert_type(grid.compute(tee(sink, sink)), tuple[Stored, Stored])
    assert_type(grid.compute(tee(tee(sink, sink), sink)), tuple[tuple[Stored, Stored], Stored])
    assert_type(
        grid.compute(tee(tee(sink, sink), nested_concatenate())),
        tuple[tuple[Stored, Stored], NDArray[Any]],
    )
    assert_type(
        arrays.compute(tee(concatenate(), tee(sink, sink))),
        tuple[NDArray[Any], tuple[Stored, Stored]],
    )


def to_dask_and_back(
    arrays: Flat[Array], tensor_grid: Nested[Tensor], executor: Executor, client: Client
) -> None:
    x = to_dask_array(arrays, IdentityConverter(), chunks=[(2, 3), 4], dtype="f8")
    assert_type(x, da.Array)
    assert_type(to_dask_array(tensor_grid, TorchNumpyConverter(), chunks=(2, 3)), da.Array)
    to_dask_array(arrays, IdentityConverter(), chunks=(float("nan"), 4), dtype=np.float32)
    assert_type(from_dask_array(x), LazyChunkSequence[NDArray[Any]])
    assert_type(nested_from_dask_array(x), NestedLazyChunkSequence[NDArray[Any]])
    tensors = from_dask_array(x, scheduler="threads").map(TorchNumpyConverter().from_numpy)
    assert_type(tensors, LazyChunkSequence[Tensor])
    from_dask_array(x, scheduler=executor)
    arrays.to_zarr("a.zarr", IdentityConverter(), executor=executor)
    tensor_grid.to_zarr("a.zarr", TorchNumpyConverter(), executor=client)
    nested_from_dask_array(x, scheduler=client)
