"""What is asked of zarr about metadata: make them, and open the array that they describe."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from itertools import product
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import zarr
from zarr.storage import MemoryStore, StorePath

from lazychunks.layout.shapes import Shape
from lazychunks.storage.chunks import bfloat16
from lazychunks.storage.keys import Keys
from lazychunks.storage.options import WriteOptions
from lazychunks.storage.resuming.record import Document, is_segment, parse

if TYPE_CHECKING:
    from zarr.core.array_spec import ArrayConfigParams

    StoredArray: TypeAlias = zarr.Array[Any]  # generic in the newer versions only

METADATA = "zarr.json"

KEPT_BACK = "zarr.json.partial"
"""Where the metadata of an array waits until the array is complete."""

APPENDING = "lazychunks.append"
"""Where the metadata of an array with more rows waits until they are complete."""

OVERWRITING = b"null"
"""What is there as long as an overwrite has not removed the old array. The names of a group's
arrays follow, if it is a group."""

MOST_BYTES = {"blosc": 2**31 - 17, "lz4": 0x7E000000}
"""Bytes that a codec takes at once, where it is fewer than anybody stores in a chunk."""

WRITE_EVERYTHING: ArrayConfigParams = {"order": "C", "write_empty_chunks": True}


def open_array(where: Keys, document: Document) -> StoredArray:
    """Return the array that metadata describes, without reading it; it stores zeros as well."""
    if document.get("data_type") == bfloat16.NAME:
        bfloat16.register()
    described: Any = document  # a plain JSON object; zarr checks it
    at = StorePath(where.store, where.path)
    return zarr.Array(zarr.AsyncArray(described, at, WRITE_EVERYTHING))


def list_chunk_keys(where: Keys, document: Document, first: int) -> Iterator[str]:
    """List the keys of an array's chunks (or shards), from a number along axis 0 on."""
    array = open_array(where, document)
    unit = array.shards or array.chunks
    grid = [range(-(-length // extent)) for length, extent in zip(array.shape, unit, strict=True)]
    return map(array.metadata.encode_chunk_key, product(grid[0][first:], *grid[1:]))


def make_document(
    shape: Shape,
    chunks: Shape,
    shards: Shape | None,
    dtype: np.dtype[Any],
    options: WriteOptions,
) -> Document:
    """Let zarr write down the metadata of a new array.

    Raises
    ------
    ValueError
        If the options do not fit the shape, or one another, or a chunk is more than a codec takes.
    """
    names = options.dimension_names
    if names is None and options.name is not None:
        # xarray opens no group of arrays whose dimensions have no names.
        names = tuple(f"{options.name}_{axis}" for axis in range(len(shape)))
    if names is not None and len(names) != len(shape):
        raise ValueError(
            f"dimension_names {tuple(names)} do not name the {len(shape)} axes of the array"
        )
    scratch = MemoryStore()
    zarr.create_array(  # pyright: ignore[reportUnknownMemberType]  # zarr names an optional FSMap
        scratch,
        shape=shape,
        chunks=chunks,
        shards=shards,
        dtype=dtype,
        compressors=options.compressors,
        filters=options.filters,
        attributes=dict(options.attributes) if options.attributes is not None else None,
        dimension_names=names,
        zarr_format=3,
    )
    document = parse(Keys(scratch, "").read("zarr.json"))
    assert document is not None
    _check_codecs(document["codecs"], chunks, dtype.itemsize)
    return document


def _check_codecs(codecs: list[Any], chunks: Shape, itemsize: int) -> None:
    """Refuse chunks that a codec cannot take, which it says only when the first one is full."""
    size = math.prod(chunks) * itemsize
    for codec in codecs:
        if codec["name"] == "sharding_indexed":
            _check_codecs(codec["configuration"]["codecs"], chunks, itemsize)
        most = MOST_BYTES.get(codec["name"].removeprefix("numcodecs."))
        if most is not None and size > most:
            raise ValueError(
                f"chunks of shape {chunks} hold {size} bytes, and the codec {codec['name']} takes "
                f"{most} at most; choose smaller chunks=, or other compressors="
            )


def mark_overwriting(members: Iterable[str]) -> bytes:
    """Return what stands for the metadata as long as an overwrite removes what is there."""
    return OVERWRITING + "".join(f"\n{name}" for name in members).encode()


def read_overwritten_names(value: bytes) -> tuple[str, ...]:
    """Return the names of the arrays in a group that an overwrite removes."""
    names = value.decode(errors="replace").split("\n")[1:] if is_overwriting(value) else ()
    return tuple(filter(is_segment, names))


def is_overwriting(value: bytes | None) -> bool:
    """Whether an overwrite has not removed the old array, or group."""
    return value is not None and value.startswith(OVERWRITING)
