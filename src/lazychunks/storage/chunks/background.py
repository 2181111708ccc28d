"""Writes filled buffers in background threads, a bounded number at a time."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lazychunks.layout.shapes import Shape
from lazychunks.runs.interrupts import uninterrupted
from lazychunks.storage.chunks.filled import Filled


class BackgroundWriter:
    """Writes filled buffers in threads, and recycles the buffers.

    - At most ``max_in_flight`` writes are under way. One more buffer may wait for its turn while
      the producer goes on; if there are more, :meth:`allocate` waits, which slows the producer
      down to the speed of the writes.
    - A failed write is raised by the next call of :meth:`allocate`, :meth:`submit` or
      :meth:`drain`.
    - After :meth:`close` nothing is written any more, even if an interrupt came during any call.
    - A process that a block function has forked cannot write: it has none of the threads.

    Parameters
    ----------
    write
        Writes one filled buffer; runs in a background thread.
    shape, dtype
        Of a buffer.
    max_in_flight
        Upper bound of simultaneous writes.
    recycle
        Whether a buffer may be used again once it is written. A store that keeps the buffer itself
        would otherwise see its values change.
    """

    def __init__(
        self,
        write: Callable[[Filled], None],
        shape: Shape,
        dtype: np.dtype[Any],
        max_in_flight: int,
        recycle: bool = True,
    ) -> None:
        self._write = write
        self._shape = shape
        self._dtype = dtype
        self._max_in_flight = max_in_flight
        self._recycle = recycle
        self._todo: SimpleQueue[Filled | None] = SimpleQueue()
        """Buffers that wait for a thread; None ends one."""
        self._ended: SimpleQueue[tuple[NDArray[Any], BaseException | None]] = SimpleQueue()
        """Buffers whose writes have ended, each with its failure."""
        self._under_way = 0
        """Number of buffers that have been submitted and not been taken back."""
        self._threads: list[threading.Thread] = []
        self._free: list[NDArray[Any]] = []
        self._drops = threading.Event()
        """Set where writes that have not begun are left out."""
        self._is_closed = False
        self._process = os.getpid()
        # Threads end with a writer that nobody closes: they know its queues, and not it.
        weakref.finalize(self, self._todo.put, None)

    def allocate(self) -> NDArray[Any]:
        """Return a free buffer; its content is arbitrary."""
        self._check_process()
        while self._under_way > self._max_in_flight:
            self._take_back()
        return self._free.pop() if self._free else np.empty(self._shape, self._dtype)

    def submit(self, filled: Filled) -> None:
        """Write a buffer in the background, as soon as a thread is free."""
        self._check_process()
        while not self._ended.empty():
            self._take_back()
        if self._under_way >= len(self._threads) < self._max_in_flight:
            # An interrupt would leave a thread that nobody knows.
            with uninterrupted():
                desk = (self._write, self._todo, self._ended, self._drops)
                thread = threading.Thread(
                    target=_work, args=desk, name="lazychunks-write", daemon=True
                )
                thread.start()
                self._threads.append(thread)
        self._under_way += 1
        self._todo.put(filled)

    def drain(self) -> None:
        """Wait for all writes, and raise the first failure."""
        self._check_process()
        while self._under_way:
            self._take_back()

    def close(self, *, drop: bool = True) -> None:
        """Wait for the writes under way, and drop those that have not begun, or wait for them too.

        Failures of writes are not raised. An interrupt is raised once the writes have ended.
        """
        self._is_closed = True
        if os.getpid() == self._process:
            with uninterrupted():
                if drop:
                    self._drops.set()
                self._todo.put(None)
                for thread in self._threads:
                    thread.join()
                self._threads.clear()
        self._free.clear()

    def _take_back(self) -> None:
        """Wait for a write to end, take its buffer back, and raise its failure."""
        buffer, failure = self._ended.get()
        self._under_way -= 1
        if failure is not None:
            raise failure
        if self._recycle:
            self._free.append(buffer)

    def _check_process(self) -> None:
        # The child of a fork would wait forever for threads that only its parent has.
        if self._is_closed:
            raise RuntimeError("this writer has been closed, so nothing can be written any more")
        refuse_forked(self._process)


def refuse_forked(writer: int) -> None:
    """Refuse to write in a process that a block function has forked, as its parent writes too.

    Raises
    ------
    RuntimeError
        If this is not the process ``writer``.
    """
    if os.getpid() != writer:
        raise RuntimeError(
            f"process {os.getpid()} was forked from process {writer}, which is writing this array; "
            "only that one can go on with it, so leave the child with os._exit"
        )


def _work(
    write: Callable[[Filled], None],
    todo: SimpleQueue[Filled | None],
    ended: SimpleQueue[tuple[NDArray[Any], BaseException | None]],
    drops: threading.Event,
) -> None:
    """Write buffers, in a thread, until there is a None among them."""
    while (filled := todo.get()) is not None:
        failure: BaseException | None = None
        try:
            if not drops.is_set():
                write(filled)
        except BaseException as error:  # noqa: BLE001  # raised where it is taken back
            failure = error
        ended.put((filled.buffer, failure))
        del filled, failure  # a thread that waits must not keep a buffer alive
    todo.put(None)  # for the next thread
