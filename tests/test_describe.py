"""Reprs for people: one line that tells what a sequence is made of, and a table in notebooks."""

from collections.abc import Callable
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
import pytest

from lazychunks import (
    IdentityConverter,
    LazyChunkSequence,
    NestedLazyChunkSequence,
    chain,
    concatenate,
    fold,
    nest,
    tee,
    top_k,
    total,
    zarr_group_sink,
    zarr_sink,
)
from lazychunks.blocks.describe import LONGEST, name_function


def load(number: int) -> int:
    return number


def opaque() -> list[int]:
    return [1]


def stored() -> LazyChunkSequence[Any]:
    store: dict[str, Any] = {}
    LazyChunkSequence.from_map(np.ones, [2, 2]).to_zarr(store, IdentityConverter())
    return LazyChunkSequence.from_zarr(store, IdentityConverter())


SEQUENCES: dict[str, Callable[[], Any]] = {
    "<LazyChunkSequence: 1000000 blocks, map-backed, load>": lambda: LazyChunkSequence.from_map(
        load, list(range(10**6))
    ),
    "<LazyChunkSequence: 3 blocks, map-backed, str(load(...))>": (
        lambda: LazyChunkSequence.from_map(load, range(3)).map(str)
    ),
    "<LazyChunkSequence: ? blocks, generator-backed, opaque>": (lambda: LazyChunkSequence(opaque)),
    "<NestedLazyChunkSequence: 2 x 3 blocks, map-backed, pow>": (
        lambda: NestedLazyChunkSequence.from_product(pow, range(2), range(3))
    ),
    "<LazyChunkSequence: 6 blocks, map-backed, chain>": (
        lambda: chain(*[LazyChunkSequence.from_map(load, range(3))] * 2)
    ),
}


@pytest.mark.parametrize("line", SEQUENCES)
def test_a_line_tells_what_a_sequence_is_made_of(line: str) -> None:
    assert repr(SEQUENCES[line]()) == line


def test_a_line_is_short_and_shows_no_values() -> None:
    long: LazyChunkSequence[int] = LazyChunkSequence(opaque)
    for _ in range(50):
        long = long.map(load)
    for sequence in (long, stored()):
        line = repr(sequence)
        assert len(line) < LONGEST + 80
        assert "\n" not in line
    assert len(name_function(long.generator_factory)) <= LONGEST


BYTES: Any = bytes(10**6)

FOLDS: dict[str, Callable[[], Any]] = {
    "nest(TopKFold(k=3, axis=1, largest=True), Concatenate(axis=0))": (
        lambda: nest(top_k(3, axis=1), concatenate())
    ),
    "tee(Total(axis=0), Total(axis=1, along=0))": lambda: tee(total(), total(1, along=0)),
    "tee({'a': Total(axis=0).contramap(negative).then(float)})": (
        lambda: tee({"a": total().contramap(np.negative).then(float)})
    ),
    "fold(max, ..., str, merge=min)": lambda: fold(max, [0] * 10**6, str, merge=min),
    "<ZarrSink: a.zarr, IdentityConverter>": lambda: zarr_sink("a.zarr"),
    "<ZarrSink: dict, IdentityConverter, overwrite=True, chunks=3>": (
        lambda: zarr_sink({"c/0": BYTES}, overwrite=True, chunks=3)
    ),
    "<ZarrGroupSink: a.zarr, IdentityConverter, run_id='r'>": (
        lambda: zarr_group_sink("a.zarr", run_id="r")
    ),
}


@pytest.mark.parametrize("line", FOLDS)
def test_a_line_tells_what_a_fold_is_made_of(line: str) -> None:
    assert repr(FOLDS[line]()) == line


def test_a_notebook_shows_a_table() -> None:
    sequence: Any = LazyChunkSequence(lambda: iter(opaque()))
    table: str = sequence._repr_html_()
    assert table.startswith("<table><caption>LazyChunkSequence</caption><tr><th>blocks</th>")
    assert "&lt;locals&gt;.&lt;lambda&gt;</td>" in table


def drawing_of(sequence: Any) -> str:
    html: str = sequence._repr_html_()
    return html.partition("</table>")[2]


def test_a_notebook_draws_the_blocks_of_a_stored_array() -> None:
    store: dict[str, Any] = {}
    LazyChunkSequence(lambda: [np.ones((10, 6))]).to_zarr(store)
    flat = LazyChunkSequence.from_zarr(store, rows=4)
    drawing = ET.fromstring(drawing_of(flat))  # noqa: S314  # our own
    rectangle, lines, text = drawing
    assert float(rectangle.attrib["height"]) / float(rectangle.attrib["width"]) == 10 / 6
    assert lines.attrib["d"].count("H") == 4  # where three blocks begin, and the last one ends
    assert lines.attrib["d"].count("V") == 2
    assert text.text == "10 x 6"
    nested = NestedLazyChunkSequence.from_zarr(store, rows=5, columns=2)
    assert drawing_of(nested).count("H") == 3
    assert drawing_of(nested).count("V") == 4


def test_blocks_of_unknown_sizes_or_places_are_not_drawn() -> None:
    store: dict[str, Any] = {}
    LazyChunkSequence(lambda: [np.ones((10, 6))]).to_zarr(store)
    flat = LazyChunkSequence.from_zarr(store, rows=4)
    made: LazyChunkSequence[Any] = LazyChunkSequence.from_map(np.ones, range(3))
    for sequence in (made, flat.map(np.sum), flat[1:], flat.shuffle(1), flat.rebatch(2)):
        assert not drawing_of(sequence)


@pytest.mark.parametrize("shape", [(0,), (0, 3), (3, 0), (7,), (10**6, 1)])
def test_a_drawing_is_small_whatever_the_shape(shape: tuple[int, ...]) -> None:
    store: dict[str, Any] = {}
    LazyChunkSequence(lambda: [np.zeros(shape, "i1")]).to_zarr(store)
    drawing = drawing_of(LazyChunkSequence.from_zarr(store, rows=1))
    ET.fromstring(drawing)  # noqa: S314  # our own
    assert len(drawing) < 2000
