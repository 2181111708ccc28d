"""Blocks that are mappings, and the group that they make."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.storage import StorePath

from lazychunks import LazyChunkSequence, NestedLazyChunkSequence
from lazychunks.storage.places.place import resolve_destination

Array = NDArray[Any]
Mappings = LazyChunkSequence[dict[str, Array]] | NestedLazyChunkSequence[dict[str, Array]]

ZARR: Any = zarr
"""zarr, whose signatures name a type of a package that is not there."""


def keep_quiet(*_: int) -> None:
    """Watch a block being computed, and do nothing."""


@dataclass(frozen=True)
class GroupJob:
    """A sequence of mappings, with arrays of several heights, widths and dtypes."""

    rows: int
    columns: int | None = None
    """Number of columns of a nested sequence; none for a flat one."""
    seed: int = 0

    def block(self, watch: Callable[..., None], row: int, column: int = 0) -> dict[str, Array]:
        """Compute a block."""
        watch(row, column)
        rng = np.random.default_rng((self.seed, row, column))
        is_last = row == self.rows - 1
        height = 2 if is_last else 3
        return {
            "wide": rng.random((height, 4), dtype=np.float32),
            "tall": rng.integers(0, 2**62, (2 * height, 2, 3)),
            "one": rng.integers(0, 255, (1, 1), dtype=np.uint8),
        }

    def sequence(self, watch: Callable[..., None] = keep_quiet) -> Mappings:
        """Return the sequence."""
        if self.columns is None:
            return LazyChunkSequence.from_map(partial(self.block, watch), range(self.rows))
        return NestedLazyChunkSequence.from_product(
            partial(self.block, watch), range(self.rows), range(self.columns)
        )

    @property
    def whole(self) -> dict[str, Array]:
        """What is stored in the end."""
        rows = [
            [self.block(keep_quiet, row, column) for column in range(self.columns or 1)]
            for row in range(self.rows)
        ]
        return {
            name: np.concatenate(
                [np.concatenate([block[name] for block in row], axis=1) for row in rows]
            )
            for name in rows[0][0]
        }


def group_at(destination: Any) -> dict[str, Array] | None:
    """Read a group as any other program would; None if there is none."""
    where = resolve_destination(destination).in_store(read_only=True)
    try:
        group = ZARR.open_group(StorePath(where.store, where.path), mode="r")
    except FileNotFoundError:
        return None
    return {name: np.asarray(array[...]) for name, array in group.arrays()}


def same_group(seen: Mapping[str, Array] | None, expected: Mapping[str, Array]) -> bool:
    """Whether two groups are the same, bit for bit."""
    return (
        seen is not None
        and seen.keys() == expected.keys()
        and all(
            seen[name].dtype == array.dtype
            and seen[name].shape == array.shape
            and seen[name].tobytes() == array.tobytes()
            for name, array in expected.items()
        )
    )
