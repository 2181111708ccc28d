"""A fold for each name of blocks that are mappings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar, overload

from lazychunks.errors import BlockNamesError, BlockTypeError
from lazychunks.folds.fold import AnyFold, AnyNestedFold, EitherFold, Fold, NestedFold
from lazychunks.folds.tee import tee

T = TypeVar("T")
R = TypeVar("R")


@overload
def each(folds: Mapping[str, EitherFold[T, R]], /) -> EitherFold[Mapping[str, T], dict[str, R]]: ...
@overload
def each(folds: Mapping[str, Fold[T, R]], /) -> Fold[Mapping[str, T], dict[str, R]]: ...
@overload
def each(folds: Mapping[str, NestedFold[T, R]], /) -> NestedFold[Mapping[str, T], dict[str, R]]: ...
def each(folds: Mapping[str, Any], /) -> AnyFold | AnyNestedFold:
    """Fold what blocks hold under each name, in one pass.

    Law: ``each({"a": f})(blocks) == {"a": f([block["a"] for block in blocks])}``. Blocks may have
    names that no fold is for.

    Parameters
    ----------
    folds
        Folds by name: over blocks, or over rows of blocks.

    Returns
    -------
    Fold or NestedFold
        Its result is the dict of the folds' results.

    Raises
    ------
    TypeError
        If the folds cannot go through the same blocks.
    BlockNamesError, BlockTypeError
        In a pass, if a block does not have all of the names, or is no mapping.

    Examples
    --------
    >>> from lazychunks import each, fold
    >>> both = each({"a": fold(max, 0), "b": fold(lambda n, x: n + x, 0)})
    >>> both([{"a": 3, "b": 1}, {"a": 2, "b": 1}])
    {'a': 3, 'b': 2}
    """
    picking: Mapping[str, Any] = {name: f.contramap(Pick(name)) for name, f in folds.items()}
    combined: AnyFold | AnyNestedFold = tee(picking)
    return combined


@dataclass(frozen=True, slots=True)
class Pick:
    """Takes what a block holds under a name."""

    name: str

    def __call__(self, block: Any) -> Any:
        """Return it."""
        given: Any = block  # checkers narrow it to a mapping of what they do not know
        is_mapping = isinstance(block, Mapping)
        if is_mapping and self.name in given:
            return given[self.name]
        if is_mapping:
            names: list[Any] = list(given)
            raise BlockNamesError(
                f"a block has no {self.name!r}, only {', '.join(map(repr, names)) or 'no names'}; "
                "each() needs a block to have the names of all its folds",
                expected=self.name,
                got=names,
                member=self.name,
            )
        raise BlockTypeError(
            f"a block is of type {type(given).__name__}, and each() takes mappings from names to "
            "arrays",
            expected="a mapping",
            got=type(given).__name__,
            member=self.name,
        )
