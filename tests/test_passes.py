"""Passes: who computes the blocks, and in how many tasks, does not show in any result."""

# pyright: reportUnknownMemberType=false
# torch types some of its functions partially.

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lazychunks import (
    LazyChunkSequence,
    NestedLazyChunkSequence,
    concatenate,
    count,
    first,
    fold,
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
from tests.executors import Shuffling
from tests.strategies import DTYPES, Array, bits, layouts, partitions, seeds

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")

Aggregator = Callable[[Any], Any]
Executors = Callable[[], Any]


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
        sizes = (self.rows[row],)
        if column is not None and self.columns is not None:
            sizes = (self.rows[row], self.columns[column])
        shape, seed = (*sizes, *self.trailing), self.seed + 31 * row + 7 * (column or 0)
        block = numbers_or_bits(shape, np.dtype(self.dtype), seed, self.layout)
        if self.library == "numpy":
            return block
        import torch

        return torch.from_numpy(np.ascontiguousarray(block)).to(torch.bfloat16)

    @property
    def sequence(self) -> LazyChunkSequence[Any] | NestedLazyChunkSequence[Any]:
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
            folds |= {"top_k": top_k(2, axis, along), "least": top_k(3, axis, largest=False)}
    return folds


def flat_folds(ndim: int, *, is_complex: bool) -> dict[str, Any]:
    """Every fold over blocks."""
    folds: dict[str, Any] = {"first": first(), "last": last(), **USERS}
    for axis in (*range(-ndim, ndim), None):
        for along in (None, *range(ndim)):
            found = reductions(axis, along, is_complex=is_complex)
            folds |= {f"{name}({axis}, {along})": f for name, f in found.items()}
    folds |= {f"concatenate({axis})": concatenate(axis) for axis in range(ndim)}
    folds["then"] = total(0).then(as_list)
    folds["contramap"] = mean(0).contramap(negated)
    folds["contramap of what does not merge"] = concatenate(0).contramap(negated).then(as_list)
    return folds


def nested_folds(ndim: int, *, is_complex: bool) -> dict[str, Any]:
    """Many folds over rows of blocks."""
    inner = reductions(1, None, is_complex=is_complex) | {"first": first(), "last": last()}
    pairs = dict.fromkeys(inner, concatenate(0)) | {"count": fold(max, 0)}
    folds = {f"nest({name}, joined)": nest(inner[name], pairs[name]) for name in inner}
    joined = concatenate(1)
    for name, outer in reductions(0, None, is_complex=is_complex).items():
        folds[f"nest(joined, {name})"] = nest(joined, outer)
        folds[f"nest(total, {name})"] = nest(total(1), reductions(0, None, is_complex=False)[name])
    folds["nest(tee, ...)"] = nest(tee(total(1), joined, count(1)), concatenate(0))
    folds["nest(mapped, mapped)"] = nest(
        norm(1).contramap(negated).then(np.atleast_1d), concatenate(0).then(as_list)
    )
    for name, user in USERS.items():
        folds[f"nest({name}, a list)"] = nest(user, fold(append_shapes_of_rows, NO_SHAPES))
    return folds


def append_shapes_of_rows(rows: list[Any], row: Any) -> list[Any]:
    return [*rows, row]


def outcome(run: Callable[[], Any]) -> object:
    """What comes out, bit by bit: a result or the kind of an error."""
    try:
        return bits(run())
    except Exception as error:  # noqa: BLE001  # compared, and so told
        return type(error)


@contextmanager
def tasks_of(blocks: int) -> Iterator[None]:
    """Give each task so many blocks."""
    with patch.object(drive, "blocks_each", lambda *_: blocks):
        yield


dtypes = st.sampled_from(DTYPES)


@st.composite
def flat_blocks(draw: st.DrawFn) -> Make:
    trailing = draw(st.lists(st.integers(0, 3), max_size=2))
    # Up to three runs of 32, so that the tree of merges has all of its levels.
    rows = draw(partitions(6, 5) | st.integers(1, 70).map(lambda n: (2, 1) * n))
    return Make(rows, None, tuple(trailing), draw(dtypes), draw(seeds), draw(layouts))


@st.composite
def nested_blocks(draw: st.DrawFn) -> Make:
    trailing = draw(st.lists(st.integers(0, 3), max_size=1))
    rows, columns = draw(partitions(5, 4)), draw(partitions(5, 4) | st.just((1,) * 40))
    return Make(rows, columns, tuple(trailing), draw(dtypes), draw(seeds), draw(layouts))


def draw_folds(data: st.DataObject, make: Make) -> Aggregator:
    """Draw one fold, a tee of some, or a mapping of them with tees among them."""
    ndim = len(make.trailing) + (1 if make.columns is None else 2)
    folds = (flat_folds if make.columns is None else nested_folds)(
        ndim, is_complex="c" in make.dtype
    )
    names = data.draw(st.lists(st.sampled_from(sorted(folds)), min_size=1, max_size=4))
    chosen: list[Any] = [folds[name] for name in names]
    any_tee: Any = tee
    match data.draw(st.sampled_from(["one", "tuple", "names", "tee of tees"])):
        case "one":
            return chosen[0]
        case "tuple":
            return any_tee(*chosen)
        case "names":
            return any_tee(dict(zip(names, chosen, strict=True)))
        case _:
            return any_tee(any_tee(*chosen), {"a": 1} and any_tee({"again": chosen[0]}), chosen[-1])


# Law R


@given(flat_blocks() | nested_blocks(), st.data())
@settings(max_examples=settings.default.max_examples * 4)
def test_who_computes_the_blocks_does_not_show(make: Make, data: st.DataObject) -> None:
    folded = draw_folds(data, make)
    expected = outcome(lambda: make.sequence.compute(folded))
    bound = data.draw(st.none() | st.integers(1, 9), "max_in_flight")
    with tasks_of(data.draw(st.integers(1, 40), "blocks")), Shuffling(data.draw(seeds)) as executor:
        found = outcome(
            lambda: make.sequence.compute(folded, executor=executor, max_in_flight=bound)
        )
    from hypothesis import event

    event(str(expected) if isinstance(expected, type) else "ok")
    assert found == expected
