"""Sequences are values: iterated again and again, mapped, compared, pickled, folded."""

import copy
import multiprocessing
import operator
import pickle
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import FrozenInstanceError, fields
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lazychunks import (
    LazyChunkSequence,
    LengthHintWarning,
    ListAggregator,
    NestedLazyChunkSequence,
    NestedListAggregator,
    NestedSequenceAggregator,
    SequenceAggregator,
    SourceExhaustedError,
    SourceTypeError,
)

KINDS: list[Any] = [LazyChunkSequence, NestedLazyChunkSequence]
numbers = st.lists(st.integers(), max_size=6)


def square(number: int) -> int:
    return number * number


def multiply(row: int, column: int) -> int:
    return row * column


def three_blocks() -> Iterator[int]:
    return iter((1, 2, 3))


def two_rows() -> Iterator[Iterator[int]]:
    return iter((iter((1, 2)), iter((3, 4))))


def computed(sequence: LazyChunkSequence[int]) -> list[int]:
    return sequence.compute()


def list_iterator(items: list[int]) -> Iterator[int]:
    return iter(items)


def generator(items: list[int]) -> Iterator[int]:
    yield from items


def doubled(number: int) -> int:
    return 2 * number


FLAT: dict[str, LazyChunkSequence[int]] = {
    "opaque": LazyChunkSequence(three_blocks, 3),
    "map-backed": LazyChunkSequence.from_map(square, range(3)),
    "mapped": LazyChunkSequence(three_blocks).map(doubled),
    "mapped, map-backed": LazyChunkSequence.from_map(square, (1, 2)).map(doubled),
}
NESTED: dict[str, NestedLazyChunkSequence[int]] = {
    "opaque": NestedLazyChunkSequence(two_rows, 2),
    "map-backed": NestedLazyChunkSequence.from_product(multiply, range(3), (4, 5)),
    "mapped": NestedLazyChunkSequence(two_rows).map(doubled),
    "mapped, map-backed": NestedLazyChunkSequence.from_product(multiply, (1,), (2,)).map(doubled),
}


# Iterating.


@given(numbers)
def test_iterating_twice_agrees(items: list[int]) -> None:
    flat = LazyChunkSequence(lambda: (item for item in items))
    assert list(flat) == list(flat) == items
    nested = NestedLazyChunkSequence(lambda: ((item, item) for item in items))
    assert nested.compute() == nested.compute() == [[item, item] for item in items]


@given(numbers)
def test_two_iterators_do_not_disturb_each_other(items: list[int]) -> None:
    flat = LazyChunkSequence(lambda: iter(items))
    assert list(zip(flat, flat, strict=True)) == list(zip(items, items, strict=True))


def test_nothing_is_generated_before_it_is_asked_for() -> None:
    asked: list[int] = []

    def generated() -> Iterator[int]:
        for number in range(3):
            asked.append(number)
            yield number

    blocks = iter(LazyChunkSequence(generated, 3).map(doubled))
    assert asked == []
    assert next(blocks) == 0
    assert asked == [0]


def test_a_nested_sequence_generates_rows_as_they_are_asked_for() -> None:
    asked: list[tuple[int, int]] = []

    def block(row: int, column: int) -> tuple[int, int]:
        asked.append((row, column))
        return row, column

    rows = iter(NestedLazyChunkSequence.from_product(block, range(2), range(2)))
    first = next(rows)
    assert asked == []
    assert next(first) == (0, 0)
    assert asked == [(0, 0)]


# Hints.


@given(st.integers(0, sys.maxsize))
def test_the_length_hint_is_told(hint: int) -> None:
    for kind in KINDS:
        assert operator.length_hint(kind(list, hint)) == hint
        assert operator.length_hint(kind(list), 42) == 42


@pytest.mark.parametrize("kind", KINDS)
def test_numpy_integers_are_hints(kind: Any) -> None:
    assert kind(list, np.int64(3)) == kind(list, 3)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("hint", [True, 1.0, "3", np.float32(3)])
def test_a_hint_that_is_no_integer_is_refused_when_constructed(kind: Any, hint: Any) -> None:
    with pytest.raises(TypeError, match=fields(kind)[1].name):
        kind(list, hint)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("hint", [-1, np.int8(-1), 2**100])
def test_a_hint_that_is_no_length_is_refused_when_constructed(kind: Any, hint: Any) -> None:
    with pytest.raises(ValueError, match=fields(kind)[1].name):
        kind(list, hint)


@given(st.integers(1, 5), st.integers(0, 8))
def test_a_wrong_hint_warns_and_changes_nothing(count: int, hint: int) -> None:
    flat = LazyChunkSequence(lambda: range(count), hint)
    nested = NestedLazyChunkSequence(lambda: [(row,) for row in range(count)], hint)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert flat.compute() == list(range(count))
        assert nested.compute() == [[row] for row in range(count)]
    wrong = count != hint
    assert [warning.category for warning in caught] == [LengthHintWarning] * 2 * wrong
    if wrong:
        assert f"{count} blocks" in str(caught[0].message)
        assert f"{count} rows" in str(caught[1].message)


def test_a_hint_of_a_map_backed_sequence_is_the_number_of_items() -> None:
    assert LazyChunkSequence.from_map(square, range(7)).len_generator == 7
    assert LazyChunkSequence.from_map(square, iter((1, 2))).len_generator is None
    nested = NestedLazyChunkSequence.from_product(multiply, range(7), iter((1,)))
    assert nested.len_outer_generator == 7


@pytest.mark.parametrize("huge", [2**40, sys.maxsize])
def test_a_hint_far_too_large_costs_no_memory(huge: int) -> None:
    """Regression: ``list`` itself allocates as much as a hint says."""
    with pytest.warns(LengthHintWarning):
        assert LazyChunkSequence(three_blocks, huge).compute() == [1, 2, 3]
    with pytest.warns(LengthHintWarning):
        assert NestedLazyChunkSequence(two_rows, huge).compute() == [[1, 2], [3, 4]]


# One-shot sources.


@pytest.mark.parametrize("make", [list_iterator, generator])
@pytest.mark.parametrize("progress", [False, True])
def test_what_can_be_run_through_once_serves_one_run_and_the_next_is_not_silently_empty(
    make: Callable[[list[int]], Iterator[int]], progress: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    once, twice = make([1, 2]), make([1, 2])
    rows = [make([1]), make([2])]
    made = ((number,) for number in (1, 2))
    serve: list[tuple[Any, list[Any]]] = [
        (LazyChunkSequence(lambda: once), [1, 2]),
        (LazyChunkSequence(lambda: twice).map(doubled), [2, 4]),
        (LazyChunkSequence.from_map(square, make([1, 2])), [1, 4]),
        (NestedLazyChunkSequence(lambda: rows), [[1], [2]]),
        (NestedLazyChunkSequence(lambda: made), [[1], [2]]),
        (NestedLazyChunkSequence.from_product(multiply, make([1, 2]), [3]), [[3], [6]]),
    ]
    for sequence, expected in serve:
        assert sequence.compute(progress=progress) == expected
        with pytest.raises(SourceExhaustedError):
            sequence.compute(progress=progress)


@pytest.mark.parametrize("make", [list_iterator, generator])
def test_columns_are_needed_once_for_each_row(
    make: Callable[[list[int]], Iterator[int]],
) -> None:
    nested = NestedLazyChunkSequence.from_product(multiply, [1, 2], make([3, 4]))
    with pytest.raises(SourceExhaustedError):
        nested.compute()


@pytest.mark.parametrize("made", [np.zeros((2, 2)), "text", None, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_what_holds_no_blocks_is_refused(kind: Any, made: Any) -> None:
    for aggregator in (None, list, max):
        with pytest.raises(SourceTypeError):
            kind(lambda: made).compute(aggregator)


# from_map, from_product.


@given(numbers)
def test_from_map_equals_the_generator(items: list[int]) -> None:
    flat = LazyChunkSequence.from_map(square, items)
    assert flat.compute() == LazyChunkSequence(lambda: (square(i) for i in items)).compute()


@given(numbers, numbers)
def test_from_product_equals_the_generator(rows: list[int], columns: list[int]) -> None:
    nested = NestedLazyChunkSequence.from_product(multiply, rows, columns)
    assert nested.compute() == [[multiply(row, column) for column in columns] for row in rows]


def test_items_may_be_a_data_loader() -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    data = torch.utils.data
    loader = data.DataLoader(data.TensorDataset(torch.arange(10)), batch_size=4)
    flat = LazyChunkSequence.from_map(lambda batch: batch[0].tolist(), loader)
    assert operator.length_hint(flat) == 3
    for _ in range(2):
        assert flat.compute() == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    nested = NestedLazyChunkSequence.from_product(
        lambda row, column: (len(row[0]), len(column[0])), loader, loader
    )
    assert nested.compute()[2] == [(2, 4), (2, 4), (2, 2)]


# map


@given(numbers)
def test_map_fuses(items: list[int]) -> None:
    for flat in (LazyChunkSequence(lambda: iter(items)), LazyChunkSequence.from_map(abs, items)):
        assert list(flat.map(square).map(str)) == list(flat.map(lambda n: str(square(n))))
    for nested in (
        NestedLazyChunkSequence(lambda: [items, items]),
        NestedLazyChunkSequence.from_product(multiply, items, items),
    ):
        fused = nested.map(lambda n: str(square(n)))
        assert nested.map(square).map(str).compute() == fused.compute()


@given(numbers)
def test_map_of_the_identity_changes_nothing(items: list[int]) -> None:
    flat = LazyChunkSequence(lambda: iter(items), len(items))
    assert list(flat.map(lambda item: item)) == items
    assert flat.map(str).len_generator == len(items)
    nested = NestedLazyChunkSequence(lambda: [items], 1)
    assert nested.map(lambda item: item).compute() == [items]
    assert nested.map(str).len_outer_generator == 1


# Values.


@pytest.mark.parametrize("sequence", [*FLAT.values(), *NESTED.values()])
def test_a_sequence_survives_pickling(sequence: Any) -> None:
    pickled = pickle.loads(pickle.dumps(sequence))  # noqa: S301  # our own
    assert pickled == sequence
    assert hash(pickled) == hash(sequence)
    assert pickled.compute() == sequence.compute()


@pytest.mark.slow
def test_a_sequence_can_be_computed_in_another_process() -> None:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        assert list(pool.map(computed, FLAT.values())) == list(map(computed, FLAT.values()))


class Named(LazyChunkSequence[int]):
    """What a subclass adds is no field."""

    def __init__(self, name: str) -> None:
        super().__init__(three_blocks, 3)
        object.__setattr__(self, "name", name)

    name: str


def test_what_a_subclass_adds_is_kept(capsys: pytest.CaptureFixture[str]) -> None:
    """Regression: a copy of it, with a bar for instance, had the fields and nothing else."""
    named = Named("blocks")
    assert named.compute(operator.attrgetter("name"), progress=True) == "blocks"
    for copied in (copy.copy(named), pickle.loads(pickle.dumps(named))):  # noqa: S301  # our own
        assert (copied, copied.name, copied.compute()) == (named, "blocks", [1, 2, 3])
        with pytest.raises(FrozenInstanceError):
            copied.name = "others"


def test_a_sequence_of_a_lambda_cannot_be_pickled_and_says_so() -> None:
    with pytest.raises((pickle.PicklingError, AttributeError)):
        pickle.dumps(LazyChunkSequence(lambda: [1]))


def test_equality_is_by_fields() -> None:
    assert LazyChunkSequence(three_blocks, 3) == LazyChunkSequence(three_blocks, 3)
    assert LazyChunkSequence(three_blocks, 3) != LazyChunkSequence(three_blocks)
    others: list[object] = [LazyChunkSequence(two_rows), NestedLazyChunkSequence(two_rows)]
    assert others[0] != others[1]
    assert LazyChunkSequence(three_blocks) not in others
    assert len({LazyChunkSequence(three_blocks, 3), LazyChunkSequence(three_blocks, 3)}) == 1


@pytest.mark.parametrize("sequence", [FLAT["opaque"], NESTED["opaque"]])
def test_a_sequence_is_frozen_and_slotted(sequence: Any) -> None:
    assert not hasattr(sequence, "__dict__")
    for name in ("generator_factory", fields(sequence)[1].name, "anything_else"):
        with pytest.raises((FrozenInstanceError, AttributeError)):
            setattr(sequence, name, None)
        with pytest.raises((FrozenInstanceError, AttributeError)):
            delattr(sequence, name)


@pytest.mark.parametrize("kind", KINDS)
def test_a_sequence_can_be_made_with_its_type_argument(kind: Any) -> None:
    """Regression: ``typing`` sets an attribute on what it makes, which a frozen class refuses."""
    assert kind[int](list, 0) == kind(list, 0)


@pytest.mark.parametrize("kind", KINDS)
def test_parameters_have_the_names_and_the_order_of_the_contract(kind: Any) -> None:
    hint = "len_generator" if kind is LazyChunkSequence else "len_outer_generator"
    assert [field.name for field in fields(kind)] == ["generator_factory", hint]
    assert kind(list, 3) == kind(generator_factory=list, **{hint: 3})


# compute


def test_any_callable_over_the_sequence_aggregates() -> None:
    flat = FLAT["opaque"]
    assert flat.compute() == flat.compute(None) == flat.compute(list) == [1, 2, 3]
    assert flat.compute(max) == 3
    assert flat.compute(sum) == 6
    assert flat.compute(set) == {1, 2, 3}
    assert flat.compute(lambda sequence: sorted(sequence, reverse=True)) == [3, 2, 1]
    assert flat.compute(ListAggregator()) == [1, 2, 3]
    assert flat.compute(aggregator=ListAggregator()) == [1, 2, 3]
    nested = NESTED["opaque"]
    assert nested.compute() == nested.compute(NestedListAggregator()) == [[1, 2], [3, 4]]
    assert nested.compute(lambda rows: [max(row) for row in rows]) == [2, 4]


def test_an_aggregator_gets_the_sequence_with_its_hint(capsys: pytest.CaptureFixture[str]) -> None:
    for progress in (False, True):
        assert FLAT["opaque"].compute(operator.length_hint, progress=progress) == 3
        assert NESTED["opaque"].compute(operator.length_hint, progress=progress) == 2
        kind: type[object] = FLAT["opaque"].compute(type, progress=progress)
        assert kind is LazyChunkSequence


def test_aggregators_may_subclass_the_protocols_with_one_parameter_or_two() -> None:
    class Count(SequenceAggregator[object]):
        def __call__(self, tensor_sequence: LazyChunkSequence[object], /) -> int:
            return sum(1 for _ in tensor_sequence)

    class CountRows(NestedSequenceAggregator[object, int]):
        def __call__(self, nested_sequence_of_tensors: NestedLazyChunkSequence[object], /) -> int:
            return sum(1 for _ in nested_sequence_of_tensors)

    assert FLAT["opaque"].compute(Count()) == 3
    assert NESTED["opaque"].compute(CountRows()) == 2


def test_an_error_of_a_block_or_an_aggregator_is_raised_as_it_is() -> None:
    def failing() -> Iterable[int]:
        yield 1
        raise KeyError("block")

    with pytest.raises(KeyError, match="block"):
        LazyChunkSequence(failing).compute()
    with pytest.raises(ZeroDivisionError):
        FLAT["opaque"].compute(lambda _: 1 // 0)


def test_list_aggregators_are_values() -> None:
    assert ListAggregator() == ListAggregator()
    assert hash(NestedListAggregator()) == hash(NestedListAggregator())
    assert pickle.loads(pickle.dumps(ListAggregator())) == ListAggregator()  # noqa: S301
