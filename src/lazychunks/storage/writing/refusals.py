"""What a write refuses, beside what is wrong with blocks and destinations."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lazychunks.errors import BlockShapeError, NotResumableError, NotSpreadableError
from lazychunks.layout.checks import block_name
from lazychunks.layout.partition import ArrayPlan
from lazychunks.layout.shapes import Shape
from lazychunks.runs.passes import ALONE, Setup
from lazychunks.storage.options import WriteOptions
from lazychunks.storage.resuming.record import Record

if TYPE_CHECKING:
    from lazychunks.converters import ToNumpy


def check_can_resume(
    place: str,
    options: WriteOptions,
    setup: Setup,
    converter: ToNumpy[Any],
    before: object,
    *,
    can_be_kept: bool,
) -> None:
    """Refuse what cannot be resumed in this pass, before anything is looked at."""
    if not options.resume:
        return
    if not can_be_kept:
        raise NotResumableError(
            f"{place} cannot keep an unfinished write for another start: a zip file cannot delete, "
            "and what a session has not committed ends with its process; leave out resume=True, or "
            "write to a directory or another store"
        )
    if before is not None:
        raise NotResumableError(
            f"contramap changes blocks on their way to the sink at {place}, so that those it has "
            "stored cannot be compared, nor given to other folds; apply the function with .map, or "
            "leave out resume=True"
        )
    why = None
    if not hasattr(converter, "from_numpy"):
        why = "its converter has no from_numpy; give it one"
    elif options.dtype is not None:
        why = "dtype= casts what is stored; cast the blocks themselves, with .map"
    if why is not None and setup.needs_blocks:
        raise NotResumableError(
            f"the other folds of this pass need every block, and the sink at {place} cannot give "
            f"back those that it has stored: {why}, or store with to_zarr first"
        )


def check_append(options: WriteOptions, *, overwrite: bool) -> None:
    """Refuse to append and to replace at once."""
    if options.append and overwrite:
        raise ValueError(
            "append=True adds rows to the array that is there, and overwrite=True replaces it; "
            "pass one of them"
        )


def check_listing(sizes: tuple[tuple[int, ...], ...] | None, axes: int) -> None:
    """Refuse sizes that are not those of the block axes."""
    if sizes is not None and len(sizes) != axes:
        kinds = ("a flat sequence takes the size of each block", "a nested one takes two sequences")
        raise ValueError(
            f"sizes= lists {len(sizes)} of {axes} block axes: {kinds[0]}, and {kinds[1]}, heights "
            "of the rows and widths of the columns"
        )


def check_workers(place: str, setup: Setup, *, is_seen_by_processes: bool) -> None:
    """Refuse workers that would not see what they are to write."""
    if not (setup.shares_memory or is_seen_by_processes):
        are_ranks = setup.peers is not ALONE
        raise NotSpreadableError(
            f"{'other ranks' if are_ranks else 'workers in other processes'} do not see {place}; "
            "write to a directory or an object store"
            f"{'' if are_ranks else ', or use a ThreadPoolExecutor'}"
        )


def check_sizes(first: Shape, axes: int, options: WriteOptions, setup: Setup) -> None:
    """Refuse workers where the sizes of the first block cannot be those of all blocks."""
    if setup.workers is not None and options.sizes is None and 0 in first[:axes]:
        raise BlockShapeError(
            f"the first block has shape {first}, and with an executor or ranks all blocks have its "
            "size; list the sizes in sizes=, or leave out executor= and ranks=, or the empty block",
            block=block_name((0,) * axes),
            expected="positive sizes",
            got=first,
        )


def check_even(plan: ArrayPlan, record: Record) -> None:
    """Refuse workers where an earlier start has met blocks of uneven sizes."""
    for axis, (partition, count) in enumerate(zip(plan.axes, record.counts, strict=True)):
        sizes = partition.sizes
        if sizes and len(sizes) != count:
            few = "..., " if len(sizes) > 4 else ""
            raise BlockShapeError(
                f"blocks have sizes {few}{str(sizes[-4:])[1:-1]} along axis {axis}, as an earlier "
                "start has found; with an executor or ranks all blocks but the last have the size "
                "of the first: list them in sizes=, or leave out executor= and ranks= to go on",
                expected=partition.size,
                got=sizes[-4:],
            )
