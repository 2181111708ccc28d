"""Jobs of several ranks, for processes that torchrun or MPI has started.

Run as ``rank_jobs.py KIND FOLDER JOB...``. Each rank writes what each job comes to into
``FOLDER/JOB.RANK``.
"""

from __future__ import annotations

import hashlib
import importlib
import os
import signal
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from lazychunks import (
    IdentityConverter,
    LazyChunkSequence,
    NestedLazyChunkSequence,
    ZarrOptions,
    concatenate,
    moments,
    nest,
    tee,
    top_k,
    total,
    zarr_sink,
)
from lazychunks.testing import bits

if TYPE_CHECKING:
    from lazychunks import Ranks

Array = npt.NDArray[np.float64]
CONVERTER = IdentityConverter()
NAMED: ZarrOptions = {"chunks": "blocks", "run_id": "it", "resume": True}


def compute_block(*index: int) -> Array:
    """Compute rows of numbers whose sums are rounded."""
    height = 8 if len(index) > 1 else (3, 5, 4)[sum(index) % 3]
    random = np.random.default_rng([7, *index])
    drawn: Array = random.standard_normal((height, 6)) * 10.0 ** random.integers(-3, 4)
    return drawn


def compute_even(number: int) -> Array:
    return compute_block(number, 0)


FLAT = LazyChunkSequence.from_map(compute_even, range(40))
NESTED = NestedLazyChunkSequence.from_product(compute_block, range(6), range(7))
SIZES = tuple((3, 5, 4)[number % 3] for number in range(12))
RAGGED = LazyChunkSequence.from_map(compute_block, range(12))


def digest(result: Any) -> str:
    """Return a name for all bits of a result."""
    return hashlib.sha256(repr(bits(result)).encode()).hexdigest()


def read(array: Any) -> Any:
    return np.asarray(array[...])


def store_flat(folder: Path, ranks: Ranks | None) -> Any:
    return read(FLAT.to_zarr(folder / "flat", CONVERTER, True, ranks=ranks, chunks=16))


def store_nested(folder: Path, ranks: Ranks | None) -> Any:
    path = folder / "nested"
    return read(NESTED.to_zarr(path, CONVERTER, True, ranks=ranks, chunks=(8, 12)))


def store_ragged(folder: Path, ranks: Ranks | None) -> Any:
    path = folder / "ragged"
    return read(RAGGED.to_zarr(path, CONVERTER, True, ranks=ranks, chunks=12, sizes=SIZES))


def store_and_fold(folder: Path, ranks: Ranks | None) -> Any:
    sink = zarr_sink(folder / "tee", CONVERTER, chunks="blocks")
    folds = tee(moments(), top_k(3), total(None), concatenate())
    array, results = FLAT.compute(tee(sink, folds), ranks=ranks)
    return read(array), results


def name_parts(block: Array) -> dict[str, Array]:
    return {"all": block, "sums": block.sum(axis=1), "first": block[:1]}


def store_group(folder: Path, ranks: Ranks | None) -> Any:
    path = folder / "group"
    named = FLAT.map(name_parts)
    group = named.to_zarr_group(path, CONVERTER, True, ranks=ranks, chunks="blocks")
    return {name: read(group[name]) for name in ("all", "sums", "first")}


def fold_rows(folder: Path, ranks: Ranks | None) -> Any:
    return NESTED.compute(nest(total(1), concatenate()), ranks=ranks)


def fold_in_a_group(folder: Path, ranks: Ranks | None) -> Any:  # of torch: the first and the last
    if ranks is None:
        return FLAT.compute(total())
    import torch.distributed as dist

    from lazychunks.torch import DistributedRanks

    members = [0, ranks.size - 1]
    group: Any = dist.new_group(members)  # pyright: ignore[reportUnknownMemberType]
    return FLAT.compute(total(), ranks=DistributedRanks(group) if ranks.rank in members else None)


def list_blocks(folder: Path, ranks: Ranks | None) -> Any:
    return FLAT.compute(ranks=ranks)


def fail_on_rank_1(ranks: Ranks | None, number: int) -> Array:
    if ranks is not None and ranks.rank == 1 and number >= 20:
        raise ZeroDivisionError("on rank 1")
    return compute_even(number)


def fail(folder: Path, ranks: Ranks | None) -> Any:
    sequence = LazyChunkSequence.from_map(partial(fail_on_rank_1, ranks), range(40))
    return sequence.to_zarr(folder / "fails", CONVERTER, ranks=ranks, chunks="blocks")


def differ(folder: Path, ranks: Ranks | None) -> Any:
    run_id = "it" if ranks is None else f"run {ranks.rank}"
    return FLAT.to_zarr(folder / "differs", CONVERTER, ranks=ranks, run_id=run_id)


def kill(victim: Callable[[], int], ranks: Ranks | None, number: int) -> Array:
    if ranks is not None and ranks.rank == 1 and number == 25:
        os.kill(victim(), signal.SIGKILL)
    return compute_even(number)


def store_and_die(
    folder: Path, ranks: Ranks | None, *, name: str, victim: Callable[[], int]
) -> Any:
    sequence = LazyChunkSequence.from_map(partial(kill, victim, ranks), range(40))
    return read(sequence.to_zarr(folder / name, CONVERTER, True, ranks=ranks, **NAMED))


def compute_the_rest(number: int) -> Array:
    """Compute a block that was not stored when two ranks exchanged receipts for the last time."""
    if number in range(1, 14):  # block 0 is compared with what is stored
        raise AssertionError(f"block {number} is stored")
    return compute_even(number)


def go_on(folder: Path, ranks: Ranks | None, *, name: str) -> Any:
    sequence = LazyChunkSequence.from_map(compute_the_rest, range(40))
    return read(sequence.to_zarr(folder / name, CONVERTER, True, ranks=ranks, **NAMED))


JOBS: Mapping[str, Callable[[Path, Any], Any]] = {
    "flat": store_flat,
    "nested": store_nested,
    "ragged": store_ragged,
    "tee": store_and_fold,
    "rows": fold_rows,
    "list": list_blocks,
    "named arrays": store_group,
    "subgroup": fold_in_a_group,
    "fails": fail,
    "differs": differ,
    "go on": partial(go_on, name="killed"),
    "kill a rank": partial(store_and_die, name="killed", victim=os.getpid),
    "kill the launcher": partial(store_and_die, name="orphaned", victim=os.getppid),
}


def come_to(job: Callable[[], Any]) -> str:
    """Return a name for what a job comes to: its bits, or its error."""
    try:
        return digest(job())
    except Exception as error:  # noqa: BLE001  # the test asks for it
        return f"{type(error).__name__}: {error}"


def make_ranks(kind: str) -> Ranks:
    """Return the ranks of this process."""
    if kind == "mpi":
        from lazychunks.mpi import MPIRanks

        return MPIRanks(importlib.import_module("mpi4py.MPI").COMM_WORLD)
    import torch.distributed as dist

    from lazychunks.torch import DistributedRanks

    dist.init_process_group("gloo")
    return DistributedRanks()


def main(kind: str, folder: str, *names: str) -> None:
    """Do jobs, one after the other."""
    ranks = make_ranks(kind)
    for name in names:
        outcome = come_to(partial(JOBS[name], Path(folder), ranks))
        Path(folder, f"{name}.{ranks.rank}").write_text(outcome)
    if kind == "torch":
        import torch.distributed as dist

        dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
