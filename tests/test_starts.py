"""Starts of one run: whoever computes, and however often it is started, the array is the same."""

from collections.abc import Callable, Generator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from lazychunks import BlockShapeError
from tests.executors import Shuffling, processes
from tests.faults.jobs import Job, names_in, same, seen_at

NAMED: dict[str, Any] = {"run_id": "run", "resume": True}


@contextmanager
def threads() -> Generator[Executor]:
    with ThreadPoolExecutor(2) as executor:
        yield executor


# Blocks of another height under an executor, and then without it.

UNEVEN = {
    "flat": Job("flat", (2, 5, 2, 2, 2)),
    "the second and the fourth": Job("flat", (2, 3, 2, 1, 2, 2)),
    "smaller": Job("flat", (4, 2, 4, 4)),
    "rows": Job("nested", (2, 5, 2, 2), (3, 3, 1)),
    "columns": Job("nested", (2, 2, 2), (3, 5, 3, 3)),
    "rows and columns": Job("nested", (2, 2, 1, 2), (3, 3, 5, 3)),
}


@pytest.mark.parametrize("name", UNEVEN)
@pytest.mark.parametrize("scale", [1, 2, 5])
@pytest.mark.parametrize(
    ("kind", "workers"),
    [("memory", threads), ("path", threads), ("path", Shuffling), ("path", processes)],
)
def test_uneven_blocks_go_on_without_the_executor_that_refused_them(
    name: str, scale: int, kind: str, workers: Callable[[], Any], tmp_path: Path
) -> None:
    """Regression: what workers had stored at places that they assumed counted as done."""
    job = UNEVEN[name]
    destination: Any = {} if kind == "memory" else tmp_path / "array.zarr"
    chunks = (scale * job.heights[0], scale * job.widths[0] if job.widths else job.tail)
    with workers() as executor, pytest.raises(BlockShapeError, match="leave out executor="):
        job.store(destination, executor=executor, chunks=chunks, **NAMED)
    assert seen_at(destination) is None
    job.store(destination, chunks=chunks, **NAMED)
    assert same(seen_at(destination), job.whole)
    if kind == "path":
        assert names_in(tmp_path) == ["array.zarr"]
        assert names_in(tmp_path / "array.zarr") == ["c", "zarr.json"]
