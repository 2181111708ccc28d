"""The reductions: what NumPy gives for the joined blocks, whatever the partition."""

# pyright: reportUnknownMemberType=false
# torch types some of its functions partially.

import math
import pickle
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lazychunks import (
    BlockDTypeError,
    BlockShapeError,
    BlockTypeError,
    EmptySequenceError,
    Fold,
    LazyChunkSequence,
    Moments,
    NestedFold,
    NestedLazyChunkSequence,
    concatenate,
    count,
    first,
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
from lazychunks.testing import arrays, check_fold
from lazychunks.testing.values import Layout, laid_out
from tests.strategies import Array, bits, layouts, seeds

Of = Callable[..., Fold[Array, Array]]
Oracle = Callable[[Array, int | None], Any]

INEXACT = ("<f2", "<f4", ">f4", "<f8", "<c8", ">c16")
EXACT = ("?", "i1", ">i2", "<i4", "<i8", "u1", "<u4", "<u8")
REAL = tuple(kind for kind in (*INEXACT, *EXACT) if "c" not in kind)


def variance(axis: int | None, along: int | None = None) -> Fold[Array, Array]:
    return moments(axis, along).then(lambda found: found.variance)


def mean_of_moments(axis: int | None, along: int | None = None) -> Fold[Array, Array]:
    return moments(axis, along).then(lambda found: found.mean)


def norm_of(x: Array, axis: int | None) -> Any:
    if x.dtype.kind == "b":
        x = x.astype(float)  # it refuses to square booleans
    return np.linalg.norm(x.reshape(-1) if axis is None else x, axis=axis)


ORACLES: list[tuple[Of, Oracle]] = [
    (total, lambda x, axis: x.sum(axis)),
    (mean, lambda x, axis: x.mean(axis)),
    (mean_of_moments, lambda x, axis: x.mean(axis)),
    (variance, lambda x, axis: x.var(axis)),
    (norm, norm_of),
]
NAMES = ["total", "mean", "mean of moments", "variance", "norm"]


def numbers(shape: Sequence[int], dtype: str, seed: int, layout: Layout) -> Array:
    """Make numbers of moderate size, in which NumPy's own sums have little error."""
    random = np.random.default_rng(seed)
    drawn: Any = 4 * random.standard_normal(tuple(shape)) + random.integers(-3, 3)
    if "c" in dtype:
        drawn = drawn + 1j * random.standard_normal(tuple(shape))
    array: Array = np.abs(drawn).astype(dtype) if "u" in dtype else drawn.astype(dtype)
    return laid_out(array, layout)


@st.composite
def drawn(
    draw: st.DrawFn, kinds: tuple[str, ...] = (*INEXACT, *EXACT)
) -> tuple[tuple[Array, ...], int]:
    """Draw blocks and the axis that they are joined along."""
    ndim = draw(st.integers(1, 3))
    axis = draw(st.integers(-ndim, ndim - 1))
    shape = list(draw(st.tuples(*[st.integers(0, 3)] * ndim)))
    dtype = draw(st.sampled_from(kinds))
    blocks: list[Array] = []
    for length in draw(st.lists(st.integers(0, 9), min_size=1, max_size=5)):
        shape[axis] = length
        blocks.append(numbers(shape, dtype, draw(seeds), draw(layouts)))
    return tuple(blocks), axis


def expect(computed: Array, whole: Array, oracle: Oracle, axis: int | None) -> None:
    """Compare with NumPy in double precision, and with NumPy's own dtype."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # NumPy's of means of nothing
        exact = whole.dtype.kind in "iub"
        precise = whole if exact else whole.astype("c16" if whole.dtype.kind == "c" else "f8")
        expected = np.asarray(oracle(precise, axis))
        dtype = np.asarray(oracle(whole, axis)).dtype.newbyteorder("=")
    assert isinstance(computed, np.ndarray)
    assert computed.dtype == dtype
    assert computed.dtype.isnative
    # Rounding the result once, and double precision within.
    bound = max(np.finfo(dtype).eps if dtype.kind in "fc" else 0, 1e-13)
    scale = float(np.abs(precise.astype("c16")).sum()) + 1
    np.testing.assert_allclose(computed, expected, rtol=bound, atol=1e-15 * scale)
    assert computed.shape == expected.shape


# Law: the result is that of the joined blocks.


@pytest.mark.parametrize(("of", "oracle"), ORACLES, ids=NAMES)
@given(given_=drawn())
def test_a_reduction_is_that_of_the_joined_blocks(
    of: Of, oracle: Oracle, given_: tuple[tuple[Array, ...], int]
) -> None:
    blocks, axis = given_
    expect(of(axis, axis)(blocks), np.concatenate(blocks, axis), oracle, axis)
    expect(of(None, None)(blocks), np.concatenate(blocks, axis), oracle, None)


@pytest.mark.parametrize("largest", [False, True])
@given(given_=drawn(REAL), unknown=st.booleans())
def test_an_extremum_is_that_of_the_joined_blocks(
    largest: bool,
    given_: tuple[tuple[Array, ...], int],
    unknown: bool,
) -> None:
    blocks, axis = given_
    if unknown and blocks[0].dtype.kind == "f":
        blocks = tuple(np.where(np.abs(block) < 1, np.nan, block) for block in blocks)
    whole = np.concatenate(blocks, axis)
    of = maximum if largest else minimum
    for over in (axis, None):
        if whole.size if over is None else whole.shape[axis]:
            expected = np.asarray(whole.max(over) if largest else whole.min(over))
            assert bits(of(over, over)(blocks) + 0) == bits(expected + 0)  # -0.0 is as good as 0.0
        else:
            with pytest.raises(EmptySequenceError, match="without an entry"):
                of(over, over)(blocks)


@given(drawn())
def test_a_count_is_the_length_of_the_joined_blocks(given_: tuple[tuple[Array, ...], int]) -> None:
    blocks, axis = given_
    whole = np.concatenate(blocks, axis)
    assert count(axis, axis)(blocks) == moments(axis, axis)(blocks).number == whole.shape[axis]
    assert count(None)(blocks) == moments(None)(blocks).number == whole.size


@given(drawn())
def test_the_ends_are_the_first_and_the_last_block(given_: tuple[tuple[Array, ...], int]) -> None:
    blocks, _ = given_
    for fold, block in ((first(), blocks[0]), (last(), blocks[-1])):
        kept = fold(blocks)
        assert bits(kept) == bits(block)
        assert not np.shares_memory(kept, block)


@pytest.mark.parametrize(("of", "oracle"), ORACLES, ids=NAMES)
@given(heights=st.lists(st.integers(1, 4), min_size=1), seed=seeds)
def test_per_row_of_a_nested_sequence(
    of: Of, oracle: Oracle, heights: list[int], seed: int
) -> None:
    whole = numbers((sum(heights), 7), "f8", seed, "C")
    rows = [np.split(row, [2, 3], axis=1) for row in np.split(whole, np.cumsum(heights)[:-1])]
    fold: NestedFold[Array, Array] = nest(of(1), concatenate())
    computed = NestedLazyChunkSequence(lambda: rows).compute(fold)
    expect(computed, whole, oracle, 1)


# Law: blocks may be joined along another axis than the reduced one.


@st.composite
def drawn_along(
    draw: st.DrawFn, kinds: tuple[str, ...] = (*INEXACT, *EXACT)
) -> tuple[tuple[Array, ...], int, int]:
    """Draw blocks of numbers that are joined along an axis, and another axis to reduce."""
    ndim = draw(st.integers(2, 3))
    axes = draw(st.permutations(range(ndim)))
    shape = list(draw(st.tuples(*[st.integers(1, 4)] * ndim)))
    kind = draw(st.sampled_from(kinds))
    blocks: list[Array] = []
    for length in draw(st.lists(st.integers(0, 4), min_size=1, max_size=5)):
        shape[axes[0]] = length
        blocks.append(numbers(shape, kind, draw(seeds), draw(layouts)))
    signs = draw(st.tuples(st.booleans(), st.booleans()))
    along, axis = (a - ndim * negative for a, negative in zip(axes, signs, strict=False))
    return tuple(blocks), axis, along


@pytest.mark.parametrize(("of", "oracle"), ORACLES, ids=NAMES)
@given(given_=drawn_along())
def test_axis_and_along_may_differ(
    of: Of,
    oracle: Oracle,
    given_: tuple[tuple[Array, ...], int, int],
) -> None:
    blocks, axis, along = given_
    whole = np.concatenate(blocks, along)
    expect(of(axis, along)(blocks), whole, oracle, axis)
    expect(of(None, along)(blocks), whole, oracle, None)


@given(given_=drawn_along(REAL))
def test_extrema_and_counts_along_another_axis(
    given_: tuple[tuple[Array, ...], int, int],
) -> None:
    blocks, axis, along = given_
    whole = np.concatenate(blocks, along)
    assert bits(minimum(axis, along)(blocks) + 0) == bits(np.asarray(whole.min(axis)) + 0)
    assert bits(maximum(axis, along=along)(blocks) + 0) == bits(np.asarray(whole.max(axis)) + 0)
    assert count(axis, along)(blocks) == whole.shape[axis]
    assert moments(axis, along)(blocks).number == whole.shape[axis]


def test_one_axis_under_two_names_is_one_axis() -> None:
    blocks = [np.arange(6.0).reshape(2, 3), np.ones((2, 1))]
    whole = np.concatenate(blocks, 1)
    assert total(0, along=0) == total() == total(axis=0, along=None)
    assert total(1, along=1) == total(1).in_rows() == total(1, along=1).in_rows()
    assert total(None, along=1) == total(None)
    assert total(1, along=-1)(blocks).tolist() == total(-1, 1)(blocks).tolist() == [4, 13]
    assert mean(-1, along=1)(blocks).tolist() == whole.mean(1).tolist()
    assert total(-1, 1) != total(0, 1)
    assert pickle.loads(pickle.dumps(total(-1, 1))) == total(-1, 1)  # noqa: S301  # our own


# On a flat sequence, a fold of another axis than 0 says how blocks are joined: blocks of rows would
# silently be ranked, or summed, across each other.


def refuse_to_compute(number: int) -> Array:
    raise AssertionError(f"block {number} was computed")


def rows_of(fold: Fold[Array, object]) -> dict[str, Fold[Array, object]]:
    """Make folds that start the pass of one fold."""
    return {
        "itself": fold,
        "then": fold.then(str),
        "contramap": fold.contramap(np.negative),
        "tee": tee(norm(), fold),
        "tee of names": tee({"other": fold}),
    }


OTHER_AXES: dict[str, Fold[Array, Any]] = {
    "total": total(1),
    "mean": mean(1),
    "minimum": minimum(-1),
    "maximum": maximum(2),
    "moments": moments(axis=1),
    "norm": norm(1),
    "count": count(1),
    "top_k": top_k(5, axis=1),
}


@pytest.mark.parametrize("fold", OTHER_AXES.values(), ids=OTHER_AXES.keys())
def test_how_blocks_are_joined_is_asked_before_any_is_computed(fold: Fold[Array, object]) -> None:
    blocks = LazyChunkSequence.from_map(refuse_to_compute, range(2))
    for other in rows_of(fold).values():
        message = r"along=0 to reduce the rows of each block .* or along=(-1|1|2) if blocks are "
        with pytest.raises(ValueError, match=message):
            blocks.compute(other)
        with pytest.raises(ValueError, match=message), ThreadPoolExecutor(1) as executor:
            blocks.compute(other, executor=executor)
        with pytest.raises(ValueError, match=message):
            other([np.ones((2, 3))])
        with pytest.raises(ValueError, match=message):
            nest(first(), other)([[np.ones((2, 3))]])


def test_the_rows_of_a_nested_sequence_are_joined_along_axis_1() -> None:
    row = [np.arange(6.0).reshape(2, 3), np.ones((2, 1))]
    nested = NestedLazyChunkSequence(lambda: [row, row])
    told = rows_of(top_k(2, axis=1, along=1))
    for name, fold in rows_of(top_k(2, axis=1)).items():
        expected = repr(told[name](row))
        assert [repr(best) for best in nested.rows(fold)] == [expected] * 2
        # Checkers cannot tell which overload a result of any type is for.
        of_folds: Any = nest
        assert [repr(best) for best in nested.compute(of_folds(fold, list))] == [expected] * 2
        assert repr(nested.compute(of_folds(fold, last()))) == expected


def test_blocks_that_do_not_fit_along_another_axis() -> None:
    unlike: list[tuple[Array, type[Exception], str]] = [
        (np.ones((3, 3)), BlockShapeError, r"block 1 has shape \(3, 3\), expected \(2, \*\)"),
        (np.ones(2), BlockShapeError, r"block 1 has shape \(2,\), hence no axis 1"),
        (np.ones((2, 3), "f4"), BlockDTypeError, "block 1 has dtype float32, expected float64"),
    ]
    for of in (total, count, minimum, moments, norm):
        for block, error, message in unlike:
            with pytest.raises(error, match=message):
                of(axis=0, along=1)([np.ones((2, 3)), block])
        with pytest.raises(BlockShapeError, match=r"block 0 has shape \(2, 3\), hence no axis 2"):
            of(axis=2, along=1)([np.ones((2, 3))])
        with pytest.raises(BlockShapeError, match=r"block 0 has shape \(3,\), hence no axis 1"):
            of(axis=0, along=1)([np.ones(3)])
        with pytest.raises(EmptySequenceError, match="no block"):
            of(axis=0, along=1)([])


def test_the_columns_of_a_row_of_blocks() -> None:
    rows = [[np.ones((2, 3)), np.ones((2, 1))], [np.full((1, 3), 5.0), np.zeros((1, 1))]]
    sums: NestedFold[Array, Array] = nest(total(axis=0, along=1), concatenate())
    assert sums(rows).tolist() == [2, 2, 2, 2, 5, 5, 5, 0]


def test_moments_per_row_are_joined_by_component() -> None:
    rows = [[np.arange(6.0).reshape(2, 3), np.ones((2, 1))], [np.ones((1, 4))]]
    found = nest(moments(1), concatenate())(rows)
    assert isinstance(found, Moments)
    assert found.number == 4
    np.testing.assert_allclose(found.mean, [1, 13 / 4, 1])
    with pytest.raises(BlockShapeError, match=r"component 0 of a Moments of 3 is 2, expected 4"):
        nest(moments(1), concatenate())([*rows, [np.ones((1, 2))]])


# Precision.


def test_float32_is_summed_in_double_precision() -> None:
    blocks = [np.full(1000, 0.1, "f4")] * 1000
    exact = math.fsum([float(np.float32(0.1))] * 10**6)
    assert total()(blocks) == np.float32(exact)
    assert mean()(blocks) == np.float32(exact / 10**6)


@pytest.mark.parametrize("dtype", ["f2", "bfloat16"])
def test_narrow_numbers_are_not_lost_in_a_sum(dtype: str) -> None:
    if dtype == "bfloat16":
        dtype = pytest.importorskip("ml_dtypes").bfloat16
    blocks = [np.ones(1, dtype)] * 3000  # above 2048 (256), one more is lost
    for fold, expected in ((total(), 3000), (mean(), 1), (norm(), 3000**0.5), (variance(0), 0)):
        result = fold(blocks)
        assert result.dtype == dtype
        assert result == np.array(expected).astype(dtype)
    assert maximum()(blocks).dtype == dtype
    assert moments()(blocks).mean == 1


@given(st.data())
def test_bfloat16_is_reduced_in_double_precision_and_rounded_once(data: st.DataObject) -> None:
    """Arrays of ml_dtypes, and tensors."""
    ml_dtypes = pytest.importorskip("ml_dtypes", reason="ml_dtypes is not installed")
    pytest.importorskip("torch", reason="torch is not installed")
    from lazychunks.torch import TorchNumpyConverter

    blocks, axis = data.draw(drawn(("bfloat16",)))
    to = TorchNumpyConverter()
    whole = np.concatenate(blocks, axis).astype(float)
    tensors: list[Any] = [to.from_numpy(block) for block in blocks]
    extrema: list[tuple[Of, Oracle]] = [
        (minimum, lambda x, axis: x.min(axis)),
        (maximum, lambda x, axis: x.max(axis)),
    ]
    for of, oracle in ORACLES + (extrema if whole.shape[axis] else []):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # NumPy's of means of nothing
            expected = np.asarray(oracle(whole, axis)).astype(ml_dtypes.bfloat16).astype(float)
        tensor: Any = of(axis, axis)(tensors)
        for found in (of(axis, axis)(blocks), to.to_numpy(tensor)):
            assert found.dtype == ml_dtypes.bfloat16
            np.testing.assert_allclose(found.astype(float), expected, rtol=2**-7, atol=1e-6)


def test_the_variance_far_from_zero_is_not_canceled() -> None:
    values = 1e9 + np.random.default_rng(0).standard_normal(4000)
    naive = (values**2).mean() - values.mean() ** 2
    found = float(variance(0)(np.split(values, 40)))
    assert abs(found / values.var() - 1) < 1e-7
    assert abs(naive / values.var() - 1) > 1e-2


@pytest.mark.parametrize("cuts", [[], [1], [1, 2], [1, 2, 3]])
@pytest.mark.parametrize(
    "entries",
    [
        [np.inf, 1, 2, 3],
        [1, 2, 3, np.inf],
        [np.inf] * 4,
        [np.inf, -np.inf, 1, 1],
        [np.nan, 1, 2, 3],
    ],
)
def test_moments_of_infinity_and_nan(entries: list[float], cuts: list[int]) -> None:
    """Regression: the mean of an infinity that came early was NaN."""
    whole = np.array([entries, [1.0, 2, 3, 4]]).T
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # NumPy's of infinity less infinity
        found = moments(0)(np.split(whole, cuts))
        np.testing.assert_allclose(found.mean, whole.mean(axis=0))
        np.testing.assert_allclose(found.variance, whole.var(axis=0))


@pytest.mark.slow
@pytest.mark.parametrize("offset", [0.0, 1e6, -1e12])
def test_moments_of_many_blocks_are_those_of_exact_arithmetic(offset: float) -> None:
    values = offset + np.random.default_rng(1).standard_normal(30_000)
    numbers = [Fraction(value) for value in values.tolist()]
    average = sum(numbers, Fraction()) / len(numbers)
    spread = sum(((number - average) ** 2 for number in numbers), Fraction()) / len(numbers)
    for size in (1, 7, 1000):
        found = moments()(np.split(values, range(size, len(values), size)))
        assert abs(Fraction(float(found.mean)) - average) <= 1e-13 * abs(average) + 1e-15
        assert abs(Fraction(float(found.variance)) / spread - 1) <= max(1e-12, 1e-15 * abs(offset))


@pytest.mark.parametrize("size", [1e-300, 1.0, 1e300])
def test_a_norm_neither_overflows_nor_vanishes(size: float) -> None:
    blocks = [np.array([[3.0, 0]]) * size, np.array([[0, 4.0]]) * size, np.zeros((2, 2))]
    np.testing.assert_allclose(norm()(blocks), 5 * size, rtol=1e-15)
    np.testing.assert_allclose(norm(0)(blocks), [3 * size, 4 * size], rtol=1e-15)


@pytest.mark.parametrize(
    ("entries", "expected"),
    [([np.inf, 1], np.inf), ([np.nan, 1], np.nan), ([np.inf, np.nan], np.nan), ([0, 0], 0)],
)
def test_a_norm_of_infinity_and_nan(entries: list[float], expected: float) -> None:
    for order in (entries, entries[::-1]):
        whole = np.array(order, dtype=float)
        np.testing.assert_equal(float(norm()([whole])), expected)
        np.testing.assert_equal(float(norm()([whole[:1], whole[1:]])), expected)


def test_integers_wrap_around_as_numpys() -> None:
    blocks = [np.full(2, 2**62)] * 2
    assert total()(blocks) == np.concatenate(blocks).sum() == 0


# Errors.

FOLDS: list[Of] = [total, mean, minimum, maximum, norm, variance, mean_of_moments]


@pytest.mark.parametrize("of", FOLDS)
def test_blocks_that_cannot_be_reduced(of: Of) -> None:
    for axis in (0, None):
        with pytest.raises(EmptySequenceError, match="no block"):
            of(axis)([])
        with pytest.raises(BlockDTypeError, match="block 1 has dtype float32, expected float64"):
            of(axis)([np.ones(3), np.ones(3, "f4")])
        with pytest.raises(BlockDTypeError, match="cannot be reduced"):
            of(axis)([np.array(["a"])])
        with pytest.raises(BlockTypeError, match="masked"):
            of(axis)([np.ones(2), np.ma.masked_equal([1.0, 2.0], 2)])
        no_arrays: list[Any] = [[1.0]]
        with pytest.raises(BlockTypeError, match="no array but a list"):
            of(axis)(no_arrays)
    with pytest.raises(BlockShapeError, match=r"block 1 has shape \(2, 4\), expected \(\*, 3\)"):
        of(0)([np.ones((2, 3)), np.ones((2, 4))])
    with pytest.raises(BlockShapeError, match=r"block 1 has shape \(2,\)"):
        of(0)([np.ones((2, 3)), np.ones(2)])
    with pytest.raises(BlockShapeError, match="no axis 1"):
        of(1, 1)([np.ones(3)])
    with pytest.raises(BlockShapeError, match="no axis 0"):
        of(0)([np.array(1.0)])


def test_rows_of_blocks_need_a_nest() -> None:
    rows: Any = NestedLazyChunkSequence(lambda: [[np.ones(3)]])
    for fold in (total(), moments(), count(), top_k(1), concatenate()):
        with pytest.raises(BlockTypeError, match=r"nest\(\) makes a fold over rows of blocks"):
            rows.compute(fold)


def test_numbers_of_8_bits_are_refused() -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes", reason="ml_dtypes is not installed")
    for fold in (total(), moments(), top_k(1)):
        with pytest.raises(BlockDTypeError, match="float8_e4m3fn cannot be reduced"):
            fold([np.ones(2, ml_dtypes.float8_e4m3fn)])


def test_complex_numbers_have_no_order() -> None:
    for of in (minimum, maximum):
        with pytest.raises(BlockDTypeError, match="no order"):
            of()([np.ones(2, complex)])


def test_without_blocks_there_is_neither_end_nor_count() -> None:
    for fold in (first(), last(), count()):
        with pytest.raises(EmptySequenceError):
            fold([])


def test_with_axis_none_shapes_do_not_matter() -> None:
    blocks = [np.ones((2, 3)), np.ones(5), np.array(4.0)]
    assert total(None)(blocks) == 15
    assert count(None)(blocks) == 12
    assert maximum(None)(blocks) == 4


def test_the_ends_may_be_of_any_type() -> None:
    whatever: list[Any] = [1, "a", [2]]
    assert last()(whatever) == [2]
    assert count()([np.array(["a", "b"])]) == 2


# They are folds like the others.


EVERY: list[Fold[Array, Any]] = [
    total(),
    mean(1, 1),
    minimum(),
    maximum(None),
    moments(),
    norm(),
    count(1, 1),
    first(),
    last(),
]


@pytest.mark.parametrize("fold", EVERY, ids=repr)
def test_a_reduction_is_a_value(fold: Fold[Array, Any]) -> None:
    copy = pickle.loads(pickle.dumps(fold))  # noqa: S301  # our own
    assert copy == fold
    assert hash(copy) == hash(fold)
    assert [fold == other for other in EVERY].count(True) == 1
    assert not hasattr(fold, "__dict__")


@pytest.mark.parametrize("fold", EVERY, ids=repr)
def test_a_reduction_keeps_the_laws_of_a_fold(fold: Fold[Array, Any]) -> None:
    blocks = st.lists(arrays(st.just((2, 3)), st.just(np.dtype("f8")), values="whole"), min_size=1)
    check_fold(fold, blocks, settings=settings(max_examples=10, deadline=None))


# Tensors.

needs_torch = pytest.mark.skipif(find_spec("torch") is None, reason="torch is not installed")


@needs_torch
@given(drawn(("?", "i1", "<i4", "<i8", "u1", "<f2", "<f4", "<f8", "<c8")))
def test_tensors_give_what_arrays_give(given_: tuple[tuple[Array, ...], int]) -> None:
    import torch

    arrays, axis = given_
    tensors: list[Any] = [torch.from_numpy(np.array(block, order="C")) for block in arrays]
    for over in (axis, None):
        for fold in (*(of(over, over) for of in (total, mean, norm, variance, count)), last()):
            computed: Any = fold(tensors)
            expected = fold(arrays)
            if isinstance(expected, int):
                assert computed == expected
                continue
            assert isinstance(computed, torch.Tensor)
            array: Array = computed.numpy()
            # PyTorch sums bytes as int64.
            if arrays[0].dtype.name != "uint8" or fold != total(over, over):
                assert array.dtype == expected.dtype
            np.testing.assert_allclose(
                array, expected, rtol=1e-3 if array.dtype.itemsize == 2 else 1e-6, atol=1e-6
            )
        if arrays[0].dtype.kind != "c":
            for fold in (minimum(over, over), maximum(over, over)):
                try:
                    expected = fold(arrays)
                except EmptySequenceError:
                    with pytest.raises(EmptySequenceError):
                        fold(tensors)
                else:
                    computed = fold(tensors)
                    assert bits(computed.numpy() + 0) == bits(expected + 0)


@needs_torch
def test_tensors_with_a_graph_leave_it() -> None:
    import torch

    from lazychunks import torch as folds

    x = torch.ones((2, 3), requires_grad=True)
    assert not folds.total()([x]).requires_grad
    assert not folds.last()([2 * x]).requires_grad
    assert folds.concatenate()([x, x]).requires_grad


@needs_torch
def test_bfloat16_tensors() -> None:
    import torch

    from lazychunks import torch as folds

    blocks = [torch.ones(1, dtype=torch.bfloat16)] * 3000
    assert folds.total()(blocks).item() == 3008  # the nearest that bfloat16 has
    assert folds.mean()(blocks).dtype is torch.bfloat16
    assert folds.minimum()(blocks).item() == folds.maximum()(blocks).item() == 1
    assert folds.moments()(blocks).variance.item() == 0
    assert folds.norm()(blocks).dtype is torch.bfloat16
    assert folds.count()(blocks) == 3000
    assert folds.first()(blocks).dtype is torch.bfloat16


@needs_torch
def test_arrays_and_tensors_do_not_mix() -> None:
    import torch

    mixed: list[Any] = [np.ones(2, "f4"), torch.ones(2)]
    with pytest.raises(BlockDTypeError, match=r"block 1 has dtype torch.float32"):
        total()(mixed)
