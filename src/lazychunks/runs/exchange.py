"""Messages between ranks: all send one at the same time, or one says that it has failed.

Every message is a step with a number, so that ranks that have come to different places notice. A
rank that fails sends its failure at the place of its next step, whatever the others send there.
After that, nobody sends anything: so no rank waits for one that does not come.
"""

from __future__ import annotations

import contextlib
import pickle
from collections.abc import Generator, Sequence
from typing import NamedTuple, Protocol, TypeVar

from lazychunks.errors import RankFailedError, RanksDifferError
from lazychunks.runs.interrupts import uninterrupted

T = TypeVar("T")


class Ranks(Protocol):
    """Processes that were started together and make the same calls: what ``ranks=`` takes.

    :class:`lazychunks.torch.DistributedRanks` is one for ``torch.distributed``, and
    :class:`lazychunks.mpi.MPIRanks` one for MPI.
    """

    @property
    def rank(self) -> int:
        """Number of this process, from 0 on."""
        ...

    @property
    def size(self) -> int:
        """Number of processes."""
        ...

    def all_gather(self, value: T, /) -> list[T]:
        """Return the values that all ranks have called this with, in the order of the ranks.

        It returns once all of them have called it. The values are ``bytes``.
        """
        ...


class Failure(NamedTuple):
    """What a rank says of itself in its last message."""

    rank: int
    text: str
    error: bytes | None
    """The error itself, where all ranks are to raise it: pickled."""


class Message(NamedTuple):
    """What a rank sends in a step."""

    rank: int
    step: str
    failure: Failure | None
    payload: bytes


class Exchange:
    """The messages of one call.

    Parameters
    ----------
    ranks
        Who exchanges them.

    Raises
    ------
    TypeError, ValueError
        If it does not look like ranks.
    """

    def __init__(self, ranks: Ranks) -> None:
        check_ranks(ranks)
        self.rank: int = ranks.rank
        self.size: int = ranks.size
        self._ranks = ranks
        self._steps = 0
        self._is_over = False
        self._all_know = False
        """Whether all ranks know that one of them has failed."""

    def share(self, what: str, value: T) -> list[T]:
        """Send a value, and return those of all ranks, in order.

        Parameters
        ----------
        what
            What the value is, for the message if another rank is elsewhere.
        value
            It must be picklable.

        Raises
        ------
        RankFailedError
            If another rank has failed, or none can be reached.
        RanksDifferError
            If another rank sends something else.
        """
        return [pickle.loads(payload) for payload in self.share_bytes(what, pickle.dumps(value))]  # noqa: S301  # of our own peers

    def share_bytes(self, what: str, payload: bytes) -> list[bytes]:
        """Send what has been pickled, and return that of all ranks; raises as :meth:`share`."""
        messages = self._send(what, None, payload)
        for message in messages:
            if message.failure is not None:
                raise _error_of(message.failure)
        if len({message.step for message in messages}) > 1:
            raise RanksDifferError(_list_steps(messages))
        return [message.payload for message in messages]

    def tell(self, error: BaseException, *, raised_by_all: bool = False) -> None:
        """Tell the others that this rank has failed; does nothing once any rank has.

        Parameters
        ----------
        error
            Why it has failed.
        raised_by_all
            Whether the others raise this very error, and not one that names the rank.
        """
        if self._is_over:
            return
        try:
            pickled = pickle.dumps(error) if raised_by_all else None
        except Exception:  # noqa: BLE001  # an error of others may hold anything
            pickled = None
        text = f"{type(error).__name__}: {error}"
        with contextlib.suppress(RankFailedError):  # the failure before this one is what counts
            self._send("a failure", Failure(self.rank, text, pickled), b"")

    @contextlib.contextmanager
    def watch(self) -> Generator[None]:
        """Tell the others if the ``with`` block fails here."""
        try:
            yield
        except BaseException as error:
            self.tell(error)
            raise

    def leave(self, error: BaseException | None) -> None:
        """End the exchange: all ranks have succeeded, or all know of the failure.

        After a failure, the ranks wait for each other once more: a launcher ends them as soon as
        one has ended, and the first rank may still be clearing away what was written.
        """
        try:
            if error is not None:
                self.tell(error)
            elif not self._is_over:
                self.share("the end of the call", None)
        finally:
            if self._all_know:
                with contextlib.suppress(Exception), uninterrupted():
                    self._ranks.all_gather(b"")

    def _send(self, what: str, failure: Failure | None, payload: bytes) -> Sequence[Message]:
        """Send one message, and receive those of all ranks."""
        if self._is_over:
            raise RankFailedError("this call has failed already, on this rank or on another one")
        self._steps += 1
        step = f"step {self._steps}, {what}"
        sent = pickle.dumps(tuple(Message(self.rank, step, failure, payload)))
        # An interrupt comes afterwards: in the middle, nobody would know what the others have got.
        with uninterrupted():
            try:
                messages = _open_all(self._ranks.all_gather(sent), self.size)
            except Exception as error:
                self._is_over = True
                raise RankFailedError(
                    f"rank {self.rank} cannot reach the other ranks any more, perhaps because one "
                    f"has been killed ({type(error).__name__}: {error})"
                ) from error
            except BaseException:
                self._is_over = True
                raise
            is_one_step = len({message.step for message in messages}) == 1
            if failure or not is_one_step or any(message.failure for message in messages):
                self._is_over = self._all_know = True
        return messages


def _open_all(answers: Sequence[bytes], size: int) -> Sequence[Message]:
    messages = [Message(*pickle.loads(answer)) for answer in answers]  # noqa: S301  # of our own peers
    senders = [message.rank for message in messages]
    if senders != list(range(size)):
        raise ValueError(f"all_gather has returned the values of ranks {senders}, of {size} ranks")
    return messages


def check_ranks(ranks: Ranks) -> None:
    """Refuse what cannot be ranks; callers need not be typed.

    Raises
    ------
    TypeError, ValueError
        If something is missing, or the number of the rank is none.
    """
    rank, size = getattr(ranks, "rank", None), getattr(ranks, "size", None)
    if not (isinstance(rank, int) and isinstance(size, int) and hasattr(ranks, "all_gather")):
        raise TypeError(
            "ranks must be an object with rank, size and all_gather, got "
            f"{type(ranks).__name__}; lazychunks.torch.DistributedRanks() is one"
        )
    if not 0 <= rank < size:
        raise ValueError(f"rank {rank} of {size} is none: ranks are numbered from 0 on")


def compare(facts: Sequence[dict[str, str]]) -> None:
    """Refuse calls that differ.

    Parameters
    ----------
    facts
        Of each rank, what it was asked for, by name.

    Raises
    ------
    RanksDifferError
        If they differ between two ranks.
    """
    first = facts[0]
    for rank, other in enumerate(facts):
        for name in first | other:
            if first.get(name) != other.get(name):
                raise RanksDifferError(
                    f"rank {rank} has made another call than rank 0: {name} is "
                    f"{other.get(name, 'missing')}, and on rank 0 it is "
                    f"{first.get(name, 'missing')}; all ranks must make the same call with the "
                    "same arguments"
                )


def _list_steps(messages: Sequence[Message]) -> str:
    steps = (f"rank {rank} is at {message.step}" for rank, message in enumerate(messages))
    return (
        f"the ranks have come to different places: {'; '.join(steps)}. All ranks must make the "
        "same call, and a sequence must have the same blocks on all of them"
    )


def _error_of(failure: Failure) -> BaseException:
    """Return what is raised where another rank has failed."""
    if failure.error is not None:
        error: BaseException = pickle.loads(failure.error)  # noqa: S301  # of our own peers
        return error
    return RankFailedError(f"rank {failure.rank} failed: {failure.text}", rank=failure.rank)
