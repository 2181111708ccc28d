"""How blocks cut the axes of an array, and where its units lie.

A *unit* is what is stored under one key: a chunk, or a shard where there are shards. A unit is
written as a whole, so blocks can be given to several writers only where a block and a unit begin at
the same position: at a *boundary*.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, product

from lazychunks.layout.shapes import Region, Shape


@dataclass(frozen=True, slots=True)
class Partition:
    """How blocks cut an axis: all of one size but a smaller last one, or of listed sizes.

    Examples
    --------
    >>> even = Partition(2)
    >>> even.start_of(3), even.size_of(3, is_last=False), even.size_of(3, is_last=True)
    (6, 2, None)
    >>> listed = Partition(2, sizes=(2, 0, 5))
    >>> listed.start_of(2), listed.size_of(2, is_last=True)
    (2, 5)
    """

    size: int
    """Size of the first block."""
    sizes: tuple[int, ...] | None = None
    """Sizes of all blocks, if they are known beforehand."""
    start: int = 0
    """Position of the first block; not zero if blocks are appended to an array."""
    _starts: tuple[int, ...] = field(init=False, repr=False, compare=False)
    """Positions of the blocks with listed sizes, and the end of the last one."""

    def __post_init__(self) -> None:
        # Summed up once: a run asks for the position of each block, and may have a million.
        starts = tuple(accumulate(self.sizes or (), initial=self.start))
        object.__setattr__(self, "_starts", starts)

    def start_of(self, number: int) -> int:
        """Return the position at which a block begins.

        The block after the last one may be asked for if sizes are listed: it begins at the end.
        """
        return self.start + number * self.size if self.sizes is None else self._starts[number]

    def size_of(self, number: int, *, is_last: bool) -> int | None:
        """Return the size of a block; None for a last block whose size only the block can tell."""
        if self.sizes is not None:
            return self.sizes[number]
        return None if is_last else self.size

    def is_boundary(self, number: int, unit: int) -> bool:
        """Whether a unit begins where a block begins.

        >>> [Partition(2).is_boundary(number, unit=4) for number in range(4)]
        [True, False, True, False]
        """
        return self.start_of(number) % unit == 0

    def boundaries(self, unit: int, count: int) -> Iterator[int]:
        """Numbers of the blocks, the first of ``count`` left out, at which a unit begins.

        >>> list(Partition(3, sizes=(3, 1, 0, 4, 2)).boundaries(unit=4, count=5))
        [2, 3, 4]
        """
        return (number for number in range(1, count) if self.is_boundary(number, unit))

    def blocks_per_unit(self, unit: int) -> int | None:
        """Return the number of blocks from one boundary to the next.

        - A block that is a whole number of units stands alone.
        - Smaller blocks that fill one unit exactly stand together.
        - None if neither divides the other. Boundaries may exist then, but they are rare: between
          blocks of 7 and units of 64, one in 64 blocks. Too few would be left for other writers.
        - None if sizes are listed, so that the number varies.

        >>> Partition(8).blocks_per_unit(4), Partition(2).blocks_per_unit(8)
        (1, 4)
        >>> Partition(6).blocks_per_unit(4) is None
        True
        """
        if self.sizes is not None:
            return None
        if self.size % unit == 0:
            return 1
        return unit // self.size if unit % self.size == 0 else None

    def can_be_divided(self, unit: int) -> bool:
        """Whether several writers can take blocks without sharing a unit, if there are enough.

        Listed sizes must have a boundary, unless all blocks lie in one unit.

        >>> Partition(2).can_be_divided(unit=8), Partition(3).can_be_divided(unit=8)
        (True, False)
        >>> Partition(3, sizes=(3, 1, 2)).can_be_divided(unit=4)
        True
        """
        if self.sizes is None:
            # Positions within a unit repeat after `count` blocks. All of them may lie inside, but
            # only if blocks are appended to an array.
            count = self.blocks_per_unit(unit)
            return count is not None and any(
                self.is_boundary(number, unit) for number in range(count)
            )
        first_unit, end = self.start - self.start % unit, self._starts[-1]
        return end <= first_unit + unit or any(self.boundaries(unit, len(self.sizes)))


@dataclass(frozen=True, slots=True)
class ArrayPlan:
    """Where the blocks and the units of one array lie."""

    axes: tuple[Partition, ...]
    """How blocks cut the block axes: one axis (flat) or two (nested)."""
    trailing: Shape
    """Lengths of the other axes, the same in every block."""
    unit: Shape
    """Extents of a unit along all axes."""
    unit_name: str = "chunk"
    """What a unit is, for messages: a chunk, or a shard."""

    def region(self, index: Sequence[int], is_last: Sequence[bool]) -> Region | None:
        """Return the region of a block; None if only the block can tell its size.

        Parameters
        ----------
        index
            Row and column of the block; of a flat sequence, the row is enough.
        is_last
            Whether it is in the last row, and in the last column.

        Examples
        --------
        >>> plan = ArrayPlan((Partition(2),), trailing=(5,), unit=(4, 5))
        >>> plan.region((3,), (False,))
        (slice(6, 8, None), slice(0, 5, None))
        """
        region: list[slice] = []
        count = len(self.axes)
        for axis, number, last in zip(self.axes, index[:count], is_last[:count], strict=True):
            size = axis.size_of(number, is_last=last)
            if size is None:
                return None
            start = axis.start_of(number)
            region.append(slice(start, start + size))
        return (*region, *(slice(0, length) for length in self.trailing))

    def units(self, region: Region) -> Iterator[Shape]:
        """Indices of the units that a region touches; an empty region touches none.

        >>> plan = ArrayPlan((Partition(2),), trailing=(5,), unit=(4, 3))
        >>> list(plan.units((slice(6, 8), slice(0, 5))))
        [(1, 0), (1, 1)]
        """
        # Rounding outwards would find a unit for an empty span that lies inside one.
        if any(span.start == span.stop for span in region):
            return iter(())
        cells = (
            range(span.start // extent, -(-span.stop // extent))
            for span, extent in zip(region, self.unit, strict=True)
        )
        return product(*cells)
