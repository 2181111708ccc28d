"""Rows of blocks: of arrays, and of tuples and mappings whose members have the same rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias, TypeGuard, TypeVar

from lazychunks.arrays import copy_block, join_arrays, native_dtype
from lazychunks.errors import BlockDTypeError, BlockShapeError, BlockTypeError

T = TypeVar("T")

AnyBlock: TypeAlias = Any


def count_rows(block: object, number: int) -> int:
    """Return the length of a block along axis 0.

    Parameters
    ----------
    block
        An array, or a tuple or mapping of such blocks.
    number
        Number of the block, for messages.

    Raises
    ------
    BlockTypeError
        If it is none of these.
    BlockShapeError
        If an array has no axis, or members have different lengths.

    Examples
    --------
    >>> import numpy as np
    >>> count_rows({"x": np.ones((2, 3)), "y": np.ones(2)}, 0)
    2
    """
    lengths = {place: _length(array, place, number) for place, array in _list_arrays(block)}
    if len(set(lengths.values())) == 1:
        return next(iter(lengths.values()))
    if not lengths:
        raise BlockTypeError(
            f"block {number} is an empty {type(block).__name__}, hence without rows",
            block=number,
            expected="an array, or a tuple or mapping of arrays",
            got=type(block),
        )
    raise BlockShapeError(
        f"the members of block {number} have different numbers of rows: "
        + ", ".join(f"{place} has {length}" for place, length in lengths.items())
        + "; members are cut together, so give them the same number",
        block=number,
        expected="the same number of rows",
        got=lengths,
    )


def take_rows(block: T, key: object) -> T:
    """Return some rows of a block: by a slice, without copying, or by indices.

    Examples
    --------
    >>> import numpy as np
    >>> take_rows((np.arange(4), np.arange(4) * 10), slice(1, 3))
    (array([1, 2]), array([10, 20]))
    """

    def take(arrays: list[AnyBlock]) -> AnyBlock:
        return arrays[0][key]

    return change_arrays(take, [block])


def copy_rows(block: T) -> T:
    """Return a block that shares no memory with this one."""

    def copy(arrays: list[AnyBlock]) -> AnyBlock:
        return copy_block(arrays[0], keep_graph=True)

    return change_arrays(copy, [block])


def join_rows(blocks: Sequence[T]) -> T:
    """Join blocks along axis 0; tuples and mappings of them by member.

    Raises
    ------
    BlockTypeError, BlockDTypeError
        If they are of different kinds, or arrays have different dtypes.
    BlockShapeError
        If arrays have rows of different shapes.

    Examples
    --------
    >>> import numpy as np
    >>> join_rows([{"x": np.array([1, 2])}, {"x": np.array([3])}])
    {'x': array([1, 2, 3])}
    """

    def join(arrays: list[AnyBlock]) -> AnyBlock:
        # The library's own function would promote both, in this block and not in others.
        check_alike(arrays)
        return join_arrays(arrays, 0)

    return blocks[0] if len(blocks) == 1 else change_arrays(join, blocks)


def check_alike(arrays: Sequence[AnyBlock]) -> None:
    """Refuse arrays whose rows are not alike; byte order does not count.

    Raises
    ------
    BlockShapeError, BlockDTypeError
        If their shapes but for axis 0, or their dtypes, differ.
    """
    dtype, shape = native_dtype(arrays[0].dtype), tuple(arrays[0].shape[1:])
    for array in arrays:
        if tuple(array.shape[1:]) != shape:
            raise BlockShapeError(
                f"a block has rows of shape {tuple(array.shape[1:])}, expected {shape} like the "
                "blocks before it; pad or reshape it",
                expected=shape,
                got=tuple(array.shape[1:]),
            )
        if native_dtype(array.dtype) != dtype:
            raise BlockDTypeError(
                f"a block has dtype {array.dtype}, expected {dtype} like the blocks before it; "
                "cast it first",
                expected=dtype,
                got=array.dtype,
            )


def change_arrays(change: Callable[[list[AnyBlock]], AnyBlock], blocks: Sequence[T]) -> T:
    """Apply a function to the arrays at the same place of each block, and keep the blocks' form."""
    first: AnyBlock = blocks[0]
    members = [_members(block) for block in blocks]
    names = [None if its is None else its.keys() for its in members]
    for block, its in zip(blocks, names, strict=True):
        if its != names[0]:
            raise BlockTypeError(
                f"a block is {_describe(block)}, expected {_describe(first)} like the blocks "
                "before it; members are joined by their place",
                expected=first.__class__,
                got=block.__class__,
            )
    if members[0] is None:
        rebuilt: AnyBlock = change(list(blocks))
    else:
        made: dict[Any, AnyBlock] = {
            key: change_arrays(change, [its[key] for its in members if its]) for key in members[0]
        }
        kind: Any = first.__class__
        if _is_mapping(first):
            rebuilt = made
        else:
            # A named tuple takes its fields one by one, unlike tuple itself.
            rebuilt = kind(*made.values()) if hasattr(kind, "_fields") else kind(made.values())
    result: T = rebuilt
    return result


def _members(block: AnyBlock) -> dict[Any, AnyBlock] | None:
    """Return the members of a tuple or a mapping; None for anything else, which has rows itself."""
    if _is_mapping(block):
        return dict(block)
    return dict(enumerate(block)) if _is_tuple(block) else None


def _is_mapping(block: object) -> TypeGuard[Mapping[Any, AnyBlock]]:
    return isinstance(block, Mapping)


def _is_tuple(block: object) -> TypeGuard[tuple[AnyBlock, ...]]:
    return isinstance(block, tuple)


def _list_arrays(block: AnyBlock, place: str = "") -> Iterator[tuple[str, AnyBlock]]:
    """Yield the arrays of a block, each with its place, as one would write it behind a name."""
    members = _members(block)
    if members is None:
        yield place, block
    else:
        for key, member in members.items():
            yield from _list_arrays(member, f"{place}[{key!r}]")


def _length(given: object, place: str, number: int) -> int:
    array: Any = given
    name = f"block {number}" if not place else f"member {place} of block {number}"
    if not (hasattr(array, "shape") and hasattr(array, "dtype")):
        raise BlockTypeError(
            f"{name} is a {type(array).__name__}, which has no rows; convert it to an array",
            block=number,
            expected="an array, or a tuple or mapping of arrays",
            got=type(given),
        )
    if not array.shape:
        raise BlockShapeError(
            f"{name} has no axis, hence no rows; reshape it, e.g. to shape (1,)",
            block=number,
            expected="at least one axis",
            got=(),
        )
    length: int = array.shape[0]
    return length


def _describe(block: object) -> str:
    members = _members(block)
    kind = type(block).__name__
    return f"a {kind}" if members is None else f"a {kind} of {', '.join(map(repr, members))}"
