"""Appends, exactly once: whatever fails, readers find whole nights, and a restart loses none.

A *night* is one run that appends. At every operation of a store, and at every call to the file
system, a reader finds the nights that are committed, each once and in order, and so does a reader
that has opened the array before.
"""

import random
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from zarr.core.buffer import Buffer
from zarr.storage import MemoryStore

from lazychunks import (
    IdentityConverter,
    LazyChunkSequence,
    LazyChunksError,
    NestedLazyChunkSequence,
)
from lazychunks.storage.chunks import files as files_of_chunks
from lazychunks.storage.places import in_place
from tests.faults import test_row_02_file_system
from tests.faults.processes import die, died_by_sigkill, running
from tests.faults.stores import EVERY_FAULT, Fault, FaultyStore, StoreFailedError
from tests.faults.test_row_02_file_system import CrashedError, FileSystem
from tests.places import opened as opened_at
from tests.places import tree, values_at

NUMPY: IdentityConverter = IdentityConverter()
Rows = NDArray[np.int64]

WIDTH = 3


@dataclass(frozen=True)
class Nights:
    """What is appended, night after night."""

    sizes: tuple[tuple[int, ...], ...]
    """Sizes of the blocks of each night."""
    chunks: int | tuple[int, ...]
    shards: tuple[int, ...] | None = None
    widths: tuple[int, ...] = ()
    """Widths of the columns, if rows of blocks are appended."""

    def rows(self, nights: int | None = None) -> Rows:
        """Return all rows of the first nights."""
        length = sum(map(sum, self.sizes[:nights]))
        return np.arange(length * WIDTH).reshape(length, WIDTH)

    def blocks(self, night: int) -> list[Rows]:
        """Return the blocks of a night."""
        start = len(self.rows(night))
        ends = np.cumsum(self.sizes[night])
        return [
            self.rows()[start + end - size : start + end]
            for size, end in zip(self.sizes[night], ends, strict=True)
        ]

    def append(
        self, destination: Any, night: int, watch: Callable[[int], object] = lambda _: None
    ) -> None:
        """Append a night."""
        blocks = self.blocks(night)

        def block(number: int, column: int = 0) -> Rows:
            watch(number)
            if not self.widths:
                return blocks[number]
            left = sum(self.widths[:column])
            return blocks[number][:, left : left + self.widths[column]]

        options: Any = {"chunks": self.chunks, "shards": self.shards, "run_id": f"night {night}"}
        numbers = range(len(blocks))
        sequence: Any = LazyChunkSequence.from_map(block, numbers)
        if self.widths:
            sequence = NestedLazyChunkSequence.from_product(block, numbers, range(len(self.widths)))
        sequence.to_zarr(destination, NUMPY, append=True, max_in_flight=1, **options)


def is_whole(nights: Nights, seen: Rows | None, *allowed: int) -> bool:
    """Whether somebody has seen so many nights, for one of these numbers."""
    return any(
        np.array_equal(seen, nights.rows(number)) if seen is not None else number == 0
        for number in allowed
    )


def seen_at(destination: Any) -> Rows | None:
    """Return what a reader finds."""
    try:
        return values_at(destination)
    except FileNotFoundError:
        return None


class WatchedStore(FaultyStore):
    """Looks at what readers find after each operation.

    Parameters
    ----------
    content, fails_at, fault
        As for a :class:`FaultyStore`, over a dict.
    look
        Looks.
    """

    def __init__(
        self,
        content: dict[str, Buffer],
        fails_at: int,
        fault: Fault,
        look: Callable[[dict[str, Buffer]], object],
    ) -> None:
        super().__init__(MemoryStore(content), fails_at, fault)
        self._content = content
        self._look = look
        self.seen: list[dict[str, Buffer]] = []
        """What was there after each operation."""

    def _end(self, *, failing: bool) -> None:
        self.seen.append(dict(self._content))
        super()._end(failing=failing)

    def look(self) -> None:
        """Look at all of it; zarr's loop cannot, while it works for the writer."""
        for content in self.seen:
            self._look(content)
        self.seen.clear()


def append_all(
    nights: Nights, content: dict[str, Buffer], choose: Callable[[], tuple[int, Fault]]
) -> None:
    """Append all nights to a store, start each until it ends, and fail as chosen at first."""
    opened: list[tuple[Any, Rows]] = []
    for night in range(len(nights.sizes)):

        def look(seen: dict[str, Buffer], night: int = night) -> None:
            assert is_whole(nights, seen_at(MemoryStore(dict(seen))), night, night + 1)

        fails_at, fault = choose()
        store = WatchedStore(content, fails_at, fault, look)
        with suppress(StoreFailedError, LazyChunksError):
            nights.append(store, night)
        store.look()
        nights.append(FaultyStore(MemoryStore(content)), night)
        for array, rows in opened:
            assert np.array_equal(array[...], rows), "a reader that was there before"
        now = values_at(MemoryStore(content))
        assert np.array_equal(now, nights.rows(night + 1))
        opened.append((opened_at(MemoryStore(content)), now))
    allowed = {"zarr.json", *(key for key in content if key.startswith("c/"))}
    assert set(content) == allowed, "nothing is left beside the array"


EXAMPLES = (
    Nights(((2, 3), (1,), (7, 2), (4,)), chunks=4),
    Nights(((4,), (4, 4), (3,)), chunks=4),
    Nights(((5,), (0,), (1, 1), (9,)), chunks=(2, 2), shards=(4, 4)),
    Nights(((3, 2), (2, 1), (6,)), chunks=(4, 2), widths=(1, 2)),
)


@pytest.mark.slow
@pytest.mark.parametrize("nights", EXAMPLES)
def test_each_operation_of_a_store_may_fail(nights: Nights) -> None:
    content: dict[str, Buffer] = {}
    for night in range(len(nights.sizes)):
        clean = dict(content)
        probe = FaultyStore(MemoryStore(clean))
        nights.append(probe, night)
        for number in range(1, len(probe.operations) + 1):
            for fault in EVERY_FAULT:
                copy = dict(content)
                append_one(nights, night, copy, number, fault)
                assert copy.keys() == clean.keys(), "something is left, or missing"
        nights.append(MemoryStore(content), night)


def append_one(
    nights: Nights, night: int, content: dict[str, Buffer], number: int, fault: Fault
) -> None:
    """Append a night, fail at an operation, and start it again; or have the next night come."""

    def look(seen: dict[str, Buffer]) -> None:
        assert is_whole(nights, seen_at(MemoryStore(seen)), night, night + 1)

    store = WatchedStore(content, number, fault, look)
    with suppress(StoreFailedError, LazyChunksError):
        nights.append(store, night)
    assert store.has_failed, "each operation is reached"
    store.look()
    nights.append(MemoryStore(content), night)
    assert is_whole(nights, seen_at(MemoryStore(content)), night + 1)


@st.composite
def all_nights(draw: st.DrawFn) -> Nights:
    """Draw rows that are cut anywhere into nights, and nights into blocks."""
    size = st.integers(0, 6)
    cuts = draw(st.lists(st.lists(size, min_size=1, max_size=4), min_size=1, max_size=5))
    widths = draw(st.sampled_from(((), (3,), (1, 2))))
    chunk = draw(st.integers(1, 5)), draw(st.integers(1, 3))
    shards = draw(st.sampled_from((None, 2, 3)))
    return Nights(
        tuple(map(tuple, cuts)),
        chunk,
        None if shards is None else (chunk[0] * shards, chunk[1] * 2),
        widths,
    )


@pytest.mark.slow
@settings(max_examples=20)
@given(all_nights(), st.data())
def test_rows_cut_anywhere_into_nights_come_once_and_in_order(
    nights: Nights, data: st.DataObject
) -> None:
    faults = st.tuples(st.integers(0, 12), st.sampled_from(EVERY_FAULT))
    append_all(nights, {}, lambda: data.draw(faults))


@pytest.mark.slow
@pytest.mark.parametrize("nights", EXAMPLES[:1])
def test_each_call_to_the_file_system_may_fail(
    nights: Nights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched = (
        *test_row_02_file_system.WATCHED,
        in_place.__name__,
        files_of_chunks.__name__,
    )
    monkeypatch.setattr(test_row_02_file_system, "WATCHED", watched)
    files = FileSystem(monkeypatch, can_exchange=True)
    for night in range(1, len(nights.sizes)):
        number = calls = 0
        while number <= calls:
            for fault in EVERY_FAULT:
                files.fail(0, fault)
                path = tmp_path / f"{night} {number} {fault}" / "rows.zarr"
                for before in range(night):
                    nights.append(path, before)
                files.fail(number, fault)
                with suppress(OSError, LazyChunksError, CrashedError):
                    nights.append(path, night)
                calls = len(files.calls) if number == 0 else calls
                files.fail(0, fault)
                assert is_whole(nights, seen_at(path), night, night + 1), (number, fault)
                nights.append(path, night)
                assert is_whole(nights, seen_at(path), night + 1), (number, fault)
                assert list_beside_chunks(path.parent) == ["rows.zarr/zarr.json"], (number, fault)
            number += 1


def list_beside_chunks(root: Path) -> list[str]:
    """Return the files below a directory that are no chunks."""
    return [
        name
        for name, content in tree(root).items()
        if content != "directory" and not re.search(r"/c/\d+/\d+$", name)
    ]


LONG = Nights(((3, 1, 4, 1, 5, 9, 2, 6) * 5,) * 6, chunks=7)
KILLS = 20


def append_and_die(path: str, night: int, block: int) -> None:
    """Append a night in a process that is killed at a block, or after all of them."""
    LONG.append(path, night, lambda number: die() if number == block else None)
    die()


@pytest.mark.slow
def test_kills_lose_no_row_and_no_night_comes_twice(tmp_path: Path) -> None:
    path, chance, kills = tmp_path / "rows.zarr", random.Random(14), 0  # noqa: S311
    blocks = len(LONG.sizes[0])
    for night in range(len(LONG.sizes)):
        for _ in range(-(-KILLS // len(LONG.sizes))):
            with running(append_and_die, str(path), night, chance.randrange(blocks + 9)) as process:
                assert died_by_sigkill(process)
            kills += 1
            assert is_whole(LONG, seen_at(path), night, night + 1)
        computed: list[int] = []
        is_there = is_whole(LONG, seen_at(path), night + 1)
        LONG.append(path, night, computed.append)
        assert not (is_there and computed), "a night that has come is not computed again"
        assert is_whole(LONG, seen_at(path), night + 1)
    assert kills >= KILLS
    assert list_beside_chunks(tmp_path) == ["rows.zarr/zarr.json"]
