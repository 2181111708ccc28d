"""Cutting blocks into parts, and folding the parts as workers do."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from functools import partial
from itertools import pairwise
from typing import Any, TypeAlias, TypeVar

from lazychunks.layout.parts import AnyPart, Part
from lazychunks.runs.passes import AnyPartFold, Counts, State

T = TypeVar("T")

EVERYWHERE = range(sys.maxsize)
"""Cuts that make each block a part."""

RunPart: TypeAlias = Callable[[AnyPartFold, AnyPart], State]
"""Has somebody go through a part, and returns its state."""


def cut_blocks(blocks: Sequence[T], cuts: Container[int]) -> Iterator[AnyPart]:
    """Cut a flat sequence into parts, each of which begins at one of the cuts.

    Examples
    --------
    >>> [part.index for part in cut_blocks("abcde", [3, 1])]
    [(0, 0), (1, 0), (3, 0)]
    """
    # Rows of one call each, as flat parts have: blocks are numbered by row.
    for number, (start, stop) in enumerate(_spans(len(blocks), cuts)):
        rows = [(partial(_give, block),) for block in blocks[start:stop]]
        yield Part(number, (start, 0), rows, (stop == len(blocks), True), axes=1)


def cut_rows(
    rows: Sequence[Sequence[T]], row_cuts: Container[int], column_cuts: Container[int]
) -> Iterator[AnyPart]:
    """Cut a nested sequence into rectangles; rows of different lengths stay whole.

    Examples
    --------
    >>> [part.index for part in cut_rows(["abc", "def"], [1], [2])]
    [(0, 0), (0, 2), (1, 0), (1, 2)]
    """
    # Generators may make rows of any length, but then there are no columns to cut.
    widths = {len(row) for row in rows}
    width = max(widths, default=0)
    columns = _spans(width, column_cuts if len(widths) == 1 else ()) or [(0, 0)]
    number = 0
    for top, bottom in _spans(len(rows), row_cuts):
        for left, right in columns:
            calls = [
                [partial(_give, block) for block in row[left:right]] for row in rows[top:bottom]
            ]
            ends = (bottom == len(rows), right == width)
            yield Part(number, (top, left), calls, ends, axes=2)
            number += 1


# The tests give this function to executors, so it must be one that workers can import.
def run_part(fold: AnyPartFold, part: AnyPart) -> State:
    """Go through a part, as a worker does."""
    with fold.start_part(part) as running:
        for row in part.rows:
            for call in row:
                running.step(call())
            if part.axes == 2:
                running.end_row()
        return running.state()


def run_part_elsewhere(fold: AnyPartFold, part: AnyPart) -> State:
    """Go through a part, with the way to another process and back."""
    there = pickle.loads(pickle.dumps((fold, part)))  # noqa: S301  # our own
    return pickle.loads(pickle.dumps(run_part(*there)))  # noqa: S301


def fold_in_parts(
    fold: Any, parts: Iterable[Part[Any]], counts: Counts, run: RunPart = run_part_elsewhere
) -> Any:
    """Fold blocks part by part, as a coordinator does that leaves all blocks to workers."""
    with fold.start(counts) if len(counts) == 1 else fold.start_rows(counts) as running:
        # Once the pass has begun: a sink knows only then where to write.
        for_parts = fold.for_parts(running)
        for part in parts:
            running.absorb(run(for_parts, part), part)
        return running.finish()


def _spans(length: int, cuts: Container[int]) -> list[tuple[int, int]]:
    starts = [number for number in range(length) if number == 0 or number in cuts]
    return list(pairwise([*starts, length]))


def _give(block: T) -> T:
    return block
