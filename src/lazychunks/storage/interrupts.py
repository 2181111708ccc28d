"""Ctrl-C and SIGTERM wait until an operation has ended that must not be cut short."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Generator
from types import FrameType


@contextlib.contextmanager
def hold_interrupts() -> Generator[None]:
    """Hold Ctrl-C and SIGTERM back until the body has ended; their handlers are called then.

    Handlers run in the main thread only, so in any other thread there is nothing to hold back.
    Handlers of other signals are not held back: one that raises does so in the middle of the body.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    # One inside the other, so that both handlers are put back also if the first one raises.
    with _hold(signal.SIGTERM), _hold(signal.SIGINT):
        yield


@contextlib.contextmanager
def _hold(number: signal.Signals) -> Generator[None]:
    handler = signal.getsignal(number)
    if not callable(handler):  # the system's own: it ends the process, or ignores the signal
        yield
        return
    came: list[FrameType | None] = []
    try:
        signal.signal(number, lambda _, frame: came.append(frame))
        yield
    finally:
        signal.signal(number, handler)
        if came:
            handler(number, came[0])
