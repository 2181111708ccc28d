"""What a long run tells while it runs: progress bars, and its duration in the log."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from typing import TypeVar

from tqdm import tqdm

U = TypeVar("U")

_logger = logging.getLogger("lazychunks")


def is_shown(progress: bool | None) -> bool:
    """Whether a bar is shown: as asked for, else where stderr is a terminal."""
    if progress is not None:
        return progress
    # There may be no stderr, where there is no console, or one that can do no more than write.
    isatty = getattr(sys.stderr, "isatty", None)
    return isatty is not None and isatty()


def open_bar(noun: str) -> tqdm[None]:
    """Show a progress bar on stderr, whose total is not known yet."""
    return tqdm(total=None, desc=f"{noun}s", unit=noun)


def with_bar(steps: Iterable[U], total: int | None, noun: str) -> Iterable[U]:
    """Pass steps on, each of which moves a progress bar on stderr."""
    return tqdm(steps, total=total, desc=f"{noun}s", unit=noun)


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
