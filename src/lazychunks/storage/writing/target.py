"""All that a writer of parts must know of a run: a value that is sent once to each process."""

from __future__ import annotations

import fcntl
import math
import operator
import re
from collections import Counter
from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, fields
from functools import cached_property
from itertools import product
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray
from zarr.storage import LocalStore

from lazychunks.errors import (
    BlockIndex,
    BlockShapeError,
    DestinationBusyError,
    ResumeMismatchError,
)
from lazychunks.layout.checks import block_name
from lazychunks.layout.partition import ArrayPlan
from lazychunks.layout.shapes import (
    Region,
    Shape,
    cell_region,
    overlaps,
    region_shape,
)
from lazychunks.storage.chunks.dtypes import checked_array, checked_block
from lazychunks.storage.chunks.files import Reader
from lazychunks.storage.chunks.metadata import APPENDING, KEPT_BACK, open_array
from lazychunks.storage.chunks.units import Units
from lazychunks.storage.keys import Keys
from lazychunks.storage.places.lock import lock_directory
from lazychunks.storage.resuming import spill
from lazychunks.storage.resuming.mismatches import check_same_dtype, check_same_values, mismatch
from lazychunks.storage.resuming.record import DamagedRecordError, Document, unseal, with_shape
from lazychunks.storage.resuming.spill import Pieces

if TYPE_CHECKING:
    from lazychunks.converters import ToNumpy

T = TypeVar("T")

_CHUNK_KEY = re.compile(r"c(/(0|[1-9][0-9]{0,18}))*")


@dataclass(frozen=True)
class Target(Generic[T]):
    """Where the blocks of a run go, and which of them are stored already."""

    where: Keys
    document: Document
    """Metadata of the array."""
    plan: ArrayPlan
    """Where each block lies. The sizes along an axis may be known for the first blocks only."""
    first: Shape
    """Shape of the first block."""
    lengths: tuple[int | None, ...]
    """Length of each block axis, where its end is known."""
    converter: ToNumpy[T]
    dtype: np.dtype[Any]
    """Of all blocks, unless they are cast. What is stored may be of another byte order."""
    casts: bool
    """Whether blocks of any dtype are cast on purpose."""
    name: str
    """The destination, for messages."""
    stored: frozenset[Shape] = frozenset()
    """Units that an earlier start has stored, by their place along the block axes."""
    spilled: Mapping[Shape, Pieces] | None = None
    """Units of which an earlier start has spilled a part. None if this run does not spill."""
    attempt: str | None = None
    """Which unfinished write this is, for writers that may outlive it."""
    rtol: float | None = None
    max_in_flight: int = 1
    """Units that one writer writes at the same time."""
    is_taken_up: bool = False
    """Whether an earlier start has begun it."""
    is_resumable: bool = False
    """Whether another start may go on, so that chunk files must appear whole."""
    writes_behind: bool = False
    """Whether the writer of a part writes in the background, while the next part is computed."""
    lists_sizes: bool = False
    """Whether the user has listed the sizes of all blocks."""
    base: Shape | None = None
    """Shape of the array to which the blocks are appended."""
    syncs: bool = False
    """Whether a power loss must not take the last old rows, whose unit is written again."""

    @cached_property
    def units(self) -> Units:
        """The units of the array, opened once in each process."""
        # A kill must not cut the unit that holds the last old rows.
        atomic = self.is_resumable or self.base is not None
        return Units(self.where, self.document, self.unit, atomic=atomic, syncs=self.syncs)

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what each process opens for itself."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @property
    def block_axes(self) -> int:
        """Number of block axes."""
        return len(self.plan.axes)

    @property
    def unit(self) -> Shape:
        """Extents of a unit along the block axes; the other axes are written whole."""
        return self.plan.unit[: self.block_axes]

    def knows_size(self, axis: int, number: int) -> bool:
        """Whether the size of a block along an axis is listed, or noted."""
        sizes = self.plan.axes[axis].sizes
        return sizes is not None and number < len(sizes)

    def reach(self, axis: int) -> int:
        """Return the length that an axis has at least, going by what earlier starts stored."""
        return max((cell[axis] * self.unit[axis] + 1 for cell in self.stored), default=0)

    def delete_units(self, cells: Iterable[Shape]) -> None:
        """Remove units, stored or spilled."""
        axes = self.block_axes
        beside = [
            range(-(-length // extent))
            for length, extent in zip(self.plan.trailing, self.plan.unit[axes:], strict=True)
        ]
        for cell in cells:
            names = ["/".join(map(str, ("c", *cell, *rest))) for rest in product(*beside)]
            self.where.delete(spill.key_of(cell), *names)

    def to_array(self, block: T, index: Shape) -> NDArray[Any]:
        """Convert and check a block.

        Raises
        ------
        BlockTypeError, BlockDTypeError
            If it is no plain array, or of a dtype that cannot be stored, or not of the first one's.
        ResumeMismatchError
            If its dtype is not that of the blocks that an earlier start has stored.
        """
        array = self.converter.to_numpy(block)
        if type(array) is np.ndarray and array.dtype == self.dtype:  # as nearly all are
            return array
        name = block_name(index)
        if self.casts or not self.is_taken_up:
            expected = None if self.casts else self.dtype
            return checked_block(array, block=name, dtype=expected, cast=self.casts)
        array = checked_array(array, block=name)
        check_same_dtype(self.dtype, array.dtype)
        return array

    def region(self, index: Shape, is_last: tuple[bool, bool]) -> Region | None:
        """Return where a block lies, or None if only the block itself can tell.

        Raises
        ------
        ResumeMismatchError
            If it cannot be the last one, since the array is known to end elsewhere.
        """
        spans: list[slice] = []
        for axis, (number, last) in enumerate(zip(index, is_last, strict=False)):
            partition, length = self.plan.axes[axis], self.lengths[axis]
            if partition.sizes is not None:
                if number >= len(partition.sizes):
                    return None
                size: int | None = partition.sizes[number]
            else:
                size = partition.size
                if last:
                    size = None if length is None else length - partition.start_of(number)
            if size is None:
                return None
            start = partition.start_of(number)
            if length is not None and not (size >= 0 and start + size <= length):
                raise self.refuse_length(axis, length, start + size)
            spans.append(slice(start, start + size))
        return (*spans, *(slice(0, length) for length in self.plan.trailing))

    def has(self, index: Shape, is_last: tuple[bool, bool]) -> bool:
        """Whether a block is stored or spilled, so that it need not be computed."""
        if not (self.stored or self.spilled):
            return False
        region = self.region(index, is_last)
        if region is None or not all(span.start < span.stop for span in region):
            return False  # nothing is stored of a block without elements
        number = math.prod(
            -(-span.stop // size) - span.start // size
            for span, size in zip(region, self.unit, strict=False)
        )
        if number > len(self.stored) + len(self.spilled or ()):
            return False  # a hostile record may claim more units than could ever be looked at
        return all(
            cell in self.stored
            or spill.piece_of(within) in (self.spilled or {}).get(cell, frozenset())
            for cell, within, _ in self.pieces(region)
        )

    def pieces(self, region: Region) -> Iterable[tuple[Shape, Region, Region]]:
        """Cut a region at the units: of each its place, and what they share, seen from both."""
        spans = [
            overlaps(span.start, span.stop - span.start, size)
            for span, size in zip(region, self.unit, strict=False)
        ]
        for meeting in product(*spans):
            yield (
                tuple(overlap.cell for overlap in meeting),
                tuple(overlap.in_cell for overlap in meeting),
                tuple(overlap.in_span for overlap in meeting),
            )

    def read(self, index: Shape, is_last: tuple[bool, bool]) -> NDArray[Any]:
        """Read a block that is stored.

        Raises
        ------
        ResumeMismatchError
            If it is damaged, as each start would find again.
        """
        region = self.region(index, is_last)
        assert region is not None
        try:
            return self._read(region)
        except OSError:
            raise
        except Exception as error:
            raise ResumeMismatchError(
                f"block {block_name(index)} of the unfinished write cannot be read "
                f"({type(error).__name__}: {error}); pass overwrite=True without resume to start "
                "anew",
                field="value",
            ) from error

    def read_block(self, index: Shape, is_last: tuple[bool, bool]) -> T:
        """Read a block that is stored, and convert it back; raises as :meth:`read`."""
        from_numpy: Any = self.converter
        block: T = from_numpy.from_numpy(self.read(index, is_last))
        return block

    def compare(self, index: Shape, is_last: tuple[bool, bool], block: T) -> None:
        """Compare a block that is stored with the same block, computed again.

        Raises
        ------
        ResumeMismatchError
            If they differ.
        """
        again = self.to_array(block, index)
        check_same_values(self.read(index, is_last), again, block_name(index), self.rtol)

    def load_base(self, cell: Shape, buffer: NDArray[Any]) -> int:
        """Copy what a unit holds of the array to which blocks are appended.

        Returns
        -------
        int
            Number of elements along the block axes that belong to the unit and need no block.
        """
        if self.base is None or (cell[0] + 1) * self.unit[0] <= self.base[0]:
            return 0
        region = cell_region(cell, self.unit, self.base[: self.block_axes])
        shape = region_shape(region)
        if not all(length > 0 for length in shape):
            return 0
        rest = tuple(slice(0, length) for length in self.plan.trailing)
        array = open_array(self.where, with_shape(self.document, self.base))
        buffer[tuple(map(slice, shape))] = Reader.of(array)((*region, *rest))
        return math.prod(shape)

    def refuse_length(self, axis: int, expected: object, length: int) -> Exception:
        """Return the error for blocks that end elsewhere than the array is known to end."""
        if self.base is None or axis == 0:
            return mismatch(f"the length of axis {axis}", "length", expected, length)
        return BlockShapeError(
            f"a row of blocks has width {length}, expected {expected} as the array at {self.name} "
            "has; append rows of that width, or store these elsewhere",
            expected=expected,
            got=length,
        )

    @contextmanager
    def hold_attempt(self) -> Generator[None]:
        """Refuse to write where this run is not, or is not any more; nor is it removed meanwhile.

        Only a local directory is kept from being removed in the ``with`` block.

        Raises
        ------
        DestinationBusyError
            If another run has taken the place, or it is not seen from here.
        """
        if self.attempt is None:  # of a writer that its run waits for
            yield
            return
        store = self.where.store
        local = store.root if type(store) is LocalStore else None
        with nullcontext() if local is None else lock_directory(local, fcntl.LOCK_SH):
            self._check_attempt()
            yield

    def _check_attempt(self) -> None:
        try:
            note = KEPT_BACK if self.base is None else APPENDING
            noted = unseal(self.where.read(note) or b"")[1].attempt
        except DamagedRecordError:
            noted = None
        if noted != self.attempt:
            raise DestinationBusyError(
                f"a worker does not find this run's unfinished write at {self.name}: it has been "
                "given up or replaced, or the worker does not see the files of the process that "
                "gave it the task; use a store that all of them see",
                path=self.name,
            )

    def _read(self, region: Region) -> NDArray[Any]:
        if not self.spilled:
            return self.units.read(region)
        values = np.empty(region_shape(region), self.units.dtype)
        for cell, within, in_region in self.pieces(region):
            values[in_region] = self._read_piece(cell, within, region[self.block_axes :])
        return values

    def _read_piece(self, cell: Shape, within: Region, rest: Region) -> NDArray[Any]:
        """Read a piece of a unit that is stored or spilled."""
        if cell not in self.stored:
            buffer = np.empty((*self.unit, *self.plan.trailing), self.units.dtype)
            if spill.piece_of(within) in spill.load(self.where, cell, buffer):
                return buffer[within]
            # This start has completed the unit meanwhile, and stored it before the spill went.
        starts = map(operator.mul, cell, self.unit)
        place = tuple(
            slice(start + span.start, start + span.stop)
            for start, span in zip(starts, within, strict=True)
        )
        return self.units.read((*place, *rest))


@dataclass(frozen=True, slots=True)
class FirstBlock(Generic[T]):
    """Tells the shape and the dtype of the first block: the probe of a sink."""

    converter: ToNumpy[T]
    casts: bool
    name: BlockIndex

    def convert(self, block: T) -> NDArray[Any]:
        """Convert and check the block."""
        array = self.converter.to_numpy(block)
        return checked_block(array, block=self.name, dtype=None, cast=self.casts)

    def __call__(self, block: T, /) -> tuple[Shape, np.dtype[Any]]:
        """Return the shape and the dtype of the block."""
        array = self.convert(block)
        return array.shape, array.dtype


def list_stored_units(keys: Iterable[str], plan: ArrayPlan) -> frozenset[Shape]:
    """Tell which units are stored, by their place along the block axes, of all names of keys.

    Along the other axes, all units side by side must be there. A name that only looks like that of
    a chunk (``c/03/0``) is none.
    """
    axes = len(plan.axes)
    beside = tuple(
        -(-length // extent) for length, extent in zip(plan.trailing, plan.unit[axes:], strict=True)
    )
    counts = Counter(
        cell[:axes]
        for cell in map(parse_chunk_key, keys)
        if len(cell) == len(plan.unit) and all(map(operator.lt, cell[axes:], beside))
    )
    return frozenset(cell for cell, count in counts.items() if count == math.prod(beside))


def count_chunks(keys: Iterable[str], shape: Shape, unit: Shape) -> int:
    """Count the keys of an array's chunks (shards, where there are shards), and no other keys.

    >>> count_chunks(["c/0/0", "c/1/0", "c/0", "c/00/0", "zarr.json"], (4, 3), (4, 3))
    1
    """
    grid = tuple(-(-length // extent) for length, extent in zip(shape, unit, strict=True))
    return sum(
        len(cell) == len(grid) and all(map(operator.lt, cell, grid))
        for cell in map(parse_chunk_key, keys)
    )


def parse_chunk_key(key: str) -> Shape:
    """Return the place of a chunk from its key; an empty place if it is none.

    >>> parse_chunk_key("c/3/0"), parse_chunk_key("c/03/0"), parse_chunk_key("zarr.json")
    ((3, 0), (), ())
    """
    return tuple(map(int, key.split("/")[1:])) if _CHUNK_KEY.fullmatch(key) else ()
