"""The library's folds that reduce: what NumPy or PyTorch gives for the joined blocks, in one pass.

Each reduction is a state for one block and an associative merge of two states. They share:

- Blocks are NumPy arrays or tensors, all of one dtype. ``axis`` is the axis that the blocks are
  joined along *and* that is reduced: 0 for a flat sequence, 1 for a row of a nested one, as in
  ``nest(total(axis=1), concatenate())``. With ``axis=None`` all entries are reduced, and shapes do
  not matter.
- Results have the blocks' shape without the axis, 0-dimensional where nothing is left of it, and
  the blocks' library, device and (unless said otherwise) dtype, in native byte order.
- Floating-point numbers, half and bfloat16 included, are accumulated in double precision.
- Memory is that of a few blocks in double precision and one result. Blocks are not changed, nothing
  of them is kept, and results of tensors carry no gradient.
- Errors: :exc:`EmptySequenceError` without a block, :exc:`BlockShapeError` and
  :exc:`BlockDTypeError` for a block unlike those before it, or one that cannot be reduced so,
  :exc:`BlockTypeError` for one that is no plain array.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

from numpy.typing import NDArray

from lazychunks.arrays import Likeness, copied, kind, plain, wide
from lazychunks.errors import BlockDTypeError, EmptySequenceError
from lazychunks.folds import Counts, Fold, Pass

__all__ = [
    "Count",
    "End",
    "Extremum",
    "Mean",
    "Moments",
    "MomentsOf",
    "Norm",
    "Reduction",
    "Total",
    "count",
    "first",
    "last",
    "maximum",
    "mean",
    "minimum",
    "moments",
    "norm",
    "total",
]

S = TypeVar("S")
R = TypeVar("R")


class Moments(NamedTuple, Generic[S]):
    """Number of entries, their mean and their (population) variance."""

    number: int
    """How many entries each mean is of (``count`` is a method of every tuple)."""
    mean: S
    """Their mean."""
    variance: S
    """Mean squared distance from the mean, as ``np.var`` (``ddof=0``)."""


def total(axis: int | None = 0) -> Fold[NDArray[Any], NDArray[Any]]:
    """Sum blocks.

    Parameters
    ----------
    axis
        The axis to join and reduce; None for all entries.

    Returns
    -------
    Fold
        Its result equals ``np.concatenate(blocks, axis).sum(axis)``, also in dtype: integers and
        booleans are summed as 64-bit integers, which wrap around.

    Examples
    --------
    >>> import numpy as np
    >>> total()([np.ones((2, 3)), np.ones((5, 3))])
    array([7., 7., 7.])
    """
    return Total(axis)


def mean(axis: int | None = 0) -> Fold[NDArray[Any], NDArray[Any]]:
    """Average blocks.

    Parameters
    ----------
    axis
        The axis to join and reduce; None for all entries.

    Returns
    -------
    Fold
        Its result equals ``np.concatenate(blocks, axis).mean(axis)``; of integers and booleans it
        is float64, and NaN where there is no entry.

    Examples
    --------
    >>> import numpy as np
    >>> mean(axis=None)([np.array([1, 2]), np.array([6])])
    array(3.)
    """
    return Mean(axis)


def minimum(axis: int | None = 0) -> Fold[NDArray[Any], NDArray[Any]]:
    """Take the least entries of blocks.

    Parameters
    ----------
    axis
        The axis to join and reduce; None for all entries.

    Returns
    -------
    Fold
        Its result equals ``np.concatenate(blocks, axis).min(axis)``: NaN where there is one.

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
    return Extremum(axis, largest=False)


def maximum(axis: int | None = 0) -> Fold[NDArray[Any], NDArray[Any]]:
    """Take the greatest entries of blocks; otherwise as :func:`minimum`.

    Examples
    --------
    >>> import numpy as np
    >>> maximum()([np.array([[3, 4]]), np.array([[5, 1]])])
    array([5, 4])
    """
    return Extremum(axis, largest=True)


def moments(axis: int | None = 0) -> Fold[NDArray[Any], Moments[NDArray[Any]]]:
    """Take mean and variance in one stable pass.

    The states of two parts are merged by the pairwise update of Chan, Golub and LeVeque, "Updating
    formulae and a pairwise algorithm for computing sample variances" (1979): unlike the difference
    of a mean square and a squared mean, it cancels nothing where the mean is far from zero.

    Parameters
    ----------
    axis
        The axis to join and reduce; None for all entries.

    Returns
    -------
    Fold
        Its result has the mean as :func:`mean`, and the variance as
        ``np.concatenate(blocks, axis).var(axis)``, which is real; both NaN where there is no entry.

    Examples
    --------
    >>> import numpy as np
    >>> far = moments()([np.array([1e9 + 1]), np.array([1e9 + 2, 1e9 + 3])])
    >>> float(far.mean), round(float(far.variance), 6)
    (1000000002.0, 0.666667)
    """
    return MomentsOf(axis)


def norm(axis: int | None = None) -> Fold[NDArray[Any], NDArray[Any]]:
    """Take the 2-norm of blocks; over all entries, which is the default, the Frobenius norm.

    Entries are scaled before they are squared, so that it overflows only where the norm does.

    Parameters
    ----------
    axis
        The axis to join and reduce; None for all entries.

    Returns
    -------
    Fold
        Its result equals ``np.linalg.norm(np.concatenate(blocks, axis), axis=axis)``; it is real,
        and float64 for integers and booleans.

    Examples
    --------
    >>> import numpy as np
    >>> norm()([np.array([3e200]), np.array([4e200])])
    array(5.e+200)
    """
    return Norm(axis)


def count(axis: int | None = 0) -> Fold[NDArray[Any], int]:
    """Count the rows of blocks, or what else lies along an axis.

    Parameters
    ----------
    axis
        The axis to join and count along; None for all entries.

    Returns
    -------
    Fold
        Its result equals ``np.concatenate(blocks, axis).shape[axis]``; entries may be of any dtype.

    Examples
    --------
    >>> import numpy as np
    >>> count()([np.ones((2, 3)), np.ones((5, 3))])
    7
    """
    return Count(axis)


def first() -> Fold[NDArray[Any], NDArray[Any]]:
    """Take a copy of the first block, which may be of any type.

    Examples
    --------
    >>> import numpy as np
    >>> first()([np.zeros(2), np.ones(3)])
    array([0., 0.])
    """
    return End(last=False)


def last() -> Fold[NDArray[Any], NDArray[Any]]:
    """Take a copy of the last block, which may be of any type.

    Examples
    --------
    >>> import numpy as np
    >>> last()([np.zeros(2), np.ones(3)])
    array([1., 1., 1.])
    """
    return End(last=True)


@dataclass(frozen=True, slots=True)
class Reduction(Fold[S, R], Generic[S, R]):
    """A fold that reduces along an axis: a state of each block, merged with that of those before.

    ``xp`` is the array API namespace of the blocks.
    """

    axis: int | None = 0

    @abstractmethod
    def of(self, xp: Any, block: Any, axis: int | None) -> Any:
        """Return the state of one block; it shares no memory with it."""

    @abstractmethod
    def merge(self, xp: Any, state: Any, other: Any) -> Any:
        """Return the state of two parts, of which ``other`` comes later."""

    @abstractmethod
    def result(self, xp: Any, state: Any, dtype: Any) -> R:
        """Return the result for blocks of a dtype."""

    def start(self, counts: Counts, /) -> _Reducing[S, R]:  # noqa: ARG002
        """Start a pass."""
        return _Reducing(self)


class _Reducing(Pass, Generic[S, R]):
    __slots__ = ("_blocks", "_reduction", "_state", "_xp")

    def __init__(self, reduction: Reduction[S, R]) -> None:
        self._reduction = reduction
        self._blocks = Likeness(reduction.axis)
        self._state: Any = None
        self._xp: Any = None

    def step(self, block: S, /) -> None:
        xp, array = plain(block)
        seen = self._blocks.seen
        self._blocks.check(array)
        state = self._reduction.of(xp, array, self._blocks.axis)
        self._state = self._reduction.merge(xp, self._state, state) if seen else state
        self._xp = xp

    def finish(self) -> R:
        if not self._blocks.seen:
            raise EmptySequenceError("there is no block to reduce, hence neither shape nor dtype")
        return self._reduction.result(self._xp, self._state, self._blocks.dtype)


@dataclass(frozen=True, slots=True)
class Total(Reduction[S, S], Generic[S]):
    """What :func:`total` returns."""

    def of(self, xp: Any, block: Any, axis: int | None) -> Any:
        """Return the sum, in double precision or as the library sums integers."""
        exact = kind(xp, block.dtype) in {"integral", "bool"}
        return xp.sum(block, axis=axis, dtype=None if exact else wide(xp, block.dtype))

    def merge(self, xp: Any, state: Any, other: Any) -> Any:
        """Add."""
        return xp.add(state, other)  # where `+` of NumPy's scalars would warn, this wraps around

    def result(self, xp: Any, state: Any, dtype: Any) -> S:
        """Return the sum in the blocks' precision."""
        exact = kind(xp, dtype) in {"integral", "bool"}
        summed: S = _array(xp, state, state.dtype if exact else dtype)
        return summed


@dataclass(frozen=True, slots=True)
class Mean(Reduction[S, S], Generic[S]):
    """What :func:`mean` returns."""

    def of(self, xp: Any, block: Any, axis: int | None) -> tuple[int, Any]:
        """Return the number of entries and their sum."""
        dtype = wide(xp, block.dtype)
        return _length(block, axis), xp.sum(block, axis=axis, dtype=dtype)

    def merge(self, xp: Any, state: Any, other: Any) -> tuple[int, Any]:
        """Add both."""
        return state[0] + other[0], xp.add(state[1], other[1])

    def result(self, xp: Any, state: tuple[int, Any], dtype: Any) -> S:
        """Divide."""
        number, summed = state
        quotient = summed / number if number else summed * math.nan
        average: S = _array(xp, quotient, _inexact(xp, dtype))
        return average


@dataclass(frozen=True, slots=True)
class Extremum(Reduction[S, S], Generic[S]):
    """What :func:`minimum` and :func:`maximum` return."""

    largest: bool = False

    def of(self, xp: Any, block: Any, axis: int | None) -> Any:
        """Return the extremum, or None if there is no entry."""
        if kind(xp, block.dtype) == "complex floating":
            raise BlockDTypeError(
                f"blocks of dtype {block.dtype} have no order; take the absolute value first",
                expected="a dtype with an order",
                got=block.dtype,
            )
        if _length(block, axis) == 0:
            return None
        return (xp.max if self.largest else xp.min)(block, axis=axis)

    def merge(self, xp: Any, state: Any, other: Any) -> Any:
        """Take the extremum of both."""
        if state is None or other is None:
            return other if state is None else state
        return (xp.maximum if self.largest else xp.minimum)(state, other)

    def result(self, xp: Any, state: Any, dtype: Any) -> S:
        """Return it.

        Raises
        ------
        EmptySequenceError
            If there was no entry.
        """
        if state is None:
            raise EmptySequenceError(
                f"blocks without an entry along axis {self.axis} have no "
                f"{'maximum' if self.largest else 'minimum'}"
            )
        extremum: S = _array(xp, state, dtype)
        return extremum


@dataclass(frozen=True, slots=True)
class MomentsOf(Reduction[S, Moments[S]], Generic[S]):
    """What :func:`moments` returns."""

    def of(self, xp: Any, block: Any, axis: int | None) -> tuple[int, Any, Any]:
        """Return the number of entries, their mean, and the sum of squared distances from it."""
        number = _length(block, axis)
        dtype = wide(xp, block.dtype)
        middle = xp.sum(block, axis=axis, dtype=dtype, keepdims=True) / max(number, 1)
        distance = xp.astype(block, dtype) - middle
        squares = xp.sum(_squared(xp, distance), axis=axis)
        return number, xp.reshape(middle, squares.shape), squares

    def merge(self, xp: Any, state: Any, other: Any) -> tuple[int, Any, Any]:
        """Merge as Chan, Golub and LeVeque do."""
        before, mean, squares = state
        number, other_mean, other_squares = other
        if not before:
            return number, other_mean, other_squares
        if not number:
            return before, mean, squares
        together = before + number
        distance = other_mean - mean
        spread = _squared(xp, distance) * (before * number / together)
        return (
            together,
            mean + distance * (number / together),
            squares + other_squares + spread,
        )

    def result(self, xp: Any, state: tuple[int, Any, Any], dtype: Any) -> Moments[S]:
        """Divide."""
        number, mean, squares = state
        variance = squares / max(number, 1)
        if not number:
            mean, variance = mean * math.nan, variance * math.nan
        dtype = _inexact(xp, dtype)
        return Moments(number, _array(xp, mean, dtype), _array(xp, variance, _real(xp, dtype)))


@dataclass(frozen=True, slots=True)
class Norm(Reduction[S, S], Generic[S]):
    """What :func:`norm` returns."""

    axis: int | None = None

    def of(self, xp: Any, block: Any, axis: int | None) -> Any:
        """Return the norm in double precision."""
        size = xp.abs(xp.astype(block, wide(xp, block.dtype)))
        if _length(block, axis) == 0:
            return xp.sum(size, axis=axis)
        scale = xp.max(size, axis=axis, keepdims=True)
        scale = xp.where(xp.isfinite(scale) & (scale > 0), scale, xp.ones_like(scale))
        size = size / scale
        root = xp.sqrt(xp.sum(size * size, axis=axis))
        return root * xp.reshape(scale, root.shape)

    def merge(self, xp: Any, state: Any, other: Any) -> Any:
        """Merge; unlike ``hypot``, infinity and NaN give NaN, in whatever order they come."""
        unknown = xp.isnan(state) | xp.isnan(other)
        return xp.where(unknown, state + other, xp.hypot(state, other))

    def result(self, xp: Any, state: Any, dtype: Any) -> S:
        """Return it in the blocks' precision."""
        length: S = _array(xp, state, _real(xp, _inexact(xp, dtype)))
        return length


@dataclass(frozen=True, slots=True)
class Count(Reduction[S, int], Generic[S]):
    """What :func:`count` returns."""

    def of(self, xp: Any, block: Any, axis: int | None) -> int:  # noqa: ARG002
        """Return the length."""
        return _length(block, axis)

    def merge(self, xp: Any, state: int, other: int) -> int:  # noqa: ARG002
        """Add."""
        return state + other

    def result(self, xp: Any, state: int, dtype: Any) -> int:  # noqa: ARG002
        """Return it."""
        return state


@dataclass(frozen=True, slots=True)
class End(Fold[S, S], Generic[S]):
    """What :func:`first` and :func:`last` return."""

    last: bool = False

    def start(self, counts: Counts, /) -> _Ending[S]:  # noqa: ARG002
        """Start a pass."""
        return _Ending(last=self.last)


class _Ending(Pass, Generic[S]):
    __slots__ = ("_kept", "_last")

    def __init__(self, *, last: bool) -> None:
        self._last = last
        self._kept: list[S] = []

    def step(self, block: S, /) -> None:
        if self._last or not self._kept:
            self._kept = [copied(block)]

    def finish(self) -> S:
        if not self._kept:
            raise EmptySequenceError("there is no block, hence no first and no last one")
        return self._kept[0]


def _length(block: Any, axis: int | None) -> int:
    return math.prod(block.shape) if axis is None else block.shape[axis]


def _squared(xp: Any, x: Any) -> Any:
    """Squared absolute value, which is real."""
    if xp.isdtype(x.dtype, "complex floating"):
        return xp.real(x) * xp.real(x) + xp.imag(x) * xp.imag(x)
    return x * x


def _inexact(xp: Any, dtype: Any) -> Any:
    """The dtype of a mean."""
    return xp.float64 if kind(xp, dtype) in {"integral", "bool"} else dtype


def _real(xp: Any, dtype: Any) -> Any:
    """The dtype of an absolute value."""
    if kind(xp, dtype) != "complex floating":
        return dtype
    return xp.real(xp.empty(0, dtype=dtype)).dtype


def _array(xp: Any, x: Any, dtype: Any) -> Any:
    """Make an array of what NumPy may have made a scalar."""
    return xp.asarray(x, dtype=dtype)
