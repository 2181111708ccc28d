"""Dask arrays equal the concatenation of the blocks, and compute no more than they say."""

import math
import os
import pickle
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from lazychunks import (
    BlockDTypeError,
    BlockShapeError,
    BlockTypeError,
    EmptyRowError,
    EmptySequenceError,
    IdentityConverter,
    LazyChunkSequence,
    LengthHintWarning,
    NestedLazyChunkSequence,
    concatenate,
    nested_concatenate,
)
from lazychunks.blocks.factories import Mapped
from lazychunks.layout.shapes import Shape
from tests.executors import cluster
from tests.strategies import Flat, Nested, any_bits, bits, dtypes, flat_blocks, nested_blocks, seeds

pytest.importorskip("dask.array", reason="dask is not installed")

from dask.array import Array, from_array
from dask.array.utils import assert_eq
from distributed import Client

from lazychunks.dask import from_dask_array, nested_from_dask_array, to_dask_array

SYNC = "synchronous"
"""Dask's scheduler of one thread, which the tests use where nothing else is said."""

CONVERTER = IdentityConverter()


@dataclass(frozen=True, slots=True)
class Pick:
    """The block function of blocks that are there already, which notes what it was asked for."""

    blocks: Any
    computed: list[tuple[int, ...]] = field(default_factory=list[tuple[int, ...]], compare=False)

    def __call__(self, *index: int) -> NDArray[Any]:
        self.computed.append(index)
        block: NDArray[Any] = self.blocks
        for number in index:
            block = block[number]
        return block


def flat(blocks: Flat) -> LazyChunkSequence[NDArray[Any]]:
    return LazyChunkSequence.from_map(Pick(blocks.blocks), range(len(blocks.blocks)))


def nested(blocks: Nested) -> NestedLazyChunkSequence[NDArray[Any]]:
    rows, columns = range(len(blocks.rows)), range(len(blocks.rows[0]))
    return NestedLazyChunkSequence.from_product(Pick(blocks.rows), rows, columns)


def counted(
    heights: tuple[int, ...], widths: tuple[int, ...] | None = None
) -> tuple[LazyChunkSequence[NDArray[Any]] | NestedLazyChunkSequence[NDArray[Any]], Pick]:
    """Make a sequence of blocks of some sizes, and what notes its blocks as they are computed."""
    if widths is None:
        pick = Pick([np.full((height, 2), n) for n, height in enumerate(heights)])
        return LazyChunkSequence.from_map(pick, range(len(heights))), pick
    pick = Pick(
        [[np.full((h, w), 10 * i + j) for j, w in enumerate(widths)] for i, h in enumerate(heights)]
    )
    rows, columns = range(len(heights)), range(len(widths))
    return NestedLazyChunkSequence.from_product(pick, rows, columns), pick


# To dask: the law


@given(flat_blocks(), st.booleans())
def test_a_dask_array_equals_the_concatenation(blocks: Flat, known: bool) -> None:
    heights = tuple(map(len, blocks.blocks)) if known else math.nan
    chunks = (heights, *blocks.whole.shape[1:])
    x = to_dask_array(flat(blocks), CONVERTER, chunks=chunks, dtype=blocks.blocks[0].dtype)
    assert bits(x.compute(scheduler=SYNC)) == bits(blocks.whole)


@given(nested_blocks())
def test_a_nested_dask_array_equals_the_concatenation_of_the_rows(blocks: Nested) -> None:
    heights = tuple(len(row[0]) for row in blocks.rows)
    widths = tuple(block.shape[1] for block in blocks.rows[0])
    chunks = (heights, widths, *blocks.whole.shape[2:])
    x = to_dask_array(nested(blocks), CONVERTER, chunks=chunks, dtype=blocks.rows[0][0].dtype)
    assert x.chunks[:2] == (heights, widths)
    assert bits(x.compute(scheduler=SYNC)) == bits(blocks.whole)


def are_even(sizes: list[int]) -> bool:
    return all(size == after for size, after in pairwise(sizes[:-1]))


@given(flat_blocks())
def test_without_sizes_a_dask_array_equals_the_concatenation_or_is_refused(blocks: Flat) -> None:
    x = to_dask_array(flat(blocks), CONVERTER)
    if are_even([*map(len, blocks.blocks)]):
        assert bits(x.compute(scheduler=SYNC)) == bits(blocks.whole)
    else:
        with pytest.raises(BlockShapeError, match="chunks="):
            x.compute(scheduler=SYNC)


@given(nested_blocks())
def test_without_sizes_a_nested_dask_array_equals_the_concatenation_or_is_refused(
    blocks: Nested,
) -> None:
    x = to_dask_array(nested(blocks), CONVERTER)
    heights = [len(row[0]) for row in blocks.rows]
    widths = [block.shape[1] for block in blocks.rows[0]]
    if are_even(heights) and are_even(widths):
        assert bits(x.compute(scheduler=SYNC)) == bits(blocks.whole)
    else:
        with pytest.raises(BlockShapeError, match="chunks="):
            x.compute(scheduler=SYNC)


@pytest.mark.parametrize("widths", [None, (4, 4, 1)])
def test_the_dask_array_declares_what_it_holds(widths: tuple[int, ...] | None) -> None:
    sequence, pick = counted((3, 3, 2), widths)
    whole = np.block(pick.blocks) if widths else np.concatenate(pick.blocks)
    x = to_dask_array(sequence, CONVERTER)
    assert [*x.chunks] == [(3, 3, 2), widths or (2,)]
    assert_eq(x, whole, scheduler=SYNC)  # compares what is declared, `meta` too, with the values
    assert_eq(x + 1, whole + 1, scheduler=SYNC)


# To dask: laziness


@pytest.mark.parametrize(
    ("heights", "widths", "expected"),
    [
        ((3,), None, [(0,)]),
        ((3, 2), None, [(0,), (1,)]),
        ((3, 3, 3, 2), None, [(0,), (3,)]),
        ((3,), (4,), [(0, 0)]),
        ((3, 3, 2), (4,), [(0, 0), (2, 0)]),
        ((3,), (4, 4), [(0, 0), (0, 1)]),
        ((3, 3, 2), (4, 4, 4), [(0, 0), (2, 0), (0, 2)]),
    ],
)
def test_the_first_and_the_last_blocks_are_computed_to_learn_the_sizes(
    heights: tuple[int, ...], widths: tuple[int, ...] | None, expected: list[Shape]
) -> None:
    sequence, pick = counted(heights, widths)
    to_dask_array(sequence, CONVERTER)
    assert pick.computed == expected


@pytest.mark.parametrize("widths", [None, (2, 5)])
def test_with_sizes_one_block_is_computed_to_learn_the_dtype(widths: Shape | None) -> None:
    sequence, pick = counted((1, 3, 2), widths)
    to_dask_array(sequence, CONVERTER, chunks=((1, 3, 2), widths or 2))
    assert pick.computed == [(0,) if widths is None else (0, 0)]


@pytest.mark.parametrize("widths", [None, (2, 5)])
def test_with_sizes_and_dtype_nothing_is_computed(widths: Shape | None) -> None:
    sequence, pick = counted((1, 3, 2), widths)
    to_dask_array(sequence, CONVERTER, chunks=((1, 3, 2), widths or 2), dtype=int)
    assert pick.computed == []


def test_one_chunk_computes_one_block_and_all_of_them_compute_each_once() -> None:
    sequence, pick = counted((1, 3, 2), (2, 5))
    x = to_dask_array(sequence, CONVERTER, chunks=((1, 3, 2), (2, 5)), dtype=int)
    assert x.blocks[1, 1].compute(scheduler=SYNC).shape == (3, 5)
    assert pick.computed == [(1, 1)]
    pick.computed.clear()
    (x - x.mean()).compute(scheduler=SYNC)
    assert sorted(pick.computed) == [(i, j) for i in range(3) for j in range(2)]


def test_the_function_goes_with_the_graph_once_and_not_with_each_task() -> None:
    sequence = LazyChunkSequence.from_map(partial(_second, b"large" * 1_000_000), range(8))
    x = to_dask_array(sequence, CONVERTER, chunks=(2,), dtype=int)
    sizes = sorted(len(pickle.dumps(task)) for task in dict(x.dask).values())
    assert len(sizes) == 9
    assert sizes[-1] > 5_000_000
    assert sizes[-2] < 10_000


def _second(first: object, second: int) -> NDArray[Any]:
    return np.full(2, second)


# To dask: what is refused


MISFITS: list[tuple[NDArray[Any], type[Exception]]] = [
    (np.zeros((3, 2)), BlockShapeError),
    (np.zeros((2, 3)), BlockShapeError),
    (np.zeros((1, 2)), BlockShapeError),  # dask by itself would broadcast it
    (np.zeros((2, 2, 1)), BlockShapeError),
    (np.zeros((2, 2), np.float32), BlockDTypeError),
    (np.ma.masked_array(np.zeros((2, 2))), BlockTypeError),
]


@pytest.mark.parametrize(("block", "error"), MISFITS)
def test_a_block_that_is_not_as_declared_is_an_error_when_it_is_computed(
    block: NDArray[Any], error: type[BlockShapeError]
) -> None:
    blocks = [np.zeros((2, 2)), block, np.zeros((2, 2))]
    x = to_dask_array(LazyChunkSequence.from_map(Pick(blocks), range(3)), CONVERTER)
    with pytest.raises(error, match=r"^block 1 ") as raised:
        x.compute(scheduler=SYNC)
    assert raised.value.block == 1
    row = NestedLazyChunkSequence.from_product(Pick([blocks]), [0], range(3))
    x = to_dask_array(row, CONVERTER, chunks=(2, 2), dtype=float)
    with pytest.raises(error, match=r"^block \(0, 1\) "):
        x.compute(scheduler=SYNC)


def test_with_unknown_heights_the_other_sizes_are_still_checked() -> None:
    blocks = [np.zeros((2, 3)), np.zeros((5, 3)), np.zeros((1, 4))]
    sequence = LazyChunkSequence.from_map(Pick(blocks), range(3))
    x = to_dask_array(sequence, CONVERTER, chunks=(math.nan, 3), dtype=float)
    assert x.blocks[:2].compute(scheduler=SYNC).shape == (7, 3)
    with pytest.raises(BlockShapeError, match=r"declares \(\*, 3\)") as raised:
        x.compute(scheduler=SYNC)
    assert (raised.value.expected, raised.value.got) == (("*", 3), (1, 4))


def test_a_last_block_that_does_not_fit_is_found_at_once() -> None:
    blocks = [np.zeros((2, 3)), np.zeros((2, 3)), np.zeros((1, 4))]
    with pytest.raises(BlockShapeError, match="block 2"):
        to_dask_array(LazyChunkSequence.from_map(Pick(blocks), range(3)), CONVERTER)
    blocks = [np.zeros((2, 3)), np.zeros((1, 3), int)]
    with pytest.raises(BlockDTypeError, match="block 1"):
        to_dask_array(LazyChunkSequence.from_map(Pick(blocks), range(2)), CONVERTER)
    rows = [[np.zeros((2, 3)), np.zeros((1, 3))], [np.zeros((2, 3)), np.zeros((2, 3))]]
    with pytest.raises(BlockShapeError, match=r"block \(0, 1\)"):
        to_dask_array(
            NestedLazyChunkSequence.from_product(Pick(rows), range(2), range(2)), CONVERTER
        )


def test_a_first_block_that_is_not_as_declared_is_found_at_once() -> None:
    sequence, _ = counted((2, 2))
    with pytest.raises(BlockDTypeError, match="block 0"):
        to_dask_array(sequence, CONVERTER, dtype=float)
    with pytest.raises(BlockShapeError, match="block 0"):
        to_dask_array(sequence, CONVERTER, chunks=(3, 2))


def test_only_map_backed_sequences_are_taken() -> None:
    with pytest.raises(TypeError, match="from_map"):
        to_dask_array(LazyChunkSequence(lambda: [np.zeros(2)]), CONVERTER)
    with pytest.raises(TypeError, match="from_product"):
        to_dask_array(NestedLazyChunkSequence(lambda: [[np.zeros((2, 2))]]), CONVERTER)


def test_there_must_be_blocks() -> None:
    with pytest.raises(EmptySequenceError):
        to_dask_array(LazyChunkSequence.from_map(np.zeros, list[int]()), CONVERTER)
    no_rows = NestedLazyChunkSequence.from_product(Pick([]), list[int](), range(2))
    with pytest.raises(EmptySequenceError):
        to_dask_array(no_rows, CONVERTER)
    no_columns = NestedLazyChunkSequence.from_product(Pick([]), range(2), list[int]())
    with pytest.raises(EmptyRowError):
        to_dask_array(no_columns, CONVERTER)


@dataclass
class Shrinking:
    """Items that get fewer each time."""

    left: int

    def __iter__(self) -> Iterator[int]:
        self.left -= 1
        return iter(range(self.left + 1))


def test_rows_must_have_one_number_of_blocks() -> None:
    rows = [[np.zeros((2, 2))] * 3] * 2
    sequence = NestedLazyChunkSequence.from_product(Pick(rows), range(2), Shrinking(3))
    with pytest.raises(BlockShapeError, match="row 1 has 2 blocks, expected 3"):
        to_dask_array(sequence, CONVERTER)


@pytest.mark.parametrize(
    ("chunks", "nested", "message"),
    [
        ([2], True, "has 1 axes, expected at least 2"),
        ([(2, 2, 2), 2], False, "has 3 sizes along axis 0, where the sequence has 2 blocks"),
        ([2, (2, 2)], False, "has 2 sizes along axis 1, where the sequence has 1 blocks"),
        ([2, -1], False, "the size -1 along axis 1"),
        ([2.0, 2], False, r"the size 2\.0 along axis 0"),
        ([2, math.nan], False, "unknown size along axis 1"),
        ([math.nan, 2], True, "unknown size along axis 0"),
    ],
)
def test_sizes_must_be_those_of_the_blocks(
    chunks: list[float | tuple[float, ...]], nested: bool, message: str
) -> None:
    sequence, pick = counted((2, 2), (2, 2) if nested else None)
    with pytest.raises(ValueError, match=message):
        to_dask_array(sequence, CONVERTER, chunks=chunks, dtype=int)
    assert pick.computed == []


def test_a_wrong_length_hint_warns() -> None:
    sequence = LazyChunkSequence(Mapped(np.zeros, [2, 2]), 3)
    with pytest.warns(LengthHintWarning, match="ended after 2 blocks"):
        x = to_dask_array(sequence, CONVERTER)
    assert x.shape == (4,)


# To dask: names


def tripled(number: int) -> NDArray[Any]:
    return np.full(2, 3 * number)


def name(
    fn: Callable[[int], NDArray[Any]] = tripled,
    items: Any = (1, 2),
    chunks: tuple[int, ...] = (2,),
    dtype: Any = int,
) -> str:
    sequence = LazyChunkSequence.from_map(fn, items)
    return to_dask_array(sequence, CONVERTER, chunks=chunks, dtype=dtype).name


def test_equal_sequences_share_their_keys() -> None:
    sequence = LazyChunkSequence.from_map(tripled, range(1, 3))
    names = {
        name(),
        name(items=[1, 2]),
        name(items=iter([1, 2])),
        to_dask_array(sequence, CONVERTER).name,
        to_dask_array(sequence.parallel(ThreadPoolExecutor(1)), CONVERTER).name,
        to_dask_array(pickle.loads(pickle.dumps(sequence)), CONVERTER).name,  # noqa: S301
    }
    assert len(names) == 1


def test_other_sequences_have_keys_of_their_own() -> None:
    def closure(factor: int) -> Callable[[int], NDArray[Any]]:
        return lambda number: np.full(2, factor * number)

    used_up = iter([1, 2])
    assert name(items=used_up) == name()
    names = [
        name(),
        name(fn=closure(3)),
        name(fn=closure(4)),
        name(items=(1, 3)),
        name(items=(1, 2, 3)),
        name(items=(1,)),
        name(chunks=(3,)),
        name(dtype=float),
        to_dask_array(LazyChunkSequence.from_map(tripled, [1, 2]).map(np.negative), CONVERTER).name,
    ]
    assert len(set(names)) == len(names)


def test_what_cannot_be_hashed_gets_a_name_of_its_own() -> None:
    def block(number: int, lock: Any = threading.Lock()) -> NDArray[Any]:  # noqa: B008
        with lock:
            return tripled(number)

    assert name(fn=block) != name(fn=block)


# To dask: where it runs


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    """Two workers, each a process of its own."""
    with cluster() as started:
        yield started


def process_of(row: int, column: int) -> NDArray[Any]:
    return np.full((2, 3), os.getpid())


@pytest.mark.parametrize(
    "scheduler", ["threads", pytest.param("processes", marks=pytest.mark.slow)]
)
def test_blocks_are_computed_by_the_schedulers_of_dask(scheduler: str) -> None:
    sequence = NestedLazyChunkSequence.from_product(process_of, range(3), range(2))
    x = to_dask_array(sequence, CONVERTER).compute(scheduler=scheduler)
    assert x.shape == (6, 6)
    assert (os.getpid() in x) == (scheduler == "threads")


@pytest.mark.slow
def test_blocks_are_computed_by_the_workers_of_a_cluster(client: Client) -> None:
    offset = 5
    sequence = LazyChunkSequence.from_map(lambda i: np.full((2, 3), i + offset), range(7))
    x = to_dask_array(sequence, CONVERTER)
    whole = sequence.compute(concatenate())
    assert bits(x.compute(scheduler=client)) == bits(whole)
    pids = to_dask_array(
        NestedLazyChunkSequence.from_product(process_of, range(3), range(2)), CONVERTER
    )
    assert os.getpid() not in pids.compute(scheduler=client)


@pytest.mark.slow
def test_an_error_comes_back_from_a_worker_with_its_fields(client: Client) -> None:
    sequence, _ = counted((2, 3, 2))
    with pytest.raises(BlockShapeError) as raised:
        to_dask_array(sequence, CONVERTER).compute(scheduler=client)
    error = raised.value
    assert (error.block, error.expected, error.got) == (1, (2, 2), (3, 2))


def test_blocks_of_torch_are_converted() -> None:
    torch = pytest.importorskip("torch")
    from lazychunks.torch import TorchCatAggregator, TorchNumpyConverter

    sequence = LazyChunkSequence.from_map(torch.ones, [(2, 3), (2, 3), (1, 3)])
    x = to_dask_array(sequence, TorchNumpyConverter())
    assert [*x.chunks] == [(2, 2, 1), (3,)]
    whole = sequence.compute(TorchCatAggregator()).numpy()
    assert bits(x.compute(scheduler=SYNC)) == bits(whole)


def test_bfloat16_stays_bfloat16() -> None:
    torch = pytest.importorskip("torch")
    ml_dtypes = pytest.importorskip("ml_dtypes")
    from lazychunks.torch import TorchNumpyConverter

    block = partial(torch.full, (2, 3), dtype=torch.bfloat16)
    x = to_dask_array(LazyChunkSequence.from_map(block, [1.5, 2.5]), TorchNumpyConverter())
    assert x.dtype == ml_dtypes.bfloat16
    values = x.compute(scheduler=SYNC)
    assert values.dtype == ml_dtypes.bfloat16
    assert values[:, 0].tolist() == [1.5, 1.5, 2.5, 2.5]


# From dask


@st.composite
def cut_arrays(draw: st.DrawFn, axes: int) -> tuple[NDArray[Any], list[tuple[int, ...]]]:
    """Draw an array, and how it is cut along each of its axes."""
    sizes = st.lists(st.integers(0, 4), min_size=1, max_size=3).map(tuple)
    cuts = draw(st.lists(sizes, min_size=axes, max_size=3))
    return any_bits(tuple(map(sum, cuts)), draw(dtypes), draw(seeds)), cuts


@given(cut_arrays(1))
def test_a_block_is_what_the_chunks_of_one_number_hold(
    drawn: tuple[NDArray[Any], list[tuple[int, ...]]],
) -> None:
    array, cuts = drawn
    sequence = from_dask_array(from_array(array, cuts), scheduler=SYNC)
    assert sequence.len_generator == len(cuts[0])
    blocks = list(sequence)
    assert [len(block) for block in blocks] == list(cuts[0])
    assert bits(np.concatenate(blocks)) == bits(array)


@given(cut_arrays(2))
def test_nested_blocks_are_what_the_chunks_of_two_numbers_hold(
    drawn: tuple[NDArray[Any], list[tuple[int, ...]]],
) -> None:
    array, cuts = drawn
    sequence = nested_from_dask_array(from_array(array, cuts), scheduler=SYNC)
    rows = sequence.compute()
    assert [[block.shape[:2] for block in row] for row in rows] == [
        [(height, width) for width in cuts[1]] for height in cuts[0]
    ]
    assert bits(np.concatenate([np.concatenate(row, axis=1) for row in rows])) == bits(array)


@given(flat_blocks())
def test_there_and_back_gives_the_same_blocks(blocks: Flat) -> None:
    chunks = (math.nan, *blocks.whole.shape[1:])
    x = to_dask_array(flat(blocks), CONVERTER, chunks=chunks)
    back = from_dask_array(x, scheduler=SYNC)
    assert [*map(bits, back)] == [*map(bits, blocks.blocks)]


@given(nested_blocks())
def test_there_and_back_gives_the_same_rows_of_blocks(blocks: Nested) -> None:
    heights = tuple(len(row[0]) for row in blocks.rows)
    widths = tuple(block.shape[1] for block in blocks.rows[0])
    x = to_dask_array(nested(blocks), CONVERTER, chunks=(heights, widths, *blocks.whole.shape[2:]))
    back = nested_from_dask_array(x, scheduler=SYNC)
    assert [[*map(bits, row)] for row in back] == [[*map(bits, row)] for row in blocks.rows]


def test_back_again_a_block_computes_the_tasks_that_it_needs_and_no_others() -> None:
    sequence, pick = counted((1, 3, 2), (2, 5))
    x = to_dask_array(sequence, CONVERTER, chunks=((1, 3, 2), (2, 5)), dtype=int)
    rows = from_dask_array(x + 1, scheduler=SYNC)
    grid = nested_from_dask_array(x + 1, scheduler=SYNC)
    assert pick.computed == []
    assert next(iter(rows)).shape == (1, 7)
    assert sorted(pick.computed) == [(0, 0), (0, 1)]
    pick.computed.clear()
    for row in grid:
        assert next(row)[0, 0] == 10 * (len(pick.computed) - 1) + 1
    assert pick.computed == [(0, 0), (1, 0), (2, 0)]


def test_a_sequence_of_a_dask_array_is_map_backed(tmp_path: Path) -> None:
    sequence, pick = counted((2, 2, 1))
    x = to_dask_array(sequence, CONVERTER)
    pick.computed.clear()
    blocks = from_dask_array(x, scheduler=SYNC)
    for _ in range(2):
        blocks.to_zarr(tmp_path / "x.zarr", CONVERTER, run_id="one", resume=True)
    assert pick.computed == [(0,), (1,), (2,)]
    stored = LazyChunkSequence.from_zarr(tmp_path / "x.zarr", CONVERTER).compute(concatenate())
    assert bits(stored) == bits(np.concatenate(pick.blocks))


@pytest.mark.slow
def test_the_scheduler_is_the_users(client: Client) -> None:
    sequence = NestedLazyChunkSequence.from_product(process_of, range(3), range(2))
    x = to_dask_array(sequence, CONVERTER)
    there = nested_from_dask_array(x, scheduler=client)
    assert os.getpid() not in there.compute(nested_concatenate())
    with ThreadPoolExecutor(2) as executor:
        here = from_dask_array(x, scheduler=executor).compute(concatenate())
    assert (here == os.getpid()).all()
    with pytest.raises(ValueError, match="Expected one of"):
        from_dask_array(x, scheduler="nonesuch").compute()


@pytest.mark.slow
def test_other_processes_can_compute_the_blocks() -> None:
    x = to_dask_array(LazyChunkSequence.from_map(tripled, range(3)), CONVERTER)
    sequence = from_dask_array(x, scheduler=SYNC)
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as executor:
        assert bits(sequence.parallel(executor).compute(concatenate())) == bits(
            np.repeat([0, 3, 6], 2)
        )


def test_sequences_of_one_dask_array_are_equal() -> None:
    x, y = from_array(np.arange(3)), from_array(np.arange(4))
    assert from_dask_array(x) == from_dask_array(x)
    assert len({from_dask_array(x), from_dask_array(x)}) == 1
    assert from_dask_array(x) != from_dask_array(y)
    assert from_dask_array(x) != from_dask_array(x, scheduler=SYNC)
    assert from_dask_array(x) != LazyChunkSequence.from_map(tripled, range(1))


def test_there_must_be_axes_to_cut() -> None:
    with pytest.raises(ValueError, match="has 0 axes, expected at least 1"):
        from_dask_array(from_array(np.array(1.0)))
    with pytest.raises(ValueError, match="has 1 axes, expected at least 2"):
        nested_from_dask_array(from_array(np.zeros(3)))


# Beside dask: xarray


def test_xarray_opens_what_was_stored_with_names(tmp_path: Path) -> None:
    xarray = pytest.importorskip("xarray", reason="xarray is not installed")
    import zarr

    zarr.create_group(tmp_path / "g.zarr")  # pyright: ignore[reportUnknownMemberType]  # zarr names an optional FSMap
    sequence, pick = counted((2, 2, 1), (3, 3))
    sequence.to_zarr(
        tmp_path / "g.zarr" / "influence",
        CONVERTER,
        dimension_names=("test", "train"),
        attributes={"units": "1"},
    )
    data = xarray.open_zarr(tmp_path / "g.zarr", consolidated=False)["influence"]
    assert data.dims == ("test", "train")
    assert data.attrs["units"] == "1"
    assert bits(data.to_numpy()) == bits(np.block(pick.blocks))
    assert isinstance(data.data, Array)
