"""JAX arrays are folded as those of the other libraries, and stored through a converter."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from lazychunks import (
    LazyChunkSequence,
    NestedLazyChunkSequence,
    concatenate,
    count,
    covariance,
    first,
    histogram,
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
from tests.strategies import Array

jax: Any = pytest.importorskip("jax", reason="jax is not installed")


@pytest.fixture(autouse=True, scope="module")
def _double_precision() -> None:
    jax.config.update("jax_enable_x64", True)


@dataclass(frozen=True)
class JaxConverter:
    """Two lines are all that it takes."""

    def to_numpy(self, x: Any, /) -> Array:
        return np.asarray(x)

    def from_numpy(self, x: Array, /) -> Any:
        return jax.numpy.asarray(x)


FOLDS: dict[str, Callable[[], Any]] = {
    "total": total,
    "total of all": lambda: total(None),
    "mean": mean,
    "minimum": minimum,
    "maximum": maximum,
    "moments": moments,
    "norm": norm,
    "count": count,
    "first": first,
    "last": last,
    "top_k": lambda: top_k(3),
    "the least": lambda: top_k(3, largest=False),
    "top_k of rows": lambda: top_k(2, axis=1, along=0),
    "concatenate": concatenate,
    "histogram": lambda: histogram([-1, 0, 2]),
    "covariance": covariance,
    "tee": lambda: tee(total(), top_k(1)),
}


def block(row: int, column: int = 0) -> Array:
    return np.random.default_rng((row, column)).standard_normal((3 + row % 2, 4)).astype("f4")


def jax_block(row: int, column: int = 0) -> Any:
    return jax.numpy.asarray(block(row, column))


def leaves(result: Any) -> list[Any]:
    if isinstance(result, int) or hasattr(result, "shape"):
        return [result]
    return [leaf for one in result for leaf in leaves(one)]


@pytest.mark.parametrize("name", FOLDS)
@pytest.mark.parametrize("hinted", [False, True])
def test_a_fold_gives_what_it_gives_for_numpy(name: str, hinted: bool) -> None:
    hint = 9 if hinted else None
    expected = LazyChunkSequence(lambda: map(block, range(9)), hint).compute(FOLDS[name]())
    found = LazyChunkSequence(lambda: map(jax_block, range(9)), hint).compute(FOLDS[name]())
    for one, other in zip(leaves(found), leaves(expected), strict=True):
        assert isinstance(one, jax.Array | int)
        np.testing.assert_allclose(one, other, rtol=1e-6)
        if not isinstance(one, int):
            assert one.dtype == other.dtype


def test_folds_over_rows_and_blocks_of_other_sizes() -> None:
    nested = NestedLazyChunkSequence.from_product(jax_block, range(2), range(3))
    expected = NestedLazyChunkSequence.from_product(block, range(2), range(3))
    of = nest(top_k(2, axis=1), concatenate())
    np.testing.assert_allclose(nested.compute(of).values, expected.compute(of).values)
    flat = LazyChunkSequence.from_map(jax_block, range(5))
    whole = np.concatenate([block(row) for row in range(5)])
    assert [len(one) for one in flat.rebatch(8)] == [8, 8, 1]
    np.testing.assert_array_equal(np.concatenate(flat.rebatch(8).compute()), whole)


def test_jax_arrays_are_stored_and_read_back() -> None:
    store: dict[str, Any] = {}
    flat = LazyChunkSequence.from_map(jax_block, range(3))
    flat.to_zarr(store, JaxConverter())
    read = LazyChunkSequence.from_zarr(store, JaxConverter()).compute(concatenate())
    assert isinstance(read, jax.Array)
    np.testing.assert_array_equal(read, np.concatenate([block(row) for row in range(3)]))
