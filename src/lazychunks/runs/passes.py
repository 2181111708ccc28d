"""What a pass is: it takes blocks, or the states of parts that others have gone through.

A *running* pass takes blocks one by one (``step``), or the states of whole parts (``absorb``) that
other threads or processes have computed. Either way, the result is the same to the bit.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any, Protocol, Self, TypeAlias, TypeVar

from lazychunks.layout.partition import ArrayPlan
from lazychunks.layout.parts import AnyPart
from lazychunks.layout.shapes import Shape

T_contra = TypeVar("T_contra", contravariant=True)
R_co = TypeVar("R_co", covariant=True)

Counts: TypeAlias = tuple[int | None, ...]
"""Number of blocks along each block axis, where it is known: one for a flat sequence, or two."""

Ends: TypeAlias = tuple[bool, bool]
"""Whether a block is in the last row, and in the last column."""

State: TypeAlias = Any
"""What a part came to: a value that can be pickled. Only the fold that made it looks inside."""


STORED: Any = type("Stored", (), {"__doc__": "Stands for a block that all sinks have stored."})()
"""What a pass of nothing but sinks is stepped with for a block that need not be computed."""


class PartRunning(AbstractContextManager["PartRunning[T_contra]", None], Protocol[T_contra]):
    """A pass over one part, wherever it is computed."""

    def step(self, block: T_contra, /) -> None:
        """Take the next block, whose memory may be reused as soon as this returns."""
        ...

    def end_row(self) -> None:
        """Close a row of the part (of a nested sequence)."""
        ...

    def state(self) -> State:
        """Return what the part came to; called once, after the last block."""
        ...


class PartFold(Protocol[T_contra]):
    """What a worker must know to go through parts: a value that can be pickled."""

    def start_part(self, part: AnyPart, /) -> PartRunning[T_contra]:
        """Start a pass over a part."""
        ...


class Shelf(Protocol):
    """Blocks of which some may be stored already."""

    def has(self, index: Shape, is_last: Ends) -> bool:
        """Whether a block is stored, so that it need not be computed."""
        ...

    def read_block(self, index: Shape, is_last: Ends) -> Any:
        """Read back a block that is stored."""
        ...

    def compare(self, index: Shape, is_last: Ends, block: Any) -> None:
        """Refuse a block that is not the one that is stored."""
        ...


class Probe(Protocol):
    """Tells the sinks about the first block; a value that can be pickled."""

    def __call__(self, block: Any, /) -> tuple[Shape, Any]:
        """Return the shape and the dtype of what would be stored of a block."""
        ...


class Sink(Shelf, Protocol):
    """The running pass of a fold that stores blocks, as a driver of passes sees it.

    It is a shelf itself, of what is stored by what is known at the moment.
    """

    can_skip: bool
    """Whether the sequence can skip blocks; set by the driver."""
    workers: int | None
    """Number of workers that will store parts, if others do it; set by the driver."""
    before: Callable[[Any], Any] | None
    """What is applied to blocks on their way to the sink; set by the folds around it."""

    @property
    def resumes(self) -> bool:
        """Whether it was asked to go on with an earlier start."""
        ...

    @property
    def is_finished(self) -> bool:
        """Whether an earlier start has stored everything."""
        ...

    @property
    def shelf(self) -> Shelf | None:
        """What an earlier start has stored, a value that can be pickled; None where nothing is."""
        ...

    @property
    def plan(self) -> ArrayPlan | None:
        """Where blocks lie, once the first of them is known."""
        ...

    def is_open_at(self, part: AnyPart, /) -> bool:
        """Whether a part has the end of an axis, and it is not known yet where that lies."""
        ...

    def check_spreadable(self, *, shares_memory: bool) -> None:
        """Refuse workers that would not see what they are to write."""
        ...

    def check_readable(self) -> None:
        """Refuse to resume, if other folds could not get the blocks that are stored."""
        ...

    def check_counts(self, count: Callable[[], Shape], /) -> None:
        """Refuse a finished array of another number of blocks; ``count`` counts those of now."""
        ...

    def check_even(self) -> None:
        """Refuse workers where an earlier start has met blocks of uneven sizes."""
        ...

    def probe(self) -> Probe:
        """Return what tells the shape and the dtype of the first block."""
        ...

    def begin(self, shape: Shape, dtype: Any, /) -> None:
        """Start to write, with the shape and the dtype of the first block."""
        ...

    def prepare(self) -> None:
        """Do what may fail before anything is shown to readers."""
        ...


class Running(AbstractContextManager["Running[T_contra, R_co]", None], Protocol[T_contra, R_co]):
    """One pass of a fold.

    A context manager: entering it begins the pass; leaving it releases what the pass holds, and by
    an exception gives the pass up, that is, undoes what it has done.
    """

    def step(self, block: T_contra, /) -> None:
        """Take the next block, whose memory may be reused as soon as this returns."""
        ...

    def absorb(self, state: State, part: AnyPart, /) -> None:
        """Take the state of the next part, as if its blocks had been stepped."""
        ...

    def finish(self) -> R_co:
        """Return the result; called once, after the last block."""
        ...

    @property
    def sinks(self) -> Sequence[Sink]:
        """The sinks in it, if there are any: such a pass finishes last."""
        ...


class RunningRows(Running[T_contra, R_co], Protocol[T_contra, R_co]):
    """One pass of a fold over rows of blocks."""

    def __enter__(self) -> Self:
        """Begin the pass."""
        ...

    def end_row(self) -> None:
        """Close a row."""
        ...


class Scope:
    """Base of a context manager that has nothing to release."""

    __slots__ = ()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
        /,
    ) -> None:
        return None


class Pass(Scope):
    """Base of a :class:`Running` that has nothing to release, and of which parts are blocks.

    A pass whose fold can fold parts elsewhere overrides ``absorb``.
    """

    __slots__ = ("_rows",)

    _rows: list[list[Any]]
    """Blocks of the rows of a band, of which not all columns have come."""

    sinks: Sequence[Sink] = ()

    @abstractmethod
    def step(self, block: Any, /) -> None:
        """Take the next block."""

    def end_row(self) -> None:
        """Close a row; there is nothing to do for a flat pass."""

    def absorb(self, state: State, part: AnyPart, /) -> None:
        """Step the blocks of a part, row by row, once all columns of these rows have come."""
        rows: list[list[Any]] = getattr(self, "_rows", None) or [[] for _ in state]
        for row, blocks in zip(rows, state, strict=True):
            row.extend(blocks)
        self._rows = rows
        if part.ends[1]:
            self._rows = []
            for row in rows:
                for block in row:
                    self.step(block)
                if part.axes == 2:
                    self.end_row()
