"""One pass of a fold, whoever computes the blocks, and however often it is started.

Here, the blocks are stepped one after the other. Elsewhere, they are cut into parts, whose states
come back in any order and are absorbed in the order of the blocks, so that the result is the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from functools import partial
from itertools import chain
from typing import Any, Protocol

from lazychunks.blocks.factories import (
    counts_of,
    is_map_backed,
    rows_of_calls,
    without_progress,
)
from lazychunks.blocks.iterate import closing_generator, refuse_array
from lazychunks.errors import NotResumableError, NotSpreadableError
from lazychunks.layout.checks import check_row
from lazychunks.layout.parts import AnyPart, split, whole
from lazychunks.layout.shapes import Shape
from lazychunks.runs.passes import Counts, PartFold, Probe, Setup, Sink, State
from lazychunks.runs.runners import Runner, Task
from lazychunks.runs.shipping import Sent, receive
from lazychunks.runs.walk import PartWork, Walk, strip_functions

PARTS_EACH = 4
"""Number of parts for each worker, at least, where there are enough blocks."""

MOST_BLOCKS = 32
"""Number of blocks in a part, at most, where nothing but folds sees to them."""


class AnyFold(Protocol):
    """A fold over blocks or over rows of blocks, as the driver sees it."""

    @property
    def needs_blocks(self) -> bool:
        """Whether it needs every block, stored or not: only sinks do not."""
        ...

    def for_parts(self, running: Any, /) -> PartFold[Any]:
        """Return what goes through parts for a running pass."""
        ...


def run_fold(fold: AnyFold, blocks: Iterable[Any], axes: int, runner: Runner | None = None) -> Any:
    """Fold blocks in one pass.

    Parameters
    ----------
    fold
        What to do with the blocks.
    blocks
        A sequence, or any iterable of blocks, or of rows of blocks.
    axes
        1 for blocks, 2 for rows of blocks.
    runner
        Who computes the blocks; by default this thread.

    Raises
    ------
    NotResumableError, NotSpreadableError
        Before any work, if a sink cannot resume, or the runner cannot work on these blocks.
    """
    counts = counts_of(blocks)[:axes]
    start: Any = getattr(fold, "start" if axes == 1 else "start_rows")
    running = start(counts)
    sinks: Sequence[Sink] = [sink for sink in running.sinks if not sink.is_behind_a_fold]
    resumes = _check_resuming(running.sinks)
    calls = _find_calls(blocks, axes, resumes=resumes, spreads=runner is not None)
    for sink in running.sinks:
        if sink.is_behind_a_fold:
            sink.setup = Setup(can_skip=False)
        else:
            sink.setup = Setup(
                can_skip=calls is not None,
                needs_blocks=fold.needs_blocks,
                workers=None if runner is None else runner.workers,
                shares_memory=runner is None or runner.shares_memory,
            )
    with running:
        if calls is not None and resumes:
            for sink in sinks:
                sink.check_counts(partial(_count_blocks, blocks, axes))
            if all(sink.is_finished for sink in sinks) and not fold.needs_blocks:
                return running.finish()
        if calls is not None and runner is not None:
            _Division(fold, running, sinks, runner, axes, counts).run(calls())
        elif calls is not None and any(sink.shelf for sink in sinks):
            verify = not all(sink.is_finished for sink in sinks)
            walk = Walk(tuple(sinks), fold.needs_blocks)
            walk.go_through(whole(calls(), axes), running, verify=verify)
        else:
            step_through(running, blocks, axes)
        return running.finish()


def step_through(running: Any, blocks: Iterable[Any], axes: int) -> None:
    """Step a pass with blocks, or with rows of blocks."""
    step = running.step
    if axes == 1:
        for block in blocks:
            step(block)
        return
    for row in blocks:
        refuse_array(row, "a row")
        with closing_generator(row):
            for block in row:
                step(block)
        running.end_row()


class _Division:
    """A pass whose parts are gone through by others.

    Parameters
    ----------
    fold, running, sinks
        The fold, its running pass, and the sinks of that which take parts.
    runner
        Who goes through the parts.
    axes, counts
        Number of block axes, and of blocks along each where it is known.
    """

    def __init__(
        self,
        fold: AnyFold,
        running: Any,
        sinks: Sequence[Sink],
        runner: Runner,
        axes: int,
        counts: Counts,
    ) -> None:
        self._fold = fold
        self._running = running
        self._sinks = sinks
        self._runner = runner
        self._axes = axes
        self._counts = counts
        self._waiting: dict[int, tuple[AnyPart, State]] = {}
        """States that came before those of parts that lie before theirs."""
        self._next = 0
        """Number of the part that is absorbed next."""

    def run(self, rows: Iterator[Sequence[Any]]) -> None:
        """Have all parts gone through, and absorb their states."""
        first = next(rows, None)
        if first is None:
            return
        if self._axes == 2:
            check_row(0, len(first), len(first))
        fn = self._runner.send(first[0].func, "the function that computes blocks")
        self._begin(fn, first[0].args)
        plans = [sink.plan for sink in self._sinks if sink.plan is not None]
        parts = split(chain([first], rows), plans, self._axes, blocks=self._blocks_each(plans))
        # Closed here: with an error, as long as somebody keeps it, the generator would live on.
        with closing(self._runner.each(self._tasks(parts, fn))) as done:
            for part, state in done:
                self._absorb(part, state)

    def _begin(self, fn: Sent[Callable[..., Any]], items: tuple[Any, ...]) -> None:
        """Start the sinks that have not begun, with the first block."""
        sent = self._runner.send(items, "an item")
        fresh = [sink for sink in self._sinks if sink.plan is None]
        if fresh:
            probes = tuple((sink.before, sink.probe()) for sink in fresh)
            asked = self._runner.send(probes, "the converter")
            for sink, found in zip(fresh, self._runner.ask(probe, fn, asked, sent), strict=True):
                sink.begin(*found)

    def _tasks(
        self, parts: Iterator[AnyPart], fn: Sent[Callable[..., Any]]
    ) -> Iterator[Task | None]:
        """Yield what is to be done, as somebody has time for it."""
        verify = not all(sink.is_finished for sink in self._sinks)
        work = self._work(fn)
        sent = self._runner.send(work, "the fold, or the store of its sink,")
        for part in parts:
            any_stored, all_stored = (
                work.walk.has_stored(part) if work.walk.shelves else (False, False)
            )
            if all_stored and not verify and not self._fold.needs_blocks:
                self._absorb(part, work(strip_functions(part), verify=False))
                continue
            yield Task(sent, strip_functions(part), verify and any_stored)
            verify = verify and not any_stored
            if any(sink.is_open_at(part) for sink in self._sinks):
                yield None  # others must not write before it is known where the array ends
                work = self._work(fn)
                sent = self._runner.send(work, "the fold, or the store of its sink,")

    def _work(self, fn: Sent[Callable[..., Any]]) -> PartWork[Any]:
        return PartWork(fn, self._fold.for_parts(self._running), _walk(self._fold, self._sinks))

    def _absorb(self, part: AnyPart, state: State) -> None:
        """Absorb states in the order of the blocks; one that comes too early waits."""
        self._waiting[part.number] = part, state
        while self._next in self._waiting:
            part, state = self._waiting.pop(self._next)
            self._running.absorb(state, part)
            self._next += 1

    def _blocks_each(self, plans: Sequence[Any]) -> int:
        """Return how many blocks a part should have at least."""
        if plans or None in self._counts:
            return 1
        total = 1
        for count in self._counts:
            total *= count or 0
        return max(min(total // (PARTS_EACH * self._runner.workers), MOST_BLOCKS), 1)


def probe(
    fn: Sent[Callable[..., Any]],
    probes: Sent[tuple[tuple[Callable[[Any], Any] | None, Probe], ...]],
    items: Sent[tuple[Any, ...]],
) -> list[tuple[Shape, Any]]:
    """Compute the first block, and ask what each sink would store of it; runs in a worker."""
    block = receive(fn)(*receive(items))
    return [ask(block if before is None else before(block)) for before, ask in receive(probes)]


def _walk(fold: AnyFold, sinks: Sequence[Sink]) -> Walk:
    shelves = [sink.shelf for sink in sinks]
    known = tuple(shelf for shelf in shelves if shelf is not None)
    return Walk(known if len(known) == len(shelves) else (), fold.needs_blocks)


def _check_resuming(sinks: Sequence[Sink]) -> bool:
    """Tell whether a pass resumes, and refuse one that cannot go on as a whole."""
    resumes = any(sink.resumes for sink in sinks)
    if resumes and not all(sink.resumes for sink in sinks):
        raise NotResumableError(
            "a pass goes on as a whole, and not all of its sinks have resume=True; give it to all "
            "of them, each with its run_id"
        )
    if any(sink.resumes and sink.is_behind_a_fold for sink in sinks):
        raise NotResumableError(
            "a sink inside of nest() stores the results of rows, of which only the fold knows how "
            "they are made; leave out resume=True, or store the blocks themselves"
        )
    return resumes


def _find_calls(
    blocks: Iterable[Any], axes: int, *, resumes: bool, spreads: bool
) -> Callable[[], Iterator[Sequence[Any]]] | None:
    """Return what makes rows of calls, if blocks can be computed one by one."""
    factory = getattr(blocks, "generator_factory", None)
    if factory is not None and is_map_backed(without_progress(factory), axes):
        hint, _ = counts_of(blocks)
        return lambda: rows_of_calls(factory, axes, hint) or iter(())
    if resumes:
        raise NotResumableError(
            "only a sequence that can skip blocks can be resumed; build it with "
            "LazyChunkSequence.from_map or NestedLazyChunkSequence.from_product"
        )
    if spreads:
        raise NotSpreadableError(
            "only the blocks of a sequence that can skip can be computed by an executor's "
            "workers; build it with LazyChunkSequence.from_map or "
            "NestedLazyChunkSequence.from_product"
        )
    return None


def _count_blocks(blocks: Any, axes: int) -> Shape:
    """Count the blocks along each block axis, by their calls; none is computed."""
    lengths = [
        len(row) for row in rows_of_calls(without_progress(blocks.generator_factory), axes) or ()
    ]
    return (len(lengths), max(lengths, default=0))[:axes]
