"""Starts of one run: whoever computes, and however often it is started, the array is the same."""

import os
import threading
from collections.abc import Callable, Generator
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lazychunks import (
    BlockShapeError,
    IdentityConverter,
    LazyChunkSequence,
    WriteAbortedError,
    status,
)
from lazychunks.layout.shapes import Shape
from lazychunks.storage.resuming import spill
from lazychunks.storage.writing import part_writer
from tests.executors import Shuffling, processes
from tests.faults.jobs import Job, names_in, same, seen_at
from tests.faults.processes import (
    CONTEXT,
    StoppedClock,
    die,
    died_by_sigkill,
    running,
    spill_after_each_block,
)
from tests.strategies import Array, partitions

SLOW = pytest.mark.slow

NAMED: dict[str, Any] = {"run_id": "run", "resume": True}


@contextmanager
def threads() -> Generator[Executor]:
    with ThreadPoolExecutor(2) as executor:
        yield executor


# Blocks of another height under an executor, and then without it.

UNEVEN = {
    "flat": Job("flat", (2, 5, 2, 2, 2)),
    "the second and the fourth": Job("flat", (2, 3, 2, 1, 2, 2)),
    "smaller": Job("flat", (4, 2, 4, 4)),
    "rows": Job("nested", (2, 5, 2, 2), (3, 3, 1)),
    "columns": Job("nested", (2, 2, 2), (3, 5, 3, 3)),
    "rows and columns": Job("nested", (2, 2, 1, 2), (3, 3, 5, 3)),
}


@pytest.mark.parametrize("name", UNEVEN)
@pytest.mark.parametrize("scale", [1, 2, 5])
@pytest.mark.parametrize(
    ("kind", "workers"),
    [("memory", threads), ("path", threads), ("path", Shuffling), ("path", processes)],
)
def test_uneven_blocks_go_on_without_the_executor_that_refused_them(
    name: str, scale: int, kind: str, workers: Callable[[], Any], tmp_path: Path
) -> None:
    """Regression: what workers had stored at places that they assumed counted as done."""
    job = UNEVEN[name]
    destination: Any = {} if kind == "memory" else tmp_path / "array.zarr"
    chunks = (scale * job.heights[0], scale * job.widths[0] if job.widths else job.tail)
    with workers() as executor, pytest.raises(BlockShapeError, match="leave out executor="):
        job.store(destination, executor=executor, chunks=chunks, **NAMED)
    assert seen_at(destination) is None
    job.store(destination, chunks=chunks, **NAMED)
    assert same(seen_at(destination), job.whole)
    if kind == "path":
        assert names_in(tmp_path) == ["array.zarr"]
        assert names_in(tmp_path / "array.zarr") == ["c", "zarr.json"]


# What is done, what status says, and what the next start skips are one number.


class Watch:
    """Counts the blocks that are computed, and fails instead of computing one more than so many."""

    def __init__(self, most: int | None = None) -> None:
        self.computed: list[Shape] = []
        self._most = most
        self._lock = threading.Lock()

    def __call__(self, *start: int) -> None:
        with self._lock:
            if self._most is not None and len(self.computed) == self._most:
                raise ZeroDivisionError
            self.computed.append(start)


@st.composite
def layouts(draw: st.DrawFn) -> dict[str, Any]:
    """Draw chunks and shards, of whatever relation to the blocks."""
    pairs = st.tuples(st.integers(1, 9), st.integers(1, 6))
    chunks: Any = draw(st.sampled_from(["auto", "blocks"]) | st.sampled_from([1, 3, 50]) | pairs)
    if not isinstance(chunks, tuple) or draw(st.booleans()):
        return {"chunks": chunks}
    times = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    return {"chunks": chunks, "shards": (times[0] * chunks[0], times[1] * chunks[1])}


@st.composite
def even(draw: st.DrawFn, max_parts: int, max_size: int) -> Shape:
    """Draw sizes that are all the same but for a smaller last one."""
    size = draw(st.integers(1, max_size))
    return (*(size,) * draw(st.integers(0, max_parts - 1)), draw(st.integers(1, size)))


def jobs(
    sizes: Callable[[int, int], st.SearchStrategy[Shape]] = partitions,
) -> st.SearchStrategy[Job]:
    return st.builds(
        Job,
        st.just("drawn"),
        sizes(8, 5),
        st.none() | sizes(5, 4),
        tail=st.integers(1, 4),
    )


def is_empty(job: Job, number: int) -> bool:
    """Whether a block has no elements: such a block is never stored."""
    rows, columns = divmod(number, len(job.widths or (0,)))
    return 0 in (job.heights[rows], job.widths[columns] if job.widths else job.tail)


def next_start(job: Job, destination: Any, layout: dict[str, Any]) -> int:
    """Store what is left; return how many blocks were not computed."""
    watch = Watch()
    job.store(destination, watch, **NAMED, **layout)
    assert same(seen_at(destination), job.whole)
    return job.count - len(watch.computed)


@given(jobs() | jobs(even), layouts(), st.integers(1, 40), st.integers(1, 3), st.data())
def test_a_failed_run_says_how_many_blocks_the_next_start_skips(
    tmp_path_factory: pytest.TempPathFactory,
    job: Job,
    layout: dict[str, Any],
    done: int,
    max_in_flight: int,
    data: st.DataObject,
) -> None:
    is_path = data.draw(st.booleans())
    destination: Any = tmp_path_factory.mktemp("place") / "array.zarr" if is_path else {}
    done = min(done, job.count - 1)
    if done == 0:
        return
    with pytest.raises(WriteAbortedError) as caught:
        job.store(destination, Watch(done), max_in_flight=max_in_flight, **NAMED, **layout)
    said = caught.value.done
    assert said is not None
    assert caught.value.total == job.count
    assert f"after {said} of {job.count} blocks" in str(caught.value)
    found = status(destination)
    assert (found.done_blocks, found.blocks, found.run_id) == (said, job.count, "run")
    stored = sum(not is_empty(job, number) for number in range(done))
    assert said <= stored
    if is_path:
        assert said == stored, "nothing is lost but the block that failed"
    skipped = next_start(job, destination, layout)
    assert skipped == (said - 1 if said else 0), "one is computed again, to be compared"


# A named run loses no more than the blocks being computed, whatever its chunks.

THOUSAND = 1000
DIES_AT = 900


@dataclass(frozen=True)
class Small:
    """Computes a small block, notes that it has, and dies or fails at one of them."""

    noted: Path
    fatal: Callable[[], object] | None = None

    def __call__(self, number: int) -> Array:
        if self.fatal is not None and number == DIES_AT:
            self.fatal()
        handle = os.open(self.noted, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(handle, b".")
        os.close(handle)
        return np.full(64, number, np.float32)

    def count(self) -> int:
        """How many blocks have been computed since this was asked the last time."""
        count = self.noted.stat().st_size if self.noted.exists() else 0
        self.noted.unlink(missing_ok=True)
        return count


def fail() -> None:
    raise ZeroDivisionError


def store_small(block: Small, path: Path, executor: Any = None, **options: Any) -> None:
    sequence = LazyChunkSequence.from_map(block, range(THOUSAND))
    sequence.to_zarr(path, IdentityConverter(), executor=executor, **NAMED, **options)


def store_small_spilling(block: Small, path: Path, workers: str, options: dict[str, Any]) -> None:
    """Store in a process of its own, which may die; as if each block took a second."""
    spill_after_each_block()
    if workers == "none":
        store_small(block, path, **options)
    elif workers == "threads":
        with ThreadPoolExecutor(2) as executor:
            store_small(block, path, executor, **options)


@contextmanager
def spilling_processes() -> Generator[Executor]:
    """Two processes that spill as if each block took a second."""
    with ProcessPoolExecutor(2, mp_context=CONTEXT, initializer=spill_after_each_block) as executor:
        yield executor


def whole_of_small() -> Array:
    return np.repeat(np.arange(THOUSAND, dtype=np.float32), 64)


def check_small(path: Path, noted: Path, done: int | None, layout: dict[str, Any]) -> None:
    """What is done is what status says, and what the next start does not compute."""
    found = status(path)
    assert found.done_blocks is not None
    assert found.blocks == THOUSAND
    assert done in (None, found.done_blocks)
    block = Small(noted)
    block.count()
    store_small(block, path, **layout)
    assert block.count() == THOUSAND - found.done_blocks + 1, "one is compared"
    assert same(seen_at(str(path)), whole_of_small())
    assert names_in(path) == ["c", "zarr.json"]


LAYOUTS: dict[str, dict[str, Any]] = {
    "default chunks": {},
    "many chunks": {"chunks": 640},
    "shards": {"chunks": 64, "shards": 6400},
}

each_layout = pytest.mark.parametrize(
    "layout", ["default chunks", *(pytest.param(n, marks=SLOW) for n in ("many chunks", "shards"))]
)


@each_layout
@pytest.mark.parametrize("workers", ["none", "threads", pytest.param("processes", marks=SLOW)])
def test_a_run_that_fails_loses_only_the_blocks_being_computed(
    layout: str, workers: str, tmp_path: Path
) -> None:
    """Regression: it said that 900 blocks were done, and the next start computed them all."""
    path, noted = tmp_path / "array.zarr", tmp_path / "noted"
    block, options = Small(noted, fail), LAYOUTS[layout]
    makers: dict[str, Callable[[], Any]] = {
        "none": nullcontext,
        "threads": threads,
        "processes": spilling_processes,
    }
    made = makers[workers]
    with made() as executor, pytest.raises(WriteAbortedError) as caught:
        store_small(block, path, executor, **options)
    done, computed = caught.value.done, block.count() - (workers != "none")  # the first one twice
    assert done is not None
    assert computed - done in (range(1) if workers == "none" else range(3))
    if workers == "none":
        assert done == DIES_AT
    assert f"after {done} of 1000 blocks" in str(caught.value)
    check_small(path, noted, done, LAYOUTS[layout])


@pytest.mark.slow
@each_layout
@pytest.mark.parametrize("workers", ["none", "threads"])
def test_a_run_that_is_killed_loses_only_the_blocks_being_computed(
    layout: str, workers: str, tmp_path: Path
) -> None:
    """And those of about a second before."""
    path, noted = tmp_path / "array.zarr", tmp_path / "noted"
    block = Small(noted, die)
    with running(store_small_spilling, block, path, workers, LAYOUTS[layout]) as process:
        assert died_by_sigkill(process)
    computed = block.count() - (workers != "none")
    done = status(path).done_blocks
    assert done is not None
    # Chunks that are complete, and wait to be written, have been spilled but for the last block.
    assert computed - done in (range(5) if workers == "none" else range(4))
    check_small(path, noted, None, LAYOUTS[layout])


@pytest.mark.slow
@each_layout
def test_a_worker_that_dies_loses_only_the_blocks_being_computed(
    layout: str, tmp_path: Path
) -> None:
    path, noted = tmp_path / "array.zarr", tmp_path / "noted"
    block = Small(noted, die)
    with spilling_processes() as executor, pytest.raises(WriteAbortedError) as caught:
        store_small(block, path, executor, **LAYOUTS[layout])
    # A worker that is still at work may compute some more, which are stored or spilled as well.
    done = caught.value.done
    assert done is not None
    check_small(path, noted, None, LAYOUTS[layout])


def test_a_run_that_is_shorter_than_a_second_spills_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cheap blocks do not pay for what they do not need."""
    monkeypatch.setattr(part_writer, "time", StoppedClock)
    monkeypatch.setattr(spill, "spill", fail)
    store_small(Small(tmp_path / "noted"), tmp_path / "array.zarr")
    with threads() as executor:
        store_small(Small(tmp_path / "noted"), tmp_path / "other.zarr", executor)
    assert same(seen_at(str(tmp_path / "other.zarr")), whole_of_small())


# Whoever computes, and however often it is started: the same array.


@st.composite
def spreadable(draw: st.DrawFn) -> tuple[Job, dict[str, Any]]:
    """Draw a job that workers can store, even or with listed sizes, and its options."""
    job = draw(jobs(even))
    times = st.sampled_from([1, 2, 3, 100])
    columns = draw(times) * job.widths[0] if job.widths else job.tail
    layout: dict[str, Any] = {"chunks": (draw(times) * job.heights[0], columns)}
    if draw(st.booleans()):
        unit = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
        sizes = [tuple(extent * size for size in draw(partitions(6, 3))) for extent in unit]
        job = Job("listed", sizes[0], sizes[1] if job.widths else None, tail=job.tail)
        layout = {"chunks": unit if job.widths else (unit[0], job.tail)}
        layout["sizes"] = (job.heights, job.widths) if job.widths else job.heights
    return job, layout


class Failing:
    """Counts computed blocks, and fails whenever one of some blocks comes."""

    def __init__(self, place: Shape | None) -> None:
        self.place = place
        self.computed: list[Shape] = []
        self.lock = threading.Lock()

    def __call__(self, *start: int) -> None:
        if start == self.place:
            raise ZeroDivisionError
        with self.lock:
            self.computed.append(start)


def starts_of(job: Job) -> list[Shape]:
    """Where the blocks of a job start; empty blocks start where another one does."""
    rows = np.cumsum((0, *job.heights[:-1])).tolist()
    if not job.widths:
        return [(row,) for row in rows]
    return [(row, column) for row in rows for column in np.cumsum((0, *job.widths[:-1])).tolist()]


@given(spreadable(), st.sampled_from([1, 2, 3]), st.booleans(), st.data())
def test_a_run_with_workers_says_how_many_blocks_the_next_start_skips(
    tmp_path_factory: pytest.TempPathFactory,
    drawn: tuple[Job, dict[str, Any]],
    in_flight: int,
    is_path: bool,
    data: st.DataObject,
) -> None:
    job, options = drawn
    destination: Any = tmp_path_factory.mktemp("place") / "array.zarr" if is_path else {}
    watch = Failing(data.draw(st.sampled_from(starts_of(job))))
    done: int | None = None
    with ThreadPoolExecutor(2) as executor:
        try:
            job.store(
                destination, watch, executor=executor, max_in_flight=in_flight, **NAMED, **options
            )
        except ZeroDivisionError:
            return  # in the first block: nothing has begun
        except WriteAbortedError as error:
            done = error.done
        assert done is not None
        assert status(destination).done_blocks == done
        again = Failing(None)
        spread = data.draw(st.booleans())
        job.store(destination, again, executor=executor if spread else None, **NAMED, **options)
    assert same(seen_at(destination), job.whole)
    skipped = job.count - len(again.computed) + bool(done)
    if job.widths and "sizes" not in options:
        # Workers may have stored blocks at the end of an axis of which it was not known yet that
        # it is the end; the next start learns that from its own first row.
        assert skipped >= done
    else:
        assert skipped == done


any_start = st.tuples(st.integers(0, 47), st.sampled_from(["serial", "threads", "shuffled"]))


@given(spreadable(), st.lists(any_start, max_size=4), any_start, st.booleans(), st.data())
def test_any_mixture_of_starts_stores_the_same(
    tmp_path_factory: pytest.TempPathFactory,
    drawn: tuple[Job, dict[str, Any]],
    failures: list[tuple[int, str]],
    last: tuple[int, str],
    is_path: bool,
    data: st.DataObject,
) -> None:
    """They fail anywhere, with and without workers, until one does not."""
    job, options = drawn
    places = starts_of(job)
    destination: Any = tmp_path_factory.mktemp("place") / "array.zarr" if is_path else {}
    for left, (number, kind) in zip(range(len(failures), -1, -1), [*failures, last], strict=True):
        is_last = left == 0
        watch = Failing(None if is_last else places[number % len(places)])
        store: Any = partial(
            job.store, destination, max_in_flight=data.draw(st.integers(1, 3)), **NAMED, **options
        )
        try:
            if kind == "serial":
                store(watch)
            elif kind == "threads" or not is_path:
                with ThreadPoolExecutor(2) as executor:
                    store(watch, executor=executor)
            else:
                with Shuffling(number) as executor:
                    store(partial(fail_where, watch.place), executor=executor)
        except (WriteAbortedError, ZeroDivisionError):
            assert not is_last
            assert seen_at(destination) is None
        else:
            break  # a block that fails may be stored already
    assert same(seen_at(destination), job.whole)
    if is_path:
        assert names_in(destination) == ["c", "zarr.json"] or not job.whole.size
        assert names_in(destination.parent) == ["array.zarr"]


def fail_where(place: Shape | None, *start: int) -> None:
    if start == place:
        raise ZeroDivisionError


@given(jobs(), layouts(), st.lists(st.tuples(st.integers(0, 47), st.integers(1, 3)), max_size=4))
def test_uneven_blocks_store_the_same_however_often_they_are_started(
    tmp_path_factory: pytest.TempPathFactory,
    job: Job,
    layout: dict[str, Any],
    failures: list[tuple[int, int]],
) -> None:
    destination: Any = tmp_path_factory.mktemp("place") / "array.zarr"
    places = starts_of(job)
    for number, in_flight in [*failures, (-1, 2)]:
        watch = Failing(None if number < 0 else places[number % len(places)])
        try:
            job.store(destination, watch, max_in_flight=in_flight, **NAMED, **layout)
        except (WriteAbortedError, ZeroDivisionError):
            assert seen_at(destination) is None
    assert same(seen_at(destination), job.whole)
    assert names_in(destination.parent) == ["array.zarr"]
