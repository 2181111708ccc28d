"""Factories: values whose blocks can be skipped, repeated, mapped, and computed elsewhere."""

import operator
import pickle
import warnings
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import FrozenInstanceError
from functools import partial
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lazychunks import (
    IdentityConverter,
    LazyChunkSequence,
    LengthHintWarning,
    NestedLazyChunkSequence,
    SourceExhaustedError,
    SourceTypeError,
)
from lazychunks.blocks.factories import (
    BlockCall,
    Composed,
    Mapped,
    Product,
    WithProgress,
    column_count,
    counts_of,
    is_nested,
    map_blocks,
    map_rows,
    rows_of_calls,
)
from lazychunks.blocks.iterate import open_blocks, open_rows

numbers = st.lists(st.integers(), max_size=6)


class Calls:
    """A function that remembers what it was called with."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def __call__(self, first: Any, *more: Any) -> Any:
        self.seen.append((first, *more) if more else first)
        return first, *more


# Map-backed factories.


@given(numbers, numbers)
def test_blocks_are_the_function_of_the_items(rows: list[int], columns: list[int]) -> None:
    assert list(Mapped(abs, rows)()) == [abs(row) for row in rows]
    grid = [[(row, column) for column in columns] for row in rows]
    assert [list(row) for row in Product(Calls(), rows, columns)()] == grid


@given(st.data(), numbers, numbers)
def test_what_is_skipped_is_not_computed(
    data: st.DataObject, rows: list[int], columns: list[int]
) -> None:
    flat = Calls()
    chosen = data.draw(st.sets(st.integers(0, max(len(rows) - 1, 0))))
    calls = [call for (call,) in Mapped(flat, rows).rows_of_calls()]
    assert len(calls) == len(rows)
    for number, call in enumerate(calls):
        if number in chosen:
            call()
    assert flat.seen == [row for number, row in enumerate(rows) if number in chosen]

    nested = Calls()
    for number, row in enumerate(Product(nested, rows, columns).rows_of_calls()):
        calls = list(row)
        assert len(calls) == len(columns)
        if number in chosen:
            for call in calls[1:]:
                call()
    assert nested.seen == [
        (row, column)
        for number, row in enumerate(rows)
        if number in chosen
        for column in columns[1:]
    ]


def test_a_call_can_be_repeated_compared_and_sent_elsewhere() -> None:
    ((call,),) = Mapped(abs, [-3]).rows_of_calls()
    moved = pickle.loads(pickle.dumps(call))  # noqa: S301  # our own
    assert moved == call == BlockCall(abs, (-3,))
    assert moved() == call() == call() == 3
    ((call,),) = Product(operator.mul, [2], [5]).rows_of_calls()
    assert pickle.loads(pickle.dumps(call))() == 10  # noqa: S301


def test_a_call_keeps_its_function_apart_whatever_that_is_bound_to() -> None:
    fn = partial(int, base=16)
    ((call,),) = Mapped(fn, ["ff"]).rows_of_calls()
    assert (call.func, call.args, call()) == (fn, ("ff",), 255)
    ((power,),) = Product(partial(pow, 2), [3], [5]).rows_of_calls()
    assert (power.func(*power.args), power.args) == (3, (3, 5))


@given(numbers)
def test_map_keeps_a_map_backed_factory_map_backed(items: list[int]) -> None:
    flat = map_blocks(Mapped(abs, items), str)
    assert flat == Mapped(Composed(abs, str), items)
    assert list(flat()) == [str(abs(item)) for item in items]
    nested = map_rows(Product(operator.add, items, items), str)
    assert nested == Product(Composed(operator.add, str), items, items)
    assert [list(row) for row in nested()] == [[str(i + j) for j in items] for i in items]


@given(numbers)
def test_map_of_any_other_factory_applies_the_function(items: list[int]) -> None:
    flat = map_blocks(lambda: items, str)
    assert list(flat()) == list(map(str, items))
    nested = map_rows(lambda: [items, items], str)
    assert [list(row) for row in nested()] == [list(map(str, items))] * 2


def test_the_checks_reach_through_map() -> None:
    generator = (number for number in range(3))
    list(generator)
    with pytest.raises(SourceExhaustedError):
        list(map_blocks(lambda: generator, str)())
    with pytest.raises(SourceTypeError):
        list(map_blocks(lambda: "text", str)())
    with pytest.raises(SourceExhaustedError):
        [list(row) for row in map_rows(lambda: [generator], str)()]


def test_a_function_does_not_end_the_blocks_by_its_stop_iteration() -> None:
    """Such as that of ``next`` in it, by which blocks would be lost without a word."""

    def early(*items: int) -> int:
        return next(iter(range(items[-1], 2)))

    flat: list[Any] = [Mapped(early, range(5)), map_blocks(lambda: range(5), early)]
    for factory in flat:
        blocks = open_blocks(factory)
        assert [next(blocks), next(blocks)] == [0, 1]
        with pytest.raises(RuntimeError, match="StopIteration"):
            next(blocks)
    nested: list[Any] = [Product(early, [7], range(5)), map_rows(lambda: [range(5)], early)]
    for factory in nested:
        row = next(open_rows(factory))
        assert [next(row), next(row)] == [0, 1]
        with pytest.raises(RuntimeError, match="StopIteration"):
            next(row)


def test_factories_are_values() -> None:
    one, other = Mapped(abs, range(3)), Mapped(abs, range(3))
    assert one == other
    assert hash(one) == hash(other)
    assert one != Mapped(abs, range(4))
    assert pickle.loads(pickle.dumps(one)) == one  # noqa: S301
    product = Product(operator.mul, range(2), (3, 4))
    assert pickle.loads(pickle.dumps(product)) == product  # noqa: S301
    with pytest.raises(FrozenInstanceError):
        one.fn = str  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]
    assert not hasattr(one, "__dict__")


# Rows of calls, and numbers of blocks, of any sequence.


@given(numbers, numbers)
def test_rows_of_calls_compute_the_blocks(rows: list[int], columns: list[int]) -> None:
    flat = rows_of_calls(Mapped(abs, rows), axes=1)
    assert flat is not None
    assert [[call() for call in row] for row in flat] == [[abs(row)] for row in rows]
    nested = rows_of_calls(Product(operator.sub, rows, columns), axes=2)
    assert nested is not None
    assert [[call() for call in row] for row in nested] == [
        [row - column for column in columns] for row in rows
    ]


def test_rows_of_calls_are_made_when_they_are_asked_for() -> None:
    asked: list[int] = []

    def endless() -> Iterator[int]:
        while True:
            asked.append(len(asked))
            yield asked[-1]

    for factory, axes in ((Mapped(abs, endless()), 1), (Product(pow, endless(), (1, 2)), 2)):
        asked.clear()
        rows = rows_of_calls(factory, axes)
        assert rows is not None
        assert asked == []
        for number in range(3):
            assert len(next(rows)) == axes
            assert asked == [*range(number + 1)]


def test_rows_of_calls_move_the_bar_of_the_factory_around_them(
    capsys: pytest.CaptureFixture[str],
) -> None:
    flat = rows_of_calls(WithProgress(Mapped(abs, [-1, -2]), 2, axes=1), axes=1)
    assert flat is not None
    assert [[call() for call in row] for row in flat] == [[1], [2]]
    assert "2/2" in capsys.readouterr().err
    nested = rows_of_calls(WithProgress(Product(operator.mul, [1, 2], [3, 4]), 2, axes=2), axes=2)
    assert nested is not None
    next(nested)
    shown = capsys.readouterr().err
    assert "1/" not in shown, "a row of calls has not been computed when it is handed out"
    next(nested)
    assert next(nested, None) is None
    assert "4/4" in capsys.readouterr().err


@given(numbers, st.none() | st.integers(0, 8))
def test_rows_of_calls_are_counted_like_blocks(items: list[int], hint: int | None) -> None:
    for factory, axes in ((Mapped(abs, items), 1), (Product(pow, items, [1, 2]), 2)):
        rows = rows_of_calls(factory, axes, hint)
        assert rows is not None
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            assert len(list(rows)) == len(items)
        wrong = hint is not None and hint != len(items)
        assert [warning.category for warning in caught] == [LengthHintWarning] * wrong


def test_a_generator_backed_factory_has_no_rows_of_calls() -> None:
    assert rows_of_calls(lambda: [1], axes=1) is None
    assert rows_of_calls(WithProgress(lambda: [1], None, axes=1), axes=1) is None
    assert rows_of_calls(map_blocks(lambda: [1], abs), axes=1) is None


def test_a_nested_sequence_whose_rows_are_computed_whole_cannot_skip_blocks() -> None:
    """Regression: ``map`` gave the function a row in place of its blocks."""
    whole_rows = Mapped(range, [2, 3])
    assert rows_of_calls(whole_rows, axes=2) is None
    nested = NestedLazyChunkSequence(whole_rows)
    assert nested.map(str).compute() == [["0", "1"], ["0", "1", "2"]]
    with ThreadPoolExecutor(1) as executor:
        assert nested.parallel(executor).compute() == [[0, 1], [0, 1, 2]]


def test_a_factory_of_the_users_is_not_looked_into() -> None:
    """Regression: any attribute called ``source`` was taken for a factory inside."""

    class Odd:
        @property
        def source(self) -> "Odd":
            return self

        inner = source

        def __call__(self) -> list[int]:
            return [1]

    assert rows_of_calls(Odd(), axes=1) is None
    assert column_count(Odd()) is None


def test_columns_are_counted_where_they_are_known() -> None:
    product = Product(operator.mul, [1, 2], (3, 4, 5))
    assert column_count(product) == 3
    assert column_count(WithProgress(product, 2, axes=2)) == 3
    assert column_count(Product(operator.mul, [1], iter([2]))) is None
    assert column_count(Mapped(abs, [1])) is None
    assert column_count(lambda: [1]) is None


def test_blocks_are_counted_along_both_axes_where_they_are_known() -> None:
    assert counts_of([1, 2]) == (2, None)
    assert counts_of(iter(())) == (0, None)
    assert counts_of(number for number in (1, 2)) == (None, None)
    assert counts_of(LazyChunkSequence.from_map(abs, [1, 2])) == (2, None)
    product = NestedLazyChunkSequence.from_product
    assert counts_of(product(operator.mul, [1, 2], (3, 4, 5))) == (2, 3)
    assert counts_of(product(operator.mul, iter([1]), (3, 4, 5))) == (None, 3)


def test_a_nested_sequence_is_known_by_its_field() -> None:
    nested = NestedLazyChunkSequence(lambda: [[1]])
    assert is_nested(nested)
    assert is_nested(nested.map(str))
    assert not any(map(is_nested, (LazyChunkSequence(lambda: [1]), [[1]], iter([[1]]), None)))


# StopIteration that does not come from ``__next__``: it would end a loop without an error.


class FailingAt:
    """Items of which one iteration fails before it has begun, or in the middle."""

    def __init__(self, passes: int, error: type[Exception], *, after: int | None = None) -> None:
        self.passes = passes
        self.error = error
        self.after = after

    def __iter__(self) -> Iterator[int]:
        self.passes -= 1
        if self.passes >= 0:
            return iter((1, 2))
        if self.after is None:
            raise self.error("no more passes")
        return self._break_off(self.after)

    def _break_off(self, after: int) -> Iterator[int]:
        yield from range(after)
        raise self.error("no more items")


def multiplied(row: int, column: int) -> Any:
    return np.full((1, 1), row * column)


def single(item: int) -> Any:
    return np.full((1, 1), item)


def stored(sequence: Any, **options: Any) -> Any:
    return sequence.to_zarr({}, IdentityConverter(), True, chunks="blocks", **options)


@contextmanager
def consumer(sequence: Any, how: str) -> Generator[Callable[[], object]]:
    """One of the ways to consume a sequence, computed elsewhere or not."""
    with ThreadPoolExecutor(2) as executor:
        ahead = sequence.parallel(executor, 2)
        yield {
            "compute": sequence.compute,
            "list": lambda: [list(row) for row in sequence],
            "progress": lambda: sequence.compute(progress=True),
            "map": lambda: sequence.map(np.negative).compute(),
            "parallel": ahead.compute,
            "abandoned rows": lambda: [next(iter(row)) for row in ahead],
            "to_zarr": lambda: stored(sequence),
            "resumed": lambda: stored(sequence, run_id="run", resume=True),
            "executor": lambda: stored(sequence, executor=executor),
        }[how]


HOWS = (
    "compute",
    "list",
    "progress",
    "map",
    "parallel",
    "abandoned rows",
    "to_zarr",
    "resumed",
    "executor",
)


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("error", [StopIteration, LookupError, TypeError])
@pytest.mark.parametrize("nested", [False, True])
def test_an_error_of_an_iter_method_ends_no_rows_in_silence(
    nested: bool, error: type[Exception], how: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Regression: ``StopIteration`` from ``__iter__`` of the columns ended the rows."""
    items = FailingAt(3 if nested else 0, error)
    product = NestedLazyChunkSequence.from_product(multiplied, iter(range(5)), items)
    sequence: Any = product if nested else LazyChunkSequence.from_map(single, items)
    with (
        consumer(sequence, how) as consume,
        pytest.raises((error, RuntimeError)) as caught,
    ):
        consume()
    assert found_in(caught.value, error)
    assert type(caught.value) is not StopIteration, "a loop around this call would end in silence"


def found_in(error: BaseException | None, kind: type[Exception]) -> bool:
    """Whether an error, or one of its causes, is of a kind."""
    return error is not None and (isinstance(error, kind) or found_in(error.__cause__, kind))


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("after", [0, 1])
def test_an_error_in_the_columns_ends_no_rows_in_silence(
    after: int, how: str, capsys: pytest.CaptureFixture[str]
) -> None:
    items = FailingAt(3, LookupError, after=after)
    sequence: Any = NestedLazyChunkSequence.from_product(multiplied, iter(range(5)), items)
    with consumer(sequence, how) as consume:
        if how == "abandoned rows" and after == 1:
            assert len(cast("list[object]", consume())) == 5, "nobody asked for the failing column"
        else:
            with pytest.raises((LookupError, RuntimeError)) as caught:
                consume()
            assert found_in(caught.value, LookupError)


def test_a_row_that_fails_ends_no_rows_ahead() -> None:
    """Regression: rows that the consumer left before the error were followed by no others."""
    items = FailingAt(1, LookupError, after=1)
    items.passes = 0
    sequence = NestedLazyChunkSequence.from_product(operator.add, range(0, 50, 10), items)
    with ThreadPoolExecutor(1) as executor:
        assert [next(row) for row in sequence.parallel(executor, 4)] == [0, 10, 20, 30, 40]


@pytest.mark.parametrize("nested", [False, True])
def test_a_factory_does_not_end_the_blocks_by_its_stop_iteration(nested: bool) -> None:
    def factory() -> Any:
        return next(iter(()))

    sequence: Any = (NestedLazyChunkSequence if nested else LazyChunkSequence)(factory)
    for consume in (sequence.compute, sequence.map(str).compute, lambda: iter(sequence)):
        with pytest.raises(RuntimeError, match="factory raised StopIteration"):
            consume()


def test_a_row_of_the_users_does_not_end_the_rows() -> None:
    rows: list[Any] = [[1], FailingAt(0, StopIteration), [2]]
    nested: Any = NestedLazyChunkSequence(lambda: rows)
    for sequence in (nested, nested.map(str)):
        with pytest.raises(RuntimeError, match="StopIteration"):
            sequence.compute()


# A generator in place of a factory.


def blocks() -> Iterator[int]:
    yield 1


@pytest.mark.parametrize("kind", [LazyChunkSequence, NestedLazyChunkSequence])
@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (blocks(), r"got a generator, .* only once; pass blocks itself, or lambda: blocks\(...\)"),
        ((n for n in (1, 2)), r"got a generator, .* only once; pass a lambda .* \(block for ...\)"),
        ([1, 2], r"got list; pass a function that returns the blocks, e\.g\. lambda: blocks"),
        (None, "must be callable, got NoneType"),
    ],
    ids=["generator", "generator expression", "list", "None"],
)
def test_what_cannot_be_called_is_refused_when_the_sequence_is_made(
    kind: Any, wrong: Any, message: str
) -> None:
    with pytest.raises(SourceTypeError, match=message) as caught:
        kind(wrong)
    assert isinstance(caught.value, TypeError)
