"""What an earlier start has left at a destination, and whether this one may go on with it."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
from zarr.storage import LocalStore

from lazychunks.errors import DestinationError, DestinationExistsError, ResumeMismatchError
from lazychunks.layout.plan import WritePlan
from lazychunks.layout.shapes import Shape, cell_count
from lazychunks.storage.chunks.metadata import (
    KEPT_BACK,
    METADATA,
    is_overwriting,
    list_chunk_keys,
    make_document,
    open_array,
)
from lazychunks.storage.chunks.whole import WholeUnits
from lazychunks.storage.keys import Keys
from lazychunks.storage.options import WriteOptions
from lazychunks.storage.resuming.mismatches import (
    check_same_dtype,
    check_same_layout,
    check_same_run,
    mismatch,
)
from lazychunks.storage.resuming.record import (
    DamagedRecordError,
    Document,
    Record,
    hash_sizes,
    parse,
    record_of,
    unseal,
)
from lazychunks.storage.writing.target import count_chunks, parse_chunk_key

if TYPE_CHECKING:
    from typing import Any

    from lazychunks.storage.places.protocol import Draft, Place

START_ANEW = "pass overwrite=True without resume to start anew"

_CHUNK = re.compile(r"(^|/)c/")


@dataclass(frozen=True, slots=True)
class Found:
    """What an earlier start of the same run has left of an array."""

    where: Keys
    document: Document
    record: Record
    keys: Collection[str]
    """Of all that is stored there."""


def survey(
    place: Place, draft: Draft, options: WriteOptions, *, overwrite: bool
) -> Literal["finished", "unfinished"] | None:
    """Look at a destination, before any block is computed.

    Returns
    -------
    str or None
        Whether an earlier start of this run has finished, or has left something to go on with. None
        to begin.

    Raises
    ------
    DestinationExistsError, DestinationReadOnlyError
        If the destination may not, or cannot, be written.
    """
    record = record_of(parse(place.read(METADATA)))
    if options.resume and record and record.run_id == options.run_id:
        return "finished"
    is_taken = place.is_taken()
    if is_taken:
        if not overwrite:
            raise DestinationExistsError(
                f"{place} holds an array; pass overwrite=True to replace it", path=str(place)
            )
        place.check_removable()
    if not draft.exists():
        return None
    if options.resume:
        # Where a write has its final keys from the beginning, it has removed what was there.
        if is_taken and draft.is_in_place and not is_overwriting(draft.where.read(KEPT_BACK)):
            raise DestinationExistsError(
                f"{place} holds an array that another program has stored into the unfinished write "
                f"of run {options.run_id!r}, so that chunks of both may be mixed; {START_ANEW}",
                path=str(place),
            )
        return "unfinished"
    if options.append and is_of_run(draft, options.run_id):
        return None  # a new array, which starts over
    if not overwrite:
        raise DestinationExistsError(
            f"an unfinished write was left at {place}; pass overwrite=True to clear it, or "
            "resume=True with its run_id to go on with it",
            path=str(place),
        )
    return None


def tidy_after_commit(draft: Draft, run_id: str | None) -> None:
    """Remove what is left of an earlier start of a run that died right after its commit."""
    if draft.exists() and is_of_run(draft, run_id):
        draft.discard()


def take_finished(
    where: Keys,
    keys: Collection[str] | None,
    options: WriteOptions,
    counts: tuple[int | None, ...],
    name: str,
) -> Found:
    """Compare what a run has stored with what it would store now.

    Parameters
    ----------
    where, name
        The array.
    keys
        Of all that is stored there; None where the store cannot list.
    options, counts
        Of this start.

    Raises
    ------
    ResumeMismatchError
        If anything differs that can be told without computing.
    DestinationError
        If chunks are not there.
    """
    document = parse(where.read(METADATA))
    record = record_of(document)
    if document is None or record is None:
        raise DestinationError(f"the array {name} is not there any more; {START_ANEW}", path=name)
    found = Found(where, document, record, keys or ())
    _compare(found, options, counts, name)
    if keys is not None:
        check_complete(found.where, document, keys, name, START_ANEW)
    return found


def plan_document(
    first: Shape,
    dtype: np.dtype[Any],
    options: WriteOptions,
    counts: tuple[int | None, ...],
    workers: int | None = None,
) -> Document:
    """Make the metadata of a new array, whose block axes have no length yet."""
    plan = WritePlan.from_first_block(
        first,
        dtype.itemsize,
        len(counts),
        chunks=options.chunks,
        shards=options.shards,
        counts=counts,
        workers=workers,
    )
    shape = (*(0 for _ in counts), *plan.trailing)
    return make_document(shape, plan.chunks, plan.shards, dtype, options)


def check_complete(
    where: Keys, document: Document, keys: Iterable[str], place: str, way_out: str
) -> None:
    """Refuse an array of which chunks are not there, whatever has become of them.

    Raises
    ------
    DestinationError
        If there are fewer than it has.
    """
    array = open_array(where, document)
    unit = array.shards or array.chunks
    expected = cell_count(array.shape, unit)
    if not (expected and where.store.supports_listing):
        return
    _check_missing(expected - count_chunks(keys, array.shape, unit), expected, place, way_out)


def check_appended(where: Keys, document: Document, base: Shape, place: str, way_out: str) -> None:
    """Refuse to show rows whose chunks are not there; the array had the shape ``base`` before.

    Raises
    ------
    DestinationError
        If there are fewer than the new rows have.
    """
    array = open_array(where, document)
    unit = array.shards or array.chunks
    if array.shape == base:
        return
    names = tuple(list_chunk_keys(where, document, base[0] // unit[0]))
    _check_missing(where.count_missing(*names), len(names), place, way_out)


def _check_missing(missing: int, expected: int, place: str, way_out: str) -> None:
    if missing > 0:
        raise DestinationError(
            f"{missing} of {expected} chunks of {place} are not there, although they have "
            f"been written; {way_out}",
            path=place,
        )


def take_unfinished(
    where: Keys,
    keys: Collection[str],
    options: WriteOptions,
    counts: tuple[int | None, ...],
    name: str,
) -> Found | None:
    """Return what a run has stored of an array; None if it died before anything was stored.

    Parameters are as in :func:`take_finished`.

    Raises
    ------
    ResumeMismatchError
        If it is another run, or of another kind of sequence, layout or dtype.
    """
    read = read_unfinished(where, keys, name)
    if read is None:
        return None
    document, record = read
    check_same_run(options.run_id, record.run_id, name)
    found = Found(where, document, record.with_even_ends(), keys)
    _compare(found, options, counts, name)
    cut = _find_cut_units(where, document, keys)
    where.delete(*cut)  # zarr would read what is there of a shard before it writes it again
    found = replace(found, keys=[key for key in keys if key not in cut])
    if record.is_written:
        check_complete(where, document, found.keys, name, START_ANEW)
    return found


def read_unfinished(
    where: Keys, keys: Collection[str], name: str
) -> tuple[Document, Record] | None:
    """Read the metadata that an unfinished write keeps back, of its array or its group.

    None if it died before anything was stored.

    Raises
    ------
    ResumeMismatchError
        If they are damaged.
    """
    value = where.read(KEPT_BACK)
    try:
        return unseal(value or b"")
    except DamagedRecordError:
        if not is_overwriting(value) and any(map(_CHUNK.search, keys)):
            raise ResumeMismatchError(
                f"the metadata of the unfinished write at {name} is damaged, so that nobody can "
                f"tell what its chunks hold; {START_ANEW}",
                field="metadata",
            ) from None
        return None


def _find_cut_units(where: Keys, document: Document, keys: Collection[str]) -> frozenset[str]:
    """Find chunk files that are empty or cut, as a power cut leaves them.

    Other stores than a local directory set a key whole or not at all.
    """
    if type(where.store) is not LocalStore:
        return frozenset()
    units = WholeUnits.of(open_array(where, document))
    return frozenset(key for key in keys if parse_chunk_key(key) and not units.is_whole(key))


def _compare(
    found: Found, options: WriteOptions, counts: tuple[int | None, ...], place: str
) -> None:
    """Refuse to go on with another kind of sequence, layout or dtype."""
    record, axes = found.record, len(found.record.counts)
    if not axes:
        return  # written by a version that noted no more than the name
    if axes != len(counts):
        way_out = "store a sequence of its kind"
        raise mismatch("the number of block axes", "axes", axes, len(counts), way_out)
    array = open_array(found.where, found.document)
    if options.dtype is not None:
        check_same_dtype(array.dtype, np.dtype(options.dtype))
    if options.chunks == "auto":  # which depends on who computes, and that may change
        options = replace(options, chunks=tuple(array.chunks))
    planned = plan_document(record.first, array.dtype, options, counts)
    check_same_layout(found.document, planned, place)
    listed = hash_sizes(options.sizes)
    if listed != record.listed:
        raise mismatch(f"at {place}, sizes", "sizes", record.listed, listed)


def is_of_run(draft: Draft, run_id: str | None) -> bool:
    """Whether no other run may want to go on with an unfinished write."""
    try:
        record = unseal(draft.where.read(KEPT_BACK) or b"")[1]
    except DamagedRecordError:
        return True
    return not record.counts or record.run_id in (None, run_id)
