"""Aggregators that join blocks into one array."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import chain
from operator import length_hint
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from lazychunks.errors import EmptySequenceError
from lazychunks.sequences import LazyChunkSequence, NestedLazyChunkSequence

__all__ = [
    "Concatenate",
    "NestedConcatenate",
    "concatenate",
    "joined",
    "nested_concatenate",
]


class _Shaped(Protocol):
    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> object: ...

    def __getitem__(self, key: Any, /) -> Any: ...

    def __setitem__(self, key: Any, value: Any, /) -> None: ...


S = TypeVar("S", bound=_Shaped)


@dataclass(frozen=True, slots=True)
class Concatenate:
    """Joins blocks along an axis: the aggregator that :func:`concatenate` returns."""

    axis: int = 0

    def __call__(self, tensor_sequence: Iterable[NDArray[Any]], /) -> NDArray[Any]:
        """Return ``np.concatenate`` of the blocks."""
        return joined(
            tensor_sequence,
            self.axis,
            # Promotion with itself: np.concatenate gives native byte order.
            empty=lambda first, shape: np.empty(shape, np.promote_types(first.dtype, first.dtype)),
            cat=lambda blocks: np.concatenate(blocks, axis=self.axis),
            copyable=lambda block: type(block) is np.ndarray,
        )


@dataclass(frozen=True, slots=True)
class NestedConcatenate:
    """Joins rows of blocks: the aggregator that :func:`nested_concatenate` returns."""

    def __call__(
        self, nested_sequence_of_tensors: NestedLazyChunkSequence[NDArray[Any]], /
    ) -> NDArray[Any]:
        """Return the blocks of each row joined along axis 1, and the rows along axis 0."""
        rows = LazyChunkSequence(
            lambda: map(Concatenate(axis=1), nested_sequence_of_tensors),
            nested_sequence_of_tensors.len_outer_generator,
        )
        return Concatenate(axis=0)(rows)


def concatenate(axis: int = 0) -> Concatenate:
    """Aggregate NumPy blocks into their concatenation.

    Where the sequence has a length hint, one result is allocated and filled, so that memory peaks
    at the size of the result and one block; without a hint it peaks at twice the result.

    Parameters
    ----------
    axis
        The axis to join along.

    Returns
    -------
    Concatenate
        An aggregator whose result equals ``np.concatenate(list(blocks), axis)``, bitwise.

    Examples
    --------
    >>> import numpy as np
    >>> from lazychunks import LazyChunkSequence
    >>> LazyChunkSequence.from_map(np.arange, [2, 0, 3]).compute(concatenate())
    array([0, 1, 0, 1, 2])
    """
    return Concatenate(axis)


def nested_concatenate() -> NestedConcatenate:
    """Aggregate nested NumPy blocks as ``np.block`` lays out a list of lists.

    Rows are joined along axis 1, then along axis 0; memory is that of :func:`concatenate`, and
    one row more.

    Examples
    --------
    >>> import numpy as np
    >>> from lazychunks import NestedLazyChunkSequence
    >>> def block(i: int, j: int) -> np.ndarray:
    ...     return np.full((1, 2), 10 * i + j)
    >>> nested = NestedLazyChunkSequence.from_product(block, range(2), range(2))
    >>> nested.compute(nested_concatenate())
    array([[ 0,  0,  1,  1],
           [10, 10, 11, 11]])
    """
    return NestedConcatenate()


def joined(
    blocks: Iterable[S],
    axis: int,
    *,
    empty: Callable[[S, tuple[int, ...]], S],
    cat: Callable[[list[S]], S],
    copyable: Callable[[S], bool],
) -> S:
    """Join blocks, in one allocation where the length hint tells the size.

    Parameters
    ----------
    blocks
        Arrays of any library.
    axis
        The axis to join along.
    empty
        Allocates a result of a shape, with the dtype (and device) of the first block.
    cat
        The library's own function; says what is right, and takes over where a block does not fit
        the allocation (another dtype or shape, more blocks than hinted at).
    copyable
        Whether copying a block's values into an allocation gives what ``cat`` would.

    Raises
    ------
    EmptySequenceError
        If there is no block.
    """
    count = length_hint(blocks)
    rest = iter(blocks)
    first = next(rest, None)
    if first is None:
        raise EmptySequenceError("there is no block to join, hence neither shape nor dtype")
    axis = axis + len(first.shape) if axis < 0 else axis
    if count < 2 or not copyable(first) or not 0 <= axis < len(first.shape):
        return cat([first, *rest])
    shape = list(first.shape)
    shape[axis] *= count
    try:
        result = empty(first, tuple(shape))
    except (MemoryError, OverflowError, RuntimeError, TypeError, ValueError):
        # The hint may be wrong; torch says TypeError where a length is no 64-bit integer.
        return cat([first, *rest])
    before = (slice(None),) * axis
    filled = 0
    for block in chain((first,), rest):
        extent = block.shape[axis] if len(block.shape) > axis else 0
        fits = (
            len(block.shape) == len(shape)
            and block.dtype == first.dtype
            and getattr(block, "device", None) == getattr(first, "device", None)
            and copyable(block)
            and (*block.shape[:axis], *block.shape[axis + 1 :])
            == (*shape[:axis], *shape[axis + 1 :])
            and filled + extent <= shape[axis]
        )
        if not fits:
            return cat([result[(*before, slice(0, filled))], block, *rest])
        result[(*before, slice(filled, filled + extent))] = block
        filled += extent
    if filled == shape[axis]:
        return result
    part: S = result[(*before, slice(0, filled))]
    return part if 8 * filled > 7 * shape[axis] else cat([part])
