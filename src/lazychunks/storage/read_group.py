"""Reads the arrays of a group back as blocks that are mappings."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeAlias, TypeVar

import zarr
from zarr.storage import StorePath

from lazychunks.blocks.ahead import Ahead
from lazychunks.blocks.factories import Mapped, Product
from lazychunks.errors import UntrustedArrayError
from lazychunks.layout.checks import check_positive
from lazychunks.layout.partition import Partition
from lazychunks.layout.shapes import Region
from lazychunks.storage.keys import Keys
from lazychunks.storage.options import Destination
from lazychunks.storage.places.place import resolve_destination
from lazychunks.storage.read import READ_AHEAD, ArrayReader, Missing, prepare_reading
from lazychunks.storage.resuming.record import Record, parse, record_of

if TYPE_CHECKING:
    from lazychunks.converters import FromNumpy

    GroupSource: TypeAlias = Destination | zarr.Group

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

MERGED_BYTES = 2**24
"""Bytes up to which blocks are read together, where several of them lie in one chunk."""


def read_flat_group(
    source: GroupSource,
    converter: FromNumpy[T],
    names: Iterable[str] | None,
    rows: int | None,
    max_chunk_bytes: int,
    missing: Missing,
) -> tuple[Ahead[dict[str, T]], int]:
    """Return the factory of the blocks of a group along axis 0, and their number."""
    read, (below,) = _prepare(source, converter, names, [rows], max_chunk_bytes, missing)
    return Ahead(Mapped(read, below), None, READ_AHEAD), len(below)


def read_nested_group(
    source: GroupSource,
    converter: FromNumpy[T],
    names: Iterable[str] | None,
    rows: int | None,
    columns: int | None,
    max_chunk_bytes: int,
    missing: Missing,
) -> tuple[Ahead[dict[str, T]], int]:
    """Return the factory of the blocks of a group along axes 0 and 1, and the number of rows."""
    asked = [rows, columns]
    read, (below, across) = _prepare(source, converter, names, asked, max_chunk_bytes, missing)
    return Ahead(Product(read, below, across), None, READ_AHEAD), len(below)


@dataclass(frozen=True, slots=True)
class _Member(Generic[T_co]):
    """Reads what blocks hold under one name."""

    reader: ArrayReader[T_co]
    axes: tuple[Partition, ...]
    counts: tuple[int, ...]
    """Number of blocks along each block axis."""

    def __call__(self, index: tuple[int, ...], merged: tuple[int, ...]) -> T_co:
        """Read so many blocks together; ``index`` counts them as one."""
        shape = self.reader.array.shape
        spans: list[slice] = []
        for axis, partition in enumerate(self.axes):
            number = index[axis] * merged[axis]
            stop = number + merged[axis]
            is_last = stop >= self.counts[axis]
            end = shape[axis] if is_last else partition.start_of(stop)
            spans.append(slice(partition.start_of(number), end))
        region: Region = (*spans, *(slice(0, length) for length in shape[len(spans) :]))
        return self.reader.read(index, region)


@dataclass(frozen=True, slots=True)
class _ReadGroup(Generic[T_co]):
    """Reads one block of a group."""

    label: ClassVar[str] = "from_zarr_group"

    members: Mapping[str, _Member[T_co]]
    merged: tuple[int, ...]
    """Number of blocks, as they were stored, that are read together along each block axis."""

    def __call__(self, *index: int) -> dict[str, T_co]:
        return {name: member(index, self.merged) for name, member in self.members.items()}


def _prepare(
    source: GroupSource,
    converter: FromNumpy[T],
    names: Iterable[str] | None,
    asked: list[int | None],
    max_chunk_bytes: int,
    missing: Missing,
) -> tuple[_ReadGroup[T], list[range]]:
    """Check a group and its arrays by their metadata, and choose the blocks.

    Raises
    ------
    FileNotFoundError
        If there is no group, or no array of a name.
    UntrustedArrayError
        If an array is not known to be harmless.
    ValueError, TypeError
        If the arrays have not the same number of blocks.
    """
    where, place = _find_group(source)
    document = parse(where.read("zarr.json"))
    if document is None or document.get("node_type") != "group":
        raise FileNotFoundError(
            f"there is no Zarr group at {place}; if a write there was killed, nothing was published"
        )
    record = record_of(document)
    chosen = tuple(names) if names is not None else () if record is None else record.members
    if not chosen:
        raise ValueError(
            f"{place} was not written by to_zarr_group, so which of its arrays belong together is "
            "not known; pass names="
        )
    members: dict[str, _Member[T]] = {}
    words = ("rows", "columns")
    for name in chosen:
        reader = prepare_reading(
            StorePath(where.store, where.key(name)),
            converter,
            dict(zip(words, [each or 1 for each in asked], strict=False)),
            max_chunk_bytes,
            missing,
        )
        members[name] = _divide(reader, asked, f"{place}/{name}")
    merged = tuple(
        1 if asked[axis] else _choose_merged([*members.values()], axis)
        for axis in range(len(asked))
    )
    numbers: list[range] = []
    for axis, word in enumerate(words[: len(asked)]):
        counts = {name: member.counts[axis] for name, member in members.items()}
        if len({*counts.values()}) > 1:
            raise ValueError(
                f"the arrays of {place} have different numbers of blocks along axis {axis}: "
                f"{counts}; pass other {word}=, or names= of those that belong together"
            )
        numbers.append(range(-(-counts[chosen[0]] // merged[axis])))
    return _ReadGroup(members, merged), numbers


def _find_group(source: GroupSource) -> tuple[Keys, str]:
    if isinstance(source, zarr.Group):
        return Keys(source.store, source.path), str(source.store_path)
    place = resolve_destination(source)
    return place.in_store(read_only=True), str(place)


def _divide(reader: ArrayReader[T], asked: list[int | None], name: str) -> _Member[T]:
    """Cut an array into blocks of so many rows, or into those that it was written of."""
    shape = reader.array.shape
    record = record_of({"attributes": reader.array.attrs.asdict()})
    axes: list[Partition] = []
    counts: list[int] = []
    for axis, size in enumerate(asked):
        if size is not None:
            axes.append(Partition(check_positive(size, ("rows", "columns")[axis])))
            counts.append(max(-(-shape[axis] // size), 1))
            continue
        partition, count = _stored_blocks(record, axis, shape[axis], name)
        axes.append(partition)
        counts.append(count)
    return _Member(reader, tuple(axes), tuple(counts))


def _stored_blocks(
    record: Record | None, axis: int, length: int, name: str
) -> tuple[Partition, int]:
    """Return the blocks that an array was written of, and their number."""
    count = record.counts[axis] if record is not None and axis < len(record.counts) else None
    if record is None or count is None or record.omits_sizes:
        raise ValueError(
            f"which blocks {name} was written of is not known along axis {axis}; pass "
            f"{('rows', 'columns')[axis]}="
        )
    partition = Partition(record.first[axis], record.sizes[axis])
    fits = (
        sum(partition.sizes) == length and len(partition.sizes) == count
        if partition.sizes is not None
        else count == 1 or partition.start_of(count - 1) <= length
    )
    if not fits:
        raise UntrustedArrayError(
            f"{name} has {length} along axis {axis}, which is not what its record says; pass "
            f"{('rows', 'columns')[axis]}="
        )
    return partition, count


def _choose_merged(members: list[_Member[Any]], axis: int) -> int:
    """Return how many blocks are read together, so that chunks are not read again and again."""
    most = 1
    for member in members:
        array, partition = member.reader.array, member.axes[axis]
        unit, size = array.chunks[axis], partition.size
        if partition.sizes is None and size and unit % size == 0:
            most = math.lcm(most, unit // size)
    each = 0
    for member in members:
        array = member.reader.array
        others = math.prod(array.shape[:axis]) * math.prod(array.shape[axis + 1 :])
        each += member.axes[axis].size * others * array.dtype.itemsize
    return max(min(most, MERGED_BYTES // max(each, 1)), 1)
