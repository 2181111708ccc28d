"""Joining blocks into one array: the one allocation, and the library's own function behind it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Generic, TypeVar

import numpy as np
from array_api_compat import array_namespace

from lazychunks.arrays import Shaped, device, is_tensor
from lazychunks.errors import BlockShapeError, BlockTypeError, EmptySequenceError
from lazychunks.folds import Pass

__all__ = ["Joining"]

S = TypeVar("S")


class Joining(Pass, Generic[S]):
    """A pass that joins blocks along an axis; tuples of blocks are joined by component.

    Where the number of blocks is known, one result is allocated with the first block and filled,
    so that memory peaks at the size of the result and one block. A block that does not fit there
    (another dtype or shape, more blocks than hinted at) leaves the rest to the library's own
    function, which gets copies: a producer may reuse the memory of its blocks.

    Parameters
    ----------
    axis
        The axis to join along.
    count
        Number of blocks, if it is known.
    """

    __slots__ = ("_axis", "_count", "_running")

    def __init__(self, axis: int, count: int | None) -> None:
        self._axis = axis
        self._count = count or 0
        self._running: _Room | _Parts | None = None

    def step(self, block: S, /) -> None:
        """Copy the block to its place."""
        if self._running is None:
            first: Any = block
            if isinstance(block, tuple):
                self._running = _Parts(self._axis, self._count, first)
            elif hasattr(block, "shape"):
                self._running = _Room(self._axis, self._count)
            else:
                raise _not_joinable(block)
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


class _Parts:
    """Joins tuples by component; a component that is no array must be the same in all."""

    __slots__ = ("_first", "_passes")

    def __init__(self, axis: int, count: int, first: tuple[Any, ...]) -> None:
        self._first = first
        self._passes: list[Joining[Any] | None] = [
            Joining(axis, count) if isinstance(part, tuple) or hasattr(part, "shape") else None
            for part in first
        ]

    def step(self, block: Any) -> None:
        kind: Any = block.__class__
        if kind is not type(self._first) or len(block) != len(self._first):
            raise BlockTypeError(
                f"a block is a {kind.__name__}, expected a {_called(self._first)} like the blocks "
                "before it; tuples are joined by component",
                expected=type(self._first),
                got=kind,
            )
        for number, running in enumerate(self._passes):
            if running is not None:
                running.step(block[number])
            elif block[number] != self._first[number]:
                raise BlockShapeError(
                    f"component {number} of a {_called(block)} is {block[number]}, expected "
                    f"{self._first[number]} like those before it; only arrays can be joined",
                    expected=self._first[number],
                    got=block[number],
                )

    def finish(self) -> Any:
        parts = (
            part if running is None else running.finish()
            for part, running in zip(self._first, self._passes, strict=True)
        )
        kind: Any = type(self._first)
        return kind(*parts) if hasattr(kind, "_fields") else kind(parts)


class _Room:
    """Joins arrays in one allocation, or by the library's own function."""

    __slots__ = ("_axis", "_before", "_blocks", "_count", "_filled", "_like", "_room")

    def __init__(self, axis: int, count: int) -> None:
        self._axis = axis
        self._count = count
        self._blocks: list[Any] = []
        self._room: Any = None
        self._like: tuple[object, object] | None = None
        self._filled = 0

    def step(self, block: Any) -> None:
        if self._like is None:
            self._like = (block.dtype, device(block))
            self._allocate(block)
        room = self._room
        if room is None:
            self._blocks.append(_copy(block))
        elif self._fits(block, room):
            start, self._filled = self._filled, self._filled + block.shape[self._axis]
            room[(*self._before, slice(start, self._filled))] = block
        else:
            self._blocks = [self._part(room), _copy(block)]
            self._room = None

    def finish(self) -> Any:
        room = self._room
        if room is None:
            return _cat(self._blocks, self._axis)
        part = self._part(room)
        if 8 * self._filled > 7 * room.shape[self._axis]:
            return part
        return _cat([part], self._axis)  # the hint was far off: let go of the room

    def _allocate(self, first: Any) -> None:
        ndim = len(first.shape)
        if self._count < 2 or not -ndim <= self._axis < ndim or not _copyable(first):
            return
        self._axis %= ndim
        self._before = (slice(None),) * self._axis
        shape = list(first.shape)
        shape[self._axis] *= self._count
        try:
            self._room = _empty(first, tuple(shape))
        except (MemoryError, OverflowError, RuntimeError, TypeError, ValueError):
            # A hint may be wrong by far; torch says TypeError where it is no 64-bit integer.
            self._room = None

    def _fits(self, block: Any, room: Shaped) -> bool:
        axis = self._axis
        shape, expected = block.shape, room.shape
        return (
            len(shape) == len(expected)
            and (block.dtype, device(block)) == self._like
            and shape[:axis] == expected[:axis]
            and shape[axis + 1 :] == expected[axis + 1 :]
            and self._filled + shape[axis] <= expected[axis]
            and _copyable(block)
        )

    def _part(self, room: Any) -> Any:
        if self._filled == room.shape[self._axis]:
            return room
        return room[(*self._before, slice(0, self._filled))]


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


def _not_joinable(block: object) -> BlockTypeError:
    return BlockTypeError(
        f"a block is a {type(block).__name__}, which cannot be joined; convert it to an array. Of "
        "folds over blocks, nest() makes a fold over rows of blocks",
        expected="an array, or a tuple of arrays",
        got=type(block),
    )
