"""The library's folds that reduce: what NumPy gives for the joined blocks, in one pass."""

from __future__ import annotations

from lazychunks.converters import AnyArray
from lazychunks.folds import reducing
from lazychunks.folds.fold import Fold
from lazychunks.folds.reducing import Moments


def total(axis: int | None = 0) -> Fold[AnyArray, AnyArray]:
    """Sum blocks.

    Parameters
    ----------
    axis
        The axis that blocks are joined along *and* that is reduced: 0 for a flat sequence, 1 for a
        row of a nested one, as in ``nest(total(axis=1), concatenate())``. With None all entries are
        reduced, and the shapes of blocks do not matter.

    Returns
    -------
    Fold
        Its result equals ``np.concatenate(blocks, axis).sum(axis)``, also in dtype: integers and
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

    Notes
    -----
    What holds for all reductions of this library:

    - Results have the shape of a block without the axis (0-dimensional, where nothing is left) and
      its library, device and, unless said otherwise, dtype in native byte order. Those of tensors
      carry no gradient.
    - Floating-point numbers, half and bfloat16 included, are accumulated in double precision.
    - Memory is that of the result and of a few blocks in double precision. Blocks are not changed,
      and nothing of them is kept.

    Examples
    --------
    >>> import numpy as np
    >>> total()([np.ones((2, 3)), np.ones((5, 3))])
    array([7., 7., 7.])
    """
    return reducing.Total(axis)


def mean(axis: int | None = 0) -> Fold[AnyArray, AnyArray]:
    """Average blocks.

    Parameters
    ----------
    axis
        The axis to join and reduce, as in :func:`total`; None for all entries.

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
    return reducing.Mean(axis)


def minimum(axis: int | None = 0) -> Fold[AnyArray, AnyArray]:
    """Take the least entries of blocks.

    Parameters
    ----------
    axis
        The axis to join and reduce, as in :func:`total`; None for all entries.

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
    return reducing.Extremum(axis, largest=False)


def maximum(axis: int | None = 0) -> Fold[AnyArray, AnyArray]:
    """Take the greatest entries of blocks; otherwise as :func:`minimum`.

    Examples
    --------
    >>> import numpy as np
    >>> maximum()([np.array([[3, 4]]), np.array([[5, 1]])])
    array([5, 4])
    """
    return reducing.Extremum(axis, largest=True)


def moments(axis: int | None = 0) -> Fold[AnyArray, Moments[AnyArray]]:
    """Take mean and variance in one stable pass.

    The states of two parts are merged by the pairwise update of Chan, Golub and LeVeque, "Updating
    formulae and a pairwise algorithm for computing sample variances" (1979): unlike the difference
    of a mean square and a squared mean, it cancels nothing where the mean is far from zero.

    Parameters
    ----------
    axis
        The axis to join and reduce, as in :func:`total`; None for all entries.

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
    return reducing.MomentsOf(axis)


def norm(axis: int | None = None) -> Fold[AnyArray, AnyArray]:
    """Take the 2-norm of blocks; over all entries, which is the default, the Frobenius norm.

    Entries are scaled before they are squared, so that it overflows only where the norm does.

    Parameters
    ----------
    axis
        The axis to join and reduce, as in :func:`total`; None for all entries.

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
    return reducing.Norm(axis)


def count(axis: int | None = 0) -> Fold[AnyArray, int]:
    """Count the rows of blocks, or what else lies along an axis.

    Parameters
    ----------
    axis
        The axis to join and count along, as in :func:`total`; None for all entries.

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
    return reducing.Count(axis)


def first() -> Fold[AnyArray, AnyArray]:
    """Take a copy of the first block, which may be of any type.

    Examples
    --------
    >>> import numpy as np
    >>> first()([np.zeros(2), np.ones(3)])
    array([0., 0.])
    """
    return reducing.FIRST


def last() -> Fold[AnyArray, AnyArray]:
    """Take a copy of the last block, which may be of any type.

    Examples
    --------
    >>> import numpy as np
    >>> last()([np.zeros(2), np.ones(3)])
    array([1., 1., 1.])
    """
    return reducing.LAST
