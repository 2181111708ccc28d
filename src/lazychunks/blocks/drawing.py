"""A drawing of the blocks of a stored array, for notebooks."""

from __future__ import annotations

from typing import Any, Protocol, TypeAlias

from lazychunks.blocks.ahead import Ahead
from lazychunks.blocks.factories import Mapped, Product, without_progress
from lazychunks.layout.shapes import Shape

LONGEST_SIDE = 160
"""Length of the longer side of a drawing, in pixels."""

SHORTEST_SIDE = 16
"""Length of the shorter side at least: an array of one column is a thin bar, and can be seen."""

MOST_LINES = 40
"""Number of blocks along an axis up to which all are drawn; of more, the first and the last."""

Lines: TypeAlias = list[float]


class KnowsSizes(Protocol):
    """Computes blocks of an array whose shape is known beforehand, as ``from_zarr`` does."""

    @property
    def array(self) -> Any:
        """The array, which has a shape."""
        ...

    @property
    def size(self) -> Shape:
        """Shape of a block, of which the last along an axis may be smaller."""
        ...


def draw_blocks(factory: object) -> str:
    """Return a drawing of the blocks as SVG; nothing if their sizes are not known.

    Examples
    --------
    >>> draw_blocks(abs)
    ''
    """
    reader, axes = _find_reader(without_progress(factory))
    if reader is None:
        return ""
    shape: Shape = tuple(reader.array.shape)
    height, width = (*shape, 1)[:2]
    longest = max(height, width, 1)
    sides = [max(LONGEST_SIDE * length / longest, SHORTEST_SIDE) for length in (height, width)]
    lines = [
        _place_lines(length, size, side) if number < axes else [0.0, side]
        for number, (length, size, side) in enumerate(
            zip((height, width), (*reader.size, 1)[:2], sides, strict=True)
        )
    ]
    below, across = sides
    path = "".join(f"M0 {y:.1f}H{across:.1f}" for y in lines[0])
    path += "".join(f"M{x:.1f} 0V{below:.1f}" for x in lines[1])
    text = " x ".join(map(str, shape))
    return (
        f'<svg width="{across + 2:.0f}" height="{below + 22:.0f}" '
        f'viewBox="-1 -1 {across + 2:.0f} {below + 22:.0f}" style="overflow:visible">'
        f'<rect width="{across:.1f}" height="{below:.1f}" fill="#8ab6d6" fill-opacity="0.5"/>'
        f'<path d="{path}" stroke="currentColor" fill="none"/>'
        f'<text x="0" y="{below + 16:.1f}" font-size="12" fill="currentColor">{text}</text></svg>'
    )


def _find_reader(factory: object) -> tuple[KnowsSizes | None, int]:
    """Return what reads the blocks, and the number of block axes, if all are there, in order."""
    # What is mapped may have other shapes, and what is sliced or shuffled other places.
    given: Any = factory
    if not isinstance(given, Ahead) or given.fn is not None:
        return None, 0
    source: Any = given.source
    match source:
        case Mapped():
            items = [source.items]
        case Product():
            items = [source.rows, source.columns]
        case _:
            return None, 0
    reader: Any = source.fn
    if not (hasattr(reader, "array") and hasattr(reader, "size")):
        return None, 0
    pairs = zip(items, reader.array.shape, reader.size, strict=False)
    if any(its != range(max(-(-length // size), 1)) for its, length, size in pairs):
        return None, 0
    found: KnowsSizes = reader
    return found, len(items)


def _place_lines(length: int, size: int, side: float) -> Lines:
    """Return where blocks begin along a side, and where the last one ends.

    >>> _place_lines(10, 4, 100.0)
    [0.0, 40.0, 80.0, 100.0]
    """
    count = -(-length // size)
    # Metadata may claim any length, and a thousand lines are one gray area.
    numbers = range(count) if count <= MOST_LINES else [*range(MOST_LINES // 2), count - 1]
    return [*(side * number * size / length for number in numbers), side]
