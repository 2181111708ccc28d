"""Many workers: what two are worth, what a task costs, and a plan of a million blocks."""

from __future__ import annotations

import statistics
import time
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import ExitStack
from multiprocessing import get_context
from typing import TYPE_CHECKING, Any

import numpy as np
from zarr.storage import LocalStore

from tests.benchmarks.measure import fresh_path, note
from tests.benchmarks.meter import measured
from tests.benchmarks.results import Figure, Scenario

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.benchmarks.scenarios import Setting
    from tests.benchmarks.workloads import Block


SECONDS_EACH = 0.05
NUMBERS = np.linspace(0, 1, 2**16)


def computed(number: int) -> Block:
    """Keep one core busy for a while."""
    start = time.thread_time()
    while time.thread_time() - start < SECONDS_EACH:
        np.sin(NUMBERS)
    return np.full((256, 1024), number, np.float32)


def tiny(number: int) -> Block:
    """Cost next to nothing."""
    return np.full((16, 64), number, np.float32)


def nothing(row: int, column: int) -> Block:
    """Cost next to nothing, in a nested sequence."""
    return np.full((4, 4), row + column, np.float32)


class Unlisted(LocalStore):
    """A directory that does not list its keys."""

    supports_listing = False


class Pretending(Executor):
    """Hands out receipts at once, and has nobody compute or write anything."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **_: Any) -> Future[Any]:
        from lazychunks.runs.runners import do_task
        from lazychunks.runs.shipping import unpack
        from lazychunks.storage.writing.part_writer import Receipt

        future: Future[Any] = Future()
        if fn is do_task:
            part = unpack(args[2])
            stop = 4 * (part.index[0] + len(part.rows))
            future.set_result(Receipt((stop, 4 * (part.index[1] + len(part.rows[0]))), blocks=1))
        else:
            future.set_result(fn(*args))
        return future


def spreading(setting: Setting) -> Scenario:
    """Compare executors with the serial writer."""
    rows: list[list[str]] = []
    figures: list[Figure] = []
    with ExitStack() as stack:
        threads = stack.enter_context(ThreadPoolExecutor(2))
        processes = stack.enter_context(ProcessPoolExecutor(2, mp_context=get_context("spawn")))
        crews: dict[str, Any] = {
            "serial": None,
            "two threads": threads,
            "two processes": processes,
        }
        client = _client(stack)
        if client is not None:
            crews["dask, two processes"] = client
        for crew in crews.values():
            _store(setting, tiny, 20, crew)  # all is imported and started
        count = 24 if setting.quick else 96
        busy = _medians(setting, computed, count, crews)
        many = 200 if setting.quick else 2000
        short = _medians(setting, tiny, many, crews)
        rows += [
            [
                name,
                f"{busy[name]:.2f} s",
                f"{busy['serial'] / busy[name]:.2f}",
                f"{short[name] / many * 1e3:.2f} ms",
            ]
            for name in crews
        ]
        gain = busy["serial"] / busy["two processes"]
        figures.append(
            Figure(
                "two worker processes over serial, producer that computes",
                "at least 1.7", f"{gain:.2f}", gain >= 1.7,
            )
        )  # fmt: skip
    side = 100 if setting.quick else 1000
    plan = measured(lambda: _plan(setting, side))
    seconds, grown = plan.wall, plan.added
    note(f"spreading: a plan of {side**2:,} blocks: {seconds:.1f} s, {grown:.1f} MiB")
    rows.append([f"coordinator alone, {side**2:,} blocks", f"{seconds:.1f} s, {grown:.1f} MiB", "",
                 f"{seconds / side**2 * 1e3:.3f} ms"])  # fmt: skip
    return Scenario(
        "spreading",
        f"Many workers: {count} blocks that take {SECONDS_EACH} s each, and {many:,} tiny ones",
        "Chunks are blocks, so each block is a task. The producer of the first column computes in "
        "one core; a tiny block of 16 x 64 costs nothing, so that its time is what a task costs. "
        "The coordinator alone hands out tasks to an executor that only pretends to have workers.",
        ["who computes and stores", "blocks that compute", "over serial", "a tiny block"],
        rows,
        figures,
    )


def _client(stack: ExitStack) -> Any:
    """Start a dask cluster of two processes, if dask is installed."""
    try:
        import distributed
    except ImportError:
        return None
    library: Any = distributed
    cluster = stack.enter_context(
        library.LocalCluster(2, threads_per_worker=1, processes=True, dashboard_address=":0")
    )
    return stack.enter_context(library.Client(cluster))


def _store(setting: Setting, fn: Callable[[int], Block], count: int, crew: Any) -> float:
    from lazychunks import IdentityConverter, LazyChunkSequence

    sequence = LazyChunkSequence.from_map(fn, range(count))
    with fresh_path(setting.folder) as path:
        start = time.perf_counter()
        sequence.to_zarr(path, IdentityConverter(), chunks="blocks", executor=crew)
        return time.perf_counter() - start


def _medians(
    setting: Setting, fn: Callable[[int], Block], count: int, crews: dict[str, Any]
) -> dict[str, float]:
    times: dict[str, list[float]] = {name: [] for name in crews}
    for _ in range(setting.repeats):
        for name, crew in crews.items():
            times[name].append(_store(setting, fn, count, crew))
            note(f"spreading: {fn.__name__}, {name}: {times[name][-1]:.2f} s")
    return {name: statistics.median(taken) for name, taken in times.items()}


def _plan(setting: Setting, side: int) -> None:
    from lazychunks import IdentityConverter, NestedLazyChunkSequence

    sequence = NestedLazyChunkSequence.from_product(nothing, range(side), range(side))
    with fresh_path(setting.folder) as path:
        sequence.to_zarr(
            Unlisted(path), IdentityConverter(), chunks="blocks", executor=Pretending(),
            max_in_flight=64,
        )  # fmt: skip
