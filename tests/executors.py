"""Executors for tests: of processes that start in milliseconds, and one that shuffles."""

import pickle
import random
import threading
from collections.abc import Callable, Generator
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, TypeVar

import pytest
from typing_extensions import override

from tests.faults.processes import CONTEXT

__all__ = ["Shuffling", "cluster", "processes", "reused", "spawned"]

if TYPE_CHECKING:
    from distributed import Client

R = TypeVar("R")


@contextmanager
def processes(count: int = 2) -> Generator[ProcessPoolExecutor]:
    """Start a pool of processes from a server that has imported all."""
    with ProcessPoolExecutor(count, mp_context=CONTEXT) as executor:
        yield executor


def spawned() -> ProcessPoolExecutor:
    """Start a pool of processes as users do."""
    return ProcessPoolExecutor(2, mp_context=get_context("spawn"))


def reused() -> Any:
    """Start a pool of loky, whose processes a later call gets as well."""
    loky = pytest.importorskip("loky")
    return loky.get_reusable_executor(2, kill_workers=True)


@contextmanager
def cluster() -> Generator["Client"]:
    """Start two worker processes of dask, each with one thread; never the default for others."""
    distributed = pytest.importorskip("distributed")
    with (
        TemporaryDirectory() as folder,
        distributed.LocalCluster(
            n_workers=2,
            threads_per_worker=1,
            dashboard_address=":0",  # any free port: the usual one may be taken
            local_directory=folder,
        ) as workers,
        distributed.Client(workers, set_as_default=False) as client,
    ):
        yield client


class Shuffling(Executor):
    """Runs tasks one at a time, in any order, after a way there and back through pickle.

    Parameters
    ----------
    seed
        Of the order.
    """

    def __init__(self, seed: int = 0) -> None:
        self._random = random.Random(seed)  # noqa: S311  # repeatable
        self._changed = threading.Condition()
        self._waiting: list[tuple[Future[Any], bytes]] = []
        self._ended = False
        self.most = 0
        """The largest number of tasks that had been given and had not ended."""
        self.sizes: list[int] = []
        """Bytes of the results."""
        self._under_way = 0
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    @override
    def submit(self, fn: Callable[..., R], /, *args: Any, **kwargs: Any) -> Future[R]:
        future: Future[R] = Future()
        with self._changed:
            self._waiting.append((future, pickle.dumps((fn, args, kwargs))))
            self._under_way += 1
            self.most = max(self.most, self._under_way)
            self._changed.notify()
        return future

    @override
    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        with self._changed:
            self._ended = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._ended)
                if not self._waiting:
                    return
                chosen = self._random.randrange(len(self._waiting))
                future, task = self._waiting.pop(chosen)
            if future.set_running_or_notify_cancel():
                self._settle(future, task)

    def _settle(self, future: Future[Any], task: bytes) -> None:
        fn, args, kwargs = pickle.loads(task)  # noqa: S301
        try:
            answer = pickle.dumps(fn(*args, **kwargs))
        except BaseException as error:  # noqa: BLE001  # it is the caller's
            self._end()
            future.set_exception(error)
        else:
            self.sizes.append(len(answer))
            self._end()
            future.set_result(pickle.loads(answer))  # noqa: S301

    def _end(self) -> None:
        with self._changed:
            self._under_way -= 1
