"""Test your own converters, aggregators and folds: Hypothesis strategies, and the laws in one call.

Needs the extra ``testing`` (the package hypothesis); the library itself never imports it.

- What to draw from: :func:`partitions` of an axis, :func:`flat_blocks` and :func:`nested_blocks` of
  every dtype and memory layout, :func:`flat_sequences` and :func:`nested_sequences` of them.
- What to check: :func:`check_converter`, :func:`check_aggregator`, :func:`check_fold` and their
  nested twins, each with one line of yours. A broken law is a :class:`LawBrokenError`.
- :func:`bits` compares results, not-a-numbers and negative zeros included.

>>> import numpy as np
>>> from lazychunks import maximum
>>> whole = flat_blocks(dtypes("iu")).filter(lambda blocks: any(map(len, blocks)))
>>> check_fold(maximum(), whole, lambda blocks: np.concatenate(blocks).max(0))
"""

from __future__ import annotations

from lazychunks.testing.aggregators import check_aggregator, check_nested_aggregator
from lazychunks.testing.comparing import bits
from lazychunks.testing.converters import check_converter
from lazychunks.testing.folds import check_fold, check_nested_fold
from lazychunks.testing.laws import LawBrokenError
from lazychunks.testing.strategies import (
    arrays,
    dtypes,
    flat_blocks,
    flat_sequences,
    nested_blocks,
    nested_sequences,
    partitions,
)

__all__ = [
    "LawBrokenError",
    "arrays",
    "bits",
    "check_aggregator",
    "check_converter",
    "check_fold",
    "check_nested_aggregator",
    "check_nested_fold",
    "dtypes",
    "flat_blocks",
    "flat_sequences",
    "nested_blocks",
    "nested_sequences",
    "partitions",
]
