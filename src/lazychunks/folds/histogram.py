"""The fold that counts entries by bins."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar, Generic, NamedTuple, SupportsFloat, TypeAlias, TypeVar

import numpy as np

from lazychunks.arrays import Arithmetic, Array, device, is_numpy
from lazychunks.converters import AnyArray
from lazychunks.errors import EmptySequenceError
from lazychunks.folds.fold import EitherFold, Fold, NestedFold, fold
from lazychunks.folds.merging import Reduction
from lazychunks.folds.nest import NestPass, nest
from lazychunks.runs.passes import AnyRunning, Counts, PartFold, Running, RunningRows

S = TypeVar("S")


class Histogram(NamedTuple, Generic[S]):
    """How many entries lie in each bin, and the edges of the bins."""

    counts: S
    """Number of entries in each bin, as 64-bit integers."""
    edges: S
    """Edges of the bins, one more than there are bins, in double precision."""


def histogram(
    edges: Sequence[SupportsFloat] | AnyArray,
) -> EitherFold[AnyArray, Histogram[AnyArray]]:
    """Count the entries of blocks by bins.

    Parameters
    ----------
    edges
        Edges of the bins, which do not decrease. A bin has its lower edge and the entries below its
        upper one; the last bin has its upper edge as well.

    Returns
    -------
    EitherFold
        A fold over blocks, and over rows of blocks if the sequence is nested. Its counts equal
        ``np.histogram(entries, edges)``: entries outside of the edges, and NaN, are in no bin.

    Raises
    ------
    ValueError
        If there are fewer than two edges, or an edge is NaN or below the one before it.
    EmptySequenceError
        When run over no block.
    BlockDTypeError
        When run over blocks of different dtypes, or over one that is not of real numbers.

    Examples
    --------
    >>> import numpy as np
    >>> histogram([0, 1, 2])([np.array([0.5, 1.5]), np.array([2.0, 7.0])]).counts
    array([1, 2])
    """
    return HistogramFold(check_edges(edges))


def check_edges(edges: Sequence[SupportsFloat] | AnyArray) -> tuple[float, ...]:
    """Return the edges of a histogram as numbers.

    Raises
    ------
    ValueError
        As :func:`histogram`.
    """
    checked = tuple(map(float, edges))
    if len(checked) < 2:
        raise ValueError(f"a histogram needs at least two edges, got {len(checked)}")
    for number, (lower, upper) in enumerate(pairwise(checked), start=1):
        if not lower <= upper:  # so that NaN is refused as well
            raise ValueError(
                f"edges of a histogram must not decrease, and edge {number} is {upper} after "
                f"{lower}; sort them"
            )
    return checked


@dataclass(frozen=True, slots=True)
class CountInBins(Reduction[S, Histogram[S], Array], Generic[S]):
    """The fold over blocks; its values are the numbers of entries."""

    needs_order: ClassVar[bool] = True

    axis: int | None = None
    edges: tuple[float, ...] = ()

    def reduce_block(self, numbers: Arithmetic, lanes: Array, axis: int) -> Array:  # noqa: ARG002
        """Count the entries of a block."""
        xp = numbers.xp
        if is_numpy(lanes):
            return _count_numpy(numbers, lanes, self.edges)
        # Half precision cannot be sorted everywhere, and is exact in double precision.
        entries = xp.astype(lanes, numbers.accumulator)
        # Libraries differ in where they sort NaN, and in what they find beside it.
        entries = xp.sort(entries[~xp.isnan(entries)])
        edges = self.list_edges(numbers, entries)
        below = xp.searchsorted(entries, edges)
        # The last bin has its upper edge.
        upto = xp.searchsorted(entries, edges[-1:], side="right")
        below = xp.astype(xp.concat([below[:-1], upto]), xp.int64)
        return below[1:] - below[:-1]

    def list_edges(self, numbers: Arithmetic, like: Array) -> Array:
        """Return the edges in the library of the blocks, where an array of it is."""
        xp = numbers.xp
        return xp.asarray(self.edges, dtype=numbers.accumulator, device=device(like))

    def merge(self, numbers: Arithmetic, earlier: Array, later: Array) -> Array:  # noqa: ARG002
        """Add."""
        return earlier + later

    def finish(self, numbers: Arithmetic, value: Array) -> Histogram[Array]:
        """Return the numbers with the edges."""
        return Histogram(value, self.list_edges(numbers, value))


@dataclass(frozen=True, slots=True)
class HistogramFold(EitherFold[S, Histogram[S]], Generic[S]):
    """The fold that :func:`histogram` returns."""

    edges: tuple[float, ...]

    @property
    def merges(self) -> bool:
        """Whether workers fold their parts: they do."""
        return True

    def start(self, counts: Counts, /) -> Running[S, Histogram[S]]:
        """Start a pass over blocks."""
        return self._of_blocks().start(counts)

    def start_rows(self, counts: Counts, /) -> RunningRows[S, Histogram[S]]:
        """Start a pass over rows of blocks."""
        return self._of_rows().start_rows(counts)

    def for_parts(self, running: AnyRunning, /) -> PartFold[S]:
        """Return what workers need for parts: of rows of blocks, or of blocks."""
        if isinstance(running, NestPass):
            return self._of_rows().for_parts(running)
        return self._of_blocks()

    def _of_blocks(self) -> CountInBins[S]:
        return CountInBins(edges=self.edges)

    def _of_rows(self) -> NestedFold[S, Histogram[S]]:
        rows: NestedFold[S, Histogram[S]] = nest(self._of_blocks(), _ADD)
        return rows


_Found: TypeAlias = tuple[Histogram[Any], ...]
"""The histogram of the rows before; none before the first row."""


def _add(found: _Found, row: Histogram[Any]) -> _Found:
    return (Histogram(found[0].counts + row.counts, row.edges) if found else row,)


def _only(found: _Found) -> Histogram[Any]:
    if not found:
        raise EmptySequenceError("there is no block, hence no dtype to count entries of")
    return found[0]


_NOTHING: _Found = ()
_ADD: Fold[Histogram[Any], Histogram[Any]] = fold(_add, _NOTHING, _only, merge=None)


def _count_numpy(numbers: Arithmetic, entries: Array, edges: tuple[float, ...]) -> Array:
    """Count by NumPy's own function, which sorts pieces that fit into the processor's cache."""
    given: Any = entries
    if numbers.kind == "bool":
        given = given.view(np.uint8)  # NumPy's function warns of booleans
    elif str(numbers.dtype) == "bfloat16":
        given = given.astype(np.float32)
    counts: Any = np.histogram(given, np.asarray(edges))[0]
    found: Array = counts.astype(np.int64)
    return found
