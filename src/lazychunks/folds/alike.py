"""Blocks that are joined along an axis: the first one says what all later ones must be like."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, Generic, NamedTuple, TypeVar

from lazychunks.arrays import Array, DType, Namespace, namespace_and_values, native_dtype
from lazychunks.errors import BlockDTypeError, BlockShapeError, EmptySequenceError
from lazychunks.folds.fold import Fold
from lazychunks.layout.parts import AnyPart
from lazychunks.runs.passes import Counts, Pass, State

S = TypeVar("S")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Like:
    """Shape and dtype of the first block, which all later ones must match but for one length."""

    shape: tuple[int, ...]
    dtype: DType
    """In native byte order, as in results."""
    axis: int | None
    """The axis along which lengths may differ, not negative; None, if shapes do not matter."""
    library: str
    """Name of the module that is the namespace of the blocks."""

    @classmethod
    def of(cls, xp: Namespace, block: Array, axis: int | None, number: int) -> Like:
        """Describe a block.

        Raises
        ------
        BlockShapeError
            If it has no such axis.
        """
        shape = tuple(block.shape)
        if axis is not None:
            axis = find_axis(shape, axis, number)
        return cls(shape, native_dtype(block.dtype), axis, xp.__name__)

    @property
    def namespace(self) -> Namespace:
        """Functions of the blocks' library; loaded here, if the blocks are in another process."""
        # By name, because modules cannot be pickled, and this travels with each state.
        module: Any = import_module(self.library)
        xp: Namespace = module
        return xp

    @property
    def pattern(self) -> tuple[int | str, ...]:
        """The shape of all blocks, with a star for the length that may differ."""
        if self.axis is None:
            return ()
        return (*self.shape[: self.axis], "*", *self.shape[self.axis + 1 :])

    def check(self, block: Array | Like, number: int) -> None:
        """Compare a later block, or what the first block of a later part was like.

        Raises
        ------
        BlockShapeError
            If it has another number of axes, or is of another length along another axis.
        BlockDTypeError
            If it has another dtype (or is of another library).
        """
        shape, dtype = tuple(block.shape), block.dtype
        # The usual block has the shape of the first one, and nothing more is compared.
        if shape != self.shape and self.axis is not None:
            # Without this, a block with too few axes could be taken for one of another length.
            find_axis(shape, self.axis, number)
            other = (*shape[: self.axis], "*", *shape[self.axis + 1 :])
            if other != self.pattern:
                text = ", ".join(map(str, self.pattern))
                raise BlockShapeError(
                    f"block {number} has shape {shape}, expected ({text}) like the blocks before "
                    "it; pad or reshape it",
                    block=number,
                    expected=self.pattern,
                    got=shape,
                )
        # Byte order does not matter: a block that is read back from storage has the native one.
        if dtype != self.dtype and native_dtype(dtype) != self.dtype:
            raise BlockDTypeError(
                f"block {number} has dtype {dtype}, expected {self.dtype} like the blocks before "
                "it; cast it first",
                block=number,
                expected=self.dtype,
                got=dtype,
            )


def find_axis(shape: tuple[int, ...], axis: int, number: int) -> int:
    """Return the number of an axis of a block, counted from the first one.

    Raises
    ------
    BlockShapeError
        If there is no such axis.
    """
    if not -len(shape) <= axis < len(shape):
        raise BlockShapeError(
            f"block {number} has shape {shape}, hence no axis {axis}; reshape it, or choose "
            "another axis",
            block=number,
            expected=f"an axis {axis}",
            got=shape,
        )
    return axis % len(shape)


class AlikeFold(Fold[S, R], Generic[S, R]):
    """Base of a fold whose passes over all blocks, and over parts, are of one class."""

    __slots__ = ()

    @property
    def merges(self) -> bool:
        """Whether workers fold their parts: they do."""
        return True

    @abstractmethod
    def start_at(self, number: int, /) -> AlikePass[S, R]:
        """Start a pass whose first block has a number."""

    def start(self, counts: Counts, /) -> AlikePass[S, R]:  # noqa: ARG002
        """Start a pass over all blocks."""
        return self.start_at(0)

    def start_part(self, part: AnyPart, /) -> AlikePass[S, R]:
        """Start a pass over a part."""
        return self.start_at(part.index[0])


class AlikeState(NamedTuple):
    """State of a part."""

    like: Like | None
    """None, if the part has no block."""
    blocks: int
    value: State


@dataclass(slots=True, eq=False)
class AlikePass(Pass, Generic[S, R]):
    """Base of a pass over all blocks, or over those of a part, that are joined along an axis."""

    axis: int | None
    """The axis that blocks are joined along; it may be negative, as in NumPy."""
    start: int
    """Number of the first block: not 0 in a part, so that messages name the right block."""
    blocks: int = field(default=0, init=False)
    """How many blocks there were."""
    _like: Like | None = field(default=None, init=False)

    @property
    def like(self) -> Like:
        """What the first block was like.

        Raises
        ------
        EmptySequenceError
            If there was no block.
        """
        if self._like is None:
            raise EmptySequenceError("there is no block, hence neither shape nor dtype of a result")
        return self._like

    def check(self, block: object) -> Array:
        """Return the values of the next block, after comparing it with the first one.

        Raises
        ------
        BlockTypeError, BlockShapeError, BlockDTypeError
            If it is not an array, has no such axis, or does not fit the first one.
        """
        xp, values = namespace_and_values(block)
        if self._like is None:
            self._like = Like.of(xp, values, self.axis, self.start)
            self.begin(self._like)
        else:
            self._like.check(values, self.start + self.blocks)
        self.blocks += 1
        return values

    def state(self) -> AlikeState:
        """Return what the coordinator compares and merges."""
        return AlikeState(self._like, self.blocks, None if self._like is None else self.value())

    def absorb(self, state: AlikeState, part: AnyPart, /) -> None:  # noqa: ARG002
        """Take the state of the next part."""
        self.merge_state(state)

    def merge_state(self, state: AlikeState) -> None:
        """Compare the blocks of a part with the first block, and merge their value."""
        like, blocks, value = state
        if like is None:
            return
        if self._like is None:
            self._like = like
            self.begin(like)
        else:
            # A worker has compared the blocks of its part only with the first one of them.
            self._like.check(like, self.start + self.blocks)
        self.merge_value(value)
        self.blocks += blocks

    @abstractmethod
    def finish(self) -> R:
        """Return the result."""

    def begin(self, like: Like) -> None:
        """Prepare for blocks that are like the first one."""

    @abstractmethod
    def value(self) -> State:
        """Return the value of all blocks so far; there is at least one."""

    @abstractmethod
    def merge_value(self, value: State) -> None:
        """Take the value of the next part; ``blocks`` does not count its blocks yet."""
