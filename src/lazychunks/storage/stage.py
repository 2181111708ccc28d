"""The array under way: what is known of it, and what is noted for another start."""

from __future__ import annotations

import operator
from collections.abc import Collection

from lazychunks.errors import ResumeMismatchError
from lazychunks.layout.plan import WritePlan
from lazychunks.layout.shapes import Shape, grow
from lazychunks.storage.chunks.metadata import StagedArray, record_of
from lazychunks.storage.resuming import DoneUnits, Journal, mismatch


class Stage:
    """The array under way: its plan, what of it is stored already, and its sizes.

    Parameters
    ----------
    staged
        The array; of an unfinished write that was taken up, its record is heeded.
    plan
        Its plan.
    first
        Shape of the first block.
    keys
        What is stored, of an unfinished write that was taken up.
    """

    def __init__(
        self,
        staged: StagedArray,
        plan: WritePlan,
        first: Shape,
        keys: Collection[str] = (),
    ) -> None:
        self.staged = staged
        self.plan = plan
        self.first = first
        self.done: DoneUnits = DoneUnits(keys, plan)
        unknown = [None] * plan.block_axes
        record = record_of(staged.document)
        self._irregular: list[int] = list(record.get("irregular") or ())
        """Axes of which there is a journal, or has been one: it may have been lost."""
        self._journals = [
            Journal(staged.where, axis, first[axis], keys, regular=axis not in self._irregular)
            for axis in range(plan.block_axes if staged.resumable else 0)
        ]
        """Sizes of the blocks along each block axis, where another start may go on."""
        self._lengths: list[int | None] = list(record.get("lengths") or unknown)
        self._counts: list[int | None] = list(record.get("counts") or unknown)
        self.fixed: dict[int, int] = {}
        """Final lengths of axes."""

    def size(self, axis: int, number: int) -> int | None:
        """Size of a block along an axis, as far as it is known without computing it."""
        return self._journals[axis].size(number) if self._journals else None

    def note(self, axis: int, number: int, size: int) -> None:
        """Learn a block's size along an axis, before anything of it is written."""
        if not self._journals:
            return
        if self._journals[axis].is_regular and size != self.first[axis]:
            self._irregular.append(axis)
            self.staged.reshape(self.staged.shape, irregular=self._irregular)
        self._journals[axis].note(number, size)

    def end(self, axis: int, count: int) -> None:
        """Learn the number of blocks along an axis, before the last of them is written."""
        self.check_count(axis, count)
        if self._counts[axis] is None:
            self._counts[axis] = count
            self.staged.reshape(self.staged.shape, counts=self._counts)

    def check_count(self, axis: int, count: int) -> None:
        """Compare the number of blocks along an axis with that of an earlier start."""
        expected = self._counts[axis]
        if expected not in (None, count):
            what = f"the number of blocks along axis {axis}"
            raise mismatch(what, "count", expected, count)

    def check_lengths(self, lengths: Shape) -> None:
        """Compare lengths so far with those of an earlier start, where it has come to an end."""
        for axis, (length, known) in enumerate(zip(lengths, self._lengths, strict=False)):
            if known is not None and length > known:
                raise self._other_length(axis, length)

    def make_room(self, lengths: Shape) -> None:
        """Grow the array where it does not hold so much along the block axes."""
        room = self.staged.shape
        if any(map(operator.gt, lengths, room)):
            grown = self.plan.capacity(tuple(map(grow, room, lengths)))
            self.staged.reshape(
                tuple(self.fixed.get(axis, length) for axis, length in enumerate(grown))
            )

    def fix_length(self, axis: int, length: int) -> None:
        """Set the final length of an axis, once."""
        if self.fixed.get(axis) == length:
            return
        reach = self.done.reach(axis)
        if self._lengths[axis] not in (None, length) or length < reach:
            raise self._other_length(axis, length)
        self.fixed[axis] = self._lengths[axis] = length
        shape = tuple(
            length if number == axis else there for number, there in enumerate(self.staged.shape)
        )
        self.staged.reshape(shape, lengths=self._lengths)

    def _other_length(self, axis: int, length: int) -> ResumeMismatchError:
        known = self._lengths[axis]
        was = f"at least {self.done.reach(axis)}" if known is None else known
        return mismatch(f"the length of axis {axis}", "length", was, length)
