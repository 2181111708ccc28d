"""``zarr_sink``: storing as a fold, alone or in a ``tee`` with others, complete or absent."""

import errno
import operator
import os
import pickle
import threading
from collections.abc import Callable, Iterator
from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any, Self

import numpy as np
import pytest
import zarr
from hypothesis import given
from zarr.codecs import GzipCodec
from zarr.core.buffer import Buffer
from zarr.storage import LocalStore, MemoryStore, StorePath, WrapperStore

from lazychunks import (
    BlockShapeError,
    DestinationBusyError,
    DestinationExistsError,
    EmptySequenceError,
    Fold,
    IdentityConverter,
    LazyChunkSequence,
    NestedFold,
    NestedLazyChunkSequence,
    NotResumableError,
    WriteAbortedError,
    concatenate,
    fold,
    nest,
    nested_concatenate,
    tee,
    zarr_sink,
)
from lazychunks.folds import Counts, Pass, Running
from tests.places import LocalPlace, MemoryPlace, Place, opened
from tests.strategies import Array, Flat, Nested, bits, flat_blocks, nested_blocks

CONVERTER = IdentityConverter()


def negated(block: Array) -> Array:
    return -block


def height(total: int, block: Array) -> int:
    return total + len(block)


count: Fold[Array, int] = fold(lambda n, _: n + 1, 0)
heights: Fold[Array, int] = fold(height, 0)
maxima: Fold[Array, int] = fold(lambda m, block: max(m, int(block.max())), -1)
none: list[int] = []
listed: Fold[int, list[int]] = fold(lambda numbers, number: [*numbers, number], none)


@pytest.fixture(params=["path", "memory"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """A destination, and all that is beside it."""
    return LocalPlace(tmp_path) if request.param == "path" else MemoryPlace({})


def read(array: "zarr.Array[Any]") -> Array:
    return np.asarray(opened(array.store, array.path)[...])


def content(store: dict[str, Buffer]) -> dict[str, bytes]:
    return {key: value.to_bytes() for key, value in store.items()}


# Law: a sink stores what ``to_zarr`` does.


@given(flat_blocks() | nested_blocks())
def test_a_sink_stores_what_to_zarr_stores(given: Flat | Nested) -> None:
    one: dict[str, Buffer] = {}
    other: dict[str, Buffer] = {}
    given.sequence().to_zarr(one, CONVERTER)
    array = zarr_sink(other, CONVERTER)(given.sequence())
    assert content(one) == content(other)
    assert bits(read(array)) == bits(given.whole)


@given(flat_blocks())
def test_a_sink_takes_any_iterable(flat: Flat) -> None:
    sink = zarr_sink({}, CONVERTER, overwrite=True)
    for blocks in (flat.blocks, list(flat.blocks), iter(flat.blocks), flat.sequence()):
        assert bits(read(sink(blocks))) == bits(flat.whole)


def test_options_are_those_of_to_zarr() -> None:
    sink = zarr_sink(
        {},
        CONVERTER,
        chunks=3,
        shards=6,
        compressors=GzipCodec(level=1),
        dtype="f4",
        dimension_names=["a", "b"],
        attributes={"unit": "m"},
    )
    array = sink([np.arange(20).reshape(10, 2)])
    assert (array.chunks, array.shards) == ((3, 2), (6, 2))
    assert array.dtype == np.dtype("f4")
    assert array.attrs["unit"] == "m"
    with pytest.raises(ValueError, match="chunks must be at least 1"):
        zarr_sink({}, CONVERTER, chunks=0)
    with pytest.raises(TypeError):
        zarr_sink({}, CONVERTER, chunk=3)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]


def test_making_a_sink_touches_nothing(tmp_path: Path) -> None:
    sink = zarr_sink(tmp_path / "a.zarr", CONVERTER)
    tee(sink, count)
    assert list(tmp_path.iterdir()) == []


# A sink is a value.


def test_a_sink_is_a_value() -> None:
    one = zarr_sink("a.zarr", CONVERTER, chunks=3)
    assert one == zarr_sink("a.zarr", CONVERTER, chunks=3)
    assert hash(one) == hash(zarr_sink("a.zarr", CONVERTER, chunks=3))
    for other in (
        zarr_sink("b.zarr", CONVERTER, chunks=3),
        zarr_sink("a.zarr", CONVERTER, chunks=4),
        zarr_sink("a.zarr", CONVERTER, chunks=3, overwrite=True),
    ):
        assert one != other
    assert isinstance(one, Fold)
    assert isinstance(one, NestedFold)
    assert "a.zarr" in repr(one)
    assert "chunks=3" in repr(one)
    assert tee(one, count) == tee(one, count)
    with pytest.raises(FrozenInstanceError):
        one.overwrite = True  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]


def test_a_sink_can_be_sent_elsewhere(tmp_path: Path) -> None:
    sink = zarr_sink(tmp_path / "a.zarr", CONVERTER, chunks=(2, 2), attributes={"a": 1})
    copied: Any = pickle.loads(pickle.dumps(sink))  # noqa: S301  # our own bytes
    assert copied == sink
    values = np.arange(12.0).reshape(4, 3)
    assert bits(read(copied([values]))) == bits(values)


def test_a_sink_can_be_used_again() -> None:
    sink = zarr_sink({}, CONVERTER, overwrite=True)
    for values in (np.zeros(3), np.arange(4.0)):
        assert read(sink([values])).tolist() == values.tolist()
    with pytest.raises(DestinationExistsError):
        zarr_sink(sink.destination, CONVERTER)([np.zeros(3)])


# In a tee.


class Generations:
    """Blocks, and how often each was made."""

    def __init__(self, number: int = 6) -> None:
        self.made = [0] * number

    def __call__(self, index: int) -> Array:
        self.made[index] += 1
        return np.full((2, 3), index, np.float64)

    @property
    def flat(self) -> LazyChunkSequence[Array]:
        return LazyChunkSequence(lambda: map(self, range(len(self.made))), len(self.made))

    @property
    def whole(self) -> Array:
        return np.concatenate(
            [np.full((2, 3), index, np.float64) for index in range(len(self.made))]
        )


def test_one_generation_of_the_blocks_serves_all(place: Place) -> None:
    blocks = Generations()
    array, joined, total = blocks.flat.compute(
        tee(zarr_sink(place.destination, CONVERTER), concatenate(), heights)
    )
    assert blocks.made == [1] * 6
    assert bits(read(array)) == bits(joined) == bits(blocks.whole)
    assert total == 12
    assert place.read().tolist() == blocks.whole.tolist()


def test_one_generation_of_the_rows_serves_all(place: Place) -> None:
    made: list[tuple[int, int]] = []

    def block(row: int, column: int) -> Array:
        made.append((row, column))
        return np.full((2, 3), 10 * row + column)

    nested = NestedLazyChunkSequence.from_product(block, range(3), range(4))
    largest = nest(maxima, listed)
    array, rows, (joined, again) = nested.compute(
        tee(
            zarr_sink(place.destination, CONVERTER),
            largest,
            tee(nested_concatenate(), nested_concatenate()),
        )
    )
    assert len(made) == 12
    assert rows == [3, 13, 23]
    assert bits(read(array)) == bits(joined) == bits(again)


def test_row_results_can_be_stored(place: Place) -> None:
    """A sink is an outer fold like any other."""
    nested = NestedLazyChunkSequence.from_product(
        lambda i, j: np.full((2, 2), 10 * i + j), range(3), range(4)
    )
    sums = nest(concatenate(axis=1), zarr_sink(place.destination, CONVERTER))
    array, joined = nested.compute(tee(sums, nested_concatenate()))
    np.testing.assert_array_equal(read(array), joined)
    assert place.read().tolist() == joined.tolist()


def test_a_sink_can_be_mapped_on_both_sides(place: Place) -> None:
    sink = zarr_sink(place.destination, CONVERTER)
    shape = Generations().flat.compute(sink.contramap(negated).then(lambda array: array.shape))
    assert shape == (12, 3)
    np.testing.assert_array_equal(place.read(), -Generations().whole)


def test_blocks_are_passed_on_as_they_are(place: Place) -> None:
    """Sinks may come first or last; a producer that reuses its memory is no reason to copy."""
    output = np.empty((2, 3))

    def block(number: int) -> Array:
        output[:] = number
        return output

    first, last = zarr_sink({}, CONVERTER), zarr_sink(place.destination, CONVERTER)
    total: Fold[Array, float] = fold(lambda s, b: s + float(b.sum()), 0.0)
    one, value, other = LazyChunkSequence.from_map(block, range(20)).compute(
        tee(first, total, last)
    )
    assert value == 6 * 190
    assert bits(read(one)) == bits(read(other)) == bits(Generations(20).whole)


# Complete or absent.


class Failing(Fold[Array, None]):
    """Fails at a point of its pass."""

    def __init__(self, point: str, error: type[BaseException] = ZeroDivisionError) -> None:
        self.point = point
        self.error = error

    def start(self, counts: Counts, /) -> Running[Array, None]:  # noqa: ARG002
        self.check("start")
        return FailingPass(self)

    def check(self, point: str) -> None:
        if point == self.point:
            raise self.error(point)


class FailingPass(Pass):
    def __init__(self, fold: Failing) -> None:
        self.fold = fold
        self.seen = 0

    def __enter__(self) -> Self:
        self.fold.check("enter")
        return self

    def step(self, _: Array, /) -> None:
        self.fold.check(f"step {self.seen}")
        self.seen += 1

    def finish(self) -> None:
        self.fold.check("finish")


POINTS = ("start", "enter", "step 0", "step 1", "step 5", "finish")


@pytest.mark.parametrize(
    "error", [ZeroDivisionError, pytest.param(KeyboardInterrupt, marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("where", ["path", "path with an old array", "memory"])
@pytest.mark.parametrize("sink_first", [True, False])
@pytest.mark.parametrize("point", POINTS)
def test_when_another_fold_fails_the_destination_is_as_it_was(
    tmp_path: Path, point: str, sink_first: bool, where: str, error: type[BaseException]
) -> None:
    place = MemoryPlace({}) if where == "memory" else LocalPlace(tmp_path)
    old = "old" in where
    if old:
        place.put_old()
    before = place.content()
    sink = zarr_sink(place.destination, CONVERTER, overwrite=old)
    other = Failing(point, error)
    folds: Callable[[Any], Any] = tee(sink, other) if sink_first else tee(other, sink)
    blocks = Generations()
    with pytest.raises((WriteAbortedError, error)) as caught:
        blocks.flat.compute(folds)
    failure: BaseException | None = caught.value
    while isinstance(failure, WriteAbortedError):
        failure = failure.__cause__
    assert isinstance(failure, error)
    assert place.content() == before
    # Nothing is held: the same destination can be written at once.
    array, _ = blocks.flat.compute(tee(sink, count))
    assert bits(read(array)) == bits(blocks.whole)


@pytest.mark.parametrize("point", POINTS)
def test_when_another_fold_over_rows_fails_nothing_is_left(place: Place, point: str) -> None:
    rows = NestedLazyChunkSequence(lambda: [[np.ones((2, 2))] * 6] * 6)
    sink = zarr_sink(place.destination, CONVERTER)
    inner = nest(Failing(point), fold(operator.is_, None))
    outer = nest(concatenate(axis=1), Failing(point))
    for failing in (inner, outer):
        for folds in (tee(sink, failing), tee(failing, sink)):
            folded: Callable[[Any], Any] = folds
            with pytest.raises((WriteAbortedError, ZeroDivisionError)):
                rows.compute(folded)
            assert place.content() == {}
    array, _ = rows.compute(tee(sink, nested_concatenate()))
    assert array.shape == (12, 12)


def test_when_the_blocks_fail_nothing_is_left(place: Place) -> None:
    def blocks() -> Iterator[Array]:
        yield np.ones((2, 3))
        yield np.ones((2, 3))
        raise ZeroDivisionError

    with pytest.raises(WriteAbortedError, match="stopped after 2 of") as caught:
        LazyChunkSequence(blocks).compute(tee(zarr_sink(place.destination, CONVERTER), count))
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    assert place.content() == {}
    ragged = [np.ones((2, 3)), np.ones((2, 4))]
    with pytest.raises(BlockShapeError):
        tee(zarr_sink(place.destination, CONVERTER), count)(ragged)
    assert place.content() == {}
    with pytest.raises(EmptySequenceError):
        tee(zarr_sink(place.destination, CONVERTER), count)([])
    assert place.content() == {}


def test_sinks_finish_last(place: Place) -> None:
    """When other results are made, the array is not there yet."""
    seen: list[dict[str, str]] = []
    look = heights.then(lambda _: seen.append(place.content()))
    sink = zarr_sink(place.destination, CONVERTER)
    Generations().flat.compute(tee(look, tee(sink, look), look))
    assert len(seen) == 3
    for content_then in seen:
        assert "zarr.json" not in content_then
        assert "array.zarr" not in content_then
    assert place.content()


def test_two_sinks(place: Place) -> None:
    blocks = Generations()
    other: dict[str, Buffer] = {}
    one, two = blocks.flat.compute(
        tee(
            zarr_sink(place.destination, CONVERTER, chunks="blocks"),
            zarr_sink(other, CONVERTER, dtype="f4", chunks=5).contramap(negated),
        )
    )
    assert blocks.made == [1] * 6
    assert bits(read(one)) == bits(blocks.whole)
    assert bits(read(two)) == bits(-blocks.whole.astype("f4"))


def test_two_sinks_over_rows(place: Place) -> None:
    rows = NestedLazyChunkSequence.from_product(
        lambda i, j: np.full((2, 2), 10 * i + j), range(3), range(4)
    )
    one, two = rows.compute(tee(zarr_sink(place.destination, CONVERTER), zarr_sink({}, CONVERTER)))
    np.testing.assert_array_equal(read(one), np.block(rows.compute()))
    np.testing.assert_array_equal(read(two), np.block(rows.compute()))


@pytest.mark.parametrize("first", [True, False])
def test_when_one_of_two_sinks_fails_the_other_leaves_nothing(place: Place, first: bool) -> None:
    def strict(block: Array) -> Array:
        if block[0, 0] == 4:
            raise ZeroDivisionError
        return block

    good = zarr_sink(place.destination, CONVERTER)
    other: dict[str, Buffer] = {}
    bad = zarr_sink(other, CONVERTER).contramap(strict)
    folds: Callable[[Any], Any] = tee(good, bad) if first else tee(bad, good)
    with pytest.raises(WriteAbortedError):
        Generations().flat.compute(folds)
    assert place.content() == {}
    assert other == {}


def sinks(kind: str, *, alone: bool) -> Any:
    sink = zarr_sink({}, CONVERTER)
    other: Any = count if kind == "flat" else nested_concatenate()
    both: Any = tee
    return sink if alone else both(sink, other)


@pytest.mark.parametrize("progress", [False, True], ids=["silent", "progress"])
@pytest.mark.parametrize("alone", [True, False], ids=["alone", "tee"])
@pytest.mark.parametrize("kind", ["flat", "nested"])
def test_producers_have_ended_when_an_error_arrives(
    kind: str, alone: bool, progress: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    """What they hold (files, processes) is free for whoever handles the error."""
    open_now = 0

    def blocks(row: int = 2) -> Iterator[Array]:
        nonlocal open_now
        open_now += 1
        try:
            for column in range(4):
                yield np.ones((2, 4 if (row, column) == (2, 1) else 3))
        finally:
            open_now -= 1

    def rows() -> Iterator[Iterator[Array]]:
        nonlocal open_now
        open_now += 1
        try:
            yield from map(blocks, range(4))
        finally:
            open_now -= 1

    folds = sinks(kind, alone=alone)
    sequence: Any = LazyChunkSequence(blocks) if kind == "flat" else NestedLazyChunkSequence(rows)
    with pytest.raises(BlockShapeError) as caught:
        sequence.compute(folds, progress=progress)
    assert open_now == 0
    assert caught.value.block in (1, (2, 1))


class Full(WrapperStore[MemoryStore]):
    """Has no space for the last chunk."""

    async def set(self, key: str, value: Buffer) -> None:
        """Write a key, or fail."""
        if key == "c/5/0":
            raise OSError(errno.ENOSPC, "No space left on device")
        await super().set(key, value)


def test_when_one_of_two_sinks_fails_at_its_end_the_other_leaves_nothing(place: Place) -> None:
    sink = zarr_sink(place.destination, CONVERTER, chunks="blocks")
    full = zarr_sink(Full(MemoryStore()), CONVERTER, chunks="blocks", max_in_flight=8)
    for folds in (tee(full, sink), tee(sink, full)):
        with pytest.raises(WriteAbortedError, match="No space left"):
            Generations().flat.compute(folds)
        assert place.content() == {}


def spellings(place: Place) -> Iterator[tuple[Any, Any]]:
    if isinstance(place, MemoryPlace):
        store = MemoryStore(place.destination)
        yield place.destination, place.destination
        yield place.destination, StorePath(store)
        yield store, store
    else:
        path = Path(place.destination)
        yield path, str(path)
        yield path, path.as_uri()
        yield path, LocalStore(path)
        yield path, os.path.relpath(path)


@pytest.mark.parametrize("old", [False, True])
def test_two_sinks_cannot_share_a_destination(place: Place, old: bool) -> None:
    if old:
        place.put_old()
    before = place.content()
    blocks = Generations()
    for one, other in spellings(place):
        sink, again = (zarr_sink(where, CONVERTER, overwrite=True) for where in (one, other))
        with pytest.raises(DestinationBusyError):
            blocks.flat.compute(tee(sink, again))
        assert blocks.made == [0] * 6
        assert place.content() == before


def test_what_exists_is_refused_before_a_block_is_made(place: Place) -> None:
    place.put_old()
    before = place.content()
    blocks = Generations()
    with pytest.raises(DestinationExistsError):
        blocks.flat.compute(tee(count, zarr_sink(place.destination, CONVERTER)))
    assert blocks.made == [0] * 6
    assert place.content() == before


def test_what_fails_after_the_array_has_appeared_does_not_say_that_it_is_gone(place: Place) -> None:
    """Regression: what ``then`` does with a stored array comes after it was stored."""

    def fail(_: object) -> None:
        raise ZeroDivisionError

    other: dict[str, Buffer] = {}
    sink = zarr_sink(place.destination, CONVERTER, overwrite=True)
    both = tee(sink, zarr_sink(other, CONVERTER, overwrite=True))
    for folded in (sink.then(fail), tee(sink, count).then(fail), both.then(fail)):
        with pytest.raises(ZeroDivisionError) as caught:
            Generations().flat.compute(folded)
        assert any("is stored" in note for note in caught.value.__notes__)
        assert not any("removed" in note for note in caught.value.__notes__)
        np.testing.assert_array_equal(place.read(), Generations().whole)


def test_when_the_second_of_two_sinks_cannot_appear_the_first_is_there(place: Place) -> None:
    class Unpublishable(WrapperStore[MemoryStore]):
        async def set(self, key: str, value: Buffer) -> None:
            if key == "zarr.json":
                raise OSError(errno.EIO, "no")
            await super().set(key, value)

    last = zarr_sink(Unpublishable(MemoryStore()), CONVERTER)
    with pytest.raises(WriteAbortedError, match=r"memory.* what was written has been removed") as c:
        Generations().flat.compute(tee(zarr_sink(place.destination, CONVERTER), last))
    assert any("is stored" in note for note in c.value.__notes__)
    np.testing.assert_array_equal(place.read(), Generations().whole)


def test_background_writes_end_with_the_pass(tmp_path: Path) -> None:
    sink = zarr_sink(tmp_path / "a.zarr", CONVERTER, chunks="blocks")
    before = {*threading.enumerate()}
    with pytest.raises(WriteAbortedError):
        Generations().flat.compute(tee(sink, Failing("step 5")))
    assert not any(one.name == "lazychunks-write" for one in {*threading.enumerate()} - before)


# Resuming.


def test_alone_a_sink_resumes(place: Place) -> None:
    fails = True
    blocks = Generations()

    def block(index: int) -> Array:
        if fails and index == 4:
            raise ZeroDivisionError
        return blocks(index)

    sequence = LazyChunkSequence.from_map(block, range(6))
    sink = zarr_sink(place.destination, CONVERTER, run_id="r", resume=True, chunks="blocks")
    with pytest.raises(WriteAbortedError) as caught:
        sequence.compute(sink)
    assert caught.value.resumable
    fails = False
    assert bits(read(sequence.compute(sink))) == bits(blocks.whole)
    assert blocks.made[5] == 1
    assert sum(blocks.made) < 6 + 4
    made = list(blocks.made)
    assert bits(read(sequence.compute(sink))) == bits(blocks.whole)
    assert blocks.made == made  # a finished run is returned at once


def test_what_cannot_skip_blocks_cannot_resume() -> None:
    sink = zarr_sink({}, CONVERTER, run_id="r", resume=True)
    for blocks in ([np.zeros(3)], LazyChunkSequence(lambda: [np.zeros(3)])):
        with pytest.raises(NotResumableError, match="from_map"):
            sink(blocks)
    with pytest.raises(NotResumableError, match="from_product"):
        sink(NestedLazyChunkSequence(lambda: [[np.zeros((2, 2))]]))


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt])
@pytest.mark.parametrize("nested", [False, True])
def test_a_named_run_in_a_tee_can_be_gone_on_with_alone(
    place: Place, error: type[BaseException], nested: bool
) -> None:
    """What it wrote is kept aside, and the destination is as it was, as with ``to_zarr``."""
    blocks = Generations(12)
    options: Any = {"run_id": "r", "chunks": "blocks", "max_in_flight": 1}
    sink = zarr_sink(place.destination, CONVERTER, **options)
    sequence: Any = LazyChunkSequence.from_map(blocks, range(12))
    folded: Any = tee(sink, Failing("step 9", error))
    if nested:
        sequence = NestedLazyChunkSequence.from_product(
            lambda i, j: blocks(4 * i + j), range(3), range(4)
        )
        folded = tee(nest(concatenate(1), Failing("step 2", error)), sink)
    with pytest.raises((WriteAbortedError, error)) as caught:
        sequence.compute(folded)
    said = [str(caught.value), *getattr(caught.value, "__notes__", ())]
    assert any("the same call with resume=True and run_id='r' goes on" in text for text in said)
    with pytest.raises(FileNotFoundError):
        place.read()
    with pytest.raises(DestinationExistsError, match="unfinished write"):
        sequence.compute(tee(sink, sink.contramap(negated)))
    made = sum(blocks.made)
    stored = sequence.to_zarr(place.destination, CONVERTER, True, resume=True, **options)
    # One is compared, some were under way; nobody knows the height of the last row.
    assert sum(blocks.made) <= 12 + 1 + (4 if nested else 3)
    assert made > 8
    whole = np.concatenate(blocks.flat.compute()).reshape(3, 4, 2, 3).swapaxes(1, 2)
    expected = whole.reshape(6, 12) if nested else blocks.whole
    assert bits(read(stored)) == bits(expected)
