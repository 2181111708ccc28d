"""Which dtypes can be stored, and the checks on a converted block's type."""

from __future__ import annotations

from typing import Any, TypeGuard

import numpy as np
from numpy.typing import NDArray

from lazychunks.arrays import is_masked
from lazychunks.errors import BlockDTypeError, BlockIndex, BlockTypeError
from lazychunks.storage.chunks import bfloat16

NUMBERS = "bool, int, uint, float or complex"


def storable(dtype: np.dtype[Any], *, block: BlockIndex | None) -> np.dtype[Any]:
    """Return the dtype if Zarr can store its values bitwise.

    Parameters
    ----------
    dtype
        The dtype.
    block
        The block that has it; None for the option ``dtype=``.

    Raises
    ------
    BlockDTypeError
        If it is no dtype of numbers or times, or one that Zarr does not know.
    ImportError
        If it is bfloat16, and ml_dtypes is not installed.
    """
    if dtype.name == bfloat16.NAME and dtype.type is bfloat16.register().type:
        return dtype
    if is_time(dtype):
        if np.datetime_data(dtype)[0] == "generic":
            way_out = 'which has no unit; give it one, e.g. with .astype("M8[ns]")'
            raise _dtype_error(dtype, way_out, block, "a unit of time")
        return dtype
    if not is_numeric(dtype):
        way_out = (
            "which cannot be stored; convert it to a boolean, integer, floating or complex dtype"
        )
        raise _dtype_error(dtype, way_out, block, NUMBERS)
    # longdouble: its size depends on the machine.
    if dtype.itemsize > (16 if dtype.kind == "c" else 8):
        wide = "complex128" if dtype.kind == "c" else "float64"
        way_out = f"which Zarr does not know; pass dtype= to cast on purpose, e.g. to {wide}"
        raise _dtype_error(dtype, way_out, block, "at most 64 bits (complex: 128)")
    return dtype


def checked_block(
    array: object, *, block: BlockIndex, dtype: np.dtype[Any] | None, cast: bool
) -> NDArray[Any]:
    """Check what a converter made of a block.

    Parameters
    ----------
    array
        The converter's result.
    block
        Its place, for the message.
    dtype
        The first block's dtype; None for the first block.
    cast
        Whether blocks are cast on purpose, so that dtypes may differ.

    Raises
    ------
    BlockTypeError
        If it is a masked array, or no array.
    BlockDTypeError
        If its dtype cannot be stored, or differs from the first block's.
    """
    # Fast path, taken by most blocks of a run: the checks below take longer than a small block.
    if type(array) is np.ndarray and dtype is not None and array.dtype == dtype:
        return array
    array = checked_array(array, block=block)
    if cast:
        if not _is_castable(array.dtype):
            raise _dtype_error(
                array.dtype, "which is no number to cast; convert it first", block, NUMBERS
            )
    elif dtype is None:
        storable(array.dtype, block=block)
    elif array.dtype != dtype:
        way_out = f"expected {dtype} like the blocks before it; pass dtype= to cast on purpose"
        raise _dtype_error(array.dtype, way_out, block, dtype)
    return array


def checked_array(array: object, *, block: BlockIndex) -> NDArray[Any]:
    """Check that a converter made a plain array of a block.

    Raises
    ------
    BlockTypeError
        If it is a masked array, or no array.
    """
    if is_masked(array):
        raise BlockTypeError(
            f"block {block} is a masked array, whose mask would be lost; fill it first, e.g. with "
            "block.filled(numpy.nan)",
            block=block,
            expected="numpy.ndarray",
            got=type(array),
        )
    if not _is_array(array):
        raise BlockTypeError(
            f"block {block}: the converter's to_numpy returned {type(array).__name__}, expected a "
            "numpy.ndarray; is it the converter for this type of block?",
            block=block,
            expected="numpy.ndarray",
            got=type(array),
        )
    return array


def is_numeric(dtype: np.dtype[Any]) -> bool:
    """Whether it is one of NumPy's dtypes of numbers, in either byte order."""
    # Another package's dtype may have the same kind: that of ml_dtypes' float8_e5m2 is f.
    return dtype.kind in "biufc" and dtype.isbuiltin != 2


def is_time(dtype: np.dtype[Any]) -> bool:
    """Whether it is one of NumPy's dtypes of dates or of differences between them."""
    return dtype.type in (np.datetime64, np.timedelta64)


def _is_castable(dtype: np.dtype[Any]) -> bool:
    """Whether it is a dtype of numbers, NumPy's or another package's."""
    # Structured dtypes have kind V, as have most dtypes of other packages.
    return dtype.kind in "biufc" or (dtype.kind == "V" and dtype.type is not np.void)


def _dtype_error(
    dtype: np.dtype[Any], way_out: str, block: BlockIndex | None, expected: object
) -> BlockDTypeError:
    where = "dtype=" if block is None else f"block {block} has dtype"
    return BlockDTypeError(f"{where} {dtype}, {way_out}", block=block, expected=expected, got=dtype)


def _is_array(x: object) -> TypeGuard[NDArray[Any]]:
    return isinstance(x, np.ndarray)
