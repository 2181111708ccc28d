"""Row 12, as far as writing goes: links in an unfinished write lead nobody astray."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from lazychunks import LazyChunksError, WriteAbortedError
from lazychunks.storage.places.directory import SiblingDirectory
from tests.faults.jobs import FLAT, RAGGED, names_in, same, seen_at
from tests.faults.test_row_02_file_system import leave_unfinished
from tests.places import LocalPlace, tree


def _a_chunk(staging: Path, canary: Path) -> None:
    chunk = staging / "c" / "0" / "0"
    chunk.unlink()
    chunk.symlink_to(canary / "file")


def _a_missing_chunk(staging: Path, canary: Path) -> None:
    chunk = staging / "c" / "4"
    chunk.mkdir()
    (chunk / "0").symlink_to(canary / "file")


def _a_directory_of_chunks(staging: Path, canary: Path) -> None:
    shutil.rmtree(staging / "c" / "0")
    (staging / "c" / "0").symlink_to(canary, target_is_directory=True)


def _all_chunks(staging: Path, canary: Path) -> None:
    shutil.rmtree(staging / "c")
    (staging / "c").symlink_to(canary, target_is_directory=True)


def _sizes(staging: Path, canary: Path) -> None:
    shutil.rmtree(staging / "lazychunks.sizes", ignore_errors=True)
    (staging / "lazychunks.sizes").symlink_to(canary, target_is_directory=True)


def _metadata(staging: Path, canary: Path) -> None:
    shutil.move(staging / "zarr.json.partial", canary / "zarr.json")
    (staging / "zarr.json.partial").symlink_to(canary / "zarr.json")


def _everything(staging: Path, canary: Path) -> None:
    shutil.move(staging, canary / "staging")
    staging.symlink_to(canary / "staging", target_is_directory=True)


def _what_was_there(staging: Path, canary: Path) -> None:
    staging.with_name(".array.zarr.old").symlink_to(canary, target_is_directory=True)


LINKS: list[Callable[[Path, Path], None]] = [
    _a_chunk,
    _a_missing_chunk,
    _a_directory_of_chunks,
    _all_chunks,
    _sizes,
    _metadata,
    _everything,
    _what_was_there,
]


@pytest.mark.parametrize("job", [FLAT, RAGGED], ids=lambda job: job.name)
@pytest.mark.parametrize("link", LINKS)
def test_links_are_refused_when_resuming_and_never_followed(
    link: Callable[[Path, Path], None], job: object, tmp_path: Path
) -> None:
    assert job in (FLAT, RAGGED)
    run = FLAT if job == FLAT else RAGGED
    canary = tmp_path / "canary"
    canary.mkdir()
    (canary / "file").write_text("precious")
    place = LocalPlace(tmp_path / "place")
    leave_unfinished(run, place)
    staging = place.directory / ".array.zarr.partial"
    link(staging, canary)
    before, there = tree(canary), tree(place.directory)
    with pytest.raises(LazyChunksError, match="symbolic link"):
        run.store(place.destination, pytest.fail, resume=True, run_id="run")
    assert tree(canary) == before
    assert tree(place.directory) == there
    assert seen_at(place.destination) is None


@pytest.mark.parametrize("link", LINKS[:4])
def test_a_link_is_refused_as_well_where_only_publishing_is_left(
    link: Callable[[Path, Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    canary = tmp_path / "canary"
    canary.mkdir()
    (canary / "file").write_text("precious")
    place = LocalPlace(tmp_path / "place")
    with monkeypatch.context() as patch:
        patch.setattr(SiblingDirectory, "commit", _killed)
        with pytest.raises(WriteAbortedError):
            FLAT.store(place.destination, resume=True, run_id="run")
    staging = place.directory / ".array.zarr.partial"
    (staging / "c" / "4" / "0").unlink()
    (staging / "c" / "4").rmdir()
    link(staging, canary)
    before, there = tree(canary), tree(place.directory)
    with pytest.raises(LazyChunksError, match="symbolic link"):
        FLAT.store(place.destination, pytest.fail, resume=True, run_id="run")
    assert tree(canary) == before
    assert tree(place.directory) == there
    assert seen_at(place.destination) is None


def _killed(*_: object, **__: object) -> None:
    raise ZeroDivisionError


@pytest.mark.parametrize("link", LINKS[:-2])
def test_overwriting_removes_the_links_and_not_what_they_point_to(
    link: Callable[[Path, Path], None], tmp_path: Path
) -> None:
    canary = tmp_path / "canary"
    canary.mkdir()
    (canary / "file").write_text("precious")
    place = LocalPlace(tmp_path / "place")
    leave_unfinished(FLAT, place)
    link(place.directory / ".array.zarr.partial", canary)
    before = tree(canary)
    FLAT.store(place.destination, overwrite=True)
    assert tree(canary) == before
    assert same(seen_at(place.destination), FLAT.whole)
    assert names_in(place.directory) == ["array.zarr"]
