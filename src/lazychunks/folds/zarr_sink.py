"""Storing as a fold."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any, TypeVar, overload

from typing_extensions import Unpack

from lazychunks.blocks.describe import shorten
from lazychunks.converters import AnyArray, choose_converter
from lazychunks.folds.fold import CollectBlocks, EitherFold
from lazychunks.storage.group_options import Coordinates, GroupOptions
from lazychunks.storage.options import ArrayOptions, Destination, WriteOptions, ZarrOptions
from lazychunks.storage.writing.sink import ArraySink, GroupSink

if TYPE_CHECKING:
    from typing import TypeAlias

    import zarr

    from lazychunks.converters import ToNumpy

    StoredArray: TypeAlias = zarr.Array[Any]
    StoredGroup: TypeAlias = zarr.Group

T = TypeVar("T")
T_contra = TypeVar("T_contra", contravariant=True)


@overload
def zarr_sink(
    path_or_url: Destination,
    converter: ToNumpy[T],
    *,
    overwrite: bool = False,
    **options: Unpack[ZarrOptions],
) -> ZarrSink[T]: ...
@overload
def zarr_sink(
    path_or_url: Destination,
    converter: None = None,
    *,
    overwrite: bool = False,
    **options: Unpack[ZarrOptions],
) -> ZarrSink[AnyArray]: ...
def zarr_sink(
    path_or_url: Destination,
    converter: ToNumpy[Any] | None = None,
    *,
    overwrite: bool = False,
    **options: Unpack[ZarrOptions],
) -> ZarrSink[Any]:
    """Store blocks as one Zarr array: ``to_zarr`` as a fold, which can be teed with others.

    Complete or absent holds in a :func:`~lazychunks.tee` as well: the array appears once all
    other results are there, and not at all if the pass fails. What :meth:`~lazychunks.Fold.then`
    does with it comes afterwards.

    A tee whose sinks have ``run_id=`` and ``resume=True`` goes on where an earlier start of it has
    been killed: blocks that are stored are read back, through the converter's ``from_numpy``, for
    the other folds, and only the others are computed. A block that is read back lies in memory in C
    order, with numbers in native byte order; the last bits of a sum may depend on that, though not
    in the library's own folds.

    Parameters
    ----------
    path_or_url, converter, overwrite, **options
        As in :meth:`lazychunks.LazyChunkSequence.to_zarr`.

    Returns
    -------
    ZarrSink
        A fold over blocks, and over rows of blocks; its result is the stored ``zarr.Array``.

    Examples
    --------
    >>> import numpy as np
    >>> from lazychunks import IdentityConverter, LazyChunkSequence, concatenate, tee, zarr_sink
    >>> sequence = LazyChunkSequence.from_map(np.arange, [2, 3])
    >>> stored, joined = sequence.compute(tee(zarr_sink({}, IdentityConverter()), concatenate()))
    >>> bool((stored[:] == joined).all())
    True
    """
    return ZarrSink(path_or_url, choose_converter(converter), overwrite, WriteOptions.of(**options))


class ZarrSink(ArraySink[T_contra], EitherFold[T_contra, "StoredArray"]):
    """Stores blocks, or rows of blocks: the fold that :func:`zarr_sink` returns."""

    __slots__ = ()

    def __repr__(self) -> str:
        """Return one line: the destination, the converter, and the options that were given."""
        return _describe_sink(self, self.options)

    def for_parts(self, running: Any, /) -> Any:
        """Return what stores parts; what does not, before the first block and after the end."""
        return super().for_parts(running) if running.stores_parts else CollectBlocks()


@overload
def zarr_group_sink(
    path_or_url: Destination,
    converter: ToNumpy[T],
    *,
    overwrite: bool = False,
    arrays: Mapping[str, ArrayOptions] | None = None,
    coordinates: Coordinates | None = None,
    **options: Unpack[ZarrOptions],
) -> ZarrGroupSink[T]: ...
@overload
def zarr_group_sink(
    path_or_url: Destination,
    converter: None = None,
    *,
    overwrite: bool = False,
    arrays: Mapping[str, ArrayOptions] | None = None,
    coordinates: Coordinates | None = None,
    **options: Unpack[ZarrOptions],
) -> ZarrGroupSink[AnyArray]: ...
def zarr_group_sink(
    path_or_url: Destination,
    converter: ToNumpy[Any] | None = None,
    *,
    overwrite: bool = False,
    arrays: Mapping[str, ArrayOptions] | None = None,
    coordinates: Coordinates | None = None,
    **options: Unpack[ZarrOptions],
) -> ZarrGroupSink[Any]:
    """Store blocks that are mappings as one Zarr group: ``to_zarr_group`` as a fold.

    All that :func:`zarr_sink` says holds for the group as a whole.

    Parameters
    ----------
    path_or_url, converter, overwrite, arrays, coordinates, **options
        As in :meth:`lazychunks.LazyChunkSequence.to_zarr_group`.

    Returns
    -------
    ZarrGroupSink
        A fold over blocks, and over rows of blocks; its result is the stored ``zarr.Group``.

    Examples
    --------
    >>> import numpy as np
    >>> from lazychunks import (
    ...     IdentityConverter, LazyChunkSequence, each, moments, tee, zarr_group_sink
    ... )
    >>> def forward(batch):
    ...     return {"hidden": np.full((2, 3), batch), "logits": np.full((2, 1), -batch)}
    >>> sink = zarr_group_sink({}, IdentityConverter())
    >>> means = each({"hidden": moments().then(lambda m: m.mean)})
    >>> group, mean = LazyChunkSequence.from_map(forward, [1.0, 2.0]).compute(tee(sink, means))
    >>> sorted(group.array_keys()), mean["hidden"].tolist()
    (['hidden', 'logits'], [1.5, 1.5, 1.5])
    """
    group = GroupOptions.validate(arrays, coordinates, **options)
    return ZarrGroupSink(path_or_url, choose_converter(converter), overwrite, group)


class ZarrGroupSink(GroupSink[T_contra], EitherFold[Mapping[str, T_contra], "StoredGroup"]):
    """Stores blocks, or rows of them, as a group: the fold that :func:`zarr_group_sink` returns."""

    __slots__ = ()

    def __repr__(self) -> str:
        """Return one line: the destination, the converter, and the options that were given."""
        return _describe_sink(self, self.options.common)

    def for_parts(self, running: Any, /) -> Any:
        """Return what stores parts; what does not, before the first block and after the end."""
        return super().for_parts(running) if running.stores_parts else CollectBlocks()


def _describe_sink(sink: ZarrSink[Any] | ZarrGroupSink[Any], options: WriteOptions) -> str:
    where = sink.destination
    # The repr of a dict, which is a store as well, would be all the bytes that it holds.
    place = str(where) if isinstance(where, (str, os.PathLike)) else type(where).__name__
    facts = [place, type(sink.converter).__name__]
    facts += ["overwrite=True"] if sink.overwrite else []
    usual = WriteOptions()
    for field in fields(options):
        value = getattr(options, field.name)
        if value != getattr(usual, field.name):
            facts.append(f"{field.name}={shorten(repr(value))}")
    return f"<{type(sink).__name__}: {', '.join(facts)}>"
