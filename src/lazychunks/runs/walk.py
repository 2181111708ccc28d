"""Going through the blocks of one part: computing them, or reading back what is stored."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Generic, Protocol, TypeVar

from lazychunks.blocks.factories import BlockCall
from lazychunks.layout.parts import AnyPart
from lazychunks.layout.shapes import Shape
from lazychunks.runs.passes import STORED, Ends, PartFold, Shelf, State
from lazychunks.runs.shipping import Sent, receive

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

    shelves: tuple[Shelf, ...]
    """Of all sinks of the pass, if each of them may have stored blocks."""
    needs_blocks: bool
    """Whether there are folds beside the sinks, which need stored blocks as well."""

    def go_through(self, part: AnyPart, running: Steps, *, verify: bool) -> None:
        """Step a pass with the blocks of a part.

        With ``verify``, the first block that is stored is computed as well, and compared.
        """
        for row, calls, is_last_row in enumerate_with_last(part.rows, part.index[0]):
            for column, call, is_last_column in enumerate_with_last(calls, part.index[1]):
                index = (row, column)[: part.axes]
                is_last = (is_last_row and part.ends[0], is_last_column and part.ends[1])
                if not self.has(index, is_last):
                    running.step(call())
                    continue
                if verify:
                    verify = False
                    block = call()
                    for shelf in self.shelves:
                        shelf.compare(index, is_last, block)
                stored = self.shelves[0].read_block if self.needs_blocks else _stand_in
                running.step(stored(index, is_last))
            if part.axes == 2:
                running.end_row()

    def has(self, index: Shape, is_last: Ends) -> bool:
        """Whether all sinks have stored a block."""
        return bool(self.shelves) and all(shelf.has(index, is_last) for shelf in self.shelves)

    def has_stored(self, part: AnyPart) -> tuple[bool, bool]:
        """Whether any block of a part is stored, and whether all are."""
        if not self.shelves:
            return False, False
        found = [
            self.has(
                (row, column)[: part.axes],
                (is_last_row and part.ends[0], is_last_column and part.ends[1]),
            )
            for row, calls, is_last_row in enumerate_with_last(part.rows, part.index[0])
            for column, _, is_last_column in enumerate_with_last(calls, part.index[1])
        ]
        return any(found), all(found)


@dataclass(frozen=True, slots=True)
class PartWork(Generic[T]):
    """All that somebody must know to go through parts of a pass."""

    fn: Sent[Callable[..., T]]
    """Computes a block from its items; parts hold the items only."""
    fold: PartFold[T]
    walk: Walk

    def __call__(self, part: AnyPart, *, verify: bool) -> State:
        """Go through a part, and return its state."""
        fn = receive(self.fn)
        rows = [[BlockCall(fn, items) for items in row] for row in part.rows]
        computed = replace(part, rows=rows)
        with self.fold.start_part(computed) as running:
            self.walk.go_through(computed, running, verify=verify)
            return running.state()


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


def _stand_in(index: Shape, is_last: Ends) -> object:  # noqa: ARG001  # as Shelf.read_block
    """Return what stands for a block that nobody needs but sinks, which have stored it."""
    return STORED
