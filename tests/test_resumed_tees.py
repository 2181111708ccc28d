"""A tee goes on where it stopped: what is stored is read back, and no bit shows it."""

# pyright: reportUnknownMemberType=false
# torch types some of its functions partially.

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from zarr.storage import MemoryStore, WrapperStore

from lazychunks import (
    BlockShapeError,
    EmptySequenceError,
    IdentityConverter,
    LazyChunkSequence,
    NestedLazyChunkSequence,
    NotResumableError,
    ResumeMismatchError,
    WriteAbortedError,
    concatenate,
    nest,
    nested_concatenate,
    total,
    zarr_sink,
)
from lazychunks.storage.chunks.background import BackgroundWriter
from lazychunks.storage.chunks.filled import Filled
from lazychunks.storage.resuming import record, spill
from lazychunks.testing.values import Layout
from tests.executors import Shuffling, processes
from tests.makes import (
    MOST,
    Make,
    all_folds,
    any_fold,
    any_nest,
    any_tee,
    height,
    negated,
)
from tests.places import LocalPlace, MemoryPlace, Place
from tests.strategies import DTYPES, Array, bits, partitions, seeds

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")

CONVERTER = IdentityConverter()


class FailingError(Exception):
    """What a block raises."""


class Watch:
    """Computes blocks, notes which, and fails when there are more than so many."""

    def __init__(self, make: Make, most: int | None = None) -> None:
        self.computed: list[tuple[int, ...]] = []
        self._make = make
        self._most = most

    def __call__(self, *index: int) -> Any:
        if self._most is not None and len(self.computed) >= self._most:
            raise FailingError
        self.computed.append(index)
        return self._make(*index)

    @property
    def sequence(self) -> Any:
        """The sequence of the blocks."""
        make = self._make
        rows = range(len(make.rows))
        if make.columns is None:
            return LazyChunkSequence.from_map(self, rows)
        return NestedLazyChunkSequence.from_product(self, rows, range(len(make.columns)))


@dataclass(frozen=True)
class Swapped:
    """A converter whose arrays look quite unlike its blocks."""

    def to_numpy(self, x: Array, /) -> Array:
        return ~x if x.dtype.kind == "b" else x.byteswap()

    def from_numpy(self, x: Array, /) -> Array:
        return self.to_numpy(x)


def joined(make: Make) -> Array:
    """All blocks of a sequence in one array."""
    blocks = make.sequence.compute()
    if make.columns is not None:
        blocks = [np.concatenate(row, 1) for row in blocks]
    whole: Array = np.concatenate(blocks)
    return whole


def read(array: Any) -> Array:
    return np.asarray(array[...])


@pytest.fixture(params=["path", "memory"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """A destination, and all that is beside it."""
    return LocalPlace(tmp_path) if request.param == "path" else MemoryPlace({})


def sink_at(place: Place, **options: Any) -> Any:
    """A sink that goes on."""
    settings: Any = {"run_id": "run", "resume": True, "chunks": "blocks", **options}
    return zarr_sink(place.destination, settings.pop("converter", CONVERTER), **settings)


FLAT = Make((3, 3, 3, 3, 3, 3, 3, 2), None, (4,), "<f8", 1, "C")
RAGGED = Make((3, 1, 0, 4, 3, 5, 3, 2), None, (4,), "<f4", 4, "C")
NESTED = Make((3, 3, 3, 2), (2, 2, 1), (), "<f8", 2, "C")
UNEVEN = Make((3, 1, 4), (2, 0, 3, 1), (), "<f4", 5, "C")
EVEN = pytest.mark.parametrize("make", [FLAT, NESTED], ids=["flat", "nested"])
ANY = pytest.mark.parametrize(
    "make", [FLAT, RAGGED, NESTED, UNEVEN], ids=["flat", "ragged", "nested", "uneven"]
)


def summed(make: Make) -> Any:
    """A fold that merges, and one that does not."""
    if make.columns is None:
        return any_tee(total(), concatenate())
    return any_tee(nest(total(1), total()), nested_concatenate())


def count_of(make: Make) -> int:
    return len(make.rows) * len(make.columns or (0,))


# Law: whatever happened before, the result is that of a pass that nothing has happened to.


@st.composite
def makes(draw: st.DrawFn) -> tuple[Make, bool]:
    """Draw blocks, even or not, and tell whether workers can store them."""
    is_even = draw(st.booleans())

    def sizes() -> tuple[int, ...]:
        if not is_even:
            return draw(partitions(7, 4))
        first = draw(st.integers(1, 4))
        return (*(first,) * draw(st.integers(0, 6)), draw(st.integers(1, first)))

    rows, columns = sizes(), sizes() if draw(st.booleans()) else None
    trailing = tuple(draw(st.lists(st.integers(1, 3), max_size=1)))
    dtype = draw(st.sampled_from(DTYPES))
    # In C order, since that is how they are read back.
    return Make(rows, columns, trailing, dtype, draw(seeds), "C"), is_even


def draw_layout(data: st.DataObject, make: Make, *, is_even: bool) -> dict[str, Any]:
    """Draw chunks, of any relation to the blocks unless workers are to store them."""
    axes = [make.rows, *([] if make.columns is None else [make.columns])]
    found: list[int] = []
    for sizes in axes:
        extent = st.integers(1, 9)
        if is_even:
            divisors = [n for n in range(1, sizes[0] + 1) if sizes[0] % n == 0]
            extent = st.sampled_from([*divisors, *(times * sizes[0] for times in (1, 2, 3))])
        found.append(data.draw(extent))
    trailing = [max(length, 1) for length in make.trailing]
    return {
        "chunks": (*found, *trailing),
        "converter": data.draw(st.sampled_from([CONVERTER, Swapped()])),
    }


Start = tuple[int, bool]
"""After how many blocks a start fails, and whether it has workers."""


@pytest.mark.slow
@given(
    makes(),
    st.lists(st.tuples(st.integers(0, 25), st.booleans()), max_size=4),
    st.booleans(),
    st.sampled_from(["path", "memory"]),
    st.data(),
)
@settings(max_examples=2 * MOST)
def test_no_bit_shows_how_often_it_was_started(
    tmp_path_factory: pytest.TempPathFactory,
    drawn: tuple[Make, bool],
    failures: list[Start],
    ends_with_workers: bool,
    kind: str,
    data: st.DataObject,
) -> None:
    make, is_even = drawn
    folded = all_folds(make)
    expected = make.sequence.compute(folded)
    place: Place = (
        LocalPlace(tmp_path_factory.mktemp("place")) if kind == "path" else MemoryPlace({})
    )
    options = draw_layout(data, make, is_even=is_even)
    done, is_finished = 0, False

    # Open chunks are spilled once a second, that is never, or after each block.
    seconds = data.draw(st.sampled_from([1, 0]), "seconds")

    def start(most: int | None, *, with_workers: bool) -> tuple[Watch, Any]:
        watch = Watch(make, most)
        sink = sink_at(place, **options)
        with ThreadPoolExecutor(2) as executor, patch.object(spill, "SECONDS", seconds):
            chosen = executor if with_workers and is_even else None
            return watch, watch.sequence.compute(any_tee(sink, folded), executor=chosen)

    for most, with_workers in failures:
        failed = None
        try:
            start(most, with_workers=with_workers)
            is_finished = True
        except (WriteAbortedError, FailingError) as error:
            failed = error
        if isinstance(failed, WriteAbortedError):
            assert (failed.done or 0) >= done, "what is done stays done"
            done = failed.done or 0
        elif failed is not None:
            assert is_finished or done == 0, "nothing had begun"
    watch, (array, found) = start(None, with_workers=ends_with_workers)
    stored = options["converter"].to_numpy(joined(make))
    assert bits(read(array)) == bits(stored)
    for name, result in expected.items():
        assert bits(found[name]) == bits(result), name
    computed = Counter(watch.computed)
    assert max(computed.values(), default=0) <= 2
    again, (array, found) = start(None, with_workers=not ends_with_workers)
    assert bits(read(array)) == bits(stored)
    for name, result in expected.items():
        assert bits(found[name]) == bits(result), name
    if all(make.rows) and all(make.columns or (1,)):
        assert again.computed == [], "all is read back"


@ANY
@pytest.mark.parametrize("most", [3, 5])
def test_blocks_are_read_from_chunks_that_are_spilled_again_and_again(
    make: Make, most: int, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Regression: what was spilled had changed, or was in its chunk, when it was to be read."""
    monkeypatch.setattr(spill, "SECONDS", 0)
    chunks = (100, 4) if make.columns is None else (7, 5)
    folded = any_tee(sink_at(place, chunks=chunks), summed(make))
    with pytest.raises(WriteAbortedError) as caught:
        Watch(make, most).sequence.compute(folded)
    if isinstance(place, LocalPlace):
        assert caught.value.done, "blocks of one chunk are spilled"
    with pytest.raises(WriteAbortedError):
        Watch(make, 2).sequence.compute(folded)
    array, found = make.sequence.compute(folded)
    assert bits(read(array)) == bits(joined(make))
    assert bits(found) == bits(make.sequence.compute(summed(make)))


def test_blocks_are_read_from_a_chunk_that_is_completed_meanwhile(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Regression: all blocks of the chunk had been spilled, so the first to come completed it."""
    submit = BackgroundWriter.submit

    def write_at_once(self: BackgroundWriter, filled: Filled) -> None:
        submit(self, filled)
        self.drain()

    monkeypatch.setattr(BackgroundWriter, "submit", write_at_once)
    make = Make((1, 1), (0, 1, 0), (), "<f8", 1, "C")
    folded = any_tee(sink_at(place, chunks=(3, 1)), summed(make))
    with pytest.raises(WriteAbortedError):
        Watch(make, 5).sequence.compute(folded)
    array, found = make.sequence.compute(folded)
    assert bits(read(array)) == bits(joined(make))
    assert bits(found) == bits(make.sequence.compute(summed(make)))


@ANY
@pytest.mark.parametrize("start", [None, Shuffling, processes])
def test_what_is_stored_is_not_computed_again_but_for_one_block(
    make: Make, start: Any, tmp_path: Path
) -> None:
    place = LocalPlace(tmp_path)
    most = count_of(make) - 3
    with pytest.raises(WriteAbortedError) as caught:
        Watch(make, most).sequence.compute(any_tee(sink_at(place), summed(make)))
    assert caught.value.resumable
    noted = Noting(tmp_path / "computed", make)
    expected = make.sequence.compute(summed(make))
    if start is None:
        array, found = noted.sequence.compute(any_tee(sink_at(place), summed(make)))
    elif make in (RAGGED, UNEVEN):
        with start() as executor:
            folded = any_tee(sink_at(place), summed(make))
            if make is RAGGED:
                with pytest.raises(BlockShapeError, match="leave out executor="):
                    noted.sequence.compute(folded, executor=executor)
                return
            # All sizes have been met.
            array, found = noted.sequence.compute(folded, executor=executor)
    else:
        with start() as executor:
            folded = any_tee(sink_at(place), summed(make))
            array, found = noted.sequence.compute(folded, executor=executor)
    assert bits(read(array)) == bits(joined(make))
    assert bits(found) == bits(expected)
    # Those that were not done, one to compare, blocks without rows, and the last row of blocks,
    # of which nobody knows the height.
    empty = sum(0 in (row, column) for row in make.rows for column in make.columns or (1,))
    assert len(noted.computed) <= 3 + 1 + empty + (len(make.columns) if make.columns else 0)


@dataclass(frozen=True)
class Noting:
    """Computes blocks, and notes in a file which."""

    path: Path
    make: Make

    def __call__(self, *index: int) -> Any:
        handle = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(handle, f"{index}\n".encode())
        os.close(handle)
        return self.make(*index)

    @property
    def computed(self) -> list[str]:
        """Which."""
        return self.path.read_text().splitlines() if self.path.exists() else []

    @property
    def sequence(self) -> Any:
        """The sequence of the blocks."""
        sequence = self.make.sequence
        return type(sequence)(replace(sequence.generator_factory, fn=self))


def never(*_: int) -> Any:
    pytest.fail("a block was computed")


def sequence_of(make: Make, fn: Callable[..., Any]) -> Any:
    """Return the sequence of other blocks."""
    sequence = make.sequence
    return type(sequence)(replace(sequence.generator_factory, fn=fn), len(make.rows))


@ANY
@pytest.mark.parametrize("start", [None, partial(ThreadPoolExecutor, 2)])
def test_of_a_finished_array_everything_is_read_back(make: Make, start: Any, place: Place) -> None:
    folded = any_tee(sink_at(place), summed(make))
    array, expected = make.sequence.compute(folded)
    before = place.content()
    sequence = sequence_of(make, never if 0 not in (*make.rows, *(make.columns or ())) else make)
    if start is None:
        again, found = sequence.compute(folded)
    else:
        with start() as executor:
            again, found = sequence.compute(folded, executor=executor)
    assert bits(read(again)) == bits(read(array)) == bits(joined(make))
    assert bits(found) == bits(expected)
    assert place.content() == before


@EVEN
@pytest.mark.parametrize("start", [None, partial(ThreadPoolExecutor, 2)])
@pytest.mark.parametrize("first", ["path", "memory"])
def test_after_a_kill_between_the_publishing_of_two_arrays_nothing_is_computed(
    make: Make, start: Any, first: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    places: list[Place] = [LocalPlace(tmp_path), MemoryPlace({})]
    if first == "memory":
        places.reverse()
    folded = any_tee(*map(sink_at, places), summed(make))
    kill_second_commit(monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        make.sequence.compute(folded)
    monkeypatch.undo()
    assert bits(places[0].read()) == bits(joined(make))
    with pytest.raises(FileNotFoundError):
        places[1].read()
    sequence = sequence_of(make, never)
    if start is None:
        one, other, found = sequence.compute(folded)
    else:
        with start() as executor:
            one, other, found = sequence.compute(folded, executor=executor)
    assert bits(read(one)) == bits(read(other)) == bits(joined(make))
    assert bits(found) == bits(make.sequence.compute(summed(make)))


def kill_second_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the second draft that commits be interrupted before it does anything."""
    from lazychunks.storage.places.directory import SiblingDirectory
    from lazychunks.storage.places.metadata_last import MetadataLast

    commits: list[object] = []
    for kind in (SiblingDirectory, MetadataLast):
        commit: Any = kind.commit

        def interrupted(self: Any, *args: Any, _commit: Any = commit, **options: Any) -> Any:
            commits.append(self)
            if len(commits) == 2:
                raise KeyboardInterrupt
            return _commit(self, *args, **options)

        monkeypatch.setattr(kind, "commit", interrupted)


@EVEN
def test_when_a_fold_fails_at_its_end_nothing_is_computed_again(make: Make, place: Place) -> None:
    """All was stored, only the result was missing."""

    def fail(_: object) -> None:
        raise FailingError

    folds = total().then(fail) if make.columns is None else any_nest(total(1), total().then(fail))
    with pytest.raises(WriteAbortedError) as caught:
        make.sequence.compute(any_tee(sink_at(place), folds))
    assert caught.value.done == count_of(make)
    with pytest.raises(FileNotFoundError):
        place.read()
    folded = any_tee(sink_at(place), summed(make))
    array, found = sequence_of(make, never).compute(folded)
    assert bits(read(array)) == bits(joined(make))
    assert bits(found) == bits(make.sequence.compute(summed(make)))


@pytest.mark.parametrize("start", [None, partial(ThreadPoolExecutor, 2)])
def test_one_array_is_finished_and_another_one_not(start: Any, tmp_path: Path) -> None:
    """Blocks are computed for the one that lacks them, and the finished one stays as it is."""
    done, new = LocalPlace(tmp_path / "done"), LocalPlace(tmp_path / "new")
    done.directory.mkdir()
    FLAT.sequence.compute(any_tee(sink_at(done)))
    before = done.content()
    watch = Watch(FLAT)
    folded = any_tee(sink_at(done), sink_at(new, chunks=(6, 2)), summed(FLAT))
    if start is None:
        one, other, found = watch.sequence.compute(folded)
    else:
        with start() as executor:
            one, other, found = watch.sequence.compute(folded, executor=executor)
    assert len(watch.computed) <= count_of(FLAT) + 1
    assert bits(read(one)) == bits(read(other)) == bits(joined(FLAT))
    assert bits(found) == bits(FLAT.sequence.compute(summed(FLAT)))
    assert done.content() == before


@EVEN
@pytest.mark.parametrize("workers_first", [True, False])
def test_two_sinks_with_different_chunks(make: Make, workers_first: bool, tmp_path: Path) -> None:
    """A block that one of them lacks is computed."""
    one, other = LocalPlace(tmp_path / "one"), LocalPlace(tmp_path / "other")
    chunks = [(6, 4), (9, 2)] if make.columns is None else [(6, 2), (3, 4)]
    sinks = [sink_at(p, chunks=c) for p, c in zip((one, other), chunks, strict=True)]
    folded = any_tee(*sinks, summed(make))
    with ThreadPoolExecutor(2) as executor:
        for with_workers in (workers_first, not workers_first):
            chosen = executor if with_workers else None
            with pytest.raises((WriteAbortedError, FailingError)):
                Watch(make, 3).sequence.compute(folded, executor=chosen)
        first, second, found = make.sequence.compute(folded)
    assert bits(read(first)) == bits(read(second)) == bits(joined(make))
    assert bits(found) == bits(make.sequence.compute(summed(make)))


# The converter reads back


@pytest.mark.parametrize(
    "kind",
    ["bfloat16", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("float32", "bool"))],
)
@pytest.mark.parametrize("make", [FLAT, RAGGED, NESTED], ids=["flat", "ragged", "nested"])
def test_tensors_come_back_as_tensors(kind: str, make: Make, place: Place) -> None:
    pytest.importorskip("torch")
    from lazychunks.torch import TorchNumpyConverter

    make = replace(make, library=kind, dtype="?" if kind == "bool" else "<f4")
    sink = sink_at(place, converter=TorchNumpyConverter())
    folded = any_tee(sink, all_folds(make))
    expected = make.sequence.compute(all_folds(make))
    for most in (4, 2):
        with pytest.raises(WriteAbortedError):
            Watch(make, most).sequence.compute(folded)
    for _ in range(2):
        _, found = make.sequence.compute(folded)
        for name, result in expected.items():
            assert bits(found[name]) == bits(result), name


@pytest.mark.parametrize(
    ("dtype", "layout"), [(">f4", "F"), (">i8", "strided"), (">c16", "reversed")]
)
@ANY
def test_numbers_of_any_byte_order_and_layout(
    make: Make, dtype: str, layout: Layout, place: Place
) -> None:
    make = replace(make, dtype=dtype, layout=layout)
    folded = any_tee(sink_at(place), all_folds(make))
    expected = make.sequence.compute(all_folds(make))
    with pytest.raises(WriteAbortedError):
        Watch(make, 5).sequence.compute(folded)
    for _ in range(2):
        _, found = make.sequence.compute(folded)
        for name, result in expected.items():
            assert bits(found[name]) == bits(result), name


# What cannot hold is refused before any work


@dataclass(frozen=True)
class OneWay:
    """A converter that cannot read back."""

    def to_numpy(self, x: Array, /) -> Array:
        return x


def opaque_factory() -> Any:
    """Rows, or blocks, of which none can be skipped; nobody may ask for them."""
    pytest.fail("the sequence was iterated")


def refused(make: Make, place: Place) -> Iterator[tuple[Any, Any, str]]:
    """What is refused: a sequence, a tee, and what the message says."""
    other, good = summed(make), sink_at(place)
    sequence = sequence_of(make, never)
    yield sequence, any_tee(sink_at(place, converter=OneWay()), other), "no from_numpy; give it one"
    yield sequence, any_tee(sink_at(place, dtype="f4"), other), r"dtype= casts .* with \.map"
    named = zarr_sink({}, CONVERTER, run_id="run")
    yield sequence, any_tee(good, named), "not all of its sinks have resume=True; give it to all"
    if make.columns is None:
        opaque: Any = LazyChunkSequence(opaque_factory)
        for folded in (good.contramap(negated), any_tee(other, good.contramap(negated))):
            yield sequence, folded, r"contramap changes .* with \.map"
    else:
        opaque = NestedLazyChunkSequence(opaque_factory)
        for nested in (any_nest(concatenate(1), good), any_nest(good, any_fold(max, 0))):
            yield sequence, nested, r"inside of nest\(\) .* leave out resume=True"
            yield sequence, any_tee(nested, other), r"inside of nest\(\) .* leave out resume=True"
    yield opaque, any_tee(good, other), "build it with LazyChunkSequence.from_map or Nested"


@pytest.mark.parametrize("workers", [True, False])
@pytest.mark.parametrize("state", ["nothing", "unfinished", "finished"])
@EVEN
def test_what_cannot_hold_is_refused_before_any_work(
    make: Make, state: str, workers: bool, place: Place
) -> None:
    if state == "unfinished":
        with pytest.raises(WriteAbortedError):
            Watch(make, 4).sequence.compute(any_tee(sink_at(place)))
    elif state == "finished":
        make.sequence.compute(any_tee(sink_at(place)))
    before = place.content()
    with ThreadPoolExecutor(1) as executor:
        for sequence, folded, message in refused(make, place):
            with pytest.raises(NotResumableError, match=message):
                sequence.compute(folded, executor=executor if workers else None)
            assert place.content() == before


def test_a_converter_need_not_read_back_if_no_other_fold_needs_the_blocks(place: Place) -> None:
    options: Any = {"converter": OneWay(), "dtype": "f4"}
    other = MemoryPlace({})
    folded = any_tee(sink_at(place, **options), sink_at(other, **options))
    with pytest.raises(WriteAbortedError):
        Watch(FLAT, 5).sequence.compute(folded)
    one, _ = FLAT.sequence.compute(folded)
    assert bits(read(one)) == bits(joined(FLAT).astype("f4"))
    one, two = sequence_of(FLAT, never).compute(folded)
    assert bits(read(one)) == bits(read(two))


# A block that is not the stored one


@EVEN
@pytest.mark.parametrize("workers", [True, False])
def test_other_values_are_refused(make: Make, workers: bool, place: Place) -> None:
    with pytest.raises(WriteAbortedError):
        Watch(make, 6).sequence.compute(any_tee(sink_at(place), summed(make)))
    before = place.content()
    other = replace(make, seed=make.seed + 3)
    with ThreadPoolExecutor(1) as executor:
        chosen = executor if workers else None
        with pytest.raises(ResumeMismatchError) as caught:
            other.sequence.compute(any_tee(sink_at(place), summed(make)), executor=chosen)
        assert caught.value.field == "value"
        assert place.content() == before
        array, _ = make.sequence.compute(any_tee(sink_at(place), summed(make)), executor=chosen)
    assert bits(read(array)) == bits(joined(make))


@EVEN
@pytest.mark.parametrize("workers", [True, False])
@pytest.mark.parametrize("first", [True, False])
def test_other_values_are_refused_where_only_one_sink_has_stored_any(
    make: Make, first: bool, workers: bool, place: Place
) -> None:
    """Regression: nothing was compared, and old and new blocks were mixed in one array."""
    with pytest.raises(WriteAbortedError):
        Watch(make, 6).sequence.compute(any_tee(sink_at(place), summed(make)))
    before = place.content()
    other = replace(make, seed=make.seed + 3)
    sinks = [sink_at(place), sink_at(MemoryPlace({}))]
    if not first:
        sinks.reverse()
    with ThreadPoolExecutor(1) as executor:
        chosen = executor if workers else None
        with pytest.raises(ResumeMismatchError) as caught:
            other.sequence.compute(any_tee(*sinks, summed(make)), executor=chosen)
        assert caught.value.field == "value"
        assert place.content() == before


@pytest.mark.parametrize("workers", [True, False])
def test_noise_is_let_through_by_rtol(workers: bool, place: Place) -> None:
    """What is stored is what the folds get, so that array and results belong together."""

    def noisy(noise: float, most: int | None = None) -> Any:
        left = [most]

        def block(number: int) -> Array:
            if left[0] is not None:
                left[0] -= 1
                if left[0] < 0:
                    raise FailingError
            return np.full((2, 3), number + 1.0) * (1 + noise)

        return LazyChunkSequence.from_map(block, range(8))

    def folded(**options: Any) -> Any:
        return any_tee(sink_at(place, **options), concatenate())

    with ThreadPoolExecutor(1) as executor:
        chosen = executor if workers else None
        with pytest.raises(WriteAbortedError):
            noisy(0, 5).compute(folded())
        with pytest.raises(ResumeMismatchError, match="rtol="):
            noisy(1e-9).compute(folded(), executor=chosen)
        array, values = noisy(1e-9).compute(folded(rtol=1e-6), executor=chosen)
    assert bits(read(array)) == bits(values)
    assert values[0, 0] == 1.0, "read back"
    assert values[-1, 0] != 8.0, "computed"


def test_another_number_of_blocks_is_refused(place: Place) -> None:
    FLAT.sequence.compute(any_tee(sink_at(place), summed(FLAT)))
    before = place.content()
    grown = replace(FLAT, rows=(*FLAT.rows[:-1], 3, 2))
    with ThreadPoolExecutor(1) as executor:
        for chosen in (None, executor):
            with pytest.raises(ResumeMismatchError, match="number of blocks"):
                grown.sequence.compute(any_tee(sink_at(place), summed(FLAT)), executor=chosen)
    assert place.content() == before


def test_no_block_is_no_array(place: Place) -> None:
    empty: Any = LazyChunkSequence.from_map(np.ones, [])
    count = any_fold(height, 0, merge=max)
    with ThreadPoolExecutor(1) as executor:
        for chosen in (None, executor):
            with pytest.raises(EmptySequenceError):
                empty.compute(any_tee(sink_at(place), count), executor=chosen)
    assert place.content() == {}


# Finished arrays of which nobody knows where the blocks lie


@pytest.mark.parametrize("make", [RAGGED, UNEVEN], ids=["flat", "nested"])
def test_many_sizes_are_not_noted_so_the_blocks_are_computed_again(
    make: Make, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Regression: they were read back as if all had the size of the first."""
    monkeypatch.setattr(record, "MOST_RUNS", 2)
    folded = any_tee(sink_at(place), all_folds(make))
    _, expected = make.sequence.compute(folded)
    before = place.content()
    array, found = make.sequence.compute(folded)
    assert bits(read(array)) == bits(joined(make))
    for name, result in expected.items():
        assert bits(found[name]) == bits(result), name
    assert place.content() == before


class Unlisted(WrapperStore[MemoryStore]):
    """A store that does not list its keys."""

    @property
    def supports_listing(self) -> bool:
        return False


@pytest.mark.parametrize("workers", [True, False])
def test_a_store_that_lists_nothing(workers: bool) -> None:
    memory = MemoryStore()
    store = Unlisted(memory)
    folded = any_tee(
        zarr_sink(store, CONVERTER, run_id="run", resume=True, chunks="blocks"), summed(FLAT)
    )
    with ThreadPoolExecutor(1) as executor:
        chosen = executor if workers else None
        with pytest.raises(WriteAbortedError):
            Watch(FLAT, 5).sequence.compute(folded, executor=chosen)
        for _ in range(2):
            array, found = FLAT.sequence.compute(folded, executor=chosen)
            assert bits(read(array)) == bits(joined(FLAT))
            assert bits(found) == bits(FLAT.sequence.compute(summed(FLAT)))
