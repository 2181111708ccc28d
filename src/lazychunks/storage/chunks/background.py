"""Writes filled buffers in background threads, a bounded number at a time."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lazychunks.layout.shapes import Shape
from lazychunks.runs.interrupts import uninterrupted
from lazychunks.storage.chunks.filled import Filled

LOOK_EVERY = 0.1
"""Seconds after which a wait ends for a moment, so that a held Ctrl-C takes effect."""


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
        self._pool = ThreadPoolExecutor(max_in_flight, thread_name_prefix="lazychunks-write")
        self._pending: dict[Future[None], NDArray[Any]] = {}
        self._free: list[NDArray[Any]] = []
        self._process = os.getpid()

    def allocate(self) -> NDArray[Any]:
        """Return a free buffer; its content is arbitrary."""
        self._wait_until_pending(self._max_in_flight)
        return self._free.pop() if self._free else np.empty(self._shape, self._dtype)

    def submit(self, filled: Filled) -> None:
        """Write a buffer in the background, as soon as a thread is free."""
        self._check_process()
        with uninterrupted():
            self._take_back()
            self._pending[self._pool.submit(self._write, filled)] = filled.buffer

    def drain(self) -> None:
        """Wait for all writes, and raise the first failure."""
        self._wait_until_pending(0)

    def close(self, *, drop: bool = True) -> None:
        """Wait for the writes under way, and drop those that have not begun, or wait for them too.

        Failures of writes are not raised. An interrupt is raised once the writes have ended.
        """
        if os.getpid() == self._process:
            with uninterrupted():
                self._pool.shutdown(cancel_futures=drop)
        self._pending.clear()
        self._free.clear()

    def _wait_until_pending(self, most: int) -> None:
        """Wait until at most so many writes have not ended."""
        self._check_process()
        while True:
            with uninterrupted():
                if len(self._pending) > most:
                    wait(self._pending, LOOK_EVERY, FIRST_COMPLETED)
                self._take_back()
            if len(self._pending) <= most:
                return

    def _take_back(self) -> None:
        """Take the buffers of ended writes back, and raise the first failure.

        Even to look at a future takes a lock, which an interrupt would leave locked: the thread
        that writes would wait for it forever. So interrupts are held whenever this is called.
        """
        for future in [future for future in self._pending if future.done()]:
            buffer = self._pending.pop(future)
            future.result()
            if self._recycle:
                self._free.append(buffer)

    def _check_process(self) -> None:
        # The child of a fork would wait forever for threads that only its parent has, or write
        # into the array that its parent is writing.
        if os.getpid() != self._process:
            raise RuntimeError(
                f"process {os.getpid()} was forked from process {self._process}, which is writing "
                "this array; only that one can go on with it, so leave the child with os._exit"
            )
