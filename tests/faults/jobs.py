"""What the fault tests store: map-backed sequences whose every computation can be watched."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import zarr
import zarr.errors
from numpy.typing import NDArray
from typing_extensions import Unpack
from zarr.abc.store import Store
from zarr.core.buffer import Buffer
from zarr.storage import MemoryStore, StorePath, ZipStore

from lazychunks import (
    IdentityConverter,
    LazyChunkSequence,
    NestedLazyChunkSequence,
    ZarrOptions,
    concatenate,
    nested_concatenate,
    tee,
    zarr_sink,
)

__all__ = [
    "FLAT",
    "JOBS",
    "NESTED",
    "RAGGED",
    "ZARR",
    "Job",
    "keep_quiet",
    "names_in",
    "old_array",
    "seen_at",
]

Array = NDArray[Any]
Span = tuple[int, int]

ZARR: Any = zarr
"""zarr, whose signatures name a type of a package that is not there."""


def keep_quiet(*_: int) -> None:
    """Watch a block being computed, and do nothing."""


@dataclass(frozen=True)
class Job:
    """A sequence that can be resumed, and what it stores."""

    name: str
    heights: tuple[int, ...]
    widths: tuple[int, ...] | None = None
    """Widths of the blocks of a nested sequence; none for a flat one."""
    seed: int = 1
    tail: int = 6
    """Length of the last axis of a flat sequence."""

    @property
    def whole(self) -> Array:
        """What is stored in the end."""
        shape = (sum(self.heights), sum(self.widths or (self.tail,)))
        return np.random.default_rng(self.seed).integers(0, 2**62, shape)

    @property
    def count(self) -> int:
        """Number of blocks."""
        return len(self.heights) * len(self.widths or (0,))

    def blocks(self) -> Iterator[Array]:
        """All blocks, row by row."""
        whole = self.whole
        for start, stop in _spans(self.heights):
            if self.widths is None:
                yield whole[start:stop]
            else:
                yield from (whole[start:stop, left:right] for left, right in _spans(self.widths))

    def sequence(
        self, watch: Callable[..., None] = keep_quiet
    ) -> LazyChunkSequence[Array] | NestedLazyChunkSequence[Array]:
        """Return the sequence; ``watch`` is called with the start of each block to be computed."""
        whole = self.whole
        if self.widths is None:
            return LazyChunkSequence.from_map(
                partial(_flat_block, whole, watch), list(_spans(self.heights))
            )
        return NestedLazyChunkSequence.from_product(
            partial(_grid_block, whole, watch),
            list(_spans(self.heights)),
            list(_spans(self.widths)),
        )

    def store(
        self,
        destination: Any,
        watch: Callable[..., None] = keep_quiet,
        *,
        overwrite: bool = False,
        in_tee: bool = False,
        executor: Any = None,
        **options: Unpack[ZarrOptions],
    ) -> None:
        """Store the sequence, a chunk for each block of the first one's size.

        In a tee, another fold goes through the blocks as well.
        """
        settings: ZarrOptions = {"chunks": "blocks", **options}
        sequence, converter = self.sequence(watch), IdentityConverter()
        if not in_tee:
            sequence.to_zarr(
                destination, converter, overwrite=overwrite, executor=executor, **settings
            )
            return
        sink = zarr_sink(destination, converter, overwrite=overwrite, **settings)
        if isinstance(sequence, NestedLazyChunkSequence):
            _, whole = sequence.compute(tee(sink, nested_concatenate()), executor=executor)
        else:
            _, whole = sequence.compute(tee(sink, concatenate()), executor=executor)
        assert same(whole, self.whole)


FLAT = Job("flat", (4, 4, 4, 4, 2))
RAGGED = Job("ragged", (4, 4, 3, 1, 0, 5, 2))
NESTED = Job("nested", (3, 3, 2), (4, 4, 3))
JOBS = (FLAT, RAGGED, NESTED)


def old_array(destination: Any, seed: int = 0) -> Array:
    """Put an array at a destination that shares chunk keys with the new one."""
    old = np.random.default_rng(seed).integers(0, 2**62, (10, 9))
    ZARR.create_array(store=destination, data=old, chunks=(4, 4), overwrite=True)
    return old


def seen_at(destination: str | Store | StorePath | dict[str, Buffer]) -> Array | None:
    """Return what any other program sees: nothing, or the whole array."""
    place: Any = MemoryStore(destination) if isinstance(destination, dict) else destination
    try:
        mode: Literal["r", "r+"] = "r+" if isinstance(place, ZipStore) else "r"  # it knows no other
        array = ZARR.open_array(store=place, mode=mode)
    except (FileNotFoundError, zarr.errors.ArrayNotFoundError):
        return None
    return np.asarray(array[...])


def same(seen: Array | None, expected: Array | None) -> bool:
    """Whether both are nothing, or the same array bit for bit."""
    if seen is None or expected is None:
        return seen is expected
    return (seen.shape, seen.dtype, seen.tobytes()) == (
        expected.shape,
        expected.dtype,
        expected.tobytes(),
    )


def names_in(directory: Path) -> list[str]:
    """Names of all that is in a directory."""
    return sorted(path.name for path in directory.iterdir())


def _spans(sizes: tuple[int, ...]) -> Iterator[Span]:
    return pairwise(accumulate(sizes, initial=0))


def _flat_block(whole: Array, watch: Callable[..., None], span: Span) -> Array:
    watch(span[0])
    return whole[slice(*span)]


def _grid_block(whole: Array, watch: Callable[..., None], rows: Span, columns: Span) -> Array:
    watch(rows[0], columns[0])
    return whole[slice(*rows), slice(*columns)]
