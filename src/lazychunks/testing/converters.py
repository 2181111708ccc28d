"""The laws of a converter."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import hypothesis
import numpy as np
from hypothesis.strategies import SearchStrategy

from lazychunks.converters import AnyArray, NumpyConverter
from lazychunks.errors import BlockError
from lazychunks.testing.comparing import twin
from lazychunks.testing.laws import BrokenError, Law, Same, expect, find_counterexample
from lazychunks.testing.values import LAYOUTS, laid_out, special_values

T = TypeVar("T")


def check_converter(
    converter: NumpyConverter[T],
    tensors: SearchStrategy[T],
    *,
    same: Callable[[T, T], bool] | None = None,
    settings: hypothesis.settings | None = None,
) -> None:
    """Check that a converter loses no bit, and that its results depend on nothing else.

    Laws, by name:

    - *plain array*: ``to_numpy`` gives a NumPy array that ``to_zarr`` takes.
    - *shape*: it has the shape of the tensor, where that has one.
    - *arguments*: neither method changes what it is given.
    - *round trip*: ``from_numpy(to_numpy(x))`` is ``x``, bitwise.
    - *array round trip*: ``to_numpy(from_numpy(a))`` is ``a``, bitwise, for every memory layout of
      an array, read-only included, and for negative zeros and not-a-numbers.
    - *independence*: a result is not changed by the next call (it may share memory with the
      argument).

    Parameters
    ----------
    converter
        What to check.
    tensors
        What to draw tensors from.
    same
        Compares tensors; by default by their :func:`~lazychunks.testing.bits`.
    settings
        How to look for examples; by default as Hypothesis is set up, without a deadline.

    Raises
    ------
    LawBrokenError
        If a law is broken. What the converter itself raises is raised as it is.

    Examples
    --------
    >>> from hypothesis import strategies as st
    >>> from lazychunks import IdentityConverter
    >>> from lazychunks.testing import arrays
    >>> check_converter(IdentityConverter(), arrays(st.just((2, 3))))
    """
    case = partial(_Conversion, converter, same)
    find_counterexample(_LAWS, case, converter, settings, tensor=tensors)


@dataclass(frozen=True, slots=True)
class _Conversion:
    converter: NumpyConverter[Any]
    same: Same | None
    tensor: Any

    @property
    def array(self) -> AnyArray:
        return self.converter.to_numpy(self.tensor)


def _gives_an_array(case: _Conversion) -> None:
    from lazychunks.storage.chunks.dtypes import checked_block  # loads zarr

    try:
        checked_block(case.array, block=0, dtype=None, cast=False)
    except BlockError as error:
        raise BrokenError(str(error)) from None


def _keeps_the_shape(case: _Conversion) -> None:
    if hasattr(case.tensor, "shape"):
        shape, expected = case.array.shape, tuple(case.tensor.shape)
        expect(shape, expected, "to_numpy gives another shape")


def _leaves_its_arguments(case: _Conversion) -> None:
    tensor = twin(case.tensor)
    array = case.converter.to_numpy(tensor)
    expect(tensor, case.tensor, "to_numpy has changed its tensor", case.same)
    array = array.copy()
    before = array.copy()
    case.converter.from_numpy(array)
    expect(array, before, "from_numpy has changed its array")


def _round_trip(case: _Conversion) -> None:
    again = case.converter.from_numpy(case.array)
    expect(again, case.tensor, "another tensor comes back", case.same)


def _array_round_trip(case: _Conversion) -> None:
    drawn = case.array
    for values in (drawn, special_values(drawn.shape, drawn.dtype)):
        for layout in LAYOUTS:
            array = laid_out(values, layout)
            again = case.converter.to_numpy(case.converter.from_numpy(array))
            expect(again, array, f"another array comes back; the first one is {layout}")


def _independence(case: _Conversion) -> None:
    like = case.array
    given = [np.full(like.shape, number, like.dtype) for number in (0, 1)]
    tensors = [case.converter.from_numpy(array.copy()) for array in given]
    arrays = [case.converter.to_numpy(tensor) for tensor in tensors]
    for array, expected in zip(arrays, given, strict=True):
        expect(array, expected, "a result has been changed by the next call")


_LAWS = (
    Law("plain array", "to_numpy gives an array that to_zarr takes", _gives_an_array),
    Law("shape", "to_numpy keeps the shape", _keeps_the_shape),
    Law("arguments", "neither method changes what it is given", _leaves_its_arguments),
    Law("round trip", "from_numpy(to_numpy(x)) is x, bitwise", _round_trip),
    Law("array round trip", "to_numpy(from_numpy(a)) is a, bitwise", _array_round_trip),
    Law("independence", "a result is not changed by the next call", _independence),
)
