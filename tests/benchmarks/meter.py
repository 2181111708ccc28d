"""What a task takes: time, processor time and memory, those of its worker processes included."""

from __future__ import annotations

import ctypes
import gc
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

CPU_CLOCK = 2
"""Lowest bits of the number of a Linux clock that counts the processor time of a process."""


class Usage(NamedTuple):
    """What a task took."""

    wall: float
    """Seconds on the wall clock."""
    cpu: float
    """Seconds of processor time, of all threads and all processes."""
    before: float
    """MiB of resident memory before it began, in all processes."""
    peak: float
    """The sum of each process's peak of resident memory, in MiB."""

    @property
    def added(self) -> float:
        """MiB that the task added at its peak."""
        return self.peak - self.before


def measured(task: Callable[[], object], workers: Sequence[int] = ()) -> Usage:
    """Run a task; ``workers`` are the numbers of other processes that take part in it."""
    processes = [os.getpid(), *workers]
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    for process in processes:
        Path(f"/proc/{process}/clear_refs").write_text("5")  # the peak starts over
    before = resident("VmRSS", processes)
    processor, start = _processor_time(processes), time.perf_counter()
    result = task()
    wall = time.perf_counter() - start
    cpu = _processor_time(processes) - processor
    peak = resident("VmHWM", processes)
    del result  # only now: memory of the result counts
    return Usage(wall, cpu, before, peak)


def resident(field: str, processes: Sequence[int]) -> float:
    """Return the sum of a field of /proc/PID/status in MiB."""
    return sum(_status(field, process) for process in processes)


def _status(field: str, process: int) -> float:
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) / 1024
    raise LookupError(f"/proc/{process}/status has no {field}")


def _processor_time(processes: Sequence[int]) -> float:
    return sum(time.clock_gettime((~process << 3) | CPU_CLOCK) for process in processes)
