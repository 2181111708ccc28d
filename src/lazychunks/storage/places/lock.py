"""The lock file of a local destination, which keeps a second writer out, in whatever process.

The system holds the lock, so that it ends with its process. Where a file system cannot lock, the
file itself is the lock and says whose it is; after a kill somebody has to remove it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
from collections.abc import Generator
from pathlib import Path

from lazychunks.errors import DestinationBusyError
from lazychunks.storage.places.refusals import refuse_neighbor, refuse_second_writer

_HELD_BY_ANOTHER = (errno.EAGAIN, errno.EACCES)

_CANNOT_LOCK = (errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL)
"""What network, FUSE and cluster file systems answer that do not implement locks."""

_NO_FILE = (errno.ELOOP, errno.EISDIR, errno.ENXIO)
"""What the system answers where a link, a directory or a socket has the name."""


@contextlib.contextmanager
def hold_lock(file: Path, name: str) -> Generator[None]:
    """Hold a lock file, and remove it in the end.

    Parameters
    ----------
    file
        The lock file.
    name
        What it protects, for messages.

    Raises
    ------
    DestinationBusyError
        If another writer holds it, or has left it where the file system cannot lock.
    DestinationExistsError
        If something else is there.
    """
    lock = LockFile(file, name)
    try:
        lock.acquire()
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def lock_directory(directory: Path, how: int = fcntl.LOCK_EX) -> Generator[None]:
    """Hold a directory that is there, so that no file is needed, for a moment; others wait.

    Where a file system cannot lock it, nothing is done about others at the same time.

    Parameters
    ----------
    directory
        The directory.
    how
        Alone, or together with others by ``LOCK_SH``.
    """
    descriptor = None
    with contextlib.suppress(OSError):
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if descriptor is not None:
            with contextlib.suppress(OSError):
                fcntl.flock(descriptor, how)
        yield
    finally:
        if descriptor is not None:
            with contextlib.suppress(OSError):  # it is closed all the same
                os.close(descriptor)


class LockFile:
    """A lock file, whether it is held or not; parameters as for :func:`hold_lock`."""

    _descriptor: int | None = None
    _is_ours: bool = False
    """Whether the file is this writer's to remove."""

    def __init__(self, file: Path, name: str) -> None:
        self._file = file
        self._name = name
        self._process = os.getpid()

    def acquire(self) -> None:
        """Open and lock the file, anew if its last holder removes it in between."""
        while not self._lock(is_new=self._open()):
            self._close()

    def release(self) -> None:
        """Remove the file, and unlock it also if that fails.

        It is removed while it is locked: a writer that has opened it before then finds, once it has
        the lock, that the file has no name any more.
        """
        try:
            if self._is_ours and self._process == os.getpid():  # a fork leaves its parent's alone
                with contextlib.suppress(OSError):
                    os.unlink(self._file)
                if self._descriptor is not None:
                    # Closing alone would leave it locked as long as a forked process lives.
                    with contextlib.suppress(OSError):
                        fcntl.flock(self._descriptor, fcntl.LOCK_UN)
        finally:
            self._is_ours = False
            self._close()

    def __del__(self) -> None:
        # An interrupt may cut the release short, and the lock must not outlive its holder.
        self._close()

    def _open(self) -> bool:
        """Open the file; True if it was not there before."""
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            self._descriptor = os.open(self._file, flags | os.O_EXCL, 0o666)
        except FileExistsError:
            try:
                self._descriptor = os.open(self._file, flags, 0o666)
            except OSError as error:
                if error.errno in _NO_FILE:
                    raise refuse_neighbor(str(self._file)) from None
                raise
            return False
        return True

    def _lock(self, *, is_new: bool) -> bool:
        """Lock the file; False if it has lost its name, and with it its use."""
        assert self._descriptor is not None
        self._is_ours = is_new
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in _HELD_BY_ANOTHER:
                self._is_ours = False  # another writer was faster, with the file that this one made
                raise refuse_second_writer(self._name) from None
            if error.errno not in _CANNOT_LOCK:
                raise
            if not is_new:
                raise self._refuse_content() from None
            owner = f"process {os.getpid()} on {socket.gethostname()}"
            os.write(self._descriptor, owner.encode())
        found = os.fstat(self._descriptor)
        if not is_new and found.st_size:  # a lock that the system does not hold, or no lock at all
            raise self._refuse_content()
        self._is_ours = found.st_nlink > 0
        return self._is_ours

    def _refuse_content(self) -> DestinationBusyError:
        assert self._descriptor is not None
        owner = os.pread(self._descriptor, 80, 0).decode(errors="replace")
        return DestinationBusyError(
            f"another writer is at work on {self._name}, or was killed: {self._file} says "
            f"{owner!r}; if no writer is at work, remove {self._file}",
            path=self._name,
        )

    def _close(self) -> None:
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            with contextlib.suppress(OSError):  # it is closed all the same
                os.close(descriptor)
