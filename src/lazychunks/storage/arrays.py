"""The few things asked of zarr: create an array, write a region, change its shape, open it."""

from __future__ import annotations

import json
import threading
from collections.abc import Coroutine, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias, TypeGuard, TypeVar

import numpy as np
import zarr
from zarr.abc.store import Store
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync
from zarr.storage import LocalStore, MemoryStore

from lazychunks.shapes import Shape
from lazychunks.storage import bfloat16
from lazychunks.storage.assembly import Filled
from lazychunks.storage.options import RESERVED, WriteOptions
from lazychunks.storage.plan import WritePlan

if TYPE_CHECKING:
    from zarr.core.array_spec import ArrayConfigParams

    StoredArray: TypeAlias = zarr.Array[Any]  # generic in the newer versions only

__all__ = [
    "Document",
    "StagedArray",
    "metadata_key",
    "new_document",
    "open_array",
    "parsed",
    "read_key",
    "record_of",
    "settled",
    "write_key",
]

T = TypeVar("T")

METADATA = "zarr.json"

WRITE_EVERYTHING: ArrayConfigParams = {"order": "C", "write_empty_chunks": True}

Document: TypeAlias = dict[str, Any]
"""An array's metadata as Zarr 3 stores it: a JSON object."""


def new_document(plan: WritePlan, dtype: np.dtype[Any], options: WriteOptions) -> Document:
    """Let zarr write down the metadata of an array that is empty along its block axes."""
    names = options.dimension_names
    ndim = len(plan.chunks)
    if names is not None and len(names) != ndim:
        raise ValueError(f"dimension_names {tuple(names)} do not name the {ndim} axes of the array")
    scratch = MemoryStore()
    zarr.create_array(  # pyright: ignore[reportUnknownMemberType]  # zarr names an optional FSMap
        scratch,
        shape=plan.capacity((0,) * plan.block_axes),
        chunks=plan.chunks,
        shards=plan.shards,
        dtype=dtype,
        compressors=options.zarr_compressors,
        filters=options.filters,
        attributes=dict(options.attributes) if options.attributes is not None else None,
        dimension_names=names,
        zarr_format=3,
    )
    document = parsed(read_key(scratch, METADATA))
    assert document is not None
    return document


class StagedArray:
    """An array under way: its metadata is written here only, a few times for a whole run.

    Parameters
    ----------
    store, path
        Where it is.
    document
        Its metadata, as it is or shall be there.
    """

    def __init__(self, store: Store, path: str, document: Document) -> None:
        self._store = store
        self._path = path
        self._document = document
        self._array: StoredArray | None = None

    @property
    def shape(self) -> Shape:
        """Shape of the array: room for more than has come, until it is trimmed."""
        return tuple(self._document["shape"])

    def reshape(self, shape: Shape) -> None:
        """Give it another shape by one write of its metadata; no chunk is listed or touched."""
        self._document["shape"] = list(shape)
        self._write()
        self._array = open_array(self._store, self._path)

    def end_axis(self, shape: Shape, lengths: list[int | None]) -> None:
        """Trim it where an axis has ended, and keep the lengths in the record of the run."""
        record_of(self._document)["lengths"] = list(lengths)
        self.reshape(shape)

    def record(self, record: Mapping[str, Any] | None) -> None:
        """Keep a record of the run in the attributes, or remove it."""
        attributes = self._document.setdefault("attributes", {})
        attributes.pop(RESERVED, None)
        if record is not None:
            attributes[RESERVED] = dict(record)
        self._write()

    @property
    def array(self) -> StoredArray:
        """The array, open for writing."""
        if self._array is None:
            self._array = open_array(self._store, self._path)
        return self._array

    @property
    def lets_go(self) -> bool:
        """Whether nothing holds on to the memory that a write was given, once it is done.

        A store may keep the very buffer that it gets (a memory store does), and zarr hands it on
        uncopied where no codec makes new bytes of it.
        """
        return type(self._store) is LocalStore or any(
            codec["name"] in ("blosc", "gzip", "zstd") for codec in self._document["codecs"]
        )

    def write(self, filled: Filled) -> None:
        """Write whole chunks, clipped to the array."""
        self.array[filled.region] = filled.data

    def _write(self) -> None:
        value = json.dumps(self._document, indent=2).encode()
        write_key(self._store, metadata_key(self._path), value)


def open_array(store: Store, path: str) -> StoredArray:
    """Open an array for reading and writing, all-zero chunks included."""
    try:
        array = _open(store, path)
    except ValueError:
        # What zarr does not know, and says as vaguely, may be bfloat16: seldom worth a look before.
        document = parsed(read_key(store, metadata_key(path))) or {}
        if document.get("data_type") != bfloat16.NAME:
            raise
        bfloat16.register()
        array = _open(store, path)
    # Opening ignores a config, and the oldest versions have no with_config: build it anew.
    metadata = array.metadata
    assert metadata.zarr_format == 3
    return zarr.Array(zarr.AsyncArray(metadata, array.store_path, WRITE_EVERYTHING))


def _open(store: Store, path: str) -> StoredArray:
    return zarr.open_array(  # pyright: ignore[reportUnknownMemberType]  # zarr names an optional FSMap
        store=store, path=path, mode="r+", zarr_format=3
    )


def metadata_key(path: str) -> str:
    """Key of the metadata of the array at a path."""
    return f"{path}/{METADATA}" if path else METADATA


def parsed(value: bytes | None) -> Document | None:
    """Parse metadata; ``None`` where there is none that can be read."""
    try:
        document = json.loads(value or b"")
    except ValueError:
        return None
    return document if _is_document(document) else None


def record_of(document: Document | None) -> Document:
    """Return the run's record in an array's attributes; empty where there is none."""
    attributes = (document or {}).get("attributes")
    record = attributes.get(RESERVED) if _is_document(attributes) else None
    return record if _is_document(record) else {}


def _is_document(value: object) -> TypeGuard[Document]:
    return isinstance(value, dict)


def read_key(store: Store, key: str) -> bytes | None:
    """Value at a key, if there is one."""
    value = sync(store.get(key, prototype=default_buffer_prototype()))
    return None if value is None else value.to_bytes()


def write_key(store: Store, key: str, value: bytes) -> None:
    """Set a key."""
    settled(store.set(key, default_buffer_prototype().buffer.from_bytes(value)))


def settled(operation: Coroutine[Any, Any, T]) -> T:
    """Run a store's operation, which has ended when this returns, even by an interrupt.

    An interrupt ends zarr's own ``sync`` at once, and the operation takes effect at some later time.
    """
    ended = threading.Event()

    async def watched() -> T:
        try:
            return await operation
        finally:
            ended.set()

    try:
        return sync(watched())
    except Exception:
        raise
    except BaseException:
        ended.wait()
        raise
