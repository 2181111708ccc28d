"""Law R: who computes the blocks, and in how many tasks, does not show in any result."""


# pyright: reportUnknownMemberType=false
# torch types some of its functions partially.

from __future__ import annotations

import operator
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lazychunks import (
    BlockError,
    EmptySequenceError,
    LazyChunkSequence,
    NestedLazyChunkSequence,
    SourceTypeError,
    concatenate,
    fold,
    nest,
    tee,
    total,
)
from tests.executors import Shuffling, cluster, processes, reused, spawned
from tests.makes import (
    COMPLEX,
    FLAT,
    MOST,
    NESTED,
    NO_SHAPES,
    REDUCTIONS,
    Make,
    all_folds,
    any_fold,
    any_nest,
    any_tee,
    append_shape,
    append_shapes_of_rows,
    count_rows,
    draw_folds,
    extended,
    height,
    outcome,
    tasks_of,
)
from tests.strategies import DTYPES, Array, bits, layouts, partitions, seeds

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")

dtypes = st.sampled_from(DTYPES)


@st.composite
def flat_blocks(draw: st.DrawFn) -> Make:
    trailing = draw(st.lists(st.integers(0, 3), max_size=2))
    # Up to three runs of 32, so that the tree of merges has all of its levels.
    rows = draw(partitions(6, 5) | st.integers(1, 70).map(lambda n: (2, 1) * n))
    return Make(rows, None, tuple(trailing), draw(dtypes), draw(seeds), draw(layouts))


@st.composite
def nested_blocks(draw: st.DrawFn) -> Make:
    trailing = draw(st.lists(st.integers(0, 3), max_size=1))
    rows, columns = draw(partitions(5, 4)), draw(partitions(5, 4) | st.just((1,) * 40))
    return Make(rows, columns, tuple(trailing), draw(dtypes), draw(seeds), draw(layouts))


# Law R


@given(flat_blocks() | nested_blocks(), st.data())
@settings(max_examples=3 * MOST)
def test_who_computes_the_blocks_does_not_show(make: Make, data: st.DataObject) -> None:
    folded = draw_folds(data, make)
    expected = outcome(lambda: make.sequence.compute(folded))
    bound = data.draw(st.none() | st.integers(1, 9), "max_in_flight")
    with tasks_of(data.draw(st.integers(1, 40), "blocks")), Shuffling(data.draw(seeds)) as executor:
        found = outcome(
            lambda: make.sequence.compute(folded, executor=executor, max_in_flight=bound)
        )
    assert found == expected


@pytest.fixture(scope="module")
def pool(request: pytest.FixtureRequest) -> Iterator[Any]:
    """An executor that all tests of this file share: workers import once what they need."""
    with request.param() as executor:
        yield executor


SHUFFLING = pytest.param(Shuffling, id="shuffling")
THREADS = pytest.param(partial(ThreadPoolExecutor, 3), id="threads")
SPAWNED = pytest.param(spawned, id="spawned", marks=pytest.mark.slow)
POOLS = [
    SHUFFLING,
    THREADS,
    pytest.param(processes, id="processes"),
    SPAWNED,
    pytest.param(reused, id="loky", marks=pytest.mark.slow),
    pytest.param(cluster, id="dask", marks=pytest.mark.slow),
]


def check_every_fold(make: Make, executor: Any) -> None:
    """Check that all folds of a tee have the same bits whether the executor computes or not."""
    folded = all_folds(make)
    expected: Any = make.sequence.compute(folded)
    assert len(expected) > 20
    found: Any = make.sequence.compute(folded, executor=executor)
    for name, result in expected.items():
        assert bits(found[name]) == bits(result), name


@pytest.mark.parametrize("pool", POOLS, indirect=True)
@pytest.mark.parametrize("make", [FLAT, NESTED, COMPLEX], ids=["flat", "nested", "complex"])
def test_every_fold_has_the_same_bits_from_workers(make: Make, pool: Any) -> None:
    check_every_fold(make, pool)


@pytest.mark.skipif(find_spec("torch") is None, reason="torch is not installed")
@pytest.mark.parametrize("pool", [SHUFFLING, THREADS, SPAWNED], indirect=True)
@pytest.mark.parametrize(
    "kind",
    ["bfloat16", *(pytest.param(k, marks=pytest.mark.slow) for k in ("float32", "int64", "bool"))],
)
@pytest.mark.parametrize("make", [FLAT, NESTED], ids=["flat", "nested"])
def test_every_fold_of_tensors_has_the_same_bits(make: Make, kind: str, pool: Any) -> None:
    dtype = {"int64": "<i8", "bool": "?"}.get(kind, "<f4")
    check_every_fold(replace(make, library=kind, dtype=dtype), pool)


@pytest.mark.slow
def test_threads_that_use_their_memory_again_change_no_state() -> None:
    """As a producer does that writes each block to the same buffer; here, one for each thread."""
    local = threading.local()

    def reusing(make: Make, *index: int) -> Array:
        block = make(*index)
        if not hasattr(local, "room"):
            local.room = np.empty((4, 64), block.dtype)
        room: Array = local.room[: len(block), : block[0].size if len(block) else 0]
        room = room.reshape(-1)[: block.size].reshape(block.shape)
        output: Array = np.frombuffer(local.room.data, block.dtype, block.size)
        del room
        output = output.reshape(block.shape)
        output[...] = block
        return output

    for make in (FLAT, NESTED):
        folded = all_folds(make)
        expected: Any = make.sequence.compute(folded)
        sequence: Any = LazyChunkSequence.from_map(partial(reusing, make), range(len(make.rows)))
        if make.columns is not None:
            sequence = NestedLazyChunkSequence.from_product(
                partial(reusing, make), range(len(make.rows)), range(len(make.columns))
            )
        with ThreadPoolExecutor(3) as executor:
            found: Any = sequence.compute(folded, executor=executor)
        for name, result in expected.items():
            assert bits(found[name]) == bits(result), name


def test_a_fold_over_blocks_takes_rows_for_blocks_here_and_there() -> None:
    rows: Any = fold(count_rows, 0, merge=operator.add)
    sums: Any = nest(total(1), concatenate())
    with ThreadPoolExecutor(2) as executor:
        assert NESTED.sequence.compute(rows) == len(NESTED.rows)
        assert NESTED.sequence.compute(rows, executor=executor) == len(NESTED.rows)
        for chosen in (None, executor):
            with pytest.raises(SourceTypeError, match="whose rows would be taken for blocks"):
                FLAT.sequence.compute(sums, executor=chosen)


@dataclass
class Uneven:
    """Columns of which each row gets another number."""

    lengths: Sequence[int]
    rows: int = 0

    def __iter__(self) -> Iterator[int]:
        length = self.lengths[self.rows % len(self.lengths)]
        self.rows += 1
        return iter(range(length))


@given(st.lists(st.integers(0, 5), max_size=7), st.integers(1, 9), seeds)
def test_rows_may_be_empty_and_of_any_length_where_nothing_is_stored(
    lengths: list[int], blocks: int, seed: int
) -> None:
    """Each row is folded by itself."""
    make = Make((2,) * 9, (1,) * 9, (), "<f8", seed, "C")
    counted = nest(fold(height, 0, merge=operator.add), fold(append_shapes_of_rows, NO_SHAPES))
    sums = nest(total(1).then(np.atleast_1d), fold(append_shapes_of_rows, NO_SHAPES))
    both = any_tee(counted, nest(fold(height, 0), any_fold(count_rows, 0)))

    def run(folded: Any, **options: Any) -> object:
        columns = Uneven(lengths or [0])
        sequence = NestedLazyChunkSequence.from_product(make, range(len(lengths)), columns)
        return outcome(partial(sequence.compute, folded, **options))

    for folded in (counted, sums, both):
        with tasks_of(blocks), Shuffling(seed) as executor:
            assert run(folded, executor=executor) == run(folded)


def test_no_block_at_all() -> None:
    flat: Any = LazyChunkSequence.from_map(np.ones, [])
    nested: Any = NestedLazyChunkSequence.from_product(np.add.outer, [], [1])
    lists = fold(append_shape, NO_SHAPES, merge=extended)
    with ThreadPoolExecutor(1) as executor:
        assert flat.compute(tee(lists, lists), executor=executor) == ([], [])
        assert nested.compute(any_nest(lists, lists), executor=executor) == []
        for sequence, folded in ((flat, total()), (nested, nest(total(1), total()))):
            with pytest.raises(EmptySequenceError):
                sequence.compute(folded, executor=executor)


@dataclass(frozen=True)
class Odd:
    """Makes blocks of which one does not fit the others."""

    at: int
    dtype: str
    width: int

    def __call__(self, number: int) -> Array:
        if number == self.at:
            return np.ones((2, self.width), self.dtype)
        return np.ones((2, 3))


@pytest.mark.parametrize("size", [1, 2, 7])
@pytest.mark.parametrize(("dtype", "width"), [("f4", 3), ("f8", 4)])
@pytest.mark.parametrize("name", ["total", "norm", "top_k", "count", "tee", "along"])
def test_a_block_that_does_not_fit_is_an_error_wherever_it_is(
    name: str, dtype: str, width: int, size: int
) -> None:
    """Also the first one of its task, which the worker cannot compare with those before it."""
    folded: Any = {**REDUCTIONS, "along": total(1, along=0)}[name]
    for at in range(1, 6):
        sequence = LazyChunkSequence.from_map(Odd(at, dtype, width), range(6))
        expected: Any = outcome(partial(sequence.compute, folded))
        assert isinstance(expected, type)
        with tasks_of(size), Shuffling(at) as executor, pytest.raises(BlockError) as caught:
            sequence.compute(folded, executor=executor)
        assert type(caught.value) is expected
        if size == 1:
            assert caught.value.block == at
