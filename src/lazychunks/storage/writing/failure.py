"""What is said of a write that failed."""

from __future__ import annotations

import math
from dataclasses import dataclass

from lazychunks.errors import LazyChunksError, ResumeMismatchError, WriteAbortedError

_NOTHING = "nothing has been stored"


@dataclass(frozen=True, slots=True)
class Failure:
    """How far a write came, and what is left of it."""

    place: str
    taken: int
    """Number of blocks that this start has taken."""
    done: int | None
    """Number of blocks that another start does not compute; None if there are too many to count."""
    counts: tuple[int | None, ...]
    """Number of blocks along each block axis, where it is known."""
    run_id: str | None
    """By which another start goes on; None if none can."""
    has_stored: bool
    """Whether anything was stored."""
    is_removed: bool | None
    """Whether nothing is left of what was written; None where rank 0 removes it."""
    appends: bool = False
    """Whether it was to append rows."""

    def report(self, error: BaseException) -> None:
        """Tell it by a note to the error, or raise an error of the library from one of others.

        Raises
        ------
        WriteAbortedError
            If the error is an :class:`Exception`, and none of the library's own.
        """
        known = [count for count in self.counts if count is not None]
        total = math.prod(known) if len(known) == len(self.counts) else None
        message = (
            f"writing {self.place} stopped after {self.taken if self.done is None else self.done} "
            f"of {'an unknown number of' if total is None else total} blocks; {self._way_on()}"
        )
        if isinstance(error, Exception) and not isinstance(error, LazyChunksError):
            raise WriteAbortedError(
                f"{message} (the failure: {type(error).__name__}: {error})",
                done=self.done,
                total=total,
                resumable=self.run_id is not None,
            ) from error
        if not isinstance(error, ResumeMismatchError):  # its own message says: do not resume
            error.add_note(message)

    def _way_on(self) -> str:
        if self.run_id is not None and not self.has_stored:
            return f"{_NOTHING}, so that the same call begins anew"
        if self.run_id is not None:
            return (
                "what was written is kept, and the same call with resume=True and "
                f"run_id={self.run_id!r} goes on from here"
            )
        if self.appends:
            return "no row was appended; the same call starts over"
        removed = {True: "has been", False: "could not be", None: "is being"}[self.is_removed]
        left = f"what was written {removed} removed" if self.has_stored else _NOTHING
        return (
            f"{left}; to be "
            "able to go on after a failure, use from_map or from_product, and pass run_id= and "
            "resume=True"
        )
