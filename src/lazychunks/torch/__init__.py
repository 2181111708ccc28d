"""PyTorch blocks: the converter, the aggregators that concatenate, and the folds typed for tensors.

:func:`total`, :func:`top_k` and the other functions are those of :mod:`lazychunks`, which go by the
blocks that they meet; these are typed for tensors, and their results are tensors on the device of
the blocks.

Needs the extra ``torch``; nothing else in the library imports it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, SupportsFloat

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lazychunks.arrays import find_oddity
from lazychunks.converters import bfloat16
from lazychunks.errors import BlockDTypeError, BlockTypeError
from lazychunks.folds import reductions
from lazychunks.folds.along import join_along
from lazychunks.folds.concatenate import Concatenate, Concatenation
from lazychunks.folds.covariance import Covariance, CovarianceFold, check_degrees
from lazychunks.folds.fold import EitherFold, Fold, NestedFold
from lazychunks.folds.histogram import Histogram, HistogramFold, check_edges
from lazychunks.folds.nest import nest
from lazychunks.folds.reductions import Moments
from lazychunks.folds.top_k import TopK, TopKFold
from lazychunks.layout.parts import AnyPart
from lazychunks.runs.passes import AnyRunning, Counts, PartFold, PartRunning, RunningRows
from lazychunks.torch.dataset import BlockDataset
from lazychunks.torch.ranks import DistributedRanks

__all__ = [
    "BlockDataset",
    "DistributedRanks",
    "NestedTorchCatAggregator",
    "TorchCatAggregator",
    "TorchNumpyConverter",
    "concatenate",
    "count",
    "covariance",
    "first",
    "histogram",
    "last",
    "maximum",
    "mean",
    "minimum",
    "moments",
    "norm",
    "top_k",
    "total",
]


@dataclass(frozen=True, slots=True)
class TorchNumpyConverter:
    """Converts tensors to NumPy arrays and back, bitwise; bfloat16 included.

    bfloat16 needs the extra ``bfloat16`` (the package ``ml_dtypes``), since NumPy has no such
    dtype of its own.

    Parameters
    ----------
    device
        Where :meth:`from_numpy` puts its tensors; by default they stay on the CPU.

    Examples
    --------
    >>> import torch
    >>> converter = TorchNumpyConverter()
    >>> converter.to_numpy(torch.ones(2, requires_grad=True))
    array([1., 1.], dtype=float32)
    >>> converter.from_numpy(converter.to_numpy(torch.arange(3)))
    tensor([0, 1, 2])
    """

    device: torch.device | str | int | None = None

    def to_numpy(self, x: Tensor, /) -> NDArray[Any]:
        """Return the values of a tensor on the CPU, detached.

        A tensor on the CPU shares its memory with the result; from another device the copy is
        complete when this returns.

        Raises
        ------
        BlockTypeError
            If ``x`` is no dense tensor with values: sparse, nested, quantized, of a subclass with a
            layout of its own (such as a masked tensor), or on the meta device.
        BlockDTypeError
            If NumPy has no such dtype.
        ImportError
            If ``x`` is bfloat16 and ml_dtypes is not installed.
        """
        if not isinstance(x, Tensor):  # pyright: ignore[reportUnnecessaryIsInstance]  # callers need not be typed
            raise BlockTypeError(
                f"expected a torch.Tensor, got {type(x).__name__}; NumPy blocks need the "
                "IdentityConverter",
                expected=Tensor,
                got=type(x),
            )
        oddity = find_oddity(torch, x)
        if oddity is not None:
            what, way_out = oddity
            shape = "" if x.is_nested else f" of shape {tuple(x.shape)}"
            raise BlockTypeError(
                f"a tensor{shape} {what}, so it cannot become a NumPy array; {way_out}",
                expected="a dense tensor",
                got=x.layout,
            )
        dense = x.detach().cpu().resolve_conj().resolve_neg()
        if dense.dtype is torch.bfloat16:
            return dense.contiguous().view(torch.int16).numpy().view(bfloat16())
        try:
            return dense.numpy()
        except TypeError:
            raise BlockDTypeError(
                f"NumPy has no dtype for {x.dtype}; cast the tensor first, e.g. with .float()",
                expected="a dtype that NumPy has, or torch.bfloat16",
                got=x.dtype,
            ) from None

    def from_numpy(self, x: NDArray[Any], /) -> Tensor:
        """Return the values of an array as a tensor on ``device``.

        The tensor shares memory with the array where torch can: not if it is read-only, has
        foreign byte order, or strides that are negative or no multiple of the item's size.
        """
        strided = all(stride >= 0 and stride % x.itemsize == 0 for stride in x.strides)
        shareable = x.flags.writeable and x.dtype.isnative and strided
        array = x if shareable else np.array(x, dtype=x.dtype.newbyteorder("="), order="C")
        if array.dtype.name == "bfloat16":
            bits = _shared(np.ascontiguousarray(array).view(np.int16))
            tensor = bits.view(torch.bfloat16).reshape(array.shape)
        else:
            tensor = _shared(array)
        return tensor if self.device is None else tensor.to(self.device)


@dataclass(frozen=True, slots=True)
class TorchCatAggregator(Fold[Tensor, Tensor]):
    """Concatenates tensors along axis 0.

    The result equals ``torch.cat(list(blocks))``. With a length hint, one result is allocated and
    filled, so that memory peaks at the size of the result and one block, not at twice the result;
    tensors that carry gradients are left to ``torch.cat``, which keeps their graph.

    Examples
    --------
    >>> import torch
    >>> from lazychunks import LazyChunkSequence
    >>> LazyChunkSequence.from_map(torch.arange, [2, 3]).compute(TorchCatAggregator())
    tensor([0, 1, 0, 1, 2])
    """

    def start(self, counts: Counts, /) -> Concatenation[Tensor]:
        """Start a pass; a count makes it allocate once."""
        return Concatenation(0, counts[0])


@dataclass(frozen=True, slots=True)
class NestedTorchCatAggregator(NestedFold[Tensor, Tensor]):
    """Concatenates the tensors of each row along axis 1, and the rows along axis 0.

    Memory is that of :class:`TorchCatAggregator`, and one row more.
    """

    def start_rows(self, counts: Counts, /) -> RunningRows[Tensor, Tensor]:
        """Start a pass."""
        return _join_rows().start_rows(counts)

    def for_parts(self, running: AnyRunning, /) -> PartFold[Tensor]:
        """Return what workers need to go through parts."""
        return _join_rows().for_parts(running)

    def start_part(self, part: AnyPart, /) -> PartRunning[Tensor]:
        """Start a pass over a part."""
        return _join_rows().start_part(part)


def _join_rows() -> NestedFold[Tensor, Tensor]:
    columns: Concatenate[Tensor] = Concatenate(axis=1)
    return nest(columns, TorchCatAggregator())


def concatenate(axis: int = 0) -> Concatenate[Tensor]:
    """Join tensors; see :func:`lazychunks.concatenate`."""
    return Concatenate(axis)


def total(axis: int | None = 0, along: int | None = None) -> Fold[Tensor, Tensor]:
    """Sum tensors; see :func:`lazychunks.total`."""
    return join_along(reductions.Total(axis), axis, along)


def mean(axis: int | None = 0, along: int | None = None) -> Fold[Tensor, Tensor]:
    """Average tensors; see :func:`lazychunks.mean`."""
    return join_along(reductions.Mean(axis), axis, along)


def minimum(axis: int | None = 0, along: int | None = None) -> Fold[Tensor, Tensor]:
    """Take the least entries of tensors; see :func:`lazychunks.minimum`."""
    return join_along(reductions.Minimum(axis), axis, along)


def maximum(axis: int | None = 0, along: int | None = None) -> Fold[Tensor, Tensor]:
    """Take the greatest entries of tensors; see :func:`lazychunks.maximum`."""
    return join_along(reductions.Maximum(axis), axis, along)


def moments(axis: int | None = 0, along: int | None = None) -> Fold[Tensor, Moments[Tensor]]:
    """Take mean and variance in one stable pass; see :func:`lazychunks.moments`."""
    return join_along(reductions.MomentsFold(axis), axis, along)


def norm(axis: int | None = None, along: int | None = None) -> Fold[Tensor, Tensor]:
    """Take the 2-norm of tensors; see :func:`lazychunks.norm`."""
    return join_along(reductions.Norm(axis), axis, along)


def count(axis: int | None = 0, along: int | None = None) -> Fold[Tensor, int]:
    """Count the rows of tensors; see :func:`lazychunks.count`."""
    return join_along(reductions.Count(axis), axis, along)


def histogram(edges: Sequence[SupportsFloat]) -> EitherFold[Tensor, Histogram[Tensor]]:
    """Count the entries of tensors by bins; see :func:`lazychunks.histogram`."""
    return HistogramFold(check_edges(edges))


def covariance(*, ddof: int = 1) -> Fold[Tensor, Covariance[Tensor]]:
    """Take the covariance of the columns of tensors; see :func:`lazychunks.covariance`."""
    return CovarianceFold(ddof=check_degrees(ddof))


def first() -> Fold[Tensor, Tensor]:
    """Take a copy of the first tensor; see :func:`lazychunks.first`."""
    return reductions.FIRST


def last() -> Fold[Tensor, Tensor]:
    """Take a copy of the last tensor; see :func:`lazychunks.last`."""
    return reductions.LAST


def top_k(
    k: int, axis: int = 0, along: int | None = None, *, largest: bool = True
) -> Fold[Tensor, TopK[Tensor]]:
    """Take the ``k`` best entries along an axis, and where they are; see :func:`lazychunks.top_k`.

    Examples
    --------
    >>> import torch
    >>> top_k(2)([torch.tensor([1.0, 7.0]), torch.tensor([5.0])])
    TopK(values=tensor([7., 5.]), indices=tensor([1, 2]))
    """
    return join_along(TopKFold(k, axis, largest), axis, along, keeps_axis=True)


def _shared(array: NDArray[Any]) -> Tensor:
    return torch.from_numpy(array)  # pyright: ignore[reportUnknownMemberType]  # torch leaves it bare
