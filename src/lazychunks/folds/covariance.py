"""The fold that takes the covariance of features, in one stable pass.

Sources: T. F. Chan, G. H. Golub and R. J. LeVeque, "Updating formulae and a pairwise algorithm for
computing sample variances" (1979), for the update; P. Pébay, "Formulas for robust, one-pass
parallel computation of covariances and arbitrary-order statistical moments" (2008), for its form
with products.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeAlias, TypeVar

from lazychunks.arrays import Arithmetic, Array, copy_block, device
from lazychunks.converters import AnyArray
from lazychunks.errors import BlockShapeError
from lazychunks.folds.fold import Fold
from lazychunks.folds.merging import Reduction
from lazychunks.layout.checks import check_integer

S = TypeVar("S")

PADDING = 64
"""Products are computed for a multiple of this many features."""

ROWS = 2048
"""Number of rows that are multiplied at once, at least: for 512 features, products of 256 rows took
half as long again."""


class Covariance(NamedTuple, Generic[S]):
    """Number of rows, the mean of each feature, and the covariance of each two features."""

    number: int
    """Number of rows."""
    mean: S
    """Mean of each feature, in double precision."""
    covariance: S
    """A matrix in double precision, as ``np.cov(rows, rowvar=False)``."""


class Products(NamedTuple):
    """Of some rows: their number, their sum, and the sum of products of distances from the mean."""

    number: int
    summed: Array
    products: Array


class Waiting(NamedTuple):
    """Rows that wait for more rows, to be multiplied together."""

    number: int
    blocks: tuple[Array, ...]

    @property
    def is_enough(self) -> bool:
        """Whether rows take as much memory as their products, and one product of them pays."""
        return self.number >= max(self.blocks[0].shape[1], ROWS)


Value: TypeAlias = Waiting | Products
"""What a pass keeps of some rows."""


def covariance(*, ddof: int = 1) -> Fold[AnyArray, Covariance[AnyArray]]:
    """Take the covariance of the columns of blocks, whose rows are observations, in one pass.

    Distances are taken from the mean of the rows at hand, and merged pairwise (Chan, Golub and
    LeVeque 1979; Pébay 2008), so that nothing cancels where means are far from zero.

    Parameters
    ----------
    ddof
        Products are divided by the number of rows less this: by default 1, as in ``np.cov``; 0 for
        the covariance whose diagonal is the variance of :func:`moments`.

    Returns
    -------
    Fold
        Its result has the covariance that ``np.cov(np.concatenate(blocks), rowvar=False)`` gives,
        in double precision; NaN, if there are no more rows than ``ddof``.

    Raises
    ------
    TypeError, ValueError
        If ``ddof`` is no integer, or is negative.
    EmptySequenceError, BlockDTypeError, BlockTypeError
        When run, as :func:`total`.
    BlockShapeError
        When run over a block that has other axes than rows and features, or other features than
        those before it.

    Notes
    -----
    Rows are collected until there are as many as features, so that small blocks cost hardly more
    than large ones. Memory is that of about eight results, whatever the number of rows.

    Examples
    --------
    >>> import numpy as np
    >>> blocks = [np.array([[0.0, 1.0], [2.0, 5.0]]), np.array([[4.0, 9.0]])]
    >>> covariance()(blocks).covariance
    array([[ 4.,  8.],
           [ 8., 16.]])
    """
    return CovarianceFold(ddof=check_degrees(ddof))


def check_degrees(ddof: int) -> int:
    """Return ``ddof``, or refuse it as :func:`covariance` does."""
    number = check_integer(ddof, "ddof")
    if number < 0:
        raise ValueError(f"ddof must not be negative, got {ddof}")
    return number


@dataclass(frozen=True, slots=True)
class CovarianceFold(Reduction[S, Covariance[S], Value], Generic[S]):
    """The fold that :func:`covariance` returns."""

    axis: int | None = 0
    ddof: int = 1

    def reduce_block(self, numbers: Arithmetic, lanes: Array, axis: int) -> Value:  # noqa: ARG002
        """Return the rows of a block, or their products if there are many."""
        if len(lanes.shape) != 2:
            raise BlockShapeError(
                f"a block has shape {tuple(lanes.shape)}, and covariance() takes rows of features; "
                "reshape it to two axes, e.g. with .contramap",
                expected="two axes",
                got=tuple(lanes.shape),
            )
        rows = Waiting(lanes.shape[0], (lanes,))
        if rows.is_enough:
            return _multiply(numbers, rows)
        # The producer may use the memory of the block for the next one.
        return rows._replace(blocks=(copy_block(lanes),))

    def merge(self, numbers: Arithmetic, earlier: Value, later: Value) -> Value:
        """Join rows as long as there are few of them; else merge by the update of Chan et al."""
        if not isinstance(earlier, Products) and not isinstance(later, Products):
            rows = Waiting(earlier.number + later.number, earlier.blocks + later.blocks)
            return _multiply(numbers, rows) if rows.is_enough else rows
        one, other = _multiply(numbers, earlier), _multiply(numbers, later)
        before, added = one.number, other.number
        # Without this, blocks of no height would divide by zero.
        if not before or not added:
            return other if added else one
        distance = other.summed / added - one.summed / before
        between = _outer(numbers, distance) * (before * added / (before + added))
        products = one.products + other.products + between
        return Products(before + added, one.summed + other.summed, products)

    def finish(self, numbers: Arithmetic, value: Value) -> Covariance[Array]:
        """Divide."""
        number, summed, products = _multiply(numbers, value)
        mean, matrix = (
            x / divisor if divisor > 0 else x * math.nan
            for x, divisor in ((summed, number), (products, number - self.ddof))
        )
        # The bits of NaN depend on how threads divide a product among them.
        xp, dtype = numbers.xp, numbers.accumulator
        matrix = xp.where(xp.isnan(matrix), xp.asarray(math.nan, dtype=dtype), matrix)
        return Covariance(number, numbers.round(mean, dtype), numbers.round(matrix, dtype))


def _multiply(numbers: Arithmetic, value: Value) -> Products:
    """Return the products of distances from the mean of rows."""
    if isinstance(value, Products):
        return value
    xp, number, features = numbers.xp, value.number, value.blocks[0].shape[1]
    rows = value.blocks[0] if len(value.blocks) == 1 else xp.concat(value.blocks, axis=0)
    summed = numbers.sum(rows, 0, numbers.accumulator)
    # Two passes over the rows: products of sums, subtracted, would lose all digits where the mean
    # is large.
    centered = xp.astype(rows, numbers.accumulator, copy=False) - summed / max(number, 1)
    # Threads of OpenBLAS share the features among them, and compute those at the odd end of a share
    # with other roundings. Padded, all shares are even, and the bits do not depend on the threads.
    missing = -features % PADDING
    if missing:
        zeros = xp.zeros((number, missing), dtype=centered.dtype, device=device(centered))
        centered = xp.concat([centered, zeros], axis=1)
    conjugate = xp.conj(centered) if numbers.is_complex else centered
    products = xp.matmul(centered.T, conjugate)[:features, :features]
    return Products(number, summed, products)


def _outer(numbers: Arithmetic, distance: Array) -> Array:
    conjugate = numbers.xp.conj(distance) if numbers.is_complex else distance
    return distance[:, None] * conjugate[None, :]
