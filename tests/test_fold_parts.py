"""Folding parts of the blocks elsewhere: whoever folds which part, the result has the same bits."""

# pyright: reportUnknownMemberType=false
# torch types some of its functions partially.

import operator
import pickle
import random
import warnings
from collections.abc import Callable, Container, Sequence
from functools import partial, reduce
from importlib.util import find_spec
from itertools import pairwise, product
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lazychunks import (
    BlockDTypeError,
    BlockShapeError,
    Fold,
    NestedFold,
    concatenate,
    count,
    first,
    fold,
    last,
    maximum,
    mean,
    minimum,
    moments,
    nest,
    nested_concatenate,
    norm,
    tee,
    top_k,
    total,
)
from lazychunks.converters import bfloat16
from lazychunks.folds import Counts, Pass
from lazychunks.folds.merging import RUN, MergeTree
from lazychunks.layout.parts import AnyPart, Part
from lazychunks.testing.parts import (
    EVERYWHERE,
    cut_blocks,
    cut_rows,
    fold_in_parts,
    run_part,
    run_part_elsewhere,
)
from lazychunks.testing.values import LAYOUTS, any_bits, laid_out
from tests.executors import Shuffling, processes
from tests.strategies import Array, bits, layouts, seeds

AnyFold = Fold[Any, Any]

DTYPES = ("?", "i1", ">i2", "<i4", "<i8", "u1", "<u4", "<u8")
INEXACT = ("<f2", "<f4", ">f4", "<f8", ">f8", "<c8", ">c16")
BFLOAT16 = ("bfloat16",) if find_spec("ml_dtypes") else ()

needs_torch = pytest.mark.skipif(find_spec("torch") is None, reason="torch is not installed")


def dtype_of(name: str) -> np.dtype[Any]:
    return bfloat16() if name == "bfloat16" else np.dtype(name)


def outcome(computed: Callable[[], Any]) -> object:
    """Give the bits of a result, or the error in full."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # NumPy's, of infinities and overflow
        try:
            return bits(computed())
        except (ValueError, TypeError) as error:
            return type(error), str(error)


# The order of merges.


def merge_texts(earlier: str, later: str) -> str:
    return f"({earlier}{later})"


def merge_naively(texts: Sequence[str]) -> str:
    """Merge pairs, pairs of pairs and so on within each run, then from left to right."""
    merged: list[str] = []
    for start in range(0, len(texts), RUN):
        run = list(texts[start : start + RUN])
        while run:
            size = 1 << (len(run).bit_length() - 1)
            level, run = run[:size], run[size:]
            while len(level) > 1:
                level = [merge_texts(*pair) for pair in zip(level[::2], level[1::2], strict=True)]
            merged += level
    return reduce(merge_texts, merged)


def grow(texts: Sequence[str], start: int, stop: int) -> MergeTree[str]:
    tree = MergeTree(merge_texts)
    for number in range(start, stop):
        tree.add(number, number + 1, texts[number])
    return tree


LETTERS = [chr(ord("a") + number % 26) for number in range(200)]


@pytest.mark.parametrize("length", [1, 2, 3, 31, 32, 33, 63, 64, 65, 96, 97, 130, 200])
def test_the_order_of_merges_is_the_naive_one(length: int) -> None:
    assert grow(LETTERS, 0, length).root() == merge_naively(LETTERS[:length])


@given(st.integers(1, 200), st.data())
def test_the_order_of_merges_does_not_depend_on_the_cuts(length: int, data: st.DataObject) -> None:
    near_runs = st.sampled_from([31, 32, 33, 48, 64, 96])
    cuts = data.draw(st.lists(st.integers(1, 199) | near_runs, max_size=12))
    bounds = [0, *sorted({cut for cut in cuts if cut < length}), length]
    tree = MergeTree(merge_texts)
    for start, stop in pairwise(bounds):
        tree.add_nodes(grow(LETTERS, start, stop).nodes)
    assert tree.nodes == grow(LETTERS, 0, length).nodes
    assert tree.root() == merge_naively(LETTERS[:length])


def test_a_pass_holds_a_handful_of_values() -> None:
    tree = MergeTree[int](operator.add)
    most = 0
    for number in range(5000):
        tree.add(number, number + 1, 1)
        most = max(most, len(tree.nodes))
    assert most == 6  # all runs before, and one node of each of 16, 8, 4, 2 and 1 blocks
    assert tree.root() == 5000


def test_values_of_a_part_are_few() -> None:
    assert len(grow(LETTERS, 64, 128).nodes) == 2
    assert len(grow(LETTERS, 33, 95).nodes) == 2 * 5


# The library's folds.


def double(block: Array) -> Array:
    return block + block


def shape_of(block: Array) -> tuple[int, ...]:
    return block.shape


def add_sizes(size: int, block: Array) -> int:
    return size + int(np.prod(block.shape))


def list_shapes(shapes: list[Any], block: Array) -> list[Any]:
    return [*shapes, tuple(block.shape)]


NO_SHAPES: list[Any] = []

FLAT: dict[str, AnyFold] = {
    "total": total(),
    "total of all": total(None),
    "mean": mean(-2, -2),
    "mean of all": mean(None),
    "minimum": minimum(),
    "maximum": maximum(None),
    "moments": moments(),
    "moments of all": moments(None),
    "norm": norm(0),
    "norm of all": norm(),
    "count": count(),
    "count of all": count(None),
    "first": first(),
    "last": last(),
    "best": top_k(3),
    "worst": top_k(2, largest=False),
    "per row": total(axis=1, along=0),
    "moments per row": moments(axis=-1, along=0),
    "best per row": top_k(2, axis=1, along=0),
    "count per row": count(1, along=0),
    "the same axis": mean(axis=-2, along=0),
    "joined": concatenate(),
    "sizes": fold(add_sizes, 0, merge=operator.add),
    "shapes": fold(list_shapes, NO_SHAPES, merge=operator.add),
    "shapes without a merge": fold(list_shapes, NO_SHAPES),
    "then": total().then(shape_of),
    "contramap": total().contramap(double),
    "contramap without a merge": concatenate().contramap(double).then(shape_of),
    "tee": tee(total(), concatenate(), tee(count(), last()).then(len), norm(), concatenate()),
    "dict": tee({"a": mean(), "b": tee({"c": concatenate(0).then(shape_of)}), "d": tee(total())}),
}


class Blocks(NamedTuple):
    """Blocks of a flat sequence, and where parts begin."""

    blocks: list[Array]
    cuts: Container[int]

    def serial(self, fold: AnyFold) -> object:
        return outcome(lambda: fold(self.blocks))

    def in_parts(self, fold: AnyFold) -> object:
        parts = cut_blocks(self.blocks, self.cuts)
        return outcome(lambda: fold_in_parts(fold, parts, (len(self.blocks),)))


def drawn_cuts(length: int) -> st.SearchStrategy[Container[int]]:
    whole_runs = st.just(range(0, length, RUN))
    return st.just(EVERYWHERE) | whole_runs | st.sets(st.integers(0, max(length, 1)))


@st.composite
def drawn_blocks(draw: st.DrawFn, dtypes: Sequence[str] = (*DTYPES, *INEXACT, *BFLOAT16)) -> Blocks:
    """Draw blocks of two axes and arbitrary bits, of ragged heights, zero among them."""
    dtype, width = dtype_of(draw(st.sampled_from(dtypes))), draw(st.integers(0, 3))
    length = draw(st.integers(1, 6) | st.sampled_from([31, 32, 33, 64, 70]))
    random = np.random.default_rng(draw(seeds))
    layout = draw(layouts)
    blocks = [
        any_bits((int(random.integers(0, 4)), width), dtype, int(random.integers(0, 2**31)), layout)
        for _ in range(length)
    ]
    return Blocks(blocks, draw(drawn_cuts(length)))


@pytest.mark.parametrize("name", FLAT)
@given(case=drawn_blocks())
def test_whoever_folds_which_blocks_does_not_show(name: str, case: Blocks) -> None:
    assert case.in_parts(FLAT[name]) == case.serial(FLAT[name])


@needs_torch
@pytest.mark.slow
@pytest.mark.parametrize("name", FLAT)
@given(case=drawn_blocks(("?", "i1", "<i4", "<i8", "u1", "<f2", "<f4", "<f8", "<c8", "<c16")))
def test_whoever_folds_which_tensors_does_not_show(name: str, case: Blocks) -> None:
    import torch

    tensors: list[Any] = [torch.from_numpy(np.array(block, order="C")) for block in case.blocks]
    case = Blocks(tensors, case.cuts)
    assert case.in_parts(FLAT[name]) == case.serial(FLAT[name])


@pytest.mark.parametrize("name", ["total", "moments", "norm of all", "best", "tee", "per row"])
@given(case=drawn_blocks(("<f4", "<f8", "<c8")), seed=seeds)
def test_a_pass_may_fold_some_parts_itself(name: str, case: Blocks, seed: int) -> None:
    folded, chosen = FLAT[name], random.Random(seed)  # noqa: S311  # repeatable

    def run() -> Any:
        with folded.start((None,)) as running:
            for_parts = folded.for_parts(running)
            for part in cut_blocks(case.blocks, case.cuts):
                if chosen.random() < 0.5:
                    running.absorb(run_part_elsewhere(for_parts, part), part)
                else:
                    for (call,) in part.rows:
                        running.step(call())
            return running.finish()

    assert outcome(run) == case.serial(folded)


SUMMING = [name for name in FLAT if name.startswith(("total", "mean", "moments", "norm", "per"))]


@pytest.mark.parametrize("name", [*SUMMING, "minimum", "maximum", "best", "first", "joined", "tee"])
@given(case=drawn_blocks())
def test_the_layout_in_memory_does_not_show(name: str, case: Blocks) -> None:
    """A stored block is read back in C order and native byte order, and must not be another one."""
    native = case.blocks[0].dtype.newbyteorder("=")
    plain: list[Array] = []
    for block in case.blocks:
        swapped = block if block.dtype.isnative else np.ascontiguousarray(block).byteswap()
        plain.append(np.array(swapped.view(native), order="C"))
    expected = outcome(lambda: FLAT[name](plain))
    assert case.serial(FLAT[name]) == expected
    foreign = [block.byteswap().view(native.newbyteorder("S")) for block in plain]
    if native.name == "bfloat16":  # NumPy 1.26 joins blocks of both byte orders as if they had one
        foreign = plain
    for layout in LAYOUTS:
        moved = [laid_out(block, layout) for block in plain]
        # As if the first block had been read back, and the others computed.
        mixed = [*plain[:1], *(laid_out(block, layout) for block in foreign[1:])]
        for blocks in (moved, mixed):
            assert outcome(partial(FLAT[name], blocks)) == expected


@pytest.mark.parametrize("shape", [(3, 2), (20_000, 3), (3, 20_000)])
def test_the_alignment_in_memory_does_not_show(shape: tuple[int, ...]) -> None:
    """NumPy sums an array in pieces if it has to move the entries first."""
    values = np.random.default_rng(0).standard_normal(shape)
    room = np.empty(values.nbytes + 1, "u1")
    unaligned = room[1:].view("f8").reshape(shape)
    unaligned[...] = values
    assert not unaligned.flags.aligned
    for folded in FLAT.values():
        assert outcome(partial(folded, [unaligned])) == outcome(partial(folded, [values]))


def test_the_order_of_summation_would_show_otherwise() -> None:
    """The negative control of the tests above: these sums depend on the order."""
    values = np.random.default_rng(0).standard_normal((1000, 7))
    assert values.sum() != np.asfortranarray(values).sum()
    blocks = np.split(values[:, 0].copy(), 100)
    sums = [float(block.sum()) for block in blocks]
    assert reduce(operator.add, sums) != reduce(operator.add, sums[::-1])
    flags = fold(operator.add, 0.0, merge=operator.add).contramap(np.sum)
    parts = [fold_in_parts(flags, cut_blocks(blocks, range(0, 100, n)), (100,)) for n in (1, 3, 7)]
    assert len(set(parts)) > 1  # of a user's own merge, parts do show


@pytest.mark.parametrize("pool", [Shuffling, processes], ids=["shuffling", "processes"])
def test_parts_may_be_folded_by_an_executor_in_any_order(pool: Callable[[], Any]) -> None:
    random = np.random.default_rng(0)
    blocks = [random.standard_normal((int(random.integers(0, 5)), 3)) for _ in range(70)]
    parts = list(cut_blocks(blocks, {1, 2, 30, 31, 50, 66}))
    with pool() as executor:
        for name, folded in FLAT.items():
            with folded.start((None,)) as running:
                for_parts = folded.for_parts(running)
                futures = [executor.submit(run_part, for_parts, part) for part in parts]
                for part, future in zip(parts, futures, strict=True):
                    running.absorb(future.result(), part)
                result = running.finish()
            assert bits(result) == bits(folded(blocks)), name


# Rows of blocks.


class Grid(NamedTuple):
    """Rows of blocks, and where parts begin."""

    rows: list[list[Array]]
    cuts: tuple[Container[int], Container[int]]


@st.composite
def drawn_grids(draw: st.DrawFn, dtypes: Sequence[str]) -> Grid:
    dtype = dtype_of(draw(st.sampled_from(dtypes)))
    height = draw(st.integers(1, 4))
    width = draw(st.integers(1, 4) | st.sampled_from([33, 64]))
    random = np.random.default_rng(draw(seeds))
    heights, widths = random.integers(0, 3, height), random.integers(0, 3, width)
    rows = [
        [any_bits((int(h), int(w)), dtype, int(random.integers(0, 2**31))) for w in widths]
        for h in heights
    ]
    return Grid(rows, (draw(drawn_cuts(height)), draw(drawn_cuts(width))))


LAST: AnyFold = last()

NESTED: dict[str, NestedFold[Any, Any]] = {
    "totals": nest(total(axis=1), concatenate()),
    "total of all": nest(total(None), total(None).contramap(np.atleast_1d)),
    "moments": nest(moments(1), concatenate()),
    "best": nest(top_k(2, axis=1), concatenate()),
    "columns": nest(total(axis=0, along=1), total(None)),
    "joined": nested_concatenate(),
    "joined rows": nest(concatenate(axis=1), mean()),
    "shapes": nest(fold(list_shapes, NO_SHAPES), fold(operator.add, NO_SHAPES)),
    "merged shapes": nest(
        fold(list_shapes, NO_SHAPES, merge=operator.add), fold(operator.add, NO_SHAPES)
    ),
    "tee inside": nest(tee(norm(1), concatenate(axis=1), count(1)), concatenate()),
    "counts": nest(count(1), fold(operator.add, 0)),
    "tee": tee(nest(maximum(None), total(None)), nested_concatenate(), nest(count(1), LAST)),
    "dict": tee({"rows": nest(mean(None), LAST), "all": nested_concatenate()}),
}


@pytest.mark.parametrize("name", NESTED)
@given(case=drawn_grids((*DTYPES, *INEXACT, *BFLOAT16)))
def test_whoever_folds_which_rectangle_does_not_show(name: str, case: Grid) -> None:
    folded, (rows, cuts) = NESTED[name], case
    parts = cut_rows(rows, *cuts)
    expected = outcome(lambda: folded(rows))
    counts = (len(rows), len(rows[0]))
    assert outcome(lambda: fold_in_parts(folded, parts, counts)) == expected
    with_unknown_counts = outcome(
        lambda: fold_in_parts(folded, cut_rows(rows, *cuts), (None, None), run_part)
    )
    assert with_unknown_counts == expected


@pytest.mark.parametrize("rows", [[], [[]], [[], []], [[1], [], [2, 3]], [[], [4, 5]]])
def test_rows_without_blocks_and_of_any_length(rows: list[list[int]]) -> None:
    listing = fold(operator.add, "", merge=operator.add).contramap(str)
    for nested in (nest(listing, LIST), nest(LIST, LIST), tee(nest(LIST, LIST), nest(LIST, LIST))):
        for cuts in ((), EVERYWHERE):
            parts = cut_rows(rows, cuts, EVERYWHERE)
            assert fold_in_parts(nested, parts, (None, None)) == nested(rows)


class RecordingRows(Pass):
    """Notes what it is told."""

    def __init__(self) -> None:
        self.told: list[object] = []

    def step(self, block: object) -> None:
        self.told.append(block)

    def end_row(self) -> None:
        self.told.append("end")

    def finish(self) -> list[object]:
        return self.told


class Recording(NestedFold[object, list[object]]):
    def start_rows(self, counts: Counts, /) -> RecordingRows:  # noqa: ARG002
        return RecordingRows()


@given(height=st.integers(0, 4), width=st.integers(0, 4), data=st.data())
def test_the_blocks_of_rectangles_come_row_by_row(
    height: int, width: int, data: st.DataObject
) -> None:
    rows = [[(i, j) for j in range(width)] for i in range(height)]
    cuts = data.draw(drawn_cuts(height)), data.draw(drawn_cuts(width))
    for recording in (Recording(), tee(Recording(), Recording())):
        folded: NestedFold[Any, Any] = recording
        told = fold_in_parts(folded, cut_rows(rows, *cuts), (None, None))
        assert told == folded(rows)


# Folds of one's own.


def append(values: list[Any], value: Any) -> list[Any]:
    values.append(value)
    return values


EMPTY: list[Any] = []
LIST = fold(append, EMPTY)


def extend(earlier: list[Any], later: list[Any]) -> list[Any]:
    earlier += later
    return earlier


@given(st.lists(st.integers(), max_size=9), st.sets(st.integers(1, 8)))
def test_a_merge_may_change_the_earlier_state(values: list[int], cuts: set[int]) -> None:
    merging = fold(append, EMPTY, tuple, merge=extend)
    for run in (run_part, run_part_elsewhere):
        parts = cut_blocks(values, cuts)
        assert fold_in_parts(merging, parts, (None,), run) == tuple(values) == merging(values)
    assert EMPTY == []


def test_the_first_state_takes_the_place_of_the_initial_one() -> None:
    merged: list[tuple[int, int]] = []

    def merge(earlier: int, later: int) -> int:
        merged.append((earlier, later))
        return earlier + later

    adding = fold(operator.add, 0, merge=merge)
    assert fold_in_parts(adding, cut_blocks([1, 2, 3, 4], {1, 3}), (None,), run_part) == 10
    assert merged == [(1, 5), (6, 4)]
    assert fold_in_parts(adding, cut_blocks([], ()), (None,), run_part) == 0


def test_an_empty_part_changes_nothing() -> None:
    empty: AnyPart = Part(1, (2, 0), (), (False, True), axes=1)
    folds = {name: fold for name, fold in FLAT.items() if "without" not in name}
    # Of this one, the initial state would be added twice.
    folds["not neutral"] = fold(add_sizes, 1, merge=operator.add)
    blocks = [np.arange(6.0).reshape(3, 2)] * 3
    for name, folded in folds.items():
        with folded.start((None,)) as running:
            for_parts = folded.for_parts(running)
            running.absorb(run_part(for_parts, empty), empty)
            running.step(blocks[0])
            running.absorb(run_part(for_parts, empty), empty)
            for block in blocks[1:]:
                running.step(block)
            assert bits(running.finish()) == bits(folded(blocks)), name


def test_workers_need_not_pickle_what_they_do_not_call() -> None:
    blocks = [np.ones(2), np.ones(3)]
    folds: list[tuple[AnyFold, object]] = [
        (fold(lambda n, block: n + len(block), 0), 5),
        (fold(add_sizes, 0, lambda n: n + 1, merge=operator.add), 6),
        (total(None).then(lambda summed: 2 * float(summed)), 10.0),
        (tee(total(None), fold(lambda n, _: n + 1, 0)).then(lambda both: both[1]), 2),
    ]
    for folded, expected in folds:
        assert fold_in_parts(folded, cut_blocks(blocks, EVERYWHERE), (None,)) == expected
    nested: NestedFold[Any, Any] = nest(
        tee(count(), fold(lambda n, block: n + len(block), 0)),
        fold(lambda rows, row: [*rows, row], EMPTY),
    )
    assert fold_in_parts(nested, cut_rows([blocks, blocks], (), {1}), (2, 2)) == [(5, 5)] * 2


def test_a_fold_says_whether_it_merges() -> None:
    for name, folded in FLAT.items():
        assert folded.merges is not ("joined" in name or "without" in name), name
    assert tee(concatenate(), LIST).merges is nested_concatenate().merges is False
    assert tee(nested_concatenate(), nest(count(), LIST)).merges is True


def test_states_are_small_and_blocks_travel_once() -> None:
    block = np.ones((1000, 10))
    parts = list(cut_blocks([block] * 8, {4}))

    def size(folded: AnyFold) -> int:
        for_parts = folded.for_parts(folded.start((None,)))
        return len(pickle.dumps(run_part(for_parts, parts[0])))

    small = tee(total(), moments(None), top_k(3), count(), fold(add_sizes, 0, merge=operator.add))
    assert size(small) < 3000
    one = size(tee(concatenate(), count()))
    assert 4 * block.nbytes < one < 4 * block.nbytes + 2000
    assert size(tee(concatenate(), LIST, tee(count(), count()), concatenate())) < one + 2000


# Parts that do not fit.


@pytest.mark.parametrize("name", ["total", "count", "best", "per row", "tee", "contramap"])
def test_a_part_that_does_not_fit_is_refused_with_the_number_of_its_first_block(name: str) -> None:
    good, folded = [np.ones((2, 3))] * 5, FLAT[name]
    wrong: list[tuple[Array, type[Exception], str]] = [
        (np.ones((2, 4)), BlockShapeError, r"block 5 has shape \(2, 4\), expected \(\*, 3\)"),
        (np.ones(3), BlockShapeError, r"block 5 has shape \(3,\)"),
        (np.ones((2, 3), "f4"), BlockDTypeError, "block 5 has dtype float32, expected float64"),
    ]
    for block, error, message in wrong:
        blocks = [*good, block, block]
        for cuts in ({5}, {2, 5, 6}, EVERYWHERE, ()):
            with pytest.raises(error, match=message) as caught:
                fold_in_parts(folded, cut_blocks(blocks, cuts), (None,))
            assert getattr(caught.value, "block", None) == 5


def test_a_worker_counts_blocks_from_the_first_of_all() -> None:
    blocks = [np.ones((2, 3))] * 6 + [np.ones((2, 4))]
    with pytest.raises(BlockShapeError, match="block 6 has shape"):
        fold_in_parts(total(), cut_blocks(blocks, {4}), (None,))
    rows = [[np.ones((2, 3))] * 5, [*[np.ones((2, 3))] * 4, np.ones((1, 3))]]
    for cuts in ({2}, {4}):
        with pytest.raises(
            BlockShapeError, match=r"block 4 has shape \(1, 3\), expected \(2, \*\)"
        ):
            fold_in_parts(nest(total(1), concatenate()), cut_rows(rows, (), cuts), (2, 5))


# Threads.


@needs_torch
@pytest.mark.slow
@pytest.mark.parametrize(
    ("dtype", "shape"),  # each dtype in one long row and in one of the other shapes
    [
        *product(["<f4", "<f8", "<c8", "<c16"], [(200_001,)]),
        ("<f4", (70_001, 3)),
        ("<f8", (3, 70_001)),
        ("<c8", (200_001, 1)),
        ("<c16", (70_001, 3)),
    ],
)
def test_the_number_of_threads_does_not_show(dtype: str, shape: tuple[int, ...]) -> None:
    import torch

    random = np.random.default_rng(0)
    drawn: Any = random.standard_normal(shape)
    if "c" in dtype:
        drawn = drawn + 1j * random.standard_normal(shape)
    x = torch.from_numpy(drawn.astype(dtype))
    zeros = torch.where(torch.rand(shape) < 0.5, 0.0, -0.0)
    payloads = random.integers(0x7FF80000, 0x7FFFFFFF, shape) << 32
    unknown = torch.from_numpy(payloads.astype("i8")).view(torch.float64)
    sums: list[AnyFold] = [total(), total(None), mean(), moments(), moments(None), norm(0), norm()]
    cases: list[tuple[AnyFold, Any]] = [(folded, x) for folded in sums]
    cases += [
        (of(axis), y) for of in (minimum, maximum) for axis in (0, None) for y in (zeros, unknown)
    ]
    threads = torch.get_num_threads()
    try:
        for folded, block in cases:
            found: list[object] = []
            for number in (1, 3, 8):
                torch.set_num_threads(number)
                found.append(bits(folded([block, block * 1.5, block * -0.3])))
            assert all(one == found[0] for one in found), folded
    finally:
        torch.set_num_threads(threads)


@needs_torch
def test_the_number_of_threads_would_show_otherwise() -> None:
    """The negative control: what PyTorch itself gives depends on it."""
    import torch

    x = torch.from_numpy(np.random.default_rng(0).standard_normal(2_000_000))
    threads = torch.get_num_threads()
    try:
        sums: set[float] = set()
        for number in (1, 2, 3, 8):
            torch.set_num_threads(number)
            sums.add(float(x.sum()))
    finally:
        torch.set_num_threads(threads)
    assert len(sums) > 1
