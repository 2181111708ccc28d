"""Reads an array back as blocks. It need not be trusted: its metadata is checked first."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, TypeAlias, TypeVar

import zarr
from zarr.storage import LocalStore

from lazychunks.blocks.ahead import Ahead
from lazychunks.blocks.factories import Mapped, Product
from lazychunks.errors import MissingChunkError, UntrustedArrayError
from lazychunks.layout.checks import block_name, check_positive
from lazychunks.layout.plan import choose_read_block
from lazychunks.layout.shapes import Region, Shape, cell_count, cell_region
from lazychunks.storage.chunks.files import Reader
from lazychunks.storage.chunks.trust import check_chunk_count, check_metadata, open_checked
from lazychunks.storage.keys import Keys
from lazychunks.storage.options import Destination
from lazychunks.storage.places.place import resolve_destination
from lazychunks.storage.places.register import REGISTER
from lazychunks.storage.resuming.record import misses_none

if TYPE_CHECKING:
    from lazychunks.converters import FromNumpy
    from lazychunks.storage.chunks.metadata import StoredArray

    Source: TypeAlias = Destination | StoredArray

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

Missing: TypeAlias = Literal["fill"] | None
"""Whether missing chunks of an array of this library have the fill value, or are an error."""

READ_AHEAD = 2
"""Number of blocks read ahead of their consumer."""


def read_flat(
    source: Source,
    converter: FromNumpy[T],
    rows: int | None,
    max_chunk_bytes: int,
    missing: Missing,
) -> tuple[Ahead[T], int]:
    """Return the factory of the blocks of an array along axis 0, and their number."""
    read = prepare_reading(source, converter, {"rows": rows}, max_chunk_bytes, missing)
    (below,) = read.numbers(1)
    return Ahead(Mapped(read, below), None, READ_AHEAD), len(below)


def read_nested(
    source: Source,
    converter: FromNumpy[T],
    rows: int | None,
    columns: int | None,
    max_chunk_bytes: int,
    missing: Missing,
) -> tuple[Ahead[T], int]:
    """Return the factory of the blocks of an array along axes 0 and 1, and the number of rows."""
    asked = {"rows": rows, "columns": columns}
    read = prepare_reading(source, converter, asked, max_chunk_bytes, missing)
    below, across = read.numbers(2)
    return Ahead(Product(read, below, across), None, READ_AHEAD), len(below)


@dataclass(frozen=True, slots=True)
class ArrayReader(Generic[T_co]):
    """Reads one block of an array and converts it."""

    label: ClassVar[str] = "from_zarr"

    reader: Reader
    converter: FromNumpy[T_co]
    size: Shape
    """Shape of a block, of which the last along an axis may be smaller."""

    def __reduce__(self) -> tuple[object, ...]:
        array = self.reader.array
        # A copy in another process reads without telling, so it counts as reading from now on.
        REGISTER.note_read(array.store, array.path)
        return type(self), (self.reader, self.converter, self.size)

    @property
    def array(self) -> StoredArray:
        """The array."""
        return self.reader.array

    def __call__(self, *index: int) -> T_co:
        """Read a block by its place."""
        whole = (0,) * (self.array.ndim - len(index))
        return self.read(index, cell_region((*index, *whole), self.size, self.array.shape))

    def read(self, index: Shape, region: Region) -> T_co:
        """Read a region and convert it; ``index`` is the place of the block, for messages."""
        REGISTER.note_read(self.array.store, self.array.path)
        try:
            values = self.reader(region)
        except MissingChunkError as error:
            block = block_name(index)
            raise MissingChunkError(
                f"block {block}: {error.message}", key=error.key, block=block
            ) from None
        return self.converter.from_numpy(values)

    def count_rows(self, *index: int) -> int:
        """Return the length of a block along axis 0, without reading it."""
        height = self.size[0]
        return min(height, self.reader.array.shape[0] - index[0] * height)

    def numbers(self, axes: int) -> list[range]:
        """Numbers of the blocks along the first axes. Ranges: metadata may claim any length.

        An axis of length zero has one block, which still tells shape and dtype.
        """
        lengths = zip(self.reader.array.shape[:axes], self.size[:axes], strict=True)
        return [range(max(-(-length // size), 1)) for length, size in lengths]


def prepare_reading(
    source: Source,
    converter: FromNumpy[T],
    asked: Mapping[str, int | None],
    max_chunk_bytes: int,
    missing: Missing,
) -> ArrayReader[T]:
    """Check an array by its metadata, open it, and choose its blocks.

    Raises
    ------
    UntrustedArrayError
        If it is not known to be harmless, or if even the smallest block has too many bytes or
        chunks.
    ValueError, TypeError
        If it has too few axes, or a parameter is no positive integer, or ``missing`` is unknown.
    """
    limit = check_positive(max_chunk_bytes, "max_chunk_bytes")
    if missing not in (None, "fill"):
        raise ValueError(f'missing must be None or "fill", got {missing!r}')
    array, name = _open_source(source, limit)
    axes = len(asked)
    if array.ndim < axes:
        raise ValueError(
            f"{name} has {array.ndim} axes, a {'nested' if axes == 2 else 'flat'} sequence "
            f"needs at least {axes}"
        )
    # A block has at least one row. Chunks in it that are missing take memory all the same.
    least = f"one {'row' if axes == 1 else 'cell of axes 0 and 1'} of an array of shape "
    bytes_each = math.prod(array.shape[axes:]) * array.dtype.itemsize
    if bytes_each > limit:
        raise UntrustedArrayError(
            f"{least}{array.shape} has {bytes_each} bytes, more than max_chunk_bytes={limit}; "
            "raise that if you trust its origin and have the memory"
        )
    chunks_each = cell_count(array.shape[axes:], array.chunks[axes:])
    check_chunk_count(chunks_each, f"{least}{array.shape}", limit)
    extents = [None if size is None else check_positive(size, word) for word, size in asked.items()]
    size = choose_read_block(array.shape, array.chunks, array.dtype.itemsize, extents, limit)
    metadata: Any = array.metadata  # of Zarr 2 or 3
    # Other programs leave out chunks of fill values; this library stores every chunk.
    refuses = missing is None and misses_none(metadata.to_dict())
    reader = Reader.of(array, refuse_missing=refuses)
    return ArrayReader(reader, converter, size)


def _open_source(source: Source, limit: int) -> tuple[StoredArray, str]:
    """Open an array once its metadata are checked, and tell its name for messages."""
    if not isinstance(source, zarr.Array):
        place = resolve_destination(source)
        return open_checked(place, limit), str(place)
    metadata: Any = source.metadata  # of Zarr 2 or 3
    name, store = str(source.store_path), source.store
    if type(store) is LocalStore:
        # Elsewhere, where a relative path leads nowhere, all chunks would seem to be missing.
        store = LocalStore(store.root.absolute(), read_only=store.read_only)
    return check_metadata(Keys(store, source.path), metadata.to_dict(), name, limit), name
