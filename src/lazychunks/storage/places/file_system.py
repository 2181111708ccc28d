"""What a local destination asks of the file system: names, modes, exchanges, removal, syncing."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import secrets
import shutil
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

from lazychunks.storage.chunks.metadata import METADATA
from lazychunks.storage.places.lock import lock_directory
from lazychunks.storage.places.refusals import METADATA_NAMES, REPLACED
from lazychunks.storage.resuming.record import names_of_arrays, parse

_ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG)
"""Answers of the system of which each means that there is no such directory."""


def list_names(directory: Path) -> frozenset[str]:
    """Return the names in a directory, none where there is no directory."""
    try:
        return frozenset(os.listdir(directory))
    except OSError as error:
        if error.errno not in _ABSENT:
            raise
        return frozenset()


def is_directory(path: Path) -> bool:
    """Whether there is a directory, and no link to one; an error if nobody can tell."""
    try:
        return stat.S_ISDIR(os.lstat(path).st_mode)
    except OSError as error:
        if error.errno not in _ABSENT:
            raise
        return False


def walk_files(directory: str | Path, prefix: str = "") -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Yield the files and links below a directory, by their keys relative to it."""
    with os.scandir(directory) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield from walk_files(entry.path, f"{prefix}{entry.name}/")
            else:
                yield prefix + entry.name, entry


def has_working_directory(directory: Path) -> bool:
    """Whether a directory is this process's working directory, or above it."""
    try:
        return Path.cwd().is_relative_to(directory.resolve())
    except FileNotFoundError:  # the working directory is gone
        return False


def make_directory_like(directory: Path, model: Path) -> None:
    """Make a directory with the group and the mode of another one, and never wider than that."""
    wanted = os.stat(model)
    mode = stat.S_IMODE(wanted.st_mode) | stat.S_IRWXU
    # Closed until it has its group: the mode of the other one is for the group of the other one.
    os.mkdir(directory, stat.S_IRWXU)
    try:
        os.chown(directory, -1, wanted.st_gid)
    except PermissionError:
        mode &= ~(stat.S_IRWXG | stat.S_ISGID)
    os.chmod(directory, mode)


def exchange_directories(one: Path, other: Path) -> bool:
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
    if number in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EXDEV):
        return False
    raise OSError(number, os.strerror(number), str(other))


def swap_in(new: Path, array: Path, old: Path) -> bool:
    """Put a directory in the place of an array, which is then called `old`, or as `new` was.

    It is marked before. False where the file system cannot move it, as an overlay file system, in
    a container, cannot move a directory of a lower layer.
    """
    document = array / METADATA
    names = names_of_arrays(parse(document.read_bytes() if document.is_file() else None))
    (array / REPLACED).write_text("\n".join(names))
    try:
        if exchange_directories(new, array):
            return True
        try:
            os.rename(array, old)
            os.rename(new, array)
        except BaseException as error:
            with contextlib.suppress(OSError):  # fails if it has not moved, or the new one is there
                os.rename(old, array)
            if not (isinstance(error, OSError) and error.errno == errno.EXDEV):
                raise
            return False
    except BaseException:
        with contextlib.suppress(OSError):
            unlink(array / REPLACED)
        raise
    return True


def remove_array(directory: Path) -> None:
    """Remove an array, first what makes it one, in case this dies in the middle."""
    for name in METADATA_NAMES:
        with contextlib.suppress(OSError):
            unlink(directory / name)
    with contextlib.suppress(OSError):
        remove_directory(directory)


def remove_directory(directory: Path) -> None:
    """Remove a directory, its own files last: they tell whose it is if this dies in the middle."""
    # A worker may have outlived its run, and be in the middle of a chunk that would come to lie in
    # the directory that is made next.
    with lock_directory(directory):
        with os.scandir(directory) as entries:
            below = [Path(entry) for entry in entries if entry.is_dir(follow_symlinks=False)]
        for each in below:
            shutil.rmtree(each)
        shutil.rmtree(directory)


def unlink(file: Path) -> None:
    """Remove a file, if it is there."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        os.unlink(file)


def replace_file(file: Path, content: bytes, *, durable: bool) -> None:
    """Replace a file in one step; its mode stays."""
    # zarr's name for a file that is not whole yet, which everybody else ignores.
    temporary = file.with_name(f"{file.name}.{secrets.token_hex(16)}.partial")
    try:
        temporary.write_bytes(content)
        shutil.copymode(file, temporary)
        if durable:
            sync_path(temporary)
        os.replace(temporary, file)
    except BaseException:
        with contextlib.suppress(OSError):
            unlink(temporary)
        raise
    if durable:
        sync_path(file.parent)


def sync_tree(directory: Path) -> None:
    """Have all files and directories below written to the device, and the directory itself."""
    for parent, _, files in os.walk(directory):
        for name in (*files, ""):
            sync_path(Path(parent, name))


def sync_path(path: Path) -> None:
    """Have a file, or the names in a directory, written to the device."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
