"""The units of one array, that is, its chunks, or its shards where there are shards.

A unit is what is stored under one key. Only whole units are written, so that two writers that
share none never get into each other's way.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from zarr.storage import LocalStore

from lazychunks.layout.shapes import Region
from lazychunks.storage.assembly import Filled
from lazychunks.storage.chunks.files import ChunkFiles, Reader
from lazychunks.storage.chunks.metadata import Gate, open_array
from lazychunks.storage.keys import Keys
from lazychunks.storage.record import Document, with_shape

COMPRESSING = frozenset({"blosc", "gzip", "zstd"})
"""Codecs that make new bytes of a chunk."""


class Units:
    """Writes and reads whole units of an array that is being written.

    Parameters
    ----------
    where
        Where the array is.
    document
        Its metadata. The shape there does not matter: nobody knows yet where the array ends.
    atomic
        Whether the file of a chunk must appear whole, as it must where another start may go on.
    """

    def __init__(self, where: Keys, document: Document, *, atomic: bool) -> None:
        self._where = where
        self._document = document
        self._files = ChunkFiles.of(where, document, atomic=atomic)
        self.dtype: np.dtype[Any] = open_array(where, document).dtype

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
        gate = Gate(self._where.store)
        array = open_array(Keys(gate, self._where.path), self._ending_with(filled.region))
        try:
            array[filled.region] = filled.data
        finally:
            gate.shut()

    def read(self, region: Region) -> NDArray[Any]:
        """Read a region, all units of which are stored."""
        return Reader.of(open_array(self._where, self._ending_with(region)))(region)

    def _ending_with(self, region: Region) -> Document:
        """Return the metadata of the array as if it ended with a region."""
        return with_shape(self._document, tuple(span.stop for span in region))
