"""Bounded background writing: a few buffers in flight, the rest waits."""

from __future__ import annotations

import contextlib
import os
import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Any, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from lazychunks.layout.shapes import Shape
from lazychunks.storage.assembly import Filled

_Ended: TypeAlias = tuple[NDArray[Any], BaseException | None]
"""A buffer that is free again, and what went wrong."""


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


@dataclass(eq=False)
class BackgroundWriter:
    """Writes filled buffers in threads, and recycles the buffers.

    - At most ``max_in_flight`` writes are under way. One more buffer may wait for its turn, while
      the producer goes on; :meth:`allocate` waits where there are more, which is the back-pressure.
    - A failed write is raised by the next call of :meth:`allocate`, :meth:`submit` or
      :meth:`drain`.
    - After :meth:`close` nothing is written any more.
    """

    write: Callable[[Filled], None]
    """Writes one filled buffer; runs in a background thread."""
    shape: Shape
    """Shape of a buffer."""
    dtype: np.dtype[Any]
    max_in_flight: int
    """Upper bound of simultaneous writes."""
    recycle: bool = True
    """Whether a buffer may be used again once it is written."""
    _free: list[NDArray[Any]] = field(default_factory=list[NDArray[Any]], init=False)
    _under_way: int = field(default=0, init=False)
    _todo: SimpleQueue[Filled | None] = field(
        default_factory=SimpleQueue[Filled | None], init=False
    )
    _ended: SimpleQueue[_Ended] = field(default_factory=SimpleQueue[_Ended], init=False)
    _threads: list[threading.Thread] = field(default_factory=list[threading.Thread], init=False)
    _started: SimpleQueue[None] = field(default_factory=SimpleQueue[None], init=False)
    _turnstile: Turnstile = field(default_factory=Turnstile, init=False)

    def __post_init__(self) -> None:
        weakref.finalize(self, self._todo.put, None)  # threads end, whatever became of `close`

    def allocate(self) -> NDArray[Any]:
        """Return a free buffer; its content is arbitrary."""
        while self._under_way > self.max_in_flight:
            self._collect()
        return self._free.pop() if self._free else np.empty(self.shape, self.dtype)

    def submit(self, filled: Filled) -> None:
        """Write a buffer in the background, as soon as there is a free place."""
        if self._turnstile.is_shut:
            raise _TooLateError("no write can follow: the run has ended")
        while not self._ended.empty():
            self._collect()
        if self._under_way >= len(self._threads) < self.max_in_flight:
            desk = (self.write, self._todo, self._ended, self._started, self._turnstile)
            thread = threading.Thread(target=_work, args=desk, name="lazychunks-write", daemon=True)
            thread.start()
            self._started.get()
            self._threads.append(thread)
        self._under_way += 1
        self._todo.put(filled)

    def drain(self) -> None:
        """Wait for all writes, and raise the first failure."""
        while self._under_way:
            self._collect()

    def close(self, *, drop: bool = True) -> None:
        """Wait for the writes under way, and drop those that have not begun, or wait for them too.

        Failures of theirs are not raised; an interrupt is, once they have ended.
        """
        try:
            wait_out(lambda: self._leave(drop=drop))
        finally:
            self._free.clear()

    def _leave(self, *, drop: bool) -> None:
        """Send the threads away, which may be done again where it was interrupted."""
        if drop:
            self._turnstile.is_shut = True
        self._todo.put(None)
        self._turnstile.wait()
        self._turnstile.shut()  # a thread whose start was interrupted may come only now
        for thread in self._threads:
            thread.join()

    def _collect(self) -> None:
        """Wait for a write to end, and take its buffer back."""
        buffer, failure = self._ended.get()
        self._under_way -= 1
        if failure is not None:
            raise failure
        if self.recycle:
            self._free.append(buffer)


def _work(
    write: Callable[[Filled], None],
    todo: SimpleQueue[Filled | None],
    ended: SimpleQueue[_Ended],
    started: SimpleQueue[None],
    turnstile: Turnstile,
) -> None:
    """Write what there is to do, in a background thread."""
    with contextlib.suppress(_TooLateError), turnstile:
        started.put(None)
        while (filled := todo.get()) is not None:
            failure: BaseException | None = None
            try:
                if not turnstile.is_shut:
                    write(filled)
            except BaseException as error:  # noqa: BLE001 -- raised where it is collected
                failure = error
            ended.put((filled.buffer, failure))
            del filled, failure
        todo.put(None)  # for the next thread


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
