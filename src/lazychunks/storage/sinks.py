"""Storing as a fold: the sink, for blocks and for rows of blocks."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from typing_extensions import Unpack

from lazychunks.blocks.sources import ended
from lazychunks.errors import NotResumableError, NotSpreadableError
from lazychunks.folds.fold import Counts, EitherFold
from lazychunks.sequences import calls_of, counts_of, is_nested, sequence_of
from lazychunks.storage.assembly import Layout
from lazychunks.storage.attempt import Attempt
from lazychunks.storage.options import Destination, WriteOptions, ZarrOptions
from lazychunks.storage.spreading import spread
from lazychunks.storage.writer import ArrayWriter

if TYPE_CHECKING:
    from lazychunks.converters import ToNumpy
    from lazychunks.storage.chunks.metadata import StoredArray

T = TypeVar("T")
T_contra = TypeVar("T_contra", contravariant=True)


def zarr_sink(
    path_or_url: Destination,
    converter: ToNumpy[T],
    *,
    overwrite: bool = False,
    **options: Unpack[ZarrOptions],
) -> ZarrSink[T]:
    """Store blocks as one Zarr array: ``to_zarr`` as a fold, which can be teed with others.

    Complete or absent holds in a :func:`~lazychunks.tee` as well: the array appears once all
    other results are there, and not at all if the pass fails. What :meth:`~lazychunks.Fold.then`
    does with it comes afterwards.

    Only the sink alone can resume: in a tee, the other folds need every block. If a pass fails
    whose sink has a ``run_id``, what was written is kept aside all the same, for ``to_zarr`` with
    ``resume=True`` to go on with; then fold what is stored.

    Parameters
    ----------
    path_or_url, converter, overwrite, **options
        As in :meth:`lazychunks.LazyChunkSequence.to_zarr`.

    Returns
    -------
    ZarrSink
        A fold over blocks, and over rows of blocks; its result is the stored ``zarr.Array``.

    Examples
    --------
    >>> import numpy as np
    >>> from lazychunks import IdentityConverter, LazyChunkSequence, concatenate, tee, zarr_sink
    >>> sequence = LazyChunkSequence.from_map(np.arange, [2, 3])
    >>> stored, joined = sequence.compute(tee(zarr_sink({}, IdentityConverter()), concatenate()))
    >>> bool((stored[:] == joined).all())
    True
    """
    # Callers need not be typed.
    if isinstance(converter, type) or not hasattr(converter, "to_numpy"):
        raise TypeError(
            f"converter must be an object with to_numpy, got {converter!r}; for NumPy blocks, pass "
            "IdentityConverter()"
        )
    return ZarrSink(path_or_url, converter, overwrite, WriteOptions.of(**options))


@dataclass(frozen=True, slots=True)
class ZarrSink(EitherFold[T_contra, "StoredArray"]):
    """Stores blocks, or rows of blocks: the fold that :func:`zarr_sink` returns."""

    destination: Destination
    converter: ToNumpy[T_contra]
    overwrite: bool
    options: WriteOptions

    def start(self, counts: Counts, /) -> ArrayWriter[T_contra]:
        """Start to store blocks."""
        return self._in_a_tee(1, counts)

    def start_rows(self, counts: Counts, /) -> ArrayWriter[T_contra]:
        """Start to store rows of blocks."""
        return self._in_a_tee(2, counts)

    def __call__(self, blocks: Iterable[T_contra] | Iterable[Iterable[T_contra]], /) -> StoredArray:
        """Store blocks, or rows of blocks if they are a nested sequence."""
        axes = 2 if is_nested(blocks) else 1
        sequence = sequence_of(blocks)
        counts = counts_of(sequence)[:axes]
        calls = calls_of(sequence)
        if self.options.executor is not None:
            return self._spread(calls, counts)
        if self.options.resume and calls is None:
            raise NotResumableError(
                "only a sequence that can skip blocks can be resumed; build it with "
                "LazyChunkSequence.from_map or NestedLazyChunkSequence.from_product"
            )
        with self._writer(axes, counts, can_skip=calls is not None) as writer:
            if writer.finished is not None:
                return writer.finished
            take: Callable[[Any], None] = writer.step
            if writer.stage is not None:
                sequence, take = calls, writer.offer
            for row in sequence if axes == 2 else (sequence,):
                with ended(row):
                    for block in row:
                        take(block)
                if axes == 2:
                    writer.end_row()
            return writer.finish()

    def _spread(self, calls: Any, counts: Counts) -> StoredArray:
        """Have the blocks computed and stored by an executor's workers."""
        if calls is None:
            raise NotSpreadableError(
                "only the blocks of a sequence that can skip can be computed by an executor's "
                "workers; build it with LazyChunkSequence.from_map or "
                "NestedLazyChunkSequence.from_product"
            )
        rows = map(tuple, calls if len(counts) == 2 else zip(calls))
        with Attempt(
            self.destination, self.overwrite, self.options, counts, can_skip=True
        ) as attempt:
            if attempt.finished is not None:
                return attempt.finished
            spread(attempt, rows, self.converter)
            return attempt.publish()

    def _in_a_tee(self, axes: int, counts: Counts) -> ArrayWriter[T_contra]:
        """Start to store what other folds see as well; a run with a name is kept if that fails."""
        if self.options.executor is not None:
            raise NotSpreadableError(
                "a tee needs every block here for its other folds, and an executor's workers keep "
                "them; store with to_zarr first, then fold what was stored"
            )
        if self.options.resume:
            raise NotResumableError(
                "a tee needs every block for its other folds, so it cannot be resumed; store with "
                "to_zarr first, then fold what was stored"
            )
        return self._writer(axes, counts, can_skip=True)

    def _writer(self, axes: int, counts: Counts, *, can_skip: bool) -> ArrayWriter[T_contra]:
        known = (*counts, None, None)[:axes]
        where, options = self.destination, self.options
        return ArrayWriter(
            Layout(axes), self.converter, where, self.overwrite, options, known, can_skip=can_skip
        )
