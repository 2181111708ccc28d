"""Covariances and histograms: what NumPy gives for the joined blocks, whatever the partition."""

# pyright: reportUnknownMemberType=false
# torch types some of its functions partially.

import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lazychunks import (
    BlockDTypeError,
    BlockShapeError,
    BlockTypeError,
    EmptySequenceError,
    Fold,
    LazyChunkSequence,
    NestedLazyChunkSequence,
    concatenate,
    covariance,
    histogram,
    nest,
    tee,
    total,
)
from lazychunks.folds import covariance as module
from lazychunks.testing import check_fold
from lazychunks.testing.values import laid_out
from tests.strategies import Array, layouts, seeds
from tests.test_reductions import EXACT, INEXACT, REAL, numbers

heights = st.lists(st.integers(0, 6), min_size=1, max_size=6)
few_rows = st.sampled_from([1, 4, 2048])


# Covariances.


@given(heights, st.integers(1, 4), st.sampled_from((*INEXACT, *EXACT)), seeds, layouts, few_rows)
def test_a_covariance_is_that_of_the_joined_rows(
    sizes: list[int], features: int, dtype: str, seed: int, layout: Any, rows: int
) -> None:
    blocks = [numbers((size, features), dtype, seed + size, layout) for size in sizes]
    whole = np.concatenate(blocks).astype("c16" if "c" in dtype else "f8")
    for ddof in (0, 1, 3):
        with patch.object(module, "ROWS", rows):
            found = covariance(ddof=ddof)(blocks)
        assert found.number == sum(sizes)
        assert found.covariance.dtype == found.mean.dtype == whole.dtype
        assert found.covariance.shape == (features, features)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # NumPy's of means of nothing
            # Transposed: NumPy 1 takes a single row for a single variable.
            expected, mean = np.cov(whole.T, ddof=ddof), whole.mean(0)
        if sum(sizes) <= ddof:
            assert np.isnan(found.covariance).all()
        else:
            np.testing.assert_allclose(
                found.covariance, expected.reshape(features, features), rtol=1e-12, atol=1e-12
            )
        np.testing.assert_allclose(found.mean, mean, rtol=1e-12, atol=1e-12)


def test_nothing_cancels_far_from_zero() -> None:
    random = np.random.default_rng(0)
    near = random.standard_normal((900, 3))
    far = near + 1e9
    for rows in (1, 2048):
        with patch.object(module, "ROWS", rows):
            found = covariance()(np.split(far, 30)).covariance
        np.testing.assert_allclose(found, np.cov(far, rowvar=False), atol=1e-6)
        np.testing.assert_allclose(found, np.cov(near, rowvar=False), atol=1e-6)


def test_a_covariance_of_features_in_columns_of_blocks_needs_whole_rows() -> None:
    nested = NestedLazyChunkSequence.from_product(
        lambda row, column: np.random.default_rng((row, column)).standard_normal((4, 2)),
        range(3),
        range(3),
    )
    whole = np.block(nested.compute())
    for found in (
        nested.compute(nest(concatenate(axis=1), covariance())),
        nested.rows(concatenate(axis=1)).compute(covariance()),
    ):
        np.testing.assert_allclose(found.covariance, np.cov(whole, rowvar=False))


@pytest.mark.parametrize("shape", [(), (3,), (3, 2, 2)])
def test_blocks_that_are_no_rows_of_features_have_no_covariance(shape: tuple[int, ...]) -> None:
    with pytest.raises(BlockShapeError):
        covariance()([np.ones(shape)])


def test_other_features_are_refused() -> None:
    with pytest.raises(BlockShapeError, match="block 1"):
        covariance()([np.ones((3, 2)), np.ones((3, 4))])
    with pytest.raises(EmptySequenceError):
        covariance()([])


@pytest.mark.parametrize("ddof", [-1, 0.5, None, True])
def test_what_are_no_degrees_are_refused(ddof: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="ddof"):
        covariance(ddof=ddof)


THREADS = """
import hashlib
import numpy as np
from lazychunks import covariance
found = hashlib.sha256()
for features in (3, 100, 130, 700):
    for rows in (5, 64, 513, 3001):
        block = np.random.default_rng(rows * features).standard_normal((rows, features))
        found.update(covariance()([block]).covariance.tobytes())
print(found.hexdigest())
"""


@pytest.mark.slow
def test_the_bits_of_a_covariance_do_not_depend_on_threads() -> None:
    """Without padding, those for 100 features do, with the OpenBLAS of NumPy's wheels."""
    found = set[str]()
    for threads in ("1", "2", "3"):
        names = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
        run = subprocess.run(
            [sys.executable, "-c", THREADS],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, **dict.fromkeys(names, threads)},
        )
        found.add(run.stdout)
    assert len(found) == 1


# Histograms.

edges = st.lists(
    st.floats(-9, 9, width=32) | st.sampled_from([-np.inf, np.inf, 0.0, 1.0]),
    min_size=2,
    max_size=6,
).map(sorted)


@given(heights, st.sampled_from(REAL), seeds, layouts, edges)
def test_a_histogram_is_that_of_all_entries(
    sizes: list[int], dtype: str, seed: int, layout: Any, bins: list[float]
) -> None:
    blocks = list[Array]()
    for size in sizes:
        block = numbers((size, 2), dtype, seed + size, "C")
        if "f" in dtype:
            block[:1] = np.nan
            block[1:2, :1] = np.inf
        blocks.append(laid_out(block, layout))
    whole = np.concatenate(blocks)
    expected, _ = np.histogram(whole.astype("f8"), bins)
    nested = NestedLazyChunkSequence(lambda: ([block, block] for block in blocks))
    libraries: list[Callable[[Array], Any]] = [np.asarray, *torch_converters(dtype)]
    for library in libraries:
        given_ = LazyChunkSequence(lambda: blocks).map(library)
        found = given_.compute(histogram(bins))
        assert np.asarray(found.counts).tolist() == expected.tolist()
        assert np.asarray(found.counts).dtype == np.int64
        assert np.asarray(found.edges).tolist() == bins
        assert type(found.counts) is type(found.edges) is type(library(blocks[0]))
        of_rows = nested.map(library).compute(histogram(bins))
        assert np.asarray(of_rows.counts).tolist() == (2 * expected).tolist()


def torch_converters(dtype: str) -> list[Callable[[Array], Any]]:
    """How tensors are made of arrays, where there is PyTorch and it has the dtype."""
    try:
        import torch
    except ImportError:
        return []
    if dtype in {"<u4", "<u8"}:
        return []  # PyTorch has them, and cannot sort them

    def to_tensor(block: Array) -> Any:
        return torch.from_numpy(block.astype(block.dtype.newbyteorder("="), order="C"))

    return [to_tensor]


def test_a_histogram_is_teed_with_folds_over_blocks_and_over_rows() -> None:
    flat = LazyChunkSequence.from_map(np.ones, [2, 3])
    assert flat.compute(tee(histogram([0, 2]), total()))[0].counts.tolist() == [5]
    nested = NestedLazyChunkSequence.from_product(lambda i, j: np.ones((i, j)), [1, 2], [2, 3])
    counted, summed = nested.compute(
        tee(histogram([0, 2]), nest(total(axis=None), total(axis=None)))
    )
    assert counted.counts.tolist() == [15]
    assert summed == 15
    both = nested.compute(tee(histogram([0, 2]), histogram([1, 2])))
    assert [one.counts.tolist() for one in both] == [[15], [15]]


@pytest.mark.parametrize("bins", [[], [1], [2, 1], [0, np.nan], [np.nan, 1]])
def test_what_are_no_edges_are_refused(bins: Any) -> None:
    with pytest.raises(ValueError, match="edge"):
        histogram(bins)


def test_what_cannot_be_counted_is_refused() -> None:
    lists: list[Any] = [[1, 2]]
    with pytest.raises(BlockDTypeError, match="have no order"):
        histogram([0, 1])([np.ones(2, complex)])
    with pytest.raises(BlockTypeError):
        histogram([0, 1])(lists)
    no_rows: list[list[list[Array]]] = [[], [[]]]
    for rows in no_rows:
        nested = NestedLazyChunkSequence(partial(iter, rows))
        with pytest.raises(EmptySequenceError):
            nested.compute(histogram([0, 1]))
    with pytest.raises(EmptySequenceError):
        histogram([0, 1])([])


# Both.


@pytest.mark.parametrize("of", [covariance(), histogram([-2, 0, 1])])
def test_both_are_lawful(of: Fold[Array, Any]) -> None:
    def blocks(sizes: list[int]) -> list[Array]:
        return [numbers((size, 3), "<f4", size, "C") for size in sizes]

    check_fold(of, heights.map(blocks))


def test_tensors_have_their_own_covariance() -> None:
    torch = pytest.importorskip("torch")
    from lazychunks import torch as of_tensors

    whole = np.random.default_rng(3).standard_normal((50, 5)).astype("f4")
    for dtype in (torch.float32, torch.float64):
        blocks = torch.from_numpy(whole).to(dtype).split(7)
        found = of_tensors.covariance()(blocks)
        assert found.number == 50
        assert found.covariance.dtype == torch.float64
        np.testing.assert_allclose(found.covariance, np.cov(whole, rowvar=False), rtol=1e-6)
        assert of_tensors.histogram([0, 9])(blocks).counts.tolist() == [int((whole >= 0).sum())]
