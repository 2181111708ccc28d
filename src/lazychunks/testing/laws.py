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
    """A law does not hold. The smallest example that was found is shown below the message.

    Parameters
    ----------
    message
        Who breaks which law, what the law says, and what happened.
    law
        Name of the law.
    """

    def __init__(self, message: str, *, law: str | None = None) -> None:
        super().__init__(message)
        self.law = law


class Law(NamedTuple):
    """A law, as data."""

    name: str
    says: str
    check: Callable[[Any], None]
    """Raises :class:`BrokenError` where it does not hold for an example."""


class BrokenError(Exception):
    """What happened where a law does not hold."""


def hold(
    laws: Sequence[Law],
    case: Callable[..., object],
    who: object,
    settings: hypothesis.settings | None,
    **drawn: SearchStrategy[Any],
) -> None:
    """Look for an example for which a law does not hold.

    Parameters
    ----------
    laws
        In the order in which they are checked.
    case
        Makes of what was drawn what the laws are checked for.
    who
        Of whom the laws are.
    settings
        How to look.
    **drawn
        What to draw from, by the names under which an example is shown.

    Raises
    ------
    LawBrokenError
        If there is one.
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
                    message = f"{_shown(who)} breaks the law {law.name!r}: {law.says}\n{error}"
                    raise LawBrokenError(message, law=law.name) from error.__cause__
                error.add_note(f"while the law {law.name!r} was checked for {_shown(who)}")
                raise

    chosen = hypothesis.settings(deadline=None) if settings is None else settings
    # What Hypothesis can explain are lines of the law.
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
        raise BrokenError(f"{what}\ncomputed: {_shown(computed)}\nexpected: {_shown(expected)}")


def _same_bits(one: object, other: object) -> bool:
    return bool(bits(one) == bits(other))


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 500 else f"{text[:500]} ..."
