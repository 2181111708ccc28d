"""Runners: every task is done once, a bounded number at a time, and nothing is left under way."""

import os
import threading
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lazychunks import NotSpreadableError
from lazychunks.layout.parts import AnyPart, Part
from lazychunks.runs.runners import TASKS_EACH, Task, Workers
from lazychunks.runs.shipping import Sent, Shipped, receive
from lazychunks.runs.walk import PartWork, Walk
from tests.executors import Shuffling, processes
from tests.test_walk import Joining

TIMEOUT = 60
"""Seconds after which an event that does not come is a failure."""


@contextmanager
def threads(count: int = 2) -> Generator[Executor]:
    with ThreadPoolExecutor(count) as executor:
        yield executor


def doubled(item: int) -> int:
    return 2 * item


def failing_at(wrong: int, item: int) -> int:
    if item == wrong:
        raise ZeroDivisionError(item)
    return item


def dying(item: int) -> int:
    if item == 3:
        os._exit(9)
    return item


def tasks_of(
    workers: Workers, fn: Callable[[int], int], count: int, waits: frozenset[int] = frozenset()
) -> Iterator[Task | None]:
    """Yield a task for each of some numbers, and None before some of them."""
    sent = workers.send(fn, "the function")
    work = workers.send(PartWork(Joining(), Walk((), needs_blocks=True)), "the work")
    for number in range(count):
        if number in waits:
            yield None
        part: AnyPart = Part(number, (number, 0), (((number,),),), (False, True), 1)
        yield Task(sent, work, part, frozenset())


def results(workers: Workers, tasks: Iterator[Task | None]) -> list[tuple[int, Any]]:
    with closing(workers.each(tasks)) as done:
        return [(part.number, state) for part, state in done]


@pytest.mark.parametrize("make", [threads, Shuffling, processes])
@pytest.mark.parametrize("bound", [None, 1, 3])
def test_every_task_is_done_once(make: Callable[[], Any], bound: int | None) -> None:
    with make() as executor:
        workers = Workers(executor, bound)
        found = results(workers, tasks_of(workers, doubled, 20, frozenset({0, 7, 8, 19})))
    assert sorted(found) == [(number, [2 * number]) for number in range(20)]


@given(
    st.integers(0, 20),
    st.integers(1, 5),
    st.frozensets(st.integers(0, 20), max_size=3),
    st.integers(0, 9),
)
def test_no_more_tasks_are_under_way_than_allowed(
    count: int, bound: int, waits: frozenset[int], seed: int
) -> None:
    with Shuffling(seed) as executor:
        workers = Workers(executor, bound)
        handed_out: set[int] = set()
        drawn: list[int] = []

        def watched() -> Iterator[Task | None]:
            before = 0
            for task in tasks_of(workers, doubled, count, waits):
                if task is None:
                    before = len(handed_out)
                else:
                    number = task.part.number
                    if number in waits and before < len(drawn):
                        assert len(handed_out) > before, "one more has ended"
                    drawn.append(number)
                assert len(drawn) - len(handed_out) <= bound + 1, "drawn as there is room"
                yield task

        with closing(workers.each(watched())) as done:
            for part, state in done:
                assert state == [2 * part.number]
                handed_out.add(part.number)
        assert handed_out == set(range(count))
        assert executor.most <= bound


def test_it_can_wait_until_all_have_ended() -> None:
    with Shuffling() as executor:
        workers = Workers(executor, 4)
        handed_out: set[int] = set()

        def watched() -> Iterator[Task | None]:
            for task in tasks_of(workers, doubled, 9):
                if task is not None and task.part.number == 6:
                    while len(handed_out) < 6:
                        yield None
                yield task

        for part, _ in workers.each(watched()):
            assert part.number < 6 or len(handed_out) >= 6
            handed_out.add(part.number)
        assert len(handed_out) == 9


@dataclass
class Slow:
    """Work that is under way until it is told to end."""

    go_on: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)
    began: list[int] = field(default_factory=list[int])
    ended: list[int] = field(default_factory=list[int])

    def __call__(self, item: int) -> int:
        with self.lock:
            self.began.append(item)
        if item:
            assert self.go_on.wait(TIMEOUT)
        with self.lock:
            self.ended.append(item)
        return item

    def release_late(self) -> None:
        """Let it end in a while, by when nobody would wait for it who does not have to."""
        threading.Timer(0.05, self.go_on.set).start()


class EndsEarlyError(Exception):
    """What somebody raises who has enough."""


@pytest.mark.parametrize("end", ["closed", "error in the body", "error in the tasks"])
def test_nothing_is_under_way_after_the_end(end: str) -> None:
    slow = Slow()

    def failing(workers: Workers) -> Iterator[Task | None]:
        yield from tasks_of(workers, slow, 3)
        slow.release_late()
        raise EndsEarlyError

    def run(workers: Workers) -> None:
        if end == "error in the tasks":
            results(workers, failing(workers))
        with closing(workers.each(tasks_of(workers, slow, 20))) as done:
            assert next(done)[0].number == 0
            slow.release_late()
            if end == "error in the body":
                raise EndsEarlyError

    with ThreadPoolExecutor(2) as executor:
        try:
            run(Workers(executor, 4))
        except EndsEarlyError:
            assert end != "closed"
        assert sorted(slow.ended) == sorted(slow.began)
        assert len(slow.began) < 10, "those that had not begun were cancelled"


@pytest.mark.parametrize("make", [threads, Shuffling, processes])
def test_an_error_of_a_task_is_raised_as_itself_and_ends_the_rest(make: Callable[[], Any]) -> None:
    with make() as executor:
        workers = Workers(executor, 2)
        with pytest.raises(ZeroDivisionError, match="5"):
            results(workers, tasks_of(workers, partial(failing_at, 5), 1000))
        assert results(workers, tasks_of(workers, doubled, 1)) == [(0, [0])], "it is still of use"


def test_a_worker_that_dies_is_told() -> None:
    with processes() as executor:
        workers = Workers(executor, 2)
        with pytest.raises(BrokenProcessPool):
            results(workers, tasks_of(workers, dying, 1000))


def test_a_task_that_is_refused_ends_the_rest() -> None:
    """As by an executor that somebody else shuts down."""
    slow = Slow()

    def shutting_down(workers: Workers) -> Iterator[Task | None]:
        for number, task in enumerate(tasks_of(workers, slow, 20)):
            if number == 3:
                slow.release_late()
                workers.executor.shutdown(wait=False)
            yield task

    with ThreadPoolExecutor(2) as executor:
        workers = Workers(executor, 9)
        with pytest.raises(RuntimeError, match="shutdown"):
            results(workers, shutting_down(workers))
        assert sorted(slow.ended) == sorted(slow.began)


# One answer


@pytest.mark.parametrize("make", [threads, Shuffling, processes])
def test_one_member_is_asked(make: Callable[[], Any]) -> None:
    with make() as executor:
        workers = Workers(executor, None)
        assert workers.ask(doubled, 4) == 8
        with pytest.raises(ZeroDivisionError):
            workers.ask(failing_at, 4, 4)
    with threads() as executor:
        ours = Workers(executor, None)
        assert ours.ask(os.getpid) == os.getpid()


# What all tasks share


def test_what_threads_share_is_the_value_itself() -> None:
    with threads() as executor:
        workers = Workers(executor, None)
        value = [threading.Lock()]
        assert workers.send(value, "a lock") is value
        assert receive(workers.send(value, "a lock")) is value


def test_what_processes_share_is_pickled_once_and_unpickled_once() -> None:
    with Shuffling() as executor:
        sent: Sent[list[int]] = Workers(executor, None).send([1, 2], "a list")
    assert isinstance(sent, Shipped)
    received: list[list[int]] = [receive(sent), receive(sent)]
    assert received == [[1, 2], [1, 2]]
    assert received[0] is received[1]


def test_what_cannot_be_sent_is_named() -> None:
    with (
        Shuffling() as executor,
        pytest.raises(NotSpreadableError, match="the lock cannot be sent"),
    ):
        Workers(executor, None).send(threading.Lock(), "the lock")


# Who works


def test_workers_are_counted() -> None:
    with threads(3) as executor:
        assert Workers(executor, None).workers == 3
        assert Workers(executor, None).shares_memory
    with processes(1) as executor:
        assert Workers(executor, None).workers == 1
        assert not Workers(executor, None).shares_memory
    with Shuffling() as executor:
        assert Workers(executor, None).workers == (os.cpu_count() or 1), "nobody says"


def test_by_default_each_worker_has_a_task_that_waits_for_it() -> None:
    slow, given = Slow(), list[int]()

    def watched(workers: Workers) -> Iterator[Task | None]:
        for number, task in enumerate(tasks_of(workers, slow, 20)):
            given.append(number)
            if number == 3 * TASKS_EACH + 1:  # the first of them ends at once
                assert slow.ended == [0]
                slow.release_late()
            yield task
            if number > 3 * TASKS_EACH:
                assert slow.go_on.is_set(), "no more are given until some have ended"

    with ThreadPoolExecutor(3) as executor:
        workers = Workers(executor, None)
        assert len(results(workers, watched(workers))) == 20
