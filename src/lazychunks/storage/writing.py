"""Bounded background writing: a few buffers in flight, the rest waits."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from lazychunks.shapes import Shape
from lazychunks.storage.assembly import Filled

__all__ = ["BackgroundWriter", "Turnstile"]


class Turnstile:
    """Lets in, from any thread, until it is shut, which waits until all have left.

    A pool of threads cannot tell: it does not know a thread whose start was interrupted.
    """

    def __init__(self) -> None:
        self._inside = 0
        self._is_shut = False
        self._changed = threading.Condition()

    def __enter__(self) -> Self:
        with self._changed:
            if self._is_shut:
                raise RuntimeError("this comes too late: the run that it belongs to has ended")
            self._inside += 1
        return self

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._inside -= 1
            self._changed.notify_all()

    def shut(self) -> None:
        """Let no more in, and wait until those within have left."""
        with self._changed:
            self._is_shut = True
            self._changed.wait_for(lambda: not self._inside)


class BackgroundWriter:
    """Writes filled buffers in threads, and recycles the buffers.

    - At most ``max_in_flight`` writes are under way. One more buffer may wait for its turn, while
      the producer goes on; :meth:`allocate` waits where there are more, which is the back-pressure.
    - A failed write is raised by the next call of :meth:`allocate`, :meth:`submit` or
      :meth:`drain`.
    - After :meth:`close` nothing is written any more.

    Parameters
    ----------
    write
        Writes one filled buffer; runs in a background thread.
    shape, dtype
        Of a buffer.
    max_in_flight
        Upper bound of simultaneous writes.
    recycle
        Whether a buffer may be used again once it is written.
    """

    def __init__(
        self,
        write: Callable[[Filled], None],
        shape: Shape,
        dtype: np.dtype[Any],
        max_in_flight: int,
        *,
        recycle: bool = True,
    ) -> None:
        self._write = write
        self._shape = shape
        self._dtype = dtype
        self._max_in_flight = max_in_flight
        self._recycle = recycle
        self._pool = ThreadPoolExecutor(max_in_flight, thread_name_prefix="lazychunks-write")
        self._pending: dict[Future[None], NDArray[Any]] = {}
        self._ended: SimpleQueue[Future[None]] = SimpleQueue()
        self._free: list[NDArray[Any]] = []
        self._turnstile = Turnstile()

    def allocate(self) -> NDArray[Any]:
        """Return a free buffer; its content is arbitrary."""
        while len(self._pending) > self._max_in_flight:
            self._collect()
        return self._free.pop() if self._free else np.empty(self._shape, self._dtype)

    def submit(self, filled: Filled) -> None:
        """Write a buffer in the background, as soon as there is a free place."""
        while not self._ended.empty():
            self._collect()
        future = self._pool.submit(self._run, filled)
        self._pending[future] = filled.buffer
        future.add_done_callback(self._ended.put)

    def drain(self) -> None:
        """Wait for all writes, and raise the first failure."""
        while self._pending:
            self._collect()

    def close(self, *, drop: bool = True) -> None:
        """Wait for the writes under way, and drop those that have not begun, or wait for them too.

        Failures of theirs are not raised; an interrupt is, once they have ended.
        """
        interrupt: KeyboardInterrupt | None = None
        while True:
            try:
                self._pool.shutdown(wait=True, cancel_futures=drop)
                self._turnstile.shut()
                break
            except KeyboardInterrupt as error:  # one more: what is under way ends all the same
                interrupt = error
        self._pending.clear()
        self._free.clear()
        if interrupt is not None:
            raise interrupt

    def _run(self, filled: Filled) -> None:
        with self._turnstile:
            self._write(filled)

    def _collect(self) -> None:
        """Wait for a write to end, and take its buffer back."""
        future = self._ended.get()
        buffer = self._pending.pop(future)
        future.result()
        if self._recycle:
            self._free.append(buffer)
