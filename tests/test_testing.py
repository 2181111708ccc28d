"""``lazychunks.testing``: each law finds what breaks it; the strategies draw what they promise."""

# pyright: reportUnknownMemberType=false
# torch types some of its functions partially.

import operator
import re
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from itertools import product
from types import TracebackType
from typing import Any, Generic, NamedTuple, Self, TypeVar

import hypothesis
import numpy as np
import pytest
from hypothesis import Phase, assume, given
from hypothesis import strategies as st
from hypothesis.errors import NoSuchExample
from hypothesis.strategies import SearchStrategy
from numpy.typing import NDArray

from lazychunks import (
    Fold,
    IdentityConverter,
    LazyChunkSequence,
    ListAggregator,
    NestedFold,
    NestedLazyChunkSequence,
    NestedListAggregator,
    concatenate,
    fold,
    nest,
)
from lazychunks.blocks.factories import MapBacked
from lazychunks.folds import Counts, Pass, Running, RunningRows
from lazychunks.layout.parts import AnyPart
from lazychunks.testing import (
    LawBrokenError,
    arrays,
    bits,
    check_aggregator,
    check_converter,
    check_fold,
    check_nested_aggregator,
    check_nested_fold,
    dtypes,
    flat_blocks,
    flat_sequences,
    nested_blocks,
    nested_sequences,
    partitions,
)
from lazychunks.testing.comparing import twin
from lazychunks.testing.values import LAYOUTS, NUMPY_DTYPES, any_bits, laid_out, whole_numbers

Array = NDArray[Any]
T = TypeVar("T")

FLOATS = dtypes("f", bfloat16=False)
shapes = st.lists(st.integers(0, 3), min_size=1, max_size=2).map(tuple)
tensors = arrays(shapes, FLOATS)
numbers: SearchStrategy[list[list[float]]] = st.lists(
    st.lists(st.integers(-9, 9).map(float), max_size=3), min_size=1, max_size=4
)
whole = flat_blocks(dtypes("f", bfloat16=False), values="whole", max_ndim=2)
whole_rows = nested_blocks(dtypes("f", bfloat16=False), values="whole", max_ndim=2)

UNSHRUNK = hypothesis.settings(phases=[Phase.generate], database=None, max_examples=200)
"""That there is an example is what counts, not the smallest; it must not be luck to find one."""


def find(strategy: SearchStrategy[T], holds: Callable[[T], Any]) -> T:
    """Draw until it holds."""
    settings = hypothesis.settings(UNSHRUNK, max_examples=2000)
    return hypothesis.find(strategy, lambda x: bool(holds(x)), settings=settings)


def joined(blocks: Sequence[Array]) -> Array:
    return np.concatenate(blocks)


def last_of(blocks: Iterable[Array]) -> Array:
    return [*blocks][-1]


def summed(blocks: Iterable[Array]) -> Any:
    return sum(float(block.sum()) for block in blocks)


def law_broken(check: Callable[[], None]) -> str | None:
    """Give the name of the law that is found broken, and see that the message tells all."""
    profile = hypothesis.settings.get_current_profile_name()
    # The current one with more examples: with few, one search in forty is in vain.
    hypothesis.settings.register_profile("searching", max_examples=500)
    hypothesis.settings.load_profile("searching")
    try:
        with pytest.raises(LawBrokenError) as caught:
            check()
    finally:
        hypothesis.settings.load_profile(profile)
    told = "\n".join([str(caught.value), *getattr(caught.value, "__notes__", [])])
    assert f"breaks the law {caught.value.law!r}" in told
    assert re.search(r"holds\(\s*(tensor|blocks)=", told)
    return caught.value.law


# Converters that break a law.


class Faulty(IdentityConverter):
    """A converter of arrays, which each of the classes below does wrong."""


class Casts(Faulty):
    def to_numpy(self, x: Array, /) -> Array:
        return x.astype("f4")

    def from_numpy(self, x: Array, /) -> Array:
        return x.astype("f8")


class LosesPayload(Faulty):
    def to_numpy(self, x: Array, /) -> Array:
        return np.where(np.isnan(x), np.array(np.nan, x.dtype), x)


class LosesNegativeZero(Faulty):
    def from_numpy(self, x: Array, /) -> Array:
        return np.where(x == 0, np.zeros_like(x), x)


class Flattens(Faulty):
    def to_numpy(self, x: Array, /) -> Array:
        return x.reshape(-1)


class GivesNoArray(Faulty):
    def to_numpy(self, x: Array, /) -> Any:
        return x.tolist()


class GivesObjects(Faulty):
    def to_numpy(self, x: Array, /) -> Array:
        return x.astype(object)


class GivesMasked(Faulty):
    def to_numpy(self, x: Array, /) -> Any:
        return np.ma.masked_invalid(x)


class IgnoresStrides(Faulty):
    """Reads memory as if it were in C order."""

    def from_numpy(self, x: Array, /) -> Array:
        return np.frombuffer(x.tobytes("A"), x.dtype).reshape(x.shape)


class ChangesTensor(Faulty):
    def to_numpy(self, x: Array, /) -> Array:
        if x.flags.writeable:
            x += 1
        return x


class ChangesArray(Faulty):
    def from_numpy(self, x: Array, /) -> Array:
        copied = x.copy()
        if x.flags.writeable:
            x.fill(7)
        return copied


class ReusesMemory(Faulty):
    """Gives the same array each time, as a copy to the host into one buffer would."""

    room: Array = np.empty(0)

    def to_numpy(self, x: Array, /) -> Array:
        if (self.room.shape, self.room.dtype) != (x.shape, x.dtype):
            ReusesMemory.room = np.empty(x.shape, x.dtype)
        self.room[...] = x
        return self.room


@pytest.mark.parametrize(
    ("converter", "law"),
    [
        (Casts(), "round trip"),
        (LosesPayload(), "round trip"),
        (LosesNegativeZero(), "round trip"),
        (Flattens(), "shape"),
        (GivesNoArray(), "plain array"),
        (GivesObjects(), "plain array"),
        (GivesMasked(), "plain array"),
        (IgnoresStrides(), "round trip"),
        (ChangesTensor(), "arguments"),
        (ChangesArray(), "arguments"),
        (ReusesMemory(), "independence"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_faulty_converter_is_found(converter: Faulty, law: str) -> None:
    found = law_broken(lambda: check_converter(converter, tensors, settings=UNSHRUNK))
    assert found in (law, f"array {law}")


class Unwilling(Faulty):
    def from_numpy(self, x: Array, /) -> Array:
        if not x.flags.writeable:
            raise ZeroDivisionError
        return x


def test_what_a_converter_raises_is_raised_as_it_is() -> None:
    with pytest.raises(ZeroDivisionError) as caught:
        check_converter(Unwilling(), tensors)
    told = "\n".join(caught.value.__notes__)
    assert "array round trip" in told
    assert "Unwilling" in told


class Lists:
    """A converter of something that is no array."""

    def to_numpy(self, x: list[float], /) -> Array:
        return np.array(x, dtype=float)

    def from_numpy(self, x: Array, /) -> list[float]:
        listed: list[float] = x.tolist()
        return listed


def test_right_converters_keep_the_laws() -> None:
    check_converter(IdentityConverter(), arrays(shapes))
    check_converter(IdentityConverter(), arrays(st.just(())))
    check_converter(Lists(), st.lists(st.floats()))
    check_converter(
        Lists(), st.lists(st.floats()), same=lambda one, other: bits(one) == bits(other)
    )


def test_tensors_may_be_compared_in_a_way_of_ones_own() -> None:
    unknown = st.just([float("nan")])
    check_converter(Lists(), unknown)
    law = law_broken(lambda: check_converter(Lists(), unknown, same=operator.eq))
    assert law == "round trip"  # since NaN is not equal to itself


# Aggregators that break a law.


def drops_the_last(blocks: LazyChunkSequence[Array]) -> Array:
    listed = [*blocks]
    return joined(listed[:-1] or listed)


def trusts_the_hint(blocks: LazyChunkSequence[Array]) -> Array:
    return joined([*blocks][: blocks.len_generator or None])


def wants_a_map(blocks: LazyChunkSequence[Array]) -> Any:
    return isinstance(blocks.generator_factory, MapBacked)


def runs_twice(blocks: LazyChunkSequence[Array]) -> Array:
    return joined([np.empty((sum(map(len, blocks)), *next(iter(blocks)).shape[1:])), *blocks][1:])


def changes_blocks(blocks: LazyChunkSequence[Array]) -> Array:
    listed = [*blocks]
    if listed[0].flags.writeable:
        listed[0].fill(7)
    return joined(listed)


def remembers() -> Callable[[LazyChunkSequence[Array]], Any]:
    """Make an aggregator that goes on where it ended the last time."""
    seen: list[int] = []

    def aggregator(blocks: LazyChunkSequence[Array]) -> list[int]:
        seen.extend(map(len, blocks))
        return seen

    return aggregator


def widens(blocks: LazyChunkSequence[Array]) -> Array:
    return joined([*blocks]).astype("c16")


@pytest.mark.parametrize(
    ("aggregator", "law"),
    [
        (drops_the_last, "oracle"),
        (trusts_the_hint, "oracle"),
        (wants_a_map, "oracle"),
        (widens, "oracle"),
        (runs_twice, "one generation"),
        (changes_blocks, "arguments"),
        (remembers(), "purity"),
    ],
)
def test_a_faulty_aggregator_is_found(
    aggregator: Callable[[LazyChunkSequence[Array]], Array], law: str
) -> None:
    check = partial(check_aggregator, settings=UNSHRUNK)
    assert law_broken(lambda: check(aggregator, flat_blocks(), joined)) == law


def test_a_faulty_nested_aggregator_is_found() -> None:
    def sums(rows: Iterable[Iterable[Array]]) -> list[float]:
        return [float(sum(map(np.sum, row))) for row in rows]

    def transposed(rows: NestedLazyChunkSequence[Array]) -> list[float]:
        return sums(zip(*rows.compute(), strict=True))

    def twice(rows: NestedLazyChunkSequence[Array]) -> list[float]:
        rows.compute()
        return sums(rows)

    def forgets(rows: NestedLazyChunkSequence[Array]) -> list[float]:
        return sums(row[:1] for row in rows.compute())

    check_nested_aggregator(sums, whole_rows, sums)
    for faulty, law in ((transposed, "oracle"), (twice, "one generation"), (forgets, "oracle")):
        check = check_nested_aggregator
        assert law_broken(partial(check, faulty, whole_rows, sums, settings=UNSHRUNK)) == law


def test_right_aggregators_keep_the_laws() -> None:
    check_aggregator(lambda blocks: joined([*blocks]), flat_blocks(), joined)
    check_aggregator(list, numbers, lambda blocks: blocks)
    check_aggregator(lambda blocks: next(iter(blocks)), flat_blocks(), lambda blocks: blocks[0])
    check_aggregator(ListAggregator(), numbers, lambda blocks: blocks)
    check_nested_aggregator(NestedListAggregator(), nested_blocks(), lambda rows: rows)
    check_nested_aggregator(nest(summed, list), whole_rows, row_sums)


def test_an_oracle_may_be_close() -> None:
    def roughly(blocks: Iterable[Array]) -> Any:
        return summed(blocks) * (1 + 1e-12)

    check_aggregator(roughly, whole, summed, same=np.allclose)
    assert (
        law_broken(lambda: check_aggregator(roughly, whole, summed, settings=UNSHRUNK)) == "oracle"
    )


def test_an_oracle_may_assume() -> None:
    def largest(blocks: list[Array]) -> Any:
        assume(any(block.size for block in blocks))
        return max(float(block.max()) for block in blocks if block.size)

    def same(blocks: LazyChunkSequence[Array]) -> Any:
        return max((float(block.max()) for block in blocks if block.size), default=0.0)

    check_aggregator(same, whole, largest)


# Folds that break a law.


class FaultyFold(Fold[Array, Any]):
    """Sums blocks, which each of the classes below does wrong."""

    def start(self, counts: Counts, /) -> Running[Array, Any]:
        return Summing(counts)


class Summing(Pass):
    """The right way."""

    def __init__(self, counts: Counts = (None,)) -> None:
        self.counts = counts
        self.sum = 0.0

    def step(self, block: Array, /) -> None:
        self.sum += float(block.sum())

    def finish(self) -> Any:
        return self.sum


class SharesState(FaultyFold):
    """All passes are one."""

    def __init__(self) -> None:
        self.running = Summing()

    def start(self, counts: Counts, /) -> Running[Array, Any]:  # noqa: ARG002
        return self.running


class Resets(SharesState):
    """All passes at a time are one."""

    def start(self, counts: Counts, /) -> Running[Array, Any]:  # noqa: ARG002
        self.running.sum = 0.0
        return self.running


class KeepsBlocks(FaultyFold):
    def start(self, counts: Counts, /) -> Running[Array, Any]:  # noqa: ARG002
        class Keeping(Summing):
            def __init__(self) -> None:
                self.blocks: list[Array] = []

            def step(self, block: Array, /) -> None:
                self.blocks.append(block)

            def finish(self) -> Any:
                return summed(self.blocks)

        return Keeping()


class GivesABlock(FaultyFold):
    """Its result is memory of a block."""

    def start(self, counts: Counts, /) -> Running[Array, Any]:  # noqa: ARG002
        class Last(Summing):
            def step(self, block: Array, /) -> None:
                self.block = block

            def finish(self) -> Any:
                return self.block

        return Last()


class TrustsTheCount(FaultyFold):
    def start(self, counts: Counts, /) -> Running[Array, Any]:
        class Counted(Summing):
            def step(self, block: Array, /) -> None:
                super().step(block)
                if self.counts == (1,):
                    self.sum += 1

        return Counted(counts)


class ChangesBlocks(FaultyFold):
    def start(self, counts: Counts, /) -> Running[Array, Any]:  # noqa: ARG002
        class Changing(Summing):
            def step(self, block: Array, /) -> None:
                super().step(block)
                if block.flags.writeable:
                    block.fill(7)

        return Changing()


class Swallows(FaultyFold):
    def start(self, counts: Counts, /) -> Running[Array, Any]:  # noqa: ARG002
        class Swallowing(Summing):
            def __exit__(
                self,
                kind: type[BaseException] | None,
                error: BaseException | None,
                traceback: TracebackType | None,
                /,
            ) -> Any:
                return True

        return Swallowing()


class HoldsOn(FaultyFold):
    """Goes wrong for ever once a pass was given up."""

    def __init__(self) -> None:
        self.broken = False

    def start(self, counts: Counts, /) -> Running[Array, Any]:  # noqa: ARG002
        class Holding(Summing):
            def __exit__(
                self,
                kind: type[BaseException] | None,
                error: BaseException | None,
                traceback: TracebackType | None,
                /,
            ) -> None:
                outer.broken = outer.broken or error is not None

            def finish(self) -> Any:
                return self.sum + outer.broken

        outer = self
        return Holding()


class MapsWrongly(FaultyFold):
    def then(self, fn: Callable[[Any], T]) -> Fold[Array, T]:
        return FaultyFold().then(lambda result: fn(result + 1))


class ContramapsWrongly(FaultyFold):
    def contramap(self, fn: Callable[[T], Array]) -> Fold[T, Any]:  # noqa: ARG002
        wrong: Fold[Any, Any] = FaultyFold().then(lambda result: result + 1)
        return wrong


class StartsWhenEntered(FaultyFold):
    """Hands out the same pass until that is entered, as only a tee notices."""

    def __init__(self) -> None:
        self.next = EnteredPass(self)

    def start(self, counts: Counts, /) -> Running[Array, Any]:  # noqa: ARG002
        return self.next


class EnteredPass(Summing):
    def __init__(self, fold: StartsWhenEntered) -> None:
        super().__init__()
        self.fold = fold

    def __enter__(self) -> Self:
        self.fold.next = EnteredPass(self.fold)
        return self


class CannotBePickled(FaultyFold):
    def __init__(self) -> None:
        self.lock = threading.Lock()


class PicklesAnother(FaultyFold):
    def __reduce__(self) -> Any:
        return Larger, ()


class Larger(FaultyFold):
    def __call__(self, blocks: Iterable[Array], /) -> Any:
        return super().__call__(blocks) + 1


class DropsTheLast(FaultyFold):
    def start(self, counts: Counts, /) -> Running[Array, Any]:  # noqa: ARG002
        class Late(Summing):
            before = 0.0

            def step(self, block: Array, /) -> None:
                self.sum += self.before
                self.before = float(block.sum())

        return Late()


class Places(FaultyFold):
    """Finds the block that has the largest sum: a fold that merges, the right way."""

    @property
    def merges(self) -> bool:
        return True

    def start(self, counts: Counts, /) -> "Placing":  # noqa: ARG002
        return Placing(0)

    def start_part(self, part: AnyPart, /) -> "Placing":
        return Placing(part.index[0])


class Placing(Pass):
    def __init__(self, number: int) -> None:
        self.number = number
        self.best: tuple[float, int] = (-np.inf, -1)

    def step(self, block: Array, /) -> None:
        self.best = max(self.best, (float(block.sum()), self.number))
        self.number += 1

    def state(self) -> Any:
        return self.best, self.number

    def absorb(self, state: Any, part: AnyPart, /) -> None:  # noqa: ARG002
        best, self.number = state
        self.best = max(self.best, best)

    def finish(self) -> Any:
        return self.best


class CountsFromItsPart(Places):
    """Forgets that there are blocks before a part."""

    def start_part(self, part: AnyPart, /) -> Placing:  # noqa: ARG002
        return Placing(0)


class KeepsTheLastPart(Places):
    def start(self, counts: Counts, /) -> Placing:  # noqa: ARG002
        class Keeping(Placing):
            def absorb(self, state: Any, part: AnyPart, /) -> None:  # noqa: ARG002
                self.best, self.number = state

        return Keeping(0)


class AbsorbsBlocksOnly(Places):
    """Says that it merges, and does not."""

    def start_part(self, part: AnyPart, /) -> Any:
        return FaultyFold().start_part(part)


class CannotTravel(Places):
    """Its state cannot be pickled."""

    def start_part(self, part: AnyPart, /) -> Placing:
        class Locked(Placing):
            def state(self) -> Any:
                return super().state(), threading.Lock()

        return Locked(part.index[0])


def place_of_largest(blocks: list[Array]) -> Any:
    return max((float(block.sum()), number) for number, block in enumerate(blocks))


@pytest.mark.parametrize("faulty", [CountsFromItsPart(), KeepsTheLastPart()], ids=repr)
def test_a_fold_that_merges_wrongly_is_found(faulty: Places) -> None:
    check = partial(check_fold, settings=UNSHRUNK)
    assert law_broken(lambda: check(faulty, whole, place_of_largest)) == "parts"
    assert law_broken(lambda: check(faulty, whole)) == "parts"
    in_rows: NestedFold[Array, Any] = nest(faulty, LISTED)
    assert law_broken(lambda: check_nested_fold(in_rows, whole_rows, settings=UNSHRUNK)) == "parts"


Sums = list[float]


def keep_later(_: Sums, later: Sums) -> Sums:
    return later


def keep_earlier(earlier: Sums, _: Sums) -> Sums:
    return earlier


def swap(earlier: Sums, later: Sums) -> Sums:
    return later + earlier


def forget_some(earlier: Sums, later: Sums) -> Sums:
    return earlier[:1] + later


@pytest.mark.parametrize("merge", [keep_later, keep_earlier, swap, forget_some])
def test_a_wrong_merge_is_found(merge: Callable[[Sums, Sums], Sums]) -> None:
    sums = fold(list_sums, NOTHING, merge=merge)
    check = partial(check_fold, settings=UNSHRUNK)
    assert law_broken(lambda: check(sums, whole)) == "parts"


def list_sums(sums: Sums, block: Array) -> Sums:
    return [*sums, block.sum()]


def test_what_a_fold_raises_for_parts_is_raised_as_it_is() -> None:
    for faulty, error in ((AbsorbsBlocksOnly(), ValueError), (CannotTravel(), TypeError)):
        with pytest.raises(error) as caught:
            check_fold(faulty, whole, place_of_largest)
        assert any("'parts'" in note for note in caught.value.__notes__)


def test_right_merges_keep_the_laws() -> None:
    check_fold(Places(), whole, place_of_largest)
    check_nested_fold(nest(Places(), LISTED), whole_rows)
    check_fold(fold(list_sums, NOTHING, merge=operator.add), whole)
    # Half a pass of this one is no value that could be added to another one.
    check_fold(fold(lambda n, block: 2 * n + len(block), 0), numbers, pickles=False)


@pytest.mark.parametrize(
    ("faulty", "law"),
    [
        (SharesState(), "purity or giving up"),  # if sums cancel, first the latter
        (Resets(), "separate passes"),
        (KeepsBlocks(), "reused memory"),
        (GivesABlock(), "reused memory"),
        (TrustsTheCount(), "oracle"),
        (ChangesBlocks(), "arguments"),
        (Swallows(), "giving up"),
        (HoldsOn(), "giving up"),
        (MapsWrongly(), "then"),
        (ContramapsWrongly(), "then"),
        (StartsWhenEntered(), "tee"),
        (CannotBePickled(), "pickling"),
        (PicklesAnother(), "pickling"),
        (DropsTheLast(), "oracle"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_faulty_fold_is_found(faulty: FaultyFold, law: str) -> None:
    oracle = last_of if isinstance(faulty, GivesABlock) else summed
    found = law_broken(lambda: check_fold(faulty, whole, oracle, settings=UNSHRUNK))
    assert found in law.split(" or ")


class FaultyRows(NestedFold[Array, Any]):
    """Sums rows, wrongly: what it has of a row is kept for all passes."""

    def __init__(self) -> None:
        self.row = 0.0

    def start_rows(self, counts: Counts, /) -> RunningRows[Array, Any]:  # noqa: ARG002
        outer = self

        class SummingRows(Pass):
            def __init__(self) -> None:
                self.sums: list[float] = []

            def step(self, block: Array, /) -> None:
                outer.row += float(block.sum())

            def end_row(self) -> None:
                self.sums.append(outer.row)
                outer.row = 0.0

            def finish(self) -> Any:
                return self.sums

        return SummingRows()


def row_sums(rows: Iterable[Iterable[Array]]) -> Any:
    return [summed(row) for row in rows]


def test_a_faulty_nested_fold_is_found() -> None:
    assert law_broken(
        lambda: check_nested_fold(FaultyRows(), whole_rows, row_sums, settings=UNSHRUNK)
    ) in (
        "separate passes",
        "giving up",
    )
    kept: NestedFold[Array, Any] = nest(KeepsBlocks(), LISTED)
    assert (
        law_broken(lambda: check_nested_fold(kept, whole_rows, row_sums, settings=UNSHRUNK))
        == "reused memory"
    )


def listed(results: list[Any], result: Any) -> list[Any]:
    return [*results, result]


NOTHING: list[Any] = []
LISTED: Fold[Any, list[Any]] = fold(listed, NOTHING)


def added(total: float, block: Array) -> float:
    return total + float(block.sum())


def test_right_folds_keep_the_laws() -> None:
    check_fold(FaultyFold(), whole, summed)
    check_fold(FaultyFold(), whole)
    check_fold(fold(added, 0.0), whole, summed)
    check_fold(fold(lambda total, block: total + len(block), 0), numbers, pickles=False)
    check_nested_fold(nest(fold(added, 0.0), LISTED), whole_rows, row_sums)
    check_nested_fold(nest(concatenate(axis=1), LISTED), nested_blocks())


def test_a_fold_without_an_oracle_is_compared_with_itself() -> None:
    assert (
        law_broken(lambda: check_fold(KeepsBlocks(), whole, settings=UNSHRUNK)) == "reused memory"
    )
    assert law_broken(lambda: check_fold(TrustsTheCount(), whole, settings=UNSHRUNK)) == "oracle"


def test_settings_say_how_to_look() -> None:
    examples: list[int] = []

    def counted(blocks: list[list[float]]) -> list[list[float]]:
        examples.append(len(blocks))
        return blocks

    check_aggregator(list, numbers, counted, settings=hypothesis.settings(max_examples=3))
    assert 1 <= len(examples) <= 3 * 4


# Strategies.


@given(st.data(), st.integers(0, 9), st.integers(1, 4))
def test_partitions_cut_an_axis(data: st.DataObject, length: int, parts: int) -> None:
    sizes = data.draw(partitions(length, max_parts=parts))
    assert sum(sizes) == length
    assert 1 <= len(sizes) <= parts
    assert min(sizes) >= 0
    sizes = data.draw(partitions(max_parts=parts, max_size=length))
    assert 1 <= len(sizes) <= parts
    assert 0 <= min(sizes) <= max(sizes) <= length


@pytest.mark.parametrize("strategy", [partitions(), partitions(7)])
def test_partitions_are_ragged_and_have_zeros(strategy: SearchStrategy[tuple[int, ...]]) -> None:
    assert find(strategy, lambda sizes: len(set(sizes)) > 1)
    assert find(strategy, lambda sizes: 0 in sizes and max(sizes) > 0)


def test_every_dtype_is_drawn_and_those_asked_for() -> None:
    for name in NUMPY_DTYPES:
        assert find(dtypes(), partial(operator.eq, np.dtype(name))) == np.dtype(name)
    with pytest.raises(NoSuchExample):
        find(dtypes("iu"), lambda dtype: dtype.kind not in "iu")
    bfloat16 = pytest.importorskip("ml_dtypes", reason="ml_dtypes is not installed").bfloat16
    assert find(dtypes("f"), lambda dtype: dtype == bfloat16) == bfloat16
    for narrower in (dtypes("iu"), dtypes("f", bfloat16=False)):
        with pytest.raises(NoSuchExample):
            find(narrower, lambda dtype: dtype == bfloat16)


@given(flat_blocks())
def test_flat_blocks_can_be_joined(blocks: list[Array]) -> None:
    whole = np.concatenate(blocks)
    assert len(whole) == sum(map(len, blocks))
    assert {block.dtype for block in blocks} == {blocks[0].dtype}


@given(nested_blocks(max_ndim=2))
def test_nested_blocks_can_be_joined(rows: list[list[Array]]) -> None:
    assert bits(np.block(rows)) == bits(joined([np.concatenate(row, axis=1) for row in rows]))


@given(flat_blocks(dtypes("fc", bfloat16=False), values="whole"))
def test_sums_of_whole_numbers_are_exact(blocks: list[Array]) -> None:
    whole = np.concatenate(blocks)
    assert whole.sum() == whole.astype("c16").sum()
    assert (whole == np.round(whole)).all()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_arrays_of_every_layout_are_drawn(layout: str) -> None:
    def is_so(array: Array) -> bool:
        flags, strides = array.flags, array.strides
        return {
            "C": flags.c_contiguous and flags.writeable,
            "F": flags.f_contiguous and not flags.c_contiguous,
            "strided": not flags.forc and min(strides) > 0,
            "reversed": min(strides) < 0,
            "read-only": not flags.writeable,
        }[layout]

    found = find(arrays(st.just((3, 4)), st.just(np.dtype("f4"))), is_so)
    assert found.shape == (3, 4)


FEW = [dtype for dtype in NUMPY_DTYPES if np.dtype(dtype).kind in "fc"]


@pytest.mark.parametrize("name", [*FEW, "bfloat16"])
def test_values_that_are_lost_easily_are_drawn(name: str) -> None:
    if name == "bfloat16":
        name = pytest.importorskip("ml_dtypes", reason="ml_dtypes is not installed").bfloat16
    drawn = arrays(st.just((8,)), st.just(np.dtype(name)))

    def has(found: Callable[[Array], Any]) -> None:
        def holds(array: Array) -> bool:
            parts = array.astype("c16") if array.dtype.kind == "c" else array.astype("f8")
            return bool(np.any(found(parts.view("f8"))))

        with np.errstate(all="ignore"):
            find(drawn, holds)

    has(lambda x: (x == 0) & np.signbit(x))
    has(np.isposinf)
    has(np.isneginf)
    has(lambda x: np.isnan(x) & np.signbit(x))
    has(lambda x: (x != 0) & (abs(x) < 1e-4))
    has(lambda x: len(set(x[np.isnan(x)].view("u8").tolist())) > 2)


@pytest.mark.parametrize("name", NUMPY_DTYPES)
def test_a_layout_changes_no_bit(name: str) -> None:
    dtype = np.dtype(name)
    cases: list[tuple[int, ...]] = [(), (0,), (3,), (2, 3), (2, 0, 3)]
    for shape, seed, make in product(cases, range(4), (any_bits, whole_numbers)):
        array = make(shape, dtype, seed)
        assert (array.shape, array.dtype) == (shape, dtype)
        for layout in LAYOUTS:
            assert isinstance(laid_out(array, layout), np.ndarray)
            assert bits(make(shape, dtype, seed, layout)) == bits(array)


@pytest.mark.parametrize("what", ["list", "generator", "map"])
@pytest.mark.parametrize("hinted", [True, False])
def test_sequences_of_every_kind_are_drawn(what: str, hinted: bool) -> None:
    def is_so(sequence: Any) -> bool:
        factory = sequence.generator_factory
        hint = (
            sequence.len_generator
            if isinstance(sequence, LazyChunkSequence)
            else sequence.len_outer_generator
        )
        if (hint is not None) is not hinted:
            return False
        if isinstance(factory, MapBacked):
            return what == "map"
        return (what == "list") is isinstance(factory(), list)

    assert find(flat_sequences(st.just([1, 2])), is_so).compute() == [1, 2]
    assert find(nested_sequences(st.just([[1], [2]])), is_so).compute() == [[1], [2]]


@given(st.data(), st.lists(st.lists(st.integers(), max_size=3), max_size=3))
def test_sequences_give_the_blocks(data: st.DataObject, rows: list[list[int]]) -> None:
    nested = data.draw(nested_sequences(st.just(rows)))
    assert nested.compute() == rows == nested.compute()
    for row in rows:
        flat = data.draw(flat_sequences(st.just(row)))
        assert flat.compute() == row == flat.compute()


# Comparing.


@dataclass
class Result(Generic[T]):
    value: T


class Pair(NamedTuple):
    left: Any
    right: Any


NAN = np.array([np.nan])
OTHER_NAN = np.array([0x7FF8000000000001]).view("f8")

DIFFERENT: list[object] = [
    *(0, 0.0, -0.0, 0j, False, np.float32(0), np.int8(0), float("nan"), "0", b"0", None),
    *(2**63, 2**64, -(2**64)),
    *(np.zeros(2), -np.zeros(2), np.zeros((2, 1)), np.zeros(2, int), NAN, OTHER_NAN),
    *([0], (0,), [np.zeros(2)], [-np.zeros(2)], {"a": 0}, {"a": 0.0}, {"b": 0}),
    *(Pair(0, 1), Pair(0, NAN), Pair(0, OTHER_NAN), Result(0), Result(0.0), Result([NAN])),
    *(np.array([None, "a"]), np.array([None, "b"]), np.array(["a"]), np.array(2**64)),
    *(np.ma.masked_equal([0, 1, 2], hidden) for hidden in (0, 1, 9)),
    *(np.arange(3), int, Result),
]


def test_bits_tell_what_is_different() -> None:
    for number, one in enumerate(DIFFERENT):
        for other in DIFFERENT[number + 1 :]:
            assert bits(one) != bits(other), (one, other)
        assert bits(one) == bits(twin(one))


def test_bits_are_those_of_the_values() -> None:
    assert bits(np.float64(1)) == bits(1.0) == bits(np.array(1.0)) == bits(np.array(1.0, ">f8"))
    assert bits(np.arange(6).reshape(2, 3)) == bits(np.arange(6).reshape(3, 2, order="F").T)
    assert bits(np.eye(3)[::-1, ::-1]) == bits(np.eye(3))
    assert bits({"a": [NAN, (0.0,)]}) == bits({"a": [NAN.copy(), (np.float64(0),)]})


def test_a_twin_shares_no_memory() -> None:
    given_: Any = Pair([np.zeros(2)], Result(np.zeros(2)))
    copied: Any = twin(given_)
    assert type(copied) is Pair
    given_.left[0][:] = given_.right.value[:] = 1
    assert not copied.left[0].any()
    assert not copied.right.value.any()
    lock = threading.Lock()
    assert twin(lock) is lock
    frozen = np.zeros(2)
    frozen.flags.writeable = False
    twin(frozen)[:] = 1


@pytest.mark.skipif(find_spec("torch") is None, reason="torch is not installed")
def test_bits_and_twins_of_tensors() -> None:
    import torch

    x = torch.tensor([0.0, -0.0, float("nan")])
    assert bits(x) == bits(x.clone().requires_grad_()) == bits(twin(x))
    for other in (-x, x.double(), x.reshape(3, 1), x.numpy(), torch.zeros(3), torch.zeros(0)):
        assert bits(other) != bits(x)
    assert bits(torch.tensor([1 + 2j]).conj()) == bits(torch.tensor([1 - 2j]))
    assert bits(torch.zeros(()).bfloat16()) != bits(torch.zeros(()).half())
    copied = twin((x, [x]))
    x.zero_()
    assert copied[0][2] != 0
    assert copied[1][0][2] != 0
