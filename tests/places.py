"""Destinations under test, and what is there byte by byte."""

# pyright: reportUnknownMemberType=false
# The functions of zarr name a type of fsspec, which is optional and has no types.

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.abc.store import Store
from zarr.core.buffer import Buffer
from zarr.storage import MemoryStore

OLD: NDArray[np.int64] = np.arange(100, 142).reshape(6, 7)
"""What the old array holds, where there is one."""


def put_array(
    store: Store | str | Path,
    values: NDArray[Any],
    *,
    path: str | None = None,
    zarr_format: Any = 3,
    keys: Any = None,
) -> None:
    """Store an array as any other program would."""
    zarr.create_array(
        store,
        name=path,
        data=values,
        chunks=(2, *values.shape[1:]),
        zarr_format=zarr_format,
        chunk_key_encoding=keys,
    )


def put_group(store: Store | str | Path, *, zarr_format: Any = 3) -> None:
    """Make a group that holds an array."""
    group = zarr.create_group(store, zarr_format=zarr_format)
    group.create_array("inner", data=OLD)


def members(store: Store | str | Path) -> list[str]:
    """Names of the arrays and groups that any other program finds in a group."""
    return [name for name, _ in zarr.open_group(store, mode="r").members()]


def opened(store: Store | str | Path, path: str = "") -> "zarr.Array[Any]":
    """Open an array as any other program would."""
    return zarr.open_array(store, path=path, mode="r")


def values_at(store: Store | str | Path, path: str = "") -> NDArray[Any]:
    """Read all of an array."""
    return np.asarray(opened(store, path)[...])


def tree(root: Path) -> dict[str, str]:
    """Everything below a directory: the hash of each file, and the target of each link."""
    return {path.relative_to(root).as_posix(): _content(path) for path in sorted(root.rglob("*"))}


def _content(path: Path) -> str:
    if path.is_symlink():
        return f"-> {path.readlink()}"
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
        put_array(self.destination, OLD)

    def read(self) -> NDArray[Any]:
        """Read the array as any other program would."""
        return values_at(self.destination)

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
        put_array(MemoryStore(self.destination), OLD)

    def read(self) -> NDArray[Any]:
        """Read the array as any other program would."""
        return values_at(MemoryStore(self.destination))

    @property
    def keeps_old_until_complete(self) -> bool:
        """Whether the old array survives a failure after the first block."""
        return False


Place = LocalPlace | MemoryPlace
