"""What folds ask of a block, whatever array library it comes from: NumPy or PyTorch.

The operations are those of the Python array API standard, through ``array_api_compat``; neither
imports PyTorch before a tensor is there.
"""

from __future__ import annotations

import builtins
import contextlib
import copy
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, Protocol, Self, TypeAlias, TypeVar

import array_api_compat.numpy
import numpy as np
from array_api_compat import array_namespace, is_numpy_array, is_torch_array

from lazychunks.errors import BlockDTypeError, BlockTypeError

T = TypeVar("T")

Kind: TypeAlias = Literal["bool", "integral", "real floating", "complex floating"]
"""A kind of numbers, by its name in the array API standard."""

# PyTorch sums 32,768 entries and fewer in one thread (at::internal::GRAIN_SIZE). This is well
# below, and long enough for the time that Python takes not to matter.
LANE = 4096
"""Number of entries that are summed in one go, where the library would use several threads."""


# Protocols, not the classes of the libraries: PyTorch may not be installed, and what NumPy's stubs
# say of a generic array is so wide that a checker infers nothing from it.
class DType(Protocol):
    """A dtype of either library."""

    @property
    def itemsize(self) -> int:
        """Bytes of one entry."""
        ...

    def __hash__(self) -> int: ...


class Array(Protocol):
    """An array of either library, as far as folds use it. NumPy's scalars count as arrays."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Length of each axis."""
        ...

    @property
    def dtype(self) -> DType:
        """The dtype of its entries."""
        ...

    @property
    def T(self) -> Self:  # noqa: N802  # as both libraries call it
        """The transpose of a matrix."""
        ...

    def __len__(self) -> int: ...
    def __bool__(self) -> bool: ...
    def __int__(self) -> int: ...
    def __getitem__(self, key: object, /) -> Self: ...
    def __setitem__(self, key: object, value: object, /) -> None: ...
    def __add__(self, other: Self | float, /) -> Self: ...
    def __sub__(self, other: Self | float, /) -> Self: ...
    def __mul__(self, other: Self | float, /) -> Self: ...
    def __truediv__(self, other: Self | float, /) -> Self: ...
    def __floordiv__(self, other: int, /) -> Self: ...
    def __mod__(self, other: int, /) -> Self: ...
    def __neg__(self) -> Self: ...
    def __invert__(self) -> Self: ...
    def __and__(self, other: Self, /) -> Self: ...
    def __or__(self, other: Self, /) -> Self: ...
    def __lt__(self, other: Self | float, /) -> Self: ...
    def __le__(self, other: Self | float, /) -> Self: ...
    def __gt__(self, other: Self | float, /) -> Self: ...
    def __ge__(self, other: Self | float, /) -> Self: ...


class Namespace(Protocol):
    """An array library, as far as folds use it."""

    __name__: str
    bool: DType
    int8: DType
    int16: DType
    int64: DType
    float32: DType
    float64: DType

    def __hash__(self) -> int: ...
    def isdtype(self, dtype: DType, kind: str, /) -> builtins.bool:
        """Whether a dtype is of a kind."""
        ...

    def result_type(self, one: DType, other: DType, /) -> DType:
        """Return the dtype that both are promoted to."""
        ...

    def nonzero(self, x: Array, /) -> tuple[Array, ...]:
        """Return the indices along each axis."""
        ...

    def __getattr__(self, name: str, /) -> Callable[..., Array]:
        """Return any other function of the standard: all that are used here make one array."""
        ...


def is_tensor(block: object) -> bool:
    """Whether a block is PyTorch's."""
    return is_torch_array(block)


def is_numpy(block: object) -> bool:
    """Whether a block is NumPy's: an array, or a scalar."""
    return is_numpy_array(block)


def device(block: object) -> object:
    """Return where a tensor is; None for arrays of other libraries, which are where they are."""
    # JAX tells one thing, and expects another one.
    return getattr(block, "device", None) if is_tensor(block) else None


def is_masked(block: object) -> bool:
    """Whether a block is a masked array.

    This does not import ``numpy.ma``, which is slow: if nobody has, no block can be one.
    """
    return "numpy.ma" in sys.modules and np.ma.isMaskedArray(block)


def is_inference_mode() -> bool:
    """Whether PyTorch makes inference tensors in this thread; it is not imported for that."""
    torch: Any = sys.modules.get("torch")
    return torch is not None and bool(torch.is_inference_mode_enabled())


def refuse_masked(block: object) -> None:
    """Refuse a masked array.

    Raises
    ------
    BlockTypeError
        If the block is one.
    """
    if is_masked(block):
        raise BlockTypeError(
            "a block is a masked array, whose mask would be lost; fill it first, e.g. with "
            ".filled(0)",
            expected="a plain array",
            got=type(block),
        )


def find_oddity(torch: Any, tensor: Any) -> tuple[str, str] | None:
    """Tell what keeps a tensor from being just its values, and the way out; None if nothing does.

    Parameters
    ----------
    torch
        PyTorch, or its namespace.
    tensor
        Of any kind.
    """
    if tensor.is_nested:
        return "is nested", "pad it first, e.g. with torch.nested.to_padded_tensor()"
    if tensor.layout is not torch.strided:
        return f"has layout {tensor.layout}", "call .to_dense() on it first"
    if tensor.is_quantized:
        return "is quantized", "call .dequantize() on it first"
    if tensor.is_meta:
        return "is on the meta device and has no values", "compute it for real"
    # A subclass that only adds methods keeps its values where a tensor has them.
    kind: Any = tensor.__class__
    if kind.__torch_dispatch__ is not torch.Tensor.__torch_dispatch__:
        return (
            f"is a {kind.__name__}, with more to it than values",
            "make a plain tensor of it first",
        )
    return None


def namespace_and_values(block: object) -> tuple[Namespace, Array]:
    """Return the namespace of a block's library, and its values as a plain array.

    A tensor leaves its graph, so that a pass does not keep all of its blocks alive.

    Raises
    ------
    BlockTypeError
        If the block is not an array, is a masked one, or is no dense tensor with values.
    """
    refuse_masked(block)
    values: Any = block
    # Asked first, since array_namespace takes as long as summing a small block.
    is_of_numpy = is_numpy_array(values)
    try:
        xp: Any = array_api_compat.numpy if is_of_numpy else array_namespace(block)
    except TypeError:
        raise BlockTypeError(
            f"a block is no array but a {type(block).__name__}; convert it first, e.g. with "
            ".contramap(np.asarray). Of folds over blocks, nest() makes a fold over rows of blocks",
            expected="an array",
            got=type(block),
        ) from None
    if is_of_numpy:
        values = np.asarray(values)  # of a subclass, such as np.matrix, only the values
    elif is_tensor(block):
        oddity = find_oddity(xp, values)
        if oddity is not None:
            what, way_out = oddity
            raise BlockTypeError(
                f"a block is a tensor that {what}; {way_out}",
                expected="a dense tensor",
                got=type(block),
            )
        values = values.detach()
    return xp, values


def copy_block(block: T, *, keep_graph: bool = False) -> T:
    """Return a block that shares no memory with this one; a tensor leaves its graph by default."""
    given: Any = block
    if is_tensor(block):
        given = (given if keep_graph else given.detach()).clone()
    elif isinstance(block, np.ndarray):
        given = given.copy("K")  # a deep copy of an array of objects would copy the objects
    else:
        given = copy.deepcopy(given)
    copied: T = given
    return copied


def set_entries(array: Array, index: Array, values: object) -> Array:
    """Set entries of an array of ours: in place, or in a copy where arrays cannot change (JAX)."""
    given: Any = array
    if hasattr(given, "at"):
        changed: Array = given.at[index].set(values)
        return changed
    array[index] = values
    return array


def join_arrays(blocks: Sequence[Array], axis: int) -> Array:
    """Join blocks by their library's own function, which says what is right."""
    given: Any = blocks
    if is_numpy_array(given[0]):
        joined: Any = np.concatenate(given, axis=axis)
    else:
        joined = array_namespace(given[0]).concat(given, axis=axis)
    array: Array = joined
    return array


def normalize_layout(block: Array) -> Array:
    """Return the same values in C order and native byte order; a copy only where needed.

    Sums depend on the order in which memory is read, so that without this a block would give other
    last bits than the same block read back from storage.
    """
    given: Any = block
    if is_tensor(block):
        # A conjugate or negative tensor may be a view with a flag, which stored values do not have.
        given = given.resolve_conj().resolve_neg().contiguous()
    elif is_numpy_array(given):
        given = np.asarray(given)
        if not given.dtype.isnative:
            # Unlike astype, this keeps the bits of every NaN.
            given = given.byteswap().view(given.dtype.newbyteorder("="))
        # Not np.ascontiguousarray, which adds an axis to an array of no axes.
        if not (given.flags.c_contiguous and given.flags.aligned):
            given = given.copy(order="C")
    normal: Array = given
    return normal


def native_dtype(dtype: DType) -> DType:
    """Return a dtype in native byte order."""
    given: Any = dtype
    native: DType = given.newbyteorder("=") if isinstance(dtype, np.dtype) else dtype
    return native


def numeric_kind(xp: Namespace, dtype: DType, *, ordered: bool = False) -> Kind:
    """Return the kind of a dtype.

    Raises
    ------
    BlockDTypeError
        If its entries are not numbers, or are complex where they have to be ``ordered``.
    """
    name = str(dtype)
    if name == "bfloat16":  # of ml_dtypes, which NumPy's function does not know
        return "real floating"
    kinds: tuple[Kind, ...] = ("real floating", "integral", "bool", "complex floating")
    why = "cannot be reduced; cast them first"
    if name.startswith(("torch.float8", "torch.float4")):
        kinds = ()  # PyTorch computes nothing with these
    elif ordered and name in {"torch.uint16", "torch.uint32", "torch.uint64"}:
        kinds, why = (), "are not compared by PyTorch; cast them first, e.g. to torch.int64"
    with contextlib.suppress(TypeError):  # NumPy's function refuses dtypes of other packages
        for kind in kinds:
            if xp.isdtype(dtype, kind):
                if kind != "complex floating" or not ordered:
                    return kind
                why = "have no order; take their absolute values first"
    expected = "a dtype with an order" if ordered else "a dtype of numbers"
    raise BlockDTypeError(f"blocks of dtype {dtype} {why}", expected=expected, got=dtype)


def mean_dtype(xp: Namespace, dtype: DType) -> DType:
    """Return the dtype of a mean."""
    return xp.float64 if numeric_kind(xp, dtype) in {"integral", "bool"} else dtype


def accumulator_dtype(xp: Namespace, dtype: DType) -> DType:
    """Return the dtype that entries are accumulated in: at least double precision."""
    return xp.result_type(mean_dtype(xp, dtype), xp.float64)


@dataclass(frozen=True, slots=True)
class Arithmetic:
    """How numbers of a dtype are reduced: at least in double precision."""

    xp: Namespace
    dtype: DType
    """Of the blocks, in native byte order."""
    kind: Kind
    mean_dtype: DType
    real_dtype: DType
    """Of a variance, or a norm."""
    accumulator: DType
    real_accumulator: DType

    @property
    def is_complex(self) -> bool:
        """Whether numbers are complex."""
        return self.kind == "complex floating"

    @property
    def is_exact(self) -> bool:
        """Whether sums are those of integers."""
        return self.kind in {"integral", "bool"}

    def lanes(self, block: Array, axis: int | None) -> tuple[Array, int]:
        """Return the entries of a block, and the axis to reduce: with None, all are in one lane."""
        block = normalize_layout(block)
        # One lane is an axis as well, so that reductions need not tell two cases apart.
        return (self.xp.reshape(block, (-1,)), 0) if axis is None else (block, axis)

    def sum(self, x: Array, axis: int, dtype: DType) -> Array:
        """Sum along an axis, with bits that do not depend on the number of threads."""
        xp = self.xp
        if not (is_tensor(x) and LANE < x.shape[axis] == math.prod(x.shape)):
            return xp.sum(x, axis=axis, dtype=dtype)
        # PyTorch splits a single long sum among its threads, but never one of several sums.
        flat, rows = xp.reshape(x, (-1,)), x.shape[axis] // LANE
        sums = xp.sum(xp.reshape(flat[: rows * LANE], (rows, LANE)), axis=1, dtype=dtype)
        rest = xp.sum(flat[rows * LANE :], axis=0, dtype=dtype)
        total = self.sum(xp.concat([sums, xp.reshape(rest, (1,))]), 0, dtype)
        return xp.reshape(total, (*x.shape[:axis], *x.shape[axis + 1 :]))

    def squared(self, x: Array) -> Array:
        """Return squared absolute values, which are real."""
        if not self.is_complex:
            return x * x
        # Not the square of abs(), whose last bit depends on PyTorch's threads: it computes the
        # entries at the end of each thread's share in another way than the others.
        real, imaginary = self.xp.real(x), self.xp.imag(x)
        return real * real + imaginary * imaginary

    def view_as_real(self, lanes: Array) -> Array:
        """View complex numbers as real ones, twice as many along the last axis."""
        given: Any = lanes
        if self.is_complex and is_tensor(lanes):
            torch: Any = self.xp
            given = torch.view_as_real(given).flatten(-2)
        elif self.is_complex:
            given = given.view(self.real_dtype)
        real: Array = given
        return real

    def round(self, x: Array, dtype: DType) -> Array:
        """Return a result in the precision of the blocks, as an array.

        In tensors, all zeros get the same sign, and all NaN the same bits.
        """
        xp, result = self.xp, self.xp.asarray(x, dtype=dtype)
        if not is_tensor(result) or self.is_exact:
            return result
        # PyTorch takes the maximum of 0.0 and -0.0, or of two NaN, now from one side and now from
        # the other, depending on how it divides an array among its threads. NumPy uses one thread.
        torch: Any = xp
        is_complex = xp.isdtype(dtype, "complex floating")
        real = torch.view_as_real(result) if is_complex else result
        real = torch.where(torch.isnan(real), math.nan, real) + 0.0
        unsigned: Array = torch.view_as_complex(real) if is_complex else real
        return unsigned


# Remembered, since it takes as long as reducing twenty small blocks, and each row of a nested
# sequence begins with it.
@lru_cache(maxsize=128)
def choose_arithmetic(xp: Namespace, dtype: DType, *, ordered: bool = False) -> Arithmetic:
    """Choose the arithmetic for blocks of a dtype.

    Raises
    ------
    BlockDTypeError
        As :func:`numeric_kind`.
    """
    kind = numeric_kind(xp, dtype, ordered=ordered)
    mean = real = mean_dtype(xp, dtype)
    if kind == "complex floating":
        # The standard has no function for the dtype of a real part.
        real = xp.real(xp.empty(0, dtype=dtype)).dtype
    accumulators = accumulator_dtype(xp, mean), accumulator_dtype(xp, real)
    return Arithmetic(xp, dtype, kind, mean, real, *accumulators)
