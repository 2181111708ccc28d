"""A tensor too large to hold, produced block by block, treated as one value.

- A *sequence* is an immutable value that generates blocks: :class:`LazyChunkSequence` along the
  first axis, :class:`NestedLazyChunkSequence` along the first two.
- An *aggregator* is any callable over a sequence: ``list``, ``max``, :func:`concatenate`, a
  function. ``sequence.compute(aggregator)`` returns what it returns.
- A *fold* (:class:`Fold`) is an aggregator that shares its pass with others: :func:`tee` runs
  several over one generation of the blocks, :func:`nest` makes one for rows. :func:`total`,
  :func:`moments`, :func:`top_k` and their like reduce NumPy arrays and tensors.
- Sequences compose: slices, ``shuffle``, ``rebatch``, :func:`chain`, :func:`zip_blocks`, and
  ``rows`` of a nested one.
- A *converter* (:class:`NumpyConverter`) turns the blocks' tensor type into NumPy arrays and back.
- ``sequence.to_zarr(destination, converter)`` stores the blocks as one Zarr array
  (:class:`ZarrOptions` lay it out), or nothing; ``to_zarr_group`` stores blocks that are mappings
  as one group of arrays, and :func:`each` folds them.
- :func:`status` and :func:`verify` look at what is stored, as ``python -m lazychunks`` does.
- What is wrong is said by typed errors, all of them :class:`LazyChunksError`.

PyTorch's converter and aggregators are in :mod:`lazychunks.torch`. Importing this package loads
neither zarr nor torch; they load where they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from lazychunks.compose import chain, zip_blocks
from lazychunks.converters import FromNumpy, IdentityConverter, NumpyConverter, ToNumpy
from lazychunks.errors import (
    AppendMismatchError,
    BlockDTypeError,
    BlockError,
    BlockNamesError,
    BlockShapeError,
    BlockTypeError,
    DestinationBusyError,
    DestinationError,
    DestinationExistsError,
    DestinationReadOnlyError,
    EmptyRowError,
    EmptySequenceError,
    LazyChunksError,
    LengthHintWarning,
    MissingChunkError,
    NotResumableError,
    NotSpreadableError,
    RankFailedError,
    RanksDifferError,
    ResumeMismatchError,
    SourceExhaustedError,
    SourceTypeError,
    UntrustedArrayError,
    WriteAbortedError,
)
from lazychunks.folds.concatenate import concatenate, nested_concatenate
from lazychunks.folds.covariance import Covariance, covariance
from lazychunks.folds.fold import Fold, NestedFold, fold
from lazychunks.folds.histogram import Histogram, histogram
from lazychunks.folds.nest import nest
from lazychunks.folds.reductions import (
    Moments,
    count,
    first,
    last,
    maximum,
    mean,
    minimum,
    moments,
    norm,
    total,
)
from lazychunks.folds.tee import each, tee
from lazychunks.folds.top_k import TopK, top_k
from lazychunks.runs.exchange import Ranks
from lazychunks.sequences import (
    LazyChunkSequence,
    ListAggregator,
    NestedLazyChunkSequence,
    NestedListAggregator,
    NestedSequenceAggregator,
    SequenceAggregator,
)

if TYPE_CHECKING:
    from lazychunks.folds.zarr_sink import zarr_group_sink, zarr_sink
    from lazychunks.storage import ArrayOptions, Status, Verification, ZarrOptions, status, verify

__all__ = [
    "AppendMismatchError",
    "ArrayOptions",
    "BlockDTypeError",
    "BlockError",
    "BlockNamesError",
    "BlockShapeError",
    "BlockTypeError",
    "Covariance",
    "DestinationBusyError",
    "DestinationError",
    "DestinationExistsError",
    "DestinationReadOnlyError",
    "EmptyRowError",
    "EmptySequenceError",
    "Fold",
    "FromNumpy",
    "Histogram",
    "IdentityConverter",
    "LazyChunkSequence",
    "LazyChunksError",
    "LengthHintWarning",
    "ListAggregator",
    "MissingChunkError",
    "Moments",
    "NestedFold",
    "NestedLazyChunkSequence",
    "NestedListAggregator",
    "NestedSequenceAggregator",
    "NotResumableError",
    "NotSpreadableError",
    "NumpyConverter",
    "RankFailedError",
    "Ranks",
    "RanksDifferError",
    "ResumeMismatchError",
    "SequenceAggregator",
    "SourceExhaustedError",
    "SourceTypeError",
    "Status",
    "ToNumpy",
    "TopK",
    "UntrustedArrayError",
    "Verification",
    "WriteAbortedError",
    "ZarrOptions",
    "chain",
    "concatenate",
    "count",
    "covariance",
    "each",
    "first",
    "fold",
    "histogram",
    "last",
    "maximum",
    "mean",
    "minimum",
    "moments",
    "nest",
    "nested_concatenate",
    "norm",
    "status",
    "tee",
    "top_k",
    "total",
    "verify",
    "zarr_group_sink",
    "zarr_sink",
    "zip_blocks",
]


def __getattr__(name: str) -> object:
    if name in __all__:  # what stores, or looks at what is stored, loads zarr
        home = "lazychunks.folds.zarr_sink" if name.endswith("_sink") else "lazychunks.storage"
        return getattr(importlib.import_module(home), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
