"""A gate for threads, for ``crew`` and ``keys``; it goes with them."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Self


class Turnstile:
    """Lets in, from any thread, until it is shut, which waits until all have left.

    An interrupt may come anywhere in the thread that waits, even within a lock or a pool of
    threads, which then hang for good, or know nothing of a thread whose start was interrupted. So
    those within are known by what they say themselves, and a queue, which no interrupt leaves
    half-way, tells when to look again.
    """

    def __init__(self) -> None:
        self.is_shut: bool = False
        self._inside: list[int] = []
        self._left: SimpleQueue[None] = SimpleQueue()
        self._process = os.getpid()

    def __enter__(self) -> Self:
        self._inside.append(threading.get_ident())
        if self.is_shut:  # looked at after it is known to be here, as shutting does it in turn
            self.__exit__()
            raise _TooLateError("this comes too late: the run that it belongs to has ended")
        return self

    def __exit__(self, *_: object) -> None:
        self._inside.remove(threading.get_ident())
        self._left.put(None)

    def wait(self) -> None:
        """Wait until nobody is within."""
        while self._inside and os.getpid() == self._process:  # a fork has none of the threads
            self._left.get()

    def shut(self) -> None:
        """Let no more in, and wait until those within have left."""
        self.is_shut = True
        self.wait()


class _TooLateError(RuntimeError):
    """What is turned away."""


def wait_out(wait: Callable[[], object]) -> None:
    """Wait to the end, however often that is interrupted; an interrupt is raised after it.

    A handler of signals may raise anything. What is raised twice is a failure of the waiting.
    """
    interrupt: BaseException | None = None
    while True:
        try:
            wait()
            break
        except BaseException as error:  # one more: what is under way ends all the same
            if isinstance(error, Exception) and type(error) is type(interrupt):
                raise
            interrupt = error
    if interrupt is not None:
        raise interrupt
