"""Rows that are appended to an array: new chunks beyond the shape that readers know.

The array that is there stays as it is: new chunks lie where readers do not look. If it ends inside
a chunk, that chunk is written again with the same old rows. Then ``zarr.json`` is replaced, which
is the one act that shows the new rows. Until then, ``lazychunks.append`` in the array tells the
next writer that something may lie beyond the shape.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext

from zarr.storage import LocalStore

from lazychunks.errors import DestinationBusyError
from lazychunks.layout.shapes import Shape
from lazychunks.storage.chunks.metadata import (
    APPENDING,
    METADATA,
    list_chunk_keys,
    open_array,
)
from lazychunks.storage.keys import Keys
from lazychunks.storage.places.lock import lock_directory
from lazychunks.storage.places.protocol import NO_DOCUMENTS, Place
from lazychunks.storage.resuming.record import (
    DamagedRecordError,
    Document,
    parse,
    seal,
    unseal,
)

_UNFINISHED = re.compile(r"(\.[0-9a-f]{32})?\.partial$")
"""How the name of a file ends that is not whole yet: as zarr names it, or as this library does."""

_UNFINISHED_METADATA = re.compile(r"(zarr|zarr\.json|lazychunks)\.[0-9a-f]{32}\.partial")


class InPlace:
    """Rows on their way to the end of an array.

    Parameters
    ----------
    place
        The array.
    metadata
        Its ``zarr.json``, as this writer has found it.
    """

    is_in_place: bool = True
    can_be_kept: bool = False
    supports_deletes: bool = True
    can_spill: bool = False

    def __init__(self, place: Place, metadata: bytes) -> None:
        self._place = place
        self._before = metadata
        self.where: Keys = place.in_store(read_only=False)
        self.is_committed: bool = False

    def exists(self) -> bool:
        """Whether an earlier start has left something."""
        return self.where.read(APPENDING) is not None

    def tidy_after(self, run_id: str) -> None:
        """Finish what an earlier start of a run has left that died right after its commit."""
        try:
            noted = unseal(self.where.read(APPENDING) or b"")[1]
        except DamagedRecordError:
            return
        if noted.run_id == run_id:
            self.finish()

    def begin(self, documents: Mapping[str, bytes] = NO_DOCUMENTS) -> None:
        """Remove what a dead writer has left beyond the array's shape."""
        is_left = self.exists()
        with self._keep_workers_out():
            # First, so that a worker that outlives the dead writer finds that it may not write.
            self.where.write(APPENDING, seal(parse(documents[""]) or {}))
            if is_left:
                self._remove_beyond()

    def keys(self, *, below: str = "", tidy: bool = False) -> Iterable[str]:  # noqa: ARG002  # a start begins anew
        """List nothing: that would take the longer the longer the array is."""
        return ()

    def commit(self, documents: Mapping[str, bytes], *, durable: bool) -> None:
        """Replace the array's metadata, and the copies of it in groups above.

        Raises
        ------
        DestinationBusyError
            If another program has changed the array in the meantime.
        """
        place, after = self._place, documents[""]
        if place.read(METADATA) != self._before:
            raise DestinationBusyError(
                f"another program has changed the array at {place} while rows were appended, so "
                "that they may lie elsewhere than its new rows; see that nothing else changes it, "
                "and append again",
                path=str(place),
            )
        if durable:
            place.sync(_list_new_chunks(self.where, self._before, after))
        try:
            place.replace(METADATA, after, durable=durable)
            self.is_committed = True
        except BaseException:
            # The answer may be lost, or an interrupt come, when it has taken effect.
            self.is_committed = place.read(METADATA) == after
            raise
        self.finish(durable=durable)

    def finish(self, *, durable: bool = False) -> None:
        """Tell the groups above of the array as it is, and forget that there was an append."""
        metadata = self._place.read(METADATA)
        if metadata is not None:
            self._place.copies.announce(metadata, durable=durable)
        with contextlib.suppress(Exception):  # the rows are there; the next writer tidies up
            self.where.delete(APPENDING)

    def discard(self) -> None:
        """Remove what has been written beyond the array's shape, unless it is committed."""
        if not self.is_committed:
            with self._keep_workers_out():
                self._remove_beyond()
                self.where.delete(APPENDING)

    def _keep_workers_out(self) -> AbstractContextManager[None]:
        """Wait until no worker writes a chunk, and let none begin; on local paths only."""
        store = self.where.store
        return lock_directory(store.root) if type(store) is LocalStore else nullcontext()

    def _remove_beyond(self) -> None:
        document = parse(self._place.read(METADATA))
        if document is not None:
            keys = self.where.list_keys() or ()
            self.where.delete(*_find_beyond(self.where, document, keys))


def _list_new_chunks(where: Keys, before: bytes, after: bytes) -> Iterator[str]:
    """List the keys of the chunks that hold new rows."""
    old, new = (open_array(where, parse(value) or {}) for value in (before, after))
    if old.shape != new.shape:
        extent = (new.shards or new.chunks)[0]
        yield from list_chunk_keys(where, parse(after) or {}, old.shape[0] // extent)


def _find_beyond(where: Keys, document: Document, keys: Iterable[str]) -> Iterator[str]:
    """Find the chunks beyond the shape of an array, and files that a dead writer has not ended."""
    array = open_array(where, document)
    end = -(-array.shape[0] // (array.shards or array.chunks)[0])
    for key in keys:
        name = _UNFINISHED.sub("", key)
        cell = _parse_chunk_key(name, document)
        is_chunk = len(cell) == array.ndim and (name != key or cell[0] >= end)
        if is_chunk or _UNFINISHED_METADATA.fullmatch(key):
            yield key


def _parse_chunk_key(key: str, document: Document) -> Shape:
    """Return the place of a chunk from its key as the array encodes it; empty if it is none."""
    encoding = document["chunk_key_encoding"]
    is_default = encoding["name"] == "default"
    separator = encoding.get("configuration", {}).get("separator", "/" if is_default else ".")
    head, *rest = key.split(separator)
    numbers = rest if is_default else [head, *rest]
    if (is_default and head != "c") or not all(number.isdecimal() for number in numbers):
        return ()
    return tuple(map(int, numbers))
