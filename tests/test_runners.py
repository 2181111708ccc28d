"""Who does the work of a pass: what travels, what is held, what is under way, what is refused."""


# pyright: reportUnknownMemberType=false
# torch types some of its functions partially.

from __future__ import annotations

import operator
import os
import pickle
import signal
import threading
import tracemalloc
import weakref
from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import pytest

from lazychunks import (
    Fold,
    LazyChunkSequence,
    LengthHintWarning,
    NestedFold,
    NestedLazyChunkSequence,
    NotSpreadableError,
    concatenate,
    count,
    fold,
    mean,
    moments,
    nest,
    tee,
    top_k,
    total,
)
from lazychunks.folds import Counts, Pass
from lazychunks.runs import runners
from lazychunks.testing.parts import cut_blocks, run_part
from tests.executors import Shuffling, processes
from tests.makes import (
    FLAT,
    NESTED,
    NO_SHAPES,
    REDUCTIONS,
    TIMEOUT,
    Make,
    Noted,
    any_fold,
    append_shapes_of_rows,
    height,
    no_shapes,
    shape_lists,
    shapes,
    tasks_of,
)
from tests.strategies import Array, bits

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")


# What travels


def state_bytes(folded: Any, blocks: Sequence[Array], size: int) -> list[int]:
    """Bytes of the states of parts of so many blocks."""
    running = folded.start((len(blocks),))
    parts = cut_blocks(blocks, range(0, len(blocks), size))
    return [len(pickle.dumps(run_part(folded.for_parts(running), part))) for part in parts]


@pytest.mark.parametrize("name", REDUCTIONS)
def test_only_states_travel_however_large_the_blocks_are(name: str) -> None:
    sizes: list[list[int]] = []
    for rows in (10, 10_000):
        make = Make((rows,) * 12, None, (2,), "<f8", 1, "C")
        with tasks_of(3), Shuffling() as executor:
            make.sequence.compute(REDUCTIONS[name], executor=executor)
        assert len(executor.sizes) == 4
        blocks = [make(row) for row in range(12)]
        assert sum(executor.sizes) <= sum(state_bytes(REDUCTIONS[name], blocks, 3))
        sizes.append(executor.sizes)
    assert max(sizes[1]) < max(sizes[0]) + 100
    assert max(sizes[1]) < 3_000


def plainly(blocks: Any) -> object:
    """Aggregate as anybody may."""
    return [[*row] if hasattr(row, "__next__") else row for row in blocks]


NOT_MERGED: dict[str, tuple[Any, Any]] = {
    "nothing": (None, None),
    "a function": (plainly, plainly),
    "a fold": (concatenate(), nest(concatenate(1), concatenate(0))),
    "a fold beside one that merges": (
        tee(total(), fold(shapes, no_shapes)),
        tee(nest(total(1), total()), nest(fold(shapes, no_shapes), fold(shape_lists, NO_SHAPES))),
    ),
}


@pytest.mark.parametrize("start", [Shuffling, processes, partial(ThreadPoolExecutor, 2)])
@pytest.mark.parametrize("name", NOT_MERGED)
@pytest.mark.parametrize("make", [FLAT, NESTED], ids=["flat", "nested"])
def test_what_does_not_merge_gets_the_blocks_in_order_and_each_is_computed_once(
    make: Make, name: str, start: Callable[[], Any], tmp_path: Path
) -> None:
    aggregator = NOT_MERGED[name][make.columns is not None]
    expected = bits(make.sequence.compute(aggregator))
    noted = Noted(tmp_path / "computed", make)
    with start() as executor:
        assert bits(noted.sequence().compute(aggregator, executor=executor)) == expected
    lines = Counter(noted.path.read_text().splitlines())
    assert len(lines) == len(make.rows) * len(make.columns or (0,))
    assert set(lines.values()) == {1}


def test_the_function_of_the_blocks_is_sent_once_whatever_gets_them(tmp_path: Path) -> None:
    for number, aggregator in enumerate((None, concatenate(), total())):
        counted = Unpickled(tmp_path / str(number))
        with processes(1) as executor:
            LazyChunkSequence.from_map(counted, range(20)).compute(aggregator, executor=executor)
        assert counted.path.read_text() == "."


@dataclass(frozen=True)
class Unpickled:
    """Computes a block, and notes how often it was unpickled."""

    path: Path

    def __call__(self, number: int) -> Array:
        return np.full(3, number)

    def __reduce__(self) -> tuple[Any, ...]:
        return (_unpickle, (self.path,))


def _unpickle(path: Path) -> Unpickled:
    with path.open("a") as file:
        file.write(".")
    return Unpickled(path)


@pytest.mark.parametrize("bound", [1, 3])
@pytest.mark.parametrize("aggregator", [total(), concatenate(), list])
def test_so_many_tasks_are_under_way_and_no_more(aggregator: Any, bound: int) -> None:
    with Shuffling() as executor:
        FLAT.sequence.compute(aggregator, executor=executor, max_in_flight=bound)
    assert executor.most == bound


# Memory


class Watched:
    """Makes blocks, and counts how many of those before are alive when one is made."""

    def __init__(self) -> None:
        self._references: list[weakref.ref[Array]] = []
        self.most = 0

    def __call__(self, *_: int) -> Array:
        alive = sum(reference() is not None for reference in self._references)
        self.most = max(self.most, alive)
        block = np.ones((2, 3))
        self._references.append(weakref.ref(block))
        return block

    @property
    def sequences(self) -> list[tuple[Any, Any]]:
        """Sequences of blocks, and folds over them."""
        flat, nested = tee(total(), moments(None), top_k(2), count()), nest(total(1), total())
        return [
            (LazyChunkSequence.from_map(self, range(9)), flat),
            (LazyChunkSequence(lambda: (self() for _ in range(9))), flat),
            (NestedLazyChunkSequence.from_product(self, range(3), range(4)), nested),
            (NestedLazyChunkSequence(lambda: ((self() for _ in range(3)) for _ in "ab")), nested),
        ]


@pytest.mark.parametrize(
    ("number", "elsewhere"), [(0, False), (1, False), (2, False), (3, False), (0, True), (2, True)]
)
def test_no_block_is_alive_while_the_next_one_is_computed(number: int, elsewhere: bool) -> None:
    watched = Watched()
    sequence, folded = watched.sequences[number]
    with ThreadPoolExecutor(1) as executor:
        sequence.compute(folded, executor=executor if elsewhere else None)
    assert watched.most == 0


def test_a_serial_pass_holds_a_few_states() -> None:
    """However many blocks there are: some five values of 80 kB in a tree, and one block."""
    peaks: list[int] = []
    for number in (64, 1024):
        sequence = LazyChunkSequence.from_map(partial(np.full, (2, 10_000)), range(number))
        tracemalloc.start()
        sequence.compute(total())
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 50_000
    assert peaks[1] < 20 * 80_000


class OneSlow(Executor):
    """Runs each task as soon as it is given, but for the first part: only if all wait for that."""

    _max_workers = 2

    def __init__(self) -> None:
        self._held: Callable[[], None] | None = None
        self.ran = 0
        self.ran_before_the_first = 0

    def submit(self, fn: Callable[..., Any], /, *args: Any, **_: Any) -> Future[Any]:
        future: Future[Any] = Future()

        def run() -> None:
            self.ran += 1
            future.set_result(fn(*args))

        if self.ran or self._held is not None:
            run()
        else:
            self._held = run
        return future

    def wait(self, futures: Any) -> set[Future[Any]]:
        """Do as ``wait_for_any``."""
        ended = {future for future in futures if future.done()}
        if not ended and self._held is not None:
            self.ran_before_the_first = self.ran
            self._held()
            self._held = None
            ended = {future for future in futures if future.done()}
        return ended


def test_states_that_wait_for_a_slow_part_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight for each worker, and those in flight, however many parts there are."""
    for folded in (total(), tee(total(), concatenate())):
        executor = OneSlow()
        monkeypatch.setattr(runners, "wait_for_any", executor.wait)
        make = Make((1,) * 500, None, (2,), "<f8", 1, "C")
        with tasks_of(1):
            found = make.sequence.compute(folded, executor=executor)
        assert bits(found) == bits(make.sequence.compute(folded))
        assert executor.ran == 500
        assert 16 <= executor.ran_before_the_first <= 16 + 1 + 4


def test_blocks_that_travel_come_one_by_one() -> None:
    """And not in the runs of a reduction, of which each would be held as a whole."""
    make = Make((1,) * 500, None, (2,), "<f8", 1, "C")
    with Shuffling() as executor:
        make.sequence.compute(tee(total(), concatenate()), executor=executor)
    assert len(executor.sizes) == 500
    with Shuffling() as executor:
        make.sequence.compute(tee(total(), mean()), executor=executor)
    assert len(executor.sizes) <= 500 / 32 + 1


# Folds of users


@dataclass(frozen=True)
class Sizes(Fold[Array, Path]):
    """Writes the size of each block to a file, as in the guide."""

    path: Path

    def start(self, counts: Counts, /) -> SizesPass:  # noqa: ARG002
        return SizesPass(self.path)


class SizesPass(Pass):
    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> Self:
        self._file = self._path.open("w")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
        /,
    ) -> None:
        self._file.close()
        if error is not None:
            self._path.unlink()

    def step(self, block: Array, /) -> None:
        print(block.size, file=self._file)

    def finish(self) -> Path:
        return self._path


@dataclass(frozen=True)
class Places(NestedFold[Array, list[Any]]):
    """Lists the shapes of the blocks, and where rows end; it cannot be pickled."""

    unpicklable: Callable[[], None] = field(default=lambda: None)

    def start_rows(self, counts: Counts, /) -> PlacesPass:
        return PlacesPass(counts)


class PlacesPass(Pass):
    __slots__ = ("_found",)

    def __init__(self, counts: Counts) -> None:
        self._found: list[Any] = [counts]

    def step(self, block: Array, /) -> None:
        self._found.append(block.shape)

    def end_row(self) -> None:
        self._found.append("end")

    def finish(self) -> list[Any]:
        return self._found


@pytest.mark.parametrize("start", [Shuffling, processes, partial(ThreadPoolExecutor, 2)])
def test_any_fold_of_a_users_own_works_with_workers(
    start: Callable[[], Any], tmp_path: Path
) -> None:
    path = tmp_path / "sizes"
    FLAT.sequence.compute(Sizes(path))
    expected = path.read_text()
    with start() as executor:
        for folded in (tee(Sizes(path), total()), Sizes(path), Sizes(path).then(str)):
            path.unlink()
            FLAT.sequence.compute(folded, executor=executor)
            assert path.read_text() == expected
        places = NESTED.sequence.compute(Places())
        assert places.count("end") == len(NESTED.rows)
        both = tee(Places(), nest(total(1), concatenate()))
        with tasks_of(7):
            assert NESTED.sequence.compute(both, executor=executor)[0] == places
        assert NESTED.sequence.compute(Places(), executor=executor) == places
        again = nest(Sizes(path).then(Path.read_text), fold(append_shapes_of_rows, NO_SHAPES))
        assert NESTED.sequence.compute(again, executor=executor) == NESTED.sequence.compute(again)


def test_a_fold_that_is_given_up_releases_what_it_holds(tmp_path: Path) -> None:
    path = tmp_path / "sizes"
    with Shuffling() as executor:
        for failing in (
            fold(fail, 0, merge=operator.add),
            fold(height, 0, fail, merge=operator.add),
            fold(height, 0, merge=fail),
            fold(fail, 0),
        ):
            with tasks_of(1), pytest.raises(ZeroDivisionError):
                FLAT.sequence.compute(tee(Sizes(path), total(), failing), executor=executor)
            assert not path.exists()


def fail(*_: object) -> Any:
    raise ZeroDivisionError


# Nothing is under way once it has failed


class Counting:
    """Computes blocks in two threads, and knows how many are being computed.

    Those that are slow go on when they may; the seventh ends once a slow one has begun.
    """

    def __init__(self, slow: Container[int]) -> None:
        self.under_way = self.made = 0
        self.began = threading.Event()
        self.go_on = threading.Event()
        self._slow = slow
        self._lock = threading.Lock()

    def __call__(self, number: int) -> Array:
        with self._lock:
            self.under_way += 1
            self.made += 1
        try:
            if number in self._slow:
                self.began.set()
                assert self.go_on.wait(TIMEOUT)
            elif number == 7 and 9 in self._slow:
                assert self.began.wait(TIMEOUT)
            return np.full(2, float(number))
        finally:
            with self._lock:
                self.under_way -= 1


def merge_badly(one: float, other: float) -> float:
    if other == 7:
        raise ZeroDivisionError
    return one + other


def first_entry(found: float, block: Array) -> float:
    return max(found, float(block[0]))


def refuse_seven(block: Array) -> Array:
    if block[0] == 7:
        raise ZeroDivisionError
    return block


def refuse_in_a_list(blocks: Iterable[Array]) -> list[Array]:
    return [refuse_seven(block) for block in blocks]


@pytest.mark.parametrize(
    "aggregator",
    [
        pytest.param(fold(first_entry, 0.0, merge=merge_badly), id="merge"),
        pytest.param(total().contramap(refuse_seven), id="worker"),
        pytest.param(tee(total(), fold(first_entry, 0.0).contramap(refuse_seven)), id="travels"),
        pytest.param(fold(first_entry, 0.0).contramap(refuse_seven), id="step"),
        pytest.param(refuse_in_a_list, id="function"),
    ],
)
def test_when_it_has_failed_nothing_is_under_way(aggregator: Any) -> None:
    blocks = Counting(slow=range(9, 40))
    ended = threading.Event()

    def release() -> None:
        """Let the slow block go on, once the pass has failed or can wait for it only."""
        assert blocks.began.wait(TIMEOUT)
        ended.wait(0.05)
        blocks.go_on.set()

    releasing = threading.Thread(target=release)
    releasing.start()
    with ThreadPoolExecutor(2) as executor:
        with tasks_of(1), pytest.raises(ZeroDivisionError) as caught:
            LazyChunkSequence.from_map(blocks, range(40)).compute(
                aggregator, executor=executor, max_in_flight=8
            )
        assert blocks.under_way == 0
        assert caught.traceback, "it keeps alive what would otherwise be collected"
        ended.set()
        made = blocks.made
    assert blocks.made == made, "a block has been computed afterwards"
    assert made <= 11, "what has not begun is canceled: two threads have begun two slow blocks"
    releasing.join()


@pytest.mark.parametrize("aggregator", [total(), concatenate(), None, tee(total(), concatenate())])
def test_an_interrupt_waits_for_the_tasks_under_way(aggregator: Any) -> None:
    blocks = Counting(slow=range(9, 40))

    def interrupt() -> None:
        assert blocks.began.wait(TIMEOUT)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        threading.Timer(0.05, blocks.go_on.set).start()  # one that does not wait is over by then

    pressing = threading.Thread(target=interrupt)
    pressing.start()
    with ThreadPoolExecutor(2) as executor:
        with tasks_of(1), pytest.raises(KeyboardInterrupt):
            LazyChunkSequence.from_map(blocks, range(40)).compute(aggregator, executor=executor)
        assert blocks.under_way == 0
        made = blocks.made
    assert blocks.made == made, "a block has been computed afterwards"
    pressing.join()


class EndingItems:
    """Items of a generator, which may hold files or processes."""

    def __init__(self, ended: list[str], name: str) -> None:
        self.ended = ended
        self.name = name

    def __iter__(self) -> Iterator[int]:
        try:
            yield from range(40)
        finally:
            self.ended.append(self.name)


def fail_at_seven(blocks: Any) -> None:
    """Fail as an aggregator, and not as a block, while others are computed ahead."""
    for number, _ in enumerate(blocks):
        assert number < 7


def fail_in_row(rows: Any) -> None:
    for row in rows:
        fail_at_seven(row)


@pytest.mark.parametrize(
    "aggregator", [total(), tee(total(), concatenate()), None, fail_at_seven, list]
)
@pytest.mark.parametrize("ahead", [False, True])
def test_items_end_when_it_fails(aggregator: Any, ahead: bool) -> None:
    """The traceback must not keep them alive."""
    ended: list[str] = []
    with ThreadPoolExecutor(2) as executor:
        sequence = LazyChunkSequence.from_map(Counting(()), EndingItems(ended, "items"))
        if aggregator is not fail_at_seven:
            sequence = sequence.map(refuse_seven)
        how: dict[str, Any] = {"executor": executor}
        if ahead:
            sequence, how = sequence.parallel(executor, 3), {}
        with tasks_of(1), pytest.raises((ZeroDivisionError, AssertionError)):
            sequence.compute(aggregator, progress=True, **how)
    assert ended == ["items"]


@pytest.mark.parametrize("aggregator", [None, fail_in_row])
def test_columns_end_when_it_fails(aggregator: Any) -> None:
    ended: list[str] = []
    rows: Any = EndingItems(ended, "rows")
    columns: Any = EndingItems(ended, "columns")
    fn: Any = np.add if aggregator else refuse_seven
    sequence = NestedLazyChunkSequence.from_product(fn, rows, columns)
    with ThreadPoolExecutor(2) as executor, pytest.raises((TypeError, AssertionError)):
        sequence.compute(aggregator, executor=executor)
    assert sorted(ended) == ["columns", "rows"]


# What cannot work is said before any work


class Untouchable(Executor):
    """An executor, of processes for all that is known, that must not get a task."""

    def submit(self, fn: Any, /, *_: Any, **__: Any) -> Any:
        raise AssertionError(fn)


@pytest.mark.parametrize("aggregator", [total(), concatenate(), None, tee(total(), concatenate())])
def test_what_cannot_be_sent_is_named(aggregator: Any) -> None:
    lock = threading.Lock()
    items: list[Any] = [lock, 2]
    with pytest.raises(NotSpreadableError, match=r"^the function that computes blocks cannot be"):
        LazyChunkSequence.from_map(np.ones, [1]).map(lambda block: -block).compute(
            aggregator, executor=Untouchable()
        )
    with pytest.raises(NotSpreadableError, match=r"^an item.* cannot be sent to other processes"):
        LazyChunkSequence.from_map(np.ones, items).compute(aggregator, executor=Untouchable())


def test_a_fold_that_cannot_be_sent_is_named() -> None:
    def inner(*found: Any) -> Any:
        return found[0]

    wrong: list[Any] = [any_fold(height, 0, merge=inner), total().contramap(inner)]
    for folded in (*wrong, tee(total(), wrong[0])):
        with pytest.raises(NotSpreadableError, match=r"^the fold.* cannot be sent"):
            LazyChunkSequence.from_map(np.ones, [1, 2]).compute(folded, executor=Untouchable())
    with Shuffling() as executor:  # these are called where the pass is
        sequence = LazyChunkSequence.from_map(np.ones, [1, 2])
        assert sequence.compute(total().then(inner), executor=executor) == 3
        assert sequence.compute(any_fold(height, 0, inner, merge=max), executor=executor) == 2


def test_a_later_item_that_cannot_be_sent_is_named_by_its_block() -> None:
    items: list[Any] = [1, 2, threading.Lock(), 3]
    sequence = LazyChunkSequence.from_map(np.ones, items)
    with (
        Shuffling() as executor,
        tasks_of(1),
        pytest.raises(NotSpreadableError, match="of block 2"),
    ):
        sequence.compute(total(), executor=executor)


@pytest.mark.parametrize("aggregator", [total(), concatenate(), None, tee(total(), concatenate())])
def test_what_cannot_skip_is_refused(aggregator: Any) -> None:
    flat: LazyChunkSequence[Array] = LazyChunkSequence(pytest.fail)
    nested: NestedLazyChunkSequence[Array] = NestedLazyChunkSequence(pytest.fail)
    for sequence, way_out in ((flat, "from_map"), (nested, "from_product")):
        chosen: Any = aggregator
        with pytest.raises(NotSpreadableError, match=way_out):
            sequence.compute(chosen, executor=Untouchable())


@pytest.mark.parametrize("wrong", [0, -1, True, 1.5, "2"])
@pytest.mark.parametrize("aggregator", [total(), None])
def test_a_bound_is_a_positive_integer(aggregator: Any, wrong: Any) -> None:
    sequence = LazyChunkSequence.from_map(np.ones, [1])
    with pytest.raises((ValueError, TypeError), match="max_in_flight"):
        sequence.compute(aggregator, executor=Untouchable(), max_in_flight=wrong)


@pytest.mark.parametrize("wrong", [2, "threads", object()])
@pytest.mark.parametrize("aggregator", [total(), None])
def test_something_else_than_an_executor_is_refused(aggregator: Any, wrong: Any) -> None:
    with pytest.raises(TypeError, match="executor must be"):
        LazyChunkSequence.from_map(np.ones, [1]).compute(aggregator, executor=wrong)


@pytest.mark.parametrize("aggregator", [total(), concatenate(), None, tee(total(), concatenate())])
def test_a_pool_that_is_shut_down_says_so(aggregator: Any) -> None:
    with ThreadPoolExecutor(1) as executor:
        pass
    with pytest.raises(RuntimeError, match="after shutdown"):
        FLAT.sequence.compute(aggregator, executor=executor)


@pytest.mark.parametrize("aggregator", [total(), concatenate(), None, tee(total(), concatenate())])
def test_a_pool_that_breaks_says_so(aggregator: Any) -> None:
    with processes() as executor:
        with pytest.raises(BrokenProcessPool):
            LazyChunkSequence.from_map(die_at_seven, range(40)).compute(
                aggregator, executor=executor
            )
        with pytest.raises(BrokenProcessPool):
            FLAT.sequence.compute(aggregator, executor=executor)


def die_at_seven(number: int) -> Array:
    if number == 7:
        os._exit(1)
    return np.ones(2)


@pytest.mark.parametrize("start", [Shuffling, partial(ThreadPoolExecutor, 2)])
@pytest.mark.parametrize("aggregator", [total(), concatenate(), None])
def test_progress_ends_at_all_blocks(
    aggregator: Any, start: Callable[[], Any], capsys: pytest.CaptureFixture[str]
) -> None:
    with start() as executor:
        FLAT.sequence.compute(aggregator, executor=executor, progress=True)
        assert f"{len(FLAT.rows)}/{len(FLAT.rows)}" in capsys.readouterr().err


def test_a_wrong_length_hint_is_a_warning_from_workers_too() -> None:
    factory: Any = FLAT.sequence.generator_factory
    wrong = LazyChunkSequence[Array](factory, 9)
    with ThreadPoolExecutor(2) as executor:
        for aggregator in (total(), concatenate()):
            with pytest.warns(LengthHintWarning):
                wrong.compute(aggregator, executor=executor)
