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


# Of this run: the function of the blocks and the work; and those of a run that has just ended.
@lru_cache(maxsize=8)
def _load(data: bytes) -> Any:
    return pickle.loads(data)  # noqa: S301  # made by the process that sends the tasks
