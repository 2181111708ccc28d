"""Factories: what they may hand out, what is refused, and what a map-backed one can skip."""

import operator
import pickle
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import FrozenInstanceError, dataclass
from functools import partial
from typing import Any, Self

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lazychunks import (
    LazyChunkSequence,
    LengthHintWarning,
    NestedLazyChunkSequence,
    SourceExhaustedError,
    SourceTypeError,
)
from lazychunks.blocks.sources import (
    Composed,
    Mapped,
    Product,
    Reported,
    column_count,
    counted,
    length_of,
    mapped,
    mapped_rows,
    opened,
    opened_rows,
    run_through,
    tasks_of,
    validated_hint,
)

numbers = st.lists(st.integers(), max_size=6)


class Calls:
    """A function that remembers what it was called with."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def __call__(self, first: Any, *more: Any) -> Any:
        self.seen.append((first, *more) if more else first)
        return first, *more


def one_shots(items: Iterable[Any]) -> list[Any]:
    """Every kind of iterator that can be run through once only."""
    kept = list(items)
    return [iter(kept), (item for item in kept), map(int, kept), zip(kept, strict=True)]


# What a factory may hand out.


@given(numbers)
def test_what_can_be_iterated_afresh_is_opened_again_and_again(items: list[int]) -> None:
    factories: list[Callable[[], Iterable[int]]] = [
        lambda: items,
        lambda: tuple(items),
        lambda: iter(items),
        lambda: (item for item in items),
        lambda: map(int, items),
    ]
    for factory in factories:
        for _ in range(2):
            assert list(opened(factory)) == items


@pytest.mark.parametrize("number", range(4))
def test_an_iterator_that_has_run_is_refused(number: int) -> None:
    iterator = one_shots([1, 2])[number]
    assert len(list(opened(lambda: iterator))) == 2
    with pytest.raises(SourceExhaustedError, match=r"again and again|already run"):
        list(opened(lambda: iterator))


def test_a_generator_that_has_started_is_refused_at_once() -> None:
    generator = (number for number in range(3))
    next(generator)
    with pytest.raises(SourceExhaustedError, match="already run"):
        opened(lambda: generator)


def test_an_iterator_that_is_new_each_time_may_be_empty() -> None:
    assert list(opened(lambda: iter(()))) == []
    assert list(opened(lambda: map(int, ()))) == []


@pytest.mark.parametrize(
    "made",
    [np.zeros((2, 3)), np.float64(1), "text", b"bytes", None, 3, object()],
    ids=lambda made: type(made).__name__,
)
def test_what_holds_no_blocks_is_refused(made: Any) -> None:
    with pytest.raises(SourceTypeError) as caught:
        opened(lambda: made)
    assert isinstance(caught.value, TypeError)
    assert type(made).__name__ in str(caught.value)
    with pytest.raises(SourceTypeError, match="factory"):
        list(opened_rows(lambda: made))
    with pytest.raises(SourceTypeError, match="row"):
        list(opened_rows(lambda: [made]))


def test_a_tensor_is_refused_like_an_array() -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    with pytest.raises(SourceTypeError, match="Tensor"):
        opened(lambda: torch.zeros(2, 3))
    with pytest.raises(SourceTypeError, match="Tensor"):
        list(opened_rows(lambda: [torch.zeros(2, 3)]))


@pytest.mark.parametrize("number", range(4))
def test_rows_that_are_kept_and_have_run_are_refused(number: int) -> None:
    rows = [one_shots([1, 2])[number], [3]]
    assert [len(list(row)) for row in opened_rows(lambda: rows)] == [2, 1]
    with pytest.raises(SourceExhaustedError):
        [list(row) for row in opened_rows(lambda: rows)]


def test_rows_that_an_iterator_makes_may_be_empty() -> None:
    none: list[int] = []
    assert [list(row) for row in opened_rows(lambda: (iter(none) for _ in range(2)))] == [[], []]
    assert [list(row) for row in opened_rows(lambda: [none, none])] == [[], []]


@pytest.mark.parametrize("number", range(4))
def test_items_that_can_be_run_through_once_serve_one_run(number: int) -> None:
    items = one_shots([1, 2])[number]
    assert len(list(run_through(items))) == 2
    with pytest.raises(SourceExhaustedError):
        list(run_through(items))


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
    tasks = list(Mapped(flat, rows).tasks())
    assert len(tasks) == len(rows)
    for number, task in enumerate(tasks):
        if number in chosen:
            task()
    assert flat.seen == [row for number, row in enumerate(rows) if number in chosen]

    nested = Calls()
    for number, row in enumerate(Product(nested, rows, columns).tasks()):
        calls = list(row)
        assert len(calls) == len(columns)
        if number in chosen:
            for task in calls[1:]:
                task()
    assert nested.seen == [
        (row, column)
        for number, row in enumerate(rows)
        if number in chosen
        for column in columns[1:]
    ]


def test_a_task_can_be_called_again_and_elsewhere() -> None:
    task = pickle.loads(pickle.dumps(next(Mapped(abs, [-3]).tasks())))  # noqa: S301  # our own
    assert task() == task() == 3
    (row,) = Product(operator.mul, [2], [5]).tasks()
    assert pickle.loads(pickle.dumps(next(row)))() == 10  # noqa: S301


def test_a_task_keeps_its_function_apart_whatever_that_is_bound_to() -> None:
    fn = partial(int, base=16)
    (task,) = Mapped(fn, ["ff"]).tasks()
    assert (task.func, task.args, task()) == (fn, ("ff",), 255)
    ((task,),) = Product(partial(pow, 2), [3], [5]).tasks()
    assert (task.func(*task.args), task.args) == (3, (3, 5))


@given(numbers)
def test_map_keeps_a_map_backed_factory_map_backed(items: list[int]) -> None:
    flat = mapped(Mapped(abs, items), str)
    assert flat == Mapped(Composed(abs, str), items)
    assert list(flat()) == [str(abs(item)) for item in items]
    nested = mapped_rows(Product(operator.add, items, items), str)
    assert nested == Product(Composed(operator.add, str), items, items)
    assert [list(row) for row in nested()] == [[str(i + j) for j in items] for i in items]


@given(numbers)
def test_map_of_any_other_factory_applies_the_function(items: list[int]) -> None:
    flat = mapped(lambda: items, str)
    assert list(flat()) == list(map(str, items))
    nested = mapped_rows(lambda: [items, items], str)
    assert [list(row) for row in nested()] == [list(map(str, items))] * 2


def test_the_checks_reach_through_map() -> None:
    generator = (number for number in range(3))
    list(generator)
    with pytest.raises(SourceExhaustedError):
        list(mapped(lambda: generator, str)())
    with pytest.raises(SourceTypeError):
        list(mapped(lambda: "text", str)())
    with pytest.raises(SourceExhaustedError):
        [list(row) for row in mapped_rows(lambda: [generator], str)()]


def test_a_function_does_not_end_the_blocks_by_its_stop_iteration() -> None:
    """Such as that of ``next`` in it, by which blocks would be lost without a word."""

    def early(*items: int) -> int:
        return next(iter(range(items[-1], 2)))

    flat: list[Any] = [Mapped(early, range(5)), mapped(lambda: range(5), early)]
    for factory in flat:
        blocks = opened(factory)
        assert [next(blocks), next(blocks)] == [0, 1]
        with pytest.raises(RuntimeError, match="StopIteration"):
            next(blocks)
    nested: list[Any] = [Product(early, [7], range(5)), mapped_rows(lambda: [range(5)], early)]
    for factory in nested:
        row = next(opened_rows(factory))
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


# Tasks and counts of a factory, through what reports.


def test_tasks_are_those_of_the_factory_inside(capsys: pytest.CaptureFixture[str]) -> None:
    flat = tasks_of(Reported(Mapped(abs, [-1, -2]), 2, nested=False))
    assert flat is not None
    assert [task() for task in flat()] == [1, 2]
    nested = tasks_of(Reported(Product(operator.mul, [1, 2], [3]), 2, nested=True))
    assert nested is not None
    assert [[task() for task in row] for row in nested()] == [[3], [6]]
    assert "2/2" in capsys.readouterr().err


def test_a_generator_backed_factory_has_no_tasks() -> None:
    assert tasks_of(lambda: [1]) is None
    assert tasks_of(Reported(lambda: [1], None, nested=False)) is None
    assert tasks_of(mapped(lambda: [1], abs)) is None


def test_a_factory_of_the_users_is_not_looked_into() -> None:
    """Regression: any attribute called ``source`` was taken for a factory inside."""

    class Odd:
        @property
        def source(self) -> "Odd":
            return self

        inner = source

        def __call__(self) -> list[int]:
            return [1]

    assert tasks_of(Odd()) is None
    assert column_count(Odd()) is None


def test_columns_are_counted_where_they_are_known() -> None:
    product = Product(operator.mul, [1, 2], (3, 4, 5))
    assert column_count(product) == 3
    assert column_count(Reported(product, 2, nested=True)) == 3
    assert column_count(Product(operator.mul, [1], iter([2]))) is None
    assert column_count(Mapped(abs, [1])) is None
    assert column_count(lambda: [1]) is None


class Rewound:
    """An iterator that begins anew each time it is asked for one, as some loaders do."""

    def __iter__(self) -> Self:
        self._number = 0
        return self

    def __next__(self) -> int:
        if self._number == 3:
            raise StopIteration
        self._number += 1
        return self._number


def test_no_block_comes_twice_of_an_iterator_that_is_rewound() -> None:
    rewound = Rewound()
    flat = LazyChunkSequence(lambda: rewound)
    mapped = LazyChunkSequence.from_map(int, rewound)
    nested = NestedLazyChunkSequence(lambda: [rewound, rewound])
    product = NestedLazyChunkSequence.from_product(operator.mul, [1, 2], rewound)
    for _ in range(2):
        assert flat.compute() == mapped.compute() == [1, 2, 3]
        assert nested.compute() == [[1, 2, 3], [1, 2, 3]]
        assert product.compute() == [[1, 2, 3], [2, 4, 6]]


@dataclass
class Unsized:
    error: type[Exception] = TypeError
    """What a DataLoader over a stream raises."""

    def __len__(self) -> int:
        raise self.error

    def __iter__(self) -> Iterator[int]:
        return iter((1, 2))


def test_a_length_is_asked_for_where_there_is_one() -> None:
    assert length_of([1, 2]) == 2
    assert length_of(range(3)) == 3
    assert length_of(iter([1])) is None
    assert length_of(Unsized()) is None
    assert length_of(Unsized(NotImplementedError)) is None
    assert length_of(range(2**70)) is None


# Hints.


@given(st.integers(0, sys.maxsize))
def test_any_length_is_a_hint(hint: int) -> None:
    assert validated_hint(hint, "n") == hint


@pytest.mark.parametrize("kind", [np.int8, np.int64, np.uint16, np.intp])
def test_numpy_integers_become_ints(kind: Any) -> None:
    assert type(validated_hint(kind(3), "n")) is int


def test_no_hint_is_no_hint() -> None:
    assert validated_hint(None, "n") is None


@pytest.mark.parametrize("hint", [-1, -(10**30), sys.maxsize + 1, np.int64(-3)])
def test_a_hint_that_is_no_length_is_refused(hint: Any) -> None:
    with pytest.raises(ValueError, match=f"len_x .* got {hint}; leave it out"):
        validated_hint(hint, "len_x")


@pytest.mark.parametrize("hint", [True, False, 1.0, "3", [3], np.float64(2), 1j, object()])
def test_a_hint_that_is_no_integer_is_refused(hint: Any) -> None:
    with pytest.raises(TypeError, match="len_x must be an integer, got "):
        validated_hint(hint, "len_x")


@given(numbers, st.integers(0, 8))
def test_counting_passes_all_on_and_warns_of_another_number(items: list[int], hint: int) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert list(counted(iter(items), hint, "blocks")) == items
    messages = [str(warning.message) for warning in caught]
    assert all(warning.category is LengthHintWarning for warning in caught)
    assert len(messages) == (len(items) != hint)
    if messages:
        assert f"after {len(items)} blocks, its length hint said {hint}" in messages[0]


def test_a_run_that_is_left_early_is_not_counted() -> None:
    blocks = counted(iter([1, 2, 3]), 7, "blocks")
    assert [next(blocks), next(blocks)] == [1, 2]


def test_an_error_in_the_middle_is_not_hidden_by_counting() -> None:
    with pytest.raises(ZeroDivisionError):
        list(counted((1 // n for n in (1, 0)), 2, "blocks"))
