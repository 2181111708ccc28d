"""Spilled units: what has come of a chunk that is not complete yet, kept beside the chunks.

A run with a name would otherwise compute again, after a kill, all blocks that wait for one chunk.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from lazychunks.layout.shapes import Region, Shape
from lazychunks.storage.keys import Keys

PREFIX = "lazychunks.open_"
"""Names of the keys begin with it; the unit's place along the block axes follows."""

SECONDS = 1.0
"""Time between two spills, at least."""

Piece: TypeAlias = tuple[tuple[int, int], ...]
"""Start and stop of a block's part of a unit, along each block axis, counted from the unit."""

Pieces: TypeAlias = frozenset[Piece]


def piece_of(region: Region) -> Piece:
    """Return the place of a piece as a value that can be stored and compared."""
    return tuple((span.start, span.stop) for span in region)


def key_of(cell: Shape) -> str:
    """Return the name of the key of a spilled unit."""
    return PREFIX + "_".join(map(str, cell))


def spill(where: Keys, cell: Shape, pieces: Iterable[Piece], buffer: NDArray[Any]) -> None:
    """Store what has come of a unit."""
    listed = sorted(pieces)
    data = b"".join(buffer[_region(piece)].tobytes() for piece in listed)
    body = json.dumps(listed).encode() + b"\n" + data
    where.write(key_of(cell), b"%08x\n" % _checksum(cell, body) + body)


def read_pieces(where: Keys, keys: Iterable[str], block_axes: int) -> Mapping[Shape, Pieces]:
    """Tell which pieces of which units are spilled; what is damaged counts as not there."""
    spilled: dict[Shape, Pieces] = {}
    for key in keys:
        cell = _cell(key, block_axes)
        if cell is not None:
            pieces, _ = _read(where, cell)
            if pieces:
                spilled[cell] = frozenset(pieces)
    return spilled


def load(where: Keys, cell: Shape, buffer: NDArray[Any]) -> Pieces:
    """Copy what has been spilled of a unit into a buffer, and tell which pieces that were.

    The caller compares them with those that it expects: the key may be gone by now.
    """
    pieces, data = _read(where, cell)
    places = [buffer[_region(piece)] for piece in pieces]
    if sum(place.nbytes for place in places) != len(data):
        return frozenset()
    start = 0
    for place in places:
        stop = start + place.nbytes
        place[...] = np.frombuffer(data[start:stop], buffer.dtype).reshape(place.shape)
        start = stop
    return frozenset(pieces)


def list_keys(keys: Iterable[str]) -> Iterator[str]:
    """Tell which keys are those of spilled units."""
    return (key for key in keys if key.startswith(PREFIX))


def _read(where: Keys, cell: Shape) -> tuple[list[Piece], bytes]:
    """Read the pieces of a unit, and their values one after the other; none if it is damaged."""
    checksum, _, body = (where.read(key_of(cell)) or b"").partition(b"\n")
    if checksum != b"%08x" % _checksum(cell, body):
        return [], b""
    head, _, data = body.partition(b"\n")
    try:  # another version may have written it
        return [_parse_piece(piece, len(cell)) for piece in json.loads(head)], data
    except (TypeError, ValueError, RecursionError):
        return [], b""


def _parse_piece(listed: list[list[int]], block_axes: int) -> Piece:
    piece = tuple((start, stop) for start, stop in listed)
    if len(piece) != block_axes or not all(0 <= start <= stop for start, stop in piece):
        raise ValueError(f"{listed} is no place within a unit")
    return piece


def _checksum(cell: Shape, body: bytes) -> int:
    """Return the checksum, of the unit's place as well: its key may have been renamed."""
    return zlib.crc32(body, zlib.crc32(key_of(cell).encode()))


def _cell(key: str, block_axes: int) -> Shape | None:
    parts = key.removeprefix(PREFIX).split("_")
    if not key.startswith(PREFIX) or len(parts) != block_axes:
        return None
    cell = tuple(int(part) if part.isdecimal() else -1 for part in parts)
    return cell if key == key_of(cell) else None


def _region(piece: Piece) -> Region:
    return tuple(slice(start, stop) for start, stop in piece)
