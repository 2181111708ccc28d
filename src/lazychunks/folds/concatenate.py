"""Joining blocks into one array: the folds, the one allocation, and the library's own function."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import numpy as np
from array_api_compat import array_namespace

from lazychunks.arrays import device, is_tensor
from lazychunks.converters import AnyArray
from lazychunks.errors import BlockShapeError, BlockTypeError, EmptySequenceError
from lazychunks.folds.fold import Counts, Fold, Joins, NestedFold, Pass, nest

S = TypeVar("S")


@dataclass(frozen=True, slots=True)
class Concatenate(Fold[S, S], Joins, Generic[S]):
    """Joins blocks along an axis: the fold that :func:`concatenate` returns."""

    axis: int = 0

    def start(self, counts: Counts, /) -> Joining[S]:
        """Start a pass; a count makes it allocate once."""
        return Joining(self.axis, counts[0])


def concatenate(axis: int = 0) -> Concatenate[AnyArray]:
    """Join blocks: arrays, tensors, or tuples of them by component.

    Where the sequence has a length hint, one result is allocated and filled, so that memory peaks
    at the size of the result and one block; without a hint it peaks at twice the result.

    Tuples are what some folds make of a row: ``nest(top_k(10, axis=1), concatenate())`` has one
    :class:`TopK` of all rows for its result. A component that is no array, as the count among
    :class:`Moments`, must be the same in all rows.

    Parameters
    ----------
    axis
        The axis to join along.

    Returns
    -------
    Concatenate
        A fold whose result equals ``np.concatenate(list(blocks), axis)`` (``torch.cat`` for
        tensors), bitwise.

    Raises
    ------
    EmptySequenceError
        When run over no block.
    BlockTypeError, BlockShapeError
        When run over blocks that are neither arrays nor tuples, or tuples that are not alike;
        arrays that do not fit get the error of the library's own function.

    Examples
    --------
    >>> import numpy as np
    >>> from lazychunks import LazyChunkSequence
    >>> LazyChunkSequence.from_map(np.arange, [2, 0, 3]).compute(concatenate())
    array([0, 1, 0, 1, 2])
    """
    return Concatenate(axis)


def nested_concatenate() -> NestedFold[AnyArray, AnyArray]:
    """Join rows of NumPy blocks as ``np.block`` lays out a list of lists.

    It is ``nest(concatenate(axis=1), concatenate(axis=0))``; memory is that of
    :func:`concatenate`, and one row more.

    Examples
    --------
    >>> import numpy as np
    >>> from lazychunks import NestedLazyChunkSequence
    >>> def block(i: int, j: int) -> np.ndarray:
    ...     return np.full((1, 2), 10 * i + j)
    >>> nested = NestedLazyChunkSequence.from_product(block, range(2), range(2))
    >>> nested.compute(nested_concatenate())
    array([[ 0,  0,  1,  1],
           [10, 10, 11, 11]])
    """
    nested: NestedFold[AnyArray, AnyArray] = nest(concatenate(axis=1), concatenate(axis=0))
    return nested


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
    _like: tuple[object, object] | None = field(default=None, init=False)
    """The dtype and device of the first block, once there is one."""
    _parts: _Parts | None = field(default=None, init=False)
    _blocks: list[Any] = field(default_factory=list[Any], init=False)
    _room: Any = field(default=None, init=False)
    _before: tuple[slice, ...] = field(default=(), init=False)
    _filled: int = field(default=0, init=False)

    def step(self, block: S, /) -> None:
        """Copy the block to its place."""
        given: Any = block
        if self._like is None:
            self._begin(given)
        if self._parts is not None:
            self._parts.step(given)
            return
        room = self._room
        if room is None:
            self._blocks.append(_copy(given))
            return
        shape = given.shape
        end = self._filled + sum(shape[self.axis : self.axis + 1])
        place = room[(*self._before, slice(self._filled, end))]
        alike = place.shape == shape and (given.dtype, device(given)) == self._like
        if alike and _copyable(given):
            place[...] = given
            self._filled = end
        else:
            self._blocks = [room[(*self._before, slice(0, self._filled))], _copy(given)]
            self._room = None

    def finish(self) -> S:
        """Return the blocks as one array, or as one tuple of arrays.

        Raises
        ------
        EmptySequenceError
            If there was no block.
        """
        if self._like is None:
            raise EmptySequenceError("there is no block to join, hence neither shape nor dtype")
        joined: Any = self._room
        if self._parts is not None:
            joined = self._parts.finish()
        elif joined is None:
            joined = _cat(self._blocks, self.axis)
        elif self._filled < joined.shape[self.axis]:
            hinted = joined.shape[self.axis]
            joined = joined[(*self._before, slice(0, self._filled))]
            if 8 * self._filled <= 7 * hinted:  # far off: let go of the room
                joined = _cat([joined], self.axis)
        result: S = joined
        return result

    def _begin(self, block: object) -> None:
        first: Any = block
        self._like = (getattr(block, "dtype", None), device(block))
        if isinstance(block, tuple):
            self._parts = _Parts(first, [self._part(part) for part in first])
        elif hasattr(block, "dtype"):
            self._allocate(first)
        else:
            raise BlockTypeError(
                f"a block is a {type(block).__name__}, which cannot be joined; convert it to an "
                "array. Of folds over blocks, nest() makes a fold over rows of blocks",
                expected="an array, or a tuple of arrays",
                got=type(block),
            )

    def _part(self, part: object) -> Joining[Any] | None:
        joins = isinstance(part, tuple) or hasattr(part, "dtype")
        return Joining(self.axis, self.count) if joins else None

    def _allocate(self, first: Any) -> None:
        count, shape = self.count or 0, list(first.shape)
        if count < 2 or not -len(shape) <= self.axis < len(shape) or not _copyable(first):
            return
        self.axis %= len(shape)
        self._before = (slice(None),) * self.axis
        shape[self.axis] *= count
        # A hint may be wrong by far; torch says TypeError where it is no 64-bit integer.
        with suppress(MemoryError, OverflowError, RuntimeError, TypeError, ValueError):
            self._room = _empty(first, tuple(shape))


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
