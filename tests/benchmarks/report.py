"""The document: tables, figures, where we lose."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tests.benchmarks import chart
from tests.benchmarks.results import Figure, Results, Scenario, Timing
from tests.benchmarks.workloads import WORKLOADS, Workload
from tests.benchmarks.writers import WRITERS

if TYPE_CHECKING:
    from collections.abc import Iterator

_TITLES = {writer.name: writer.title for writer in WRITERS}

_HEAD = """\
# Benchmarks

<!-- Written by tests/benchmarks/run.py; run it again instead of editing this. -->

The same blocks go through each writer, with the same codec at the same level. Writers take turns
(A B C, B C A, ...), and a ratio is the median, over the rounds, of the other's time over ours:
above 1, we are faster. Everything that a writer stores is read back once and compared bit by bit.

- **Blocks** are generated before the clock starts and are all different: normal values of bfloat16
  precision in float32, which zstd takes to about 46 %.
- **Files** go to a local file system, named below, through the page cache; nobody waits for a disk
  but where it is said.
- **Memory** is the peak of the resident set of a fresh process while it writes, less what it was
  when all was imported, a small write had gone through and all the blocks were there.
- **Processor** time is that of all threads.

![Time of each peer over the time of lazychunks, for each workload](benchmarks.png)
"""


_HEAD_WITHOUT_RACES = """\
# Benchmarks: folds, reading, workers, a GPU

<!-- Written by tests/benchmarks/run.py; run it again instead of editing this. -->

How one pass, reading back, many workers and a GPU do; the writers' race is in {doc}`benchmarks`.
Times are medians over the rounds, of runs that take turns.
"""

_GPU = Path(__file__).with_name("gpu.md")
"""What gpu.py has printed on a machine that has one."""


def write(found: Results, folder: Path) -> None:
    """Write benchmarks.md and benchmarks.png into a folder; of scenarios alone, another page."""
    if not found.timings:
        scenarios = (part for scenario in found.scenarios for part in _scenario(scenario))
        parts = [_HEAD_WITHOUT_RACES, *_machine(found), *_goals(found), *scenarios]
        parts.append(_GPU.read_text())
        (folder / "benchmarks-folds.md").write_text("\n".join(parts).rstrip() + "\n")
        return
    parts = [
        _HEAD,
        *_machine(found),
        *_goals(found),
        *_losses(found),
        *(part for workload in WORKLOADS for part in _race(found, workload)),
        *(part for scenario in found.scenarios for part in _scenario(scenario)),
        *_writers(found),
    ]
    (folder / "benchmarks.md").write_text("\n".join(parts).rstrip() + "\n")
    chart.draw(found, folder / "benchmarks.png")


def table(head: list[str], rows: list[list[str]]) -> str:
    """Return a Markdown table, the first column to the left and the others to the right."""
    lines = [head, ["---", *["--:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def _machine(found: Results) -> Iterator[str]:
    yield "## Machine and versions\n"
    yield ", ".join(f"{what}: {value}" for what, value in found.machine.items()) + ".\n"
    yield ", ".join(f"{name} {version}" for name, version in found.versions.items()) + ".\n"
    yield f"Command, {found.repeats} rounds:\n\n```shell\n{found.command}\n```\n"
    if found.quick:
        yield "**A quick run over few blocks: the figures say nothing.**\n"


def _goals(found: Results) -> Iterator[str]:
    figures = [*_race_figures(found), *(f for s in found.scenarios for f in s.figures)]
    if not figures:
        return
    yield "## Figures to reach\n"
    yield table(
        ["figure", "asked", "measured", "reached"],
        [[f.what, f.asked, f.measured, "yes" if f.reached else "**no**"] for f in figures],
    )


def _race_figures(found: Results) -> Iterator[Figure]:
    for workload in WORKLOADS:
        for goal in workload.goals:
            ours = found.timing(workload.name, goal.ours)
            peer = found.timing(workload.name, goal.peer)
            if ours is None or peer is None:
                continue
            over = peer.over(ours)
            yield Figure(
                f"{workload.title}: {_TITLES[goal.peer]} over {_TITLES[goal.ours]}",
                f"at least {goal.ratio:g}",
                peer.skipped or ours.skipped or f"{over or 0:.2f}",
                over is not None and over >= goal.ratio,
            )


def _losses(found: Results) -> Iterator[str]:
    if not found.timings:
        return
    yield "## Where we lose\n"
    lines = [line for workload in WORKLOADS for line in _lost(found, workload)]
    yield ("\n".join(lines) or "Nowhere in this run.") + "\n"


def _lost(found: Results, workload: Workload) -> Iterator[str]:
    ours = found.timing(workload.name, "lazychunks")
    if ours is None or not ours.ran:
        return
    others = [
        t
        for t in found.timings
        if t.workload == workload.name and t.ran and not t.writer.startswith("lazychunks")
    ]
    faster = [
        f"{_TITLES[timing.writer]} ({over:.0%} of our time)"
        for timing in others
        if (over := timing.over(ours)) is not None and over < 1
    ]
    if faster:
        yield f"- {workload.title}. Faster: {', '.join(faster)}."
    leaner = [
        f"{_TITLES[timing.writer]} ({timing.peak:.0f})"
        for timing in others
        if timing.peak is not None and ours.peak is not None and timing.peak < ours.peak - 1
    ]
    if leaner:
        yield (
            f"- {workload.title}. Less memory than our {ours.peak:.0f} MiB: {', '.join(leaner)}."
        )


def _race(found: Results, workload: Workload) -> Iterator[str]:
    ours = found.timing(workload.name, "lazychunks")
    timings = [t for t in found.timings if t.workload == workload.name]
    if ours is None or not timings:
        return
    yield f"## {workload.title}\n"
    yield f"{workload.mebibytes:.0f} MiB in all.\n"
    yield table(
        ["writer", "time", "from - to", "processor", "over ours", "memory", "stored", "files"],
        [_line(timing, ours) for timing in timings],
    )


def _line(timing: Timing, ours: Timing) -> list[str]:
    title = _TITLES[timing.writer]
    if not timing.ran:
        return [title, timing.skipped, *[""] * 6]
    over = timing.over(ours)
    return [
        title,
        _seconds(timing.median),
        f"{_seconds(min(timing.seconds))} - {_seconds(max(timing.seconds))}",
        _seconds(sorted(timing.cpu)[len(timing.cpu) // 2]),
        "" if over is None else f"{over:.2f}",
        "" if timing.peak is None else f"{timing.peak:.0f} MiB",
        f"{timing.stored:.1f} MiB",
        f"{timing.files:,}",
    ]


def _seconds(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1e3:.0f} ms"


def _scenario(scenario: Scenario) -> Iterator[str]:
    yield f"## {scenario.title}\n"
    yield scenario.text + "\n"
    yield table(scenario.columns, scenario.rows)


def _writers(found: Results) -> Iterator[str]:
    names = {timing.writer for timing in found.timings}
    if names:
        yield "## The writers\n"
        yield "\n".join(
            f"- **{writer.title}**: {writer.note}." for writer in WRITERS if writer.name in names
        )
