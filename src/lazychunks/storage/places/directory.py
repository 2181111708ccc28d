"""A directory on the local file system: written in a hidden sibling, renamed into place at once.

The sibling of ``NAME`` is ``.NAME.partial``. Where an array is replaced, the two directories are
exchanged atomically (Linux); where that cannot be done, the old one steps aside as ``.NAME.old``
for the moment between two renames, and comes back if the writer dies in it.

Arrays of the user's own may have such names too. What a writer has left is known by a mark inside:
an unfinished write by the metadata that it keeps back, ``zarr.json.partial``, and an array that is
being replaced by the empty file ``lazychunks.replaced``.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from zarr.storage import LocalStore

from lazychunks.errors import DestinationReadOnlyError
from lazychunks.storage.chunks.metadata import KEPT_BACK, METADATA
from lazychunks.storage.keys import Keys
from lazychunks.storage.places.consolidated import Copies, GroupDirectory
from lazychunks.storage.places.file_system import (
    has_working_directory,
    is_directory,
    list_names,
    make_directory_like,
    remove_array,
    remove_directory,
    replace_file,
    swap_in,
    sync_path,
    sync_tree,
    unlink,
    walk_files,
)
from lazychunks.storage.places.location import locate
from lazychunks.storage.places.lock import hold_lock
from lazychunks.storage.places.protocol import NO_DOCUMENTS, Place
from lazychunks.storage.places.refusals import (
    REPLACED,
    check_above,
    has_metadata,
    is_array,
    is_draft,
    is_group,
    is_of_a_writer,
    parse_metadata,
    refuse,
    refuse_link,
    refuse_neighbor,
    refuse_newcomer,
)
from lazychunks.storage.places.register import REGISTER
from lazychunks.storage.resuming.record import names_of_arrays, parse


@dataclass(frozen=True, slots=True)
class LocalDirectory:
    """A directory on the local file system, which need not be there."""

    path: Path
    """Absolute: a change of the working directory meanwhile changes nothing here."""
    given: str = ""
    """What the user calls it, for messages."""
    is_for_group: bool = False
    """Whether the destination is one for a group of arrays."""
    made: list[Path] = field(default_factory=list[Path], init=False, compare=False, repr=False)
    """Parents that this writer has made, the innermost first."""

    def __str__(self) -> str:
        return self.given or str(self.path)

    @property
    def is_seen_by_processes(self) -> bool:
        """Whether other processes see what is written there."""
        return True

    @property
    def backup(self) -> str | None:
        """Where the array is that a dead writer has moved aside in the middle of a replacement."""
        old = self.beside("old")
        is_free = not self.path.exists() or (is_directory(self.path) and not list_names(self.path))
        names = list_names(old)
        return str(old) if is_free and REPLACED in names and has_metadata(names) else None

    @property
    def copies(self) -> Copies:
        """The copies of its metadata in groups above."""
        return GroupDirectory.all_above(self.path)

    def read(self, name: str) -> bytes | None:
        """Read a file, if it is there."""
        file = self.path / name
        return file.read_bytes() if file.is_file() else None

    def keys(self) -> list[str]:
        """List the files below, by their paths relative to this one."""
        return [key for key, _ in walk_files(self.path)]

    def in_store(self, *, read_only: bool) -> Keys:
        """Return the same place as one in a zarr store."""
        return Keys(LocalStore(self.path, read_only=read_only), "")

    def beside(self, what: Literal["lock", "old", "partial"]) -> Path:
        """Return the path of a hidden sibling that writers use."""
        return self.path.parent / f".{self.path.name}.{what}"

    def is_taken(self) -> bool:
        """Tell whether an array is there.

        Raises
        ------
        DestinationExistsError
            If something else is there: whatever ``overwrite`` says, it is not ours to replace.
        DestinationReadOnlyError
            If the directory that would hold the array cannot be written.
        """
        path, name = self.path, str(self)
        if path.name in ("", ".."):
            raise ValueError(f"{name} does not name a directory that could be made; say its name")
        if path.is_symlink():
            raise refuse(name, "a symbolic link")
        # A symbolic link may lead into an array that no parent shows by its name.
        real = Path(os.path.realpath(path))
        check_above(name, map(LocalDirectory, dict.fromkeys((*path.parents, *real.parents))))
        self._check_directory(next(parent for parent in path.parents if parent.exists()))
        if not path.exists():
            return False
        if not path.is_dir():
            raise refuse(name, "a file")
        if os.path.ismount(path):  # no rename crosses it
            raise refuse(name, "a mount point")
        if has_working_directory(path):
            raise refuse(name, "the working directory of this process, or above it")
        if self.is_for_group:
            return is_group(self, self.list_below())
        return is_array(name, self.list_below(), parse_metadata(self.read(METADATA)))

    def list_below(self, name: str = "") -> Collection[str]:
        """Return the names in the directory, or in one below it."""
        return list_names(self.path / name)

    def is_empty(self, name: str) -> bool:  # noqa: ARG002  # as for stores
        """Whether a name is an empty directory of ours: none is left here, so it is somebody's."""
        return False

    def for_group(self) -> Place:
        """Return the same place, as one for a group of arrays."""
        return replace(self, is_for_group=True)

    def check_removable(self) -> None:
        """Refuse an array that could be moved out of the way, but then not be removed.

        Raises
        ------
        DestinationReadOnlyError
            If its directories cannot be written.
        """
        for directory in filter(Path.is_dir, (self.path, self.path / "c")):
            self._check_directory(directory, "replaced")

    def check_can_append(self) -> None:
        """Refuse an array whose directories cannot be written.

        Raises
        ------
        DestinationReadOnlyError
            If one of them cannot.
        """
        for directory in filter(Path.is_dir, (self.path, self.path / "c")):
            self._check_directory(directory, "appended to")

    def replace(self, name: str, value: bytes, *, durable: bool) -> None:
        """Replace a file in one step; it keeps its mode."""
        replace_file(self.path / name, value, durable=durable)

    def sync(self, names: Iterable[str]) -> None:
        """Have files written to the device, and the directories that name them."""
        files = [self.path / name for name in names]
        parents = {
            parent for file in files for parent in file.parents if self.path in parent.parents
        }
        for path in (*files, *sorted(parents, reverse=True), self.path):
            sync_path(path)

    def draft(self, *, overwrite: bool) -> SiblingDirectory:
        """Return the unfinished write beside the directory, or the place for one."""
        return SiblingDirectory(self, overwrite=overwrite)

    @contextlib.contextmanager
    def lock(self) -> Generator[None]:
        """Be the only writer, and finish what a dead one has left half-way.

        All is looked at first: a lock file would be a change that a refusal must not make.

        Raises
        ------
        DestinationBusyError
            If another writer is at work.
        DestinationExistsError, DestinationReadOnlyError
            If the destination may not, or cannot, be written.
        """
        location = locate(LocalStore(self.path), "")
        with REGISTER.enter(location, str(self), is_staged=True):
            # Now for a refusal that leaves no trace, and again below as the only writer.
            self.is_taken()
            self.copies.check(str(self))
            self._check_siblings()
            with self._make_parents(), hold_lock(self.beside("lock"), str(self)):
                self._check_siblings()
                self._repair()
                yield

    @contextlib.contextmanager
    def _make_parents(self) -> Generator[None]:
        """Make the directories above, and remove them if nothing comes to be in them."""
        self.made[:] = [parent for parent in self.path.parents if not parent.exists()]
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            yield
        finally:
            with contextlib.suppress(OSError):
                for directory in self.made:
                    directory.rmdir()

    def _check_siblings(self) -> None:
        """Refuse what has a name of ours beside the destination, and is not ours."""
        for directory in (self.beside("old"), self.beside("partial")):
            if directory.is_symlink():
                raise refuse_link(str(directory))
            place = LocalDirectory(directory)
            names = place.list_below()
            is_ours = is_draft(place) or (REPLACED in names and is_of_a_writer(place, names))
            if directory.exists() and not (directory.is_dir() and is_ours):
                raise refuse_neighbor(str(directory))

    def _repair(self) -> None:
        """Put an old array back, remove one that was replaced, and hide what is unfinished."""
        old, staging = self.beside("old"), self.beside("partial")
        if REPLACED in list_names(staging):
            remove_array(staging)
        if self.backup is not None:
            os.rename(old, self.path)
        elif old.exists():
            remove_array(old)
        # A program that goes through the group around would take it for an array.
        unlink(staging / METADATA)
        metadata = self.read(METADATA)
        if metadata is not None and KEPT_BACK in list_names(self.path):
            self.copies.announce(metadata)  # it died when it had just been renamed
            for array in (*names_of_arrays(parse(metadata)), ""):
                unlink(self.path / array / KEPT_BACK)
        unlink(self.path / REPLACED)

    def _check_directory(self, directory: Path, what: str = "created") -> None:
        if not directory.is_dir():
            raise refuse(str(self), f"below {directory}, which is a file")
        if not os.access(directory, os.W_OK | os.X_OK):
            raise DestinationReadOnlyError(
                f"{self} cannot be {what}, since {directory} is not writable", path=str(self)
            )


class SiblingDirectory:
    """An unfinished write in a hidden sibling of its destination.

    Parameters
    ----------
    place
        The destination.
    overwrite
        Whether an array that is there may be replaced.
    """

    is_in_place: bool = False
    can_be_kept: bool = True
    supports_deletes: bool = True
    can_spill: bool = True

    def __init__(self, place: LocalDirectory, *, overwrite: bool) -> None:
        self._place = place
        self._overwrite = overwrite
        self._staging = place.beside("partial")
        self._is_only_copy = False
        """Whether the array is nowhere else, since the old one had to be removed first."""
        self.where: Keys = Keys(LocalStore(self._staging), "")
        self.is_committed: bool = False

    def exists(self) -> bool:
        """Whether an earlier start has left something."""
        return is_directory(self._staging) and is_draft(LocalDirectory(self._staging))

    def begin(self, documents: Mapping[str, bytes] = NO_DOCUMENTS) -> None:
        """Make an empty staging directory, open to nobody to whom the destination is not."""
        if self._staging.exists():  # of another run, or half begun
            remove_directory(self._staging)
        if self._place.path.is_dir():
            make_directory_like(self._staging, self._place.path)
        else:
            os.mkdir(self._staging)
        for path, document in documents.items():
            self.where.below(path).write(KEPT_BACK, document)

    def keys(self, *, below: str = "", tidy: bool = False) -> Iterator[str]:
        """List the files that are stored.

        A file that a dead writer was writing has a name of its own, and is left out. With ``tidy``
        it is removed, which only the holder of the lock may do, and as long as no worker writes.

        Raises
        ------
        DestinationExistsError
            If there is a symbolic link: chunks would be written through it.
        """
        for key, entry in walk_files(self._staging / below):
            if entry.is_symlink():
                raise refuse_link(entry.path)
            if os.path.basename(key) == KEPT_BACK or not key.endswith(".partial"):
                yield key
            elif tidy:
                os.unlink(entry.path)

    def commit(self, documents: Mapping[str, bytes], *, durable: bool) -> None:
        """Rename the staging directory into place; an array that is there steps out at once.

        Raises
        ------
        DestinationExistsError
            If an array came to be there although none was to be replaced.
        """
        staging, target = self._staging, self._place.path
        # From here on, the directory looks like an array, and without its mark like a user's own.
        if not (staging / KEPT_BACK).exists():
            (staging / KEPT_BACK).write_bytes(documents[""])
        for path, document in sorted(documents.items(), reverse=True):  # the root's path is ""
            (staging / path).mkdir(parents=True, exist_ok=True)
            (staging / path / METADATA).write_bytes(document)
        if durable:
            sync_tree(staging)
        # A program that knows nothing of our lock may have stored something in the meantime.
        replaces = self._place.is_taken()
        if replaces and not self._overwrite:
            raise refuse_newcomer(str(self._place))
        with self._place.copies.set_aside(durable=durable) as copies:
            try:
                if not replaces:
                    os.rename(staging, target)
                elif not swap_in(staging, target, self._place.beside("old")):
                    self._replace_immovable()
                self.is_committed = True
            except BaseException:
                # The system may report an error, or an interrupt come, when it has taken effect.
                self.is_committed = (target / KEPT_BACK).is_file()
                raise
            finally:
                copies.metadata = documents[""] if self.is_committed else None
        if durable:
            for directory in (target, *self._place.made):
                sync_path(directory.parent)
        with contextlib.suppress(OSError):  # the next writer tidies up
            for path in sorted(documents, reverse=True):
                unlink(target / path / KEPT_BACK)
            self._remove_replaced()

    def discard(self) -> None:
        """Remove the staging directory, unless its content is in place, or nowhere else."""
        if not (self.is_committed or self._is_only_copy):
            with contextlib.suppress(OSError):
                remove_directory(self._staging)

    def _replace_immovable(self) -> None:
        """Remove the old array first, where a file system cannot move it."""
        self._is_only_copy = True
        try:
            remove_array(self._place.path)
            os.rename(self._staging, self._place.path)
        except BaseException as error:
            error.add_note(
                f"the array at {self._place} had to be removed first, since its file system cannot "
                f"move it; all of the new one is in {self._staging}"
            )
            raise

    def _remove_replaced(self) -> None:
        """Remove the old array, under another name than that of an unfinished write."""
        old = self._place.beside("old")
        if REPLACED in list_names(self._staging):
            try:
                os.rename(self._staging, old)
            except OSError:  # something has come to be there meanwhile
                remove_array(self._staging)
        if REPLACED in list_names(old):
            remove_array(old)
