"""The keys of a zarr store below a path.

A change that has begun has ended when its call returns, by Ctrl-C too: zarr's own ``sync`` returns
at once, and the operation would take effect some time later.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass

import zarr
from zarr.abc.store import Store
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync
from zarr.storage import StorePath

from lazychunks.runs.interrupts import uninterrupted


@dataclass(frozen=True, slots=True)
class Keys:
    """The keys of a store below a path; their names are relative to it."""

    store: Store
    path: str

    def key(self, name: str) -> str:
        """Return the key of a name in the store."""
        return f"{self.path}/{name}" if self.path else name

    def below(self, name: str) -> Keys:
        """Return the keys below a name; those below no name are all of them."""
        return Keys(self.store, self.key(name)) if name else self

    def read(self, name: str) -> bytes | None:
        """Read a value; None where there is none."""

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
        _run_to_end(lambda: self.store.set(self.key(name), buffer))

    def delete(self, *names: str) -> None:
        """Remove values that are there, several at a time; when one fails, the others have ended.

        Raises
        ------
        OSError
            The first failure, of whatever type the store raises.
        """

        async def delete_all() -> None:
            turns = asyncio.Semaphore(zarr.config.get("async.concurrency"))

            async def delete_one(name: str) -> None:
                async with turns:
                    await self.store.delete(self.key(name))

            ended = await asyncio.gather(*map(delete_one, names), return_exceptions=True)
            for failure in filter(None, ended):
                raise failure

        _run_to_end(delete_all)

    def count_missing(self, *names: str) -> int:
        """Count the names of which there is no value, asking for several at a time."""

        async def count() -> int:
            turns = asyncio.Semaphore(zarr.config.get("async.concurrency"))

            async def is_missing(name: str) -> bool:
                async with turns:
                    return not await self.store.exists(self.key(name))

            return sum(await asyncio.gather(*map(is_missing, names)))

        return sync(count())

    def delete_directory(self, name: str = "") -> None:
        """Remove all keys below a name."""
        _run_to_end(lambda: self.store.delete_dir(self.key(name) if name else self.path))

    def list_keys(self) -> list[str] | None:
        """List all names below; None where the store cannot list."""
        if not self.store.supports_listing:
            return None
        prefix = self.key("")
        return [key.removeprefix(prefix) for key in _list(self.store.list_prefix, prefix)]

    def list_directory(self) -> list[str] | None:
        """List the first parts of all names below; None where the store cannot list.

        A store that keeps files lists its empty directories too.
        """
        if not self.store.supports_listing:
            return None
        names = _list(self.store.list_dir, self.path)
        return sorted({name.strip("/").rsplit("/", 1)[-1] for name in names})


def _list(method: Callable[[str], AsyncIterator[str]], prefix: str) -> list[str]:
    async def collect() -> list[str]:
        return [key async for key in method(prefix)]  # some stores must be called in the loop

    return sync(collect())


def _run_to_end(operation: Callable[[], Coroutine[object, object, None]]) -> None:
    with uninterrupted():
        sync(operation())
