"""Arrays that belong together: one group, one commit."""

# pyright: reportUnknownMemberType=false
# The functions of zarr name a type of fsspec, which is optional and has no types.

import json
import logging
import tempfile
import tracemalloc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext, suppress
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from zarr.codecs import TransposeCodec
from zarr.core.buffer import Buffer
from zarr.storage import LocalStore, MemoryStore, StorePath

from lazychunks import (
    ArrayOptions,
    BlockDTypeError,
    BlockError,
    BlockNamesError,
    BlockShapeError,
    BlockTypeError,
    DestinationError,
    DestinationExistsError,
    EmptySequenceError,
    IdentityConverter,
    LazyChunkSequence,
    LazyChunksError,
    NestedLazyChunkSequence,
    ResumeMismatchError,
    WriteAbortedError,
    concatenate,
    each,
    moments,
    nested_concatenate,
    status,
    tee,
    total,
    verify,
    zarr_group_sink,
)
from lazychunks.__main__ import main
from lazychunks.storage.keys import Keys
from lazychunks.storage.places.place import resolve_destination
from tests import executors
from tests.executors import Shuffling
from tests.groups import ZARR, Array, GroupJob, group_at, same_group
from tests.places import put_array, put_group, tree

NUMPY: IdentityConverter = IdentityConverter()

JOBS = st.builds(
    GroupJob, rows=st.integers(1, 5), columns=st.none() | st.integers(1, 3), seed=st.integers(0, 3)
)

OPTIONS = st.fixed_dictionaries(
    {},
    optional={
        "chunks": st.sampled_from(["auto", "blocks", 2, 5]),
        "run_id": st.just("run"),
        "compressors": st.none(),
    },
)


ARRAYS: LazyChunkSequence[Any] = LazyChunkSequence(lambda: [np.ones(2)])


def workers(spreads: bool) -> AbstractContextManager[ThreadPoolExecutor | None]:
    """Return two workers, or none."""
    return ThreadPoolExecutor(2) if spreads else nullcontext()


@given(job=JOBS, options=OPTIONS, wide=st.sampled_from([None, (3, 2), (6, 4)]))
def test_a_group_is_what_each_array_is_alone(
    job: GroupJob, options: Any, wide: tuple[int, int] | None
) -> None:
    arrays: dict[str, ArrayOptions] = {} if wide is None else {"wide": {"chunks": wide}}
    store = MemoryStore()
    group = job.sequence().to_zarr_group(store, NUMPY, True, arrays=arrays, **options)
    assert same_group(group_at(store), job.whole)
    assert sorted(group.array_keys()) == sorted(job.whole)
    for name in job.whole:
        alone = job.sequence().map(itemgetter(name))
        own: Any = {**options, **arrays.get(name, {})}
        expected = alone.to_zarr({}, NUMPY, return_stored=True, **own)
        stored: Any = group[name]
        assert stored.chunks == expected.chunks
        codecs: Any = expected.metadata
        assert stored.metadata.codecs == codecs.codecs


@given(job=JOBS, options=OPTIONS)
def test_workers_store_the_same_group(job: GroupJob, options: Any) -> None:
    options = {**options, "chunks": "blocks"}
    with tempfile.TemporaryDirectory() as directory, Shuffling() as executor:
        here, spread = Path(directory, "here"), Path(directory, "spread")
        job.sequence().to_zarr_group(here, NUMPY, **options)
        job.sequence().to_zarr_group(spread, NUMPY, executor=executor, **options)
        assert same_group(group_at(spread), job.whole)
        assert tree(here) == tree(spread)


@given(job=JOBS, spreads=st.booleans())
def test_a_tee_stores_and_folds_each_array(job: GroupJob, spreads: bool) -> None:
    store = MemoryStore()
    sink = zarr_group_sink(store, NUMPY, chunks="blocks", run_id="run", resume=True)
    sequence = job.sequence()
    with workers(spreads) as chosen:
        for _ in range(2):  # the second time, everything is read back
            if isinstance(sequence, LazyChunkSequence):
                both = tee(sink, each({"tall": total(), "one": concatenate()}))
                group, folded = sequence.compute(both, executor=chosen)
                for name, fold in {"tall": total(), "one": concatenate()}.items():
                    alone = sequence.map(itemgetter(name)).compute(fold)
                    assert np.array_equal(folded[name], alone)
            else:
                nested = tee(sink, each({"wide": nested_concatenate()}))
                group, folded = sequence.compute(nested, executor=chosen)
                assert np.array_equal(folded["wide"], job.whole["wide"])
            assert same_group(group_at(store), job.whole)
            assert sorted(group.array_keys()) == sorted(job.whole)


@given(job=JOBS, at=st.integers(0, 20), chunks=st.sampled_from(["auto", "blocks", 4]))
def test_a_run_that_failed_goes_on(job: GroupJob, at: int, chunks: Any) -> None:
    count = job.rows * (job.columns or 1)
    at %= count
    computed: list[tuple[int, ...]] = []

    def fail(*index: int) -> None:
        computed.append(index)
        if len(computed) == at + 1:
            raise OSError("as asked for")

    content, clean = dict[str, Buffer](), dict[str, Buffer]()
    store = MemoryStore(content)
    options: Any = {"run_id": "run", "resume": True, "chunks": chunks, "max_in_flight": 1}
    with pytest.raises((WriteAbortedError, OSError)) as caught:
        job.sequence(fail).to_zarr_group(store, NUMPY, **options)
    assert group_at(store) is None
    again: list[tuple[int, ...]] = []
    job.sequence(lambda *index: again.append(index)).to_zarr_group(store, NUMPY, **options)
    assert same_group(group_at(store), job.whole)
    done = getattr(caught.value, "done", 0)
    verified = 1 if done else 0
    assert len(again) == count - done + verified
    job.sequence().to_zarr_group(MemoryStore(clean), NUMPY, **options)
    assert clean.keys() == content.keys()
    computed.clear()
    job.sequence(fail).to_zarr_group(store, NUMPY, **options)
    assert computed == []


@given(job=JOBS, chunks=st.sampled_from(["auto", "blocks", 4]))
def test_a_group_reads_back_as_mappings(job: GroupJob, chunks: Any) -> None:
    store = MemoryStore()
    sequence = job.sequence()
    sequence.to_zarr_group(store, NUMPY, chunks=chunks)
    if isinstance(sequence, LazyChunkSequence):
        flat = LazyChunkSequence.from_zarr_group(store, NUMPY)
        read = flat.compute(each(dict.fromkeys(job.whole, concatenate())))
    else:
        nested = NestedLazyChunkSequence.from_zarr_group(store, NUMPY)
        read = nested.compute(each(dict.fromkeys(job.whole, nested_concatenate())))
    assert same_group(read, job.whole)


def test_blocks_of_whole_chunks_come_back_as_they_were_stored() -> None:
    job = GroupJob(rows=4)
    store = MemoryStore()
    job.sequence().to_zarr_group(store, NUMPY, chunks="blocks")
    read = LazyChunkSequence.from_zarr_group(store, NUMPY, names=["tall", "wide"]).compute()
    expected = list(job.sequence())
    assert len(read) == len(expected)
    for number, block in enumerate(read):
        whole: Any = expected[number]
        assert same_group(block, {name: whole[name] for name in ("tall", "wide")})
    halves = LazyChunkSequence.from_zarr_group(store, NUMPY, names=["wide"], rows=2).compute()
    assert [len(block["wide"]) for block in halves] == [2, 2, 2, 2, 2, 1]


def test_blocks_of_uneven_sizes_come_back_as_they_were_stored() -> None:
    blocks = [{"a": np.arange(n), "b": np.full((1, 2), n)} for n in (3, 1, 0, 4)]
    store = MemoryStore()
    LazyChunkSequence(lambda: blocks).to_zarr_group(store, NUMPY, chunks="blocks")
    read = LazyChunkSequence.from_zarr_group(store, NUMPY).compute()
    assert [len(block["a"]) for block in read] == [3, 1, 0, 4]
    for block, expected in zip(read, blocks, strict=True):
        assert same_group(block, expected)


def test_xarray_opens_a_group_with_its_coordinates(tmp_path: Path) -> None:
    xarray = pytest.importorskip("xarray", reason="xarray is not installed")

    def embed(batch: int) -> dict[str, Array]:
        return {"embedding": np.full((2, 3), batch, np.float32), "loss": np.ones((2,))}

    times = np.array(["2026-01-01", "NaT", "2026-01-03", "2026-01-04"], "M8[ns]")
    LazyChunkSequence.from_map(embed, range(2)).to_zarr_group(
        tmp_path / "run.zarr",
        NUMPY,
        arrays={
            "embedding": {"dimension_names": ["sample", "feature"], "attributes": {"unit": "1"}},
            "loss": {"dimension_names": ["sample"]},
        },
        coordinates={
            "sample": np.arange(4) * 10,
            "label": ("sample", ["a", "bb", "", "d"]),
            "time": (("sample",), times),
        },
        attributes={"model": "v7"},
    )
    with xarray.open_zarr(tmp_path / "run.zarr") as data:
        assert data.sizes == {"sample": 4, "feature": 3}
        assert set(data.coords) == {"sample", "label", "time"}
        assert data.attrs["model"] == "v7"
        assert data["embedding"].attrs["unit"] == "1"
        assert data["label"].values.tolist() == ["a", "bb", "", "d"]
        np.testing.assert_array_equal(data["time"].values, times)
        assert float(data["embedding"].sel(sample=30).mean()) == 1.0
        mean = data.load()["embedding"].groupby("label").mean()
        assert mean.sizes["label"] == 4


def test_arrays_without_names_of_dimensions_open_in_xarray_too(tmp_path: Path) -> None:
    xarray = pytest.importorskip("xarray", reason="xarray is not installed")
    job = GroupJob(rows=2)
    job.sequence().to_zarr_group(tmp_path / "run.zarr", NUMPY)
    with xarray.open_zarr(tmp_path / "run.zarr") as data:
        np.testing.assert_array_equal(data["tall"].values, job.whole["tall"])


def test_a_destination_can_be_within_a_store() -> None:
    store = MemoryStore()
    for path in ("runs/one", "runs/two"):
        GroupJob(rows=2).sequence().to_zarr_group(StorePath(store, path), NUMPY)
    assert same_group(group_at(StorePath(store, "runs/two")), GroupJob(rows=2).whole)


# --- overwriting -------------------------------------------------------------------------------


PLACES: dict[str, Callable[[Path], Any]] = {
    "path": lambda path: str(path / "group.zarr"),
    "memory": lambda _: MemoryStore(),
    "files": lambda path: FilesOnly(path / "group.zarr"),
}


class FilesOnly(LocalStore):
    """A store of files in which nothing is renamed."""


@pytest.fixture(params=PLACES)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """Return a destination."""
    return PLACES[request.param](tmp_path)


def test_a_group_of_this_library_is_replaced_whole(place: Any, tmp_path: Path) -> None:
    old, new = GroupJob(rows=3), GroupJob(rows=2, seed=1)
    old.sequence().to_zarr_group(place, NUMPY, coordinates={})
    with pytest.raises(DestinationExistsError, match="overwrite=True"):
        new.sequence().to_zarr_group(place, NUMPY)
    assert same_group(group_at(place), old.whole)
    renamed = new.sequence().map(lambda block: {"only": block["wide"]})
    renamed.to_zarr_group(place, NUMPY, overwrite=True)
    assert same_group(group_at(place), {"only": new.whole["wide"]})
    left = [name for name, content in tree(tmp_path).items() if content != "directory"]
    assert not any("tall" in name or "partial" in name for name in left)
    new.sequence().to_zarr_group(place, NUMPY, overwrite=True)
    assert same_group(group_at(place), new.whole)


FOREIGN: dict[str, Callable[[Any], None]] = {
    "an array": lambda place: put_array(place, np.arange(3), path="mine"),
    "a subgroup": lambda place: ZARR.open_group(place).create_group("mine"),
    "an array in an array": lambda place: keys_at(place).write("wide/mine/zarr.json", b"{}"),
}


def keys_at(destination: Any) -> Keys:
    """Return the keys at a destination."""
    return resolve_destination(destination).in_store(read_only=False)


@pytest.mark.parametrize("foreign", FOREIGN)
def test_a_group_with_anything_else_in_it_stays(place: Any, foreign: str) -> None:
    job = GroupJob(rows=2)
    job.sequence().to_zarr_group(place, NUMPY)
    FOREIGN[foreign](place)
    before = ZARR.open_group(place, mode="r").info_complete()
    with pytest.raises(DestinationExistsError, match=r"beside other content .*mine"):
        job.sequence(_never).to_zarr_group(place, NUMPY, overwrite=True)
    assert ZARR.open_group(place, mode="r").info_complete().__dict__ == before.__dict__


def test_what_is_no_group_of_this_library_stays(place: Any) -> None:
    put_group(place)
    with pytest.raises(DestinationExistsError, match="another program"):
        GroupJob(rows=2).sequence(_never).to_zarr_group(place, NUMPY, overwrite=True)
    assert group_at(place) is not None


def test_an_array_is_no_group_and_a_group_no_array(place: Any) -> None:
    job = GroupJob(rows=2)
    array = job.sequence().map(lambda block: block["wide"])
    array.to_zarr(place, NUMPY)
    with pytest.raises(DestinationExistsError, match="an array, where a group is to be"):
        job.sequence(_never).to_zarr_group(place, NUMPY, overwrite=True)


def test_an_array_does_not_replace_a_group(place: Any) -> None:
    job = GroupJob(rows=2)
    job.sequence().to_zarr_group(place, NUMPY)
    with pytest.raises(DestinationExistsError, match="a zarr group"):
        job.sequence(_never).map(lambda block: block["wide"]).to_zarr(place, NUMPY, overwrite=True)
    assert same_group(group_at(place), job.whole)


def _never(*_: int) -> None:
    raise AssertionError("no block is computed")


# --- bad input ---------------------------------------------------------------------------------


def _good(row: int) -> dict[str, Array]:
    return {"a": np.full((2, 3), row), "b": np.full((2,), row)}


def _after_two(third: Any) -> Callable[[int], Any]:
    return lambda row: third if row == 2 else _good(row)


class Pair(NamedTuple):
    """A block that is no mapping."""

    a: Array
    b: Array


BAD_BLOCKS: dict[str, tuple[Any, type[BlockError], str]] = {
    "one name less": ({"a": np.full((2, 3), 1)}, BlockNamesError, "block 2 has 'a', and the first"),
    "one name more": (_good(2) | {"d": np.ones(2)}, BlockNamesError, "block 2 has 'a', 'b', 'd'"),
    "no names": ({}, BlockNamesError, "block 2 has no names"),
    "no mapping": (np.ones((2, 3)), BlockTypeError, "block 2 is of type ndarray"),
    "a named tuple": (Pair(np.ones((2, 3)), np.ones(2)), BlockTypeError, "_asdict"),
    "another dtype": ({"a": np.ones((2, 3)), "b": np.ones(2)}, BlockDTypeError, "'a'.*block 2"),
    "another width": (
        {"a": np.full((2, 3), 1), "b": np.full((2, 1), 1)},
        BlockShapeError,
        "'b'.*block 2",
    ),
}


@pytest.mark.parametrize("bad", BAD_BLOCKS)
@pytest.mark.parametrize("spreads", [False, True], ids=["here", "workers"])
def test_a_bad_block_is_told_by_block_and_name(bad: str, spreads: bool, place: Any) -> None:
    block, error, words = BAD_BLOCKS[bad]
    sequence = LazyChunkSequence.from_map(_after_two(block), range(4))
    with workers(spreads) as executor, pytest.raises(error, match=words):
        sequence.to_zarr_group(place, NUMPY, chunks="blocks", executor=executor)
    assert group_at(place) is None


FIRST_BLOCKS: dict[str, tuple[Any, type[LazyChunksError], str]] = {
    "empty": ({}, BlockNamesError, "block 0 is an empty mapping"),
    "no mapping": ([np.ones(2)], BlockTypeError, "block 0 is of type list"),
    "a path": ({"a/b": np.ones(2)}, BlockNamesError, "'a/b' cannot be the name"),
    "the parent": ({"..": np.ones(2)}, BlockNamesError, r"'\.\.' cannot be"),
    "metadata": ({"zarr.json": np.ones(2)}, BlockNamesError, "'zarr.json' cannot be"),
    "chunks": ({"c": np.ones(2)}, BlockNamesError, "'c' cannot be"),
    "reserved": ({"__x": np.ones(2)}, BlockNamesError, "'__x' cannot be"),
    "ours": ({"lazychunks.open_0": np.ones(2)}, BlockNamesError, "cannot be"),
    "nothing": ({"": np.ones(2)}, BlockNamesError, "'' cannot be"),
    "a number": ({1: np.ones(2)}, BlockNamesError, "1 cannot be"),
    "a line": ({"a\nb": np.ones(2)}, BlockNamesError, "cannot be"),
    "objects": ({"a": np.array([None])}, BlockDTypeError, "'a'.*block 0"),
    "no axis": ({"a": np.ones(2), "b": np.float64(1)}, BlockError, "'b'.*block 0"),
}


@pytest.mark.parametrize("bad", FIRST_BLOCKS)
@pytest.mark.parametrize("spreads", [False, True], ids=["here", "workers"])
def test_a_bad_first_block_changes_nothing(
    bad: str, spreads: bool, place: Any, tmp_path: Path
) -> None:
    block, error, words = FIRST_BLOCKS[bad]
    GroupJob(rows=2).sequence().to_zarr_group(place, NUMPY)
    before = tree(tmp_path)
    sequence: LazyChunkSequence[Any] = LazyChunkSequence.from_map(lambda _: block, range(3))
    with workers(spreads) as executor, pytest.raises(error, match=words):
        sequence.to_zarr_group(place, NUMPY, overwrite=True, executor=executor)
    assert tree(tmp_path) == before
    assert same_group(group_at(place), GroupJob(rows=2).whole)


def test_arrays_of_a_nested_group_need_two_axes() -> None:
    nested = NestedLazyChunkSequence.from_product(
        lambda i, j: {"a": np.full((2, 2), i), "b": np.full((2,), j)}, range(2), range(2)
    )
    with pytest.raises(BlockShapeError, match=r"'b'.*block \(0, 0\)"):
        nested.to_zarr_group({}, NUMPY)


BAD_OPTIONS: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "for nobody": ({"arrays": {"d": {}}}, BlockNamesError, "options for 'd', and blocks have 'a'"),
    "misspelt": ({"arrays": {"a": {"chunk": 2}}}, TypeError, r"arrays\['a'\].*'chunk'"),
    "of the run": ({"arrays": {"a": {"run_id": "x"}}}, TypeError, r"arrays\['a'\].*'run_id'"),
    "a bad value": ({"arrays": {"a": {"chunks": 0}}}, ValueError, "chunks"),
    "a name that is taken": ({"coordinates": {"a": [1]}}, BlockNamesError, "a coordinate"),
    "a bad name": ({"coordinates": {"x/y": [1]}}, BlockNamesError, "'x/y' cannot be"),
    "no dimension": ({"coordinates": {"x": [1]}}, BlockShapeError, "along 'x', and no array"),
    "another number of axes": ({"coordinates": {"x": [[1]]}}, ValueError, "has 2 axes"),
    "objects": ({"coordinates": {"x": [object()]}}, TypeError, "cannot be stored"),
}


@pytest.mark.parametrize("bad", BAD_OPTIONS)
def test_bad_options_change_nothing(bad: str, place: Any) -> None:
    options, error, words = BAD_OPTIONS[bad]
    with pytest.raises(error, match=words):
        LazyChunkSequence.from_map(_good, range(3)).to_zarr_group(place, NUMPY, **options)
    assert group_at(place) is None


def test_a_coordinate_must_fit_its_dimension(place: Any) -> None:
    arrays: dict[str, ArrayOptions] = {
        "a": {"dimension_names": ["row", "column"]},
        "b": {"dimension_names": ["row"]},
    }
    sequence = LazyChunkSequence.from_map(_good, range(3))
    with pytest.raises(BlockShapeError, match="length 2 along 'column', and 'a' has 3"):
        sequence.to_zarr_group(place, NUMPY, arrays=arrays, coordinates={"column": [1, 2]})
    with pytest.raises(BlockShapeError, match="length 5 along 'row', and 'a' has 6"):
        sequence.to_zarr_group(place, NUMPY, arrays=arrays, coordinates={"row": range(5)})
    assert group_at(place) is None
    group = sequence.to_zarr_group(
        place, NUMPY, True, arrays=arrays, coordinates={"row": range(6), "column": [1, 2, 3]}
    )
    assert sorted(group.array_keys()) == ["a", "b", "column", "row"]


def test_a_sequence_without_blocks_is_refused(place: Any) -> None:
    empty: LazyChunkSequence[dict[str, Array]] = LazyChunkSequence.from_map(_good, [])
    with pytest.raises(EmptySequenceError):
        empty.to_zarr_group(place, NUMPY)
    with ThreadPoolExecutor(1) as executor, pytest.raises(EmptySequenceError):
        empty.to_zarr_group(place, NUMPY, executor=executor)


# --- runs --------------------------------------------------------------------------------------


def run(place: Any, rows: int = 4, **options: Any) -> Any:
    """Store a run under its name."""
    return (
        GroupJob(rows=rows)
        .sequence()
        .to_zarr_group(place, NUMPY, True, run_id="run", resume=True, **options)
    )


CHANGES: dict[str, tuple[Callable[[Any], Any], str]] = {
    "more blocks": (lambda place: run(place, rows=5), "number of blocks is 5, was 4"),
    "chunks": (lambda place: run(place, chunks=2), "chunk_grid"),
    "attributes": (lambda place: run(place, attributes={"x": 1}), "attributes"),
    "an option of one array": (
        lambda place: run(place, arrays={"one": {"compressors": None}}),
        "one, codecs",
    ),
    "coordinates": (lambda place: run(place, coordinates={"wide_1": [1, 2, 3, 4]}), "coordinates"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_finished_run_is_compared_before_it_is_returned(change: str, place: Any) -> None:
    run(place)
    store, words = CHANGES[change]
    with pytest.raises(ResumeMismatchError, match=words):
        store(place)
    assert same_group(group_at(place), GroupJob(rows=4).whole)


def test_other_coordinates_than_those_of_a_finished_run_are_refused(place: Any) -> None:
    run(place, coordinates={"wide_1": [1, 2, 3, 4]})
    run(place, coordinates={"wide_1": [1, 2, 3, 4]})
    with pytest.raises(ResumeMismatchError, match="'wide_1' is not the one"):
        run(place, coordinates={"wide_1": [1, 2, 3, 5]})


def test_coordinates_may_be_computed_with_noise(place: Any) -> None:
    run(place, coordinates={"wide_1": [1.0, 2.0, 3.0, np.nan]})
    noisy = {"wide_1": [1.0, 2.0 + 1e-12, 3.0, np.nan]}
    with pytest.raises(ResumeMismatchError, match="'wide_1' is not the one"):
        run(place, coordinates=noisy)
    run(place, coordinates=noisy, rtol=1e-9)


def test_that_a_run_was_finished_is_said(place: Any, caplog: pytest.LogCaptureFixture) -> None:
    run(place)
    with caplog.at_level(logging.INFO, "lazychunks"):
        run(place)
    assert "was finished by an earlier start of run 'run'" in caplog.text


def test_an_array_that_a_finished_group_has_lost_is_an_error(tmp_path: Path) -> None:
    run(tmp_path / "group.zarr")
    (tmp_path / "group.zarr" / "wide" / "zarr.json").unlink()
    with pytest.raises(DestinationError, match=r"wide is not there any more"):
        run(tmp_path / "group.zarr")


def test_a_chunk_that_a_finished_group_has_lost_is_an_error(tmp_path: Path) -> None:
    run(tmp_path / "group.zarr", chunks="blocks")
    (tmp_path / "group.zarr" / "tall" / "c" / "1" / "0" / "0").unlink()
    with pytest.raises(DestinationError, match=r"1 of 4 chunks of .*tall are not there"):
        run(tmp_path / "group.zarr", chunks="blocks")


def test_an_unfinished_array_is_no_start_of_a_group(place: Any) -> None:
    def fail(row: int) -> Array:
        if row == 2:
            raise OSError("as asked for")
        return np.full((2, 3), row)

    options: Any = {"run_id": "run", "resume": True, "chunks": "blocks", "max_in_flight": 1}
    with pytest.raises(WriteAbortedError):
        LazyChunkSequence.from_map(fail, range(4)).to_zarr(place, NUMPY, **options)
    with pytest.raises(LazyChunksError, match=r"is a group, was an array|write of an array"):
        GroupJob(rows=4).sequence().to_zarr_group(place, NUMPY, **options)


def test_the_group_carries_consolidated_metadata() -> None:
    content: dict[str, Buffer] = {}
    store = MemoryStore(content)
    run(store)
    document = json.loads(content["zarr.json"].to_bytes())
    listed = document["consolidated_metadata"]["metadata"]
    for name in GroupJob(rows=4).whole:
        own = json.loads(content[f"{name}/zarr.json"].to_bytes())
        assert listed[name] == own
    assert ZARR.open_consolidated(store)["wide"].shape == (11, 4)


def test_each_folds_what_blocks_hold_under_each_name() -> None:
    job = GroupJob(rows=4)
    sequence = job.sequence()
    assert isinstance(sequence, LazyChunkSequence)
    fold = each({"wide": moments(), "tall": moments(None)}).then(lambda both: both["tall"].mean)
    here = sequence.compute(fold)
    with Shuffling() as executor:
        assert sequence.compute(fold, executor=executor) == here
    assert here == pytest.approx(job.whole["tall"].mean())
    with pytest.raises(BlockNamesError, match="no 'other', only 'wide'"):
        sequence.compute(each({"other": total()}))
    with pytest.raises(BlockTypeError, match="ndarray"):
        ARRAYS.compute(each({"other": total()}))


# --- what is there -----------------------------------------------------------------------------


def test_status_tells_of_a_group_and_its_arrays(place: Any) -> None:
    run(place, coordinates={"wide_1": [1, 2, 3, 4]})
    found = status(place)
    assert (found.state, found.run_id, found.shape) == ("complete", "run", None)
    assert found.members is not None
    assert {name: member.shape for name, member in found.members.items()} == {
        "wide": (11, 4),
        "tall": (22, 2, 3),
        "one": (4, 1),
        "wide_1": (4,),
    }
    assert found.nbytes == sum(array.nbytes for array in GroupJob(rows=4).whole.values()) + 32


def test_status_counts_the_blocks_that_are_done_in_all_arrays(place: Any) -> None:
    def fail(row: int, _: int) -> None:
        if row == 2:
            raise OSError("as asked for")

    options: Any = {"run_id": "run", "resume": True, "chunks": "blocks", "max_in_flight": 1}
    with pytest.raises(WriteAbortedError) as caught:
        GroupJob(rows=4).sequence(fail).to_zarr_group(place, NUMPY, **options)
    found = status(place)
    assert (found.state, found.done_blocks, found.blocks) == ("unfinished", 2, 4)
    assert caught.value.done == 2
    assert found.members is not None
    assert found.members["wide"].shape == (None, 4)


def test_verify_reads_all_arrays_of_a_group(place: Any) -> None:
    run(place, chunks="blocks", coordinates={"wide_1": [1, 2, 3, 4]})
    found = verify(place)
    assert (found.is_sound, found.chunks, found.has_checksums) == (True, 13, True)
    keys = keys_at(place)
    keys.delete("tall/c/1/0/0")
    keys.write("wide/c/0/0", b"damaged")
    found = verify(place)
    assert not found.is_sound
    assert list(found.bad) == ["wide/c/0/0"]
    assert found.missing_keys == ("tall/c/1/0/0",)


def test_the_command_line_shows_groups(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = str(tmp_path / "group.zarr")
    run(place)
    assert main(["status", place]) == 0
    assert "array    wide: (11, 4) float32" in capsys.readouterr().out
    assert main(["status", "--json", place]) == 0
    assert json.loads(capsys.readouterr().out)["members"]["tall"]["shape"] == [22, 2, 3]
    assert main(["verify", place]) == 0
    assert capsys.readouterr().out.startswith("sound: ")


def test_memory_does_not_grow_with_the_number_of_blocks(tmp_path: Path) -> None:
    blocks = {name: np.zeros((8, 2**13), np.float32) for name in ("x", "y", "z")}

    def peak(count: int) -> int:
        sequence = LazyChunkSequence.from_map(lambda _: blocks, range(count))
        tracemalloc.start()
        sequence.to_zarr_group(tmp_path / f"{count}.zarr", NUMPY, chunks="blocks")
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    peak(4)  # what is loaded late, and kept
    assert peak(64) < peak(8) + 4 * blocks["x"].nbytes  # of 168 more


@pytest.mark.slow
@pytest.mark.parametrize("workers_of", [executors.processes, executors.cluster])
def test_other_processes_store_a_group_and_go_on_with_it(
    workers_of: Callable[[], AbstractContextManager[Any]], tmp_path: Path
) -> None:
    if workers_of is executors.cluster:
        pytest.importorskip("distributed", reason="distributed is not installed")
    job = GroupJob(rows=6, columns=2)
    options: Any = {"run_id": "run", "resume": True, "chunks": "blocks"}

    def fail(row: int, column: int) -> None:
        if (row, column) == (2, 1):
            raise OSError("as asked for")

    with pytest.raises(WriteAbortedError):
        job.sequence(fail).to_zarr_group(tmp_path / "group.zarr", NUMPY, **options)
    sink = zarr_group_sink(tmp_path / "group.zarr", NUMPY, **options)
    fold = tee(sink, each({"wide": nested_concatenate()}))
    sequence = job.sequence()
    assert isinstance(sequence, NestedLazyChunkSequence)
    with workers_of() as executor:
        _, folded = sequence.compute(fold, executor=executor)
    assert same_group(group_at(tmp_path / "group.zarr"), job.whole)
    assert np.array_equal(folded["wide"], job.whole["wide"])


# --- nothing is trusted ------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["..", "../mine", "/mine", "", ".", "a\nb", "a\\b"])
@pytest.mark.parametrize("key", ["zarr.json", "zarr.json.partial"])
def test_names_in_a_record_lead_nowhere_else(name: str, key: str, tmp_path: Path) -> None:
    put_array(tmp_path / "mine", np.arange(3))
    (tmp_path / "mine" / "zarr.json.partial").write_bytes(b"mine")
    before = tree(tmp_path / "mine")
    place = tmp_path / "group.zarr"
    store = FilesOnly(place)
    run(store)
    keys = keys_at(store)
    document = json.loads(keys.read("zarr.json") or b"")
    record = json.loads(document["attributes"]["lazychunks"])
    record["members"] = ["wide", name]
    document["attributes"]["lazychunks"] = json.dumps(record)
    keys.delete("zarr.json")
    keys.write(key, json.dumps(document).encode())
    for look in (status, verify):
        with suppress(LazyChunksError, FileNotFoundError):
            look(store)
    with suppress(LazyChunksError):
        GroupJob(rows=2).sequence().to_zarr_group(store, NUMPY, overwrite=True)
    with suppress(LazyChunksError, ValueError, FileNotFoundError):
        LazyChunkSequence.from_zarr_group(store, NUMPY).compute()
    assert tree(tmp_path / "mine") == before


@pytest.mark.filterwarnings("ignore:Consolidated metadata")
def test_a_group_below_consolidated_metadata_is_listed_there() -> None:
    store = MemoryStore()
    put_array(store, np.arange(3), path="data/mine")
    ZARR.open_group(store, path="data", mode="a")
    ZARR.consolidate_metadata(store, path="data")
    inner = StorePath(store, "data/runs")
    for job in (GroupJob(rows=2), GroupJob(rows=3, seed=1)):
        job.sequence().to_zarr_group(inner, NUMPY, overwrite=True)
        group = ZARR.open_consolidated(store, path="data")
        found = {name: np.asarray(array[...]) for name, array in group["runs"].arrays()}
        assert same_group(found, job.whole)


def test_each_array_has_options_of_its_own(place: Any) -> None:
    arrays: dict[str, ArrayOptions] = {
        "wide": {"chunks": (3, 2), "shards": (6, 4), "dtype": "f8", "compressors": None},
        "tall": {"attributes": {"unit": "m"}, "filters": [TransposeCodec(order=(2, 1, 0))]},
        "one": {"dimension_names": ["batch", "value"], "chunks": "blocks"},
    }
    run(place, arrays=arrays, attributes={"model": "v7"}, chunks=4)
    group = ZARR.open_group(StorePath(keys_at(place).store, keys_at(place).path), mode="r")
    wide, tall, one = group["wide"], group["tall"], group["one"]
    assert (wide.chunks, wide.shards, wide.dtype.name) == ((3, 2), (6, 4), "float64")
    assert tall.attrs["unit"] == "m"
    assert group.attrs["model"] == "v7"
    assert "unit" not in wide.attrs
    assert one.metadata.dimension_names == ("batch", "value")
    assert (tall.chunks, one.chunks) == ((4, 2, 3), (1, 1))
    whole = GroupJob(rows=4).whole
    np.testing.assert_array_equal(tall[...], whole["tall"])
    np.testing.assert_array_equal(wide[...], whole["wide"].astype("f8"))
    run(place, arrays=arrays, attributes={"model": "v7"}, chunks=4)
