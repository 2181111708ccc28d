"""Iterating what factories hand out: what is refused, what must not be lost, what is counted."""

import operator
import sys
import warnings
import weakref
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
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
from lazychunks.blocks.iterate import (
    check_hint,
    count_blocks,
    iterate_items,
    known_length,
    open_blocks,
    open_rows,
)

numbers = st.lists(st.integers(), max_size=6)


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
            assert list(open_blocks(factory)) == items


@pytest.mark.parametrize("number", range(4))
def test_an_iterator_that_has_run_is_refused(number: int) -> None:
    iterator = one_shots([1, 2])[number]
    assert len(list(open_blocks(lambda: iterator))) == 2
    with pytest.raises(SourceExhaustedError, match=r"again and again|already run"):
        list(open_blocks(lambda: iterator))


def test_a_generator_that_has_started_is_refused_at_once() -> None:
    generator = (number for number in range(3))
    next(generator)
    with pytest.raises(SourceExhaustedError, match="already run"):
        open_blocks(lambda: generator)


def test_an_iterator_that_is_new_each_time_may_be_empty() -> None:
    assert list(open_blocks(lambda: iter(()))) == []
    assert list(open_blocks(lambda: map(int, ()))) == []


@pytest.mark.parametrize(
    "made",
    [np.zeros((2, 3)), np.float64(1), "text", b"bytes", None, 3, object()],
    ids=lambda made: type(made).__name__,
)
def test_what_holds_no_blocks_is_refused(made: Any) -> None:
    with pytest.raises(SourceTypeError) as caught:
        open_blocks(lambda: made)
    assert isinstance(caught.value, TypeError)
    assert type(made).__name__ in str(caught.value)
    with pytest.raises(SourceTypeError, match="factory"):
        list(open_rows(lambda: made))
    with pytest.raises(SourceTypeError, match="row"):
        list(open_rows(lambda: [made]))


def test_a_tensor_is_refused_like_an_array() -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    with pytest.raises(SourceTypeError, match="Tensor"):
        open_blocks(lambda: torch.zeros(2, 3))
    with pytest.raises(SourceTypeError, match="Tensor"):
        list(open_rows(lambda: [torch.zeros(2, 3)]))


@pytest.mark.parametrize("number", range(4))
def test_rows_that_are_kept_and_have_run_are_refused(number: int) -> None:
    rows = [one_shots([1, 2])[number], [3]]
    assert [len(list(row)) for row in open_rows(lambda: rows)] == [2, 1]
    with pytest.raises(SourceExhaustedError):
        [list(row) for row in open_rows(lambda: rows)]


def test_rows_that_an_iterator_makes_may_be_empty() -> None:
    none: list[int] = []
    assert [list(row) for row in open_rows(lambda: (iter(none) for _ in range(2)))] == [[], []]
    assert [list(row) for row in open_rows(lambda: [none, none])] == [[], []]


@pytest.mark.parametrize("number", range(4))
def test_items_that_can_be_run_through_once_serve_one_run(number: int) -> None:
    items = one_shots([1, 2])[number]
    assert len(list(iterate_items(items))) == 2
    with pytest.raises(SourceExhaustedError):
        list(iterate_items(items))


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
    assert known_length([1, 2]) == 2
    assert known_length(range(3)) == 3
    assert known_length(iter([1])) is None
    assert known_length(Unsized()) is None
    assert known_length(Unsized(NotImplementedError)) is None
    assert known_length(range(2**70)) is None


# Hints.


@given(st.integers(0, sys.maxsize))
def test_any_length_is_a_hint(hint: int) -> None:
    assert check_hint(hint, "n") == hint


@pytest.mark.parametrize("kind", [np.int8, np.int64, np.uint16, np.intp])
def test_numpy_integers_become_ints(kind: Any) -> None:
    assert type(check_hint(kind(3), "n")) is int


def test_no_hint_is_no_hint() -> None:
    assert check_hint(None, "n") is None


@pytest.mark.parametrize("hint", [-1, -(10**30), sys.maxsize + 1, np.int64(-3)])
def test_a_hint_that_is_no_length_is_refused(hint: Any) -> None:
    with pytest.raises(ValueError, match=f"len_x .* got {hint}; leave it out"):
        check_hint(hint, "len_x")


@pytest.mark.parametrize("hint", [True, False, 1.0, "3", [3], np.float64(2), 1j, object()])
def test_a_hint_that_is_no_integer_is_refused(hint: Any) -> None:
    with pytest.raises(TypeError, match="len_x must be an integer, got "):
        check_hint(hint, "len_x")


@given(numbers, st.integers(0, 8))
def test_counting_passes_all_on_and_warns_of_another_number(items: list[int], hint: int) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert list(count_blocks(iter(items), hint, "blocks")) == items
    messages = [str(warning.message) for warning in caught]
    assert all(warning.category is LengthHintWarning for warning in caught)
    assert len(messages) == (len(items) != hint)
    if messages:
        assert f"after {len(items)} blocks, its length hint said {hint}" in messages[0]


def test_a_run_that_is_left_early_is_not_counted() -> None:
    blocks = count_blocks(iter([1, 2, 3]), 7, "blocks")
    assert [next(blocks), next(blocks)] == [1, 2]


def test_an_error_in_the_middle_is_not_hidden_by_counting() -> None:
    with pytest.raises(ZeroDivisionError):
        list(count_blocks((1 // n for n in (1, 0)), 2, "blocks"))


# Memory.


class Block:
    """Something that can be referred to weakly."""


class Produced:
    """An iterator of blocks; it notes whether the last one is alive when the next is made."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.last: weakref.ref[Block] | None = None
        self.alive: list[bool] = []

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Block:
        self.alive.append(self.last is not None and self.last() is not None)
        if self.count == 0:
            raise StopIteration
        self.count -= 1
        block = Block()
        self.last = weakref.ref(block)
        return block


@pytest.mark.parametrize("hint", [None, 3])
def test_no_block_lives_on_while_the_next_one_is_made(hint: int | None) -> None:
    produced = Produced(3)
    blocks = iter(LazyChunkSequence(lambda: produced, hint))
    while next(blocks, None) is not None:
        pass
    assert produced.alive == [False] * 4


def test_a_block_that_is_kept_is_noticed() -> None:
    produced = Produced(2)
    kept = list(iter(LazyChunkSequence(lambda: produced)))
    assert len(kept) == 2
    assert produced.alive == [False, True, True]
