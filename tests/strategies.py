"""What the property tests draw from: partitions, and blocks of any dtype, shape and memory layout.

Values are arbitrary *bits*, so NaNs of every payload and negative zeros are among them; tests
compare bits, never numbers.
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from lazychunks import LazyChunkSequence, NestedLazyChunkSequence
from lazychunks.shapes import Shape

Array = NDArray[Any]
Layout = Literal["C", "F", "strided", "reversed", "read-only"]

DTYPES: tuple[str, ...] = (
    "?",
    *("i1", "<i2", ">i2", "<i4", ">i4", "<i8", ">i8"),
    *("u1", "<u2", ">u2", "<u4", ">u4", "<u8", ">u8"),
    *("<f2", ">f2", "<f4", ">f4", "<f8", ">f8"),
    *("<c8", ">c8", "<c16", ">c16"),
)
"""Every NumPy dtype that can be stored, in both byte orders."""

LAYOUTS: tuple[Layout, ...] = ("C", "F", "strided", "reversed", "read-only")

dtypes: st.SearchStrategy[np.dtype[Any]] = st.sampled_from(DTYPES).map(np.dtype)
layouts: st.SearchStrategy[Layout] = st.sampled_from(LAYOUTS)
seeds = st.integers(0, 2**32 - 1)


def partitions(max_parts: int = 6, max_size: int = 5) -> st.SearchStrategy[tuple[int, ...]]:
    """Draw sizes of at least one part; some of them may be zero."""
    return st.lists(st.integers(0, max_size), min_size=1, max_size=max_parts).map(tuple)


def shapes(ndim: int, max_size: int = 4) -> st.SearchStrategy[Shape]:
    """Draw lengths of axes, zero included."""
    return st.tuples(*(st.integers(0, max_size),) * ndim)


def any_bits(shape: Shape, dtype: np.dtype[Any], seed: int, layout: Layout = "C") -> Array:
    """Make an array of arbitrary bits, a quarter of whose seeds give zeros only."""
    if layout == "strided":
        return any_bits((*shape[:-1], 2 * shape[-1]), dtype, seed)[..., ::2]
    if layout == "reversed":
        return np.flip(any_bits(shape, dtype, seed))
    count = int(np.prod(shape, dtype=int)) * dtype.itemsize
    random = np.random.default_rng(seed).integers(0, 256, count, dtype=np.uint8)
    if seed % 4 == 0:
        random[:] = 0
    elif dtype.kind == "b":
        random &= 1
    array = np.array(random.view(dtype).reshape(shape), order="F" if layout == "F" else "C")
    array.flags.writeable = layout != "read-only"
    return array


def bits(array: Array) -> tuple[Shape, np.dtype[Any], bytes]:
    """Make two arrays comparable by shape, dtype and bits; byte order does not count."""
    native = array.dtype.newbyteorder("=")
    values = np.ascontiguousarray(array)
    if not array.dtype.isnative:
        values = values.byteswap().view(native)  # unlike astype, keeps every payload of a NaN
    return array.shape, native, values.tobytes()


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


@st.composite
def flat_blocks(
    draw: st.DrawFn,
    *,
    block_dtypes: st.SearchStrategy[np.dtype[Any]] = dtypes,
    max_ndim: int = 4,
) -> Flat:
    """Draw blocks that ``np.concatenate`` joins."""
    dtype = draw(block_dtypes)
    trailing = draw(st.integers(0, max_ndim - 1).flatmap(shapes))
    heights = draw(partitions())
    return Flat(tuple(_block(draw, (height, *trailing), dtype) for height in heights))


@st.composite
def nested_blocks(
    draw: st.DrawFn,
    *,
    block_dtypes: st.SearchStrategy[np.dtype[Any]] = dtypes,
    max_ndim: int = 4,
) -> Nested:
    """Draw rows of blocks that form a grid."""
    dtype = draw(block_dtypes)
    trailing = draw(st.integers(0, max_ndim - 2).flatmap(lambda ndim: shapes(ndim, 3)))
    heights = draw(partitions(4, 4))
    widths = draw(partitions(4, 4))
    return Nested(
        tuple(
            tuple(_block(draw, (height, width, *trailing), dtype) for width in widths)
            for height in heights
        )
    )


def _block(draw: st.DrawFn, shape: Shape, dtype: np.dtype[Any]) -> Array:
    return any_bits(shape, dtype, draw(seeds), draw(layouts))
