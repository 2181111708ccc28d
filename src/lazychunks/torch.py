"""PyTorch blocks: the converter, and the aggregators that concatenate.

Needs the extra ``torch``; nothing else in the library imports it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lazychunks.errors import BlockDTypeError, BlockTypeError
from lazychunks.folds import Counts, Fold, NestedFold, RunningRows, nest
from lazychunks.joining import Joining, Kind

__all__ = ["NestedTorchCatAggregator", "TorchCatAggregator", "TorchNumpyConverter"]


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
            If ``x`` is no dense tensor with values: sparse, quantized, or on the meta device.
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
        if x.layout is not torch.strided:
            raise _not_dense(x, f"has layout {x.layout}", "call .to_dense() on it first")
        if x.is_quantized:
            raise _not_dense(x, "is quantized", "call .dequantize() on it first")
        if x.is_meta:
            raise _not_dense(x, "is on the meta device and has no values", "compute it for real")
        dense = x.detach().cpu().resolve_conj().resolve_neg()
        if dense.dtype is torch.bfloat16:
            return dense.contiguous().view(torch.int16).numpy().view(_bfloat16())
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
        negative strides or foreign byte order.
        """
        shareable = x.flags.writeable and x.dtype.isnative and min(x.strides, default=0) >= 0
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

    def start(self, counts: Counts, /) -> Joining[Tensor]:
        """Start a pass; a count makes it allocate once."""
        return Joining(_torch_kind, 0, counts[0])


@dataclass(frozen=True, slots=True)
class NestedTorchCatAggregator(NestedFold[Tensor, Tensor]):
    """Concatenates the tensors of each row along axis 1, and the rows along axis 0.

    Memory is that of :class:`TorchCatAggregator`, and one row more.
    """

    def start_rows(self, counts: Counts, /) -> RunningRows[Tensor, Tensor]:
        """Start a pass."""
        return nest(_CatColumns(), TorchCatAggregator()).start_rows(counts)


@dataclass(frozen=True, slots=True)
class _CatColumns(Fold[Tensor, Tensor]):
    def start(self, counts: Counts, /) -> Joining[Tensor]:
        return Joining(_torch_kind, 1, counts[0])


def _torch_kind(block: Tensor) -> Kind[Tensor]:
    return _TORCH


def _copyable(block: Tensor) -> bool:
    return (
        type(block) is Tensor
        and block.layout is torch.strided
        and not block.is_quantized
        and not (block.requires_grad and torch.is_grad_enabled())
    )


_TORCH: Kind[Tensor] = Kind(
    empty=lambda like, shape: like.new_empty(shape),
    cat=lambda blocks, axis: torch.cat(blocks, dim=axis),
    copyable=_copyable,
)


def _shared(array: NDArray[Any]) -> Tensor:
    return torch.from_numpy(array)  # pyright: ignore[reportUnknownMemberType]  # torch leaves it bare


def _bfloat16() -> np.dtype[Any]:
    try:
        import ml_dtypes
    except ImportError:
        raise ImportError(
            "bfloat16 needs the package ml_dtypes; install lazychunks[bfloat16], or cast the "
            "tensors, e.g. with .float()"
        ) from None
    dtype: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
    return dtype


def _not_dense(x: Tensor, what: str, way_out: str) -> BlockTypeError:
    return BlockTypeError(
        f"a tensor of shape {tuple(x.shape)} {what}, so it cannot become a NumPy array; {way_out}",
        expected="a dense tensor",
        got=x.layout,
    )
