"""Ctrl-C and SIGTERM wait until an operation has ended that must not be cut short."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Collection
from concurrent.futures import FIRST_COMPLETED, Future, wait
from types import FrameType
from typing import Self, TypeAlias, TypeVar

T = TypeVar("T")

_Handler: TypeAlias = Callable[[int, FrameType | None], object]

HELD_SIGNALS = (signal.SIGINT, signal.SIGTERM)
"""Signals whose Python handlers may raise an exception at any line of the main thread."""

LOOK_EVERY = 0.1
"""Seconds after which a wait for futures ends for a moment, so that a held Ctrl-C takes effect."""


class uninterrupted:  # noqa: N801  # reads as a statement: `with uninterrupted():`
    """Holds Ctrl-C and SIGTERM back until the ``with`` block has ended.

    A pool of threads does not survive an exception in the middle of one of its methods: a lock
    stays taken, or a thread is started that the pool does not know. So its methods are called in
    such a block. A signal that has come meanwhile is handled right after it, and raises then what
    it would have raised at once. Only the main thread handles signals; elsewhere this does nothing.

    Blocks may be nested. Use one around several steps of which none may be left out, such as
    closing a writer and removing what it has written.

    Examples
    --------
    >>> try:
    ...     with uninterrupted():
    ...         signal.raise_signal(signal.SIGINT)
    ...         print("the block is completed")
    ... except KeyboardInterrupt:
    ...     print("and then interrupted")
    the block is completed
    and then interrupted
    """

    def __init__(self) -> None:
        self._handlers: dict[int, _Handler] = {}
        self._held: list[tuple[int, FrameType | None]] = []
        self._holds = False

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in HELD_SIGNALS:
                handler = signal.getsignal(number)
                if callable(handler):
                    self._handlers[number] = handler
                    signal.signal(number, self._receive)
        # Last, and in one step: if a signal interrupts the loop, `_receive` passes signals on.
        self._holds = True
        return self

    def __exit__(self, *_: object) -> None:
        self._holds = False  # first, and in one step, for the same reason
        self._restore()
        for number, frame in self._held:
            self._handlers[number](number, frame)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self._holds:
            self._held.append((number, frame))
            return
        try:
            self._handlers[number](number, frame)
        except BaseException:
            self._restore()  # what raises here ends the method that would have done it
            raise

    def _restore(self) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)


def wait_for_any(futures: Collection[Future[T]]) -> set[Future[T]]:
    """Wait until at least one of some futures has ended, and return all that have.

    Ctrl-C takes effect between two looks at the futures. In the middle of one, it would leave a
    lock taken that the worker needs to hand over its result, and so the worker would hang.
    """
    while True:
        with uninterrupted():
            ended, _ = wait(futures, LOOK_EVERY, FIRST_COMPLETED)
        if ended or not futures:
            return ended
