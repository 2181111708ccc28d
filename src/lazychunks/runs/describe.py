"""Describing values by text that is the same in all processes, to tell whether calls are the same.

Two values that differ may have one description: what a function does, and what an array holds, is
not looked at.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from functools import partial
from typing import Any

_PLAIN: tuple[type[Any], ...] = (str, bytes, int, float, complex, bool, type(None), range)
"""Types whose ``repr`` says all there is to say."""

LISTED = 100
"""Number of members up to which each is a fact; of more, there is a checksum."""


def list_facts(name: str, value: object) -> Iterator[tuple[str, str]]:
    """Yield the facts about a value: the name of each, and a text.

    Functions go by their names, and values of other types by the type alone: a model, or a
    converter, may name the device of its rank.

    Examples
    --------
    >>> from functools import partial
    >>> dict(list_facts("rows", [1, None]))
    {'rows': 'list of 2', 'rows[0]': '1', 'rows[1]': 'None'}
    >>> dict(list_facts("fn", partial(max, 3))), dict(list_facts("model", object()))
    ({'fn': 'builtins.max'}, {'model': 'builtins.object'})
    """
    found = _list_members(value)
    if found is None:
        yield name, _describe(value)
        return
    count, members = found
    kind = f"{type(value).__name__} of {count}"
    facts = (fact for key, member in members for fact in list_facts(f"{name}{key}", member))
    if count <= LISTED:
        yield name, kind
        yield from facts
        return
    checksum = 0
    for fact in facts:
        checksum = zlib.crc32(repr(fact).encode(), checksum)
    yield name, f"{kind} with checksum {checksum:08x}"


def _list_members(value: object) -> tuple[int, Iterable[tuple[str, object]]] | None:
    """Return what a value consists of, each with a name; None if it is one thing."""
    all_of_it: Any = value
    if isinstance(value, list | tuple):
        return len(all_of_it), ((f"[{n}]", member) for n, member in enumerate(all_of_it))
    if isinstance(value, Mapping):
        items = all_of_it.items()
        return len(all_of_it), ((f"[{_describe(key)}]", member) for key, member in items)
    kind = type(value)
    is_ours = kind.__module__.partition(".")[0] == __name__.partition(".")[0]
    if is_dataclass(value) and is_ours and not hasattr(value, "to_numpy"):
        names = [field.name for field in fields(value)]
        return len(names), ((f".{name}", getattr(value, name)) for name in names)
    return None


def _describe(value: object) -> str:
    """Describe what has no members."""
    kind = type(value)
    if kind in _PLAIN:
        return repr(value)
    if hasattr(kind, "__fspath__"):
        return repr(str(value))
    if isinstance(value, partial):
        return _describe(value.func)
    name = getattr(value, "__qualname__", None)  # of a function or a class
    return (
        f"{getattr(value, '__module__', None)}.{name}"
        if isinstance(name, str)
        else f"{kind.__module__}.{kind.__qualname__}"
    )
