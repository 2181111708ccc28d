"""Row 8: two writers at one destination: one wins, the other is told at once."""

import os
import threading
from collections.abc import Generator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from zarr.storage import MemoryStore, StorePath

from lazychunks import (
    DestinationBusyError,
    DestinationError,
    DestinationExistsError,
    WriteAbortedError,
)
from tests.faults.jobs import FLAT, NESTED, Job, names_in, old_array, same, seen_at
from tests.faults.processes import CONTEXT, die, died_by_sigkill, running
from tests.faults.seed_writer import seed_flat

FINER = Job("finer", (1,) * 18, seed=9)
"""Blocks of another size, and other values, for an array of the same shape as FLAT's."""


def store_and_wait(stage: int, ready: Any, go: Any, job: Job, path: str) -> None:
    """Store a job; at block ``stage``, tell that it is there, and wait."""
    computed = 0

    def watch(*_: int) -> None:
        nonlocal computed
        computed += 1
        if computed == stage + 1:
            ready.set()
            assert go.wait(60)

    job.store(path, watch, overwrite=True)


def store_and_die(job: Job, path: str) -> None:
    """Store a job, and be killed at its third block."""
    left = 2

    def watch(*_: int) -> None:
        nonlocal left
        if left == 0:
            die()
        left -= 1

    job.store(path, watch, overwrite=True)


def store_told(answer: Any, job: Job, path: str) -> None:
    """Store a job, and send the error if there is one."""
    computed: list[int] = []
    try:
        job.store(path, lambda *at: computed.append(at[0]), overwrite=True)
    except DestinationBusyError as error:
        answer.send((error, len(computed)))
    else:
        answer.send((None, len(computed)))


@contextmanager
def a_writer_at(stage: int, job: Job, path: str) -> Generator[Any]:
    """Let a writer in another process stand at a block, until the event given is set."""
    ready, go = CONTEXT.Event(), CONTEXT.Event()
    with running(store_and_wait, stage, ready, go, job, path) as process:
        assert ready.wait(60)
        yield go
        go.set()
        process.join()
        assert process.exitcode == 0, "the first one wins"


@pytest.mark.parametrize(
    "stage", [pytest.param(0, marks=pytest.mark.slow), 1, pytest.param(2, marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("second", [FLAT, FINER, NESTED], ids=["same", "finer", "nested"])
@pytest.mark.parametrize("before", ["nothing", "old"])
def test_the_second_process_is_told_at_once(
    before: str, second: Job, stage: int, tmp_path: Path
) -> None:
    path = str(tmp_path / "array.zarr")
    old = old_array(path) if before == "old" else None
    receiver, answer = CONTEXT.Pipe(duplex=False)
    with a_writer_at(stage, FLAT, path), running(store_told, answer, second, path):
        error, computed = receiver.recv()
        assert isinstance(error, DestinationBusyError)
        assert error.path == path
        assert path in str(error)
        assert computed == 0, "before any block is computed"
        seen = seen_at(path)
        assert (seen is None) if old is None else same(seen, old)
    assert same(seen_at(path), FLAT.whole)
    assert [entry.name for entry in tmp_path.iterdir()] == ["array.zarr"]
    second.store(path, overwrite=True)
    assert same(seen_at(path), second.whole)


def test_the_lock_of_a_dead_writer_does_not_block(tmp_path: Path) -> None:
    path = str(tmp_path / "array.zarr")
    with running(store_and_die, FLAT, path) as process:
        assert died_by_sigkill(process)
    assert (tmp_path / ".array.zarr.lock").exists()
    FINER.store(path, overwrite=True)
    assert same(seen_at(path), FINER.whole)
    assert [entry.name for entry in tmp_path.iterdir()] == ["array.zarr"]


@pytest.mark.parametrize("kind", ["path", "store"])
@pytest.mark.parametrize("where", ["the same thread", "another thread"])
def test_a_writer_within_another_one_is_told(kind: str, where: str, tmp_path: Path) -> None:
    """In one process, so that the lock cannot count on the death of its holder."""
    destination: Any = str(tmp_path / "array.zarr") if kind == "path" else MemoryStore()
    told: list[str] = []

    def store_too(*_: int) -> None:
        with pytest.raises(DestinationBusyError) as caught:
            FINER.store(destination, _never, overwrite=True)
        told.append(str(caught.value))

    def in_another_thread(*_: int) -> None:
        thread = threading.Thread(target=store_too)
        thread.start()
        thread.join()

    FLAT.store(destination, in_another_thread if where == "another thread" else store_too)
    assert len(told) == FLAT.count
    assert same(seen_at(destination), FLAT.whole)


class Bucket(MemoryStore):
    """A store whose text tells less than where it is, as that of a bucket without its endpoint."""

    def __str__(self) -> str:
        return "store://bucket"


def test_stores_of_one_name_count_as_one_place() -> None:
    """Perhaps they are: to refuse one of them is better than to mix two arrays."""

    def store_too(*_: int) -> None:
        with pytest.raises(DestinationBusyError, match="at work on store://bucket;"):
            FINER.store(Bucket(), _never)

    FLAT.store(Bucket(), store_too)


@pytest.mark.parametrize(("one", "other"), [("a", "a/b"), ("a/b", "a"), ("", "a"), ("a", "")])
def test_one_array_cannot_be_written_within_another_one(one: str, other: str) -> None:
    """Not even before the first block, when nothing is there yet."""
    store = MemoryStore()
    told = 0

    def store_too(*_: int) -> None:
        nonlocal told
        with pytest.raises(DestinationError):
            FINER.store(StorePath(store, other), _never, overwrite=True)
        told += 1

    FLAT.store(StorePath(store, one), store_too)
    assert told == FLAT.count
    assert same(seen_at(StorePath(store, one)), FLAT.whole)
    assert all(key.startswith(one) for key in _content(store))


def _content(store: MemoryStore) -> dict[str, Any]:
    content: dict[str, Any] = vars(store)["_store_dict"]
    return content


def test_an_array_is_not_written_within_an_unfinished_one() -> None:
    store = MemoryStore()
    with pytest.raises(WriteAbortedError):
        FLAT.store(StorePath(store, "a"), _fail_at_the_third_block, run_id="run")
    before = dict(_content(store))
    with pytest.raises(DestinationExistsError, match="inside the array at"):
        FINER.store(StorePath(store, "a/b"), _never, overwrite=True)
    assert _content(store) == before


def _never(*_: int) -> None:
    pytest.fail("a block was computed")


def _fail_at_the_third_block(row: int) -> None:
    if row == 8:
        raise ZeroDivisionError


def test_places_side_by_side_are_free() -> None:
    store = MemoryStore()
    for name in ("a", "ab", "c"):
        FLAT.store(StorePath(store, name), partial(_store_beside, store, f"{name}x"))
    for name in ("a", "ax", "abx", "c"):
        assert seen_at(StorePath(store, name)) is not None


def _store_beside(store: MemoryStore, name: str, row: int) -> None:
    if row == 0:
        FINER.store(StorePath(store, name))


def test_different_destinations_are_free(tmp_path: Path) -> None:
    with a_writer_at(2, FLAT, str(tmp_path / "one.zarr")):
        FINER.store(tmp_path / "other.zarr")
    assert same(seen_at(str(tmp_path / "one.zarr")), FLAT.whole)
    assert same(seen_at(str(tmp_path / "other.zarr")), FINER.whole)


def test_this_finds_a_writer_without_a_lock(tmp_path: Path) -> None:
    """The negative control: both succeed, and what is there is of both."""
    path = str(tmp_path / "array.zarr")
    computed = 0

    def watch(*_: int) -> None:
        nonlocal computed
        computed += 1
        if computed == 3:
            seed_flat(FINER.sequence(), path, overwrite=True)

    seed_flat(FLAT.sequence(watch), path, overwrite=True)
    try:
        seen = seen_at(path)
    except ValueError:
        return  # chunks of one, metadata of the other
    assert not any(same(np.asarray(seen), job.whole) for job in (FLAT, FINER))


def store_and_fork(path: str, at: int, goes_on: bool, options: Any) -> None:
    """Store a job of which one block forks a process, which ends by an exception, or goes on."""
    computed = 0
    parent = os.getpid()

    def watch(*_: int) -> None:
        nonlocal computed
        computed += 1
        if computed == at and os.getpid() == parent:
            child = os.fork()
            if child == 0 and not goes_on:
                raise SystemExit
            if child:
                exit_code = os.waitpid(child, 0)[1]
                assert bool(exit_code) == goes_on, "the child has stored something"

    FLAT.store(path, watch, overwrite=True, **options)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("goes_on", [False, True])
@pytest.mark.parametrize("at", [1, 3, FLAT.count])
@pytest.mark.parametrize("options", [{}, {"run_id": "run"}, {"chunks": (1000, 6)}])
def test_a_process_that_a_block_forks_leaves_its_parents_write_alone(
    options: dict[str, Any], at: int, goes_on: bool, tmp_path: Path
) -> None:
    """It has the state of its parent, and would write into the same unfinished array."""
    path = str(tmp_path / "array.zarr")
    with running(store_and_fork, path, at, goes_on, options) as process:
        process.join()
        assert process.exitcode == 0
    assert same(seen_at(path), FLAT.whole)
    assert names_in(tmp_path) == ["array.zarr"]
