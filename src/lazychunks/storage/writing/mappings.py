"""Blocks that are mappings: checking them, and handing what they hold to the arrays of a group."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Self, TypeGuard, TypeVar

import numpy as np

from lazychunks.errors import BlockError, BlockIndex, BlockNamesError, BlockTypeError
from lazychunks.layout.checks import block_name
from lazychunks.layout.parts import AnyPart
from lazychunks.layout.shapes import Shape
from lazychunks.runs.passes import STORED, Ends
from lazychunks.storage.writing.part_writer import PartWriter, Receipt
from lazychunks.storage.writing.target import FirstBlock, Target

if TYPE_CHECKING:
    from lazychunks.converters import ToNumpy

T = TypeVar("T")


def step_each(steps: Mapping[str, Any], block: Mapping[str, Any] | Any, index: BlockIndex) -> None:
    """Step each array with what a block holds under its name.

    Raises
    ------
    BlockNamesError, BlockTypeError
        If the block is no mapping, or one of other names.
    BlockError
        As the array raises it, with its name.
    """
    if block is STORED:
        for each in steps.values():
            each.step(STORED)
        return
    check_names(block, steps, index)
    name = ""
    try:
        for name, each in steps.items():
            each.step(block[name])
    except BlockError as error:
        name_member(error, name)
        raise


def check_names(block: object, names: Iterable[str] | None, index: BlockIndex) -> None:
    """Refuse a block that is no mapping of these names; None for any names.

    Raises
    ------
    BlockTypeError
        If it is no mapping.
    BlockNamesError
        If it has other names.
    """
    if not _is_mapping(block):
        raise BlockTypeError(
            f"block {index} is of type {type(block).__name__}, and those of a group are mappings "
            "from names to arrays; make one with .map, as vars of a dataclass or _asdict of a "
            "named tuple",
            block=index,
            expected="a mapping",
            got=type(block).__name__,
        )
    if names is not None and {*block} != {*names}:
        raise BlockNamesError(
            f"block {index} has {_enumerate(block)}, and the first block has {_enumerate(names)}; "
            "each block must have the same names",
            block=index,
            expected=sorted(names),
            got=sorted(map(str, block)),
        )


def name_member(error: BlockError, name: str) -> None:
    """Say in an error which array of the group it is about."""
    if error.member is None:
        error.member = name
        error.message = f"in {name!r}: {error.message}"
        error.args = (error.message,)


@dataclass(frozen=True, slots=True)
class FirstBlocks(Generic[T]):
    """Tells names, shapes and dtypes of the first block: the probe of a group."""

    converter: ToNumpy[T]
    casts: Mapping[str, bool]
    """Whether blocks are cast, by name; the empty name is for all others."""
    index: BlockIndex

    def __call__(self, block: Mapping[str, T], /) -> dict[str, tuple[Shape, np.dtype[Any]]]:
        """Return shape and dtype by name.

        Raises
        ------
        BlockNamesError, BlockTypeError, BlockDTypeError
            If it is an empty mapping, or none, or holds what cannot be stored.
        """
        check_names(block, None, self.index)
        if not block:
            raise BlockNamesError(
                f"block {self.index} is an empty mapping, hence there is nothing to store; return "
                "at least one array",
                block=self.index,
                expected="names",
                got={},
            )
        found: dict[str, tuple[Shape, np.dtype[Any]]] = {}
        for name in block:
            casts = self.casts.get(name, self.casts[""])
            try:
                found[name] = FirstBlock(self.converter, casts, self.index)(block[name])
            except BlockError as error:
                name_member(error, str(name))
                raise
        return found


@dataclass(frozen=True, slots=True)
class GroupShelf(Generic[T]):
    """Blocks that are stored in all arrays of a group."""

    targets: Mapping[str, Target[T]]

    def has(self, index: Shape, is_last: Ends) -> bool:
        """Whether a block is stored in all arrays, so that it need not be computed."""
        return all(target.has(index, is_last) for target in self.targets.values())

    def read_block(self, index: Shape, is_last: Ends) -> dict[str, Any]:
        """Read back a block that is stored."""
        targets = self.targets.items()
        return {name: target.read_block(index, is_last) for name, target in targets}

    def compare(self, index: Shape, is_last: Ends, block: Mapping[str, T]) -> None:
        """Refuse a block that is not the one that is stored."""
        check_names(block, self.targets, block_name(index))
        for name, target in self.targets.items():
            target.compare(index, is_last, block[name])


@dataclass(frozen=True, slots=True)
class GroupWriters(Generic[T]):
    """Makes the writers of parts, wherever they run: a value that can be pickled."""

    targets: Mapping[str, Target[T]]

    @property
    def sends_blocks(self) -> bool:
        """Whether workers send blocks: they send receipts."""
        return False

    def start_part(self, part: AnyPart, /) -> GroupPart:
        """Start to write a part."""
        return GroupPart({name: PartWriter(each, part) for name, each in self.targets.items()})


@dataclass(slots=True, eq=False)
class GroupPart:
    """Writes a part of all arrays."""

    writers: Mapping[str, PartWriter[Any]]
    _stack: ExitStack = field(default_factory=ExitStack, init=False)

    def __enter__(self) -> Self:
        for writer in self.writers.values():
            self._stack.enter_context(writer)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
        /,
    ) -> None:
        self._stack.__exit__(kind, error, traceback)

    def step(self, block: Mapping[str, Any], /) -> None:
        """Take the next block."""
        first = next(iter(self.writers.values()))
        step_each(self.writers, block, block_name(first.cursor.index))

    def end_row(self) -> None:
        """Close a row."""
        for writer in self.writers.values():
            writer.end_row()

    def state(self) -> dict[str, Receipt]:
        """Return the receipts."""
        return {name: writer.state() for name, writer in self.writers.items()}


def _is_mapping(block: object) -> TypeGuard[Mapping[object, object]]:
    return isinstance(block, Mapping)


def _enumerate(names: Iterable[object]) -> str:
    listed = sorted(map(repr, names))
    return ", ".join(listed[:6]) + (", ..." if len(listed) > 6 else "") or "no names"
