"""Blocks read back from an array, which need not be trusted: its metadata is judged first."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar

import zarr
from zarr.storage import LocalStore

from lazychunks.blocks.ahead import Ahead
from lazychunks.blocks.factories import Mapped, Product
from lazychunks.errors import UntrustedArrayError
from lazychunks.layout.checks import check_positive
from lazychunks.layout.plan import MERGE_BELOW
from lazychunks.layout.shapes import Shape, cell_count, cell_region, fit_extent
from lazychunks.storage.chunks.files import Reader
from lazychunks.storage.chunks.trust import BYTES_EACH, check_number, judged, opened
from lazychunks.storage.keys import Keys
from lazychunks.storage.options import Destination
from lazychunks.storage.places.place import resolve_destination
from lazychunks.storage.places.register import REGISTER

if TYPE_CHECKING:
    from lazychunks.converters import FromNumpy
    from lazychunks.storage.chunks.metadata import StoredArray

    Source: TypeAlias = Destination | StoredArray

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

READ_AHEAD = 2
"""Number of blocks read ahead of their consumer."""


def read_flat(
    source: Source, converter: FromNumpy[T], rows: int | None, max_chunk_bytes: int
) -> tuple[Ahead[T], int]:
    """Return the factory of the blocks of an array along axis 0, and their number."""
    read, (below,) = _cut(source, converter, {"rows": rows}, max_chunk_bytes)
    return Ahead(Mapped(read, below), None, READ_AHEAD), len(below)


def read_nested(
    source: Source,
    converter: FromNumpy[T],
    rows: int | None,
    columns: int | None,
    max_chunk_bytes: int,
) -> tuple[Ahead[T], int]:
    """Return the factory of the blocks of an array along axes 0 and 1, and the number of rows."""
    asked = {"rows": rows, "columns": columns}
    read, (below, across) = _cut(source, converter, asked, max_chunk_bytes)
    return Ahead(Product(read, below, across), None, READ_AHEAD), len(below)


@dataclass(frozen=True, slots=True)
class _Read(Generic[T_co]):
    """Reads one block of an array and converts it."""

    reader: Reader
    converter: FromNumpy[T_co]
    size: Shape
    """Shape of a block, of which the last along an axis may be smaller."""

    def __reduce__(self) -> tuple[object, ...]:
        array = self.reader.array
        REGISTER.note_read(array.store, array.path)  # nobody knows what another process reads
        return type(self), (self.reader, self.converter, self.size)

    def __call__(self, *index: int) -> T_co:
        array = self.reader.array
        REGISTER.note_read(array.store, array.path)
        whole = (0,) * (array.ndim - len(index))
        region = cell_region((*index, *whole), self.size, array.shape)
        return self.converter.from_numpy(self.reader(region))


def _cut(
    source: Source, converter: FromNumpy[T], asked: Mapping[str, int | None], max_chunk_bytes: int
) -> tuple[_Read[T], list[range]]:
    """Judge an array by its metadata, open it, and number its blocks along the first axes.

    An axis of length zero has one block, which still tells shape and dtype. Nothing is listed that
    is not asked for: metadata may claim any length.

    Raises
    ------
    UntrustedArrayError
        If it is not known to be harmless, or if not even the smallest block is small enough: chunks
        may be missing, and are filled in memory.
    """
    limit = check_positive(max_chunk_bytes, "max_chunk_bytes")
    if isinstance(source, zarr.Array):
        where = str(source.store_path)
        metadata: Any = source.metadata  # of Zarr 2 or 3
        store = source.store
        if type(store) is LocalStore:  # whose path may depend on the working directory
            store = LocalStore(store.root.absolute(), read_only=store.read_only)
        array = judged(Keys(store, source.path), metadata.to_dict(), where, limit)
    else:
        place = resolve_destination(source)
        where = str(place)
        array = opened(place, limit)
    axes = len(asked)
    if array.ndim < axes:
        raise ValueError(
            f"{where} has {array.ndim} axes, a {'nested' if axes == 2 else 'flat'} sequence "
            f"needs at least {axes}"
        )
    each = math.prod(array.shape[axes:]) * array.dtype.itemsize
    number = cell_count(array.shape[axes:], array.chunks[axes:])
    what = f"one {'row' if axes == 1 else 'cell of axes 0 and 1'} of an array of shape "
    if each > limit:
        raise UntrustedArrayError(
            f"{what}{array.shape} has {each} bytes, more than max_chunk_bytes={limit}; raise that "
            "if you trust its origin and have the memory"
        )
    check_number(number, f"{what}{array.shape}", limit)
    sizes: list[int] = []
    for (name, size), chunk in zip(asked.items(), array.chunks, strict=False):
        merged = min(MERGE_BELOW, limit) if len(sizes) == axes - 1 else 0
        most = chunk * max(MERGE_BELOW // (BYTES_EACH * max(number, 1)), 1)  # however tiny they are
        fitting = min(fit_extent(chunk, each, merged, limit), most)
        sizes.append(fitting if size is None else check_positive(size, name))
        each *= sizes[-1]
        number *= -(-sizes[-1] // chunk)
    read = _Read(Reader.of(array), converter, (*sizes, *array.shape[axes:]))
    counts = map(cell_count, zip(array.shape), zip(sizes))
    return read, [range(max(count, 1)) for count in counts]
