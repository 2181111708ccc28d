"""Buffers that are complete."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from lazychunks.layout.shapes import Region, region_shape


@dataclass(frozen=True, slots=True)
class Filled:
    """A buffer whose part within the array is complete."""

    region: Region
    """Its place in the array, clipped to the array."""
    buffer: NDArray[Any]
    """The whole buffer; ``buffer[:n]`` per axis, by the region's shape, is the data."""

    @property
    def data(self) -> NDArray[Any]:
        """What belongs into the region."""
        return self.buffer[tuple(slice(0, n) for n in region_shape(self.region))]
