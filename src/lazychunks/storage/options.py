"""How a stored array is laid out: the options of ``to_zarr``, and their validation."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import (
    Any,
    Literal,
    SupportsFloat,
    TypeAlias,
    TypedDict,
    TypeGuard,
)

import numpy as np
import zarr
import zarr.codecs
from numpy.typing import DTypeLike
from typing_extensions import Unpack
from zarr.abc.codec import ArrayArrayCodec, BytesBytesCodec
from zarr.abc.store import Store
from zarr.core.buffer import Buffer
from zarr.core.common import JSON
from zarr.storage import MemoryStore, StorePath

from lazychunks.layout.checks import check_positive, check_size
from lazychunks.layout.plan import Chunks, Extents
from lazychunks.storage.chunks import bfloat16
from lazychunks.storage.chunks.dtypes import storable

RESERVED = "lazychunks"
"""The attribute in which a run leaves its record."""

ZSTD = zarr.codecs.ZstdCodec(level=3, checksum=True)
"""The default compressor; its checksum tells a damaged chunk when it is read."""

MOST_ATTRIBUTE_BYTES = 2**21
"""Bytes of attributes as JSON: `from_zarr` reads no metadata of more than twice as many."""

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
Sizes: TypeAlias = Iterable[int] | tuple[Iterable[int], Iterable[int]]


class ArrayOptions(TypedDict, total=False):
    """Options that each array of a group may have for itself."""

    chunks: Chunks
    """Chunk shape. ``"auto"`` (default) takes the first block's shape, merged up to about 1 MiB
    and split above about 128 MiB; ``"blocks"`` takes it as it is; an int is the extent along the
    block axes (the others stay whole); a tuple has one extent for each axis, ``None`` or -1 for an
    axis that stays whole."""

    shards: Extents | None
    """Shard shape, a multiple of the chunk shape in each axis, given like that; ``None`` (default)
    for none. With ``chunks="auto"``, chunks are parts of it."""

    compressors: Compressors
    """Codecs as zarr takes them. ``"auto"`` (default) is zstd with its checksum on; ``None`` stores
    uncompressed."""

    filters: Filters
    """Array-to-array codecs as zarr takes them."""

    dtype: DTypeLike | None
    """Casts every block on purpose, as ``astype`` does. Without it, blocks are never cast."""

    dimension_names: Iterable[str | None] | None
    """A name for each axis."""

    attributes: Mapping[str, JSON] | None
    """Attributes of the array; must be representable as JSON. The library adds one of its own,
    ``lazychunks``, which says who wrote it; it replaces one that was copied from another array."""

    sizes: Sizes | None
    """Sizes of the blocks along axis 0, if they differ and are known beforehand (for a nested
    sequence a pair: heights of the rows, widths of the columns). A block of another size is an
    error."""


class ZarrOptions(ArrayOptions, total=False):
    """Keyword options of ``to_zarr``; all are validated before the first block is computed."""

    run_id: str | None
    """Names the run, for ``resume``; stored in the array's attributes. A failed run with a name
    over a map-backed sequence keeps what it wrote, for another start."""

    resume: bool
    """Whether to go on with an unfinished write of the same ``run_id``, or start it. A finished one
    is returned, unless something differs from it. Default False."""

    append: bool
    """Whether to add the blocks as new rows, along axis 0, to an array that is there; without one,
    the array is created. Layout, dtype and codecs stay those of the array, and options that
    contradict them are refused. Readers find the old rows, or all. With a ``run_id``, a start after
    the one that has stored the rows returns at once. Default False."""

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
    """The options once they are validated: made by :meth:`of`, or the defaults."""

    chunks: Chunks = "auto"
    shards: Extents | None = None
    compressors: Compressors = ZSTD
    filters: Filters = "auto"
    dtype: np.dtype[Any] | None = None
    dimension_names: tuple[str | None, ...] | None = None
    attributes: Mapping[str, JSON] | None = None
    sizes: tuple[tuple[int, ...], ...] | None = None
    """Sizes of the blocks along each block axis."""
    run_id: str | None = None
    resume: bool = False
    append: bool = False
    rtol: float | None = None
    durable: bool = False
    max_in_flight: int | None = None
    name: str | None = None
    """Of an array in a group."""

    @classmethod
    def of(cls, **options: Unpack[ZarrOptions]) -> WriteOptions:
        """Validate options.

        Raises
        ------
        ValueError, TypeError
            If an option cannot hold for any block, or there is no such option.
        """
        unknown = sorted(options.keys() - _VALIDATORS.keys())
        if unknown:
            raise TypeError(
                f"to_zarr has no option {unknown[0]!r}; it has {', '.join(_VALIDATORS)}"
            )
        made = cls().with_options(**options)
        if made.resume and not made.run_id:
            raise ValueError(
                "resume=True needs run_id=, a name that is the same for each start of this run and "
                "for no other run"
            )
        return made

    def with_options(self, **options: Unpack[ZarrOptions]) -> WriteOptions:
        """Return these options with some of them replaced; raises as :meth:`of` does."""
        given: Mapping[str, Any] = {**options}
        valid: dict[str, Any] = {
            # Not for chunks: there, None would be an axis that stays whole.
            name: None if value is None and name != "chunks" else _VALIDATORS[name](value)
            for name, value in given.items()
        }
        return replace(self, **valid)


def _validate_chunks(value: object) -> object:
    if not isinstance(value, str):
        return _validate_extents(value, "chunks")
    if value not in ("auto", "blocks"):
        raise ValueError(f"chunks must be 'auto', 'blocks', an int or a tuple, got {value!r}")
    return value


def _validate_extents(value: Any, name: str) -> Extents:
    """Return one extent, or a tuple of them with None for an axis that stays whole."""
    members = _members(value)
    extents = (value,) if members is None else members
    if not extents:
        raise ValueError(f"{name} must have an extent for each axis, got {value}")
    if extents[0] in (None, -1):
        raise ValueError(
            f"{name}={value} leaves axis 0 whole, but its length is known only after the last "
            "block; give an extent"
        )
    if members is None:
        return check_positive(extents[0], name)
    what = f"an extent of {name}"
    return tuple(None if each in (None, -1) else check_positive(each, what) for each in members)


def _validate_compressors(value: Any) -> object:
    if value == "auto":
        return ZSTD
    members = _members(value)
    compressors = value if members is None else members
    # zarr knows its codecs best: let it refuse them now, on an array that nobody sees.
    zarr.create_array(  # pyright: ignore[reportUnknownMemberType]  # zarr names an optional FSMap
        MemoryStore(), shape=(1,), chunks=(1,), dtype="u1", compressors=compressors
    )
    return compressors


def _validate_filters(value: object) -> object:
    """Refuse what no array takes; whether they fit the axes is known with the first block."""
    members = _members(value)
    for codec in (value,) if members is None else members:
        if not isinstance(codec, ArrayArrayCodec | Mapping) and value != "auto":
            raise TypeError(f"filters must be array-to-array codecs, got {codec!r}")
    return value if members is None else members


def _validate_dtype(value: Any) -> np.dtype[Any]:
    dtype = bfloat16.register() if value == bfloat16.NAME else np.dtype(value)
    return storable(dtype, block=None)


def _validate_names(value: object) -> tuple[str | None, ...]:
    names = _members(value)  # once: a generator would be empty when it is stored
    if names is None or not all(isinstance(name, str | None) for name in names):
        raise TypeError(f"dimension_names must hold a str or None for each axis, got {value!r}")
    return names


def _validate_attributes(value: Any) -> dict[str, object]:
    attributes: dict[str, object] = dict(value)
    # In attributes that were copied from another array, the record is that of another run.
    attributes.pop(RESERVED, None)
    try:
        # NaN is no JSON, so other programs could not read the metadata.
        size = len(json.dumps(attributes, allow_nan=False, indent=2))
    except (TypeError, ValueError) as error:
        raise type(error)(f"attributes cannot be stored as JSON: {error}") from None
    if size > MOST_ATTRIBUTE_BYTES:
        raise ValueError(
            f"attributes have {size} bytes as JSON, at most {MOST_ATTRIBUTE_BYTES} fit"
        )
    return attributes


def _validate_sizes(value: object) -> tuple[tuple[int, ...], ...]:
    """Return the sizes along each block axis."""
    members = _members(value)
    if members is None:
        raise TypeError(f"sizes must hold the size of each block, got {value!r}")
    # Of a flat sequence, the members are sizes; of a nested one, they list them.
    axes = [axis for axis in map(_members, members) if axis is not None]
    if axes and not len(axes) == len(members) == 2:
        raise ValueError(
            f"sizes must be a sequence of ints, or for a nested sequence two of them, got {value!r}"
        )
    axes = axes or [members]
    if not all(axes):
        raise ValueError("sizes must not be empty: they hold the size of each block")
    return tuple(tuple(map(check_size, sizes)) for sizes in axes)


def _validate_run_id(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"run_id must be a str, got {value!r}")
    if not value:
        raise ValueError("run_id must not be empty: it names the run")
    return value


def _validate_tolerance(value: object) -> SupportsFloat:
    # True would be a tolerance of 100 %.
    if not isinstance(value, SupportsFloat) or isinstance(value, bool):
        raise TypeError(f"rtol must be a number, got {value!r}")
    if not float(value) >= 0:
        raise ValueError(f"rtol must not be negative, got {value}")
    return value


def _members(value: object) -> tuple[Any, ...] | None:
    """Members of a listing, which may be a generator; None if it is something else."""
    return tuple(value) if _is_listing(value) else None


def _is_listing(value: object) -> TypeGuard[Iterable[Any]]:
    return isinstance(value, Iterable) and not isinstance(value, str | Mapping)


_VALIDATORS: Mapping[str, Callable[[Any], object]] = {
    "chunks": _validate_chunks,
    "shards": partial(_validate_extents, name="shards"),
    "compressors": _validate_compressors,
    "filters": _validate_filters,
    "dtype": _validate_dtype,
    "dimension_names": _validate_names,
    "attributes": _validate_attributes,
    "sizes": _validate_sizes,
    "run_id": _validate_run_id,
    "resume": bool,
    "append": bool,
    "rtol": _validate_tolerance,
    "durable": bool,
    "max_in_flight": partial(check_positive, name="max_in_flight"),
}
"""Each returns the option as it is kept, and raises if it cannot hold for any block.

All options but ``chunks`` may be None.
"""
