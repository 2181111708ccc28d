"""Coordinates: small arrays that are stored whole beside those of a group, such as ids or times."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.storage import MemoryStore

from lazychunks.errors import BlockShapeError, ResumeMismatchError
from lazychunks.storage.chunks.metadata import METADATA
from lazychunks.storage.keys import Keys
from lazychunks.storage.options import ZSTD
from lazychunks.storage.resuming.record import Document, parse


@dataclass(frozen=True, slots=True)
class Coordinate:
    """A small array, as it is stored."""

    name: str
    dimensions: tuple[str, ...]
    shape: tuple[int, ...]
    values: Mapping[str, bytes]
    """What is stored, by key, the metadata first."""

    @classmethod
    def of(cls, name: str, given: object) -> Coordinate:
        """Encode an array, or a pair of its dimensions and an array.

        Raises
        ------
        ValueError, TypeError
            If it is no array that can be stored, or does not have these dimensions.
        """
        dimensions, values = given if _is_pair(given) else (name, given)
        names: tuple[str, ...] = (dimensions,) if isinstance(dimensions, str) else tuple(dimensions)
        array: NDArray[Any] = np.asarray(values)
        if array.ndim != len(names):
            raise ValueError(
                f"the coordinate {name!r} has {array.ndim} axes, and its dimensions are {names}; "
                "give a pair: its dimensions, and the array"
            )
        return cls(name, names, array.shape, _encode(name, array, names))

    @property
    def document(self) -> Document:
        """Its metadata."""
        document = parse(self.values[METADATA])
        assert document is not None
        return document

    def store(self, where: Keys) -> None:
        """Write it below a group."""
        for key, value in self.values.items():
            where.write(f"{self.name}/{key}", value)

    def check_same(self, where: Keys) -> None:
        """Refuse to go on with a group that was stored with another one.

        Raises
        ------
        ResumeMismatchError
            If what is stored differs.
        """
        for key, value in self.values.items():
            if where.read(f"{self.name}/{key}") != value:
                raise ResumeMismatchError(
                    f"the coordinate {self.name!r} is not the one that the finished run has "
                    "stored; pass the same one, or overwrite=True without resume to start anew",
                    field="coordinates",
                    got=self.name,
                )


def check_coordinates(
    coordinates: Sequence[Coordinate], documents: Mapping[str, Document], *, open_axes: int = 0
) -> None:
    """Refuse coordinates that do not fit the dimensions of the arrays.

    Parameters
    ----------
    coordinates
        The coordinates.
    documents
        Metadata of the arrays by name.
    open_axes
        Number of first axes whose length is not known yet.

    Raises
    ------
    BlockShapeError
        If no array has the dimension, or one has it with another length.
    """
    lengths: dict[str, dict[str, int | None]] = {}
    for name, document in documents.items():
        for axis, dimension in enumerate(document.get("dimension_names") or ()):
            if dimension is None:
                continue
            length = None if axis < open_axes else document["shape"][axis]
            lengths.setdefault(dimension, {})[name] = length
    for coordinate in coordinates:
        for dimension, length in zip(coordinate.dimensions, coordinate.shape, strict=True):
            if dimension not in lengths:
                raise BlockShapeError(
                    f"the coordinate {coordinate.name!r} is along {dimension!r}, and no array has "
                    "a dimension of that name; name it in dimension_names=",
                    expected=dimension,
                    got=[*lengths],
                )
            for name, expected in lengths[dimension].items():
                if expected not in (None, length):
                    raise BlockShapeError(
                        f"the coordinate {coordinate.name!r} has length {length} along "
                        f"{dimension!r}, and {name!r} has {expected}; give one value for each",
                        expected=expected,
                        got=length,
                        member=name,
                    )


def _encode(name: str, array: NDArray[Any], dimensions: tuple[str, ...]) -> dict[str, bytes]:
    """Let zarr encode an array as one chunk."""
    store: dict[str, Any] = {}
    # Text of variable length: that of fixed length has no specification in Zarr 3.
    dtype: Any = str if array.dtype.kind in "UT" else array.dtype
    try:
        stored = zarr.create_array(  # pyright: ignore[reportUnknownMemberType]  # names an FSMap
            MemoryStore(store),
            shape=array.shape,
            chunks=tuple(max(length, 1) for length in array.shape),
            dtype=dtype,
            compressors=ZSTD,
            dimension_names=dimensions,
            config={"write_empty_chunks": True},
        )
        stored[...] = array
    except (TypeError, ValueError) as error:
        raise TypeError(f"the coordinate {name!r} cannot be stored: {error}") from error
    keys = sorted(store, key=lambda key: key != METADATA)
    return {key: store[key].to_bytes() for key in keys}


def _is_pair(given: object) -> TypeGuard[tuple[Any, object]]:
    """Whether it is a pair of dimensions and values, and not two values."""
    pair: Any = given
    if not isinstance(given, tuple) or len(pair) != 2:
        return False
    names: Any = pair[0]
    if isinstance(names, str):
        return True
    return type(names) in (tuple, list) and all(isinstance(name, str) for name in names)
