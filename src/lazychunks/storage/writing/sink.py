"""The sink: what a write is made of each time that a pass starts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from lazychunks.runs.passes import Counts, PartFold
from lazychunks.storage.options import Destination, WriteOptions
from lazychunks.storage.writing.part_writer import PartWriters
from lazychunks.storage.writing.write import Write

if TYPE_CHECKING:
    from lazychunks.converters import ToNumpy
    from lazychunks.storage.writing.target import Target

T_contra = TypeVar("T_contra", contravariant=True)


@dataclass(frozen=True, slots=True)
class ArraySink(Generic[T_contra]):
    """Stores blocks, or rows of blocks, as one array.

    Parameters
    ----------
    destination, converter, overwrite, options
        As in ``to_zarr``.
    """

    destination: Destination
    converter: ToNumpy[T_contra]
    overwrite: bool
    options: WriteOptions

    def __post_init__(self) -> None:
        check_converter(self.converter)

    @property
    def merges(self) -> bool:
        """Whether parts may be stored elsewhere, whose receipts are absorbed here: they may."""
        return True

    @property
    def needs_blocks(self) -> bool:
        """Whether it needs blocks that are stored already: it does not."""
        return False

    def start(self, counts: Counts, /) -> Write[T_contra]:
        """Start to store blocks."""
        return Write(self.destination, self.converter, self.overwrite, self.options, counts[:1])

    def start_rows(self, counts: Counts, /) -> Write[T_contra]:
        """Start to store rows of blocks."""
        known = (*counts, None, None)[:2]
        return Write(self.destination, self.converter, self.overwrite, self.options, known)

    def for_parts(self, running: Any, /) -> PartFold[T_contra]:
        """Return what stores parts."""
        target: Target[T_contra] = running.target
        return PartWriters(target)


def check_converter(converter: object) -> None:
    """Refuse what cannot convert blocks; callers need not be typed.

    Raises
    ------
    TypeError
        If it is a class, or has no ``to_numpy``.
    """
    if isinstance(converter, type) or not hasattr(converter, "to_numpy"):
        raise TypeError(
            f"converter must be an object with to_numpy, got {converter!r}; for NumPy blocks, pass "
            "IdentityConverter()"
        )
