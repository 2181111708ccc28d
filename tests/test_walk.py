"""Walks through the blocks of a part: each is computed, or known to be stored, in its order."""

import itertools
import pickle
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from types import TracebackType
from typing import Any, Self

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lazychunks.blocks.factories import BlockCall
from lazychunks.layout.parts import AnyPart, Part, whole
from lazychunks.layout.shapes import Shape
from lazychunks.runs.passes import STORED, Ends
from lazychunks.runs.walk import PartWork, Walk, enumerate_with_last, strip_functions

Index = tuple[int, ...]


@dataclass
class Log:
    """Takes steps, and remembers them beside what else has happened."""

    events: list[tuple[Any, ...]] = field(default_factory=list[tuple[Any, ...]])

    def step(self, block: Any, /) -> None:
        self.events.append(("step", block))

    def end_row(self) -> None:
        self.events.append(("end of row",))

    def named(self, name: str) -> list[Any]:
        """What has happened under a name."""
        return [event[1] for event in self.events if event[0] == name]


@dataclass
class Stored:
    """A shelf with some blocks."""

    indices: frozenset[Index]
    log: Log = field(default_factory=Log)
    asked: dict[Index, Ends] = field(default_factory=dict[Index, Ends])

    def has(self, index: Shape, is_last: Ends) -> bool:
        self.asked[index] = is_last
        return index in self.indices

    def read_block(self, index: Shape, is_last: Ends) -> Any:
        assert self.asked[index] == is_last
        return ("read", index)

    def compare(self, index: Shape, is_last: Ends, block: Any) -> None:
        assert self.asked[index] == is_last
        self.log.events.append(("compare", (index, block)))


@dataclass(frozen=True)
class Grid:
    """A part: so many rows and columns, somewhere."""

    start: tuple[int, int]
    shape: tuple[int, int]
    ends: Ends
    axes: int

    @property
    def indices(self) -> list[Index]:
        rows, columns = (
            range(start, start + count) for start, count in zip(self.start, self.shape, strict=True)
        )
        return [index[: self.axes] for index in itertools.product(rows, columns)]

    def part(self, log: Log) -> AnyPart:
        """Return the part, whose blocks are their indices."""
        calls = iter([partial(compute, log, index) for index in self.indices])
        rows = [[next(calls) for _ in range(self.shape[1])] for _ in range(self.shape[0])]
        return Part(0, self.start, rows, self.ends, self.axes)


def compute(log: Log, index: Index) -> Index:
    log.events.append(("compute", index))
    return index


@st.composite
def grids(draw: st.DrawFn) -> Grid:
    axes = draw(st.integers(1, 2))
    numbers = st.integers(0, 5)
    counts = st.integers(1, 4)
    return Grid(
        (draw(numbers), draw(numbers) if axes == 2 else 0),
        (draw(counts), draw(counts) if axes == 2 else 1),
        draw(st.tuples(st.booleans(), st.booleans())),
        axes,
    )


@given(grids(), st.integers(0, 2), st.booleans(), st.data())
def test_each_block_is_stepped_once_in_order_and_computed_unless_all_have_stored_it(
    grid: Grid, shelves: int, needs_blocks: bool, data: st.DataObject
) -> None:
    log = Log()
    subsets = st.none() | st.frozensets(st.sampled_from(grid.indices))
    drawn = [data.draw(subsets) for _ in range(shelves)]
    stored = [None if indices is None else Stored(indices, log) for indices in drawn]
    verify = (
        data.draw(st.frozensets(st.sampled_from(range(shelves)))) if shelves else frozenset[int]()
    )
    Walk(tuple(stored), needs_blocks).go_through(grid.part(log), log, verify)
    done = set(grid.indices) if shelves else set[Index]()
    for indices in drawn:
        done &= indices or frozenset()
    compared = {
        number: next((index for index in grid.indices if index in (drawn[number] or ())), None)
        for number in verify
    }
    read = [("read", index) if needs_blocks else STORED for index in grid.indices]
    assert log.named("step") == [
        read[number] if index in done else index for number, index in enumerate(grid.indices)
    ]
    assert log.named("compute") == [
        index for index in grid.indices if index not in done or index in compared.values()
    ]
    assert sorted(log.named("compare")) == sorted(
        (index, index) for index in compared.values() if index is not None
    )
    rows = [number for number, event in enumerate(log.events) if event[0] == "end of row"]
    assert len(rows) == (grid.shape[0] if grid.axes == 2 else 0)
    steps = [number for number, event in enumerate(log.events) if event[0] == "step"]
    for row, at in enumerate(rows, start=1):
        assert sum(step < at for step in steps) == row * grid.shape[1]


@given(grids())
def test_it_knows_which_blocks_are_the_last(grid: Grid) -> None:
    shelf = Stored(frozenset())
    Walk((shelf,), needs_blocks=False).go_through(grid.part(Log()), Log())
    for row, column in itertools.product(*map(range, grid.shape)):
        index = (grid.start[0] + row, grid.start[1] + column)[: grid.axes]
        last = (row + 1 == grid.shape[0], column + 1 == grid.shape[1])
        assert shelf.asked[index] == (last[0] and grid.ends[0], last[1] and grid.ends[1])


@given(grids(), st.integers(0, 2), st.data())
def test_it_tells_who_has_stored_any_block_of_a_part_and_whether_all_have_all(
    grid: Grid, shelves: int, data: st.DataObject
) -> None:
    subsets = st.frozensets(st.sampled_from(grid.indices))
    drawn = [data.draw(subsets) for _ in range(shelves)]
    log = Log()
    walk = Walk(tuple(Stored(indices) for indices in drawn), needs_blocks=False)
    assert walk.look_at(grid.part(log)) == (
        {number for number, indices in enumerate(drawn) if indices},
        bool(drawn) and all(indices == set(grid.indices) for indices in drawn),
    )
    assert walk.is_empty == (not drawn)
    assert Walk((None,), needs_blocks=False).is_empty
    assert not log.events, "nothing is computed"


def test_what_is_stored_is_asked_block_by_block() -> None:
    """A sink may find in the middle that less is stored than it seemed."""
    log, shelf = Log(), Stored(frozenset({(0,), (1,), (2,)}))

    class Forgetting(Log):
        def step(self, block: Any, /) -> None:
            shelf.indices = frozenset({(0,)})
            log.step(block)

    grid = Grid((0, 0), (3, 1), (True, True), axes=1)
    Walk((shelf,), needs_blocks=False).go_through(grid.part(log), Forgetting())
    assert log.named("step") == [STORED, (1,), (2,)]


def test_the_part_that_is_everything_stays_lazy() -> None:
    """One row ahead, to see whether it is the last."""
    drawn: list[int] = []

    def rows() -> Iterator[list[Any]]:
        for number in range(4):
            drawn.append(number)
            yield [partial(len, range(number))]

    seen: list[tuple[Any, int]] = []

    class Seeing(Log):
        def step(self, block: Any, /) -> None:
            seen.append((block, len(drawn)))

    Walk((), needs_blocks=False).go_through(whole(rows(), 1), Seeing())
    assert seen == [(0, 2), (1, 3), (2, 4), (3, 4)]


@given(st.lists(st.integers(), max_size=5), st.integers(0, 9))
def test_items_are_numbered_and_the_last_one_is_known(items: list[int], start: int) -> None:
    found = list(enumerate_with_last(iter(items), start))
    assert found == [
        (start + number, item, number + 1 == len(items)) for number, item in enumerate(items)
    ]


# What travels to a worker


@dataclass
class Summing:
    """A pass over a part that joins its blocks, and remembers how it ended."""

    exits: list[type[BaseException] | None]
    blocks: list[Any] = field(default_factory=list[Any])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
        /,
    ) -> None:
        self.exits.append(kind)

    def step(self, block: Any, /) -> None:
        self.blocks.append(block)

    def end_row(self) -> None:
        self.blocks.append("|")

    def state(self) -> Any:
        return self.blocks


@dataclass(frozen=True)
class Joining:
    """A fold of parts."""

    exits: list[type[BaseException] | None] = field(
        default_factory=list[type[BaseException] | None]
    )
    indices: list[Any] = field(default_factory=list[Any])

    @property
    def sends_blocks(self) -> bool:
        return False

    def start_part(self, part: AnyPart, /) -> Summing:
        self.indices.append([len(row) for row in part.rows])
        return Summing(self.exits)


def inverse(row: float, column: float = 1.0) -> float:
    return column / row


def part_of(items: list[list[tuple[float, ...]]]) -> AnyPart:
    axes = len(items[0][0])
    rows = [[BlockCall(inverse, found) for found in row] for row in items]
    return Part(3, (0, 0), rows, (True, True), axes)


def test_a_worker_goes_through_a_part_and_returns_its_state() -> None:
    fold = Joining()
    work = PartWork(fold, Walk((), needs_blocks=True))
    flat = strip_functions(part_of([[(1.0,)], [(2.0,)]]))
    assert work(inverse, flat) == [1.0, 0.5]
    nested = strip_functions(part_of([[(1.0, 2.0), (1.0, 3.0)], [(2.0, 2.0), (2.0, 3.0)]]))
    assert work(inverse, nested) == [2.0, 3.0, "|", 1.0, 1.5, "|"]
    assert fold.exits == [None, None]
    assert fold.indices == [[1, 1], [2, 2]], "a part knows its size when it is started"


def test_a_part_that_fails_is_left_by_its_error() -> None:
    fold = Joining()
    work = PartWork(fold, Walk((), needs_blocks=True))
    with pytest.raises(ZeroDivisionError):
        work(inverse, strip_functions(part_of([[(1.0,)], [(0.0,)]])))
    assert fold.exits == [ZeroDivisionError]


def test_a_part_travels_without_the_function_of_its_blocks() -> None:
    def local(item: float) -> float:
        return item

    rows = [[BlockCall(local, (item,))] for item in (1.0, 2.0)]
    part = strip_functions(Part(3, (2, 0), rows, (False, True), 1))
    assert pickle.loads(pickle.dumps(part)) == part  # noqa: S301
    assert part.rows == (((1.0,),), ((2.0,),))
    assert (part.number, part.index, part.ends, part.axes) == (3, (2, 0), (False, True), 1)
