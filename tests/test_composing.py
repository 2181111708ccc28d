"""Sequences compose: what they are together equals what lists and NumPy make of their blocks."""

from __future__ import annotations

import gc
import operator
import pickle
import weakref
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain as flatten_all
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lazychunks import (
    BlockDTypeError,
    BlockShapeError,
    BlockTypeError,
    IdentityConverter,
    LazyChunkSequence,
    LengthHintWarning,
    NestedLazyChunkSequence,
    NotSpreadableError,
    SourceTypeError,
    TopK,
    WriteAbortedError,
    chain,
    concatenate,
    nest,
    top_k,
    total,
    zip_blocks,
)
from lazychunks.blocks.factories import is_map_backed, rows_of_calls
from lazychunks.blocks.rebatching import cut
from lazychunks.blocks.slicing import shuffled_order
from lazychunks.testing import bits
from tests.strategies import Array, flat_blocks, nested_blocks

T = TypeVar("T")

Flat = LazyChunkSequence[Any]
Nested = NestedLazyChunkSequence[Any]

flatten = flatten_all.from_iterable
any_chain: Any = chain
any_zip: Any = zip_blocks

bounds = st.none() | st.integers(-8, 8)
slices = st.builds(slice, bounds, bounds, st.none() | st.sampled_from([-3, -2, -1, 1, 2, 3]))


@dataclass(frozen=True)
class Shelf:
    """Items that can be iterated again and again, and neither counted nor sliced."""

    items: tuple[int, ...]

    def __iter__(self) -> Iterator[int]:
        return iter(self.items)


def square(number: int) -> int:
    return number * number


def negated(number: int) -> int:
    return -number


def first_of(pair: tuple[T, object]) -> T:
    return pair[0]


def inverse(row: int, column: int) -> tuple[int, int]:
    return column, row


def only(blocks: Iterable[Array]) -> int:
    (block,) = blocks
    return int(block[0])


def entry(block: Array) -> int:
    return int(block[0])


def stored(numbers: list[int]) -> Flat:
    """The numbers, read back one by one from an array, ahead of their consumer."""
    if not numbers:
        return LazyChunkSequence.from_map(square, [])
    store: dict[str, Any] = {}
    blocks = LazyChunkSequence.from_map(np.atleast_1d, np.square(numbers))
    blocks.to_zarr(store, IdentityConverter(), chunks=(1,))
    return LazyChunkSequence.from_zarr(store, IdentityConverter(), rows=1).map(entry)


# Flat and map-backed sequences of the squares of some numbers.
FLAT: dict[str, Callable[[list[int]], Flat]] = {
    "a list": lambda n: LazyChunkSequence.from_map(square, n),
    "an iterable": lambda n: LazyChunkSequence.from_map(square, Shelf(tuple(n))),
    "mapped": lambda n: LazyChunkSequence.from_map(negated, n).map(square),
    "read ahead": stored,
    "a slice": lambda n: LazyChunkSequence.from_map(square, Shelf((0, *n, 0)))[1:-1],
    "a chain": lambda n: chain(
        LazyChunkSequence.from_map(square, n[:2]),
        LazyChunkSequence.from_map(negated, n[2:]).map(square),
    ),
    "a chain, mapped": lambda n: chain(
        LazyChunkSequence.from_map(abs, n[:2]), LazyChunkSequence.from_map(negated, n[2:])
    ).map(square),
    "zipped": lambda n: zip_blocks(
        LazyChunkSequence.from_map(square, n), LazyChunkSequence.from_map(negated, n)
    ).map(first_of),
    "folded rows": lambda n: NestedLazyChunkSequence.from_product(operator.mul, n, [1, -1]).rows(
        largest
    ),
    "a row": lambda n: (
        NestedLazyChunkSequence.from_product(inverse, [5, 3], n)[1].map(first_of).map(square)
    ),
    "a column": lambda n: NestedLazyChunkSequence.from_product(inverse, n, Shelf((5, 3)))[
        :, -1
    ].map(second_squared),
}


def largest(row: Iterable[int]) -> int:
    return max(row) ** 2


def second_squared(pair: tuple[int, int]) -> int:
    return pair[1] ** 2


flat_kinds = st.sampled_from(list(FLAT.values()))
numbers = st.lists(st.integers(-9, 9), max_size=7)


def blocks_by_calls(sequence: Any, axes: int = 1) -> list[Any]:
    """Blocks of a sequence, each computed by its call, the last one first."""
    rows = rows_of_calls(sequence.generator_factory, axes)
    assert rows is not None
    calls = [call for row in rows for call in row]
    assert all(call.func == calls[0].func for call in calls)
    return [call() for call in calls[::-1]][::-1]


def check_flat(sequence: Flat, expected: list[Any]) -> None:
    """Whether a map-backed sequence has these blocks, whoever asks for them."""
    assert sequence.compute() == expected
    assert list(iter(sequence)) == expected
    assert blocks_by_calls(sequence) == expected
    assert sequence.len_generator in (None, len(expected))


@given(numbers, flat_kinds)
def test_kinds_of_sequences_agree(items: list[int], kind: Callable[[list[int]], Flat]) -> None:
    check_flat(kind(items), [number**2 for number in items])


# Slices.


@given(numbers, flat_kinds, slices, slices)
def test_a_slice_is_that_of_a_list(
    items: list[int], kind: Callable[[list[int]], Flat], one: slice, other: slice
) -> None:
    sequence, expected = kind(items), [number**2 for number in items]
    check_flat(sequence[one], expected[one])
    check_flat(sequence[one][other], expected[one][other])
    check_flat(sequence.map(negated)[one].map(negated), expected[one])


@given(numbers, flat_kinds)
def test_an_index_is_that_of_a_list(items: list[int], kind: Callable[[list[int]], Flat]) -> None:
    sequence = kind(items)
    for index in range(-len(items), len(items)):
        assert sequence[index] == items[index] ** 2
        assert sequence[np.int64(index)] == items[index] ** 2
    for index in (-len(items) - 1, len(items)):
        with pytest.raises(IndexError, match=f"no block {index}"):
            sequence[index]


nested_kinds: st.SearchStrategy[Callable[[Any, Any], Nested]] = st.sampled_from(
    [
        lambda rows, columns: NestedLazyChunkSequence.from_product(inverse, rows, columns),
        lambda rows, columns: NestedLazyChunkSequence.from_product(
            inverse, Shelf(tuple(rows)), columns
        ),
        lambda rows, columns: NestedLazyChunkSequence.from_product(
            inverse, rows, Shelf(tuple(columns))
        ),
        lambda rows, columns: chain(
            NestedLazyChunkSequence.from_product(inverse, rows[:2], columns),
            NestedLazyChunkSequence.from_product(inverse, rows[2:], columns),
        ),
        lambda rows, columns: zip_blocks(
            NestedLazyChunkSequence.from_product(inverse, rows, columns),
            NestedLazyChunkSequence.from_product(operator.mul, rows, columns),
        ).map(first_of),
    ]
)
small = st.lists(st.integers(0, 9), min_size=1, max_size=4)


@given(small, small, nested_kinds, slices, slices)
def test_a_slice_of_a_nested_sequence_is_that_of_its_rows_and_columns(
    rows: list[int],
    columns: list[int],
    kind: Callable[[Any, Any], Nested],
    below: slice,
    across: slice,
) -> None:
    nested = kind(rows, columns)
    table = [[(column, row) for column in columns] for row in rows]
    assert nested.compute() == table
    sliced = nested[below, across]
    expected = [row[across] for row in table[below]]
    assert sliced.compute() == expected
    assert blocks_by_calls(sliced, axes=2) == [block for row in expected for block in row]
    assert sliced.len_outer_generator in (None, len(expected))
    assert nested[below].compute() == table[below]
    for row in range(-len(rows), len(rows)):
        check_flat(nested[row], table[row])
        check_flat(nested[row, across], table[row][across])
        assert nested[row, -1] == table[row][-1]
    for column in range(-len(columns), len(columns)):
        check_flat(nested[below, column], [row[column] for row in table[below]])


def test_a_row_or_a_column_that_is_not_there_is_refused() -> None:
    nested = NestedLazyChunkSequence.from_product(inverse, range(2), range(3))
    for index in (2, -3):
        with pytest.raises(IndexError, match=f"no row {index}"):
            nested[index].compute()
    for index in (3, -4):
        with pytest.raises(IndexError, match=f"no column {index}"):
            nested[:, index].compute()
        with pytest.raises(IndexError, match="no block"):
            nested[0, index]


def opaque() -> Iterator[int]:
    return iter((1, 2, 3))


def opaque_rows() -> Iterator[Iterator[int]]:
    return iter((iter((1, 2)), iter((3, 4))))


CHOOSE: list[Callable[[Flat], Any]] = [
    lambda flat: flat[1],
    lambda flat: flat[1:],
    lambda flat: flat.shuffle(3),
]


@pytest.mark.parametrize("choose", CHOOSE)
def test_what_cannot_skip_is_refused_with_the_way_out(choose: Callable[..., Any]) -> None:
    flat = LazyChunkSequence(opaque)
    with pytest.raises(SourceTypeError, match=r"LazyChunkSequence\.from_map"):
        choose(flat)


@pytest.mark.parametrize("index", [0, slice(1), (0, 0), (slice(1), 0), (0, slice(1))])
def test_a_nested_sequence_that_cannot_skip_is_refused_with_the_way_out(index: Any) -> None:
    for factory in (opaque_rows, lambda: [[1]]):
        with pytest.raises(SourceTypeError, match=r"NestedLazyChunkSequence\.from_product"):
            NestedLazyChunkSequence(factory)[index]


@pytest.mark.parametrize("index", ["1", 1.0, True, None, slice("a", None), slice(0, 1, 0)])
def test_what_is_no_index_is_refused_at_once(index: Any) -> None:
    flat: Any = LazyChunkSequence.from_map(square, Shelf((1, 2)))
    with pytest.raises((TypeError, ValueError)):
        flat[index]


# Chains.


@given(st.lists(st.tuples(numbers, flat_kinds), max_size=3))
def test_a_chain_has_the_blocks_of_its_parts(
    parts: list[tuple[list[int], Callable[[list[int]], Flat]]],
) -> None:
    expected = [number**2 for items, _ in parts for number in items]
    check_flat(chain(*(kind(items) for items, kind in parts)), expected)


@given(numbers, numbers)
def test_a_chain_with_an_opaque_part_is_opaque(one: list[int], other: list[int]) -> None:
    chained = chain(LazyChunkSequence(lambda: iter(one)), LazyChunkSequence.from_map(abs, other))
    assert chained.compute() == chained.compute() == one + list(map(abs, other))
    assert not is_map_backed(chained.generator_factory)
    assert chained.len_generator is None
    nested = chain(
        NestedLazyChunkSequence(lambda: ([number] for number in one)),
        NestedLazyChunkSequence.from_product(pow, other, [1]),
    )
    assert nested.compute() == [[number] for number in one + other]


@given(st.lists(flat_blocks(max_ndim=2), min_size=1, max_size=3))
def test_a_chain_of_stored_arrays_is_one_sequence_over_all_of_them(parts: list[Any]) -> None:
    sequences = list[Flat]()
    for part in parts:
        store: dict[str, Any] = {}
        part.sequence().to_zarr(store, IdentityConverter())
        sequences.append(LazyChunkSequence.from_zarr(store, IdentityConverter(), rows=2))
    chained = chain(*sequences)
    read = [bits(block) for sequence in sequences for block in sequence]
    assert [bits(block) for block in chained] == read
    assert [bits(block) for block in blocks_by_calls(chained)] == read
    assert [bits(block) for block in chained[1::2]] == read[1::2]


# Zipped sequences.


@given(numbers, flat_kinds, flat_kinds)
def test_zipped_blocks_are_those_of_zip(
    items: list[int], one: Callable[[list[int]], Flat], other: Callable[[list[int]], Flat]
) -> None:
    backwards = items[::-1]
    zipped = zip_blocks(one(items), other(backwards))
    squares = [number**2 for number in items]
    check_flat(zipped, list(zip(squares, squares[::-1], strict=True)))
    three = zip_blocks(one(items), other(items), LazyChunkSequence(lambda: iter(items)))
    assert three.compute() == list(zip(squares, squares, items, strict=True))


@given(st.integers(0, 4), st.integers(0, 4), st.booleans())
def test_sequences_of_different_lengths_are_not_zipped(one: int, other: int, hints: bool) -> None:
    def zipped() -> Flat:
        parts = [LazyChunkSequence.from_map(square, Shelf(tuple(range(n)))) for n in (one, other)]
        if hints:
            parts = [LazyChunkSequence.from_map(square, range(n)) for n in (one, other)]
        return zip_blocks(*parts)

    if one == other:
        assert len(zipped().compute()) == one
        return
    with pytest.raises(BlockShapeError, match="slice them"):
        zipped().compute()
    if not hints:
        with pytest.raises(BlockShapeError, match=f"ends before block {min(one, other)}"):
            blocks_by_calls(zipped())


def test_rows_of_different_lengths_are_not_zipped() -> None:
    one = NestedLazyChunkSequence(lambda: [[1, 2], [3]])
    other = NestedLazyChunkSequence(lambda: [[1, 2], [3, 4]])
    with pytest.raises(BlockShapeError, match="before block 1 of row 1"):
        zip_blocks(one, other).compute()
    with pytest.raises(BlockShapeError, match="before row 1"):
        zip_blocks(one, NestedLazyChunkSequence(lambda: [[1, 2]])).compute()


@pytest.mark.parametrize("combine", [any_chain, any_zip])
def test_flat_and_nested_sequences_are_not_combined(combine: Any) -> None:
    flat = LazyChunkSequence.from_map(square, [1])
    nested = NestedLazyChunkSequence.from_product(pow, [1], [1])
    for other in (nested, [1], opaque):
        with pytest.raises(SourceTypeError, match="all flat or all nested"):
            combine(flat, other)


# Shuffled sequences.


@given(st.lists(st.integers(0, 99), max_size=30, unique=True), st.integers(0, 2**70))
def test_a_shuffled_sequence_has_the_same_blocks(items: list[int], seed: int) -> None:
    sequence = LazyChunkSequence.from_map(square, items)
    shuffled = sequence.shuffle(seed)
    order = shuffled_order(len(items), seed)
    assert sorted(order) == list(range(len(items)))
    check_flat(shuffled, [items[number] ** 2 for number in order])
    assert shuffled == sequence.shuffle(seed)
    check_flat(shuffled[::2], shuffled.compute()[::2])


def test_the_order_is_the_same_in_all_versions() -> None:
    """A run that goes on with a newer Python must not meet other blocks."""
    assert shuffled_order(8, seed=0) == [3, 7, 5, 2, 4, 1, 6, 0]
    assert shuffled_order(8, seed=0) != shuffled_order(8, seed=1)


@pytest.mark.parametrize("seed", [-1, 1.5, None, True, "1"])
def test_what_is_no_seed_is_refused(seed: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="seed"):
        LazyChunkSequence.from_map(square, [1]).shuffle(seed)


# Blocks of other sizes.


def rechunked(whole: Array, rows: int) -> list[object]:
    """The oracle: slices of the whole; where there is no row, one block without rows."""
    return [bits(whole[start : start + rows]) for start in range(0, max(len(whole), 1), rows)]


@given(flat_blocks(), st.integers(1, 7))
def test_rebatched_blocks_are_slices_of_the_whole(drawn: Any, rows: int) -> None:
    expected = rechunked(drawn.whole, rows)
    sizes = [len(block) for block in drawn.blocks]
    opaque_blocks = drawn.sequence().rebatch(rows)
    assert [bits(block) for block in opaque_blocks] == expected
    assert [bits(block) for block in drawn.sequence().rebatch(rows, sizes=sizes)] == expected
    mapped = LazyChunkSequence.from_map(drawn.blocks.__getitem__, range(len(drawn.blocks)))
    rebatched = mapped.rebatch(rows, sizes=sizes)
    assert rebatched.len_generator == len(expected)
    assert [bits(block) for block in rebatched] == expected
    assert [bits(block) for block in blocks_by_calls(rebatched)] == expected
    again = rebatched.rebatch(rows + 1)
    assert is_map_backed(again.generator_factory)
    assert [bits(block) for block in blocks_by_calls(again)] == rechunked(drawn.whole, rows + 1)


@given(flat_blocks(max_ndim=2), st.integers(1, 4), st.integers(1, 7))
def test_a_stored_array_knows_its_sizes(drawn: Any, height: int, rows: int) -> None:
    store: dict[str, Any] = {}
    drawn.sequence().to_zarr(store, IdentityConverter())
    read = LazyChunkSequence.from_zarr(store, IdentityConverter(), rows=height)
    expected = rechunked(drawn.whole, rows)
    for sequence in (read.rebatch(rows), chain(read, read[:0]).rebatch(rows)):
        assert sequence.len_generator == len(expected)
        assert [bits(block) for block in sequence] == expected
        assert [bits(block) for block in blocks_by_calls(sequence)] == expected
    pairs = zip_blocks(read, read).rebatch(rows)
    assert [bits(one) for one, _ in blocks_by_calls(pairs)] == expected
    shuffled = read.shuffle(3)
    joined = np.concatenate(shuffled.compute())
    assert [bits(block) for block in blocks_by_calls(shuffled.rebatch(rows))] == rechunked(
        joined, rows
    )
    # A function may change the number of rows.
    assert not is_map_backed(read.map(np.negative).rebatch(rows).generator_factory)


@given(st.lists(st.integers(0, 4), max_size=5), st.integers(1, 5))
def test_pieces_are_cut_once_each(sizes: list[int], rows: int) -> None:
    def take(number: int, start: int, stop: int) -> list[tuple[int, int]]:
        return [(number, row) for row in range(start, stop)]

    def keep(piece: list[tuple[int, int]]) -> list[tuple[int, int]]:
        return piece

    made = [list(flatten(pieces)) for pieces in cut(enumerate(sizes), rows, take, keep)]
    assert list(flatten(made)) == [(n, row) for n, size in enumerate(sizes) for row in range(size)]
    assert all(len(block) == rows for block in made[:-1])
    assert all(0 < len(block) <= rows for block in made[-1:]) or sum(sizes) == 0
    assert len(made) == (max(-(-sum(sizes) // rows), 1) if sizes else 0)


def test_members_of_blocks_are_rebatched_together() -> None:
    def block(rows: int) -> dict[str, Any]:
        return {"x": np.full((rows, 2), rows), "more": (np.arange(rows), np.ones(rows))}

    made = LazyChunkSequence.from_map(block, [3, 1, 2]).rebatch(4).compute()
    assert [one["x"][:, 0].tolist() for one in made] == [[3, 3, 3, 1], [2, 2]]
    assert [one["more"][0].tolist() for one in made] == [[0, 1, 2, 0], [0, 1]]
    assert [type(one["more"]) for one in made] == [tuple, tuple]
    best = NestedLazyChunkSequence.from_product(
        lambda row, column: np.arange(6).reshape(2, 3) + row + column, range(3), range(2)
    ).rows(top_k(2, axis=1))
    joined = best.rebatch(5).compute()
    assert [one.values.shape for one in joined] == [(5, 2), (1, 2)]


def test_a_producer_may_use_its_memory_again() -> None:
    def blocks() -> Iterator[Array]:
        room = np.zeros(3)
        for number in range(4):
            room[:] = number
            yield room

    expected = [[0, 0, 0, 1], [1, 1, 2, 2], [2, 3, 3, 3]]
    made = [block.tolist() for block in LazyChunkSequence(blocks).rebatch(4)]
    assert made == expected
    room = np.zeros(3)

    def refill(number: int) -> Array:
        room[:] = number
        return room

    calls = LazyChunkSequence.from_map(refill, range(4)).rebatch(4, sizes=[3] * 4)
    rows = rows_of_calls(calls.generator_factory, axes=1)
    assert rows is not None
    assert [call().tolist() for row in rows for call in row] == expected


UNJOINED: list[tuple[list[Any], type[Exception], str]] = [
    ([np.ones(2), np.ones(1, int)], BlockDTypeError, "int64, expected float64"),
    ([np.ones((2, 3)), np.ones((1, 1))], BlockShapeError, r"shape \(1,\), expected \(3,\)"),
    ([np.float64(1)], BlockShapeError, "block 0 has no axis"),
    ([[1, 2]], BlockTypeError, "block 0 is a list"),
    ([{}], BlockTypeError, "empty dict"),
    ([{"a": 3}], BlockTypeError, r"member \['a'\] of block 0 is a int"),
    ([(np.ones(2), np.ones(3))], BlockShapeError, r"\[0\] has 2, \[1\] has 3"),
    ([(np.ones(2),), (np.ones(2), np.ones(2))], BlockTypeError, "expected a tuple of 0"),
    ([np.ones(2), (np.ones(2),)], BlockTypeError, "expected a ndarray"),
]


@pytest.mark.parametrize(("blocks", "error", "message"), UNJOINED)
def test_blocks_that_cannot_be_joined_are_refused(
    blocks: list[Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        LazyChunkSequence(lambda: iter(blocks)).rebatch(3).compute()


@pytest.mark.parametrize(
    ("sizes", "message"),
    [([2], "more than 1"), ([2, 2, 2], "has 2 blocks"), ([2, 3], "2 rows, .* told 3")],
)
def test_wrong_sizes_are_refused(sizes: list[int], message: str) -> None:
    made = LazyChunkSequence.from_map(np.ones, Shelf((2, 2))).rebatch(4, sizes=sizes)
    for compute in (list[Any], blocks_by_calls):
        with pytest.raises(BlockShapeError, match=message):
            compute(made)
    with pytest.raises(BlockShapeError, match=message):
        LazyChunkSequence(lambda: [np.ones(2)] * 2).rebatch(4, sizes=sizes).compute()


@pytest.mark.parametrize(("rows", "sizes"), [(0, None), (1.5, None), (2, [-1]), (2, ["1"])])
def test_what_are_no_sizes_are_refused_at_once(rows: Any, sizes: Any) -> None:
    with pytest.raises((TypeError, ValueError)):
        LazyChunkSequence.from_map(np.ones, [2]).rebatch(rows, sizes=sizes)


# Folded rows.


@given(nested_blocks(max_ndim=3))
def test_folded_rows_are_those_of_nest(drawn: Any) -> None:
    expected = [bits(np.concatenate(row, axis=1)) for row in drawn.rows]
    opaque_rows = drawn.sequence().rows(concatenate(axis=1))
    assert [bits(block) for block in opaque_rows] == expected
    height, width = len(drawn.rows), len(drawn.rows[0])
    nested = NestedLazyChunkSequence.from_product(
        lambda row, column: drawn.rows[row][column], range(height), range(width)
    )
    mapped = nested.rows(concatenate(axis=1))
    assert [bits(block) for block in mapped] == expected
    assert [bits(block) for block in blocks_by_calls(mapped)] == expected


@given(st.integers(1, 40), st.integers(1, 3), st.integers(0, 99))
def test_folded_rows_have_the_bits_of_nest(columns: int, rows: int, seed: int) -> None:
    def block(row: int, column: int) -> Array:
        return np.random.default_rng((seed, row, column)).standard_normal((3, 2))

    nested = NestedLazyChunkSequence.from_product(block, range(rows), range(columns))
    expected = nested.compute(nest(total(axis=1), concatenate()))
    assert bits(np.concatenate(nested.rows(total(axis=1)).compute())) == bits(expected)


def test_a_row_is_folded_when_it_is_asked_for() -> None:
    asked = list[tuple[int, int]]()

    def block(row: int, column: int) -> int:
        asked.append((row, column))
        return row

    folded = iter(NestedLazyChunkSequence.from_product(block, range(3), range(2)).rows(sum))
    assert asked == []
    assert next(folded) == 0
    assert asked == [(0, 0), (0, 1)]


@given(st.lists(numbers, max_size=4))
def test_rows_without_blocks_are_folded_too(rows: list[list[int]]) -> None:
    nested = NestedLazyChunkSequence(lambda: (iter(row) for row in rows))
    assert nested.rows(sum).compute() == [sum(row) for row in rows]


# Values.


def refuse(*_: object) -> Any:
    raise AssertionError("a block was computed")


def combine_all(fn: Callable[..., Any]) -> dict[str, Any]:
    """One sequence of each kind."""
    flat: Flat = LazyChunkSequence.from_map(fn, range(4))
    shelf: Flat = LazyChunkSequence.from_map(fn, Shelf((0, 1, 2, 3)))
    nested: Nested = NestedLazyChunkSequence.from_product(fn, range(2), Shelf((0, 1)))
    return {
        "slice": flat[1:],
        "slice of an iterable": shelf[::-1],
        "nested slice": nested[:, ::-1],
        "row": nested[1],
        "column": nested[:, 1],
        "chain": chain(flat, shelf),
        "nested chain": chain(nested, nested),
        "zip": zip_blocks(flat, flat),
        "nested zip": zip_blocks(nested, nested),
        "shuffle": flat.shuffle(3),
        "rebatch": flat.rebatch(3, sizes=[1, 1, 1, 1]),
        "opaque rebatch": flat.rebatch(3),
        "rows": nested.rows(total(axis=1)),
        "mapped rows": nested.rows(total(axis=1)).map(np.negative),
        "opaque chain": chain(LazyChunkSequence(fn), flat),
        "opaque zip": zip_blocks(LazyChunkSequence(fn), flat),
        "opaque rows": NestedLazyChunkSequence(fn).rows(sum),
    }


@pytest.mark.parametrize("name", combine_all(refuse))
def test_combined_sequences_are_values(name: str) -> None:
    """Nothing is computed by combining, and what is made alike is equal, here and elsewhere."""
    sequence = combine_all(refuse)[name]
    assert sequence == combine_all(refuse)[name]
    assert sequence != combine_all(square)[name]
    assert pickle.loads(pickle.dumps(sequence)) == sequence  # noqa: S301  # made here
    assert is_map_backed(sequence.generator_factory) == (not name.startswith("opaque"))


class Block(np.ndarray[Any, Any]):
    """An array with something that dies with it, so that a test sees whether it is alive."""

    witness: object


COMBINE: list[tuple[Callable[[Flat], Flat], bool]] = [
    (lambda flat: flat[1:-1], False),
    (lambda flat: flat.shuffle(2), False),
    (lambda flat: chain(flat, flat), False),
    (lambda flat: zip_blocks(flat[:3], flat[3:]).map(first_of), True),
    (lambda flat: zip_blocks(flat[:3], LazyChunkSequence(lambda: iter(flat[3:]))), True),
    (lambda flat: flat.rebatch(1), False),
    (lambda flat: flat.rebatch(2), False),
    (lambda flat: flat.map(np.array).rebatch(2, sizes=[1] * 6), False),
    (lambda flat: LazyChunkSequence(lambda: iter(flat)).map(np.array), False),
]


@pytest.mark.parametrize(("combine", "is_pair"), COMBINE)
def test_blocks_do_not_live_on(combine: Callable[[Any], Flat], is_pair: bool) -> None:
    alive: weakref.WeakSet[Any] = weakref.WeakSet()
    most = list[int]()

    class Witness:
        pass

    def block(number: int) -> Array:
        most.append(len(alive))
        made = np.full(1, number).view(Block)
        made.witness = Witness()
        alive.add(made.witness)
        return made

    for one in combine(LazyChunkSequence.from_map(block, range(6))):
        del one
    # Those of a pair are computed one after the other.
    assert max(most) <= is_pair
    gc.collect()
    assert not alive


# Stored: with workers, and by runs that go on.


def scores(row: int, column: int) -> Array:
    return np.random.default_rng((row, column)).standard_normal((2, 3))


def rows_of(number: int) -> Array:
    return np.arange(6).reshape(2, 3) + 10 * number


def added(pair: tuple[Array, Array]) -> Array:
    return pair[0] + pair[1]


def values_of(best: TopK[Array]) -> Array:
    return best.values


class Fails:
    """A function that fails from a number of calls on, as a job does that is killed."""

    def __init__(self, calls: int) -> None:
        self.left = calls

    def __call__(self, block: Array) -> Array:
        self.left -= 1
        if self.left < 0:
            raise RuntimeError("killed")
        return block


def stored_rows() -> Flat:
    store: dict[str, Any] = {}
    LazyChunkSequence.from_map(rows_of, range(9)).to_zarr(store, IdentityConverter())
    return LazyChunkSequence.from_zarr(store, IdentityConverter(), rows=2)


flat = LazyChunkSequence.from_map(rows_of, range(9))
table = NestedLazyChunkSequence.from_product(scores, range(8), range(12))

STORED: dict[str, Callable[[], Flat]] = {
    "slice": lambda: flat[1:8],
    "backwards": lambda: flat[::-1],
    "chain": lambda: chain(flat, flat.map(np.negative)),
    "chain of stored": lambda: chain(stored_rows(), stored_rows()),
    "zip": lambda: zip_blocks(flat, flat[::-1]).map(added),
    "shuffle": lambda: flat.shuffle(7),
    "rebatch": lambda: flat.rebatch(3, sizes=[2] * 9),
    "rebatch of stored": lambda: stored_rows().rebatch(3),
    "rows": lambda: table.rows(top_k(2, axis=1)).map(values_of),
    "column": lambda: table[:, 1],
    "row": lambda: table.map(np.negative)[2:, ::2][1],
}


@pytest.mark.parametrize("name", STORED)
def test_they_are_stored_like_any_sequence(name: str, tmp_path: Path) -> None:
    sequence = STORED[name]()
    expected = bits(np.concatenate(sequence.compute()))
    converter = IdentityConverter()
    made = sequence.to_zarr({}, converter, return_stored=True)
    assert bits(np.asarray(made[:])) == expected
    options: Any = {"run_id": "a", "resume": True, "chunks": (3, 3)}
    failing: Any = Fails(len(sequence.compute()) - 1)
    with pytest.raises(WriteAbortedError):
        sequence.map(failing).to_zarr(tmp_path / "a", converter, **options)
    counting: Any = Fails(1000)
    again = sequence.map(counting).to_zarr(tmp_path / "a", converter, True, **options)
    assert bits(np.asarray(again[:])) == expected
    assert 1000 - counting.left < len(sequence.compute())  # some were not computed again
    with ThreadPoolExecutor(2) as executor:
        spread = sequence.to_zarr(
            tmp_path / "b", converter, True, executor=executor, chunks=(len(sequence[0]), 3)
        )
    assert bits(np.asarray(spread[:])) == expected


def test_rebatched_blocks_whose_sizes_are_not_known_are_not_spread() -> None:
    with ThreadPoolExecutor(1) as executor, pytest.raises(NotSpreadableError, match="sizes"):
        flat.rebatch(3).compute(total(), executor=executor)


def test_a_wrong_hint_warns_once() -> None:
    wrong = LazyChunkSequence(lambda: iter((1, 2)), 3)
    with pytest.warns(LengthHintWarning, match="after 4 blocks"):
        assert chain(wrong, wrong).compute() == [1, 2, 1, 2]
