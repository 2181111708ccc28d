"""PyTorch blocks: conversion keeps every bit, and joining is what ``torch.cat`` does."""

# pyright: reportUnknownMemberType=false
# torch types some of its functions (tensor methods, `torch.cat`'s out, ...) partially.

import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lazychunks import (
    BlockDTypeError,
    BlockTypeError,
    EmptySequenceError,
    LazyChunkSequence,
    LengthHintWarning,
    NestedLazyChunkSequence,
    WriteAbortedError,
)
from lazychunks.layout.shapes import Shape
from lazychunks.testing import check_converter, check_fold, check_nested_fold
from tests.strategies import (
    Array,
    any_bits,
    bits,
    dtypes,
    hints,
    layouts,
    partitions,
    seeds,
    shapes,
)

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from torch.masked import masked_tensor
else:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    from torch.masked import masked_tensor

    Tensor = torch.Tensor

from lazychunks.torch import (
    NestedTorchCatAggregator,
    TorchCatAggregator,
    TorchNumpyConverter,
    maximum,
    mean,
    minimum,
    moments,
    norm,
    top_k,
    total,
)

CONVERTER = TorchNumpyConverter()
CAT = TorchCatAggregator()
NESTED_CAT = NestedTorchCatAggregator()

DTYPES = [
    torch.bool,
    *(torch.int8, torch.int16, torch.int32, torch.int64),
    *(torch.uint8, torch.uint16, torch.uint32, torch.uint64),
    *(torch.float16, torch.float32, torch.float64),
    *(torch.complex64, torch.complex128),
]
torch_dtypes = st.sampled_from(DTYPES)


def tensor(shape: Shape, dtype: torch.dtype, seed: int) -> Tensor:
    """Make a tensor of arbitrary bits."""
    if dtype is torch.bfloat16:
        return tensor(shape, torch.int16, seed).view(torch.bfloat16)
    name = str(dtype).removeprefix("torch.")
    return torch.from_numpy(any_bits(shape, np.dtype("?" if name == "bool" else name), seed))


def raw(x: Tensor) -> tuple[Shape, torch.dtype, bytes]:
    """Make two tensors comparable by shape, dtype and bits."""
    dense = x.detach().resolve_conj().resolve_neg().reshape(-1)
    values = dense.contiguous().view(torch.uint8).numpy().tobytes() if x.numel() else b""
    return tuple(x.shape), x.dtype, values


def outcome(computed: Callable[[], Tensor]) -> object:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LengthHintWarning)
        try:
            return raw(computed())
        except (RuntimeError, IndexError, ValueError) as error:
            return type(error)


# The converter. Law: the round trip is the identity, bitwise.


def test_the_converter_keeps_its_laws() -> None:
    tensors = st.builds(tensor, st.integers(1, 4).flatmap(shapes), torch_dtypes, seeds)
    check_converter(CONVERTER, tensors | tensors.map(lambda x: x.movedim(0, -1)))


@given(st.integers(1, 4).flatmap(shapes), dtypes, seeds, layouts)
def test_an_array_survives_the_round_trip(
    shape: Shape, dtype: np.dtype[Any], seed: int, layout: Any
) -> None:
    """Read-only, with negative strides, and in either byte order."""
    x = any_bits(shape, dtype, seed, layout)
    assert bits(CONVERTER.to_numpy(CONVERTER.from_numpy(x))) == bits(x)


def test_a_field_of_records_survives_the_round_trip() -> None:
    """Its strides are no multiple of its size."""
    records = np.zeros(4, [("flag", "?"), ("score", "f8")])
    records["score"] = range(4)
    assert CONVERTER.from_numpy(records["score"]).tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (0, 3)])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_dtype_and_0_d(shape: Shape, dtype: torch.dtype) -> None:
    x = torch.ones(shape).to(dtype)
    y = CONVERTER.to_numpy(x)
    assert y.shape == shape
    assert str(y.dtype) == str(dtype).removeprefix("torch.")
    back = CONVERTER.from_numpy(y)
    assert back.dtype == dtype
    assert torch.equal(back.cpu(), x)


def test_bfloat16_survives_bitwise() -> None:
    pytest.importorskip("ml_dtypes", reason="ml_dtypes is not installed")
    x = torch.arange(-(2**15), 2**15, dtype=torch.int16).view(torch.bfloat16).reshape(256, 256)
    for given_ in (x, x.T, x[::2], x[:, 3:5]):
        y = CONVERTER.to_numpy(given_)
        assert y.dtype.name == "bfloat16"
        back = CONVERTER.from_numpy(y)
        assert back.dtype is torch.bfloat16
        assert raw(back) == raw(given_)
    assert CONVERTER.to_numpy(torch.tensor(1.5, dtype=torch.bfloat16)).shape == ()


def test_a_tensor_shares_its_memory_with_the_array() -> None:
    x = torch.zeros(3)
    CONVERTER.to_numpy(x)[0] = 7
    assert x[0] == 7
    y = np.zeros(3)
    CONVERTER.from_numpy(y)[0] = 7
    assert y[0] == 7


def test_a_read_only_array_stays_as_it_is() -> None:
    y = np.zeros(3)
    y.flags.writeable = False
    CONVERTER.from_numpy(y)[0] = 7
    assert y[0] == 0


def test_a_tensor_that_requires_grad_is_detached() -> None:
    x = torch.ones(2, 3, requires_grad=True)
    assert CONVERTER.to_numpy(2 * x).tolist() == [[2.0] * 3] * 2
    assert CONVERTER.to_numpy(x).tolist() == [[1.0] * 3] * 2
    assert x.requires_grad


def test_a_parameter_is_converted() -> None:
    assert CONVERTER.to_numpy(torch.nn.Parameter(torch.ones(2))).tolist() == [1.0, 1.0]


def test_lazily_conjugated_and_negated_tensors_are_resolved() -> None:
    x = torch.tensor([1 + 2j, 3 - 4j])
    assert CONVERTER.to_numpy(x.conj()).tolist() == [1 - 2j, 3 + 4j]
    assert CONVERTER.to_numpy(x.conj().imag).tolist() == [-2, 4]


def test_a_tensor_on_a_gpu_is_copied() -> None:
    if not torch.cuda.is_available():
        pytest.skip("there is no GPU")
    x = torch.arange(6.0, device="cuda").reshape(2, 3)
    assert CONVERTER.to_numpy(x).tolist() == [[0, 1, 2], [3, 4, 5]]
    assert TorchNumpyConverter("cuda").from_numpy(np.ones(2)).device.type == "cuda"


@pytest.mark.parametrize("device", ["cpu", torch.device("cpu"), None])
def test_tensors_are_put_on_the_device(device: Any) -> None:
    assert TorchNumpyConverter(device).from_numpy(np.ones(2)).device.type == "cpu"
    assert TorchNumpyConverter("meta").from_numpy(np.ones(2)).device.type == "meta"


# What cannot be converted.


def refused_tensors() -> dict[str, Tensor]:
    return {
        "to_dense": torch.eye(3).to_sparse(),
        "compute it for real": torch.ones(2, device="meta"),
        "dequantize": torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8),
        "pad it": torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]),
        "to_padded": torch.nested.nested_tensor([torch.ones(2)], layout=torch.jagged),
        "make a plain tensor": masked_tensor(torch.ones(2), torch.tensor([True, False])),
    }


@pytest.mark.filterwarnings("ignore")  # torch says of some of these that they are prototypes
@pytest.mark.parametrize(
    "way_out",
    [
        "to_dense",
        "compute it for real",
        "dequantize",
        "pad it",
        "to_padded",
        "make a plain tensor",
    ],
)
def test_a_tensor_without_dense_values_is_refused(way_out: str) -> None:
    tensor = refused_tensors()[way_out]
    with pytest.raises(BlockTypeError, match=f"cannot become a NumPy array; .*{way_out}"):
        CONVERTER.to_numpy(tensor)
    for of in (total, moments, norm, minimum, partial(top_k, 1)):
        with pytest.raises(BlockTypeError, match=f"a block is a tensor that .*{way_out}"):
            LazyChunkSequence(lambda: [tensor]).compute(of())


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("hint", [None, 2])
def test_nested_tensors_are_not_joined(hint: int | None) -> None:
    tensor = refused_tensors()["pad it"]
    with pytest.raises(BlockTypeError, match="nested tensor, which cannot be joined; pad it"):
        LazyChunkSequence(lambda: [tensor] * 2, hint).compute(CAT)


def test_a_subclass_that_adds_nothing_to_the_values_is_stored() -> None:
    class Tagged(Tensor):
        pass

    for tensor in (torch.ones(2).as_subclass(Tagged), torch.nn.Parameter(torch.ones(2))):
        assert CONVERTER.to_numpy(tensor).tolist() == [1, 1]
        assert LazyChunkSequence(lambda: [tensor]).compute(total(None)).item() == 2  # noqa: B023


@pytest.mark.parametrize("kind", ["float8_e5m2", "float8_e4m3fn"])
def test_what_torch_does_not_compute_with_is_refused_by_its_dtype(kind: str) -> None:
    tensor = torch.ones(2).to(getattr(torch, kind))
    for of in (total, mean, moments, norm, minimum, maximum, partial(top_k, 1)):
        with pytest.raises(BlockDTypeError, match=f"{kind} cannot be reduced; cast"):
            LazyChunkSequence(lambda: [tensor]).compute(of())


@pytest.mark.parametrize("kind", ["uint16", "uint32", "uint64"])
def test_what_torch_does_not_compare_is_refused_by_its_dtype(kind: str) -> None:
    tensor = torch.ones(2).to(getattr(torch, kind))
    for of in (minimum, maximum, partial(top_k, 1)):
        with pytest.raises(BlockDTypeError, match=f"{kind} are not compared by PyTorch; cast"):
            LazyChunkSequence(lambda: [tensor]).compute(of())
    assert LazyChunkSequence(lambda: [tensor]).compute(total(None)).item() == 2


@pytest.mark.parametrize("hint", [None, 1, 2, 3, 30])
@pytest.mark.parametrize("around", [False, True])
def test_a_generator_in_inference_mode_gives_what_cat_gives(hint: int | None, around: bool) -> None:
    """It holds the mode for its thread, hence for the fold as well, as long as it yields."""

    def blocks() -> Iterator[Tensor]:
        with torch.inference_mode():
            for _ in range(2):
                yield torch.ones(2, 2)

    with torch.inference_mode(around), warnings.catch_warnings():
        warnings.simplefilter("ignore", LengthHintWarning)
        joined = LazyChunkSequence(blocks, hint).compute(CAT)
        rows = NestedLazyChunkSequence(lambda: [blocks()], hint).compute(NestedTorchCatAggregator())
        expected = torch.cat(list(blocks()))
    assert joined.is_inference() == rows.is_inference() == expected.is_inference() == around
    assert torch.equal(joined, expected)


def test_a_dtype_that_numpy_has_not_is_refused() -> None:
    with pytest.raises(BlockDTypeError, match="float8"):
        CONVERTER.to_numpy(torch.ones(2).to(torch.float8_e5m2))


@pytest.mark.parametrize("x", [np.ones(2), [1.0], None, 3])
def test_what_is_no_tensor_is_refused(x: Any) -> None:
    with pytest.raises(BlockTypeError, match=r"torch\.Tensor"):
        CONVERTER.to_numpy(x)


@pytest.mark.parametrize("x", [[1.0], None, 3, torch.ones(2)], ids=lambda x: type(x).__name__)
def test_what_is_no_array_is_refused(x: Any) -> None:
    with pytest.raises((BlockTypeError, TypeError, AttributeError)):
        CONVERTER.from_numpy(x)


# Storing tensors.


@given(st.data(), partitions(), torch_dtypes, seeds)
def test_stored_tensors_are_read_back_bitwise(
    data: st.DataObject, heights: Shape, dtype: torch.dtype, seed: int
) -> None:
    blocks = [tensor((height, 3), dtype, seed + number) for number, height in enumerate(heights)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LengthHintWarning)
        sequence = LazyChunkSequence(lambda: iter(blocks), data.draw(hints(len(blocks))))
        stored = sequence.to_zarr({}, CONVERTER, return_stored=True, chunks=2)
    read: Array = np.asarray(stored[...])
    assert raw(CONVERTER.from_numpy(read)) == raw(torch.cat(blocks))


def test_tensors_with_gradients_are_stored() -> None:
    weights = torch.ones(3, requires_grad=True)
    nested = NestedLazyChunkSequence.from_product(
        lambda row, column: row * column * weights[None], range(2), range(2)
    )
    stored = nested.to_zarr({}, CONVERTER, return_stored=True)
    assert np.asarray(stored[...]).tolist() == [[0] * 6, [0] * 3 + [1] * 3]


def test_a_producer_may_reuse_its_output_tensor() -> None:
    output = torch.empty(2, 3)

    def block(number: int) -> Tensor:
        return output.fill_(number)

    sequence = LazyChunkSequence.from_map(block, range(20))
    stored = sequence.to_zarr({}, CONVERTER, return_stored=True, chunks=3)
    assert np.asarray(stored[:, 0]).tolist() == np.repeat(range(20), 2).tolist()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("way_out", ["to_dense", "compute it for real"])
def test_a_tensor_that_cannot_be_stored_leaves_nothing(way_out: str, number: int) -> None:
    blocks = [torch.ones(2, 3)] * number + [refused_tensors()[way_out]]
    store: dict[str, Any] = {}
    with pytest.raises((BlockTypeError, WriteAbortedError), match=way_out):
        LazyChunkSequence(lambda: blocks).to_zarr(store, CONVERTER)
    assert store == {}


# The aggregators. Law: same result as torch.cat, or the same exception.


# PyTorch pickles no tensors of these dtypes, so that they cannot travel to another process.
NOT_PICKLED = [torch.uint16, torch.uint32, torch.uint64]
PICKLED = [dtype for dtype in DTYPES if dtype not in NOT_PICKLED]


@st.composite
def flat_blocks(draw: st.DrawFn, dtypes: list[torch.dtype]) -> list[Tensor]:
    trailing = draw(st.integers(0, 2).flatmap(shapes))
    dtype = draw(st.sampled_from(dtypes))
    return [tensor((height, *trailing), dtype, draw(seeds)) for height in draw(partitions())]


@st.composite
def nested_blocks(draw: st.DrawFn, dtypes: list[torch.dtype]) -> list[list[Tensor]]:
    heights, widths = draw(partitions(3, 3)), draw(partitions(3, 3))
    dtype = draw(st.sampled_from(dtypes))
    return [[tensor((height, width), dtype, draw(seeds)) for width in widths] for height in heights]


def test_cat_is_torch_cat() -> None:
    check_fold(CAT, flat_blocks(PICKLED), torch.cat)
    check_fold(CAT, flat_blocks(NOT_PICKLED), torch.cat, pickles=False)


def test_nested_cat_is_torch_cat_along_1_then_0() -> None:
    def oracle(rows: list[list[Tensor]]) -> Tensor:
        return torch.cat([torch.cat(row, dim=1) for row in rows])

    check_nested_fold(NESTED_CAT, nested_blocks(PICKLED), oracle)
    check_nested_fold(NESTED_CAT, nested_blocks(NOT_PICKLED), oracle, pickles=False)


@given(st.data(), st.lists(torch_dtypes, min_size=1, max_size=4))
def test_same_result_or_same_exception(data: st.DataObject, kinds: list[torch.dtype]) -> None:
    shape = st.integers(0, 2).flatmap(lambda ndim: shapes(ndim, 2)) | st.just((2, 2))
    blocks = [torch.ones(data.draw(shape)).to(kind) for kind in kinds]
    sequence = LazyChunkSequence(lambda: iter(blocks), data.draw(hints(len(blocks))))
    expected = outcome(lambda: torch.cat(blocks))
    assert outcome(lambda: sequence.compute(CAT)) == expected


@pytest.mark.parametrize("hint", [None, 1, 3, 9])
@pytest.mark.parametrize(
    "kinds",
    [
        (torch.float32, torch.float32, torch.float64),
        (torch.int8, torch.uint8, torch.int8),
        (torch.bfloat16, torch.bfloat16, torch.bfloat16),
        (torch.bfloat16, torch.float16, torch.bfloat16),
        (torch.float32, torch.complex64, torch.bool),
    ],
    ids=str,
)
def test_dtypes_are_promoted_as_torch_does(kinds: Any, hint: int | None) -> None:
    blocks = [torch.ones(2, 2).to(kind) for kind in kinds]
    sequence = LazyChunkSequence(lambda: blocks, hint)
    assert outcome(lambda: sequence.compute(CAT)) == raw(torch.cat(blocks))


@pytest.mark.parametrize("hint", [None, 3])
def test_the_graph_is_kept(hint: int | None) -> None:
    x = torch.arange(3.0, requires_grad=True)
    joined = LazyChunkSequence(lambda: (n * x for n in range(3)), hint).compute(CAT)
    assert joined.requires_grad
    (gradient,) = torch.autograd.grad(joined.sum(), x)
    assert gradient.tolist() == [3, 3, 3]
    nested = NestedLazyChunkSequence(lambda: [[x[None], 2 * x[None]]] * 2, 2).compute(NESTED_CAT)
    (gradient,) = torch.autograd.grad(nested.sum(), x)
    assert gradient.tolist() == [6, 6, 6]


@pytest.mark.parametrize("number", range(3))
def test_the_graph_is_kept_if_any_block_has_one(number: int) -> None:
    x = torch.ones(2, requires_grad=True)
    blocks = [torch.zeros(2), torch.zeros(2), torch.zeros(2)]
    blocks[number] = 5 * x
    joined = LazyChunkSequence(lambda: blocks, 3).compute(CAT)
    (gradient,) = torch.autograd.grad(joined.sum(), x)
    assert gradient.tolist() == [5, 5]


def test_without_gradients_nothing_is_recorded() -> None:
    x = torch.ones(2, requires_grad=True)
    with torch.no_grad():
        joined = LazyChunkSequence(lambda: [x, x], 2).compute(CAT)
    assert not joined.requires_grad
    assert joined.tolist() == [1, 1, 1, 1]
    with torch.inference_mode():
        assert LazyChunkSequence(lambda: [x, x], 2).compute(CAT).tolist() == [1, 1, 1, 1]


@pytest.mark.parametrize("hint", [None, 2])
def test_sparse_tensors_are_joined(hint: int | None) -> None:
    x = torch.eye(3).to_sparse()
    joined = LazyChunkSequence(lambda: [x, x], hint).compute(CAT)
    assert joined.layout is torch.sparse_coo
    assert torch.equal(joined.to_dense(), torch.cat([torch.eye(3)] * 2))


@pytest.mark.parametrize("hint", [None, 2])
def test_meta_tensors_are_joined(hint: int | None) -> None:
    x = torch.ones(2, 3, device="meta")
    joined = LazyChunkSequence(lambda: [x, x], hint).compute(CAT)
    assert (joined.device.type, tuple(joined.shape)) == ("meta", (4, 3))


@pytest.mark.parametrize("hint", [None, 2])
@pytest.mark.parametrize("devices", [("cpu", "meta"), ("meta", "cpu")])
def test_tensors_on_different_devices_are_not_joined(
    devices: tuple[str, str], hint: int | None
) -> None:
    blocks = [torch.ones(2, device=device) for device in devices]
    with pytest.raises(RuntimeError, match="device"):
        LazyChunkSequence(lambda: blocks, hint).compute(CAT)


@pytest.mark.parametrize("hint", [None, 2])
def test_conjugated_tensors_are_joined(hint: int | None) -> None:
    x = torch.tensor([1 + 2j])
    assert LazyChunkSequence(lambda: [x.conj(), x], hint).compute(CAT).tolist() == [1 - 2j, 1 + 2j]


@pytest.mark.parametrize("hint", [2**40, 2**62])
def test_a_hint_far_too_large_only_warns(hint: int) -> None:
    with pytest.warns(LengthHintWarning):
        joined = LazyChunkSequence(lambda: [torch.arange(3)], hint).compute(CAT)
    assert joined.tolist() == [0, 1, 2]


def test_without_blocks_there_is_no_dtype() -> None:
    with pytest.raises(EmptySequenceError):
        LazyChunkSequence[Tensor](list).compute(CAT)
    with pytest.raises(EmptySequenceError):
        NestedLazyChunkSequence[Tensor](list).compute(NESTED_CAT)
    with pytest.raises(EmptySequenceError):
        NestedLazyChunkSequence[Tensor](lambda: [[]]).compute(NESTED_CAT)


def test_converter_and_aggregators_are_values() -> None:
    assert TorchNumpyConverter() == TorchNumpyConverter(None)
    assert TorchNumpyConverter("cpu") != TorchNumpyConverter()
    assert len({TorchCatAggregator(), TorchCatAggregator()}) == 1
    assert NestedTorchCatAggregator() == NestedTorchCatAggregator()
