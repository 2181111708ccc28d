"""Row 10: workers die, and results arrive in any order, whatever the executor.

Threads, processes and dask store what the serial writer stores, bitwise.
"""

import os
import secrets
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lazychunks import IdentityConverter, LazyChunkSequence, NotSpreadableError, WriteAbortedError
from tests.executors import Shuffling, cluster, processes, reused, spawned
from tests.faults.jobs import FLAT, NESTED, Job, names_in, old_array, same, seen_at

EVEN = (FLAT, NESTED)

Start = Callable[[], Any]
"""A context manager of an executor, or of a dask client."""


EXECUTORS = [
    pytest.param(partial(ThreadPoolExecutor, 3), id="threads"),
    pytest.param(Shuffling, id="shuffling"),
    pytest.param(processes, id="processes"),
    pytest.param(spawned, id="spawned", marks=pytest.mark.slow),
    pytest.param(reused, id="loky", marks=pytest.mark.slow),
    pytest.param(cluster, id="dask", marks=pytest.mark.slow),
]


def files_of(path: Path) -> dict[str, bytes]:
    return {str(f.relative_to(path)): f.read_bytes() for f in path.rglob("*") if f.is_file()}


@pytest.mark.parametrize("start", EXECUTORS)
def test_workers_store_what_the_serial_writer_stores(start: Start, tmp_path: Path) -> None:
    old_array(tmp_path / "flat")
    with start() as executor:
        for job in EVEN:
            job.store(tmp_path / job.name, overwrite=True, executor=executor)
            job.store(tmp_path / f"serial {job.name}")
            assert files_of(tmp_path / job.name) == files_of(tmp_path / f"serial {job.name}")
    assert len(names_in(tmp_path)) == 4


@pytest.mark.parametrize("job", EVEN, ids=lambda job: job.name)
@pytest.mark.parametrize("seed", range(5))
def test_results_may_arrive_in_any_order(job: Job, seed: int, tmp_path: Path) -> None:
    with Shuffling(seed) as executor:
        job.store(tmp_path / "spread", executor=executor)
    job.store(tmp_path / "serial")
    assert files_of(tmp_path / "spread") == files_of(tmp_path / "serial")


def _die_at(place: tuple[int, ...], *start: int) -> None:
    if start == place:
        os._exit(1)


def _die_once(mark: Path, place: tuple[int, ...], *start: int) -> None:
    if start == place and not mark.exists():
        mark.touch()
        os._exit(1)


@pytest.mark.parametrize(
    "start", [param for param in EXECUTORS if param.id in ("processes", "spawned")]
)
@pytest.mark.parametrize(("job", "place"), [(FLAT, (8,)), (NESTED, (3, 4))], ids=["flat", "nested"])
def test_a_dead_worker_leaves_a_run_that_goes_on(
    start: Start, job: Job, place: tuple[int, ...], tmp_path: Path
) -> None:
    old = old_array(tmp_path / "array")
    options: dict[str, Any] = {"overwrite": True, "resume": True, "run_id": "run"}
    with start() as executor, pytest.raises(WriteAbortedError) as caught:
        job.store(tmp_path / "array", partial(_die_at, place), executor=executor, **options)
    assert caught.value.resumable
    assert "BrokenProcessPool" in str(caught.value)
    assert same(seen_at(str(tmp_path / "array")), old)
    with start() as executor:
        job.store(tmp_path / "array", executor=executor, **options)
    assert same(seen_at(str(tmp_path / "array")), job.whole)
    assert names_in(tmp_path) == ["array"]


@pytest.mark.slow
def test_dask_gives_the_task_of_a_dead_worker_to_another(tmp_path: Path) -> None:
    with cluster() as client:
        for job, place in ((FLAT, (8,)), (NESTED, (3, 4))):
            watch = partial(_die_once, tmp_path / f"{job.name} died", place)
            job.store(tmp_path / job.name, watch, executor=client)
            assert (tmp_path / f"{job.name} died").exists()
            assert same(seen_at(str(tmp_path / job.name)), job.whole)


@pytest.mark.slow
def test_dask_gives_up_a_task_that_kills_its_workers(tmp_path: Path) -> None:
    dask = pytest.importorskip("dask")
    old = old_array(tmp_path / "array")
    options: dict[str, Any] = {"overwrite": True, "resume": True, "run_id": "run"}
    with dask.config.set({"distributed.scheduler.allowed-failures": 0}), cluster() as client:
        with pytest.raises(WriteAbortedError, match="KilledWorker") as caught:
            FLAT.store(tmp_path / "array", partial(_die_at, (8,)), executor=client, **options)
        assert caught.value.resumable
        assert same(seen_at(str(tmp_path / "array")), old)
        FLAT.store(tmp_path / "array", executor=client, **options)
    assert same(seen_at(str(tmp_path / "array")), FLAT.whole)


@dataclass(frozen=True)
class Large:
    """A block function with so much data that dask warns if it comes with each task."""

    weights: np.ndarray
    path: Path

    def __call__(self, number: int) -> np.ndarray:
        return self.weights[:4] + number

    def __reduce__(self) -> tuple[Any, ...]:
        return (_large, (self.weights, self.path))


def _large(weights: np.ndarray, path: Path) -> Large:
    (path / f"{os.getpid()}-{secrets.token_hex(4)}").touch()
    return Large(weights, path)


@pytest.mark.slow
def test_dask_gets_what_is_large_once(tmp_path: Path) -> None:
    (tmp_path / "unpickled").mkdir()
    weights = np.arange(2.0**22)
    sequence = LazyChunkSequence.from_map(Large(weights, tmp_path / "unpickled"), range(20))
    with cluster() as client:
        sequence.to_zarr(tmp_path / "array", IdentityConverter(), chunks="blocks", executor=client)
    expected = (np.arange(4) + np.arange(20.0)[:, None]).ravel()
    assert same(seen_at(str(tmp_path / "array")), expected)
    assert 1 <= len(names_in(tmp_path / "unpickled")) <= 2, "once in each process"


@pytest.mark.slow
def test_dask_takes_a_function_that_pickle_does_not(tmp_path: Path) -> None:
    sequence = LazyChunkSequence.from_map(lambda number: np.full(2, number), range(3))
    with cluster() as client:
        stored = sequence.to_zarr(
            tmp_path / "array", IdentityConverter(), return_stored=True, executor=client
        )
        with pytest.raises(NotSpreadableError, match="do not see"):
            sequence.to_zarr({}, IdentityConverter(), executor=client)
    assert same(np.asarray(stored[:]), np.array([0, 0, 1, 1, 2, 2]))


def test_a_future_that_is_cancelled_elsewhere_is_a_failure(tmp_path: Path) -> None:
    class Cancelling(Shuffling):
        """An executor that drops its fourth task."""

        def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
            if len(self.sizes) == 3:
                dropped: Future[Any] = Future()
                dropped.cancel()
                dropped.set_running_or_notify_cancel()
                return dropped
            return super().submit(fn, *args, **kwargs)

    with Cancelling() as executor, pytest.raises(WriteAbortedError):
        FLAT.store(tmp_path / "array", executor=executor, max_in_flight=1)
    assert names_in(tmp_path) == []
