"""A store that delays and reorders its writes changes nothing in what is stored.

The delays are the fault under test; nothing here waits for a clock to be right.
"""

import asyncio
import tempfile
import time
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from zarr.core.buffer import Buffer
from zarr.storage import MemoryStore, WrapperStore

from lazychunks import (
    BlockShapeError,
    IdentityConverter,
    LazyChunkSequence,
    NestedLazyChunkSequence,
    WriteAbortedError,
)
from lazychunks.layout.shapes import Shape
from lazychunks.storage.chunks.background import BackgroundWriter
from lazychunks.storage.chunks.filled import Filled
from lazychunks.storage.chunks.units import Units
from tests.places import values_at
from tests.strategies import Array, Flat, Nested, bits, flat_blocks, nested_blocks, zarr_options

CONVERTER = IdentityConverter()


class SlowStore(WrapperStore[MemoryStore]):
    """Writes chunks late, each by its own delay, and remembers in which order they end."""

    def __init__(self, store: MemoryStore, delays: Iterator[float] = iter(())) -> None:  # noqa: B008  # empty
        super().__init__(store)
        self.delays = delays
        self.begun: list[str] = []
        self.ended: list[str] = []

    async def set(self, key: str, value: Buffer) -> None:
        """Write after a while."""
        self.begun.append(key)
        if not key.endswith((".json", ".partial")):
            await self.delay()
        await super().set(key, value)
        self.ended.append(key)

    async def delay(self) -> None:
        """Wait; other writes go on."""
        await asyncio.sleep(next(self.delays, 0.0))

    @property
    def chunks_begun(self) -> list[str]:
        """Chunks in the order in which their writes began."""
        return [key for key in self.begun if "c/" in key]

    @property
    def chunks_ended(self) -> list[str]:
        """Chunks in the order in which their writes ended."""
        return [key for key in self.ended if "c/" in key]


class SwappingStore(SlowStore):
    """Lets the first write of each two end after the second one."""

    def __init__(self, store: MemoryStore) -> None:
        super().__init__(store)
        self.waiting: asyncio.Event | None = None

    async def delay(self) -> None:
        """Wait for the next write, or let the one before go."""
        if self.waiting is None:
            self.waiting = asyncio.Event()
            await self.waiting.wait()
        else:
            before, self.waiting = self.waiting, None
            asyncio.get_running_loop().call_soon(before.set)


class FailingStore(SlowStore):
    """Fails at one chunk, after a while, when others are under way."""

    def __init__(self, store: MemoryStore, number: int) -> None:
        super().__init__(store)
        self.number = number
        self.count = 0

    async def delay(self) -> None:
        """Fail at the chunk of that number."""
        self.count += 1
        number = self.count - 1
        await asyncio.sleep(0.002)
        if number == self.number:
            raise OSError(28, "No space left on device")


def read(store: MemoryStore) -> Array:
    return values_at(store)


# Law: whatever the delays, and whatever the layout.

delays = st.lists(st.sampled_from([0.0, 0.0005, 0.001]), max_size=20)


@given(st.data(), flat_blocks(max_ndim=3) | nested_blocks(max_ndim=3), delays)
def test_what_is_stored_depends_neither_on_delays_nor_on_the_layout(
    data: st.DataObject, given: Flat | Nested, delays: list[float]
) -> None:
    memory = MemoryStore()
    chosen = data.draw(zarr_options(given.whole.ndim))
    given.sequence().to_zarr(SlowStore(memory, iter(delays)), CONVERTER, **chosen)
    assert bits(read(memory)) == bits(given.whole)


@given(st.data(), flat_blocks(max_ndim=3) | nested_blocks(max_ndim=3), delays)
def test_neither_does_it_in_a_slow_directory(
    data: st.DataObject, given: Flat | Nested, delays: list[float]
) -> None:
    write, waits = Units.write, iter(delays)

    def late(self: Units, filled: Filled) -> None:
        time.sleep(next(waits, 0.0))
        write(self, filled)

    chosen = data.draw(zarr_options(given.whole.ndim))
    with tempfile.TemporaryDirectory() as root, pytest.MonkeyPatch.context() as patch:
        patch.setattr(Units, "write", late)
        given.sequence().to_zarr(Path(root, "a"), CONVERTER, **chosen)
        assert bits(values_at(Path(root, "a"))) == bits(given.whole)


# Law: memory is bounded, whatever the partition.


@given(
    flat_blocks(max_ndim=2) | nested_blocks(max_ndim=2),
    st.tuples(st.integers(1, 4), st.integers(1, 4)),
    st.integers(1, 3),
    delays,
)
def test_buffers_are_those_in_flight_and_those_being_filled(
    given: Flat | Nested, extents: Shape, max_in_flight: int, delays: list[float]
) -> None:
    """A flat sequence fills one buffer at a time, a nested one a band of them."""
    buffers: dict[int, Array] = {}
    allocate = BackgroundWriter.allocate

    def counted(self: BackgroundWriter) -> Array:
        buffer = allocate(self)
        buffers[id(buffer)] = buffer
        return buffer

    with tempfile.TemporaryDirectory() as root, pytest.MonkeyPatch.context() as patch:
        patch.setattr(BackgroundWriter, "allocate", counted)
        for destination in (SlowStore(MemoryStore(), iter(delays)), Path(root, "a")):
            buffers.clear()
            given.sequence().to_zarr(
                destination,
                CONVERTER,
                chunks=extents[: given.whole.ndim],
                max_in_flight=max_in_flight,
            )
            assert len(buffers) <= max_in_flight + most_filled(given, extents)
            assert bool(buffers) == bool(given.whole.size)


def most_filled(given: Flat | Nested, extents: Shape) -> int:
    """Most chunks that any row of blocks touches, or one."""
    if isinstance(given, Flat):
        return 1
    bottoms: list[int] = [*accumulate(row[0].shape[0] for row in given.rows)]
    tops = (0, *bottoms[:-1])
    bands = (
        -(-bottom // extents[0]) - top // extents[0]
        for top, bottom in zip(tops, bottoms, strict=True)
    )
    width: int = given.whole.shape[1]
    return max(1, *bands) * -(-width // extents[1])


@pytest.mark.parametrize("compressors", ["auto", None])
@pytest.mark.parametrize("kind", ["flat", "nested"])
def test_chunks_may_be_written_in_another_order(kind: str, compressors: Any) -> None:
    whole = np.arange(80).reshape(20, 4)
    memory = MemoryStore()
    store = SwappingStore(memory)
    sequence: Any = (
        LazyChunkSequence.from_map(lambda row: whole[row : row + 2], range(0, 20, 2))
        if kind == "flat"
        else NestedLazyChunkSequence.from_product(
            lambda row, column: whole[row : row + 2, column : column + 2], range(0, 20, 2), (0, 2)
        )
    )
    sequence.to_zarr(store, CONVERTER, chunks="blocks", compressors=compressors, max_in_flight=2)
    assert store.chunks_ended != store.chunks_begun, "the store did reorder"
    assert sorted(store.chunks_ended) == sorted(store.chunks_begun)
    np.testing.assert_array_equal(read(memory), whole)


def test_the_metadata_is_published_after_the_last_chunk() -> None:
    store = SlowStore(MemoryStore(), iter([0.003] * 10))
    LazyChunkSequence.from_map(lambda _: np.ones((2, 3)), range(10)).to_zarr(
        store, CONVERTER, chunks="blocks", max_in_flight=4
    )
    assert store.ended.index("zarr.json") > max(map(store.ended.index, store.chunks_ended))
    assert len(store.chunks_ended) == 10


def test_chunks_are_written_whole_and_once() -> None:
    store = SlowStore(MemoryStore())
    flat = Flat(tuple(np.split(np.arange(90).reshape(30, 3), 15)))
    flat.sequence().to_zarr(store, CONVERTER, chunks=(7, 3))
    assert sorted(store.chunks_ended) == sorted(f"c/{number}/0" for number in range(5))


def test_at_most_max_in_flight_writes_are_under_way() -> None:
    class Counting(SlowStore):
        inside = most = 0

        async def delay(self) -> None:
            self.inside += 1
            self.most = max(self.most, self.inside)
            await asyncio.sleep(0.0005)
            self.inside -= 1

    for max_in_flight in (1, 2, 3):
        store = Counting(MemoryStore())
        LazyChunkSequence.from_map(lambda _: np.ones((2, 3)), range(20)).to_zarr(
            store, CONVERTER, chunks="blocks", max_in_flight=max_in_flight
        )
        assert 1 <= store.most <= max_in_flight


# Failures.


@pytest.mark.parametrize("number", [0, 1, 5, 9])
@pytest.mark.parametrize("max_in_flight", [1, 2, 4])
def test_a_failed_write_is_raised_and_nothing_is_written_later(
    number: int, max_in_flight: int
) -> None:
    kept: dict[str, Buffer] = {}
    store = FailingStore(MemoryStore(kept), number)
    with pytest.raises(WriteAbortedError, match="No space left") as caught:
        LazyChunkSequence.from_map(lambda _: np.ones((2, 3)), range(60)).to_zarr(
            store, CONVERTER, chunks="blocks", max_in_flight=max_in_flight
        )
    assert isinstance(caught.value.__cause__, OSError)
    assert store.count < 60, "the run does not go on"
    assert len(store.chunks_begun) == len(store.chunks_ended) + 1, "what began has ended"
    assert kept == {}


@pytest.mark.parametrize("max_in_flight", [1, 3])
def test_a_bad_block_waits_for_the_writes_under_way(max_in_flight: int) -> None:
    kept: dict[str, Buffer] = {}
    store = SlowStore(MemoryStore(kept), iter([0.003] * 10))
    blocks = [np.ones((2, 3))] * 5 + [np.ones((2, 4))]
    with pytest.raises(BlockShapeError, match="block 5"):
        LazyChunkSequence(lambda: blocks).to_zarr(
            store, CONVERTER, chunks="blocks", max_in_flight=max_in_flight
        )
    assert store.chunks_begun == sorted(store.chunks_ended, key=store.chunks_begun.index)
    assert kept == {}
