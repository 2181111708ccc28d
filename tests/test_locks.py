"""The lock of a local destination: what it keeps out, and that it never stays."""

import errno
import fcntl
import os
import shutil
import socket
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lazychunks import (
    DestinationBusyError,
    DestinationExistsError,
    IdentityConverter,
    LazyChunkSequence,
    status,
)
from tests.faults.jobs import same, seen_at
from tests.places import OLD, put_array, tree, values_at

CONVERTER = IdentityConverter()
WHOLE = np.arange(12).reshape(4, 3)
ROWS = LazyChunkSequence.from_map(lambda row: WHOLE[row : row + 1], range(4))
LOCK = ".array.zarr.lock"

CANNOT_LOCK = [errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EINVAL]


def _never() -> Iterator[Any]:
    yield pytest.fail("a block was asked for")


NEVER: LazyChunkSequence[Any] = LazyChunkSequence(_never)


def flock_fails(patch: pytest.MonkeyPatch, number: int) -> None:
    """Let the file system fail to lock files."""

    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    patch.setattr(fcntl, "flock", fail)


# File systems that cannot lock.


@pytest.mark.parametrize("number", CANNOT_LOCK, ids=errno.errorcode.__getitem__)
def test_an_array_is_stored_where_files_cannot_be_locked(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flock_fails(monkeypatch, number)
    for _ in range(2):
        ROWS.to_zarr(tmp_path / "array.zarr", CONVERTER, overwrite=True)
    np.testing.assert_array_equal(values_at(tmp_path / "array.zarr"), WHOLE)
    assert [path.name for path in tmp_path.iterdir()] == ["array.zarr"]


@pytest.mark.parametrize("number", CANNOT_LOCK, ids=errno.errorcode.__getitem__)
@pytest.mark.parametrize("can_lock", [False, True], ids=["neither can", "the second one can"])
def test_a_second_writer_is_told_which_file_to_remove(
    can_lock: bool, number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a preemption: the writer is gone, on a machine that nobody can ask."""
    lock = tmp_path / LOCK
    lock.write_text("process 7 on elsewhere")
    if not can_lock:
        flock_fails(monkeypatch, number)
    before = tree(tmp_path)
    with pytest.raises(DestinationBusyError, match="process 7 on elsewhere") as caught:
        NEVER.to_zarr(tmp_path / "array.zarr", CONVERTER)
    assert f"remove {lock}" in str(caught.value)
    assert caught.value.path == str(tmp_path / "array.zarr")
    assert tree(tmp_path) == before
    lock.unlink()
    ROWS.to_zarr(tmp_path / "array.zarr", CONVERTER)
    np.testing.assert_array_equal(values_at(tmp_path / "array.zarr"), WHOLE)


def test_a_lock_that_the_system_does_not_hold_says_whose_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flock_fails(monkeypatch, errno.ENOSYS)
    said: list[str] = []

    def look(row: int) -> Any:
        said.append((tmp_path / LOCK).read_text())
        return WHOLE[row : row + 1]

    LazyChunkSequence.from_map(look, range(4)).to_zarr(tmp_path / "array.zarr", CONVERTER)
    assert set(said) == {f"process {os.getpid()} on {socket.gethostname()}"}


@pytest.mark.parametrize("number", [errno.EIO, errno.EBADF])
def test_another_failure_to_lock_is_raised_and_leaves_nothing(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        flock_fails(patch, number)
        with pytest.raises(OSError, match=os.strerror(number)):
            NEVER.to_zarr(tmp_path / "array.zarr", CONVERTER)
    ROWS.to_zarr(tmp_path / "array.zarr", CONVERTER)
    assert [path.name for path in tmp_path.iterdir()] == ["array.zarr"]


# A lock is released, whatever fails.


CALLS: list[tuple[Any, str]] = [
    *((os, name) for name in ("open", "close", "stat", "fstat", "lstat", "mkdir", "rename")),
    *((os, name) for name in ("rmdir", "scandir", "listdir", "unlink")),
    (fcntl, "flock"),
]


@contextmanager
def failing_from(number: int) -> Generator[list[str]]:
    """Let all calls to the file system fail from one on, as without descriptors, or space.

    What is closed is closed all the same: the system reports what it could not write, and no more.
    """
    calls: list[str] = []

    def watched(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            calls.append(name)
            if len(calls) < number:
                return function(*args, **options)
            if name == "close":
                function(*args, **options)
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

        return call

    with pytest.MonkeyPatch.context() as patch:
        for owner, name in CALLS:
            patch.setattr(owner, name, watched(name, getattr(owner, name)))
        yield calls


def _notes(error: BaseException) -> list[str]:
    return getattr(error, "__notes__", [])


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["nothing", "old"])
def test_what_fails_from_any_call_on_does_not_keep_the_lock(kind: str, tmp_path: Path) -> None:
    """Nothing that a release needs works any more, and somebody keeps the error."""
    path = tmp_path / "place" / "array.zarr"
    kept: list[BaseException] = []
    in_place = 0
    for number in count(1):
        shutil.rmtree(path.parent, ignore_errors=True)
        path.parent.mkdir()
        if kind == "old":
            put_array(path, OLD)
        kept.clear()
        with failing_from(number) as calls:
            try:
                ROWS.to_zarr(path, CONVERTER, overwrite=True, durable=True)
            except Exception as error:  # noqa: BLE001  # whatever became of it
                kept.append(error)
        text = "".join(str(part) for error in kept for part in (error, *_notes(error)))
        if kept and same(seen_at(str(path)), WHOLE):
            assert "is stored: this failed afterwards" in text, (number, calls[number - 1])
            in_place += 1
        if "has been removed" in text:
            assert status(path).state == ("complete" if kind == "old" else "absent")
        ROWS.to_zarr(path, CONVERTER, overwrite=True)
        np.testing.assert_array_equal(values_at(path), WHOLE)
        assert [there.name for there in path.parent.iterdir()] == ["array.zarr"]
        if len(calls) < number:
            break
    assert in_place


# What is not ours.


def a_file(lock: Path) -> None:
    lock.write_text("precious")


def a_directory(lock: Path) -> None:
    lock.mkdir()
    (lock / "thesis.tex").write_text("precious")


def a_link(lock: Path) -> None:
    (lock.parent / "target").write_text("precious")
    lock.symlink_to(lock.parent / "target")


def a_link_to_nothing(lock: Path) -> None:
    lock.symlink_to(lock.parent / "nowhere")


@pytest.mark.parametrize("put", [a_file, a_directory, a_link, a_link_to_nothing])
def test_what_is_no_lock_is_refused_and_stays(put: Any, tmp_path: Path) -> None:
    put(tmp_path / LOCK)
    before = tree(tmp_path)
    with pytest.raises((DestinationExistsError, DestinationBusyError), match=r"\.lock") as caught:
        NEVER.to_zarr(tmp_path / "array.zarr", CONVERTER, overwrite=True)
    assert "remove" in str(caught.value)
    assert tree(tmp_path) == before
