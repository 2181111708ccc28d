"""Going through the blocks of one part: computing them, or reading back what is stored."""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Generic, Protocol, TypeVar

from lazychunks.blocks.factories import BlockCall
from lazychunks.layout.parts import AnyPart
from lazychunks.layout.shapes import Shape
from lazychunks.runs.passes import STORED, Ends, PartFold, PartRunning, Shelf, State

T = TypeVar("T")


class Steps(Protocol):
    """What takes blocks: a running pass, over all blocks or over a part of them."""

    def step(self, block: Any, /) -> None:
        """Take the next block."""
        ...

    def end_row(self) -> None:
        """Close a row."""
        ...


@dataclass(frozen=True, slots=True)
class Walk:
    """How to go through blocks, where some of them may be stored already."""

    shelves: tuple[Shelf | None, ...]
    """What each sink of the pass has stored; None for a sink that has stored nothing."""
    needs_blocks: bool
    """Whether there are folds beside the sinks, which need stored blocks as well."""

    def go_through(self, part: AnyPart, running: Steps, verify: Collection[int] = ()) -> None:
        """Step a pass with the blocks of a part; only those are computed that some sink lacks.

        Parameters
        ----------
        part, running
            The blocks, and the pass.
        verify
            Numbers of the shelves to be verified: of each, the first stored block is computed as
            well, and compared.
        """
        unverified = set(verify)
        for row in enumerate_with_last(part.rows, part.index[0]):
            for call, index, is_last in _place_calls(part, row):
                holders = self._find_holders(index, is_last)
                is_stored = len(holders) == len(self.shelves) > 0
                doubted = unverified.intersection(holders)
                if not is_stored or doubted:
                    block = call()
                    for number in sorted(doubted):
                        holders[number].compare(index, is_last, block)
                    unverified -= doubted
                    if not is_stored:
                        running.step(block)
                    del block  # otherwise it would live on while the next one is computed
                if is_stored:
                    read = holders[0].read_block if self.needs_blocks else _stand_in
                    running.step(read(index, is_last))
            if part.axes == 2:
                running.end_row()

    def look_at(self, part: AnyPart) -> tuple[set[int], bool]:
        """Tell which shelves have stored any block of a part, and whether none needs computing."""
        found = set[int]()
        is_all_stored = bool(self.shelves)
        for row in enumerate_with_last(part.rows, part.index[0]):
            for _, index, is_last in _place_calls(part, row):
                holders = self._find_holders(index, is_last)
                found.update(holders)
                is_all_stored &= len(holders) == len(self.shelves)
        return found, is_all_stored

    @property
    def is_empty(self) -> bool:
        """Whether no block is stored."""
        return not any(shelf is not None for shelf in self.shelves)

    def _find_holders(self, index: Shape, is_last: Ends) -> dict[int, Shelf]:
        """Return the shelves that have stored a block, by number."""
        return {
            number: shelf
            for number, shelf in enumerate(self.shelves)
            if shelf is not None and shelf.has(index, is_last)
        }


@dataclass(frozen=True, slots=True)
class PartWork(Generic[T]):
    """What a worker does with the blocks of each part that it gets."""

    fold: PartFold[T]
    walk: Walk

    def __call__(self, fn: Callable[..., T], part: AnyPart, verify: Collection[int] = ()) -> State:
        """Go through a part, which has the items of its blocks, and return its state."""
        with self.open(fn, part, verify) as running:
            return running.state()

    @contextmanager
    def open(
        self, fn: Callable[..., T], part: AnyPart, verify: Collection[int]
    ) -> Generator[PartRunning[T]]:
        """Go through a part, and hand out its pass, some of which may still be written."""
        rows = [[BlockCall(fn, items) for items in row] for row in part.rows]
        computed = replace(part, rows=rows)
        with self.fold.start_part(computed) as running:
            self.walk.go_through(computed, running, verify)
            yield running


def strip_functions(part: AnyPart) -> AnyPart:
    """Return a part that holds the items of its blocks only, as it is sent."""
    return replace(part, rows=tuple(tuple(call.args for call in row) for row in part.rows))


def enumerate_with_last(items: Iterable[T], start: int) -> Iterator[tuple[int, T, bool]]:
    """Number items, and tell of each whether it is the last.

    >>> list(enumerate_with_last("ab", 3))
    [(3, 'a', False), (4, 'b', True)]
    """
    number, held = start, list[T]()
    for item in items:
        if held:
            yield number, held.pop(), False
            number += 1
        held.append(item)
    if held:
        yield number, held.pop(), True


def _place_calls(
    part: AnyPart, row: tuple[int, Sequence[T], bool]
) -> Iterator[tuple[T, Shape, Ends]]:
    """Yield the calls of a row of a part, with their places."""
    number, calls, is_last_row = row
    for column, call, is_last_column in enumerate_with_last(calls, part.index[1]):
        index = (number, column)[: part.axes]
        yield call, index, (is_last_row and part.ends[0], is_last_column and part.ends[1])


def _stand_in(index: Shape, is_last: Ends) -> object:  # noqa: ARG001  # as Shelf.read_block
    """Return what stands for a block that nobody needs but sinks, which have stored it."""
    return STORED
