"""The few things asked of zarr: create an array, write a region, change its shape, open it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeAlias, TypeGuard, TypeVar

import numpy as np
import zarr
from zarr.storage import LocalStore, MemoryStore, StorePath

from lazychunks.layout.plan import WritePlan
from lazychunks.layout.shapes import Shape
from lazychunks.storage.chunks import bfloat16
from lazychunks.storage.chunks.files import ChunkFiles
from lazychunks.storage.chunks.filled import Filled
from lazychunks.storage.keys import Keys
from lazychunks.storage.options import RESERVED, WriteOptions

if TYPE_CHECKING:
    from zarr.core.array_spec import ArrayConfigParams

    StoredArray: TypeAlias = zarr.Array[Any]  # generic in the newer versions only

T = TypeVar("T")

METADATA = "zarr.json"

KEPT_BACK = "zarr.json.partial"
"""Where the metadata of an array waits until the array is complete."""

OVERWRITING = b"null"
"""What is there as long as an overwrite has not removed the old array."""

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
        compressors=options.compressors,
        filters=options.filters,
        attributes=dict(options.attributes) if options.attributes is not None else None,
        dimension_names=names,
        zarr_format=3,
    )
    document = parsed(Keys(scratch, "").read(METADATA))
    assert document is not None
    return document


class StagedArray:
    """An array under way: chunks are written here, and metadata a few times for a whole run.

    Parameters
    ----------
    where
        Where it is.
    document
        Its metadata, as it is or shall be there.
    keeps_back
        Whether its metadata is stored there meanwhile, under a name of its own.
    resumable
        Whether every change of the metadata is written, not the first and the last only.
    """

    def __init__(
        self,
        where: Keys,
        document: Document,
        *,
        keeps_back: bool = False,
        resumable: bool,
    ) -> None:
        self.where = where
        self.document = document
        self.resumable = resumable
        self._keeps_back = keeps_back
        self._files = ChunkFiles.of(where, document, atomic=resumable)
        self._array: StoredArray | None = None
        self._reopen()

    @property
    def array(self) -> StoredArray:
        """The array, open for writing."""
        if self._array is None:
            self._array = described(self.where, self.document)
        return self._array

    @property
    def shape(self) -> Shape:
        """Shape of the array: room for more than has come, until it is trimmed."""
        return tuple(self.document["shape"])

    def reshape(self, shape: Shape, **facts: object) -> None:
        """Give it another shape, and note facts in the record of the run; no chunk is touched.

        It is one write of the metadata, where another start may go on with them.
        """
        self.document["shape"] = list(shape)
        record_of(self.document).update(facts)
        self._reopen()
        if self.resumable:
            self._write()

    def record(self, record: Mapping[str, Any]) -> None:
        """Keep a record of the run in the attributes, and write the metadata."""
        self.document.setdefault("attributes", {})[RESERVED] = dict(record)
        self._write()

    @property
    def lets_go(self) -> bool:
        """Whether nothing holds on to the memory that a write was given, once it is done.

        A store may keep the very buffer that it gets (a memory store does), and zarr hands it on
        uncopied where no codec makes new bytes of it.
        """
        return type(self.where.store) is LocalStore or any(
            codec["name"] in ("blosc", "gzip", "zstd") for codec in self.document["codecs"]
        )

    def write(self, filled: Filled) -> None:
        """Write whole chunks, clipped to the array."""
        if self._files is not None:
            self._files.write(filled)
        else:
            # One key at a time: zarr sets the keys of several chunks at once, and when one of them
            # fails, it raises while the others are still on their way.
            array = self.array
            for piece in filled.pieces(array.shards or array.chunks):
                array[piece.region] = piece.data

    def _reopen(self) -> None:
        """Describe it anew: now if background threads need it, which must not see a change."""
        needed = self._files is None
        self._array = described(self.where, self.document) if needed else None

    def _write(self) -> None:
        if self._keeps_back:
            self.where.write(KEPT_BACK, serialized(self.document))


def described(where: Keys, document: Document) -> StoredArray:
    """Return the array that metadata describes, all-zero chunks included, without reading it."""
    if document.get("data_type") == bfloat16.NAME:
        bfloat16.register()
    described: Any = document  # a plain JSON object; zarr checks it
    at = StorePath(where.store, where.path)
    return zarr.Array(zarr.AsyncArray(described, at, WRITE_EVERYTHING))


def serialized(document: Document) -> bytes:
    """Metadata as it is stored."""
    return json.dumps(document, indent=2).encode()


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
