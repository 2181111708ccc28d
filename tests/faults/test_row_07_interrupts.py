"""Row 7: Ctrl-C, or a failure, while slow writes are in flight: none of them lands afterwards."""

import asyncio
import signal
import threading
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from zarr.abc.store import Store
from zarr.core.buffer import Buffer
from zarr.storage import MemoryStore, WrapperStore

from lazychunks import IdentityConverter, LazyChunkSequence, WriteAbortedError
from lazychunks.storage.chunks.background import BackgroundWriter
from tests.faults.jobs import FLAT, NESTED, RAGGED, Job, names_in, old_array, same, seen_at

LATE = 0.05
"""Seconds after which what is slow goes on. Nothing waits for that: a write that is not waited for
lands after the call, however long the call takes."""


@pytest.fixture(autouse=True)
def _handlers_are_put_back() -> Generator[None]:
    before = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, before)


class SlowStore(WrapperStore[Store]):
    """Holds each operation on chosen keys back until it is released, and keeps a log.

    Parameters
    ----------
    store
        The store.
    slow
        Tells the keys whose operations are slow.
    begins
        Called when the first slow operation is in flight.
    """

    def __init__(
        self,
        store: Store,
        slow: Callable[[str], bool] = lambda _: False,
        begins: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__(store)
        self.log: list[str] = []
        self.entered = threading.Event()
        self._slow = slow
        self._begins = begins
        self._in_flight = 0
        self._idle = threading.Condition()
        self._released = threading.Event()

    async def set(self, key: str, value: Buffer) -> None:
        """Write a key, some time."""
        await self._slowly(f"set {key}", key, lambda: self._store.set(key, value))

    async def delete(self, key: str) -> None:
        """Remove a key, some time."""
        await self._slowly(f"delete {key}", key, lambda: self._store.delete(key))

    def release_late(self) -> None:
        """Let the slow operations go on in a while."""
        threading.Timer(LATE, self._released.set).start()

    def returned(self) -> list[str]:
        """Note that the call has returned, and give what has happened since, once all is quiet."""
        count = len(self.log)
        self._released.set()
        with self._idle:
            assert self._idle.wait_for(lambda: self._in_flight == 0, 60)
        return self.log[count:]

    async def _slowly(self, what: str, key: str, operation: Callable[[], Any]) -> None:
        with self._idle:
            self._in_flight += 1
        self.log.append(f"begin {what}")
        try:
            if self._slow(key):
                self.entered.set()
                begins, self._begins = self._begins, lambda: None
                begins()
                await asyncio.to_thread(self._released.wait)
            await operation()
        finally:
            self.log.append(f"end {what}")
            with self._idle:
                self._in_flight -= 1
                self._idle.notify_all()


def interrupt() -> None:
    """Press Ctrl-C: the main thread gets the signal, wherever it waits."""
    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)


def interrupted_while_computing(job: Job, store: SlowStore, **options: Any) -> list[str]:
    """Interrupt the computation of the third block; return what happened after the call."""
    left = 2

    def watch(*_: int) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            assert store.entered.wait(60), "a slow write is in flight"
            store.release_late()
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt) as caught:
        job.store(store, watch, overwrite=True, **options)
    after = store.returned()
    assert any("of" in note and "blocks" in note for note in caught.value.__notes__)
    return after


@pytest.mark.parametrize("options", [{}, {"run_id": "run"}], ids=["nameless", "named"])
@pytest.mark.parametrize("in_tee", [False, True], ids=["alone", "in a tee"])
@pytest.mark.parametrize("job", [FLAT, RAGGED, NESTED], ids=lambda job: job.name)
def test_no_chunk_is_written_after_an_interrupt(
    job: Job, in_tee: bool, options: dict[str, Any]
) -> None:
    memory = MemoryStore()
    store = SlowStore(memory, lambda key: "c/" in key)
    assert interrupted_while_computing(job, store, in_tee=in_tee, **options) == []
    assert seen_at(memory) is None
    job.store(memory, overwrite=True, resume=bool(options), **options)
    assert same(seen_at(memory), job.whole)


def test_this_finds_a_writer_that_does_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control."""

    def leave(self: Any, **_: bool) -> None:
        self._free.clear()

    monkeypatch.setattr(BackgroundWriter, "close", leave)
    store = SlowStore(MemoryStore(), lambda key: "c/" in key)
    assert interrupted_while_computing(FLAT, store, run_id="run")


def test_a_second_interrupt_does_not_keep_it_from_tidying_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It comes while the writes under way are waited for."""
    close = BackgroundWriter.close

    def interrupted(self: BackgroundWriter, *, drop: bool = True) -> None:
        close(self, drop=drop)
        raise KeyboardInterrupt

    def fail(row: int) -> None:
        if row == 8:
            raise ZeroDivisionError

    monkeypatch.setattr(BackgroundWriter, "close", interrupted)
    with pytest.raises(KeyboardInterrupt) as caught:
        FLAT.store(tmp_path / "array.zarr", fail)
    assert "after 2 of 5 blocks" in "".join(caught.value.__notes__)
    assert names_in(tmp_path) == []


def handle_by(raised: type[BaseException]) -> None:
    """Have the signal raise something else, as a handler of the user's own may."""

    def handler(*_: object) -> None:
        raise raised

    signal.signal(signal.SIGINT, handler)


@pytest.mark.parametrize("raised", [KeyboardInterrupt, SystemExit, TimeoutError])
@pytest.mark.parametrize("key", ["zarr.json.partial", "zarr.json", "c/0/0"])
def test_no_operation_of_the_main_thread_lands_after_an_interrupt(
    key: str, raised: type[BaseException]
) -> None:
    """The interrupt comes while metadata is written, published, or the old array removed."""
    handle_by(raised)
    memory = MemoryStore()
    old_array(memory)

    def begins() -> None:
        store.release_late()
        interrupt()

    store = SlowStore(memory, key.__eq__, begins)
    with pytest.raises((raised, WriteAbortedError)):
        FLAT.store(store, overwrite=True, run_id="run")
    assert store.returned() == []
    seen = seen_at(memory)
    assert seen is None or any(same(seen, a) for a in (FLAT.whole, old_array({})))
    FLAT.store(memory, overwrite=True, resume=True, run_id="run")
    assert same(seen_at(memory), FLAT.whole)


@pytest.mark.parametrize("raised", [KeyboardInterrupt, SystemExit, TimeoutError])
def test_no_chunk_is_written_after_an_interrupt_of_the_waiting(raised: type[BaseException]) -> None:
    """A block fails, and the interrupt comes while the writes under way are waited for."""
    handle_by(raised)
    memory = MemoryStore()
    store = SlowStore(memory, lambda key: "c/" in key)

    def fail(row: int) -> None:
        if row == 8:
            assert store.entered.wait(60), "a slow write is in flight"
            threading.Timer(LATE, interrupt).start()
            threading.Timer(2 * LATE, store.release_late).start()
            raise ZeroDivisionError

    with pytest.raises((raised, WriteAbortedError)):
        FLAT.store(store, fail)
    assert store.returned() == []
    assert seen_at(memory) is None


@pytest.mark.parametrize("shards", [None, (4, 3)], ids=["chunks", "shards"])
def test_when_one_chunk_fails_the_others_are_waited_for(shards: tuple[int, int] | None) -> None:
    """Where the last axis is split, a buffer is several chunks, which are written in turn."""

    class FailingStore(SlowStore):
        async def set(self, key: str, value: Buffer) -> None:
            if key == "c/0/1":
                await asyncio.to_thread(self.entered.wait, 60)
                self.release_late()
                raise OSError(key)
            await super().set(key, value)

        async def delete(self, key: str) -> None:
            await self._store.delete(key)

    memory = MemoryStore()
    store = FailingStore(memory, "c/1/0".__eq__)
    sequence = LazyChunkSequence.from_map(lambda _: np.ones((4, 60)), range(3))
    with pytest.raises(WriteAbortedError):
        sequence.to_zarr(store, IdentityConverter(), chunks=(4, 3), shards=shards, max_in_flight=2)
    assert store.returned() == []
    assert "end set c/1/0" in store.log
    assert "begin set c/0/2" not in store.log
    assert seen_at(memory) is None
