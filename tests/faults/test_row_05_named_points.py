"""Row 5: SIGKILL right before and right after each step of a write: chunk, record, swap."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import pytest

from lazychunks import (
    BlockShapeError,
    IdentityConverter,
    LazyChunkSequence,
    LazyChunksError,
    ResumeMismatchError,
)
from lazychunks.storage.chunks.units import Units
from lazychunks.storage.keys import Keys
from lazychunks.storage.places import directory, file_system
from lazychunks.storage.places.directory import SiblingDirectory
from lazychunks.storage.places.lock import LockFile
from lazychunks.storage.resuming import spill
from lazychunks.storage.writing.notes import Notes
from lazychunks.storage.writing.target import Target
from tests.faults.jobs import NESTED, RAGGED, ZARR, Job, names_in, old_array, same, seen_at
from tests.faults.processes import (
    CONTEXT,
    die,
    died_by_sigkill,
    running,
    spill_after_each_block,
)
from tests.faults.seed_writer import seed_flat

pytestmark = pytest.mark.slow

Hook = tuple[Any, str]

POINTS: dict[str, Hook] = {
    "lock": (LockFile, "acquire"),
    "room for the new array": (SiblingDirectory, "begin"),
    "record": (Notes, "write"),
    "sizes": (Notes, "note_sizes"),
    "length": (Notes, "note_length"),
    "what lies at wrong places": (Notes, "forget_units"),
    "removal of what lies at wrong places": (Target, "delete_units"),
    "spill": (spill, "spill"),
    "chunk": (Units, "write"),
    "removal of a spill": (Keys, "delete"),
    "all is written": (Notes, "note_all_written"),
    "publish": (SiblingDirectory, "commit"),
    "exchange": (file_system, "exchange_directories"),
    "two renames": (directory, "swap_in"),
    "mark of the old array": (Path, "write_text"),
    "rename": (os, "rename"),
    "removal of a file": (os, "unlink"),
    "removal of the old array": (shutil, "rmtree"),
    "unlock": (LockFile, "release"),
}

UNEVEN = Job("uneven", (4, 3, 4, 4, 2))

WAIT = 60
"""Seconds after which a worker has waited in vain."""


@dataclass(frozen=True)
class Run:
    """A run over an old array, in a process of its own."""

    point: str
    job: Job
    path: str
    can_exchange: bool
    """Whether the file system can exchange two directories."""
    chunks: Any

    def store(self) -> None:
        """Store the job, under the name of its run."""
        self.job.store(
            self.path,
            overwrite=True,
            resume=True,
            run_id="run",
            max_in_flight=1,
            chunks=self.chunks,
        )

    def store_and_count(self, visits: Any, visit: int, after: bool) -> None:
        """Store the job, count the visits of the point, and die at one of them."""
        if not self.can_exchange:
            setattr(file_system, "exchange_directories", _cannot)  # noqa: B010  # mypy wants no assignment
        spill_after_each_block()
        owner, name = POINTS[self.point]
        function: Callable[..., Any] = getattr(owner, name)

        def hooked(*args: Any, **options: Any) -> Any:
            with visits.get_lock():  # chunks are written in another thread
                visits.value += 1
                is_the_one = visits.value == visit
            if is_the_one and not after:
                die()
            try:
                return function(*args, **options)
            finally:
                if is_the_one:
                    die()

        setattr(owner, name, hooked)
        self.store()


def kill_seed(job: Job, path: str, chunks: int) -> None:
    """Overwrite as the negative control does, and die when so many blocks have been assigned."""
    assign: Callable[..., None] = ZARR.Array.__setitem__
    left = chunks

    def hooked(*args: Any) -> None:
        nonlocal left
        assign(*args)
        left -= 1
        if left == 0:
            die()

    setattr(ZARR.Array, "__setitem__", hooked)  # noqa: B010
    seed_flat(job.sequence(), path, overwrite=True)


def _cannot(*_: object) -> bool:
    return False


def leave_what_workers_stored(path: str) -> None:
    """Store blocks at places where they do not belong, as workers did who knew the first only."""
    third = Event()

    def watch(row: int) -> None:
        if row == 4:
            assert third.wait(WAIT)
        elif row == 11:
            third.set()  # the block of row 7 has been stored by the same thread

    with ThreadPoolExecutor(2) as executor, pytest.raises(BlockShapeError):
        UNEVEN.store(
            path,
            watch,
            overwrite=True,
            resume=True,
            run_id="run",
            executor=executor,
            max_in_flight=5,
        )
    assert (Path(path).with_name(".array.zarr.partial") / "c" / "2" / "0").exists()


def prepare(place: Path, point: str, can_exchange: bool) -> tuple[Run, np.ndarray[Any, Any]]:
    """Put an old array where a run is to be killed at a point, and what the run takes up."""
    path = str(place / "array.zarr")
    old = old_array(path)
    if "wrong places" in point:
        leave_what_workers_stored(path)
        return Run(point, UNEVEN, path, can_exchange, "blocks"), old
    job = NESTED if point in ("chunk", "publish") else RAGGED
    return Run(point, job, path, can_exchange, "blocks"), old


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("can_exchange", [True, False], ids=["exchange", "renames"])
@pytest.mark.parametrize("point", POINTS)
def test_old_or_new_at_every_point_and_a_restart_completes_it(
    point: str, can_exchange: bool, after: bool, tmp_path: Path
) -> None:
    """At the first visit of the point, at one in the middle, and at the last one."""
    if can_exchange and point == "two renames":
        can_exchange = False
    visits = CONTEXT.Value("i", 0)
    run, _ = prepare(tmp_path / "dry", point, can_exchange)
    with running(run.store_and_count, visits, 0, after) as process:
        process.join()
        assert process.exitcode == 0
    count = visits.value
    assert count, "the point is reached"
    for visit in sorted({1, (count + 1) // 2, count}):
        place = tmp_path / str(visit)
        run, old = prepare(place, point, can_exchange)
        visits.value = 0
        with running(run.store_and_count, visits, visit, after) as process:
            assert died_by_sigkill(process), "the point is reached"
        job, path = run.job, run.path
        seen = seen_at(path)
        if seen is None:
            assert not can_exchange, "only between two renames is there a moment of nothing"
            with pytest.raises(LazyChunksError):
                job.store(path)
            seen = seen_at(path)
        assert seen is not None
        assert same(seen, job.whole) or same(seen, old)
        run.store()
        assert same(seen_at(path), job.whole)
        assert names_in(place) == ["array.zarr"]
        assert set(names_in(Path(path))) == {"zarr.json", "c"}, "nothing is left within"


def test_a_killed_write_of_metadata_leaves_nothing_that_blocks_later_runs(tmp_path: Path) -> None:
    """Zarr writes a file under a temporary name, which a kill leaves behind."""
    path = tmp_path / "array.zarr"
    run = Run("chunk", NESTED, str(path), can_exchange=True, chunks="blocks")
    with running(run.store_and_count, CONTEXT.Value("i", 0), 2, True) as process:
        assert died_by_sigkill(process)
    staging = tmp_path / ".array.zarr.partial"
    for name in ("zarr", "c/0/0"):
        (staging / f"{name}.{'0f' * 16}.partial").write_bytes(b"half")
    NESTED.store(path, resume=True, run_id="run")
    assert not list(path.rglob("*.partial"))
    RAGGED.store(path, overwrite=True)
    assert same(seen_at(str(path)), RAGGED.whole)


def test_this_finds_a_writer_that_overwrites_in_place(tmp_path: Path) -> None:
    """The negative control."""
    path = str(tmp_path / "array.zarr")
    old = old_array(path)
    with running(kill_seed, RAGGED, path, 3) as process:
        assert died_by_sigkill(process)
    seen = seen_at(path)
    assert seen is not None
    assert not same(seen, old)
    assert not same(seen, RAGGED.whole)


KILLED_UNRESUMABLE = """
import os, sys
import numpy as np
from lazychunks import IdentityConverter, LazyChunkSequence


def blocks():
    for height in (2, 3, 2, 2, 2, 2, 2, 2):
        yield np.ones((height, 4))
    os._exit(9)


LazyChunkSequence(blocks).to_zarr(
    sys.argv[1], IdentityConverter(), chunks=(2, 4), run_id="same"
)
"""


def test_a_killed_run_that_kept_no_journal_is_not_taken_up(tmp_path: Path) -> None:
    """It has neither the sizes of its blocks nor chunk files that are certainly whole."""
    path = tmp_path / "array.zarr"
    died = subprocess.run(
        [sys.executable, "-c", KILLED_UNRESUMABLE, str(path)], check=False, timeout=60
    )
    assert died.returncode == 9
    heights = [2, 3, 2, 2, 2, 2, 2, 2]
    sequence = LazyChunkSequence.from_map(lambda height: np.ones((height, 4)), heights)
    options: Any = {"chunks": (2, 4), "run_id": "same"}
    with pytest.raises(ResumeMismatchError, match="run_id"):
        sequence.to_zarr(path, IdentityConverter(), resume=True, **options)
    stored = sequence.to_zarr(path, IdentityConverter(), True, overwrite=True, **options)
    assert stored.shape == (17, 4)
