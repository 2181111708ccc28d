"""What people read of a factory: one line, however many items it has."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from html import escape

from lazychunks.blocks.factories import Composed, column_count, is_map_backed, without_progress

LONGEST = 60
"""Number of characters of a function's name that are shown."""


def describe_factory(factory: object, count: int | None, axes: int) -> Mapping[str, str]:
    """Return facts about the blocks of a sequence, by name.

    Parameters
    ----------
    factory
        The factory of the sequence.
    count
        Number of blocks (nested: rows) where it is known.
    axes
        Number of block axes.

    Examples
    --------
    >>> describe_factory(abs, 3, axes=1)
    {'blocks': '3', 'kind': 'generator-backed', 'made by': 'abs'}
    """
    inner = without_progress(factory)
    blocks = "?" if count is None else str(count)
    if axes == 2:
        columns = column_count(inner)
        blocks += " x " + ("?" if columns is None else str(columns))
    is_backed = is_map_backed(inner, axes)
    return {
        "blocks": blocks,
        "kind": "map-backed" if is_backed else "generator-backed",
        "made by": name_function(inner.function if is_backed else inner),
    }


def name_function(fn: object) -> str:
    """Return the name of a function, or of the class of another callable.

    >>> name_function(Composed(partial(max, 3), str))
    'str(max(...))'
    """
    return shorten(_find_name(fn))


def shorten(text: str) -> str:
    """Cut a text to the length that is shown."""
    return text if len(text) <= LONGEST else text[: LONGEST - 3] + "..."


def render_table(title: str, facts: Mapping[str, str]) -> str:
    """Return facts as HTML, for notebooks."""
    rows = "".join(
        f"<tr><th>{escape(name)}</th><td>{escape(fact)}</td></tr>" for name, fact in facts.items()
    )
    return f"<table><caption>{escape(title)}</caption>{rows}</table>"


def _find_name(fn: object) -> str:
    if isinstance(fn, Composed):
        inner = _find_name(fn.first)
        if not inner.endswith(")"):
            inner += "(...)"
        return f"{_find_name(fn.second)}({inner})"
    while isinstance(fn, partial):
        fn = fn.func
    # Classes of this library are not what users have written.
    # A ufunc of NumPy 1 has no qualified name.
    names = (getattr(fn, tag, None) for tag in ("label", "__qualname__", "__name__"))
    name: object = next(filter(None, names), None)
    return name if isinstance(name, str) else type(fn).__name__
