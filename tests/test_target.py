"""The target of a run: where each block lies, and whether it is stored, against a naive oracle."""

import itertools
import pickle
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from zarr.codecs import GzipCodec, TransposeCodec
from zarr.storage import LocalStore, MemoryStore

from lazychunks import BlockDTypeError, BlockTypeError, ResumeMismatchError
from lazychunks.layout.partition import ArrayPlan, Partition
from lazychunks.layout.shapes import Region, Shape, cell_region
from lazychunks.storage.chunks.filled import Filled
from lazychunks.storage.options import WriteOptions
from lazychunks.storage.resuming import spill
from lazychunks.storage.writing.target import Target, list_stored_units, parse_chunk_key
from tests.strategies import Array, partitions
from tests.targets import make_target
from tests.test_open_units import arranged

extents = st.integers(1, 5)


@dataclass(frozen=True)
class Case:
    """Blocks of which an earlier start has stored some units, and spilled parts of others."""

    sizes: tuple[Shape, ...]
    """Along each block axis."""
    target: Target[Array]
    whole: Array

    @property
    def indices(self) -> list[Shape]:
        return list(itertools.product(*(range(len(along)) for along in self.sizes)))

    def ends(self, index: Shape) -> tuple[bool, bool]:
        last = [number + 1 == len(along) for number, along in zip(index, self.sizes, strict=True)]
        return last[0], last[-1]

    def span(self, index: Shape) -> Region:
        """Where a block lies, by adding up sizes."""
        return tuple(
            slice(sum(along[:number]), sum(along[: number + 1]))
            for number, along in zip(index, self.sizes, strict=True)
        )

    def elements(self, index: Shape) -> list[Shape]:
        """Positions of a block's elements along the block axes."""
        return list(itertools.product(*(range(s.start, s.stop) for s in self.span(index))))

    def is_done(self, index: Shape) -> bool:
        """Whether each element lies in a unit that is stored, or in a piece that is spilled."""
        unit, spilled = self.target.unit, self.target.spilled or {}
        found = [
            cell in self.target.stored
            or any(
                all(
                    start <= at - number * size < stop
                    for at, number, size, (start, stop) in zip(
                        element, cell, unit, piece, strict=True
                    )
                )
                for piece in spilled.get(cell, ())
            )
            for element in self.elements(index)
            for cell in [tuple(at // size for at, size in zip(element, unit, strict=True))]
        ]
        return bool(found) and all(found)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    axes = draw(st.integers(1, 2))
    is_even = draw(st.booleans())
    sizes: list[Shape] = []
    for _ in range(axes):
        if is_even:
            size = draw(st.integers(1, 4))
            sizes.append((*(size,) * draw(st.integers(0, 4)), draw(st.integers(1, size))))
        else:
            sizes.append(draw(partitions(5, 4)))
    unit: Shape = draw(st.tuples(*(extents,) * axes))
    tail = draw(st.integers(1, 3))
    whole = arranged((*map(sum, sizes), tail))
    first = (*(along[0] for along in sizes), tail)
    layout = draw(
        st.sampled_from(
            [
                WriteOptions(),
                WriteOptions(compressors=None),
                WriteOptions(compressors=GzipCodec(level=1)),
                WriteOptions(filters=TransposeCodec(order=tuple(reversed(range(axes + 1))))),
            ]
        )
    )
    inner = (*unit, 1) if draw(st.booleans()) else None
    target = make_target(
        first,
        unit,
        axes=axes,
        sizes=(None, None) if is_even else tuple(sizes),
        lengths=whole.shape[:axes],
        options=layout,
        chunks=inner
        if inner and all(u % c == 0 for u, c in zip(unit, inner, strict=False))
        else None,
    )
    cells = list(
        itertools.product(
            *(range(-(-n // size)) for n, size in zip(whole.shape, unit, strict=False))
        )
    )
    stored = draw(st.frozensets(st.sampled_from(cells))) if cells else frozenset[Shape]()
    for cell in stored:
        put(target, cell, whole)
    case = Case(tuple(sizes), replace(target, stored=stored), whole)
    return replace(case, target=replace(case.target, spilled=spill_some(draw, case)))


def put(target: Target[Array], cell: Shape, whole: Array) -> None:
    """Store a unit."""
    shape = (*target.unit, *target.plan.trailing)
    region = cell_region((*cell, 0), shape, whole.shape)
    buffer = np.zeros(shape, whole.dtype)
    filled = Filled(region, buffer)
    filled.data[...] = whole[region]
    target.units.write(filled)


def spill_some(draw: st.DrawFn, case: Case) -> dict[Shape, spill.Pieces]:
    """Spill pieces of some blocks, and tell which."""
    target, pieces = case.target, dict[Shape, list[Region]]()
    for index in case.indices:
        if draw(st.booleans()):
            for cell, within, _ in target.pieces(case.span(index)):
                if cell not in target.stored:
                    pieces.setdefault(cell, []).append(within)
    for cell, listed in pieces.items():
        shape = (*target.unit, *target.plan.trailing)
        region = cell_region((*cell, 0), shape, case.whole.shape)
        buffer = np.full(shape, -1)
        Filled(region, buffer).data[...] = case.whole[region]
        spill.spill(target.where, cell, map(spill.piece_of, listed), buffer)
    return dict(spill.read_pieces(target.where, target.where.list_keys() or [], target.block_axes))


# Laws


@given(cases())
def test_where_a_block_lies_is_the_sum_of_the_sizes_before_it(case: Case) -> None:
    trailing = slice(0, case.whole.shape[-1])
    for index in case.indices:
        region = case.target.region(index, case.ends(index))
        assert region == (*case.span(index), trailing)


@given(cases())
def test_a_block_is_stored_if_each_of_its_elements_is(case: Case) -> None:
    for index in case.indices:
        assert case.target.has(index, case.ends(index)) == case.is_done(index)


@given(cases())
def test_a_stored_block_is_read_as_it_was(case: Case) -> None:
    for index in filter(case.is_done, case.indices):
        block = case.whole[case.span(index)]
        ends = case.ends(index)
        np.testing.assert_array_equal(case.target.read(index, ends), block)
        np.testing.assert_array_equal(case.target.read_block(index, ends), block)
        case.target.compare(index, ends, block.copy())
        with pytest.raises(ResumeMismatchError, match="has other values"):
            case.target.compare(index, ends, block + 1)


@given(cases())
def test_a_target_travels_and_finds_what_it_found_before(case: Case) -> None:
    keys = case.target.where.list_keys() or []
    there: Target[Array] = pickle.loads(pickle.dumps(case.target))  # noqa: S301
    assert there.stored == case.target.stored
    assert list_stored_units(keys, case.target.plan) == case.target.stored
    for index in case.indices:
        assert there.has(index, case.ends(index)) == case.is_done(index)


@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 6)), min_size=1, max_size=2),
    st.tuples(extents, extents),
)
def test_pieces_tile_a_region(spans: list[tuple[int, int]], units: Shape) -> None:
    axes = len(spans)
    target = make_target((1,) * axes, units[:axes], axes=axes)
    region = tuple(slice(start, start + length) for start, length in spans)
    times = np.zeros([length for _, length in spans], int)
    for cell, within, in_region in target.pieces(region):
        times[in_region] += 1
        for at, span, inside, seen, unit in zip(
            cell, region, within, in_region, target.unit, strict=True
        ):
            assert 0 <= inside.start < inside.stop <= unit
            assert at * unit + inside.start == span.start + seen.start
            assert at * unit + inside.stop == span.start + seen.stop
    assert (times == 1).all()


@given(st.sets(st.tuples(st.integers(0, 4), st.integers(0, 4), st.integers(0, 3))))
def test_a_unit_is_stored_if_all_chunks_beside_it_are(keys: set[Shape]) -> None:
    plan = ArrayPlan((Partition(1), Partition(1)), (5,), (2, 2, 2))
    names = ["/".join(map(str, ("c", *key))) for key in keys]
    assert list_stored_units(names, plan) == {
        (row, column)
        for row, column in itertools.product(range(5), repeat=2)
        if {(row, column, beside) for beside in range(3)} <= keys
    }


# Where the place of a block is not known


def test_only_the_last_block_can_tell_where_the_array_ends() -> None:
    flat = make_target((4, 3), (4,))
    assert flat.region((2,), (False, False)) == (slice(8, 12), slice(0, 3))
    assert flat.region((2,), (True, True)) is None
    grid = make_target((4, 3), (4, 3), axes=2, lengths=(None, 8))
    assert grid.region((1, 2), (False, True)) == (slice(4, 8), slice(6, 8))
    assert grid.region((1, 2), (True, True)) is None


def test_a_block_whose_size_was_not_noted_lies_anywhere() -> None:
    target = make_target((4, 3), (4,), sizes=((4, 2),), stored=frozenset((n,) for n in range(9)))
    assert target.region((1,), (False, False)) == (slice(4, 6), slice(0, 3))
    assert target.region((2,), (False, False)) is None
    assert not target.has((2,), (False, False))


@pytest.mark.parametrize(
    ("number", "is_last"), [(2, False), (3, True), (3, False)], ids=["not last", "beyond", "both"]
)
def test_a_block_that_cannot_be_there_is_told(number: int, is_last: bool) -> None:
    """The array is known to end after ten rows, in the middle of block 2."""
    target = make_target((4, 3), (4,), lengths=(10,), stored=frozenset({(0,)}))
    assert target.region((2,), (True, True)) == (slice(8, 10), slice(0, 3))
    with pytest.raises(ResumeMismatchError, match=r"length of axis 0 is .*, was 10") as caught:
        target.has((number,), (is_last, is_last))
    assert caught.value.field == "length"


def test_nothing_is_stored_of_a_block_without_elements() -> None:
    target = make_target((2, 3), (2,), sizes=((2, 0, 2),), stored=frozenset({(0,), (1,)}))
    assert [target.has((number,), (False, False)) for number in range(3)] == [True, False, True]


# Keys


@pytest.mark.parametrize(
    "key",
    [
        "c",
        "c/",
        "c//0",
        "c/0/",
        "c/03/0",
        "c/3/00",
        "c/٣/0",
        "c/-3/0",
        "c/+3/0",
        "c/3/0.partial",
        "c/ 3/0",
        "c/1_0/0",
        "C/3/0",
        "c.3.0",
        "zarr.json",
        "c/99999999999999999999/0",
        "x/c/3/0",
    ],
)
def test_a_key_that_only_looks_like_that_of_a_chunk_is_none(key: str) -> None:
    assert not parse_chunk_key(key) or len(parse_chunk_key(key)) != 2


@given(st.lists(st.integers(0, 10**12), min_size=1, max_size=4))
def test_the_key_of_a_chunk_is_parsed(cell: list[int]) -> None:
    assert parse_chunk_key("/".join(map(str, ("c", *cell)))) == tuple(cell)


def test_units_are_deleted_whole_and_nothing_else() -> None:
    target = make_target((2, 2, 5), (2, 2, 2), axes=2)
    target = replace(target, plan=replace(target.plan, unit=(2, 2, 2)))
    for key in ("c/0/0/0", "c/0/0/1", "c/0/0/2", "c/0/1/0", "c/0/0/3", spill.key_of((0, 0))):
        target.where.write(key, b"x")
    target.delete_units([(0, 0)])
    assert sorted(target.where.list_keys() or []) == ["c/0/0/3", "c/0/1/0"]


# What is damaged


@pytest.mark.parametrize("damage", ["stored", "spilled"])
def test_a_block_that_cannot_be_read_is_told(damage: str) -> None:
    whole = arranged((4, 3))
    target = make_target((2, 3), (4,), lengths=(4,))
    if damage == "stored":
        put(target, (0,), whole)
        target = replace(target, stored=frozenset({(0,)}))
        target.where.write("c/0/0", b"junk")
    else:
        spill.spill(target.where, (0,), [((0, 2),)], whole)
        target = replace(target, spilled={(0,): frozenset({((0, 2),)})})
        target.where.delete(spill.key_of((0,)))
    with pytest.raises(ResumeMismatchError, match=r"block 0 .* cannot be read") as caught:
        target.read((0,), (False, False))
    assert caught.value.field == "value"


# Conversions and checks


def test_a_block_is_converted_and_checked() -> None:
    target = make_target((2, 3), (2,))
    same: Array = np.zeros((2, 3), np.int64)
    assert target.to_array(same, (0,)) is same
    with pytest.raises(BlockDTypeError, match="block 4"):
        target.to_array(np.zeros((2, 3), "f4"), (4,))
    with pytest.raises(BlockTypeError, match="block 4"):
        target.to_array(np.ma.masked_equal(same, 0), (4,))
    casting = replace(target, casts=True, dtype=np.dtype("f4"))
    assert casting.to_array(same, (0,)).dtype == np.int64, "cast where it is stored"


def test_a_dtype_of_before_is_told_apart_from_that_of_the_first_block() -> None:
    target = make_target((2, 3), (2,), is_taken_up=True)
    with pytest.raises(ResumeMismatchError, match="dtype is float32, was int64") as caught:
        target.to_array(np.zeros((2, 3), "f4"), (4,))
    assert caught.value.field == "dtype"
    swapped: Any = np.arange(6).reshape(2, 3).astype(">i8")
    assert target.to_array(swapped, (4,)).tolist() == swapped.tolist(), "byte order does not count"


def test_a_directory_is_read_as_a_memory_store_is(tmp_path: Any) -> None:
    whole = arranged((5, 3))
    for store in (MemoryStore(), LocalStore(tmp_path)):
        target = make_target((2, 3), (2,), lengths=(5,), store=store)
        put(target, (0,), whole)
        put(target, (2,), whole)
        target = replace(
            target, stored=list_stored_units(target.where.list_keys() or [], target.plan)
        )
        assert target.stored == {(0,), (2,)}
        np.testing.assert_array_equal(target.read((2,), (True, True)), whole[4:])
        assert not target.has((1,), (False, False))
