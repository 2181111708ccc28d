"""The contract between a fold and whoever runs it: one pass takes blocks, or the states of parts.

A *running* pass takes blocks one by one (``step``), or the states of whole parts (``absorb``) that
other threads or processes have computed. Either way, the result has the same bits.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any, Protocol, Self, TypeAlias, TypeVar

from lazychunks.layout.parts import AnyPart

T_contra = TypeVar("T_contra", contravariant=True)
R_co = TypeVar("R_co", covariant=True)

Counts: TypeAlias = tuple[int | None, ...]
"""Number of blocks along each block axis, where it is known: one for a flat sequence, or two."""

State: TypeAlias = Any
"""The outcome of a part: a value that can be pickled. Only the fold that made it looks inside."""

AnyBlock: TypeAlias = Any
"""A block where its type is not known: between folds that are combined."""

AnyResult: TypeAlias = Any
"""A result where its type is not known."""


class PartRunning(AbstractContextManager["PartRunning[T_contra]", None], Protocol[T_contra]):
    """A pass over one part, wherever it is computed."""

    def step(self, block: T_contra, /) -> None:
        """Take the next block, whose memory may be reused as soon as this returns."""
        ...

    def end_row(self) -> None:
        """Close a row of the part; called for parts of nested sequences only."""
        ...

    def state(self) -> State:
        """Return the outcome of the part; called once, after the last block."""
        ...


class PartFold(Protocol[T_contra]):
    """All that a worker must know to go through parts: a value that can be pickled."""

    def start_part(self, part: AnyPart, /) -> PartRunning[T_contra]:
        """Start a pass over a part."""
        ...


class Sink(Protocol):
    """A running pass that stores blocks. The rest of its contract is in ``lazychunks.storage``."""

    is_behind_a_function: bool
    """Whether it stores what ``contramap`` makes of the blocks. Such a sink cannot resume, because
    the blocks cannot be read back from it."""

    is_behind_a_fold: bool
    """Whether it stores the row results of ``nest``. Such a sink takes no part: it is stepped where
    the pass runs, and it cannot resume either."""

    def prepare(self) -> None:
        """Do all that may fail before the pass finishes; harmless if called twice."""
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
        """The sinks in this pass. A tee finishes passes with sinks after all others."""
        ...


class RunningRows(Running[T_contra, R_co], Protocol[T_contra, R_co]):
    """One pass of a fold over rows of blocks."""

    def __enter__(self) -> Self:
        """Begin the pass."""
        ...

    def end_row(self) -> None:
        """Close a row."""
        ...


AnyRunning: TypeAlias = Running[Any, Any]
AnyPartRunning: TypeAlias = PartRunning[Any]
AnyPartFold: TypeAlias = PartFold[Any]


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
    """Base of a :class:`Running` that has nothing to release, and for which parts are blocks.

    The pass of a fold that merges overrides ``absorb``.
    """

    __slots__ = ("_band",)

    _band: list[list[AnyBlock]]
    """Rows of blocks that wait for the other columns of their band."""

    @property
    def sinks(self) -> Sequence[Sink]:
        """None: only passes that store blocks have sinks."""
        return ()

    @abstractmethod
    def step(self, block: AnyBlock, /) -> None:
        """Take the next block."""

    def end_row(self) -> None:
        """Close a row; there is nothing to do for a flat pass."""

    def absorb(self, state: State, part: AnyPart, /) -> None:
        """Step the blocks of a part, row by row, once all columns of its band have come."""
        # Subclasses need not call __init__, so the attribute may be missing.
        band: list[list[AnyBlock]] = getattr(self, "_band", None) or [[] for _ in state]
        for row, blocks in zip(band, state, strict=True):
            row.extend(blocks)
        self._band = band
        if part.ends[1]:
            self._band = []
            for row in band:
                for block in row:
                    self.step(block)
                if part.axes == 2:
                    self.end_row()
