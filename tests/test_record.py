"""The record of a run: it comes back as it was, and no damage to it is believed."""

import json
import sys
import tracemalloc
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lazychunks.layout.shapes import Shape
from lazychunks.storage.resuming.record import (
    ATTRIBUTE,
    MOST_BLOCKS,
    MOST_RUNS,
    DamagedRecordError,
    Document,
    Record,
    hash_sizes,
    own_attributes,
    parse,
    record_of,
    seal,
    serialize,
    unseal,
    with_record,
    with_shape,
)

lengths = st.integers(0, sys.maxsize)
texts = st.none() | st.text(max_size=8)


def per_axis(axes: int, values: st.SearchStrategy[Any]) -> st.SearchStrategy[tuple[Any, ...]]:
    return st.tuples(*(st.none() | values,) * axes)


@st.composite
def records(draw: st.DrawFn) -> Record:
    axes = draw(st.integers(1, 2))
    runs = st.lists(st.tuples(st.integers(0, 3), st.integers(1, 40)), max_size=5)
    sizes = runs.map(lambda pairs: tuple(size for size, times in pairs for _ in range(times)))
    return Record(
        draw(st.text(max_size=8)),
        run_id=draw(texts),
        attempt=draw(texts),
        first=draw(st.tuples(*(lengths,) * draw(st.integers(axes, 4)))),
        counts=draw(per_axis(axes, lengths)),
        lengths=draw(per_axis(axes, lengths)),
        sizes=draw(per_axis(axes, sizes)),
        listed=draw(texts),
        is_written=draw(st.booleans()),
    )


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=8,
)

NAMES = ("first", "counts", "lengths", "sizes", "run_id", "attempt", "listed", "is_written")

DOCUMENT: Document = {"zarr_format": 3, "shape": [0, 6], "attributes": {"unit": "m"}, "codecs": []}


# Law: what was stored comes back


@given(records())
def test_a_record_comes_back_as_it_was(record: Record) -> None:
    assert Record.from_json(record.to_json()) == record


@given(records(), st.dictionaries(st.text(min_size=1, max_size=5), json_values, max_size=4))
def test_sealed_metadata_come_back_as_they_were(record: Record, attributes: Document) -> None:
    mine = {name: value for name, value in attributes.items() if name != ATTRIBUTE}
    document = {**DOCUMENT, "attributes": mine}
    assert unseal(seal(with_record(document, record))) == (with_record(document, record), record)
    assert own_attributes(with_record(document, record)) == mine


def test_sealed_metadata_are_json_and_hold_the_record_as_text() -> None:
    sealed = json.loads(seal(with_record(DOCUMENT, Record("1", run_id="run"))))
    assert sealed["shape"] == [0, 6]
    assert json.loads(sealed["attributes"][ATTRIBUTE]) == {"version": "1", "run_id": "run"}


@given(records())
def test_a_finished_array_keeps_what_another_start_compares(record: Record) -> None:
    kept = record.finished()
    assert (kept.attempt, kept.is_written) == (None, False)
    assert replace(kept, attempt=record.attempt, is_written=record.is_written) == record


def test_a_finished_array_does_not_list_sizes_without_end() -> None:
    sizes = (1, 2) * (MOST_RUNS // 2)
    record = Record("1", counts=(len(sizes),), lengths=(None,), sizes=(sizes,), first=(1,))
    assert record.finished().sizes == (sizes,)
    longer = replace(record, sizes=((*sizes, 1),)).finished()
    assert longer.sizes == (None,)
    assert Record.from_json(longer.to_json()) == longer


# Law: damage is found, or changes nothing


def test_every_flipped_bit_of_sealed_metadata_is_found() -> None:
    """Regression: a height of 5 that read as 4 shifted all blocks after it."""
    sizes = (5, 5, 4, 0)
    record = Record("1", "run", "attempt", (5, 6), (None,), lengths=(14,), sizes=(sizes,))
    sealed = seal(with_record(DOCUMENT, record))
    for at in range(len(sealed)):
        for bit in range(8):
            flipped = bytearray(sealed)
            flipped[at] ^= 1 << bit
            with pytest.raises(DamagedRecordError):
                unseal(bytes(flipped))


def test_metadata_that_are_cut_short_are_found() -> None:
    sealed = seal(with_record(DOCUMENT, Record("1", run_id="run")))
    for length in range(len(sealed)):
        with pytest.raises(DamagedRecordError):
            unseal(sealed[:length])
    with pytest.raises(DamagedRecordError):
        unseal(sealed + b" ")


@given(st.binary(max_size=100) | json_values.map(lambda value: json.dumps(value).encode()))
def test_anything_else_is_no_sealed_metadata(value: bytes) -> None:
    with pytest.raises(DamagedRecordError):
        unseal(value)


def test_metadata_that_nobody_sealed_are_not_believed() -> None:
    """As another program writes them, or an older version did."""
    document = with_record(DOCUMENT, Record("1", run_id="run"))
    with pytest.raises(DamagedRecordError, match="checksum"):
        unseal(serialize(document))


@given(
    json_values
    | st.dictionaries(st.sampled_from(NAMES), json_values).map(
        lambda facts: {"version": "1", **facts}
    )
)
def test_a_hostile_record_is_refused_by_type_or_makes_sense(value: Any) -> None:
    for given_value in (value, json.dumps(value), str(value)):
        try:
            record = Record.from_json(given_value)
        except DamagedRecordError:
            continue
        axes = len(record.counts)
        assert len(record.lengths) == axes
        assert len(record.sizes) == axes
        assert len(record.first) >= axes
        for number in (*record.first, *record.counts, *record.lengths):
            assert number is None or (type(number) is int and 0 <= number <= sys.maxsize)
        assert Record.from_json(record.to_json()) == record


HOSTILE: dict[str, Any] = {
    "no version": {"run_id": "run"},
    "a number for a name": {"version": "1", "run_id": 7},
    "a list for a name": {"version": "1", "attempt": ["a"]},
    "a negative length": {"version": "1", "counts": [1], "first": [-1]},
    "a fraction": {"version": "1", "counts": [1.5], "first": [1]},
    "a truth value": {"version": "1", "counts": [True], "first": [1]},
    "a text for a length": {"version": "1", "counts": ["1"], "first": [1]},
    "a huge length": {"version": "1", "counts": [2**63], "first": [1]},
    "fewer lengths than axes": {"version": "1", "counts": [1, 2], "lengths": [1], "first": [1, 1]},
    "more sizes than axes": {"version": "1", "counts": [1], "sizes": [None, None], "first": [1]},
    "a first block of too few axes": {"version": "1", "counts": [1, 2], "first": [1]},
    "sizes that are no pairs": {"version": "1", "counts": [2], "sizes": [[1, 2]], "first": [1]},
    "sizes of three": {"version": "1", "counts": [2], "sizes": [[[1, 2, 3]]], "first": [1]},
    "sizes as often as never": {"version": "1", "counts": [2], "sizes": [[[1, -2]]], "first": [1]},
    "a text of a list": "[]",
    "no text": "",
    "nothing": None,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_record_that_makes_no_sense_is_refused(name: str) -> None:
    value = HOSTILE[name]
    with pytest.raises(DamagedRecordError, match="no record of a run"):
        Record.from_json(value if isinstance(value, str) else json.dumps(value))


def test_a_record_of_many_blocks_takes_no_memory() -> None:
    hostile = {"version": "1", "counts": [1], "first": [1], "sizes": [[[1, MOST_BLOCKS + 1]]]}
    tracemalloc.start()
    try:
        with pytest.raises(DamagedRecordError, match="more than"):
            Record.from_json(json.dumps(hostile))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2**20


def test_a_deep_record_is_refused() -> None:
    with pytest.raises(DamagedRecordError):
        Record.from_json("[" * 100_000)
    assert parse(b"[" * 100_000) is None


# Sizes, packed


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(1, 2000)), min_size=1, max_size=6))
def test_equal_sizes_in_a_row_take_no_more_room_than_one(pairs: list[tuple[int, int]]) -> None:
    sizes: Shape = tuple(size for size, times in pairs for _ in range(times))
    record = Record("1", first=(1,), counts=(None,), lengths=(None,), sizes=(sizes,))
    text = record.to_json()
    assert Record.from_json(text) == record
    assert len(text) < 100 + 12 * len(pairs)


# In the attributes of an array


def test_the_record_of_an_array_is_found() -> None:
    record = Record("1", run_id="run")
    assert record_of(with_record(DOCUMENT, record)) == record
    assert record_of(with_shape(with_record(DOCUMENT, record), (3, 6))) == record


@pytest.mark.parametrize(
    "document",
    [
        None,
        {},
        DOCUMENT,
        {"attributes": None},
        {"attributes": ["lazychunks"]},
        {"attributes": {"lazychunks": "hello"}},
        {"attributes": {"lazychunks": None}},
        {"attributes": {"lazychunks": {"run_id": "run"}}},
    ],
)
def test_an_array_of_another_program_has_no_record(document: Document | None) -> None:
    assert record_of(document) is None


def test_metadata_are_never_changed_in_place() -> None:
    before = json.dumps(DOCUMENT)
    with_record(DOCUMENT, Record("1"))
    with_shape(DOCUMENT, (1, 2))
    unseal(seal(with_record(DOCUMENT, Record("1"))))
    assert json.dumps(DOCUMENT) == before


def test_listed_sizes_are_told_apart_by_their_hash() -> None:
    listed: list[tuple[Shape, ...]] = [((1, 2),), ((2, 1),), ((1,), (2,)), ((12,),), ((1, 2), ())]
    hashes = {hash_sizes(sizes) for sizes in listed}
    assert len(hashes) == len(listed)
    assert hash_sizes(None) is None
    assert hash_sizes(((1, 2),)) == hash_sizes(((1, 2),))
