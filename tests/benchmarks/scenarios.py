"""What a race of writers does not show: overlap, memory growth, the cost of `compute`, `cat`."""

from __future__ import annotations

import os
import statistics
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from tests.benchmarks import folding, seed, workers, writers
from tests.benchmarks.measure import fresh_path, note, peak_memory
from tests.benchmarks.results import Figure, Scenario
from tests.benchmarks.spreading import spreading
from tests.benchmarks.workloads import WORKLOADS, ZSTD_LEVEL, Block, Job, in_memory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class Setting:
    """How thoroughly to measure, and where."""

    repeats: int
    quick: bool
    folder: Path
    seconds: Mapping[tuple[str, str], float] = field(default_factory=dict[tuple[str, str], float])
    """Median of what each writer took for each workload, as far as that was measured before."""


def _clock(task: Callable[[], object]) -> tuple[float, float]:
    start, processor = time.perf_counter(), time.process_time()
    task()
    return time.perf_counter() - start, time.process_time() - processor


def _installed(*names: str) -> list[writers.Writer]:
    return [w for w in map(writers.by_name, names) if w.version() is not None]


NUMBERS = np.linspace(0, 1, 2**16)


@dataclass(frozen=True, slots=True)
class Producer:
    """Hands out ready blocks after it has taken its time."""

    title: str
    each: float
    """Seconds that a block takes."""
    pool: Callable[[int, int], Block]
    computes: bool = False
    """Whether it keeps a core busy; it waits otherwise, as one does for a device."""

    def __call__(self, row: int, column: int) -> Block:
        if not self.computes:
            time.sleep(self.each)
        else:
            start = time.thread_time()  # work, not time: others may use the core meanwhile
            while time.thread_time() - start < self.each:
                np.sin(NUMBERS)
        return self.pool(row, column)


def overlap(setting: Setting) -> Scenario:
    """Let a producer take as long as our writer."""
    workload = WORKLOADS[0].shortened(8 if setting.quick else 48)
    ready = in_memory(workload.shortened(8))
    count, cores = len(workload.heights), len(os.sched_getaffinity(0))

    def pool(row: int, column: int) -> Block:
        return ready(row % 8, column)

    def run(writer: writers.Writer, block: Callable[[int, int], Block]) -> tuple[float, float]:
        with fresh_path(setting.folder) as path:
            return _clock(lambda: writer.write(Job(workload, block, path)))

    def paced(title: str, writer: writers.Writer, *, computes: bool = False) -> Producer:
        run(writer, pool)
        taken = statistics.median(run(writer, pool)[0] for _ in range(setting.repeats))
        return Producer(title, taken / count, pool, computes)

    def compared(writer: writers.Writer, producer: Producer) -> tuple[list[str], float, float]:
        rounds: list[tuple[float, float, float, float]] = []
        for _ in range(setting.repeats):
            alone, processor = run(writer, pool)
            made, busy = _clock(lambda: [producer(number, 0) for number in range(count)])
            together = run(writer, producer)[0]
            rounds.append((alone, made, together, (processor + busy) / cores))
        note(f"overlap: {writer.name}, producer {producer.title}")
        over = statistics.median(t / max(w, p) for w, p, t, _ in rounds)
        least = statistics.median(t / max(w, p, least) for w, p, t, least in rounds)
        times = [statistics.median(column) for column in list(zip(*rounds, strict=True))[:3]]
        row = [writer.title, producer.title, *(f"{s:.2f} s" for s in times)]
        return [*row, f"{over:.2f}", f"{least:.2f}"], over, least

    ours, single = writers.by_name("lazychunks"), writers.SINGLE
    waiting = paced("waits for a device", ours)
    computing = paced("computes on one core", ours, computes=True)
    beside = paced("computes on one core", single, computes=True)
    rows: list[list[str]] = []
    figures: list[Figure] = []
    for producer in (waiting, computing):
        for writer in _installed("lazychunks", "zarr-full", "tensorstore", "pydvl"):
            row, over, least = compared(writer, producer)
            rows.append(row)
            if writer is ours:
                figures.append(_overlapped(producer.title, "the slower of the two alone", over))
                if producer.computes:
                    what = f"what {cores} cores allow"
                    figures.append(_overlapped(producer.title, what, least))
    row, over, _ = compared(single, beside)
    rows.insert(len(rows) - 3, row)
    figures.append(
        _overlapped("computes on one core, one write at a time", "the slower of the two", over)
    )
    copied = _median(setting, lambda: ready(0, 0).copy())
    with fresh_path(setting.folder) as path:
        last = _median(setting, lambda: _chunk_written(ready(0, 0), path))
    return Scenario(
        "overlap",
        f"A producer that takes as long as our writer ({count} blocks of 256 x 4096, zstd level 3)",
        "The producer hands out ready blocks after it has waited, as one does for a GPU, or has "
        "computed in one thread, for as long as our writer needs for a block. Two things cannot "
        f"overlap with a producer that waits: the copy of a block into a buffer ({copied * 1e3:.1f}"
        f" ms, {copied / waiting.each:.0%} of its time), since the producer may use its memory "
        f"again; and the last chunk ({last * 1e3:.0f} ms, {last / waiting.each / count:.0%} of all "
        "of it), which is compressed when nothing else is left to do. A producer that computes "
        f"takes its core from the compression, which alone keeps all {cores} busy here: then all "
        "processor time over the number of cores is what can be had. With "
        "`max_in_flight=1` each of the two has a core of its own. Beside a GPU, with more cores "
        "than writes: {doc}`benchmarks-folds`.",
        [
            "writer", "producer", "writer alone", "producer alone", "both",
            "both / the slower", "both / what can be had",
        ],
        rows,
        figures,
    )  # fmt: skip


def _overlapped(producer: str, bound: str, over: float) -> Figure:
    return Figure(
        f"producer that {producer}: total over {bound}", "at most 1.1", f"{over:.2f}", over <= 1.1
    )


def _median(setting: Setting, task: Callable[[], object]) -> float:
    return statistics.median(_clock(task)[0] for _ in range(4 * setting.repeats))


def _chunk_written(block: Block, path: Path) -> None:
    encode = writers.module("numcodecs").Zstd(level=ZSTD_LEVEL, checksum=True).encode
    path.write_bytes(encode(block))


def limits(setting: Setting) -> Scenario:
    """Do nothing but what nobody can leave out, on all cores."""
    rows: list[list[str]] = []
    cores = len(os.sched_getaffinity(0))
    encode = writers.module("numcodecs").Zstd(level=ZSTD_LEVEL, checksum=True).encode
    ours = writers.by_name("lazychunks")
    for workload in WORKLOADS:
        size = workload.shortened(8) if setting.quick else workload
        block = in_memory(size)
        with fresh_path(setting.folder) as path:
            ours.write(Job(size, block, path))
            stored: Any = writers.module("zarr").open_array(path, mode="r")
            whole, (height, width) = np.asarray(stored[...]), stored.chunks
        chunks = [
            np.ascontiguousarray(whole[top : top + height, left : left + width])
            for top in range(0, whole.shape[0], height)
            for left in range(0, whole.shape[1], width)
        ]
        times: list[tuple[float, float]] = []
        with ThreadPoolExecutor(cores) as pool:
            for _ in range(setting.repeats + 1):
                with fresh_path(setting.folder) as path:
                    if workload.compressed:
                        alone = _clock(lambda: list(pool.map(encode, chunks)))[0]  # noqa: B023  # run here
                    else:
                        alone = _clock(lambda: _copied_and_written(chunks, pool, cores, path))[0]  # noqa: B023  # run here
                with fresh_path(setting.folder) as path:
                    times.append((alone, _clock(lambda: ours.write(Job(size, block, path)))[0]))  # noqa: B023  # run here
        times = times[1:]  # the first one warms up
        alone, taken = (statistics.median(column) for column in zip(*times, strict=True))
        share = statistics.median(a / t for a, t in times)
        others = [setting.seconds.get((workload.name, name)) for name in ("pydvl", "tensorstore")]
        rows.append(
            [
                workload.title,
                f"{alone * 1e3:.0f} ms",
                f"{taken * 1e3:.0f} ms",
                f"{share:.0%}",
                *("" if seconds is None else f"{seconds / alone:.1f}" for seconds in others),
            ]
        )
        note(f"limits: {workload.name}: {alone:.3f} s of {taken:.3f} s")
    return Scenario(
        "limits",
        f"What limits: the least work, on all {cores} cores",
        "The chunks that our writer stores, compressed by the zstd that zarr uses and thrown away; "
        f"or, without a codec, copied to one of {cores + 2} buffers, since the producer may use "
        f"its memory again, and written as bare files by {cores} threads. Whoever stores these "
        "bytes, uses this zstd and keeps that promise cannot be faster, nor further ahead of the "
        "others than the last two columns say.",
        [
            "workload", "least work", "lazychunks", "share", "pyDVL over it", "TensorStore over it",
        ],
        rows,
    )  # fmt: skip


def _copied_and_written(
    chunks: list[Block], pool: ThreadPoolExecutor, cores: int, path: Path
) -> None:
    path.mkdir()
    buffers = [np.empty_like(chunks[0]) for _ in range(cores + 2)]
    futures: list[Future[None]] = []

    def write(number: int, buffer: Block) -> None:
        with (path / str(number)).open("wb", buffering=0) as stream:
            stream.write(buffer.data.cast("B"))

    for number, chunk in enumerate(chunks):
        if number > cores:
            futures[number - cores - 1].result()
        buffer = buffers[number % len(buffers)]
        buffer[...] = chunk
        futures.append(pool.submit(write, number, buffer))
    for future in futures:
        future.result()


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
    "limits": limits,
    "overlap": overlap,
    "growth": growth,
    "compute": compute,
    "cat": cat,
    "spreading": spreading,
    "ranking": folding.ranking,
    "one-pass": folding.one_pass,
    "reading": folding.reading,
    "workers": workers.workers,
    "resuming": workers.resuming,
    "traveling": workers.traveling,
}
