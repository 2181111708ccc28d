"""What property tests draw from beside ``lazychunks.testing``: blocks that know their oracle."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray
from zarr.codecs import BloscCodec, Crc32cCodec, GzipCodec, TransposeCodec, ZstdCodec

from lazychunks import LazyChunkSequence, NestedLazyChunkSequence, ZarrOptions, testing
from lazychunks.layout.shapes import Shape
from lazychunks.testing import bits
from lazychunks.testing.values import LAYOUTS, NUMPY_DTYPES, Layout, any_bits, laid_out

__all__ = [
    "DTYPES",
    "Array",
    "Flat",
    "Nested",
    "any_bits",
    "bits",
    "dtypes",
    "flat_blocks",
    "hints",
    "laid_out",
    "layouts",
    "nested_blocks",
    "partitions",
    "seeds",
    "shapes",
    "zarr_options",
]

Array = NDArray[Any]

DTYPES = NUMPY_DTYPES

dtypes: st.SearchStrategy[np.dtype[Any]] = testing.dtypes(bfloat16=False)
layouts: st.SearchStrategy[Layout] = st.sampled_from(LAYOUTS)
seeds = st.integers(0, 2**32 - 1)


def partitions(max_parts: int = 6, max_size: int = 5) -> st.SearchStrategy[tuple[int, ...]]:
    """Draw sizes of at least one part; some of them may be zero."""
    return testing.partitions(max_parts=max_parts, max_size=max_size)


def shapes(ndim: int, max_size: int = 4) -> st.SearchStrategy[Shape]:
    """Draw lengths of axes, zero included."""
    return st.tuples(*(st.integers(0, max_size),) * ndim)


@dataclass(frozen=True, slots=True)
class Flat:
    """Blocks of a flat sequence, and what they are together."""

    blocks: tuple[Array, ...]

    @property
    def whole(self) -> Array:
        """The oracle."""
        return np.concatenate(self.blocks)

    def sequence(self, hint: int | None = None) -> LazyChunkSequence[Array]:
        """Return the sequence of the blocks."""
        return LazyChunkSequence(lambda: iter(self.blocks), hint)


@dataclass(frozen=True, slots=True)
class Nested:
    """Blocks of a nested sequence by row, and what they are together."""

    rows: tuple[tuple[Array, ...], ...]

    @property
    def whole(self) -> Array:
        """The oracle: rows are joined along axis 1, then along axis 0."""
        return np.concatenate([np.concatenate(row, axis=1) for row in self.rows])

    def sequence(self, hint: int | None = None) -> NestedLazyChunkSequence[Array]:
        """Return the sequence of the rows."""
        return NestedLazyChunkSequence(lambda: map(iter, self.rows), hint)


def hints(count: int) -> st.SearchStrategy[int | None]:
    """Draw a length hint: none, the right one, or a wrong one."""
    return st.none() | st.just(count) | st.integers(0, count + 3)


def flat_blocks(
    *, block_dtypes: st.SearchStrategy[np.dtype[Any]] = dtypes, max_ndim: int = 4
) -> st.SearchStrategy[Flat]:
    """Draw blocks that ``np.concatenate`` joins."""
    blocks = testing.flat_blocks(block_dtypes, max_ndim=max_ndim)
    return blocks.map(lambda drawn: Flat(tuple(drawn)))


def nested_blocks(
    *, block_dtypes: st.SearchStrategy[np.dtype[Any]] = dtypes, max_ndim: int = 4
) -> st.SearchStrategy[Nested]:
    """Draw rows of blocks that form a grid."""
    rows = testing.nested_blocks(block_dtypes, max_ndim=max_ndim)
    return rows.map(lambda drawn: Nested(tuple(map(tuple, drawn))))


CODECS: tuple[Any, ...] = (
    "auto",
    None,
    GzipCodec(level=1),
    BloscCodec(),
    Crc32cCodec(),
    [ZstdCodec(level=1), Crc32cCodec()],
)


@st.composite
def zarr_options(draw: st.DrawFn, ndim: int) -> ZarrOptions:
    """Draw a layout for arrays of a number of axes, and how many writes there may be at a time."""
    chosen: ZarrOptions = {
        "compressors": draw(st.sampled_from(CODECS)),
        "max_in_flight": draw(st.none() | st.integers(1, 4)),
    }
    extents, times = st.integers(1, 5), st.integers(1, 3)
    match draw(st.sampled_from(["auto", "blocks", "an extent", "extents"])):
        case "auto":
            chosen["chunks"] = "auto"
        case "blocks":
            chosen["chunks"] = "blocks"
        case "an extent":
            chosen["chunks"] = extent = draw(extents)
            if draw(st.booleans()):
                chosen["shards"] = extent * draw(times)
        case _:
            chosen["chunks"] = chunks = draw(st.tuples(*(extents,) * ndim))
            if draw(st.booleans()):
                chosen["shards"] = tuple(extent * draw(times) for extent in chunks)
    if draw(st.integers(0, 3)) == 0:
        chosen["filters"] = TransposeCodec(order=tuple(reversed(range(ndim))))
    return chosen
