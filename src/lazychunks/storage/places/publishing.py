"""A destination is complete or absent: write aside, then publish at once.

A local path is written in a hidden sibling directory, ``.NAME.partial``, which one rename puts
into place; where an array is replaced, the two directories are exchanged atomically (Linux), or
the old one steps aside as ``.NAME.old`` for the moment between two renames, and comes back if
the writer dies in it. Any other store gets the chunks at their final keys. In both, ``zarr.json``
is kept back as ``zarr.json.partial`` until all is written: what has no metadata is no array.

One writer at a time: a lock file beside a local path, a register within this process elsewhere.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import shutil
import sys
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, TypeAlias
from weakref import WeakValueDictionary

import filelock
from zarr.storage import LocalStore

from lazychunks.errors import DestinationBusyError, DestinationExistsError
from lazychunks.storage.chunks.metadata import (
    KEPT_BACK,
    METADATA,
    OVERWRITING,
    Document,
    parsed,
    serialized,
)
from lazychunks.storage.keys import Keys, settled
from lazychunks.storage.places.destinations import (
    METADATA_NAMES,
    InStore,
    LocalPath,
    files_below,
    foreign_among,
)

JOURNAL = "lazychunks.sizes"

if TYPE_CHECKING:
    from lazychunks.storage.chunks.metadata import StoredArray


class DirectorySwap:
    """Writes in a hidden sibling directory and renames it into place."""

    can_take_back: bool = True
    """Whether what has been written can be removed again, or kept aside for another start."""

    def __init__(self, place: LocalPath, *, overwrite: bool) -> None:
        self._place = place
        self._overwrite = overwrite
        self._target = place.path
        self._staging = place.beside("partial")
        self._old = place.beside("old")
        self._lock = filelock.FileLock(place.beside("lock"))
        self._made: list[Path] = []
        self.where: Keys = Keys(LocalStore(self._staging), "")
        """Where the array is written."""
        self.is_shown: bool = False
        """Whether the array is in place, whatever fails after that."""

    def lock(self) -> None:
        """Take the lock file, and put an old array back that a dead writer moved aside.

        The place is looked at first: a lock file is a change that a refusal must not make.

        Raises
        ------
        DestinationBusyError
            If another writer is at work.
        DestinationExistsError, DestinationReadOnlyError
            If the destination may not, or cannot, be written.
        """
        self._place.holds_array()
        parents = self._target.parents
        self._made = [parent for parent in parents if not parent.exists()]
        self._target.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._lock.acquire(timeout=0)
        except filelock.Timeout:
            raise _busy(self._place) from None
        self._repair()

    def unlock(self) -> None:
        """Remove the lock file, and directories that were made in vain, also if locking failed.

        Removing the file while it is held is safe: who locks a file that is gone, tries again.
        """
        if self._lock.is_locked:
            with contextlib.suppress(OSError):  # a lock file that stays locks nobody out
                Path(self._lock.lock_file).unlink(missing_ok=True)
            self._lock.release()
        for directory in self._made:
            try:
                directory.rmdir()
            except OSError:
                return

    def has_leftovers(self) -> bool:
        """Whether the staging directory is there."""
        return self._staging.exists()

    def begin(self) -> None:
        """Make an empty staging directory."""
        if self._staging.exists():
            shutil.rmtree(self._staging)
        os.mkdir(self._staging)

    def keys(self, *, tidy: bool = False) -> Iterator[str]:
        """Files in the staging directory, where symbolic links are refused.

        What a dead writer was writing has a name of its own, and is removed if that is asked for:
        by who has the lock, as long as no worker writes.
        """
        for key, entry in files_below(self._staging):
            if entry.is_symlink():
                raise _link(entry.path)
            if tidy and key.endswith(".partial") and key != KEPT_BACK:
                os.unlink(entry.path)
            else:
                yield key

    def clear_journal(self) -> None:
        """Remove the journal's directory."""
        if (self._staging / JOURNAL).exists():
            shutil.rmtree(self._staging / JOURNAL)

    def commit(self, document: Document, *, durable: bool) -> None:  # noqa: ARG002  # is the draft
        """Rename the staging directory into place, whatever is there stepping out in one move."""
        os.rename(self._staging / KEPT_BACK, self._staging / METADATA)
        if durable:
            _sync_tree(self._staging)
        if not self._place.holds_array():
            os.rename(self._staging, self._target)
        elif not self._overwrite:
            raise DestinationExistsError(
                f"{self._place} was created by another writer in the meantime; pass "
                "overwrite=True to replace it",
                path=str(self._place),
            )
        elif not _exchange(self._staging, self._target):
            self._step_in()
        self.is_shown = True
        with contextlib.suppress(OSError):  # no unfinished write is there, if anything is
            os.rename(self._staging, self._old)
        if durable:
            for directory in (self._target, *self._made):
                _sync(directory.parent)
        for directory in (self._old, self._staging):
            _remove(directory)

    def discard(self) -> None:
        """Remove the staging directory."""
        shutil.rmtree(self._staging, ignore_errors=True)

    def _repair(self) -> None:
        """Put an old array back that was moved aside, and name what is unfinished as such."""
        for directory in (self._old, self._staging):
            if directory.is_symlink():
                raise _link(directory)
            if directory.exists() and (
                not directory.is_dir() or foreign_among(os.listdir(directory))
            ):
                raise DestinationExistsError(
                    f"{directory} is in the way, and no writer has left it; move it",
                    path=str(directory),
                )
        if self._place.set_aside is not None:
            os.rename(self._old, self._target)
        elif self._old.exists():
            _remove(self._old)
        if (self._staging / METADATA).exists():  # it died when it was about to publish
            os.rename(self._staging / METADATA, self._staging / KEPT_BACK)

    def _step_in(self) -> None:
        """Replace in two steps, the first of which is taken back if the second is not made."""
        try:
            os.rename(self._target, self._old)
            os.rename(self._staging, self._target)
        except BaseException:
            with contextlib.suppress(OSError):
                os.rename(self._old, self._target)
            raise


class MetadataLast:
    """Writes chunks to their final keys and keeps the metadata back until the end."""

    # By the name of a place: two buckets of one name count as one, whatever their endpoints. Their
    # stores' own equality errs on the other side, where clients differ in their credentials.
    _at_work: ClassVar[WeakValueDictionary[str, MetadataLast]] = WeakValueDictionary()
    _register = threading.Lock()

    @classmethod
    def note_read(cls, array: StoredArray) -> None:
        """Keep in mind that an array is read, in case somebody is about to replace it.

        Raises
        ------
        DestinationBusyError
            If a writer of this process has begun to: chunks that are gone read as fill values.
        """
        place = InStore(array.store, array.path)
        with cls._register:
            writer = cls._at_work.get(place.name)
            if writer is not None and writer.replaces:
                raise DestinationBusyError(
                    f"{place} is being replaced, so it cannot be read; read it before, or write to "
                    "another destination",
                    path=str(place),
                )
            if writer is not None:
                writer.is_read = True

    def __init__(self, place: InStore) -> None:
        self.where = place
        """Where the array is written."""
        self.is_shown: bool = False
        """Whether the array is in place, whatever fails after that."""
        self.can_take_back: bool = place.store.supports_deletes
        self.is_read = False
        self.replaces: bool = False

    def lock(self) -> None:
        """Enter this place into the register of this process, unless it meets one that is there.

        The place is looked at afterwards: what a writer at work has put there is not complete yet,
        and would be taken for something else. Raises as :meth:`DirectorySwap.lock` does.
        """
        with self._register:
            here = self.where.name
            for there in list(self._at_work):
                if f"{there}/".startswith(f"{here}/") or f"{here}/".startswith(f"{there}/"):
                    raise _busy(self.where)
            self._at_work[here] = self
        self.where.holds_array()
        self._repair()

    def unlock(self) -> None:
        """Leave the register."""
        if self._at_work.get(self.where.name) is self:
            del self._at_work[self.where.name]

    def has_leftovers(self) -> bool:
        """Whether metadata is kept back at the destination."""
        return self.can_take_back and self.where.read(KEPT_BACK) is not None

    def begin(self) -> None:
        """Remove what is there, metadata first, so that no reader sees a mixture.

        Metadata that says nothing is kept back meanwhile, which tells what remains if this dies
        from content that is not ours.
        """
        with self._register:
            if self.is_read:
                raise DestinationExistsError(
                    f"{self.where} is being read, perhaps for these very blocks, and its store "
                    "cannot keep it until they are written; write to another destination",
                    path=str(self.where),
                )
            self.replaces = True
        if not self.can_take_back:
            if published(self.where) is not None:
                raise DestinationExistsError(
                    f"{self.where} holds an array, and its store cannot delete, hence not replace "
                    "it; choose another destination",
                    path=str(self.where),
                )
            return
        self.where.write(KEPT_BACK, OVERWRITING)
        self.where.delete(*METADATA_NAMES)
        self._remove_chunks()

    def keys(self, *, tidy: bool = False) -> Iterable[str]:  # noqa: ARG002  # keys appear whole
        """Keys below the destination."""
        return self.where.keys() or ()

    def clear_journal(self) -> None:
        """Remove the journal's keys."""
        if self.can_take_back:
            settled(self.where.store.delete_dir, self.where.key(JOURNAL))

    def commit(self, document: Document, *, durable: bool) -> None:  # noqa: ARG002  # the store's
        """Write the metadata to its own key."""
        self.where.write(METADATA, serialized(document))
        self.is_shown = True
        if self.can_take_back:
            with contextlib.suppress(Exception):  # the array is there; the next writer tidies up
                self.where.delete(KEPT_BACK)

    def discard(self) -> None:
        """Remove what has been written, unless it is complete and has been published."""
        if self.can_take_back:
            if published(self.where) is None:
                self._remove_chunks()
            self.where.delete(KEPT_BACK)

    def _repair(self) -> None:
        """Remove metadata that is still kept back although it has been published."""
        if self.can_take_back:
            kept_back = self.where.read(KEPT_BACK)
            if kept_back and kept_back == self.where.read(METADATA):
                self.where.delete(KEPT_BACK)

    def _remove_chunks(self) -> None:
        """Remove all but the metadata that is kept back."""
        self.where.delete(*(key for key in self.keys() if key != KEPT_BACK))


Publication: TypeAlias = DirectorySwap | MetadataLast
"""Where an array is written unseen, until ``commit`` shows it."""


def published(place: LocalPath | InStore) -> Document | None:
    """Metadata of the array that readers see."""
    return parsed(place.read(METADATA))


def publication_at(place: LocalPath | InStore, *, overwrite: bool) -> Publication:
    """Choose the way of publishing that a place allows."""
    if isinstance(place, LocalPath):
        return DirectorySwap(place, overwrite=overwrite)
    return MetadataLast(place)


def _busy(place: LocalPath | InStore) -> DestinationBusyError:
    return DestinationBusyError(
        f"another writer is at work on {place}; wait for it, or choose another destination",
        path=str(place),
    )


def _exchange(one: Path, other: Path) -> bool:
    """Exchange two directories in one step; False where the system cannot.

    Source: ``renameat2(2)`` with ``RENAME_EXCHANGE``, Linux 3.15 and glibc 2.28 or newer.
    """
    if not sys.platform.startswith("linux"):
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "renameat2"):
        return False
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    if libc.renameat2(here, os.fsencode(one), here, os.fsencode(other), exchange) == 0:
        return True
    number = ctypes.get_errno()
    if number in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP):
        return False
    raise OSError(number, os.strerror(number), str(other))


def _link(path: str | Path) -> DestinationExistsError:
    return DestinationExistsError(
        f"{path} is a symbolic link, which no writer has made; remove it", path=str(path)
    )


def _remove(directory: Path) -> None:
    """Remove what was an array, and first of all what makes it one, in case this dies meanwhile."""
    for name in METADATA_NAMES:
        with contextlib.suppress(OSError):
            (directory / name).unlink()
    shutil.rmtree(directory, ignore_errors=True)


def _sync_tree(directory: Path) -> None:
    for parent, _, files in os.walk(directory):
        for name in (*files, ""):
            _sync(Path(parent, name))


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
