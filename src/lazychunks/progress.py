"""Progress bars, and the duration of a run in the log."""

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
    """Whether to show a progress bar: as asked for, and by default if stderr is a terminal."""
    if progress is not None:
        return progress
    # A program without a console has no stderr, and one that logs has an stderr with `write` only.
    isatty = getattr(sys.stderr, "isatty", None)
    return isatty is not None and isatty()


def open_bar(noun: str) -> tqdm[None]:
    """Show a progress bar on stderr that the caller moves; its total is not known yet."""
    return tqdm(total=None, desc=f"{noun}s", unit=noun)


def add_bar(steps: Iterable[U], total: int | None, noun: str) -> Iterable[U]:
    """Pass steps on, and move a progress bar on stderr with each of them."""
    return tqdm(steps, total=total, desc=f"{noun}s", unit=noun)


@contextmanager
def log_duration(what: str) -> Generator[None, None, None]:
    """Log at INFO how long the body took, in seconds, whether it succeeds or fails."""
    start = time.perf_counter()
    outcome = "failed after"
    try:
        yield
        outcome = "took"
    finally:
        _logger.info("%s %s %.3f s", what, outcome, time.perf_counter() - start)
