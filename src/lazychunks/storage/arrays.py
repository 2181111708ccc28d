"""The few things asked of zarr: create an array, write a region, change its shape, open it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import zarr
from zarr.abc.store import Store
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync

from lazychunks.shapes import Shape
from lazychunks.storage import bfloat16
from lazychunks.storage.assembly import Filled
from lazychunks.storage.options import WriteOptions
from lazychunks.storage.plan import WritePlan

if TYPE_CHECKING:
    from zarr.core.array_spec import ArrayConfigParams

    StoredArray: TypeAlias = zarr.Array[Any]  # generic in the newer versions only

__all__ = ["create", "metadata_key", "open_array", "read_key", "reshape", "write", "write_key"]

METADATA = "zarr.json"

WRITE_EVERYTHING: ArrayConfigParams = {"order": "C", "write_empty_chunks": True}


def create(
    store: Store,
    path: str,
    plan: WritePlan,
    dtype: np.dtype[Any],
    lengths: Shape,
    options: WriteOptions,
) -> StoredArray:
    """Create the array with room for ``lengths`` along the block axes."""
    names = options.dimension_names
    ndim = len(plan.chunks)
    if names is not None and len(names) != ndim:
        raise ValueError(f"dimension_names {tuple(names)} do not name the {ndim} axes of the array")
    return zarr.create_array(  # pyright: ignore[reportUnknownMemberType]  # zarr names an optional FSMap
        store,
        name=path or None,
        shape=plan.capacity(lengths),
        chunks=plan.chunks,
        shards=plan.shards,
        dtype=dtype,
        compressors=options.zarr_compressors,
        filters=options.filters,
        attributes=dict(options.attributes) if options.attributes is not None else None,
        dimension_names=names,
        zarr_format=3,
        config=WRITE_EVERYTHING,
    )


def reshape(store: Store, path: str, shape: Shape) -> StoredArray:
    """Give the array another shape by one write of its metadata; no chunk is listed or touched."""
    key = metadata_key(path)
    document = json.loads(read_key(store, key) or b"{}")
    document["shape"] = list(shape)
    write_key(store, key, json.dumps(document).encode())
    return open_array(store, path)


def open_array(store: Store, path: str) -> StoredArray:
    """Open the array for reading and writing, all-zero chunks included."""
    try:
        array = _open(store, path)
    except ValueError:
        # What zarr does not know, and says as vaguely, may be bfloat16: seldom worth a look before.
        document = json.loads(read_key(store, metadata_key(path)) or b"{}")
        if document.get("data_type") != bfloat16.NAME:
            raise
        bfloat16.register()
        array = _open(store, path)
    # Opening ignores a config, and the oldest versions have no with_config: build it anew.
    metadata = array.metadata
    assert metadata.zarr_format == 3
    return zarr.Array(zarr.AsyncArray(metadata, array.store_path, WRITE_EVERYTHING))


def _open(store: Store, path: str) -> StoredArray:
    return zarr.open_array(  # pyright: ignore[reportUnknownMemberType]  # zarr names an optional FSMap
        store=store, path=path, mode="r+", zarr_format=3
    )


def write(array: StoredArray, filled: Filled) -> None:
    """Write whole chunks, clipped to the array."""
    array[filled.region] = filled.data


def metadata_key(path: str) -> str:
    """Key of the metadata of the array at a path."""
    return f"{path}/{METADATA}" if path else METADATA


def read_key(store: Store, key: str) -> bytes | None:
    """Value at a key, if there is one."""
    value = sync(store.get(key, prototype=default_buffer_prototype()))
    return None if value is None else value.to_bytes()


def write_key(store: Store, key: str, value: bytes) -> None:
    """Set a key."""
    sync(store.set(key, default_buffer_prototype().buffer.from_bytes(value)))
