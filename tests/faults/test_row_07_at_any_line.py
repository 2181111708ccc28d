"""Row 7: Ctrl-C at any line of the writer: old or new, never a hang, and the next run cleans up."""

import gc
import linecache
import shutil
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from types import FrameType
from typing import Any

import numpy as np
import pytest
from zarr.storage import MemoryStore

import lazychunks
from lazychunks import BlockShapeError, WriteAbortedError
from lazychunks.storage.places import file_system
from lazychunks.storage.resuming import spill
from lazychunks.storage.writing import part_writer
from tests.faults.jobs import FLAT, NESTED, RAGGED, Job, names_in, old_array, same, seen_at
from tests.faults.processes import StoppedClock
from tests.faults.seed_writer import seed_flat

Array = np.ndarray[Any, Any]
Line = tuple[str, int]
Visit = tuple[Line, int]

HOUSE = Path(lazychunks.__file__).parent

PURE = {
    "bfloat16",
    "cursor",
    "dtypes",
    "filled",
    "location",
    "metadata",
    "mismatches",
    "options",
    "place",
    "read",
    "record",
    "refusals",
    "shipping",
    "status",
    "trust",
    "unfinished",
    "verify",
    "whole",
}
"""Modules that change nothing that outlives the call: Ctrl-C there is Ctrl-C at the call."""

ROOMS = tuple(
    str(path)
    for folder in ("runs", "storage")
    for path in (HOUSE / folder).rglob("*.py")
    if path.stem not in PURE
)


def lines_of(
    run: Callable[[], None], rooms: tuple[str, ...], interrupted: Visit | None = None
) -> Counter[Line]:
    """Count the visits to the lines of some files in this thread; press Ctrl-C at one of them.

    By a signal: what holds signals back for some lines is a part of what is tested.
    """
    visits: Counter[Line] = Counter()

    def trace(frame: FrameType, event: str, _: object) -> Any:
        if frame.f_code.co_filename not in rooms or _is_destructor(frame):
            return None
        if event == "line":
            line = (frame.f_code.co_filename, frame.f_lineno)
            visits[line] += 1
            if (line, visits[line]) == interrupted:
                sys.settrace(None)
                signal.raise_signal(signal.SIGINT)
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        run()
    finally:
        sys.settrace(before)
    return visits


def _is_destructor(frame: FrameType) -> bool:
    """Whether what is raised here reaches nobody, as Python only reports it."""
    callers = (frame, frame.f_back)
    return any(caller is not None and caller.f_code.co_name == "__del__" for caller in callers)


def some_visits(visits: Counter[Line]) -> list[Visit]:
    """Return the first and the last visit of each line.

    A line that begins with ``with`` is visited again on leaving, and only there a tracer can come
    between the block and the release of its lock: a signal cannot.
    """
    return [
        (line, visit)
        for line, count in visits.items()
        for visit in sorted({1, count})
        if visit == 1 or not linecache.getline(*line).lstrip().startswith("with")
    ]


def cannot_exchange(*_: object) -> bool:
    """Do as a file system that cannot exchange two directories."""
    return False


def leave_unfinished(job: Job, destination: Any) -> None:
    """Let a run fail at its fourth block."""
    left = 3

    def fail(*_: int) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise ZeroDivisionError

    with pytest.raises(WriteAbortedError):
        job.store(destination, fail, overwrite=True, run_id="run")


def leave_what_workers_stored(destination: Any) -> None:
    """Let workers store blocks at places where they do not belong."""
    third = Event()

    def watch(row: int) -> None:
        if row == 4:
            assert third.wait(60)
        elif row == 11:
            third.set()  # the block of row 7 has been stored by the same thread

    with ThreadPoolExecutor(2) as executor, pytest.raises(BlockShapeError):
        UNEVEN.store(
            destination,
            watch,
            overwrite=True,
            resume=True,
            run_id="run",
            executor=executor,
            max_in_flight=5,
        )


@pytest.fixture(autouse=True)
def _collecting_is_cheap() -> Iterator[None]:
    """Keep what is there already out of the hundreds of collections."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


UNEVEN = Job("uneven", (4, 3, 4, 4, 2))


@dataclass(frozen=True)
class Case:
    """A write, and what is at its destination before it."""

    job: Job
    kind: str
    before: tuple[str, ...]
    can_exchange: bool

    @property
    def options(self) -> dict[str, Any]:
        named = {"run_id": "run", "resume": True} if "unfinished" in self.before else {}
        return {"overwrite": True, "max_in_flight": 1, **named}

    def begin(self, folder: Path) -> Callable[[], Any]:
        """Arrange what is there before, and return what makes a copy of it."""
        start: Any = str(folder / "start" / "array.zarr") if self.kind == "path" else MemoryStore()
        old_array(start)
        if "by workers" in self.before:
            leave_what_workers_stored(start)
        elif "unfinished" in self.before:
            leave_unfinished(self.job, start)

        def prepared() -> Any:
            if self.kind != "path":
                return MemoryStore(dict(start._store_dict))
            shutil.rmtree(folder / "place", ignore_errors=True)
            shutil.copytree(folder / "start", folder / "place")
            return str(folder / "place" / "array.zarr")

        return prepared

    def patch(self, monkeypatch: pytest.MonkeyPatch) -> None:
        if not self.can_exchange:
            monkeypatch.setattr(file_system, "exchange_directories", cannot_exchange)
        monkeypatch.setattr(spill, "SECONDS", 0.0)
        monkeypatch.setattr(part_writer, "time", StoppedClock)

    def visits(self, prepared: Callable[[], Any]) -> list[Visit]:
        """Visits to lines, of which each is interrupted in one of the cases."""
        self.job.store({})  # what is cached from then on is not visited again
        destination = prepared()
        return some_visits(lines_of(lambda: self.job.store(destination, **self.options), ROOMS))


CASES = (
    Case(FLAT, "path", ("old",), False),
    Case(RAGGED, "path", ("old", "unfinished"), True),
    Case(UNEVEN, "path", ("old", "unfinished", "by workers"), True),
    Case(NESTED, "memory", ("old", "unfinished"), True),
    Case(UNEVEN, "memory", ("old", "unfinished", "by workers"), True),
)


@pytest.fixture(scope="module")
def shares(tmp_path_factory: pytest.TempPathFactory) -> dict[Case, set[tuple[Line, bool]]]:
    """Divide the visits among the cases: a second interrupt at a line finds little that is new.

    The first visit to a line is interrupted once in each kind of place that has it, in one of its
    cases; the last one in one of both kinds.
    """
    visited: dict[Case, set[tuple[Line, bool]]] = {}
    for case in CASES:
        with pytest.MonkeyPatch.context() as monkeypatch:
            case.patch(monkeypatch)
            prepared = case.begin(tmp_path_factory.mktemp("lines"))
            visited[case] = {(line, visit == 1) for line, visit in case.visits(prepared)}
    shared: dict[Case, set[tuple[Line, bool]]] = {case: set() for case in CASES}
    for place in ("path", "memory"):
        cases = [case for case in CASES if case.kind == place]
        every = {visit for case in cases for visit in visited[case]}
        for number, visit in enumerate(sorted(every)):
            owners = [case for case in cases if visit in visited[case]]
            (_, line), is_first = visit
            if is_first or (line % 2 == 0) == (place == "path"):
                shared[owners[number % len(owners)]].add(visit)
    return shared


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.job.name}-{case.kind}")
def test_an_interrupt_at_any_line_leaves_old_or_new_and_the_next_run_cleans_up(
    case: Case,
    shares: dict[Case, set[tuple[Line, bool]]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    job, options = case.job, case.options
    old = old_array({})
    always_there = case.kind == "path"
    case.patch(monkeypatch)
    prepared = case.begin(tmp_path)

    def is_whole(seen: Array | None) -> bool:
        return same(seen, job.whole) or same(seen, old) or (seen is None and not always_there)

    visits = [
        (line, visit) for line, visit in case.visits(prepared) if (line, visit == 1) in shares[case]
    ]
    assert len(visits) > 100
    missed: list[Visit] = []
    for visit in visits:
        destination = prepared()
        with suppress(KeyboardInterrupt):
            lines_of(lambda: job.store(destination, **options), ROOMS, visit)  # noqa: B023
            missed.append(visit)  # how often some lines are visited is for the background to say
        gc.collect()  # a lock whose holder is gone
        assert is_whole(seen_at(destination)), visit
        job.store(destination, **options)
        assert same(seen_at(destination), job.whole), visit
        if case.kind == "path":
            parent = Path(destination).parent
            assert names_in(parent) == ["array.zarr"], f"{visit}: something is left"
        else:
            assert "zarr.json.partial" not in destination._store_dict, visit
    assert len(missed) < len(visits) / 20, missed


@pytest.mark.slow
def test_this_finds_a_writer_that_overwrites_in_place() -> None:
    """The negative control."""
    rooms = (str(Path(__file__).with_name("seed_writer.py")),)
    old = old_array({})

    def write(store: MemoryStore) -> None:
        seed_flat(FLAT.sequence(), store, overwrite=True)

    found = False
    for visit in some_visits(lines_of(lambda: write(MemoryStore()), rooms)):
        store = MemoryStore()
        old_array(store)
        with pytest.raises(KeyboardInterrupt):
            lines_of(lambda: write(store), rooms, visit)  # noqa: B023
        seen = seen_at(store)
        found |= not (seen is None or same(seen, FLAT.whole) or same(seen, old))
    assert found
