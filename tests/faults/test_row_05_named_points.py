"""Row 5: SIGKILL right before and right after each step of a write: chunk, plan, publish, swap."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lazychunks import (
    IdentityConverter,
    LazyChunkSequence,
    LazyChunksError,
    ResumeMismatchError,
)
from lazychunks.storage import resuming
from lazychunks.storage.chunks import metadata as arrays
from lazychunks.storage.keys import Keys
from lazychunks.storage.places import directory, file_system
from lazychunks.storage.places.directory import SiblingDirectory
from lazychunks.storage.places.lock import LockFile
from tests.faults.jobs import NESTED, RAGGED, ZARR, Job, names_in, old_array, same, seen_at
from tests.faults.processes import die, died_by_sigkill, running
from tests.faults.seed_writer import seed_flat

pytestmark = pytest.mark.slow

Hook = tuple[Any, str]

POINTS: dict[str, Hook] = {
    "lock": (LockFile, "acquire"),
    "room for the new array": (SiblingDirectory, "begin"),
    "plan": (arrays.StagedArray, "record"),
    "shape": (arrays.StagedArray, "reshape"),
    "chunk": (arrays.StagedArray, "write"),
    "sizes": (resuming.Journal, "_flush"),
    "sizes removed": (Keys, "delete_directory"),
    "publish": (SiblingDirectory, "commit"),
    "exchange": (file_system, "exchange_directories"),
    "two renames": (directory, "swap_in"),
    "mark of the old array": (Path, "touch"),
    "rename": (os, "rename"),
    "removal of a file": (os, "unlink"),
    "removal of the old array": (shutil, "rmtree"),
    "unlock": (LockFile, "release"),
}


def kill_at(point: str, visit: int, after: bool, job: Job, path: str, can_exchange: bool) -> None:
    """Store a job in this process, which dies at that visit of a point."""
    if not can_exchange:
        setattr(file_system, "exchange_directories", _cannot)  # noqa: B010  # mypy wants no assignment
    owner, name = POINTS[point]
    function: Callable[..., Any] = getattr(owner, name)
    visits = 0

    def hooked(*args: Any, **options: Any) -> Any:
        nonlocal visits
        visits += 1
        if visits == visit and not after:
            die()
        result = function(*args, **options)
        if visits == visit:
            die()
        return result

    setattr(owner, name, hooked)
    job.store(path, overwrite=True, resume=True, run_id="run", max_in_flight=1)


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


CASES = [
    ("lock", 1, True),
    ("room for the new array", 1, True),
    ("plan", 1, True),
    ("shape", 1, True),
    ("chunk", 1, True),
    ("chunk", 3, True),
    ("sizes", 1, True),
    ("sizes removed", 1, True),
    ("publish", 1, True),
    ("exchange", 1, True),
    ("mark of the old array", 1, True),
    ("mark of the old array", 1, False),
    ("two renames", 1, False),
    ("rename", 1, True),  # of the old array, aside
    ("rename", 1, False),
    ("rename", 2, False),
    *(("removal of a file", visit, True) for visit in (4, 5, 6)),
    ("removal of the old array", 1, True),
    ("removal of the old array", 2, True),
    ("removal of the old array", 1, False),
    ("unlock", 1, True),
]


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize(("point", "visit", "can_exchange"), CASES)
def test_old_or_new_at_every_point_and_a_restart_completes_it(
    point: str, visit: int, can_exchange: bool, after: bool, tmp_path: Path
) -> None:
    job = NESTED if point in ("plan", "chunk", "publish") else RAGGED
    place = tmp_path / "place"
    path = str(place / "array.zarr")
    old = old_array(path)
    with running(kill_at, point, visit, after, job, path, can_exchange) as process:
        assert died_by_sigkill(process), "the point is reached"
    seen = seen_at(path)
    if seen is None:
        assert not can_exchange, "only between two renames is there a moment of nothing"
        with pytest.raises(LazyChunksError):
            job.store(path)
        seen = seen_at(path)
    assert seen is not None
    assert same(seen, job.whole) or same(seen, old)
    job.store(path, overwrite=True, resume=True, run_id="run")
    assert same(seen_at(path), job.whole)
    assert names_in(place) == ["array.zarr"]
    files = {file.name for file in Path(path).iterdir()}
    assert files == {"zarr.json", "c"}, "nothing is left within"


def test_every_point_is_a_case() -> None:
    assert {point for point, _, _ in CASES} == set(POINTS)


def test_a_killed_write_of_metadata_leaves_nothing_that_blocks_later_runs(tmp_path: Path) -> None:
    """Zarr writes a file under a temporary name, which a kill leaves behind."""
    path = tmp_path / "array.zarr"
    with running(kill_at, "chunk", 2, True, NESTED, str(path), True) as process:
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
