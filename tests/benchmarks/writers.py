"""Ours, pyDVL's, and the two ways with zarr-python alone; the registry of all writers."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tests.benchmarks import peers, seed
from tests.benchmarks.workloads import ZSTD_LEVEL, Block, Job, Workload

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True, slots=True)
class Writer:
    """One way to store a workload."""

    name: str
    title: str
    distribution: str
    """What PyPI calls it; empty for the standard library and numpy."""
    write: Callable[[Job], None]
    read: Callable[[Job], Block]
    note: str
    """How it is used here, and what it does not do that others do."""
    refuses: Callable[[Workload], str] = lambda _: ""
    """Why it cannot store a workload; empty where it can."""

    def version(self) -> str | None:
        """Return the version that is installed, None where it is not."""
        if not self.distribution:
            return f"numpy {np.__version__}"
        if self.name == "pydvl" and seed.location() is None:
            return None
        try:
            return importlib.metadata.version(self.distribution)
        except importlib.metadata.PackageNotFoundError:
            # A checkout on PYTHONPATH has no metadata.
            found = importlib.util.find_spec(self.distribution) is not None
            return "checkout" if found else None


def module(name: str) -> Any:
    return importlib.import_module(name)


def _zarr_codec(workload: Workload) -> dict[str, object]:
    if not workload.compressed:
        return {"compressors": None}
    return {"compressors": [module("zarr.codecs").ZstdCodec(level=ZSTD_LEVEL)]}


def read_zarr(job: Job) -> Block:
    stored = np.asarray(module("zarr").open_array(job.path, mode="r")[...])
    return stored.reshape(job.workload.shape)


class _Identity:
    """pyDVL's converter for blocks that are numpy arrays already."""

    def to_numpy(self, x: Block) -> Block:
        return x

    def from_numpy(self, x: Block) -> Block:
        return x


def _lazychunks(job: Job, **options: object) -> None:
    library = module("lazychunks")
    if not job.workload.compressed:
        options["compressors"] = None
    sequence = (
        library.NestedLazyChunkSequence(job.rows, len(job.workload.heights))
        if job.workload.nested
        else library.LazyChunkSequence(job.flat, len(job.workload.heights))
    )
    sequence.to_zarr(job.path, library.IdentityConverter(), progress=False, **options)


def _lazychunks_blocks(job: Job) -> None:
    _lazychunks(job, chunks="blocks")


def _lazychunks_single(job: Job) -> None:
    _lazychunks(job, max_in_flight=1)


def _pydvl(job: Job) -> None:
    # No length: it would only draw a progress bar.
    library: Any = seed.load()
    sequence = (
        library.NestedLazyChunkSequence(job.rows)
        if job.workload.nested
        else library.LazyChunkSequence(job.flat)
    )
    sequence.to_zarr(str(job.path), _Identity())


def _preallocated(job: Job) -> None:
    array = module("zarr").create_array(
        job.path,
        shape=job.workload.shape,
        chunks=job.workload.chunk,
        dtype="float32",
        **_zarr_codec(job.workload),
    )
    for rows, columns, block in job.placed():
        array[rows, columns] = block


def _append(job: Job) -> None:
    array = module("zarr").create_array(
        job.path,
        shape=(0, job.workload.shape[1]),
        chunks=job.workload.chunk,
        dtype="float32",
        **_zarr_codec(job.workload),
    )
    if job.workload.nested:
        for row in job.rows():
            array.append(np.concatenate(list(row), axis=1))
    else:
        for block in job.flat():
            array.append(block)


WRITERS = (
    Writer(
        "lazychunks",
        "lazychunks",
        "lazychunks",
        _lazychunks,
        read_zarr,
        'as it comes: `chunks="auto"`, zstd with its checksum on, the array swapped in whole at '
        "the end",
    ),
    Writer(
        "lazychunks-blocks",
        'lazychunks, "blocks"',
        "lazychunks",
        _lazychunks_blocks,
        read_zarr,
        'the same with `chunks="blocks"`: a chunk per block',
    ),
    Writer(
        "pydvl",
        "pyDVL",
        "pydvl",
        _pydvl,
        read_zarr,
        "`LazyChunkSequence.to_zarr` and its nested sibling, run on the same zarr; resizes per "
        "block; its codec is zarr's default and cannot be changed",
        lambda workload: "" if workload.compressed else "has no way to turn its codec off",
    ),
    Writer(
        "zarr-full",
        "zarr, preallocated",
        "zarr",
        _preallocated,
        read_zarr,
        "`create_array` with the final shape, one assignment per block; needs to know the shape",
    ),
    Writer(
        "zarr-append",
        "zarr, append",
        "zarr",
        _append,
        read_zarr,
        "`Array.append` per block; for nested workloads, one append per row of blocks joined in "
        "memory",
    ),
    Writer(
        "tensorstore",
        "TensorStore",
        "tensorstore",
        peers.tensorstore_stream,
        read_zarr,
        "zarr3 driver, final shape, a chunk per block, at most 16 writes in flight, and "
        "`file_io_sync` off, since nobody else here waits for the disk",
    ),
    Writer(
        "tensorstore-all",
        "TensorStore, defaults",
        "tensorstore",
        peers.tensorstore_all,
        read_zarr,
        "the same as it comes: every write started at once, and each file synced to the disk",
    ),
    Writer(
        "acquire-zarr",
        "acquire-zarr",
        "acquire-zarr",
        peers.acquire,
        read_zarr,
        "a chunk per block; has zstd through Blosc 1 only: level 3, no shuffle. Ragged blocks go "
        "in as rows, with chunks as high as the first block; nested ones as rows of blocks "
        "joined in memory",
    ),
    Writer(
        "h5py",
        "h5py",
        "h5py",
        peers.hdf5,
        peers.read_hdf5,
        "final shape, a chunk per block in one file; zstd level 3 from hdf5plugin",
        peers.hdf5_refuses,
    ),
    Writer(
        "memmap",
        "np.memmap",
        "",
        peers.memmap,
        peers.read_memmap,
        "`open_memmap` with the final shape, one file; cannot compress. Its memory is the mapped "
        "file, which the kernel can take back",
        lambda workload: "cannot compress" if workload.compressed else "",
    ),
    Writer(
        "dask",
        "dask.array.to_zarr",
        "dask",
        peers.dask,
        read_zarr,
        "the threaded scheduler pulls blocks by index, in any order: no sequential producer. "
        "Ragged blocks are rechunked to the height of the first",
    ),
    Writer(
        "files",
        "bare files",
        "",
        peers.files,
        peers.read_files,
        "a file of raw bytes per block, in one thread; no metadata, so nobody can read it back "
        "without knowing. Compressed with numcodecs' zstd where the others compress",
    ),
)


SINGLE = Writer(
    "lazychunks-single",
    "lazychunks, `max_in_flight=1`",
    "lazychunks",
    _lazychunks_single,
    read_zarr,
    "the same with one write at a time",
)
"""Not in the races: it is there to leave a core to the producer."""


def by_name(name: str) -> Writer:
    """Return the writer of that name.

    Raises
    ------
    KeyError
        No writer has that name.
    """
    for writer in WRITERS:
        if writer.name == name:
            return writer
    raise KeyError(f"no writer is called {name}; they are {[w.name for w in WRITERS]}")
