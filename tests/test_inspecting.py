"""``status``: what is at a destination, told without changing it, and without trusting it."""

# pyright: reportUnknownMemberType=false
# The functions of zarr name a type of fsspec, which is optional and has no types.

import json
import shutil
import sys
import tracemalloc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from zarr.core.buffer import Buffer, default_buffer_prototype
from zarr.storage import LocalStore, MemoryStore, StorePath, ZipStore

from lazychunks import (
    IdentityConverter,
    LazyChunkSequence,
    UntrustedArrayError,
    WriteAbortedError,
    ZarrOptions,
    status,
)
from lazychunks.storage.places.refusals import REPLACED
from lazychunks.storage.resuming.record import seal
from tests.faults.jobs import FLAT, JOBS, NESTED, RAGGED, Job
from tests.places import OLD, LocalPlace, MemoryPlace, Place, put_array, put_group
from tests.strategies import Array
from tests.test_reading import HOSTILE, VERSION_3, EvilCodec, planted, three

CONVERTER = IdentityConverter()

LAYOUTS: dict[str, ZarrOptions] = {
    "blocks": {"chunks": "blocks"},
    "small chunks": {"chunks": 3},
    "shards": {"chunks": 2, "shards": 6},
    "large chunks": {"chunks": 7},
}

KINDS = ["path", "memory"]

INSPECTING = sys.modules["lazychunks.storage.status"]
"""The module, whose name in its package is that of its function."""


def place_of(kind: str, directory: Path) -> Place:
    """A destination with nothing beside it."""
    if kind == "memory":
        return MemoryPlace({})
    directory.mkdir()
    return LocalPlace(directory)


class KilledError(Exception):
    """What ends a job."""


def dies_after(number: int) -> Callable[..., None]:
    """Watch blocks being computed, and raise at the one after so many."""
    left = [None] * number

    def watch(*_: int) -> None:
        if not left:
            raise KilledError
        left.pop()

    return watch


def begin(job: Job, place: Place, number: int, **options: Any) -> None:
    """Leave a write unfinished after a number of blocks."""
    options.setdefault("run_id", "r")
    with pytest.raises(WriteAbortedError):
        job.store(place.destination, dies_after(number), **options)


# Law: what is told to be done is what resuming does not compute.


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("job", JOBS, ids=lambda job: job.name)
def test_done_are_the_blocks_that_resuming_skips(job: Job, layout: str, tmp_path: Path) -> None:
    for number in range(1, job.count):
        place = place_of(KINDS[number % 2], tmp_path / str(number))
        options: Any = LAYOUTS[layout]
        begin(job, place, number, **options)
        before = place.content()
        found = status(place.destination)
        assert place.content() == before
        assert (found.state, found.is_published, found.run_id) == ("unfinished", False, "r")
        assert found.blocks == job.count
        assert found.done_blocks is not None
        computed: list[tuple[int, ...]] = []

        def watch(*start: int, computed: list[tuple[int, ...]] = computed) -> None:
            computed.append(start)

        job.store(place.destination, watch, run_id="r", resume=True, **options)
        compared = 1 if found.done_blocks else 0
        assert len(computed) == job.count - found.done_blocks + compared
        assert status(place.destination).state == "complete"


def test_all_but_the_last_are_done_where_each_block_is_a_chunk(tmp_path: Path) -> None:
    """The law above holds for who says that nothing is done."""
    flat, nested = LocalPlace(tmp_path), MemoryPlace({})
    begin(FLAT, flat, 4)
    assert status(flat.destination).done_blocks == 4
    begin(NESTED, nested, 6)
    assert status(nested.destination).done_blocks == 6


@pytest.mark.parametrize("job", [FLAT, NESTED], ids=lambda job: job.name)
def test_blocks_that_workers_have_stored_are_counted(job: Job, tmp_path: Path) -> None:
    place = LocalPlace(tmp_path)
    with ThreadPoolExecutor(2) as executor:
        begin(job, place, job.count - 1, executor=executor)
        found = status(place.destination)
        assert found.blocks == job.count
        computed: list[tuple[int, ...]] = []
        job.store(
            place.destination,
            lambda *start: computed.append(start),
            run_id="r",
            resume=True,
            executor=executor,
        )
    assert found.done_blocks is not None
    assert 1 <= found.done_blocks < job.count
    assert job.count - found.done_blocks <= len(computed) <= job.count - found.done_blocks + 2


def test_without_a_hint_the_number_of_blocks_is_not_known() -> None:
    place = MemoryPlace({})
    factory: Any = FLAT.sequence(dies_after(3)).generator_factory
    sequence = LazyChunkSequence[Array](factory)
    with pytest.raises(WriteAbortedError):
        sequence.to_zarr(place.destination, CONVERTER, chunks="blocks", run_id="r")
    found = status(place.destination)
    assert (found.done_blocks, found.blocks, found.shape) == (3, None, (None, 6))


def test_lengths_are_told_as_far_as_they_are_known(tmp_path: Path) -> None:
    place = LocalPlace(tmp_path)
    begin(NESTED, place, 2)
    assert status(place.destination).shape == (None, None)
    begin(NESTED, place, 4, overwrite=True)
    found = status(place.destination)
    assert found.shape == (None, 11)
    assert found.nbytes is None
    NESTED.store(place.destination, run_id="r", resume=True)
    found = status(place.destination)
    assert (found.shape, found.nbytes) == ((8, 11), 8 * 11 * 8)


def test_more_blocks_than_can_be_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    place = MemoryPlace({})
    begin(FLAT, place, 3)
    for limit, done in ((2, None), (3, 3)):
        monkeypatch.setattr("lazychunks.storage.resuming.unfinished.COUNTED", limit)
        found = status(place.destination)
        assert (found.done_blocks, found.blocks) == (done, 5)


# What else is there.


@pytest.mark.parametrize("kind", KINDS)
def test_an_array_that_is_complete(kind: str, tmp_path: Path) -> None:
    place = place_of(kind, tmp_path / "in")
    RAGGED.store(place.destination, run_id="r", chunks=2, shards=4)
    before = place.content()
    found = status(place.destination)
    assert place.content() == before
    assert asdict(found) == {
        "place": str(found.place),
        "state": "complete",
        "is_published": True,
        "set_aside": None,
        "shape": (19, 6),
        "dtype": "int64",
        "chunks": (2, 6),
        "shards": (4, 6),
        "nbytes": 19 * 6 * 8,
        "stored_bytes": found.stored_bytes,
        "run_id": "r",
        "done_blocks": None,
        "blocks": None,
        "is_written": False,
        "members": None,
    }
    if isinstance(place, MemoryPlace):
        sizes = [len(value) for value in place.destination.values()]
    else:
        array = Path(place.destination)
        sizes = [file.stat().st_size for file in array.rglob("*") if file.is_file()]
    assert found.stored_bytes == sum(sizes)


@pytest.mark.parametrize("kind", KINDS)
def test_nothing(kind: str, tmp_path: Path) -> None:
    place = place_of(kind, tmp_path / "in")
    found = status(place.destination)
    assert (found.state, found.is_published, found.shape) == ("absent", False, None)
    assert place.content() == {}


@pytest.mark.parametrize("kind", KINDS)
def test_an_unfinished_write_that_is_to_replace_an_array(kind: str, tmp_path: Path) -> None:
    place = place_of(kind, tmp_path / "in")
    place.put_old()
    begin(FLAT, place, 2, overwrite=True)
    found = status(place.destination)
    assert (found.state, found.done_blocks) == ("unfinished", 2)
    assert found.is_published is place.keeps_old_until_complete


def test_a_write_without_a_name_has_no_progress(tmp_path: Path) -> None:
    """As a kill leaves it: what it holds is never gone on with."""
    place = LocalPlace(tmp_path)
    seen: list[Any] = []

    def watch(start: int) -> None:
        seen.append(status(place.destination))
        if start == 8:
            shutil.copytree(tmp_path / ".array.zarr.partial", tmp_path / "copy")

    FLAT.store(place.destination, watch)
    assert [found.state for found in seen] == ["absent", *["unfinished"] * 4]
    (tmp_path / "copy").rename(tmp_path / ".array.zarr.partial")
    found = status(place.destination)
    assert (found.state, found.is_published) == ("unfinished", True)
    assert (found.run_id, found.done_blocks, found.blocks) == (None, None, 5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_writer_at_work_is_watched_and_not_disturbed(kind: str, tmp_path: Path) -> None:
    place = place_of(kind, tmp_path / "in")
    done: list[int | None] = []

    def watch(*_: int) -> None:
        done.append(status(place.destination).done_blocks)

    RAGGED.store(place.destination, watch, run_id="r", max_in_flight=1)
    known = [number for number in done if number is not None]
    assert known == sorted(known)
    assert known[-1] >= 2
    np.testing.assert_array_equal(place.read(), RAGGED.whole)


@pytest.mark.parametrize("kind", KINDS)
def test_all_is_written_and_only_publishing_is_left(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = place_of(kind, tmp_path / "in")

    def killed(*_: object, **__: object) -> None:
        raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr("lazychunks.storage.places.directory.SiblingDirectory.commit", killed)
        patch.setattr("lazychunks.storage.places.metadata_last.MetadataLast.commit", killed)
        with pytest.raises(WriteAbortedError):
            FLAT.store(place.destination, run_id="r", resume=True)
    found = status(place.destination)
    assert (found.state, found.is_written, found.run_id) == ("unfinished", True, "r")
    assert (found.shape, found.nbytes) == ((18, 6), 18 * 6 * 8)
    FLAT.store(place.destination, run_id="r", resume=True)
    assert not status(place.destination).is_written


def test_an_array_that_a_dead_writer_has_moved_aside(tmp_path: Path) -> None:
    place = LocalPlace(tmp_path)
    place.put_old()
    old = tmp_path / ".array.zarr.old"
    (Path(place.destination) / REPLACED).touch()
    Path(place.destination).rename(old)
    found = status(place.destination)
    assert (found.state, found.set_aside) == ("absent", str(old))
    begun = tmp_path / ".array.zarr.partial"
    begun.mkdir()
    found = status(place.destination)
    assert (found.state, found.is_published, found.set_aside) == ("unfinished", False, str(old))
    begun.rmdir()
    FLAT.store(place.destination, overwrite=True)
    assert status(place.destination).set_aside is None


def test_what_a_replaced_array_leaves_is_no_unfinished_write(tmp_path: Path) -> None:
    place = LocalPlace(tmp_path)
    place.put_old()
    (tmp_path / ".array.zarr.old").mkdir()
    found = status(place.destination)
    assert (found.state, found.set_aside) == ("complete", None)


def test_metadata_that_was_kept_back_and_has_been_published() -> None:
    place = MemoryPlace({})
    FLAT.store(place.destination)
    place.destination["zarr.json.partial"] = place.destination["zarr.json"]
    assert status(place.destination).state == "complete"


def test_an_overwrite_that_has_only_begun() -> None:
    place = MemoryPlace({})
    place.put_old()
    null = default_buffer_prototype().buffer.from_bytes(b"null")
    place.destination["zarr.json.partial"] = null
    found = status(place.destination)
    assert (found.state, found.is_published, found.shape) == ("unfinished", True, None)
    del place.destination["zarr.json"]
    assert not status(place.destination).is_published


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_arrays_of_others(zarr_format: int, tmp_path: Path) -> None:
    put_array(tmp_path / "a", OLD.astype(">f4"), zarr_format=zarr_format)
    found = status(tmp_path / "a")
    assert (found.state, found.shape, found.chunks) == ("complete", (6, 7), (2, 7))
    assert found.dtype == (">f4" if zarr_format == 2 else "float32")
    assert (found.nbytes, found.run_id) == (6 * 7 * 4, None)


def test_an_array_of_a_long_name(tmp_path: Path) -> None:
    """A hidden sibling's would be longer than a name can be."""
    array = tmp_path / ("n" * 255)
    assert status(array).state == "absent"
    put_array(array, OLD)
    assert status(array).state == "complete"


def test_bfloat16() -> None:
    dtype = pytest.importorskip("ml_dtypes", reason="ml_dtypes is not installed").bfloat16
    store: dict[str, Buffer] = {}
    LazyChunkSequence(lambda: [np.ones((2, 3), dtype)]).to_zarr(store, CONVERTER)
    found = status(store)
    assert (found.dtype, found.nbytes) == ("bfloat16", 12)


def test_wherever_it_is(tmp_path: Path) -> None:
    path = tmp_path / "a.zarr"
    put_array(path, OLD)
    memory = MemoryStore()
    put_array(memory, OLD, path="in/a")
    with ZipStore(tmp_path / "a.zip", mode="w") as zipped:
        put_array(zipped, OLD)
    sources: list[Any] = [path, str(path), path.as_uri(), LocalStore(path)]
    sources += [LocalStore(path, read_only=True), StorePath(LocalStore(tmp_path), "a.zarr")]
    sources += [StorePath(memory, "in/a"), ZipStore(tmp_path / "a.zip", mode="r")]
    for source in sources:
        found = status(source)
        assert (found.state, found.shape) == ("complete", (6, 7)), source
        assert found.stored_bytes
        assert "a" in found.place
    absent: list[Any] = ["/", tmp_path, tmp_path / "a.zip", StorePath(memory, "b")]
    absent += [LocalStore(tmp_path / "nowhere", read_only=True), ZipStore(tmp_path / "no.zip")]
    for source in absent:
        assert status(source).state == "absent"


def test_a_group_is_refused(tmp_path: Path) -> None:
    put_group(tmp_path / "three")
    with pytest.raises(UntrustedArrayError, match="group"):
        status(tmp_path / "three")


@pytest.mark.parametrize("times", [1, 3])
def test_an_array_that_is_published_while_this_looks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    place = LocalPlace(tmp_path)
    begin(FLAT, place, 3)
    walk = vars(INSPECTING)["walk_files"]
    looks = 0

    def late(_: Path) -> list[str]:
        nonlocal looks
        looks += 1
        if looks == times:
            monkeypatch.setattr(INSPECTING, "walk_files", walk)
            FLAT.store(place.destination, run_id="r", resume=True)
        raise FileNotFoundError

    monkeypatch.setattr(INSPECTING, "walk_files", late)
    assert status(place.destination).state == "complete"


# Nothing is trusted.

LARGE = [name for name in HOSTILE if "large" in name or "long rows" in name or "whole" in name]
"""What is hostile by its size only, which is nothing to who reads no chunk."""


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_metadata_is_refused(name: str, tmp_path: Path) -> None:
    EvilCodec.touched.clear()
    canary = tmp_path / "canary"
    store = planted(HOSTILE[name], canary, name)
    try:
        found = status(store)
    except UntrustedArrayError:
        assert name not in LARGE or "shard" in name
    else:
        assert name in LARGE or name in LATER, name
        assert found.state == "complete"
    assert EvilCodec.touched == []
    assert not canary.exists()


LATER = [
    "3: unknown member",
    "3: no codecs",
    "3: codec with wrong settings",
    "3: dtype of NumPy's only",
]
"""What only zarr refuses, which is not asked for."""


def unfinished(record: object) -> dict[str, Buffer]:
    """An unfinished write of 4 x 4 elements in chunks of 2 x 2, with a checksum that fits."""
    document = three("attributes", to={"lazychunks": json.dumps(record)})
    make = default_buffer_prototype().buffer.from_bytes
    keys = [f"c/{row}/{column}" for row in range(2) for column in range(2)]
    return {"zarr.json.partial": make(seal(document))} | {key: make(b"chunk") for key in keys}


GOOD: dict[str, Any] = {
    "version": "1",
    "run_id": "r",
    "first": [1, 4],
    "counts": [4],
    "lengths": [4],
}


def test_the_record_that_is_tampered_with_below_is_good() -> None:
    assert status(unfinished(GOOD)).done_blocks == 4
    assert status(unfinished(GOOD | {"sizes": [[[1, 2], [2, 1]]]})).done_blocks == 3


NONSENSE: dict[str, list[object]] = {
    "version": [1, None, []],
    "first": ["4", [], [None], [-1, 4], [[1]], ["1"], [10**30], {}, [0, 4], [2**63 - 1, 4]],
    "counts": ["4", 4, [], [[4]], [-4], [4.0], [True], {}, [10**40], [2**63 - 1], [4] * 4],
    "lengths": ["4", [4, 4], [-1], [10**40], 3],
    "run_id": [7, ["r"]],
    "sizes": [
        [[[1, 10**12]]],
        [[[10**12, 3], [1, 1]]],
        [[["1", 1]]],
        [[[1, "1"]]],
        [[[1.5, 2]]],
        [[[-1, 2]]],
        [[[1]]],
        [[1]],
        ["1"],
        7,
        {"a": 1},
    ],
}


@pytest.mark.parametrize("name", NONSENSE)
def test_a_hostile_record_is_no_progress(name: str) -> None:
    for value in NONSENSE[name]:
        refusal = "is damaged"
        tracemalloc.start()
        try:
            found = status(unfinished(GOOD | {name: value}))
        except UntrustedArrayError as error:
            refusal = str(error)
        else:
            assert found.state == "unfinished"
            assert found.done_blocks in (None, 0, 3, 4), value
        finally:
            _, peak = tracemalloc.get_traced_memory()
            tracemalloc.stop()
        assert "is damaged" in refusal
        assert peak < 2**20, value


@pytest.mark.parametrize("count", [None, 10**5, 2**63 - 1])
def test_a_record_of_blocks_without_rows_takes_no_memory(count: int | None) -> None:
    record = unfinished(GOOD | {"first": [0, 4], "counts": [count], "lengths": [None]})
    tracemalloc.start()
    found = status(record)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (found.done_blocks, found.blocks) == (0, count)
    assert peak < 2**20


@pytest.mark.parametrize("depth", [10, 10**5])
def test_a_record_that_is_no_text_of_a_record_is_damaged(depth: int) -> None:
    document = three("attributes", to={"lazychunks": "[" * depth})
    make = default_buffer_prototype().buffer.from_bytes
    with pytest.raises(UntrustedArrayError, match="is damaged"):
        status({"zarr.json.partial": make(seal(document))})


def test_keys_that_only_look_like_chunks() -> None:
    store = unfinished(GOOD)
    make = default_buffer_prototype().buffer.from_bytes
    for key in ("c/" + "9" * 5000 + "/0", "c/x/0", "c", "c/0/0/0", "c/0/0.partial", "c/²/0"):
        store[key] = make(b"")
    assert status(store).done_blocks == 4
    assert VERSION_3["shape"] == [4, 4]
