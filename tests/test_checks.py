"""Checks of blocks, rows and numbers: they accept what NumPy accepts, and their messages."""

import itertools
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lazychunks import BlockShapeError, EmptyRowError, EmptySequenceError
from lazychunks.layout.checks import block_name, check_block, check_row, empty_sequence
from lazychunks.layout.shapes import Shape
from tests.strategies import partitions, shapes

# check_block along one axis: what np.concatenate accepts


def accepts_flat(shape: Shape, first: Shape) -> bool:
    try:
        np.concatenate([np.empty(first), np.empty(shape)])
    except ValueError:
        return False
    return True


def refusal(check: Callable[[], None]) -> BlockShapeError | None:
    try:
        check()
    except BlockShapeError as error:
        return error
    return None


def accepted_flat(shape: Shape, first: Shape) -> bool:
    error = refusal(lambda: check_block(shape, first, [None], block=1))
    assert error is None or (error.block, error.got) == (1, shape)
    return error is None


def few_shapes(most_axes: int) -> list[Shape]:
    return [s for ndim in range(most_axes + 1) for s in itertools.product(range(3), repeat=ndim)]


def test_every_small_block_is_accepted_as_np_concatenate_does() -> None:
    for shape, first in itertools.product(few_shapes(3), few_shapes(2)[1:]):
        assert accepted_flat(shape, first) == accepts_flat(shape, first), (shape, first)


@given(st.data(), st.integers(1, 4).flatmap(shapes))
def test_a_block_is_accepted_as_np_concatenate_does(data: st.DataObject, first: Shape) -> None:
    other = data.draw(st.integers(0, 4).flatmap(shapes) | st.just((3, *first[1:])))
    assert accepted_flat(other, first) == accepts_flat(other, first)


# check_block along two axes: what np.block accepts, and a grid at that


def test_every_small_block_is_accepted_if_it_fits_its_row_and_column() -> None:
    options: list[int | None] = [None, 1, 2]
    for shape, first in itertools.product(few_shapes(3), [(1, 2), (2, 1), (1, 1, 2)]):
        for height, width in itertools.product(options, repeat=2):
            fits = (
                len(shape) == len(first)
                and height in (None, shape[0])
                and width in (None, shape[1])
                and shape[2:] == first[2:]
            )
            check = partial(check_block, shape, first, (height, width), block=(3, 4))
            error = refusal(check)
            assert (error is None) == fits
            assert error is None or (error.block, error.got) == ((3, 4), shape)


@given(st.data(), partitions(3, 3), partitions(3, 3), st.integers(0, 2).flatmap(shapes))
def test_the_blocks_of_a_grid_are_accepted_and_a_changed_one_is_not(
    data: st.DataObject, heights: Shape, widths: Shape, trailing: Shape
) -> None:
    first = (heights[0], widths[0], *trailing)
    row = data.draw(st.integers(0, len(heights) - 1))
    column = data.draw(st.integers(0, len(widths) - 1))
    shape = (heights[row], widths[column], *trailing)
    where = (row, column)
    check_block(shape, first, shape[:2], block=where)
    axis = data.draw(st.integers(0, len(shape) - 1))
    changed = tuple(n + (number == axis) for number, n in enumerate(shape))
    with pytest.raises(BlockShapeError):
        check_block(changed, first, shape[:2], block=where)


# check_block where places are fixed beforehand


def test_every_small_block_is_accepted_if_it_is_even() -> None:
    options: list[int | None] = [None, 1, 2]
    for shape, first in itertools.product(few_shapes(3), [(1, 2), (2, 1), (1, 1, 2)]):
        for sizes in itertools.product(options, repeat=2):
            fits = (
                len(shape) == len(first)
                and shape[2:] == first[2:]
                and all(
                    have == size or (size is None and have <= most)
                    for have, size, most in zip(shape, sizes, first, strict=False)
                )
            )
            check = partial(check_block, shape, first, sizes, block=(3, 4), is_even=True)
            assert (refusal(check) is None) == fits


WAY_OUT = "; pad or reshape it, or store it as an array of its own"
EVEN_WAY_OUT = (
    "; with an executor or ranks only the last block along an axis may be smaller than the first: "
    "leave out executor= and ranks=, or pad it"
)

MISFITS: dict[str, tuple[Callable[[], None], str, tuple[object, object, object]]] = {
    "other width": (
        lambda: check_block((7, 31), (5, 32), [None], block=17),
        f"block 17 has shape (7, 31), expected (*, 32) like the blocks before it{WAY_OUT}",
        (17, ("*", 32), (7, 31)),
    ),
    "one axis": (
        lambda: check_block((7, 1), (5,), [None], block=2),
        f"block 2 has shape (7, 1), expected (*,) like the blocks before it{WAY_OUT}",
        (2, ("*",), (7, 1)),
    ),
    "no axis": (
        lambda: check_block((), (), [None], block=0),
        (
            "block 0 has shape (), expected at least 1 axis to be laid out along; yield blocks "
            "with more axes, e.g. block[None]"
        ),
        (0, "at least 1 axis", ()),
    ),
    "nested, one axis": (
        lambda: check_block((7,), (7,), [None, None], block=(0, 0)),
        (
            "block (0, 0) has shape (7,), expected at least 2 axes to be laid out along; yield "
            "blocks with more axes, or use a flat LazyChunkSequence"
        ),
        ((0, 0), "at least 2 axes", (7,)),
    ),
    "nested, other height": (
        lambda: check_block((7, 3), (2, 9), [2, 3], block=(1, 2)),
        f"block (1, 2) has shape (7, 3), expected (2, 3) like the blocks before it{WAY_OUT}",
        ((1, 2), (2, 3), (7, 3)),
    ),
    "even, smaller than the first": (
        lambda: check_block((2, 3), (4, 3), [4], block=1, is_even=True),
        f"block 1 has shape (2, 3), expected (4, 3){EVEN_WAY_OUT}",
        (1, (4, 3), (2, 3)),
    ),
    "even, larger than the first": (
        lambda: check_block((5, 3), (4, 3), [None, 3], block=(9, 0), is_even=True),
        f"block (9, 0) has shape (5, 3), expected (at most 4, 3){EVEN_WAY_OUT}",
        ((9, 0), ("*", 3), (5, 3)),
    ),
}


@pytest.mark.parametrize("name", MISFITS)
def test_a_message_says_what_place_and_way_out(name: str) -> None:
    check, message, facts = MISFITS[name]
    with pytest.raises(BlockShapeError) as caught:
        check()
    error = caught.value
    assert (str(error), (error.block, error.expected, error.got)) == (message, facts)


# check_row


@given(st.integers(0, 9), st.integers(0, 5), st.integers(1, 5))
def test_a_row_has_as_many_blocks_as_the_rows_before_it(row: int, count: int, columns: int) -> None:
    if count == columns:
        check_row(row, count, columns)
    else:
        with pytest.raises(EmptyRowError if count == 0 else BlockShapeError):
            check_row(row, count, columns)


def test_the_error_of_a_row_says_which_and_what_was_expected() -> None:
    with pytest.raises(EmptyRowError, match=r"row 2 holds no block, .* leave the row out") as empty:
        check_row(2, 0, 3)
    assert empty.value.row == 2
    for count, found in ((2, "2 blocks"), (4, "more than 3 blocks")):
        with pytest.raises(BlockShapeError, match=f"row 1 has {found}, expected 3 like") as caught:
            check_row(1, count, 3)
        error = caught.value
        assert (error.block, error.expected, error.got) == ((1, min(count, 3)), 3, found)


def test_a_sequence_without_blocks_has_an_error_of_its_own() -> None:
    assert isinstance(empty_sequence(), EmptySequenceError)
    assert "the sequence holds no block" in str(empty_sequence())


def test_a_block_is_named_by_its_number_or_its_row_and_column() -> None:
    assert (block_name((3,)), block_name((3, 4))) == (3, (3, 4))
