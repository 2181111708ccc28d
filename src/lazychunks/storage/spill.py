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
    head = json.dumps({"pieces": listed, "bytes": len(data)})
    checksum = zlib.crc32(data, zlib.crc32(head.encode()))
    where.write(key_of(cell), f"{head}\n{checksum:08x}\n".encode() + data)


def read_pieces(where: Keys, keys: Iterable[str], block_axes: int) -> Mapping[Shape, Pieces]:
    """Tell which pieces of which units are spilled; what is damaged counts as not there."""
    spilled: dict[Shape, Pieces] = {}
    for key in keys:
        cell = _cell(key, block_axes)
        if cell is not None:
            head, _ = _read(where, cell)
            if head:
                spilled[cell] = frozenset(tuple(map(_span, piece)) for piece in head)
    return spilled


def load(where: Keys, cell: Shape, buffer: NDArray[Any]) -> None:
    """Copy what has been spilled of a unit into a buffer."""
    head, data = _read(where, cell)
    start = 0
    for piece in head:
        place = buffer[_region(tuple(map(_span, piece)))]
        stop = start + place.nbytes
        place[...] = np.frombuffer(data[start:stop], buffer.dtype).reshape(place.shape)
        start = stop


def list_keys(keys: Iterable[str]) -> Iterator[str]:
    """Tell which keys are those of spilled units."""
    return (key for key in keys if key.startswith(PREFIX))


def _read(where: Keys, cell: Shape) -> tuple[list[Any], bytes]:
    head, _, rest = (where.read(key_of(cell)) or b"").partition(b"\n")
    checksum, _, data = rest.partition(b"\n")
    if checksum != b"%08x" % zlib.crc32(data, zlib.crc32(head)):
        return [], b""
    pieces: list[Any] = json.loads(head)["pieces"]
    return pieces, data


def _cell(key: str, block_axes: int) -> Shape | None:
    parts = key.removeprefix(PREFIX).split("_")
    if not key.startswith(PREFIX) or len(parts) != block_axes:
        return None
    cell = tuple(int(part) if part.isdecimal() else -1 for part in parts)
    return cell if key == key_of(cell) else None


def _span(pair: Any) -> tuple[int, int]:
    start, stop = pair
    return start, stop


def _region(piece: Piece) -> Region:
    return tuple(slice(start, stop) for start, stop in piece)
