"""The sink: what a write is made of each time that a pass starts."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from lazychunks.runs.passes import Counts
from lazychunks.storage.group_options import GroupOptions
from lazychunks.storage.options import Destination, WriteOptions
from lazychunks.storage.places.place import resolve_destination
from lazychunks.storage.writing.group import GroupWrite
from lazychunks.storage.writing.write import Write

if TYPE_CHECKING:
    from lazychunks.converters import ToNumpy
    from lazychunks.storage.places.protocol import Place

T_contra = TypeVar("T_contra", contravariant=True)


@dataclass(frozen=True, slots=True)
class _Sink(Generic[T_contra]):
    """Stores blocks, or rows of blocks.

    Parameters
    ----------
    destination, converter, overwrite
        As in ``to_zarr``.
    """

    destination: Destination
    converter: ToNumpy[T_contra]
    overwrite: bool

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
        return self._write(resolve_destination(self.destination), counts[:1])

    def start_rows(self, counts: Counts, /) -> Write[T_contra]:
        """Start to store rows of blocks."""
        known = (*counts, None, None)[:2]
        return self._write(resolve_destination(self.destination), known)

    def for_parts(self, running: Any, /) -> Any:
        """Return what stores parts."""
        return running.for_parts()

    @abstractmethod
    def _write(self, place: Place, counts: Counts) -> Write[T_contra]:
        """Return a start of the write."""


@dataclass(frozen=True, slots=True)
class ArraySink(_Sink[T_contra]):
    """Stores blocks, or rows of blocks, as one array."""

    options: WriteOptions

    def _write(self, place: Place, counts: Counts) -> Write[T_contra]:
        return Write(place, self.converter, self.overwrite, self.options, counts)


@dataclass(frozen=True, slots=True)
class GroupSink(_Sink[T_contra]):
    """Stores blocks that are mappings, or rows of them, as one group."""

    options: GroupOptions

    def _write(self, place: Place, counts: Counts) -> Write[T_contra]:
        return GroupWrite(place, self.converter, self.overwrite, self.options, counts)


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
