"""One place under several names is one place: to two writers, and to a reader and a writer."""

from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from zarr.abc.store import Store
from zarr.storage import FsspecStore, LocalStore, MemoryStore, ObjectStore, StorePath, WrapperStore

from lazychunks import (
    DestinationBusyError,
    DestinationExistsError,
    IdentityConverter,
    LazyChunkSequence,
)
from lazychunks.storage.places.location import Location, locate
from tests.places import put_array, values_at

CONVERTER = IdentityConverter()
WHOLE: NDArray[np.int64] = np.arange(12).reshape(4, 3)

Twins = tuple[Any, Any]
"""Two destinations that are one place."""


class Wrapper(WrapperStore[Store]):
    """A store around another one, of the user's own."""


def _never() -> Iterator[Any]:
    yield pytest.fail("a block was asked for")


def obstore() -> Any:
    return pytest.importorskip("obstore.store", reason="obstore is not installed")


def fsspec() -> Any:
    return pytest.importorskip("fsspec", reason="fsspec is not installed")


def files(path: Path) -> FsspecStore:
    fsspec()
    return FsspecStore.from_url(path.as_uri(), {"auto_mkdir": True})


def in_obstore(path: Path) -> Any:
    return ObjectStore(obstore().LocalStore(path, mkdir=True))


def link_to(root: Path) -> Path:
    (root / "real").mkdir()
    (root / "link").symlink_to(root / "real")
    return root / "link"


def a_store_and_a_wrapper_of_it(root: Path) -> Twins:
    store = MemoryStore()
    return store, Wrapper(store)


def two_wrappers_of_a_store(root: Path) -> Twins:
    store = MemoryStore()
    return Wrapper(Wrapper(store)), Wrapper(store)


def a_dict_and_a_store_of_it(root: Path) -> Twins:
    content: dict[str, Any] = {}
    return content, MemoryStore(content)


def a_path_and_files_of_fsspec(root: Path) -> Twins:
    return root / "array", files(root / "array")


def a_path_by_a_link_and_files_of_fsspec(root: Path) -> Twins:
    return link_to(root) / "array", files(root / "real" / "array")


def files_by_a_link(root: Path) -> Twins:
    return files(link_to(root) / "array"), files(root / "real" / "array")


def a_path_by_a_link(root: Path) -> Twins:
    return link_to(root) / "array", root / "real" / "array"


def a_path_and_a_wrapped_directory(root: Path) -> Twins:
    return root / "array", StorePath(Wrapper(LocalStore(root)), "array")


def files_of_obstore_and_of_fsspec(root: Path) -> Twins:
    return in_obstore(root / "array"), StorePath(files(root), "array")


def a_url_and_a_mapper(root: Path) -> Twins:
    return f"memory://{root.name}/array", fsspec().get_mapper(f"memory://{root.name}/array")


def a_url_and_a_directory_file_system(root: Path) -> Twins:
    directory: Any = import_module("fsspec.implementations.dirfs").DirFileSystem
    asynchronous: Any = import_module("fsspec.implementations.asyn_wrapper").AsyncFileSystemWrapper
    below = directory(f"/{root.name}", fsspec().filesystem("memory"))
    store = FsspecStore(asynchronous(below, asynchronous=True), path="array")
    return f"memory://{root.name}/array", store


def a_memory_of_obstore(root: Path) -> Twins:
    store = obstore().MemoryStore()
    return ObjectStore(store), Wrapper(ObjectStore(store))


TWINS: list[Callable[[Path], Twins]] = [
    a_store_and_a_wrapper_of_it,
    two_wrappers_of_a_store,
    a_dict_and_a_store_of_it,
    a_path_and_files_of_fsspec,
    a_path_by_a_link_and_files_of_fsspec,
    files_by_a_link,
    a_path_by_a_link,
    a_path_and_a_wrapped_directory,
    files_of_obstore_and_of_fsspec,
    a_url_and_a_mapper,
    a_url_and_a_directory_file_system,
    a_memory_of_obstore,
]


@pytest.fixture(autouse=True)
def _clear_memory_of_fsspec() -> Iterator[None]:
    yield
    memory: Any = import_module("fsspec.implementations.memory")
    memory.MemoryFileSystem.store.clear()


@pytest.mark.filterwarnings("ignore:fs .* was not created with")
@pytest.mark.parametrize("make", TWINS)
@pytest.mark.parametrize("swapped", [False, True])
def test_the_second_of_two_writers_is_told(
    swapped: bool, make: Callable[[Path], Twins], tmp_path: Path
) -> None:
    one, other = make(tmp_path)[:: -1 if swapped else 1]
    told = 0

    def too(row: int) -> NDArray[np.int64]:
        nonlocal told
        with pytest.raises(DestinationBusyError):
            LazyChunkSequence(_never).to_zarr(other, CONVERTER, overwrite=True)
        told += 1
        return WHOLE[row : row + 1]

    LazyChunkSequence.from_map(too, range(4)).to_zarr(one, CONVERTER)
    assert told == 4
    again = LazyChunkSequence.from_zarr(other, CONVERTER).compute(list)
    np.testing.assert_array_equal(np.concatenate(again), WHOLE)


@pytest.mark.filterwarnings("ignore:fs .* was not created with")
@pytest.mark.parametrize("make", [make for make in TWINS if make is not a_path_by_a_link])
@pytest.mark.parametrize("swapped", [False, True])
def test_what_is_read_by_one_name_is_not_removed_by_another(
    swapped: bool, make: Callable[[Path], Twins], tmp_path: Path
) -> None:
    one, other = make(tmp_path)[:: -1 if swapped else 1]
    LazyChunkSequence.from_map(lambda row: WHOLE[row : row + 1], range(4)).to_zarr(one, CONVERTER)
    again = LazyChunkSequence.from_zarr(one, CONVERTER, rows=1).map(lambda block: block + 1)
    try:
        stored = again.to_zarr(other, CONVERTER, overwrite=True, return_stored=True)
    except DestinationExistsError as error:
        assert "being read" in str(error)  # noqa: PT017  # refused, or right
        left = LazyChunkSequence.from_zarr(one, CONVERTER).compute(list)
        np.testing.assert_array_equal(np.concatenate(left), WHOLE)
    else:
        assert isinstance(other, Path), "only a path keeps the old array"
        np.testing.assert_array_equal(np.asarray(stored[...]), WHOLE + 1)


def test_different_places_are_free(tmp_path: Path) -> None:
    """Also if what they hold is equal, as are two stores of zarr in memory then."""
    first, second = MemoryStore(), MemoryStore()

    def too(row: int) -> NDArray[np.int64]:
        for place in (second, Wrapper(MemoryStore()), tmp_path / "other", StorePath(first, "b")):
            put_array(MemoryStore(), WHOLE)
            LazyChunkSequence(lambda: [WHOLE]).to_zarr(place, CONVERTER, overwrite=True)
        return WHOLE[row : row + 1]

    LazyChunkSequence.from_map(too, range(4)).to_zarr(StorePath(first, "a"), CONVERTER)
    np.testing.assert_array_equal(values_at(first, "a"), WHOLE)


# Where a place is, without asking any server.


class S3FileSystem:
    """What tells where a store of s3fs is."""

    protocol = ("s3", "s3a")
    async_impl = True
    asynchronous = True


def by_s3fs(path: str) -> Store:
    file_system: Any = S3FileSystem()
    return FsspecStore(file_system, path=path)


@pytest.mark.parametrize(
    ("kind", "options", "name"),
    [
        ("S3Store", {"region": "here"}, "s3"),
        ("S3Store", {"region": "there", "endpoint": "http://other"}, "s3"),
        ("GCSStore", {"skip_signature": True}, "gs"),
        ("AzureStore", {"skip_signature": True, "account_name": "anybody"}, "abfs"),
    ],
)
def test_a_bucket_is_known_by_its_name(kind: str, options: dict[str, Any], name: str) -> None:
    make = getattr(obstore(), kind)
    whole, below = make("bucket", **options), make("bucket", prefix="some/where", **options)
    expected = Location(name, "bucket/some/where/array")
    assert locate(ObjectStore(whole), "some/where/array") == expected
    assert locate(ObjectStore(below), "array") == expected
    assert locate(Wrapper(ObjectStore(below)), "array") == expected


@pytest.mark.filterwarnings("ignore:fs .* was not created with")
def test_one_bucket_by_two_libraries() -> None:
    by_obstore = ObjectStore(obstore().S3Store("bucket", prefix="some"))
    one, other = locate(by_s3fs("bucket/some/array"), ""), locate(by_obstore, "array")
    assert one == other
    assert one.overlaps(locate(by_obstore, ""))
    assert not one.overlaps(locate(by_obstore, "array2"))
    assert not one.overlaps(locate(ObjectStore(obstore().S3Store("other", prefix="some")), "array"))


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ("", "", True),
        ("", "a", True),
        ("a", "a", True),
        ("a", "a/b", True),
        ("a", "ab", False),
        ("a/b", "a/c", False),
    ],
)
def test_places_overlap_where_one_is_within_the_other(one: str, other: str, expected: bool) -> None:
    here, there = Location("root", one), Location("root", other)
    assert here.overlaps(there) is there.overlaps(here) is expected
    assert not here.overlaps(Location("elsewhere", other))
