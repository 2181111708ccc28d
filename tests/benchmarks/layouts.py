"""What a layout costs in an object store: ``python -m tests.benchmarks.layouts``.

Prints the tables of ``docs/chunks.md``. The counts are facts of the layout, and a test compares
them with the page; the times are those of the machine.
"""

import os
import time
from collections.abc import Iterable
from importlib import import_module
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from lazychunks import IdentityConverter, LazyChunkSequence, ZarrOptions
from tests.object_store import Request, Server, started

__all__ = ["ANSWER_TIME", "counts", "main"]

ROWS, COLUMNS, HEIGHT = 1024, 1024, 16

LAYOUTS: Final[dict[str, ZarrOptions]] = {
    '`chunks="blocks"`': {"chunks": "blocks"},
    '`chunks="auto"`': {"chunks": "auto"},
    "`chunks=(1024, 64)`": {"chunks": (1024, 64)},
    "`chunks=(128, 128)`": {"chunks": (128, 128)},
    "`chunks=(16, 1024), shards=(512, 1024)`": {"chunks": (16, 1024), "shards": (512, 1024)},
    "`chunks=(128, 128), shards=(512, 1024)`": {"chunks": (128, 128), "shards": (512, 1024)},
}
"""Options of ``to_zarr`` that are compared; all else is the same."""

HEADER: Final = (
    "layout",
    "objects",
    "requests to write",
    "to read a row",
    "to read a column",
    "memory of a buffer",
)

ANSWER_TIME: Final = 0.05
"""Seconds that a store far away takes to answer, in the second table."""


def block(number: int) -> NDArray[np.float32]:
    """Make one of 64 blocks of 16 x 1024, 64 KiB each."""
    return np.random.default_rng(number).random((HEIGHT, COLUMNS), dtype=np.float32)


BLOCKS: Final = LazyChunkSequence.from_map(block, range(ROWS // HEIGHT))


def placed(name: str) -> Any:
    """Return a place in the bucket ``results``, by the settings of the environment."""
    stores: Any = import_module("obstore.store")
    storage: Any = import_module("zarr.storage")
    return storage.ObjectStore(stores.S3Store("results", prefix=name))


def costs(server: Server, layout: str) -> tuple[str, ...]:
    """Return what a layout costs: a row of the first table."""
    place = placed(f"{[*LAYOUTS].index(layout)}.zarr")
    server.counted()
    plain: ZarrOptions = {"compressors": None, **LAYOUTS[layout]}  # sizes tell more that way
    array = BLOCKS.to_zarr(place, IdentityConverter(), return_stored=True, **plain)
    writing = server.counted()
    chunks = {r.key for r in writing if r.method == "PUT" and "/c/" in r.key}
    assert np.asarray(array[500]).shape == (COLUMNS,)
    row = server.counted()
    assert np.asarray(array[:, 500]).shape == (ROWS,)
    column = server.counted()
    unit = array.shards or array.chunks
    buffer = 4 * unit[0] * COLUMNS
    return (
        layout,
        str(len(chunks)),
        str(len(writing)),
        _fetched(row),
        _fetched(column),
        _amount(buffer),
    )


def times(server: Server) -> Iterable[tuple[str, ...]]:
    """Measure how long 64 chunks take to be written to a store that answers late."""
    server.delay = ANSWER_TIME
    for bound in (1, 2, 8, 32):
        start = time.perf_counter()
        BLOCKS.to_zarr(
            placed(f"slow {bound}.zarr"), IdentityConverter(), chunks="blocks", max_in_flight=bound
        )
        yield (f"`max_in_flight={bound}`", f"{time.perf_counter() - start:.1f} s")
    server.delay = 0.0


def table(header: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    """Lay out a table in Markdown."""
    line = "| --- |" + " --: |" * (len(header) - 1)
    return "\n".join([_line(header), line, *map(_line, rows)])


def counts(server: Server) -> str:
    """Return the first table."""
    return table(HEADER, (costs(server, layout) for layout in LAYOUTS))


def main() -> None:
    """Print both tables."""
    with started() as server:
        os.environ.update(server.settings)
        server.make_bucket("results")
        print(counts(server), end="\n\n")  # noqa: T201  # what it is for
        print(table(("", "time"), times(server)))  # noqa: T201  # the same


def _line(cells: tuple[str, ...]) -> str:
    return f"| {' | '.join(cells)} |"


def _fetched(requests: list[Request]) -> str:
    return f"{len(requests)} for {_amount(sum(request.sent for request in requests))}"


def _amount(size: int) -> str:
    return f"{size / 2**20:.3g} MiB" if size >= 2**20 else f"{size / 2**10:.0f} KiB"


if __name__ == "__main__":
    main()
