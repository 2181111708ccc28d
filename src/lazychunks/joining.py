"""Joining blocks into one array: the one allocation, and the library's own function behind it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from lazychunks.errors import EmptySequenceError
from lazychunks.folds import Pass

__all__ = ["Joining", "Kind"]


class _Shaped(Protocol):
    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> object: ...

    def __getitem__(self, key: Any, /) -> Any: ...

    def __setitem__(self, key: Any, value: Any, /) -> None: ...


S = TypeVar("S", bound=_Shaped)


@dataclass(frozen=True, slots=True)
class Kind(Generic[S]):
    """What joining needs to know of an array library."""

    empty: Callable[[S, tuple[int, ...]], S]
    """Allocates a result of a shape, with the dtype (and device) of a block."""
    cat: Callable[[list[S], int], S]
    """The library's own function: it says what is right."""
    copyable: Callable[[S], bool]
    """Whether copying a block's values into an allocation gives what ``cat`` would."""


class Joining(Pass, Generic[S]):
    """A pass that joins blocks along an axis.

    Where the number of blocks is known, one result is allocated with the first block and filled,
    so that memory peaks at the size of the result and one block. A block that does not fit there
    (another dtype or shape, more blocks than hinted at) leaves the rest to ``cat``.

    Parameters
    ----------
    kind
        Chooses the library by the first block.
    axis
        The axis to join along.
    count
        Number of blocks, if it is known.
    """

    __slots__ = (
        "_axis",
        "_before",
        "_blocks",
        "_count",
        "_filled",
        "_kind",
        "_like",
        "_of",
        "_room",
    )

    def __init__(self, kind: Callable[[S], Kind[S]], axis: int, count: int | None) -> None:
        self._of = kind
        self._axis = axis
        self._count = count or 0
        self._blocks: list[S] = []
        self._room: S | None = None
        self._like: S | None = None
        self._filled = 0

    def step(self, block: S, /) -> None:
        """Copy the block to its place, or keep it for ``cat``."""
        if self._like is None:
            self._like = block
            self._kind = self._of(block)
            self._allocate(block)
        room = self._room
        if room is None:
            self._blocks.append(block)
        elif self._fits(block, room):
            start, self._filled = self._filled, self._filled + block.shape[self._axis]
            room[(*self._before, slice(start, self._filled))] = block
        else:
            self._blocks = [self._part(room), block]
            self._room = None

    def finish(self) -> S:
        """Return the blocks as one array.

        Raises
        ------
        EmptySequenceError
            If there was no block.
        """
        if self._like is None:
            raise EmptySequenceError("there is no block to join, hence neither shape nor dtype")
        room = self._room
        if room is None:
            return self._kind.cat(self._blocks, self._axis)
        part = self._part(room)
        if 8 * self._filled > 7 * room.shape[self._axis]:
            return part
        return self._kind.cat([part], self._axis)  # the hint was far off: let go of the room

    def _allocate(self, first: S) -> None:
        ndim = len(first.shape)
        if self._count < 2 or not -ndim <= self._axis < ndim or not self._kind.copyable(first):
            return
        self._axis %= ndim
        self._before = (slice(None),) * self._axis
        shape = list(first.shape)
        shape[self._axis] *= self._count
        try:
            self._room = self._kind.empty(first, tuple(shape))
        except (MemoryError, OverflowError, RuntimeError, TypeError, ValueError):
            # A hint may be wrong by far; torch says TypeError where it is no 64-bit integer.
            self._room = None

    def _fits(self, block: S, room: S) -> bool:
        assert self._like is not None
        axis = self._axis
        shape, expected = block.shape, room.shape
        return (
            len(shape) == len(expected)
            and block.dtype == self._like.dtype
            and getattr(block, "device", None) == getattr(self._like, "device", None)
            and shape[:axis] == expected[:axis]
            and shape[axis + 1 :] == expected[axis + 1 :]
            and self._filled + shape[axis] <= expected[axis]
            and self._kind.copyable(block)
        )

    def _part(self, room: S) -> S:
        if self._filled == room.shape[self._axis]:
            return room
        part: S = room[(*self._before, slice(0, self._filled))]
        return part
