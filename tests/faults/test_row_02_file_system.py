"""Row 2: every file-system call of the local way of publishing fails, or is the last one.

Whatever fails, and however: a reader sees the old array or the complete new one, nothing only where
nothing was or where two directories cannot be exchanged at once; the next run cleans up.
"""

import gc
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest

from lazychunks import DestinationExistsError, LazyChunksError, ZarrOptions, status
from lazychunks.storage.places import directory, file_system, lock
from lazychunks.storage.places.file_system import exchange_directories
from lazychunks.storage.places.refusals import REPLACED
from tests.faults.jobs import FLAT, NESTED, Job, names_in, old_array, same, seen_at
from tests.faults.stores import EVERY_FAULT, Fault
from tests.places import LocalPlace

pytestmark = pytest.mark.slow

Array = np.ndarray[Any, Any]


CALLER: Callable[[int], FrameType] = getattr(sys, "_getframe")  # noqa: B009  # private, for pyright
WATCHED = (directory.__name__, file_system.__name__, lock.__name__)
"""Rooms whose calls are counted."""


class CrashedError(BaseException):
    """Nothing handles it and nothing works after it: the process is gone."""


class FileSystem:
    """Counts the calls that a local destination makes to the file system, and fails at one.

    Parameters
    ----------
    monkeypatch
        Puts it into place.
    can_exchange
        Whether two directories can be exchanged in one step.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, can_exchange: bool) -> None:
        self.calls: list[str] = []
        self.fails_at = 0
        self.fault = EVERY_FAULT[0]
        for owner, name in (
            (os, "mkdir"),
            (os, "chmod"),
            (os, "chown"),
            (os, "rename"),
            (os, "replace"),
            (os, "unlink"),
            (os, "fsync"),
            (shutil, "rmtree"),
            (Path, "mkdir"),
            (Path, "rmdir"),
            (Path, "write_text"),
            (Path, "write_bytes"),
        ):
            monkeypatch.setattr(owner, name, self._watched(name, getattr(owner, name)))

        def cannot(*_: object) -> bool:
            return False

        exchange: Callable[[Path, Path], bool] = exchange_directories if can_exchange else cannot
        monkeypatch.setattr(
            file_system, "exchange_directories", self._watched("exchange", exchange)
        )

    def fail(self, number: int, fault: Fault) -> None:
        """Start counting afresh, and fail at that call."""
        self.calls = []
        self.fails_at = number
        self.fault = fault

    @property
    def has_failed(self) -> bool:
        """Whether the call to fail has been reached."""
        return 0 < self.fails_at <= len(self.calls)

    def _watched(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            if CALLER(1).f_globals.get("__name__") not in WATCHED:
                return function(*args, **options)
            self.calls.append(name)
            if not self.has_failed:
                return function(*args, **options)
            if len(self.calls) > self.fails_at and not self.fault.lasting:
                return function(*args, **options)
            if self.fault.effective and len(self.calls) == self.fails_at:
                function(*args, **options)
            elif name == "rmtree" and len(self.calls) == self.fails_at:
                _remove_half(Path(args[0]))
            if self.fault.lasting:
                raise CrashedError(name)
            if options.get("ignore_errors"):
                return None
            raise OSError(name)

        return call


def _remove_half(directory: Path) -> None:
    """Remove what comes first, which is the metadata as likely as not."""
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    for file in files[len(files) // 2 :] if len(str(directory)) % 2 else files[: len(files) // 2]:
        file.unlink()


def runs_that_fail(
    write: Callable[[], None], prepare: Callable[[], None], files: FileSystem
) -> Iterator[str]:
    """Fail at each call in each way, and give how."""
    files.fail(0, EVERY_FAULT[0])
    prepare()
    files.calls = []
    write()
    for number in range(1, len(files.calls) + 1):
        for fault in EVERY_FAULT:
            files.fail(0, fault)
            prepare()
            files.fail(number, fault)
            with suppress(OSError, LazyChunksError, CrashedError):
                write()
            assert files.has_failed, "each call is reached"
            what = f"call {number} ({files.calls[number - 1]}) failed {fault}"
            files.fail(0, fault)
            gc.collect()  # a process that is gone holds no lock
            yield what


@pytest.mark.parametrize("can_exchange", [True, False], ids=["exchange", "two renames"])
@pytest.mark.parametrize(
    ("job", "before", "durable"),
    [
        (FLAT, "nothing", False),
        (FLAT, "old", True),
        (FLAT, "unfinished", False),
        (FLAT, "unfinished overwrite", False),
        (NESTED, "old", False),
        (NESTED, "unfinished overwrite", False),
    ],
    ids=lambda value: value.name if isinstance(value, Job) else None,
)
def test_old_or_new_and_the_next_run_cleans_up(
    job: Job,
    before: str,
    durable: bool,
    can_exchange: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if can_exchange and not sys.platform.startswith("linux"):
        pytest.skip("directories are exchanged on Linux only")
    place = LocalPlace(tmp_path / "below" / "deep")
    files = FileSystem(monkeypatch, can_exchange=can_exchange)
    old = old_array({})
    if "unfinished" in before:
        leave_unfinished(job, place)
        shutil.copytree(place.directory, tmp_path / "unfinished")

    def prepare() -> None:
        shutil.rmtree(tmp_path / "below", ignore_errors=True)
        if "unfinished" in before:
            shutil.copytree(tmp_path / "unfinished", place.directory)
        if before in ("old", "unfinished overwrite"):
            old_array(place.destination)

    def write() -> None:
        job.store(place.destination, overwrite=True, resume=True, run_id="run", durable=durable)

    had_old = before in ("old", "unfinished overwrite")
    for what in runs_that_fail(write, prepare, files):
        seen = seen_at(place.destination)
        if seen is None:
            in_between = place.directory.joinpath(".array.zarr.old").exists()
            assert not had_old or (in_between and not can_exchange), what
        else:
            assert is_one_of(seen, job.whole, *[old] * had_old), what
        write()
        assert is_one_of(seen_at(place.destination), job.whole), what
        assert names_in(place.directory) == ["array.zarr"], f"{what}: something is left"


@pytest.mark.parametrize("can_exchange", [True, False], ids=["exchange", "two renames"])
def test_a_failed_call_leaves_the_old_or_the_new_array_in_place(
    can_exchange: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unlike a crash, one failure of any call is put right before the error leaves."""
    place = LocalPlace(tmp_path / "place")
    files = FileSystem(monkeypatch, can_exchange=can_exchange)
    old = old_array({})

    def prepare() -> None:
        shutil.rmtree(place.directory, ignore_errors=True)
        old_array(place.destination)

    def write() -> None:
        FLAT.store(place.destination, overwrite=True)

    for what in runs_that_fail(write, prepare, files):
        if "for good" not in what:
            assert is_one_of(seen_at(place.destination), FLAT.whole, old), what


def test_an_old_array_that_was_moved_aside_comes_back_at_the_next_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = LocalPlace(tmp_path / "place")
    files = FileSystem(monkeypatch, can_exchange=False)
    old = old_array({})
    came_back = 0

    def prepare() -> None:
        shutil.rmtree(place.directory, ignore_errors=True)
        old_array(place.destination)

    def write() -> None:
        FLAT.store(place.destination, overwrite=True)

    for what in runs_that_fail(write, prepare, files):
        if seen_at(place.destination) is not None:
            continue
        with pytest.raises(DestinationExistsError, match="overwrite=True"):
            FLAT.store(place.destination)
        assert is_one_of(seen_at(place.destination), old), what
        came_back += 1
    assert came_back


def test_an_empty_directory_in_its_place_does_not_cost_an_old_array(tmp_path: Path) -> None:
    """Whoever opens the array for writing makes one, in the moment in which nothing is there."""
    place = LocalPlace(tmp_path)
    old = old_array(place.destination)
    (Path(place.destination) / REPLACED).touch()
    aside = Path(place.destination).rename(tmp_path / ".array.zarr.old")
    Path(place.destination).mkdir()
    assert status(place.destination).set_aside == str(aside)
    with pytest.raises(DestinationExistsError, match="overwrite=True"):
        FLAT.store(place.destination)
    assert is_one_of(seen_at(place.destination), old)
    assert [entry.name for entry in tmp_path.iterdir()] == ["array.zarr"]


@pytest.mark.parametrize("before", ["nothing", "old"])
@pytest.mark.parametrize("can_exchange", [True, False], ids=["exchange", "two renames"])
@pytest.mark.parametrize("run", [{}, {"run_id": "run"}], ids=["nameless", "named"])
def test_an_error_that_comes_when_the_array_is_in_place_says_so(
    run: ZarrOptions, can_exchange: bool, before: str, tmp_path: Path
) -> None:
    place = LocalPlace(tmp_path / "place")
    old = old_array({})
    with pytest.MonkeyPatch.context() as monkeypatch:
        files = FileSystem(monkeypatch, can_exchange=can_exchange)

        def prepare() -> None:
            shutil.rmtree(place.directory, ignore_errors=True)
            if before == "old":
                old_array(place.destination)

        files.fail(0, EVERY_FAULT[0])
        prepare()
        files.calls = []
        options: ZarrOptions = {**run, "durable": True}
        FLAT.store(place.destination, overwrite=True, **options)
        said: set[bool] = set()
        for number in range(1, len(files.calls) + 1):
            for fault in EVERY_FAULT[:2]:  # a process that is gone says nothing
                files.fail(0, fault)
                prepare()
                files.fail(number, fault)
                try:
                    FLAT.store(place.destination, overwrite=True, **options)
                except (OSError, LazyChunksError, CrashedError) as error:
                    seen = seen_at(place.destination)
                    is_in_place = same(seen, FLAT.whole)
                    text = "".join([str(error), *getattr(error, "__notes__", [])])
                    what = f"call {number} ({files.calls[number - 1]}) failed {fault}"
                    assert ("is stored: this failed afterwards" in text) == is_in_place, what
                    if is_in_place:
                        assert "removed" not in text, what
                    else:
                        assert seen is None or same(seen, old), what
                    said.add(is_in_place)
        assert said == {True, False}


def leave_unfinished(job: Job, place: LocalPlace) -> None:
    """Let a run die after half of its blocks."""
    computed: list[tuple[int, ...]] = []

    def die_midway(*start: int) -> None:
        computed.append(start)
        if len(computed) > job.count // 2 + 1:
            raise CrashedError

    with pytest.raises(CrashedError):
        job.store(place.destination, die_midway, run_id="run")


def is_one_of(seen: Array | None, *allowed: Array) -> bool:
    """Whether it is one of these arrays, bit for bit."""
    return seen is not None and any(same(seen, array) for array in allowed)
