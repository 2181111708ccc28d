"""Passes: who computes the blocks, and in how many tasks, does not show in any result."""

# pyright: reportUnknownMemberType=false
# torch types some of its functions partially.

from __future__ import annotations

import operator
import os
import pickle
import signal
import threading
import tracemalloc
import weakref
from collections import Counter
from collections.abc import Callable, Container, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lazychunks import (
    BlockError,
    EmptySequenceError,
    Fold,
    LazyChunkSequence,
    LengthHintWarning,
    NestedFold,
    NestedLazyChunkSequence,
    NotSpreadableError,
    SourceTypeError,
    concatenate,
    count,
    first,
    fold,
    last,
    maximum,
    mean,
    minimum,
    moments,
    nest,
    norm,
    tee,
    top_k,
    total,
)
from lazychunks.folds import Counts, Pass
from lazychunks.runs import drive, runners
from lazychunks.testing.parts import cut_blocks, run_part
from lazychunks.testing.values import Layout, any_bits, laid_out
from tests.executors import Shuffling, cluster, processes, reused, spawned
from tests.strategies import DTYPES, Array, bits, layouts, partitions, seeds

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")

Aggregator = Callable[[Any], Any]

any_tee: Any = tee
any_fold: Any = fold
any_nest: Any = nest

TIMEOUT = 60
"""Seconds after which an event that does not come is a failure."""

MOST: int = settings().max_examples
"""Number of examples of a property."""


# Blocks that each process makes for itself, in any memory layout: none of them is an item.


@dataclass(frozen=True)
class Make:
    """Computes a block from its number."""

    rows: tuple[int, ...]
    columns: tuple[int, ...] | None
    trailing: tuple[int, ...]
    dtype: str
    seed: int
    layout: Layout
    library: str = "numpy"

    def __call__(self, row: int, column: int | None = None) -> Any:
        sizes: tuple[int, ...] = (self.rows[row],)
        if column is not None and self.columns is not None:
            sizes = (self.rows[row], self.columns[column])
        shape, seed = (*sizes, *self.trailing), self.seed + 31 * row + 7 * (column or 0)
        block = numbers_or_bits(shape, np.dtype(self.dtype), seed, self.layout)
        if self.library == "numpy":
            return block
        import torch

        return torch.from_numpy(np.ascontiguousarray(block)).to(getattr(torch, self.library))

    @property
    def sequence(self) -> Any:
        """The sequence of all blocks."""
        if self.columns is None:
            return LazyChunkSequence.from_map(self, range(len(self.rows)))
        return NestedLazyChunkSequence.from_product(
            self, range(len(self.rows)), range(len(self.columns))
        )


def numbers_or_bits(
    shape: tuple[int, ...], dtype: np.dtype[Any], seed: int, layout: Layout
) -> Array:
    """Make numbers whose sums are rounded, with now and then any bits among them."""
    if seed % 3 == 0 or dtype.kind not in "fc":
        return any_bits(shape, dtype, seed, layout)
    random = np.random.default_rng(seed)
    drawn: Any = random.standard_normal(shape) * 10.0 ** random.integers(-3, 4)
    if dtype.kind == "c":
        drawn = drawn + 1j * random.standard_normal(shape)
    return laid_out(np.asarray(drawn).astype(dtype), layout)


# Folds of the library and of users, by name.


def height(rows: int, block: Array) -> int:
    return rows + len(block)


def shapes(found: tuple[Any, ...], block: Array) -> tuple[Any, ...]:
    return (*found, block.shape)


def append_shape(found: list[Any], block: Array) -> list[Any]:
    found.append(block.shape)
    return found


def extended(one: list[Any], other: list[Any]) -> list[Any]:
    one.extend(other)
    return one


def negated(block: Any) -> Any:
    return ~block if block.dtype.kind == "b" else -block


def absolute(block: Any) -> Any:
    return abs(block)


def as_list(result: Any) -> list[Any]:
    return [result]


no_shapes: tuple[Any, ...] = ()
NO_SHAPES: list[Any] = []

USERS: dict[str, Aggregator] = {
    "height, merged": fold(height, 0, merge=operator.add),
    "height": fold(height, 0),
    "shapes, merged": fold(shapes, no_shapes, merge=operator.add),
    "shapes": fold(shapes, no_shapes, as_list),
    "a state that changes": fold(append_shape, NO_SHAPES, merge=extended),
    "a state that changes, not merged": fold(append_shape, NO_SHAPES),
}


def reductions(axis: int | None, along: int | None, *, is_complex: bool) -> dict[str, Any]:
    """Every fold of the library that takes an axis."""
    folds: dict[str, Any] = {
        f.__name__: f(axis, along) for f in (total, mean, moments, norm, count)
    }
    if not is_complex:
        folds |= {"minimum": minimum(axis, along), "maximum": maximum(axis, along)}
        if axis is not None:
            folds |= {"top_k": top_k(2, axis, along), "least": top_k(3, axis, largest=False)}
    return folds


def flat_folds(ndim: int, *, is_complex: bool) -> dict[str, Any]:
    """Every fold over blocks."""
    folds: dict[str, Any] = {"first": first(), "last": last(), **USERS}
    for axis in (*range(ndim), -1, None):
        for along in (None, *range(ndim)):
            found = reductions(axis, along, is_complex=is_complex)
            folds |= {f"{name}({axis}, {along})": f for name, f in found.items()}
    folds |= {f"concatenate({axis})": concatenate(axis) for axis in range(ndim)}
    folds["then"] = total(0).then(as_list)
    folds["contramap"] = mean(0).contramap(negated)
    folds["contramap of what does not merge"] = concatenate(0).contramap(negated).then(as_list)
    return folds


def nested_folds(ndim: int, *, is_complex: bool) -> dict[str, Any]:
    """Many folds over rows of blocks."""
    inner = reductions(1, None, is_complex=is_complex) | {"first": first(), "last": last()}
    pairs: dict[str, Any] = dict.fromkeys(inner, concatenate(0))
    pairs["count"] = any_fold(max, 0)
    folds: dict[str, Any] = {
        f"nest({name}, joined)": nest(inner[name], pairs[name]) for name in inner
    }
    joined = concatenate(1)
    for name, outer in reductions(0, None, is_complex=is_complex).items():
        folds[f"nest(joined, {name})"] = nest(joined, outer)
        folds[f"nest(total, {name})"] = nest(total(1), reductions(0, None, is_complex=False)[name])
    folds["nest(tee, ...)"] = nest(tee(total(1), joined, count(1)), concatenate(0))
    folds["nest(mapped, mapped)"] = nest(
        norm(1).contramap(negated).then(np.atleast_1d), concatenate(0).then(as_list)
    )
    for name, user in USERS.items():
        folds[f"nest({name}, a list)"] = nest(user, fold(append_shapes_of_rows, NO_SHAPES))
    return folds


def shape_lists(rows: list[Any], row: Any) -> list[Any]:
    return [*rows, row]


def append_shapes_of_rows(rows: list[Any], row: Any) -> list[Any]:
    return [*rows, row]


def outcome(run: Callable[[], Any]) -> object:
    """What comes out, bit by bit: a result or the kind of an error."""
    try:
        return bits(run())
    except Exception as error:  # noqa: BLE001  # compared, and so told
        return type(error)


@contextmanager
def tasks_of(blocks: int) -> Generator[None]:
    """Give each task so many blocks."""

    def blocks_each(*_: object) -> int:
        return blocks

    with patch.object(drive, "blocks_each", blocks_each):
        yield


dtypes = st.sampled_from(DTYPES)


@st.composite
def flat_blocks(draw: st.DrawFn) -> Make:
    trailing = draw(st.lists(st.integers(0, 3), max_size=2))
    # Up to three runs of 32, so that the tree of merges has all of its levels.
    rows = draw(partitions(6, 5) | st.integers(1, 70).map(lambda n: (2, 1) * n))
    return Make(rows, None, tuple(trailing), draw(dtypes), draw(seeds), draw(layouts))


@st.composite
def nested_blocks(draw: st.DrawFn) -> Make:
    trailing = draw(st.lists(st.integers(0, 3), max_size=1))
    rows, columns = draw(partitions(5, 4)), draw(partitions(5, 4) | st.just((1,) * 40))
    return Make(rows, columns, tuple(trailing), draw(dtypes), draw(seeds), draw(layouts))


def draw_folds(data: st.DataObject, make: Make) -> Aggregator:
    """Draw one fold, a tee of some, or a mapping of them with tees among them."""
    ndim = len(make.trailing) + (1 if make.columns is None else 2)
    folds = (flat_folds if make.columns is None else nested_folds)(
        ndim, is_complex="c" in make.dtype
    )
    names = data.draw(st.lists(st.sampled_from(sorted(folds)), min_size=1, max_size=4))
    chosen: list[Any] = [folds[name] for name in names]
    match data.draw(st.sampled_from(["one", "tuple", "names", "tee of tees"])):
        case "one":
            drawn = chosen[0]
        case "tuple":
            drawn = any_tee(*chosen)
        case "names":
            drawn = any_tee(dict(zip(names, chosen, strict=True)))
        case _:
            drawn = any_tee(any_tee(*chosen), any_tee({"again": chosen[0]}), chosen[-1])
    aggregator: Aggregator = drawn
    return aggregator


# Law R


@given(flat_blocks() | nested_blocks(), st.data())
@settings(max_examples=3 * MOST)
def test_who_computes_the_blocks_does_not_show(make: Make, data: st.DataObject) -> None:
    folded = draw_folds(data, make)
    expected = outcome(lambda: make.sequence.compute(folded))
    bound = data.draw(st.none() | st.integers(1, 9), "max_in_flight")
    with tasks_of(data.draw(st.integers(1, 40), "blocks")), Shuffling(data.draw(seeds)) as executor:
        found = outcome(
            lambda: make.sequence.compute(folded, executor=executor, max_in_flight=bound)
        )
    assert found == expected


def all_folds(make: Make) -> Aggregator:
    """Every fold that has a result for these blocks, in one tee."""
    ndim = len(make.trailing) + (1 if make.columns is None else 2)
    make_folds = flat_folds if make.columns is None else nested_folds
    folds = make_folds(ndim, is_complex="c" in make.dtype)
    right = {
        name: one
        for name, one in folds.items()
        if not isinstance(outcome(partial(make.sequence.compute, one)), type)
    }
    aggregator: Aggregator = any_tee(right)
    return aggregator


def pools() -> list[Any]:
    """Executors to be started: some of threads, some of processes, a cluster."""
    return [
        pytest.param(Shuffling, id="shuffling"),
        pytest.param(partial(ThreadPoolExecutor, 3), id="threads"),
        pytest.param(processes, id="processes"),
        pytest.param(spawned, id="spawned", marks=pytest.mark.slow),
        pytest.param(reused, id="loky", marks=pytest.mark.slow),
        pytest.param(cluster, id="dask", marks=pytest.mark.slow),
    ]


FLAT = Make((3, 0, 2, 3, 1) * 8, None, (2, 3), "<f4", 3, "F")
NESTED = Make((3, 0, 2), (2, 0, 3, 1, 1) * 7, (2,), "<f8", 1, "strided")
COMPLEX = Make((2, 3) * 20, None, (2,), ">c16", 5, "reversed")


@pytest.mark.parametrize("start", pools())
@pytest.mark.parametrize("make", [FLAT, NESTED, COMPLEX], ids=["flat", "nested", "complex"])
def test_every_fold_has_the_same_bits_from_workers(make: Make, start: Callable[[], Any]) -> None:
    folded = all_folds(make)
    expected: Any = make.sequence.compute(folded)
    assert len(expected) > 20
    with start() as executor:
        found: Any = make.sequence.compute(folded, executor=executor)
    for name, result in expected.items():
        assert bits(found[name]) == bits(result), name


@pytest.mark.skipif(find_spec("torch") is None, reason="torch is not installed")
@pytest.mark.parametrize(
    "start",
    [
        Shuffling,
        partial(ThreadPoolExecutor, 3),
        pytest.param(spawned, marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize(
    "kind",
    ["bfloat16", *(pytest.param(k, marks=pytest.mark.slow) for k in ("float32", "int64", "bool"))],
)
@pytest.mark.parametrize("make", [FLAT, NESTED], ids=["flat", "nested"])
def test_every_fold_of_tensors_has_the_same_bits(
    make: Make, kind: str, start: Callable[[], Any]
) -> None:
    dtype = {"int64": "<i8", "bool": "?"}.get(kind, "<f4")
    make = replace(make, library=kind, dtype=dtype)
    folded = all_folds(make)
    expected: Any = make.sequence.compute(folded)
    assert len(expected) > 20
    with start() as executor:
        found: Any = make.sequence.compute(folded, executor=executor)
    for name, result in expected.items():
        assert bits(found[name]) == bits(result), name


def test_threads_that_use_their_memory_again_change_no_state() -> None:
    """As a producer does that writes each block to the same buffer; here, one for each thread."""
    local = threading.local()

    def reusing(make: Make, *index: int) -> Array:
        block = make(*index)
        if not hasattr(local, "room"):
            local.room = np.empty((4, 64), block.dtype)
        room: Array = local.room[: len(block), : block[0].size if len(block) else 0]
        room = room.reshape(-1)[: block.size].reshape(block.shape)
        output: Array = np.frombuffer(local.room.data, block.dtype, block.size)
        del room
        output = output.reshape(block.shape)
        output[...] = block
        return output

    for make in (FLAT, NESTED):
        folded = all_folds(make)
        expected: Any = make.sequence.compute(folded)
        sequence: Any = LazyChunkSequence.from_map(partial(reusing, make), range(len(make.rows)))
        if make.columns is not None:
            sequence = NestedLazyChunkSequence.from_product(
                partial(reusing, make), range(len(make.rows)), range(len(make.columns))
            )
        with ThreadPoolExecutor(3) as executor:
            found: Any = sequence.compute(folded, executor=executor)
        for name, result in expected.items():
            assert bits(found[name]) == bits(result), name


def test_a_fold_over_blocks_takes_rows_for_blocks_here_and_there() -> None:
    rows: Any = fold(count_rows, 0, merge=operator.add)
    sums: Any = nest(total(1), concatenate())
    with ThreadPoolExecutor(2) as executor:
        assert NESTED.sequence.compute(rows) == len(NESTED.rows)
        assert NESTED.sequence.compute(rows, executor=executor) == len(NESTED.rows)
        for chosen in (None, executor):
            with pytest.raises(SourceTypeError, match="whose rows would be taken for blocks"):
                FLAT.sequence.compute(sums, executor=chosen)


def count_rows(rows: int, _: object) -> int:
    return rows + 1


@dataclass
class Uneven:
    """Columns of which each row gets another number."""

    lengths: Sequence[int]
    rows: int = 0

    def __iter__(self) -> Iterator[int]:
        length = self.lengths[self.rows % len(self.lengths)]
        self.rows += 1
        return iter(range(length))


@given(st.lists(st.integers(0, 5), max_size=7), st.integers(1, 9), seeds)
def test_rows_may_be_empty_and_of_any_length_where_nothing_is_stored(
    lengths: list[int], blocks: int, seed: int
) -> None:
    """Each row is folded by itself."""
    make = Make((2,) * 9, (1,) * 9, (), "<f8", seed, "C")
    counted = nest(fold(height, 0, merge=operator.add), fold(append_shapes_of_rows, NO_SHAPES))
    sums = nest(total(1).then(np.atleast_1d), fold(append_shapes_of_rows, NO_SHAPES))
    both = any_tee(counted, nest(fold(height, 0), any_fold(count_rows, 0)))

    def run(folded: Any, **options: Any) -> object:
        columns = Uneven(lengths or [0])
        sequence = NestedLazyChunkSequence.from_product(make, range(len(lengths)), columns)
        return outcome(partial(sequence.compute, folded, **options))

    for folded in (counted, sums, both):
        with tasks_of(blocks), Shuffling(seed) as executor:
            assert run(folded, executor=executor) == run(folded)


def test_no_block_at_all() -> None:
    flat: Any = LazyChunkSequence.from_map(np.ones, [])
    nested: Any = NestedLazyChunkSequence.from_product(np.add.outer, [], [1])
    lists = fold(append_shape, NO_SHAPES, merge=extended)
    with ThreadPoolExecutor(1) as executor:
        assert flat.compute(tee(lists, lists), executor=executor) == ([], [])
        assert nested.compute(any_nest(lists, lists), executor=executor) == []
        for sequence, folded in ((flat, total()), (nested, nest(total(1), total()))):
            with pytest.raises(EmptySequenceError):
                sequence.compute(folded, executor=executor)


@dataclass(frozen=True)
class Odd:
    """Makes blocks of which one does not fit the others."""

    at: int
    dtype: str
    width: int

    def __call__(self, number: int) -> Array:
        if number == self.at:
            return np.ones((2, self.width), self.dtype)
        return np.ones((2, 3))


@pytest.mark.parametrize("size", [1, 2, 7])
@pytest.mark.parametrize(("dtype", "width"), [("f4", 3), ("f8", 4)])
@pytest.mark.parametrize("name", ["total", "norm", "top_k", "count", "tee", "along"])
def test_a_block_that_does_not_fit_is_an_error_wherever_it_is(
    name: str, dtype: str, width: int, size: int
) -> None:
    """Also the first one of its task, which the worker cannot compare with those before it."""
    folded: Any = {**REDUCTIONS, "along": total(1, along=0)}[name]
    for at in range(1, 6):
        sequence = LazyChunkSequence.from_map(Odd(at, dtype, width), range(6))
        expected: Any = outcome(partial(sequence.compute, folded))
        assert isinstance(expected, type)
        with tasks_of(size), Shuffling(at) as executor, pytest.raises(BlockError) as caught:
            sequence.compute(folded, executor=executor)
        assert type(caught.value) is expected
        if size == 1:
            assert caught.value.block == at


# What travels


def state_bytes(folded: Any, blocks: Sequence[Array], size: int) -> list[int]:
    """Bytes of the states of parts of so many blocks."""
    running = folded.start((len(blocks),))
    parts = cut_blocks(blocks, range(0, len(blocks), size))
    return [len(pickle.dumps(run_part(folded.for_parts(running), part))) for part in parts]


REDUCTIONS: dict[str, Any] = {
    name: reductions(0, None, is_complex=False)[name]
    for name in ("total", "mean", "moments", "norm", "count", "minimum", "maximum")
}
REDUCTIONS.update(
    {
        "top_k": top_k(3),
        "tee": tee(total(), tee({"top": top_k(3)})),
        "then": total().then(as_list),
        "contramap": total().contramap(negated),
    }
)


@pytest.mark.parametrize("name", REDUCTIONS)
def test_only_states_travel_however_large_the_blocks_are(name: str) -> None:
    sizes: list[list[int]] = []
    for rows in (10, 10_000):
        make = Make((rows,) * 12, None, (2,), "<f8", 1, "C")
        with tasks_of(3), Shuffling() as executor:
            make.sequence.compute(REDUCTIONS[name], executor=executor)
        assert len(executor.sizes) == 4
        blocks = [make(row) for row in range(12)]
        assert sum(executor.sizes) <= sum(state_bytes(REDUCTIONS[name], blocks, 3))
        sizes.append(executor.sizes)
    assert max(sizes[1]) < max(sizes[0]) + 100
    assert max(sizes[1]) < 3_000


@dataclass(frozen=True)
class Noted:
    """Computes a block, and notes in a file that it has, whichever process it is in."""

    path: Path
    make: Make

    def __call__(self, *index: int) -> Any:
        handle = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(handle, f"{index}\n".encode())
        os.close(handle)
        return self.make(*index)

    def sequence(self) -> Any:
        rows = range(len(self.make.rows))
        if self.make.columns is None:
            return LazyChunkSequence.from_map(self, rows)
        return NestedLazyChunkSequence.from_product(self, rows, range(len(self.make.columns)))


def plainly(blocks: Any) -> object:
    """Aggregate as anybody may."""
    return [[*row] if hasattr(row, "__next__") else row for row in blocks]


NOT_MERGED: dict[str, tuple[Any, Any]] = {
    "nothing": (None, None),
    "a function": (plainly, plainly),
    "a fold": (concatenate(), nest(concatenate(1), concatenate(0))),
    "a fold beside one that merges": (
        tee(total(), fold(shapes, no_shapes)),
        tee(nest(total(1), total()), nest(fold(shapes, no_shapes), fold(shape_lists, NO_SHAPES))),
    ),
}


@pytest.mark.parametrize("start", [Shuffling, processes, partial(ThreadPoolExecutor, 2)])
@pytest.mark.parametrize("name", NOT_MERGED)
@pytest.mark.parametrize("make", [FLAT, NESTED], ids=["flat", "nested"])
def test_what_does_not_merge_gets_the_blocks_in_order_and_each_is_computed_once(
    make: Make, name: str, start: Callable[[], Any], tmp_path: Path
) -> None:
    aggregator = NOT_MERGED[name][make.columns is not None]
    expected = bits(make.sequence.compute(aggregator))
    noted = Noted(tmp_path / "computed", make)
    with start() as executor:
        assert bits(noted.sequence().compute(aggregator, executor=executor)) == expected
    lines = Counter(noted.path.read_text().splitlines())
    assert len(lines) == len(make.rows) * len(make.columns or (0,))
    assert set(lines.values()) == {1}


def test_the_function_of_the_blocks_is_sent_once_whatever_gets_them(tmp_path: Path) -> None:
    for number, aggregator in enumerate((None, concatenate(), total())):
        counted = Unpickled(tmp_path / str(number))
        with processes(1) as executor:
            LazyChunkSequence.from_map(counted, range(20)).compute(aggregator, executor=executor)
        assert counted.path.read_text() == "."


@dataclass(frozen=True)
class Unpickled:
    """Computes a block, and notes how often it was unpickled."""

    path: Path

    def __call__(self, number: int) -> Array:
        return np.full(3, number)

    def __reduce__(self) -> tuple[Any, ...]:
        return (_unpickle, (self.path,))


def _unpickle(path: Path) -> Unpickled:
    with path.open("a") as file:
        file.write(".")
    return Unpickled(path)


@pytest.mark.parametrize("bound", [1, 3])
@pytest.mark.parametrize("aggregator", [total(), concatenate(), list])
def test_so_many_tasks_are_under_way_and_no_more(aggregator: Any, bound: int) -> None:
    with Shuffling() as executor:
        FLAT.sequence.compute(aggregator, executor=executor, max_in_flight=bound)
    assert executor.most == bound


# Memory


class Watched:
    """Makes blocks, and counts how many of those before are alive when one is made."""

    def __init__(self) -> None:
        self._references: list[weakref.ref[Array]] = []
        self.most = 0

    def __call__(self, *_: int) -> Array:
        alive = sum(reference() is not None for reference in self._references)
        self.most = max(self.most, alive)
        block = np.ones((2, 3))
        self._references.append(weakref.ref(block))
        return block

    @property
    def sequences(self) -> list[tuple[Any, Any]]:
        """Sequences of blocks, and folds over them."""
        flat, nested = tee(total(), moments(None), top_k(2), count()), nest(total(1), total())
        return [
            (LazyChunkSequence.from_map(self, range(9)), flat),
            (LazyChunkSequence(lambda: (self() for _ in range(9))), flat),
            (NestedLazyChunkSequence.from_product(self, range(3), range(4)), nested),
            (NestedLazyChunkSequence(lambda: ((self() for _ in range(3)) for _ in "ab")), nested),
        ]


@pytest.mark.parametrize(
    ("number", "elsewhere"), [(0, False), (1, False), (2, False), (3, False), (0, True), (2, True)]
)
def test_no_block_is_alive_while_the_next_one_is_computed(number: int, elsewhere: bool) -> None:
    watched = Watched()
    sequence, folded = watched.sequences[number]
    with ThreadPoolExecutor(1) as executor:
        sequence.compute(folded, executor=executor if elsewhere else None)
    assert watched.most == 0


def test_a_serial_pass_holds_a_few_states() -> None:
    """However many blocks there are: some five values of 80 kB in a tree, and one block."""
    peaks: list[int] = []
    for number in (64, 1024):
        sequence = LazyChunkSequence.from_map(partial(np.full, (2, 10_000)), range(number))
        tracemalloc.start()
        sequence.compute(total())
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 50_000
    assert peaks[1] < 20 * 80_000


class OneSlow(Executor):
    """Runs each task as soon as it is given, but for the first part: only if all wait for that."""

    _max_workers = 2

    def __init__(self) -> None:
        self._held: Callable[[], None] | None = None
        self.ran = 0
        self.ran_before_the_first = 0

    def submit(self, fn: Callable[..., Any], /, *args: Any, **_: Any) -> Future[Any]:
        future: Future[Any] = Future()

        def run() -> None:
            self.ran += 1
            future.set_result(fn(*args))

        if self.ran or self._held is not None:
            run()
        else:
            self._held = run
        return future

    def wait(self, futures: Any) -> set[Future[Any]]:
        """Do as ``wait_for_any``."""
        ended = {future for future in futures if future.done()}
        if not ended and self._held is not None:
            self.ran_before_the_first = self.ran
            self._held()
            self._held = None
            ended = {future for future in futures if future.done()}
        return ended


def test_states_that_wait_for_a_slow_part_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight for each worker, and those in flight, however many parts there are."""
    for folded in (total(), tee(total(), concatenate())):
        executor = OneSlow()
        monkeypatch.setattr(runners, "wait_for_any", executor.wait)
        make = Make((1,) * 500, None, (2,), "<f8", 1, "C")
        with tasks_of(1):
            found = make.sequence.compute(folded, executor=executor)
        assert bits(found) == bits(make.sequence.compute(folded))
        assert executor.ran == 500
        assert 16 <= executor.ran_before_the_first <= 16 + 1 + 4


def test_blocks_that_travel_come_one_by_one() -> None:
    """And not in the runs of a reduction, of which each would be held as a whole."""
    make = Make((1,) * 500, None, (2,), "<f8", 1, "C")
    with Shuffling() as executor:
        make.sequence.compute(tee(total(), concatenate()), executor=executor)
    assert len(executor.sizes) == 500
    with Shuffling() as executor:
        make.sequence.compute(tee(total(), mean()), executor=executor)
    assert len(executor.sizes) <= 500 / 32 + 1


# Folds of users


@dataclass(frozen=True)
class Sizes(Fold[Array, Path]):
    """Writes the size of each block to a file, as in the guide."""

    path: Path

    def start(self, counts: Counts, /) -> SizesPass:  # noqa: ARG002
        return SizesPass(self.path)


class SizesPass(Pass):
    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> Self:
        self._file = self._path.open("w")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
        /,
    ) -> None:
        self._file.close()
        if error is not None:
            self._path.unlink()

    def step(self, block: Array, /) -> None:
        print(block.size, file=self._file)

    def finish(self) -> Path:
        return self._path


@dataclass(frozen=True)
class Places(NestedFold[Array, list[Any]]):
    """Lists the shapes of the blocks, and where rows end; it cannot be pickled."""

    unpicklable: Callable[[], None] = field(default=lambda: None)

    def start_rows(self, counts: Counts, /) -> PlacesPass:
        return PlacesPass(counts)


class PlacesPass(Pass):
    __slots__ = ("_found",)

    def __init__(self, counts: Counts) -> None:
        self._found: list[Any] = [counts]

    def step(self, block: Array, /) -> None:
        self._found.append(block.shape)

    def end_row(self) -> None:
        self._found.append("end")

    def finish(self) -> list[Any]:
        return self._found


@pytest.mark.parametrize("start", [Shuffling, processes, partial(ThreadPoolExecutor, 2)])
def test_any_fold_of_a_users_own_works_with_workers(
    start: Callable[[], Any], tmp_path: Path
) -> None:
    path = tmp_path / "sizes"
    FLAT.sequence.compute(Sizes(path))
    expected = path.read_text()
    with start() as executor:
        for folded in (tee(Sizes(path), total()), Sizes(path), Sizes(path).then(str)):
            path.unlink()
            FLAT.sequence.compute(folded, executor=executor)
            assert path.read_text() == expected
        places = NESTED.sequence.compute(Places())
        assert places.count("end") == len(NESTED.rows)
        both = tee(Places(), nest(total(1), concatenate()))
        with tasks_of(7):
            assert NESTED.sequence.compute(both, executor=executor)[0] == places
        assert NESTED.sequence.compute(Places(), executor=executor) == places
        again = nest(Sizes(path).then(Path.read_text), fold(append_shapes_of_rows, NO_SHAPES))
        assert NESTED.sequence.compute(again, executor=executor) == NESTED.sequence.compute(again)


def test_a_fold_that_is_given_up_releases_what_it_holds(tmp_path: Path) -> None:
    path = tmp_path / "sizes"
    with Shuffling() as executor:
        for failing in (
            fold(fail, 0, merge=operator.add),
            fold(height, 0, fail, merge=operator.add),
            fold(height, 0, merge=fail),
            fold(fail, 0),
        ):
            with tasks_of(1), pytest.raises(ZeroDivisionError):
                FLAT.sequence.compute(tee(Sizes(path), total(), failing), executor=executor)
            assert not path.exists()


def fail(*_: object) -> Any:
    raise ZeroDivisionError


# Nothing is under way once it has failed


class Counting:
    """Computes blocks in two threads, and knows how many are being computed.

    Those that are slow go on when they may; the seventh ends once a slow one has begun.
    """

    def __init__(self, slow: Container[int]) -> None:
        self.under_way = self.made = 0
        self.began = threading.Event()
        self.go_on = threading.Event()
        self._slow = slow
        self._lock = threading.Lock()

    def __call__(self, number: int) -> Array:
        with self._lock:
            self.under_way += 1
            self.made += 1
        try:
            if number in self._slow:
                self.began.set()
                assert self.go_on.wait(TIMEOUT)
            elif number == 7 and 9 in self._slow:
                assert self.began.wait(TIMEOUT)
            return np.full(2, float(number))
        finally:
            with self._lock:
                self.under_way -= 1


def merge_badly(one: float, other: float) -> float:
    if other == 7:
        raise ZeroDivisionError
    return one + other


def first_entry(found: float, block: Array) -> float:
    return max(found, float(block[0]))


def refuse_seven(block: Array) -> Array:
    if block[0] == 7:
        raise ZeroDivisionError
    return block


def refuse_in_a_list(blocks: Iterable[Array]) -> list[Array]:
    return [refuse_seven(block) for block in blocks]


@pytest.mark.parametrize(
    "aggregator",
    [
        pytest.param(fold(first_entry, 0.0, merge=merge_badly), id="merge"),
        pytest.param(total().contramap(refuse_seven), id="worker"),
        pytest.param(tee(total(), fold(first_entry, 0.0).contramap(refuse_seven)), id="travels"),
        pytest.param(fold(first_entry, 0.0).contramap(refuse_seven), id="step"),
        pytest.param(refuse_in_a_list, id="function"),
    ],
)
def test_when_it_has_failed_nothing_is_under_way(aggregator: Any) -> None:
    blocks = Counting(slow=range(9, 40))
    ended = threading.Event()

    def release() -> None:
        """Let the slow block go on, once the pass has failed or can wait for it only."""
        assert blocks.began.wait(TIMEOUT)
        ended.wait(0.05)
        blocks.go_on.set()

    releasing = threading.Thread(target=release)
    releasing.start()
    with ThreadPoolExecutor(2) as executor:
        with tasks_of(1), pytest.raises(ZeroDivisionError) as caught:
            LazyChunkSequence.from_map(blocks, range(40)).compute(
                aggregator, executor=executor, max_in_flight=8
            )
        assert blocks.under_way == 0
        assert caught.traceback, "it keeps alive what would otherwise be collected"
        ended.set()
        made = blocks.made
    assert blocks.made == made, "a block has been computed afterwards"
    assert made <= 11, "what has not begun is canceled: two threads have begun two slow blocks"
    releasing.join()


@pytest.mark.usefixtures("ctrl_c_is_heard")
@pytest.mark.parametrize("aggregator", [total(), concatenate(), None, tee(total(), concatenate())])
def test_an_interrupt_waits_for_the_tasks_under_way(aggregator: Any) -> None:
    blocks = Counting(slow=range(9, 40))

    def interrupt() -> None:
        assert blocks.began.wait(TIMEOUT)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        threading.Timer(0.05, blocks.go_on.set).start()  # one that does not wait is over by then

    pressing = threading.Thread(target=interrupt)
    pressing.start()
    with ThreadPoolExecutor(2) as executor:
        with tasks_of(1), pytest.raises(KeyboardInterrupt):
            LazyChunkSequence.from_map(blocks, range(40)).compute(aggregator, executor=executor)
        assert blocks.under_way == 0
        made = blocks.made
    assert blocks.made == made, "a block has been computed afterwards"
    pressing.join()


@pytest.mark.parametrize("aggregator", [total(), tee(total(), concatenate())])
def test_items_end_when_it_fails(aggregator: Any) -> None:
    """A generator of items may hold files or processes; a traceback must not keep it alive."""
    ended: list[str] = []

    def items() -> Iterator[int]:
        try:
            yield from range(40)
        finally:
            ended.append("items")

    class Items:
        def __iter__(self) -> Iterator[int]:
            return items()

    with ThreadPoolExecutor(2) as executor:
        sequence = LazyChunkSequence.from_map(Counting(()), Items()).map(refuse_seven)
        with tasks_of(1), pytest.raises(ZeroDivisionError):
            sequence.compute(aggregator, executor=executor, progress=True)
    assert ended == ["items"]


# What cannot work is said before any work


class Untouchable(Executor):
    """An executor, of processes for all that is known, that must not get a task."""

    def submit(self, fn: Any, /, *_: Any, **__: Any) -> Any:
        raise AssertionError(fn)


@pytest.mark.parametrize("aggregator", [total(), concatenate(), None, tee(total(), concatenate())])
def test_what_cannot_be_sent_is_named(aggregator: Any) -> None:
    lock = threading.Lock()
    items: list[Any] = [lock, 2]
    with pytest.raises(NotSpreadableError, match=r"^the function that computes blocks cannot be"):
        LazyChunkSequence.from_map(np.ones, [1]).map(lambda block: -block).compute(
            aggregator, executor=Untouchable()
        )
    with pytest.raises(NotSpreadableError, match=r"^an item.* cannot be sent to other processes"):
        LazyChunkSequence.from_map(np.ones, items).compute(aggregator, executor=Untouchable())


def test_a_fold_that_cannot_be_sent_is_named() -> None:
    def inner(*found: Any) -> Any:
        return found[0]

    wrong: list[Any] = [any_fold(height, 0, merge=inner), total().contramap(inner)]
    for folded in (*wrong, tee(total(), wrong[0])):
        with pytest.raises(NotSpreadableError, match=r"^the fold.* cannot be sent"):
            LazyChunkSequence.from_map(np.ones, [1, 2]).compute(folded, executor=Untouchable())
    with Shuffling() as executor:  # these are called where the pass is
        sequence = LazyChunkSequence.from_map(np.ones, [1, 2])
        assert sequence.compute(total().then(inner), executor=executor) == 3
        assert sequence.compute(any_fold(height, 0, inner, merge=max), executor=executor) == 2


def test_a_later_item_that_cannot_be_sent_is_named_by_its_block() -> None:
    items: list[Any] = [1, 2, threading.Lock(), 3]
    sequence = LazyChunkSequence.from_map(np.ones, items)
    with (
        Shuffling() as executor,
        tasks_of(1),
        pytest.raises(NotSpreadableError, match="of block 2"),
    ):
        sequence.compute(total(), executor=executor)


@pytest.mark.parametrize("aggregator", [total(), concatenate(), None, tee(total(), concatenate())])
def test_what_cannot_skip_is_refused(aggregator: Any) -> None:
    flat: LazyChunkSequence[Array] = LazyChunkSequence(pytest.fail)
    nested: NestedLazyChunkSequence[Array] = NestedLazyChunkSequence(pytest.fail)
    for sequence, way_out in ((flat, "from_map"), (nested, "from_product")):
        chosen: Any = aggregator
        with pytest.raises(NotSpreadableError, match=way_out):
            sequence.compute(chosen, executor=Untouchable())


@pytest.mark.parametrize("wrong", [0, -1, True, 1.5, "2"])
@pytest.mark.parametrize("aggregator", [total(), None])
def test_a_bound_is_a_positive_integer(aggregator: Any, wrong: Any) -> None:
    sequence = LazyChunkSequence.from_map(np.ones, [1])
    with pytest.raises((ValueError, TypeError), match="max_in_flight"):
        sequence.compute(aggregator, executor=Untouchable(), max_in_flight=wrong)


@pytest.mark.parametrize("wrong", [2, "threads", object()])
@pytest.mark.parametrize("aggregator", [total(), None])
def test_something_else_than_an_executor_is_refused(aggregator: Any, wrong: Any) -> None:
    with pytest.raises(TypeError, match="executor must be"):
        LazyChunkSequence.from_map(np.ones, [1]).compute(aggregator, executor=wrong)


@pytest.mark.parametrize("aggregator", [total(), concatenate(), None, tee(total(), concatenate())])
def test_a_pool_that_is_shut_down_says_so(aggregator: Any) -> None:
    with ThreadPoolExecutor(1) as executor:
        pass
    with pytest.raises(RuntimeError, match="after shutdown"):
        FLAT.sequence.compute(aggregator, executor=executor)


@pytest.mark.parametrize("aggregator", [total(), concatenate(), None, tee(total(), concatenate())])
def test_a_pool_that_breaks_says_so(aggregator: Any) -> None:
    with processes() as executor:
        with pytest.raises(BrokenProcessPool):
            LazyChunkSequence.from_map(die_at_seven, range(40)).compute(
                aggregator, executor=executor
            )
        with pytest.raises(BrokenProcessPool):
            FLAT.sequence.compute(aggregator, executor=executor)


def die_at_seven(number: int) -> Array:
    if number == 7:
        os._exit(1)
    return np.ones(2)


@pytest.mark.parametrize("start", [Shuffling, partial(ThreadPoolExecutor, 2)])
@pytest.mark.parametrize("aggregator", [total(), concatenate(), None])
def test_progress_ends_at_all_blocks(
    aggregator: Any, start: Callable[[], Any], capsys: pytest.CaptureFixture[str]
) -> None:
    with start() as executor:
        FLAT.sequence.compute(aggregator, executor=executor, progress=True)
        assert f"{len(FLAT.rows)}/{len(FLAT.rows)}" in capsys.readouterr().err


def test_a_wrong_length_hint_is_a_warning_from_workers_too() -> None:
    factory: Any = FLAT.sequence.generator_factory
    wrong = LazyChunkSequence[Array](factory, 9)
    with ThreadPoolExecutor(2) as executor:
        for aggregator in (total(), concatenate()):
            with pytest.warns(LengthHintWarning):
                wrong.compute(aggregator, executor=executor)
