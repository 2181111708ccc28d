"""``concatenate`` and ``nested_concatenate``: what NumPy gives, or NumPy's own exception."""

import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lazychunks import (
    BlockShapeError,
    BlockTypeError,
    EmptySequenceError,
    LazyChunkSequence,
    LengthHintWarning,
    NestedLazyChunkSequence,
    concatenate,
    nest,
    nested_concatenate,
    testing,
)
from lazychunks.layout.shapes import Shape
from lazychunks.testing import check_fold, check_nested_fold
from tests.strategies import (
    Array,
    Flat,
    any_bits,
    bits,
    dtypes,
    flat_blocks,
    hints,
    layouts,
    seeds,
    shapes,
)


def joined(blocks: Sequence[Array]) -> Array:
    return np.concatenate(blocks)


def joined_rows(rows: Sequence[Sequence[Array]]) -> Array:
    return joined([np.concatenate(row, axis=1) for row in rows])


def outcome(computed: Callable[[], Array]) -> object:
    """Give the result's bits, or the type of the exception."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LengthHintWarning)
        try:
            return bits(computed())
        except (ValueError, TypeError) as error:
            return type(error)


# Law: same result as NumPy, whatever the partition and the hint.


def test_concatenate_is_np_concatenate() -> None:
    check_fold(concatenate(), testing.flat_blocks(max_ndim=4), joined)


def test_nested_concatenate_is_np_block() -> None:
    check_nested_fold(nested_concatenate(), testing.nested_blocks(max_ndim=4), joined_rows)


@given(st.data(), st.integers(1, 4), st.integers(1, 4))
def test_concatenate_along_any_axis(data: st.DataObject, ndim: int, count: int) -> None:
    axis = data.draw(st.integers(-ndim, ndim - 1), "axis")
    shape = data.draw(shapes(ndim), "shape")
    dtype = data.draw(dtypes)
    blocks: list[Array] = []
    for _ in range(count):
        changed = list(shape)
        changed[axis] = data.draw(st.integers(0, 4))
        blocks.append(any_bits(tuple(changed), dtype, data.draw(seeds), data.draw(layouts)))
    sequence = Flat(tuple(blocks)).sequence(data.draw(hints(count)))
    expected = bits(np.concatenate(blocks, axis=axis))
    assert outcome(lambda: sequence.compute(concatenate(axis))) == expected
    assert outcome(lambda: sequence.compute(concatenate(axis=axis))) == expected


# Law: same result or same exception, whatever the blocks.


@st.composite
def unfitting_blocks(draw: st.DrawFn) -> tuple[Array, ...]:
    """Draw blocks of which most fit, and of which some have another shape or dtype."""
    ndim = draw(st.integers(0, 3))
    shape = draw(shapes(ndim, 2))
    dtype = draw(dtypes)
    blocks: list[Array] = []
    for _ in range(draw(st.integers(1, 4))):
        one = draw(st.just(shape) | st.just((3, *shape[1:])) | st.integers(0, 3).flatmap(shapes))
        kind = draw(st.just(dtype) | dtypes)
        # Zeros and ones: promotion may change other values, and warn.
        blocks.append((any_bits(one, np.dtype("u1"), draw(seeds)) % 2).astype(kind))
    return tuple(blocks)


@given(st.data(), unfitting_blocks(), st.integers(-4, 4))
def test_same_result_or_same_exception(
    data: st.DataObject, blocks: tuple[Array, ...], axis: int
) -> None:
    sequence = Flat(blocks).sequence(data.draw(hints(len(blocks))))
    expected = outcome(lambda: np.concatenate(blocks, axis=axis))
    assert outcome(lambda: sequence.compute(concatenate(axis))) == expected


# Explicit cases.


def test_without_blocks_there_is_no_dtype() -> None:
    with pytest.raises(EmptySequenceError, match="no block"):
        LazyChunkSequence[Array](list).compute(concatenate())
    with pytest.raises(EmptySequenceError):
        NestedLazyChunkSequence[Array](list).compute(nested_concatenate())
    with pytest.raises(EmptySequenceError):
        NestedLazyChunkSequence[Array](lambda: [[]]).compute(nested_concatenate())
    with pytest.raises(ValueError, match="at least one"):
        np.concatenate([])  # which raises a ValueError as well


@pytest.mark.parametrize("hint", [None, 0, 1, 2, 3, 4, 100])
@pytest.mark.parametrize(
    "kinds", [("i1", "i1", "f4"), ("u1", "i1", "i1"), ("f4", "c8", "f8"), ("?", "?", "i2")]
)
def test_dtypes_are_promoted_as_numpy_does(kinds: tuple[str, ...], hint: int | None) -> None:
    blocks = tuple(np.ones((2, 2), kind) for kind in kinds)
    sequence = Flat(blocks).sequence(hint)
    assert outcome(lambda: sequence.compute(concatenate())) == bits(np.concatenate(blocks))


@pytest.mark.parametrize("hint", [None, 1, 3, 8])
@pytest.mark.parametrize("dtype", ["O", "U3", "S2", "M8[s]", "V2"])
def test_dtypes_that_cannot_be_stored_can_be_joined(dtype: str, hint: int | None) -> None:
    blocks = tuple(np.zeros((2, 2), dtype) for _ in range(3))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LengthHintWarning)
        joined = Flat(blocks).sequence(hint).compute(concatenate())
    assert joined.dtype == np.concatenate(blocks).dtype
    np.testing.assert_array_equal(joined, np.concatenate(blocks))


@pytest.mark.parametrize("hint", [None, 1, 2, 5])
@pytest.mark.parametrize("dtype", ["<i4", ">i4", ">f8", ">c8"])
def test_the_byte_order_is_that_of_np_concatenate(dtype: str, hint: int | None) -> None:
    blocks = (np.ones((2, 2), dtype),) * 2
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LengthHintWarning)
        joined = Flat(blocks).sequence(hint).compute(concatenate())
    assert joined.dtype.str == np.concatenate(blocks).dtype.str


class Tagged(np.ndarray[Any, Any]):
    """A subclass that adds nothing to the values."""


@pytest.mark.parametrize("hint", [None, 2, 3])
def test_subclasses_are_left_to_numpy(hint: int | None) -> None:
    tagged = np.array([[1, 2], [3, 4]]).view(Tagged)
    for blocks in ([tagged, tagged], [np.ones((1, 2), int), tagged]):
        expected = np.concatenate(blocks)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", LengthHintWarning)
            joined = LazyChunkSequence(blocks.copy, hint).compute(concatenate())
        assert type(joined) is type(expected)
        np.testing.assert_array_equal(np.asarray(joined), np.asarray(expected))


@pytest.mark.parametrize("hint", [None, 1, 2, 3])
@pytest.mark.parametrize("number", [0, 1])
def test_a_masked_array_is_refused(hint: int | None, number: int) -> None:
    """NumPy drops the mask, and what was -9999 beneath it would be data."""
    blocks: list[Any] = [np.ones((1, 2))] * 2
    blocks[number] = np.ma.masked_equal([[-9999.0, 1.0]], -9999.0)
    folds: list[Any] = [concatenate(), nest(concatenate(1), concatenate())]
    for folded in (*folds, nested_concatenate()):
        flat: Any = LazyChunkSequence(lambda: blocks, hint)
        rows: Any = NestedLazyChunkSequence(lambda: [blocks], 1)
        with pytest.raises(BlockTypeError, match="masked array, whose mask would be lost; fill it"):
            (flat if folded is folds[0] else rows).compute(folded)
    both: Any = LazyChunkSequence(lambda: [(block, 3) for block in blocks], hint)
    with pytest.raises(BlockTypeError, match="masked array"):
        both.compute(concatenate())


@pytest.mark.parametrize("heights", [(0,), (0, 0), (0, 2), (2, 0, 1), (5, 1, 1), (1, 9, 1)])
@pytest.mark.parametrize("hint", [None, 1, 2, 3, 50])
def test_ragged_and_zero_height_blocks(heights: Shape, hint: int | None) -> None:
    whole = np.arange(3 * sum(heights)).reshape(-1, 3)
    flat = Flat(tuple(np.split(whole, np.cumsum(heights)[:-1])))
    assert outcome(lambda: flat.sequence(hint).compute(concatenate())) == bits(whole)


@pytest.mark.parametrize("hint", [2**40, 2**62])
def test_a_hint_far_too_large_only_warns(hint: int) -> None:
    """Regression: it was allocated."""
    with pytest.warns(LengthHintWarning):
        joined = LazyChunkSequence(lambda: [np.arange(3)], hint).compute(concatenate())
    assert joined.tolist() == [0, 1, 2]
    with pytest.warns(LengthHintWarning):
        joined = NestedLazyChunkSequence(lambda: [[np.ones((1, 2))]], hint).compute(
            nested_concatenate()
        )
    assert joined.tolist() == [[1, 1]]


def test_a_right_hint_means_one_allocation(monkeypatch: pytest.MonkeyPatch) -> None:
    real = np.concatenate

    def refused(arrays: Sequence[Array], axis: int = 0) -> Array:
        if any(array.size for array in arrays):
            pytest.fail("np.concatenate needs all blocks beside the result")
        return real(arrays, axis)

    blocks = tuple(np.full((2, 3), i) for i in range(4))
    expected = np.concatenate(blocks)
    monkeypatch.setattr(np, "concatenate", refused)
    np.testing.assert_array_equal(Flat(blocks).sequence(4).compute(concatenate()), expected)


def test_aggregators_are_values() -> None:
    assert concatenate() == concatenate(0) != concatenate(1)
    assert nested_concatenate() == nested_concatenate()
    assert len({concatenate(), concatenate(axis=0)}) == 1


def test_any_iterable_of_arrays_can_be_joined() -> None:
    assert concatenate()([np.arange(2), np.arange(3)]).tolist() == [0, 1, 0, 1, 2]
    assert concatenate()(iter([np.arange(2), np.arange(3)])).tolist() == [0, 1, 0, 1, 2]


# Tuples are joined by component.


class Pair(NamedTuple):
    left: Array
    right: Array


@given(flat_blocks(), st.none() | st.integers(0, 8))
def test_tuples_are_joined_by_component(flat: Flat, hint: int | None) -> None:
    pairs = [Pair(block, block[:0]) for block in flat.blocks]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LengthHintWarning)
        joined: object = LazyChunkSequence[Any](lambda: pairs, hint).compute(concatenate())
    assert isinstance(joined, Pair)
    assert bits(joined.left) == bits(flat.whole)
    assert bits(joined.right) == bits(flat.whole[:0])


def test_plain_and_nested_tuples_stay_what_they_are() -> None:
    block: Any = ((np.ones(1), Pair(np.zeros(2), np.zeros(3))), 7, "name")
    joined: Any = concatenate()([block, block])
    (ones, pair), number, name = joined
    assert ones.tolist() == [1, 1]
    assert [type(pair), len(pair.right), number, name] == [Pair, 6, 7, "name"]


def test_tuples_that_are_not_alike_are_refused() -> None:
    x = np.ones(1)
    unlike: list[tuple[list[Any], type[Exception], str]] = [
        ([Pair(x, x), (x, x)], BlockTypeError, "a tuple, expected a Pair of 2"),
        ([(x, x), (x, x, x)], BlockTypeError, "expected a tuple of 2"),
        ([(x, 2), (x, 3)], BlockShapeError, "component 1 of a tuple of 2 is 3, expected 2"),
        ([[1.0]], BlockTypeError, "a list, which cannot be joined"),
    ]
    for blocks, error, message in unlike:
        with pytest.raises(error, match=message):
            concatenate()(blocks)


def test_what_only_has_a_shape_is_no_array() -> None:
    """Regression: a table of columns was asked for its one dtype."""

    class Table:
        shape = (2, 3)

    blocks: list[Any] = [Table(), Table()]
    with pytest.raises(BlockTypeError, match="a Table, which cannot be joined"):
        concatenate()(blocks)


@pytest.mark.parametrize("hint", [None, 2, 3])
def test_tensors_are_joined_as_torch_does(hint: int | None) -> None:
    torch = pytest.importorskip("torch")
    blocks: list[Any] = [torch.arange(6).reshape(2, 3), torch.ones((2, 1), dtype=torch.int64)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LengthHintWarning)
        joined: Any = LazyChunkSequence(blocks.copy, hint).compute(concatenate(axis=1))
    assert isinstance(joined, torch.Tensor)
    assert joined.tolist() == torch.cat(blocks, dim=1).tolist()
