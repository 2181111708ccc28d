"""What a zarr store holds below a path, key by key."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

import zarr
from zarr.abc.store import Store
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync
from zarr.storage import StorePath

from lazychunks.storage.turnstile import wait_out

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Keys:
    """The keys of a store below a path; their names are relative to it."""

    store: Store
    path: str

    def key(self, name: str) -> str:
        """Key of a name in the store."""
        return f"{self.path}/{name}" if self.path else name

    def read(self, name: str) -> bytes | None:
        """Read a value, if there is one."""

        async def value() -> bytes | None:
            try:
                await StorePath.open(self.store, self.path)  # reading does not always open it
            except FileNotFoundError:  # not even the directory, or the file
                return None
            found = await self.store.get(self.key(name), default_buffer_prototype())
            return None if found is None else found.to_bytes()

        return sync(value())

    def write(self, name: str, value: bytes) -> None:
        """Set a value."""
        buffer = default_buffer_prototype().buffer.from_bytes(value)
        settled(self.store.set, self.key(name), buffer)

    def delete(self, *names: str) -> None:
        """Remove values, where there are any, several at a time; all has ended when one fails."""

        async def deleted() -> None:
            places = asyncio.Semaphore(zarr.config.get("async.concurrency"))

            async def delete(name: str) -> None:
                async with places:
                    await self.store.delete(self.key(name))

            ended = await asyncio.gather(*map(delete, names), return_exceptions=True)
            for failure in filter(None, ended):
                raise failure

        settled(deleted)

    def keys(self) -> list[str] | None:
        """List all names; None where the store cannot list."""
        if not self.store.supports_listing:
            return None
        prefix = self.key("")
        return [key.removeprefix(prefix) for key in listed(self.store.list_prefix, prefix)]


def listed(method: Callable[[str], AsyncIterator[str]], prefix: str) -> list[str]:
    """Call one of a store's methods that list, and wait for all it gives."""

    async def collected() -> list[str]:
        return [key async for key in method(prefix)]  # called in here, as some stores ask for

    return sync(collected())


def settled(operation: Callable[..., Coroutine[Any, Any, T]], *args: Any) -> T:
    """Run a store's operation, which has ended when this returns, even by an interrupt.

    An interrupt ends zarr's own ``sync`` at once, and the operation takes effect some time later.
    """
    turn = threading.Lock()  # who takes it first: the operation that begins, or its interrupt
    ended = threading.Event()

    async def watched() -> T:
        if not turn.acquire(blocking=False):
            raise RuntimeError("interrupted before it began")
        try:
            return await operation(*args)
        finally:
            ended.set()

    try:
        return sync(watched())
    except BaseException:  # a handler of signals may raise anything
        if not turn.acquire(blocking=False):
            wait_out(ended.wait)
        raise
