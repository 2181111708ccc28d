"""Two worker processes and a second start: the time they save, and the bytes that travel.

    python -m tests.benchmarks.workers TASK ROUNDS FOLDER [--quick]

Runs one of the tasks below in a process whose libraries start no threads, and answers with a line
of JSON; ``run.py`` makes the tables of it.
"""

from __future__ import annotations

import contextlib
import json
import pickle
import shutil
import statistics
import sys
import time
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tests.benchmarks import writers
from tests.benchmarks.measure import ONE_THREAD, fresh_path, in_child, in_turns, over
from tests.benchmarks.results import Figure, Scenario
from tests.benchmarks.workloads import Block

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.benchmarks.scenarios import Setting

HEIGHT, WIDTH = 256, 1024
"""Height and width of a block: 1 MiB."""

SECONDS_EACH = 0.05
"""Time that one core takes for a block, about."""

K = 10
WORKERS = 2
LEAST_ROUNDS = 5


# Blocks --------------------------------------------------------------------------------------


@lru_cache
def weights() -> tuple[Block, Block]:
    """Make the first block and the weights of a model, once in each process."""
    generator = np.random.default_rng(20260)
    scale = np.float32(1.5 / WIDTH**0.5)
    return (
        generator.standard_normal((HEIGHT, WIDTH), np.float32),
        generator.standard_normal((WIDTH, WIDTH), np.float32) * scale,
    )


@dataclass(frozen=True, slots=True)
class Model:
    """Computes a block by a chain of matrix products, in one core."""

    products: int
    fails_at: int | None = None
    """The row at which it fails."""

    def __call__(self, row: int, column: int = 0) -> Block:
        """Compute a block, of bfloat16 precision, as a model does that computes in it."""
        if row == self.fails_at:
            raise RuntimeError("the first start ends here")
        block, layer = weights()
        block = block + np.float32(row + column / 8)
        for _ in range(self.products):
            block = np.tanh(block @ layer)
        return (block.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)


def calibrated() -> Model:
    """Return a model that takes about as long for a block as it should."""
    chains = {products: Model(products) for products in (1, 5)}
    for model in chains.values():
        model(0)
    seconds = {
        products: statistics.median(_seconds(partial(model, 0)) for _ in range(5))
        for products, model in chains.items()
    }
    each = max((seconds[5] - seconds[1]) / 4, 1e-6)
    return Model(max(1, round(SECONDS_EACH / each)))


def _seconds(task: Callable[[], object]) -> float:
    start = time.perf_counter()
    task()
    return time.perf_counter() - start


# Passes --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Passes:
    """The passes that are measured, over a grid of blocks, or over as many in one column."""

    model: Model
    down: int
    across: int

    @property
    def count(self) -> int:
        """Number of blocks."""
        return self.down * self.across

    def rank(self, **options: Any) -> Any:
        """Take the ten largest entries of each row of the matrix."""
        return self._grid().compute(_best(), progress=False, **options)

    def moments(self, **options: Any) -> Any:
        """Take mean and variance of each column."""
        library = writers.module("lazychunks")
        blocks = library.LazyChunkSequence.from_map(self.model, range(self.count))
        return blocks.compute(library.moments(), progress=False, **options)

    def store_and_rank(self, path: Path, named: dict[str, Any], **options: Any) -> Any:
        """Store the matrix, and take the ten largest entries of each row, in one pass."""
        library = writers.module("lazychunks")
        sink = library.zarr_sink(path, library.IdentityConverter(), **named)
        return self._grid().compute(library.tee(sink, _best()), progress=False, **options)

    def _grid(self) -> Any:
        nested = writers.module("lazychunks").NestedLazyChunkSequence
        return nested.from_product(self.model, range(self.down), range(self.across))


def _best() -> Any:
    library = writers.module("lazychunks")
    return library.nest(library.top_k(K, axis=1), library.concatenate())


def _passes(*, quick: bool) -> Passes:
    return Passes(calibrated(), 4, 2) if quick else Passes(calibrated(), 12, 4)


# Time ----------------------------------------------------------------------------------------


def time_workers(rounds: int, folder: Path, *, quick: bool) -> dict[str, dict[str, list[float]]]:
    """Run passes here and by two processes; and the model alone, for what two can save at most."""
    passes = _passes(quick=quick)
    compute = partial(_compute, passes.model)
    spawn = get_context("spawn")
    with ProcessPoolExecutor(WORKERS, mp_context=spawn) as pool:

        def store_and_rank(**options: Any) -> None:
            with fresh_path(folder) as path:
                passes.store_and_rank(path, {}, **options)

        def compute_all(executor: Executor | None = None) -> None:
            each: Any = map if executor is None else executor.map
            assert sum(each(compute, range(passes.count))) == passes.count

        tasks: dict[str, Callable[..., object]] = {
            "model": compute_all,
            "rank": passes.rank,
            "moments": passes.moments,
            "tee": store_and_rank,
        }
        return {
            name: in_turns(name, {"serial": task, "two": partial(task, executor=pool)}, rounds)
            for name, task in tasks.items()
        }


def _compute(model: Model, number: int) -> int:
    model(number)
    return 1


def time_resuming(rounds: int, folder: Path, *, quick: bool) -> dict[str, list[float]]:
    """Run a whole pass, and the second half of one."""
    passes = _passes(quick=quick)
    named = {"run_id": "benchmark", "resume": True}
    half = replace(passes, model=replace(passes.model, fails_at=passes.down // 2))
    kept = folder / "half-done"
    kept.mkdir()
    with contextlib.suppress(writers.module("lazychunks").WriteAbortedError):
        half.store_and_rank(kept / "out", named)

    times: dict[str, list[float]] = {"whole": [], "second half": []}
    for _ in range(-1, rounds):
        for name, taken in times.items():
            with fresh_path(folder) as path:
                if name == "second half":
                    shutil.copytree(kept, path.parent, dirs_exist_ok=True)
                taken.append(_seconds(partial(passes.store_and_rank, path, named)))
    return {name: taken[1:] for name, taken in times.items()}  # the first one warms up


# Bytes ---------------------------------------------------------------------------------------


class Counting(Executor):
    """Runs each task at once, and counts the bytes that would travel to another process."""

    _max_workers = WORKERS

    def __init__(self) -> None:
        self.sent = 0
        self.returned = 0

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Run a task that has been pickled and unpickled, as its result is."""
        task = pickle.dumps((fn, args, kwargs))
        self.sent += len(task)
        future: Future[Any] = Future()
        function, positional, named = pickle.loads(task)  # noqa: S301 - made above
        result = pickle.dumps(function(*positional, **named))
        self.returned += len(result)
        future.set_result(pickle.loads(result))  # noqa: S301 - the same
        return future


def count_bytes(rounds: int, folder: Path, *, quick: bool) -> dict[str, list[float]]:
    """Count what travels to workers and back, for each block; and the state of a single block."""
    del rounds, quick  # no figure of time, and cheap blocks
    whole, single = Passes(Model(0), 48, 4), Passes(Model(0), 1, 1)

    def store_and_rank(passes: Passes, executor: Executor) -> None:
        with fresh_path(folder) as path:
            passes.store_and_rank(path, {}, executor=executor)

    def counted(run: Callable[..., object], passes: Passes) -> Counting:
        executor = Counting()
        run(passes, executor=executor)
        return executor

    runs: dict[str, Callable[..., object]] = {
        "rank": Passes.rank,
        "moments": Passes.moments,
        "tee": store_and_rank,
    }
    found: dict[str, list[float]] = {}
    for name, run in runs.items():
        travelled, state = counted(run, whole), counted(run, single).returned
        found[name] = [travelled.sent / whole.count, travelled.returned / whole.count, state]
    return found


# Tables --------------------------------------------------------------------------------------

TITLES = {
    "model": "computing the blocks alone, `map`",
    "rank": "top 10 of each row, `nest(top_k(10, axis=1), concatenate())`",
    "moments": "`moments()`",
    "tee": "storing and ranking, `tee(zarr_sink(...), nest(...))`",
}


def _measure(task: str, setting: Setting) -> Any:
    rounds = setting.repeats if setting.quick else max(setting.repeats, LEAST_ROUNDS)
    flags = ["--quick"] if setting.quick else []
    return in_child("workers", task, str(rounds), str(setting.folder), *flags, **ONE_THREAD)


def workers(setting: Setting) -> Scenario:
    """Compare two processes with one, where blocks take time to compute."""
    found: dict[str, dict[str, list[float]]] = _measure("time_workers", setting)
    asked = {"rank": 1.8, "moments": 1.8, "tee": 1.7}
    gains = {name: over(times, "serial", "two") for name, times in found.items()}
    return Scenario(
        "workers",
        f"Two worker processes, blocks that take {SECONDS_EACH * 1e3:.0f} ms to compute",
        f"Blocks of {HEIGHT} x {WIDTH} are chains of matrix products, with one thread in each "
        "process; the pool has been started before. The first line has no library in it: two "
        "processes of this machine cannot save more. A sink compresses in the background, so that "
        "a serial pass that stores uses the second core as well.",
        ["pass", "serial", "two processes", "serial over two"],
        [
            [
                TITLES[name],
                *(f"{statistics.median(times[who]):.2f} s" for who in ("serial", "two")),
                f"{gains[name]:.2f}",
            ]
            for name, times in found.items()
        ],
        [
            Figure(
                f"two worker processes: {TITLES[name]}, serial over them",
                f"at least {least}",
                f"{gains[name]:.2f}",
                gains[name] >= least,
            )
            for name, least in asked.items()
        ],
    )


def resuming(setting: Setting) -> Scenario:
    """Compare the second half of a tee with the whole."""
    found: dict[str, list[float]] = _measure("time_resuming", setting)
    share = over(found, "second half", "whole")
    whole, rest = (statistics.median(found[name]) for name in ("whole", "second half"))
    return Scenario(
        "resuming",
        "Going on with a tee that was half done",
        "Storing and ranking, as above, serially. A start that has ended half-way has stored half "
        "of the blocks; the next one reads these back to rank them, computes one of them again to "
        "compare it, and computes the others.",
        ["whole pass", "going on half-way", "share"],
        [[f"{whole:.2f} s", f"{rest:.2f} s", f"{share:.2f}"]],
        [
            Figure(
                "resuming a half-done tee, over the whole pass",
                "at most 0.6",
                f"{share:.2f}",
                share <= 0.6,
            )
        ],
    )


def traveling(setting: Setting) -> Scenario:
    """Show what travels between processes."""
    found: dict[str, list[float]] = _measure("count_bytes", setting)
    block = 4 * HEIGHT * WIDTH
    return Scenario(
        "traveling",
        "Bytes that travel between processes, for each block",
        f"Of a pass over 192 blocks of {block:,} bytes with two workers, all that is pickled. The "
        "state is that of a part with one block; parts with more blocks have merged theirs.",
        ["pass", "to a worker", "back", "state of one block"],
        [
            [TITLES[name], *(f"{number:,.0f}" for number in numbers)]
            for name, numbers in found.items()
        ],
        [
            Figure(
                f"bytes that {'come back' if name == 'tee' else 'travel'} for each block: "
                f"{TITLES[name]}",
                f"at most {state:,.0f}, those of its state",
                f"{(count := returned if name == 'tee' else sent + returned):,.0f}",
                count <= state,
            )
            for name, (sent, returned, state) in found.items()
        ],
    )


TASKS: dict[str, Callable[..., object]] = {
    "time_workers": time_workers,
    "time_resuming": time_resuming,
    "count_bytes": count_bytes,
}


def main(task: str, rounds: str, folder: str, *flags: str) -> None:
    found = TASKS[task](int(rounds), Path(folder), quick="--quick" in flags)
    print(json.dumps(found))  # noqa: T201 - the answer to the parent process


if __name__ == "__main__":
    main(*sys.argv[1:])
