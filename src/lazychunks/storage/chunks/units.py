"""The units of one array, that is, its chunks, or its shards where there are shards.

A unit is what is stored under one key. Only whole units are written, so that two writers that
share none never get into each other's way.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from zarr.storage import LocalStore

from lazychunks.layout.shapes import Region, Shape
from lazychunks.storage.chunks.files import ChunkFiles, Reader
from lazychunks.storage.chunks.filled import Filled
from lazychunks.storage.chunks.metadata import open_array
from lazychunks.storage.keys import Keys
from lazychunks.storage.resuming.record import Document, with_shape

if TYPE_CHECKING:
    from lazychunks.storage.chunks.metadata import StoredArray

COMPRESSING = frozenset({"blosc", "gzip", "zstd"})
"""Codecs that make new bytes of a chunk."""

MOST_UNITS = 2**31
"""Number of units along an axis whose end is not known yet."""


class Units:
    """Writes and reads whole units of an array that is being written.

    Parameters
    ----------
    where
        Where the array is.
    document
        Its metadata. The lengths of its block axes do not matter: nobody knows yet where they end.
    unit
        Extents of a unit along the block axes.
    atomic
        Whether the file of a chunk must appear whole, as it must where another start may go on.
    syncs
        Whether it must be on the device before it appears.
    """

    def __init__(
        self, where: Keys, document: Document, unit: Shape, *, atomic: bool, syncs: bool = False
    ) -> None:
        self._where = where
        self._document = document
        self._unit = unit
        self._files = ChunkFiles.of(where, document, atomic=atomic, syncs=syncs)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Dtype of the array."""
        dtype: np.dtype[Any] = self._endless.dtype
        return dtype

    @property
    def buffer_is_free_after_write(self) -> bool:
        """Whether a buffer may be reused when its write has ended.

        A memory store keeps the very object that it gets, unless a codec made new bytes of it.
        """
        return type(self._where.store) is LocalStore or any(
            codec["name"] in COMPRESSING for codec in self._document["codecs"]
        )

    def write(self, filled: Filled) -> None:
        """Write the units of a region that begins on units, and ends on them or with the array."""
        if self._files is not None:
            self._files.write(filled)
            return
        # One key at a time: zarr sets the keys of several chunks at once, and when one of them
        # fails, it raises while the others are still on their way.
        array = self._ending_with(filled.region)
        for piece in filled.pieces(array.shards or array.chunks):
            array[piece.region] = piece.data

    def read(self, region: Region) -> NDArray[Any]:
        """Read a region, all units of which are stored.

        Raises
        ------
        MissingChunkError
            If one is not there any more.
        """
        return Reader.of(self._ending_with(region), refuse_missing=True)(region)

    @cached_property
    def _endless(self) -> StoredArray:
        """The array, as if its block axes went on and on."""
        trailing = self._document["shape"][len(self._unit) :]
        lengths = (extent * MOST_UNITS for extent in self._unit)
        return open_array(self._where, with_shape(self._document, (*lengths, *trailing)))

    def _ending_with(self, region: Region) -> StoredArray:
        """Return the array; if a region ends inside a unit, as if the array ended there too."""
        if all(span.stop % extent == 0 for span, extent in zip(region, self._unit, strict=False)):
            return self._endless
        shape = tuple(span.stop for span in region)
        return open_array(self._where, with_shape(self._document, shape))
