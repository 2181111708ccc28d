"""What runs elsewhere: a worker computes the blocks of an assignment and writes their chunks.

What all assignments of a run share is sent as a :class:`Shipped` value: pickled once, and unpickled
once in each process.
"""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from lazychunks.errors import BlockIndex, DestinationBusyError
from lazychunks.shapes import Region, Shape, check_even_block, region_at
from lazychunks.storage.arrays import Document, StagedArray, read_key
from lazychunks.storage.assembly import Filled
from lazychunks.storage.dtypes import checked_block
from lazychunks.storage.resuming import JOURNAL, check_same_dtype, check_same_values, stored_values

if TYPE_CHECKING:
    from zarr.abc.store import Store

    from lazychunks.converters import ToNumpy

__all__ = [
    "Assignment",
    "Maker",
    "Receipt",
    "Sent",
    "Shared",
    "Shipped",
    "Site",
    "block_name",
    "compare",
    "mark_key",
    "probe",
    "store",
]

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

Arguments: TypeAlias = tuple[Any, ...]
"""Of one call of the block function."""


class Sent(Protocol[T_co]):
    """A value that a task gets."""

    def value(self) -> T_co:
        """Return it."""
        ...


@dataclass(frozen=True, slots=True)
class Shared(Generic[T]):
    """A value in the memory that coordinator and workers share."""

    shared: T

    def value(self) -> T:
        """Return it."""
        return self.shared


@dataclass(frozen=True, slots=True)
class Shipped(Generic[T]):
    """A value that is pickled once, and unpickled once in each process."""

    data: bytes

    def value(self) -> T:
        """Return this process's copy."""
        loaded: T = _loaded(self.data)
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

    store: Store
    path: str
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
        return StagedArray(self.store, self.path, {**self.document, "shape": shape}, resumable=True)

    def check(self) -> None:
        """Refuse to write where this run is not, or is not any more."""
        if self.mark is None:
            return
        found = read_key(self.store, mark_key(self.path))
        if found is None or found.decode() != self.mark:
            raise DestinationBusyError(
                f"a worker does not find this run's unfinished write at {self.place}: it has been "
                "given up or replaced, or the worker does not see the files of the process that "
                "gave it the task; use a store that all of them see",
                path=self.place,
            )


def mark_key(path: str) -> str:
    """Key of the mark of a run."""
    return f"{path}/{JOURNAL}/run" if path else f"{JOURNAL}/run"


@dataclass(frozen=True, slots=True)
class Assignment:
    """Blocks that together fall on whole units of the array."""

    index: Shape
    """Place of the first block along each block axis."""
    origin: Shape
    """Where the first block begins."""
    sizes: tuple[tuple[int | None, ...], ...]
    """Sizes of the blocks along each block axis; ``None`` for a last one that is not known yet."""
    arguments: tuple[Arguments, ...]
    """Of the calls that compute the blocks, row by row."""

    @property
    def count(self) -> int:
        """Number of blocks."""
        return len(self.arguments)


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
    block = maker.value().block(arguments, block_name((0,) * axes))
    return block.shape, block.dtype


def store(maker: Sent[Maker[Any]], site: Sent[Site], assignment: Assignment) -> Receipt:
    """Compute the blocks of an assignment, and write their units."""
    here = site.value()
    sizes = [list(each) for each in assignment.sizes]
    values = _values(maker.value(), here, assignment, sizes)
    last = tuple(each[-1] or 0 for each in sizes)
    for known, size, first in zip(assignment.sizes, last, here.first, strict=False):
        if known[-1] is None and size != first:
            return Receipt(last, written=False)
    extents = tuple(sum(size or 0 for size in each) for each in sizes)
    region = region_at(assignment.origin, (*extents, *here.first[len(sizes) :]))
    if math.prod(extents):
        staged = here.staged(region)
        if not staged.lets_go and assignment.count == 1:
            values = values.copy()
        here.check()
        staged.write(Filled(region, values))
    return Receipt(last, written=True)


def compare(
    maker: Sent[Maker[Any]], site: Sent[Site], assignment: Assignment, rtol: float | None
) -> None:
    """Compute one block that is stored already, and compare.

    Raises
    ------
    ResumeMismatchError
        If it has another dtype, or other values.
    """
    here = site.value()
    block = maker.value().block(assignment.arguments[0], block_name(assignment.index))
    sizes = [size for (size,) in assignment.sizes]
    check_even_block(block.shape, here.first, sizes, block=block_name(assignment.index))
    region = region_at(assignment.origin, block.shape)
    staged = here.staged(region)
    if not maker.value().cast:
        check_same_dtype(here.dtype, block.dtype)
    index = block_name(assignment.index)
    stored = stored_values(staged.array, region, index)
    check_same_values(stored, block, index, rtol)


def _values(
    maker: Maker[Any], site: Site, assignment: Assignment, sizes: list[list[int | None]]
) -> NDArray[Any]:
    """Compute the blocks side by side, and fill in the sizes that were not known."""
    axes = len(sizes)
    whole: NDArray[Any] | None = None
    places = product(*(range(len(each)) for each in sizes))
    for place, arguments in zip(places, assignment.arguments, strict=True):
        index = block_name([first + at for first, at in zip(assignment.index, place, strict=True)])
        block = maker.block(arguments, index)
        known = [each[at] for each, at in zip(sizes, place, strict=True)]
        check_even_block(block.shape, site.first, known, block=index)
        if not maker.cast and not _same(block.dtype, site.dtype):
            checked_block(block, block=index, dtype=site.dtype, cast=False)
        for each, at, size in zip(sizes, place, block.shape, strict=False):
            each[at] = size
        if assignment.count == 1:
            return block.astype(site.dtype, copy=False)
        if whole is None:
            most = [len(each) * size for each, size in zip(sizes, site.first, strict=False)]
            whole = np.empty((*most, *site.first[axes:]), site.dtype)
        origin = [at * size for at, size in zip(place, site.first, strict=False)]
        whole[region_at(origin, block.shape)] = block
    assert whole is not None
    return whole


def _same(one: np.dtype[Any], other: np.dtype[Any]) -> bool:
    return one.newbyteorder("=") == other.newbyteorder("=")


def block_name(index: Sequence[int]) -> BlockIndex:
    """Place of a block as messages give it."""
    return index[0] if len(index) == 1 else (index[0], index[1])
