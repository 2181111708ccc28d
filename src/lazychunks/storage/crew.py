"""The workers of an executor: what they are sent, and a bounded number of tasks under way."""

from __future__ import annotations

import importlib
import os
import pickle
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ThreadPoolExecutor, wait
from typing import Any, Self, TypeVar

from lazychunks.errors import NotSpreadableError
from lazychunks.storage.options import Provider
from lazychunks.storage.turnstile import Turnstile, wait_out
from lazychunks.storage.workers import (
    Assignment,
    Maker,
    Receipt,
    Sent,
    Shipped,
    Site,
    store,
)

T = TypeVar("T")

SENT_WITH_EACH_TASK = 2**20
"""Bytes up to which dask gets what all tasks share with each of them, and not beforehand."""

_CLOUDPICKLING = frozenset({"distributed", "loky"})

TASKS_EACH = 2
"""Number of tasks under way for each worker, where the user does not say: one waits for it."""


class Crew:
    """The workers of an executor, and what they have been given.

    Leaving it waits for what has begun, so that nothing is written later.

    Parameters
    ----------
    asked
        An executor, or what provides one.
    max_in_flight
        Number of tasks given and not ended, at most.
    """

    def __init__(self, asked: Executor | Provider, max_in_flight: int | None) -> None:
        if getattr(asked, "asynchronous", False):
            raise NotSpreadableError(
                "this client is asynchronous, and to_zarr waits for its workers; make the client "
                "without asynchronous=True"
            )
        self._client = asked if isinstance(asked, Provider) else None
        # Equal calls are not one call: a task that ran before must run again to write again.
        self._executor = asked.get_executor(pure=False) if isinstance(asked, Provider) else asked
        self.shares_memory: bool = type(self._executor) is ThreadPoolExecutor
        self._bound = max_in_flight or TASKS_EACH * _worker_count(asked)
        self._pending: dict[Future[Receipt], Assignment] = {}
        self._turnstile = Turnstile()
        context = getattr(self._executor, "_mp_context", None)
        if context is not None and context.get_start_method() == "fork" and "torch" in sys.modules:
            raise NotSpreadableError(
                "torch does not survive a fork, and this executor forks its workers; make it with "
                'mp_context=multiprocessing.get_context("spawn")'
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._client is None:  # dask forgets what is cancelled, but does not stop it
            for future in self._pending:
                future.cancel()
        try:
            if self.shares_memory:
                wait_out(self._turnstile.shut)
            else:
                wait_out(lambda: wait(self._pending))
        finally:
            self._pending.clear()

    def send(self, value: T, what: str) -> Sent[T]:
        """Make a value that every task gets.

        Raises
        ------
        NotSpreadableError
            If it cannot be sent to other processes.
        """
        if self.shares_memory:
            return value
        shipped: Shipped[T] = Shipped(self.pickled(value, what))
        if self._client is not None and len(shipped.data) > SENT_WITH_EACH_TASK:
            scattered: Sent[T] = self._client.scatter(shipped, broadcast=True)
            return scattered
        return shipped

    def pickled(self, value: object, what: str) -> bytes:
        """Pickle a value, as the executor does: dask and loky send what is defined inline, too."""
        package = type(self._executor).__module__.partition(".")[0]
        pickler: Any = (
            importlib.import_module("cloudpickle") if package in _CLOUDPICKLING else pickle
        )
        try:
            data: bytes = pickler.dumps(value)
        except Exception as error:
            raise NotSpreadableError(
                f"{what} cannot be sent to other processes ({type(error).__name__}: {error}); "
                "define functions and classes at the top level of a module, or use a "
                "ThreadPoolExecutor"
            ) from error
        return data

    def ask(self, fn: Callable[..., T], /, *args: object) -> T:
        """Give a task and wait for its result."""
        future: Future[Any] = self._executor.submit(fn, *args)
        self._pending[future] = _NOTHING
        wait((future,))
        del self._pending[future]
        result: T = future.result()
        return result

    def give(self, assignment: Assignment, maker: Sent[Maker[Any]], site: Sent[Site]) -> None:
        """Give an assignment to store."""
        work = self._store if self.shares_memory else store
        self._pending[self._executor.submit(work, maker, site, assignment)] = assignment

    def _store(self, maker: Sent[Maker[Any]], site: Sent[Site], assignment: Assignment) -> Receipt:
        """Store in a thread of this process, even of one that the executor does not know."""
        with self._turnstile:
            return store(maker, site, assignment)

    @property
    def is_busy(self) -> bool:
        """Whether no more may be given for now."""
        return len(self._pending) >= self._bound

    def collect(self) -> Iterator[tuple[Assignment, Receipt]]:
        """Wait until something has ended, and hand it out."""
        ended, _ = wait(self._pending, return_when=FIRST_COMPLETED)
        for future in ended:
            yield self._pending.pop(future), future.result()

    def collect_all(self) -> Iterator[tuple[Assignment, Receipt]]:
        """Wait until everything has ended, and hand it out."""
        while self._pending:
            yield from self.collect()


_NOTHING = Assignment((), (), (), ())


def _worker_count(asked: Executor | Provider) -> int:
    """Ask for the number of workers; the number of cores where nobody says."""
    threads = getattr(asked, "nthreads", None)
    if threads is not None:
        count: int = sum(threads().values())
        return max(count, 1)
    workers: int | None = getattr(asked, "_max_workers", None)
    return workers or os.cpu_count() or 1
