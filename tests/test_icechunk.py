"""A path in an Icechunk session is a destination: what others see is the session's commit."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from zarr.storage import StorePath

from lazychunks import (
    DestinationBusyError,
    DestinationError,
    DestinationExistsError,
    DestinationReadOnlyError,
    IdentityConverter,
    LazyChunkSequence,
    NestedLazyChunkSequence,
    NotResumableError,
    NotSpreadableError,
    WriteAbortedError,
    concatenate,
    nested_concatenate,
    status,
    verify,
)
from tests.executors import Shuffling
from tests.groups import GroupJob, group_at, same_group
from tests.places import OLD, opened, put_array, put_group, values_at

icechunk: Any = pytest.importorskip("icechunk", reason="icechunk is not installed")

CONVERTER = IdentityConverter()
WHOLE: NDArray[np.int64] = np.arange(24).reshape(8, 3)


def block(row: int) -> NDArray[np.int64]:
    return WHOLE[row : row + 2]


FLAT = LazyChunkSequence.from_map(block, range(0, 8, 2))
NESTED = NestedLazyChunkSequence.from_product(
    lambda row, column: WHOLE[row : row + 2, column : column + 1], range(0, 8, 2), range(3)
)
RAGGED = LazyChunkSequence(lambda: iter([WHOLE[:1], WHOLE[1:6], WHOLE[6:6], WHOLE[6:]]))


@pytest.fixture
def repository() -> Any:
    return icechunk.Repository.create(icechunk.in_memory_storage())


@pytest.fixture
def session(repository: Any) -> Any:
    return repository.writable_session("main")


def seen(repository: Any, path: str = "") -> NDArray[Any] | None:
    """What everybody else reads."""
    try:
        return values_at(repository.readonly_session("main").store, path)
    except FileNotFoundError:
        return None


def failing(after: int) -> LazyChunkSequence[NDArray[np.int64]]:
    """The flat sequence, whose block of that number cannot be computed."""

    def fail(row: int) -> NDArray[np.int64]:
        if row == 2 * after:
            raise ZeroDivisionError
        return block(row)

    return LazyChunkSequence.from_map(fail, range(0, 8, 2))


def _never() -> Iterator[Any]:
    yield pytest.fail("a block was asked for")


NEVER: LazyChunkSequence[Any] = LazyChunkSequence(_never)


@pytest.mark.parametrize("path", ["", "a", "some/where"])
@pytest.mark.parametrize("sequence", [FLAT, NESTED, RAGGED], ids=["flat", "nested", "ragged"])
@pytest.mark.parametrize("chunks", ["auto", "blocks", (1, 2)], ids=str)
def test_others_see_the_array_with_the_commit(
    sequence: Any, path: str, chunks: Any, repository: Any, session: Any
) -> None:
    sequence.to_zarr(StorePath(session.store, path), CONVERTER, chunks=chunks)
    assert seen(repository, path) is None
    np.testing.assert_array_equal(values_at(session.store, path), WHOLE)
    session.commit("stored")
    np.testing.assert_array_equal(seen(repository, path), WHOLE)


def test_a_session_is_a_destination_without_a_path(repository: Any, session: Any) -> None:
    stored = FLAT.to_zarr(session.store, CONVERTER, return_stored=True)
    np.testing.assert_array_equal(np.asarray(stored[...]), WHOLE)
    assert stored.shape == WHOLE.shape


def test_blocks_come_back(session: Any) -> None:
    NESTED.to_zarr(session.store, CONVERTER, chunks="blocks")
    flat = LazyChunkSequence.from_zarr(session.store, CONVERTER)
    np.testing.assert_array_equal(flat.compute(concatenate()), WHOLE)
    nested = NestedLazyChunkSequence.from_zarr(session.store, CONVERTER)
    np.testing.assert_array_equal(nested.compute(nested_concatenate()), WHOLE)


def test_status_and_verify_look_at_it(session: Any) -> None:
    assert status(session.store).state == "absent"
    assert status(StorePath(session.store, "a")).state == "absent"
    FLAT.to_zarr(StorePath(session.store, "a"), CONVERTER, chunks="blocks")
    found = status(StorePath(session.store, "a"))
    assert (found.state, found.shape, found.is_published) == ("complete", (8, 3), True)
    assert found.stored_bytes
    assert verify(StorePath(session.store, "a")).is_sound


def test_an_array_is_replaced_only_if_asked_for(repository: Any, session: Any) -> None:
    put_array(session.store, OLD, path="a")
    session.commit("old")
    session = repository.writable_session("main")
    place = StorePath(session.store, "a")
    with pytest.raises(DestinationExistsError, match="overwrite=True"):
        NEVER.to_zarr(place, CONVERTER)
    for chunks in ("blocks", (5, 3)):
        FLAT.to_zarr(place, CONVERTER, overwrite=True, chunks=chunks)
        np.testing.assert_array_equal(values_at(session.store, "a"), WHOLE)
    np.testing.assert_array_equal(seen(repository, "a"), OLD)
    session.commit("new")
    np.testing.assert_array_equal(seen(repository, "a"), WHOLE)


@pytest.mark.parametrize("path", ["", "inner/deeper"])
def test_what_is_no_array_is_refused_and_stays(path: str, session: Any) -> None:
    put_group(session.store)
    with pytest.raises(DestinationExistsError, match=r"group|inside the array"):
        NEVER.to_zarr(StorePath(session.store, path), CONVERTER, overwrite=True)
    np.testing.assert_array_equal(values_at(session.store, "inner"), OLD)


def test_siblings_in_a_group_stay(session: Any) -> None:
    put_group(session.store)
    for _ in range(2):
        FLAT.to_zarr(StorePath(session.store, "a"), CONVERTER, overwrite=True)
    np.testing.assert_array_equal(values_at(session.store, "a"), WHOLE)
    np.testing.assert_array_equal(values_at(session.store, "inner"), OLD)


def test_a_session_that_cannot_be_written_is_refused(repository: Any) -> None:
    with pytest.raises(DestinationReadOnlyError, match="read-only"):
        NEVER.to_zarr(repository.readonly_session("main").store, CONVERTER)


@pytest.mark.parametrize("before", ["nothing", "old"])
@pytest.mark.parametrize("after", [0, 1, 3])
def test_a_failed_write_leaves_nothing_in_the_session(
    after: int, before: str, repository: Any, session: Any
) -> None:
    if before == "old":
        put_array(session.store, OLD)
        session.commit("old")
        session = repository.writable_session("main")
    with pytest.raises((WriteAbortedError, ZeroDivisionError)) as caught:
        failing(after).to_zarr(session.store, CONVERTER, chunks="blocks", overwrite=True)
    if after:
        assert "has been removed" in str(caught.value)
        assert status(session.store).state == "absent"
    session.discard_changes()
    if before == "old":
        np.testing.assert_array_equal(values_at(session.store), OLD)
    FLAT.to_zarr(session.store, CONVERTER, overwrite=True)
    np.testing.assert_array_equal(values_at(session.store), WHOLE)


def test_resuming_is_refused_with_the_reason(session: Any) -> None:
    never = LazyChunkSequence.from_map(pytest.fail, ["a block was computed"])
    with pytest.raises(NotResumableError, match=r"session .* process.*resume=True"):
        never.to_zarr(session.store, CONVERTER, run_id="run", resume=True)
    with pytest.raises(WriteAbortedError) as caught:
        failing(2).to_zarr(session.store, CONVERTER, run_id="run")
    assert not caught.value.resumable


def test_threads_write_and_other_processes_are_refused(session: Any) -> None:
    with ThreadPoolExecutor(2) as executor:
        FLAT.to_zarr(session.store, CONVERTER, executor=executor, chunks="blocks")
    np.testing.assert_array_equal(values_at(session.store), WHOLE)
    with Shuffling() as other, pytest.raises(NotSpreadableError, match="do not see"):
        FLAT.to_zarr(session.store, CONVERTER, executor=other, overwrite=True)


def test_a_second_writer_in_the_session_is_told(session: Any) -> None:
    def too(row: int) -> NDArray[np.int64]:
        with pytest.raises(DestinationBusyError):
            NEVER.to_zarr(session.store, CONVERTER)
        with pytest.raises(DestinationError):
            NEVER.to_zarr(StorePath(session.store, "within"), CONVERTER)
        return block(row)

    LazyChunkSequence.from_map(too, range(0, 8, 2)).to_zarr(session.store, CONVERTER)
    np.testing.assert_array_equal(values_at(session.store), WHOLE)


def test_what_is_read_in_the_session_is_not_replaced(session: Any) -> None:
    FLAT.to_zarr(session.store, CONVERTER)
    again = LazyChunkSequence.from_zarr(session.store, CONVERTER, rows=2)
    with pytest.raises(DestinationExistsError, match="being read"):
        again.map(partial(np.add, 1)).to_zarr(session.store, CONVERTER, overwrite=True)
    np.testing.assert_array_equal(values_at(session.store), WHOLE)


def test_metadata_of_zarr_is_what_is_committed(session: Any) -> None:
    FLAT.to_zarr(session.store, CONVERTER, attributes={"unit": "m"}, dimension_names=["x", "y"])
    theirs: Any = opened(session.store)
    assert theirs.attrs["unit"] == "m"
    assert theirs.metadata.dimension_names == ("x", "y")


def test_a_group_is_seen_when_the_session_is_committed(repository: Any, session: Any) -> None:
    job = GroupJob(rows=3)
    with ThreadPoolExecutor(2) as executor:
        group = job.sequence().to_zarr_group(
            StorePath(session.store, "runs/one"),
            CONVERTER,
            True,
            chunks="blocks",
            executor=executor,
            coordinates={"wide_1": [1, 2, 3, 4]},
        )
    assert sorted(group.array_keys()) == ["one", "tall", "wide", "wide_1"]
    session.commit("a group")
    read = repository.readonly_session("main").store
    assert same_group(
        group_at(StorePath(read, "runs/one")), job.whole | {"wide_1": np.array([1, 2, 3, 4])}
    )
    again = repository.writable_session("main")
    place = StorePath(again.store, "runs/one")
    other = GroupJob(rows=2, seed=1)
    with pytest.raises(DestinationExistsError):
        other.sequence().to_zarr_group(place, CONVERTER)
    other.sequence().to_zarr_group(place, CONVERTER, overwrite=True)
    assert same_group(group_at(place), other.whole)
