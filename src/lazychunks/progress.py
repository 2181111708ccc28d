"""What a long run tells while it runs: progress bars, and its duration in the log.

The sequence that reaches an aggregator reports by itself, so that every aggregator (``list`` and
``max`` included) has a bar for free.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from tqdm import tqdm

from lazychunks.sources import Wrapper, opened, opened_rows

__all__ = ["Reported", "ReportedRows", "is_shown", "logged_duration", "with_bar"]

U = TypeVar("U")

_logger = logging.getLogger("lazychunks")


def is_shown(progress: bool | None) -> bool:
    """Whether a bar is shown: as asked for, else where stderr is a terminal."""
    if progress is not None:
        return progress
    # There may be no stderr, where there is no console, or one that can do no more than write.
    isatty = getattr(sys.stderr, "isatty", None)
    return isatty is not None and isatty()


def with_bar(steps: Iterable[U], total: int | None, noun: str) -> Iterable[U]:
    """Pass steps on, each of which moves a progress bar on stderr."""
    return tqdm(steps, total=total, desc=f"{noun}s", unit=noun)


@dataclass(frozen=True, slots=True)
class Reported(Wrapper):
    """A factory of blocks that move a progress bar."""

    total: int | None

    def __call__(self) -> Iterator[Any]:
        """All blocks, in order."""
        return iter(with_bar(opened(self.inner), self.total, "block"))


@dataclass(frozen=True, slots=True)
class ReportedRows(Wrapper):
    """A factory of rows whose blocks move one progress bar.

    The total is known once the first row has told how many blocks a row has.
    """

    total_rows: int | None

    def __call__(self) -> Iterator[Iterator[Any]]:
        """All rows, in order."""
        with tqdm(total=None, desc="blocks", unit="block") as bar:
            for index, row in enumerate(opened_rows(self.inner)):
                yield self._row(row, bar)
                if index == 0 and self.total_rows is not None:
                    bar.total = bar.n * self.total_rows
                    bar.refresh()

    def _row(self, row: Iterator[U], bar: tqdm[None]) -> Iterator[U]:
        for block in row:
            yield block
            bar.update()


@contextmanager
def logged_duration(what: str) -> Generator[None, None, None]:
    """Log at INFO how long the body took, in seconds, whether it succeeds or fails."""
    start = time.perf_counter()
    outcome = "failed after"
    try:
        yield
        outcome = "took"
    finally:
        _logger.info("%s %s %.3f s", what, outcome, time.perf_counter() - start)
