"""Spilled units: they come back as they were, or not at all."""

import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from zarr.core.buffer import default_buffer_prototype
from zarr.storage import MemoryStore

from lazychunks.layout.shapes import Region, Shape, partition_slices
from lazychunks.storage.keys import Keys
from lazychunks.storage.resuming import spill
from lazychunks.storage.resuming.spill import Piece, piece_of
from lazychunks.testing import bits
from lazychunks.testing.values import any_bits
from tests.strategies import Array, dtypes, partitions, seeds

UNTOUCHED = 7


def memory() -> Keys:
    return Keys(MemoryStore(), "array.zarr")


def change(where: Keys, cell: Shape, value: bytes) -> None:
    """Put something else where a unit is spilled."""
    store: Any = where.store
    store._store_dict[where.key(spill.key_of(cell))] = default_buffer_prototype().buffer.from_bytes(
        value
    )


def found(where: Keys, block_axes: int = 1) -> dict[Shape, spill.Pieces]:
    return dict(spill.read_pieces(where, where.list_keys() or [], block_axes))


def place(piece: Piece) -> Region:
    return tuple(slice(start, stop) for start, stop in piece)


@given(
    partitions(5, 4),
    partitions(4, 3) | st.none(),
    st.integers(0, 3),
    dtypes,
    seeds,
    st.data(),
)
def test_pieces_come_back_as_they_were(
    heights: Shape,
    widths: Shape | None,
    tail: int,
    dtype: np.dtype[Any],
    seed: int,
    data: st.DataObject,
) -> None:
    shape = (sum(heights), *((sum(widths),) if widths else ()), tail)
    buffer = any_bits(shape, dtype, seed)
    all_pieces = [
        piece_of((rows, *columns))
        for rows in partition_slices(heights)
        for columns in ([(span,) for span in partition_slices(widths)] if widths else [()])
    ]
    pieces = data.draw(st.sets(st.sampled_from(all_pieces)))
    cell = (3, 4)[: len(shape) - 1]
    where = memory()
    spill.spill(where, cell, pieces, buffer)
    assert found(where, len(cell)) == ({cell: frozenset(pieces)} if pieces else {})
    again = np.full(shape, UNTOUCHED).astype(dtype)
    expected = again.copy()
    assert spill.load(where, cell, again) == pieces
    for piece in pieces:
        expected[place(piece)] = buffer[place(piece)]
    assert bits(again) == bits(expected)


def spilled() -> tuple[Keys, bytes]:
    """Spill a unit of two pieces."""
    where = memory()
    spill.spill(where, (2,), [((0, 1),), ((3, 5),)], np.arange(10, dtype="u1").reshape(5, 2))
    value = where.read(spill.key_of((2,)))
    assert value is not None
    assert len(found(where)[2,]) == 2
    return where, value


def assert_nothing_is_loaded(where: Keys, cell: Shape, shape: Shape = (5, 2)) -> None:
    assert cell not in found(where)
    buffer = np.full(shape, UNTOUCHED, "u1")
    assert spill.load(where, cell, buffer) == frozenset()
    assert (buffer == UNTOUCHED).all()


def test_a_unit_that_is_cut_short_is_never_loaded() -> None:
    where, value = spilled()
    for length in range(len(value)):
        change(where, (2,), value[:length])
        assert_nothing_is_loaded(where, (2,))
    change(where, (2,), value + b"\0")
    assert_nothing_is_loaded(where, (2,))


def test_a_unit_with_a_flipped_bit_is_never_loaded() -> None:
    where, value = spilled()
    for at in range(len(value)):
        for bit in range(8):
            flipped = bytearray(value)
            flipped[at] ^= 1 << bit
            change(where, (2,), bytes(flipped))
            assert_nothing_is_loaded(where, (2,))


@given(st.binary(max_size=200))
def test_anything_else_is_never_loaded(value: bytes) -> None:
    where = memory()
    change(where, (2,), value)
    assert_nothing_is_loaded(where, (2,))


@given(st.binary(max_size=60) | st.sampled_from([b"3\n", b"[[3]]\n", b'{"a": 1}\n', b"[[[0]]]\n"]))
def test_what_fits_its_checksum_is_parsed_with_care(body: bytes) -> None:
    """As another version may have written it."""
    where = memory()
    checksum = zlib.crc32(body, zlib.crc32(spill.key_of((2,)).encode()))
    change(where, (2,), b"%08x\n" % checksum + body)
    assert_nothing_is_loaded(where, (2,))


def test_a_unit_whose_key_was_renamed_is_never_loaded() -> None:
    """Two that were swapped would each be whole."""
    where, value = spilled()
    change(where, (1,), value)
    assert_nothing_is_loaded(where, (1,))
    assert found(where).keys() == {(2,)}


def test_a_unit_of_another_size_is_never_loaded() -> None:
    where, _ = spilled()
    for shape in ((5, 1), (4, 2), (1, 2)):
        buffer = np.full(shape, UNTOUCHED, "u1")
        assert spill.load(where, (2,), buffer) == frozenset()
        assert (buffer == UNTOUCHED).all()


def test_a_unit_that_has_gone_is_not_loaded() -> None:
    assert_nothing_is_loaded(memory(), (2,))


@pytest.mark.parametrize(
    "name",
    ["open_02", "open_2_0", "open_", "open_x", "open_-2", "open_2.partial", "open_٢", "open_²"],
)
def test_a_name_that_only_looks_like_a_spilled_unit_is_none(name: str) -> None:
    where, value = spilled()
    store: Any = where.store
    content = store._store_dict
    content[where.key(f"lazychunks.{name}")] = content.pop(where.key(spill.key_of((2,))))
    assert len(where.list_keys() or []) == 1
    assert found(where) == {}
    assert value


def test_keys_of_spilled_units_are_told_from_others() -> None:
    keys = ["zarr.json.partial", "c/0/0", "lazychunks.open_0_1", "lazychunks.open_junk"]
    assert [*spill.list_keys(keys)] == keys[2:]


def test_arrays_that_are_not_contiguous_come_back_as_well() -> None:
    where = memory()
    whole: Array = np.arange(40).reshape(5, 8)
    spill.spill(where, (0,), [((1, 3),)], whole[:, ::2])
    again = np.zeros((5, 8), int)[:, ::2]
    spill.load(where, (0,), again)
    assert again.tolist() == [[0] * 4, [8, 10, 12, 14], [16, 18, 20, 22], [0] * 4, [0] * 4]
