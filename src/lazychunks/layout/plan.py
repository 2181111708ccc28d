"""How blocks become chunks: chunk and shard shapes, fixed once from the first block. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, TypeAlias

from lazychunks.layout.shapes import Shape, align_up, fit_extent

Chunks: TypeAlias = Literal["auto", "blocks"] | int | tuple[int, ...]

MERGE_BELOW = 2**20
"""Bytes up to which ``"auto"`` merges blocks into one chunk (1 MiB)."""

SPLIT_ABOVE = 2**27
"""Bytes above which ``"auto"`` splits a block into several chunks (128 MiB)."""


@dataclass(frozen=True, slots=True)
class WritePlan:
    """Where data goes: the shape of a chunk, and of what is written at once."""

    block_axes: int
    """Number of leading axes along which blocks are laid out: 1 (flat) or 2 (nested)."""
    trailing: Shape
    """Lengths of the other axes, the same in every block."""
    chunks: Shape
    """Shape of a chunk."""
    shards: Shape | None
    """Shape of a shard, if the array has shards."""

    @classmethod
    def from_first_block(
        cls,
        first: Shape,
        itemsize: int,
        block_axes: int,
        *,
        chunks: Chunks = "auto",
        shards: int | Shape | None = None,
        counts: tuple[int | None, ...] = (),
    ) -> WritePlan:
        """Fix the plan.

        Parameters
        ----------
        first
            Shape of the first block.
        itemsize
            Bytes of one stored element.
        block_axes
            1 for a flat, 2 for a nested sequence.
        chunks, shards
            As in :class:`~lazychunks.ZarrOptions`.
        counts
            Number of blocks along each block axis where it is known: merging stops there.

        Raises
        ------
        ValueError
            If a given chunk or shard shape has another number of axes than the blocks, or if a
            shard is no whole number of chunks.
        """
        trailing = first[block_axes:]
        if chunks == "auto":
            shape = _auto_shape(first, itemsize, block_axes, counts)
        elif chunks == "blocks":
            shape = tuple(max(extent, 1) for extent in first)
        else:
            shape = _explicit(chunks, trailing, block_axes, "chunks")
        whole = None if shards is None else _explicit(shards, trailing, block_axes, "shards")
        if whole is not None and any(s % c for s, c in zip(whole, shape, strict=True)):
            raise ValueError(
                f"shards {whole} are no whole number of chunks {shape}; pass chunks= and shards= "
                "so that each shard extent is a multiple of the chunk extent"
            )
        return cls(block_axes, trailing, shape, whole)

    @property
    def unit(self) -> Shape:
        """Extents along the block axes of what is written at once: a chunk, or a shard.

        The other axes are written whole.
        """
        return (self.shards or self.chunks)[: self.block_axes]

    @property
    def unit_shape(self) -> Shape:
        """Shape of a buffer for what is written at once."""
        return (*self.unit, *self.trailing)

    def capacity(self, lengths: Shape) -> Shape:
        """Shape that holds at least ``lengths`` along the block axes, in whole units."""
        return (*map(align_up, lengths, self.unit), *self.trailing)


def _explicit(extents: int | Shape, trailing: Shape, block_axes: int, name: str) -> Shape:
    if isinstance(extents, int):
        return (extents,) * block_axes + tuple(max(length, 1) for length in trailing)
    if len(extents) != block_axes + len(trailing):
        raise ValueError(
            f"{name}={extents} has {len(extents)} axes, the blocks have "
            f"{block_axes + len(trailing)}; give one extent for each axis"
        )
    return extents


def _auto_shape(
    first: Shape, itemsize: int, block_axes: int, counts: tuple[int | None, ...]
) -> Shape:
    """Split or merge along one axis after the other, the last block axis first.

    Within a row of blocks, merging needs no memory beyond one chunk; merging rows of blocks would
    need a band of them, so it comes last, and only where the rows are known to be that short.
    """
    shape = [max(extent, 1) for extent in first]
    merging = True
    for axis in (*reversed(range(block_axes)), *range(block_axes, len(shape))):
        size = math.prod(shape) * itemsize
        each = size // shape[axis]
        extent = fit_extent(shape[axis], each, MERGE_BELOW, SPLIT_ABOVE)
        if extent < shape[axis]:
            shape[axis] = extent
        elif axis < block_axes and merging:
            count = counts[axis] if axis < len(counts) else None
            shape[axis] = extent if count is None else min(extent, max(count, 1) * shape[axis])
            merging = count is not None  # beyond a row only if that is known to be short
    return tuple(shape)
