# Why this stub is here: see dask/__init__.pyi.

from typing import Any

from dask.array import Array
from numpy.typing import NDArray

# Compares shape, dtype and values, and an array's chunks with what it declares.
def assert_eq(a: Array, b: NDArray[Any], *, scheduler: str = ...) -> bool: ...
