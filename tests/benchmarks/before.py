"""Run everyday passes beside an earlier commit: ``python -m tests.benchmarks.before SOURCE``.

    python -m tests.benchmarks.before SOURCE [--rounds N] [--only PASS ...] [--quick]

SOURCE is the folder ``src`` of a checkout of that commit, as ``git worktree add`` makes one. Each
pass runs in two processes that take turns, one with the package from SOURCE and one with that of
this checkout (A B, B A, ...). Both run it once beforehand, and compare its result with NumPy's. A
table on standard output has, of each pass:

- the medians of wall time and processor time, of all threads and worker processes;
- *ratio*: the median, over the rounds, of the time now over the time before, and in brackets its
  quartiles, which tell how much of it is noise;
- the median of the memory that it adds at its peak;
- *slower* where the ratio of wall times is above what is asked: 1.10 for tiny blocks and for
  ``compute()``, 1.05 for all others. *more memory* where the memory has grown by more than 1 MiB
  and 5 %.

Processes have one thread each for NumPy's and torch's own work.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from tests.benchmarks.everyday import PASSES
from tests.benchmarks.measure import ONE_THREAD, ROOT, note
from tests.benchmarks.report import table

if TYPE_CHECKING:
    from collections.abc import Sequence

NOISE = 1.0
"""MiB that the memory of a process differs by from run to run."""


class Round(NamedTuple):
    """What one run took: seconds, seconds and MiB."""

    wall: float
    cpu: float
    memory: float


class Child:
    """A process that runs one pass with the package from one folder, when it is told to."""

    def __init__(self, name: str, source: Path, folder: Path, *, quick: bool) -> None:
        self.rounds: list[Round] = []
        flags = ["--quick"] if quick else []
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.benchmarks.everyday", name, source, folder, *flags],
            env={**os.environ, **ONE_THREAD, "PYTHONPATH": str(source)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()

    def is_ready(self) -> bool:
        """Wait until it has run once; False if it has ended."""
        return bool(self._read() == "ready")

    def run(self) -> None:
        """Have it run once more."""
        assert self._process.stdin is not None
        self._process.stdin.write("run\n")
        self._process.stdin.flush()
        self.rounds.append(Round(*self._read()))

    def _read(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        return json.loads(line) if line else None


def compare(name: str, before: Path, now: Path, rounds: int, *, quick: bool) -> list[str]:
    """Run a pass with both packages in turns, and return its line of the table."""
    with ExitStack() as stack:
        children: list[Child] = []
        for source in (before, now):
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="lazychunks-"))
            child = Child(name, source, Path(folder), quick=quick)
            children.append(stack.enter_context(child))
        are_ready = [child.is_ready() for child in children]  # of both: they start side by side
        if not all(are_ready):
            return [name, "failed, see above", *[""] * (len(HEADER) - 2)]
        for number in range(rounds):
            for child in children if number % 2 else reversed(children):
                child.run()
        return summarize(name, *(child.rounds for child in children))


HEADER = [
    "pass",
    "wall before",
    "wall now",
    "ratio",
    "processor before",
    "processor now",
    "ratio",
    "memory before",
    "memory now",
    "",
]


def summarize(name: str, before: Sequence[Round], now: Sequence[Round]) -> list[str]:
    """Return the line of a pass."""
    wall, cpu, memory = (
        [[taken[field] for taken in rounds] for rounds in (before, now)] for field in range(3)
    )
    asked = 1.10 if "tiny" in name or "compute" in name else 1.05
    was, is_now = map(statistics.median, memory)
    remarks = [
        remark
        for remark, applies in (
            ("slower", _ratios(*wall)[1] > asked),
            ("more memory", is_now > max(was + NOISE, 1.05 * was)),
        )
        if applies
    ]
    return [
        name,
        *_compared(*wall),
        *_compared(*cpu),
        *(f"{mebibytes:.1f} MiB" for mebibytes in (was, is_now)),
        ", ".join(remarks),
    ]


def _compared(before: list[float], now: list[float]) -> list[str]:
    low, middle, high = _ratios(before, now)
    medians = (f"{statistics.median(times) * 1e3:.1f} ms" for times in (before, now))
    return [*medians, f"{middle:.2f} ({low:.2f} - {high:.2f})"]


def _ratios(before: list[float], now: list[float]) -> list[float]:
    """Return the quartiles of the ratios of the rounds."""
    ratios = [after / first for first, after in zip(before, now, strict=True)]
    return statistics.quantiles(ratios, method="inclusive") if len(ratios) > 1 else 3 * ratios


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare everyday passes with an earlier commit.")
    parser.add_argument("source", type=Path, help="folder src of a checkout of that commit")
    parser.add_argument("--rounds", type=int, default=9, help="rounds (default 9)")
    parser.add_argument("--only", action="append", choices=[*PASSES], help="a pass; repeatable")
    parser.add_argument("--quick", action="store_true", help="few blocks: does it run at all?")
    options = parser.parse_args()
    source = options.source.resolve()
    if not (source / "lazychunks").is_dir():
        parser.error(f"there is no package lazychunks in {source}")
    lines: list[list[str]] = []
    for name in options.only or PASSES:
        lines.append(compare(name, source, ROOT / "src", options.rounds, quick=options.quick))
        note(" | ".join(lines[-1]))
    print(table(HEADER, lines))  # noqa: T201 - what it is for


if __name__ == "__main__":
    main()
