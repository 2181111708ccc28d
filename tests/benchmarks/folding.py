"""Folds: ranking a matrix that is streamed, storing and ranking in one pass, and reading back."""

from __future__ import annotations

import statistics
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from tests.benchmarks import writers
from tests.benchmarks.measure import fresh_path, in_turns, over, peak_memory
from tests.benchmarks.results import Figure, Scenario
from tests.benchmarks.workloads import Block, realistic

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from tests.benchmarks.scenarios import Setting

    Blocks = Callable[[int, int], Block]
    Indices = NDArray[Any]

K = 10
SIDE = 1000
"""Height and width of a block that is ranked."""
HEIGHT, WIDTH = 256, 4096
"""Height and width of a block that is stored or read: 4 MiB."""


# Ranking -------------------------------------------------------------------------------------


def ranking(setting: Setting) -> Scenario:
    """Take the ten largest of each row of a matrix."""
    count = 4 if setting.quick else 20
    matrix = np.empty((count * SIDE, count * SIDE), np.float32)
    generator = np.random.default_rng(20260)
    for band in np.split(matrix, count):
        generator.standard_normal(band.shape, np.float32, band)

    def block(row: int, column: int) -> Block:
        return matrix[row * SIDE : (row + 1) * SIDE, column * SIDE : (column + 1) * SIDE]

    tasks: dict[str, Callable[[], Any]] = {
        "lazychunks": lambda: best_streamed(block, count),
        "argpartition": lambda: best_in_memory(matrix),
        "dask": lambda: best_by_dask(block, count),
    }
    if not _has_dask():
        del tasks["dask"]
    expected = np.take_along_axis(matrix, best_in_memory(matrix), axis=1)
    for name, task in tasks.items():
        # Equal entries are in no order but ours, hence the values.
        found = np.take_along_axis(matrix, np.asarray(task()), axis=1)
        np.testing.assert_array_equal(found, expected, err_msg=name)
    times = in_turns("ranking", tasks, min(setting.repeats, 3), warm_up=False)
    rows: list[list[str]] = []
    peaks = {name: peak_memory("rank", name, str(count), folder=setting.folder) for name in tasks}
    titles = {
        "lazychunks": "lazychunks, nest(top_k(10, axis=1), concatenate())",
        "argpartition": "np.argpartition of the whole",
        "dask": "dask, argtopk, two threads",
    }
    for name in tasks:
        ratio = over(times, name, "lazychunks")
        rows.append(
            [titles[name], f"{statistics.median(times[name]):.2f} s", f"{ratio:.2f}",
             f"{peaks[name]:.0f} MiB"]
        )  # fmt: skip
    band_size = count * SIDE**2 * 4 / 2**20
    ratio = over(times, "lazychunks", "argpartition")
    figures = [
        Figure(
            "top 10 of each row, streamed, over np.argpartition of the whole in memory",
            "at most 1.3", f"{ratio:.2f}", ratio <= 1.3,
        ),
        Figure(
            "its memory: at most that of one row of blocks",
            f"at most {band_size:.0f} MiB", f"{peaks['lazychunks']:.0f} MiB",
            peaks["lazychunks"] <= band_size,
        ),
    ]  # fmt: skip
    if "dask" in tasks:
        ahead = over(times, "dask", "lazychunks")
        figures.append(
            Figure("dask's argtopk over ours", "at least 1.5", f"{ahead:.2f}", ahead >= 1.5)
        )
    size = count * SIDE
    return Scenario(
        "ranking",
        f"The ten largest of each row of {size:,} x {size:,}, in blocks of {SIDE:,} x {SIDE:,}",
        "Normal float32 values. For the time, blocks are views of a matrix in memory; all return "
        "the indices of the ten, best first, and their values are compared. For the memory, a "
        "fresh process makes blocks one by one; the matrix counts for whom needs it whole.",
        ["what", "time", "over ours", "memory"],
        rows,
        figures,
    )


def best_streamed(block: Blocks, count: int) -> Indices:
    """Rank blocks as they come."""
    library: Any = writers.module("lazychunks")
    matrix = library.NestedLazyChunkSequence.from_product(block, range(count), range(count))
    best = library.nest(library.top_k(K, axis=1), library.concatenate())
    return matrix.compute(best, progress=False).indices  # type: ignore[no-any-return]  # loaded late


def best_in_memory(matrix: Block) -> Indices:
    """Rank a matrix as one does with NumPy."""
    indices = np.argpartition(matrix, -K, axis=1)[:, -K:]
    order = np.argsort(-np.take_along_axis(matrix, indices, axis=1), axis=1)
    return np.take_along_axis(indices, order, axis=1)


def best_by_dask(block: Blocks, count: int) -> Indices:
    """Rank blocks that dask's threads fetch."""
    library = writers.module("dask.array")
    sizes = (SIDE,) * count

    def fetch(block_id: tuple[int, int]) -> Block:
        return block(*block_id)

    matrix = library.map_blocks(
        fetch,
        chunks=(sizes, sizes),
        dtype=np.float32,
        meta=np.empty((0, 0), np.float32),
        name=f"blocks-{time.perf_counter_ns()}",
    )
    return matrix.argtopk(K, axis=1).compute(scheduler="threads")  # type: ignore[no-any-return]  # loaded late


def rank(name: str, count: int) -> Callable[[], object]:
    """Return the task of one contender with blocks that are made one by one, for its memory."""
    generator = np.random.default_rng(20260)
    pool = [generator.standard_normal((SIDE, SIDE), np.float32) for _ in range(8)]

    def block(row: int, column: int) -> Block:
        return pool[(3 * row + column) % len(pool)].copy()

    def whole() -> Indices:
        size = count * SIDE
        matrix = np.empty((size, size), np.float32)
        for row in range(count):
            for column in range(count):
                matrix[row * SIDE :, column * SIDE :][:SIDE, :SIDE] = block(row, column)
        return best_in_memory(matrix)

    tasks: dict[str, Callable[[], object]] = {
        "lazychunks": lambda: best_streamed(block, count),
        "argpartition": whole,
        "dask": lambda: best_by_dask(block, count),
    }
    if name != "argpartition":
        best_streamed(block, 2)  # all is imported
    if name == "dask":
        best_by_dask(block, 2)
    return tasks[name]


# Storing and ranking -------------------------------------------------------------------------


def one_pass(setting: Setting) -> Scenario:
    """Store and rank in one pass, or in two."""
    library: Any = writers.module("lazychunks")
    down, across = (2, 2) if setting.quick else (16, 4)
    generator = np.random.default_rng(20260)
    pool = [realistic(generator, HEIGHT, WIDTH) for _ in range(8)]
    best = library.nest(library.top_k(K, axis=1), library.concatenate())
    rows: list[list[str]] = []
    figures: list[Figure] = []
    producers: dict[str, Callable[[int, int], Block]] = {
        "ready blocks": lambda i, j: pool[(i + 3 * j) % 8],
        "blocks that are computed": lambda i, j: np.tanh(pool[(i + 3 * j) % 8]),
    }
    for kind, block in producers.items():
        matrix = library.NestedLazyChunkSequence.from_product(block, range(down), range(across))

        times = in_turns(
            f"one pass, {kind}",
            {
                "store": partial(_stored, setting, matrix),
                "rank": partial(matrix.compute, best, progress=False),
                "tee": partial(_stored, setting, matrix, best),
            },
            setting.repeats,
        )
        slower = statistics.median(
            t / max(s, r)
            for s, r, t in zip(times["store"], times["rank"], times["tee"], strict=True)
        )
        both = statistics.median(
            t / (s + r) for s, r, t in zip(times["store"], times["rank"], times["tee"], strict=True)
        )
        rows.append(
            [
                kind,
                *(f"{statistics.median(times[name]):.2f} s" for name in ("store", "rank", "tee")),
                f"{both:.2f}",
                f"{slower:.2f}",
            ]
        )
        figures.append(
            Figure(
                f"storing and ranking in one pass over the slower of the two alone, {kind}",
                "at most 1.1",
                f"{slower:.2f}",
                slower <= 1.1,
            )
        )
    return Scenario(
        "one-pass",
        f"Storing and ranking {down} x {across} nested blocks of {HEIGHT} x {WIDTH}, zstd level 3",
        "The ten largest of each row, and the matrix in a Zarr array: each in a pass of its own, "
        "and both in one. Computed blocks are the hyperbolic tangent of ready ones.",
        ["blocks", "store", "rank", "both, in one pass", "over two passes", "over the slower"],
        rows,
        figures,
    )


def _stored(setting: Setting, matrix: Any, best: Any = None) -> None:
    library: Any = writers.module("lazychunks")
    with fresh_path(setting.folder) as path:
        sink = library.zarr_sink(path, library.IdentityConverter())
        matrix.compute(sink if best is None else library.tee(sink, best), progress=False)


# Reading -------------------------------------------------------------------------------------


def reading(setting: Setting) -> Scenario:
    """Read an array as tensors, beside a plain loop."""
    library: Any = writers.module("lazychunks")
    converter = writers.module("lazychunks.torch").TorchNumpyConverter()
    count = 16 if setting.quick else 256
    generator = np.random.default_rng(20260)
    pool = [realistic(generator, HEIGHT, WIDTH) for _ in range(8)]
    rows: list[list[str]] = []
    figures: list[Figure] = []
    for compression, options in (("zstd level 3", {}), ("no compression", {"compressors": None})):
        with fresh_path(setting.folder) as path:
            library.LazyChunkSequence(lambda: (pool[i % 8] for i in range(count)), count).to_zarr(
                path, library.IdentityConverter(), progress=False, chunks="blocks", **options
            )
            blocks = library.LazyChunkSequence.from_zarr(path, converter)
            ways: dict[str, Callable[[], Iterator[Any]]] = {
                "plain": partial(_plain, path),
                "lazychunks": partial(iter, blocks),
            }
            for what, use in (("nothing", _nothing), ("the largest entry of each block", _largest)):
                times = in_turns(
                    f"reading, {compression}, {what}",
                    {name: partial(_used, way, use) for name, way in ways.items()},
                    setting.repeats,
                )
                gain = over(times, "plain", "lazychunks")
                plain, ours = (statistics.median(times[name]) for name in ("plain", "lazychunks"))
                rows.append([compression, what, f"{plain:.2f} s", f"{ours:.2f} s", f"{gain:.2f}"])
                if use is _nothing:
                    figures.append(
                        Figure(
                            f"reading as tensors, {compression}: a loop of slices over from_zarr",
                            "at least 1.3",
                            f"{gain:.2f}",
                            gain >= 1.3,
                        )
                    )
    return Scenario(
        "reading",
        f"Reading {count * 4} MiB as tensors of {HEIGHT} x {WIDTH}",
        "The loop makes a tensor of `array[i : i + 256]`, which is one chunk, by "
        "`torch.from_numpy`. Files are in the page cache.",
        ["array", "what is done with a block", "loop", "from_zarr", "loop over ours"],
        rows,
        figures,
    )


def _plain(path: Path) -> Iterator[Any]:
    torch: Any = writers.module("torch")
    array = writers.module("zarr").open_array(path, mode="r")
    for start in range(0, array.shape[0], HEIGHT):
        yield torch.from_numpy(array[start : start + HEIGHT])


def _used(way: Callable[[], Iterator[Any]], use: Callable[[Iterator[Any]], object]) -> None:
    use(way())


def _nothing(blocks: Iterator[Any]) -> int:
    return sum(1 for _ in blocks)


def _largest(blocks: Iterator[Any]) -> float:
    return max(float(block.max()) for block in blocks)


def _has_dask() -> bool:
    return writers.by_name("dask").version() is not None
