"""Parts: rectangles of blocks, each of which one worker goes through alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeAlias, TypeVar

T_co = TypeVar("T_co", covariant=True)

Call: TypeAlias = Callable[[], T_co]
"""Computes one block."""

Rows: TypeAlias = Iterable[Sequence[Call[T_co]]]
"""Rows of calls; a flat sequence has rows of one call each."""


@dataclass(frozen=True, slots=True)
class Part(Generic[T_co]):
    """A rectangle of blocks. A band is the parts with the same rows; parts are numbered by band."""

    number: int
    index: tuple[int, int]
    """Row and column of the first block."""
    rows: Rows[T_co]
    """Rows of calls, iterated once; lazy in the one part that has all blocks."""
    ends: tuple[bool, bool]
    """Whether the part has the last row, and the last column."""
    axes: int
    """How many block axes there are, 1 (flat, where the only column is 0) or 2 (nested)."""


AnyPart: TypeAlias = Part[Any]
