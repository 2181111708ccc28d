"""bfloat16 in Zarr: every bit survives, other libraries read it, and it is optional."""

import json
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from threading import Barrier, BrokenBarrierError
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from zarr.abc.store import Store
from zarr.codecs import BytesCodec
from zarr.core.buffer import Buffer
from zarr.dtype import data_type_registry
from zarr.storage import LocalStore, MemoryStore

from lazychunks import IdentityConverter, LazyChunkSequence, NestedLazyChunkSequence
from lazychunks.storage import ZarrOptions
from lazychunks.storage.chunks.bfloat16 import NAME, BFloat16, register
from lazychunks.storage.keys import Keys

needs_ml_dtypes = pytest.mark.usefixtures("bfloat16")

SIDE = 256
BITS: NDArray[np.uint16] = np.arange(SIDE * SIDE, dtype=np.uint16).reshape(SIDE, SIDE)
"""Every bfloat16 there is: both zeros, the subnormal ones, infinities, and NaNs of every kind."""

LAYOUTS: dict[str, ZarrOptions] = {
    "auto": {},
    "blocks": {"chunks": "blocks"},
    "misaligned": {"chunks": (48, 80)},
    "uncompressed": {"chunks": (64, 128), "compressors": None},
    "sharded": {"chunks": (32, 64), "shards": (64, 128)},
    "sharded, uncompressed": {"chunks": (32, 64), "shards": (128, 256), "compressors": None},
}


@pytest.fixture
def bfloat16() -> np.dtype[Any]:
    ml_dtypes = pytest.importorskip("ml_dtypes", reason="ml_dtypes is not installed")
    dtype: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
    return dtype


@pytest.fixture
def unregistered(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a new process."""
    monkeypatch.delitem(data_type_registry.contents, NAME, raising=False)


def flat(values: NDArray[Any]) -> LazyChunkSequence[NDArray[Any]]:
    """Blocks of 40 rows: in no layout do they end where chunks end."""
    return LazyChunkSequence.from_map(
        lambda start: values[start : start + 40], range(0, len(values), 40)
    )


def nested(values: NDArray[Any]) -> NestedLazyChunkSequence[NDArray[Any]]:
    """Blocks of 40 x 100."""
    return NestedLazyChunkSequence.from_product(
        lambda row, column: values[row : row + 40, column : column + 100],
        range(0, SIDE, 40),
        range(0, SIDE, 100),
    )


def bits(values: object) -> NDArray[np.uint16]:
    array = np.asarray(values)
    assert array.dtype.name == NAME
    return array.view(np.uint16)


def created(store: Store | dict[str, Buffer], **options: Any) -> "zarr.Array[Any]":
    """An array that zarr has made by itself."""
    return zarr.create_array(store, **options)  # pyright: ignore[reportUnknownMemberType]  # it names an optional FSMap


def opened(store: Store | dict[str, Buffer]) -> "zarr.Array[Any]":
    """An array as zarr opens it by itself."""
    return zarr.open_array(store, mode="r")  # pyright: ignore[reportUnknownMemberType]  # as above


def metadata(store: dict[str, Buffer]) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(store["zarr.json"].to_bytes())
    return document


@needs_ml_dtypes
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("sequence", [flat, nested])
def test_every_bit_pattern_survives(
    sequence: Any, layout: ZarrOptions, bfloat16: np.dtype[Any]
) -> None:
    store: dict[str, Buffer] = {}
    stored = sequence(BITS.view(bfloat16)).to_zarr(store, IdentityConverter(), True, **layout)
    assert stored.dtype == bfloat16
    np.testing.assert_array_equal(bits(stored[:]), BITS)
    np.testing.assert_array_equal(bits(opened(store)[:]), BITS)


@needs_ml_dtypes
def test_the_metadata_and_the_bytes_are_those_of_the_specification(
    bfloat16: np.dtype[Any],
) -> None:
    store: dict[str, Buffer] = {}
    flat(BITS.view(bfloat16)).to_zarr(
        store, IdentityConverter(), chunks=(SIDE, SIDE), compressors=None
    )
    document = metadata(store)
    assert document["data_type"] == "bfloat16"
    assert document["fill_value"] == 0.0
    assert document["codecs"] == [{"name": "bytes", "configuration": {"endian": "little"}}]
    assert store["c/0/0"].to_bytes() == BITS.astype("<u2").tobytes()


@needs_ml_dtypes
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("sequence", [flat, nested])
def test_tensorstore_reads_the_same_bits(
    sequence: Any, layout: ZarrOptions, bfloat16: np.dtype[Any], tmp_path: Path
) -> None:
    tensorstore = pytest.importorskip("tensorstore", reason="TensorStore is not installed")
    sequence(BITS.view(bfloat16)).to_zarr(tmp_path / "a.zarr", IdentityConverter(), **layout)
    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": f"{tmp_path}/a.zarr/"}}
    np.testing.assert_array_equal(bits(tensorstore.open(spec).result().read().result()), BITS)


@needs_ml_dtypes
@pytest.mark.parametrize("fill", [0x0000, 0x8000, 0x3F80, 0x0001, 0x7F80, 0xFF80, 0x7FC0, 0xFFA1])
def test_tensorstore_means_the_same_by_a_fill_value(
    fill: int, bfloat16: np.dtype[Any], tmp_path: Path
) -> None:
    tensorstore = pytest.importorskip("tensorstore", reason="TensorStore is not installed")
    value = np.uint16(fill).view(bfloat16)
    created(LocalStore(tmp_path / "ours"), shape=(3,), dtype=register(), fill_value=value)
    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": f"{tmp_path}/ours/"}}
    assert set(bits(tensorstore.open(spec).result().read().result())) == {fill}

    spec["kvstore"] = {"driver": "file", "path": f"{tmp_path}/theirs/"}
    tensorstore.open(
        spec, create=True, dtype=tensorstore.bfloat16, shape=[3], fill_value=value
    ).result()
    theirs = opened(LocalStore(tmp_path / "theirs"))
    assert set(bits(theirs[:])) == {fill}


@needs_ml_dtypes
@given(st.integers(0, 0xFFFF))
def test_a_fill_value_keeps_its_bits_in_the_metadata(pattern: int) -> None:
    value = np.uint16(pattern).view(register())
    written = json.loads(json.dumps(BFloat16().to_json_scalar(value, zarr_format=3)))
    assert bits(BFloat16().from_json_scalar(written, zarr_format=3)) == pattern


@needs_ml_dtypes
@pytest.mark.parametrize(
    ("written", "pattern"),
    [
        (0, 0x0000),
        (-0.0, 0x8000),
        (1.5, 0x3FC0),
        ("NaN", 0x7FC0),
        ("Infinity", 0x7F80),
        ("-Infinity", 0xFF80),
        ("0xffa1", 0xFFA1),
        ("0x7FC0", 0x7FC0),
    ],
)
def test_a_fill_value_is_read_as_specified(written: float | str, pattern: int) -> None:
    assert bits(BFloat16().from_json_scalar(written, zarr_format=3)) == pattern


@needs_ml_dtypes
@pytest.mark.parametrize("pattern", [0x7FC0, 0xFFC0, 0x7F80, 0xFF80])
def test_only_the_canonical_nan_is_called_so(pattern: int) -> None:
    names = {0x7FC0: "NaN", 0xFFC0: "0xffc0", 0x7F80: "Infinity", 0xFF80: "-Infinity"}
    value = np.uint16(pattern).view(register())
    assert BFloat16().to_json_scalar(value, zarr_format=3) == names[pattern]


@needs_ml_dtypes
@pytest.mark.parametrize("wrong", ["0x7fc", "0x7fc00000", "7fc0", "0x 7fc", "nan", True, None, [1]])
def test_anything_else_is_no_fill_value(wrong: Any) -> None:
    with pytest.raises(TypeError, match=r"fill value of bfloat16.*'0x7fc0'"):
        BFloat16().from_json_scalar(wrong, zarr_format=3)


@needs_ml_dtypes
def test_chunks_of_nothing_but_zeros_are_stored(bfloat16: np.dtype[Any]) -> None:
    zeros = np.zeros((4, 2), bfloat16)
    store: dict[str, Buffer] = {}
    LazyChunkSequence(lambda: [zeros, -zeros]).to_zarr(store, IdentityConverter(), chunks="blocks")
    assert {"c/0/0", "c/1/0"} <= store.keys()

    control: dict[str, Buffer] = {}
    left_out = created(control, shape=(8, 2), chunks=(4, 2), dtype=bfloat16)
    left_out[:] = np.concatenate([zeros, -zeros])
    assert set(control) == {"zarr.json"}  # zarr takes even -0.0 for the fill value


@needs_ml_dtypes
@pytest.mark.parametrize("shards", [None, (128, 256)])
def test_chunks_of_big_endian_bytes_are_read(
    shards: tuple[int, ...] | None, bfloat16: np.dtype[Any]
) -> None:
    store: dict[str, Buffer] = {}
    register()
    foreign = created(
        store,
        shape=BITS.shape,
        chunks=(64, 256),
        shards=shards,
        dtype=bfloat16,
        serializer=BytesCodec(endian="big"),
        compressors=None,
        config={"write_empty_chunks": True},
    )
    foreign[:] = BITS.view(bfloat16)
    assert BITS[:64].astype(">u2").tobytes() in store["c/0/0"].to_bytes()
    values = np.asarray(opened(store)[:])
    assert values.dtype == bfloat16
    np.testing.assert_array_equal(bits(values), BITS)


@needs_ml_dtypes
def test_the_byte_order_in_memory_is_kept(bfloat16: np.dtype[Any]) -> None:
    for dtype in (bfloat16, bfloat16.newbyteorder()):
        assert BFloat16.from_native_dtype(dtype).to_native_dtype() == dtype


@needs_ml_dtypes
def test_blocks_of_foreign_byte_order_keep_their_values(bfloat16: np.dtype[Any]) -> None:
    foreign = BITS.byteswap().view(bfloat16.newbyteorder())
    assert foreign.dtype != bfloat16
    stored = flat(foreign).to_zarr({}, IdentityConverter(), return_stored=True)
    np.testing.assert_array_equal(bits(np.asarray(stored[:]).astype(bfloat16)), BITS)


@needs_ml_dtypes
def test_blocks_are_cast_on_purpose(bfloat16: np.dtype[Any]) -> None:
    values = np.linspace(-3, 3, 512, dtype=np.float32).reshape(16, 32)
    stored = flat(values).to_zarr({}, IdentityConverter(), return_stored=True, dtype=bfloat16)
    np.testing.assert_array_equal(bits(stored[:]), bits(values.astype(bfloat16)))


@needs_ml_dtypes
@pytest.mark.usefixtures("unregistered")
def test_opening_a_stored_array_makes_zarr_know_the_type(bfloat16: np.dtype[Any]) -> None:
    store: dict[str, Buffer] = {}
    flat(BITS.view(bfloat16)).to_zarr(store, IdentityConverter())
    del data_type_registry.contents[NAME]
    with pytest.raises(ValueError, match="bfloat16"):
        opened(store)
    (block,) = LazyChunkSequence.from_zarr(store, IdentityConverter())
    np.testing.assert_array_equal(bits(block), BITS)
    assert opened(store).dtype == bfloat16


@needs_ml_dtypes
@pytest.mark.usefixtures("unregistered")
def test_a_pickled_array_is_read_where_nothing_is_registered(
    bfloat16: np.dtype[Any], tmp_path: Path
) -> None:
    stored = flat(BITS.view(bfloat16)).to_zarr(tmp_path / "a.zarr", IdentityConverter(), True)
    pickled = pickle.dumps(stored)
    del data_type_registry.contents[NAME]
    np.testing.assert_array_equal(bits(pickle.loads(pickled)[:]), BITS)  # noqa: S301  # our own


def test_other_errors_of_opening_stay_what_they_are() -> None:
    store = MemoryStore()
    created(store, shape=(2,), dtype="f4")
    document = json.loads(Keys(store, "").read("zarr.json") or b"")
    Keys(store, "").write("zarr.json", json.dumps({**document, "data_type": "f99"}).encode())
    with pytest.raises(ValueError, match="f99"):
        LazyChunkSequence.from_zarr(store, IdentityConverter())


@needs_ml_dtypes
@pytest.mark.usefixtures("unregistered")
def test_threads_register_it_once(monkeypatch: pytest.MonkeyPatch) -> None:
    registry = type(data_type_registry)
    look_up, add = registry.get, registry.register
    meeting = Barrier(2)
    added: list[str] = []

    def slow_look_up(self: Any, key: str) -> Any:
        # Without the lock, both threads are here at a time, and neither finds the other's.
        try:
            return look_up(self, key)
        finally:
            with suppress(BrokenBarrierError):
                meeting.wait(timeout=0.2)

    def counted_add(self: Any, key: str, cls: Any) -> None:
        added.append(key)
        add(self, key, cls)

    monkeypatch.setattr(registry, "get", slow_look_up)
    monkeypatch.setattr(registry, "register", counted_add)
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.submit(register), pool.submit(register)
    assert first.result() == second.result()
    assert added == [NAME]


@needs_ml_dtypes
@pytest.mark.usefixtures("unregistered")
def test_another_package_that_knows_the_type_is_left_alone() -> None:
    class Theirs(BFloat16):
        pass

    data_type_registry.register(NAME, Theirs)
    assert register().name == NAME
    assert data_type_registry.contents[NAME] is Theirs


def test_other_dtypes_do_not_load_ml_dtypes() -> None:
    code = """
import sys
import numpy as np
from lazychunks import IdentityConverter, LazyChunkSequence
LazyChunkSequence(lambda: [np.ones(3)]).to_zarr({}, IdentityConverter())
print("ml_dtypes" in sys.modules)
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "False\n"


@pytest.mark.usefixtures("unregistered")
class TestWithoutTheExtra:
    """``None`` in ``sys.modules`` makes the import fail as if ml_dtypes were not installed."""

    @pytest.fixture(autouse=True)
    def _missing(self, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
        if "bfloat16" in request.fixturenames:
            request.getfixturevalue("bfloat16")  # while the import still works
        monkeypatch.setitem(sys.modules, "ml_dtypes", None)

    def test_registering_names_the_extra(self) -> None:
        with pytest.raises(ImportError, match=r"pip install 'lazychunks\[bfloat16\]'"):
            register()
        assert NAME not in data_type_registry.contents

    def test_opening_names_the_extra(self) -> None:
        store = MemoryStore()
        created(store, shape=(2,), dtype="f2")
        document = json.loads(Keys(store, "").read("zarr.json") or b"")
        Keys(store, "").write("zarr.json", json.dumps({**document, "data_type": NAME}).encode())
        with pytest.raises(ImportError, match=r"lazychunks\[bfloat16\]"):
            LazyChunkSequence.from_zarr(store, IdentityConverter())

    def test_storing_names_the_extra_and_leaves_nothing(
        self, bfloat16: np.dtype[Any], tmp_path: Path
    ) -> None:
        with pytest.raises(ImportError, match=r"lazychunks\[bfloat16\]"):
            flat(BITS.view(bfloat16)).to_zarr(tmp_path / "a.zarr", IdentityConverter())
        assert list(tmp_path.iterdir()) == []

    def test_other_dtypes_are_stored_as_ever(self) -> None:
        stored = flat(BITS).to_zarr({}, IdentityConverter(), return_stored=True)
        np.testing.assert_array_equal(stored[:], BITS)
