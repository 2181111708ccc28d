"""A buffer that is filled, and where in the array it goes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

from numpy.typing import NDArray

from lazychunks.layout.shapes import Region, Shape, overlaps, region_shape


@dataclass(frozen=True, slots=True)
class Filled:
    """A buffer whose part within the array is complete."""

    region: Region
    """Its place in the array, clipped to the array."""
    buffer: NDArray[Any]
    """The whole buffer; ``buffer[:n]`` per axis, by the region's shape, is the data."""

    @property
    def data(self) -> NDArray[Any]:
        """The values that belong into the region."""
        return self.buffer[tuple(slice(0, n) for n in region_shape(self.region))]

    def pieces(self, extents: Shape) -> Iterator[Filled]:
        """Cut it at the boundaries of chunks (or shards) of these extents."""
        data = self.data
        for _, in_region, _ in meet_chunks(self.region, extents):
            place = tuple(
                slice(span.start + part.start, span.start + part.stop)
                for span, part in zip(self.region, in_region, strict=True)
            )
            yield Filled(place, data[in_region])


def meet_chunks(region: Region, chunks: Shape) -> Iterator[tuple[Shape, Region, Region]]:
    """Cut a region of an array at the boundaries of its chunks.

    Yields
    ------
    tuple
        For each chunk that the region meets: its index, the part they share as counted from the
        start of the region, and the same part as counted from the start of the chunk.

    Examples
    --------
    >>> for index, in_region, in_chunk in meet_chunks((slice(3, 7),), (5,)):
    ...     print(index, in_region, in_chunk)
    (0,) (slice(0, 2, None),) (slice(3, 5, None),)
    (1,) (slice(2, 4, None),) (slice(0, 2, None),)
    """
    along_axes = (
        overlaps(span.start, span.stop - span.start, extent)
        for span, extent in zip(region, chunks, strict=True)
    )
    for meeting in product(*along_axes):
        # Lists, not generators: this runs for each chunk that is read or written.
        yield (
            tuple([overlap.cell for overlap in meeting]),
            tuple([overlap.in_span for overlap in meeting]),
            tuple([overlap.in_cell for overlap in meeting]),
        )
