"""Who goes through parts: the workers of an executor, or of a dask cluster.

A runner has few verbs, so that another kind of helper is one class: ``ask`` for one answer,
``send`` what all tasks share, and have ``each`` task done by somebody.
"""

from __future__ import annotations

import importlib
import os
import pickle
import sys
from collections.abc import Callable, Collection, Generator, Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any, NamedTuple, Protocol, TypeVar, runtime_checkable

from lazychunks.errors import NotSpreadableError
from lazychunks.layout.checks import block_name, check_positive
from lazychunks.layout.parts import AnyPart
from lazychunks.runs.interrupts import uninterrupted, wait_for_any
from lazychunks.runs.passes import ALONE, Peers, State
from lazychunks.runs.shipping import Sent, Shipped, receive, unpack

T = TypeVar("T")

TASKS_EACH = 2
"""Number of tasks under way for each worker, where the user does not say: one waits for it."""

SENT_WITH_EACH_TASK = 2**20
"""Bytes up to which dask gets what all tasks share with each of them, and not beforehand."""

_UNFORKABLE = ("torch", "obstore", "icechunk")
"""Packages with threads of their own, for which a forked worker would wait for ever."""

_CLOUDPICKLING = frozenset({"distributed", "loky"})
"""Packages whose executors send functions that are defined inline."""


@runtime_checkable
class Provider(Protocol):
    """What hands out an executor: a ``dask.distributed.Client``."""

    def get_executor(self, **options: Any) -> Executor:
        """Return an executor over its workers."""
        ...

    def scatter(self, data: Any, *, broadcast: bool) -> Any:
        """Send a value to its workers, and return what stands for it in a task's arguments."""
        ...


class Ended(Protocol):
    """A pass over a part that has taken all blocks."""

    def state(self) -> State:
        """Return the outcome of the part, once all of it is written."""
        ...


class Work(Protocol):
    """Goes through parts: a :class:`.walk.PartWork`, in a pass of a fold."""

    def open(
        self, fn: Callable[..., Any], part: AnyPart, verify: Collection[int], /
    ) -> AbstractContextManager[Ended]:
        """Go through a part, and hand out its pass, some of which may still be written."""
        ...


class Task(NamedTuple):
    """A part for somebody to go through."""

    fn: Sent[Callable[..., Any]]
    """Computes a block from its items."""
    work: Sent[Work]
    part: AnyPart
    """It has the items of its blocks, and not the function."""
    verify: frozenset[int]
    """Numbers of the shelves to be verified, as in :meth:`.walk.Walk.go_through`."""


class Runner(Protocol):
    """Who goes through the parts of a pass."""

    shares_memory: bool
    """Whether everybody sees the memory of this process."""
    workers: int
    """How many tasks are worked on at the same time, about."""
    peers: Peers
    """Who else drives the pass, with a runner of its own."""

    def ask(self, fn: Callable[..., T], /, *args: Any) -> T:
        """Have one member call a function, and return its result."""
        ...

    def send(self, value: T, what: str) -> Sent[T]:
        """Make of what all tasks share a value that each member gets once.

        ``what`` names it for the message if it cannot be sent.
        """
        ...

    def each(self, tasks: Iterable[Task | None]) -> Generator[tuple[AnyPart, State]]:
        """Have every task done by somebody, and yield the states of parts as they come.

        Tasks are drawn as there is room for them. None among them means that the next one has to
        wait, and is drawn once one more of those under way has ended. Nothing is under way any more
        once the generator has ended, or has been closed.
        """
        ...


class Workers:
    """The workers of an executor, a bounded number of tasks at a time.

    Parameters
    ----------
    executor
        An executor, or what provides one.
    max_in_flight
        Number of tasks given and not ended, at most; by default two for each worker.

    Raises
    ------
    NotSpreadableError
        If it cannot work for a caller that waits, or would fork what does not survive it.
    TypeError, ValueError
        If it is no executor, or the bound is not a positive integer.
    """

    def __init__(self, executor: Executor | Provider, max_in_flight: int | None) -> None:
        if getattr(executor, "asynchronous", False):
            raise NotSpreadableError(
                "this client is asynchronous, and this call waits for its workers; make the client "
                "without asynchronous=True"
            )
        _check_executor(executor)
        self._client = executor if isinstance(executor, Provider) else None
        # pure=False: dask would run two equal tasks once, also where the first was another run's.
        self.executor: Executor = (
            executor.get_executor(pure=False) if isinstance(executor, Provider) else executor
        )
        self.peers: Peers = ALONE
        self.shares_memory: bool = type(self.executor) is ThreadPoolExecutor
        self.workers: int = _count_workers(executor)
        self.max_in_flight: int = (
            TASKS_EACH * self.workers
            if max_in_flight is None
            else check_positive(max_in_flight, "max_in_flight")
        )
        context = getattr(self.executor, "_mp_context", None)
        if context is not None and context.get_start_method() == "fork":
            for package in filter(sys.modules.__contains__, _UNFORKABLE):
                raise NotSpreadableError(
                    f"{package} does not survive a fork, and this executor forks its workers; make "
                    'it with mp_context=multiprocessing.get_context("spawn")'
                )

    def ask(self, fn: Callable[..., T], /, *args: Any) -> T:
        """Have one worker call a function, and wait for its result."""
        pending: dict[Future[T], None] = {}
        try:
            with uninterrupted():  # or nobody would have the future, and wait for it
                pending[self.executor.submit(fn, *args)] = None
            (ended,) = wait_for_any(pending)
            return ended.result()
        finally:
            self.end(pending)

    def pack(self, value: T, what: str) -> Sent[T]:
        """Pickle a value, if workers are in other processes.

        Raises
        ------
        NotSpreadableError
            If it cannot be pickled; ``what`` names it.
        """
        if self.shares_memory:
            return value
        # dask and loky send what is defined inline, too: with cloudpickle, as they come with it.
        package = type(self.executor).__module__.partition(".")[0]
        pickler: Any = (
            importlib.import_module("cloudpickle") if package in _CLOUDPICKLING else pickle
        )
        try:
            return Shipped(pickler.dumps(value))
        except Exception as error:
            raise NotSpreadableError(
                f"{what} cannot be sent to other processes ({type(error).__name__}: {error}); "
                "define functions and classes at the top level of a module, or use a "
                "ThreadPoolExecutor"
            ) from error

    def send(self, value: T, what: str) -> Sent[T]:
        """Pickle what all tasks share, once; a large value goes to a dask cluster beforehand.

        Raises
        ------
        NotSpreadableError
            If it cannot be sent there.
        """
        packed: Any = self.pack(value, what)
        if self._client is not None and len(packed.data) > SENT_WITH_EACH_TASK:
            packed = self._client.scatter(packed, broadcast=True)
        sent: Sent[T] = packed
        return sent

    def each(self, tasks: Iterable[Task | None]) -> Generator[tuple[AnyPart, State]]:
        """Give tasks to the workers, and yield the states of parts in the order of completion.

        Raises
        ------
        NotSpreadableError
            If an item cannot be sent to other processes.
        """
        pending: dict[Future[State], AnyPart] = {}
        try:
            for task in tasks:
                if task is not None:
                    while len(pending) >= self.max_in_flight:
                        yield from _collect(pending)
                    place = block_name(task.part.index[: task.part.axes])
                    part = self.pack(task.part, f"an item of block {place}, or of those after it,")
                    with uninterrupted():  # or nobody would have the future, and wait for it
                        future = self.executor.submit(
                            do_task, task.fn, task.work, part, task.verify
                        )
                        pending[future] = task.part
                elif pending:
                    yield from _collect(pending)
            while pending:
                yield from _collect(pending)
        finally:
            self.end(pending)

    def end(self, futures: Collection[Future[Any]], *, cancels: bool = True) -> None:
        """Cancel what has not begun, and wait for the rest; an interrupt is raised afterwards."""
        with uninterrupted():
            # dask forgets what is canceled, but does not stop it.
            if cancels and self._client is None:
                for future in futures:
                    future.cancel()
            wait(futures)


class BlockExecutor(Executor):
    """Computes single blocks by workers, for whatever needs the blocks themselves.

    The function of the blocks is sent once. Leaving it waits until nothing is under way any more;
    after a failure, what has not begun is canceled.

    Parameters
    ----------
    workers
        Who computes.
    """

    def __init__(self, workers: Workers) -> None:
        self._workers = workers
        self._fn: Any = None
        """The function of the blocks; and as it is sent."""
        self._sent: Any = None
        self._under_way: set[Future[Any]] = set()

    def submit(self, fn: Callable[..., T], /, *_: Any, **__: Any) -> Future[T]:
        """Compute a block; ``fn`` is its call.

        Raises
        ------
        NotSpreadableError
            If the function or the items cannot be sent to other processes.
        """
        call: Any = fn
        if self._fn is not call.func:
            self._fn = call.func
            self._sent = self._workers.send(call.func, "the function that computes blocks")
        items = self._workers.pack(call.args, "an item")
        with uninterrupted():
            future: Future[T] = self._workers.executor.submit(compute_block, self._sent, items)
            self._under_way.add(future)
        future.add_done_callback(self._under_way.discard)
        return future

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._workers.end(tuple(self._under_way), cancels=kind is not None)


def compute_block(fn: Sent[Callable[..., T]], items: Sent[tuple[Any, ...]]) -> T:
    """Compute one block; runs in a worker."""
    return receive(fn)(*unpack(items))


def do_task(
    fn: Sent[Callable[..., Any]],
    work: Sent[Work],
    part: Sent[AnyPart],
    verify: frozenset[int],
) -> State:
    """Go through one part; runs in a worker."""
    with receive(work).open(receive(fn), unpack(part), verify) as running:
        return running.state()


def _check_executor(executor: object) -> None:
    """Refuse what is no executor; callers need not be typed."""
    if not isinstance(executor, Executor | Provider):
        raise TypeError(
            "executor must be a concurrent.futures.Executor or a dask.distributed.Client, got "
            f"{type(executor).__name__}"
        )


def _collect(pending: dict[Future[State], AnyPart]) -> Iterator[tuple[AnyPart, State]]:
    """Wait until something has ended, and hand it out."""
    for future in wait_for_any(pending):
        yield pending.pop(future), future.result()


def _count_workers(executor: Executor | Provider) -> int:
    """Ask for the number of workers; the number of cores where nobody says."""
    threads = getattr(executor, "nthreads", None)
    if threads is not None:
        count: int = sum(threads().values())
        return max(count, 1)
    workers: int | None = getattr(executor, "_max_workers", None)
    return workers or os.cpu_count() or 1
