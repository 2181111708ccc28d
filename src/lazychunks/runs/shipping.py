"""Values that all tasks of a pass share: pickled once, and unpickled once in each process."""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Generic, TypeAlias, TypeVar

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


@dataclass(frozen=True, slots=True)
class Shipped(Generic[T_co]):
    """A value on its way to other processes."""

    data: bytes


Sent: TypeAlias = T | Shipped[T]
"""A value that every task gets: itself, where workers share the memory of this process."""


def receive(sent: Sent[T]) -> T:
    """Return this process's copy of a value."""
    if not isinstance(sent, Shipped):
        return sent
    received: T = _load(sent.data)
    return received


def unpack(sent: Sent[T]) -> T:
    """Return a copy of a value that one task needs, and that is not kept for others."""
    if not isinstance(sent, Shipped):
        return sent
    unpacked: T = pickle.loads(sent.data)  # noqa: S301  # made by the process that sends the tasks
    return unpacked


# A run needs two: the function of the blocks, and the work. A worker may serve two runs at a time.
# Not more, since whatever is kept (a model, for instance) takes memory when the run has ended.
@lru_cache(maxsize=4)
def _load(data: bytes) -> Any:
    return pickle.loads(data)  # noqa: S301  # made by the process that sends the tasks
