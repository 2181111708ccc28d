"""What a long run tells while it runs: progress bars, and its duration in the log.

The sequence that reaches an aggregator reports by itself, so that every aggregator (``list`` and
``max`` included) has a bar for free.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Generic, TypeVar

from tqdm import tqdm

from lazychunks.sources import opened, opened_row

__all__ = ["Reported", "ReportedRows", "is_shown", "logged_duration"]

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

logger = logging.getLogger("lazychunks")


def is_shown(progress: bool | None) -> bool:
    """Whether a bar is shown: as asked for, else where stderr is a terminal."""
    return sys.stderr.isatty() if progress is None else progress


@dataclass(frozen=True, slots=True)
class Reported(Generic[T_co]):
    """A factory of blocks that move a progress bar."""

    source: Callable[[], Iterable[T_co]]
    total: int | None

    def __call__(self) -> Iterator[T_co]:
        """All blocks, in order."""
        return iter(tqdm(opened(self.source), total=self.total, desc="blocks", unit="block"))


@dataclass(frozen=True, slots=True)
class ReportedRows(Generic[T_co]):
    """A factory of rows whose blocks move one progress bar.

    The total is known once the first row has told how many blocks a row has.
    """

    source: Callable[[], Iterable[Iterable[T_co]]]
    total_rows: int | None

    def __call__(self) -> Iterator[Iterator[T_co]]:
        """All rows, in order."""
        with tqdm(total=None, desc="blocks", unit="block") as bar:
            for index, row in enumerate(opened(self.source)):
                yield self._row(row, bar)
                if index == 0 and self.total_rows is not None:
                    bar.total = bar.n * self.total_rows
                    bar.refresh()

    def _row(self, row: Iterable[T_co], bar: tqdm[None]) -> Iterator[T_co]:
        for block in opened_row(row):
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
        logger.info("%s %s %.3f s", what, outcome, time.perf_counter() - start)
