"""Values made comparable bit by bit, and copied, whatever library their arrays come from."""

from __future__ import annotations

import copy
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar

import numpy as np

from lazychunks.arrays import copy_block, is_tensor, namespace_and_values

T = TypeVar("T")


def bits(value: object) -> object:
    """Make a value comparable by shape, dtype and bits: not-a-numbers and negative zeros count.

    Arrays of NumPy and tensors of PyTorch are told apart by library, but neither by byte order nor
    by memory layout; a number is an array of no axes. Tuples, lists, dicts and dataclasses are
    compared by component. Everything else is compared as it compares itself.

    Returns
    -------
    object
        Equal to another value's if and only if the values have the same bits.

    Examples
    --------
    >>> import numpy as np
    >>> nan = np.array([np.nan, 0.0])
    >>> bits(nan) == bits(nan[::-1][::-1])
    True
    >>> bits(nan) == bits(-nan)
    False
    """
    anything: Any = value
    kind: Any = anything.__class__
    if is_tensor(value):
        return _of_tensor(anything)
    if isinstance(value, np.ma.MaskedArray):
        return kind, [bits(part) for part in (anything.data, np.ma.getmaskarray(anything))]
    if isinstance(value, tuple | list):
        return kind, [bits(part) for part in anything]
    if isinstance(value, dict):
        return {key: bits(part) for key, part in anything.items()}
    if is_dataclass(value) and not isinstance(value, type):
        return kind, [bits(getattr(value, field.name)) for field in fields(value)]
    is_array = hasattr(value, "shape") and hasattr(value, "dtype")
    if is_array or isinstance(value, float | complex) or _is_word(value):
        return _of_array(np.asarray(anything))
    return value


def twin(value: T) -> T:
    """Copy a value with all that it holds; what cannot be copied is returned as it is."""
    anything: Any = value
    kind: Any = anything.__class__
    if is_tensor(value):
        return copy_block(value)
    if isinstance(value, tuple | list):
        parts = [twin(part) for part in anything]
        remade: T = kind(*parts) if hasattr(kind, "_fields") else kind(parts)
        return remade
    try:
        return copy.deepcopy(value)
    except Exception:  # noqa: BLE001  # whatever an object raises that is no value
        return value


def _is_word(value: object) -> bool:
    """Whether it is an integer that NumPy has a dtype for."""
    return isinstance(value, int) and -(2**63) <= value < 2**63


def _of_array(array: np.ndarray[Any, Any]) -> object:
    if array.dtype.hasobject:
        return array.shape, array.dtype, [bits(part) for part in array.flat]
    native = array.dtype.newbyteorder("=")
    values = np.ascontiguousarray(array)
    if not array.dtype.isnative:
        values = values.byteswap().view(native)  # unlike astype, keeps every payload of a NaN
    return array.shape, native, values.tobytes()


def _of_tensor(tensor: Any) -> object:
    torch: Any = namespace_and_values(tensor)[0]
    flat = tensor.detach().resolve_conj().resolve_neg().cpu().reshape(-1).contiguous()
    values = flat.view(torch.uint8).numpy().tobytes() if flat.shape[0] else b""
    return tuple(tensor.shape), tensor.dtype, values
