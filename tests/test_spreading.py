"""Workers that compute and store: an executor changes nothing but who does the work."""

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from zarr.storage import FsspecStore, MemoryStore, WrapperStore, ZipStore

from lazychunks import (
    BlockDTypeError,
    BlockShapeError,
    DestinationBusyError,
    DestinationError,
    DestinationExistsError,
    EmptyRowError,
    EmptySequenceError,
    IdentityConverter,
    LazyChunkSequence,
    LengthHintWarning,
    NestedLazyChunkSequence,
    NotSpreadableError,
    ResumeMismatchError,
    WriteAbortedError,
    tee,
    total,
    zarr_sink,
)
from lazychunks.storage.chunks.metadata import KEPT_BACK
from tests.executors import Shuffling, processes
from tests.faults.jobs import (
    FLAT,
    NESTED,
    RAGGED,
    Job,
    keep_quiet,
    names_in,
    old_array,
    same,
    seen_at,
)

Array = NDArray[Any]

EVEN = (FLAT, NESTED)

CONVERTER = IdentityConverter()

TIMEOUT = 60
"""Seconds after which an event that does not come is a failure."""


def files_of(path: Path) -> dict[str, bytes]:
    return {str(f.relative_to(path)): f.read_bytes() for f in path.rglob("*") if f.is_file()}


# Equal to the serial writer


def test_another_store_than_a_directory(tmp_path: Path) -> None:
    pytest.importorskip("fsspec")
    with processes() as executor:
        for job in EVEN:
            store = FsspecStore.from_url(
                f"file://{tmp_path}/{job.name}", storage_options={"auto_mkdir": True}
            )
            job.store(store, executor=executor)
            assert same(seen_at(str(tmp_path / job.name)), job.whole)
            assert not [*(tmp_path / job.name).rglob("*partial*")]
            assert not (tmp_path / job.name / "lazychunks.sizes").exists()


def test_what_workers_are_to_read_is_not_replaced(tmp_path: Path) -> None:
    """Regression: where nothing can be renamed, they read zeros."""
    pytest.importorskip("fsspec")
    store = FsspecStore.from_url(f"file://{tmp_path}/a", storage_options={"auto_mkdir": True})
    FLAT.store(store)
    blocks = LazyChunkSequence.from_zarr(store, CONVERTER, rows=4).map(np.negative)
    with processes(1) as executor:
        with pytest.raises(DestinationExistsError, match="is being read"):
            blocks.to_zarr(store, CONVERTER, overwrite=True, executor=executor, chunks="blocks")
        with pytest.raises(DestinationExistsError, match="is being read"):
            blocks.parallel(executor).to_zarr(store, CONVERTER, overwrite=True)
    assert same(seen_at(str(tmp_path / "a")), FLAT.whole)


def test_a_sequence_without_a_length() -> None:
    store: dict[str, Any] = {}
    items = Unsized(7)
    with ThreadPoolExecutor(2) as executor:
        sequence = LazyChunkSequence.from_map(partial(np.full, (2, 3)), items)
        assert sequence.len_generator is None
        sequence.to_zarr(store, CONVERTER, chunks=(4, 3), executor=executor)
    assert same(seen_at(store), np.repeat(np.arange(7), 2)[:, None].repeat(3, 1))


@dataclass
class Unsized:
    """Items that can be iterated again and again, and do not know how many they are."""

    stop: int

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.stop))


def test_a_wrong_length_hint_is_a_warning() -> None:
    store: dict[str, Any] = {}
    sequence = LazyChunkSequence.from_map(partial(np.full, 2), range(5))
    wrong = LazyChunkSequence(sequence.generator_factory, 9)
    with ThreadPoolExecutor(2) as executor, pytest.warns(LengthHintWarning):
        wrong.to_zarr(store, CONVERTER, chunks="blocks", executor=executor)
    assert same(seen_at(store), np.repeat(np.arange(5), 2))


def test_blocks_are_cast_where_that_is_asked_for(tmp_path: Path) -> None:
    sequence = LazyChunkSequence.from_map(partial(np.full, 2), [1.5, 2, 3])
    with Shuffling() as executor:
        stored = sequence.to_zarr(
            tmp_path / "array", CONVERTER, return_stored=True, dtype="f4", executor=executor
        )
    assert same(np.asarray(stored[:]), np.array([1.5, 1.5, 2, 2, 3, 3], "f4"))


def test_a_function_keeps_the_keywords_that_it_was_bound_to(tmp_path: Path) -> None:
    sequence = LazyChunkSequence.from_map(partial(np.full, 2, dtype="f4"), [1.5, 2, 3])
    with Shuffling() as executor:
        stored = sequence.to_zarr(
            tmp_path / "array", CONVERTER, return_stored=True, executor=executor
        )
    assert same(np.asarray(stored[:]), np.array([1.5, 1.5, 2, 2, 3, 3], "f4"))


def test_a_memory_store_does_not_keep_the_block_itself() -> None:
    """A producer may reuse its output for the next block, also where nothing is compressed."""
    output = np.zeros(4)
    store: dict[str, Any] = {}

    def reusing(number: int) -> Array:
        output[:] = number
        return output

    with ThreadPoolExecutor(1) as executor:
        LazyChunkSequence.from_map(reusing, range(5)).to_zarr(
            store, CONVERTER, chunks="blocks", compressors=None, executor=executor
        )
    assert same(seen_at(store), np.repeat(np.arange(5.0), 4))


# What workers get, and hand back


def test_so_many_tasks_are_given_and_no_more(tmp_path: Path) -> None:
    job = Job("long", (2,) * 40)
    for bound in (1, 3):
        with Shuffling() as executor:
            job.store(tmp_path / f"{bound}", executor=executor, max_in_flight=bound)
            assert executor.most == bound


def test_small_blocks_share_a_task(tmp_path: Path) -> None:
    job = Job("small", (2,) * 40)
    with Shuffling() as executor:
        job.store(tmp_path / "array", chunks=(20, 6), executor=executor)
        assert len(executor.sizes) == 1 + 4, "the first block is asked for its shape"


def test_receipts_come_back_and_not_blocks(tmp_path: Path) -> None:
    job = Job("large", (100,) * 4, tail=1000)
    with Shuffling() as executor:
        job.store(tmp_path / "array", executor=executor)
        assert len(executor.sizes) == 5
        assert max(executor.sizes) < 1000


@dataclass(frozen=True)
class Counted:
    """A block function that knows how often it was unpickled."""

    path: Path

    def __call__(self, number: int) -> Array:
        return np.full(3, number)

    def __reduce__(self) -> tuple[Any, ...]:
        return (_unpickled, (self.path,))


def _unpickled(path: Path) -> Counted:
    with path.open("a") as file:
        file.write(".")
    return Counted(path)


def test_the_function_is_unpickled_once_in_a_process(tmp_path: Path) -> None:
    sequence = LazyChunkSequence.from_map(Counted(tmp_path / "count"), range(20))
    with processes(1) as executor:
        sequence.to_zarr(tmp_path / "array", CONVERTER, chunks="blocks", executor=executor)
    assert (tmp_path / "count").read_text() == "."


def test_only_the_first_block_is_computed_twice(tmp_path: Path) -> None:
    """It is computed for its shape; no other block is, whatever the sizes of the last ones."""
    for job in (FLAT, NESTED, Job("full", (4,) * 5)):
        computed: list[tuple[int, ...]] = []

        def watch(*start: int, computed: list[tuple[int, ...]] = computed) -> None:
            computed.append(start)

        with ThreadPoolExecutor(2) as executor:
            job.store({}, watch, executor=executor)
        assert len(computed) == job.count + 1


# What cannot work is said before any work


def refused(destination: Any, executor: Any, fn: Callable[[int], Array], match: str) -> None:
    sequence = LazyChunkSequence.from_map(fn, range(3))
    with pytest.raises(NotSpreadableError, match=match):
        sequence.to_zarr(destination, CONVERTER, executor=executor)


def never(number: int) -> Array:
    raise AssertionError(number)


class Untouchable(Executor):
    """An executor, of processes for all that is known, that must not get a task."""

    def submit(self, fn: Any, /, *_: Any, **__: Any) -> Any:
        raise AssertionError(fn)


class Wrapped(WrapperStore[MemoryStore]):
    """A store around another one."""


def _in_memory_by_fsspec() -> FsspecStore:
    pytest.importorskip("fsspec")
    return FsspecStore.from_url("memory://spreading")


@pytest.mark.parametrize(
    "make",
    [
        dict,
        MemoryStore,
        lambda: Wrapped(MemoryStore()),
        _in_memory_by_fsspec,
    ],
)
def test_memory_that_processes_do_not_share_is_refused(make: Callable[[], Any]) -> None:
    refused(make(), Untouchable(), never, "do not see")


def test_a_zip_file_is_refused(tmp_path: Path) -> None:
    with ZipStore(tmp_path / "array.zip", mode="w") as store:
        refused(store, Untouchable(), never, "do not see")


def test_threads_share_a_memory_store() -> None:
    store = MemoryStore()
    with ThreadPoolExecutor(2) as executor:
        NESTED.store(store, executor=executor)
    assert same(seen_at(store), NESTED.whole)


def test_what_cannot_be_pickled_is_refused(tmp_path: Path) -> None:
    old = old_array(tmp_path / "array")
    sequence = LazyChunkSequence.from_map(lambda number: never(-number), range(3))
    items: list[Any] = [threading.Lock()]
    lock = LazyChunkSequence.from_map(never, items)
    for wrong, what in ((sequence, "function"), (lock, "item")):
        with pytest.raises(NotSpreadableError, match=f"{what}.*ThreadPoolExecutor"):
            wrong.to_zarr(tmp_path / "array", CONVERTER, overwrite=True, executor=Untouchable())
    assert same(seen_at(str(tmp_path / "array")), old)
    assert names_in(tmp_path) == ["array"]


def test_a_sequence_that_cannot_skip_is_refused(tmp_path: Path) -> None:
    flat: LazyChunkSequence[Array] = LazyChunkSequence(pytest.fail)
    nested: NestedLazyChunkSequence[Array] = NestedLazyChunkSequence(pytest.fail)
    for sequence, remedy in ((flat, "from_map"), (nested, "from_product")):
        with pytest.raises(NotSpreadableError, match=remedy):
            sequence.to_zarr(tmp_path / "array", CONVERTER, executor=Untouchable())
    assert names_in(tmp_path) == []


def test_a_sink_alone_can_be_computed_by_workers(tmp_path: Path) -> None:
    with Shuffling() as executor:
        sequence = LazyChunkSequence.from_map(partial(np.full, 2), range(3))
        stored = sequence.compute(zarr_sink(tmp_path / "array", CONVERTER), executor=executor)
    assert stored.shape == (6,)


def test_the_executor_belongs_to_the_pass(tmp_path: Path) -> None:
    wrong: Any = {"executor": Untouchable()}
    with pytest.raises(TypeError, match="executor"):
        zarr_sink(tmp_path / "array", CONVERTER, **wrong)


@pytest.mark.parametrize("wrong", [2, "threads", object()])
def test_something_else_than_an_executor_is_refused(wrong: Any) -> None:
    with pytest.raises(TypeError, match="executor must be"):
        LazyChunkSequence.from_map(never, range(3)).to_zarr({}, CONVERTER, executor=wrong)


def test_an_asynchronous_client_is_refused(tmp_path: Path) -> None:
    """Such as one made in a coroutine."""

    class Client:
        asynchronous = True

        def get_executor(self, **_: Any) -> Executor:
            raise NotImplementedError

        def scatter(self, data: Any, *, broadcast: bool) -> Any:
            raise NotImplementedError

    with pytest.raises(NotSpreadableError, match="without asynchronous=True"):
        FLAT.store(tmp_path / "array", executor=Client())
    assert names_in(tmp_path) == []


@pytest.mark.parametrize("package", ["torch", "obstore", "icechunk"])
def test_what_has_threads_of_its_own_is_not_forked(
    package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its calls would wait for ever in a forked worker, without a word."""
    for other in ("torch", "obstore", "icechunk"):
        monkeypatch.delitem(sys.modules, other, raising=False)
    monkeypatch.setitem(sys.modules, package, sys)
    with ProcessPoolExecutor(1, mp_context=get_context("fork")) as executor:
        refused(tmp_path / "array", executor, never, f"{package} does not survive a fork")


def test_the_destination_is_judged_first(tmp_path: Path) -> None:
    old = old_array(tmp_path / "array")
    with pytest.raises(FileExistsError):
        FLAT.store(tmp_path / "array", executor=Untouchable())
    assert same(seen_at(str(tmp_path / "array")), old)


# Blocks that do not fit


def test_a_smaller_block_in_the_middle_is_refused_before_it_is_written(tmp_path: Path) -> None:
    with Shuffling() as executor, pytest.raises(BlockShapeError, match="only the last") as caught:
        RAGGED.store(tmp_path / "array", executor=executor)
    assert caught.value.block in (2, 3), "whichever comes first"
    assert caught.value.expected == (4, 6)
    assert names_in(tmp_path) == []


@pytest.mark.parametrize(
    ("heights", "widths", "block"),
    [((4, 5), None, 1), ((0, 4), None, 0), ((3, 3), (0, 2), (0, 0)), ((3, 4), (2,), (1, 0))],
)
def test_sizes_that_do_not_fit(
    heights: tuple[int, ...], widths: tuple[int, ...] | None, block: object
) -> None:
    with ThreadPoolExecutor(2) as executor, pytest.raises(BlockShapeError) as caught:
        Job("wrong", heights, widths).store({}, executor=executor)
    assert caught.value.block == block


def test_a_last_block_without_rows_is_none() -> None:
    store: dict[str, Any] = {}
    job = Job("empty end", (4, 4, 0))
    with ThreadPoolExecutor(2) as executor:
        job.store(store, executor=executor)
    assert same(seen_at(store), job.whole)


@pytest.mark.parametrize("resume", [False, True])
def test_blocks_without_elements(resume: bool) -> None:
    """Rows of length zero: there is no chunk, which is no chunk too few."""
    store: dict[str, Any] = {}
    job = Job("no elements", (4, 4, 2), tail=0)
    options: dict[str, Any] = {"run_id": "run", "resume": True} if resume else {}
    if resume:
        with pytest.raises(WriteAbortedError):
            job.store(store, failing_at(8), **options)
    with ThreadPoolExecutor(2) as executor:
        job.store(store, executor=executor, **options)
    assert same(seen_at(store), job.whole)


def _of_dtype(number: int) -> Array:
    return np.full((2, 2), number, "f4" if number == 3 else "f8")


def _of_width(number: int) -> Array:
    return np.full((2, 3 if number == 3 else 2), number)


@pytest.mark.parametrize(
    ("fn", "error"), [(_of_dtype, BlockDTypeError), (_of_width, BlockShapeError)]
)
def test_another_dtype_or_trailing_shape(
    fn: Callable[[int], Array], error: type[Exception], tmp_path: Path
) -> None:
    old = old_array(tmp_path / "array")
    with Shuffling() as executor, pytest.raises(error, match="block 3 has") as caught:
        LazyChunkSequence.from_map(fn, range(5)).to_zarr(
            tmp_path / "array", CONVERTER, overwrite=True, chunks="blocks", executor=executor
        )
    assert getattr(caught.value, "block", None) == 3
    assert same(seen_at(str(tmp_path / "array")), old)


def test_no_block_and_no_column() -> None:
    with ThreadPoolExecutor(1) as executor:
        with pytest.raises(EmptySequenceError):
            LazyChunkSequence.from_map(never, []).to_zarr({}, CONVERTER, executor=executor)
        with pytest.raises(EmptyRowError):
            NestedLazyChunkSequence.from_product(np.add.outer, [1], range(0)).to_zarr(
                {}, CONVERTER, executor=executor
            )


# Failures, and going on


def failing_at(*place: int) -> Callable[..., None]:
    return partial(_fail_at, place)


def _fail_at(place: tuple[int, ...], *start: int) -> None:
    if start == place:
        raise ZeroDivisionError


@pytest.mark.parametrize(("job", "place"), [(FLAT, (8,)), (NESTED, (3, 4))], ids=["flat", "nested"])
@pytest.mark.parametrize("again", ["spread", "serial"])
def test_a_failed_run_goes_on_with_and_without_an_executor(
    job: Job, place: tuple[int, ...], again: str, tmp_path: Path
) -> None:
    old = old_array(tmp_path / "array")
    options: dict[str, Any] = {"overwrite": True, "resume": True, "run_id": "run"}
    with Shuffling() as executor:
        with pytest.raises(WriteAbortedError, match=f"of {job.count} blocks") as caught:
            job.store(tmp_path / "array", failing_at(*place), executor=executor, **options)
        assert caught.value.resumable
        assert isinstance(caught.value.__cause__, ZeroDivisionError)
        assert same(seen_at(str(tmp_path / "array")), old)
        if again == "spread":
            job.store(tmp_path / "array", executor=executor, **options)
        else:
            job.store(tmp_path / "array", **options)
    assert same(seen_at(str(tmp_path / "array")), job.whole)
    assert names_in(tmp_path) == ["array"]


@st.composite
def even_jobs(draw: st.DrawFn) -> Job:
    def sizes() -> tuple[int, ...]:
        first = draw(st.integers(1, 5))
        return (*(first,) * draw(st.integers(0, 5)), draw(st.integers(1, first)))

    return Job("even", sizes(), sizes() if draw(st.booleans()) else None)


@given(even_jobs(), st.data())
def test_any_mixture_of_starts_stores_the_same(job: Job, data: st.DataObject) -> None:
    """Starts with and without workers that fail anywhere, until one does not."""
    store: dict[str, Any] = {}
    starts = [
        (row, *column)
        for row in np.cumsum((0, *job.heights[:-1])).tolist()
        for column in (
            [(c,) for c in np.cumsum((0, *job.widths[:-1])).tolist()] if job.widths else [()]
        )
    ]
    failures = data.draw(st.lists(st.tuples(st.sampled_from(starts), st.booleans()), max_size=4))
    last = data.draw(st.booleans())
    multiple = data.draw(st.sampled_from([1, 2]))
    chunks = (multiple * job.heights[0], job.widths[0] if job.widths else job.tail)
    for place, spread in [
        *((failing_at(*start), spread) for start, spread in failures),
        (keep_quiet, last),
    ]:
        with ThreadPoolExecutor(2) as executor:
            try:
                job.store(
                    store,
                    place,
                    chunks=chunks,
                    resume=True,
                    run_id="run",
                    executor=executor if spread else None,
                )
            except (WriteAbortedError, ZeroDivisionError):  # that of the first block is not wrapped
                assert seen_at(store) is None
    assert same(seen_at(store), job.whole)


def test_little_is_computed_again(tmp_path: Path) -> None:
    job = Job("long", (2,) * 50)
    computed: list[int] = []
    options: dict[str, Any] = {"resume": True, "run_id": "run", "chunks": "blocks"}
    with ThreadPoolExecutor(2) as executor:
        with pytest.raises(WriteAbortedError):
            job.store(tmp_path / "array", failing_at(60), executor=executor, **options)
        job.store(tmp_path / "array", computed.append, executor=executor, **options)
        assert len(computed) <= 20 + 1 + 4, "those after the failure, one to compare, in flight"
        computed.clear()
        job.store(tmp_path / "array", computed.append, executor=executor, **options)
        assert not computed, "it is finished"


def test_a_run_without_a_name_leaves_nothing(tmp_path: Path) -> None:
    with Shuffling() as executor, pytest.raises(WriteAbortedError, match="has been removed"):
        FLAT.store(tmp_path / "array", failing_at(8), executor=executor)
    assert names_in(tmp_path) == []


def _left_unfinished(destination: Any, job: Job, place: tuple[int, ...], **options: Any) -> None:
    with ThreadPoolExecutor(1) as executor, pytest.raises(WriteAbortedError):
        job.store(
            destination,
            failing_at(*place),
            run_id="run",
            executor=executor,
            max_in_flight=1,
            **options,
        )


@pytest.mark.parametrize("spread", [True, False])
def test_other_values_are_refused(spread: bool) -> None:
    store: dict[str, Any] = {}
    _left_unfinished(store, FLAT, (8,))
    other = Job("other", FLAT.heights, seed=2)
    with ThreadPoolExecutor(1) as executor, pytest.raises(ResumeMismatchError) as caught:
        other.store(store, resume=True, run_id="run", executor=executor if spread else None)
    assert caught.value.field == "value"


@pytest.mark.parametrize("spread", [True, False])
@pytest.mark.parametrize("heights", [(4, 4, 4, 4, 4, 4), (4, 4, 4, 4)])
def test_another_number_of_blocks_is_refused(spread: bool, heights: tuple[int, ...]) -> None:
    """The last chunk is cut short, so it must not pass for one of a longer array."""
    store: dict[str, Any] = {}
    _left_unfinished(store, FLAT, (16,), chunks=(8, 6))
    whole = Job("other", heights)
    with ThreadPoolExecutor(1) as executor, pytest.raises(ResumeMismatchError) as caught:
        whole.store(
            store,
            resume=True,
            run_id="run",
            chunks=(8, 6),
            executor=executor if spread else None,
            rtol=1e30,
        )
    assert caught.value.field == "count"
    assert seen_at(store) is None


def test_uneven_blocks_that_a_serial_start_has_stored() -> None:
    store: dict[str, Any] = {}
    with pytest.raises(WriteAbortedError):
        RAGGED.store(store, failing_at(17), run_id="run", max_in_flight=1)
    with ThreadPoolExecutor(1) as executor, pytest.raises(BlockShapeError, match="leave out"):
        RAGGED.store(store, resume=True, run_id="run", executor=executor)
    RAGGED.store(store, resume=True, run_id="run")
    assert same(seen_at(store), RAGGED.whole)


def test_an_empty_first_block_that_a_serial_start_has_taken() -> None:
    job, store = Job("empty start", (0, 4, 4)), dict[str, Any]()
    with pytest.raises(WriteAbortedError):
        job.store(store, failing_at(4), run_id="run")
    with ThreadPoolExecutor(1) as executor, pytest.raises(BlockShapeError, match="first block has"):
        job.store(store, resume=True, run_id="run", executor=executor)
    job.store(store, resume=True, run_id="run")
    assert same(seen_at(store), job.whole)


def test_a_worker_of_a_dead_run_does_not_write(tmp_path: Path) -> None:
    """Its run was killed and replaced while it computed: it finds another mark, or none."""
    computed = partial(_tampering, tmp_path / ".array.partial" / KEPT_BACK)
    with Shuffling() as executor, pytest.raises(DestinationBusyError, match="worker"):
        FLAT.store(tmp_path / "array", computed, executor=executor, max_in_flight=1)


def _tampering(mark: Path, row: int) -> None:
    if row == 8:
        mark.write_text("another run")


def test_chunks_that_are_not_there_are_not_published(tmp_path: Path) -> None:
    """Whatever the receipts say, as of workers on a machine that does not share the directory."""
    chunk = tmp_path / ".array.partial" / "c" / "0" / "0"
    computed = partial(_removing, chunk)
    with Shuffling() as executor, pytest.raises(DestinationError, match="not there") as caught:
        FLAT.store(tmp_path / "array", computed, executor=executor, max_in_flight=1)
    assert "5 of 5 blocks" in "".join(caught.value.__notes__)
    assert names_in(tmp_path) == []


def _removing(chunk: Path, row: int) -> None:
    if row == 16 and chunk.exists():
        chunk.unlink()


def test_an_interrupt_waits_for_what_is_under_way() -> None:
    began = threading.Event()
    store: dict[str, Any] = {}

    def fn(number: int) -> Array:
        if number == 3:
            began.set()
        return np.full(4, number)

    interrupted = Interrupted(range(9), began)
    with ThreadPoolExecutor(1) as executor, pytest.raises(KeyboardInterrupt):
        LazyChunkSequence.from_map(fn, interrupted).to_zarr(
            store, CONVERTER, chunks="blocks", executor=executor, max_in_flight=1
        )
    assert not store


def test_an_interrupt_while_a_task_is_given_waits_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """It comes when a worker has the task, and nobody has the task's future yet."""
    began, go_on = threading.Event(), threading.Event()
    events: list[str] = []
    store: dict[str, Any] = {}
    given = ThreadPoolExecutor.submit

    def computed(row: int) -> None:
        if row == 8:
            began.set()
            assert go_on.wait(TIMEOUT)
            events.append("computed")

    def interrupted(*arguments: Any) -> Future[Any]:
        future = given(*arguments)
        indices: list[Any] = [getattr(argument, "index", None) for argument in arguments]
        if (2, 0) in indices:
            assert began.wait(TIMEOUT)
            threading.Timer(0.05, go_on.set).start()  # a run that does not wait is over by then
            signal.raise_signal(signal.SIGINT)
        return future

    monkeypatch.setattr(ThreadPoolExecutor, "submit", interrupted)
    with ThreadPoolExecutor(2) as executor:
        with pytest.raises(KeyboardInterrupt):
            FLAT.store(store, computed, executor=executor)
        events.append("returned")
    assert events == ["computed", "returned"]
    assert not store


@dataclass
class Interrupted:
    """Items of which the sixth comes with a Ctrl-C, while an earlier one is computed."""

    items: range
    began: threading.Event

    def __iter__(self) -> Iterator[int]:
        for item in self.items:
            if item == 6:
                self.began.wait()
                raise KeyboardInterrupt
            yield item


def test_progress_moves_by_blocks(capsys: pytest.CaptureFixture[str]) -> None:
    with ThreadPoolExecutor(2) as executor:
        for job in EVEN:
            job.sequence().to_zarr({}, CONVERTER, chunks="blocks", executor=executor, progress=True)
            assert f"{job.count}/{job.count}" in capsys.readouterr().err


def _small(number: int) -> Array:
    return np.full((32, 50), number, np.float32)


@pytest.mark.parametrize("fold", ["alone", "in a tee"])
@pytest.mark.parametrize("workers", [1, 2, 4])
def test_auto_leaves_work_for_each_worker(workers: int, fold: str) -> None:
    """Regression: 60 small blocks became one chunk, and so one task."""
    blocks = LazyChunkSequence.from_map(_small, range(60))
    sink = zarr_sink({}, IdentityConverter())
    with ThreadPoolExecutor(workers) as executor:
        if fold == "alone":
            stored = blocks.compute(sink, executor=executor)
        else:
            stored, _ = blocks.compute(tee(sink, total()), executor=executor)
    assert stored.nchunks >= 4 * workers
    assert stored.chunks[0] % 32 == 0, "whole blocks"
