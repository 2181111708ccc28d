"""What runs elsewhere: a worker computes the blocks of an assignment and writes their chunks.

What all assignments of a run share is sent as a :class:`Shipped` value: pickled once, and unpickled
once in each process.
"""

from __future__ import annotations

import math
import operator
import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from lazychunks.errors import BlockIndex, DestinationBusyError
from lazychunks.layout.shapes import Region, Shape, block_name, check_block, region_at, region_shape
from lazychunks.storage.chunks.dtypes import checked_block
from lazychunks.storage.chunks.filled import Filled
from lazychunks.storage.chunks.metadata import Document, StagedArray
from lazychunks.storage.keys import Keys
from lazychunks.storage.resuming import JOURNAL, check_same_dtype, check_same_values, stored_values

if TYPE_CHECKING:
    from lazychunks.converters import ToNumpy

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

MARK = f"{JOURNAL}/run"
"""Where the mark of a run is, beside the chunks."""

Arguments: TypeAlias = tuple[Any, ...]
"""Of one call of the block function."""


@dataclass(frozen=True, slots=True)
class Shipped(Generic[T_co]):
    """A value that is pickled once, and unpickled once in each process."""

    data: bytes


Sent: TypeAlias = T | Shipped[T]
"""A value that every task gets: itself, where coordinator and workers share memory."""


def _received(sent: Sent[T]) -> T:
    """Return this process's copy of a value."""
    if not isinstance(sent, Shipped):
        return sent
    loaded: T = _loaded(sent.data)
    return loaded


@lru_cache(maxsize=4)  # that of this run, and of one that has just ended
def _loaded(data: bytes) -> Any:
    return pickle.loads(data)  # noqa: S301  # made by the process that sends the tasks


@dataclass(frozen=True, slots=True)
class Maker(Generic[T]):
    """Makes the blocks of a sequence."""

    fn: Callable[..., T]
    """Computes a block from its items."""
    converter: ToNumpy[T]
    cast: bool
    """Whether blocks are cast on purpose, so that their dtypes may differ."""

    def block(self, arguments: Arguments, index: BlockIndex) -> NDArray[Any]:
        """Compute, convert and check one block."""
        array = self.converter.to_numpy(self.fn(*arguments))
        return checked_block(array, block=index, dtype=None, cast=self.cast)


@dataclass(frozen=True, slots=True)
class Site:
    """Where the workers of one run write."""

    where: Keys
    document: Document
    dtype: np.dtype[Any]
    first: Shape
    """Shape of the first block."""
    mark: str | None
    """What tells this run's unfinished write from any other; none where memory is shared."""
    place: str
    """The destination, for messages."""

    def staged(self, region: Region) -> StagedArray:
        """Return the array, just large enough to hold a region."""
        shape = [span.stop for span in region]
        return StagedArray(self.where, {**self.document, "shape": shape}, resumable=True)

    def check(self) -> None:
        """Refuse to write where this run is not, or is not any more."""
        if self.mark is None:
            return
        if self.where.read(MARK) != self.mark.encode():
            raise DestinationBusyError(
                f"a worker does not find this run's unfinished write at {self.place}: it has been "
                "given up or replaced, or the worker does not see the files of the process that "
                "gave it the task; use a store that all of them see",
                path=self.place,
            )


@dataclass(frozen=True, slots=True)
class Assignment:
    """Blocks that together fall on whole units of the array."""

    index: Shape
    """Place of the first block along each block axis."""
    numbers: Shape
    """Number of blocks along each block axis."""
    last: tuple[int | None, ...]
    """Size of the last of them along each block axis, if known; others have the first one's."""
    arguments: tuple[Arguments, ...]
    """Of the calls that compute the blocks, row by row."""

    def region(self, first: Shape, last: Sequence[int | None]) -> Region:
        """Where the blocks lie, at most, if the last of them have these sizes."""
        return (
            *(
                slice(start * size, (start + number - 1) * size + (size if end is None else end))
                for start, number, size, end in zip(
                    self.index, self.numbers, first, last, strict=False
                )
            ),
            *(slice(0, length) for length in first[len(last) :]),
        )


@dataclass(frozen=True, slots=True)
class Receipt:
    """What a worker hands back."""

    last: Shape
    """Sizes of the last block, along each block axis."""
    written: bool
    """False if the last block is smaller than the first, which had not been known: that must be
    noted before it is written."""


def probe(maker: Sent[Maker[Any]], arguments: Arguments, axes: int) -> tuple[Shape, np.dtype[Any]]:
    """Compute the first block, and tell its shape and dtype."""
    block = _received(maker).block(arguments, block_name((0,) * axes))
    return block.shape, block.dtype


def store(maker: Sent[Maker[Any]], site: Sent[Site], assignment: Assignment) -> Receipt:
    """Compute the blocks of an assignment, and write their units."""
    here = _received(site)
    values, last = _values(_received(maker), here, assignment)
    for known, size, first in zip(assignment.last, last, here.first, strict=False):
        if known is None and size != first:
            return Receipt(last, written=False)
    region = assignment.region(here.first, last)
    if math.prod(region_shape(region)):
        staged = here.staged(region)
        if not staged.lets_go and len(assignment.arguments) == 1:
            values = values.copy()
        here.check()
        staged.write(Filled(region, values))
    return Receipt(last, written=True)


def compare(
    maker: Sent[Maker[Any]], site: Sent[Site], assignment: Assignment, rtol: float | None
) -> None:
    """Compute the first block of an assignment that is stored already, and compare.

    Raises
    ------
    ResumeMismatchError
        If it has another dtype, or other values.
    """
    here, made = _received(site), _received(maker)
    index = block_name(assignment.index)
    block = made.block(assignment.arguments[0], index)
    sizes = _sizes(assignment, (0,) * len(assignment.index), here.first, assignment.last)
    check_block(block.shape, here.first, sizes, block=index, is_even=True)
    if not made.cast:
        check_same_dtype(here.dtype, block.dtype)
    region = region_at(tuple(map(operator.mul, assignment.index, here.first)), block.shape)
    stored = stored_values(here.staged(region).array, region, index)
    check_same_values(stored, block, index, rtol)


def _values(maker: Maker[Any], site: Site, assignment: Assignment) -> tuple[NDArray[Any], Shape]:
    """Compute the blocks side by side, and tell the sizes of the last ones."""
    last = list(assignment.last)
    whole: NDArray[Any] | None = None
    places = product(*map(range, assignment.numbers))
    for place, arguments in zip(places, assignment.arguments, strict=True):
        index = block_name(tuple(map(operator.add, assignment.index, place)))
        block = maker.block(arguments, index)
        sizes = _sizes(assignment, place, site.first, last)
        check_block(block.shape, site.first, sizes, block=index, is_even=True)
        if not maker.cast and not _same(block.dtype, site.dtype):
            checked_block(block, block=index, dtype=site.dtype, cast=False)
        if len(assignment.arguments) == 1:
            return block.astype(site.dtype, copy=False), block.shape[: len(last)]
        for axis, at in enumerate(place):
            if at == assignment.numbers[axis] - 1:
                last[axis] = block.shape[axis]
        if whole is None:
            most = map(operator.mul, assignment.numbers, site.first)
            whole = np.empty((*most, *site.first[len(last) :]), site.dtype)
        whole[region_at(tuple(map(operator.mul, place, site.first)), block.shape)] = block
    assert whole is not None
    return whole, tuple(size or 0 for size in last)


def _sizes(
    assignment: Assignment, place: Shape, first: Shape, last: Sequence[int | None]
) -> list[int | None]:
    """Sizes of the block at a place within an assignment, where they are known."""
    return [
        end if at == number - 1 else size
        for at, number, size, end in zip(place, assignment.numbers, first, last, strict=False)
    ]


def _same(one: np.dtype[Any], other: np.dtype[Any]) -> bool:
    return one.newbyteorder("=") == other.newbyteorder("=")
