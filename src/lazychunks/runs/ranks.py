"""Parts of a pass among ranks: each rank drives the same pass and goes through its share of parts.

All ranks see the same parts in the same order. They take them in turn, and exchange the states
after the same parts, so that each of them absorbs all states in the order of the blocks and comes
to the same result. Blocks do not travel, unless a fold cannot do without.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import AbstractContextManager, ExitStack, closing, nullcontext
from dataclasses import replace
from types import TracebackType
from typing import Any, Self, TypeVar

from lazychunks.errors import LazyChunksError, NotSpreadableError
from lazychunks.layout.checks import check_positive
from lazychunks.layout.parts import AnyPart, split
from lazychunks.runs.describe import list_facts
from lazychunks.runs.devices import Luggage
from lazychunks.runs.exchange import Exchange, Ranks, compare
from lazychunks.runs.passes import Peers, Scope, State
from lazychunks.runs.runners import Ended, Provider, Task, Workers
from lazychunks.runs.shipping import Sent, receive

T = TypeVar("T")

MOST_EACH = 16
"""Number of parts that a rank goes through between two exchanges, at most."""

MOST_BYTES = 2**26
"""Bytes of the states in one exchange, about, where there is more than one part for each rank."""


class RankRunner:
    """The share of one rank.

    A context manager around the whole call: an error inside is told to the other ranks.

    Parameters
    ----------
    ranks
        Who makes the call.
    max_in_flight
        Number of parts between two exchanges, at most, among all ranks.

    Raises
    ------
    TypeError, ValueError
        If they do not look like ranks, or the bound is not a positive integer.
    """

    shares_memory: bool = False

    def __init__(self, ranks: Ranks, max_in_flight: int | None) -> None:
        self._exchange = Exchange(ranks)
        self.workers: int = self._exchange.size
        self.leads: bool = self._exchange.rank == 0
        self.peers: Peers = self
        self._most_each = MOST_EACH
        if max_in_flight is not None:
            most = check_positive(max_in_flight, "max_in_flight")
            self._most_each = max(1, min(most // self.workers, MOST_EACH))
        self._each = 1
        """Number of parts for each rank until the next exchange; the first one tells their size."""
        self._luggage = Luggage()
        self._given = 0
        """Number of parts so far."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
        /,
    ) -> None:
        self._exchange.leave(error)

    def agree(self, **arguments: object) -> None:
        """Refuse to go on if the arguments of the call differ between ranks.

        Raises
        ------
        RanksDifferError
            If they do.
        """
        arguments["max_in_flight"] = self._most_each  # decides when there is an exchange
        facts = {key: text for one in arguments.items() for key, text in list_facts(*one)}
        compare(self._exchange.share("the arguments", facts))

    # --- as the peers of a pass ----------------------------------------------------------------

    def once(self, fn: Callable[[], T], /) -> T:
        """Have rank 0 call a function, and return its result on all ranks."""
        answer = b""
        if self.leads:
            try:
                answer = pickle.dumps(fn())
            except BaseException as error:
                # All of them asked for it, so a refusal is an answer to all of them.
                self._exchange.tell(error, raised_by_all=isinstance(error, LazyChunksError))
                raise
        value: T = pickle.loads(self._exchange.share_bytes("what rank 0 does", answer)[0])  # noqa: S301
        return value

    def meet(self) -> None:
        """Wait for all ranks."""
        self._exchange.share("a meeting", None)

    def watch(self) -> AbstractContextManager[None]:
        """Tell the other ranks if the ``with`` block fails here."""
        return self._exchange.watch()

    # --- as a runner ---------------------------------------------------------------------------

    def ask(self, fn: Callable[..., T], /, *args: Any) -> T:
        """Have rank 0 call a function, and return its result on all ranks."""
        return self.once(lambda: fn(*args))

    def send(self, value: T, what: str) -> Sent[T]:  # noqa: ARG002  # as other runners
        """Return the value: each rank has its own."""
        return value

    def each(self, tasks: Iterable[Task | None]) -> Generator[tuple[AnyPart, State]]:
        """Go through this rank's share of the parts, and yield the states of all, in order."""
        parts: list[AnyPart] = []
        """Those since the last exchange, without their items."""
        with _Share() as share:
            for task in tasks:
                if task is not None:
                    # Counted here: where a start goes on, parts that are stored are no tasks.
                    if self._given % self.workers == self._exchange.rank:
                        share.do(task)
                    self._given += 1
                    parts.append(replace(task.part, rows=()))
                    if len(parts) < self._each * self.workers:
                        continue
                if parts:
                    yield from self._share(parts, share.take_states())
                    parts = []
            if parts:
                yield from self._share(parts, share.take_states())

    def gather_blocks(
        self, calls: Callable[[], Generator[Sequence[Any]]], axes: int
    ) -> Generator[Any]:
        """Yield all blocks in order, or rows of blocks, each computed by one rank."""
        blocks = self._gather(calls, axes)
        if axes == 1:
            for block, _ in blocks:
                yield from block
            return
        for first in blocks:
            row = _go_through_row(first, blocks)
            yield row
            for _ in row:  # what a consumer leaves of a row belongs to no other
                pass

    def _gather(
        self, calls: Callable[[], Generator[Sequence[Any]]], axes: int
    ) -> Iterator[tuple[Sequence[Any], bool]]:
        """Yield the blocks of parts of at most one block, and whether each ends a row."""
        # Closed here: a traceback would keep alive what makes the items, such as processes.
        with closing(calls()) as rows:
            tasks = (Task(_call, _Blocks(), part, frozenset()) for part in split(rows, (), axes))
            for part, blocks in self.each(tasks):
                yield blocks, part.ends[1]

    def _share(self, parts: list[AnyPart], states: list[State]) -> Iterator[tuple[AnyPart, State]]:
        """Exchange states, and yield those of all ranks in the order of the parts."""
        last, first = parts[-1], self._given - len(parts)
        what = f"the states of {len(parts)} parts up to the one that begins with block {last.index}"
        gathered = self._exchange.share_bytes(what, self._pack(states))
        # Every rank has the same numbers, so that all choose the same.
        bytes_of_part = sum(map(len, gathered)) // len(parts) + 1
        fitting = MOST_BYTES // (bytes_of_part * self.workers)
        self._each = max(1, min(2 * self._each, self._most_each, fitting))
        # Its own states as well: a copy may lie in memory in another way, and add up differently.
        of_ranks = [iter(self._luggage.unpack(packed)) for packed in gathered]
        for number, part in enumerate(parts, start=first):
            yield part, next(of_ranks[number % self.workers])

    def _pack(self, states: list[State]) -> bytes:
        try:
            return self._luggage.pack(states)
        except Exception as error:
            raise NotSpreadableError(
                "a state of the fold cannot be sent to other ranks "
                f"({type(error).__name__}: {error}); define its class at the top level of a module"
            ) from error


def open_runner(
    executor: Executor | Provider | None, ranks: Ranks | None, max_in_flight: int | None
) -> AbstractContextManager[Workers | RankRunner | None]:
    """Return a context manager around a call, which gives the runner that was asked for.

    Raises
    ------
    TypeError
        If both kinds were asked for.
    """
    if ranks is None:
        return nullcontext(None if executor is None else Workers(executor, max_in_flight))
    if executor is not None:
        raise TypeError(
            "executor= and ranks= exclude each other: each rank computes its own share; leave out "
            "one of them"
        )
    return RankRunner(ranks, max_in_flight)


class _Share:
    """Goes through the parts of one rank; while one is computed, the one before is written."""

    def __init__(self) -> None:
        self._states: list[State] = []
        self._running: Ended | None = None
        """Of the last part, which may still be written."""
        self._stack = ExitStack()
        """Holds that pass open."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: Any) -> None:  # noqa: PYI036  # handed on as they are
        self._stack.__exit__(*error)

    def do(self, task: Task) -> None:
        """Go through a part, then wait for the one before."""
        opened = receive(task.work).open(receive(task.fn), task.part, task.verify)
        with ExitStack() as stack:
            running = stack.enter_context(opened)
            self._settle()
            self._stack = stack.pop_all()
        self._running = running

    def take_states(self) -> list[State]:
        """Return the states of the parts since this was called before."""
        self._settle()
        states, self._states = self._states, []
        return states

    def _settle(self) -> None:
        running, self._running = self._running, None
        if running is not None:
            self._states.append(running.state())
            self._stack.close()


class _Blocks(Scope):
    """The work that computes the blocks of a part, and the pass that has them for its state."""

    def __init__(self, blocks: Sequence[Any] = ()) -> None:
        self.blocks = blocks

    def open(self, fn: Callable[..., Any], part: AnyPart, verify: object, /) -> _Blocks:  # noqa: ARG002  # as of all work
        """Compute the blocks of a part."""
        return _Blocks([fn(call) for row in part.rows for call in row])

    def state(self) -> Sequence[Any]:
        """Return the blocks."""
        return self.blocks


def _call(call: Callable[[], T]) -> T:
    return call()


def _go_through_row(
    first: tuple[Sequence[T], bool], blocks: Iterator[tuple[Sequence[T], bool]]
) -> Iterator[T]:
    """Yield the blocks of a row."""
    row, is_last = first
    yield from row
    while not is_last:
        row, is_last = next(blocks)
        yield from row
