"""What is beside a destination, or comes to be there while a write is at work, is left alone."""

import errno
import os
import shutil
import stat
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from zarr.storage import MemoryStore, StorePath

from lazychunks import (
    DestinationExistsError,
    IdentityConverter,
    LazyChunkSequence,
    WriteAbortedError,
    ZarrOptions,
    status,
)
from tests.places import OLD, MemoryPlace, put_array, put_group, tree, values_at

CONVERTER = IdentityConverter()
WHOLE: NDArray[np.int64] = np.arange(12).reshape(4, 3)
ROWS = LazyChunkSequence.from_map(lambda row: WHOLE[row : row + 1], range(4))
THEIRS: NDArray[np.int64] = np.arange(7, 13)

SIBLINGS = [".array.zarr.old", ".array.zarr.partial"]


def _never() -> Iterator[Any]:
    yield pytest.fail("a block was asked for")


NEVER: LazyChunkSequence[Any] = LazyChunkSequence(_never)


def watched(look: Callable[[int], None]) -> LazyChunkSequence[NDArray[np.int64]]:
    """The rows; something happens while each of them is computed."""

    def block(row: int) -> NDArray[np.int64]:
        look(row)
        return WHOLE[row : row + 1]

    return LazyChunkSequence.from_map(block, range(4))


# Beside a local directory.


def an_array(path: Path) -> None:
    put_array(path, THEIRS)


def an_array_of_zarr_2(path: Path) -> None:
    put_array(path, THEIRS, zarr_format=2)


def an_array_of_ours(path: Path) -> None:
    ROWS.to_zarr(path, CONVERTER)


def a_group(path: Path) -> None:
    put_group(path)


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("target", ["nothing", "old", "empty"])
@pytest.mark.parametrize("name", SIBLINGS)
@pytest.mark.parametrize("put", [an_array, an_array_of_zarr_2, an_array_of_ours, a_group])
def test_what_the_user_has_at_a_name_of_ours_is_refused_and_stays(
    put: Callable[[Path], None], name: str, target: str, overwrite: bool, tmp_path: Path
) -> None:
    array = tmp_path / "array.zarr"
    if target == "old":
        put_array(array, OLD)
    elif target == "empty":
        array.mkdir()
    put(tmp_path / name)
    before = tree(tmp_path)
    with pytest.raises(DestinationExistsError, match="in the way") as caught:
        NEVER.to_zarr(array, CONVERTER, overwrite=overwrite)
    assert caught.value.path == str(tmp_path / name)
    assert tree(tmp_path) == before
    found = status(array)
    assert found.state == ("complete" if target == "old" else "absent")
    assert found.set_aside is None
    assert tree(tmp_path) == before


@pytest.mark.parametrize("put", [an_array, an_array_of_ours, a_group])
@pytest.mark.parametrize("target", ["nothing", "old"])
def test_what_comes_to_be_at_a_name_of_ours_meanwhile_stays(
    target: str, put: Callable[[Path], None], tmp_path: Path
) -> None:
    array, neighbor = tmp_path / "array.zarr", tmp_path / ".array.zarr.old"
    if target == "old":
        put_array(array, OLD)

    def look(row: int) -> None:
        if row == 2:
            put(neighbor)

    watched(look).to_zarr(array, CONVERTER, overwrite=True)
    np.testing.assert_array_equal(values_at(array), WHOLE)
    assert sorted(path.name for path in tmp_path.iterdir()) == [neighbor.name, array.name]
    again = tmp_path / "again"
    put(again)
    assert tree(neighbor) == tree(again)


# Modes.


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("mode", [0o700, 0o750, 0o777, 0o2770, 0o500])
@pytest.mark.parametrize("kind", ["array", "empty directory"])
def test_an_array_has_the_mode_of_what_it_replaces_and_its_draft_is_no_wider(
    kind: str, mode: int, tmp_path: Path
) -> None:
    array, staging = tmp_path / "array.zarr", tmp_path / ".array.zarr.partial"
    if kind == "array":
        put_array(array, OLD)
    else:
        array.mkdir()
    array.chmod(mode)
    modes: list[int] = []

    def look(row: int) -> None:
        if row:
            modes.append(mode_of(staging))

    umask = os.umask(0)
    try:
        watched(look).to_zarr(array, CONVERTER, overwrite=True, chunks="blocks")
    finally:
        os.umask(umask)
    expected = mode | stat.S_IRWXU  # who cannot write in a directory cannot fill it
    assert set(modes) == {expected}
    assert mode_of(array) == expected
    np.testing.assert_array_equal(values_at(array), WHOLE)


def test_a_new_array_has_the_mode_that_the_umask_leaves(tmp_path: Path) -> None:
    umask = os.umask(0o027)
    try:
        ROWS.to_zarr(tmp_path / "array.zarr", CONVERTER)
    finally:
        os.umask(umask)
    assert mode_of(tmp_path / "array.zarr") == 0o750


@pytest.mark.parametrize("may_give", [True, False], ids=["may give", "may not give"])
def test_a_draft_is_open_to_the_group_of_the_destination_or_to_none(
    may_give: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    array, staging = tmp_path / "array.zarr", tmp_path / ".array.zarr.partial"
    put_array(array, OLD)
    array.chmod(0o770)
    group = array.stat().st_gid
    given: list[tuple[Path, int, int]] = []

    def chown(path: Path, user: int, to: int) -> None:
        given.append((path, user, to))
        if not may_give:
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "chown", chown)
    ROWS.to_zarr(array, CONVERTER, overwrite=True)
    assert given == [(staging, -1, group)]
    assert mode_of(array) == (0o770 if may_give else 0o700)


# A file system that cannot move the old array.


@pytest.fixture
def overlay(tmp_path: Path) -> Iterator[Path]:
    """A directory of two layers, as in a container; in the lower one is the old array."""
    lower, upper, work, merged = (tmp_path / name for name in ("lower", "upper", "work", "merged"))
    for directory in (lower, upper, work, merged):
        directory.mkdir()
    put_array(lower / "array.zarr", OLD)
    options = f"lowerdir={lower},upperdir={upper},workdir={work}"
    mount = ["mount", "-t", "overlay", "overlay", "-o", options, str(merged)]
    if shutil.which("mount") is None or subprocess.run(mount, check=False).returncode:
        pytest.skip("an overlay file system cannot be mounted here")
    yield merged
    subprocess.run(["umount", str(merged)], check=True)  # noqa: S607  # as root, where mount is


def test_an_array_of_a_lower_layer_is_replaced(overlay: Path) -> None:
    array = overlay / "array.zarr"
    with pytest.raises(DestinationExistsError):
        NEVER.to_zarr(array, CONVERTER)
    for _ in range(2):
        ROWS.to_zarr(array, CONVERTER, overwrite=True, run_id="run")
        np.testing.assert_array_equal(values_at(array), WHOLE)
        assert [path.name for path in overlay.iterdir()] == ["array.zarr"]


def cannot_move(patch: pytest.MonkeyPatch, array: Path) -> None:
    """Let the file system answer as an overlay does."""
    rename = os.rename
    array_id = array.stat().st_ino

    def failing(source: Path, target: Path) -> None:
        if os.stat(source).st_ino == array_id:  # noqa: PTH116
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
        rename(source, target)

    patch.setattr(os, "rename", failing)

    def no_libc(*_: object, **__: object) -> object:
        return object()

    patch.setattr("ctypes.CDLL", no_libc)


def test_what_cannot_be_moved_is_removed_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    array = tmp_path / "array.zarr"
    put_array(array, OLD)
    cannot_move(monkeypatch, array)
    ROWS.to_zarr(array, CONVERTER, overwrite=True)
    np.testing.assert_array_equal(values_at(array), WHOLE)
    assert [path.name for path in tmp_path.iterdir()] == ["array.zarr"]


@pytest.mark.parametrize("run", [{}, {"run_id": "run"}], ids=["nameless", "named"])
def test_the_only_copy_is_kept_if_what_cannot_be_moved_cannot_be_removed(
    run: ZarrOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    array, staging = tmp_path / "array.zarr", tmp_path / ".array.zarr.partial"
    put_array(array, OLD)
    (array / "c" / "0" / "note").write_text("precious")
    remove = shutil.rmtree

    def half(directory: Path, **options: Any) -> None:
        if directory != array:
            remove(directory, **options)

    with monkeypatch.context() as patch:
        cannot_move(patch, array)
        patch.setattr(shutil, "rmtree", half)
        with pytest.raises(WriteAbortedError, match="not empty") as caught:
            ROWS.to_zarr(array, CONVERTER, overwrite=True, **run)
    notes = "".join([str(caught.value), *getattr(caught.value.__cause__, "__notes__", [])])
    assert f"is in {staging}" in notes
    np.testing.assert_array_equal(values_at(staging), WHOLE)


# In a store that cannot rename, what another program stores is looked for before the first write.


def put_theirs(store: MemoryStore, path: str) -> None:
    put_array(store, THEIRS, path=path)


def put_theirs_of_zarr_2(store: MemoryStore, path: str) -> None:
    put_array(store, THEIRS, path=path, zarr_format=2)


def put_a_group(store: MemoryStore, path: str) -> None:
    at: Any = StorePath(store, path)
    put_group(at)


def put_other_keys(store: MemoryStore, path: str) -> None:
    other = MemoryStore()
    put_array(other, THEIRS)
    content: dict[str, Any] = vars(store)["_store_dict"]
    content[f"{path}/thesis.tex"] = vars(other)["_store_dict"]["zarr.json"]


@pytest.mark.parametrize("put", [put_theirs, put_theirs_of_zarr_2, put_a_group, put_other_keys])
@pytest.mark.parametrize("overwrite", [False, True])
def test_what_came_while_the_first_block_was_computed_stays(
    overwrite: bool, put: Callable[[MemoryStore, str], None]
) -> None:
    place = MemoryPlace({})
    store = MemoryStore(place.destination)
    before: dict[str, str] = {}

    def look(row: int) -> None:
        if row == 0:
            put(store, "a/b")
            before.update(place.content())

    if overwrite and put in (put_theirs, put_theirs_of_zarr_2):
        watched(look).to_zarr(StorePath(store, "a/b"), CONVERTER, overwrite=True)
        np.testing.assert_array_equal(values_at(store, "a/b"), WHOLE)
        return
    with pytest.raises(DestinationExistsError):
        watched(look).to_zarr(StorePath(store, "a/b"), CONVERTER, overwrite=overwrite)
    assert before
    assert place.content() == before


@pytest.mark.parametrize("overwrite", [False, True])
def test_an_array_that_comes_later_is_not_replaced_by_the_metadata(overwrite: bool) -> None:
    store = MemoryStore()

    def look(row: int) -> None:
        if row == 3:
            put_array(store, THEIRS)

    with pytest.raises(DestinationExistsError, match="in the meantime"):
        watched(look).to_zarr(store, CONVERTER, overwrite=overwrite, chunks="blocks")
    assert values_at(store).shape == THEIRS.shape


def test_an_array_that_came_into_an_unfinished_write_is_not_gone_on_with() -> None:
    """Its chunks would count as done, or be written to while readers see it."""
    place = MemoryPlace({})
    store = MemoryStore(place.destination)
    at = StorePath(store, "a/b")
    run: dict[str, Any] = {"run_id": "run", "resume": True, "chunks": "blocks"}

    def fail(row: int) -> None:
        if row == 3:
            raise ZeroDivisionError

    def refuse(row: int) -> None:
        raise AssertionError(row)

    with pytest.raises(WriteAbortedError):
        watched(fail).to_zarr(at, CONVERTER, **run)
    put_theirs(store, "a/b")
    before = place.content()
    messages = {False: "holds an array; pass", True: "that another program has stored"}
    for overwrite, message in messages.items():
        with pytest.raises(DestinationExistsError, match=message):
            watched(refuse).to_zarr(at, CONVERTER, overwrite=overwrite, **run)
        assert place.content() == before
    watched(lambda _: None).to_zarr(at, CONVERTER, overwrite=True, run_id="run", chunks="blocks")
    np.testing.assert_array_equal(values_at(store, "a/b"), WHOLE)
