"""The laws of an aggregator, flat and nested."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, TypeAlias, TypeVar

import hypothesis
from hypothesis.strategies import SearchStrategy

from lazychunks.errors import LengthHintWarning
from lazychunks.folds.fold import AnyPass
from lazychunks.layout.parts import AnyPart
from lazychunks.runs.passes import Counts
from lazychunks.sequences import LazyChunkSequence, NestedLazyChunkSequence
from lazychunks.testing.comparing import bits, twin
from lazychunks.testing.laws import BrokenError, Law, Same, expect, find_counterexample
from lazychunks.testing.parts import cut_blocks, cut_rows
from lazychunks.testing.strategies import (
    HINTS,
    WAYS,
    Backing,
    Hint,
    flat_sequence,
    length_hint,
    nested_sequence,
)

T = TypeVar("T")
R = TypeVar("R")

END_OF_ROW = object()

Block: TypeAlias = Any
"""A block, or a row of blocks, of any type."""

Result: TypeAlias = Any
"""A result of any type."""

AnyAggregator: TypeAlias = Any
"""A fold, or any callable; flat or nested."""

AnySequence: TypeAlias = Any
"""Either sequence."""

Cuts: TypeAlias = tuple[Container[int], Container[int]]
"""Numbers of rows, and of columns, at which parts begin; a flat sequence has rows only."""


def check_aggregator(
    aggregator: Callable[[LazyChunkSequence[T]], R],
    blocks: SearchStrategy[Sequence[T]],
    oracle: Callable[[list[T]], R],
    *,
    same: Callable[[R, R], bool] | None = None,
    settings: hypothesis.settings | None = None,
) -> None:
    """Check that an aggregator gives what a function of all blocks gives, however they come.

    Laws, by name:

    - *arguments*: blocks are not changed.
    - *purity*: the same blocks give the same result, and leave earlier results as they are.
    - *one generation*: no block is asked for twice.
    - *oracle*: the result is that of the oracle, whatever makes the blocks (a list, a generator, a
      map), and whether a length hint is right, wrong or missing.

    An oracle over the joined blocks, such as ``lambda blocks: np.concatenate(blocks).sum(0)``,
    says in addition that the result does not depend on how they are cut.

    Parameters
    ----------
    aggregator
        What to check.
    blocks
        What to draw the blocks of a sequence from, such as :func:`~lazychunks.testing.flat_blocks`.
    oracle
        Gives the right result for a list of blocks.
    same
        Compares results; by default by their :func:`~lazychunks.testing.bits`.
    settings
        How to look for examples; by default as Hypothesis is set up, without a deadline.

    Raises
    ------
    LawBrokenError
        If a law is broken. What the aggregator itself raises is raised as it is.

    Examples
    --------
    >>> from lazychunks.testing import flat_blocks
    >>> check_aggregator(max, flat_blocks().map(lambda blocks: list(map(len, blocks))), max)
    """
    case = partial(Blocks, aggregator, oracle, same)
    find_counterexample(AGGREGATOR_LAWS, case, aggregator, settings, blocks=blocks, **WAYS)


def check_nested_aggregator(
    aggregator: Callable[[NestedLazyChunkSequence[T]], R],
    rows: SearchStrategy[Sequence[Sequence[T]]],
    oracle: Callable[[list[list[T]]], R],
    *,
    same: Callable[[R, R], bool] | None = None,
    settings: hypothesis.settings | None = None,
) -> None:
    """Check an aggregator over rows of blocks; all is as in :func:`check_aggregator`.

    Examples
    --------
    >>> from lazychunks import NestedListAggregator
    >>> from lazychunks.testing import nested_blocks
    >>> check_nested_aggregator(NestedListAggregator(), nested_blocks(), lambda rows: rows)
    """
    case = partial(Rows, aggregator, oracle, same)
    find_counterexample(AGGREGATOR_LAWS, case, aggregator, settings, blocks=rows, **WAYS)


@dataclass(frozen=True)
class Blocks:
    """An example: blocks, what makes them, and the aggregator to check."""

    aggregator: AnyAggregator
    oracle: Callable[[Any], Result] | None
    same: Same | None
    blocks: Sequence[Block]
    backing: Backing
    hint: Hint
    cuts: Cuts = ((), ())

    @property
    def counts(self) -> Counts:
        """The number of blocks along each block axis, as far as a sequence tells it."""
        return (length_hint(self.blocks, self.hint),)

    def make_sequence(self, blocks: Sequence[Block]) -> AnySequence:
        """Return a sequence of blocks."""
        return flat_sequence(blocks, self.backing, self.hint)

    def run(self, aggregator: AnyAggregator = None, sequence: AnySequence = None) -> Result:
        """Run an aggregator over a sequence, by default those of the example."""
        sequence = self.make_sequence(self.blocks) if sequence is None else sequence
        # Hints are wrong on purpose.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", LengthHintWarning)
            return (self.aggregator if aggregator is None else aggregator)(sequence)

    @cached_property
    def expected(self) -> Result:
        """The result of the oracle; without one, that of the aggregator itself."""
        return self.run() if self.oracle is None else self.oracle(self.list_blocks())

    def expect(self, computed: object, what: str) -> None:
        """Compare with what is expected."""
        expect(computed, self.expected, what, self.same)

    def list_blocks(self) -> list[Block]:
        """Return the blocks as an oracle gets them."""
        return list(self.blocks)

    def number_blocks(self) -> Sequence[Block]:
        """Return the blocks with their places."""
        return list(enumerate(self.blocks))

    def start(self) -> AnyPass:
        """Start a pass of a fold."""
        return self.aggregator.start(self.counts)

    def steps(self) -> Iterator[Block]:
        """Return the blocks as a pass takes them."""
        return iter(self.blocks)

    def cut(self, cuts: Cuts) -> Iterable[AnyPart]:
        """Cut the blocks into parts."""
        return cut_blocks(self.blocks, cuts[0])


class Rows(Blocks):
    """An example of rows of blocks."""

    @property
    def counts(self) -> Counts:
        """The number of rows, as far as a sequence tells it."""
        return (length_hint(self.blocks, self.hint), None)

    def make_sequence(self, blocks: Sequence[Block]) -> AnySequence:
        """Return a nested sequence of rows."""
        return nested_sequence(blocks, self.backing, self.hint)

    def list_blocks(self) -> list[Block]:
        """Return the rows as an oracle gets them."""
        return [list(row) for row in self.blocks]

    def number_blocks(self) -> Sequence[Block]:
        """Return the rows of blocks with their places."""
        return [
            [((i, j), block) for j, block in enumerate(row)] for i, row in enumerate(self.blocks)
        ]

    def start(self) -> AnyPass:
        """Start a pass of a nested fold."""
        return self.aggregator.start_rows(self.counts)

    def steps(self) -> Iterator[Block]:
        """Return the blocks as a pass takes them, and the ends of rows."""
        for row in self.blocks:
            yield from row
            yield END_OF_ROW

    def cut(self, cuts: Cuts) -> Iterable[AnyPart]:
        """Cut the rows of blocks into parts."""
        return cut_rows(self.blocks, *cuts)


def _leaves_its_blocks(case: Blocks) -> None:
    # Of copies: otherwise the aggregator would change the example that is shown.
    blocks = twin(case.blocks)
    before = bits(blocks)
    case.run(sequence=case.make_sequence(blocks))
    if bits(blocks) != before:
        raise BrokenError("blocks have been changed")


def _purity(case: Blocks) -> None:
    first = case.run()
    before = twin(first)  # the second run might change the first result, in memory that both use
    expect(case.run(), before, "the second run gives another result", case.same)
    expect(first, before, "the second run has changed the result of the first", case.same)


def _one_generation(case: Blocks) -> None:
    asked: Counter[object] = Counter()

    def take(entry: tuple[object, Block]) -> Block:
        place, block = entry
        asked[place] += 1
        return block

    case.run(sequence=case.make_sequence(case.number_blocks()).map(take))
    for place, times in asked.items():
        if times > 1:
            raise BrokenError(f"block {place} was asked for {times} times")


def _oracle(case: Blocks) -> None:
    for hint in HINTS:
        result = replace(case, hint=hint).run()
        case.expect(result, f"the result is another one; the length hint is {hint}")


AGGREGATOR_LAWS = (
    Law("arguments", "blocks are not changed", _leaves_its_blocks),
    Law("purity", "the same blocks give the same result, each time", _purity),
    Law("one generation", "no block is asked for twice", _one_generation),
    Law("oracle", "the result is that of the oracle, however the blocks come", _oracle),
)
