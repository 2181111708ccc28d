"""Parts: rectangles of blocks, each of which one worker goes through alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Generic, TypeAlias, TypeVar

from lazychunks.layout.checks import check_listed, check_row, misaligned
from lazychunks.layout.partition import ArrayPlan

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

Rows: TypeAlias = Iterable[Sequence[T_co]]
"""Rows of what makes blocks, such as calls; a flat sequence has rows of one call each."""


@dataclass(frozen=True, slots=True)
class Part(Generic[T_co]):
    """A rectangle of blocks. Parts are numbered along the rows of blocks, band after band."""

    number: int
    index: tuple[int, int]
    """Row and column of the first block."""
    rows: Rows[T_co]
    """Rows of calls, consumed once; lazy in the part that is everything. On its way to a worker, a
    part has the items of its blocks instead."""
    ends: tuple[bool, bool]
    """Whether the part has the last row, and the last column."""
    axes: int
    """Number of block axes, 1 (flat, where the only column is column 0) or 2 (nested)."""


AnyPart: TypeAlias = Part[Any]


def whole(rows: Rows[T], axes: int) -> Part[T]:
    """Return the part that has all blocks, for a single writer; its rows stay lazy."""
    return Part(0, (0, 0), rows, (True, True), axes)


def split(
    rows: Rows[T], plans: Sequence[ArrayPlan], axes: int, *, blocks: int = 1
) -> Iterator[Part[T]]:
    """Cut rows of calls into parts, so that several writers can work at once.

    - The parts tile the blocks exactly once, band of rows after band of rows; within a band, in
      the order of the columns.
    - No two parts share a unit of any plan: each begins on a boundary, and ends on one or with the
      array.
    - Parts are no larger than that and ``blocks`` require.

    Rows are read when a part needs them, and one row beyond, to see whether it is the last. Without
    a plan, rows may differ in length; a band of such rows is not cut into columns.

    Parameters
    ----------
    rows
        Rows of calls; of a flat sequence, each with one call.
    plans
        Where blocks and units of the arrays lie that the parts write; may be empty.
    axes
        Number of block axes.
    blocks
        Number of blocks that a part has at least; fewer at the end of rows and columns.

    Raises
    ------
    BlockShapeError
        If blocks do not fall on whole units of a plan, if the rows differ in length, or if there is
        another number of blocks than listed sizes.
    EmptyRowError
        If a row has no call, and there is a plan.

    Examples
    --------
    >>> from lazychunks.layout.partition import Partition
    >>> plan = ArrayPlan((Partition(2),), trailing=(), unit=(4,))
    >>> calls = [(lambda: "a",), (lambda: "b",), (lambda: "c",)]
    >>> [(part.index, len(part.rows), part.ends) for part in split(calls, [plan], axes=1)]
    [((0, 0), 2, (False, True)), ((2, 0), 1, (True, True))]
    """
    number = first_row = 0
    checked = _check_rows(rows, plans, axes) if plans else rows
    for band, is_last in _cut_into_bands(checked, plans, blocks):
        columns = max(map(len, band))
        cuts: Iterable[int] = ()
        if all(len(row) == columns for row in band):
            # A higher band, which units may ask for, needs fewer columns for as many blocks.
            cuts = _cut_columns(columns, plans, at_least=-(-blocks // len(band)))
        for start, stop in pairwise((0, *cuts, columns)):
            calls = [row[start:stop] for row in band]
            yield Part(number, (first_row, start), calls, (is_last, stop == columns), axes)
            number += 1
        first_row += len(band)


def _cut_into_bands(
    rows: Rows[T], plans: Sequence[ArrayPlan], blocks: int
) -> Iterator[tuple[list[Sequence[T]], bool]]:
    """Group rows into bands, and tell of each band whether it is the last."""
    band: list[Sequence[T]] = []
    for number, row in enumerate(rows):
        if band and len(band) * len(row) >= blocks and _is_boundary(0, number, plans):
            yield band, False  # not the last: this row comes after it
            band = []
        band.append(row)
    if band:
        yield band, True


def _cut_columns(count: int, plans: Sequence[ArrayPlan], at_least: int) -> Iterator[int]:
    """Columns at which the next part of a band begins."""
    start = 0
    for column in range(1, count):
        if column - start >= at_least and _is_boundary(1, column, plans):
            yield column
            start = column


def _is_boundary(axis: int, number: int, plans: Sequence[ArrayPlan]) -> bool:
    return all(plan.axes[axis].is_boundary(number, plan.unit[axis]) for plan in plans)


def _check_rows(rows: Rows[T], plans: Sequence[ArrayPlan], axes: int) -> Iterator[Sequence[T]]:
    """Pass rows on, and refuse those that cannot be cut into parts."""
    columns = count = 0
    for count, row in enumerate(rows, start=1):
        if count == 1:
            columns = len(row)
        # Checked here, since a worker sees its own parts only.
        check_row(count - 1, len(row), columns)
        if count == 1 and axes == 2:
            _check_listed(1, columns, plans, is_all=True)
            if columns > 1:
                _check_alignment(1, plans)
        _check_listed(0, count, plans, is_all=False)
        if count == 2:  # a single row may end inside a unit, since the array ends there too
            _check_alignment(0, plans)
        yield row
    _check_listed(0, count, plans, is_all=True)


def _check_listed(axis: int, count: int, plans: Sequence[ArrayPlan], *, is_all: bool) -> None:
    for plan in plans:
        sizes = plan.axes[axis].sizes
        if sizes is not None:
            check_listed(axis, count, len(sizes), is_all=is_all)


def _check_alignment(axis: int, plans: Sequence[ArrayPlan]) -> None:
    for plan in plans:
        partition, unit = plan.axes[axis], plan.unit[axis]
        if not partition.can_be_divided(unit):
            raise misaligned(axis, len(plan.axes), partition, unit, plan.unit_name)
