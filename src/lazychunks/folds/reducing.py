"""Reducing blocks: for each reduction, a state of one block and an associative merge of two states.

``xp`` is the array API namespace of the blocks, NumPy's or PyTorch's.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

from lazychunks.arrays import Likeness, copied, inexact, kind, plain, wide
from lazychunks.errors import EmptySequenceError
from lazychunks.folds.fold import Counts, Fold, Pass, Running, fold

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


@dataclass(frozen=True, slots=True)
class _Reduction(Fold[S, R], Generic[S, R]):
    """A fold that reduces along an axis: states of blocks, merged one after the other."""

    axis: int | None = 0

    @abstractmethod
    def of(self, xp: Any, block: Any, axis: int | None) -> Any:
        """Return the state of one block; it shares no memory with it."""

    @abstractmethod
    def merge(self, xp: Any, state: Any, other: Any) -> Any:
        """Return the state of two parts, of which ``other`` comes later."""

    @abstractmethod
    def result(self, xp: Any, state: Any, dtype: Any) -> R:
        """Return the result for blocks of a dtype, as an array where NumPy has made a scalar."""

    def start(self, counts: Counts, /) -> Running[S, R]:  # noqa: ARG002
        """Start a pass."""
        return _Reducing(self, Likeness(self.axis))


@dataclass(slots=True, eq=False)
class _Reducing(Pass, Generic[S, R]):
    reduction: _Reduction[S, R]
    blocks: Likeness
    xp: Any = None
    state: Any = None

    def step(self, block: S, /) -> None:
        self.xp, array = plain(block)
        seen = self.blocks.seen
        self.blocks.check(array)
        state = self.reduction.of(self.xp, array, self.blocks.axis)
        self.state = self.reduction.merge(self.xp, self.state, state) if seen else state

    def finish(self) -> R:
        return self.reduction.result(self.xp, self.state, self.blocks.dtype)


@dataclass(frozen=True, slots=True)
class Total(_Reduction[S, S], Generic[S]):
    """What :func:`total` returns."""

    def of(self, xp: Any, block: Any, axis: int | None) -> Any:
        """Return the sum, in double precision or as the library sums integers."""
        exact = kind(xp, block.dtype) in {"integral", "bool"}
        return xp.sum(block, axis=axis, dtype=None if exact else wide(xp, block.dtype))

    def merge(self, xp: Any, state: Any, other: Any) -> Any:
        """Add."""
        return xp.add(state, other)  # where `+` of NumPy's scalars would warn, this wraps around

    def result(self, xp: Any, state: Any, dtype: Any) -> Any:
        """Return the sum in the blocks' precision."""
        exact = kind(xp, dtype) in {"integral", "bool"}
        return xp.asarray(state, dtype=state.dtype if exact else dtype)


@dataclass(frozen=True, slots=True)
class Mean(_Reduction[S, S], Generic[S]):
    """What :func:`mean` returns."""

    def of(self, xp: Any, block: Any, axis: int | None) -> tuple[int, Any]:
        """Return the number of entries and their sum."""
        dtype = wide(xp, block.dtype)
        return _length(block, axis), xp.sum(block, axis=axis, dtype=dtype)

    def merge(self, xp: Any, state: Any, other: Any) -> tuple[int, Any]:
        """Add both."""
        return state[0] + other[0], xp.add(state[1], other[1])

    def result(self, xp: Any, state: tuple[int, Any], dtype: Any) -> Any:
        """Divide."""
        number, summed = state
        quotient = summed / number if number else summed * math.nan
        return xp.asarray(quotient, dtype=inexact(xp, dtype))


@dataclass(frozen=True, slots=True)
class Extremum(_Reduction[S, S], Generic[S]):
    """What :func:`minimum` and :func:`maximum` return."""

    largest: bool = False

    def of(self, xp: Any, block: Any, axis: int | None) -> Any:
        """Return the extremum, or None if there is no entry."""
        kind(xp, block.dtype, ordered=True)
        if _length(block, axis) == 0:
            return None
        return (xp.max if self.largest else xp.min)(block, axis=axis)

    def merge(self, xp: Any, state: Any, other: Any) -> Any:
        """Take the extremum of both."""
        if state is None or other is None:
            return other if state is None else state
        return (xp.maximum if self.largest else xp.minimum)(state, other)

    def result(self, xp: Any, state: Any, dtype: Any) -> Any:
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
        return xp.asarray(state, dtype=dtype)


@dataclass(frozen=True, slots=True)
class MomentsOf(_Reduction[S, Moments[S]], Generic[S]):
    """What :func:`moments` returns."""

    def of(self, xp: Any, block: Any, axis: int | None) -> tuple[int, Any, Any]:
        """Return number of entries, their sum, and the sum of squared distances from the mean."""
        number = _length(block, axis)
        dtype = wide(xp, block.dtype)
        summed = xp.sum(block, axis=axis, dtype=dtype, keepdims=True)
        distance = xp.astype(block, dtype) - summed / max(number, 1)
        squares = xp.sum(_squared(xp, distance), axis=axis)
        return number, xp.reshape(summed, squares.shape), squares

    def merge(
        self, xp: Any, state: tuple[int, Any, Any], other: tuple[int, Any, Any]
    ) -> tuple[int, Any, Any]:
        """Merge as Chan, Golub and LeVeque do."""
        before, summed, squares = state
        number, other_sum, other_squares = other
        if not before or not number:
            return other if number else state
        distance = other_sum / number - summed / before
        spread = _squared(xp, distance) * (before * number / (before + number))
        return before + number, summed + other_sum, squares + other_squares + spread

    def result(self, xp: Any, state: tuple[int, Any, Any], dtype: Any) -> Moments[S]:
        """Divide."""
        number, summed, squares = state
        mean, variance = summed / max(number, 1), squares / max(number, 1)
        if not number:
            mean, variance = mean * math.nan, variance * math.nan
        dtype = inexact(xp, dtype)
        real = _real(xp, dtype)
        return Moments(number, xp.asarray(mean, dtype=dtype), xp.asarray(variance, dtype=real))


@dataclass(frozen=True, slots=True)
class Norm(_Reduction[S, S], Generic[S]):
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

    def result(self, xp: Any, state: Any, dtype: Any) -> Any:
        """Return it in the blocks' precision."""
        return xp.asarray(state, dtype=_real(xp, inexact(xp, dtype)))


@dataclass(frozen=True, slots=True)
class Count(_Reduction[S, int], Generic[S]):
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


def _first(kept: tuple[Any, ...], block: Any) -> tuple[Any, ...]:
    return kept or (copied(block),)


def _last(kept: tuple[Any, ...], block: Any) -> tuple[Any, ...]:  # noqa: ARG001
    return (copied(block),)


def _only(kept: tuple[Any, ...]) -> Any:
    if not kept:
        raise EmptySequenceError("there is no block, hence no first and no last one")
    return kept[0]


FIRST: Fold[Any, Any] = fold(_first, (), _only)
"""What :func:`first` returns."""

LAST: Fold[Any, Any] = fold(_last, (), _only)
"""What :func:`last` returns."""


def _length(block: Any, axis: int | None) -> int:
    return math.prod(block.shape) if axis is None else block.shape[axis]


def _squared(xp: Any, x: Any) -> Any:
    """Squared absolute value, which is real."""
    if xp.isdtype(x.dtype, "complex floating"):
        return xp.real(x) * xp.real(x) + xp.imag(x) * xp.imag(x)
    return x * x


def _real(xp: Any, dtype: Any) -> Any:
    """The dtype of an absolute value."""
    if kind(xp, dtype) != "complex floating":
        return dtype
    return xp.real(xp.empty(0, dtype=dtype)).dtype
