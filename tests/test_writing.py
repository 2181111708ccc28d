"""Background writing: bounded, drained, and no failure is lost. Events only, no clock."""

from collections.abc import Callable, Iterator
from contextlib import closing
from queue import Queue
from threading import Event, Lock, Thread, current_thread, main_thread
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lazychunks.storage.assembly import Filled
from lazychunks.storage.chunks.background import BackgroundWriter

PATIENCE = 30.0
"""Seconds after which a test has failed; none waits that long otherwise."""


class DiskFullError(OSError):
    """What a write raises."""


def filled(writer: BackgroundWriter, number: int) -> Filled:
    buffer = writer.allocate()
    buffer[...] = number
    return Filled((slice(number, number + 1),), buffer)


def writing(
    write: Callable[[Filled], None], max_in_flight: int = 2, *, recycle: bool = True
) -> BackgroundWriter:
    return BackgroundWriter(write, (1,), np.dtype("i8"), max_in_flight, recycle=recycle)


class Gate:
    """A write function that stops in each write until it is let through."""

    def __init__(self) -> None:
        self.entered: Queue[int] = Queue()
        self.open = Event()
        self.done: list[int] = []
        self.inside = 0
        self.most_inside = 0
        self._lock = Lock()

    def __call__(self, one: Filled) -> None:
        with self._lock:
            self.inside += 1
            self.most_inside = max(self.most_inside, self.inside)
        self.entered.put(int(one.data[0]))
        assert self.open.wait(PATIENCE)
        with self._lock:
            self.inside -= 1
            self.done.append(int(one.data[0]))


@pytest.fixture
def gate() -> Iterator[Gate]:
    made = Gate()
    yield made
    made.open.set()


@given(st.integers(0, 20), st.integers(1, 4), st.booleans())
def test_all_is_written_once(count: int, max_in_flight: int, recycle: bool) -> None:
    seen: list[int] = []
    with closing(writing(lambda one: seen.append(int(one.data[0])), max_in_flight)) as writer:
        for number in range(count):
            writer.submit(filled(writer, number))
        writer.drain()
        assert sorted(seen) == list(range(count))
    with closing(writing(lambda _: None, max_in_flight, recycle=recycle)) as writer:
        writer.drain()


def test_writes_run_in_other_threads() -> None:
    threads: list[bool] = []
    with closing(writing(lambda _: threads.append(current_thread() is main_thread()))) as writer:
        writer.submit(filled(writer, 0))
        writer.drain()
    assert threads == [False]


@pytest.mark.parametrize("max_in_flight", [1, 2, 3])
def test_one_more_buffer_waits_for_its_turn_and_the_next_is_not_given(
    gate: Gate, max_in_flight: int
) -> None:
    """The producer goes on with the next block while all places are taken, but no further."""
    writer = writing(gate, max_in_flight)
    for number in range(max_in_flight + 1):
        writer.submit(filled(writer, number))
    for _ in range(max_in_flight):
        gate.entered.get(timeout=PATIENCE)
    allocated = Event()

    def allocate() -> None:
        writer.submit(filled(writer, 99))
        allocated.set()

    thread = Thread(target=allocate)
    thread.start()
    assert gate.entered.empty(), "no write begins while all places are taken"
    assert not allocated.is_set()
    gate.open.set()
    assert allocated.wait(PATIENCE)
    thread.join(PATIENCE)
    writer.drain()
    writer.close()
    assert gate.most_inside == max_in_flight
    assert sorted(gate.done) == [*range(max_in_flight + 1), 99]


@pytest.mark.parametrize("max_in_flight", [1, 2, 4])
def test_buffers_are_recycled(max_in_flight: int) -> None:
    buffers: dict[int, np.ndarray[tuple[int, ...], np.dtype[np.int64]]] = {}
    with closing(writing(lambda _: None, max_in_flight)) as writer:
        for number in range(40):
            one = filled(writer, number)
            buffers[id(one.buffer)] = one.buffer
            writer.submit(one)
        writer.drain()
    assert len(buffers) <= max_in_flight + 1


def test_buffers_are_new_where_a_store_keeps_them() -> None:
    kept: list[Filled] = []
    with closing(writing(kept.append, recycle=False)) as writer:
        for number in range(10):
            writer.submit(filled(writer, number))
        writer.drain()
    assert sorted(int(one.data[0]) for one in kept) == list(range(10))


def test_a_buffer_is_not_reused_while_it_is_written(gate: Gate) -> None:
    writer = writing(gate, 2)
    first = filled(writer, 1)
    writer.submit(first)
    gate.entered.get(timeout=PATIENCE)
    assert not np.shares_memory(writer.allocate(), first.buffer)
    gate.open.set()
    writer.close()
    assert gate.done == [1]


def test_a_failed_write_is_raised_when_draining() -> None:
    def failing(one: Filled) -> None:
        raise DiskFullError(f"chunk {one.data[0]}")

    writer = writing(failing)
    writer.submit(filled(writer, 5))
    with pytest.raises(DiskFullError, match="chunk 5"):
        writer.drain()
    writer.close()


def test_a_failed_write_is_raised_when_allocating() -> None:
    submitted = Event()

    def failing(one: Filled) -> None:
        assert submitted.wait(PATIENCE)
        raise DiskFullError(f"chunk {one.data[0]}")

    with closing(writing(failing, 1)) as writer:
        writer.submit(filled(writer, 5))
        writer.submit(filled(writer, 6))
        submitted.set()
        with pytest.raises(DiskFullError, match="chunk 5"):
            writer.allocate()


def test_a_failed_write_is_raised_when_submitting() -> None:
    ended = Event()

    def failing(one: Filled) -> None:
        ended.set()
        raise DiskFullError(f"chunk {one.data[0]}")

    def submit_on(writer: BackgroundWriter) -> None:
        while True:  # the failure is known a moment after it has happened
            writer.submit(Filled((slice(0, 1),), np.zeros(1, "i8")))

    with closing(writing(failing)) as writer:
        writer.submit(filled(writer, 5))
        assert ended.wait(PATIENCE)
        with pytest.raises(DiskFullError, match="chunk 5"):
            submit_on(writer)


def test_closing_waits_for_the_writes_under_way(gate: Gate) -> None:
    writer = writing(gate, 2)
    for number in range(2):
        writer.submit(filled(writer, number))
    for _ in range(2):
        gate.entered.get(timeout=PATIENCE)
    closing_waits(writer, gate, written=2)
    assert gate.inside == 0


def interrupted(does: Callable[[Any], None], gate: Gate) -> Callable[[Any], None]:
    """Do something, and be interrupted before that can be noted."""

    def call(given: Any) -> None:
        does(given)
        gate.entered.get(timeout=PATIENCE)
        raise KeyboardInterrupt

    return call


def closing_waits(
    writer: BackgroundWriter, gate: Gate, *, drop: bool = True, written: int = 1
) -> None:
    """Close it while a write is under way."""
    closed = Event()

    def close() -> None:
        writer.close(drop=drop)
        closed.set()

    thread = Thread(target=close)
    thread.start()
    assert not closed.wait(0.1)
    gate.open.set()
    assert closed.wait(PATIENCE)
    assert sorted(gate.done) == [*range(written)]
    thread.join(PATIENCE)


@pytest.mark.parametrize("drop", [True, False])
def test_closing_waits_although_a_start_was_interrupted(
    drop: bool, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = writing(gate)
    writer.submit(filled(writer, 0))
    with monkeypatch.context() as patched:
        patched.setattr(Thread, "start", interrupted(Thread.start, gate))
        with pytest.raises(KeyboardInterrupt):
            writer.submit(filled(writer, 1))
    closing_waits(writer, gate, drop=drop)


@pytest.mark.parametrize("drop", [True, False])
def test_closing_waits_for_a_write_that_was_interrupted_in_being_given(
    drop: bool, gate: Gate
) -> None:
    writer = writing(gate, 1)
    writer.submit(filled(writer, 0))
    inner: Any = writer
    todo = inner._todo

    class Giving:
        put = staticmethod(interrupted(todo.put, gate))

    inner._todo = Giving()
    with pytest.raises(KeyboardInterrupt):
        writer.submit(filled(writer, 1))
    inner._todo = todo
    closing_waits(writer, gate, drop=drop, written=1 if drop else 2)


def test_a_thread_that_comes_late_writes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    late: list[Thread] = []
    written: list[Filled] = []

    def interrupted_before(thread: Thread) -> None:
        late.append(thread)
        raise KeyboardInterrupt

    writer = writing(written.append)
    start = Thread.start
    with monkeypatch.context() as patched:
        patched.setattr(Thread, "start", interrupted_before)
        with pytest.raises(KeyboardInterrupt):
            writer.submit(filled(writer, 0))
    inner: Any = writer
    inner._todo.put(filled(writer, 0))
    writer.close(drop=False)
    start(late[0])
    late[0].join(PATIENCE)
    assert not late[0].is_alive()
    assert written == []


def test_closing_raises_nothing_after_a_failure() -> None:
    def failing(one: Filled) -> None:
        raise DiskFullError

    writer = writing(failing)
    writer.submit(filled(writer, 0))
    writer.close()


def test_nothing_is_written_after_closing() -> None:
    seen: list[Filled] = []
    writer = writing(seen.append)
    writer.close()
    writer.close()
    with pytest.raises(RuntimeError):
        writer.submit(filled(writer, 0))
    assert seen == []


def test_no_thread_is_left() -> None:
    threads: list[Thread] = []
    writer = writing(lambda _: threads.append(current_thread()))
    writer.submit(filled(writer, 0))
    writer.drain()
    writer.close()
    assert threads[0].name == "lazychunks-write"
    assert not threads[0].is_alive()


def test_a_thread_ends_with_a_writer_that_nobody_closes() -> None:
    threads: list[Thread] = []
    writer = writing(lambda _: threads.append(current_thread()))
    writer.submit(filled(writer, 0))
    writer.drain()
    del writer
    threads[0].join(PATIENCE)
    assert not threads[0].is_alive()
