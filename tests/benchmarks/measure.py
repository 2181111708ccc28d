"""How it is measured: writers take turns, and memory is taken in processes of their own."""

from __future__ import annotations

import gc
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tests.benchmarks.results import Timing
from tests.benchmarks.workloads import Job, Workload, in_memory

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from tests.benchmarks.writers import Writer

ROOT = Path(__file__).resolve().parents[2]

ONE_THREAD = dict.fromkeys(
    ("MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1"
)
"""Environment of a process in which the libraries of NumPy and torch start no threads."""


@contextmanager
def fresh_path(folder: Path) -> Generator[Path]:
    """Give a path that does not exist, and remove what has been written there."""
    parent = Path(tempfile.mkdtemp(prefix="bench-", dir=folder))
    try:
        yield parent / "out"
    finally:
        shutil.rmtree(parent, ignore_errors=True)


def race(
    workload: Workload, writers: list[Writer], *, repeats: int, budget: float, folder: Path
) -> list[Timing]:
    """Let all writers store the same blocks in turns: A B C, B C A, C A B, ...

    Blocks are generated beforehand and are all different. Each writer runs once untimed, and what
    it stored is read back and compared bit by bit. Nobody's files outlive its run, so that nobody
    pays for the write-back of another's. A writer that has used up `budget` seconds runs no more
    after its third round.
    """
    block = in_memory(workload)
    timings: list[Timing] = []
    racing: list[tuple[Writer, Timing]] = []
    for writer in writers:
        timing = Timing(workload.name, writer.name)
        timings.append(timing)
        timing.skipped = "not installed" if writer.version() is None else writer.refuses(workload)
        if not timing.skipped:
            _verify(Job(workload, block, folder), writer, timing)
            racing.append((writer, timing))
        note(f"{workload.name}: {writer.name}: {timing.skipped or 'verified'}")
    for number in range(repeats):
        turn = number % len(racing) if racing else 0
        for writer, timing in racing[turn:] + racing[:turn]:
            if number >= 3 and sum(timing.seconds) > budget:
                continue
            with fresh_path(folder) as path:
                seconds, cpu = _timed(writer, Job(workload, block, path))
            timing.seconds.append(seconds)
            timing.cpu.append(cpu)
            timing.rounds.append(number)
        note(f"{workload.name}: round {number + 1} of {repeats}")
    for writer, timing in racing:
        size = f"{workload.name}/{len(workload.heights)}"
        timing.peak = peak_memory("write", writer.name, size, folder=folder)
    return timings


def _timed(writer: Writer, job: Job) -> tuple[float, float]:
    gc.collect()
    start, processor = time.perf_counter(), time.process_time()
    writer.write(job)
    return time.perf_counter() - start, time.process_time() - processor


def _verify(untimed: Job, writer: Writer, timing: Timing) -> None:
    with fresh_path(untimed.path) as path:
        job = Job(untimed.workload, untimed.block, path)
        writer.write(job)
        found = writer.read(job)
        if found.shape != job.workload.shape or found.dtype != np.float32:
            raise AssertionError(f"{writer.name} stored {found.shape} of {found.dtype}")
        for rows, columns, expected in job.placed():
            piece = np.ascontiguousarray(found[rows, columns])
            if not np.array_equal(piece.view(np.uint32), expected.view(np.uint32)):
                raise AssertionError(f"{writer.name} stored other values at {rows}, {columns}")
        stored = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]
        timing.files = len(stored)
        timing.stored = sum(p.stat().st_size for p in stored) / 2**20


def peak_memory(*task: str, folder: Path) -> float:
    """Run a task of `child.py` in a fresh process; return the MiB that it added at its peak."""
    added: float = in_child("child", *task, str(folder))
    return added


def in_child(module: str, *arguments: str, **environment: str) -> Any:
    """Run a module of this folder in a fresh process, and return its answer, a line of JSON."""
    path = os.pathsep.join(dict.fromkeys([str(ROOT), *filter(None, sys.path)]))
    done = subprocess.run(
        [sys.executable, "-m", f"tests.benchmarks.{module}", *arguments],
        env={**os.environ, **environment, "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        check=True,
        cwd=ROOT,
    )
    return json.loads(done.stdout.splitlines()[-1])


def in_turns(
    title: str, tasks: dict[str, Callable[[], object]], repeats: int, *, warm_up: bool = True
) -> dict[str, list[float]]:
    """Run tasks A B C, A B C, ..., at first once to warm up."""
    times: dict[str, list[float]] = {name: [] for name in tasks}
    for number in range(-warm_up, repeats):
        for name, task in tasks.items():
            start = time.perf_counter()
            task()
            if number >= 0:
                times[name].append(time.perf_counter() - start)
        note(f"{title}: round {number + 1} of {repeats}")
    return times


def over(times: dict[str, list[float]], one: str, other: str) -> float:
    """Return the median, over the rounds, of one time over another."""
    return statistics.median(a / b for a, b in zip(times[one], times[other], strict=True))


def note(line: str) -> None:
    """Tell how far it is; the tables are for the documents."""
    print(f"[{time.strftime('%H:%M:%S')}] {line}", file=sys.stderr, flush=True)  # noqa: T201 - a script
