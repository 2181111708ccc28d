"""Ranks for tests: the threads of this process, each of which makes the same call."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

__all__ = ["Group", "ThreadRanks", "run_ranks"]

T = TypeVar("T")

TIMEOUT = 30.0
"""Seconds after which a rank that waits for the others is a failure of the test."""


class Group:
    """What the threads share.

    Parameters
    ----------
    size
        Number of threads.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.exchanges = 0
        """Number of exchanges so far."""
        self.sizes: list[int] = []
        """Bytes of the values."""
        self._values: list[Any] = [None] * size
        self._barrier = threading.Barrier(size, timeout=TIMEOUT)

    def all_gather(self, rank: int, value: T) -> list[T]:
        """Exchange values."""
        self._values[rank] = value
        self._barrier.wait()
        values = list(self._values)
        if rank == 0:
            self.exchanges += 1
            self.sizes.extend(map(len, values))
        self._barrier.wait()
        return values

    def abort(self) -> None:
        """Let all exchanges fail, as if a rank had been killed."""
        self._barrier.abort()


@dataclass
class ThreadRanks:
    """One of the threads."""

    group: Group
    rank: int
    fails_at: int | None = None
    """Number of the exchange at which this rank is killed."""
    exchanges: int = field(default=0, init=False)

    @property
    def size(self) -> int:
        """Number of threads."""
        return self.group.size

    def all_gather(self, value: T, /) -> list[T]:
        """Exchange values."""
        self.exchanges += 1
        if self.fails_at == self.exchanges:
            self.group.abort()
            raise Killed
        return self.group.all_gather(self.rank, value)


class Killed(BaseException):
    """Ends a rank without a word to the others."""


def run_ranks(
    size: int, job: Callable[[ThreadRanks], T], group: Group | None = None
) -> Sequence[T | BaseException]:
    """Make each rank do a job, and return what each of them came to: a result or an error."""
    group = group or Group(size)
    came_to: list[Any] = [None] * size

    def run(rank: int) -> None:
        try:
            came_to[rank] = job(ThreadRanks(group, rank))
        except BaseException as error:  # noqa: BLE001  # it is what the test asks for
            came_to[rank] = error

    threads = [threading.Thread(target=run, args=(rank,), daemon=True) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(2 * TIMEOUT)
        assert not thread.is_alive(), "a rank hangs"
    return came_to
