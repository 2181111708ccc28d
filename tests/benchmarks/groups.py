"""Twelve arrays that belong together: ``python -m tests.benchmarks.groups``.

Blocks of 64 x 512 float32 for each of twelve names, 256 times: 384 MiB. The same bytes are stored
as one group, as one array of as many chunks, and as the peers store them. All are uncompressed, in
chunks of one block each; each run writes to an empty directory. Directories to compare are named as
arguments; by default one for temporary files.
"""

import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from statistics import median
from typing import Any, Final

import numpy as np

from lazychunks import IdentityConverter, LazyChunkSequence

__all__ = ["main"]

NAMES: Final = tuple(f"layer{number}" for number in range(12))
BLOCKS: Final = 256
HEIGHT: Final = 64
SHAPE: Final = (BLOCKS * HEIGHT, 512)
ROUNDS: Final = 5

VALUES: Final = {
    name: np.random.default_rng(number).random((HEIGHT, SHAPE[1]), dtype=np.float32)
    for number, name in enumerate(NAMES)
}

Writer = Callable[[Path], None]


def as_group(path: Path) -> None:
    """Store a group."""
    blocks = LazyChunkSequence.from_map(lambda _: VALUES, range(BLOCKS))
    blocks.to_zarr_group(
        path, IdentityConverter(), chunks="blocks", compressors=None, progress=False
    )


def as_one_array(path: Path) -> None:
    """Store one array of the same bytes and chunks."""
    listed = tuple(VALUES.values())
    blocks = LazyChunkSequence.from_map(
        lambda number: listed[number % len(listed)], range(BLOCKS * len(NAMES))
    )
    blocks.to_zarr(path, IdentityConverter(), chunks="blocks", compressors=None, progress=False)


def by_zarr(path: Path) -> None:
    """Create the arrays, and assign block after block to slices of them."""
    zarr: Any = import_module("zarr")
    group = zarr.create_group(path)
    arrays = {
        name: group.create_array(
            name, shape=SHAPE, chunks=(HEIGHT, SHAPE[1]), dtype="float32", compressors=None
        )
        for name in NAMES
    }
    for number in range(BLOCKS):
        for name, block in VALUES.items():
            arrays[name][number * HEIGHT : (number + 1) * HEIGHT] = block


def by_xarray(path: Path) -> None:
    """Append a Dataset for each block."""
    xarray: Any = import_module("xarray")
    encoding = {name: {"chunks": (HEIGHT, SHAPE[1]), "compressors": None} for name in NAMES}
    for number in range(BLOCKS):
        data = xarray.Dataset({name: (("row", "column"), VALUES[name]) for name in NAMES})
        if number == 0:
            data.to_zarr(path, encoding=encoding, consolidated=False, zarr_format=3)
        else:
            data.to_zarr(path, append_dim="row", consolidated=False, zarr_format=3)


def by_tensorstore(path: Path) -> None:
    """Write all blocks, two at a time, as the group's writer does."""
    ts: Any = import_module("tensorstore")
    arrays = {
        name: ts.open(
            {
                "driver": "zarr3",
                "kvstore": {"driver": "file", "path": str(path / name)},
                "metadata": {
                    "shape": SHAPE,
                    "data_type": "float32",
                    "chunk_grid": {
                        "name": "regular",
                        "configuration": {"chunk_shape": (HEIGHT, SHAPE[1])},
                    },
                },
                "context": {"file_io_concurrency": {"limit": 2}},
            },
            create=True,
        ).result()
        for name in NAMES
    }
    under_way: list[Any] = []
    for number in range(BLOCKS):
        for name, block in VALUES.items():
            rows = slice(number * HEIGHT, (number + 1) * HEIGHT)
            under_way.append(arrays[name][rows].write(block))
            if len(under_way) > 2:
                under_way.pop(0).result()
    for write in under_way:
        write.result()


WRITERS: Final[dict[str, Writer]] = {
    "lazychunks, one group": as_group,
    "lazychunks, one array": as_one_array,
    "TensorStore": by_tensorstore,
    "zarr, slices of each array": by_zarr,
    "xarray, append_dim": by_xarray,
}


def measure(directory: Path) -> dict[str, list[float]]:
    """Return seconds of each writer, in rounds of all of them; the slowest runs once."""
    seconds: dict[str, list[float]] = {name: [] for name in WRITERS}
    for round_ in range(ROUNDS):
        for name, write in WRITERS.items():
            if round_ and seconds[name][0] > 10:
                continue
            place = Path(tempfile.mkdtemp(dir=directory)) / "data.zarr"
            start = time.perf_counter()
            write(place)
            seconds[name].append(time.perf_counter() - start)
            shutil.rmtree(place.parent)
    return seconds


def table(seconds: dict[str, list[float]]) -> str:
    """Return a table of medians."""
    group = median(seconds["lazychunks, one group"])
    rows = ["| writer | median | fastest | of the group's |", "| --- | --: | --: | --: |"]
    for name, times in seconds.items():
        middle = median(times)
        rows.append(f"| {name} | {middle:.2f} s | {min(times):.2f} s | {middle / group:.2f} |")
    return "\n".join(rows)


def main(directories: list[str]) -> None:
    """Print a table for each directory."""
    for directory in directories or [tempfile.gettempdir()]:
        print(f"\n{directory}\n\n{table(measure(Path(directory)))}")  # noqa: T201  # what it is for


if __name__ == "__main__":
    main(sys.argv[1:])
