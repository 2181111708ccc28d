"""Starts of one run: whoever computes, and however often it is started, the array is the same."""

import threading
from collections.abc import Callable, Generator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lazychunks import BlockShapeError, WriteAbortedError, status
from lazychunks.layout.shapes import Shape
from tests.executors import Shuffling, processes
from tests.faults.jobs import Job, names_in, same, seen_at
from tests.strategies import partitions

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
