"""Blocks into whole units: the buffers that fill up, and what becomes of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from lazychunks.errors import DestinationError
from lazychunks.layout.shapes import Region, Shape, cell_region, region_shape
from lazychunks.storage.chunks.filled import Filled
from lazychunks.storage.resuming import spill
from lazychunks.storage.resuming.spill import Piece
from lazychunks.storage.writing.target import Target


@dataclass(slots=True)
class _OpenUnit:
    buffer: NDArray[Any]
    size: int
    """Number of elements along the block axes that belong into it."""
    filled: int = 0
    """Number of those that have come."""
    pieces: set[Piece] = field(default_factory=set[Piece])
    """Which pieces have come, if they may be spilled."""
    spilled: int = 0
    """Number of elements that are spilled."""

    def keep(self, pieces: set[Piece]) -> None:
        """Have these pieces, and no others, of which none is spilled yet."""
        self.pieces = pieces
        self.filled = sum(math.prod(stop - start for start, stop in piece) for piece in self.pieces)
        self.spilled = 0


class OpenUnits:
    """Scatters blocks over buffers, one for each unit of the array.

    Postconditions, whatever the partition into blocks:

    - Every element goes into exactly one buffer, and every buffer is handed out exactly once.
    - A buffer is handed out as soon as the last element that belongs into it has come.
    - What is stored already goes nowhere; what is spilled already is loaded once.

    Parameters
    ----------
    target
        Where the units go.
    allocate
        Gives a free buffer for a unit.
    hand_out
        Takes a buffer that is complete.
    """

    def __init__(
        self,
        target: Target[Any],
        allocate: Callable[[], NDArray[Any]],
        hand_out: Callable[[Filled], None],
    ) -> None:
        self._target = target
        self._unit = target.unit
        self._allocate = allocate
        self._hand_out = hand_out
        self._stored = set(target.stored)
        """Units that get nothing more."""
        self._earlier = dict(target.spilled or {})
        self._spills = target.spilled is not None
        self._open: dict[Shape, _OpenUnit] = {}
        self._lengths: list[int | None] = list(target.lengths)
        self._spilled = set(self._earlier)

    def add(self, origin: Shape, block: NDArray[Any]) -> None:
        """Copy a block to its place, and hand out what it completes."""
        if block.size == 0:
            return
        cell: list[int] = []
        within: list[slice] = []
        # Most blocks lie within one unit: those need no cutting, which takes longer than the copy.
        for start, length, size in zip(origin, block.shape, self._unit, strict=False):
            index, offset = divmod(start, size)
            if offset + length > size:
                self._scatter(origin, block)
                return
            cell.append(index)
            within.append(slice(offset, offset + length))
        self._fill(tuple(cell), tuple(within), block)

    def take_spilled(self, region: Region) -> None:
        """Load what has been spilled of the units that a region touches."""
        for cell, _, _ in self._target.pieces(region):
            if cell in self._earlier and cell not in self._open and cell not in self._stored:
                unit = self._open[cell] = self._begin(cell)
                self._hand_out_if_complete(cell, unit)

    def fix_length(self, axis: int, length: int) -> None:
        """Learn where a block axis ends, and hand out what is complete thereby."""
        self._lengths[axis] = length
        for cell, unit in tuple(self._open.items()):
            unit.size = self._size(cell)
            self._hand_out_if_complete(cell, unit)

    def forget_earlier(self, axis: int, start: int) -> frozenset[Shape]:
        """Believe nothing of what earlier starts have stored at or after a place.

        Returns
        -------
        frozenset
            The units of which something was stored there, or spilled: to be removed.
        """
        size = self._unit[axis]
        # A unit stored around the place is right: whoever stored it has computed this block.
        wrong = {cell for cell in self._stored if cell[axis] * size >= start}
        self._stored -= wrong
        wrong |= {cell for cell in self._earlier if cell[axis] >= start // size}
        for cell in wrong:
            self._earlier.pop(cell, None)
        for cell, unit in self._open.items():
            # A unit that lies around the place may have been loaded, and blocks before the place
            # may be nowhere else.
            pieces = {piece for piece in unit.pieces if cell[axis] * size + piece[axis][0] < start}
            if pieces != unit.pieces:
                unit.keep(pieces)
                wrong.add(cell)
        return frozenset(wrong)

    @property
    def is_empty(self) -> bool:
        """Whether every buffer has been handed out."""
        return not self._open

    def is_spilled(self, cell: Shape) -> bool:
        """Whether a unit has ever been spilled."""
        return cell in self._spilled

    def reach(self, axis: int) -> int:
        """Return the length that an axis has at least, going by what earlier starts stored."""
        return max((cell[axis] * self._unit[axis] + 1 for cell in self._stored), default=0)

    def spill(self) -> None:
        """Store what has come of open units, for another start."""
        if not self._spills:
            return
        for cell, unit in self._open.items():
            if unit.filled > unit.spilled:
                spill.spill(self._target.where, cell, unit.pieces, unit.buffer)
                unit.spilled = unit.filled
                self._spilled.add(cell)

    def _scatter(self, origin: Shape, block: NDArray[Any]) -> None:
        region = tuple(
            slice(start, start + length) for start, length in zip(origin, block.shape, strict=False)
        )
        for cell, within, in_block in self._target.pieces(region):
            self._fill(cell, within, block[in_block])

    def _fill(self, cell: Shape, within: Region, piece: NDArray[Any]) -> None:
        """Copy a piece to its place in a unit, and hand out the unit if that completes it."""
        if cell in self._stored:
            return
        unit = self._open.get(cell)
        if unit is None:
            unit = self._open[cell] = self._begin(cell)
        if self._spills:
            place = spill.piece_of(within)
            if place in unit.pieces:  # an earlier start has spilled it, perhaps as the last one
                self._hand_out_if_complete(cell, unit)
                return
            # After the copy: an interrupt between the two must not leave a piece that is not there.
            unit.buffer[within] = piece
            unit.pieces.add(place)
        else:
            unit.buffer[within] = piece
        unit.filled += math.prod(piece.shape[: len(self._unit)])
        self._hand_out_if_complete(cell, unit)

    def _begin(self, cell: Shape) -> _OpenUnit:
        unit = _OpenUnit(self._allocate(), self._size(cell))
        if cell in self._earlier:
            # Once only: a unit that is handed out must not begin again.
            earlier = self._earlier.pop(cell)
            if spill.load(self._target.where, cell, unit.buffer) != earlier:
                raise DestinationError(
                    f"what an earlier start has spilled of the chunk {cell} of "
                    f"{self._target.name} has gone since this start began; see that nothing "
                    "removes it, and start again",
                    path=self._target.name,
                )
            unit.keep(set(earlier))
            unit.spilled = unit.filled
        unit.filled += self._target.load_base(cell, unit.buffer)
        return unit

    def _hand_out_if_complete(self, cell: Shape, unit: _OpenUnit) -> None:
        if unit.filled == unit.size:
            del self._open[cell]
            if cell in self._spilled:
                # It may have been spilled whole, and a block that lies partly in it come again.
                self._stored.add(cell)
            rest = tuple(slice(0, length) for length in self._target.plan.trailing)
            self._hand_out(Filled((*self._region(cell), *rest), unit.buffer))

    def _region(self, cell: Shape) -> Region:
        lengths = tuple(
            (index + 1) * size if length is None else length
            for index, size, length in zip(cell, self._unit, self._lengths, strict=True)
        )
        return cell_region(cell, self._unit, lengths)

    def _size(self, cell: Shape) -> int:
        return math.prod(region_shape(self._region(cell)))
