"""Where arrays go: what is replaced, what is never touched, and that a refusal costs no block."""

import ctypes
import errno
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import zarr
from zarr.core.buffer import Buffer
from zarr.core.chunk_key_encodings import DefaultChunkKeyEncoding, V2ChunkKeyEncoding
from zarr.errors import ArrayNotFoundError
from zarr.storage import FsspecStore, LocalStore, MemoryStore, ObjectStore, StorePath

from lazychunks import (
    DestinationExistsError,
    DestinationReadOnlyError,
    IdentityConverter,
    LazyChunkSequence,
    LazyChunksError,
    NestedLazyChunkSequence,
    WriteAbortedError,
    ZarrOptions,
    status,
)
from lazychunks.storage.places.file_system import exchange_directories
from lazychunks.storage.places.metadata_last import MetadataLast
from tests.places import (
    OLD,
    LocalPlace,
    MemoryPlace,
    Place,
    members,
    put_array,
    put_group,
    tree,
    values_at,
)
from tests.strategies import Array

CONVERTER = IdentityConverter()
WHOLE = np.arange(24).reshape(8, 3)

FLAT = LazyChunkSequence.from_map(lambda row: WHOLE[row : row + 2], range(0, 8, 2))
NESTED = NestedLazyChunkSequence.from_product(
    lambda row, column: WHOLE[row : row + 2, column : column + 1], range(0, 8, 2), range(3)
)


def _never() -> Iterator[Any]:
    yield pytest.fail("a block was asked for")


NEVER: list[LazyChunkSequence[Array] | NestedLazyChunkSequence[Array]] = [
    LazyChunkSequence(_never),
    NestedLazyChunkSequence(_never),
]


@pytest.fixture(params=["local path", "memory"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    return LocalPlace(tmp_path) if request.param == "local path" else MemoryPlace({})


# An array that exists.


@pytest.mark.parametrize("sequence", NEVER, ids=["flat", "nested"])
def test_an_array_is_not_replaced_unless_asked_for(place: Place, sequence: Any) -> None:
    place.put_old()
    before = place.content()
    with pytest.raises(DestinationExistsError, match="overwrite=True") as caught:
        sequence.to_zarr(place.destination, CONVERTER)
    assert isinstance(caught.value, FileExistsError)
    assert isinstance(caught.value, LazyChunksError)
    assert place.content() == before
    if isinstance(place, LocalPlace):
        assert caught.value.path == place.destination
        assert place.destination in str(caught.value)


@pytest.mark.parametrize("sequence", [FLAT, NESTED], ids=["flat", "nested"])
def test_overwrite_replaces_an_array_whole(place: Place, sequence: Any) -> None:
    place.put_old()
    for _ in range(2):  # another program's, and one's own
        sequence.to_zarr(place.destination, CONVERTER, overwrite=True)
        np.testing.assert_array_equal(place.read(), WHOLE)
    replaced = place.content()
    fresh = MemoryPlace({})
    sequence.to_zarr(fresh.destination, CONVERTER)
    keys = {
        key.removeprefix("array.zarr/") for key, what in replaced.items() if what != "directory"
    }
    assert keys == set(fresh.content()), "nothing of the old array is left, and nothing beside it"


@pytest.mark.parametrize("encoding", [DefaultChunkKeyEncoding, V2ChunkKeyEncoding])
@pytest.mark.parametrize("separator", [".", "/"])
def test_an_array_of_any_keys_can_be_replaced(
    place: Place, encoding: Any, separator: Literal[".", "/"]
) -> None:
    store: Any = place.destination
    put_array(store, OLD, keys=encoding(separator=separator))
    FLAT.to_zarr(place.destination, CONVERTER, overwrite=True)
    np.testing.assert_array_equal(place.read(), WHOLE)


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_what_a_dead_overwrite_has_not_removed_is_not_in_the_way(
    zarr_format: Literal[2, 3], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its metadata is gone, and with it what its keys are called."""
    place = MemoryPlace({})
    keys = V2ChunkKeyEncoding() if zarr_format == 3 else None
    put_array(MemoryStore(place.destination), OLD, zarr_format=zarr_format, keys=keys)

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        for method in ("_remove_chunks", "discard"):
            patched.setattr(MetadataLast, method, die)
        with pytest.raises(KeyboardInterrupt):
            FLAT.to_zarr(place.destination, CONVERTER, overwrite=True)
    assert "0.0" in place.destination
    FLAT.to_zarr(place.destination, CONVERTER, overwrite=True)
    np.testing.assert_array_equal(place.read(), WHOLE)


def test_an_array_of_zarrs_older_format_can_be_replaced(place: Place) -> None:
    store: Any = (
        place.destination if isinstance(place, LocalPlace) else MemoryStore(place.destination)
    )
    put_array(store, OLD, zarr_format=2)
    with pytest.raises(DestinationExistsError):
        NEVER[0].to_zarr(place.destination, CONVERTER)
    FLAT.to_zarr(place.destination, CONVERTER, overwrite=True)
    np.testing.assert_array_equal(place.read(), WHOLE)


def test_readers_see_the_old_array_until_the_new_one_is_complete(tmp_path: Path) -> None:
    place = LocalPlace(tmp_path)
    place.put_old()

    def watched() -> Iterator[Array]:
        for row in WHOLE:
            np.testing.assert_array_equal(place.read(), OLD)
            yield row[None]

    LazyChunkSequence(watched).to_zarr(place.destination, CONVERTER, overwrite=True, chunks=1)
    np.testing.assert_array_equal(place.read(), WHOLE)


def test_readers_of_a_new_array_see_nothing_until_it_is_complete(place: Place) -> None:
    def watched() -> Iterator[Array]:
        for row in WHOLE:
            with pytest.raises((FileNotFoundError, ArrayNotFoundError)):
                place.read()
            yield row[None]

    LazyChunkSequence(watched).to_zarr(place.destination, CONVERTER, chunks=1)
    np.testing.assert_array_equal(place.read(), WHOLE)


# What is never touched, whatever overwrite says.


def a_file(path: Path) -> None:
    path.write_text("precious")


def a_group(path: Path) -> None:
    put_group(path)


def an_old_group(path: Path) -> None:
    put_group(path, zarr_format=2)


def a_directory_of_files(path: Path) -> None:
    (path / "deep").mkdir(parents=True)
    (path / "deep" / "thesis.tex").write_text("precious")


def a_directory_of_a_hidden_file(path: Path) -> None:
    path.mkdir()
    (path / ".hidden").write_text("precious")


def an_array_beside_a_file(path: Path) -> None:
    put_array(path, OLD)
    (path / "notes.txt").write_text("precious")


def an_array_beside_a_directory_of_a_year(path: Path) -> None:
    put_array(path, OLD)
    (path / "2026").mkdir()
    (path / "2026" / "thesis.tex").write_text("precious")


def a_link_to_an_array(path: Path) -> None:
    target = path.with_name("target.zarr")
    put_array(target, OLD)
    path.symlink_to(target)


def a_link_to_a_directory(path: Path) -> None:
    target = path.with_name("target")
    target.mkdir()
    (target / "thesis.tex").write_text("precious")
    path.symlink_to(target)


def a_link_to_nothing(path: Path) -> None:
    path.symlink_to(path.with_name("nowhere"))


def broken_metadata(path: Path) -> None:
    path.mkdir()
    (path / "zarr.json").write_text("{")
    (path / "c").mkdir()


OCCUPANTS: list[Callable[[Path], None]] = [
    a_file,
    a_group,
    an_old_group,
    a_directory_of_files,
    a_directory_of_a_hidden_file,
    an_array_beside_a_file,
    an_array_beside_a_directory_of_a_year,
    a_link_to_an_array,
    a_link_to_a_directory,
    a_link_to_nothing,
    broken_metadata,
]


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("occupy", OCCUPANTS)
@pytest.mark.parametrize("as_store", [False, True])
def test_what_is_no_array_is_refused_before_block_0_and_stays(
    tmp_path: Path, occupy: Callable[[Path], None], overwrite: bool, as_store: bool
) -> None:
    path = tmp_path / "array.zarr"
    occupy(path)
    before = tree(tmp_path)
    if as_store and path.is_file():
        pytest.skip("zarr makes no store of a file")
    for sequence in NEVER:
        with pytest.raises(DestinationExistsError, match=r"array\.zarr") as caught:
            sequence.to_zarr(LocalStore(path) if as_store else path, CONVERTER, overwrite=overwrite)
        assert caught.value.path == str(path)
    assert tree(tmp_path) == before


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_group_in_a_store_is_refused_before_block_0_and_stays(overwrite: bool) -> None:
    place = MemoryPlace({})
    put_group(MemoryStore(place.destination))
    before = place.content()
    for sequence in NEVER:
        with pytest.raises(DestinationExistsError, match="group"):
            sequence.to_zarr(place.destination, CONVERTER, overwrite=overwrite)
    assert place.content() == before


def test_the_parent_may_not_be_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("precious")
    before = tree(tmp_path)
    with pytest.raises((DestinationExistsError, NotADirectoryError)):
        NEVER[0].to_zarr(tmp_path / "file" / "array.zarr", CONVERTER)
    assert tree(tmp_path) == before


def test_neighbours_stay(tmp_path: Path) -> None:
    for name in ("array.zarr.bak", ".array.zarr.note", "other.zarr"):
        a_directory_of_files(tmp_path / name)
    before = tree(tmp_path)
    FLAT.to_zarr(tmp_path / "array.zarr", CONVERTER)
    after = tree(tmp_path)
    assert {key: after[key] for key in before} == before
    assert {key.split("/")[0] for key in after.keys() - before.keys()} == {"array.zarr"}


def test_siblings_in_a_group_stay() -> None:
    store = MemoryStore()
    put_group(store)
    for name in ("a", "ab"):
        put_array(store, OLD, path=name)
    for _ in range(2):
        FLAT.to_zarr(StorePath(store, "a"), CONVERTER, overwrite=True)
    np.testing.assert_array_equal(values_at(store, "a"), WHOLE)
    for name in ("ab", "inner"):
        np.testing.assert_array_equal(values_at(store, name), OLD)
    with pytest.raises(DestinationExistsError, match="group"):
        NEVER[0].to_zarr(store, CONVERTER, overwrite=True)


@pytest.mark.filterwarnings("ignore:Object at .* is not recognized as a component")
@pytest.mark.parametrize("kind", ["path", "memory"])
def test_readers_of_the_group_around_see_no_part_of_an_array(kind: str, tmp_path: Path) -> None:
    """Hidden is not hidden from a program that goes through a group."""
    store: Any = LocalStore(tmp_path / "group") if kind == "path" else MemoryStore()
    put_group(store)

    def watched() -> Iterator[Array]:
        for row in WHOLE:
            assert members(store) == ["inner"]
            yield row[None]

    LazyChunkSequence(watched).to_zarr(StorePath(store, "array"), CONVERTER, chunks=1)
    assert sorted(members(store)) == ["array", "inner"]
    np.testing.assert_array_equal(values_at(store, "array"), WHOLE)


# What cannot be written.


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_read_only_store_is_refused_before_block_0(tmp_path: Path, overwrite: bool) -> None:
    for store in (
        MemoryStore(read_only=True),
        LocalStore(tmp_path / "array.zarr", read_only=True),
        StorePath(MemoryStore(read_only=True), "inner"),
    ):
        for sequence in NEVER:
            with pytest.raises(DestinationReadOnlyError, match="read-only") as caught:
                sequence.to_zarr(store, CONVERTER, overwrite=overwrite)
            assert isinstance(caught.value, PermissionError)
    assert tree(tmp_path) == {}


def no_access(*_: object) -> bool:
    return False


def test_a_directory_that_cannot_be_written_is_refused_before_block_0(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Permissions do not bind the superuser, who may run this; so the question is what is faked.
    monkeypatch.setattr(os, "access", no_access)
    for sequence in NEVER:
        with pytest.raises(DestinationReadOnlyError, match="not writable"):
            sequence.to_zarr(tmp_path / "array.zarr", CONVERTER)
    assert tree(tmp_path) == {}


@pytest.mark.parametrize("within", ["", "c"])
def test_a_protected_array_is_not_replaced(
    within: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It could be moved away, but not be removed, and what remains would be in the way."""
    array = tmp_path / "array.zarr"
    put_array(array, OLD)
    before = tree(tmp_path)

    def access(path: Path, mode: int) -> bool:  # permissions do not bind the superuser
        return path != array / within

    monkeypatch.setattr(os, "access", access)
    for sequence in NEVER:
        with pytest.raises(DestinationReadOnlyError, match=r"replaced, since .* is not writable"):
            sequence.to_zarr(array, CONVERTER, overwrite=True)
    assert tree(tmp_path) == before


def test_a_protected_array_of_this_run_is_returned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    array = tmp_path / "array.zarr"
    sequence = LazyChunkSequence.from_map(np.ones, [2, 3])
    options: ZarrOptions = {"run_id": "run", "resume": True}
    sequence.to_zarr(array, CONVERTER, **options)

    def access(path: Path, mode: int) -> bool:
        return path != array

    monkeypatch.setattr(os, "access", access)
    sequence.to_zarr(array, CONVERTER, overwrite=True, **options)


# What a destination can be.


def test_paths_urls_stores_and_dicts_are_destinations(tmp_path: Path) -> None:
    mapping: dict[str, Buffer] = {}
    memory = MemoryStore()
    destinations: list[Any] = [
        str(tmp_path / "text"),
        tmp_path / "path",
        f"file://{tmp_path}/url",
        f"file://{tmp_path}/white%20space",
        f"file://localhost{tmp_path}/host",
        f"FILE://{tmp_path}/upper",
        f"{tmp_path}/slash/",
        tmp_path / "up" / ".." / "down",
        tmp_path / "Schöne Töne ☃\n.zarr",
        LocalStore(tmp_path / "store"),
        StorePath(LocalStore(tmp_path), "place/in/store"),
        StorePath(memory, "place/in/store"),
        MemoryStore(),
        mapping,
        memory,
    ]
    (tmp_path / "up").mkdir()
    for destination in destinations[:-1]:
        stored = FLAT.to_zarr(destination, CONVERTER, return_stored=True)
        np.testing.assert_array_equal(np.asarray(stored[...]), WHOLE)
    names = {"text", "path", "url", "white space", "host", "upper", "slash", "down", "store"}
    names |= {"Schöne Töne ☃\n.zarr", "place"}
    (tmp_path / "up").rmdir()
    assert {path.name for path in tmp_path.iterdir()} == names
    for name in names - {"place"}:
        np.testing.assert_array_equal(values_at(tmp_path / name), WHOLE)
    with pytest.raises(DestinationExistsError):
        FLAT.to_zarr(memory, CONVERTER)  # something is at a place within it


def test_parents_are_made(tmp_path: Path) -> None:
    FLAT.to_zarr(tmp_path / "a" / "b" / "array.zarr", CONVERTER)
    np.testing.assert_array_equal(values_at(tmp_path / "a" / "b" / "array.zarr"), WHOLE)


def test_a_name_that_is_too_long_is_refused_before_block_0(tmp_path: Path) -> None:
    """Hidden siblings have longer names still."""
    for length in (250, 255, 300):
        for sequence in NEVER:
            with pytest.raises(OSError, match="too long"):
                sequence.to_zarr(tmp_path / "a" / "b" / ("n" * length), CONVERTER)
    assert tree(tmp_path) == {}


def test_parents_that_were_made_go_when_nothing_is_stored(tmp_path: Path) -> None:
    bad = LazyChunkSequence(lambda: [np.ones((2, 3)), np.ones((2, 4))])
    with pytest.raises(ValueError, match="block 1"):
        bad.to_zarr(tmp_path / "a" / "b" / "array.zarr", CONVERTER)
    assert tree(tmp_path) == {}


@pytest.mark.parametrize("kind", ["nothing", "old"])
def test_a_relative_path_stays_where_it_was_when_the_run_began(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    if kind == "old":
        put_array("array.zarr", OLD)

    def wandering() -> Iterator[Array]:
        yield WHOLE[:2]
        os.chdir(tmp_path / "elsewhere")
        yield WHOLE[2:]

    for destination in ("array.zarr", LocalStore("array.zarr"), "file://array.zarr"):
        os.chdir(tmp_path)
        sequence = LazyChunkSequence(wandering)
        stored = sequence.to_zarr(destination, CONVERTER, True, overwrite=kind == "old")
        np.testing.assert_array_equal(np.asarray(stored[...]), WHOLE)
        np.testing.assert_array_equal(values_at(tmp_path / "array.zarr"), WHOLE)
        assert {path.name for path in tmp_path.iterdir()} == {"array.zarr", "elsewhere"}
        assert tree(tmp_path / "elsewhere") == {}
        if kind == "nothing":
            shutil.rmtree(tmp_path / "array.zarr")


@pytest.mark.parametrize("destination", [".", "../array.zarr", "..", "file://."])
def test_the_directory_that_the_process_is_in_is_not_replaced(
    destination: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would be left in a directory that is gone."""
    array = tmp_path / "array.zarr"
    put_array(array, OLD)
    before = tree(tmp_path)
    monkeypatch.chdir(array / "c" if destination == ".." else array)
    for sequence in NEVER:
        with pytest.raises(
            (DestinationExistsError, ValueError), match=r"working directory|inside the array|\.\."
        ):
            sequence.to_zarr(destination, CONVERTER, overwrite=True)
    assert tree(tmp_path) == before


def _is_called_mounted(path: Path) -> bool:
    return path.name == "mounted"


def test_a_mount_point_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No rename crosses it, and to find that out at the end would be late."""
    (tmp_path / "mounted").mkdir()
    monkeypatch.setattr(os.path, "ismount", _is_called_mounted)
    for sequence in NEVER:
        with pytest.raises(DestinationExistsError, match="mount point"):
            sequence.to_zarr(tmp_path / "mounted", CONVERTER)
    FLAT.to_zarr(tmp_path / "mounted" / "array.zarr", CONVERTER)
    assert [path.name for path in (tmp_path / "mounted").iterdir()] == ["array.zarr"]


def test_an_empty_directory_is_a_place_for_an_array(tmp_path: Path) -> None:
    place = LocalPlace(tmp_path)
    Path(place.destination).mkdir()
    FLAT.to_zarr(place.destination, CONVERTER)
    np.testing.assert_array_equal(place.read(), WHOLE)


def test_a_path_through_a_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    FLAT.to_zarr(tmp_path / "link" / "array.zarr", CONVERTER)
    assert [path.name for path in (tmp_path / "real").iterdir()] == ["array.zarr"]


def test_a_place_within_an_array_is_refused_through_a_link_too(tmp_path: Path) -> None:
    put_array(tmp_path / "array.zarr", OLD)
    (tmp_path / "link").symlink_to(tmp_path / "array.zarr" / "c")
    before = tree(tmp_path)
    for sequence in NEVER:
        with pytest.raises(DestinationExistsError, match="inside the array"):
            sequence.to_zarr(tmp_path / "link" / "inner.zarr", CONVERTER, overwrite=True)
    assert tree(tmp_path) == before


@pytest.mark.parametrize("destination", [None, 3, 1.5, [], object()])
def test_anything_else_is_no_destination(destination: Any) -> None:
    for sequence in NEVER:
        with pytest.raises(TypeError, match="path"):
            sequence.to_zarr(destination, CONVERTER)


@pytest.mark.parametrize("name", ["", "/", "a/..", "..", "file://", "file:///", "file://localhost"])
def test_what_names_no_directory_is_no_destination(name: str) -> None:
    with pytest.raises(ValueError, match=r"name a directory|does not name"):
        NEVER[0].to_zarr(name, CONVERTER)


@pytest.mark.parametrize("url", ["file:///a/b?c", "file:///a/b#c", "file:///a/b?"])
def test_a_url_of_a_file_has_a_path_only(url: str) -> None:
    """Otherwise an array for a directory whose name has such a sign would go elsewhere."""
    with pytest.raises(ValueError, match=r"%3F.*%23"):
        NEVER[0].to_zarr(url, CONVERTER)


@pytest.mark.parametrize("url", ["s3://bucket/array.zarr", "memory://array.zarr", "file:///a"])
def test_a_url_made_a_path_is_refused(
    url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What was meant for a store elsewhere would be written to a directory here, named ``s3:``."""
    monkeypatch.chdir(tmp_path)
    for sequence in NEVER:
        with pytest.raises(ValueError, match=r"looks like a URL .* str"):
            sequence.to_zarr(Path(url), CONVERTER)
    assert list(tmp_path.iterdir()) == []


def test_a_url_of_fsspec_is_a_destination() -> None:
    pytest.importorskip("fsspec", reason="fsspec is not installed")
    stored = FLAT.to_zarr("memory://lazychunks-test/array.zarr", CONVERTER, return_stored=True)
    try:
        np.testing.assert_array_equal(np.asarray(stored[...]), WHOLE)
        with pytest.raises(DestinationExistsError):
            NEVER[0].to_zarr("memory://lazychunks-test/array.zarr", CONVERTER)
        FLAT.to_zarr("memory://lazychunks-test/array.zarr", CONVERTER, overwrite=True)
    finally:
        _clear_memory_filesystem()


def _clear_memory_filesystem() -> None:
    memory: Any = import_module("fsspec.implementations.memory")
    memory.MemoryFileSystem.store.clear()


@pytest.mark.parametrize("as_path", [str, Path])
def test_a_home_directory_is_expanded(
    as_path: Callable[[str], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    FLAT.to_zarr(as_path("~/array.zarr"), CONVERTER)
    np.testing.assert_array_equal(values_at(tmp_path / "home" / "array.zarr"), WHOLE)
    assert status(as_path("~/array.zarr")).state == "complete"
    with pytest.raises(DestinationExistsError) as caught:
        NEVER[0].to_zarr(as_path("~/array.zarr"), CONVERTER)
    assert caught.value.path == str(tmp_path / "home" / "array.zarr")
    assert tree(tmp_path / "elsewhere") == {}
    FLAT.to_zarr("./~", CONVERTER)
    assert [path.name for path in (tmp_path / "elsewhere").iterdir()] == ["~"]


def test_the_home_directory_of_nobody_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for sequence in NEVER:
        with pytest.raises(ValueError, match=r"no such user; put \./"):
            sequence.to_zarr("~no such user/array.zarr", CONVERTER)
    assert tree(tmp_path) == {}


def test_a_mapper_of_fsspec_is_a_destination(tmp_path: Path) -> None:
    fsspec: Any = pytest.importorskip("fsspec", reason="fsspec is not installed")
    for url in (f"memory://{tmp_path.name}/array.zarr", str(tmp_path / "array.zarr")):
        mapper = fsspec.get_mapper(url)
        try:
            FLAT.to_zarr(mapper, CONVERTER)
            assert status(mapper).state == "complete"
            blocks = LazyChunkSequence.from_zarr(mapper, CONVERTER).compute(list)
            np.testing.assert_array_equal(np.concatenate(blocks), WHOLE)
            with pytest.raises(DestinationExistsError):
                NEVER[0].to_zarr(url, CONVERTER)
        finally:
            _clear_memory_filesystem()
    assert [path.name for path in tmp_path.iterdir()] == ["array.zarr"]


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("kind", ["fsspec", "obstore"])
def test_empty_directories_of_a_failed_write_are_not_in_the_way(
    kind: str, overwrite: bool, tmp_path: Path
) -> None:
    def store() -> Any:
        if kind == "fsspec":
            pytest.importorskip("fsspec", reason="fsspec is not installed")
            return FsspecStore.from_url((tmp_path / "array").as_uri(), {"auto_mkdir": True})
        obstore: Any = pytest.importorskip("obstore.store", reason="obstore is not installed")
        return ObjectStore(obstore.LocalStore(tmp_path / "array", mkdir=True))

    def fail() -> Iterator[Array]:
        yield from (WHOLE[:2], WHOLE[2:4])
        raise ZeroDivisionError

    with pytest.raises(WriteAbortedError):
        LazyChunkSequence(fail).to_zarr(store(), CONVERTER, chunks="blocks")
    assert (tmp_path / "array" / "c").is_dir(), "the store leaves its directories"
    assert status(store()).state == "absent"
    FLAT.to_zarr(store(), CONVERTER, overwrite=overwrite)
    np.testing.assert_array_equal(values_at(tmp_path / "array"), WHOLE)


# A run that is stopped.


class Stop(BaseException):
    """Stands for KeyboardInterrupt."""


@pytest.mark.parametrize("at", [0, 1, 3])
def test_a_run_that_is_stopped_leaves_what_was_there(tmp_path: Path, at: int) -> None:
    place = LocalPlace(tmp_path)
    place.put_old()
    before = place.content()

    def stopped() -> Iterator[Array]:
        yield from np.split(WHOLE, 4)[:at]
        raise Stop

    with pytest.raises(Stop):
        LazyChunkSequence(stopped).to_zarr(
            place.destination, CONVERTER, overwrite=True, chunks="blocks"
        )
    assert place.content() == before


@pytest.fixture
def leftover(tmp_path: Path) -> LocalPlace:
    """What a run that was killed leaves: a hidden directory beside the destination."""
    place = LocalPlace(tmp_path)
    FLAT.to_zarr(place.destination, CONVERTER)
    staging = Path(place.destination).rename(tmp_path / ".array.zarr.partial")
    (staging / "zarr.json").rename(staging / "zarr.json.partial")
    return place


def test_a_leftover_of_a_killed_run_is_refused(leftover: LocalPlace) -> None:
    before = leftover.content()
    for sequence in NEVER:
        with pytest.raises(DestinationExistsError, match="unfinished"):
            sequence.to_zarr(leftover.destination, CONVERTER)
    assert leftover.content() == before


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_a_part_of_a_replaced_array_does_not_come_back(
    zarr_format: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The writer dies while it removes the old array, and somebody removes the new one."""
    array = tmp_path / "array.zarr"
    put_array(array, OLD, zarr_format=zarr_format)

    def die(directory: Path, **_: object) -> None:
        for path in directory.rglob("*0*"):
            if path.is_file():
                path.unlink()
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(shutil, "rmtree", die)
        with pytest.raises(KeyboardInterrupt):
            FLAT.to_zarr(array, CONVERTER, overwrite=True)
    np.testing.assert_array_equal(values_at(array), WHOLE)
    assert [path.name for path in tmp_path.glob(".*")] == [".array.zarr.old"]
    shutil.rmtree(array)
    assert status(array).set_aside is None
    FLAT.to_zarr(array, CONVERTER)
    np.testing.assert_array_equal(values_at(array), WHOLE)
    assert [path.name for path in tmp_path.iterdir()] == ["array.zarr"]


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("target", ["nothing", "old"])
@pytest.mark.parametrize("name", [".array.zarr.old", ".array.zarr.partial"])
@pytest.mark.parametrize("put", [a_file, a_directory_of_files, a_directory_of_a_hidden_file])
def test_what_is_in_the_way_and_no_leftover_stays(
    put: Callable[[Path], None], name: str, target: str, overwrite: bool, tmp_path: Path
) -> None:
    place = LocalPlace(tmp_path)
    if target == "old":
        place.put_old()
    put(tmp_path / name)
    before = place.content()
    for sequence in NEVER:
        with pytest.raises(DestinationExistsError, match=re.escape(name)) as caught:
            sequence.to_zarr(place.destination, CONVERTER, overwrite=overwrite)
        assert caught.value.path == str(tmp_path / name)
    assert place.content() == before


def test_overwrite_clears_a_leftover_of_a_killed_run(leftover: LocalPlace) -> None:
    FLAT.map(lambda block: block + 1).to_zarr(leftover.destination, CONVERTER, overwrite=True)
    np.testing.assert_array_equal(leftover.read(), WHOLE + 1)
    assert [path.name for path in leftover.directory.iterdir()] == ["array.zarr"]


# What is there is looked at again before it is replaced.


def test_an_array_that_came_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    """By a program that knows nothing of our lock."""
    path = tmp_path / "array.zarr"
    theirs: Any = zarr

    def blocks() -> Iterator[Array]:
        yield np.ones((2, 3))
        theirs.create_array(path, shape=(1,), dtype="u1")[:] = 7
        yield np.ones((2, 3))

    with pytest.raises(DestinationExistsError, match="created by another writer in the meantime"):
        LazyChunkSequence(blocks).to_zarr(path, IdentityConverter())
    assert theirs.open_array(path, mode="r")[:].tolist() == [7]
    assert [there.name for there in tmp_path.iterdir()] == ["array.zarr"]


@pytest.mark.parametrize(
    "number", [errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EXDEV, errno.EIO]
)
def test_a_system_that_cannot_exchange_says_so(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = tmp_path / "one", tmp_path / "other"

    class Library:
        def renameat2(self, *_: object) -> int:
            ctypes.set_errno(number)
            return -1

    library: object = Library()

    def loaded(*_: object, **__: object) -> object:
        return library

    monkeypatch.setattr(ctypes, "CDLL", loaded)
    if number == errno.EIO:
        with pytest.raises(OSError, match="Input/output error") as caught:
            exchange_directories(one, other)
        assert (caught.value.errno, caught.value.filename) == (number, str(other))
    else:
        assert not exchange_directories(one, other)
    library = object()
    assert not exchange_directories(one, other), "an old libc"
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not exchange_directories(one, other), "another system"
