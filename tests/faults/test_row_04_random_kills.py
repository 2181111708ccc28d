"""Row 4: SIGKILL at random moments of writing and of resuming.

After each kill the destination is the old array or the new one, and nothing that was done is lost.
"""

import os
import random
import signal
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.faults.jobs import Job, names_in, same, seen_at
from tests.faults.processes import (
    CONTEXT,
    die,
    died_by_sigkill,
    running,
    spill_after_each_block,
)
from tests.faults.seed_writer import seed_flat

pytestmark = pytest.mark.slow

KILLS = 20

LONG = Job("flat", (2,) * 1200, tail=5)
GRID = Job("nested", (2,) * 30, (3,) * 40)
UNEVEN = Job("ragged", (2, 2, *(1, 3, 2) * 400), tail=5)

AGAIN = 5
"""Most blocks that a start computes again: one to compare, one computed at the kill, and three
chunks in flight. Uneven blocks lose no more than even ones: with what is spilled, the sizes of all
blocks so far are noted."""


@dataclass(frozen=True)
class Note:
    """Appends the number of each block that is computed to a file: it survives whatever comes."""

    path: Path

    def __call__(self, *start: int) -> None:
        """Note one block; an append of one short line is never torn."""
        handle = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(handle, f"{start}\n".encode())
        os.close(handle)

    def count(self) -> Counter[str]:
        """How often each block was computed."""
        return Counter(self.path.read_text().splitlines() if self.path.exists() else [])


def telling(ready: Any, blocks: int, most: int) -> Callable[..., None]:
    """Return what watches blocks: it tells when so many have been computed, and waits at the last.

    So a start never computes more than ``most``, however slowly it is killed.
    """
    left = most

    def watch(*_: int) -> None:
        nonlocal left
        left -= 1
        if left < most - blocks:
            ready.set()
        if left < 0:
            signal.pause()

    return watch


def overwrite(ready: Any, blocks: int, job: Job, path: str) -> None:
    """Replace what is there."""
    job.store(path, telling(ready, blocks, job.count), overwrite=True)
    ready.set()


def overwrite_in_place(ready: Any, blocks: int, job: Job, path: str) -> None:
    """Replace what is there as the negative control does."""
    seed_flat(job.sequence(telling(ready, blocks, job.count)), path, overwrite=True)
    ready.set()


def resume(ready: Any, blocks: int, job: Job, path: str, note: Note) -> None:
    """Go on with what is there, as far as a start gets."""
    spill_after_each_block()
    tell = telling(ready, blocks, job.count // (KILLS + 2))

    def watch(*start: int) -> None:
        note(*start)
        tell()

    job.store(path, watch, resume=True, run_id="run")
    ready.set()


def killed_at(blocks: int, seconds: float, target: Callable[..., None], *args: Any) -> bool:
    """Run it, kill it that long after so many blocks, and tell whether that was in time."""
    ready = CONTEXT.Event()
    with running(target, ready, blocks, *args) as process:
        assert ready.wait(60)
        process.join(seconds)  # not to wait for anything: to kill at any moment
        return process.exitcode is None


@pytest.mark.slow
def test_an_overwrite_that_is_killed_leaves_the_old_or_the_new_array(tmp_path: Path) -> None:
    path = str(tmp_path / "place" / "array.zarr")
    jobs = [Job("flat", (2,) * 100, tail=5, seed=seed) for seed in range(KILLS + 1)]
    jobs[0].store(path)
    there = jobs[0].whole
    kills = 0
    generator = random.Random(4)  # noqa: S311  # any moment will do
    for job in jobs[1:]:
        blocks = generator.choice([generator.randrange(job.count), job.count - 1])
        kills += killed_at(blocks, generator.uniform(0, 0.02), overwrite, job, path)
        seen = seen_at(path)
        assert seen is not None
        if not same(seen, there):
            assert same(seen, job.whole)
            there = job.whole
    assert kills
    jobs[0].store(path, overwrite=True)
    assert names_in(tmp_path / "place") == ["array.zarr"], "the next run cleans up"


@pytest.mark.slow
def test_this_finds_a_writer_that_overwrites_in_place(tmp_path: Path) -> None:
    """The negative control."""
    path = str(tmp_path / "array.zarr")
    job, old = (Job("flat", (2,) * 100, tail=5, seed=seed) for seed in (1, 2))
    old.store(path)
    assert killed_at(job.count // 2, 0, overwrite_in_place, job, path)
    seen = seen_at(path)
    assert seen is None or not any(same(seen, a.whole) for a in (old, job))


@pytest.mark.slow
@pytest.mark.parametrize("job", [LONG, GRID, UNEVEN], ids=lambda job: job.name)
def test_a_run_that_is_killed_again_and_again_loses_nothing(job: Job, tmp_path: Path) -> None:
    path = tmp_path / "place" / "array.zarr"
    staging = path.with_name(".array.zarr.partial")
    note = Note(tmp_path / "computed")
    generator = random.Random(4)  # noqa: S311
    kills = done = 0
    while not path.exists():
        blocks = generator.randrange(job.count // (KILLS + 2))
        kills += killed_at(blocks, generator.uniform(0, 0.004), resume, job, str(path), note)
        place = path if path.exists() else staging
        chunks = sum(1 for file in place.rglob("c/**/*") if file.name.isdecimal())
        assert chunks >= done, "what is done stays done"
        done = chunks
        assert kills < 10 * KILLS, "it gets nowhere"
    assert kills >= KILLS
    assert same(seen_at(str(path)), job.whole)
    job.store(str(path), note, resume=True, run_id="run")
    assert names_in(path.parent) == ["array.zarr"]
    computed = note.count()
    assert len(computed) == job.count
    again = computed.total() - job.count
    print(f"{job.name}: {kills} kills, {again} of {job.count} blocks computed again")  # noqa: T201
    assert again <= AGAIN * (kills + 1)


def die_in_a_tee(job: Job, path: str, note: Note, blocks: int) -> None:
    """Store in a tee, and be killed when so many blocks have been computed."""
    spill_after_each_block()
    left = blocks

    def watch(*start: int) -> None:
        nonlocal left
        note(*start)
        left -= 1
        if left < 0:
            die()

    job.store(path, watch, run_id="run", in_tee=True)


@pytest.mark.parametrize("job", [LONG, GRID, UNEVEN], ids=lambda job: job.name)
def test_storing_goes_on_after_a_tee_that_was_killed(job: Job, tmp_path: Path) -> None:
    """By itself as well: what the sink of the tee has stored is not computed again."""
    path = tmp_path / "place" / "array.zarr"
    note = Note(tmp_path / "computed")
    with running(die_in_a_tee, job, str(path), note, job.count // 2) as process:
        assert died_by_sigkill(process)
    assert seen_at(str(path)) is None
    job.store(str(path), note, resume=True, run_id="run")
    assert same(seen_at(str(path)), job.whole)
    assert names_in(path.parent) == ["array.zarr"]
    again = note.count().total() - job.count
    assert again <= AGAIN
