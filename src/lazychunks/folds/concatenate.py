"""Joining blocks into one array: copied into one allocation, or by the library's own function."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Generic, TypeAlias, TypeGuard, TypeVar

import numpy as np
from array_api_compat import array_namespace

from lazychunks.arrays import (
    Array,
    DType,
    copy_block,
    device,
    is_inference_mode,
    is_tensor,
    join_arrays,
    refuse_masked,
)
from lazychunks.converters import AnyArray
from lazychunks.errors import BlockShapeError, BlockTypeError, EmptySequenceError
from lazychunks.folds.fold import Fold, KeepsBlockType, NestedFold
from lazychunks.folds.nest import nest
from lazychunks.runs.passes import AnyBlock, AnyResult, Counts, Pass

S = TypeVar("S")

AnyTuple: TypeAlias = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Concatenate(Fold[S, S], KeepsBlockType, Generic[S]):
    """The fold that :func:`concatenate` returns."""

    axis: int = 0

    def start(self, counts: Counts, /) -> Concatenation[S]:
        """Start a pass; a count makes it allocate once."""
        return Concatenation(self.axis, counts[0])


def concatenate(axis: int = 0) -> Concatenate[AnyArray]:
    """Join blocks: arrays, tensors, or tuples of them by component.

    Where the sequence has a length hint, one result is allocated and filled, so that memory peaks
    at the size of the result and one block; without a hint it peaks at twice the result.

    Some folds make a tuple of each row: the result of ``nest(top_k(10, axis=1), concatenate())`` is
    one :class:`TopK` of all rows. A component that is not an array, such as the number of entries
    in :class:`Moments`, must be the same in all rows.

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
        When run over blocks that are neither arrays nor tuples, masked arrays, or tuples that are
        not alike. For arrays that do not fit, the library's own function raises its own error.

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

    It is ``nest(concatenate(axis=1), concatenate(axis=0))``. It needs the memory of
    :func:`concatenate`, and of one row more.

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
class Concatenation(Pass, Generic[S]):
    """A pass that joins blocks along an axis; tuples of blocks are joined by component."""

    axis: int
    """The axis to join along."""
    count: int | None
    """Number of blocks, if it is known."""
    is_inferring: bool = field(default_factory=is_inference_mode)
    """Whether the consumer makes inference tensors: a generator of blocks may do so meanwhile."""
    _joint: _Allocated | _Listed | _Components | None = field(default=None, init=False)

    def step(self, block: S, /) -> None:
        """Copy the block to its place."""
        given: AnyBlock = block
        refuse_masked(given)
        joint = self._joint
        if joint is None:
            joint = self._joint = self._begin(given)
        # More blocks than hinted at, or another dtype: the library's own function knows what is
        # right, be it an error. The blocks so far are in the allocation, and stay there.
        if isinstance(joint, _Allocated) and not joint.has_place(given):
            joint = self._joint = _Listed(self.axis, [joint.filled_part()])
        joint.step(given)

    def finish(self) -> S:
        """Return the blocks as one array, or as one tuple of arrays.

        Raises
        ------
        EmptySequenceError
            If there was no block.
        """
        if self._joint is None:
            raise EmptySequenceError("there is no block to join, hence neither shape nor dtype")
        result: AnyResult = self._joint.finish()
        joined: S = result
        return joined

    def _begin(self, first: object) -> _Allocated | _Listed | _Components:
        if _is_tuple(first):
            return _Components(first, [self._start_component(one) for one in first])
        if hasattr(first, "dtype"):
            count = self.count or 0
            room = _allocate(first, self.axis, count, is_inferring=self.is_inferring)
            return room or _Listed(self.axis, [])
        raise BlockTypeError(
            f"a block is a {type(first).__name__}, which cannot be joined; convert it to an "
            "array. Of folds over blocks, nest() makes a fold over rows of blocks",
            expected="an array, or a tuple of arrays",
            got=type(first),
        )

    def _start_component(self, one: object) -> Concatenation[AnyBlock] | None:
        # By its dtype, not its shape: a table of columns has a shape as well.
        can_join = isinstance(one, tuple) or hasattr(one, "dtype")
        return Concatenation(self.axis, self.count, self.is_inferring) if can_join else None


@dataclass(slots=True, eq=False)
class _Listed:
    """Copies of the blocks, for the library's own function."""

    axis: int
    blocks: list[Array]

    def step(self, block: Array) -> None:
        # A copy, since a producer may reuse the memory of its blocks. A tensor stays in its graph,
        # as in torch.cat.
        self.blocks.append(copy_block(block, keep_graph=True))

    def finish(self) -> Array:
        return join_arrays(self.blocks, self.axis)


@dataclass(slots=True, eq=False)
class _Allocated:
    """One allocation for all blocks, so that memory peaks at its size and one block."""

    room: Array
    """The allocation."""
    axis: int
    dtype: DType
    device: object
    filled: int = 0
    """Length of the blocks along the axis."""

    def has_place(self, block: Array) -> bool:
        """Whether copying a block into the allocation gives what joining would give."""
        shape, axis = tuple(block.shape), self.axis
        return (
            shape[:axis] == self.room.shape[:axis]
            and shape[axis + 1 :] == self.room.shape[axis + 1 :]
            and len(shape) > axis
            and self.filled + shape[axis] <= self.room.shape[axis]
            and block.dtype == self.dtype
            and device(block) == self.device
            and _is_copyable(block)
        )

    def step(self, block: Array) -> None:
        end = self.filled + block.shape[self.axis]
        self.room[self._slice(self.filled, end)] = block
        self.filled = end

    def filled_part(self) -> Array:
        return self.room[self._slice(0, self.filled)]

    def finish(self) -> Array:
        """Return the blocks; if the count was far too large, without the rest of the room."""
        hinted = self.room.shape[self.axis]
        if self.filled == hinted:
            return self.room
        part = self.filled_part()
        # A view keeps the whole allocation alive, so that a hint far too large is worth a copy.
        return join_arrays([part], self.axis) if 8 * self.filled <= 7 * hinted else part

    def _slice(self, start: int, stop: int) -> tuple[slice, ...]:
        return (*(slice(None),) * self.axis, slice(start, stop))


@dataclass(slots=True, eq=False)
class _Components:
    """Tuples, joined by component; a component that is not an array is the same in all."""

    first: AnyTuple
    passes: Sequence[Concatenation[AnyBlock] | None]

    def step(self, block: AnyTuple) -> None:
        kind: type[AnyTuple] = block.__class__
        if kind is not type(self.first) or len(block) != len(self.first):
            raise BlockTypeError(
                f"a block is a {kind.__name__}, expected a {_name_tuple(self.first)} like the "
                "blocks before it; tuples are joined by component",
                expected=type(self.first),
                got=kind,
            )
        for number, running in enumerate(self.passes):
            if running is not None:
                running.step(block[number])
            elif block[number] != self.first[number]:
                raise BlockShapeError(
                    f"component {number} of a {_name_tuple(block)} is {block[number]}, expected "
                    f"{self.first[number]} like those before it; only arrays can be joined",
                    expected=self.first[number],
                    got=block[number],
                )

    def finish(self) -> AnyTuple:
        components = (
            one if running is None else running.finish()
            for one, running in zip(self.first, self.passes, strict=True)
        )
        kind: Any = type(self.first)
        # A named tuple takes its fields one by one, unlike tuple itself.
        joined: AnyTuple = kind(*components) if hasattr(kind, "_fields") else kind(components)
        return joined


def _allocate(first: AnyBlock, axis: int, count: int, *, is_inferring: bool) -> _Allocated | None:
    """Allocate the result for a number of blocks like the first one, if that is possible."""
    if is_tensor(first) and first.is_nested:
        kind: type[AnyBlock] = first.__class__
        raise BlockTypeError(
            "a block is a nested tensor, which cannot be joined; pad it first, e.g. with "
            "torch.nested.to_padded_tensor()",
            expected="a tensor with a shape",
            got=kind,
        )
    shape = list(first.shape)
    # One block is copied either way, and an axis that is wrong is for np.concatenate to refuse.
    if count < 2 or not -len(shape) <= axis < len(shape) or not _is_copyable(first):
        return None
    axis %= len(shape)
    shape[axis] *= count
    # A hint may be wrong by far; torch raises a TypeError where it is no 64-bit integer.
    with suppress(MemoryError, OverflowError, RuntimeError, TypeError, ValueError):
        if is_tensor(first):
            with _torch_of(first).inference_mode(is_inferring):
                room: AnyBlock = first.new_empty(shape)
        else:
            # NumPy joins several arrays, even of one dtype, into one of native byte order.
            room = np.empty(shape, np.concatenate([first[:0]] * 2).dtype)
        return _Allocated(room, axis, first.dtype, device(first))
    return None


def _is_copyable(block: AnyBlock) -> bool:
    """Whether the values of a block are all there is to it: no subclass, and no graph."""
    if not is_tensor(block):
        return type(block) is np.ndarray  # a masked array would lose its mask
    torch = _torch_of(block)
    return (
        type(block) is torch.Tensor
        and block.layout is torch.strided
        and not block.is_quantized
        and not (block.requires_grad and torch.is_grad_enabled())
    )


def _torch_of(tensor: object) -> Any:
    """Return PyTorch without importing it: it has been, where there is a tensor."""
    return array_namespace(tensor)


def _is_tuple(block: object) -> TypeGuard[AnyTuple]:
    return isinstance(block, tuple)


def _name_tuple(block: Sequence[object]) -> str:
    return f"{type(block).__name__} of {len(block)}"
