"""Processes that a test may kill: they start in milliseconds, from a server that has imported all.

The server starts no thread, so forking it is safe.
"""

import multiprocessing
import os
import signal
from collections.abc import Callable, Generator
from contextlib import contextmanager
from multiprocessing.context import ForkServerContext, ForkServerProcess
from typing import Any

__all__ = [
    "CONTEXT",
    "StoppedClock",
    "die",
    "died_by_sigkill",
    "running",
    "spill_after_each_block",
    "starting",
]


def starting() -> ForkServerContext:
    """Return the context in which such processes start."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.faults.jobs", "lazychunks.storage"])
    return context


CONTEXT = starting()


@contextmanager
def running(target: Callable[..., object], *args: Any) -> Generator[ForkServerProcess]:
    """Run a function in a process of its own, which is gone afterwards."""
    process = CONTEXT.Process(target=target, args=args)
    process.start()
    try:
        yield process
    finally:
        process.kill()
        process.join()
        process.close()


class StoppedClock:
    """A clock by which spilling takes no time."""

    @staticmethod
    def monotonic() -> float:
        """Return the time."""
        return 0.0


def spill_after_each_block() -> None:
    """Have this process spill as if each block had come a second after the one before it.

    What a kill costs is otherwise for the clock to say.
    """
    from lazychunks.storage.resuming import spill
    from lazychunks.storage.writing import part_writer

    setattr(spill, "SECONDS", 0)  # noqa: B010  # mypy wants no assignment
    setattr(part_writer, "time", StoppedClock)  # noqa: B010


def die(*_: object) -> None:
    """Be killed, here and now."""
    os.kill(os.getpid(), signal.SIGKILL)


def died_by_sigkill(process: ForkServerProcess) -> bool:
    """Wait for its end, and tell whether it was killed."""
    process.join()
    return process.exitcode == -signal.SIGKILL
