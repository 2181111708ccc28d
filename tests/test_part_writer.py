"""The part writer: blocks in their order, whole units at their places, and what is refused."""

import fcntl
import itertools
import os
import shutil
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from zarr.core.buffer import Buffer
from zarr.storage import LocalStore, MemoryStore

from lazychunks import (
    BlockDTypeError,
    BlockShapeError,
    DestinationBusyError,
    EmptyRowError,
    ResumeMismatchError,
)
from lazychunks.layout.parts import AnyPart, Part, split
from lazychunks.layout.shapes import Shape
from lazychunks.runs.passes import STORED
from lazychunks.storage.chunks.background import BackgroundWriter
from lazychunks.storage.chunks.metadata import KEPT_BACK
from lazychunks.storage.chunks.units import Units
from lazychunks.storage.keys import Keys
from lazychunks.storage.places.file_system import remove_directory
from lazychunks.storage.resuming import spill
from lazychunks.storage.resuming.record import Record, seal, serialize, with_record, with_shape
from lazychunks.storage.writing import part_writer
from lazychunks.storage.writing.part_writer import PartWriter, PartWriters, Receipt
from lazychunks.storage.writing.target import Target, list_stored_units
from tests.places import values_at
from tests.strategies import Array, partitions
from tests.targets import make_target
from tests.test_open_units import arranged, next_start, placed, placed_in_grid

extents = st.integers(1, 5)


@dataclass
class Notes:
    """A notebook that remembers what it is told."""

    log: list[tuple[Any, ...]] = field(default_factory=list[tuple[Any, ...]])

    def forget_units(self, cells: Collection[Shape]) -> None:
        self.log.append(("forget", frozenset(cells)))

    def note_sizes(self, sizes: Sequence[Sequence[int]]) -> None:
        self.log.append(("sizes", *map(tuple, sizes)))

    def note_length(self, axis: int, length: int) -> None:
        self.log.append(("length", axis, length))


class Recording(MemoryStore):
    """Writes down in which order keys are set."""

    def __init__(self, log: list[tuple[Any, ...]]) -> None:
        super().__init__({})
        self.log = log

    async def set(self, key: str, value: Buffer, byte_range: Any = None) -> None:
        """Set a key."""
        self.log.append(("set", key))
        await super().set(key, value, byte_range)


def write_all(target: Target[Array], notes: Notes | None = None) -> PartWriter[Array]:
    """Return the writer of everything."""
    part: AnyPart = Part(0, (0, 0), (), (True, True), target.block_axes)
    return PartWriter(target, part, is_whole=True, notebook=notes)


def read(target: Target[Array], shape: Shape) -> Array:
    """Read what is stored, as any other program would."""
    store: Any = target.where.store
    copy = MemoryStore(dict(store._store_dict))
    Keys(copy, "").write("zarr.json", serialize(with_shape(target.document, shape)))
    return values_at(copy)


def check(target: Target[Array], whole: Array) -> None:
    """All of an array is stored, and nothing else."""
    if whole.size:
        np.testing.assert_array_equal(read(target, whole.shape), whole)
    keys = target.where.list_keys() or []
    cells = list_stored_units(keys, target.plan)
    beside = len(keys) // max(len(cells), 1)
    assert len(keys) == len(cells) * beside, "whole units only"


def rows_of(heights: Shape, widths: Shape | None, whole: Array) -> Iterator[list[Array]]:
    """Rows of blocks; of a flat sequence, each with one block."""
    blocks = [
        block
        for _, block in (
            placed_in_grid(heights, widths, whole) if widths else placed(heights, whole)
        )
    ]
    each = len(widths or (0,))
    return (blocks[at : at + each] for at in range(0, len(blocks), each))


# Everything, in one thread


@given(partitions(8, 6), st.integers(0, 3), extents)
def test_rows_lie_below_each_other(heights: Shape, tail: int, unit: int) -> None:
    whole = arranged((sum(heights), tail))
    target = make_target((heights[0], tail), (unit,))
    with write_all(target) as writer:
        for number, block in enumerate(block for (block,) in rows_of(heights, None, whole)):
            assert writer.cursor.index == (number,)
            assert writer.taken == number
            assert writer.cursor.stops == (sum(heights[:number]),)
            writer.step(block)
        assert writer.state() == Receipt((len(whole),), len(heights))
        assert writer.state() == Receipt((len(whole),), len(heights)), "harmless"
    assert writer.counts == (len(heights),)
    check(target, whole)


@given(partitions(5, 5), partitions(5, 5), st.tuples(extents, extents))
def test_blocks_of_a_row_lie_beside_each_other(heights: Shape, widths: Shape, unit: Shape) -> None:
    whole = arranged((sum(heights), sum(widths)))
    target = make_target((heights[0], widths[0]), unit, axes=2)
    with write_all(target) as writer:
        for row, blocks in enumerate(rows_of(heights, widths, whole)):
            for column, block in enumerate(blocks):
                assert writer.cursor.index == (row, column)
                assert writer.taken == row * len(widths) + column
                writer.step(block)
                assert writer.cursor.stops[0] == sum(heights[: row + 1])
            writer.end_row()
            assert writer.cursor.stops == (sum(heights[: row + 1]), sum(widths))
        assert writer.state() == Receipt(whole.shape, len(heights) * len(widths))
    assert writer.counts == (len(heights), len(widths))
    check(target, whole)


@given(st.lists(st.integers(0, 4), min_size=1, max_size=12), extents, st.integers(1, 3))
def test_no_more_than_the_ring_and_one_buffer_are_alive(
    heights: list[int], unit: int, in_flight: int
) -> None:
    """Also while open units are spilled."""
    made: list[int] = []
    allocate = BackgroundWriter.allocate

    def counting(self: BackgroundWriter) -> Array:
        buffer = allocate(self)
        if id(buffer) not in made:
            made.append(id(buffer))
        kept.append(buffer)
        return buffer

    kept: list[Array] = []
    whole = arranged((sum(heights), 2))
    target = make_target((heights[0], 2), (unit,), max_in_flight=in_flight)
    target = replace(target, spilled={}, is_resumable=True)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(BackgroundWriter, "allocate", counting)
        patched.setattr(spill, "SECONDS", 0.0)
        with write_all(target, Notes()) as writer:
            for (block,) in rows_of(tuple(heights), None, whole):
                writer.step(block)
            writer.state()
    assert len(made) <= in_flight + 2, "those being written, one that waits, and the open one"
    np.testing.assert_array_equal(read(target, whole.shape), whole)


# Parts, each by itself, in any order


@st.composite
def divided(draw: st.DrawFn) -> tuple[Shape, Shape | None, Shape, bool]:
    """Draw sizes that fall on whole units: heights, widths if nested, units, and if listed."""
    listed = draw(st.booleans())
    axes = draw(st.integers(1, 2))
    sizes: list[Shape] = []
    units: list[int] = []
    for _ in range(axes):
        unit = draw(st.integers(1, 4))
        if listed:
            unit_sizes = draw(st.lists(st.integers(0, 3), min_size=1, max_size=4))
            sizes.append(tuple(unit * size for size in unit_sizes))
        else:
            first = draw(st.integers(1, 4))
            sizes.append((*(first,) * draw(st.integers(0, 4)), draw(st.integers(0, first))))
            unit = first * draw(st.integers(1, 3))
            if len(sizes[-1]) == 1 and not sizes[-1][0]:
                sizes[-1] = (first,)
        units.append(unit)
    return sizes[0], sizes[1] if axes == 2 else None, tuple(units), listed


def parts_of(target: Target[Array], heights: Shape, widths: Shape | None, whole: Array) -> Any:
    rows = [
        [partial(np.copy, block) for block in blocks] for blocks in rows_of(heights, widths, whole)
    ]
    return split(rows, [target.plan], target.block_axes)


@given(divided(), st.randoms(use_true_random=False))
def test_parts_in_any_order_store_the_same(
    drawn: tuple[Shape, Shape | None, Shape, bool], order: Any
) -> None:
    heights, widths, unit, listed = drawn
    axes = 1 if widths is None else 2
    whole = arranged((sum(heights), sum(widths))) if widths else arranged((sum(heights), 2))
    target = make_target(
        (heights[0], widths[0]) if widths else (heights[0], 2),
        unit,
        axes=axes,
        sizes=((heights, widths) if listed else (None, None)),
        lengths=whole.shape[:axes],
        lists_sizes=listed,
    )
    parts = list(parts_of(target, heights, widths, whole))
    order.shuffle(parts)
    receipts: list[Receipt] = []
    for part in parts:
        with PartWriters(target).start_part(part) as writer:
            for row in part.rows:
                for call in row:
                    writer.step(call())
                if axes == 2:
                    writer.end_row()
            receipts.append(writer.state())
    assert tuple(map(max, zip(*(r.stops for r in receipts), strict=True))) == whole.shape[:axes]
    assert sum(receipt.blocks for receipt in receipts) == len(heights) * len(widths or (0,))
    check(target, whole)


def one_part(
    target: Target[Array],
    index: tuple[int, int],
    shapes: list[list[Shape]],
    ends: tuple[bool, bool],
) -> Receipt:
    """Write a part of blocks of these shapes."""
    rows = tuple(tuple(partial(np.zeros, shape, int) for shape in row) for row in shapes)
    part: AnyPart = Part(0, index, rows, ends, target.block_axes)
    with PartWriters(target).start_part(part) as writer:
        for row in rows:
            for call in row:
                writer.step(call())
            if target.block_axes == 2:
                writer.end_row()
        return writer.state()


def test_the_last_part_tells_where_the_array_ends() -> None:
    target = make_target((4, 3), (4,))
    assert one_part(target, (2, 0), [[(1, 3)]], (True, True)) == Receipt((9,), 1)
    grid = make_target((4, 3), (4, 6), axes=2)
    assert one_part(grid, (1, 2), [[(2, 3), (2, 1)]], (True, True)) == Receipt((6, 10), 2)


@pytest.mark.parametrize(
    ("index", "shapes", "ends", "lengths", "block", "expected"),
    [
        ((1, 0), [[(3, 3)]], (False, True), (None,), 1, (4, 3)),
        ((1, 0), [[(5, 3)]], (True, True), (None,), 1, ("*", 3)),
        ((1, 0), [[(4, 3)]], (True, True), (6,), 1, (2, 3)),
        ((1, 0), [[(4, 2)]], (False, True), (None,), 1, (4, 3)),
    ],
)
def test_a_part_knows_beforehand_where_each_block_lies(
    index: tuple[int, int],
    shapes: list[list[Shape]],
    ends: tuple[bool, bool],
    lengths: Shape,
    block: object,
    expected: object,
) -> None:
    target = make_target((4, 3), (4,), lengths=lengths)
    with pytest.raises(BlockShapeError, match=f"block {block} has shape") as caught:
        one_part(target, index, shapes, ends)
    assert (caught.value.block, caught.value.expected) == (block, expected)
    assert target.where.list_keys() == []


@pytest.mark.parametrize(
    ("index", "shapes", "ends", "block"),
    [
        ((1, 1), [[(4, 3), (4, 2)]], (False, False), (1, 2)),
        ((1, 1), [[(4, 3), (4, 4)]], (False, True), (1, 2)),
        ((1, 1), [[(3, 3), (4, 3)]], (False, False), (1, 1)),
        ((1, 1), [[(3, 3), (4, 3)]], (True, False), (1, 2)),
        ((0, 1), [[(4, 3), (4, 2)], [(4, 3), (4, 1)]], (False, True), (1, 2)),
    ],
)
def test_a_part_of_a_grid_knows_it_too(
    index: tuple[int, int], shapes: list[list[Shape]], ends: tuple[bool, bool], block: object
) -> None:
    target = make_target((4, 3), (8, 6), axes=2)
    with pytest.raises(BlockShapeError, match="with an executor") as caught:
        one_part(target, index, shapes, ends)
    assert caught.value.block == block
    assert target.where.list_keys() == []


# What is refused leaves the writer as it was


def test_a_block_that_is_refused_is_not_taken() -> None:
    flat = write_all(make_target((2, 3), (2,)))
    with pytest.raises(BlockShapeError, match=r"^block 0 "):
        flat.step(np.zeros((), int))
    flat.step(np.zeros((2, 3), int))
    with pytest.raises(BlockShapeError, match=r"^block 1 .* expected \(\*, 3\)"):
        flat.step(np.zeros((2, 4), int))
    with pytest.raises(BlockDTypeError, match=r"^block 1 "):
        flat.step(np.zeros((2, 3), "f4"))
    assert (flat.cursor.index, flat.cursor.stops, flat.taken) == ((1,), (2,), 1)
    grid = write_all(make_target((2, 3), (2, 3), axes=2))
    grid.step(np.zeros((2, 3), int))
    with pytest.raises(BlockShapeError, match=r"^block \(0, 1\) .* expected \(2, \*\)"):
        grid.step(np.zeros((1, 3), int))
    assert (grid.cursor.index, grid.cursor.stops) == ((0, 1), (2, 3))
    grid.end_row()
    with pytest.raises(BlockShapeError, match=r"^block \(1, 0\) .* expected \(\*, 3\)"):
        grid.step(np.zeros((2, 4), int))
    assert (grid.cursor.index, grid.cursor.stops) == ((1, 0), (2, 3))


def test_a_row_has_as_many_blocks_as_the_first() -> None:
    writer = write_all(make_target((2, 3), (2, 3), axes=2))
    for _ in range(2):
        writer.step(np.zeros((2, 3), int))
    writer.end_row()
    writer.step(np.zeros((1, 3), int))
    way_out = "expected 2 like the rows before it; yield the same number of blocks in each row"
    with pytest.raises(BlockShapeError, match=f"^row 1 has 1 blocks, {way_out}$") as caught:
        writer.end_row()
    error = caught.value
    assert (error.block, error.expected, error.got) == ((1, 1), 2, "1 blocks")
    writer.step(np.zeros((1, 3), int))
    with pytest.raises(BlockShapeError, match=f"^row 1 has more than 2 blocks, {way_out}$") as more:
        writer.step(np.zeros((1, 3), int))
    error = more.value
    assert (error.block, error.expected, error.got) == ((1, 2), 2, "more than 2 blocks")


@pytest.mark.parametrize("row", [0, 1])
def test_a_row_holds_a_block(row: int) -> None:
    writer = write_all(make_target((2, 3), (2, 3), axes=2))
    for _ in range(row):
        writer.step(np.zeros((2, 3), int))
        writer.end_row()
    said = (
        f"^row {row} holds no block, so its height is not known; leave the row out, or yield "
        "blocks of height zero$"
    )
    with pytest.raises(EmptyRowError, match=said) as caught:
        writer.end_row()
    assert caught.value.row == row


@pytest.mark.parametrize("is_whole", [False, True])
def test_a_block_has_the_size_that_is_listed(is_whole: bool) -> None:
    target = make_target((2, 3), (1,), sizes=((2, 0, 5),), lengths=(7,), lists_sizes=True)
    rows = [[partial(np.zeros, (height, 3), int)] for height in (2, 0, 4)]
    part: AnyPart = Part(0, (0, 0), rows, (True, True), 1)
    with PartWriter(target, part, is_whole=is_whole) as writer:
        for (call,) in rows[:2]:
            writer.step(call())
        with pytest.raises(BlockShapeError, match=r"block 2 has size 4 .* lists 5") as caught:
            writer.step(np.zeros((4, 3), int))
    assert (caught.value.block, caught.value.expected, caught.value.got) == (2, 5, 4)


def test_a_block_has_the_size_that_was_noted() -> None:
    target = make_target((2, 3), (1,), sizes=((2, 5),), is_taken_up=True)
    with write_all(target) as writer:
        writer.step(np.zeros((2, 3), int))
        with pytest.raises(ResumeMismatchError, match=r"block 1 .* is 4, was 5") as caught:
            writer.step(np.zeros((4, 3), int))
        assert caught.value.field == "size"
        writer.step(np.zeros((5, 3), int))
        writer.step(np.zeros((9, 3), int))


def test_an_array_does_not_end_elsewhere_than_before() -> None:
    stored = frozenset({(0,), (3,)})
    with write_all(make_target((2, 3), (2,), stored=stored)) as writer:
        for _ in range(3):
            writer.step(np.zeros((2, 3), int))
        with pytest.raises(ResumeMismatchError, match="length of axis 0 is 6, was at least 7"):
            writer.state()
    with write_all(make_target((2, 3), (2,), lengths=(5,))) as writer:
        for _ in range(2):
            writer.step(np.zeros((2, 3), int))
        with pytest.raises(ResumeMismatchError, match="length of axis 0 is 4, was 5"):
            writer.state()
        with pytest.raises(ResumeMismatchError, match="length of axis 0 is 6, was 5"):
            writer.step(np.zeros((2, 3), int))


# What a notebook is told


def test_sizes_are_noted_before_anything_is_written_at_a_place_of_theirs() -> None:
    notes = Notes()
    target = make_target((2, 3), (2,), store=Recording(notes.log))
    with write_all(target, notes) as writer:
        for height in (2, 3, 2, 1):
            writer.step(np.zeros((height, 3), int))
        writer.state()
    at = notes.log.index(("sizes", (2, 3)))
    assert ("set", "c/0/0") in notes.log
    assert ("set", "c/1/0") not in notes.log[:at]
    noted = [note for note in notes.log if note[0] == "sizes"]
    assert noted == [("sizes", (2, 3)), ("sizes", (2, 3, 2, 1))], "once more in the end"


def test_a_last_block_that_is_smaller_is_no_news_where_the_end_is_known() -> None:
    notes = Notes()
    with write_all(make_target((2, 3), (2,), lengths=(5,)), notes) as writer:
        for height in (2, 2, 1):
            writer.step(np.zeros((height, 3), int))
        writer.state()
    assert notes.log == []


def test_the_sizes_of_rows_and_columns_are_noted_when_they_differ() -> None:
    notes = Notes()
    with write_all(make_target((2, 2), (2, 2), axes=2), notes) as writer:
        for height in (2, 3, 1):
            for width in (2, 1, 2):
                writer.step(np.zeros((height, width), int))
            writer.end_row()
        writer.state()
    assert notes.log == [
        ("sizes", (2,), (2, 1)),
        ("length", 1, 5),
        ("sizes", (2, 3), (2, 1, 2)),
        ("length", 0, 6),
        ("sizes", (2, 3, 1), (2, 1, 2)),  # once more, so that each block can be read back
    ]


def test_units_at_wrong_places_are_forgotten_before_sizes_are_noted() -> None:
    notes = Notes()
    target = make_target((2, 3), (2,), stored=frozenset({(0,), (2,), (3,)}))
    with write_all(target, notes) as writer:
        writer.step(STORED)
        writer.step(np.ones((5, 3), int))
        writer.step(np.ones((1, 3), int))
        writer.state()
    assert notes.log == [
        ("forget", {(2,), (3,)}),
        ("sizes", (2, 5)),
        ("length", 0, 8),
        ("sizes", (2, 5, 1)),
    ]


def test_sizes_are_not_noted_where_forgetting_has_failed() -> None:
    """They would be believed, and with them what is stored at wrong places."""

    class Failing(Notes):
        def forget_units(self, cells: Collection[Shape]) -> None:
            raise OSError(5, f"Input/output error at {cells}")

    notes = Failing()
    target = make_target((2, 3), (2,), stored=frozenset({(0,), (2,)}), is_resumable=True)

    def run() -> None:
        with write_all(target, notes) as writer:
            writer.step(STORED)
            writer.step(np.ones((5, 3), int))

    with pytest.raises(OSError, match="Input/output"):
        run()
    assert notes.log == [("sizes", (2,))], "those of the blocks before"


# What is kept for another start


def spilling(first: Shape, unit: Shape, **fields: Any) -> Target[Array]:
    return make_target(first, unit, spilled={}, is_resumable=True, **fields)


def spilled_pieces(target: Target[Array]) -> dict[Shape, spill.Pieces]:
    return dict(next_start(target).spilled or {})


def test_what_has_come_is_spilled_at_a_failure() -> None:
    target = spilling((2, 3), (8,))

    def run() -> None:
        with write_all(target, Notes()) as writer:
            for _ in range(2):
                writer.step(np.ones((2, 3), int))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run()
    assert spilled_pieces(target) == {(0,): {((0, 2),), ((2, 4),)}}


def test_a_part_spills_as_well() -> None:
    target = spilling((2, 3), (8,))
    with pytest.raises(BlockShapeError):
        one_part(target, (4, 0), [[(2, 3)], [(1, 3)]], (False, True))
    assert spilled_pieces(target) == {(1,): {((0, 2),)}}


def test_a_failure_of_spilling_does_not_hide_the_one_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def no_space(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(spill, "spill", no_space)

    def run() -> None:
        with write_all(spilling((2, 3), (8,)), Notes()) as writer:
            writer.step(np.ones((2, 3), int))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run()


def test_without_a_name_nothing_is_kept() -> None:
    target = make_target((2, 3), (8,))
    with pytest.raises(BlockShapeError):
        one_part(target, (4, 0), [[(2, 3)], [(1, 3)]], (False, True))
    assert target.where.list_keys() == []


class Clock:
    """A clock that goes when it is told."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(part_writer, "time", clock)
    return clock


def test_it_spills_at_most_about_once_a_second(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Blocks that are cheap do not pay for it."""
    written: list[float] = []
    store = spill.spill

    def write(*arguments: Any) -> None:
        written.append(clock.now)
        store(*arguments)

    monkeypatch.setattr(spill, "spill", write)
    with write_all(spilling((2, 3), (1000,)), Notes()) as writer:
        for _ in range(250):
            writer.step(np.ones((2, 3), int))
            clock.now += 0.01
        assert [round(moment - 100, 2) for moment in written] == [1.0, 2.0]


def test_spilling_takes_a_tenth_of_the_time_at_most(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a unit is large, and takes three seconds to write."""
    written: list[float] = []

    def write(*_: object) -> None:
        written.append(clock.now)
        clock.now += 3

    monkeypatch.setattr(spill, "spill", write)
    with write_all(spilling((2, 3), (1000,)), Notes()) as writer:
        for _ in range(100):
            writer.step(np.ones((2, 3), int))
            clock.now += 1
        assert len(written) == 4
    gaps = [later - earlier for earlier, later in itertools.pairwise(written)]
    assert min(gaps) >= 3 + 27


def test_what_is_spilled_goes_when_its_unit_is_written(clock: Clock) -> None:
    target = spilling((2, 3), (4,))
    with write_all(target, Notes()) as writer:
        writer.step(np.ones((2, 3), int))
        clock.now += 2
        writer.step(np.ones((0, 3), int))
        assert (0,) in spilled_pieces(target)
        writer.step(np.ones((2, 3), int))
        writer.state()
    assert target.where.list_keys() == ["c/0/0"]


def test_a_run_that_takes_the_place_waits_for_a_chunk_of_a_late_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between its look at the mark and its write, the directory must not be made anew."""
    kinds: dict[str, list[int]] = {"written": [], "removed": []}

    def watch(owner: Any, name: str, what: str) -> None:
        function = getattr(owner, name)

        def call(*args: Any, **options: Any) -> Any:
            for kind in (fcntl.LOCK_SH, fcntl.LOCK_EX):
                descriptor = os.open(tmp_path / "there", os.O_RDONLY)
                try:
                    fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
                except BlockingIOError:
                    kinds[what].append(kind)
                finally:
                    os.close(descriptor)
            return function(*args, **options)

        monkeypatch.setattr(owner, name, call)

    where = Keys(LocalStore(tmp_path / "there"), "")
    target = replace(make_target((2, 3), (2,)), where=where, attempt="mine")
    record = Record("1", run_id="run", attempt="mine", first=(2, 3), counts=(9,))
    where.write(KEPT_BACK, seal(with_record(target.document, record)))
    part: AnyPart = Part(0, (0, 0), [[partial(np.ones, (2, 3), int)]], (False, True), 1)
    watch(Units, "write", "written")
    watch(shutil, "rmtree", "removed")
    with PartWriters(target).start_part(part) as writer:
        writer.step(np.ones((2, 3), int))
        writer.state()
    assert kinds["written"] == [fcntl.LOCK_EX]  # other workers may write
    remove_directory(tmp_path / "there")
    assert set(kinds["removed"]) == {fcntl.LOCK_SH, fcntl.LOCK_EX}
    assert not (tmp_path / "there").exists()


def test_a_late_worker_neither_writes_nor_spills(clock: Clock) -> None:
    """Its run is over, and another one has begun in its place."""
    target = spilling((2, 3), (6,), attempt="mine")
    record = Record("1", run_id="run", attempt="mine", first=(2, 3), counts=(9,))
    target.where.write(KEPT_BACK, seal(with_record(target.document, record)))
    rows = [[partial(np.ones, (2, 3), int)]] * 3
    part: AnyPart = Part(0, (0, 0), rows, (False, True), 1)
    with PartWriters(target).start_part(part) as writer:
        writer.step(np.ones((2, 3), int))
        taken = replace(record, attempt="another")
        target.where.write(KEPT_BACK, seal(with_record(target.document, taken)))
        clock.now += 2
        with pytest.raises(DestinationBusyError, match="given up or replaced"):
            writer.step(np.ones((2, 3), int))
        with pytest.raises(DestinationBusyError, match="given up or replaced"):
            writer.step(np.ones((2, 3), int))
        raised = DestinationBusyError("")
        writer.__exit__(type(raised), raised, None)
    assert target.where.list_keys() == [KEPT_BACK]
