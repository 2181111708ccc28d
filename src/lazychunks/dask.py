"""Dask arrays from map-backed sequences, and back: for array algebra, and for a cluster.

Needs the extra ``dask``; nothing else in the library imports it.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace
from itertools import product
from typing import TYPE_CHECKING, Any, Generic, SupportsIndex, TypeAlias, TypeVar

import numpy as np
from dask.array import Array
from dask.base import tokenize
from numpy.typing import DTypeLike, NDArray

from lazychunks.blocks.factories import BlockCall, counts_of, is_nested, rows_of_calls
from lazychunks.errors import BlockDTypeError, BlockShapeError, EmptySequenceError
from lazychunks.layout.checks import block_name, check_block, check_row
from lazychunks.layout.shapes import Shape
from lazychunks.sequences import LazyChunkSequence, NestedLazyChunkSequence
from lazychunks.storage.chunks.dtypes import checked_array

if TYPE_CHECKING:
    from distributed import Client

    from lazychunks.converters import ToNumpy

__all__ = ["from_dask_array", "nested_from_dask_array", "to_dask_array"]

T = TypeVar("T")

Sizes: TypeAlias = tuple[tuple[float, ...], ...]
"""For each axis, the sizes of the blocks along it; NaN where it is not known."""


def to_dask_array(
    sequence: LazyChunkSequence[T] | NestedLazyChunkSequence[T],
    converter: ToNumpy[T],
    *,
    chunks: Sequence[float | Sequence[float]] | None = None,
    dtype: DTypeLike | None = None,
) -> Array:
    """Hand the blocks of a map-backed sequence to dask, which computes them when it needs them.

    - Each block is one chunk of the dask array, and each of them one task of its graph.
    - The dask array equals the concatenation of the blocks, bitwise: a block that has not the
      shape and dtype that the dask array declares is an error when it is computed.
    - Equal sequences make dask arrays of one name, if dask can tell that they are equal.

    A dask array has to know shapes and dtype beforehand. With both ``chunks`` and ``dtype``,
    nothing is computed here.

    Parameters
    ----------
    sequence
        Made by ``from_map``, ``from_product`` or ``from_zarr``. Its function is called by several
        threads at once, so each call has to return memory of its own; the function goes to each
        worker once, its items with each task.
    converter
        Its ``to_numpy`` turns a block into a NumPy array.
    chunks
        For each axis, the sizes of all blocks along it, or one size that all of them have. A NaN
        is a size that is not known, as in dask; possible along axis 0 of a flat sequence. By
        default all blocks but the last along an axis have the size of the first: the first block
        and the last ones (nested: those of the first row and of the first column) are computed to
        learn the sizes, and computed again when needed.
    dtype
        The dtype of the blocks, which are not cast. By default that of the first block, which is
        computed to learn it.

    Returns
    -------
    dask.array.Array
        It has one chunk for each block, in the same order.

    Raises
    ------
    TypeError
        If the sequence is not map-backed.
    EmptySequenceError, EmptyRowError
        If there is no block, or none in a row.
    BlockShapeError, BlockDTypeError, BlockTypeError
        Here, or when the dask array is computed: if a block is not as declared, or no plain array.
    ValueError
        If ``chunks`` does not have the axes of the blocks, or another number of sizes.

    Examples
    --------
    >>> import numpy as np
    >>> from lazychunks import IdentityConverter
    >>> sequence = LazyChunkSequence.from_map(np.arange, [3, 3, 1])
    >>> x = to_dask_array(sequence, IdentityConverter())
    >>> x.chunks
    ((3, 3, 1),)
    >>> int((x + 1).sum().compute())
    13
    >>> ragged = LazyChunkSequence.from_map(np.arange, [2, 0, 5])
    >>> to_dask_array(ragged, IdentityConverter(), chunks=[(2, 0, 5)], dtype=int).shape
    (7,)
    """
    tasks = _tasks(sequence)
    first = min(tasks)
    counts = tuple(number + 1 for number in max(tasks))
    made = None if dtype is None else np.dtype(dtype)
    maker = _Maker(tasks[first].func, converter, made)
    if chunks is None:
        sizes, made = _probed(tasks, counts, maker)
    else:
        sizes = _declared(chunks, counts)
        if made is None:
            made = maker(_Call(tasks[first].args, first, next(product(*sizes)))).dtype
    maker = replace(maker, dtype=made)
    name = f"lazychunks-{_token(tasks, maker, sizes)}"
    shared = f"{name}-maker"
    zeros = (0,) * (len(sizes) - len(counts))
    graph: dict[Hashable, object] = {
        (name, *index, *zeros): (operator.call, shared, _Call(task.args, index, shape))
        for (index, task), shape in zip(tasks.items(), product(*sizes), strict=True)
    }
    graph[shared] = maker  # of its own, so that it goes to each worker once
    return Array(graph, name, sizes, meta=np.empty((0,) * len(sizes), made))


def from_dask_array(
    x: Array, *, scheduler: str | Executor | Client | None = None
) -> LazyChunkSequence[NDArray[Any]]:
    """Make the map-backed sequence of a dask array's chunks along axis 0.

    Block ``i`` is the part of the array that the chunks number ``i`` along axis 0 hold, whatever
    chunks there are along other axes. It is computed when it is asked for, and so are only the
    tasks that it needs; what several blocks need is computed for each of them, unless it is
    persisted before.

    Parameters
    ----------
    x
        A dask array of at least one axis, its chunk sizes known or not.
    scheduler
        What computes a block, as in ``x.compute``: ``"threads"``, ``"processes"``,
        ``"synchronous"``, an executor or a client. Default: what dask uses by default.

    Raises
    ------
    ValueError
        If the array has no axis.

    Examples
    --------
    >>> import dask.array as da
    >>> x = da.arange(5, chunks=2)
    >>> from_dask_array(x + 1, scheduler="synchronous").compute()
    [array([1, 2]), array([3, 4]), array([5])]
    """
    _check_axes(x, 1)
    return LazyChunkSequence.from_map(_Computed(x.name, x, scheduler), range(x.numblocks[0]))


def nested_from_dask_array(
    x: Array, *, scheduler: str | Executor | Client | None = None
) -> NestedLazyChunkSequence[NDArray[Any]]:
    """Make the map-backed nested sequence of a dask array's chunks along axes 0 and 1.

    All else is as in :func:`from_dask_array`.

    Raises
    ------
    ValueError
        If the array has fewer than two axes.

    Examples
    --------
    >>> import dask.array as da
    >>> nested = nested_from_dask_array(da.ones((3, 5), chunks=(2, 4)))
    >>> [[block.shape for block in row] for row in nested]
    [[(2, 4), (2, 1)], [(1, 4), (1, 1)]]
    """
    _check_axes(x, 2)
    rows, columns = map(range, x.numblocks[:2])
    return NestedLazyChunkSequence.from_product(_Computed(x.name, x, scheduler), rows, columns)


@dataclass(frozen=True, slots=True)
class _Call:
    """Arguments of one call of the block function, and what block is expected of it."""

    arguments: tuple[Any, ...]
    index: Shape
    shape: tuple[float, ...] | None
    """NaN where any size will do; none if any shape will."""


@dataclass(frozen=True, slots=True)
class _Maker(Generic[T]):
    """What all calls share."""

    fn: Callable[..., T]
    converter: ToNumpy[T]
    dtype: np.dtype[Any] | None

    def __call__(self, call: _Call) -> NDArray[Any]:
        """Compute, convert and check one block."""
        block = block_name(call.index)
        array = checked_array(self.converter.to_numpy(self.fn(*call.arguments)), block=block)
        declared = array.shape if call.shape is None else call.shape
        expected = tuple("*" if math.isnan(size) else size for size in declared)
        if array.ndim != len(expected) or not all(
            want in ("*", have) for want, have in zip(expected, array.shape, strict=True)
        ):
            raise BlockShapeError(
                f"block {block} has shape {array.shape}, the dask array declares "
                f"({', '.join(map(str, expected))}); pad or reshape it, or pass chunks= with the "
                "sizes of all blocks",
                block=block,
                expected=expected,
                got=array.shape,
            )
        if self.dtype is not None and array.dtype != self.dtype:
            raise BlockDTypeError(
                f"block {block} has dtype {array.dtype}, the dask array declares {self.dtype}; "
                "blocks are not cast: cast them with .map, or pass their dtype=",
                block=block,
                expected=self.dtype,
                got=array.dtype,
            )
        return array


@dataclass(frozen=True, slots=True)
class _Computed:
    """Computes the part of a dask array that some of its chunks hold."""

    name: str
    """What the array is: dask arrays compare entry by entry."""
    x: Array = field(compare=False)
    scheduler: str | Executor | Client | None

    def __call__(self, *index: int) -> NDArray[Any]:
        return self.x.blocks[index].compute(scheduler=self.scheduler)


def _tasks(
    sequence: LazyChunkSequence[T] | NestedLazyChunkSequence[T],
) -> dict[Shape, BlockCall[T]]:
    """List what computes the blocks, by their places, and refuse what is no grid of blocks."""
    axes = 2 if is_nested(sequence) else 1
    rows = rows_of_calls(sequence.generator_factory, axes, counts_of(sequence)[0])
    if rows is None:
        raise TypeError(
            "dask computes blocks one by one, which only a map-backed sequence can; build it with "
            "LazyChunkSequence.from_map or NestedLazyChunkSequence.from_product"
        )
    found: dict[Shape, BlockCall[T]] = {}
    columns = 0
    for number, row in enumerate(rows):
        columns = columns or len(row)
        check_row(number, len(row), columns)
        found |= {(number, column)[:axes]: task for column, task in enumerate(row)}
    if not found:
        raise EmptySequenceError("the sequence holds no block, hence neither shape nor dtype")
    return found


def _probed(
    tasks: dict[Shape, BlockCall[T]], counts: Shape, maker: _Maker[T]
) -> tuple[Sizes, np.dtype[Any]]:
    """Learn sizes and dtype from the first block and the last ones."""
    zeros = (0,) * len(counts)
    first = maker(_Call(tasks[zeros].args, zeros, None))
    shape = first.shape
    check_block(shape, shape, (None,) * len(counts), block=block_name(zeros))
    maker = replace(maker, dtype=first.dtype)
    sizes: list[tuple[int, ...]] = [(length,) for length in shape]
    for axis, count in enumerate(counts):
        if count > 1:
            last = (*zeros[:axis], count - 1, *zeros[axis + 1 :])
            expected = (*shape[:axis], math.nan, *shape[axis + 1 :])
            found = maker(_Call(tasks[last].args, last, expected)).shape
            sizes[axis] = (*(shape[axis],) * (count - 1), found[axis])
    return tuple(sizes), first.dtype


def _declared(chunks: Sequence[float | Sequence[float]], counts: Shape) -> Sizes:
    """Check the sizes that a user declares."""
    if len(chunks) < len(counts):
        raise ValueError(f"chunks has {len(chunks)} axes, expected at least {len(counts)}")
    sizes: list[tuple[float, ...]] = []
    for axis, along in enumerate(chunks):
        count = counts[axis] if axis < len(counts) else 1
        given = tuple(along) if isinstance(along, Sequence) else (along,) * count
        if len(given) != count:
            raise ValueError(
                f"chunks has {len(given)} sizes along axis {axis}, where the sequence has {count} "
                "blocks; give a size for each, or one size for all"
            )
        unknown_allowed = axis == 0 and len(counts) == 1
        sizes.append(tuple(_size(size, axis, unknown_allowed=unknown_allowed) for size in given))
    return tuple(sizes)


def _size(size: float, axis: int, *, unknown_allowed: bool) -> float:
    if math.isnan(size):
        if unknown_allowed:
            return math.nan
        # Dask would take a block of height 1 for one of any height.
        raise ValueError(
            f"chunks has an unknown size along axis {axis}; sizes can be unknown along axis 0 of a "
            "flat sequence only, since nobody could check elsewhere that blocks fit together"
        )
    number = operator.index(size) if isinstance(size, SupportsIndex) else -1
    if number < 0:
        raise ValueError(
            f"chunks has the size {size!r} along axis {axis}, expected an integer from 0"
        )
    return number


def _token(tasks: dict[Shape, BlockCall[Any]], maker: _Maker[Any], sizes: Sizes) -> str:
    """Hash what determines the blocks; each item once, since rows and columns share them."""
    items = {id(item): item for task in tasks.values() for item in task.args}
    tokens = {key: tokenize(item) for key, item in items.items()}
    used = [[tokens[id(item)] for item in task.args] for task in tasks.values()]
    return tokenize(maker, used, sizes)


def _check_axes(x: Array, axes: int) -> None:
    if x.ndim < axes:
        raise ValueError(f"the dask array has {x.ndim} axes, expected at least {axes}")
