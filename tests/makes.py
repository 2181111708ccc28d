"""Blocks that each process makes for itself, and every fold over them."""

# pyright: reportUnknownMemberType=false
# torch types some of its functions partially.

from __future__ import annotations

import operator
import os
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st

from lazychunks import (
    LazyChunkSequence,
    NestedLazyChunkSequence,
    concatenate,
    count,
    covariance,
    first,
    fold,
    histogram,
    last,
    maximum,
    mean,
    minimum,
    moments,
    nest,
    norm,
    tee,
    top_k,
    total,
)
from lazychunks.runs import drive
from lazychunks.testing.values import Layout, any_bits, laid_out
from tests.strategies import Array, bits

Aggregator = Callable[[Any], Any]

any_tee: Any = tee
any_fold: Any = fold
any_nest: Any = nest

TIMEOUT = 60
"""Seconds after which an event that does not come is a failure."""

MOST: int = settings().max_examples
"""Number of examples of a property."""


# Blocks that each process makes for itself, in any memory layout: none of them is an item.


@dataclass(frozen=True)
class Make:
    """Computes a block from its number."""

    rows: tuple[int, ...]
    columns: tuple[int, ...] | None
    trailing: tuple[int, ...]
    dtype: str
    seed: int
    layout: Layout
    library: str = "numpy"

    def __call__(self, row: int, column: int | None = None) -> Any:
        sizes: tuple[int, ...] = (self.rows[row],)
        if column is not None and self.columns is not None:
            sizes = (self.rows[row], self.columns[column])
        shape, seed = (*sizes, *self.trailing), self.seed + 31 * row + 7 * (column or 0)
        block = numbers_or_bits(shape, np.dtype(self.dtype), seed, self.layout)
        if self.library == "numpy":
            return block
        import torch

        return torch.from_numpy(np.ascontiguousarray(block)).to(getattr(torch, self.library))

    @property
    def sequence(self) -> Any:
        """The sequence of all blocks."""
        if self.columns is None:
            return LazyChunkSequence.from_map(self, range(len(self.rows)))
        return NestedLazyChunkSequence.from_product(
            self, range(len(self.rows)), range(len(self.columns))
        )


def numbers_or_bits(
    shape: tuple[int, ...], dtype: np.dtype[Any], seed: int, layout: Layout
) -> Array:
    """Make numbers whose sums are rounded, with now and then any bits among them."""
    if seed % 3 == 0 or dtype.kind not in "fc":
        return any_bits(shape, dtype, seed, layout)
    random = np.random.default_rng(seed)
    drawn: Any = random.standard_normal(shape) * 10.0 ** random.integers(-3, 4)
    if dtype.kind == "c":
        drawn = drawn + 1j * random.standard_normal(shape)
    return laid_out(np.asarray(drawn).astype(dtype), layout)


# Folds of the library and of users, by name.


def height(rows: int, block: Array) -> int:
    return rows + len(block)


def shapes(found: tuple[Any, ...], block: Array) -> tuple[Any, ...]:
    return (*found, block.shape)


def append_shape(found: list[Any], block: Array) -> list[Any]:
    found.append(block.shape)
    return found


def extended(one: list[Any], other: list[Any]) -> list[Any]:
    one.extend(other)
    return one


def negated(block: Any) -> Any:
    return ~block if block.dtype.kind == "b" else -block


def absolute(block: Any) -> Any:
    return abs(block)


def as_list(result: Any) -> list[Any]:
    return [result]


EDGES = (-np.inf, -1.0, 0.0, 2.5, 300.0)

no_shapes: tuple[Any, ...] = ()
NO_SHAPES: list[Any] = []

USERS: dict[str, Aggregator] = {
    "height, merged": fold(height, 0, merge=operator.add),
    "height": fold(height, 0),
    "shapes, merged": fold(shapes, no_shapes, merge=operator.add),
    "shapes": fold(shapes, no_shapes, as_list),
    "a state that changes": fold(append_shape, NO_SHAPES, merge=extended),
    "a state that changes, not merged": fold(append_shape, NO_SHAPES),
}


def reductions(axis: int | None, along: int | None, *, is_complex: bool) -> dict[str, Any]:
    """Every fold of the library that takes an axis."""
    folds: dict[str, Any] = {
        f.__name__: f(axis, along) for f in (total, mean, moments, norm, count)
    }
    if not is_complex:
        folds |= {"minimum": minimum(axis, along), "maximum": maximum(axis, along)}
        if axis is not None:
            folds |= {"top_k": top_k(2, axis, along), "least": top_k(3, axis, along, largest=False)}
    return folds


def flat_folds(ndim: int, *, is_complex: bool) -> dict[str, Any]:
    """Every fold over blocks."""
    folds: dict[str, Any] = {"first": first(), "last": last(), **USERS}
    for axis in (*range(ndim), -1, None):
        # On a flat sequence, a fold of another axis than 0 says how blocks are joined.
        for along in (*([None] if axis in {0, None} else []), *range(ndim)):
            found = reductions(axis, along, is_complex=is_complex)
            folds |= {f"{name}({axis}, {along})": f for name, f in found.items()}
    folds |= {f"concatenate({axis})": concatenate(axis) for axis in range(ndim)}
    folds["covariance"] = covariance()
    if not is_complex:
        folds["histogram"] = histogram(EDGES)
    folds["then"] = total(0).then(as_list)
    folds["contramap"] = mean(0).contramap(negated)
    folds["contramap of what does not merge"] = concatenate(0).contramap(negated).then(as_list)
    return folds


def nested_folds(ndim: int, *, is_complex: bool) -> dict[str, Any]:
    """Many folds over rows of blocks."""
    inner = reductions(1, None, is_complex=is_complex) | {"first": first(), "last": last()}
    pairs: dict[str, Any] = dict.fromkeys(inner, concatenate(0))
    pairs["count"] = any_fold(max, 0)
    folds: dict[str, Any] = {
        f"nest({name}, joined)": nest(inner[name], pairs[name]) for name in inner
    }
    joined = concatenate(1)
    for name, outer in reductions(0, None, is_complex=is_complex).items():
        folds[f"nest(joined, {name})"] = nest(joined, outer)
        folds[f"nest(total, {name})"] = nest(total(1), reductions(0, None, is_complex=False)[name])
    folds["nest(joined, covariance)"] = nest(joined, covariance())
    if not is_complex:
        folds["histogram"] = histogram(EDGES)
        folds["nest(histogram, a list)"] = nest(histogram(EDGES), fold(shape_lists, NO_SHAPES))
    folds["nest(tee, ...)"] = nest(tee(total(1), joined, count(1)), concatenate(0))
    folds["nest(mapped, mapped)"] = nest(
        norm(1).contramap(negated).then(np.atleast_1d), concatenate(0).then(as_list)
    )
    for name, user in USERS.items():
        folds[f"nest({name}, a list)"] = nest(user, fold(append_shapes_of_rows, NO_SHAPES))
    return folds


def shape_lists(rows: list[Any], row: Any) -> list[Any]:
    return [*rows, row]


def append_shapes_of_rows(rows: list[Any], row: Any) -> list[Any]:
    return [*rows, row]


def draw_folds(data: st.DataObject, make: Make) -> Aggregator:
    """Draw one fold, a tee of some, or a mapping of them with tees among them."""
    ndim = len(make.trailing) + (1 if make.columns is None else 2)
    folds = (flat_folds if make.columns is None else nested_folds)(
        ndim, is_complex="c" in make.dtype
    )
    names = data.draw(st.lists(st.sampled_from(sorted(folds)), min_size=1, max_size=4))
    chosen: list[Any] = [folds[name] for name in names]
    match data.draw(st.sampled_from(["one", "tuple", "names", "tee of tees"])):
        case "one":
            drawn = chosen[0]
        case "tuple":
            drawn = any_tee(*chosen)
        case "names":
            drawn = any_tee(dict(zip(names, chosen, strict=True)))
        case _:
            drawn = any_tee(any_tee(*chosen), any_tee({"again": chosen[0]}), chosen[-1])
    aggregator: Aggregator = drawn
    return aggregator


def outcome(run: Callable[[], Any]) -> object:
    """What comes out, bit by bit: a result or the kind of an error."""
    try:
        return bits(run())
    except Exception as error:  # noqa: BLE001  # compared, and so told
        return type(error)


@contextmanager
def tasks_of(blocks: int) -> Generator[None]:
    """Give each task so many blocks."""

    def blocks_each(*_: object) -> int:
        return blocks

    with patch.object(drive, "blocks_each", blocks_each):
        yield


def count_rows(rows: int, _: object) -> int:
    return rows + 1


def all_folds(make: Make) -> Aggregator:
    """Every fold that has a result for these blocks, in one tee."""
    ndim = len(make.trailing) + (1 if make.columns is None else 2)
    make_folds = flat_folds if make.columns is None else nested_folds
    folds = make_folds(ndim, is_complex="c" in make.dtype)
    right = {
        name: one
        for name, one in folds.items()
        if not isinstance(outcome(partial(make.sequence.compute, one)), type)
    }
    aggregator: Aggregator = any_tee(right)
    return aggregator


REDUCTIONS: dict[str, Any] = {
    name: reductions(0, None, is_complex=False)[name]
    for name in ("total", "mean", "moments", "norm", "count", "minimum", "maximum")
}
REDUCTIONS.update(
    {
        "top_k": top_k(3),
        "tee": tee(total(), tee({"top": top_k(3)})),
        "then": total().then(as_list),
        "contramap": total().contramap(negated),
    }
)


@dataclass(frozen=True)
class Noted:
    """Computes a block, and notes in a file that it has, whichever process it is in."""

    path: Path
    make: Make

    def __call__(self, *index: int) -> Any:
        handle = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(handle, f"{index}\n".encode())
        os.close(handle)
        return self.make(*index)

    def sequence(self) -> Any:
        rows = range(len(self.make.rows))
        if self.make.columns is None:
            return LazyChunkSequence.from_map(self, rows)
        return NestedLazyChunkSequence.from_product(self, rows, range(len(self.make.columns)))


FLAT = Make((3, 0, 2, 3, 1) * 8, None, (2, 3), "<f4", 3, "F")
NESTED = Make((3, 0, 2), (2, 0, 3, 1, 1) * 7, (2,), "<f8", 1, "strided")
COMPLEX = Make((2, 3) * 20, None, (2,), ">c16", 5, "reversed")
