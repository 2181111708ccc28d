"""Keys of a store: what is removed is removed together, and has ended."""

import asyncio
from typing import Any

import pytest
from zarr.storage import MemoryStore, WrapperStore

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
