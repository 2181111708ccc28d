"""Waiting that no interrupt cuts short."""

from __future__ import annotations

from collections.abc import Callable


def wait_out(wait: Callable[[], object]) -> None:
    """Wait to the end, however often that is interrupted, then raise the interrupt.

    The same exception twice means that ``wait`` itself fails: then it is raised at once.
    """
    interrupt: BaseException | None = None
    while True:
        try:
            wait()
            break
        except BaseException as error:  # what is under way ends all the same
            if isinstance(error, Exception) and type(error) is type(interrupt):
                raise
            interrupt = error
    if interrupt is not None:
        raise interrupt
