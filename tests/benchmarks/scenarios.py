"""What a race of writers does not show: overlap, memory growth, the cost of `compute`, `cat`."""

from __future__ import annotations

import os
import statistics
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tests.benchmarks import folding, seed, writers
from tests.benchmarks.measure import fresh_path, note, peak_memory
from tests.benchmarks.results import Figure, Scenario
from tests.benchmarks.spreading import spreading
from tests.benchmarks.workloads import WORKLOADS, Block, Job, in_memory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class Setting:
    """How thoroughly to measure, and where."""

    repeats: int
    quick: bool
    folder: Path


def _clock(task: Callable[[], object]) -> tuple[float, float]:
    start, processor = time.perf_counter(), time.process_time()
    task()
    return time.perf_counter() - start, time.process_time() - processor


def _installed(*names: str) -> list[writers.Writer]:
    return [w for w in map(writers.by_name, names) if w.version() is not None]


def overlap(setting: Setting) -> Scenario:
    """Let a producer compute as long as our writer writes."""
    workload = WORKLOADS[0].shortened(8 if setting.quick else 48)
    pool = in_memory(workload.shortened(8))
    count = len(workload.heights)
    numbers = np.linspace(0, 1, 2**16)

    def instant(row: int, column: int) -> Block:
        return pool(row % 8, column)

    def run(writer: writers.Writer, block: Callable[[int, int], Block]) -> tuple[float, float]:
        with fresh_path(setting.folder) as path:
            return _clock(lambda: writer.write(Job(workload, block, path)))

    ours = writers.by_name("lazychunks")
    run(ours, instant)
    each = statistics.median(run(ours, instant)[0] for _ in range(setting.repeats)) / count
    steps = max(1, round(each / (_clock(lambda: [np.sin(numbers) for _ in range(200)])[0] / 200)))

    def waiting(row: int, column: int) -> Block:
        time.sleep(each)
        return instant(row, column)

    def computing(row: int, column: int) -> Block:
        for _ in range(steps):
            np.sin(numbers)
        return instant(row, column)

    rows: list[list[str]] = []
    figures: list[Figure] = []
    cores = len(os.sched_getaffinity(0))
    for kind, produce in (("waits for a device", waiting), ("computes on one core", computing)):
        for writer in _installed("lazychunks", "zarr-full", "tensorstore", "pydvl"):
            alone: list[float] = []
            producer: list[float] = []
            both: list[float] = []
            bound: list[float] = []
            for _ in range(setting.repeats):
                seconds, processor = run(writer, instant)
                alone.append(seconds)
                made, busy = _clock(lambda p=produce: [p(i, 0) for i in range(count)])  # type: ignore[misc]  # mypy cannot infer a lambda's default
                producer.append(made)
                both.append(run(writer, produce)[0])
                bound.append(max(seconds, made, (processor + busy) / cores))
            over = statistics.median(
                t / max(w, p) for t, w, p in zip(both, alone, producer, strict=True)
            )
            least = statistics.median(t / b for t, b in zip(both, bound, strict=True))
            columns = [statistics.median(times) for times in (alone, producer, both)]
            rows.append(
                [
                    writer.title,
                    kind,
                    *(f"{s:.2f} s" for s in columns),
                    f"{over:.2f}",
                    f"{least:.2f}",
                ]
            )
            if writer is ours:
                figures.append(
                    Figure(
                        f"producer that {kind}: total over the slower of the two alone",
                        "at most 1.1",
                        f"{over:.2f}",
                        over <= 1.1,
                    )
                )
            note(f"overlap: {writer.name}, producer {kind}")
    return Scenario(
        "overlap",
        f"A producer that takes as long as our writer ({count} blocks of 256 x 4096, zstd level 3)",
        "The producer hands out ready blocks after it has waited, as one does for a GPU, or has "
        "computed in one thread, for as long as our writer needs for a block. What can be had is "
        "the largest of the two times alone and of all processor time over the number of cores: a "
        "producer that computes on the same cores takes them from the compression.",
        [
            "writer", "producer", "writer alone", "producer alone", "both",
            "both / the slower", "both / what can be had",
        ],
        rows,
        figures,
    )  # fmt: skip


def growth(setting: Setting) -> Scenario:
    """Write ever more blocks and see whether memory grows."""
    counts = (8, 32) if setting.quick else (32, 128, 512)
    rows: list[list[str]] = []
    figures: list[Figure] = []
    options: Any = None
    names = ("lazychunks", "pydvl", "zarr-full", "zarr-append", "tensorstore", "tensorstore-all",
             "acquire-zarr", "h5py", "dask")  # fmt: skip
    for writer in _installed(*names):
        peaks = [
            peak_memory("stream", writer.name, str(count), folder=setting.folder)
            for count in counts
        ]
        note(f"growth: {writer.name}: {peaks}")
        rows.append([writer.title, *(f"{peak:.0f} MiB" for peak in peaks)])
        if writer.name == "lazychunks":
            options = writers.module("lazychunks.storage.options").WriteOptions()
            bound = ((options.max_in_flight or 2) + 1) * 4 + 2 * 4 + 20
            figures = [
                Figure(
                    "memory while writing: (in flight + 1) chunks + 2 blocks + 20 MiB",
                    f"at most {bound} MiB",
                    f"{max(peaks):.0f} MiB",
                    max(peaks) <= bound,
                ),
                Figure(
                    f"memory of {counts[-1]} blocks less that of {counts[0]}",
                    "flat: at most 4 MiB, one block",
                    f"{peaks[-1] - peaks[0]:+.1f} MiB",
                    peaks[-1] - peaks[0] <= 4,
                ),
            ]
    return Scenario(
        "growth",
        "Memory while writing blocks of 256 x 4096 (4 MiB), zstd level 3",
        "Peak of the resident set in a fresh process, less what it was before the first block. "
        "Blocks are made one by one.",
        ["writer", *(f"{count} blocks" for count in counts)],
        rows,
        figures,
    )


def compute(setting: Setting) -> Scenario:
    """Collect 200,000 tiny blocks."""
    count = 20_000 if setting.quick else 200_000
    tiny = np.zeros(4, np.float32)

    def blocks() -> Iterator[Block]:
        for _ in range(count):
            yield tiny

    def loop() -> list[Block]:
        result: list[Block] = []
        for block in blocks():
            result.append(block)  # noqa: PERF402 - the bare loop is the measure
        return result

    library: Any = writers.module("lazychunks")
    ours = library.LazyChunkSequence(blocks, count)
    tasks: dict[str, Callable[[], object]] = {
        "bare for loop, append": loop,
        "list(generator)": lambda: list(blocks()),
        "lazychunks, compute()": lambda: ours.compute(progress=False),
        "lazychunks, compute(), no length": lambda: library.LazyChunkSequence(blocks).compute(
            progress=False
        ),
    }
    if seed.location() is not None:
        theirs: Any = seed.load()
        tasks["pyDVL, compute(), no length"] = theirs.LazyChunkSequence(blocks).compute
    times: dict[str, list[float]] = {name: [] for name in tasks}
    for _ in range(4 * setting.repeats):
        for name, task in tasks.items():
            times[name].append(_clock(task)[0])
    bare = times["bare for loop, append"]
    ratios = {
        name: statistics.median(t / b for t, b in zip(taken, bare, strict=True))
        for name, taken in times.items()
    }
    over = ratios["lazychunks, compute()"]
    return Scenario(
        "compute",
        f"compute() of {count:,} tiny blocks, no bar",
        "The generator hands out one and the same array, so that nothing but the iteration counts.",
        ["what", "time", "over the bare loop"],
        [
            [name, f"{statistics.median(taken) * 1e3:.1f} ms", f"{ratios[name]:.2f}"]
            for name, taken in times.items()
        ],
        [
            Figure(
                "compute() over a bare for loop", "at most 1.5", f"{over:.2f}", over <= 1.5
            )
        ],
    )  # fmt: skip


def cat(setting: Setting) -> Scenario:
    """Concatenate tensors of 4 MiB."""
    size = 64 if setting.quick else 512
    tasks = (
        ("torch.cat", "torch.cat(list(...)), as pyDVL does"),
        ("TorchCatAggregator", "lazychunks, TorchCatAggregator"),
        ("torch.cat, nested", "torch.cat of rows of torch.cat, as pyDVL does"),
        ("NestedTorchCatAggregator", "lazychunks, NestedTorchCatAggregator"),
        ("np.concatenate", "np.concatenate(list(...))"),
        ("concatenate", "lazychunks, concatenate()"),
    )
    rows: list[list[str]] = []
    figures: list[Figure] = []
    for name, title in tasks:
        over = peak_memory("cat", name, str(size), folder=setting.folder) / size
        rows.append([title, f"{over * size:.0f} MiB", f"{over:.2f}"])
        if title.startswith("lazychunks"):
            reached = over <= 1.15
            figures.append(
                Figure(f"peak of {name} over its result", "at most 1.15", f"{over:.2f}", reached)
            )
    return Scenario(
        "cat",
        f"Peak memory of concatenating {size} MiB",
        "In a fresh process; tensors of 4 MiB, made one by one; the nested ones in rows of eight.",
        ["what", "peak", "over the result"],
        rows,
        figures,
    )


SCENARIOS: dict[str, Callable[[Setting], Scenario]] = {
    "overlap": overlap,
    "growth": growth,
    "compute": compute,
    "cat": cat,
    "spreading": spreading,
    "ranking": folding.ranking,
    "one-pass": folding.one_pass,
    "reading": folding.reading,
}
