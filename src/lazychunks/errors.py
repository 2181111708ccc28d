"""Exceptions and warnings: what was wrong, where, what was expected, and the way out.

Every exception derives from :class:`LazyChunksError` *and* from the builtin that a caller would
reach for (``ValueError``, ``TypeError``, ...). The facts of a message are fields as well, so that
programs need not parse it. All of them can be pickled, hence cross process boundaries.
"""

from __future__ import annotations

from dataclasses import dataclass

BlockIndex = int | tuple[int, int]
"""Place of a block: its number, or ``(row, column)`` in a nested sequence."""


@dataclass(eq=False, repr=False)
class LazyChunksError(Exception):
    """Base of every exception that this library defines."""

    message: str

    def __post_init__(self) -> None:
        super().__init__(self.message)


@dataclass(eq=False, repr=False, kw_only=True)
class BlockError(LazyChunksError):
    """A block cannot take its place among the blocks before it.

    Parameters
    ----------
    message
        What was wrong, where, and what to do.
    block
        Place of the block.
    expected, got
        What the blocks before it ask for, and what came.
    """

    block: BlockIndex | None = None
    expected: object = None
    got: object = None


class BlockShapeError(BlockError, ValueError):
    """A block's shape does not fit the blocks before it."""


class BlockDTypeError(BlockError, TypeError):
    """A block's dtype differs from the first block's, or cannot be stored."""


class BlockTypeError(BlockError, TypeError):
    """A block is no plain array: a masked array, or a converter's result of another type."""


class EmptySequenceError(LazyChunksError, ValueError):
    """There was no block, hence neither shape nor dtype."""


@dataclass(eq=False, repr=False, kw_only=True)
class EmptyRowError(LazyChunksError, ValueError):
    """A row of a nested sequence holds no block.

    Parameters
    ----------
    message
        What was wrong, where, and what to do.
    row
        Index of the row.
    """

    row: int | None = None


class SourceExhaustedError(LazyChunksError, RuntimeError):
    """The blocks have already been consumed: the factory hands out an iterator that has run."""


class SourceTypeError(LazyChunksError, TypeError):
    """A factory, or a row, is an array, text, or something that is not iterable."""


@dataclass(eq=False, repr=False, kw_only=True)
class DestinationError(LazyChunksError):
    """An array cannot be written where it was asked for.

    Parameters
    ----------
    message
        What was found, where, and what to do.
    path
        The destination.
    """

    path: str | None = None


class DestinationExistsError(DestinationError, FileExistsError):
    """Something is at the destination that must not, or may not, be replaced."""


class DestinationReadOnlyError(DestinationError, PermissionError):
    """The destination cannot be written."""


class DestinationBusyError(DestinationError, BlockingIOError):
    """Another writer is at work on the destination."""


class NotResumableError(LazyChunksError, TypeError):
    """The sequence cannot skip blocks, so a run over it cannot be resumed."""


class NotSpreadableError(LazyChunksError, TypeError):
    """Blocks cannot be computed and stored by the workers of an executor.

    The sequence cannot skip blocks, its function cannot be sent to other processes, or these would
    not see the destination.
    """


@dataclass(eq=False, repr=False, kw_only=True)
class ResumeMismatchError(LazyChunksError, ValueError):
    """The unfinished write at the destination is not of this run.

    Parameters
    ----------
    message
        What differs, and what to do.
    field
        Name of what differs: ``"run_id"``, ``"value"``, or a part of the plan.
    expected, got
        What the unfinished write has, and what this run has.
    """

    field: str | None = None
    expected: object = None
    got: object = None


@dataclass(eq=False, repr=False, kw_only=True)
class MissingChunkError(LazyChunksError, RuntimeError):
    """A chunk is missing from an array that this library wrote, which stores every chunk.

    Parameters
    ----------
    message
        Which chunk, and how to read the array all the same.
    key
        Key of the chunk, relative to the array.
    block
        Place of the block that was to be read.
    """

    key: str | None = None
    block: BlockIndex | None = None


class UntrustedArrayError(LazyChunksError, ValueError):
    """An array's metadata, or a chunk, asks for what is not done without trust in its origin."""


@dataclass(eq=False, repr=False, kw_only=True)
class WriteAbortedError(LazyChunksError, RuntimeError):
    """A write failed halfway; the destination is as it was. The failure is the ``__cause__``.

    Parameters
    ----------
    message
        How far it got, and how to go on.
    done, total
        Number of blocks taken, and of all blocks where it is known.
    resumable
        Whether ``to_zarr`` with ``resume=True`` goes on from here.
    """

    done: int | None = None
    total: int | None = None
    resumable: bool = False


class LengthHintWarning(UserWarning):
    """A run ended with another number of blocks (or rows) than the length hint said.

    Nothing is lost: a hint only sizes buffers and progress bars.
    """
