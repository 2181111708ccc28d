"""``top_k``: the stable sort of the joined blocks, cut at k."""

# pyright: reportUnknownMemberType=false
# torch types some of its functions partially.

import math
import pickle
import warnings
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np
import pytest
from array_api_compat import array_namespace
from hypothesis import given
from hypothesis import strategies as st

from lazychunks import (
    BlockDTypeError,
    BlockShapeError,
    BlockTypeError,
    EmptySequenceError,
    NestedFold,
    NestedLazyChunkSequence,
    TopK,
    concatenate,
    nest,
    tee,
    top_k,
    total,
)
from lazychunks.folds.top_k import _sort_keys  # pyright: ignore[reportPrivateUsage]
from lazychunks.layout.shapes import Shape
from lazychunks.testing import check_fold, dtypes, flat_blocks
from tests.strategies import Array, any_bits, layouts, seeds

KINDS = ("?", "i1", "<i4", ">i8", "u1", "<u8", "<f2", "<f4", ">f4", "<f8")
FEW = np.array([0, 1, 1, 3, 7, 200])
"""Values with many ties."""


def ranked(whole: Array, k: int, axis: int, *, largest: bool) -> tuple[Array, Array]:
    """Rank by a stable sort, with NaN behind all others: the oracle."""
    order = np.moveaxis(np.empty(whole.shape, int), axis, -1)
    lanes = np.moveaxis(whole, axis, -1)
    for lane in np.ndindex(lanes.shape[:-1]):
        entries: list[float] = lanes[lane].tolist()
        keys = [(math.isnan(x), -x if largest else x) for x in entries]
        order[lane] = sorted(range(len(keys)), key=keys.__getitem__)
    chosen = np.moveaxis(order[..., :k], -1, axis)
    return np.take_along_axis(whole, chosen, axis), chosen


def same(best: TopK[Array], expected: tuple[Array, Array]) -> None:
    values, indices = expected
    np.testing.assert_array_equal(best.indices, indices)
    # In bfloat16, NumPy does not know each NaN for one.
    wide = np.dtype("f8") if values.dtype.name == "bfloat16" else values.dtype
    with np.errstate(invalid="ignore"):
        np.testing.assert_array_equal(best.values.astype(wide), values.astype(wide))
    assert best.values.dtype == values.dtype.newbyteorder("=")
    assert best.indices.dtype == np.int64


class Drawn(NamedTuple):
    """Blocks along an axis, and how to rank them."""

    blocks: tuple[Array, ...]
    k: int
    axis: int
    largest: bool

    @property
    def expected(self) -> tuple[Array, Array]:
        whole = np.concatenate(self.blocks, self.axis)
        return ranked(whole, self.k, self.axis, largest=self.largest)


@st.composite
def drawn(draw: st.DrawFn, kinds: tuple[str, ...] = KINDS, max_size: int = 9) -> Drawn:
    """Draw blocks of arbitrary bits (NaN included), or of few values (ties)."""
    ndim = draw(st.integers(1, 3))
    axis = draw(st.integers(-ndim, ndim - 1))
    shape = list(draw(st.tuples(*[st.integers(0, 3)] * ndim)))
    dtype = np.dtype(draw(st.sampled_from(kinds)))
    blocks: list[Array] = []
    for length in draw(st.lists(st.integers(0, max_size), min_size=1, max_size=5)):
        shape[axis] = length
        if draw(st.booleans()):
            blocks.append(any_bits(tuple(shape), dtype, draw(seeds), draw(layouts)))
        else:
            random = np.random.default_rng(draw(seeds))
            few = random.choice(FEW, tuple(shape)).astype(dtype)
            if dtype.kind == "f":
                few[few == 200] = np.nan
            blocks.append(few)
    return Drawn(tuple(blocks), draw(st.integers(1, 12)), axis, draw(st.booleans()))


# Law: the result is that of the joined blocks, whatever the partition.


@given(drawn())
def test_top_k_is_a_stable_sort_cut_at_k(given_: Drawn) -> None:
    blocks, k, axis, largest = given_
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        best = top_k(k, axis, axis, largest=largest)(blocks)
    same(best, given_.expected)


@given(drawn(), st.data())
def test_axis_and_along_may_differ(given_: Drawn, data: st.DataObject) -> None:
    blocks, k, along, largest = given_
    ndim = blocks[0].ndim
    axis = data.draw(st.integers(-ndim, ndim - 1))
    whole = np.concatenate(blocks, along)
    best = top_k(k, axis, along, largest=largest)(blocks)
    same(best, ranked(whole, k, axis, largest=largest))


@given(drawn(), st.integers(1, 4))
def test_long_blocks_are_taken_in_parts(given_: Drawn, width: int) -> None:
    blocks, k, axis, largest = given_
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lazychunks.folds.top_k._WIDTH", width)
        same(top_k(k, axis, axis, largest=largest)(blocks), given_.expected)


@given(st.integers(0, 2**32), st.sampled_from(["random", "rising", "falling", "equal", "late"]))
def test_many_candidates(seed: int, order: str) -> None:
    """Lanes of hundreds of entries, whose best come early, late, all at once or not at all."""
    random = np.random.default_rng(seed)
    whole = random.standard_normal((3, 700)).astype("f4")
    if order == "rising":
        whole = np.sort(whole)
    elif order == "falling":
        whole = -np.sort(whole)
    elif order == "equal":
        whole[:] = 1
    elif order == "late":
        whole[1, 500:] += 100
    whole[:, random.integers(0, 700, 9)] = np.nan
    for cuts in ([], [5, 7, 300], range(50, 700, 50)):
        best = top_k(8, axis=1, along=1)(np.split(whole, cuts, axis=1))
        same(best, ranked(whole, 8, 1, largest=True))


@given(st.data(), st.booleans(), st.integers(1, 6))
def test_per_row_of_a_nested_sequence(data: st.DataObject, largest: bool, k: int) -> None:
    sizes = st.lists(st.integers(1, 4), min_size=1, max_size=4)
    heights, widths = data.draw(sizes), data.draw(sizes)
    whole = any_bits((sum(heights), sum(widths)), np.dtype("f4"), data.draw(seeds))
    rows = [
        np.split(row, np.cumsum(widths)[:-1], axis=1)
        for row in np.split(whole, np.cumsum(heights)[:-1])
    ]
    hint = data.draw(st.none() | st.just(len(rows)))
    fold: NestedFold[Array, TopK[Array]] = nest(top_k(k, axis=1, largest=largest), concatenate())
    best = NestedLazyChunkSequence(lambda: rows, hint).compute(fold)
    assert isinstance(best, TopK)
    same(best, ranked(whole, k, 1, largest=largest))


@given(st.integers(0, 40), st.sampled_from(["<i4", "<f4", "<f8", "<i8"]), seeds)
def test_the_order_of_keys_is_the_stable_one(count: int, dtype: str, seed: int) -> None:
    """What is fast for keys of 32 bits must be the order of the others."""
    keys = any_bits((count,), np.dtype(dtype), seed)
    random = np.random.default_rng(seed)
    if keys.dtype.kind == "f":
        special = np.array([0.0, -0.0, np.nan, -np.nan, np.inf, -np.inf, 1, -1], dtype)
        keys = np.where(random.random(count) < 0.7, random.choice(special, count), keys)
    else:
        keys[random.random(count) < 0.5] = -1
    sort_keys: Any = _sort_keys
    order = sort_keys(array_namespace(keys), keys)
    np.testing.assert_array_equal(order, np.argsort(keys, kind="stable"))


# The rules.


def test_blocks_without_a_candidate_leave_nothing() -> None:
    """Regression: they were kept, and counted again with each block."""
    running: Any = top_k(2).start((None,))
    for _ in range(9):
        running.step(np.ones((1, 4)))
    assert running.waiting == []
    assert running.finish().indices.tolist() == [[0] * 4, [1] * 4]


def test_of_equal_entries_the_first_is_the_better_one() -> None:
    blocks = [np.array([1, 5, 5]), np.array([5, 1, 0])]
    assert top_k(2)(blocks).indices.tolist() == [1, 2]
    assert top_k(2, largest=False)(blocks).indices.tolist() == [5, 0]
    zeros = [np.array([-0.0]), np.array([0.0])]
    assert (
        top_k(1)(zeros).indices.tolist() == top_k(1, largest=False)(zeros).indices.tolist() == [0]
    )


@pytest.mark.parametrize("largest", [True, False])
def test_nan_is_the_worst_in_both_directions(largest: bool) -> None:
    nan, inf = np.nan, np.inf
    blocks = [np.array([nan, -inf]), np.array([nan, inf]), np.array([2.0, nan])]
    best = top_k(5, largest=largest)(blocks)
    assert best.indices.tolist() == ([3, 4, 1] if largest else [1, 4, 3]) + [0, 2]
    assert np.isnan(best.values).tolist() == [False, False, False, True, True]


@pytest.mark.parametrize("blocks", [[[1.0, 3.0], [2.0]], [[], [1.0]], [[]], [[], []]])
def test_where_there_are_fewer_than_k_all_are_given(blocks: list[list[float]]) -> None:
    best = top_k(5)([np.array(block) for block in blocks])
    assert best.values.tolist() == sorted((x for block in blocks for x in block), reverse=True)
    assert best.indices.shape == best.values.shape


def test_extreme_integers_do_not_overflow() -> None:
    for dtype in ("i1", "i8", "u1", "u8"):
        info = np.iinfo(dtype)
        ends = [np.array([info.min, 0], dtype), np.array([info.max], dtype)]
        assert top_k(1)(ends).values.tolist() == [info.max]
        assert top_k(1, largest=False)(ends).values.tolist() == [info.min]


@pytest.mark.parametrize(("shape", "axis"), [((0, 3), 0), ((3, 0), 0), ((0, 3), 1), ((3, 0), 1)])
def test_blocks_without_entries(shape: Shape, axis: int) -> None:
    best = top_k(2, axis, axis)([np.zeros(shape), np.zeros(shape)])
    expected = list(shape)
    expected[axis] = min(2, 2 * shape[axis])
    assert best.values.shape == best.indices.shape == tuple(expected)


@given(st.data())
def test_bfloat16(data: st.DataObject) -> None:
    """Arrays of ml_dtypes, and tensors."""
    pytest.importorskip("ml_dtypes", reason="ml_dtypes is not installed")
    pytest.importorskip("torch", reason="torch is not installed")
    from lazychunks.torch import TorchNumpyConverter
    from lazychunks.torch import top_k as top_k_of_tensors

    blocks, k, axis, largest = data.draw(drawn(("bfloat16",)))
    expected = ranked(np.concatenate(blocks, axis), k, axis, largest=largest)
    same(top_k(k, axis, axis, largest=largest)(blocks), expected)
    to = TorchNumpyConverter()
    best = top_k_of_tensors(k, axis, axis, largest=largest)(map(to.from_numpy, blocks))
    same(TopK(to.to_numpy(best.values), to.to_numpy(best.indices)), expected)


# Errors.


@pytest.mark.parametrize("k", [0, -1])
def test_k_is_at_least_one(k: int) -> None:
    with pytest.raises(ValueError, match=f"k must be at least 1, got {k}"):
        top_k(k)


@pytest.mark.parametrize("k", [2.0, "2", None, True])
def test_k_is_an_integer(k: Any) -> None:
    """Regression: it was found out with the first block."""
    with pytest.raises(TypeError, match="k must be an integer"):
        top_k(k)
    assert top_k(2) == top_k(np.int64(2))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # as numpy gives it


def test_without_blocks_there_is_no_dtype() -> None:
    with pytest.raises(EmptySequenceError):
        top_k(3)([])


def test_blocks_that_cannot_be_ranked() -> None:
    with pytest.raises(BlockDTypeError, match="no order"):
        top_k(1)([np.ones(2, complex)])
    with pytest.raises(BlockDTypeError, match="cannot be reduced"):
        top_k(1)([np.array(["a"])])
    with pytest.raises(BlockTypeError, match="masked"):
        top_k(1)([np.ma.masked_equal([1, 2], 2)])


def test_blocks_unlike_those_before() -> None:
    with pytest.raises(BlockShapeError, match=r"block 1 has shape \(2, 4\), expected \(\*, 3\)"):
        top_k(1)([np.ones((2, 3)), np.ones((2, 4))])
    with pytest.raises(BlockDTypeError, match="block 1 has dtype float32, expected float64"):
        top_k(1)([np.ones(3), np.ones(3, "f4")])
    with pytest.raises(BlockShapeError, match="no axis 1"):
        top_k(1, axis=1, along=1)([np.ones(3)])


# It is a fold like the others.


def test_a_top_k_is_a_value() -> None:
    fold = top_k(3, axis=1, along=1, largest=False)
    assert fold == top_k(3, 1, 1, largest=False) != top_k(3, 1, 1)
    assert repr(fold) == "TopKFold(k=3, axis=1, largest=False)"
    assert pickle.loads(pickle.dumps(fold)) == fold  # noqa: S301  # our own
    best = fold([np.eye(2)])
    copy: TopK[Array] = pickle.loads(pickle.dumps(best))  # noqa: S301  # our own
    assert type(copy) is TopK
    np.testing.assert_array_equal(copy.indices, best.indices)


@pytest.mark.parametrize("k", [1, 3, 30])
def test_a_top_k_keeps_the_laws_of_a_fold(k: int) -> None:
    def oracle(blocks: Sequence[Array]) -> TopK[Array]:
        return TopK(*ranked(np.concatenate(blocks), k, 0, largest=True))

    check_fold(top_k(k), flat_blocks(dtypes("f"), values="whole", max_ndim=2), oracle)


def test_tee_of_both_directions_generates_once() -> None:
    generated: list[int] = []

    def block(number: int) -> Array:
        generated.append(number)
        return np.full(2, number)

    good, bad = tee(top_k(2), top_k(2, largest=False))(map(block, range(4)))
    assert generated == [0, 1, 2, 3]
    assert good.indices.tolist() == [6, 7]
    assert bad.indices.tolist() == [0, 1]


def test_tuples_of_tuples_are_joined_by_component() -> None:
    rows = [[np.arange(6.0).reshape(2, 3)], [np.ones((1, 3))]]
    best, sums = nest(tee(top_k(2, axis=1), total(axis=1)), concatenate())(rows)
    assert best.indices.tolist() == [[2, 1], [2, 1], [0, 1]]
    assert sums.tolist() == [3, 12, 3]


# Tensors.


needs_torch = pytest.mark.skipif(find_spec("torch") is None, reason="torch is not installed")


@needs_torch
@given(drawn(("?", "i1", "<i4", "<i8", "u1", "<f2", "<f4", "<f8")))
def test_tensors_give_what_arrays_give(given_: Drawn) -> None:
    import torch

    from lazychunks.torch import top_k as top_k_of_tensors

    blocks, k, axis, largest = given_
    tensors = [torch.from_numpy(np.array(block, order="C")) for block in blocks]
    best = top_k_of_tensors(k, axis, axis, largest=largest)(tensors)
    assert isinstance(best.values, torch.Tensor)
    same(TopK(best.values.numpy(), best.indices.numpy()), given_.expected)


@needs_torch
def test_tensors_with_a_graph_and_narrow_ones() -> None:
    import torch

    from lazychunks.torch import top_k as top_k_of_tensors

    best = top_k_of_tensors(2)([torch.tensor([1.0, 3.0], requires_grad=True)])
    assert not best.values.requires_grad
    for dtype in (torch.bfloat16, torch.float16):
        best = top_k_of_tensors(2)([torch.tensor([1, 3, 2], dtype=dtype)])
        assert best.values.dtype is dtype
        assert best.values.tolist() == [3, 2]
