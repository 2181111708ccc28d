"""What an unfinished write holds: is it of this run, and which blocks are done.

A block is done when every chunk (shard, where there are shards) that it touches is stored. Stores
write a key whole or not at all, and only whole units are written, so the keys alone tell; they are
listed once. Where a block lies is known without computing it as long as all blocks have the first
one's size; from the first other size on, sizes are kept in a journal beside the chunks.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from itertools import count, groupby, product, repeat, takewhile
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lazychunks.errors import BlockIndex, ResumeMismatchError
from lazychunks.layout.shapes import Region, Shape, cell_count
from lazychunks.storage.chunks.files import Reader
from lazychunks.storage.chunks.metadata import Document
from lazychunks.storage.keys import Keys
from lazychunks.storage.options import RESERVED

if TYPE_CHECKING:
    from lazychunks.layout.plan import WritePlan
    from lazychunks.storage.chunks.metadata import StoredArray

JOURNAL = "lazychunks.sizes"
BATCH = 8
"""Number of irregular sizes noted before they are written down."""


class DoneUnits:
    """Which units of an array are stored.

    Parameters
    ----------
    keys
        Keys relative to the array.
    plan
        Its plan.
    """

    def __init__(self, keys: Iterable[str], plan: WritePlan) -> None:
        self._unit = plan.unit
        axes = plan.block_axes
        whole = (plan.shards or plan.chunks)[axes:]
        expected = cell_count(plan.trailing, whole)
        counts = Counter(
            tuple(map(int, parts[1 : axes + 1]))
            for parts in (key.split("/") for key in keys)
            if parts[0] == "c" and all(part.isdecimal() for part in parts[1:])
        )
        self.cells: frozenset[Shape] = frozenset(
            cell for cell, count in counts.items() if count == expected
        )
        self._begun = frozenset(counts)

    def reach(self, axis: int) -> int:
        """Length along an axis that the array has at least."""
        return max((cell[axis] * self._unit[axis] + 1 for cell in self._begun), default=0)

    def cover(self, region: Region) -> bool:
        """Whether a block that has elements lies on stored units only."""
        touched = [
            range(span.start // size, -(-span.stop // size))
            for span, size in zip(region, self._unit, strict=False)
        ]
        return (
            all(span.start < span.stop for span in region)
            and math.prod(map(len, touched)) <= len(self.cells)
            and all(cell in self.cells for cell in product(*touched))
        )


class Journal:
    """Sizes of the blocks along one block axis, as far as they are known without computing.

    Parameters
    ----------
    where
        Where the array is.
    axis
        The block axis.
    first
        Size of the first block.
    keys
        Keys there, relative to the array: those of an earlier journal are read.
    regular
        Whether the record tells of no other size than the first one's, as a journal does.
    """

    def __init__(
        self, where: Keys, axis: int, first: int, keys: Iterable[str], *, regular: bool
    ) -> None:
        self._where = where
        self._axis = axis
        self._first = first
        segments = segments_of(axis, keys)
        self._segments = len(segments)
        self.is_regular: bool = regular and not segments
        self._sizes = list(noted_sizes(where.read, segments))  # of all blocks, if irregular
        self._stored = len(self._sizes)

    def size(self, number: int) -> int | None:
        """Size of a block, where it is known."""
        if self.is_regular:
            return self._first
        return self._sizes[number] if number < len(self._sizes) else None

    def note(self, number: int, size: int) -> None:
        """Learn the size of the next block, before anything of it is written.

        Raises
        ------
        ResumeMismatchError
            If the journal knows another size.
        """
        if self.is_regular:
            if size != self._first:
                self.is_regular = False
                self._sizes = [*[self._first] * number, size]
                self._flush()
        elif number >= len(self._sizes):  # only workers leave blocks out: those are of one size
            self._sizes += [*[self._first] * (number - len(self._sizes)), size]
            if len(self._sizes) - self._stored >= BATCH:
                self._flush()
        elif self._sizes[number] != size:
            what = f"the size of block {number} along axis {self._axis}"
            raise mismatch(what, "size", self._sizes[number], size)

    def _flush(self) -> None:
        packed = [[size, sum(1 for _ in run)] for size, run in groupby(self._sizes[self._stored :])]
        name = f"{JOURNAL}/{self._axis}/{self._segments:08d}"
        self._where.write(name, json.dumps(packed).encode())
        self._segments += 1
        self._stored = len(self._sizes)


def mismatch(
    what: str,
    field: str,
    was: object,
    now: object,
    way_out: str = "blocks must be the same each time",
) -> ResumeMismatchError:
    """Refuse to go on, since something is not as it was."""
    return ResumeMismatchError(
        f"{what} is {now}, was {was} in the unfinished write; {way_out}, or pass overwrite=True "
        "without resume to start anew",
        field=field,
        expected=was,
        got=now,
    )


def check_same_run(run_id: str | None, record: Document, place: str) -> None:
    """Refuse an unfinished write of another run.

    Raises
    ------
    ResumeMismatchError
        If the run_id differs.
    """
    if record.get("run_id") != run_id:
        way_out = "pass that run_id to go on with it"
        raise mismatch(f"at {place}, run_id", "run_id", record.get("run_id"), run_id, way_out)


def check_same_plan(stored: Document, planned: Document, place: str) -> None:
    """Refuse to go on with an array of another layout.

    Raises
    ------
    ResumeMismatchError
        If any metadata but the shape along the block axes differs.
    """
    for name in sorted({*stored, *planned} - {"shape"}):
        was, now = stored.get(name), planned.get(name)
        if name == "attributes":
            was, now = _own(was), _own(now)
        if was != now:
            raise mismatch(f"at {place}, {name}", name, was, now, "pass the same options")


def check_same_dtype(stored: np.dtype[Any], dtype: np.dtype[Any]) -> None:
    """Refuse to go on with blocks of another dtype; byte order does not count.

    Raises
    ------
    ResumeMismatchError
        If it differs.
    """
    if dtype.newbyteorder("=") != stored.newbyteorder("="):
        way_out = "blocks and dtype= must be the same each time"
        raise mismatch("dtype", "dtype", stored, dtype, way_out)


def stored_values(array: StoredArray, region: Region, index: BlockIndex) -> NDArray[Any]:
    """Read a block of an unfinished write.

    Raises
    ------
    ResumeMismatchError
        If it is damaged, as each start would find again.
    """
    try:
        return Reader.of(array)(region)
    except OSError:
        raise
    except Exception as error:
        raise ResumeMismatchError(
            f"block {index} of the unfinished write cannot be read ({type(error).__name__}: "
            f"{error}); pass overwrite=True without resume to start anew",
            field="value",
        ) from error


def check_same_values(
    stored: NDArray[Any], block: NDArray[Any], index: BlockIndex, rtol: float | None
) -> None:
    """Compare a stored block with the same block, computed again.

    Raises
    ------
    ResumeMismatchError
        If they differ: in shape, bitwise, or beyond ``rtol``.
    """
    if block.shape != stored.shape:
        raise mismatch(f"the shape of block {index}", "shape", stored.shape, block.shape)
    again = block.astype(stored.dtype)
    if rtol is None:
        same = stored.tobytes() == again.tobytes()
    else:
        # Apart, since NumPy 1.26 takes a complex infinity for NaN when both are compared at once.
        usual = np.isfinite(again) & np.isfinite(stored)
        near = np.allclose(again[usual], stored[usual], rtol=rtol, atol=0.0)
        same = near and np.array_equal(again[~usual], stored[~usual], equal_nan=True)
    if not same:
        raise ResumeMismatchError(
            f"block {index} has other values than when the unfinished write was begun; pass rtol= "
            "if it is computed with noise, or overwrite=True without resume to start anew",
            field="value",
            expected=stored,
            got=block,
        )


def _own(attributes: Document | None) -> Document:
    return {key: value for key, value in (attributes or {}).items() if key != RESERVED}


def segments_of(axis: int, keys: Iterable[str]) -> list[str]:
    """Keys of a journal, in order, up to the first that has been lost."""
    there = frozenset(key for key in keys if key.startswith(f"{JOURNAL}/{axis}/"))
    names = (f"{JOURNAL}/{axis}/{number:08d}" for number in count())
    return list(takewhile(there.__contains__, names))


def noted_sizes(read: Callable[[str], bytes | None], segments: Iterable[str]) -> Iterator[int]:
    """Sizes that a journal holds, one after the other."""
    for key in segments:
        for size, number in json.loads(read(key) or b"[]"):
            yield from repeat(size, number)
