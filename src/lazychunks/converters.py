"""Converters between a tensor type and NumPy arrays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, TypeVar

import numpy as np
from array_api_compat import is_torch_array
from numpy.typing import NDArray

from lazychunks.errors import BlockTypeError

AnyArray: TypeAlias = NDArray[Any]
"""A NumPy array, as a type argument: where mypy sees Any written there, it gives up overloads."""

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
T_contra = TypeVar("T_contra", contravariant=True)


class ToNumpy(Protocol[T_contra]):
    """The half of a converter that storing needs."""

    def to_numpy(self, x: T_contra, /) -> NDArray[Any]:
        """Return the values of ``x`` as a NumPy array, bitwise; it may share memory with ``x``."""
        ...


class FromNumpy(Protocol[T_co]):
    """The half of a converter that reading needs."""

    def from_numpy(self, x: NDArray[Any], /) -> T_co:
        """Return the values of ``x`` as a tensor, bitwise; it may share memory with ``x``."""
        ...


class NumpyConverter(ToNumpy[T], FromNumpy[T], Protocol[T]):
    """Both directions between a tensor type and NumPy.

    Any class with the two methods is one; subclassing is allowed, not needed. Law: the round trip
    ``from_numpy(to_numpy(x))`` is ``x``, bitwise.

    Examples
    --------
    >>> import numpy as np
    >>> class ListConverter:
    ...     def to_numpy(self, x: list[float]) -> np.ndarray:
    ...         return np.asarray(x)
    ...     def from_numpy(self, x: np.ndarray) -> list[float]:
    ...         return x.tolist()
    >>> converter: NumpyConverter[list[float]] = ListConverter()
    >>> converter.from_numpy(converter.to_numpy([1.0, 2.0]))
    [1.0, 2.0]
    """


@dataclass(frozen=True, slots=True)
class IdentityConverter:
    """The converter for blocks that are NumPy arrays already.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.arange(3)
    >>> IdentityConverter().to_numpy(x) is x
    True
    """

    def to_numpy(self, x: AnyArray, /) -> AnyArray:
        """Return ``x`` itself.

        Raises
        ------
        BlockTypeError
            If ``x`` is a tensor of PyTorch; callers need not be typed.
        """
        given: object = x
        if is_torch_array(given):
            raise BlockTypeError(
                "a block is a torch.Tensor, and without another converter blocks must be NumPy "
                "arrays; pass lazychunks.torch.TorchNumpyConverter() as the converter",
                expected=np.ndarray,
                got=type(x),
            )
        return x

    def from_numpy(self, x: AnyArray, /) -> AnyArray:
        """Return ``x`` itself."""
        return x


def choose_converter(converter: Any) -> Any:
    """Return the converter, or that of NumPy arrays where none was given."""
    return IdentityConverter() if converter is None else converter


def bfloat16() -> np.dtype[Any]:
    """Return the dtype bfloat16 in native byte order, which is not NumPy's own.

    Raises
    ------
    ImportError
        If ml_dtypes is not installed.
    """
    try:
        import ml_dtypes
    except ImportError as error:
        raise ImportError(
            "bfloat16 needs the package ml_dtypes; install it, e.g. with "
            "pip install 'lazychunks[bfloat16]', or cast to another dtype, such as float32"
        ) from error
    dtype: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
    return dtype
