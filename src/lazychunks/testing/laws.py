"""What a law is, and the search for an example that breaks it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import hypothesis
from hypothesis.errors import UnsatisfiedAssumption
from hypothesis.strategies import SearchStrategy

from lazychunks.testing.comparing import bits

Same: TypeAlias = Callable[[Any, Any], bool]
"""Whether two results are the same."""


class LawBrokenError(AssertionError):
    """A law is broken. Below the message is the smallest example that was found.

    Parameters
    ----------
    message
        What breaks which law, its statement, and what happened.
    law
        Name of the law.
    """

    def __init__(self, message: str, *, law: str | None = None) -> None:
        super().__init__(message)
        self.law = law


class Law(NamedTuple):
    """A law, as data."""

    name: str
    statement: str
    check: Callable[[Any], None]
    """Raises :class:`BrokenError` for an example that breaks the law."""


class BrokenError(Exception):
    """Says how an example breaks a law."""


def find_counterexample(
    laws: Sequence[Law],
    case: Callable[..., object],
    subject: object,
    settings: hypothesis.settings | None,
    **drawn: SearchStrategy[Any],
) -> None:
    """Look for an example that breaks a law.

    Parameters
    ----------
    laws
        Checked in this order.
    case
        Makes an example of the drawn values; each law checks it.
    subject
        The object that is checked, for the message.
    settings
        How to look.
    **drawn
        Strategies, by the names under which an example is shown.

    Raises
    ------
    LawBrokenError
        If there is such an example.
    """
    suspects = list(laws)

    def holds(**example: Any) -> None:
        for law in tuple(suspects):
            try:
                law.check(case(**example))
            except UnsatisfiedAssumption:
                raise
            except Exception as error:
                suspects[:] = [law]  # from now on, look for a smaller example that breaks this one
                if isinstance(error, BrokenError):
                    message = (
                        f"{_show(subject)} breaks the law {law.name!r}: {law.statement}\n{error}"
                    )
                    raise LawBrokenError(message, law=law.name) from error.__cause__
                error.add_note(f"while the law {law.name!r} was checked for {_show(subject)}")
                raise

    chosen = hypothesis.settings(deadline=None) if settings is None else settings
    # No `explain` phase: it would point into the law's code, not the user's.
    phases = [phase for phase in chosen.phases if phase is not hypothesis.Phase.explain]
    run = hypothesis.given(**drawn)(holds)
    hypothesis.settings(chosen, phases=phases, report_multiple_bugs=False)(run)()


def expect(computed: object, expected: object, what: str, same: Same | None = None) -> None:
    """Compare, by default bit by bit.

    Raises
    ------
    BrokenError
        If both are not the same.
    """
    if not (same or _same_bits)(computed, expected):
        raise BrokenError(f"{what}\ncomputed: {_show(computed)}\nexpected: {_show(expected)}")


def _same_bits(one: object, other: object) -> bool:
    return bool(bits(one) == bits(other))


def _show(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 500 else f"{text[:500]} ..."
