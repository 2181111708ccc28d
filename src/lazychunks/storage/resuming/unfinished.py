"""What an unfinished write holds: where its blocks lie, and which of them need no computing."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from itertools import product
from typing import TYPE_CHECKING, Any, TypeVar

from lazychunks.layout.partition import ArrayPlan, Partition
from lazychunks.storage.chunks.metadata import open_array
from lazychunks.storage.keys import Keys
from lazychunks.storage.resuming.record import Document, Record, Sizes
from lazychunks.storage.writing.target import Target, list_stored_units

if TYPE_CHECKING:
    from lazychunks.converters import ToNumpy

T = TypeVar("T")

COUNTED = 10**6
"""Number of blocks up to which those that are done are counted."""


def target_of(
    where: Keys,
    document: Document,
    record: Record,
    converter: ToNumpy[T],
    *,
    keys: Collection[str] = (),
    listed: tuple[Sizes, ...] | None = None,
    **options: Any,
) -> Target[T]:
    """Return the target of a run, by the metadata of its array and the record in it.

    Parameters
    ----------
    where, document, record, converter
        Of the run.
    keys
        What is stored there.
    listed
        The option ``sizes=``.
    **options
        Other fields of the target.
    """
    axes = len(record.counts)
    array = open_array(where, document)
    options = {"casts": False, "name": str(where), **options}
    if options.get("dtype") is None:
        options["dtype"] = array.dtype
    record = record.with_even_ends()
    sizes: tuple[Sizes | None, ...] = listed or record.sizes or (None,) * axes
    starts = (record.start, 0)[:axes]
    lengths = record.lengths if listed is None else tuple(map(sum, listed, starts))
    partitions = tuple(map(Partition, record.first, sizes, starts))
    unit, name = (array.shards, "shard") if array.shards else (array.chunks, "chunk")
    plan = ArrayPlan(partitions, array.shape[axes:], unit, name)
    return Target(
        where,
        document,
        plan,
        record.first,
        lengths,
        converter,
        stored=list_stored_units(keys, plan),
        lists_sizes=listed is not None,
        **options,
    )


def count_done(targets: Sequence[Target[Any]], counts: tuple[int | None, ...]) -> int | None:
    """Count the blocks that a next start does not compute; None if there are too many to count.

    A block is done when it is done in all arrays of the write.
    """
    numbers = [
        min((_numbers(target, axis, count) for target in targets), key=len)
        for axis, count in enumerate(counts)
    ]
    if math.prod(map(len, numbers)) > COUNTED:
        return None
    done = 0
    for index in product(*numbers):
        ends = [number + 1 == count for number, count in zip(index, counts, strict=True)]
        done += all(target.has(index, (ends[0], ends[-1])) for target in targets)
    return done


def _numbers(target: Target[Any], axis: int, count: int | None) -> range:
    """Return the numbers of the blocks along an axis of which something may be stored."""
    cells = [*target.stored, *(target.spilled or ())]
    reach = max((cell[axis] + 1 for cell in cells), default=0) * target.unit[axis]
    partition = target.plan.axes[axis]
    if partition.sizes is not None:
        most = len(partition.sizes)
    else:
        most = -(-(reach - partition.start) // partition.size) if partition.size else 0
    return range(most if count is None else min(most, count))
