"""The peers that do not write through zarr-python's own interface."""

from __future__ import annotations

import importlib
import importlib.util
from collections import deque
from typing import TYPE_CHECKING, Any

import numpy as np

from tests.benchmarks.workloads import ZSTD_LEVEL, Block, Workload

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.benchmarks.workloads import Job


def _module(name: str) -> Any:
    return importlib.import_module(name)


# TensorStore ---------------------------------------------------------------------------------


def _tensorstore(job: Job, *, in_flight: int | None, sync: bool) -> None:
    codecs: list[dict[str, object]] = [{"name": "bytes", "configuration": {"endian": "little"}}]
    if job.workload.compressed:
        codecs.append({"name": "zstd", "configuration": {"level": ZSTD_LEVEL}})
    grid = {"name": "regular", "configuration": {"chunk_shape": job.workload.chunk}}
    store = (
        _module("tensorstore")
        .open(
            {
                "driver": "zarr3",
                "kvstore": {"driver": "file", "path": str(job.path), "file_io_sync": sync},
                "metadata": {
                    "shape": job.workload.shape,
                    "data_type": "float32",
                    "chunk_grid": grid,
                    "codecs": codecs,
                },
            },
            create=True,
        )
        .result()
    )
    pending: deque[Any] = deque()
    for rows, columns, block in job.placed():
        pending.append(store[rows, columns].write(block))
        if in_flight is not None and len(pending) > in_flight:
            pending.popleft().result()
    for write in pending:
        write.result()


def tensorstore_stream(job: Job) -> None:
    _tensorstore(job, in_flight=16, sync=False)


def tensorstore_all(job: Job) -> None:
    _tensorstore(job, in_flight=None, sync=True)


# acquire-zarr --------------------------------------------------------------------------------


def _bands(job: Job) -> Iterator[Block]:
    """Yield whole rows of the array: acquire-zarr takes its data in order."""
    if not job.workload.nested:
        yield from job.flat()
        return
    for row in job.rows():
        yield np.concatenate(list(row), axis=1)


def acquire(job: Job) -> None:
    library = _module("acquire_zarr")
    # A stream has at least three dimensions and grows along the first.
    height, width = job.workload.chunk
    regular = job.workload.regular
    sizes = (0, height, job.workload.shape[1]) if regular else (0, 1, job.workload.shape[1])
    chunks = (1, height, width) if regular else (height, 1, width)
    kinds = library.DimensionType
    dimensions = [
        library.Dimension(
            name=name, kind=kind, array_size_px=size, chunk_size_px=chunk, shard_size_chunks=1
        )
        for name, kind, size, chunk in zip(
            "tyx", (kinds.TIME, kinds.SPACE, kinds.SPACE), sizes, chunks, strict=True
        )
    ]
    array = library.ArraySettings(
        output_key="", dimensions=dimensions, data_type=library.DataType.FLOAT32
    )
    if job.workload.compressed:
        array.compression = library.CompressionSettings(
            compressor=library.Compressor.BLOSC1,
            codec=library.CompressionCodec.BLOSC_ZSTD,
            level=ZSTD_LEVEL,
            shuffle=0,
        )
    stream = library.ZarrStream(library.StreamSettings(store_path=str(job.path), arrays=[array]))
    for band in _bands(job):
        stream.append(band.reshape(-1, *sizes[1:]))
    stream.close()


# h5py ----------------------------------------------------------------------------------------


def hdf5_refuses(workload: Workload) -> str:
    plugin = importlib.util.find_spec("hdf5plugin")
    return "zstd needs hdf5plugin" if workload.compressed and plugin is None else ""


def hdf5(job: Job) -> None:
    codec: Any = _module("hdf5plugin").Zstd(clevel=ZSTD_LEVEL) if job.workload.compressed else {}
    with _module("h5py").File(job.path, "w") as file:
        data = file.create_dataset(
            "data", shape=job.workload.shape, chunks=job.workload.chunk, dtype="f4", **codec
        )
        for rows, columns, block in job.placed():
            data[rows, columns] = block


def read_hdf5(job: Job) -> Block:
    with _module("h5py").File(job.path, "r") as file:
        return np.asarray(file["data"][...])


# np.memmap -----------------------------------------------------------------------------------


def memmap(job: Job) -> None:
    array = np.lib.format.open_memmap(
        job.path, mode="w+", dtype=np.float32, shape=job.workload.shape
    )
    for rows, columns, block in job.placed():
        array[rows, columns] = block


def read_memmap(job: Job) -> Block:
    return np.asarray(np.load(job.path))


# dask ----------------------------------------------------------------------------------------


def dask(job: Job) -> None:
    workload = job.workload

    def fetch(block_id: tuple[int, int]) -> Block:
        return job.block(*block_id)

    array = _module("dask.array").map_blocks(
        fetch,
        chunks=(workload.heights, workload.widths),
        dtype=np.float32,
        meta=np.empty((0, 0), np.float32),
        name=f"blocks-{id(job)}",
    )
    if not workload.regular:
        array = array.rechunk(workload.chunk)
    codec = None
    if workload.compressed:
        codec = [_module("zarr.codecs").ZstdCodec(level=ZSTD_LEVEL)]
    with _module("dask").config.set(scheduler="threads"):
        array.to_zarr(str(job.path), mode="w-", compressors=codec)


# bare files ----------------------------------------------------------------------------------


def files(job: Job) -> None:
    job.path.mkdir()
    encode = _module("numcodecs").Zstd(level=ZSTD_LEVEL).encode
    for index, (_, _, block) in enumerate(job.placed()):
        data = encode(block) if job.workload.compressed else block.data
        with (job.path / str(index)).open("wb", buffering=0) as file:
            file.write(data)


def read_files(job: Job) -> Block:
    result = np.empty(job.workload.shape, np.float32)
    decode = _module("numcodecs").Zstd(level=ZSTD_LEVEL).decode
    for index, (rows, columns, block) in enumerate(job.placed()):
        data = (job.path / str(index)).read_bytes()
        raw = bytes(decode(data)) if job.workload.compressed else data
        result[rows, columns] = np.frombuffer(raw, np.float32).reshape(block.shape)
    return result
