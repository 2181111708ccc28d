"""Groups with consolidated metadata above an array: no reader ever trusts a stale copy."""

# pyright: reportUnknownMemberType=false
# The functions of zarr name a type of fsspec, which is optional and has no types.

import json
import os
import shutil
import stat
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from zarr.abc.store import Store
from zarr.storage import FsspecStore, LocalStore, MemoryStore, StorePath, ZipStore

from lazychunks import (
    DestinationExistsError,
    DestinationReadOnlyError,
    IdentityConverter,
    LazyChunkSequence,
    LazyChunksError,
)
from lazychunks.storage.keys import Keys
from lazychunks.storage.places.metadata_last import StoreKeys
from tests.faults.stores import EVERY_FAULT, FaultyStore
from tests.faults.test_row_02_file_system import FileSystem, runs_that_fail
from tests.places import put_array

xarray: Any = pytest.importorskip("xarray", reason="xarray is not installed")

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*[Cc]onsolidated metadata",  # zarr: not in the specification; xarray: there is none
    "ignore:Object at .*:zarr.errors.ZarrUserWarning",  # the names of writers in a group
)

CONVERTER = IdentityConverter()
OLD: NDArray[np.int64] = np.arange(12).reshape(4, 3)
NEW: NDArray[np.float32] = np.arange(40, 60, dtype=np.float32).reshape(5, 4)
BESIDE: NDArray[np.int64] = np.arange(5)

SEQUENCE = LazyChunkSequence.from_map(lambda row: NEW[row : row + 1], range(5))


def put_dataset(store: Any, *, scored: bool, group: str | None = None) -> None:
    """Store a dataset as xarray does, with consolidated metadata."""
    data: dict[str, Any] = {"beside": (("beside",), BESIDE)}
    if scored:
        data["score"] = (("x", "y"), OLD)
    xarray.Dataset(data).to_zarr(store, group=group, consolidated=True, mode="w")


def score_in(store: Any, group: str | None = None) -> str:
    """What xarray reads of the score: the old one, none, or the new one; else it is wrong."""
    with xarray.open_zarr(store, group=group) as data:
        np.testing.assert_array_equal(data["beside"], BESIDE)
        if "score" not in data:
            return "none"
        found = data["score"].to_numpy()
    for name, values in (("old", OLD), ("new", NEW)):
        if found.dtype == values.dtype and np.array_equal(found, values):
            return name
    raise AssertionError(found)


def is_consolidated(store: Any, group: str = "") -> bool:
    return zarr.open_group(store, path=group, mode="r").metadata.consolidated_metadata is not None


def write(destination: Any, **options: Any) -> None:
    SEQUENCE.to_zarr(
        destination, CONVERTER, overwrite=True, dimension_names=("row", "column"), **options
    )


# Every kind of place


def a_path(root: Path) -> tuple[Any, Any]:
    return root / "ds.zarr", root / "ds.zarr" / "score"


def a_link(root: Path) -> tuple[Any, Any]:
    (root / "real").mkdir()
    (root / "link").symlink_to("real")
    return root / "real" / "ds.zarr", root / "link" / "ds.zarr" / "score"


def a_local_store(root: Path) -> tuple[Any, Any]:
    store = LocalStore(root / "ds.zarr")
    return root / "ds.zarr", StorePath(store, "score")


def a_memory_store(_: Path) -> tuple[Any, Any]:
    store = MemoryStore()
    return store, StorePath(store, "score")


def a_url(root: Path) -> tuple[Any, Any]:
    pytest.importorskip("fsspec", reason="fsspec is not installed")
    name = f"memory://{root.name}/ds.zarr"
    return FsspecStore.from_url(name), f"{name}/score"


KINDS: list[Callable[[Path], tuple[Any, Any]]] = [
    a_path,
    a_link,
    a_local_store,
    a_memory_store,
    a_url,
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scored", [False, True])
def test_xarray_finds_what_has_been_stored(
    kind: Callable[[Path], tuple[Any, Any]], scored: bool, tmp_path: Path
) -> None:
    dataset, destination = kind(tmp_path)
    put_dataset(dataset, scored=scored)
    write(destination)
    assert score_in(dataset) == "new"
    assert is_consolidated(dataset)
    before = zarr.open_group(dataset, mode="r").metadata.to_dict()
    zarr.consolidate_metadata(dataset)
    assert zarr.open_group(dataset, mode="r").metadata.to_dict() == before


@pytest.mark.parametrize("kind", KINDS)
def test_a_block_that_fails_leaves_the_copy_right(
    kind: Callable[[Path], tuple[Any, Any]], tmp_path: Path
) -> None:
    dataset, destination = kind(tmp_path)
    put_dataset(dataset, scored=True)
    failing = SEQUENCE.map(lambda block: block[: 1 // (block[0, 0] != 48)])
    with pytest.raises(LazyChunksError):
        failing.to_zarr(destination, CONVERTER, overwrite=True)
    assert score_in(dataset) == ("old" if kind in (a_path, a_link, a_local_store) else "none")
    assert is_consolidated(dataset)


def test_a_stale_copy_of_what_is_not_there_is_replaced(tmp_path: Path) -> None:
    dataset, destination = a_memory_store(tmp_path)
    put_dataset(dataset, scored=True)
    Keys(dataset, "score").delete_directory()
    write(destination)
    assert score_in(dataset) == "new"


@pytest.mark.parametrize("consolidated", [("",), ("deep",), ("", "deep")])
def test_all_groups_above_are_kept_in_step(consolidated: tuple[str, ...], tmp_path: Path) -> None:
    for dataset, destination in (
        (tmp_path / "ds.zarr", tmp_path / "ds.zarr/deep/score"),
        (store := MemoryStore(), StorePath(store, "deep/score")),
    ):
        put_dataset(dataset, scored=True)
        put_dataset(dataset, scored=True, group="deep")
        for path in ("", "deep"):  # xarray consolidates only where it writes
            keys = _keys(dataset, path)
            document = json.loads(keys.read("zarr.json") or b"")
            document.pop("consolidated_metadata", None)
            keys.write("zarr.json", json.dumps(document).encode())
        for path in consolidated[::-1]:
            zarr.consolidate_metadata(dataset, path=path)
        write(destination)
        assert score_in(dataset, "deep") == "new"
        assert score_in(dataset) == "old"
        assert [path for path in ("", "deep") if is_consolidated(dataset, path)] == [*consolidated]
        group = zarr.open_group(dataset, mode="r")["deep"]
        assert isinstance(group, zarr.Group)
        np.testing.assert_array_equal(group["score"], NEW)


def _keys(dataset: Any, path: str) -> Keys:
    if isinstance(dataset, Path):
        return Keys(LocalStore(dataset), path)
    return Keys(dataset, path)


# At every moment: a kill at each operation leaves what a reader would have seen there


def seen_by_all(dataset: Any) -> str:
    """What is seen with a copy and without, which may differ in that one of them sees none."""
    found = score_in(dataset)
    with xarray.open_zarr(dataset, consolidated=False) as data:
        is_there = "score" in data
        if is_there and found != "none":
            assert data["score"].dtype == (OLD if found == "old" else NEW).dtype
    return found


@pytest.mark.parametrize("scored", [False, True])
def test_a_kill_at_any_operation_of_a_store(scored: bool) -> None:
    def run(store: Store) -> None:
        write(StorePath(store, "score"), run_id="v1", resume=True, chunks=(2, 4))

    store = MemoryStore()
    put_dataset(store, scored=scored)
    counting = FaultyStore(store)
    run(counting)
    seen = set[str]()
    for number in range(1, len(counting.operations) + 1):
        for fault in EVERY_FAULT:
            store = MemoryStore()
            put_dataset(store, scored=scored)
            with suppress(OSError, LazyChunksError):  # to clean up may fail without a word
                run(FaultyStore(store, number, fault))
            seen.add(seen_by_all(store))
            assert is_consolidated(store)
            run(store)
            assert score_in(store) == "new", (number, fault)
    assert seen == ({"old", "none", "new"} if scored else {"none", "new"})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("scored", "can_exchange", "durable"),
    [(False, True, False), (True, False, False), (True, True, False)],
)
def test_a_kill_at_any_call_of_the_file_system(
    scored: bool, can_exchange: bool, durable: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = FileSystem(monkeypatch, can_exchange=can_exchange)
    dataset = tmp_path / "ds.zarr"
    put_dataset(tmp_path / "before.zarr", scored=scored)

    def prepare() -> None:
        shutil.rmtree(dataset, ignore_errors=True)
        shutil.copytree(tmp_path / "before.zarr", dataset)

    def run() -> None:
        write(dataset / "score", durable=durable)

    before = "old" if scored else "none"
    seen = set[str]()
    lost = 0
    for what in runs_that_fail(run, prepare, files):
        found = seen_by_all(dataset)
        seen.add(found)
        # None is there only between two renames. What comes in the moment of the exchange, and
        # keeps the copy from being put back, costs the copy.
        assert found in (before, "new") or not can_exchange, what
        lost += not is_consolidated(dataset)
        run()
        assert score_in(dataset) == "new", what
    assert {before, "new"} <= seen
    assert lost <= (18 if scored else 0)


# Groups that cannot be kept in step are refused before any block is computed


def never(_: Any) -> Any:
    raise AssertionError("a block was computed")


@pytest.mark.parametrize("group", ["old.zarr", "old.zarr/inner"])
def test_below_a_group_of_zarr_2(group: str, tmp_path: Path) -> None:
    zarr.create_group(tmp_path / "old.zarr", zarr_format=2)
    store = MemoryStore()
    zarr.create_group(store, path="old.zarr", zarr_format=2)
    put_array(tmp_path / "old.zarr", OLD, path="member", zarr_format=2)
    untouched = sorted(tmp_path.rglob("*"))
    for destination in (
        tmp_path / group / "score",
        tmp_path / "old.zarr" / "member",
        StorePath(store, f"{group}/score"),
    ):
        with pytest.raises(DestinationExistsError, match=r"is below .*, a group of Zarr 2"):
            SEQUENCE.map(never).to_zarr(destination, CONVERTER, overwrite=True)
    assert sorted(tmp_path.rglob("*")) == untouched


def test_below_a_group_that_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_dataset(tmp_path, scored=False)
    (tmp_path / "below").mkdir()

    def access(path: Path, _: int) -> bool:
        return path != tmp_path

    monkeypatch.setattr(os, "access", access)
    with pytest.raises(DestinationReadOnlyError, match=r"below the group .* cannot be changed"):
        SEQUENCE.map(never).to_zarr(tmp_path / "below" / "score", CONVERTER)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["below", "beside", "zarr.json"]


def test_in_a_zip_file_below_a_group_with_a_copy(tmp_path: Path) -> None:
    with ZipStore(tmp_path / "ds.zip", mode="w") as store:
        zarr.create_group(store, attributes={"a": 1})
        write(StorePath(store, "score"))  # without a copy there is nothing to keep in step
        copy: Any = {"kind": "inline", "must_understand": False, "metadata": {}}
        group: Any = {"zarr_format": 3, "node_type": "group", "consolidated_metadata": copy}
        Keys(store, "with").write("zarr.json", json.dumps(group).encode())
        with pytest.raises(DestinationReadOnlyError, match=r"below the group .*with"):
            SEQUENCE.map(never).to_zarr(StorePath(store, "with/score"), CONVERTER)


# What else is in a group, or beside it, stays as it is


def test_the_metadata_of_a_group_keep_their_mode(tmp_path: Path) -> None:
    dataset = tmp_path / "ds.zarr"
    put_dataset(dataset, scored=True)
    (dataset / "zarr.json").chmod(0o640)
    write(dataset / "score")
    assert stat.S_IMODE((dataset / "zarr.json").stat().st_mode) == 0o640


@pytest.mark.parametrize("where", [a_path, a_memory_store])
def test_a_group_without_a_copy_is_not_touched(where: Any, tmp_path: Path) -> None:
    dataset, destination = where(tmp_path)
    document = b'{"zarr_format":3,  "node_type":"group"}'
    _keys(dataset, "").write("zarr.json", document)
    write(destination)
    write(destination)
    assert _keys(dataset, "").read("zarr.json") == document


@pytest.mark.parametrize(
    "broken",
    [
        b"",
        b"[]",
        b'{"node_type":"group","consolidated_metadata":[]}',
        b'{"node_type":"group","consolidated_metadata":{"metadata":null}}',
        b'{"node_type":"group","consolidated_metadata":{"metadata":{"score":1}}}',
    ],
)
def test_a_group_that_nobody_can_read_is_not_touched(broken: bytes) -> None:
    store = MemoryStore()
    Keys(store, "").write("zarr.json", broken)
    write(StorePath(store, "score"))
    assert Keys(store, "").read("zarr.json") == broken


@pytest.mark.parametrize("where", [a_path, a_memory_store])
def test_writers_of_two_arrays_take_turns(where: Any, tmp_path: Path) -> None:
    dataset, _ = where(tmp_path)
    put_dataset(dataset, scored=False)

    def store(name: str) -> None:
        for height in (1, 2, 3):
            at = dataset / name if isinstance(dataset, Path) else StorePath(dataset, name)
            LazyChunkSequence.from_map(np.ones, [height]).to_zarr(at, CONVERTER, overwrite=True)

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(store, "abcd"))
    kept = zarr.open_group(dataset, mode="r").metadata.consolidated_metadata
    assert kept is not None
    zarr.consolidate_metadata(dataset)
    anew = zarr.open_group(dataset, mode="r").metadata.consolidated_metadata
    assert anew is not None
    assert kept.metadata == anew.metadata


def test_a_session_of_icechunk_needs_no_copy() -> None:
    """Icechunk takes no copies, and reads none."""
    icechunk: Any = pytest.importorskip("icechunk", reason="icechunk is not installed")
    session = icechunk.Repository.create(icechunk.in_memory_storage()).writable_session("main")
    put_dataset(session.store, scored=True)
    with pytest.raises(TypeError, match="consolidated"):
        zarr.consolidate_metadata(session.store)
    write(StorePath(session.store, "score"))
    with xarray.open_zarr(session.store, consolidated=False) as data:
        np.testing.assert_array_equal(data["score"], NEW)


# The copy is the one that zarr makes

NAMES = st.sampled_from(["a", "b", "ab"])
PATHS = st.lists(NAMES, min_size=1, max_size=3).map("/".join)


@given(st.sets(PATHS, max_size=5), PATHS, st.booleans(), st.data())
def test_the_copy_is_the_one_that_zarr_makes(
    paths: set[str], path: str, withdrawn: bool, data: st.DataObject
) -> None:
    store = MemoryStore()
    root = zarr.create_group(store)
    for other in sorted(paths, key=len):
        parents = [other.rsplit("/", number)[0] for number in range(other.count("/") + 1)]
        if not any(isinstance(root.get(parent), zarr.Array) for parent in parents):
            make: Any = data.draw(st.sampled_from([root.create_array, root.require_group]))
            if other not in root:
                make(other, **({"shape": (2,), "dtype": "i4"} if make == root.create_array else {}))
    if isinstance(root.get(path), zarr.Group):
        return
    zarr.consolidate_metadata(store)
    place = StoreKeys(store, path)
    if withdrawn:
        place.copies.withdraw()
        names = dict(zarr.open_group(store, mode="r").members(max_depth=None))
        assert path not in names
    scratch = MemoryStore()
    zarr.create_array(scratch, shape=(3,), dtype="f4", fill_value=np.nan)
    metadata = Keys(scratch, "").read("zarr.json")
    assert metadata is not None
    place.write("zarr.json", metadata)
    place.copies.announce(metadata)
    kept = json.loads(Keys(store, "").read("zarr.json") or b"")
    zarr.consolidate_metadata(store)
    assert kept == json.loads(Keys(store, "").read("zarr.json") or b"")
