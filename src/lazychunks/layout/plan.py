"""Shapes of chunks, shards and blocks: chosen once, from the first block or from an array. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from lazychunks.layout.shapes import Shape, cell_count, fit_extent

Extents: TypeAlias = int | tuple[int | None, ...]
"""An extent along the block axes, or one for each axis; None or -1 for an axis that is not cut."""

Chunks: TypeAlias = Literal["auto", "blocks"] | Extents

MERGE_BELOW = 2**20
"""Bytes up to which ``"auto"`` merges blocks into one chunk (1 MiB)."""

SPLIT_ABOVE = 2**27
"""Bytes above which ``"auto"`` splits a block into several chunks (128 MiB)."""

UNITS_PER_WORKER = 4
"""Chunks that ``"auto"`` leaves for each worker, so that none is idle while others have a queue."""

MAX_CHUNK_BYTES = 2**30
"""Bytes of one chunk above which an array is not read, unless more is allowed (1 GiB)."""

CHUNKS_PER_BLOCK = 512
"""Number of chunks up to which ``from_zarr`` merges chunks into one block, however small they are.

Each takes some 0.2 ms to read."""

PARTS_OF_A_SHARD = 2**16
"""Number of chunks along one axis of a shard, at most, if the chunks are chosen."""


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
        shards: Extents | None = None,
        counts: tuple[int | None, ...] = (),
        workers: int | None = None,
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
        workers
            Number of workers that compute the blocks, if they do: ``"auto"`` leaves several chunks
            for each.

        Raises
        ------
        ValueError
            If a given chunk or shard shape has another number of axes than the blocks, if it leaves
            a block axis uncut, or if a shard is no whole number of chunks.
        """
        whole = None if shards is None else _resolve_extents(shards, first, block_axes, "shards")
        if chunks == "auto":
            shape = choose_chunks(first, itemsize, block_axes, counts, workers)
            if whole is not None:
                # Otherwise the user would have to guess what divides a shard.
                shape = tuple(map(_nearest_part, whole, shape))
        elif chunks == "blocks":
            shape = tuple(max(extent, 1) for extent in first)
        else:
            shape = _resolve_extents(chunks, first, block_axes, "chunks")
        if whole is not None and any(s % c for s, c in zip(whole, shape, strict=True)):
            raise ValueError(
                f"shards {whole} are no whole number of chunks {shape}; pass chunks= and shards= "
                "so that each shard extent is a multiple of the chunk extent"
            )
        return cls(block_axes, first[block_axes:], shape, whole)


def choose_chunks(
    first: Shape,
    itemsize: int,
    block_axes: int,
    counts: tuple[int | None, ...] = (),
    workers: int | None = None,
) -> Shape:
    """Split or merge blocks along one axis after the other, the last block axis first.

    Within a row of blocks, merging needs no memory beyond one chunk; merging rows of blocks would
    need a band of them, so it comes last, and only where the rows are known to be that short.

    - A merged chunk has at most ``MERGE_BELOW`` bytes; along each axis it is a whole number of
      blocks, and no more of them than there are.
    - With workers, there are at least ``UNITS_PER_WORKER`` chunks for each, or as many as blocks,
      where the numbers of blocks are known.

    Examples
    --------
    >>> choose_chunks((32, 50), 4, 1, (60,))  # 60 blocks of 6,400 bytes
    (1920, 50)
    >>> choose_chunks((32, 50), 4, 1, (60,), workers=2)  # 8 chunks of 7 blocks, and a smaller one
    (224, 50)
    """
    shape = [max(extent, 1) for extent in first]
    known = [*counts, *(None for _ in range(block_axes))][:block_axes]
    # Units that are left along each block axis, as far as they are known: one where they are not.
    units = [1 if count is None else max(count, 1) for count in known]
    merging = True
    for axis in (*reversed(range(block_axes)), *range(block_axes, len(shape))):
        size = math.prod(shape) * itemsize
        extent = fit_extent(shape[axis], size // shape[axis], MERGE_BELOW, SPLIT_ABOVE)
        if extent < shape[axis]:
            shape[axis] = extent
        elif axis < block_axes and merging:
            merged = extent // shape[axis]
            count = known[axis]
            if count is not None:
                # The chunks that are needed along this axis, given those along the other one.
                others = math.prod(units) // units[axis]
                needed = -(-UNITS_PER_WORKER * (workers or 0) // others)
                merged = min(merged, max(units[axis] // max(needed, 1), 1))
                units[axis] = -(-units[axis] // merged)
            shape[axis] *= merged
            merging = count is not None  # beyond a row only if that is known to be short
    return tuple(shape)


def choose_read_block(
    shape: Shape, chunks: Shape, itemsize: int, asked: Sequence[int | None], limit: int
) -> Shape:
    """Choose the shape of the blocks in which an array is read.

    Along each block axis it is what is asked for. By default it is that of a chunk: smaller if the
    block would have more than ``limit`` bytes, and several chunks along the last block axis if they
    are small. The other axes are whole.

    Parameters
    ----------
    shape, chunks, itemsize
        Of the array.
    asked
        Extent along each block axis, or None.
    limit
        Bytes of a block, at most.

    Examples
    --------
    >>> choose_read_block((2000, 1000), (10, 1000), 8, [None], limit=2**30)
    (130, 1000)
    >>> choose_read_block((2000, 1000), (500, 100), 8, [None, 30], limit=2**30)
    (500, 30)
    """
    axes = len(asked)
    extents: list[int] = []
    bytes_each = math.prod(shape[axes:]) * itemsize
    chunks_each = cell_count(shape[axes:], chunks[axes:])
    for axis, (extent, chunk) in enumerate(zip(asked, chunks[:axes], strict=True)):
        if extent is None:
            merged = min(MERGE_BELOW, limit) if axis == axes - 1 else 0
            most = chunk * max(CHUNKS_PER_BLOCK // max(chunks_each, 1), 1)
            extents.append(min(fit_extent(chunk, bytes_each, merged, limit), most))
        else:
            extents.append(extent)
        bytes_each *= extents[-1]
        chunks_each *= -(-extents[-1] // chunk)
    return (*extents, *shape[axes:])


def _resolve_extents(extents: Extents, first: Shape, block_axes: int, name: str) -> Shape:
    """Return an extent for each axis."""
    if isinstance(extents, int):
        extents = (extents,) * block_axes + (None,) * (len(first) - block_axes)
    if len(extents) != len(first):
        raise ValueError(
            f"{name}={extents} has {len(extents)} axes, the blocks have {len(first)}; give one "
            "extent for each axis"
        )
    if any(extent in (None, -1) for extent in extents[:block_axes]):
        raise ValueError(
            f"{name}={extents} leaves a block axis whole, whose length is known only after the "
            f"last block; give an extent for each of the first {block_axes} axes"
        )
    return tuple(
        max(length, 1) if extent is None or extent == -1 else extent
        for extent, length in zip(extents, first, strict=True)
    )


def _nearest_part(whole: int, extent: int) -> int:
    """Divisor of a shard's extent that is nearest to a chunk's extent, by their ratio."""
    parts = (
        whole // number
        for number in range(1, min(whole, PARTS_OF_A_SHARD) + 1)
        if not whole % number
    )
    return min(parts, key=lambda part: max(part / extent, extent / part))
