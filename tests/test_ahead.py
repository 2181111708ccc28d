"""Blocks computed ahead: the same blocks in the same order, a bounded number of them at a time.

No test waits for a clock: an executor that computes when asked shows what is in flight, and where
threads are needed, events say how far they are.
"""

import operator
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lazychunks import (
    Fold,
    IdentityConverter,
    LazyChunkSequence,
    NestedLazyChunkSequence,
    SourceExhaustedError,
    fold,
    tee,
)
from lazychunks.blocks.ahead import Ahead
from lazychunks.blocks.factories import Mapped, Product, column_count, is_map_backed

TIMEOUT = 60
"""Seconds after which an event that does not come is a failure."""

items = st.lists(st.integers(-5, 5), max_size=8)
bounds = st.none() | st.integers(1, 5)


def squared(number: int) -> int:
    """A block function that other processes can import."""
    return number * number


def failing_at_3(number: int) -> int:
    if number == 3:
        raise ZeroDivisionError(f"block {number}")
    return number


def block_of(row: int, column: int) -> Any:
    return np.full((2, 3), 10 * row + column)


def total_height(total: int, block: Any) -> int:
    return total + len(block)


def process_of(number: int) -> tuple[int, int]:
    return number, os.getpid()


class Late(Future[Any]):
    """Computed when its result is asked for, at the latest possible moment."""

    def __init__(self, task: Callable[[], Any]) -> None:
        super().__init__()
        self.task = task

    def result(self, timeout: float | None = None) -> Any:
        self.compute()
        return super().result(timeout)

    def compute(self) -> None:
        if not self.done() and self.set_running_or_notify_cancel():
            try:
                self.set_result(self.task())
            except Exception as error:  # noqa: BLE001  # as executors do
                self.set_exception(error)


class Reluctant(Executor):
    """Computes nothing before it must, and remembers all that it was asked for."""

    def __init__(self) -> None:
        self.futures: list[Late] = []

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        assert not args
        assert not kwargs
        self.futures.append(Late(fn))
        return self.futures[-1]

    @property
    def in_flight(self) -> int:
        return sum(not future.done() for future in self.futures)

    @property
    def cancelled(self) -> int:
        return sum(future.cancelled() for future in self.futures)


@pytest.fixture(scope="module")
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(3) as pool:
        yield pool


@pytest.fixture(scope="module")
def processes() -> Iterator[ProcessPoolExecutor]:
    with ProcessPoolExecutor(2, get_context("spawn")) as pool:
        yield pool


# Law: the blocks are those of the sequence, in order.


@given(values=items, bound=bounds)
def test_blocks_are_the_same_in_the_same_order(
    threads: ThreadPoolExecutor, values: list[int], bound: int | None
) -> None:
    sequence = LazyChunkSequence.from_map(squared, values)
    for executor in (threads, Reluctant()):
        parallel = sequence.parallel(executor, bound)
        assert parallel.len_generator == len(values)
        for _ in range(2):
            assert parallel.compute() == sequence.compute()


@given(rows=items, columns=items, bound=bounds)
def test_rows_of_blocks_are_the_same_in_the_same_order(
    threads: ThreadPoolExecutor, rows: list[int], columns: list[int], bound: int | None
) -> None:
    sequence = NestedLazyChunkSequence.from_product(operator.sub, rows, columns)
    for executor in (threads, Reluctant()):
        parallel = sequence.parallel(executor, bound)
        assert parallel.len_outer_generator == len(rows)
        for _ in range(2):
            assert parallel.compute() == sequence.compute()


@given(rows=items, columns=items, wanted=st.lists(st.integers(0, 9), max_size=8), bound=bounds)
def test_abandoned_rows_leave_the_others_as_they_are(
    rows: list[int], columns: list[int], wanted: list[int], bound: int | None
) -> None:
    sequence = NestedLazyChunkSequence.from_product(operator.sub, rows, columns)
    found, expected = (
        [list(islice(row, count)) for row, count in zip(each, wanted, strict=False)]
        for each in (sequence.parallel(Reluctant(), bound), sequence)
    )
    assert found == expected


def test_processes(processes: ProcessPoolExecutor) -> None:
    flat = LazyChunkSequence.from_map(squared, range(10)).parallel(processes, 4)
    assert flat.compute() == [number * number for number in range(10)]
    nested = NestedLazyChunkSequence.from_product(block_of, range(3), range(2))
    np.testing.assert_array_equal(
        np.block(nested.parallel(processes, 3).compute()), np.block(nested.compute())
    )
    pids = {pid for _, pid in LazyChunkSequence.from_map(process_of, [1]).parallel(processes)}
    assert os.getpid() not in pids
    blocks = iter(LazyChunkSequence.from_map(failing_at_3, range(10)).parallel(processes, 2))
    assert [next(blocks) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ZeroDivisionError, match="block 3"):
        next(blocks)


def test_processes_read_arrays(processes: ProcessPoolExecutor, tmp_path: Path) -> None:
    values = np.arange(42.0).reshape(14, 3)
    LazyChunkSequence(lambda: [values]).to_zarr(tmp_path / "a", IdentityConverter(), chunks=(4, 3))
    sequence = LazyChunkSequence.from_zarr(tmp_path / "a", IdentityConverter(), rows=4)
    parallel = sequence.map(np.negative).parallel(processes, 2)
    np.testing.assert_array_equal(np.concatenate(parallel.compute()), -values)


def test_what_cannot_be_pickled_fails_at_its_place(processes: ProcessPoolExecutor) -> None:
    lock = threading.Lock()
    blocks = iter(LazyChunkSequence.from_map(str, [1, lock]).parallel(processes, 1))
    assert next(blocks) == "1"
    with pytest.raises(TypeError, match="pickle"):
        next(blocks)


# A bounded number of them.


@pytest.mark.parametrize("bound", [1, 2, 5])
def test_as_many_are_in_flight_as_are_allowed(bound: int) -> None:
    flat, nested = Reluctant(), Reluctant()
    blocks = iter(LazyChunkSequence.from_map(squared, range(20)).parallel(flat, bound))
    assert flat.futures == []
    for number in range(20):
        assert next(blocks) == number * number
        assert flat.in_flight == min(bound, 19 - number)
    seen = 0
    rows = NestedLazyChunkSequence.from_product(operator.add, range(4), range(5))
    for row in rows.parallel(nested, bound):
        for _ in row:
            seen += 1
            assert nested.in_flight == min(bound, 20 - seen)
    assert seen == len(nested.futures) == 20


def test_the_items_are_asked_for_as_blocks_are() -> None:
    asked: list[int] = []

    def endless() -> Iterator[int]:
        while True:
            asked.append(len(asked))
            yield asked[-1]

    blocks = iter(LazyChunkSequence.from_map(squared, endless()).parallel(Reluctant(), 3))
    assert asked == []
    assert [next(blocks) for _ in range(5)] == [0, 1, 4, 9, 16]
    assert len(asked) == 8


def test_blocks_are_computed_at_the_same_time() -> None:
    together = threading.Barrier(2, timeout=TIMEOUT)

    def block(number: int) -> int:
        together.wait()
        return number

    with ThreadPoolExecutor(4) as pool:
        assert LazyChunkSequence.from_map(block, range(6)).parallel(pool, 2).compute() == [
            *range(6)
        ]


def test_the_next_block_is_computed_while_one_is_consumed() -> None:
    begun = threading.Event()

    def block(number: int) -> int:
        if number == 1:
            begun.set()
        return number

    with ThreadPoolExecutor(1) as pool:
        blocks = iter(LazyChunkSequence.from_map(block, range(3)).parallel(pool, 1))
        assert next(blocks) == 0
        assert begun.wait(TIMEOUT)
        assert list(blocks) == [1, 2]


def test_no_more_than_the_bound_run_whatever_the_pool() -> None:
    lock = threading.Lock()
    running = most = 0

    def block(number: int) -> int:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        with lock:
            running -= 1
        return number

    with ThreadPoolExecutor(8) as pool:
        LazyChunkSequence.from_map(block, range(200)).parallel(pool, 3).compute()
    assert 1 <= most <= 3


@pytest.mark.parametrize("wrong", [0, -1])
def test_a_bound_must_be_positive(wrong: int) -> None:
    for sequence in sequences():
        with pytest.raises(ValueError, match=f"max_in_flight must be at least 1, got {wrong}"):
            sequence.parallel(Reluctant(), wrong)


@pytest.mark.parametrize("wrong", [True, 1.5, "2", float("nan")])
def test_a_bound_must_be_an_integer(wrong: Any) -> None:
    for sequence in sequences():
        with pytest.raises(TypeError, match=f"max_in_flight must be an integer, got {wrong!r}"):
            sequence.parallel(Reluctant(), wrong)


def test_the_default_bound_is_two_for_each_core() -> None:
    made = Ahead[int].of(Mapped(abs, [1]), executor=Reluctant(), max_in_flight=None)
    assert made.max_in_flight == 2 * (os.cpu_count() or 1)
    number: Any = np.int64(3)
    made = Ahead[int].of(Mapped(abs, [1]), executor=Reluctant(), max_in_flight=number)
    assert type(made.max_in_flight) is int


# Errors.


@pytest.mark.parametrize("bound", [1, 2, 9])
def test_an_error_is_raised_at_its_place(threads: ThreadPoolExecutor, bound: int) -> None:
    for executor in (threads, Reluctant()):
        blocks = iter(LazyChunkSequence.from_map(failing_at_3, range(9)).parallel(executor, bound))
        assert [next(blocks) for _ in range(3)] == [0, 1, 2]
        with pytest.raises(ZeroDivisionError, match="block 3"):
            next(blocks)
    reluctant = Reluctant()
    with pytest.raises(ZeroDivisionError):
        LazyChunkSequence.from_map(failing_at_3, range(9)).parallel(reluctant, bound).compute()
    assert reluctant.in_flight == 0
    assert reluctant.cancelled == min(bound - 1, 5)


@pytest.mark.parametrize("bound", [1, 2, 9])
def test_an_error_of_the_items_is_raised_at_its_place(bound: int) -> None:
    def numbers() -> Iterator[int]:
        yield from (1, 2)
        raise LookupError

    flat = iter(LazyChunkSequence.from_map(squared, numbers()).parallel(Reluctant(), bound))
    assert [next(flat), next(flat)] == [1, 4]
    with pytest.raises(LookupError):
        next(flat)
    rows = NestedLazyChunkSequence.from_product(operator.add, numbers(), [0, 1])
    found: list[int] = []
    with pytest.raises(LookupError):
        rows.parallel(Reluctant(), bound).compute(lambda each: [*map(found.extend, each)])
    assert found == [1, 2, 2, 3]


def test_after_an_error_in_a_row_the_next_row_is_the_next_row() -> None:
    def block(row: int, column: int) -> tuple[int, int]:
        if (row, column) == (0, 1):
            raise ZeroDivisionError
        return row, column

    rows = iter(
        NestedLazyChunkSequence.from_product(block, range(2), range(3)).parallel(Reluctant(), 2)
    )
    first = next(rows)
    assert next(first) == (0, 0)
    with pytest.raises(ZeroDivisionError):
        next(first)
    assert [list(row) for row in rows] == [[(1, 0), (1, 1), (1, 2)]]


def test_an_interrupt_is_passed_on() -> None:
    class Interrupted(Executor):
        def submit(self, _: Callable[..., Any], /, *__: Any, **___: Any) -> Future[Any]:
            future: Future[Any] = Future()
            future.set_exception(KeyboardInterrupt())
            return future

    with pytest.raises(KeyboardInterrupt):
        LazyChunkSequence.from_map(squared, range(3)).parallel(Interrupted()).compute()


# A consumer that stops.


def test_what_has_not_begun_is_cancelled_when_the_consumer_stops() -> None:
    flat = Reluctant()
    blocks = iter(LazyChunkSequence.from_map(squared, range(9)).parallel(flat, 4))
    next(blocks)
    del blocks
    assert (len(flat.futures), flat.cancelled) == (5, 4)
    nested = Reluctant()
    rows = iter(
        NestedLazyChunkSequence.from_product(operator.add, range(3), range(3)).parallel(nested, 5)
    )
    next(next(rows))
    del rows
    assert (len(nested.futures), nested.cancelled) == (6, 5)


def test_what_has_begun_ends_and_what_has_not_does_not_begin() -> None:
    begun: list[int] = []
    running, release = threading.Event(), threading.Event()

    def block(number: int) -> int:
        begun.append(number)
        if number == 1:
            running.set()
            assert release.wait(TIMEOUT)
        return number

    with ThreadPoolExecutor(1) as pool:
        blocks = iter(LazyChunkSequence.from_map(block, range(6)).parallel(pool, 3))
        assert next(blocks) == 0
        assert running.wait(TIMEOUT)
        del blocks
        release.set()
    assert begun == [0, 1]


def test_threads_of_its_own_end_when_the_consumer_stops() -> None:
    factory: Ahead[int] = Ahead(Mapped(squared, range(9)), None, 2)
    blocks = factory()
    assert next(blocks) == 0
    names = [thread.name for thread in threading.enumerate()]
    assert any(name.startswith("lazychunks-ahead") for name in names)
    del blocks
    names = [thread.name for thread in threading.enumerate()]
    assert not any(name.startswith("lazychunks-ahead") for name in names)


def test_what_is_left_of_a_row_is_not_computed() -> None:
    computed: list[tuple[int, int]] = []

    def block(row: int, column: int) -> tuple[int, int]:
        computed.append((row, column))
        if column == 2:
            raise ZeroDivisionError
        return row, column

    executor = Reluctant()
    sequence = NestedLazyChunkSequence.from_product(block, range(3), range(4)).parallel(executor, 2)
    assert [next(row) for row in sequence] == [(0, 0), (1, 0), (2, 0)]
    assert computed == [(0, 0), (1, 0), (2, 0)]
    assert executor.in_flight == 0


def test_a_block_that_nobody_wants_any_more_is_waited_for_if_it_has_begun() -> None:
    """It is in flight, and in a pool of one it would delay the next row in any case."""
    begun, release = threading.Event(), threading.Event()

    def block(row: int, column: int) -> tuple[int, int]:
        if (row, column) == (0, 1):
            begun.set()
            assert release.wait(TIMEOUT)
            raise ZeroDivisionError
        return row, column

    with ThreadPoolExecutor(2) as pool:
        rows = iter(
            NestedLazyChunkSequence.from_product(block, range(2), range(2)).parallel(pool, 1)
        )
        assert next(next(rows)) == (0, 0)
        assert begun.wait(TIMEOUT)
        release.set()
        assert list(next(rows)) == [(1, 0), (1, 1)]


def test_a_row_ends_with_the_next_one_or_with_itself() -> None:
    sequence = NestedLazyChunkSequence.from_product(operator.add, [0, 10], range(3))
    rows = iter(sequence.parallel(Reluctant(), 2))
    first = next(rows)
    assert next(first) == 0
    second = next(rows)
    with pytest.raises(SourceExhaustedError, match=r"row 0 .* after the next row; consume"):
        list(first)
    assert list(second) == [10, 11, 12]
    assert list(rows) == []

    rows = iter(sequence.parallel(Reluctant(), 2))
    early, late = next(rows), next(rows)
    with pytest.raises(SourceExhaustedError, match="row 0"):
        list(early)  # whose blocks are not those of the next row
    assert list(late) == [10, 11, 12]
    with pytest.raises(SourceExhaustedError, match="row 0"):
        [list(row) for row in list(sequence.parallel(Reluctant(), 2))]

    source = Product(operator.add, [0, 10], range(3))
    factory: Ahead[int] = Ahead(source, Reluctant(), 2)
    made: Any = factory()
    next(made).close()
    assert [list(row) for row in made] == [[10, 11, 12]]


@pytest.mark.parametrize("executor", [None, "reluctant"])
def test_a_row_that_is_held_outlives_the_rows(executor: str | None) -> None:
    """The first row alone is asked for: ``next(iter(sequence))``."""
    for taken in range(4):
        source = Product(operator.add, [0, 10], range(5))
        factory: Ahead[int] = Ahead(source, Reluctant() if executor else None, 2)
        rows = factory()
        row = next(rows)
        found: list[int] = [*islice(row, taken)]
        del rows
        assert found + list(row) == [0, 1, 2, 3, 4]


# Who can be computed ahead, and what comes of it.


def sequences() -> list[Any]:
    return [
        LazyChunkSequence.from_map(squared, range(3)),
        NestedLazyChunkSequence.from_product(operator.add, range(3), range(2)),
    ]


def test_only_map_backed_sequences_can_be_computed_ahead() -> None:
    flat = LazyChunkSequence(lambda: [1, 2])
    with pytest.raises(TypeError, match=r"map-backed .* LazyChunkSequence\.from_map"):
        flat.parallel(Reluctant())
    with pytest.raises(TypeError, match="from_map"):
        flat.map(squared).parallel(Reluctant())
    with pytest.raises(TypeError, match=r"NestedLazyChunkSequence\.from_product"):
        NestedLazyChunkSequence(lambda: [[1]]).parallel(Reluctant())


def test_an_empty_sequence_asks_for_nothing() -> None:
    executor = Reluctant()
    none: list[int] = []
    assert LazyChunkSequence.from_map(squared, none).parallel(executor).compute() == []
    product = NestedLazyChunkSequence.from_product
    assert product(operator.add, none, [1]).parallel(executor).compute() == []
    assert product(operator.add, [1, 2], none).parallel(executor).compute() == [[], []]
    assert executor.futures == []


def test_map_is_applied_by_the_executor_as_well(threads: ThreadPoolExecutor) -> None:
    def with_thread(block: int) -> tuple[int, str]:
        return block, threading.current_thread().name

    here = threading.current_thread().name
    for sequence in sequences():
        parallel = sequence.parallel(threads, 2).map(with_thread)
        factory: Any = parallel.generator_factory
        assert type(factory) is Ahead
        assert factory.max_in_flight == 2
        found = parallel.compute()
        flat = found if isinstance(found[0], tuple) else [each for row in found for each in row]
        assert here not in {name for _, name in flat}
        assert parallel.map(operator.itemgetter(0)).compute() == sequence.compute()


def test_what_is_computed_ahead_stays_map_backed() -> None:
    executor = Reluctant()
    flat, nested = (sequence.parallel(executor) for sequence in sequences())
    assert is_map_backed(flat.generator_factory)
    assert [call() for (call,) in flat.generator_factory.rows_of_calls()] == [0, 1, 4]
    grid = [[call() for call in row] for row in nested.generator_factory.rows_of_calls()]
    assert executor.futures == []  # single blocks are computed where they are asked for
    assert grid == nested.compute()
    assert (flat.generator_factory.axes, nested.generator_factory.axes) == (1, 2)
    assert column_count(nested.generator_factory) == 2
    assert column_count(flat.generator_factory) is None
    executor.futures.clear()
    other = Reluctant()
    assert flat.parallel(other).compute() == [0, 1, 4]
    assert len(other.futures) == 3
    assert executor.futures == []


def test_a_run_can_be_repeated_and_two_can_go_side_by_side() -> None:
    sequence = LazyChunkSequence.from_map(squared, range(4)).parallel(Reluctant(), 2)
    assert list(zip(sequence, sequence, strict=True)) == [(n * n, n * n) for n in range(4)]


def test_folds_and_storing_take_what_is_computed_ahead(threads: ThreadPoolExecutor) -> None:
    flat = LazyChunkSequence.from_map(np.arange, range(1, 6)).parallel(threads, 3)
    heights: Fold[Any, int] = fold(total_height, 0)
    assert flat.compute(tee(heights, heights)) == (15, 15)
    array = flat.to_zarr({}, IdentityConverter(), True, progress=False)
    np.testing.assert_array_equal(np.asarray(array[:]), np.concatenate(flat.compute()))
    nested = NestedLazyChunkSequence.from_product(block_of, range(3), range(4))
    array = nested.parallel(threads, 3).to_zarr({}, IdentityConverter(), True)
    np.testing.assert_array_equal(np.asarray(array[:]), np.block(nested.compute()))


def test_a_progress_bar_moves_with_the_blocks(capsys: pytest.CaptureFixture[str]) -> None:
    for sequence in sequences():
        sequence.parallel(Reluctant(), 2).compute(progress=True)
    assert "3/3" in capsys.readouterr().err


def test_an_executor_that_is_shut_down_is_an_error() -> None:
    pool = ThreadPoolExecutor(1)
    pool.shutdown()
    with pytest.raises(RuntimeError, match="shutdown"):
        LazyChunkSequence.from_map(squared, [1]).parallel(pool).compute()
