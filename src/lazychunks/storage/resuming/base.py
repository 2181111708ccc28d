"""The array that rows are appended to: what is known of it, and which rows it refuses."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from zarr.storage import MemoryStore

from lazychunks.errors import (
    AppendMismatchError,
    BlockDTypeError,
    BlockShapeError,
    DestinationExistsError,
    ResumeMismatchError,
)
from lazychunks.layout.checks import block_name
from lazychunks.layout.plan import WritePlan
from lazychunks.layout.shapes import Shape
from lazychunks.storage.chunks.metadata import (
    KEPT_BACK,
    METADATA,
    is_overwriting,
    make_document,
    open_array,
)
from lazychunks.storage.chunks.trust import check_metadata, parse_metadata
from lazychunks.storage.keys import Keys
from lazychunks.storage.options import ZSTD, WriteOptions
from lazychunks.storage.resuming.record import (
    MOST_APPENDED,
    Appended,
    Document,
    Record,
    own_attributes,
    record_of,
    with_record,
)
from lazychunks.storage.resuming.survey import is_of_run

if TYPE_CHECKING:
    from lazychunks.storage.chunks.metadata import StoredArray
    from lazychunks.storage.places.protocol import Draft, Place

_CREATES = "append with what the array has, or store the rows elsewhere"


@dataclass(frozen=True, slots=True)
class Base:
    """The array to which a run appends rows, as it is when the run starts."""

    name: str
    metadata: bytes
    """Its ``zarr.json``."""
    document: Document
    shape: Shape
    dtype: np.dtype[Any]
    done: Appended | None = None
    """What the run has appended, if an earlier start of it has ended."""

    @property
    def rows(self) -> int:
        """Length of axis 0."""
        return self.shape[0]

    def check_first(self, first: Shape, dtype: np.dtype[Any], axes: int) -> None:
        """Refuse rows that do not fit, by the first block.

        Raises
        ------
        BlockShapeError, BlockDTypeError
            If its shape or its dtype differs from that of the array.
        """
        index = block_name((0,) * axes)
        if len(first) != len(self.shape) or first[axes:] != self.shape[axes:]:
            raise BlockShapeError(
                f"block {index} has shape {first}, and the array at {self.name} has shape "
                f"{self.shape}: along all axes from axis {axes} on, the lengths must be the same; "
                f"{_CREATES}",
                block=index,
                expected=self.shape,
                got=first,
            )
        if dtype.newbyteorder("=") != self.dtype.newbyteorder("="):
            raise BlockDTypeError(
                f"block {index} has dtype {dtype}, expected {self.dtype} as the array at "
                f"{self.name} has; pass dtype= to cast on purpose, or store the rows elsewhere",
                block=index,
                expected=self.dtype,
                got=dtype,
            )

    def grown(self, rows: int, run_id: str | None, counts: tuple[int | None, ...]) -> Document:
        """Return the metadata of the array once the rows are appended."""
        document = {**self.document, "shape": [rows, *self.shape[1:]]}
        if run_id is None:
            return document
        record = record_of(document) or Record("")  # another program's
        new = Appended(run_id, counts, rows - self.rows)
        return with_record(
            document, replace(record, appended=(*record.appended, new)[-MOST_APPENDED:])
        )


def read_base(place: Place, options: WriteOptions, axes: int) -> Base | None:
    """Read the array to which rows are appended; None if there is none.

    Raises
    ------
    AppendMismatchError
        If it is of Zarr 2, has too few axes, or an option contradicts it.
    UntrustedArrayError
        If its metadata is damaged, or names codecs that are not known.
    ResumeMismatchError
        If the run has appended another number of rows before.
    DestinationError
        If a kill could take old rows there, or something is in the way.
    """
    if not place.is_taken():
        return None
    name, metadata = str(place), place.read(METADATA)
    if metadata is None:
        raise _mismatch(name, "zarr_format", 2, 3)
    place.check_can_append()
    document = parse_metadata(metadata, 3, name)
    array = check_metadata(place.in_store(read_only=True), document, name)
    record = record_of(document)
    _check_alone(place, record)
    _check_options(array, document, options, axes, name)
    done = None if record is None else record.find_run(options.run_id)
    sizes = options.sizes
    if done is not None and sizes is not None and done.rows not in (None, sum(sizes[0])):
        raise other_number("rows", options.run_id, name, (done.rows,), (sum(sizes[0]),))
    return Base(name, metadata, document, array.shape, array.dtype, done)


def other_number(
    what: str,
    run_id: str | None,
    name: str,
    was: tuple[int | None, ...],
    now: tuple[int | None, ...],
) -> ResumeMismatchError:
    """Return the error for a run that has appended another number of rows, or blocks."""
    before, after = (" x ".join(map(str, each)) for each in (was, now))
    return ResumeMismatchError(
        f"run {run_id!r} has stored {before} {what} in {name} before, and now has {after}; new "
        "rows need a run_id of their own",
        field="run_id",
        expected=was,
        got=now,
    )


def _check_alone(place: Place, record: Record | None) -> None:
    """Refuse an array that an unfinished write is about to replace."""
    draft = place.draft(overwrite=False)
    if draft.exists() and _has_ended(draft, record):
        draft.discard()
    if draft.exists():
        raise DestinationExistsError(
            f"an unfinished write was left at {place}, which is to replace the array there; end it "
            "with its run_id and resume=True, or clear it with overwrite=True, before rows are "
            "appended",
            path=str(place),
        )


def _has_ended(draft: Draft, record: Record | None) -> bool:
    """Whether a draft is what the array's own writer has left, or an overwrite that did nothing."""
    if not draft.is_in_place:
        return False
    is_left = record is not None and is_of_run(draft, record.run_id)
    return is_left or is_overwriting(draft.where.read(KEPT_BACK))


def _check_options(
    array: StoredArray, document: Document, options: WriteOptions, axes: int, name: str
) -> None:
    """Refuse options that contradict the array; those that are not given are the array's."""
    shape = array.shape
    if len(shape) < axes:
        raise _mismatch(name, "axes", len(shape), f"at least {axes}")
    if options.dtype is not None and options.dtype.newbyteorder("=") != array.dtype.newbyteorder(
        "="
    ):
        raise _mismatch(name, "dtype", array.dtype, options.dtype)
    if options.dimension_names is not None:
        names = tuple(document.get("dimension_names") or (None,) * len(shape))
        _compare(name, "dimension_names", names, options.dimension_names)
    if options.attributes is not None:
        _compare(name, "attributes", own_attributes(document), options.attributes)
    if options.sizes is not None and axes == 2:
        _compare(name, "the sum of sizes along axis 1", shape[1], sum(options.sizes[1]))
    for what, wanted, has in (
        ("chunks", options.chunks, array.chunks),
        ("shards", options.shards, array.shards),
    ):
        if wanted is not None and not isinstance(wanted, str):
            planned = WritePlan.from_first_block(shape, 1, axes, chunks=wanted).chunks
            _compare(name, what, has, planned)
    if options.compressors is ZSTD and options.filters == "auto":
        return
    wanted_codecs = replace(options, dimension_names=None, attributes=None, name=None)
    made = make_document(shape, array.chunks, array.shards, array.dtype, wanted_codecs)
    planned_array = open_array(Keys(MemoryStore(), ""), made)
    if options.compressors is not ZSTD:
        _compare(name, "compressors", _list(array.compressors), _list(planned_array.compressors))
    if options.filters != "auto":
        _compare(name, "filters", _list(array.filters), _list(planned_array.filters))


def _list(codecs: Iterable[Any]) -> list[object]:
    return [codec.to_dict() for codec in codecs]


def _compare(name: str, field: str, has: object, wanted: object) -> None:
    if has != wanted:
        raise _mismatch(name, field, has, wanted)


def _mismatch(name: str, field: str, has: object, wanted: object) -> AppendMismatchError:
    return AppendMismatchError(
        f"rows cannot be appended to the array at {name}: its {field} is {has}, and this call has "
        f"{wanted}; leave out the option, or store the rows elsewhere",
        field=field,
        expected=has,
        got=wanted,
    )
