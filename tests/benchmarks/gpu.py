"""Blocks made on a GPU: how far computing them overlaps with writing them.

    python tests/benchmarks/gpu.py > tests/benchmarks/gpu.md

Prints a section that tests/benchmarks/run.py puts into docs/benchmarks-folds.md. Needs torch,
pytest and hypothesis beside the library itself (``pip install --no-deps -e .`` is enough for
that), and a minute. Without a GPU it runs over a few small blocks and says so.
"""

# pyright: reportUnknownMemberType=false
# torch and zarr type some of their functions partially.

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import zarr
import zarr.codecs
from torch import Tensor

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [p for p in (str(ROOT), str(ROOT / "src")) if p not in sys.path]

# ruff: noqa: E402 - these live in the checkout, which a script has to put on the path first
from lazychunks import LazyChunkSequence
from lazychunks.torch import TorchCatAggregator, TorchNumpyConverter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from lazychunks.storage.options import ZarrOptions

GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if GPU else "cpu")
BLOCKS, HEIGHT, WIDTH = (48, 256, 4096) if GPU else (6, 32, 256)
ROUNDS = 3 if GPU else 1
CONVERTER = TorchNumpyConverter()


@dataclass(frozen=True, slots=True)
class Producer:
    """Makes blocks by a chain of matrix products on the device."""

    start: Tensor
    weights: Tensor
    products: int

    def __call__(self, number: int) -> Tensor:
        """Make a block; on a GPU this only queues the work."""
        block = self.start + number
        for _ in range(self.products):
            block = torch.tanh(block @ self.weights)
        return block.bfloat16().float()  # what a model that computes in bfloat16 hands out


def producer(products: int) -> Producer:
    """Make a producer whose blocks zstd takes to about half, as those of the other workloads."""
    torch.manual_seed(20260)
    weights = torch.randn(WIDTH, WIDTH, device=DEVICE) * (1.5 / WIDTH**0.5)
    return Producer(torch.randn(HEIGHT, WIDTH, device=DEVICE), weights, products)


def synchronize() -> None:
    """Wait for all that the device was asked to do."""
    if GPU:
        torch.cuda.synchronize()


def seconds(task: Callable[[], object]) -> float:
    """Take the time of a task, the device's part included."""
    synchronize()
    start = time.perf_counter()
    task()
    synchronize()
    return time.perf_counter() - start


def made_in(make: Callable[[int], Tensor]) -> float:
    """Take the time in which all blocks are made."""
    return seconds(lambda: [make(number) for number in range(BLOCKS)])


def write_ours(blocks: LazyChunkSequence[Tensor], path: Path, options: ZarrOptions) -> None:
    """Store blocks as a user of the library does."""
    blocks.to_zarr(path, CONVERTER, progress=False, **options)


def write_ahead(blocks: LazyChunkSequence[Tensor], path: Path, options: ZarrOptions) -> None:
    """Let one thread make the blocks and copy them to the host, ahead of the writer."""
    with ThreadPoolExecutor(1) as pool:
        ahead = blocks.map(Tensor.cpu).parallel(pool, max_in_flight=2)
        ahead.to_zarr(path, CONVERTER, progress=False, **options)


def write_loop(blocks: LazyChunkSequence[Tensor], path: Path, options: ZarrOptions) -> None:
    """Store blocks by assigning one after the other to a preallocated array."""
    codec = None if "compressors" in options else [zarr.codecs.ZstdCodec(level=3, checksum=True)]
    array = zarr.create_array(
        path,
        shape=(BLOCKS * HEIGHT, WIDTH),
        chunks=(HEIGHT, WIDTH),
        dtype="float32",
        compressors=codec,
    )
    for number, block in enumerate(blocks):
        array[number * HEIGHT : (number + 1) * HEIGHT] = block.cpu().numpy()


WRITERS: dict[str, Callable[[LazyChunkSequence[Tensor], Path, ZarrOptions], None]] = {
    "lazychunks": write_ours,
    "lazychunks, made ahead in a thread": write_ahead,
    "plain zarr loop": write_loop,
}


def overlap(folder: Path, title: str, options: ZarrOptions, share: float) -> Iterator[list[str]]:
    """Time each writer beside a producer that takes ``share`` of our writer's time."""

    def run(name: str, make: Callable[[int], Tensor]) -> float:
        with tempfile.TemporaryDirectory(dir=folder) as parent:
            sequence = LazyChunkSequence.from_map(make, range(BLOCKS))
            return seconds(lambda: WRITERS[name](sequence, Path(parent, "a"), options))

    one = producer(1)
    ready = [one(number).cpu() for number in range(BLOCKS)]
    for name in WRITERS:
        run(name, ready.__getitem__)
    writes = statistics.median(run("lazychunks", ready.__getitem__) for _ in range(ROUNDS))
    made_in(one)
    overhead, many = made_in(one), made_in(producer(9))
    each = max((many - overhead) / 8, 1e-9)
    make = producer(max(1, round((writes * share - overhead) / each) + 1))
    ready = [make(number).cpu() for number in range(BLOCKS)]  # others would compress otherwise
    times: dict[str, list[tuple[float, float, float]]] = {name: [] for name in WRITERS}
    for _ in range(ROUNDS):
        made = made_in(make)
        for name, taken in times.items():
            alone = run(name, ready.__getitem__)
            taken.append((alone, made, run(name, make)))
    for name, taken in times.items():
        columns = [statistics.median(column) for column in zip(*taken, strict=True)]
        ratio = statistics.median(both / max(alone, made) for alone, made, both in taken)
        yield [
            f"{title}, {make.products} products",
            name,
            *(f"{column * 1e3:.0f} ms" for column in columns),
            f"{ratio:.2f}",
        ]


def copies() -> Iterator[str]:
    """Tell how fast a block comes to the host, and how fast it is copied there."""
    block = producer(1)(0)
    host = block.cpu().numpy()
    other = np.empty_like(host)
    for what, task in (
        ("device to host", block.cpu),
        ("host to a buffer of the writer", lambda: np.copyto(other, host)),
    ):
        taken = statistics.median(seconds(task) for _ in range(20))
        yield f"{what} {taken * 1e3:.2f} ms"


def checks(folder: Path) -> Iterator[tuple[str, bool | None]]:
    """Hold stored values against ``torch.cat`` on the host, bit by bit."""
    make = producer(3)
    kept: list[Tensor] = []
    output = torch.empty(HEIGHT, WIDTH, device=DEVICE)

    def fresh(number: int) -> Tensor:
        kept.append(make(number).cpu())
        return kept[-1].to(DEVICE)

    def reused(number: int) -> Tensor:
        kept.append(make(number).cpu())
        return output.copy_(kept[-1])

    def half(number: int) -> Tensor:
        kept.append(make(number).cpu().bfloat16())
        return kept[-1].to(DEVICE)

    cases: dict[str, tuple[Callable[[int], Tensor], ZarrOptions]] = {
        "float32 blocks": (fresh, {}),
        "float32 blocks, uncompressed": (fresh, {"compressors": None}),
        "one output tensor, used again for each block": (reused, {}),
        "bfloat16 blocks": (half, {}),
    }
    for number, (name, (function, options)) in enumerate(cases.items()):
        if function is half and importlib.util.find_spec("ml_dtypes") is None:
            yield f"{name} (ml_dtypes is not installed)", None
            continue
        kept.clear()
        sequence = LazyChunkSequence.from_map(function, range(BLOCKS))
        stored: Any = sequence.to_zarr(
            folder / str(number), CONVERTER, return_stored=True, progress=False, **options
        )
        found, expected = CONVERTER.from_numpy(np.asarray(stored[...])), torch.cat(kept)
        bits = torch.int16 if function is half else torch.int32
        yield (
            name,
            found.dtype is expected.dtype and torch.equal(found.view(bits), expected.view(bits)),
        )
    sequence = LazyChunkSequence.from_map(make, range(BLOCKS))
    joined = sequence.compute(TorchCatAggregator(), progress=False)
    expected = torch.cat([make(number) for number in range(BLOCKS)])
    on_device = joined.device.type == DEVICE.type
    yield "TorchCatAggregator, on the device", on_device and torch.equal(joined, expected)


def tests() -> str:
    """Run the cases of the test suite that need a GPU, and return pytest's last line."""
    command = [sys.executable, "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, "tests/test_torch.py", "-k", "gpu"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join((str(ROOT / "src"), *sys.path))},
        capture_output=True,
        text=True,
        check=False,
    )
    lines = (done.stdout.strip() or done.stderr.strip() or "no output").splitlines()
    return lines[-1].strip("= ")


def versions() -> str:
    """Tell what took part."""
    name = torch.cuda.get_device_name() if GPU else "none"
    found = [f"GPU: {name}", f"cores: {len(os.sched_getaffinity(0))}"]
    found += [f"Python {platform.python_version()}"]
    found += [f"{name} {importlib.metadata.version(name)}" for name in ("torch", "numpy", "zarr")]
    return ", ".join([*found, f"CUDA {torch.version.cuda}"]) + "."


def table(head: list[str], rows: list[list[str]]) -> str:
    """Return a Markdown table."""
    lines = [head, ["---", "---", *["--:"] * (len(head) - 2)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def main() -> None:
    """Measure, check and print."""
    begun = time.perf_counter()
    if not GPU:
        torch.set_num_threads(1)
    parts = [f"## Blocks from a GPU ({BLOCKS} blocks of {HEIGHT} x {WIDTH} float32)\n"]
    if not GPU:
        parts.append("**There is no GPU: few blocks, on the CPU. The figures say nothing.**\n")
    parts.append(versions() + "\n")
    parts.append(
        "Blocks are chains of matrix products on the device, as many as take as long as our "
        "writer, or three times as long. The converter copies a block to the host and waits for "
        "it; then the device is asked for the next one, while background threads compress and "
        "write. *Producer alone* ends when the device has made the last block; *writer alone* "
        "takes blocks that are ready on the host.\n"
    )
    with tempfile.TemporaryDirectory(prefix="lazychunks-") as name:
        folder = Path(name)
        cases: list[tuple[str, ZarrOptions, float]] = [
            ("zstd level 3", {}, 1.0),
            ("zstd level 3", {}, 3.0),
            ("no compression", {"compressors": None}, 1.0),
        ]
        rows = [
            row for title, options, share in cases for row in overlap(folder, title, options, share)
        ]
        head = ["blocks", "writer", "writer alone", "producer alone", "both", "both / the slower"]
        parts += [table(head, rows), f"A block alone: {', '.join(copies())}.\n"]
        found = list(checks(folder))
    words = {True: "equal", False: "**differ**", None: "not tried"}
    parts.append(
        "Stored values against `torch.cat` on the host, bit by bit: "
        + "; ".join(f"{what}: {words[result]}" for what, result in found)
        + ".\n"
    )
    parts.append(f"`pytest tests/test_torch.py -k gpu`: {tests()}.\n")
    print("\n".join(parts))  # noqa: T201 - the section
    print(f"took {time.perf_counter() - begun:.0f} s", file=sys.stderr)  # noqa: T201 - a script
    if any(result is False for _, result in found):
        sys.exit("stored values differ")


if __name__ == "__main__":
    main()
