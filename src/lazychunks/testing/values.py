"""Arrays of any bits and in any memory layout, made from a seed."""

from __future__ import annotations

import math
from typing import Any, Literal, TypeAlias, get_args

import numpy as np

from lazychunks.converters import AnyArray

AnyDType: TypeAlias = np.dtype[Any]

Layout: TypeAlias = Literal["C", "F", "strided", "reversed", "read-only"]
"""How an array lies in memory."""

LAYOUTS: tuple[Layout, ...] = get_args(Layout)

NUMPY_DTYPES: tuple[str, ...] = (
    *("?", "i1", "<i2", ">i2", "<i4", ">i4", "<i8", ">i8"),
    *("u1", "<u2", ">u2", "<u4", ">u4", "<u8", ">u8"),
    *("<f2", ">f2", "<f4", ">f4", "<f8", ">f8", "<c8", ">c8", "<c16", ">c16"),
)
"""Every dtype of NumPy's own that can be stored, in both byte orders."""


def laid_out(array: AnyArray, layout: Layout) -> AnyArray:
    """Copy an array into a memory layout, bit by bit."""
    if array.ndim == 0 and layout in ("strided", "reversed"):
        return array.copy()
    if layout == "strided":
        room = np.zeros((*array.shape[:-1], 2 * array.shape[-1]), array.dtype)
        room[..., ::2] = array
        return room[..., ::2]
    if layout == "reversed":
        return np.flip(np.flip(array).copy())
    copied = np.array(array, order="F" if layout == "F" else "C")
    copied.flags.writeable = layout != "read-only"
    return copied


def any_bits(shape: tuple[int, ...], dtype: AnyDType, seed: int, layout: Layout = "C") -> AnyArray:
    """Make an array of zeros, of 0, 1, 2 ..., of special values, or of random bits, by seed."""
    count = math.prod(shape)
    match seed % 4:
        case 0:
            array = np.zeros(count, dtype)
        case 1:
            array = (np.arange(count) % (2 if dtype.kind == "b" else 100)).astype(dtype)
        case 2:
            array = special_values((count,), dtype)
        case _:
            random = np.random.default_rng(seed).integers(
                0, 2 if dtype.kind == "b" else 256, count * dtype.itemsize, np.uint8
            )
            array = random.view(dtype)
    return laid_out(array.reshape(shape), layout)


def whole_numbers(
    shape: tuple[int, ...], dtype: AnyDType, seed: int, layout: Layout = "C"
) -> AnyArray:
    """Make an array of whole numbers of one digit, of either sign where the dtype has one."""
    random = np.random.default_rng(seed)
    low, high = {"b": (0, 2), "u": (0, 9)}.get(dtype.kind, (-9, 9))
    drawn: Any = random.integers(low, high, shape)
    if dtype.kind == "c":
        drawn = drawn + 1j * random.integers(low, high, shape)
    array: AnyArray = np.asarray(drawn * (seed > 0)).astype(dtype)
    return laid_out(array, layout)


def special_values(shape: tuple[int, ...], dtype: AnyDType) -> AnyArray:
    """Make an array of the values that are lost most easily, over and over."""
    parts = 2 if dtype.kind == "c" else 1
    size = dtype.itemsize // parts
    sign = 1 << (8 * size - 1)
    mantissa = 7 if dtype.name == "bfloat16" else {2: 10, 4: 23, 8: 52}.get(size, 0)
    if dtype.kind == "b":
        patterns = [1, 0]
    elif dtype.kind in "iu":
        patterns = [sign, sign - 1, 2 * sign - 1, 0, 1]
    else:
        infinity = sign - (1 << mantissa)
        quiet = infinity | 1 << (mantissa - 1)
        signaling = infinity | 1
        patterns = [sign, quiet | 5, sign | quiet, signaling, infinity, sign | infinity]
        patterns += [1, sign | 1, infinity - 1, quiet]
    bits = np.resize(np.array(patterns, f"u{size}"), parts * math.prod(shape))
    return (bits if dtype.isnative else bits.byteswap()).view(dtype).reshape(shape)
