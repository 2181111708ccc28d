"""What property tests draw from beside ``lazychunks.testing``: blocks that know their oracle."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from lazychunks import LazyChunkSequence, NestedLazyChunkSequence, testing
from lazychunks.shapes import Shape
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
