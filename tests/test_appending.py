"""Appending: what a night adds, what it costs, and what it refuses before it computes anything.

What happens when something fails is told by ``tests/faults/test_appends.py``.
"""

# pyright: reportUnknownMemberType=false
# The functions of zarr name a type of fsspec, which is optional and has no types.

import os
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from numpy.typing import NDArray
from zarr.abc.store import Store
from zarr.codecs import GzipCodec, TransposeCodec
from zarr.core.buffer import Buffer
from zarr.storage import FsspecStore, MemoryStore, WrapperStore, ZipStore

from lazychunks import (
    AppendMismatchError,
    BlockDTypeError,
    BlockShapeError,
    DestinationBusyError,
    DestinationError,
    DestinationExistsError,
    IdentityConverter,
    LazyChunkSequence,
    LazyChunksError,
    NestedLazyChunkSequence,
    ResumeMismatchError,
    UntrustedArrayError,
    WriteAbortedError,
    concatenate,
    tee,
    total,
    verify,
    zarr_sink,
)
from lazychunks.storage.keys import Keys
from lazychunks.storage.resuming import base, record
from tests.faults.processes import CONTEXT
from tests.faults.stores import Fault, FaultyStore, StoreFailedError
from tests.places import opened, put_array, put_group, tree, values_at
from tests.ranks import ThreadRanks, run_ranks

NUMPY: IdentityConverter = IdentityConverter()
Rows = NDArray[Any]


def rows_of(*sizes: int, start: int = 0, width: int = 3, dtype: str = "int64") -> list[Rows]:
    """Make blocks, one after the other."""
    length = sum(sizes)
    rows = np.arange(start, start + length * width, dtype=dtype).reshape(length, width)
    return np.split(rows, np.cumsum(sizes)[:-1])


def sequence_of(blocks: list[Rows], computed: list[int] | None = None) -> LazyChunkSequence[Rows]:
    """Make a sequence of blocks, which notes those that it computes."""

    def block(number: int) -> Rows:
        if computed is not None:
            computed.append(number)
        return blocks[number]

    return LazyChunkSequence.from_map(block, range(len(blocks)))


def append(destination: Any, *sizes: int, **options: Any) -> list[int]:
    """Append blocks of these sizes, and return the numbers of those that were computed."""
    computed: list[int] = []
    sequence_of(rows_of(*sizes), computed).to_zarr(destination, NUMPY, append=True, **options)
    return computed


def refused(destination: Any, error: type[Exception], words: str, **options: Any) -> None:
    """Refuse an append before a block is computed."""

    def die(_: int) -> Rows:
        raise AssertionError

    with pytest.raises(error, match=words):
        LazyChunkSequence.from_map(die, [0]).to_zarr(destination, NUMPY, append=True, **options)


# --- what is added -------------------------------------------------------------------------------


def test_the_first_night_creates_and_the_others_add(tmp_path: Path) -> None:
    path = tmp_path / "rows.zarr"
    for night in range(3):
        append(path, 2, 2, chunks=3)
        assert np.array_equal(values_at(path), np.concatenate(rows_of(2, 2) * (night + 1)))
    assert opened(path).chunks == (3, 3)


def test_a_night_that_has_come_is_not_computed_again() -> None:
    store: dict[str, Buffer] = {}
    for night in ("one", "two", "three"):
        assert append(store, 2, 3, run_id=night) == [0, 1]
    before = dict(store)
    for night in ("two", "one", "three"):
        assert append(store, 2, 3, run_id=night) == []
        assert append(store, 2, 3, run_id=night, resume=True) == []
    assert store == before


def test_an_array_of_another_program_gets_rows(tmp_path: Path) -> None:
    path = tmp_path / "rows.zarr"
    encodings: list[Any] = [None, {"name": "v2"}, {"name": "default", "separator": "."}]
    for keys in encodings:
        zarr.create_array(
            path,
            data=np.concatenate(rows_of(5)),
            chunks=(2, 2),
            chunk_key_encoding=keys,
            overwrite=True,
            attributes={"units": "m"},
            compressors=GzipCodec(),
            fill_value=7,
        )
        append(path, 4)
        append(path, 1, run_id="named")
        expected = np.concatenate(rows_of(5) + rows_of(4) + rows_of(1))
        assert np.array_equal(values_at(path), expected)
        assert opened(path).attrs["units"] == "m"


def test_a_missing_last_chunk_has_the_fill_value() -> None:
    store: dict[str, Buffer] = {}
    zarr.create_array(MemoryStore(store), shape=(3, 3), chunks=(2, 3), dtype="int64", fill_value=5)
    append(store, 2, run_id="night")
    expected = np.concatenate([np.full((3, 3), 5), *rows_of(2)])
    assert np.array_equal(values_at(MemoryStore(store)), expected)
    read = LazyChunkSequence.from_zarr(store, NUMPY).compute(concatenate())
    assert np.array_equal(read, expected), "the chunks that another program has left out"
    assert verify(store).is_sound


def test_other_byte_order_and_casts() -> None:
    store: dict[str, Buffer] = {}
    put_array(MemoryStore(store), np.concatenate(rows_of(3)).astype(">i8"))
    append(store, 2)
    sequence_of(rows_of(2, dtype="float32")).to_zarr(store, NUMPY, append=True, dtype="int64")
    expected = np.concatenate(rows_of(3) + rows_of(2) * 2)
    assert np.array_equal(values_at(MemoryStore(store)), expected)


def test_folds_see_the_new_blocks_only() -> None:
    store: dict[str, Buffer] = {}
    for night in range(2):
        for _ in range(2):  # the second time, the rows are there and the folds want theirs
            sink = zarr_sink(store, NUMPY, append=True, run_id=f"{night}")
            stored, joined, summed = sequence_of(rows_of(2, 3)).compute(
                tee(sink, concatenate(), total(axis=0))
            )
            assert np.array_equal(joined, np.concatenate(rows_of(2, 3)))
            assert np.array_equal(summed, joined.sum(axis=0))
            assert stored.shape == (5 * (night + 1), 3)


@pytest.mark.parametrize(("there", "size", "count"), [(4, 2, 5), (3, 1, 9), (2, 2, 4), (5, 7, 1)])
def test_workers_append_where_the_array_ends_inside_a_chunk(
    there: int, size: int, count: int, tmp_path: Path
) -> None:
    path = tmp_path / "rows.zarr"
    append(path, there, chunks=4)
    blocks = rows_of(*(size,) * count)
    with ThreadPoolExecutor(3) as executor:
        sequence_of(blocks).to_zarr(path, NUMPY, append=True, executor=executor, run_id="a")
        assert append(path, *(size,) * count, executor=executor, run_id="a") == []
    assert np.array_equal(values_at(path), np.concatenate(rows_of(there) + blocks))


def test_workers_append_rows_of_blocks(tmp_path: Path) -> None:
    path = tmp_path / "rows.zarr"
    put_array(path, np.zeros((3, 6), "int64"))

    def block(row: int, column: int) -> Rows:
        return np.full((1, 2), 10 * row + column)

    nested = NestedLazyChunkSequence.from_product(block, range(7), range(3))
    with ThreadPoolExecutor(3) as executor:
        nested.to_zarr(path, NUMPY, append=True, executor=executor)
    assert np.array_equal(values_at(path)[3:], np.block(nested.compute()))


@pytest.mark.slow
def test_processes_append(tmp_path: Path) -> None:
    path = tmp_path / "rows.zarr"
    put_array(path, np.zeros((3, 3)))
    sequence: LazyChunkSequence[Rows] = LazyChunkSequence.from_map(np.ones, [(1, 3)] * 9)
    with ProcessPoolExecutor(2, mp_context=CONTEXT) as executor:
        sequence.to_zarr(path, NUMPY, append=True, executor=executor, run_id="night", resume=True)
    assert np.array_equal(values_at(path), np.concatenate([np.zeros((3, 3)), np.ones((9, 3))]))


def test_a_killed_night_may_be_resumed() -> None:
    store: dict[str, Buffer] = {}
    append(store, 3, chunks=2)
    failing = FaultyStore(MemoryStore(store), 4, Fault(effective=False, lasting=True))
    with pytest.raises(WriteAbortedError, match="no row was appended; the same call starts over"):
        append(failing, 2, 2, 2, run_id="night", resume=True)
    assert np.array_equal(values_at(MemoryStore(store)), np.concatenate(rows_of(3)))
    append(store, 2, 2, 2, run_id="night", resume=True)
    assert np.array_equal(
        values_at(MemoryStore(store)), np.concatenate(rows_of(3) + rows_of(2, 2, 2))
    )
    assert append(store, 2, 2, 2, run_id="night", resume=True) == []


@pytest.mark.parametrize("there", [3, 4])
def test_ranks_append_once(there: int, tmp_path: Path) -> None:
    path = tmp_path / "rows.zarr"
    append(path, there, chunks=4)
    blocks = rows_of(*(1,) * 14)

    def job(ranks: ThreadRanks) -> list[int]:
        computed: list[int] = []
        for _ in range(2):
            sequence_of(blocks, computed).to_zarr(
                path, NUMPY, append=True, run_id="night", resume=True, ranks=ranks
            )
        return computed

    came_to = run_ranks(2, job)
    lists = [each for each in came_to if isinstance(each, list)]
    assert len(lists) == 2, came_to
    assert {*lists[0], *lists[1]} == {*range(14)}
    assert sum(map(len, lists)) <= 14 + 1, "the second call computes nothing"
    assert np.array_equal(values_at(path), np.concatenate(rows_of(there) + blocks))


def test_a_rank_that_fails_leaves_the_old_rows(tmp_path: Path) -> None:
    path = tmp_path / "rows.zarr"
    append(path, 3, chunks=4)
    before = values_at(path)

    def job(ranks: ThreadRanks) -> None:
        def block(number: int) -> Rows:
            if number == 9:
                raise StoreFailedError
            return rows_of(1)[0]

        LazyChunkSequence.from_map(block, range(14)).to_zarr(
            path, NUMPY, append=True, run_id="night", ranks=ranks
        )

    assert all(isinstance(each, LazyChunksError) for each in run_ranks(2, job))
    assert np.array_equal(values_at(path), before)
    append(path, 2, run_id="night")
    assert np.array_equal(values_at(path), np.concatenate([before, *rows_of(2)]))


@pytest.mark.filterwarnings("ignore:Consolidated metadata")
def test_a_reader_keeps_its_rows_and_a_copy_above_is_kept_in_step(tmp_path: Path) -> None:
    group = zarr.create_group(tmp_path / "all.zarr")
    append(tmp_path / "all.zarr" / "rows", 3, chunks=2)
    zarr.consolidate_metadata(group.store)
    reader = opened(tmp_path / "all.zarr" / "rows")
    append(tmp_path / "all.zarr" / "rows", 2)
    assert np.array_equal(reader[...], np.concatenate(rows_of(3)))
    copied: Any = zarr.open_consolidated(tmp_path / "all.zarr")["rows"]
    assert copied.shape == (5, 3)


def test_durable_appends_sync_the_new_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lazychunks.storage.places import directory, file_system

    path, synced = tmp_path / "rows.zarr", list[str]()

    def note(which: Path) -> None:
        synced.append(which.relative_to(tmp_path).as_posix())

    append(path, 3, 4, chunks=2)
    for module in (directory, file_system):
        monkeypatch.setattr(module, "sync_path", note)
    append(path, 2, 1, durable=True)
    new = ["rows.zarr/c/3/0", "rows.zarr/c/4/0"]
    assert synced[:2] == new
    assert {"rows.zarr/c/3", "rows.zarr/c/4", "rows.zarr/c", "rows.zarr"} <= {*synced}
    assert synced[-2].startswith("rows.zarr/zarr.json."), "after the chunks"


def test_durable_appends_sync_the_last_old_rows_before_they_are_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    fsync, rename = os.fsync, os.replace

    def note_sync(descriptor: int) -> None:
        calls.append("sync")
        fsync(descriptor)

    def note_rename(old: str, new: str) -> None:
        calls.append(Path(new).relative_to(path).as_posix())
        rename(old, new)

    path = tmp_path / "rows.zarr"
    append(path, 3, chunks=2)
    monkeypatch.setattr(os, "fsync", note_sync)
    monkeypatch.setattr(os, "replace", note_rename)
    append(path, 1, durable=True)
    assert calls[calls.index("c/1/0") - 1] == "sync"


# --- what it costs -------------------------------------------------------------------------------


@pytest.mark.parametrize("there", [3, 3000])
def test_the_number_of_operations_does_not_depend_on_what_is_there(there: int) -> None:
    content: dict[str, Buffer] = {}
    append(content, there, chunks=4)
    store = FaultyStore(MemoryStore(content))
    append(store, 4, 1, run_id="night", max_in_flight=1)
    assert store.operations == [
        "set lazychunks.append",
        *(f"set c/{number}/0" for number in range(there // 4, -(-(there + 5) // 4))),
        "set zarr.json",
        "delete lazychunks.append",
    ]


class CountingStore(WrapperStore[Store]):
    """Counts all requests."""

    requests = 0

    async def get(self, *args: Any, **options: Any) -> Buffer | None:
        self.requests += 1
        return await self._store.get(*args, **options)

    async def set(self, key: str, value: Buffer) -> None:
        self.requests += 1
        await self._store.set(key, value)

    async def exists(self, key: str) -> bool:
        self.requests += 1
        return await self._store.exists(key)

    async def delete(self, key: str) -> None:
        self.requests += 1
        await self._store.delete(key)

    def list_dir(self, prefix: str) -> AsyncIterator[str]:
        self.requests += 1
        return self._store.list_dir(prefix)

    def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        self.requests += 1
        return self._store.list_prefix(prefix)


@pytest.mark.parametrize("there", [12, 14, 3004])
def test_the_number_of_requests_is_what_the_guide_says(there: int) -> None:
    content: dict[str, Buffer] = {}
    append(content, there, chunks=4)
    store = CountingStore(MemoryStore(content))
    append(store, 3, 3, 6, run_id="night")
    new = -(-(there + 12) // 4) - there // 4
    assert store.requests == 2 * new + (there % 4 > 0) + 14


def test_names_of_the_last_thousand_nights_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    assert record.MOST_APPENDED == 1000
    monkeypatch.setattr(base, "MOST_APPENDED", 2)
    store: dict[str, Buffer] = {}
    for night in range(4):
        append(store, 1, run_id=f"{night}")
    known = [append(store, 1, run_id=f"{night}") == [] for night in (3, 2, 0)]
    assert known == [True, True, True], "the last two, and the one that has created the array"
    assert append(store, 1, run_id="1") == [0]


# --- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"dtype": "float64"}, "dtype is int64, and this call has float64"),
        ({"chunks": 3}, r"chunks is \(2, 3\), and this call has \(3, 3\)"),
        ({"chunks": (2, 2)}, "chunks"),
        ({"shards": 4}, "shards is None"),
        ({"compressors": None}, "compressors"),
        ({"filters": [TransposeCodec(order=(1, 0))]}, "filters"),
        ({"dimension_names": ("a", "b")}, "dimension_names"),
        ({"attributes": {"a": 1}}, "attributes"),
    ],
)
def test_options_that_contradict_the_array(
    options: dict[str, Any], words: str, tmp_path: Path
) -> None:
    append(tmp_path / "rows.zarr", 3, chunks=2)
    before = tree(tmp_path)
    refused(tmp_path / "rows.zarr", AppendMismatchError, words, **options)
    assert tree(tmp_path) == before


def test_options_that_say_what_the_array_has() -> None:
    store: dict[str, Buffer] = {}
    names, filters = ("row", "column"), [TransposeCodec(order=(1, 0))]
    for _ in range(3):
        append(
            store,
            3,
            chunks=2,
            shards=4,
            compressors=GzipCodec(level=2),
            filters=filters,
            dimension_names=names,
            attributes={"a": [1]},
            dtype="int64",
        )
    assert opened(MemoryStore(store)).shape == (9, 3)


def array_of(**options: Any) -> Callable[[Any], object]:
    theirs: Any = zarr

    def put(store: Any) -> object:
        return theirs.create_array(store, **{"shape": (4, 3), "dtype": "int64", **options})

    return put


def put_with_unknown_codec(store: Any) -> None:
    array_of()(store)
    where = Keys(store, "")
    where.write("zarr.json", (where.read("zarr.json") or b"").replace(b'"zstd"', b'"pickle2"'))


@pytest.mark.parametrize(
    ("put", "error", "words"),
    [
        (array_of(zarr_format=2), AppendMismatchError, "zarr_format is 2"),
        (array_of(shape=()), AppendMismatchError, "axes is 0"),
        (put_with_unknown_codec, UntrustedArrayError, "pickle2"),
        (put_group, DestinationExistsError, "group"),
    ],
)
def test_arrays_that_get_no_rows(
    put: Callable[[Any], object], error: type[Exception], words: str
) -> None:
    content: dict[str, Buffer] = {}
    put(MemoryStore(content))
    before = dict(content)
    refused(content, error, words)
    assert content == before


def test_rows_of_another_width_or_dtype(tmp_path: Path) -> None:
    path = tmp_path / "rows.zarr"
    append(path, 3, chunks=2)
    before = tree(tmp_path)
    for blocks, error, words in (
        (rows_of(2, width=4), BlockShapeError, r"\(2, 4\), and the array .* \(3, 3\)"),
        ([np.zeros(3, "int64")], BlockShapeError, "shape"),
        (rows_of(2, dtype="int32"), BlockDTypeError, "int32, expected int64"),
    ):
        with pytest.raises(error, match=words):
            sequence_of(blocks).to_zarr(path, NUMPY, append=True)
    nested = NestedLazyChunkSequence.from_product(
        lambda _, j: np.zeros((1, j), "int64"), [0], [1, 3]
    )
    with pytest.raises(BlockShapeError, match="width 4, expected 3"):
        nested.to_zarr(path, NUMPY, append=True)
    with pytest.raises(BlockShapeError, match="width 1, expected 3"):
        nested[:, :1].to_zarr(path, NUMPY, append=True)
    left = {name: content for name, content in tree(tmp_path).items() if name in before}
    assert left == before
    assert np.array_equal(values_at(path), np.concatenate(rows_of(3)))


def test_a_run_with_another_number_of_blocks_or_rows() -> None:
    store: dict[str, Buffer] = {}
    append(store, 1, run_id="zero")
    append(store, 2, 2, run_id="one")
    with pytest.raises(ResumeMismatchError, match=r"'one' has stored 2 blocks in .* now has 3"):
        append(store, 2, 2, 2, run_id="one")
    with pytest.raises(ResumeMismatchError, match=r"4 rows in .* now has 5"):
        append(store, 2, 3, run_id="one", sizes=(2, 3))
    assert opened(MemoryStore(store)).shape == (5, 3)


def test_it_cannot_replace_and_append() -> None:
    refused({}, ValueError, "pass one of them", overwrite=True)


def test_stores_that_cannot_keep_old_rows_safe(tmp_path: Path) -> None:
    wrapper: Any = pytest.importorskip("fsspec.implementations.asyn_wrapper")
    local: Any = pytest.importorskip("fsspec.implementations.local")
    append(tmp_path / "rows.zarr", 3)
    zipped = ZipStore(tmp_path / "rows.zip", mode="w")
    append(zipped, 3)
    refused(zipped, DestinationError, "cannot replace a key")
    zipped.close()
    files = wrapper.AsyncFileSystemWrapper(local.LocalFileSystem(), asynchronous=True)
    store = FsspecStore(
        files,
        path=str(tmp_path / "rows.zarr"),
    )
    refused(store, DestinationError, "a kill would cut the chunk")


def test_an_array_that_an_unfinished_write_is_to_replace(tmp_path: Path) -> None:
    path = tmp_path / "rows.zarr"
    append(path, 3)

    def die(number: int) -> Rows:
        if number:
            raise StoreFailedError
        return rows_of(2)[0]

    with pytest.raises(WriteAbortedError):
        LazyChunkSequence.from_map(die, range(2)).to_zarr(
            path, NUMPY, overwrite=True, run_id="other", chunks=2
        )
    refused(path, DestinationExistsError, "is to replace the array there")


def test_an_array_that_another_program_changes_meanwhile() -> None:
    store: dict[str, Buffer] = {}
    append(store, 3, chunks=2)

    def block(_: int) -> Rows:
        zarr.open_array(MemoryStore(store)).append(np.concatenate(rows_of(4)))
        return rows_of(2)[0]

    with pytest.raises(DestinationBusyError, match="another program has changed"):
        LazyChunkSequence.from_map(block, [0]).to_zarr(store, NUMPY, append=True)
