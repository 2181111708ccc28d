"""Folds that merge values of blocks, in an order that depends on the numbers of the blocks only.

Pairwise summation: within runs of 32 blocks, values are merged in a balanced binary tree; the runs
are merged from left to right. So the result has the same bits whoever computed which blocks, a pass
holds a handful of values at a time, and rounding errors grow with the number of runs, not of
blocks.

Source: N. J. Higham, "The accuracy of floating point summation", SIAM Journal on Scientific
Computing 14 (1993), 783-799.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial, reduce
from typing import Any, ClassVar, Generic, TypeAlias, TypeVar

from lazychunks.arrays import Arithmetic, Array, choose_arithmetic
from lazychunks.folds.alike import AlikeFold, AlikePass, Like

S = TypeVar("S")
R = TypeVar("R")
V = TypeVar("V")

Node: TypeAlias = tuple[int, int, V]
"""Numbers of the first block and of the one after the last, and the value of the blocks between."""

RUN = 32
"""Number of blocks in a run; a power of two."""


@dataclass(slots=True, eq=False)
class MergeTree(Generic[V]):
    """Values of consecutive blocks, merged as far as the order allows.

    - However the blocks are cut into parts, the nodes of all parts together are the same.
    - If the blocks begin with number 0, there are at most log2(32) + 1 nodes.

    Examples
    --------
    >>> tree = MergeTree(lambda earlier, later: f"({earlier}{later})")
    >>> for number, letter in enumerate("abcde"):
    ...     tree.add(number, number + 1, letter)
    >>> tree.nodes
    [(0, 4, '((ab)(cd))'), (4, 5, 'e')]
    >>> tree.root()
    '(((ab)(cd))e)'
    """

    merge: Callable[[V, V], V]
    nodes: list[Node[V]] = field(default_factory=list[Node[V]])

    def add(self, start: int, stop: int, value: V) -> None:
        """Add the value of the next blocks: of one block, or of a node of another tree."""
        nodes = self.nodes
        # As in binary counting, a block is merged once on average, and at most six times.
        while nodes and is_merged(nodes[-1][0], start, stop):
            first, _, earlier = nodes.pop()
            start, value = first, self.merge(earlier, value)
        nodes.append((start, stop, value))

    def add_nodes(self, nodes: Iterable[Node[V]]) -> None:
        """Add the nodes of the next part."""
        for start, stop, value in nodes:
            # Parts out of order would be merged in another order, and nobody would notice.
            assert not self.nodes or self.nodes[-1][1] == start
            self.add(start, stop, value)

    def root(self) -> V:
        """Merge the remaining nodes from left to right; there is at least one."""
        return reduce(self.merge, (value for _, _, value in self.nodes))


def is_merged(first: int, middle: int, stop: int) -> bool:
    """Whether the order merges two neighbors: the blocks before ``middle``, and those after it.

    Examples
    --------
    >>> is_merged(4, 6, 8), is_merged(2, 4, 6)  # siblings, and children of two parents
    (True, False)
    >>> is_merged(0, 64, 96), is_merged(32, 64, 96)  # a run joins all runs before it
    (True, False)
    """
    size = stop - middle
    # A chain from the left, and not a tree over the runs as well: then a pass would hold one value
    # for each level, and there would be more levels the longer the sequence is.
    if size == RUN:
        return first == 0
    # Siblings are of one size, and the earlier one begins where their parent does.
    return middle - first == size and first % (2 * size) == 0


@dataclass(frozen=True, slots=True)
class Reduction(AlikeFold[S, R], Generic[S, R, V]):
    """A fold that reduces blocks along an axis: a value for each block, merged in a tree."""

    axis: int | None = 0
    """The axis that is reduced, and that blocks are joined along; None for all entries."""

    needs_order: ClassVar[bool] = False
    """Whether numbers must have an order, as complex ones do not."""

    @abstractmethod
    def reduce_block(self, numbers: Arithmetic, lanes: Array, axis: int) -> V:
        """Return the value of one block, given its entries; they do not share memory."""

    @abstractmethod
    def merge(self, numbers: Arithmetic, earlier: V, later: V) -> V:
        """Return the value of the blocks of both."""

    @abstractmethod
    def finish(self, numbers: Arithmetic, value: V) -> object:
        """Return the result for the value of all blocks, as an array where NumPy made a scalar."""

    def start_at(self, number: int, /) -> ReductionPass[S, R, V]:
        """Start a pass."""
        return ReductionPass(self.axis, number, self)


@dataclass(slots=True, eq=False)
class ReductionPass(AlikePass[S, R], Generic[S, R, V]):
    """A pass over all blocks, or over those of a part."""

    reduction: Reduction[S, R, V]
    numbers: Arithmetic = field(init=False)
    tree: MergeTree[V] = field(init=False)

    def begin(self, like: Like) -> None:
        """Choose how numbers are reduced."""
        ordered = self.reduction.needs_order
        self.numbers = choose_arithmetic(like.namespace, like.dtype, ordered=ordered)
        self.tree = MergeTree(partial(self.reduction.merge, self.numbers))

    def step(self, block: S, /) -> None:
        """Reduce the block, and merge its value with those before it."""
        number = self.start + self.blocks
        values = self.check(block)
        lanes, axis = self.numbers.lanes(values, self.like.axis)
        value = self.reduction.reduce_block(self.numbers, lanes, axis)
        self.tree.add(number, number + 1, value)

    def value(self) -> list[Node[V]]:
        """Return the nodes that the nodes of other parts can be merged with."""
        return self.tree.nodes

    def merge_value(self, value: list[Node[V]]) -> None:
        """Merge the nodes of the next part."""
        self.tree.add_nodes(value)

    def finish(self) -> R:
        """Return the result."""
        _ = self.like  # fails without a block
        result: Any = self.reduction.finish(self.numbers, self.tree.root())
        made: R = result
        return made
