"""Keys of a store: what is removed is removed together, and what has begun has ended."""

import asyncio
import signal
import threading
from collections.abc import Callable, Generator
from typing import Any

import pytest
from zarr.storage import MemoryStore, WrapperStore

from lazychunks.runs.interrupts import uninterrupted
from lazychunks.storage.keys import Keys

PATIENCE = 30.0


class Meeting(WrapperStore[MemoryStore]):
    """Removes a key only while another one is being removed."""

    def __init__(self, store: MemoryStore) -> None:
        super().__init__(store)
        self.under_way = 0
        self.have_met = asyncio.Event()

    async def delete(self, key: str) -> None:
        self.under_way += 1
        if self.under_way == 2:
            self.have_met.set()
        await asyncio.wait_for(self.have_met.wait(), PATIENCE)
        await super().delete(key)


class Failing(WrapperStore[MemoryStore]):
    """Fails for one key at once, and takes its time for the others."""

    async def delete(self, key: str) -> None:
        if key.endswith("bad"):
            raise OSError(key)
        for _ in range(3):
            await asyncio.sleep(0)
        await super().delete(key)


@pytest.fixture
def memory() -> MemoryStore:
    memory = MemoryStore()
    for name in ("bad", "one", "two", "kept"):
        Keys(memory, "a").write(name, b"value")
    return memory


def names(memory: MemoryStore) -> set[str]:
    return {*(Keys(memory, "a").list_keys() or ())}


def test_keys_are_removed_several_at_a_time(memory: MemoryStore) -> None:
    Keys(Meeting(memory), "a").delete("one", "two", "absent")
    assert names(memory) == {"bad", "kept"}


def test_all_has_ended_when_one_fails(memory: MemoryStore) -> None:
    store: Any = Failing(memory)
    with pytest.raises(OSError, match=r"^a/bad$"):
        Keys(store, "a").delete("bad", "one", "two")
    assert names(memory) == {"bad", "kept"}


def test_to_remove_nothing_is_nothing(memory: MemoryStore) -> None:
    Keys(memory, "a").delete()
    assert len(names(memory)) == 4


def test_a_directory_is_removed_with_all_that_is_in_it(memory: MemoryStore) -> None:
    for name in ("deep/one", "deep/er/two", "deeper"):
        Keys(memory, "a").write(name, b"value")
    Keys(memory, "a").delete_directory("deep")
    assert names(memory) == {"bad", "one", "two", "kept", "deeper"}
    Keys(memory, "a").delete_directory("absent")
    Keys(memory, "a").delete_directory()
    assert names(memory) == set()


@pytest.mark.parametrize("path", ["", "a", "a/b"])
def test_members_are_listed_by_their_first_parts(path: str) -> None:
    keys = Keys(MemoryStore(), path)
    for name in ("zarr.json", "c/0/0", "c/0/1", "d/e"):
        keys.write(name, b"value")
    assert keys.list_directory() == ["c", "d", "zarr.json"]
    assert sorted(keys.list_keys() or ()) == ["c/0/0", "c/0/1", "d/e", "zarr.json"]


# Interrupts.


class InterruptedByUserError(Exception):
    """What a handler raises."""


@pytest.fixture(params=[signal.SIGINT, signal.SIGTERM])
def number(request: pytest.FixtureRequest) -> Generator[int]:
    """A signal whose handler raises."""

    def handler(*_: object) -> None:
        raise InterruptedByUserError

    before = signal.signal(request.param, handler)
    yield int(request.param)
    signal.signal(request.param, before)


def test_an_interrupt_is_raised_when_the_body_has_ended(number: int) -> None:
    handler = signal.getsignal(number)
    steps: list[str] = []

    def run() -> None:
        with uninterrupted():
            for _ in range(2):
                signal.raise_signal(number)
                steps.append("goes on")
        steps.append("never")

    with pytest.raises(InterruptedByUserError):
        run()
    assert steps == ["goes on", "goes on"]
    assert signal.getsignal(number) == handler


def test_an_interrupt_follows_a_failure_of_the_body(number: int) -> None:
    def fail() -> None:
        with uninterrupted():
            signal.raise_signal(number)
            raise ZeroDivisionError

    with pytest.raises(InterruptedByUserError) as caught:
        fail()
    assert isinstance(caught.value.__context__, ZeroDivisionError)


def test_interrupts_that_the_system_handles_are_left_to_it(number: int) -> None:
    signal.signal(number, signal.SIG_IGN)
    with uninterrupted():
        assert signal.getsignal(number) is signal.SIG_IGN
        signal.raise_signal(number)
    assert signal.getsignal(number) is signal.SIG_IGN


def test_one_may_be_held_within_another(number: int) -> None:
    handler = signal.getsignal(number)
    ended: list[str] = []

    def run() -> None:
        with uninterrupted():
            with uninterrupted():
                signal.raise_signal(number)
                ended.append("inner")
            ended.append("outer")

    with pytest.raises(InterruptedByUserError):
        run()
    assert ended == ["inner", "outer"]
    assert signal.getsignal(number) == handler


def test_another_thread_holds_nothing(number: int) -> None:
    handler = signal.getsignal(number)
    seen: list[object] = []

    def look() -> None:
        with uninterrupted():
            seen.append(signal.getsignal(number))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert seen == [handler]


class Interrupting(WrapperStore[MemoryStore]):
    """Interrupts the main thread in the middle of each change, which then takes its time."""

    def __init__(self, store: MemoryStore, number: int) -> None:
        super().__init__(store)
        self.number = number

    async def set(self, key: str, value: Any) -> None:
        await self._interrupt()
        await super().set(key, value)

    async def delete(self, key: str) -> None:
        await self._interrupt()
        await super().delete(key)

    async def delete_dir(self, prefix: str) -> None:
        await self._interrupt()
        await super().delete_dir(prefix)

    async def _interrupt(self) -> None:
        signal.pthread_kill(threading.main_thread().ident or 0, self.number)
        for _ in range(20):
            await asyncio.sleep(0.001)


CHANGES: list[tuple[Callable[[Keys], None], set[str]]] = [
    (lambda keys: keys.write("new", b"value"), {"bad", "one", "two", "kept", "new"}),
    (lambda keys: keys.delete("one", "two"), {"bad", "kept"}),
    (lambda keys: keys.delete_directory(), set()),
]


@pytest.mark.parametrize(("change", "after"), CHANGES, ids=["write", "delete", "delete directory"])
def test_a_change_that_has_begun_has_ended_when_an_interrupt_is_raised(
    change: Callable[[Keys], None], after: set[str], memory: MemoryStore, number: int
) -> None:
    store: Any = Interrupting(memory, number)
    with pytest.raises(InterruptedByUserError):
        change(Keys(store, "a"))
    assert names(memory) == after
