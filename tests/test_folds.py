"""Folds as values: the laws of ``tee``, ``nest``, ``then``, ``contramap``; who lets go when."""

import pickle
from collections.abc import Callable, Iterator, Sequence
from operator import add, length_hint, mul
from types import TracebackType
from typing import Any, Self

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lazychunks import (
    Fold,
    LazyChunkSequence,
    NestedFold,
    NestedLazyChunkSequence,
    SourceExhaustedError,
    SourceTypeError,
    count,
    fold,
    nest,
    tee,
)
from lazychunks.folds import Counts, Pass
from lazychunks.runs.passes import Setup

numbers = st.lists(st.integers(-100, 100), max_size=8)
rows_of_numbers = st.lists(numbers, max_size=5)


def longer(length: int, block: int) -> int:
    return length + 1


def listed(blocks: list[int], block: int) -> list[int]:
    blocks.append(block)
    return blocks


SUM = fold(add, 0)
LENGTH = fold(longer, 0)
LIST = fold(listed, list[int]())
LAST = fold(lambda _, block: block, -1)


def size(block: int) -> int:
    return abs(block)


def named(block: int) -> str:
    return str(block)


def digit(state: int, block: int) -> int:
    return 10 * state + block


def texts(state: int, block: str) -> int:
    return state + len(block)


TEXTS = fold(texts, 0)


class Counted:
    """Blocks that tell how often they were generated."""

    def __init__(self, blocks: list[int]) -> None:
        self.blocks = blocks
        self.generated = 0

    def __call__(self) -> Iterator[int]:
        for block in self.blocks:
            self.generated += 1
            yield block


# Laws.


@given(numbers)
def test_a_fold_goes_from_the_left(blocks: list[int]) -> None:
    digits = fold(digit, 1)
    state = 1
    for block in blocks:
        state = 10 * state + block
    assert digits(blocks) == state
    assert LIST(blocks) == blocks
    assert LazyChunkSequence(lambda: blocks).compute(LIST) == blocks


@given(numbers)
def test_tee_is_the_tuple_of_the_results_in_one_generation(blocks: list[int]) -> None:
    source = Counted(blocks)
    both = tee(SUM, LIST)
    assert LazyChunkSequence(source).compute(both) == (SUM(blocks), LIST(blocks))
    assert source.generated == len(blocks)
    assert tee(both, LENGTH)(blocks) == ((sum(blocks), blocks), len(blocks))
    many = tee(SUM, LENGTH, LIST, LAST, both, SUM)
    assert many(iter(blocks))[4] == (sum(blocks), blocks)


@given(numbers)
def test_then_maps_the_result_and_contramap_the_blocks(blocks: list[int]) -> None:
    assert SUM.then(str)(blocks) == str(SUM(blocks))
    assert SUM.then(str).then(len)(blocks) == SUM.then(lambda total: len(str(total)))(blocks)
    assert SUM.contramap(size)(blocks) == SUM([abs(block) for block in blocks])
    assert TEXTS.contramap(named)(blocks) == len("".join(map(str, blocks)))
    mapped = tee(SUM.contramap(size), LIST).then(lambda both: both[0])
    assert mapped(blocks) == sum(map(abs, blocks))


@given(rows_of_numbers)
def test_nest_folds_rows_and_then_their_results(rows: list[list[int]]) -> None:
    nested: NestedFold[int, int] = nest(SUM, fold(max, -1000))
    expected = max(map(sum, rows), default=-1000)
    assert nested(rows) == expected
    assert NestedLazyChunkSequence(lambda: rows).compute(nested) == expected
    both = tee(nested, nest(LIST, fold(lambda n, row: n + len(row), 0)))
    assert both(iter(map(iter, rows))) == (expected, sum(map(len, rows)))
    assert tee(both, nested)(rows) == (both(rows), expected)


@given(rows_of_numbers)
def test_nest_takes_plain_callables(rows: list[list[int]]) -> None:
    def added(blocks: LazyChunkSequence[int]) -> int:
        return sum(blocks)

    def largest(blocks: LazyChunkSequence[int]) -> int:
        return max(blocks, default=0)

    sequence = NestedLazyChunkSequence(lambda: rows)
    expected = max(map(sum, rows), default=0)
    assert sequence.compute(nest(added, largest)) == expected
    assert sequence.compute(nest(SUM, largest)) == expected
    assert sequence.compute(nest(added, LIST)) == list(map(sum, rows))


@given(numbers, numbers)
def test_passes_are_independent(one: list[int], other: list[int]) -> None:
    assert LIST(one) == one
    assert LIST(other) == other
    with LIST.start((None,)) as first, LIST.start((None,)) as second:
        for block in one:
            first.step(block)
        for block in other:
            second.step(block)
        assert (first.finish(), second.finish()) == (one, other)


def test_folds_are_values() -> None:
    nested = nest(SUM, SUM)
    for value in (
        SUM,
        SUM.then(str),
        SUM.contramap(size),
        tee(SUM, SUM),
        nested,
        tee(nested, nested),
    ):
        copy = pickle.loads(pickle.dumps(value))  # noqa: S301  # our own
        assert copy == value
    assert SUM == fold(add, 0) != fold(mul, 0)
    assert tee(SUM, LENGTH) != tee(LENGTH, SUM)


def test_tee_refuses_folds_over_different_things() -> None:
    mixed: Any = tee
    said = (
        "^tee takes folds over blocks, or folds over rows of blocks, not both: FunctionFold, "
        r"NestFold; fold\(\) makes a fold of a plain function, nest\(\) a nested one of two flat "
        "ones$"
    )
    with pytest.raises(TypeError, match=said):
        mixed(SUM, nest(SUM, SUM))
    with pytest.raises(TypeError, match="builtin_function"):
        mixed(SUM, sum)


# Who lets go when.


class Sink(Fold[int, str]):
    """A fold that holds something outside, and says what happens to it."""

    def __init__(self, events: list[str], name: str = "sink", *, stores: bool = True) -> None:
        self.events = events
        self.name = name
        self.stores = stores
        self.passes: list[SinkPass] = []

    def start(self, counts: Counts, /) -> Any:  # noqa: ARG002
        self.passes.append(SinkPass(self))
        return self.passes[-1]


class SinkPass(Pass):
    before: Callable[[Any], Any] | None = None
    is_behind_a_fold = False
    setup = Setup()
    resumes = False
    is_finished = False
    shelf = None

    def __init__(self, sink: Sink) -> None:
        self.sink = sink

    @property
    def sinks(self) -> Sequence[Any]:
        return (self,) if self.sink.stores else ()

    def prepare(self) -> None:
        self._say("prepared")

    def _say(self, what: str) -> None:
        self.sink.events.append(f"{self.sink.name} {what}")

    def __enter__(self) -> Self:
        self._say("opened")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
        /,
    ) -> None:
        self._say("closed" if kind is None else f"gave up: {kind.__name__}")

    def step(self, block: int, /) -> None:
        if block < 0:
            raise ValueError(block)
        self._say(f"took {block}")

    def finish(self) -> str:
        self._say("finished")
        return self.sink.name


def failing(error: BaseException) -> Callable[..., Any]:
    def fail(*_: object) -> Any:
        raise error

    return fail


def test_a_pass_that_ends_well() -> None:
    events: list[str] = []
    assert tee(Sink(events), LENGTH)([1, 2]) == ("sink", 2)
    said = ["opened", "took 1", "took 2", "prepared", "finished", "closed"]
    assert [*dict.fromkeys(events)] == [f"sink {what}" for what in said]


@pytest.mark.parametrize("error", [RuntimeError(), KeyboardInterrupt()], ids=repr)
def test_a_pass_that_fails_lets_every_fold_give_up(error: BaseException) -> None:
    def blocks() -> Iterator[int]:
        yield 1
        raise error

    events: list[str] = []
    gave_up = f"sink gave up: {type(error).__name__}"
    wrapped = tee(tee(Sink(events), LENGTH).then(str), SUM.contramap(size))
    runs: list[Callable[[], object]] = [
        lambda: LazyChunkSequence(blocks).compute(wrapped),
        lambda: tee(Sink(events), fold(failing(error), 0))([1]),
        lambda: tee(Sink(events), fold(add, 0, failing(error)))([1]),
        lambda: nest(Sink(events), TEXTS)([blocks()]),
        lambda: nest(SUM, Sink(events))([[1], blocks()]),
    ]
    for run in runs:
        events.clear()
        with pytest.raises(type(error)):
            run()
        assert events[0] == "sink opened"
        assert events[-1] == gave_up
        assert "sink finished" not in events


def test_a_sink_that_cannot_open_closes_those_before_it() -> None:
    class Unopened(Sink):
        def start(self, counts: Counts, /) -> Any:  # noqa: ARG002
            class Refusing(SinkPass):
                def __enter__(self) -> Self:
                    raise FileExistsError

            return Refusing(self)

    events: list[str] = []
    with pytest.raises(FileExistsError):
        tee(Sink(events), Unopened(events, "unopened"))([1])
    assert events == ["sink opened", "sink gave up: FileExistsError"]


def test_sinks_are_prepared_before_any_pass_finishes_and_finish_last() -> None:
    events: list[str] = []
    inner = tee(Sink(events, "a"), Sink(events, "b", stores=False))
    both = tee(inner.then(str), Sink(events, "c", stores=False), Sink(events, "d").contramap(size))
    assert both([1]) == ("('a', 'b')", "c", "d")
    ends = [event for event in events if "finished" in event or "prepared" in event]
    assert ends[:2] == ["a prepared", "d prepared"]
    finished = [event for event in ends if "finished" in event]
    assert finished == ["c finished", "b finished", "a finished", "d finished"]
    assert ends.index("c finished") > ends.index("d prepared")


def test_a_pass_knows_the_sinks_in_it_and_they_know_what_is_before_them() -> None:
    events: list[str] = []
    a, b, c, d = (Sink(events, name) for name in "abcd")
    folded = tee(tee(LENGTH, a), LIST, tee(b, c).contramap(size), d.then(str))
    sinks: Any = folded.start((None,)).sinks
    assert [*sinks] == [*a.passes, *b.passes, *c.passes, *d.passes]
    assert [sink.before for sink in sinks] == [None, size, size, None]
    assert not any(sink.is_behind_a_fold for sink in sinks)
    nested = tee(nest(LENGTH, tee(SUM, a)), nest(b, TEXTS)).start_rows((None, None))
    assert list[Any](nested.sinks) == a.passes[1:]
    assert a.passes[1].is_behind_a_fold
    assert a.passes[1].before is None
    assert [*LENGTH.start((None,)).sinks] == []


def test_an_inner_sink_is_closed_with_each_row() -> None:
    events: list[str] = []
    assert nest(Sink(events), TEXTS)([[1], [], [2, 3]]) == 3 * len("sink")
    assert events.count("sink opened") == events.count("sink closed") == 3
    assert events.index("sink closed") < events.index("sink took 2")


def test_counts_are_handed_on() -> None:
    seen: list[Counts] = []

    class Told(Sink):
        def start(self, counts: Counts, /) -> Any:
            seen.append(counts)
            return SinkPass(self)

    told = Told([])
    LazyChunkSequence(lambda: [1, 2], 2).compute(told.then(str))
    told(iter([1, 2]))
    told([1, 2, 3])
    told([])
    told(block for block in (1, 2))
    assert seen == [(2,), (2,), (3,), (0,), (None,)]
    seen.clear()
    NestedLazyChunkSequence(lambda: [[1, 2], [3, 4]], 2).compute(nest(told, TEXTS))
    assert seen == [(None,), (2,)]
    seen.clear()
    product = NestedLazyChunkSequence.from_product(add, range(3), range(4))
    product.compute(tee(nest(told, TEXTS), nest(SUM, told)))
    assert sorted(seen, key=str) == [(3,), (4,), (4,), (4,)]


# What cannot be combined.


def test_a_tee_over_rows_is_no_fold_over_blocks() -> None:
    """Regression: it passed for one, over no fold at all, whose result was ``()``."""
    both: Any = tee(nest(SUM, SUM), nest(SUM, LENGTH))
    assert not isinstance(both, Fold)
    assert not isinstance(tee(SUM, LENGTH), NestedFold)
    assert not isinstance(both.then(len), Fold)
    with pytest.raises(TypeError, match="not both"):
        tee(both, SUM)


def test_an_array_is_no_row_of_blocks() -> None:
    """Regression: of a flat sequence, a fold over rows took each block's rows for blocks."""
    flat = LazyChunkSequence.from_map(np.ones, [(2, 3), (1, 3)])
    sizes: NestedFold[Any, list[int]] = nest(count(), LIST)
    plain: Any = nest(count(), list)
    for aggregator in (sizes, plain):
        with pytest.raises(SourceTypeError, match=r"gave one array \(ndarray\)"):
            flat.compute(aggregator)
    assert sizes([[np.ones((2, 3))]]) == [2]


def test_a_row_that_has_run_is_an_error_and_no_empty_row() -> None:
    """Regression: a plain callable that went through a row again saw no block."""

    def average(blocks: LazyChunkSequence[int]) -> float:
        return sum(blocks) / len(list(blocks))

    averages: Any = nest(average, list)
    rows = [[1, 2], [4]]
    assert averages(rows) == [1.5, 4]  # lists can be run through again
    with pytest.raises(SourceExhaustedError):
        NestedLazyChunkSequence(lambda: rows).compute(averages)
    assert NestedLazyChunkSequence(lambda: [[], [4]]).compute(nest(sum, list)) == [0, 4]


# What is passed on.


def counted(counts: dict[str, list[int]], block: int) -> dict[str, list[int]]:
    counts["blocks"].append(block)
    return counts


def total_of(counts: dict[str, list[int]]) -> int:
    return sum(counts["blocks"])


def test_a_run_leaves_no_trace_in_the_initial_state() -> None:
    totals = fold(counted, {"blocks": list[int]()}, total_of)
    assert [totals([1, 2]), totals([3])] == [3, 3]


def hinted(rows: LazyChunkSequence[object]) -> int:
    return length_hint(rows, -1)


def test_the_outer_callable_is_told_the_number_of_rows() -> None:
    for length in (2, 7):
        rows = NestedLazyChunkSequence(lambda: iter([iter([1]), iter([2])]), length)
        assert rows.compute(nest(list, hinted)) == length
    assert NestedLazyChunkSequence(lambda: [[1], [2]]).compute(nest(list, hinted)) == -1
