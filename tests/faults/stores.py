"""Stores that fail on purpose."""

import errno
from dataclasses import dataclass

from zarr.abc.store import Store
from zarr.core.buffer import Buffer
from zarr.storage import WrapperStore

__all__ = ["EVERY_FAULT", "BudgetStore", "Fault", "FaultyStore", "StoreFailedError"]


class StoreFailedError(OSError):
    """The failure that a test has asked for."""


@dataclass(frozen=True)
class Fault:
    """How an operation fails."""

    effective: bool
    """Whether the operation takes effect all the same, as when only the answer is lost."""
    lasting: bool
    """Whether every later operation fails as well, so that nothing can be cleaned up: a crash."""

    def __str__(self) -> str:
        when = "after" if self.effective else "before"
        return f"{when} its effect, {'for good' if self.lasting else 'once'}"


EVERY_FAULT = (
    Fault(effective=False, lasting=False),
    Fault(effective=True, lasting=False),
    Fault(effective=False, lasting=True),  # the last but one, if it had taken effect
)


class FaultyStore(WrapperStore[Store]):
    """Counts the operations that change a store, and fails at one of them.

    Parameters
    ----------
    store
        The store.
    fails_at
        Number of the operation that fails, from 1; 0 for none.
    fault
        How.
    """

    def __init__(self, store: Store, fails_at: int = 0, fault: Fault = EVERY_FAULT[0]) -> None:
        super().__init__(store)
        self.operations: list[str] = []
        self._fails_at = fails_at
        self._fault = fault

    async def set(self, key: str, value: Buffer) -> None:
        """Write a key, or fail."""
        failing = self._comes(f"set {key}")
        if not failing or self._takes_effect:
            await self._store.set(key, value)
        self._end(failing=failing)

    async def delete(self, key: str) -> None:
        """Remove a key, or fail."""
        failing = self._comes(f"delete {key}")
        if not failing or self._takes_effect:
            await self._store.delete(key)
        self._end(failing=failing)

    async def delete_dir(self, prefix: str) -> None:
        """Remove all keys below a prefix, or fail."""
        failing = self._comes(f"delete_dir {prefix}")
        if not failing or self._takes_effect:
            await self._store.delete_dir(prefix)
        self._end(failing=failing)

    @property
    def has_failed(self) -> bool:
        """Whether the operation to fail has been reached."""
        return 0 < self._fails_at <= len(self.operations)

    @property
    def _takes_effect(self) -> bool:
        return self._fault.effective and len(self.operations) == self._fails_at

    def _comes(self, operation: str) -> bool:
        self.operations.append(operation)
        count = len(self.operations)
        return self.has_failed and (count == self._fails_at or self._fault.lasting)

    def _end(self, *, failing: bool) -> None:
        if failing:
            raise StoreFailedError(f"as asked for, at {self.operations[-1]}")


class BudgetStore(WrapperStore[Store]):
    """A store of so many bytes, and not one more."""

    def __init__(self, store: Store, budget: float) -> None:
        super().__init__(store)
        self.budget = budget

    async def set(self, key: str, value: Buffer) -> None:
        """Write a key if there is space for it."""
        if len(value) > self.budget:
            raise OSError(errno.ENOSPC, "No space left on device")
        self.budget -= len(value)
        await self._store.set(key, value)
