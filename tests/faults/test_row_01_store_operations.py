"""Row 1: every operation that changes a store fails once, or is the last one.

Whatever fails, and however: a reader sees the old array, no array, or the complete new one, and
starting again gives the complete new one, with nothing else beside it.
"""

from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
from numpy.typing import NDArray
from zarr.core.buffer import Buffer
from zarr.storage import MemoryStore

from lazychunks import LazyChunksError
from tests.faults.jobs import FLAT, JOBS, NESTED, RAGGED, Job, old_array, same, seen_at
from tests.faults.seed_writer import seed_flat, seed_nested
from tests.faults.stores import EVERY_FAULT, FaultyStore, StoreFailedError

pytestmark = pytest.mark.slow

Array = NDArray[Any]
Content = dict[str, Buffer]


def nothing(_: Job) -> Content:
    """Nothing is there."""
    return {}


def an_array(_: Job) -> Content:
    """Another array is there."""
    content: Content = {}
    old_array(MemoryStore(content))
    return content


def an_unfinished_write(job: Job) -> Content:
    """An earlier start of the run has died after half of the blocks."""
    return _died_midway(job, {})


def an_unfinished_overwrite(job: Job) -> Content:
    """An earlier start of the run has died after half of the blocks that replace an array."""
    return _died_midway(job, an_array(job))


def a_finished_run(job: Job) -> Content:
    """The run has ended before."""
    content: Content = {}
    job.store(MemoryStore(content), run_id="run")
    return content


CASES = [
    (FLAT, nothing),
    (FLAT, an_array),
    (FLAT, an_unfinished_write),
    (FLAT, a_finished_run),
    (RAGGED, an_unfinished_overwrite),
    (NESTED, an_array),
    (NESTED, an_unfinished_write),
]


def _died_midway(job: Job, content: Content) -> Content:
    computed: list[tuple[int, ...]] = []

    def die_midway(*start: int) -> None:
        computed.append(start)
        if len(computed) > job.count // 2 + 1:
            raise StoreFailedError

    with pytest.raises(LazyChunksError):
        job.store(MemoryStore(content), die_midway, overwrite=True, run_id="run", max_in_flight=1)
    assert any("c/" in key for key in content), "some chunks are there"
    return content


def runs_that_fail(
    write: Callable[[FaultyStore], None], before: Content
) -> Iterator[tuple[str, Content, bool]]:
    """Fail at each operation in each way: how, what is there afterwards, whether it raised."""
    probe = FaultyStore(MemoryStore(dict(before)))
    write(probe)
    for number in range(1, len(probe.operations) + 1):
        for fault in EVERY_FAULT:
            content = dict(before)
            store = FaultyStore(MemoryStore(content), number, fault)
            raised = True
            with suppress(StoreFailedError, LazyChunksError):
                write(store)
                raised = False
            assert store.has_failed, "each operation is reached"
            yield f"{store.operations[number - 1]} failed {fault}", content, raised


def is_whole(seen: Array | None, *allowed: Array) -> bool:
    """Whether it is one of these arrays, bit for bit."""
    return any(same(seen, array) for array in allowed)


@pytest.mark.parametrize(
    ("job", "before"), CASES, ids=lambda value: value.name if isinstance(value, Job) else None
)
def test_a_reader_never_sees_a_part_and_a_restart_completes_it(
    job: Job, before: Callable[[Job], Content]
) -> None:
    start = before(job)
    old = seen_at(dict(start))
    allowed = [job.whole] if old is None else [job.whole, old]

    def write(store: FaultyStore) -> None:
        job.store(store, overwrite=True, resume=True, run_id="run", max_in_flight=1)

    clean: Content = {}
    job.store(MemoryStore(clean), run_id="run")
    for what, content, raised in runs_that_fail(write, start):
        seen = seen_at(content)
        assert seen is None or is_whole(seen, *allowed), what
        assert raised or is_whole(seen, job.whole), f"{what}, and the call has hidden it"
        write(FaultyStore(MemoryStore(content)))
        assert is_whole(seen_at(content), job.whole), what
        assert set(content) == set(clean), f"{what}: something is left"


@pytest.mark.parametrize("job", JOBS, ids=lambda job: job.name)
def test_overwriting_clears_whatever_a_failure_left(job: Job) -> None:
    def write(store: FaultyStore) -> None:
        job.store(store, overwrite=True, max_in_flight=1)

    clean: Content = {}
    job.store(MemoryStore(clean))
    for before in (nothing, an_array, an_unfinished_write):
        for what, content, _ in runs_that_fail(write, before(job)):
            write(FaultyStore(MemoryStore(content)))
            assert is_whole(seen_at(content), job.whole), what
            assert set(content) == set(clean), f"{what}: something is left"


@pytest.mark.parametrize("job", JOBS, ids=lambda job: job.name)
def test_what_is_left_is_never_taken_for_nothing(job: Job) -> None:
    """A new run that may neither resume nor overwrite stores all of it, or says what is there."""

    def write(store: FaultyStore) -> None:
        job.store(store, resume=True, run_id="run", max_in_flight=1)

    for what, content, _ in runs_that_fail(write, {}):
        before = dict(content)
        if before:
            with pytest.raises(LazyChunksError, match="overwrite=True"):
                job.store(MemoryStore(content))
            # What is published for good needs no second name.
            assert set(before) - set(content) <= {"zarr.json.partial"}, what
            assert content.items() <= before.items(), what
        else:
            job.store(MemoryStore(content))
            assert is_whole(seen_at(content), job.whole), what


@pytest.mark.parametrize("job", [FLAT, NESTED], ids=lambda job: job.name)
def test_these_tests_find_a_writer_that_shows_parts(job: Job) -> None:
    """The negative control: a writer that creates the array first and fills it in place."""
    seed = seed_flat if job.widths is None else seed_nested

    def write(store: FaultyStore) -> None:
        seed(job.sequence(), store, overwrite=True)

    found = [
        what
        for what, content, _ in runs_that_fail(write, an_array(job))
        if not ((seen := seen_at(content)) is None or is_whole(seen, job.whole))
    ]
    assert found
