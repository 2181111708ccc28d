"""What has been measured, as values that can be saved and shown again."""

from __future__ import annotations

import dataclasses
import json
import statistics
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(slots=True)
class Timing:
    """All runs of one writer on one workload; times in seconds, sizes in MiB."""

    workload: str
    writer: str
    skipped: str = ""
    """Why it did not run; empty if it did."""
    seconds: list[float] = field(default_factory=list[float])
    """Wall clock of each run."""
    cpu: list[float] = field(default_factory=list[float])
    """Processor time of each run, all threads."""
    rounds: list[int] = field(default_factory=list[int])
    """In which round each run took place."""
    peak: float | None = None
    """Most memory of a fresh process while writing, less what it had before."""
    stored: float = 0.0
    files: int = 0

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def ran(self) -> bool:
        return bool(self.seconds)

    def over(self, ours: Timing) -> float | None:
        """Return the median, over the rounds that both ran in, of this time over ours."""
        mine = dict(zip(self.rounds, self.seconds, strict=True))
        pairs = [
            mine[number] / seconds
            for number, seconds in zip(ours.rounds, ours.seconds, strict=True)
            if number in mine
        ]
        return statistics.median(pairs) if pairs else None


@dataclass(slots=True)
class Scenario:
    """A measurement that is not a race of writers: a small table, and figures to reach."""

    name: str
    title: str
    text: str
    columns: list[str]
    rows: list[list[str]]
    figures: list[Figure] = field(default_factory=list["Figure"])


@dataclass(slots=True)
class Figure:
    """A figure that was asked for, beside what was measured."""

    what: str
    asked: str
    measured: str
    reached: bool


@dataclass(slots=True)
class Results:
    """One run of the benchmark."""

    machine: dict[str, str]
    versions: dict[str, str]
    command: str
    repeats: int
    quick: bool = False
    timings: list[Timing] = field(default_factory=list[Timing])
    scenarios: list[Scenario] = field(default_factory=list[Scenario])

    def timing(self, workload: str, writer: str) -> Timing | None:
        """Return what was measured of a writer on a workload, if it was asked to run."""
        for timing in self.timings:
            if (timing.workload, timing.writer) == (workload, writer):
                return timing
        return None

    def save(self, path: Path) -> None:
        path.write_text(json.dumps(dataclasses.asdict(self), indent=1) + "\n")


def load(path: Path) -> Results:
    """Read back what :meth:`Results.save` wrote."""
    document: dict[str, Any] = json.loads(path.read_text())
    timings = [Timing(**fields) for fields in document.pop("timings")]
    scenarios: list[Scenario] = []
    for fields in document.pop("scenarios"):
        figures = [Figure(**figure) for figure in fields.pop("figures")]
        scenarios.append(Scenario(**fields, figures=figures))
    return Results(**document, timings=timings, scenarios=scenarios)
