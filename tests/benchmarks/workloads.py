"""What is written: the workloads, their blocks, and the figures that they are held against."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

Block: TypeAlias = NDArray[np.float32]

# zarr's default codec is zstd at level 0, which is zstd's name for its default, level 3.
ZSTD_LEVEL = 3


@dataclass(frozen=True, slots=True)
class Goal:
    """A figure to reach: the time of `peer` over the time of `ours` is at least `ratio`."""

    peer: str
    ratio: float
    ours: str = "lazychunks"


@dataclass(frozen=True, slots=True)
class Workload:
    """A grid of float32 blocks, and whether it is handed over flat (one column) or nested."""

    name: str
    title: str
    heights: tuple[int, ...]
    widths: tuple[int, ...]
    nested: bool = False
    compressed: bool = True
    goals: tuple[Goal, ...] = ()

    @property
    def shape(self) -> tuple[int, int]:
        return sum(self.heights), sum(self.widths)

    @property
    def chunk(self) -> tuple[int, int]:
        """The first block's shape: a chunk per block where blocks are regular."""
        return self.heights[0], self.widths[0]

    @property
    def regular(self) -> bool:
        return len(set(self.heights)) == 1 and len(set(self.widths)) == 1

    @property
    def mebibytes(self) -> float:
        rows, columns = self.shape
        return rows * columns * 4 / 2**20

    def shortened(self, blocks: int) -> Workload:
        """Return the same workload with at most `blocks` row blocks (and columns, if nested)."""
        return Workload(
            self.name,
            self.title,
            self.heights[:blocks],
            self.widths[:blocks],
            self.nested,
            self.compressed,
            self.goals,
        )


@dataclass(frozen=True, slots=True)
class Job:
    """One write of a workload: where its blocks come from and where they go."""

    workload: Workload
    block: Callable[[int, int], Block]
    path: Path

    def rows(self) -> Iterator[Iterator[Block]]:
        """Yield the rows of blocks, each an iterator over its columns."""
        columns = range(len(self.workload.widths))
        for row in range(len(self.workload.heights)):
            yield (self.block(row, column) for column in columns)

    def flat(self) -> Iterator[Block]:
        """Yield the blocks of a workload with a single column."""
        for row in range(len(self.workload.heights)):
            yield self.block(row, 0)

    def placed(self) -> Iterator[tuple[slice, slice, Block]]:
        """Yield each block after the two slices that it fills."""
        top = 0
        for row, height in zip(self.rows(), self.workload.heights, strict=True):
            left = 0
            for block in row:
                yield slice(top, top + height), slice(left, left + block.shape[1]), block
                left += block.shape[1]
            top += height


def realistic(generator: np.random.Generator, height: int, width: int) -> Block:
    """Return normal values of bfloat16 precision in float32, which zstd takes to about 46 %.

    That is what a model that computes in bfloat16 hands out: neither zeros, which any codec
    swallows, nor random mantissas, which none does.
    """
    values = generator.standard_normal((height, width), dtype=np.float32)
    return (values.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)


def in_memory(workload: Workload) -> Callable[[int, int], Block]:
    """Generate all blocks of `workload`, each different, and return the look-up."""
    generator = np.random.default_rng(20260)
    table = [
        [realistic(generator, height, width) for width in workload.widths]
        for height in workload.heights
    ]
    return lambda row, column: table[row][column]


def from_pool(workload: Workload, distinct: int = 8) -> Callable[[int, int], Block]:
    """Return a producer that hands out fresh copies of a few blocks, for long streams."""
    generator = np.random.default_rng(20260)
    pool = [realistic(generator, *workload.chunk) for _ in range(distinct)]
    return lambda row, column: pool[(row + column) % distinct].copy()


def _ragged() -> tuple[int, ...]:
    return tuple(int(n) for n in np.random.default_rng(7).integers(20, 40, size=600))


WORKLOADS = (
    Workload(
        "large",
        "96 blocks of 256 x 4096, zstd level 3",
        (256,) * 96,
        (4096,),
        goals=(Goal("pydvl", 2.0), Goal("tensorstore", 0.95)),
    ),
    Workload(
        "large-raw",
        "96 blocks of 256 x 4096, no compression",
        (256,) * 96,
        (4096,),
        compressed=False,
        goals=(Goal("tensorstore", 1.2), Goal("acquire-zarr", 1.5), Goal("files", 0.4)),
    ),
    Workload(
        "tiny",
        "3,000 blocks of 16 x 64, zstd level 3",
        (16,) * 3000,
        (64,),
        goals=(Goal("pydvl", 100), Goal("tensorstore", 20), Goal("acquire-zarr", 20)),
    ),
    Workload(
        "ragged",
        "600 blocks of 20-39 rows x 1024, zstd level 3",
        _ragged(),
        (1024,),
        goals=(Goal("pydvl", 10),),
    ),
    Workload(
        "nested-small",
        "40 x 40 nested blocks of 64 x 64, zstd level 3",
        (64,) * 40,
        (64,) * 40,
        nested=True,
        goals=(Goal("pydvl", 50), Goal("pydvl", 2, "lazychunks-blocks")),
    ),
    Workload(
        "nested-large",
        "12 x 12 nested blocks of 512 x 1024, zstd level 3",
        (512,) * 12,
        (1024,) * 12,
        nested=True,
        goals=(Goal("pydvl", 2.0),),
    ),
)
