"""The library's folds that join blocks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

from lazychunks.converters import AnyArray
from lazychunks.folds import Counts, Fold, Joins, NestedFold, nest
from lazychunks.joining import Joining

__all__ = ["Concatenate", "concatenate", "nested_concatenate"]


S = TypeVar("S")


@dataclass(frozen=True, slots=True)
class Concatenate(Fold[S, S], Joins, Generic[S]):
    """Joins blocks along an axis: the fold that :func:`concatenate` returns."""

    axis: int = 0

    def start(self, counts: Counts, /) -> Joining[S]:
        """Start a pass; a count makes it allocate once."""
        return Joining(self.axis, counts[0])


def concatenate(axis: int = 0) -> Concatenate[AnyArray]:
    """Join blocks: arrays, tensors, or tuples of them by component.

    Where the sequence has a length hint, one result is allocated and filled, so that memory peaks
    at the size of the result and one block; without a hint it peaks at twice the result.

    Tuples are what some folds make of a row: ``nest(top_k(10, axis=1), concatenate())`` has one
    :class:`TopK` of all rows for its result. A component that is no array, as the count among
    :class:`Moments`, must be the same in all rows.

    Parameters
    ----------
    axis
        The axis to join along.

    Returns
    -------
    Concatenate
        A fold whose result equals ``np.concatenate(list(blocks), axis)`` (``torch.cat`` for
        tensors), bitwise.

    Raises
    ------
    EmptySequenceError
        When run over no block.
    BlockTypeError, BlockShapeError
        When run over blocks that are neither arrays nor tuples, or tuples that are not alike;
        arrays that do not fit get the error of the library's own function.

    Examples
    --------
    >>> import numpy as np
    >>> from lazychunks import LazyChunkSequence
    >>> LazyChunkSequence.from_map(np.arange, [2, 0, 3]).compute(concatenate())
    array([0, 1, 0, 1, 2])
    """
    return Concatenate(axis)


def nested_concatenate() -> NestedFold[AnyArray, AnyArray]:
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
    nested: NestedFold[AnyArray, AnyArray] = nest(concatenate(axis=1), concatenate(axis=0))
    return nested
