"""The library's folds that reduce: what NumPy gives for the joined blocks, in one pass."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, NamedTuple, TypeAlias, TypeVar

from lazychunks.arrays import Arithmetic, Array, copy_block
from lazychunks.converters import AnyArray
from lazychunks.errors import EmptySequenceError
from lazychunks.folds.alike import AlikeFold, AlikePass
from lazychunks.folds.along import join_along
from lazychunks.folds.fold import Fold, fold
from lazychunks.folds.merging import Reduction

S = TypeVar("S")


class Moments(NamedTuple, Generic[S]):
    """Number of entries, their mean and their (population) variance."""

    number: int
    """How many entries each mean is of (``count`` is a method of every tuple)."""
    mean: S
    """Their mean."""
    variance: S
    """Mean squared distance from the mean, as ``np.var`` (``ddof=0``)."""


def total(axis: int | None = 0, along: int | None = None) -> Fold[AnyArray, AnyArray]:
    """Sum blocks.

    Parameters
    ----------
    axis
        The axis that is reduced: 0 for a flat sequence, 1 for a row of a nested one, as in
        ``nest(total(axis=1), concatenate())``. With None all entries are reduced, and the shapes of
        blocks do not matter.
    along
        The axis that blocks are joined along; by default the one that is reduced. Over a flat
        sequence, a fold of another axis than 0 needs it: 0, if blocks are rows, so that each is
        reduced by itself; 1, if blocks are columns.

    Returns
    -------
    Fold
        Its result equals ``np.concatenate(blocks, along).sum(axis)``, also in dtype: integers and
        booleans are summed as 64-bit integers, which wrap around.

    Raises
    ------
    EmptySequenceError
        When run over no block.
    BlockShapeError, BlockDTypeError
        When run over a block that does not fit those before it, has another dtype, or one that is
        not of numbers.
    BlockTypeError
        When run over a block that is neither a NumPy array nor a tensor, or a masked array.
    ValueError
        When run over a flat sequence, with another ``axis`` than 0 and no ``along``; before any
        block is computed.

    Notes
    -----
    What holds for all reductions of this library:

    - Results have the shape of a block without the axis (0-dimensional, where nothing is left) and
      its library, device and, unless said otherwise, dtype in native byte order. Those of tensors
      carry no gradient.
    - Floating-point numbers, half and bfloat16 included, are accumulated in double precision, by
      pairwise summation over the blocks (Higham 1993).
    - Results have the same bits whoever reduces which blocks, and whatever the memory layout of a
      block. Tensors give one kind of NaN, and zeros without a sign.
    - Memory is that of the result and of a few blocks in double precision. Blocks are not changed,
      and nothing of them is kept.

    Examples
    --------
    >>> import numpy as np
    >>> total()([np.ones((2, 3)), np.ones((5, 3))])
    array([7., 7., 7.])
    """
    return join_along(Total(axis), axis, along)


@dataclass(frozen=True, slots=True)
class Total(Reduction[S, S, Array], Generic[S]):
    """The fold that :func:`total` returns; its values are sums."""

    def reduce_block(self, numbers: Arithmetic, lanes: Array, axis: int) -> Array:
        """Sum, in double precision or as the library sums integers."""
        # The library knows the dtype of a sum: NumPy makes uint64 of uint8, PyTorch int64.
        if numbers.is_exact:
            return numbers.xp.sum(lanes, axis=axis)
        return numbers.sum(lanes, axis, numbers.accumulator)

    def merge(self, numbers: Arithmetic, earlier: Array, later: Array) -> Array:
        """Add."""
        # Where `+` of NumPy's scalars would warn, this wraps around.
        return numbers.xp.add(earlier, later)

    def finish(self, numbers: Arithmetic, value: Array) -> Array:
        """Round to the blocks' precision; sums of integers stay as they are."""
        if numbers.is_exact:
            return numbers.xp.asarray(value)
        return numbers.round(value, numbers.dtype)


def mean(axis: int | None = 0, along: int | None = None) -> Fold[AnyArray, AnyArray]:
    """Average blocks.

    Parameters
    ----------
    axis
        The axis to reduce, as in :func:`total`; None for all entries.
    along
        The axis to join along, as in :func:`total`; by default the same one.

    Returns
    -------
    Fold
        Its result equals ``np.concatenate(blocks, along).mean(axis)``; of integers and booleans it
        is float64, and NaN where there is no entry.

    Examples
    --------
    >>> import numpy as np
    >>> mean(axis=None)([np.array([1, 2]), np.array([6])])
    array(3.)
    """
    return join_along(Mean(axis), axis, along)


@dataclass(frozen=True, slots=True)
class Mean(Reduction[S, S, tuple[int, Array]], Generic[S]):
    """The fold that :func:`mean` returns; its values are the number of entries and their sum."""

    def reduce_block(self, numbers: Arithmetic, lanes: Array, axis: int) -> tuple[int, Array]:
        """Count and sum."""
        return lanes.shape[axis], numbers.sum(lanes, axis, numbers.accumulator)

    def merge(
        self, numbers: Arithmetic, earlier: tuple[int, Array], later: tuple[int, Array]
    ) -> tuple[int, Array]:
        """Add both."""
        return earlier[0] + later[0], numbers.xp.add(earlier[1], later[1])

    def finish(self, numbers: Arithmetic, value: tuple[int, Array]) -> Array:
        """Divide."""
        number, summed = value
        average = summed / number if number else summed * math.nan
        return numbers.round(average, numbers.mean_dtype)


def minimum(axis: int | None = 0, along: int | None = None) -> Fold[AnyArray, AnyArray]:
    """Take the least entries of blocks.

    Parameters
    ----------
    axis
        The axis to reduce, as in :func:`total`; None for all entries.
    along
        The axis to join along, as in :func:`total`; by default the same one.

    Returns
    -------
    Fold
        Its result equals ``np.concatenate(blocks, along).min(axis)``: NaN where there is one.

    Raises
    ------
    EmptySequenceError
        When run over blocks without an entry along the axis.
    BlockDTypeError
        When run over complex numbers, which have no order.

    Examples
    --------
    >>> import numpy as np
    >>> minimum()([np.array([[3, 4]]), np.array([[5, 1]])])
    array([3, 1])
    """
    return join_along(Minimum(axis), axis, along)


def maximum(axis: int | None = 0, along: int | None = None) -> Fold[AnyArray, AnyArray]:
    """Take the greatest entries of blocks; otherwise as :func:`minimum`.

    Examples
    --------
    >>> import numpy as np
    >>> maximum()([np.array([[3, 4]]), np.array([[5, 1]])])
    array([5, 4])
    """
    return join_along(Maximum(axis), axis, along)


@dataclass(frozen=True, slots=True)
class _Extremum(Reduction[S, S, Array | None], Generic[S]):
    """Base of two folds whose values are extrema; None, where there is no entry."""

    needs_order: ClassVar[bool] = True
    largest: ClassVar[bool]

    def reduce_block(self, numbers: Arithmetic, lanes: Array, axis: int) -> Array | None:
        """Take the extremum."""
        # An empty block does not count; only if all are empty, there is no extremum.
        if lanes.shape[axis] == 0:
            return None
        xp = numbers.xp
        return (xp.max if self.largest else xp.min)(lanes, axis=axis)

    def merge(
        self, numbers: Arithmetic, earlier: Array | None, later: Array | None
    ) -> Array | None:
        """Take the extremum of both."""
        if earlier is None or later is None:
            return later if earlier is None else earlier
        xp = numbers.xp
        return (xp.maximum if self.largest else xp.minimum)(earlier, later)

    def finish(self, numbers: Arithmetic, value: Array | None) -> Array:
        """Return the extremum.

        Raises
        ------
        EmptySequenceError
            If there was no entry.
        """
        if value is None:
            raise EmptySequenceError(
                f"blocks without an entry along axis {self.axis} have no "
                f"{'maximum' if self.largest else 'minimum'}"
            )
        return numbers.round(value, numbers.dtype)


class Minimum(_Extremum[S]):
    """The fold that :func:`minimum` returns."""

    __slots__ = ()
    largest: ClassVar[bool] = False


class Maximum(_Extremum[S]):
    """The fold that :func:`maximum` returns."""

    __slots__ = ()
    largest: ClassVar[bool] = True


class Spread(NamedTuple):
    """Number of entries, their sum, and the sum of their squared distances from the mean."""

    number: int
    summed: Array
    squares: Array


def moments(axis: int | None = 0, along: int | None = None) -> Fold[AnyArray, Moments[AnyArray]]:
    """Take mean and variance in one stable pass.

    The values of two blocks are merged by the pairwise update of Chan, Golub and LeVeque, "Updating
    formulae and a pairwise algorithm for computing sample variances" (1979): unlike the difference
    of a mean square and a squared mean, it cancels nothing where the mean is far from zero.

    Parameters
    ----------
    axis
        The axis to reduce, as in :func:`total`; None for all entries.
    along
        The axis to join along, as in :func:`total`; by default the same one.

    Returns
    -------
    Fold
        Its result has the mean as :func:`mean`, and the variance as
        ``np.concatenate(blocks, along).var(axis)``, which is real; both are NaN where there is no
        entry.

    Examples
    --------
    >>> import numpy as np
    >>> far = moments()([np.array([1e9 + 1]), np.array([1e9 + 2, 1e9 + 3])])
    >>> float(far.mean), round(float(far.variance), 6)
    (1000000002.0, 0.666667)
    """
    return join_along(MomentsFold(axis), axis, along)


@dataclass(frozen=True, slots=True)
class MomentsFold(Reduction[S, Moments[S], Spread], Generic[S]):
    """The fold that :func:`moments` returns."""

    def reduce_block(self, numbers: Arithmetic, lanes: Array, axis: int) -> Spread:
        """Sum entries and their squared distances from the block's mean."""
        # Two passes over the block: the sum of squares less the square of the sum would lose all
        # digits where the mean is large.
        xp, number = numbers.xp, lanes.shape[axis]
        summed = numbers.sum(lanes, axis, numbers.accumulator)
        average = xp.expand_dims(summed / max(number, 1), axis=axis)
        squares = numbers.squared(xp.astype(lanes, numbers.accumulator) - average)
        return Spread(number, summed, numbers.sum(squares, axis, numbers.real_accumulator))

    def merge(self, numbers: Arithmetic, earlier: Spread, later: Spread) -> Spread:
        """Merge by the update of Chan, Golub and LeVeque."""
        before, added = earlier.number, later.number
        # Without this, blocks of no height would divide by zero.
        if not before or not added:
            return later if added else earlier
        distance = later.summed / added - earlier.summed / before
        between = numbers.squared(distance) * (before * added / (before + added))
        squares = earlier.squares + later.squares + between
        return Spread(before + added, earlier.summed + later.summed, squares)

    def finish(self, numbers: Arithmetic, value: Spread) -> Moments[Array]:
        """Divide."""
        number, summed, squares = value
        mean, variance = (x / number if number else x * math.nan for x in (summed, squares))
        return Moments(
            number,
            numbers.round(mean, numbers.mean_dtype),
            numbers.round(variance, numbers.real_dtype),
        )


def norm(axis: int | None = None, along: int | None = None) -> Fold[AnyArray, AnyArray]:
    """Take the 2-norm of blocks; over all entries, which is the default, the Frobenius norm.

    Entries are scaled before they are squared, so that it overflows only where the norm does.

    Parameters
    ----------
    axis
        The axis to reduce, as in :func:`total`; None for all entries.
    along
        The axis to join along, as in :func:`total`; by default the same one.

    Returns
    -------
    Fold
        Its result equals ``np.linalg.norm(np.concatenate(blocks, along), axis=axis)``; it is real,
        and float64 for integers and booleans.

    Examples
    --------
    >>> import numpy as np
    >>> norm()([np.array([3e200]), np.array([4e200])])
    array(5.e+200)
    """
    return join_along(Norm(axis), axis, along)


@dataclass(frozen=True, slots=True)
class Norm(Reduction[S, S, Array], Generic[S]):
    """The fold that :func:`norm` returns; its values are norms in double precision."""

    axis: int | None = None

    def reduce_block(self, numbers: Arithmetic, lanes: Array, axis: int) -> Array:
        """Take the norm of entries that are scaled by the largest one."""
        xp, dtype = numbers.xp, numbers.real_accumulator
        # The norm of complex numbers is that of their parts; so abs() of each, which costs memory
        # and a square root, is not needed.
        real = xp.astype(numbers.view_as_real(lanes), dtype, copy=False)
        if lanes.shape[axis] == 0:
            root = numbers.sum(real, axis, dtype)
        else:
            largest = xp.max(xp.abs(real), axis=axis, keepdims=True)
            # Neither zeros nor infinity can be divided by, and NaN need not.
            scale = xp.where(xp.isfinite(largest) & (largest > 0), largest, 1.0)
            scaled = real / scale
            root = xp.sqrt(numbers.sum(scaled * scaled, axis, dtype))
            root = root * xp.reshape(scale, root.shape)
        # Parts lie side by side along the last axis: they are in one lane only if it is reduced.
        if numbers.is_complex and axis != len(lanes.shape) - 1:
            return self.merge(numbers, root[..., 0::2], root[..., 1::2])
        return root

    def merge(self, numbers: Arithmetic, earlier: Array, later: Array) -> Array:
        """Take the norm of both."""
        xp = numbers.xp
        # Not hypot: PyTorch rounds it one way or the other, as it divides arrays among threads; and
        # the hypot of infinity and NaN is infinity, so that the order of blocks would matter.
        larger, smaller = xp.maximum(earlier, later), xp.minimum(earlier, later)
        is_usual = xp.isfinite(larger) & (larger > 0)
        ratio = xp.where(is_usual, smaller, 0.0) / xp.where(is_usual, larger, 1.0)
        return larger * xp.sqrt(ratio * ratio + 1.0)

    def finish(self, numbers: Arithmetic, value: Array) -> Array:
        """Round to the blocks' precision."""
        return numbers.round(value, numbers.real_dtype)


def count(axis: int | None = 0, along: int | None = None) -> Fold[AnyArray, int]:
    """Count the rows of blocks, or what else lies along an axis.

    Parameters
    ----------
    axis
        The axis to count along; None for all entries.
    along
        The axis to join along, as in :func:`total`; by default the same one.

    Returns
    -------
    Fold
        Its result equals ``np.concatenate(blocks, along).shape[axis]``; entries may be of any
        dtype.

    Examples
    --------
    >>> import numpy as np
    >>> count()([np.ones((2, 3)), np.ones((5, 3))])
    7
    """
    return join_along(Count(axis), axis, along)


@dataclass(frozen=True, slots=True)
class Count(AlikeFold[S, int], Generic[S]):
    """The fold that :func:`count` returns."""

    axis: int | None = 0

    def start_at(self, number: int, /) -> CountPass[S]:
        """Start a pass."""
        return CountPass(self.axis, number)


@dataclass(slots=True, eq=False)
class CountPass(AlikePass[S, int], Generic[S]):
    """A pass that looks at shapes only, so that entries may be of any dtype."""

    # Hence no Reduction, which would refuse texts, and copy blocks that are in F order.

    length: int = field(default=0, init=False)

    def step(self, block: S, /) -> None:
        """Add the length of the block."""
        shape, axis = self.check(block).shape, self.like.axis
        self.length += math.prod(shape) if axis is None else shape[axis]

    def value(self) -> int:
        """Return the length of all blocks."""
        return self.length

    def merge_value(self, value: int) -> None:
        """Add the length of the blocks of a part."""
        self.length += value

    def finish(self) -> int:
        """Return the length."""
        _ = self.like  # fails without a block
        return self.length


def first() -> Fold[AnyArray, AnyArray]:
    """Take a copy of the first block, which may be of any type.

    Examples
    --------
    >>> import numpy as np
    >>> first()([np.zeros(2), np.ones(3)])
    array([0., 0.])
    """
    return FIRST


def last() -> Fold[AnyArray, AnyArray]:
    """Take a copy of the last block, which may be of any type.

    Examples
    --------
    >>> import numpy as np
    >>> last()([np.zeros(2), np.ones(3)])
    array([1., 1., 1.])
    """
    return LAST


# A tuple, because a block may be None, and the truth of an array is an error.
Kept: TypeAlias = tuple[object, ...]
"""One block, or none before the first step."""


def _keep_first(kept: Kept, block: object) -> Kept:
    return kept or (copy_block(block),)


def _keep_last(kept: Kept, block: object) -> Kept:  # noqa: ARG001
    return (copy_block(block),)


def _merge_firsts(earlier: Kept, later: Kept) -> Kept:
    return earlier or later


def _merge_lasts(earlier: Kept, later: Kept) -> Kept:
    return later or earlier


def _only_block(kept: Kept) -> Any:
    if not kept:
        raise EmptySequenceError("there is no block, hence no first and no last one")
    return kept[0]


_NOTHING: Kept = ()

FIRST: Fold[Any, Any] = fold(_keep_first, _NOTHING, _only_block, merge=_merge_firsts)
"""The fold that :func:`first` returns, for blocks of any type."""

LAST: Fold[Any, Any] = fold(_keep_last, _NOTHING, _only_block, merge=_merge_lasts)
"""The fold that :func:`last` returns, for blocks of any type."""
