"""Which places this process writes, and which arrays it reads there.

Most stores have no lock, and an array that is replaced in one of them is removed before its blocks
are written. So within a process, writers and readers are told of each other here.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Generator
from dataclasses import dataclass, field
from weakref import WeakSet

from zarr.abc.store import Store

from lazychunks.errors import DestinationBusyError
from lazychunks.storage.places.location import Location, locate
from lazychunks.storage.places.refusals import refuse_readers, refuse_second_writer


@dataclass(eq=False, slots=True, weakref_slot=True)
class _Writer:
    location: Location
    is_staged: bool
    """Whether an array that it replaces stays until the new one is complete."""
    is_removing: bool = False
    """Whether it has begun to remove that array."""
    has_readers: bool = False
    """Whether this process has read from there since the writer entered."""


@dataclass(slots=True)
class Register:
    """The writers at work in this process."""

    # Weak references: an interrupt may cut the end of a writer short, and it would be at work for
    # ever. The generator of `enter` holds the only other one.
    _writers: WeakSet[_Writer] = field(default_factory=WeakSet[_Writer])
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @contextlib.contextmanager
    def enter(self, location: Location, name: str, *, is_staged: bool = False) -> Generator[None]:
        """Be a writer at a place.

        Parameters
        ----------
        location, name
            Where it is, and what the user calls it.
        is_staged
            Whether an array that is replaced stays until the new one is complete.

        Raises
        ------
        DestinationBusyError
            If another one is at work there, within it, or around it.
        """
        writer = _Writer(location, is_staged)
        try:
            with self._lock:
                if any(location.overlaps(other.location) for other in self._writers):
                    raise refuse_second_writer(name)
                self._writers.add(writer)
            yield
        finally:
            self._writers.discard(writer)

    def begin_removal(self, location: Location, name: str) -> None:
        """Refuse to remove an array that is read, and all reading from now on.

        Raises
        ------
        DestinationExistsError
            If this process has read from there since the writer entered.
        """
        with self._lock:
            for writer in self._find_removers(location):
                if writer.has_readers:
                    raise refuse_readers(name)
                writer.is_removing = True

    def note_read(self, store: Store, path: str) -> None:
        """Keep in mind that an array is read, in case a writer is about to replace it.

        Raises
        ------
        DestinationBusyError
            If a writer has begun to: chunks that are gone would read as fill values.
        """
        with self._lock:
            # Called for each block: where the array is need not be known if nobody removes any.
            if all(writer.is_staged for writer in self._writers):
                return
            for writer in self._find_removers(locate(store, path)):
                if writer.is_removing:
                    name = f"{store}/{path}" if path else str(store)
                    raise DestinationBusyError(
                        f"{name} is being replaced, so it cannot be read; read it before, or write "
                        "to another destination",
                        path=name,
                    )
                writer.has_readers = True

    def _find_removers(self, location: Location) -> list[_Writer]:
        return [
            writer
            for writer in self._writers
            if not writer.is_staged and writer.location.overlaps(location)
        ]


REGISTER = Register()
"""The register of this process."""
