"""Writes filled buffers in background threads, a bounded number at a time."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lazychunks.layout.shapes import Shape
from lazychunks.runs.interrupts import uninterrupted
from lazychunks.storage.chunks.filled import Filled


class Job(NamedTuple):
    """A buffer for a thread to write."""

    write: Callable[[Filled], None]
    filled: Filled
    ended: SimpleQueue[tuple[NDArray[Any], BaseException | None]]
    """Where the thread puts the buffer when the write has ended, with its failure."""
    drops: threading.Event
    """Set where writes that have not begun are left out."""


class WriterThreads:
    """Threads that write buffers; the writers of several arrays may share them.

    With threads for each array, they would wait for each other, and slow down the producer.

    Parameters
    ----------
    most
        Upper bound of their number.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self._todo: SimpleQueue[Job | None] = SimpleQueue()
        """Buffers that wait for a thread; None ends one."""
        self._threads: list[threading.Thread] = []
        # Threads end with an owner that nobody closes: they know the queue, and not it.
        weakref.finalize(self, self._todo.put, None)

    def put(self, job: Job, under_way: int) -> None:
        """Have a buffer written, while so many others of its writer are."""
        count = len(self._threads)
        if count < self.most and (under_way >= count or not self._todo.empty()):
            # An interrupt would leave a thread that nobody knows.
            with uninterrupted():
                thread = threading.Thread(
                    target=_work, args=(self._todo,), name="lazychunks-write", daemon=True
                )
                thread.start()
                self._threads.append(thread)
        self._todo.put(job)

    def close(self) -> None:
        """Wait for all that has been put, and end the threads."""
        self._todo.put(None)
        for thread in self._threads:
            thread.join()
        self._threads.clear()


class BackgroundWriter:
    """Writes filled buffers in threads, and recycles the buffers.

    - At most ``max_in_flight`` writes are under way. One more buffer may wait for its turn while
      the producer goes on; if there are more, :meth:`allocate` waits, which slows the producer
      down to the speed of the writes.
    - A failed write is raised by the next call of :meth:`allocate`, :meth:`submit` or
      :meth:`drain`.
    - After :meth:`close` nothing is written any more, even if an interrupt came during any call. If
      the threads are somebody else's, that holds once these are closed.
    - A process that a block function has forked cannot write: it has none of the threads.

    Parameters
    ----------
    write
        Writes one filled buffer; runs in a background thread.
    shape, dtype
        Of a buffer.
    threads
        What writes: a number of threads of its own, or those that it shares.
    recycle
        Whether a buffer may be used again once it is written. A store that keeps the buffer itself
        would otherwise see its values change.
    """

    def __init__(
        self,
        write: Callable[[Filled], None],
        shape: Shape,
        dtype: np.dtype[Any],
        threads: int | WriterThreads,
        recycle: bool = True,
    ) -> None:
        self._write = write
        self._shape = shape
        self._dtype = dtype
        self._owns_threads = isinstance(threads, int)
        self._threads = WriterThreads(threads) if isinstance(threads, int) else threads
        self._recycle = recycle
        self._ended: SimpleQueue[tuple[NDArray[Any], BaseException | None]] = SimpleQueue()
        """Buffers whose writes have ended, each with its failure."""
        self._under_way = 0
        """Number of buffers that have been submitted and not been taken back."""
        self._free: list[NDArray[Any]] = []
        self._drops = threading.Event()
        self._is_closed = False
        self._process = os.getpid()

    def allocate(self) -> NDArray[Any]:
        """Return a free buffer; its content is arbitrary."""
        self._check_process()
        while self._under_way > self._threads.most:
            self._take_back()
        return self._free.pop() if self._free else np.empty(self._shape, self._dtype)

    def submit(self, filled: Filled) -> None:
        """Write a buffer in the background, as soon as a thread is free."""
        self._check_process()
        while not self._ended.empty():
            self._take_back()
        self._under_way += 1
        job = Job(self._write, filled, self._ended, self._drops)
        self._threads.put(job, self._under_way - 1)

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
                if self._owns_threads:
                    self._threads.close()
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


def _work(todo: SimpleQueue[Job | None]) -> None:
    """Write buffers, in a thread, until there is a None among them."""
    while (job := todo.get()) is not None:
        failure: BaseException | None = None
        try:
            if not job.drops.is_set():
                job.write(job.filled)
        except BaseException as error:  # noqa: BLE001  # raised where it is taken back
            failure = error
        job.ended.put((job.filled.buffer, failure))
        del job, failure  # a thread that waits must not keep a buffer alive
    todo.put(None)  # for the next thread
