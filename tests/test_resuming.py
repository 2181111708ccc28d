"""Resuming: whatever happened before, the array is right; another run is told, and changes nothing.

``tests/faults/`` has the crashes; here runs fail by an exception, which leaves the same behind.
"""

import tracemalloc
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numcodecs.zstd import Zstd
from numpy.typing import NDArray
from zarr.codecs import GzipCodec, TransposeCodec
from zarr.core.buffer import Buffer, default_buffer_prototype
from zarr.storage import MemoryStore

from lazychunks import (
    DestinationError,
    EmptySequenceError,
    IdentityConverter,
    LazyChunkSequence,
    LazyChunksError,
    NestedLazyChunkSequence,
    ResumeMismatchError,
    WriteAbortedError,
)
from lazychunks.layout.partition import ArrayPlan, Partition
from lazychunks.storage.chunks.metadata import KEPT_BACK
from lazychunks.storage.places.directory import SiblingDirectory
from lazychunks.storage.places.metadata_last import MetadataLast
from lazychunks.storage.resuming.mismatches import check_same_values
from lazychunks.storage.resuming.record import seal, unseal, with_record
from lazychunks.storage.writing.target import list_stored_units
from tests.faults.jobs import FLAT, NESTED, RAGGED, Job, old_array, same, seen_at
from tests.places import LocalPlace, MemoryPlace, Place
from tests.strategies import DTYPES, partitions

Array = NDArray[Any]


class FailingError(Exception):
    """What a block raises."""


class Watch:
    """Counts the blocks that are computed, and fails when there are more than so many."""

    def __init__(self, most: int | None = None) -> None:
        self.computed: list[tuple[int, ...]] = []
        self._most = most

    def __call__(self, *start: int) -> None:
        if self._most is not None and len(self.computed) == self._most:
            raise FailingError
        self.computed.append(start)


@pytest.fixture(params=["local path", "memory"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """A destination, and all that is beside it."""
    return LocalPlace(tmp_path) if request.param == "local path" else MemoryPlace({})


# Law: any number of failures later, the array is that of a run without any.


@st.composite
def layouts(draw: st.DrawFn) -> dict[str, Any]:
    """Draw chunks and shards, of whatever relation to the blocks."""
    pairs = st.tuples(st.integers(1, 6), st.integers(1, 4))
    chunks = draw(st.sampled_from(["auto", "blocks"]) | st.integers(1, 6) | pairs)
    if draw(st.booleans()):
        return {"chunks": chunks}
    chunks = draw(pairs)
    times = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    return {"chunks": chunks, "shards": (times[0] * chunks[0], times[1] * chunks[1])}


jobs = st.builds(
    Job,
    st.just("drawn"),
    partitions(8, 5),
    st.none() | partitions(5, 4),
    tail=st.integers(0, 4),
)


@given(
    jobs,
    layouts(),
    st.lists(st.tuples(st.integers(0, 12), st.integers(1, 4)), max_size=5),
    st.sampled_from(["path", "memory"]),
)
def test_a_run_that_fails_any_number_of_times_stores_what_one_without_failure_does(
    tmp_path_factory: pytest.TempPathFactory,
    job: Job,
    layout: dict[str, Any],
    failures: list[tuple[int, int]],
    kind: str,
) -> None:
    place: Place = (
        LocalPlace(tmp_path_factory.mktemp("place")) if kind == "path" else MemoryPlace({})
    )
    old = old_array(_store(place))
    for most, max_in_flight in failures:
        try:
            _start(job, place, layout, Watch(most), max_in_flight=max_in_flight)
        except (FailingError, WriteAbortedError):
            seen = seen_at(_store(place))
            assert same(seen, old) or (seen is None and kind == "memory")
    last = Watch()
    _start(job, place, layout, last)
    assert same(seen_at(_store(place)), job.whole)
    clean = MemoryPlace({})
    job.store(clean.destination, run_id="run", **layout)
    stored = {key.removeprefix("array.zarr/"): what for key, what in place.content().items()}
    assert stored.keys() - {"array.zarr"} >= clean.content().keys()
    assert {key for key, what in stored.items() if what != "directory"} == clean.content().keys()


def _start(job: Job, place: Place, layout: dict[str, Any], watch: Watch, **options: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        job.store(
            place.destination,
            watch,
            overwrite=True,
            resume=True,
            run_id="run",
            **layout,
            **options,
        )


def _store(place: Place) -> Any:
    return place.destination if isinstance(place, LocalPlace) else MemoryStore(place.destination)


@pytest.mark.parametrize("job", [FLAT, NESTED], ids=lambda job: job.name)
def test_what_is_stored_is_not_computed_again_but_for_one_block(job: Job, place: Place) -> None:
    with pytest.raises(WriteAbortedError):
        job.store(place.destination, Watch(4), run_id="run", max_in_flight=1)
    watch = Watch()
    job.store(place.destination, watch, resume=True, run_id="run")
    assert len(watch.computed) == job.count - 4 + 1
    watch = Watch()
    job.store(place.destination, watch, resume=True, run_id="run")
    assert watch.computed == []


# Another run is told, and changes nothing.


@dataclass(frozen=True)
class Change:
    """What differs from the unfinished write."""

    what: str
    """What the error names."""
    options: dict[str, Any] = field(default_factory=dict[str, Any])
    job: dict[str, Any] = field(default_factory=dict[str, Any])
    of: Job = FLAT


CHANGES = {
    "another run": Change("run_id", {"run_id": "other"}),
    "other chunks": Change("chunk_grid", {"chunks": (2, 6)}),
    "chunks that are not blocks": Change("chunk_grid", {"chunks": 3}),
    "shards": Change("codecs", {"chunks": (2, 6), "shards": (4, 6)}),
    "no compression": Change("codecs", {"compressors": None}),
    "another compression": Change("codecs", {"compressors": GzipCodec()}),
    "a filter": Change("codecs", {"filters": [TransposeCodec(order=(1, 0))]}),
    "a cast": Change("dtype", {"dtype": "f4"}),
    "a cast to the same size": Change("dtype", {"dtype": "f8"}),
    "names": Change("dimension_names", {"dimension_names": ["a", "b"]}),
    "attributes": Change("attributes", {"attributes": {"unit": "m"}}),
    "other values": Change("value", job={"seed": 2}),
    "a first block of another height": Change("shape", job={"heights": (3, 3, 3, 3, 3)}),
    "blocks of another width": Change("shape", job={"tail": 5}),
    "fewer blocks": Change("count", job={"heights": (4, 4)}),
    "one block": Change("count", job={"heights": (4,)}),
    "fewer rows": Change("count", job={"heights": (3,)}, of=NESTED),
}


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize(
    "old", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["nothing", "old"]
)
def test_another_run_is_told_what_differs_and_changes_nothing(
    name: str, old: bool, place: Place
) -> None:
    change = CHANGES[name]
    if old:
        place.put_old()
    with pytest.raises(WriteAbortedError):
        _fail_late(change.of, place)
    before = place.content()
    other = replace(change.of, **change.job)
    options: dict[str, Any] = {"run_id": "run", "max_in_flight": 1, **change.options}
    with pytest.raises(ResumeMismatchError) as caught:
        other.store(place.destination, overwrite=True, resume=True, **options)
    error = caught.value
    assert error.field == change.what
    assert change.what == "value" or error.expected != error.got
    assert "overwrite=True" in str(error) or "run_id" in str(error)
    assert not hasattr(error, "__notes__"), "the same call does not go on from here"
    assert place.content() == before
    change.of.store(place.destination, overwrite=True, resume=True, run_id="run")
    assert same(seen_at(_store(place)), change.of.whole)


def _fail_late(job: Job, place: Place) -> None:
    """Store all blocks but the last one."""
    job.store(
        place.destination, Watch(job.count - 1), overwrite=True, run_id="run", max_in_flight=1
    )


@pytest.mark.parametrize("widths", [None, (3, 3)])
def test_a_flat_run_does_not_go_on_as_a_nested_one_nor_the_other_way_round(
    widths: tuple[int, ...] | None, place: Place
) -> None:
    job = Job("job", (2, 2, 2), widths, tail=3)
    with pytest.raises(WriteAbortedError):
        job.store(place.destination, Watch(2), run_id="run")
    before = place.content()
    other = replace(job, widths=None if widths else (3, 3))
    with pytest.raises(ResumeMismatchError, match="the number of block axes") as caught:
        other.store(place.destination, run_id="run", resume=True)
    assert (caught.value.field, caught.value.got) == ("axes", 1 if widths else 2)
    assert place.content() == before


def test_sizes_are_noted_in_the_record_and_nowhere_else(place: Place) -> None:
    with pytest.raises(WriteAbortedError):
        RAGGED.store(place.destination, Watch(6), run_id="run", chunks=3, max_in_flight=1)
    record = unseal(_read(place, KEPT_BACK))[1]
    assert record.sizes == (RAGGED.heights[:6],)
    names = {key.split("/")[0] for key in place.content()} - {".array.zarr.partial", KEPT_BACK, "c"}
    assert not [name for name in names if not name.startswith("lazychunks.open")]


def test_sizes_that_were_not_noted_are_not_made_up(place: Place) -> None:
    """As a kill leaves them: blocks after the last note are computed again."""
    with pytest.raises(WriteAbortedError):
        RAGGED.store(place.destination, Watch(6), run_id="run", chunks=3, max_in_flight=1)
    document, record = unseal(_read(place, KEPT_BACK))
    forgetful = replace(record, sizes=(RAGGED.heights[:4],))
    _change(place, KEPT_BACK, lambda _: seal(with_record(document, forgetful)))
    watch = Watch()
    RAGGED.store(place.destination, watch, run_id="run", chunks=3, resume=True)
    assert same(seen_at(_store(place)), RAGGED.whole)
    assert len(watch.computed) >= 3


def _read(place: Place, key: str) -> bytes:
    if isinstance(place, LocalPlace):
        return (place.directory / ".array.zarr.partial" / key).read_bytes()
    return place.destination[key].to_bytes()


@pytest.mark.parametrize("bit", range(8))
def test_a_flipped_bit_in_the_record_is_told(bit: int, place: Place) -> None:
    """Regression: a height of 5 that reads as 4 shifted all blocks after it."""
    with pytest.raises(WriteAbortedError):
        RAGGED.store(place.destination, Watch(6), run_id="run", chunks=3)
    value = bytearray(_read(place, KEPT_BACK))
    at = value.index(b"sizes") + 12
    value[at] ^= 1 << bit
    _change(place, KEPT_BACK, lambda _: bytes(value))
    before = place.content()
    with pytest.raises(ResumeMismatchError, match="damaged"):
        RAGGED.store(place.destination, run_id="run", chunks=3, resume=True)
    assert place.content() == before


def test_a_block_of_another_size_is_told() -> None:
    """As far as its size was known, and it is neither stored nor spilled."""
    place = MemoryPlace({})
    with pytest.raises(WriteAbortedError):
        RAGGED.store(place.destination, Watch(5), run_id="run", chunks=30)
    before = place.content()
    for heights in ((4, 4, 2, 2, 0, 5, 2), (4, 4, 5, 1, 0, 5, 2), (4, 4, 0, 1, 0, 5, 2)):
        with pytest.raises(ResumeMismatchError, match="block 2 ") as caught:
            replace(RAGGED, heights=heights).store(
                place.destination, resume=True, run_id="run", chunks=30
            )
        assert caught.value.field == "size"
        assert (caught.value.expected, caught.value.got) == (3, heights[2])
        assert place.content() == before
    RAGGED.store(place.destination, resume=True, run_id="run", chunks=30)
    assert same(seen_at(_store(place)), RAGGED.whole)


def test_one_block_more_is_told_where_the_end_was_known() -> None:
    """The run before had all blocks, and failed when it closed the last chunk."""
    job = Job("even", (4, 4, 4))
    full = Full(dict[str, Buffer]())
    with pytest.raises(WriteAbortedError):
        job.store(full, run_id="run", max_in_flight=1, chunks=5)
    before = dict(full.content)
    for heights in ((4, 4, 4, 4), (4, 4, 4, 1)):
        with pytest.raises(ResumeMismatchError) as caught:
            replace(job, heights=heights).store(
                MemoryStore(full.content), resume=True, run_id="run", chunks=5
            )
        assert caught.value.field == "count"
        assert full.content == before
    job.store(MemoryStore(full.content), resume=True, run_id="run", chunks=5)
    assert same(seen_at(full.content), job.whole)


class Full(MemoryStore):
    """Has no space for the last chunk."""

    def __init__(self, content: dict[str, Buffer]) -> None:
        super().__init__(content)
        self.content = content

    async def set(self, key: str, value: Buffer, byte_range: Any = None) -> None:
        """Write a key, or fail."""
        if key == "c/2/0":
            raise OSError(28, "No space left on device")
        await super().set(key, value, byte_range)


@pytest.mark.parametrize("columns", [1, 2, 4])
def test_another_number_of_columns_is_told_before_anything_is_written(
    columns: int, place: Place
) -> None:
    def start(columns: int, most: int | None) -> None:
        watch = Watch(most)

        def block(row: int, column: int) -> Array:
            watch(row, column)
            return np.full((2, 3), 10 * row + column)

        NestedLazyChunkSequence.from_product(block, range(3), range(columns)).to_zarr(
            place.destination, IdentityConverter(), chunks=(2, 3), run_id="run", resume=True
        )

    with pytest.raises(WriteAbortedError):
        start(3, 7)
    before = place.content()
    with pytest.raises(ResumeMismatchError) as caught:
        start(columns, None)
    assert caught.value.field == "count"
    assert place.content() == before
    start(3, None)
    assert place.read().shape == (6, 9)


@pytest.mark.parametrize("job", [FLAT, NESTED], ids=lambda job: job.name)
def test_no_block_is_no_array_on_resuming_either(job: Job, place: Place) -> None:
    with pytest.raises(WriteAbortedError):
        _fail_late(job, place)
    before = place.content()
    with pytest.raises(EmptySequenceError):
        replace(job, heights=()).store(place.destination, resume=True, run_id="run")
    assert place.content() == before


@pytest.mark.parametrize("written", ["f4", "f8", ">f4"])
def test_a_cast_is_part_of_the_plan(written: str, place: Place) -> None:
    values = np.random.default_rng(1).random((12, 3))

    def start(most: int | None, dtype: Any) -> None:
        watch = Watch(most)

        def block(row: int) -> Array:
            watch(row)
            return values[row : row + 2]

        LazyChunkSequence.from_map(block, range(0, 12, 2)).to_zarr(
            place.destination,
            IdentityConverter(),
            chunks="blocks",
            run_id="run",
            resume=True,
            dtype=dtype,
        )

    with pytest.raises(WriteAbortedError):
        start(4, written)
    for other in {None, "f2", "f4", "f8", "i4"} - {written.strip(">")}:
        if other is None and written == "f8":
            continue  # the blocks' own
        with pytest.raises(ResumeMismatchError, match="dtype= must be the same") as caught:
            start(None, other)
        assert caught.value.field == "dtype"
    start(None, written)
    np.testing.assert_array_equal(place.read(), values.astype(written))


NOT_COMPUTED = {
    "another run",
    "other values",
    "a first block of another height",
    "blocks of another width",
}
"""Changes of a finished run that only computing a block would tell, or that are another run."""


def _write_all_but_publish(job: Job, place: Place) -> None:
    """Die right before the array is shown."""
    kind = SiblingDirectory if isinstance(place, LocalPlace) else MetadataLast
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(kind, "commit", _fail)
        with pytest.raises(WriteAbortedError):
            job.store(place.destination, run_id="run")


@pytest.mark.parametrize("published", [True, False], ids=["published", "only publishing was left"])
@pytest.mark.parametrize("name", sorted(CHANGES.keys() - NOT_COMPUTED))
def test_a_finished_run_is_compared_before_it_is_returned(
    name: str, published: bool, place: Place
) -> None:
    change = CHANGES[name]
    if published:
        change.of.store(place.destination, run_id="run")
    else:
        _write_all_but_publish(change.of, place)
    before = place.content()
    options: dict[str, Any] = {"run_id": "run", "resume": True, **change.options}
    with pytest.raises(ResumeMismatchError) as caught:
        replace(change.of, **change.job).store(place.destination, _never, overwrite=True, **options)
    assert caught.value.field == change.what
    assert place.content() == before, "and nothing is published"
    change.of.store(place.destination, _never, run_id="run", resume=True)
    assert same(seen_at(_store(place)), change.of.whole)


@pytest.mark.parametrize("published", [True, False], ids=["published", "only publishing was left"])
@pytest.mark.parametrize("widths", [None, (3, 3)])
def test_a_finished_run_is_of_one_kind_of_sequence(
    widths: tuple[int, ...] | None, published: bool, place: Place
) -> None:
    job = Job("job", (2, 2, 2), widths, tail=3)
    if published:
        job.store(place.destination, run_id="run")
    else:
        _write_all_but_publish(job, place)
    before = place.content()
    other = replace(job, widths=None if widths else (3, 3))
    with pytest.raises(ResumeMismatchError, match="the number of block axes"):
        other.store(place.destination, _never, run_id="run", resume=True)
    assert place.content() == before


@pytest.mark.parametrize("name", sorted(NOT_COMPUTED - {"another run"}))
def test_a_finished_run_is_returned_without_computing_a_block(name: str, place: Place) -> None:
    """That the same name is the same run is for its owner to say."""
    FLAT.store(place.destination, run_id="run")
    job = replace(FLAT, **CHANGES[name].job)
    job.store(place.destination, _never, run_id="run", resume=True)
    assert same(seen_at(_store(place)), FLAT.whole)


def test_a_run_that_has_grown_is_told_whoever_computes(place: Place) -> None:
    """Regression: a data set that grew overnight was not stored, without a word."""
    FLAT.store(place.destination, run_id="run")
    grown = replace(FLAT, heights=(*FLAT.heights, 3))
    with ThreadPoolExecutor(1) as executor:
        for chosen in (None, executor):
            with pytest.raises(ResumeMismatchError, match="number of blocks") as caught:
                grown.store(place.destination, _never, run_id="run", resume=True, executor=chosen)
            assert (caught.value.expected, caught.value.got) == (5, 6)


@pytest.mark.parametrize("job", [FLAT, NESTED], ids=lambda job: job.name)
def test_an_array_that_has_lost_a_chunk_is_not_returned_as_finished(job: Job, place: Place) -> None:
    job.store(place.destination, run_id="run")
    if isinstance(place, LocalPlace):
        (Path(place.destination) / "c" / "0" / "0").unlink()
    else:
        del place.destination["c/0/0"]
    with pytest.raises(DestinationError, match=r"1 of . chunks .* overwrite=True"):
        job.store(place.destination, _never, run_id="run", resume=True)
    job.store(place.destination, run_id="run", overwrite=True)
    assert same(seen_at(_store(place)), job.whole)


@pytest.mark.parametrize("other", ["c/9/0", "c/0/9", "c/9", "c/00/0", "c/0/0/0"])
def test_another_key_does_not_stand_for_a_chunk_that_is_gone(other: str, place: Place) -> None:
    FLAT.store(place.destination, run_id="run")
    if isinstance(place, LocalPlace):
        chunk, junk = (Path(place.destination, key) for key in ("c/0/0", other))
        value = chunk.read_bytes()
        chunk.unlink()
        junk.parent.mkdir(parents=True, exist_ok=True)
        junk.write_bytes(value)
    else:
        place.destination[other] = place.destination.pop("c/0/0")
    with pytest.raises(DestinationError, match=r"1 of . chunks .* overwrite=True"):
        FLAT.store(place.destination, _never, run_id="run", resume=True)


def test_a_finished_run_of_another_name_is_not_replaced(place: Place) -> None:
    FLAT.store(place.destination, run_id="run")
    before = place.content()
    with pytest.raises(LazyChunksError, match="overwrite=True"):
        NESTED.store(place.destination, _never, resume=True, run_id="other")
    assert place.content() == before
    with pytest.raises(WriteAbortedError):
        NESTED.store(place.destination, Watch(5), overwrite=True, resume=True, run_id="other")
    if isinstance(place, LocalPlace):
        assert same(seen_at(_store(place)), FLAT.whole), "the old array stays until the end"
        before = place.content()
        FLAT.store(place.destination, _never, resume=True, run_id="run")
        assert place.content() == before, "what is unfinished is for the other run to go on with"
    watch = Watch()
    NESTED.store(place.destination, watch, overwrite=True, resume=True, run_id="other")
    assert len(watch.computed) < NESTED.count
    assert same(seen_at(_store(place)), NESTED.whole)


@pytest.mark.parametrize("when", ["writing", "all is written"])
def test_an_array_of_which_a_chunk_has_gone_is_not_published(
    when: str, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file system, or a store, may remove what is old, and a run may take longer than that."""

    def remove(*start: int) -> None:
        if start in ((16,), ()):
            if isinstance(place, LocalPlace):
                (place.directory / ".array.zarr.partial" / "c" / "0" / "0").unlink()
            else:
                del place.destination["c/0/0"]

    options: dict[str, Any] = {"run_id": "run", "max_in_flight": 1}
    if when == "writing":
        with pytest.raises(DestinationError, match=r"1 of 5 chunks .* see that") as caught:
            FLAT.store(place.destination, remove, **options)
        assert "goes on from here" in "".join(caught.value.__notes__)
        options["resume"] = True
    else:
        kind = SiblingDirectory if isinstance(place, LocalPlace) else MetadataLast
        with monkeypatch.context() as patched:
            patched.setattr(kind, "commit", _fail)
            with pytest.raises(WriteAbortedError):
                FLAT.store(place.destination, **options)
        remove()
        with pytest.raises(DestinationError, match=r"1 of 5 chunks .* overwrite=True"):
            FLAT.store(place.destination, resume=True, **options)
        options["overwrite"] = True
    assert seen_at(_store(place)) is None
    watch = Watch()
    FLAT.store(place.destination, watch, **options)
    assert same(seen_at(_store(place)), FLAT.whole)
    assert len(watch.computed) == (2 if when == "writing" else FLAT.count)


def _fail(*_: object, **__: object) -> None:
    raise FailingError


def halved(value: bytes) -> bytes:
    return value[: len(value) // 2]


def emptied(_: bytes) -> bytes:
    return b""


@pytest.mark.parametrize("damage", [halved, emptied])
def test_damaged_metadata_is_told_where_chunks_are_stored(
    place: Place, damage: Callable[[bytes], bytes]
) -> None:
    with pytest.raises(WriteAbortedError):
        _fail_late(FLAT, place)
    _change(place, KEPT_BACK, damage)
    before = place.content()
    with pytest.raises(ResumeMismatchError, match=r"metadata .* damaged.*overwrite=True") as caught:
        FLAT.store(place.destination, resume=True, run_id="run")
    assert caught.value.field == "metadata"
    assert place.content() == before
    FLAT.store(place.destination, overwrite=True)
    assert same(seen_at(_store(place)), FLAT.whole)


def test_a_stored_block_that_unpacks_to_more_takes_no_memory(tmp_path: Path) -> None:
    place = LocalPlace(tmp_path)
    with pytest.raises(WriteAbortedError):
        _fail_late(FLAT, place)
    bomb = bytes(Zstd().encode(bytes(2**27)))
    _change(place, "c/0/0", lambda _: bomb)
    tracemalloc.start()
    try:
        FLAT.store(place.destination, resume=True, run_id="run")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2**26
    assert same(seen_at(_store(place)), FLAT.whole), "it is computed again"


def _change(place: Place, key: str, change: Callable[[bytes], bytes]) -> None:
    """Change what is stored of an unfinished write under a key."""
    if isinstance(place, LocalPlace):
        file = place.directory / ".array.zarr.partial" / key
        file.write_bytes(change(file.read_bytes()))
    else:
        value = change(place.destination[key].to_bytes())
        place.destination[key] = default_buffer_prototype().buffer.from_bytes(value)


@pytest.mark.parametrize("cut", [0, 1, 5, 20, -9, -1])
@pytest.mark.parametrize(
    "layout", [{}, {"compressors": None}, {"chunks": (2, 6), "shards": (4, 6)}]
)
def test_a_chunk_file_that_a_power_cut_left_empty_or_cut_is_computed_again(
    cut: int, layout: dict[str, Any], tmp_path: Path
) -> None:
    """Regression: such files counted as done, and shards read as zeros."""
    place = LocalPlace(tmp_path)
    with pytest.raises(WriteAbortedError):
        FLAT.store(place.destination, Watch(4), run_id="run", max_in_flight=1, **layout)
    _change(place, "c/1/0", lambda value: value[:cut])
    watch = Watch()
    FLAT.store(place.destination, watch, resume=True, run_id="run", **layout)
    assert (4,) in watch.computed
    assert same(seen_at(_store(place)), FLAT.whole)


def test_a_damaged_block_is_told_and_not_met_again_and_again() -> None:
    """In a store that sets keys whole, so that no start looks whether they are."""
    place = MemoryPlace({})
    with pytest.raises(WriteAbortedError):
        _fail_late(FLAT, place)
    _change(place, "c/0/0", lambda value: value[:-9])
    with pytest.raises(ResumeMismatchError, match=r"block 0 .* cannot be read.*overwrite=True"):
        FLAT.store(place.destination, resume=True, run_id="run")
    FLAT.store(place.destination, overwrite=True)
    assert same(seen_at(_store(place)), FLAT.whole)


# The block that is compared.


def changed(values: Array, by: float) -> Array:
    return (values * (1 + by)).astype(values.dtype)


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "c8", "c16"])
def test_rtol_says_how_much_noise_there_may_be(dtype: str) -> None:
    values = (1 + np.random.default_rng(1).random((4, 3))).astype(dtype)
    values[0] = (np.nan, np.inf, -np.inf) if values.dtype.kind == "f" else np.nan
    with np.errstate(invalid="ignore"):
        noisy = changed(values, 0.01)
    check_same_values(values, values, 0, None)
    check_same_values(values, noisy, 0, 0.02)
    for rtol in (None, 0.0, 0.001):
        with pytest.raises(ResumeMismatchError, match="rtol="):
            check_same_values(values, noisy, 0, rtol)
    for at, other in product([(0, 0), (0, 1), (1, 0)], [0.0, np.inf, np.nan]):
        broken = values.copy()
        broken[at] = other
        if broken.tobytes() != values.tobytes():
            with pytest.raises(ResumeMismatchError):
                check_same_values(values, broken, 0, 0.5)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rtol", [None, 0.0, 0.5])
def test_every_dtype_can_be_compared(dtype: str, rtol: float | None) -> None:
    values = np.arange(1, 7).reshape(2, 3).astype(dtype)
    check_same_values(values, values.copy(), 0, rtol)
    check_same_values(values, np.asfortranarray(values), 0, rtol)
    check_same_values(values, values.astype(values.dtype.newbyteorder()), 0, rtol)
    with pytest.raises(ResumeMismatchError):
        check_same_values(values, np.zeros_like(values), 0, rtol)


def test_negative_zero_and_the_bits_of_nan_count() -> None:
    zero = np.zeros(3)
    nan = np.array([0x7FF8000000000000, 0x7FF8000000000001], np.uint64).view(np.float64)
    for one, other in ((zero, -zero), (nan[:1], nan[1:])):
        check_same_values(one, one, 0, None)
        check_same_values(one, other, 0, 1e-9)
        with pytest.raises(ResumeMismatchError):
            check_same_values(one, other, 0, None)


def test_blocks_with_noise_can_be_resumed(place: Place) -> None:
    generator = np.random.default_rng(1)

    def start(most: int | None, **options: Any) -> None:
        watch = Watch(most)

        def block(row: int, column: int) -> Array:
            watch(row, column)
            return np.full((2, 3), 10 * row + column + 1) * (1 + 1e-9 * generator.random((2, 3)))

        NestedLazyChunkSequence.from_product(block, range(3), range(4)).to_zarr(
            place.destination,
            IdentityConverter(),
            chunks="blocks",
            run_id="run",
            resume=True,
            **options,
        )

    with pytest.raises(WriteAbortedError):
        start(7)
    with pytest.raises(ResumeMismatchError, match="rtol="):
        start(None)
    start(None, rtol=1e-6)
    numbers = np.arange(3)[:, None] * 10 + np.arange(4)[None, :] + 1
    np.testing.assert_allclose(place.read(), np.kron(numbers, np.ones((2, 3))), rtol=1e-6)


@pytest.mark.parametrize("rtol", [-1e-9, float("nan"), "much", True, 1j])
def test_a_tolerance_is_a_number_that_is_not_negative(rtol: Any) -> None:
    with pytest.raises((ValueError, TypeError), match="rtol"):
        FLAT.store({}, _never, run_id="run", resume=True, rtol=rtol)


@pytest.mark.parametrize("run_id", [7, b"run", ["run"], ""])
def test_a_name_is_a_text_that_says_something(run_id: Any) -> None:
    with pytest.raises((ValueError, TypeError), match="run_id"):
        FLAT.store({}, _never, run_id=run_id, resume=True)


def _never(*_: int) -> None:
    pytest.fail("a block was computed")


def test_a_listed_key_takes_about_a_quarter_of_a_kilobyte() -> None:
    """As the page on internet scale says; the tables of Python grow in steps."""
    plan = ArrayPlan((Partition(1), Partition(1)), (), (1, 1))
    tracemalloc.start()
    try:
        done = list_stored_units(
            (f"c/{row}/{column}" for row in range(90) for column in range(100)), plan
        )
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(done) == 9000
    assert 128 < peak / len(done) < 384


@pytest.mark.parametrize(
    "name", ["c/03/0", "c/3/00", "c/٣/0", "c/3/1", "c/3", "c/3/0/0", "c/-3/0", "c/3/0.partial"]
)
def test_a_name_that_only_looks_like_a_chunk_is_none(name: str) -> None:
    """Regression: such names counted, so that blocks were left out and read as zeros."""
    plan = ArrayPlan((Partition(2),), (6,), (2, 6))
    assert list_stored_units(["c/3/0"], plan) == {(3,)}
    assert list_stored_units([name], plan) == frozenset()
