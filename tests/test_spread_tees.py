"""A tee that stores, with workers: they compute a block once, write its chunks, and fold it."""

from __future__ import annotations

import operator
import os
import pickle
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lazychunks import (
    BlockShapeError,
    DestinationExistsError,
    IdentityConverter,
    LazyChunkSequence,
    NotSpreadableError,
    WriteAbortedError,
    concatenate,
    maximum,
    nest,
    nested_concatenate,
    tee,
    top_k,
    total,
    zarr_sink,
)
from tests.executors import Shuffling, cluster, processes, reused
from tests.makes import (
    NO_SHAPES,
    Make,
    Noted,
    all_folds,
    any_fold,
    any_nest,
    any_tee,
    append_shapes_of_rows,
    draw_folds,
    height,
    negated,
    outcome,
)
from tests.places import tree
from tests.strategies import DTYPES, Array, bits, layouts, seeds

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")

CONVERTER = IdentityConverter()

FLAT = Make((3, 3, 3, 3, 3, 3, 3, 2), None, (4,), "<f8", 1, "F")
NESTED = Make((3, 3, 3, 2), (2, 2, 2, 2, 1), (), "<f4", 2, "C")
JOBS = pytest.mark.parametrize("make", [FLAT, NESTED], ids=["flat", "nested"])


def joined(make: Make) -> Array:
    """All blocks of a sequence in one array."""
    blocks = make.sequence.compute()
    if make.columns is not None:
        blocks = [np.concatenate(row, 1) for row in blocks]
    whole: Array = np.concatenate(blocks)
    return whole


def read(array: Any) -> Array:
    return np.asarray(array[...])


def of(make: Make, flat: Any, nested: Any) -> Any:
    """Choose a fold by the kind of the sequence."""
    return flat if make.columns is None else nested


def summed(make: Make) -> Any:
    """A fold that merges."""
    return of(make, total(), nest(total(1), total()))


def whole(make: Make) -> Any:
    """A fold that does not."""
    return of(make, concatenate(), nested_concatenate())


# Law: what is stored, and all results, are those of a serial pass.


@st.composite
def even(draw: st.DrawFn) -> Make:
    """Draw blocks of one size, but for smaller last ones."""

    def sizes() -> tuple[int, ...]:
        first = draw(st.integers(1, 4))
        return (*(first,) * draw(st.integers(0, 7)), draw(st.integers(1, first)))

    rows, columns = sizes(), sizes() if draw(st.booleans()) else None
    trailing = tuple(draw(st.lists(st.integers(1, 3), max_size=1)))
    dtype = draw(st.sampled_from(DTYPES))
    return Make(rows, columns, trailing, dtype, draw(seeds), draw(layouts))


def extents(data: st.DataObject, make: Make) -> tuple[int, ...]:
    """Draw chunks of which each begins where a block begins, or the other way round."""
    found: list[int] = []
    for sizes in (make.rows, make.columns):
        if sizes is not None:
            divisors = [n for n in range(1, sizes[0] + 1) if sizes[0] % n == 0]
            multiples = [times * sizes[0] for times in (1, 2, 3)]
            found.append(data.draw(st.sampled_from([*divisors, *multiples])))
    return (*found, *(max(length, 1) for length in make.trailing))


@given(even(), st.data())
def test_it_stores_and_gives_what_a_serial_pass_does(make: Make, data: st.DataObject) -> None:
    folded = draw_folds(data, make)
    chunks = [extents(data, make) for _ in range(data.draw(st.integers(1, 2)))]

    def run(executor: Any) -> Any:
        stores: list[dict[str, Any]] = [{} for _ in chunks]
        sinks = [
            zarr_sink(store, CONVERTER, chunks=extent)
            for store, extent in zip(stores, chunks, strict=True)
        ]
        *arrays, result = make.sequence.compute(any_tee(*sinks, folded), executor=executor)
        for array in arrays:
            assert bits(read(array)) == bits(joined(make))
        return result, [{key: stored.to_bytes() for key, stored in s.items()} for s in stores]

    with ThreadPoolExecutor(3) as executor:
        assert outcome(partial(run, executor)) == outcome(partial(run, None))


@pytest.mark.parametrize(
    "start",
    [
        pytest.param(Shuffling, id="shuffling"),
        pytest.param(processes, id="processes"),
        pytest.param(reused, id="loky", marks=pytest.mark.slow),
        pytest.param(cluster, id="dask", marks=pytest.mark.slow),
    ],
)
@JOBS
def test_all_folds_in_one_tee_with_two_sinks(
    make: Make, start: Callable[[], Any], tmp_path: Path
) -> None:
    """Parts fall on whole chunks of both."""
    folded = all_folds(make)

    def compute(folder: Path, executor: Any = None) -> Any:
        chunks = of(make, [(6, 4), (9, 2)], [(6, 2), (3, 6)])
        one, other = (
            zarr_sink(folder / str(extent), CONVERTER, chunks=extent) for extent in chunks
        )
        sinks: dict[str, Any] = {"one": one, "other": other}
        return make.sequence.compute(any_tee(any_tee(sinks), folded), executor=executor)

    arrays, expected = compute(tmp_path / "serial")
    with start() as executor:
        spread, found = compute(tmp_path / "spread", executor)
    assert tree(tmp_path / "serial") == tree(tmp_path / "spread")
    for name in ("one", "other"):
        assert bits(read(spread[name])) == bits(read(arrays[name])) == bits(joined(make))
    for name, result in expected.items():
        assert bits(found[name]) == bits(result), name


@JOBS
def test_to_zarr_is_the_tee_of_one(make: Make, tmp_path: Path) -> None:
    with Shuffling() as one, Shuffling() as other:
        make.sequence.to_zarr(tmp_path / "one" / "a", CONVERTER, chunks="blocks", executor=one)
        sink = zarr_sink(tmp_path / "other" / "a", CONVERTER, chunks="blocks")
        (array,) = make.sequence.compute(any_tee(sink), executor=other)
    assert bits(read(array)) == bits(joined(make))
    assert tree(tmp_path / "one") == tree(tmp_path / "other")
    assert len(one.sizes) == len(other.sizes)


@pytest.mark.parametrize("make", [NESTED], ids=["nested"])
@pytest.mark.parametrize(
    ("rows", "columns"), [((3,), (2, 2, 1)), ((3, 3, 1), (2,)), ((3,), (2,)), ((2, 2), (1,) * 9)]
)
def test_one_row_or_one_column(make: Make, rows: Any, columns: Any, tmp_path: Path) -> None:
    make = replace(make, rows=rows, columns=columns)
    layouts: list[Any] = [(3, 2), (6, 4), "blocks", (7, 7), "auto"]
    for number, chunks in enumerate(layouts):
        if chunks == (7, 7) and len(rows) + len(columns) > 2:
            continue  # one unit has all blocks only where there is one block
        sink = zarr_sink(tmp_path / str(number), CONVERTER, chunks=chunks)
        with Shuffling(number) as executor:
            try:
                array, result = make.sequence.compute(tee(sink, summed(make)), executor=executor)
            except BlockShapeError:
                assert chunks in ((3, 2), (6, 4)), "these fall between other blocks"
                continue
        assert bits(read(array)) == bits(joined(make))
        assert bits(result) == bits(make.sequence.compute(summed(make)))


# Who does what


@dataclass(frozen=True)
class Telling:
    """A converter that notes the processes in which it converts."""

    path: Path

    def to_numpy(self, x: Array, /) -> Array:
        with self.path.open("a") as file:
            file.write(f"{os.getpid()}\n")
        return x


@pytest.mark.parametrize("start", [processes, partial(ThreadPoolExecutor, 2), Shuffling])
@JOBS
def test_each_block_is_computed_once_and_the_first_once_more_for_its_shape(
    make: Make, start: Callable[[], Any], tmp_path: Path
) -> None:
    noted = Noted(tmp_path / "computed", make)
    sink = zarr_sink(tmp_path / "array", Telling(tmp_path / "converted"), chunks="blocks")
    folded = any_tee(sink, summed(make), whole(make))
    with start() as executor:
        array, sums, values = noted.sequence().compute(folded, executor=executor)
    assert bits(read(array)) == bits(values) == bits(joined(make))
    assert bits(sums) == bits(make.sequence.compute(summed(make)))
    computed = noted.path.read_text().splitlines()
    count = len(make.rows) * len(make.columns or (0,))
    assert len(computed) == count + 1
    assert len({*computed}) == count
    converted = (tmp_path / "converted").read_text().splitlines()
    assert len(converted) == count + 1
    if start is processes:
        assert str(os.getpid()) not in converted, "workers write"


def test_blocks_do_not_come_back(tmp_path: Path) -> None:
    make = Make((100,) * 8, None, (1000,), "<f8", 1, "C")
    folds = tee(total(None), top_k(3).then(negated_values), maximum(None))
    sink = zarr_sink(tmp_path / "array", CONVERTER, chunks="blocks")
    with Shuffling() as executor:
        make.sequence.compute(tee(sink, folds), executor=executor)
    assert len(executor.sizes) == 1 + 8
    assert max(executor.sizes) < 3 * 1000 * 16 + 2_000, "the three best of each lane, and receipts"


def negated_values(best: Any) -> Any:
    return -best.values


@dataclass(frozen=True)
class Block:
    """A block that notes when it is sent to another process, or back."""

    values: Array
    path: Path

    def __reduce__(self) -> tuple[Any, ...]:
        with self.path.open("a") as file:
            file.write(f"{self.values.nbytes}\n")
        return Block, (self.values, self.path)

    def __deepcopy__(self, _: object) -> Block:
        """Be copied without the note."""
        return Block(self.values.copy(), self.path)


@dataclass(frozen=True)
class Blocks:
    """Converts between such blocks and arrays."""

    path: Path

    def to_numpy(self, x: Block, /) -> Array:
        return x.values

    def from_numpy(self, x: Array, /) -> Block:
        return Block(x, self.path)


def make_block(path: Path, number: int) -> Block:
    return Block(np.full((4, 3), float(number)), path)


def values_of(block: Block) -> Array:
    return block.values


@pytest.mark.parametrize("merges", [True, False])
def test_no_block_crosses_the_border_of_a_process_unless_a_fold_needs_it(
    merges: bool, tmp_path: Path
) -> None:
    note = tmp_path / "sent"
    sequence = LazyChunkSequence.from_map(partial(make_block, note), range(9))
    sink = zarr_sink(tmp_path / "array", Blocks(note), chunks="blocks")
    sums = total().contramap(values_of)
    other: Any = sums if merges else any_fold(count_blocks, 0)
    with processes() as executor:
        array, _ = sequence.compute(any_tee(sink, other), executor=executor)
    assert read(array)[:, 0].tolist() == [float(n) for n in range(9) for _ in range(4)]
    assert note.exists() is not merges
    if not merges:
        assert len(note.read_text().splitlines()) == 9


def count_blocks(number: int, _: Block) -> int:
    return number + 1


def test_a_sink_behind_a_function(tmp_path: Path) -> None:
    sink = zarr_sink(tmp_path / "array", CONVERTER, chunks="blocks", dtype="f4")
    folded = tee(total(), sink.contramap(negated).then(read))
    with Shuffling() as executor:
        _, stored = FLAT.sequence.compute(folded, executor=executor)
    assert bits(stored) == bits((-joined(FLAT)).astype("f4"))


@pytest.mark.parametrize("start", [processes, partial(ThreadPoolExecutor, 2)])
def test_a_sink_inside_of_nest_stores_where_the_pass_is(
    start: Callable[[], Any], tmp_path: Path
) -> None:
    """As row results come, and rows: of each row another array, in place of the one before."""
    make = replace(NESTED, columns=(2, 2, 2))
    results = zarr_sink(tmp_path / "results", Telling(tmp_path / "converted"))
    one, other = (
        zarr_sink(tmp_path / name, CONVERTER, overwrite=True).then(read) for name in ("a", "b")
    )
    lists = any_fold(append_shapes_of_rows, NO_SHAPES)
    folds: dict[str, Any] = {
        "row results": any_nest(concatenate(1), results),
        "rows": any_nest(one, lists),
        "rows among others": any_nest(any_tee(other, concatenate(0), total(0)), lists),
        "sums": nest(total(1), concatenate()),
        "the whole": zarr_sink(tmp_path / "whole", CONVERTER, chunks=(6, 2)),
    }
    rows = [np.concatenate(row) for row in make.sequence.compute()]
    with start() as executor:
        found = make.sequence.compute(any_tee(folds), executor=executor)
    assert bits(read(found["row results"])) == bits(read(found["the whole"])) == bits(joined(make))
    assert {*(tmp_path / "converted").read_text().split()} == {str(os.getpid())}
    assert bits(found["rows"]) == bits(rows)
    assert bits([row[:2] for row in found["rows among others"]]) == bits([(r, r) for r in rows])


def test_a_sink_inside_of_nest_leaves_nothing_when_it_fails(tmp_path: Path) -> None:
    """It cannot go on, so nothing is kept, whatever its name."""
    make = replace(NESTED, columns=(2, 2))
    for number, name in enumerate(("row results", "rows")):
        sink = zarr_sink(tmp_path / name, CONVERTER, run_id="run")
        other: Any = any_nest(any_fold(height, 0), any_fold(fail_at_third, 0))
        storing: Any = (any_nest(concatenate(1), sink), any_nest(sink, any_fold(operator.is_, 0)))
        with pytest.raises((WriteAbortedError, ZeroDivisionError, DestinationExistsError)):
            make.sequence.compute(any_tee(storing[number], other))
        assert not [*tmp_path.glob("*partial*")]


def fail_at_third(number: int, _: object) -> int:
    if number == 2:
        raise ZeroDivisionError
    return number + 1


@JOBS
def test_the_array_appears_once_all_other_results_are_there(make: Make, tmp_path: Path) -> None:
    seen: list[list[str]] = []
    look = summed(make) if make.columns is None else total()

    def note(_: object) -> None:
        seen.append(sorted(path.name for path in tmp_path.iterdir()))

    looking = look.then(note) if make.columns is None else any_nest(total(1), look.then(note))
    sinks = [zarr_sink(tmp_path / name, CONVERTER, chunks="blocks") for name in "ab"]
    with ThreadPoolExecutor(2) as executor:
        make.sequence.compute(
            any_tee(sinks[0], looking, any_tee(sinks[1], looking)), executor=executor
        )
    assert seen == [[".a.lock", ".a.partial", ".b.lock", ".b.partial"]] * 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


# Failures


@dataclass(frozen=True)
class FailingConverter:
    """Fails at its fourth block in a process."""

    number: list[int] = field(default_factory=list[int])

    def to_numpy(self, x: Array, /) -> Array:
        self.number.append(1)
        if len(self.number) == 4:
            raise ZeroDivisionError
        return x


def failing_block(make: Make, *index: int) -> Array:
    if index[0] == 2:
        raise ZeroDivisionError
    block: Array = make(*index)
    return block


def dying_block(make: Make, *index: int) -> Array:
    if index[0] == 2:
        os._exit(1)
    block: Array = make(*index)
    return block


def fail(*_: object) -> Any:
    raise ZeroDivisionError


def fail_at_height(rows: int, block: Array) -> int:
    if rows > 5:
        raise ZeroDivisionError
    return rows + len(block)


def failing_folds(make: Make) -> dict[str, Any]:
    folds: dict[str, Any] = {
        "step": any_fold(fail, 0, merge=operator.add),
        "merge": any_fold(height, 0, merge=fail),
        "finish": any_fold(height, 0, fail, merge=operator.add),
        "a step of what does not merge": any_fold(fail_at_height, 0),
        "contramap": total().contramap(fail),
        "then": total(None).then(fail),
    }
    outer = any_fold(append_shapes_of_rows, NO_SHAPES)
    return {name: of(make, one, any_nest(one, outer)) for name, one in folds.items()}


@contextmanager
def as_it_was(folder: Path) -> Generator[None]:
    """See that nothing has changed when the body has ended, and when its executor has."""
    before = tree(folder)
    yield
    assert tree(folder) == before


@pytest.mark.parametrize(
    "start",
    [
        pytest.param(processes, marks=pytest.mark.slow),
        Shuffling,
        partial(ThreadPoolExecutor, 2),
    ],
)
@pytest.mark.parametrize(
    "point",
    [*failing_folds(FLAT), "a block", "a converter", "a worker"],
)
@JOBS
def test_a_failure_leaves_the_destinations_as_they_were(
    make: Make, point: str, start: Callable[[], Any], tmp_path: Path
) -> None:
    place = tmp_path / "place"
    for name in "ab":
        make.sequence.to_zarr(place / name, CONVERTER)
    sequence, converter, other = make.sequence, CONVERTER, summed(make)
    error: Any = (WriteAbortedError, ZeroDivisionError)
    if point == "a block":
        sequence = Noted(tmp_path / "computed", make).sequence()
        factory: Any = sequence.generator_factory
        failing: Any = partial(failing_block, make)
        sequence = type(sequence)(replace(factory, fn=failing))
    elif point == "a worker":
        if start is not processes:
            return  # threads do not die alone
        factory = sequence.generator_factory
        sequence = type(sequence)(replace(factory, fn=partial(dying_block, make)))
        error = WriteAbortedError
    elif point == "a converter":
        converter = FailingConverter()  # type: ignore[assignment]
    else:
        other = failing_folds(make)[point]
    sinks = [zarr_sink(place / name, converter, chunks="blocks", overwrite=True) for name in "ab"]
    # As it was once the call has failed, and still when its executor has ended.
    unchanged = as_it_was(place)
    with unchanged, start() as executor, as_it_was(place), pytest.raises(error) as caught:
        sequence.compute(any_tee(sinks[0], other, sinks[1]), executor=executor)
    if isinstance(caught.value, WriteAbortedError):
        assert "has been removed" in str(caught.value)
    # Nothing is held: the next pass can begin at once.
    with start() as executor:
        sinks = [zarr_sink(place / n, CONVERTER, chunks="blocks", overwrite=True) for n in "ab"]
        make.sequence.compute(any_tee(*sinks), executor=executor)


@JOBS
def test_what_workers_cannot_get_is_named_before_any_work(make: Make, tmp_path: Path) -> None:
    class Local:
        """A converter that cannot be pickled, since it is defined here."""

        def to_numpy(self, x: Array, /) -> Array:
            return x

    def inner(*found: Any) -> Any:
        return found[0]

    def sink(converter: Any = CONVERTER) -> Any:
        return zarr_sink(tmp_path / "array", converter, chunks="blocks")

    merging = any_fold(height, 0, merge=inner)
    wrong: list[tuple[Any, str]] = [
        (sink(Local()), "the converter"),
        (any_tee(sink(Local()), summed(make)), "the converter"),
        (any_tee(sink().contramap(inner), summed(make)) if make is FLAT else sink(Local()), ""),
        (any_tee(sink(), of(make, merging, any_nest(merging, merging))), "the fold"),
    ]
    with Shuffling() as executor:
        for folded, what in wrong:
            with pytest.raises(NotSpreadableError, match=f"^{what}.* cannot be sent"):
                make.sequence.compute(folded, executor=executor)
            assert executor.sizes == [], "nothing has been computed"
            assert not [*tmp_path.iterdir()]
    with Shuffling() as executor, pytest.raises(NotSpreadableError, match="do not see"):
        make.sequence.compute(tee(zarr_sink({}, CONVERTER), summed(make)), executor=executor)
    assert executor.sizes == []


@JOBS
def test_blocks_that_do_not_fall_on_chunks_are_refused(make: Make, tmp_path: Path) -> None:
    """Each sink of a tee is asked; the way out is in the message."""
    good = zarr_sink(tmp_path / "good", CONVERTER, chunks="blocks")
    bad = zarr_sink(tmp_path / "bad", CONVERTER, chunks=of(make, (4, 4), (4, 2)))
    for folded in (any_tee(good, bad), any_tee(bad, summed(make), good)):
        with (
            Shuffling() as executor,
            pytest.raises(BlockShapeError, match=r"executor.* pass chunk"),
        ):
            make.sequence.compute(folded, executor=executor)
        assert not [*tmp_path.iterdir()]


def test_a_pickled_tee_of_sinks_is_small(tmp_path: Path) -> None:
    """What each task gets: no executor, no lock, no blocks."""
    sinks = [zarr_sink(tmp_path / name, CONVERTER) for name in "abc"]
    assert len(pickle.dumps(any_tee(*sinks, total()))) < 3000


@pytest.mark.parametrize("start", [Shuffling, partial(ThreadPoolExecutor, 2)])
@JOBS
def test_progress_ends_at_all_blocks(
    make: Make, start: Callable[[], Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sink = zarr_sink(tmp_path / "array", CONVERTER, chunks="blocks")
    with start() as executor:
        make.sequence.compute(tee(sink, summed(make)), executor=executor, progress=True)
    count = len(make.rows) * len(make.columns or (0,))
    assert f"{count}/{count}" in capsys.readouterr().err
