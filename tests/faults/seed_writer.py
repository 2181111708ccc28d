"""The negative control: the plain way to store a stream of blocks, which keeps no promise.

The array is created at its destination from the first block, grows by one block at a time, and each
block is assigned in place. A fault test that does not find this writer out, does not test.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.faults.jobs import ZARR

__all__ = ["seed_flat", "seed_nested"]

Array = NDArray[Any]


def seed_flat(blocks: Any, destination: Any, *, overwrite: bool = False) -> None:
    """Store blocks one below the other."""
    array: Any = None
    for block in blocks:
        height = len(block)
        if array is None:
            array = _opened(destination, block.shape, block, overwrite=overwrite)
        else:
            array.resize((array.shape[0] + height, *array.shape[1:]))
        array[array.shape[0] - height :] = block


def seed_nested(rows: Any, destination: Any, *, overwrite: bool = False) -> None:
    """Store rows of blocks, each below the one before."""
    array: Any = None
    top = 0
    for row in rows:
        left = 0
        height = 0
        for block in row:
            height, width = block.shape[:2]
            shape = (top + height, left + width, *block.shape[2:])
            if array is None:
                array = _opened(destination, shape, block, overwrite=overwrite)
            array.resize(tuple(np.maximum(array.shape, shape).tolist()))
            array[top : top + height, left : left + width] = block
            left += width
        top += height


def _opened(destination: Any, shape: Iterable[int], block: Array, *, overwrite: bool) -> Any:
    return ZARR.open(
        destination,
        mode="w" if overwrite else "w-",
        shape=tuple(shape),
        chunks=block.shape,
        dtype=block.dtype,
    )
