"""The contract between a fold and whoever runs it: one pass takes blocks, or the states of parts.

A *running* pass takes blocks one by one (``step``), or the states of whole parts (``absorb``) that
other threads or processes have computed. Either way, the result has the same bits.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol, Self, TypeAlias, TypeVar

from lazychunks.layout.partition import ArrayPlan
from lazychunks.layout.parts import AnyPart
from lazychunks.layout.shapes import Shape

T = TypeVar("T")
T_contra = TypeVar("T_contra", contravariant=True)
R_co = TypeVar("R_co", covariant=True)

Counts: TypeAlias = tuple[int | None, ...]
"""Number of blocks along each block axis, where it is known: one for a flat sequence, or two."""

Ends: TypeAlias = tuple[bool, bool]
"""Whether a block is in the last row, and in the last column."""

State: TypeAlias = Any
"""The outcome of a part: a value that can be pickled. Only the fold that made it looks inside."""

AnyBlock: TypeAlias = Any
"""A block where its type is not known: between folds that are combined."""

AnyResult: TypeAlias = Any
"""A result where its type is not known."""


STORED: Any = type("Stored", (), {"__doc__": "Stands for a block that all sinks have stored."})()
"""What a pass of nothing but sinks is stepped with for a block that need not be computed."""


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

    @property
    def sends_blocks(self) -> bool:
        """Whether states hold the blocks of their parts, so that a part should have few."""
        ...

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

    def __call__(self, block: Any, /) -> Any:
        """Return what the sink has to know of a block: shape and dtype of what it would store."""
        ...


class Peers(Protocol):
    """Who goes through the same pass at the same time: the ranks of a job, or nobody else."""

    @property
    def leads(self) -> bool:
        """Whether this process does what only one of them may do."""
        ...

    def once(self, fn: Callable[[], T], /) -> T:
        """Have the leader call a function, and return its result to all of them.

        All of them make this call; none returns before the leader has called the function.
        """
        ...

    def meet(self) -> None:
        """Return once all of them have made this call; raise if one of them has failed before."""
        ...

    def watch(self) -> AbstractContextManager[None]:
        """Tell the others if the ``with`` block fails here, before anything is cleared away."""
        ...


class Alone:
    """The peers of a pass that nobody else goes through."""

    leads: bool = True

    def once(self, fn: Callable[[], T], /) -> T:
        """Call the function."""
        return fn()

    def meet(self) -> None:
        """There is nobody to meet."""

    def watch(self) -> AbstractContextManager[None]:
        """There is nobody to tell."""
        return nullcontext()


ALONE: Peers = Alone()


@dataclass(frozen=True, slots=True)
class Setup:
    """What a sink must know of the pass that it is in."""

    can_skip: bool = True
    """Whether the sequence can skip blocks, so that another start may go on."""
    needs_blocks: bool = False
    """Whether there are other folds, which need the blocks that are stored as well."""
    workers: int | None = None
    """Number of workers that store parts; None if all blocks are stored here."""
    shares_memory: bool = True
    """Whether all that store parts see the memory of this process."""
    peers: Peers = ALONE
    """Who goes through the same pass; of them, the leader alone changes the destination, but for
    the units of parts."""


class Sink(Shelf, Protocol):
    """The running pass of a fold that stores blocks, as a driver of passes sees it.

    It is a shelf itself, of what is stored by what is known at the moment.
    """

    setup: Setup
    """Set by the driver, before the pass is entered."""
    before: Callable[[Any], Any] | None
    """What ``contramap`` applies to blocks on their way to the sink; set by the folds around it."""
    is_behind_a_fold: bool
    """Whether it stores the row results of ``nest``. Such a sink takes no part: it is stepped where
    the pass runs, and it cannot resume."""

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
    def plans(self) -> Sequence[ArrayPlan]:
        """Where blocks lie in each of its arrays; none before the first block is known."""
        ...

    def is_open_at(self, part: AnyPart, /) -> bool:
        """Whether a part has the end of an axis, and it is not known yet where that lies."""
        ...

    def check_counts(self, count: Callable[[], Shape], /) -> None:
        """Refuse to go on with another number of blocks; ``count`` counts those of now."""
        ...

    def probe(self) -> Probe:
        """Return what tells the shape and the dtype of the first block."""
        ...

    def begin(self, found: Any, /) -> None:
        """Start to write, with what its probe has found out about the first block."""
        ...

    def prepare(self) -> None:
        """Do what may fail before anything is shown to readers; harmless if called twice."""
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

    def prepare(self) -> None:
        """Do what may fail before sinks show anything to readers; harmless if called twice.

        Called after the last block, for passes with sinks.
        """
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

    def prepare(self) -> None:
        """There is nothing to prepare."""

    @abstractmethod
    def step(self, block: AnyBlock, /) -> None:
        """Take the next block."""

    def end_row(self) -> None:
        """Close a row; there is nothing to do for a flat pass."""

    def absorb(self, state: State, part: AnyPart, /) -> None:
        """Step the blocks of a part, row by row, once all columns of its band have come."""
        # Subclasses need not call __init__, so the attribute may be missing.
        self._band = step_band(self, getattr(self, "_band", []), state, part)


def step_band(
    running: Any, band: list[list[AnyBlock]], state: list[list[AnyBlock]], part: AnyPart
) -> list[list[AnyBlock]]:
    """Step the blocks of a band, row by row, once its last part has come.

    Parameters
    ----------
    running
        The pass.
    band
        Rows of blocks that wait for the other columns of their band.
    state, part
        Rows of the blocks of the next part.

    Returns
    -------
    list
        The rows that wait now.
    """
    band = band or [[] for _ in state]
    for row, blocks in zip(band, state, strict=True):
        row.extend(blocks)
    if not part.ends[1]:
        return band
    for row in band:
        for block in row:
            running.step(block)
        if part.axes == 2:
            running.end_row()
    return []
