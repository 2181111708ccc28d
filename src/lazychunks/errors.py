"""Exceptions and warnings: what was wrong, where, what was expected, and the way out.

Every exception derives from :class:`LazyChunksError` *and* from the builtin that a caller would
catch (``ValueError``, ``TypeError``, ...). The facts of a message are fields as well, so that
programs need not parse it. All exceptions can be pickled, so they reach the caller from a worker
process too. Builtin bases are in parentheses::

    LazyChunksError
    ├── BlockError
    │   ├── BlockNamesError (ValueError)
    │   ├── BlockShapeError (ValueError)
    │   ├── BlockDTypeError (TypeError)
    │   └── BlockTypeError (TypeError)
    ├── EmptySequenceError (ValueError)
    ├── EmptyRowError (ValueError)
    ├── SourceExhaustedError (RuntimeError)
    ├── SourceTypeError (TypeError)
    ├── DestinationError
    │   ├── DestinationExistsError (FileExistsError)
    │   ├── DestinationReadOnlyError (PermissionError)
    │   └── DestinationBusyError (BlockingIOError)
    ├── NotResumableError (TypeError)
    ├── NotSpreadableError (TypeError)
    ├── RankFailedError (RuntimeError)
    ├── RanksDifferError (ValueError)
    ├── ResumeMismatchError (ValueError)
    ├── AppendMismatchError (ValueError)
    ├── MissingChunkError (RuntimeError)
    ├── UntrustedArrayError (ValueError)
    └── WriteAbortedError (RuntimeError)
    LengthHintWarning (UserWarning)
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
    """A block does not fit the blocks before it, or cannot be stored.

    Parameters
    ----------
    message
        What was wrong, where, and what to do.
    block
        Place of the block.
    expected, got
        What was expected of the block, and what came.
    member
        Name of the array in its group, if blocks are stored as a group.
    """

    block: BlockIndex | None = None
    expected: object = None
    got: object = None
    member: str | None = None


class BlockNamesError(BlockError, ValueError):
    """A block of a group has other names than the first one, or names that arrays cannot have."""


class BlockShapeError(BlockError, ValueError):
    """A block's shape does not fit the blocks before it."""


class BlockDTypeError(BlockError, TypeError):
    """A block's dtype differs from the first block's, or cannot be stored."""


class BlockTypeError(BlockError, TypeError):
    """A block is no plain array: a masked array, or a converter's result of another type."""


class EmptySequenceError(LazyChunksError, ValueError):
    """A sequence holds no block, hence neither shape nor dtype."""


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
    """The blocks have already been consumed: the factory returned an iterator that has run."""


class SourceTypeError(LazyChunksError, TypeError):
    """A factory cannot be called; or it, or a row, gave an array, text, or no iterable at all."""


@dataclass(eq=False, repr=False, kw_only=True)
class DestinationError(LazyChunksError):
    """An array cannot be written to its destination.

    Parameters
    ----------
    message
        What was found, where, and what to do.
    path
        The destination.
    """

    path: str | None = None


class DestinationExistsError(DestinationError, FileExistsError):
    """The destination holds something that must not, or may not, be replaced."""


class DestinationReadOnlyError(DestinationError, PermissionError):
    """The destination cannot be written."""


class DestinationBusyError(DestinationError, BlockingIOError):
    """Another writer is at work on the destination."""


class NotResumableError(LazyChunksError, TypeError):
    """The sequence cannot skip blocks, so a run over it cannot be resumed."""


class NotSpreadableError(LazyChunksError, TypeError):
    """Blocks cannot be computed and stored by the workers of an executor, or by ranks.

    The sequence cannot skip blocks, its function cannot be sent to other processes, or these would
    not see the destination.
    """


@dataclass(eq=False, repr=False, kw_only=True)
class RankFailedError(LazyChunksError, RuntimeError):
    """Another rank has failed, or is gone, so that this one has stopped as well.

    Parameters
    ----------
    message
        Which rank, and how it failed.
    rank
        Its number; None if the ranks cannot reach each other any more.
    """

    rank: int | None = None


class RanksDifferError(LazyChunksError, ValueError):
    """The ranks have not made the same call with the same arguments."""


@dataclass(eq=False, repr=False, kw_only=True)
class ResumeMismatchError(LazyChunksError, ValueError):
    """The unfinished write at the destination belongs to another run.

    Parameters
    ----------
    message
        What differs, and what to do.
    field
        Name of the fact that differs: ``"run_id"``, ``"value"``, or a part of the plan.
    expected, got
        The fact in the unfinished write, and in this run.
    """

    field: str | None = None
    expected: object = None
    got: object = None


@dataclass(eq=False, repr=False, kw_only=True)
class AppendMismatchError(LazyChunksError, ValueError):
    """Rows cannot be appended to the array at the destination: it is of another kind, or layout.

    Parameters
    ----------
    message
        What differs, and what to do.
    field
        Name of the fact that differs, such as ``"dtype"``, ``"chunks"`` or ``"zarr_format"``.
    expected, got
        The fact as the array has it, and as this call has it.
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
    """An array can be read only by those who trust its origin: it may run code, or fill memory."""


@dataclass(eq=False, repr=False, kw_only=True)
class WriteAbortedError(LazyChunksError, RuntimeError):
    """A write failed halfway; the destination is as it was. The failure is the ``__cause__``.

    Parameters
    ----------
    message
        How far it got, and how to go on.
    done, total
        Number of blocks that are done, and number of all blocks where it is known.
    resumable
        Whether the same call with ``resume=True`` goes on from here.
    """

    done: int | None = None
    total: int | None = None
    resumable: bool = False


class LengthHintWarning(UserWarning):
    """A run ended with another number of blocks (or rows) than its length hint.

    Nothing is lost: a hint only sizes buffers and progress bars.
    """
