"""Ranks make one call together: who computed what does not show, and nobody waits in vain.

The ranks are threads here; tests/test_launched_ranks.py has real processes.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lazychunks import (
    BlockShapeError,
    DestinationExistsError,
    IdentityConverter,
    LazyChunkSequence,
    NestedLazyChunkSequence,
    NotSpreadableError,
    RankFailedError,
    RanksDifferError,
    ResumeMismatchError,
    WriteAbortedError,
    chain,
    concatenate,
    nest,
    status,
    tee,
    total,
    zarr_sink,
    zip_blocks,
)
from lazychunks.storage.chunks.filled import Filled
from lazychunks.storage.chunks.units import Units
from tests.makes import TIMEOUT, Make, any_fold, any_tee, draw_folds, outcome
from tests.places import tree
from tests.ranks import Group, Killed, ThreadRanks, run_ranks
from tests.strategies import DTYPES, Array, bits, layouts, seeds
from tests.test_spread_tees import CONVERTER, FLAT, NESTED, even, extents, joined, read, summed

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")

JOBS = pytest.mark.parametrize("make", [FLAT, NESTED], ids=["flat", "nested"])
SIZES = st.integers(1, 4)


def results(size: int, job: Callable[[ThreadRanks], Any], group: Group | None = None) -> Any:
    """Return what the ranks come to, none of which fails."""
    came_to = run_ranks(size, job, group)
    for one in came_to:
        if isinstance(one, BaseException):
            raise one
    return came_to


def list_names(folder: str | Path) -> list[str]:
    """Return the names in a folder, but for locks."""
    return [path.name for path in Path(folder).iterdir() if path.suffix != ".lock"]


# Law R: the result has the bits of a serial pass, on all ranks.


@st.composite
def makes(draw: st.DrawFn) -> Make:
    """Draw blocks of any sizes."""

    def sizes(most: int) -> tuple[int, ...]:
        return tuple(draw(st.lists(st.integers(0, 3), max_size=most)))

    rows, columns = sizes(40), draw(st.none() | st.just(True))
    trailing = tuple(draw(st.lists(st.integers(0, 2), max_size=1)))
    dtype = draw(st.sampled_from(DTYPES))
    return Make(
        rows[:6] if columns else rows,
        sizes(8) if columns else None,
        trailing,
        dtype,
        draw(seeds),
        draw(layouts),
    )


@given(makes(), SIZES, st.none() | st.integers(1, 9), st.data())
def test_reductions_have_the_bits_of_a_serial_pass(
    make: Make, size: int, in_flight: int | None, data: st.DataObject
) -> None:
    folded = draw_folds(data, make)
    expected = outcome(partial(make.sequence.compute, folded))

    def job(ranks: ThreadRanks) -> object:
        run = partial(make.sequence.compute, folded, ranks=ranks, max_in_flight=in_flight)
        return outcome(run)

    found = run_ranks(size, job)
    if isinstance(expected, type):  # where it fails, somebody finds the error, and the others hear
        assert expected in found
        assert {*found} <= {expected, RankFailedError}
    else:
        assert found == [expected] * size


@settings(max_examples=10)
@given(even(), SIZES, st.data())
def test_a_tee_with_sinks_stores_and_gives_what_a_serial_pass_does(
    make: Make, size: int, data: st.DataObject
) -> None:
    folded = draw_folds(data, make)
    chunks = [extents(data, make) for _ in range(data.draw(st.integers(1, 2)))]

    def run(folder: str, ranks: ThreadRanks | None = None) -> Any:
        sinks = [
            zarr_sink(f"{folder}/{number}", CONVERTER, chunks=extent)
            for number, extent in enumerate(chunks)
        ]
        *arrays, result = make.sequence.compute(any_tee(*sinks, folded), ranks=ranks)
        for array in arrays:
            assert bits(read(array)) == bits(joined(make))
        return result

    with TemporaryDirectory() as one, TemporaryDirectory() as other:
        expected = outcome(partial(run, one))
        found = run_ranks(size, lambda ranks: outcome(partial(run, other, ranks)))
        assert tree(Path(one)) == tree(Path(other))
    if isinstance(expected, type):
        assert expected in found or WriteAbortedError in found
    else:
        assert found == [expected] * size


@JOBS
@pytest.mark.parametrize("aggregator", [None, list, "rows", "first two"])
def test_what_is_no_fold_gets_the_blocks_in_order(make: Make, aggregator: Any) -> None:
    aggregator = {"rows": list_rows, "first two": take_two}.get(aggregator, aggregator)
    if make.columns is not None and aggregator is list:
        aggregator = list_rows
    expected = bits(make.sequence.compute(aggregator))
    for size in (1, 2, 3):
        found = results(size, lambda ranks: make.sequence.compute(aggregator, ranks=ranks))
        assert [bits(one) for one in found] == [expected] * size


def list_rows(rows: Iterable[Any]) -> list[Any]:
    return [list(row) for row in rows]


def take_two(blocks: Iterable[Any]) -> list[Any]:
    """Take the first two blocks, or of each row the first block."""
    found: list[Any] = []
    for block in blocks:
        row: Any = block
        found.append(next(row) if isinstance(block, Iterator) else block)
        if len(found) == 2:
            break
    return found


@given(SIZES, st.lists(st.integers(0, 4), min_size=1, max_size=12))
@settings(max_examples=10)
def test_uneven_blocks_are_stored_where_their_sizes_are_listed(size: int, rows: list[int]) -> None:
    make = Make(tuple(rows), None, (2,), "<f8", 1, "C")
    with TemporaryDirectory() as folder:
        found = run_ranks(
            size,
            lambda ranks: make.sequence.to_zarr(
                f"{folder}/a", CONVERTER, True, ranks=ranks, chunks="blocks", sizes=rows
            ),
        )
        if isinstance(found[0], BlockShapeError):  # they do not fall on chunks
            assert list_names(folder) == []
            return
        for array in found:
            assert bits(read(array)) == bits(joined(make))


def test_uneven_blocks_with_one_chunk_each(tmp_path: Path) -> None:
    make = Make((4, 8, 2), (3, 3), (), "<f8", 1, "C")
    found = results(
        2,
        lambda ranks: make.sequence.to_zarr(
            tmp_path / "a",
            CONVERTER,
            True,
            ranks=ranks,
            chunks=(2, 3),
            sizes=(make.rows, make.columns or ()),
        ),
    )
    for array in found:
        assert bits(read(array)) == bits(joined(make))


def second(pair: tuple[Any, Any]) -> Any:
    """Return the second."""
    return pair[1]


def second_of(sequence: LazyChunkSequence[Any]) -> Any:
    """Pair the blocks of a sequence with themselves, and take the second of each pair."""
    pairs = zip_blocks(sequence, sequence)
    return pairs.map(second)


@pytest.mark.parametrize("name", ["shuffled", "sliced", "chained", "zipped", "rebatched", "rows"])
def test_sequences_that_are_composed(name: str, tmp_path: Path) -> None:
    make = replace(FLAT, rows=(3,) * 20)
    flat: Any = make.sequence
    nested: Any = NESTED.sequence
    makers: dict[str, Callable[[], Any]] = {
        "shuffled": lambda: flat.shuffle(3),
        "sliced": lambda: flat[3:18:2],
        "chained": partial(chain, flat, flat[:5]),
        "zipped": partial(second_of, flat),
        "rebatched": lambda: flat.rebatch(6, sizes=make.rows),
        "rows": lambda: nested.rows(concatenate(1)),
    }
    sequence = makers[name]()
    folded = tee(total(), concatenate())
    expected = bits(sequence.compute(folded))

    def job(ranks: ThreadRanks) -> Any:
        sink = zarr_sink(tmp_path / "a", CONVERTER, chunks="blocks")
        array, results = sequence.compute(tee(sink, folded), ranks=ranks)
        assert bits(read(array)) == bits(results[1])
        return bits(results)

    assert results(3, job) == [expected] * 3
    for error in run_ranks(2, lambda ranks: flat.shuffle(ranks.rank).compute(list, ranks=ranks)):
        assert isinstance(error, RanksDifferError)
        assert "seed" in str(error)


# Groups


def name_parts(block: Array) -> dict[str, Array]:
    return {"all": block, "first": block[:1]}


@JOBS
@pytest.mark.parametrize("size", [1, 2, 3])
def test_a_group_is_stored_by_ranks_and_a_killed_one_goes_on(
    make: Make, size: int, tmp_path: Path
) -> None:
    options: Any = {"chunks": "blocks", "coordinates": {"row": np.arange(len(make.rows) * 3 - 1)}}
    options["arrays"] = {"all": {"dimension_names": ["row", *"xyz"[: len(make.trailing)]]}}
    if make.columns is not None:
        options = {"chunks": "blocks"}

    def job(ranks: ThreadRanks | None, path: Path, **more: Any) -> Any:
        named = make.sequence.map(name_parts)
        group = named.to_zarr_group(path, CONVERTER, True, ranks=ranks, **options, **more)
        return bits(read(group["all"])), bits(read(group["first"]))

    expected = job(None, tmp_path / "serial")
    found = results(size, partial(job, path=tmp_path / "ranks"))
    assert found == [expected] * size
    assert tree(tmp_path / "serial") == tree(tmp_path / "ranks")

    run: Any = {"path": tmp_path / "killed", "run_id": "it", "resume": True}
    for exchange in (4, 9, 14, 19):
        run_ranks(size, kill_at(exchange, 0, partial(job, **run)))
    for again in (2, 1):  # the rest, and what is finished
        assert results(again, partial(job, **run)) == [expected] * again


# Who does what


@dataclass(frozen=True)
class Telling:
    """Computes a block, and notes who has."""

    make: Make
    rank: int
    noted: list[tuple[int, tuple[int, ...]]]

    def __call__(self, *index: int) -> Any:
        self.noted.append((self.rank, index))
        return self.make(*index)

    @property
    def sequence(self) -> Any:
        rows = range(len(self.make.rows))
        if self.make.columns is None:
            return LazyChunkSequence.from_map(self, rows)
        return NestedLazyChunkSequence.from_product(self, rows, range(len(self.make.columns)))


@JOBS
def test_each_block_is_computed_once_by_somebody_and_the_first_once_more(
    make: Make, tmp_path: Path
) -> None:
    noted: list[Any] = []
    group = Group(3)

    def job(ranks: ThreadRanks) -> Any:
        sink = zarr_sink(tmp_path / "array", CONVERTER, chunks="blocks")
        sequence = Telling(make, ranks.rank, noted).sequence
        return sequence.compute(any_tee(sink, summed(make)), ranks=ranks)

    results(3, job, group)
    computed = [index for _, index in noted]
    blocks = len(make.rows) * len(make.columns or (0,))
    assert len(computed) == blocks + 1
    assert len({*computed}) == blocks
    each = Counter(rank for rank, _ in noted)
    assert max(each.values()) - min(each.values()) <= 2
    assert max(group.sizes) < 10_000, "blocks do not travel"


def test_what_is_left_of_a_run_is_shared_evenly_too(tmp_path: Path) -> None:
    """If one of two ranks had died, each second block would be left, and all for the same rank."""
    make = replace(FLAT, rows=(3,) * 16)
    options: Any = {"chunks": "blocks", "run_id": "it", "resume": True}
    make.sequence.to_zarr(tmp_path / "whole", CONVERTER, **options)

    def stop(number: int) -> Any:
        if number == 15:
            raise OSError("no power")
        return make(number)

    sequence = LazyChunkSequence.from_map(stop, range(16))
    with pytest.raises(WriteAbortedError):
        sequence.to_zarr(tmp_path / "array", CONVERTER, **options)
    for chunk in range(1, 15, 2):
        (tmp_path / ".array.partial" / "c" / str(chunk) / "0").unlink()
    noted: list[Any] = []
    results(
        2,
        lambda ranks: Telling(make, ranks.rank, noted).sequence.to_zarr(
            tmp_path / "array", CONVERTER, ranks=ranks, **options
        ),
    )
    each = Counter(rank for rank, _ in noted)
    assert abs(each[0] - each[1]) <= 1
    assert tree(tmp_path / "array").keys() == tree(tmp_path / "whole").keys()


def triple(number: int) -> Array:
    return np.full(3, float(number))


def test_there_are_few_exchanges_where_states_are_small() -> None:
    group = Group(2)
    sequence = LazyChunkSequence.from_map(triple, range(640))
    results(2, lambda ranks: sequence.compute(total(), ranks=ranks), group)
    assert group.exchanges < 12


def test_a_bound_on_parts_under_way_bounds_the_states_in_an_exchange() -> None:
    few, many = Group(2), Group(2)
    sequence = LazyChunkSequence.from_map(triple, range(64))

    def job(ranks: ThreadRanks) -> Any:
        bound = 2 if ranks.group is many else None
        return sequence.compute(concatenate(), ranks=ranks, max_in_flight=bound)

    for group in (few, many):
        results(2, job, group)
    assert many.exchanges > 32 > few.exchanges


# A failure anywhere ends the call everywhere.


class BrokenError(Exception):
    """What fails on one rank."""


def fail_at(fails: int, rank: int, ranks: ThreadRanks, number: int) -> Array:
    """Compute a block; on one rank, one of them fails."""
    if ranks.rank == rank and number >= fails:
        raise BrokenError
    return np.full((2, 3), float(number))


def check_told(found: Any, rank: int) -> None:
    """One rank has its own error, and all others know which one that is."""
    for number, error in enumerate(found):
        if number == rank:
            assert isinstance(error, BrokenError) or isinstance(error.__cause__, BrokenError)
        else:
            assert isinstance(error, RankFailedError)
            assert error.rank == rank
            assert "BrokenError" in str(error)


@settings(max_examples=20)
@given(st.integers(2, 4), st.integers(0, 3), st.integers(0, 11), st.booleans())
def test_a_block_that_fails(size: int, rank: int, fails: int, named: bool) -> None:
    options: Any = {"run_id": "it", "resume": True} if named else {}

    def job(ranks: ThreadRanks, fails: int, folder: str) -> Any:
        fn = partial(fail_at, fails, rank, ranks)
        sink = zarr_sink(f"{folder}/array", CONVERTER, chunks="blocks", **options)
        return LazyChunkSequence.from_map(fn, range(16)).compute(
            tee(sink, total(None)), ranks=ranks
        )

    with TemporaryDirectory() as folder:
        found: Any = run_ranks(size, partial(job, fails=fails, folder=folder))
        if rank >= size:
            assert [int(sums) for _, sums in found] == [6 * sum(range(16))] * size
            return
        check_told(found, rank)
        assert list_names(folder) == [".array.partial"] * (named and not (rank == 0 and fails == 0))
        again = results(size + 1, partial(job, fails=99, folder=folder)) if named else ()
        for array, _ in again:
            assert read(array)[:, 0].tolist() == [n for n in range(16) for _ in range(2)]


@pytest.mark.parametrize("rank", [0, 1, 2])
@pytest.mark.parametrize("where", ["item", "converter", "fold", "finish", "after", "result"])
def test_anything_else_that_fails_on_one_rank(rank: int, where: str, tmp_path: Path) -> None:
    """The array does not appear, unless it has appeared when a function of the result fails."""

    def job(ranks: ThreadRanks) -> Any:
        def fail(here: str, value: Any) -> Any:
            if here == where and ranks.rank == rank:
                raise BrokenError
            return value

        @dataclass(frozen=True)
        class Items:
            def __iter__(self) -> Iterator[int]:
                for number in range(16):
                    yield fail("item", number) if number == 9 else number

        class Failing(IdentityConverter):
            def to_numpy(self, x: Any, /) -> Any:
                return fail("converter", x)

        def step(state: int, block: Array) -> int:
            return state + len(block)

        def merge(state: int, other: int) -> Any:
            return fail("fold", state + other)

        fn = partial(fail_at, 99, 9, ranks)
        sink: Any = zarr_sink(tmp_path / "array", Failing(), chunks="blocks")
        height = any_fold(step, 0, partial(fail, "finish"), merge=merge)
        folded = any_tee(sink.then(partial(fail, "after")), height).then(partial(fail, "result"))
        return LazyChunkSequence.from_map(fn, Items()).compute(folded, ranks=ranks)

    check_told(run_ranks(3, job), rank)
    expected = ["array"] if where in ("after", "result") else []
    assert list_names(tmp_path) == expected


def kill_at(exchange: int, rank: int, job: Callable[[ThreadRanks], Any]) -> Any:
    def killed(ranks: ThreadRanks) -> Any:
        return job(replace(ranks, fails_at=exchange if ranks.rank == rank else None))

    return killed


@settings(max_examples=25)
@given(st.integers(2, 3), st.integers(0, 2), st.integers(1, 24), st.integers(1, 4))
def test_a_rank_that_is_killed_at_any_exchange(
    size: int, rank: int, exchange: int, again: int
) -> None:
    """The others end, and another number of ranks goes on."""

    def job(ranks: ThreadRanks, folder: str) -> Any:
        sink = zarr_sink(f"{folder}/a", CONVERTER, chunks="blocks", run_id="it", resume=True)
        array, sums = FLAT.sequence.compute(tee(sink, total()), ranks=ranks)
        return bits(read(array)), bits(sums)

    expected = bits(joined(FLAT)), bits(FLAT.sequence.compute(total()))
    with TemporaryDirectory() as folder:
        found = run_ranks(size, kill_at(exchange, rank, partial(job, folder=folder)))
        if isinstance(found[rank % size], Killed):
            assert all(isinstance(one, Killed | RankFailedError) for one in found)
        elif rank < size:
            assert list(found) == [expected] * size
        assert results(again, partial(job, folder=folder)) == [expected] * again


# Calls that differ are told before any work.


def compute_nothing(*_: object) -> Any:
    raise AssertionError("this is before any work")


def sequence_of(items: Any) -> Any:
    return LazyChunkSequence.from_map(compute_nothing, items)


@pytest.mark.parametrize(
    ("one", "other", "what"),
    [
        ({"items": range(4)}, {"items": range(5)}, "blocks"),
        ({"items": [1, 2]}, {"items": [2, 1]}, "items[0]"),
        ({"items": list(range(200))}, {"items": [*range(199), 5]}, "items"),
        ({"fn": compute_nothing}, {"fn": abs}, "fn"),
        ({"run_id": "a"}, {"run_id": "b"}, "run_id"),
        ({"resume": False}, {"resume": True}, "resume"),
        ({"chunks": 3}, {"chunks": (3, 2)}, "chunks"),
        ({"overwrite": True}, {}, "overwrite"),
        ({"path": "a"}, {"path": "b"}, "destination"),
        ({"attributes": {"unit": "m"}}, {"attributes": {"unit": "km"}}, "unit"),
        ({"compute": total()}, {"compute": total(None)}, "axis"),
        ({"compute": total()}, {"compute": concatenate()}, "aggregator"),
        ({"compute": list}, {"compute": max}, "aggregator"),
        ({"compute": total()}, {}, "aggregator"),
        ({"nested": True}, {}, "kind"),
        ({"compute": total(), "in_flight": 2}, {"compute": total()}, "max_in_flight"),
    ],
)
def test_another_call_is_told_before_any_work(
    one: dict[str, Any], other: dict[str, Any], what: str, tmp_path: Path
) -> None:
    def job(ranks: ThreadRanks) -> Any:
        call: dict[str, Any] = {
            "run_id": "it",
            "items": range(4),
            **(one if ranks.rank != 1 else other),
        }
        fn, items = call.pop("fn", compute_nothing), call.pop("items")
        sequence: Any = LazyChunkSequence.from_map(fn, items)
        if call.pop("nested", False):
            sequence = NestedLazyChunkSequence.from_product(fn, items, items)
        if "compute" in call:
            in_flight = call.get("in_flight")
            return sequence.compute(call["compute"], ranks=ranks, max_in_flight=in_flight)
        return sequence.to_zarr(tmp_path / call.pop("path", "a"), CONVERTER, ranks=ranks, **call)

    for error in run_ranks(3, job):
        assert isinstance(error, RanksDifferError)
        assert "rank 1" in str(error)
        assert what in str(error)
    assert list(tmp_path.iterdir()) == []


@dataclass(frozen=True)
class Lazy:
    """Items that cannot be told from others before they are there."""

    count: int

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.count))


@pytest.mark.parametrize("counts", [(9, 10), (10, 9), (0, 3), (3, 0), (40, 80)])
def test_other_blocks_are_told_when_they_come(counts: tuple[int, int], tmp_path: Path) -> None:
    make = replace(FLAT, rows=(3,) * 80)

    def job(ranks: ThreadRanks) -> Any:
        sequence = LazyChunkSequence.from_map(make, Lazy(counts[ranks.rank]))
        sink = zarr_sink(tmp_path / "a", CONVERTER, chunks="blocks")
        return sequence.compute(tee(sink, total()), ranks=ranks)

    found = run_ranks(2, job)
    assert any(isinstance(one, RanksDifferError | RankFailedError) for one in found)
    assert all(isinstance(one, Exception) for one in found)
    assert list_names(tmp_path) == []


def test_another_run_is_told_to_all(tmp_path: Path) -> None:
    options: Any = {"chunks": "blocks", "resume": True}
    FLAT.sequence.to_zarr(tmp_path / "a", CONVERTER, run_id="one", **options)

    def job(ranks: ThreadRanks, run_id: str, make: Make) -> Any:
        return make.sequence.to_zarr(
            tmp_path / "a", CONVERTER, ranks=ranks, run_id=run_id, **options
        )

    for run_id, make, kind in (
        ("two", FLAT, DestinationExistsError),
        ("one", NESTED, ResumeMismatchError),
    ):
        found = run_ranks(2, partial(job, run_id=run_id, make=make))
        assert [type(error) for error in found] == [kind] * 2


# What is refused


def test_ranks_and_an_executor_exclude_each_other() -> None:
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1) as executor:
        ranks = ThreadRanks(Group(1), 0)
        with pytest.raises(TypeError, match="exclude each other"):
            FLAT.sequence.compute(total(), executor=executor, ranks=ranks)
        with pytest.raises(TypeError, match="exclude each other"):
            FLAT.sequence.to_zarr({}, CONVERTER, executor=executor, ranks=ranks)


@dataclass(frozen=True)
class NotRanks:
    rank: Any = 0
    size: Any = 1

    def all_gather(self, value: Any, /) -> list[Any]:
        return [value]


@pytest.mark.parametrize(
    ("ranks", "kind"),
    [
        (3, TypeError),
        (NotRanks(rank="0"), TypeError),
        (NotRanks(rank=1), ValueError),
        (NotRanks(rank=-1), ValueError),
        (NotRanks(size=0), ValueError),
        (NotRanks(size=2), RankFailedError),
    ],
)
def test_what_is_no_ranks_is_refused(ranks: Any, kind: type[Exception]) -> None:
    with pytest.raises(kind, match="rank"):
        FLAT.sequence.compute(total(), ranks=ranks)


def test_a_place_that_other_processes_do_not_see_is_refused() -> None:
    for error in run_ranks(2, lambda ranks: FLAT.sequence.to_zarr({}, CONVERTER, ranks=ranks)):
        assert isinstance(error, NotSpreadableError)
        assert "other ranks do not see" in str(error)


def test_blocks_that_cannot_be_skipped_are_refused() -> None:
    sequence = LazyChunkSequence(lambda: iter(FLAT.sequence))

    def job(ranks: ThreadRanks, aggregator: Any) -> Any:
        return sequence.compute(aggregator, ranks=ranks)

    for aggregator in (total(), list):
        for error in run_ranks(2, partial(job, aggregator=aggregator)):
            assert isinstance(error, NotSpreadableError)
            assert "from_map" in str(error)


def test_a_sink_inside_of_nest_is_refused(tmp_path: Path) -> None:
    sink = zarr_sink(tmp_path / "a", CONVERTER)
    for error in run_ranks(
        2, lambda ranks: NESTED.sequence.compute(nest(total(1), sink), ranks=ranks)
    ):
        assert isinstance(error, NotSpreadableError)
        assert "nest" in str(error)
    assert list(tmp_path.iterdir()) == []


def test_an_option_that_only_one_rank_has_wrong_is_told(tmp_path: Path) -> None:
    found = run_ranks(
        2,
        lambda ranks: FLAT.sequence.to_zarr(
            tmp_path / "a", CONVERTER, ranks=ranks, chunks=-2 if ranks.rank else 3
        ),
    )
    assert isinstance(found[0], RankFailedError)
    assert isinstance(found[1], ValueError)


@dataclass(frozen=True)
class Unsendable:
    """A state that cannot be pickled."""

    count: int

    def __reduce__(self) -> Any:
        raise TypeError("no way")


def test_a_state_that_cannot_be_sent_is_told() -> None:
    def merge(state: Any, _: object) -> Any:
        return state

    def step(_: object, block: Array) -> Unsendable:
        return Unsendable(len(block))

    counting = any_fold(step, None, merge=merge)
    for error in run_ranks(2, lambda ranks: FLAT.sequence.compute(counting, ranks=ranks)):
        assert isinstance(error, NotSpreadableError)
        assert "a state of the fold" in str(error)


# Going on


@pytest.mark.parametrize("make", [FLAT, NESTED], ids=["flat", "nested"])
def test_a_finished_run_is_not_computed_again(make: Make, tmp_path: Path) -> None:
    noted: list[Any] = []

    def job(ranks: ThreadRanks) -> Any:
        return Telling(make, ranks.rank, noted).sequence.to_zarr(
            tmp_path / "a", CONVERTER, True, ranks=ranks, run_id="it", resume=True
        )

    for size in (2, 3, 1):
        for array in results(size, job):
            assert bits(read(array)) == bits(joined(make))
    assert len(noted) == len(make.rows) * len(make.columns or (0,)) + 1
    assert status(tmp_path / "a").state == "complete"


# Writing in the background


def test_a_chunk_is_written_while_the_next_part_is_computed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first write ends only when the second block has been computed."""
    make = replace(FLAT, rows=(3,) * 6)
    computed, written = threading.Event(), list[int]()
    write = Units.write

    def wait(self: Units, filled: Filled) -> None:
        number = filled.region[0].start // 3
        if number == 1:
            assert computed.wait(TIMEOUT)
        write(self, filled)
        written.append(number)

    def compute(number: int) -> Any:
        if number == 2:
            assert written == [0]
            computed.set()
        return make(number)

    monkeypatch.setattr(Units, "write", wait)
    sequence = LazyChunkSequence.from_map(compute, range(6))
    (array,) = results(
        1, lambda ranks: sequence.to_zarr(tmp_path / "a", CONVERTER, True, ranks=ranks, chunks=3)
    )
    assert bits(read(array)) == bits(joined(make))


@pytest.mark.parametrize("fails", [1, 3, 5])
def test_a_write_that_fails_in_the_background_is_told(
    fails: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = replace(FLAT, rows=(3,) * 6)
    write = Units.write

    def fail(self: Units, filled: Filled) -> None:
        if filled.region[0].start // 3 == fails:
            raise OSError("no space")
        write(self, filled)

    monkeypatch.setattr(Units, "write", fail)
    for size in (1, 2, 3):
        found = run_ranks(
            size,
            lambda ranks: make.sequence.to_zarr(tmp_path / "a", CONVERTER, ranks=ranks, chunks=3),
        )
        kinds = Counter(map(type, found))
        assert kinds[WriteAbortedError] == 1
        assert kinds[RankFailedError] == size - 1
        assert list_names(tmp_path) == []
        assert not [thread for thread in threading.enumerate() if "lazychunks" in thread.name]
