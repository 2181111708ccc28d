"""The library's folds: joining blocks, reducing them, and the best of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lazychunks.folds import Counts, Fold, NestedFold, nest
from lazychunks.joining import Joining, Kind

__all__ = ["Concatenate", "concatenate", "nested_concatenate"]


@dataclass(frozen=True, slots=True)
class Concatenate(Fold[NDArray[Any], NDArray[Any]]):
    """Joins blocks along an axis: the fold that :func:`concatenate` returns."""

    axis: int = 0

    def start(self, counts: Counts, /) -> Joining[NDArray[Any]]:
        """Start a pass; a count makes it allocate once."""
        return Joining(_numpy_kind, self.axis, counts[0])


def concatenate(axis: int = 0) -> Concatenate:
    """Join NumPy blocks.

    Where the sequence has a length hint, one result is allocated and filled, so that memory peaks
    at the size of the result and one block; without a hint it peaks at twice the result.

    Parameters
    ----------
    axis
        The axis to join along.

    Returns
    -------
    Concatenate
        A fold whose result equals ``np.concatenate(list(blocks), axis)``, bitwise.

    Raises
    ------
    EmptySequenceError
        When run over no block.

    Examples
    --------
    >>> import numpy as np
    >>> from lazychunks import LazyChunkSequence
    >>> LazyChunkSequence.from_map(np.arange, [2, 0, 3]).compute(concatenate())
    array([0, 1, 0, 1, 2])
    """
    return Concatenate(axis)


def nested_concatenate() -> NestedFold[NDArray[Any], NDArray[Any]]:
    """Join rows of NumPy blocks as ``np.block`` lays out a list of lists.

    It is ``nest(concatenate(axis=1), concatenate(axis=0))``; memory is that of
    :func:`concatenate`, and one row more.

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
    return nest(Concatenate(axis=1), Concatenate(axis=0))


def _numpy_kind(block: NDArray[Any]) -> Kind[NDArray[Any]]:
    return _NUMPY


_NUMPY: Kind[NDArray[Any]] = Kind(
    # Of several arrays, also of one dtype, np.concatenate makes native byte order.
    empty=lambda like, shape: np.empty(shape, np.concatenate([like[:0]] * 2).dtype),
    cat=lambda blocks, axis: np.concatenate(blocks, axis=axis),
    copyable=lambda block: type(block) is np.ndarray,
)
