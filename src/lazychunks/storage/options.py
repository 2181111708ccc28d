"""How a stored array is laid out: the options of ``to_zarr``, and their validation."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import (
    Any,
    Literal,
    SupportsFloat,
    SupportsIndex,
    TypeAlias,
    TypedDict,
    TypeGuard,
)

import numpy as np
import zarr
import zarr.codecs
from numpy.typing import DTypeLike
from zarr.abc.codec import ArrayArrayCodec, BytesBytesCodec
from zarr.abc.store import Store
from zarr.core.buffer import Buffer
from zarr.core.common import JSON
from zarr.storage import MemoryStore, StorePath

from lazychunks.layout.checks import check_positive
from lazychunks.layout.plan import Chunks
from lazychunks.storage.chunks import bfloat16
from lazychunks.storage.chunks.dtypes import storable

RESERVED = "lazychunks"
"""The attribute in which a run leaves its record."""

ZSTD = zarr.codecs.ZstdCodec(level=3, checksum=True)
"""What compresses where the user does not say."""

Destination: TypeAlias = str | os.PathLike[str] | Store | StorePath | dict[str, Buffer]
"""Where an array goes: a local path, a URL, a zarr store or a place in one, or a plain dict."""

Compressors: TypeAlias = (
    Literal["auto"]
    | BytesBytesCodec
    | Mapping[str, JSON]
    | Iterable[BytesBytesCodec | dict[str, JSON]]
    | None
)
Filters: TypeAlias = (
    Literal["auto"] | ArrayArrayCodec | Iterable[ArrayArrayCodec | dict[str, JSON]] | None
)


class ZarrOptions(TypedDict, total=False):
    """Keyword options of ``to_zarr``; all are validated before the first block is computed."""

    chunks: Chunks
    """Chunk shape. ``"auto"`` (default) takes the first block's shape, merged up to about 1 MiB
    and split above about 128 MiB; ``"blocks"`` takes it as it is; an int is the extent along the
    block axes (the others stay whole); a tuple has one extent for each axis."""

    shards: int | tuple[int, ...] | None
    """Shard shape, a multiple of the chunk shape in each axis; ``None`` (default) for none."""

    compressors: Compressors
    """Codecs as zarr takes them. ``"auto"`` (default) is zstd with its checksum on; ``None`` stores
    uncompressed."""

    filters: Filters
    """Array-to-array codecs as zarr takes them."""

    dtype: DTypeLike | None
    """Casts every block on purpose, as ``astype`` does. Without it, blocks are never cast."""

    dimension_names: Sequence[str | None] | None
    """A name for each axis."""

    attributes: Mapping[str, JSON] | None
    """Attributes of the array; must be representable as JSON. The library adds one of its own,
    ``lazychunks``, which says who wrote it."""

    run_id: str | None
    """Names the run, for ``resume``; stored in the array's attributes. A failed run over a
    map-backed sequence, or in a tee, that has a name keeps what it wrote aside."""

    resume: bool
    """Whether to go on with an unfinished write of the same ``run_id``, or start it. A finished
    one is returned at once. Default False."""

    rtol: float | None
    """Relative tolerance when the first stored block is computed again on resuming; by default it
    must agree bitwise."""

    durable: bool
    """Whether to sync files and directories to the device before the array appears, so that the
    promise holds for a power loss as well (local paths only). Default False."""

    max_in_flight: int | None
    """Number of chunks (shards, where there are shards) being written in the background while
    the next are assembled; by default 2. With an executor: number of tasks that it has been given
    and that have not ended; by default 2 for each worker."""


@dataclass(frozen=True, slots=True)
class WriteOptions:
    """The validated options.

    Raises
    ------
    ValueError, TypeError
        If an option cannot hold for any block.
    """

    chunks: Chunks = "auto"
    shards: int | tuple[int, ...] | None = None
    compressors: Compressors = "auto"
    filters: Filters = "auto"
    dtype: DTypeLike | None = None
    dimension_names: Sequence[str | None] | None = None
    attributes: Mapping[str, JSON] | None = None
    run_id: str | None = None
    resume: bool = False
    rtol: float | None = None
    durable: bool = False
    max_in_flight: int | None = None
    sizes: tuple[tuple[int, ...], ...] | None = None

    def __post_init__(self) -> None:
        replaced: dict[str, object] = {
            "chunks": _chunks(self.chunks),
            "shards": None if self.shards is None else _extents(self.shards, "shards"),
            "compressors": ZSTD if self.compressors == "auto" else _codecs(self.compressors),
            "filters": _codecs(self.filters),
            "dtype": None if self.dtype is None else _dtype(self.dtype),
            "dimension_names": _names(self.dimension_names),
        }
        for name, value in replaced.items():
            object.__setattr__(self, name, value)
        _check_attributes(self.attributes)
        _check_filters(self.filters)
        _check_run_id(self.run_id)
        if self.resume and not self.run_id:
            raise ValueError(
                "resume=True needs run_id=, a name that is the same for each start of this run and "
                "for no other run"
            )
        if self.max_in_flight is not None:
            check_positive(self.max_in_flight, "max_in_flight")
        _check_tolerance(self.rtol)
        if self.compressors not in (None, ZSTD):
            # zarr knows its codecs best: let it refuse them now, on an array nobody sees.
            zarr.create_array(  # pyright: ignore[reportUnknownMemberType]  # zarr names an optional FSMap
                MemoryStore(), shape=(1,), chunks=(1,), dtype="u1", compressors=self.compressors
            )


def _chunks(value: Chunks) -> Chunks:
    if not isinstance(value, str):
        return _extents(value, "chunks")
    if value not in ("auto", "blocks"):
        raise ValueError(f"chunks must be 'auto', 'blocks', an int or a tuple, got {value!r}")
    return value


def _extents(value: SupportsIndex | Sequence[SupportsIndex], name: str) -> int | tuple[int, ...]:
    if not isinstance(value, Sequence):
        return check_positive(value, name)
    if not value:
        raise ValueError(f"{name} must have an extent for each axis, got {value}")
    return tuple(check_positive(extent, f"an extent of {name}") for extent in value)


def _codecs(value: object) -> object:
    """Keep an iterable of codecs, which may be given as a generator, as a tuple."""
    return tuple(value) if _is_listing(value) else value


def _is_listing(value: object) -> TypeGuard[Iterable[object]]:
    return isinstance(value, Iterable) and not isinstance(value, str | Mapping)


def _check_filters(filters: object) -> None:
    """Refuse what no array takes; whether they fit the axes is known with the first block."""
    if filters is None or filters == "auto":
        return
    for codec in filters if _is_listing(filters) else (filters,):
        if not isinstance(codec, ArrayArrayCodec | Mapping):
            raise TypeError(f"filters must be array-to-array codecs, got {codec!r}")


def _dtype(value: DTypeLike) -> np.dtype[Any]:
    dtype = bfloat16.register() if value == bfloat16.NAME else np.dtype(value)
    return storable(dtype, block=None)


def _check_run_id(run_id: object) -> None:
    if not isinstance(run_id, str | None):
        raise TypeError(f"run_id must be a str, got {run_id!r}")
    if run_id == "":
        raise ValueError("run_id must not be empty: it names the run")


def _check_tolerance(rtol: object) -> None:
    if not isinstance(rtol, SupportsFloat | None) or isinstance(rtol, bool):
        raise TypeError(f"rtol must be a number, got {rtol!r}")
    if rtol is not None and not float(rtol) >= 0:
        raise ValueError(f"rtol must not be negative, got {rtol}")


def _names(value: Sequence[str | None] | None) -> tuple[str | None, ...] | None:
    if value is None:
        return None
    asked: object = value
    if not _is_listing(asked) or not all(isinstance(name, str | None) for name in asked):
        raise TypeError(f"dimension_names must hold a str or None for each axis, got {value!r}")
    return tuple(value)


def _check_attributes(attributes: Mapping[str, JSON] | None) -> None:
    if attributes is None:
        return
    if RESERVED in attributes:
        raise ValueError(f"the attribute {RESERVED!r} is the library's own; rename yours")
    try:
        json.dumps(dict(attributes), allow_nan=False)  # where NaN is written, others read no JSON
    except (TypeError, ValueError) as error:
        raise type(error)(f"attributes cannot be stored as JSON: {error}") from None
