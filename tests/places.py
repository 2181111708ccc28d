"""Destinations under test, and what is there byte by byte."""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.core.buffer import Buffer

OLD: NDArray[np.int64] = np.arange(100, 142).reshape(6, 7)
"""What the old array holds, where there is one."""


def tree(root: Path) -> dict[str, str]:
    """Everything below a directory: the hash of each file, and the target of each link."""
    return {
        path.relative_to(root).as_posix(): _content(path) for path in sorted(root.rglob("*"))
    }


def _content(path: Path) -> str:
    if path.is_symlink():
        return f"-> {os.readlink(path)}"
    return "directory" if path.is_dir() else hashlib.sha256(path.read_bytes()).hexdigest()


@dataclass(frozen=True)
class LocalPlace:
    """A path in a directory of its own, so that whatever is left beside it is seen."""

    directory: Path

    @property
    def destination(self) -> str:
        """What ``to_zarr`` gets."""
        return str(self.directory / "array.zarr")

    def content(self) -> dict[str, str]:
        """Everything in the directory."""
        return tree(self.directory)

    def put_old(self) -> None:
        """Store the old array."""
        zarr.create_array(store=self.destination, data=OLD, chunks=(2, 7))

    def read(self) -> NDArray[Any]:
        """Read the array as any other program would."""
        return np.asarray(zarr.open_array(store=self.destination, mode="r")[...])

    @property
    def keeps_old_until_complete(self) -> bool:
        """Whether the old array survives a failure after the first block."""
        return True


@dataclass(frozen=True)
class MemoryPlace:
    """A plain dict."""

    destination: dict[str, Buffer]

    def content(self) -> dict[str, str]:
        """All keys."""
        return {
            key: hashlib.sha256(value.to_bytes()).hexdigest()
            for key, value in sorted(self.destination.items())
        }

    def put_old(self) -> None:
        """Store the old array."""
        store = zarr.storage.MemoryStore(self.destination)
        zarr.create_array(store=store, data=OLD, chunks=(2, 7))

    def read(self) -> NDArray[Any]:
        """Read the array as any other program would."""
        store = zarr.storage.MemoryStore(self.destination)
        return np.asarray(zarr.open_array(store=store, mode="r")[...])

    @property
    def keeps_old_until_complete(self) -> bool:
        """Whether the old array survives a failure after the first block."""
        return False


Place = LocalPlace | MemoryPlace
