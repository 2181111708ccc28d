"""Background writing: bounded, drained, and no failure is lost. Events only, no clock."""

import math
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from queue import Queue
from threading import Event, Lock, Thread, current_thread, main_thread
from types import FrameType
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lazychunks.layout.shapes import region_at
from lazychunks.runs.interrupts import uninterrupted
from lazychunks.storage.chunks import background
from lazychunks.storage.chunks.background import BackgroundWriter
from lazychunks.storage.chunks.filled import Filled
from tests.strategies import shapes

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
def test_what_waits_for_its_turn_is_dropped_or_written(drop: bool, gate: Gate) -> None:
    writer = writing(gate, 1)
    for number in range(2):
        writer.submit(filled(writer, number))
    gate.entered.get(timeout=PATIENCE)
    closing_waits(writer, gate, drop=drop, written=1 if drop else 2)


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
    assert threads[0].name.startswith("lazychunks-write")
    assert not threads[0].is_alive()


def test_a_thread_ends_with_a_writer_that_nobody_closes() -> None:
    threads: list[Thread] = []
    writer = writing(lambda _: threads.append(current_thread()))
    writer.submit(filled(writer, 0))
    writer.drain()
    del writer
    threads[0].join(PATIENCE)
    assert not threads[0].is_alive()


# Interrupts: real signals, which may come at any line of the main thread.


@pytest.fixture(params=[signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def interrupt(request: pytest.FixtureRequest) -> Iterator[Callable[[], None]]:
    """Send a signal whose handler raises KeyboardInterrupt."""
    number: signal.Signals = request.param
    before = signal.signal(number, signal.default_int_handler)
    yield lambda: signal.raise_signal(number)
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(number)
    signal.signal(number, before)


def test_a_signal_is_held_until_the_end_of_the_block(interrupt: Callable[[], None]) -> None:
    done: list[str] = []

    def run() -> None:
        with uninterrupted():
            interrupt()
            done.append("the rest of the block")

    with pytest.raises(KeyboardInterrupt):
        run()
    assert done


def test_blocks_may_be_nested(interrupt: Callable[[], None]) -> None:
    done: list[str] = []

    def run() -> None:
        with uninterrupted():
            with uninterrupted():
                interrupt()
                done.append("the rest of the inner block")
            done.append("the rest of the outer block")

    with pytest.raises(KeyboardInterrupt):
        run()
    assert len(done) == 2


def test_an_error_within_the_block_is_the_context_of_the_interrupt(
    interrupt: Callable[[], None],
) -> None:
    def run() -> None:
        with uninterrupted():
            interrupt()
            raise DiskFullError

    with pytest.raises(KeyboardInterrupt) as caught:
        run()
    assert isinstance(caught.value.__context__, DiskFullError)


def test_a_signal_that_is_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    with uninterrupted():
        signal.raise_signal(signal.SIGINT)
    assert signal.signal(signal.SIGINT, before) is signal.SIG_IGN


def test_another_thread_leaves_handlers_alone() -> None:
    seen: list[object] = []

    def look() -> None:
        with uninterrupted():
            seen.append(signal.getsignal(signal.SIGINT))

    thread = Thread(target=look)
    thread.start()
    thread.join(PATIENCE)
    assert seen == [signal.getsignal(signal.SIGINT)]


def test_ctrl_c_ends_the_wait_for_a_write(gate: Gate) -> None:
    """Although the write does not end, and although signals are held while the pool is called."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    writer = writing(gate, 1)
    writer.submit(filled(writer, 0))
    gate.entered.get(timeout=PATIENCE)
    main = main_thread().ident or 0
    sender = Thread(target=signal.pthread_kill, args=(main, signal.SIGINT))

    def wait() -> None:
        sender.start()
        writer.drain()

    with pytest.raises(KeyboardInterrupt):
        wait()
    signal.signal(signal.SIGINT, before)
    sender.join(PATIENCE)
    closing_waits(writer, gate)


FRAGILE = tuple(
    module.__file__
    for module in map(
        sys.modules.__getitem__,
        (
            background.__name__,
            "concurrent.futures.thread",
            "concurrent.futures._base",
            "threading",
        ),
    )
)
"""Modules in whose lines an interrupt could break a pool."""


def interrupted_at(
    run: Callable[[], None], interrupt: Callable[[], None], place: int | None = None
) -> int:
    """Run with an interrupt at the n-th line of the modules above; return the number of lines."""
    count = 0

    def trace(frame: FrameType, event: str, _: object) -> Any:
        nonlocal count
        if frame.f_code.co_filename not in FRAGILE:
            return None
        if event == "line":
            count += 1
            if count == place:
                sys.settrace(None)
                interrupt()
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        run()
    finally:
        sys.settrace(before)
    return count


def run_interrupted(interrupt: Callable[[], None], place: int | None = None) -> tuple[int, bool]:
    """Fill and write three buffers; return the number of lines, and whether it was interrupted."""
    written: list[Filled] = []
    threads: list[Thread] = []

    def write(one: Filled) -> None:
        threads.append(current_thread())
        written.append(one)

    def run() -> None:
        writer = writing(write, 1)
        try:
            for number in range(3):
                writer.submit(filled(writer, number))
            writer.drain()
        finally:
            try:
                writer.close()
            except KeyboardInterrupt:
                writer.close()  # what a caller does that holds nothing back itself
                raise

    lines, is_interrupted = 0, False
    try:
        lines = interrupted_at(run, interrupt, place)
    except KeyboardInterrupt:
        is_interrupted = True
    count = len(written)
    for thread in threads:
        assert not thread.is_alive(), place
    assert len(written) == count
    return lines, is_interrupted


def test_a_writer_survives_an_interrupt_at_any_line(interrupt: Callable[[], None]) -> None:
    """Nothing hangs, no thread is left, nothing is written after closing, no signal is lost."""
    most = max(run_interrupted(interrupt)[0] for _ in range(3))
    assert most > 40
    missed = [place for place in range(1, most) if not run_interrupted(interrupt, place)[1]]
    assert len(missed) < most / 2, "how many lines there are is for the threads to say"


# A forked process has none of the threads.


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_process_writes_nothing(gate: Gate) -> None:
    writer = writing(gate, 2)
    writer.submit(filled(writer, 0))
    gate.entered.get(timeout=PATIENCE)
    child = os.fork()
    if child == 0:
        refused = 0
        for call in (
            lambda: writer.submit(Filled((slice(0, 1),), np.zeros(1, "i8"))),
            writer.allocate,
            writer.drain,
        ):
            try:
                call()
            except RuntimeError as error:
                refused += "was forked from" in str(error)
        writer.close()  # the writes under way are its parent's
        os._exit(refused)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 3
    closing_waits(writer, gate)


# Pieces of a buffer.


@given(st.data(), shapes(2, 12), st.tuples(st.integers(1, 5), st.integers(1, 5)))
def test_pieces_are_the_buffer_cut_at_the_boundaries_of_chunks(
    data: st.DataObject, shape: tuple[int, int], extents: tuple[int, int]
) -> None:
    starts = [data.draw(st.integers(0, 9)) for _ in shape]
    region = region_at(starts, shape)
    values = np.arange(math.prod(shape)).reshape(shape)
    array = np.full([span.stop for span in region], -1)
    cells: list[tuple[int, ...]] = []
    for piece in Filled(region, np.pad(values, 2)[2:, 2:]).pieces(extents):
        assert (array[piece.region] == -1).all(), "no element twice"
        array[piece.region] = piece.data
        for span, extent in zip(piece.region, extents, strict=True):
            assert span.start // extent == (span.stop - 1) // extent, "within one chunk"
        cells.append(tuple(s.start // e for s, e in zip(piece.region, extents, strict=True)))
    np.testing.assert_array_equal(array[region], values)
    assert len(set(cells)) == len(cells)
