"""How a stored array is laid out: the options of ``to_zarr``, and their validation."""

from __future__ import annotations

import json
import operator
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, SupportsIndex, TypeAlias, TypedDict

import numpy as np
import zarr
import zarr.codecs
from numpy.typing import DTypeLike
from zarr.abc.codec import ArrayArrayCodec, BytesBytesCodec
from zarr.abc.store import Store
from zarr.core.buffer import Buffer
from zarr.core.common import JSON
from zarr.storage import MemoryStore, StorePath

from lazychunks.storage.dtypes import storable

__all__ = ["Chunks", "Compressors", "Destination", "Filters", "WriteOptions", "ZarrOptions"]

Destination: TypeAlias = str | os.PathLike[str] | Store | StorePath | dict[str, Buffer]
"""Where an array goes: a local path, a URL, a zarr store or a place in one, or a plain dict."""

Chunks: TypeAlias = Literal["auto", "blocks"] | int | tuple[int, ...]
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
    """Attributes of the array; must be representable as JSON."""

    max_in_flight: int
    """Number of chunks (shards, where there are shards) being written in the background while
    the next are assembled; at least 1, default 2."""


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
    max_in_flight: int = 2

    def __post_init__(self) -> None:
        if self.chunks not in ("auto", "blocks"):
            _check_extents(self.chunks, "chunks")
        if self.shards is not None:
            _check_extents(self.shards, "shards")
        if _integer(self.max_in_flight, "max_in_flight") < 1:
            raise ValueError(f"max_in_flight must be at least 1, got {self.max_in_flight}")
        if self.dtype is not None:
            object.__setattr__(self, "dtype", storable(np.dtype(self.dtype), block=None))
        if self.attributes is not None:
            try:
                json.dumps(dict(self.attributes))
            except (TypeError, ValueError) as error:
                raise type(error)(f"attributes cannot be stored as JSON: {error}") from None
        if self.compressors != "auto":
            # zarr knows its codecs best: let it refuse them now, on an array nobody sees.
            zarr.create_array(  # pyright: ignore[reportUnknownMemberType]  # zarr names an optional FSMap
                MemoryStore(), shape=(1,), chunks=(1,), dtype="u1", compressors=self.compressors
            )

    @property
    def zarr_compressors(self) -> Compressors:
        """Compressors as handed to zarr."""
        if self.compressors == "auto":
            return zarr.codecs.ZstdCodec(level=3, checksum=True)
        return self.compressors


def _check_extents(value: int | str | tuple[int, ...], name: str) -> None:
    if isinstance(value, str):
        raise ValueError(  # noqa: TRY004  # the type is right, the word is not
            f"{name} must be 'auto', 'blocks', an int or a tuple, got {value!r}"
        )
    extents = value if isinstance(value, tuple) else (value,)
    if not extents or any(_integer(extent, name) < 1 for extent in extents):
        raise ValueError(f"{name} must be positive in each axis, got {value}")


def _integer(value: SupportsIndex, name: str) -> int:
    if isinstance(value, bool):
        raise TypeError(f"{name} must hold integers, got {value!r}")
    try:
        return operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must hold integers, got {value!r}") from None
