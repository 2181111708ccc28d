"""Joining blocks into one array: the one allocation, and the library's own function behind it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import numpy as np
from array_api_compat import array_namespace

from lazychunks.arrays import device, is_tensor
from lazychunks.errors import BlockShapeError, BlockTypeError, EmptySequenceError
from lazychunks.folds import Pass

__all__ = ["Joining"]

S = TypeVar("S")


@dataclass(slots=True, eq=False)
class Joining(Pass, Generic[S]):
    """A pass that joins blocks along an axis; tuples of blocks are joined by component.

    Where the number of blocks is known, one result is allocated with the first block and filled,
    so that memory peaks at the size of the result and one block. A block that does not fit there
    (another dtype or shape, more blocks than hinted at) leaves the rest to the library's own
    function, which gets copies: a producer may reuse the memory of its blocks.
    """

    axis: int
    """The axis to join along."""
    count: int | None
    """Number of blocks, if it is known."""
    _running: _Room | _Parts | None = field(default=None, init=False)

    def step(self, block: S, /) -> None:
        """Copy the block to its place."""
        if self._running is None:
            first: Any = block
            if isinstance(block, tuple):
                self._running = _Parts(first, [self._part(part) for part in first])
            elif hasattr(block, "dtype"):
                self._running = _Room(self.axis, self.count or 0)
            else:
                raise BlockTypeError(
                    f"a block is a {type(block).__name__}, which cannot be joined; convert it to "
                    "an array. Of folds over blocks, nest() makes a fold over rows of blocks",
                    expected="an array, or a tuple of arrays",
                    got=type(block),
                )
        self._running.step(block)

    def finish(self) -> S:
        """Return the blocks as one array, or as one tuple of arrays.

        Raises
        ------
        EmptySequenceError
            If there was no block.
        """
        if self._running is None:
            raise EmptySequenceError("there is no block to join, hence neither shape nor dtype")
        joined: S = self._running.finish()
        return joined

    def _part(self, part: object) -> Joining[Any] | None:
        joins = isinstance(part, tuple) or hasattr(part, "dtype")
        return Joining(self.axis, self.count) if joins else None


@dataclass(slots=True, eq=False)
class _Parts:
    """Joins tuples by component; a component that is no array must be the same in all."""

    first: tuple[Any, ...]
    passes: Sequence[Joining[Any] | None]

    def step(self, block: Any) -> None:
        kind: Any = block.__class__
        if kind is not type(self.first) or len(block) != len(self.first):
            raise BlockTypeError(
                f"a block is a {kind.__name__}, expected a {_called(self.first)} like the blocks "
                "before it; tuples are joined by component",
                expected=type(self.first),
                got=kind,
            )
        for number, running in enumerate(self.passes):
            if running is not None:
                running.step(block[number])
            elif block[number] != self.first[number]:
                raise BlockShapeError(
                    f"component {number} of a {_called(block)} is {block[number]}, expected "
                    f"{self.first[number]} like those before it; only arrays can be joined",
                    expected=self.first[number],
                    got=block[number],
                )

    def finish(self) -> Any:
        parts = (
            part if running is None else running.finish()
            for part, running in zip(self.first, self.passes, strict=True)
        )
        kind: Any = type(self.first)
        return kind(*parts) if hasattr(kind, "_fields") else kind(parts)


@dataclass(slots=True, eq=False)
class _Room:
    """Joins arrays in one allocation, or by the library's own function."""

    axis: int
    count: int
    blocks: list[Any] = field(default_factory=list[Any], init=False)
    room: Any = field(default=None, init=False)
    like: tuple[object, object] | None = field(default=None, init=False)
    before: tuple[slice, ...] = field(default=(), init=False)
    filled: int = field(default=0, init=False)

    def step(self, block: Any) -> None:
        if self.like is None:
            self.like = (block.dtype, device(block))
            self._allocate(block)
        room, shape = self.room, block.shape
        if room is None:
            self.blocks.append(_copy(block))
            return
        end = self.filled + sum(shape[self.axis : self.axis + 1])
        place = room[(*self.before, slice(self.filled, end))]
        alike = place.shape == shape and (block.dtype, device(block)) == self.like
        if alike and _copyable(block):
            place[...] = block
            self.filled = end
        else:
            self.blocks = [self._part(room), _copy(block)]
            self.room = None

    def finish(self) -> Any:
        room = self.room
        if room is None:
            return _cat(self.blocks, self.axis)
        part = self._part(room)
        if 8 * self.filled > 7 * room.shape[self.axis]:
            return part
        return _cat([part], self.axis)  # the hint was far off: let go of the room

    def _allocate(self, first: Any) -> None:
        ndim = len(first.shape)
        if self.count < 2 or not -ndim <= self.axis < ndim or not _copyable(first):
            return
        self.axis %= ndim
        self.before = (slice(None),) * self.axis
        shape = list(first.shape)
        shape[self.axis] *= self.count
        try:
            self.room = _empty(first, tuple(shape))
        except (MemoryError, OverflowError, RuntimeError, TypeError, ValueError):
            # A hint may be wrong by far; torch says TypeError where it is no 64-bit integer.
            self.room = None

    def _part(self, room: Any) -> Any:
        if self.filled == room.shape[self.axis]:
            return room
        return room[(*self.before, slice(0, self.filled))]


def _empty(like: Any, shape: tuple[int, ...]) -> Any:
    """Allocate a result of a shape, with the dtype (and device) of a block."""
    if is_tensor(like):
        return like.new_empty(shape)
    # Of several arrays, also of one dtype, np.concatenate makes native byte order.
    return np.empty(shape, np.concatenate([like[:0]] * 2).dtype)


def _cat(blocks: list[Any], axis: int) -> Any:
    """Join by the library's own function: it says what is right."""
    if is_tensor(blocks[0]):
        torch: Any = array_namespace(blocks[0])
        return torch.cat(blocks, dim=axis)
    return np.concatenate(blocks, axis=axis)


def _copyable(block: Any) -> bool:
    """Whether copying a block's values into an allocation gives what joining would."""
    if not is_tensor(block):
        return type(block) is np.ndarray
    torch: Any = array_namespace(block)
    return (
        type(block) is torch.Tensor
        and block.layout is torch.strided
        and not block.is_quantized
        and not (block.requires_grad and torch.is_grad_enabled())
    )


def _copy(block: Any) -> Any:
    """Copy what is kept; a tensor stays in its graph, and an array keeps its layout."""
    return block.clone() if is_tensor(block) else block.copy("K")


def _called(block: Sequence[object]) -> str:
    return f"{type(block).__name__} of {len(block)}"
