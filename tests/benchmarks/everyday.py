"""A small set of everyday passes, by public names that every commit to be compared has.

    python -m tests.benchmarks.everyday PASS SOURCE FOLDER [--quick]

Runs one of them, with the package from the folder SOURCE: once to check the result, and then once
for each line of its standard input. It answers each with a line of JSON: the seconds on the wall
clock, the seconds of processor time, and the MiB of memory that it added at its peak.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import sys
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from itertools import repeat
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tests.benchmarks.measure import fresh_path
from tests.benchmarks.meter import measured
from tests.benchmarks.workloads import Block, realistic
from tests.benchmarks.writers import module

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

TINY = 16, 64
"""Shape of a block of 4 KiB."""

POOL = 8
"""Number of different blocks of each shape."""


@dataclass(frozen=True, slots=True)
class Pass:
    """One way to go through blocks."""

    run: Callable[[Path], Any]
    """Gets a path that does not exist."""
    is_right: Callable[[Any], bool]
    """Whether that is the result."""
    prepare: Callable[[Path], object] = lambda _: None
    """Does beforehand what does not count."""
    workers: tuple[int, ...] = ()
    """Numbers of the worker processes."""


# Blocks --------------------------------------------------------------------------------------


@lru_cache
def pool(height: int, width: int) -> list[Block]:
    """Make the different blocks of a shape, once in each process."""
    generator = np.random.default_rng(20260)
    return [realistic(generator, height, width) for _ in range(POOL)]


@dataclass(frozen=True, slots=True)
class Ready:
    """Hands out a block that is in memory, in worker processes as well."""

    height: int
    width: int
    fails_at: int | None = None

    def __call__(self, row: int, column: int = 0) -> Block:
        """Return a block by its place."""
        if row == self.fails_at:
            raise RuntimeError("the first start ends here")
        return pool(self.height, self.width)[(row + 3 * column) % POOL]


def flat(shape: tuple[int, int], count: int) -> Any:
    """Return a sequence by a generator."""
    blocks = pool(*shape)
    return module("lazychunks").LazyChunkSequence(
        lambda: (blocks[number % POOL] for number in range(count)), count
    )


def mapped(shape: tuple[int, int], count: int, fails_at: int | None = None) -> Any:
    """Return a sequence that can skip blocks."""
    return module("lazychunks").LazyChunkSequence.from_map(Ready(*shape, fails_at), range(count))


def nested(shape: tuple[int, int], down: int, across: int) -> Any:
    """Return a nested sequence by a generator."""
    block = Ready(*shape)

    def rows() -> Iterator[Iterator[Block]]:
        return ((block(row, column) for column in range(across)) for row in range(down))

    return module("lazychunks").NestedLazyChunkSequence(rows, down)


def uneven(count: int) -> Any:
    """Return a sequence of blocks of 20 to 39 rows."""
    blocks = pool(40, 1024)
    heights = np.random.default_rng(7).integers(20, 40, count).tolist()
    return module("lazychunks").LazyChunkSequence(
        lambda: (blocks[number % POOL][:height] for number, height in enumerate(heights)), count
    )


def joined(blocks: Any) -> Block:
    """Return what a sequence holds, as NumPy joins it."""
    if hasattr(blocks, "len_outer_generator"):
        return np.block([list(row) for row in blocks])
    return np.concatenate(list(blocks))


# Passes --------------------------------------------------------------------------------------


def storing(blocks: Any, *, in_memory: bool = False, workers: Any = None, **options: Any) -> Pass:
    """Store blocks; ``workers`` is an executor."""
    converter = module("lazychunks").IdentityConverter()
    if workers is not None:
        options["executor"] = workers
    expected = joined(blocks)

    def run(path: Path) -> Any:
        destination: Any = {} if in_memory else path
        return blocks.to_zarr(destination, converter, return_stored=True, progress=False, **options)

    processes = getattr(workers, "_processes", None) or ()
    return Pass(run, lambda stored: np.array_equal(stored[...], expected), workers=(*processes,))


def resuming(folder: Path, count: int) -> Pass:
    """Go on with a write that has ended half-way."""
    library = module("lazychunks")
    named: dict[str, Any] = {"chunks": "blocks", "run_id": "everyday", "resume": True}
    kept = folder / "half-done"
    kept.mkdir()
    with contextlib.suppress(library.WriteAbortedError):
        mapped(TINY, count, fails_at=count // 2).to_zarr(
            kept / "out", library.IdentityConverter(), progress=False, **named
        )

    def take_up(path: Path) -> None:
        shutil.copytree(kept, path.parent, dirs_exist_ok=True)

    return replace(storing(mapped(TINY, count), **named), prepare=take_up)


def storing_and_summing(blocks: Any) -> Pass:
    """Store blocks and sum them in one pass."""
    library = module("lazychunks")
    expected = joined(blocks)

    def run(path: Path) -> Any:
        sink = library.zarr_sink(path, library.IdentityConverter())
        return blocks.compute(library.tee(sink, library.total()), progress=False)

    def is_right(results: Any) -> bool:
        stored, summed = results
        return np.array_equal(stored[...], expected) and is_close(summed, expected.sum(0))

    return Pass(run, is_right)


def folding(blocks: Any, fold: Any, expected: Callable[[Block], Any]) -> Pass:
    """Fold blocks; ``expected`` makes the result of the joined ones."""
    return Pass(
        lambda _: blocks.compute(fold, progress=False),
        lambda found: is_close(found, expected(joined(blocks))),
    )


def listing(count: int) -> Pass:
    """Collect blocks in a list."""
    block = np.zeros(4, np.float32)
    blocks = module("lazychunks").LazyChunkSequence(lambda: repeat(block, count), count)
    return Pass(lambda _: blocks.compute(progress=False), lambda found: len(found) == count)


def reading(folder: Path, shape: tuple[int, int], count: int, **options: Any) -> Pass:
    """Read an array whose chunks are blocks, and count the entries."""
    library = module("lazychunks")
    path = folder / "stored"
    converter = library.IdentityConverter()
    flat(shape, count).to_zarr(path, converter, progress=False, chunks="blocks", **options)
    blocks = library.LazyChunkSequence.from_zarr(path, converter, rows=shape[0])
    return Pass(
        lambda _: sum(block.size for block in blocks),
        lambda found: found == count * shape[0] * shape[1],
    )


@dataclass(frozen=True, slots=True)
class Several:
    """The results that a tuple begins with."""

    results: list[Any]


def is_close(found: Any, expected: Any) -> bool:
    """Compare results of a reduction, which may be rounded in one way or the other."""
    if isinstance(expected, Several):
        return all(map(is_close, found, expected.results))  # of more, only the first ones count
    return np.allclose(found, expected, rtol=1e-4, atol=1e-4)


def moments_of(whole: Block) -> Several:
    """Return what ``moments`` returns."""
    return Several([len(whole), whole.mean(0, np.float64), whole.var(0, np.float64)])


def best_of(whole: Block, axis: int) -> Several:
    """Return the values of what ``top_k(10)`` returns."""
    largest = np.sort(whole, axis=axis)
    return Several([np.flip(largest.take(range(-10, 0), axis), axis)])


REDUCTIONS: dict[str, Callable[[Block], Any]] = {
    "total": lambda whole: whole.sum(0, np.float64),
    "mean": lambda whole: whole.mean(0, np.float64),
    "minimum": lambda whole: whole.min(0),
    "maximum": lambda whole: whole.max(0),
    "moments": moments_of,
    "norm": np.linalg.norm,
    "count": len,
    "first": lambda whole: whole[: TINY[0]],
    "last": lambda whole: whole[-TINY[0] :],
}


@dataclass(frozen=True, slots=True)
class Kit:
    """What passes are made with."""

    folder: Path
    stack: ExitStack
    quick: bool

    def size(self, blocks: int) -> int:
        """Return a number of blocks; of a quick run, a tenth of it."""
        return max(blocks // 10, 4) if self.quick else blocks

    def threads(self) -> Executor:
        """Start two threads."""
        return self.stack.enter_context(ThreadPoolExecutor(2))

    def processes(self) -> Executor:
        """Start two processes that have imported all."""
        spawn = get_context("spawn")
        executor = self.stack.enter_context(ProcessPoolExecutor(2, mp_context=spawn))
        with fresh_path(self.folder) as path:
            warm_up = storing(mapped(TINY, 50), chunks="blocks", workers=executor)
            warm_up.run(path)
        return executor


def _library() -> Any:
    return module("lazychunks")


def reducing(kit: Kit, *, name: str, shape: tuple[int, int], count: int) -> Pass:
    """Reduce blocks along axis 0, as the fold of that name does by default."""
    fold = getattr(_library(), name)()
    return folding(flat(shape, kit.size(count)), fold, REDUCTIONS[name])


PASSES: dict[str, Callable[[Kit], Pass]] = {
    "tiny blocks, memory": lambda kit: storing(flat(TINY, kit.size(6000)), in_memory=True),
    "tiny blocks, path": lambda kit: storing(flat(TINY, kit.size(6000))),
    "tiny nested blocks, memory": lambda kit: storing(
        nested(TINY, kit.size(60), 100), in_memory=True
    ),
    "tiny nested blocks, path": lambda kit: storing(nested(TINY, kit.size(60), 100)),
    "ragged blocks": lambda kit: storing(uneven(kit.size(600))),
    "tiny blocks as chunks": lambda kit: storing(flat(TINY, kit.size(2000)), chunks="blocks"),
    "blocks of 1 MiB, zstd": lambda kit: storing(flat((256, 1024), kit.size(96))),
    "blocks of 1 MiB, no codec": lambda kit: storing(
        flat((256, 1024), kit.size(192)), compressors=None
    ),
    "blocks of 4 MiB, zstd": lambda kit: storing(flat((256, 4096), kit.size(32))),
    "blocks of 4 MiB, no codec": lambda kit: storing(
        flat((256, 4096), kit.size(64)), compressors=None
    ),
    "40 x 40 nested blocks of 64 x 64": lambda kit: storing(nested((64, 64), kit.size(40), 40)),
    "named run": lambda kit: storing(mapped(TINY, kit.size(6000)), run_id="everyday"),
    "resumed run": lambda kit: resuming(kit.folder, kit.size(2000)),
    "tee of store and total": lambda kit: storing_and_summing(flat((64, 1024), kit.size(400))),
    "compute()": lambda kit: listing(kit.size(500_000)),
    **{
        f"{name}, tiny": partial(reducing, name=name, shape=TINY, count=3000) for name in REDUCTIONS
    },
    **{
        f"{name}, 1 MiB": partial(reducing, name=name, shape=(256, 1024), count=96)
        for name in REDUCTIONS
        if name not in {"count", "first", "last"}  # do no more for large blocks
    },
    "top_k": lambda kit: folding(
        flat((64, 256), kit.size(600)), _library().top_k(10), partial(best_of, axis=0)
    ),
    "top_k of rows": lambda kit: folding(
        nested((256, 1024), kit.size(24), 8),
        _library().nest(_library().top_k(10, axis=1), _library().concatenate()),
        partial(best_of, axis=1),
    ),
    "concatenate, tiny": lambda kit: folding(
        flat(TINY, kit.size(20_000)), _library().concatenate(), np.asarray
    ),
    "concatenate, 1 MiB": lambda kit: folding(
        flat((256, 1024), kit.size(256)), _library().concatenate(), np.asarray
    ),
    "from_zarr, tiny chunks": lambda kit: reading(kit.folder, TINY, kit.size(3000)),
    "from_zarr, 1 MiB, zstd": lambda kit: reading(kit.folder, (256, 1024), kit.size(128)),
    "from_zarr, 1 MiB, no codec": lambda kit: reading(
        kit.folder, (256, 1024), kit.size(256), compressors=None
    ),
    "two threads, tiny blocks as chunks": lambda kit: storing(
        mapped(TINY, kit.size(1500)), chunks="blocks", workers=kit.threads()
    ),
    "two threads, 1 MiB": lambda kit: storing(
        mapped((256, 1024), kit.size(96)), workers=kit.threads()
    ),
    "two processes, tiny blocks as chunks": lambda kit: storing(
        mapped(TINY, kit.size(1500)), chunks="blocks", workers=kit.processes()
    ),
    "two processes, 1 MiB": lambda kit: storing(
        mapped((256, 1024), kit.size(96)), workers=kit.processes()
    ),
}
"""All passes, by name."""


def main(name: str, source: str, folder: str, *flags: str) -> None:
    """Run one pass whenever a line comes."""
    found = Path(_library().__file__ or "")
    if not found.is_relative_to(source):
        sys.exit(f"lazychunks comes from {found.parent}, and not from {source}")
    with ExitStack() as stack:
        kit = Kit(Path(folder), stack, "--quick" in flags)
        one = PASSES[name](kit)
        with fresh_path(kit.folder) as path:
            one.prepare(path)
            if not one.is_right(one.run(path)):
                sys.exit(f"{name}: the result is wrong")
        _answer("ready")
        for _ in sys.stdin:
            with fresh_path(kit.folder) as path:
                one.prepare(path)
                usage = measured(partial(one.run, path), one.workers)
            _answer([usage.wall, usage.cpu, usage.added])


def _answer(value: object) -> None:
    print(json.dumps(value), flush=True)  # noqa: T201 - the answer to the parent process


if __name__ == "__main__":
    main(*sys.argv[1:])
