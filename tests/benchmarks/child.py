"""One task in a fresh process, and the memory that it took at its peak.

    python -m tests.benchmarks.child write WRITER WORKLOAD/BLOCKS FOLDER
    python -m tests.benchmarks.child stream WRITER BLOCKS FOLDER
    python -m tests.benchmarks.child cat AGGREGATOR MEBIBYTES FOLDER
    python -m tests.benchmarks.child rank WHO BLOCKS FOLDER

Memory is the resident set at its highest (VmHWM of /proc/self/status, reset before the task) less
the resident set just before, when all is imported, a small write has gone through, and the blocks
of `write` are there. Blocks of the others are made one by one, as a producer does.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.benchmarks import folding, writers
from tests.benchmarks.measure import fresh_path
from tests.benchmarks.meter import Usage, measured
from tests.benchmarks.workloads import WORKLOADS, Job, Workload, from_pool, in_memory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def warm_up(writer: writers.Writer, workload: Workload, folder: Path) -> None:
    """Import everything and start all threads."""
    small = Workload(
        "warm-up", "", (8, 8), (8, 8) if workload.nested else (8,), workload.nested,
        workload.compressed,
    )  # fmt: skip
    with fresh_path(folder) as path:
        writer.write(Job(small, in_memory(small), path))


def write(writer: writers.Writer, workload: Workload, folder: Path) -> Usage:
    """Write a workload whose blocks are all in memory before."""
    block = in_memory(workload)
    warm_up(writer, workload, folder)
    with fresh_path(folder) as path:
        return measured(lambda: writer.write(Job(workload, block, path)))


def stream(writer: writers.Writer, blocks: int, folder: Path) -> Usage:
    """Write blocks of 4 MiB that are made one by one."""
    workload = Workload("stream", "", (256,) * blocks, (4096,))
    block = from_pool(workload)
    warm_up(writer, workload, folder)
    with fresh_path(folder) as path:
        return measured(lambda: writer.write(Job(workload, block, path)))


def cat(aggregator: str, mebibytes: int) -> Usage:
    """Concatenate tensors (or arrays) of 4 MiB that are made one by one."""
    torch: Any = writers.module("torch")
    numpy: Any = writers.module("numpy")
    library: Any = writers.module("lazychunks")
    ours: Any = writers.module("lazychunks.torch")
    count = mebibytes // 4
    pool = torch.ones(1024, 1024)

    def tensors(number: int = count) -> Iterator[Any]:
        return (pool.clone() for _ in range(number))

    def rows() -> Iterator[Iterator[Any]]:
        return (tensors(8) for _ in range(count // 8))

    def arrays() -> Iterator[Any]:
        return (pool.numpy().copy() for _ in range(count))

    flat = library.LazyChunkSequence(tensors, count)
    nested = library.NestedLazyChunkSequence(rows, count // 8)
    tasks: dict[str, Callable[[], Any]] = {
        "torch.cat": lambda: torch.cat(list(tensors())),
        "torch.cat, nested": lambda: torch.cat([torch.cat(list(row), dim=1) for row in rows()]),
        "np.concatenate": lambda: numpy.concatenate(list(arrays())),
        "TorchCatAggregator": lambda: flat.compute(ours.TorchCatAggregator(), progress=False),
        "NestedTorchCatAggregator": lambda: nested.compute(
            ours.NestedTorchCatAggregator(), progress=False
        ),
        "concatenate": lambda: library.LazyChunkSequence(arrays, count).compute(
            library.concatenate(), progress=False
        ),
    }
    library.LazyChunkSequence.from_map(torch.ones, [2, 2]).compute(ours.TorchCatAggregator())
    torch.cat([torch.ones(1024, 1024)] * 2)  # starts torch's threads
    return measured(tasks[aggregator])


def main(kind: str, name: str, what: str, folder: str) -> None:
    if kind == "write":
        workload, _, blocks = what.partition("/")
        whole = next(w for w in WORKLOADS if w.name == workload)
        usage = write(writers.by_name(name), whole.shortened(int(blocks)), Path(folder))
    elif kind == "stream":
        usage = stream(writers.by_name(name), int(what), Path(folder))
    elif kind == "rank":
        usage = measured(folding.rank(name, int(what)))
    else:
        usage = cat(name, int(what))
    print(json.dumps(usage.added))  # noqa: T201 - the answer to the parent process


if __name__ == "__main__":
    main(*sys.argv[1:])
