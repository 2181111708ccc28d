"""One pass of a fold, whoever computes the blocks, and however often it is started.

Here, the blocks are stepped one after the other. Elsewhere, they are cut into parts, whose states
come back in any order and are absorbed in the order of the blocks, so that the result is the same.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from functools import partial
from itertools import chain
from typing import Any, Protocol, TypeVar

from lazychunks.blocks.factories import (
    counts_of,
    how_to_skip,
    is_map_backed,
    rows_of_calls,
    without_progress,
)
from lazychunks.blocks.iterate import closing_generator, refuse_array
from lazychunks.errors import NotResumableError, NotSpreadableError
from lazychunks.layout.checks import check_row
from lazychunks.layout.parts import AnyPart, split, whole
from lazychunks.layout.shapes import Shape
from lazychunks.runs.passes import ALONE, Counts, PartFold, Probe, Setup, Sink, State
from lazychunks.runs.runners import Runner, Task
from lazychunks.runs.shipping import Sent, receive, unpack
from lazychunks.runs.walk import PartWork, Walk, strip_functions

T = TypeVar("T")

PARTS_EACH = 4
"""Number of parts for each worker, at least, where there are enough blocks."""

MOST_BLOCKS = 32
"""Number of blocks in a part, at most, where nothing but folds sees to them."""

WAITING_EACH = 8
"""Number of states for each worker, at most, that wait for the state of an earlier part."""


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
    calls = find_calls(blocks, axes, resumes=resumes, spreads=runner is not None)
    peers = ALONE if runner is None else runner.peers
    if peers is not ALONE and any(sink.is_behind_a_fold for sink in running.sinks):
        raise NotSpreadableError(
            "ranks cannot store the results of nest(), which each of them has; return them from "
            "the pass, and let rank 0 store them"
        )
    for sink in running.sinks:
        if sink.is_behind_a_fold:
            sink.setup = Setup(can_skip=False, peers=peers)
        else:
            sink.setup = Setup(
                can_skip=calls is not None,
                needs_blocks=fold.needs_blocks,
                workers=None if runner is None else runner.workers,
                shares_memory=runner is None or runner.shares_memory,
                peers=peers,
            )
    with running, peers.watch():
        is_finished = len(sinks) > 0 and all(sink.is_finished for sink in sinks)
        if calls is not None and (resumes or is_finished):
            for sink in sinks:
                sink.check_counts(partial(_count_blocks, blocks, axes))
        if is_finished and not fold.needs_blocks:
            return running.finish()
        if calls is not None and runner is not None:
            # Closed here: a traceback would keep alive what makes the items, such as processes.
            with closing(calls()) as rows:
                _Division(fold, running, sinks, runner, axes, counts).run(rows)
        elif calls is not None and any(sink.shelf for sink in sinks):
            with closing(calls()) as rows:
                walk = Walk(tuple(sinks), fold.needs_blocks)
                walk.go_through(whole(rows, axes), running, _find_unverified(sinks))
        else:
            step_through(running, blocks, axes)
        return running.finish()


def step_through(running: Any, blocks: Iterable[Any], axes: int) -> None:
    """Step a pass with blocks, or with rows of blocks."""
    step = running.step
    if axes == 1:
        for block in blocks:
            step(block)
            del block  # otherwise it would live on while the next one is computed
        return
    for row in blocks:
        refuse_array(row, "a row")
        with closing_generator(row):
            for block in row:
                step(block)
                del block
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
        self._unverified: set[int] = set(_find_unverified(sinks))
        """Numbers of the sinks of which no stored block has been given to a worker to compare."""
        self._waiting: dict[int, tuple[AnyPart, State]] = {}
        """States that came before those of parts that lie before theirs."""
        self._next = 0
        """Number of the part that is absorbed next."""

    def run(self, rows: Iterator[Sequence[Any]]) -> None:
        """Have all parts gone through, and absorb their states."""
        head = list(_take_until_block(rows))
        if not (head and head[-1]):
            self._step_empty_rows(len(head))
            return
        if self._sinks and self._axes == 2:
            check_row(0, len(head[0]), len(head[0]))
        call = head[-1][0]
        fn = self._runner.send(call.func, "the function that computes blocks")
        self._begin(fn, call.args)
        plans = [plan for sink in self._sinks if not sink.is_finished for plan in sink.plans]
        blocks = 1
        if not (plans or self._fold.for_parts(self._running).sends_blocks):
            blocks = blocks_each(self._counts, self._runner.workers)
        parts = split(chain(head, rows), plans, self._axes, blocks=blocks)
        with closing(self._runner.each(self._tasks(parts, fn))) as states:
            for part, state in states:
                self._absorb(part, state)

    def _step_empty_rows(self, number: int) -> None:
        """Close rows without blocks, as the pass would if they were gone through here."""
        for _ in range(number):
            self._running.end_row()

    def _begin(self, fn: Sent[Callable[..., Any]], items: tuple[Any, ...]) -> None:
        """Start the sinks that have not begun, with the first block."""
        fresh = [sink for sink in self._sinks if not (sink.plans or sink.is_finished)]
        if not fresh:
            return
        send = self._runner.send
        # What cannot be sent is refused before the first block is computed, and by its name.
        for sink in fresh:
            send(sink.before, "a function given to contramap")
            send(sink.probe(), "the converter")
        send(self._fold.for_parts(self._running), "the fold")
        probes = tuple((sink.before, sink.probe()) for sink in fresh)
        sent = send(probes, "the converter"), send(items, "an item")
        for sink, found in zip(fresh, self._runner.ask(probe, fn, *sent), strict=True):
            sink.begin(found)

    def _tasks(
        self, parts: Iterator[AnyPart], fn: Sent[Callable[..., Any]]
    ) -> Iterator[Task | None]:
        """Yield what is to be done, as somebody has time for it."""
        work, sent = self._make_work()
        for part in map(strip_functions, parts):
            while len(self._waiting) > WAITING_EACH * self._runner.workers:
                yield None  # if one part takes long, the states of others must not fill the memory
            found, is_all_stored = set[int](), False
            if not work.walk.is_empty:
                found, is_all_stored = work.walk.look_at(part)
            doubted = frozenset(self._unverified & found)
            if is_all_stored and not doubted and not self._fold.needs_blocks:
                self._absorb(part, work(_compute_nothing, part))
                continue
            self._unverified -= doubted
            yield Task(fn, sent, part, doubted)
            if any(sink.is_open_at(part) for sink in self._sinks):
                # Others must not write before it is known where the array ends.
                while self._next <= part.number:
                    yield None
                work, sent = self._make_work()

    def _make_work(self) -> tuple[PartWork[Any], Sent[PartWork[Any]]]:
        """Return what workers do with each part, by what is known now; and the same to be sent."""
        walk = Walk(tuple(sink.shelf for sink in self._sinks), self._fold.needs_blocks)
        work = PartWork(self._fold.for_parts(self._running), walk)
        return work, self._runner.send(work, "the fold, or the store of its sink,")

    def _absorb(self, part: AnyPart, state: State) -> None:
        """Absorb states in the order of the blocks; one that comes too early waits."""
        self._waiting[part.number] = part, state
        while self._next in self._waiting:
            part, state = self._waiting.pop(self._next)
            self._running.absorb(state, part)
            self._next += 1


def find_calls(
    blocks: Iterable[Any], axes: int, *, resumes: bool = False, spreads: bool = False
) -> Callable[[], Generator[Sequence[Any]]] | None:
    """Return what makes rows of calls, or None if blocks cannot be computed one by one.

    Raises
    ------
    NotResumableError, NotSpreadableError
        If they cannot, although the pass ``resumes``, or ``spreads`` over workers.
    """
    factory = getattr(blocks, "generator_factory", None)
    if factory is not None and is_map_backed(without_progress(factory), axes):
        hint, _ = counts_of(blocks)
        return lambda: _list_rows(factory, axes, hint)
    if resumes:
        raise NotResumableError(
            "only a sequence that can skip blocks can be resumed; " + how_to_skip(factory)
        )
    if spreads:
        raise NotSpreadableError(
            "only the blocks of a sequence that can skip can be computed by an executor's "
            f"workers, or by ranks; {how_to_skip(factory)}"
        )
    return None


def blocks_each(counts: Counts, workers: int) -> int:
    """Return how many blocks a part should have at least, where no unit of an array says it.

    >>> blocks_each((1000,), workers=2), blocks_each((5, 6), workers=2), blocks_each((None,), 2)
    (32, 3, 1)
    """
    total = 1
    for count in counts:
        if count is None:
            return 1
        total *= count
    return max(min(total // (PARTS_EACH * workers), MOST_BLOCKS), 1)


def probe(
    fn: Sent[Callable[..., Any]],
    probes: Sent[tuple[tuple[Callable[[Any], Any] | None, Probe], ...]],
    items: Sent[tuple[Any, ...]],
) -> list[Any]:
    """Compute the first block, and ask what each sink has to know of it; runs in a worker."""
    block = receive(fn)(*unpack(items))
    return [ask(block if before is None else before(block)) for before, ask in unpack(probes)]


def _compute_nothing(*_: object) -> Any:
    raise AssertionError  # of a part whose blocks are all stored, and are not needed


def _check_resuming(sinks: Sequence[Sink]) -> bool:
    """Tell whether a pass resumes, and refuse one that cannot go on as a whole."""
    resumes = any(sink.resumes for sink in sinks)
    if resumes and not all(sink.resumes for sink in sinks):
        raise NotResumableError(
            "a pass goes on as a whole, and not all of its sinks have resume=True; give it to all "
            "of them, each with its run_id"
        )
    return resumes


def _find_unverified(sinks: Sequence[Sink]) -> Collection[int]:
    """Return the numbers of the sinks whose stored blocks have to be compared, one of each.

    That the name of a finished run stands for the same blocks is for its owner to say.
    """
    return () if all(sink.is_finished for sink in sinks) else range(len(sinks))


def _take_until_block(rows: Iterable[Sequence[T]]) -> Iterator[Sequence[T]]:
    """Yield rows up to the first one that has a block."""
    for row in rows:
        yield row
        if row:
            return


def _list_rows(
    factory: Callable[[], Iterable[Any]], axes: int, hint: int | None
) -> Generator[Sequence[Any]]:
    yield from rows_of_calls(factory, axes, hint) or ()


def _count_blocks(blocks: Any, axes: int) -> Shape:
    """Count the blocks along each block axis, by their calls; none is computed."""
    lengths = [
        len(row) for row in rows_of_calls(without_progress(blocks.generator_factory), axes) or ()
    ]
    return (len(lengths), max(lengths, default=0))[:axes]
