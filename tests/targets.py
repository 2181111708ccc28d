"""Targets for tests of the rooms that store blocks: where blocks go, in a store of their own."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from zarr.abc.store import Store
from zarr.storage import MemoryStore

from lazychunks import IdentityConverter
from lazychunks.layout.partition import ArrayPlan, Partition
from lazychunks.layout.shapes import Shape
from lazychunks.storage.chunks.metadata import make_document
from lazychunks.storage.keys import Keys
from lazychunks.storage.options import WriteOptions
from lazychunks.storage.writing.target import Target

Array = NDArray[Any]

DTYPE = np.dtype(np.int64)


def make_target(
    first: Shape,
    unit: Shape,
    *,
    axes: int = 1,
    sizes: tuple[Shape | None, ...] = (None, None),
    store: Store | None = None,
    path: str = "",
    options: WriteOptions | None = None,
    chunks: Shape | None = None,
    **fields: Any,
) -> Target[Array]:
    """Make the target of blocks like the first one, into units of these extents.

    Parameters
    ----------
    first
        Shape of the first block.
    unit
        Extents of a unit along the block axes, or along all axes.
    axes
        Number of block axes.
    sizes
        For each block axis, sizes of the blocks, if they are listed or noted.
    store, path
        Where it is; by default in a memory store of its own.
    options, chunks
        Of the array; with ``chunks``, units are shards.
    **fields
        Other fields of the target.
    """
    trailing = first[axes:]
    whole = (*unit, *(max(length, 1) for length in trailing))[: len(first)]
    shape = (*(0 for _ in range(axes)), *trailing)
    document = make_document(
        shape, chunks or whole, whole if chunks else None, DTYPE, options or WriteOptions()
    )
    partitions = tuple(
        Partition(size, known) for size, known in zip(first[:axes], sizes, strict=False)
    )
    chosen: dict[str, Any] = {
        "lengths": (None,) * axes,
        "converter": IdentityConverter(),
        "dtype": DTYPE,
        "casts": False,
        "name": "the place",
    }
    return Target(
        where=Keys(store or MemoryStore(), path),
        document=document,
        plan=ArrayPlan(partitions, trailing, whole),
        first=first,
        **{**chosen, **fields},
    )
