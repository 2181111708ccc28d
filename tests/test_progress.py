"""Progress bars that every aggregator gets for free, and durations in the log."""

import logging
import re
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from lazychunks import (
    IdentityConverter,
    LazyChunkSequence,
    NestedLazyChunkSequence,
    concatenate,
)
from lazychunks.progress import is_shown

FLAT = LazyChunkSequence(lambda: iter([np.full((2, 3), i) for i in range(5)]), 5)
NESTED = NestedLazyChunkSequence(lambda: ([np.ones((2, 3))] * 4 for _ in range(3)), 3)


Stderr = pytest.CaptureFixture[str]


def on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let stderr say that it is a terminal (in the test itself: fixtures see another stderr)."""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)


def last_count(captured: Stderr) -> str:
    """What the bar shows at the end, such as 3/5, or 3 where the total is not known."""
    last = captured.readouterr().err.rstrip().rsplit("\r", 1)[-1]
    found = re.search(r"(\d+/\d+) \[", last) or re.search(r"blocks: (\d+)block", last)
    assert found is not None, last
    return found[1]


def count(sequence: Iterable[Iterable[object]]) -> int:
    return sum(1 for row in sequence for _ in row)


def run(sequence: Any, how: str, progress: bool | None) -> object:
    match how:
        case "compute":
            return sequence.compute(progress=progress)
        case "aggregator":
            return sequence.compute(count, progress=progress)
        case _:
            return sequence.to_zarr({}, IdentityConverter(), progress=progress)


HOWS = ["compute", "aggregator", "to_zarr"]


# When a bar is shown.


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("sequence", [FLAT, NESTED], ids=["flat", "nested"])
@pytest.mark.parametrize(
    ("terminal", "progress"), [(False, None), (False, True), (True, None), (True, False)]
)
def test_a_terminal_shows_a_bar_unless_it_is_said_otherwise(
    terminal: bool,
    progress: bool | None,
    sequence: Any,
    how: str,
    capsys: Stderr,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if terminal:
        on_a_terminal(monkeypatch)
    run(sequence, how, progress)
    shown = terminal if progress is None else progress
    assert ("blocks" in (said := capsys.readouterr().err)) == shown
    assert bool(said) == shown


class Writer:
    """What programs put in the place of stderr to have it in their log."""

    def write(self, _: str) -> None: ...

    def flush(self) -> None: ...


@pytest.mark.parametrize("stderr", [None, Writer()])
def test_it_is_silent_where_stderr_is_none_or_can_only_write(
    stderr: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Regression: a program without a console has none."""
    monkeypatch.setattr(sys, "stderr", stderr)
    assert not is_shown(None)
    assert len(FLAT.compute()) == 5


# What it shows.


@pytest.mark.parametrize("how", HOWS)
def test_it_counts_blocks_to_the_hint(how: str, capsys: Stderr) -> None:
    run(FLAT, how, progress=True)
    assert last_count(capsys) == "5/5"


@pytest.mark.parametrize("how", HOWS)
def test_a_nested_bar_counts_blocks_to_rows_times_columns(how: str, capsys: Stderr) -> None:
    run(NESTED, how, progress=True)
    assert last_count(capsys) == "12/12"


@pytest.mark.parametrize("how", HOWS)
def test_without_a_hint_it_counts(how: str, capsys: Stderr) -> None:
    run(LazyChunkSequence(FLAT.generator_factory), how, progress=True)
    assert last_count(capsys) == "5"
    run(NestedLazyChunkSequence(NESTED.generator_factory), how, progress=True)
    assert last_count(capsys) == "12"


def test_the_items_of_a_map_backed_sequence_are_the_total(capsys: Stderr) -> None:
    LazyChunkSequence.from_map(abs, range(7)).compute(progress=True)
    assert last_count(capsys) == "7/7"
    NestedLazyChunkSequence.from_product(pow, range(3), range(5)).compute(progress=True)
    assert last_count(capsys) == "15/15"


@pytest.mark.parametrize("aggregator", [list, max, sum, len, sorted])
def test_every_aggregator_has_it(aggregator: Any, capsys: Stderr) -> None:
    sequence = LazyChunkSequence(lambda: iter([3, 1, 2]), 3)
    if aggregator is len:
        sequence.compute(lambda blocks: len(list(blocks)), progress=True)
    else:
        sequence.compute(aggregator, progress=True)
    assert last_count(capsys) == "3/3"


def test_it_shows_how_far_a_failed_run_came(capsys: Stderr) -> None:
    def failing() -> Iterator[int]:
        yield from (1, 2)
        raise KeyError("block 2")

    with pytest.raises(KeyError, match="block 2"):
        LazyChunkSequence(failing, 5).compute(progress=True)
    assert last_count(capsys) == "2/5"


def test_the_values_are_the_same_with_a_bar(capsys: Stderr) -> None:
    np.testing.assert_array_equal(
        FLAT.compute(concatenate(), progress=True), FLAT.compute(concatenate(), progress=False)
    )
    assert len(NESTED.compute(progress=True)) == 3


@pytest.mark.parametrize("nested", [False, True])
def test_what_a_sequence_can_do_does_not_depend_on_a_bar(nested: bool, capsys: Stderr) -> None:
    """An aggregator may go on with the sequence, whether or not stderr is a terminal."""
    flat = LazyChunkSequence.from_map(np.ones, [(2, 3)] * 4)
    product = NestedLazyChunkSequence.from_product(np.full, [(2, 3)] * 2, range(2))
    sequence: Any = product if nested else flat

    def stored(sequence: Any) -> Any:
        with ThreadPoolExecutor(1) as executor:
            ahead = sequence.parallel(executor).map(np.negative)
            return ahead.to_zarr({}, IdentityConverter(), True, run_id="r", resume=True)[:]

    expected = stored(sequence)
    for progress in (False, True):
        np.testing.assert_array_equal(sequence.compute(stored, progress=progress), expected)
    assert last_count(capsys) == "4/4"


class Squares(LazyChunkSequence[int]):
    def __init__(self, count: int) -> None:
        super().__init__(lambda: (number**2 for number in range(count)), count)


class Table(NestedLazyChunkSequence[int]):
    def __init__(self, count: int) -> None:
        super().__init__(lambda: [range(count)] * count)


def test_a_subclass_that_is_made_otherwise_has_a_bar(capsys: Stderr) -> None:
    """It stays one of its class."""
    assert Squares(3).compute(type, progress=True) is Squares
    assert Squares(3).compute(progress=True) == [0, 1, 4]
    assert last_count(capsys) == "3/3"
    assert Table(2).compute(progress=True) == [[0, 1], [0, 1]]


# The log.


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("sequence", [FLAT, NESTED], ids=["flat", "nested"])
def test_the_duration_is_logged_at_info(
    sequence: Any, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="lazychunks"):
        run(sequence, how, progress=False)
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("lazychunks", logging.INFO)
    method = "to_zarr" if how == "to_zarr" else "compute"
    name = type(sequence).__name__
    assert re.fullmatch(rf"{name}\.{method} took \d+\.\d{{3}} s", record.message)


@pytest.mark.parametrize("kind", [LazyChunkSequence, NestedLazyChunkSequence])
def test_the_duration_of_a_failure_is_logged_too(
    kind: Any, caplog: pytest.LogCaptureFixture
) -> None:
    sequence = kind(lambda: None)
    with caplog.at_level(logging.INFO, logger="lazychunks"):
        for how in HOWS:
            with pytest.raises(TypeError):
                run(sequence, how, progress=False)
    assert [record.message.split(" after")[0] for record in caplog.records] == [
        f"{kind.__name__}.{method} failed" for method in ("compute", "compute", "to_zarr")
    ]


def test_nothing_is_printed_unless_the_application_wants_it(capsys: Stderr) -> None:
    FLAT.compute()
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "")
