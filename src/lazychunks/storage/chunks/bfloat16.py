"""Zarr's data type ``bfloat16``, for NumPy's from ml_dtypes: zarr-python has none of its own.

The name, the fill values and the bytes are those of the registered extension, which TensorStore
and zarrs read as well: https://github.com/zarr-developers/zarr-extensions, ``data-types/bfloat16``.
"""

from __future__ import annotations

import re
import sys
import threading
from dataclasses import dataclass
from typing import (
    TYPE_CHECKING,
    Any,
    ClassVar,
    Literal,
    Self,
    SupportsFloat,
    SupportsIndex,
    TypeGuard,
)

import numpy as np
import zarr.dtype
import zarr.errors

# Not public, but the bytes codec asks for them: without HasEndianness it writes no byte order.
from zarr.core.dtype.common import HasEndianness, HasItemSize
from zarr.dtype import ZDType, data_type_registry

from lazychunks.converters import bfloat16

if TYPE_CHECKING:
    from zarr.core.common import JSON, ZarrFormat
    from zarr.core.dtype.common import DTypeJSON

NAME = "bfloat16"
"""Name of the dtype in NumPy, and of the data type in Zarr."""

# zarr moved it, and warns at the old place.
_Mismatch: type[ValueError] = (
    getattr(zarr.errors, "DataTypeValidationError", None) or zarr.dtype.DataTypeValidationError
)

_CANONICAL_NAN = 0x7FC0
_INFINITY = 0x7F80

_SPECIAL = {"NaN": float("nan"), "Infinity": float("inf"), "-Infinity": float("-inf")}

_FOREIGN: Literal["little", "big"] = "big" if sys.byteorder == "little" else "little"

_registering = threading.Lock()


def register() -> np.dtype[Any]:
    """Make zarr know the data type, if it does not yet; return its NumPy dtype.

    From then on, ``zarr.open_array`` and all else in zarr read and write bfloat16.

    Raises
    ------
    ImportError
        If ml_dtypes is not installed.
    """
    dtype = bfloat16()
    with _registering:
        try:
            data_type_registry.get(NAME)  # a later zarr's own, or another package's
        except KeyError:
            data_type_registry.register(NAME, BFloat16)
    return dtype


@dataclass(frozen=True, kw_only=True)
class BFloat16(ZDType["np.dtype[np.generic]", np.generic], HasEndianness, HasItemSize):
    """The upper half of a float32: 1 bit sign, 8 bits exponent, 7 bits mantissa."""

    # zarr compares it with the type of `object` dtypes. The real one is there with ml_dtypes only.
    dtype_cls: ClassVar[type[np.dtype[np.generic]]] = np.dtype
    _zarr_v3_name = NAME

    @property
    def item_size(self) -> int:
        """Size of an element in bytes."""
        return 2

    @classmethod
    def from_native_dtype(cls, dtype: np.dtype[np.generic]) -> Self:
        """Wrap ml_dtypes' bfloat16, of either byte order."""
        # By the scalar type: dtypes of different byte order are not equal.
        if dtype.name != NAME or dtype.type is not bfloat16().type:
            raise _Mismatch(f"{dtype} is not ml_dtypes' {NAME}")
        return cls(endianness=sys.byteorder if dtype.isnative else _FOREIGN)

    def to_native_dtype(self) -> np.dtype[np.generic]:
        """Return ml_dtypes' bfloat16, in the byte order of the array in memory."""
        dtype = bfloat16()
        return dtype.newbyteorder() if self.endianness == _FOREIGN else dtype

    @classmethod
    def _from_json_v2(cls, data: DTypeJSON) -> Self:
        raise _Mismatch(f"{data!r} is no data type of Zarr 3")

    @classmethod
    def _from_json_v3(cls, data: DTypeJSON) -> Self:
        if data != NAME:
            raise _Mismatch(f"{data!r} is not {NAME!r}")
        return cls()

    def to_json(self, zarr_format: ZarrFormat) -> str:  # type: ignore[override]  # pyright: ignore[reportIncompatibleMethodOverride]  # Zarr 3 only
        """Return the name, as in ``data_type``; Zarr 2 has no such data type."""
        _only_zarr_3(zarr_format)
        return NAME

    def _check_scalar(self, data: object) -> bool:
        return isinstance(data, SupportsFloat | SupportsIndex | str)

    def cast_scalar(self, data: object) -> np.generic:
        """Return a number, or a string as in metadata, as bfloat16; bfloat16 keeps its bits."""
        if _is_bfloat16(data):
            return data
        if isinstance(data, str):
            return self.from_json_scalar(data, zarr_format=3)
        if not isinstance(data, SupportsFloat | SupportsIndex):
            raise TypeError(f"cannot convert {data!r} of type {type(data).__name__} to {NAME}")
        return _scalar(float(data))

    def default_scalar(self) -> np.generic:
        """Return zero."""
        return _scalar(0.0)

    def from_json_scalar(self, data: JSON, *, zarr_format: ZarrFormat) -> np.generic:
        """Read a fill value: a number, ``"NaN"``, ``"Infinity"``, ``"-Infinity"`` or the bits.

        Raises
        ------
        TypeError
            If it is none of these.
        """
        _only_zarr_3(zarr_format)
        if isinstance(data, int | float) and not isinstance(data, bool):
            return _scalar(float(data))
        if isinstance(data, str):
            if data in _SPECIAL:
                return _scalar(_SPECIAL[data])
            if re.fullmatch("0x[0-9a-fA-F]{4}", data):
                bits: np.generic = np.uint16(int(data, 16)).view(bfloat16())
                return bits
        raise TypeError(
            f"{data!r} is no fill value of {NAME}: expected a number, 'NaN', 'Infinity', "
            "'-Infinity' or four hexadecimal digits like '0x7fc0'"
        )

    def to_json_scalar(self, data: object, *, zarr_format: ZarrFormat) -> JSON:
        """Write a fill value such that its bits can be read back."""
        _only_zarr_3(zarr_format)
        scalar = self.cast_scalar(data)
        bits = int(scalar.view(np.uint16))
        if bits & 0x7FFF > _INFINITY:  # a signaling NaN must not be cast to see what it is
            return "NaN" if bits == _CANONICAL_NAN else f"0x{bits:04x}"
        number = float(scalar.astype(np.float64))
        return next((name for name, value in _SPECIAL.items() if value == number), number)


def _is_bfloat16(data: object) -> TypeGuard[np.generic]:
    return type(data) is bfloat16().type


def _scalar(number: float) -> np.generic:
    scalar: np.generic = bfloat16().type(number)
    return scalar


def _only_zarr_3(zarr_format: ZarrFormat) -> None:
    if zarr_format != 3:
        raise ValueError(f"{NAME} is a data type of Zarr 3, not of Zarr {zarr_format}")
