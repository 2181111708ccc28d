"""What folds ask of a block, whatever array library it comes from: NumPy or PyTorch.

The operations are those of the Python array API standard, through ``array_api_compat``; neither
imports PyTorch before a tensor is there.
"""

from __future__ import annotations

import contextlib
import copy
import sys
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
from array_api_compat import array_namespace, is_numpy_array, is_torch_array

from lazychunks.errors import BlockDTypeError, BlockShapeError, BlockTypeError, EmptySequenceError

T = TypeVar("T")


def is_tensor(block: object) -> bool:
    """Whether a block is PyTorch's."""
    return is_torch_array(block)


def device(block: object) -> Any:
    """Return where an array is; None where its library does not say."""
    return getattr(block, "device", None)


def is_masked(block: object) -> bool:
    """Whether a block is a masked array; none is where their module, slow to load, is not there."""
    return "numpy.ma" in sys.modules and np.ma.isMaskedArray(block)


def plain(block: object) -> tuple[Any, Any]:
    """Return the namespace of a block's library, and its values as a plain array.

    A tensor leaves its graph, so that a pass does not keep all of its blocks alive.

    Raises
    ------
    BlockTypeError
        If it is no array, or a masked one.
    """
    if is_masked(block):
        raise BlockTypeError(
            "a block is a masked array, whose mask would be lost; fill it first, e.g. with "
            ".filled(0)",
            expected="a plain array",
            got=type(block),
        )
    try:
        xp: Any = array_namespace(block)
    except TypeError:
        raise BlockTypeError(
            f"a block is no array but a {type(block).__name__}; convert it first, e.g. with "
            ".contramap(np.asarray). Of folds over blocks, nest() makes a fold over rows of blocks",
            expected="an array",
            got=type(block),
        ) from None
    if is_numpy_array(block):
        return xp, np.asarray(block)
    return xp, block.detach() if is_torch_array(block) else block


def copied(block: T) -> T:
    """Return a block that shares no memory with this one, nor a graph."""
    array: Any = block
    twin: T = array.detach().clone() if is_tensor(block) else copy.deepcopy(array)
    return twin


def kind(xp: Any, dtype: Any, *, ordered: bool = False) -> str:
    """Return the kind of a dtype by its name in the array API standard.

    Raises
    ------
    BlockDTypeError
        If its entries are no numbers, or are complex where they have to be ``ordered``.
    """
    if str(dtype) == "bfloat16":  # that of ml_dtypes, which NumPy's function refuses
        return "real floating"
    why = "cannot be reduced"
    with contextlib.suppress(TypeError):  # NumPy's does not know a dtype of another package
        for name in ("real floating", "integral", "bool", "complex floating"):
            if xp.isdtype(dtype, name):
                if name != "complex floating" or not ordered:
                    return name
                why = "have no order; take their absolute values first"
    expected = "a dtype with an order" if ordered else "a dtype of numbers"
    raise BlockDTypeError(f"blocks of dtype {dtype} {why}", expected=expected, got=dtype)


def inexact(xp: Any, dtype: Any) -> Any:
    """Return the dtype of a mean."""
    return xp.float64 if kind(xp, dtype) in {"integral", "bool"} else dtype


def wide(xp: Any, dtype: Any) -> Any:
    """Return the dtype that entries are accumulated in: at least double precision."""
    return xp.result_type(inexact(xp, dtype), xp.float64)


@dataclass(slots=True, eq=False)
class Likeness:
    """What the first block asks of those after it, if they are to be joined along an axis."""

    axis: int | None
    """The axis along which lengths may differ; or None, if shapes do not matter."""
    _blocks: int = field(default=0, init=False)
    _dtype: Any = field(default=None, init=False)
    _expected: tuple[int | str, ...] = field(default=(), init=False)

    @property
    def seen(self) -> bool:
        """Whether there was a block."""
        return self._blocks > 0

    @property
    def dtype(self) -> Any:
        """The dtype of results, in native byte order.

        Raises
        ------
        EmptySequenceError
            If there was no block.
        """
        if not self._blocks:
            raise EmptySequenceError("there is no block, hence neither shape nor dtype of a result")
        native: Any = getattr(self._dtype, "newbyteorder", None)
        return self._dtype if native is None else native("=")

    def check(self, block: Any) -> None:
        """Take the first block as the model, or compare a later one with it.

        Raises
        ------
        BlockShapeError
            If it has no such axis, or is of another length along another axis.
        BlockDTypeError
            If it has another dtype (or is of another library).
        """
        expected = self._shape_of(block.shape)
        if not self._blocks:
            self._dtype, self._expected = block.dtype, expected
        if expected != self._expected:
            text = ", ".join(map(str, self._expected))
            raise BlockShapeError(
                f"block {self._blocks} has shape {tuple(block.shape)}, expected ({text}) like the "
                "blocks before it; pad or reshape it",
                block=self._blocks,
                expected=self._expected,
                got=tuple(block.shape),
            )
        if block.dtype != self._dtype:
            raise BlockDTypeError(
                f"block {self._blocks} has dtype {block.dtype}, expected {self._dtype} like the "
                "blocks before it; cast it first",
                block=self._blocks,
                expected=self._dtype,
                got=block.dtype,
            )
        self._blocks += 1

    def _shape_of(self, shape: tuple[int, ...]) -> tuple[int | str, ...]:
        if self.axis is None:
            return ()
        if not -len(shape) <= self.axis < len(shape):
            raise BlockShapeError(
                f"block {self._blocks} has shape {tuple(shape)}, hence no axis {self.axis} to be "
                "joined along; reshape it, or choose another axis",
                block=self._blocks,
                expected=f"an axis {self.axis}",
                got=tuple(shape),
            )
        if not self._blocks:
            self.axis %= len(shape)
        return (*shape[: self.axis], "*", *shape[self.axis + 1 :])
