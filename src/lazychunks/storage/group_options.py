"""How a stored group is laid out: options for all of its arrays, for some of them, coordinates."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from numpy.typing import ArrayLike
from typing_extensions import Unpack

from lazychunks.errors import BlockNamesError
from lazychunks.storage.coordinates import Coordinate
from lazychunks.storage.options import ArrayOptions, WriteOptions, ZarrOptions

Coordinates: TypeAlias = Mapping[str, ArrayLike | tuple[str | Iterable[str], ArrayLike]]
"""Small arrays by name: each along the dimension of its name, or a pair of dimensions and array."""

_NO_NAME = re.compile(
    # Names of keys within an array or a group, of hidden files, and those that Zarr reserves.
    r"c|\..*|__.*|zarr\.json.*|lazychunks\..*"
)

LONGEST_NAME = 200
"""Bytes of a name: a file system takes 255, and temporary files have longer names."""


@dataclass(frozen=True, slots=True)
class GroupOptions:
    """The options of a group once they are validated: made by :meth:`validate`."""

    common: WriteOptions
    """Of the write, and of each array, but for ``attributes``, which are the group's."""
    arrays: Mapping[str, WriteOptions]
    """Of the arrays that have options of their own."""
    coordinates: tuple[Coordinate, ...]

    @classmethod
    def validate(
        cls,
        arrays: Mapping[str, ArrayOptions] | None,
        coordinates: Coordinates | None,
        **options: Unpack[ZarrOptions],
    ) -> GroupOptions:
        """Validate options.

        Raises
        ------
        ValueError, TypeError
            If an option cannot hold for any block, or there is no such option.
        BlockNamesError
            If a name cannot be that of an array.
        """
        common = WriteOptions.of(**options)
        if common.append:
            raise ValueError(
                "append=True is for single arrays; append to each with to_zarr, or store the rows "
                "as a group of their own"
            )
        of_each = replace(common, attributes=None)
        own: dict[str, WriteOptions] = {}
        for name, given in (arrays or {}).items():
            check_name(name)
            unknown = sorted(given.keys() - ArrayOptions.__annotations__.keys())
            if unknown:
                raise TypeError(
                    f"arrays[{name!r}] has no option {unknown[0]!r}: it is one of all arrays, or "
                    f"there is none; it may have {', '.join(ArrayOptions.__annotations__)}"
                )
            own[name] = of_each.with_options(**given)
        made: list[Coordinate] = []
        for name, value in (coordinates or {}).items():
            check_name(name)
            made.append(Coordinate.of(name, value))
        return cls(common, own, tuple(made))

    @property
    def attributes(self) -> dict[str, Any]:
        """Attributes of the group."""
        beside = [each.name for each in self.coordinates if each.dimensions != (each.name,)]
        # By this, xarray knows coordinates that are not named like their dimension.
        told = {"coordinates": " ".join(beside)} if beside else {}
        return {**told, **(self.common.attributes or {})}

    def options_of(self, name: str) -> WriteOptions:
        """Return the options of an array."""
        options = self.arrays.get(name) or replace(self.common, attributes=None)
        return replace(options, name=name)

    def check_names(self, names: Iterable[str]) -> None:
        """Refuse names that cannot be those of arrays, and options for arrays that do not come.

        Raises
        ------
        BlockNamesError
            If there is such a name.
        """
        names = list(names)
        for name in names:
            check_name(name)
        missing = [name for name in self.arrays if name not in names]
        if missing:
            raise BlockNamesError(
                f"arrays= has options for {missing[0]!r}, and blocks have {_enumerate(names)}; "
                "name only what blocks have",
                expected=names,
                got=missing[0],
            )
        taken = [each.name for each in self.coordinates if each.name in names]
        if taken:
            raise BlockNamesError(
                f"{taken[0]!r} is the name of a coordinate, and blocks have it too; rename one",
                got=taken[0],
            )


def check_name(name: object) -> None:
    """Refuse what cannot be the name of an array in a group.

    Raises
    ------
    BlockNamesError
        If it is no text, or no single segment of a path, or a name with a meaning of its own.
    """
    if not isinstance(name, str):
        reason = f"it is of type {type(name).__name__}"
    elif not name or not name.isprintable() or "/" in name or "\\" in name:
        reason = "it is no single segment of a path"
    elif _NO_NAME.fullmatch(name):
        reason = "such names have a meaning in Zarr, or are hidden"
    elif len(name.encode()) > LONGEST_NAME:
        reason = f"it has more than {LONGEST_NAME} bytes"
    else:
        return
    raise BlockNamesError(f"{name!r} cannot be the name of an array in a group: {reason}", got=name)


def _enumerate(names: list[Any]) -> str:
    return ", ".join(map(repr, names[:6])) + (", ..." if len(names) > 6 else "")
