"""The plan of a write: chunk and shard shapes, fixed once from the first block."""

import math
from dataclasses import FrozenInstanceError
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lazychunks.layout.plan import (
    CHUNKS_PER_BLOCK,
    MERGE_BELOW,
    SPLIT_ABOVE,
    UNITS_PER_WORKER,
    WritePlan,
    choose_chunks,
    choose_read_block,
)
from lazychunks.layout.shapes import Shape, cell_count
from tests.strategies import shapes

itemsizes = st.sampled_from([1, 2, 4, 8, 16])
MIB = 2**20


def plan(first: Shape, axes: int = 1, itemsize: int = 4, **options: Any) -> WritePlan:
    return WritePlan.from_first_block(first, itemsize, axes, **options)


@st.composite
def first_blocks(draw: st.DrawFn) -> tuple[Shape, int]:
    """Draw a shape and its number of block axes."""
    axes = draw(st.integers(1, 2))
    extents = st.integers(0, 3) | st.integers(1, 10**5)
    return draw(st.tuples(*(extents,) * draw(st.integers(axes, 4)))), axes


# auto


@given(first_blocks(), itemsizes, st.none() | st.integers(0, 1000))
def test_auto_merges_below_and_splits_above_the_bounds(
    drawn: tuple[Shape, int], itemsize: int, count: int | None
) -> None:
    first, axes = drawn
    made = plan(first, axes, itemsize, counts=(count,) * axes)
    whole = tuple(max(extent, 1) for extent in first)
    size = math.prod(made.chunks) * itemsize
    if math.prod(whole) * itemsize > SPLIT_ABOVE:
        assert size <= SPLIT_ABOVE
        assert all(extent <= most for extent, most in zip(made.chunks, whole, strict=True))
    elif made.chunks != whole:
        assert size <= MERGE_BELOW
        assert made.chunks[axes:] == whole[axes:], "only block axes are merged"
        assert all(n % one == 0 for n, one in zip(made.chunks, whole, strict=True)), "whole blocks"
        if count is not None:
            assert all(n <= max(count, 1) * one for n, one in zip(made.chunks, whole, strict=True))
    assert made.shards is None
    assert all(extent > 0 for extent in made.chunks)


@pytest.mark.parametrize(
    ("first", "axes", "counts", "chunks"),
    [
        # float32; small blocks are merged along the axis of the blocks up to 1 MiB ...
        ((16, 64), 1, (None,), (4096, 64)),
        ((16, 64), 1, (3000,), (4096, 64)),
        ((16, 64), 1, (10,), (160, 64)),
        ((16, 64), 1, (0,), (16, 64)),
        # ... large ones are chunks as they are, huge ones are split into equal parts.
        ((256, 4096), 1, (96,), (256, 4096)),
        ((65536, 1024), 1, (3,), (32768, 1024)),
        ((2, 2**25), 1, (3,), (1, 2**25)),
        ((1, 2**26), 1, (3,), (1, 2**25)),
        # In a grid, blocks of a row are merged first, and rows only where columns are counted.
        ((64, 64), 2, (None, None), (64, 4096)),
        ((64, 64), 2, (40, None), (64, 4096)),
        ((64, 64), 2, (40, 40), (64, 2560)),
        ((8, 8), 2, (40, 10), (320, 80)),
        ((8, 8), 2, (None, 10), (3272, 80)),
        ((512, 1024), 2, (12, 12), (512, 1024)),
        # Huge blocks are split along whatever axis has several elements.
        ((1000, 1, 40000), 2, (None, None), (500, 1, 40000)),
        ((1, 1, 2**14, 2**12), 2, (None, None), (1, 1, 2**13, 2**12)),
        # Blocks without elements are counted as if they had one.
        ((0, 64), 1, (None,), (4096, 64)),
        ((16, 0), 1, (None,), (262144, 1)),
    ],
)
def test_auto_by_example(
    first: Shape, axes: int, counts: tuple[int | None, ...], chunks: Shape
) -> None:
    assert plan(first, axes, counts=counts).chunks == chunks


# auto, with workers


@given(
    first_blocks(),
    itemsizes,
    st.tuples(st.integers(1, 300), st.integers(1, 300)),
    st.integers(1, 40),
)
def test_auto_leaves_chunks_for_each_worker(
    drawn: tuple[Shape, int], itemsize: int, counts: tuple[int, int], workers: int
) -> None:
    first, axes = drawn
    blocks = counts[:axes]
    alone = choose_chunks(first, itemsize, axes, blocks)
    shared = choose_chunks(first, itemsize, axes, blocks, workers)
    whole = tuple(max(extent, 1) for extent in first)
    lengths = [count * extent for count, extent in zip(blocks, whole, strict=False)]
    chunks = math.prod(-(-n // extent) for n, extent in zip(lengths, shared, strict=False))
    assert chunks >= min(UNITS_PER_WORKER * workers, math.prod(blocks)), "enough for each"
    assert shared[axes:] == alone[axes:], "the other axes are as without workers"
    assert math.prod(shared) <= max(math.prod(alone), math.prod(whole)), "no chunk is larger"
    if math.prod(whole) * itemsize <= SPLIT_ABOVE:
        assert all(n % one == 0 for n, one in zip(shared, whole, strict=True)), "whole blocks"


@given(first_blocks(), itemsizes, st.integers(1, 40))
def test_where_the_number_of_blocks_is_not_known_workers_change_nothing(
    drawn: tuple[Shape, int], itemsize: int, workers: int
) -> None:
    first, axes = drawn
    nobody = choose_chunks(first, itemsize, axes)
    assert choose_chunks(first, itemsize, axes, (None,) * axes, workers) == nobody


@given(first_blocks(), itemsizes, st.integers(1, 40))
def test_where_there_are_enough_blocks_workers_change_nothing(
    drawn: tuple[Shape, int], itemsize: int, workers: int
) -> None:
    first, axes = drawn
    counts = (10**9,) * axes
    alone = choose_chunks(first, itemsize, axes, counts)
    assert choose_chunks(first, itemsize, axes, counts, workers) == alone


@pytest.mark.parametrize(
    ("first", "counts", "workers", "chunks"),
    [
        ((32, 50), (60,), 2, (7 * 32, 50)),  # 9 chunks where it had been one
        ((32, 50), (60,), 16, (32, 50)),  # fewer blocks than chunks that are wanted
        ((32, 50), (8,), 2, (32, 50)),
        ((32, 50), (16,), 2, (64, 50)),
        ((64, 64), (6, 40), 2, (64, 20 * 64)),  # 6 rows of 2 chunks
        ((8, 8), (40, 10), 2, (40, 80)),  # 8 bands of 5 rows
        ((8, 8), (3, 10), 2, (8, 3 * 8)),  # 3 rows of 4 chunks
    ],
)
def test_workers_by_example(first: Shape, counts: Shape, workers: int, chunks: Shape) -> None:
    assert plan(first, len(counts), counts=counts, workers=workers).chunks == chunks


# auto, with shards


@given(first_blocks(), itemsizes, st.data())
def test_auto_chunks_are_parts_of_the_shards(
    drawn: tuple[Shape, int], itemsize: int, data: st.DataObject
) -> None:
    first, axes = drawn
    shards = data.draw(st.tuples(*(st.integers(1, 10**6) for _ in first)))
    made = plan(first, axes, itemsize, shards=shards)
    assert made.shards == shards
    assert all(s % c == 0 for s, c in zip(shards, made.chunks, strict=True))


@pytest.mark.parametrize(
    ("first", "shards", "chunks"),
    [
        ((16, 64), (4096, 64), (4096, 64)),  # as auto has it
        ((16, 64), (8192, 64), (4096, 64)),
        ((16, 64), (1000, 64), (1000, 64)),  # smaller than a chunk of auto
        ((16, 64), 6000, (3000, 64)),
        ((16, 64), (4099, 64), (4099, 64)),  # a prime number
        ((16, 64), 10**18, (10**18 // 2**16, 64)),  # not looked for any further
    ],
)
def test_chunks_of_shards_by_example(first: Shape, shards: Any, chunks: Shape) -> None:
    assert plan(first, shards=shards).chunks == chunks


# blocks, an int, a tuple


@given(first_blocks(), itemsizes)
def test_blocks_takes_the_first_block(drawn: tuple[Shape, int], itemsize: int) -> None:
    first, axes = drawn
    made = plan(first, axes, itemsize, chunks="blocks")
    assert made.chunks == tuple(max(extent, 1) for extent in first)


@given(first_blocks(), st.integers(1, 100))
def test_an_int_is_the_extent_along_the_block_axes(drawn: tuple[Shape, int], extent: int) -> None:
    first, axes = drawn
    trailing = tuple(max(length, 1) for length in first[axes:])
    assert plan(first, axes, chunks=extent).chunks == (extent,) * axes + trailing


@given(st.data(), first_blocks())
def test_a_tuple_is_the_chunk(data: st.DataObject, drawn: tuple[Shape, int]) -> None:
    first, axes = drawn
    chunks = data.draw(st.tuples(*(st.integers(1, 9) for _ in first)))
    times = data.draw(st.tuples(*(st.integers(1, 3) for _ in first)))
    shards = tuple(n * one for n, one in zip(times, chunks, strict=True))
    made = plan(first, axes, chunks=chunks, shards=shards)
    assert (made.chunks, made.shards) == (chunks, shards)


@given(st.data(), first_blocks())
def test_an_axis_may_stay_whole(data: st.DataObject, drawn: tuple[Shape, int]) -> None:
    first, axes = drawn
    extents = data.draw(st.tuples(*(st.integers(1, 9) for _ in first)))
    whole = [data.draw(st.sampled_from([None, -1, n])) for n in extents[axes:]]
    made = plan(first, axes, chunks=(*extents[:axes], *whole))
    for asked, extent, length in zip(whole, made.chunks[axes:], first[axes:], strict=True):
        assert extent == (max(length, 1) if asked in (None, -1) else asked)


@pytest.mark.parametrize("whole", [None, -1])
def test_a_block_axis_may_not_stay_whole(whole: int | None) -> None:
    for chunks in ((whole, 2), (2, whole)):
        with pytest.raises(ValueError, match=r"leaves a block axis whole, .* first 2 axes"):
            plan((4, 6), 2, chunks=chunks)
    with pytest.raises(ValueError, match=r"chunks=-1|shards="):
        plan((4, 6), 1, chunks=2, shards=(whole, 6))


@pytest.mark.parametrize("name", ["chunks", "shards"])
@pytest.mark.parametrize("extents", [(2,), (2, 3, 1)])
def test_a_tuple_has_one_extent_for_each_axis(name: str, extents: Shape) -> None:
    options: dict[str, Any] = {"chunks": (2, 3), name: extents}
    with pytest.raises(ValueError, match=f"{name}=.* has {len(extents)} axes, the blocks have 2"):
        plan((4, 6), **options)


@pytest.mark.parametrize("shards", [(3, 3), (2, 4), (1, 3)])
def test_a_shard_is_a_whole_number_of_chunks(shards: Shape) -> None:
    with pytest.raises(ValueError, match="no whole number of chunks") as caught:
        plan((4, 6), chunks=(2, 3), shards=shards)
    assert str(caught.value) == (
        f"shards {shards} are no whole number of chunks (2, 3); pass chunks= and shards= so that "
        "each shard extent is a multiple of the chunk extent"
    )


def test_a_plan_is_a_value() -> None:
    one, other = plan((2, 3)), plan((2, 3))
    assert one == other
    assert hash(one) == hash(other)
    assert not hasattr(one, "__dict__")
    with pytest.raises(FrozenInstanceError):
        one.chunks = (1, 1)  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]


def test_the_bounds_are_those_of_the_documentation() -> None:
    assert (MERGE_BELOW, SPLIT_ABOVE) == (MIB, 128 * MIB)


# Blocks in which an array is read.


@given(st.data(), st.integers(1, 2), itemsizes, st.integers(1, 2**24))
def test_blocks_to_read_keep_to_the_limit_and_to_chunks(
    data: st.DataObject, axes: int, itemsize: int, limit: int
) -> None:
    ndim = data.draw(st.integers(axes, 4))
    shape = data.draw(st.tuples(*(st.integers(1, 3) | st.integers(1, 5000) for _ in range(ndim))))
    chunks = data.draw(st.tuples(*(st.integers(1, length) for length in shape)))
    block = choose_read_block(shape, chunks, itemsize, (None,) * axes, limit)
    assert block[axes:] == shape[axes:]
    assert all(extent > 0 for extent in block)
    if math.prod(shape[axes:]) * itemsize <= limit:
        assert math.prod(block) * itemsize <= limit
    for extent, chunk in zip(block[: axes - 1], chunks, strict=False):
        assert extent <= chunk, "merged along the last block axis only"
    last, chunk = block[axes - 1], chunks[axes - 1]
    if last > chunk:
        assert last % chunk == 0
        assert math.prod(block) * itemsize <= MERGE_BELOW
        assert cell_count(block, chunks) <= CHUNKS_PER_BLOCK


@given(shapes(3, 1000), st.tuples(st.integers(1, 2000), st.integers(1, 2000)))
def test_blocks_to_read_are_of_the_size_that_is_asked_for(shape: Shape, asked: Shape) -> None:
    chunks = tuple(max(length // 3, 1) for length in shape)
    assert choose_read_block(shape, chunks, 4, asked, 2**30) == (*asked, shape[2])
