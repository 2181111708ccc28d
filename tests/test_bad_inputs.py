"""What is wrong with the blocks is said by a typed error, and nothing at the destination changes.

One row for each bad input; every row runs against a local path and a store in memory, with and
without an old array there.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lazychunks import (
    BlockDTypeError,
    BlockShapeError,
    BlockTypeError,
    EmptyRowError,
    EmptySequenceError,
    IdentityConverter,
    LazyChunkSequence,
    LazyChunksError,
    NestedLazyChunkSequence,
    SourceExhaustedError,
    SourceTypeError,
    WriteAbortedError,
)
from tests.places import OLD, LocalPlace, MemoryPlace, Place

Sequence = LazyChunkSequence[Any] | NestedLazyChunkSequence[Any]


class ProducerError(Exception):
    """What a block raises by itself."""


@dataclass(frozen=True)
class Bad:
    """A bad input, and the error it gets."""

    name: str
    factory: Callable[[], Any]
    error: type[Exception]
    fields: dict[str, object] = field(default_factory=dict[str, object])
    says: str = "."
    """Part of the message (a regular expression)."""
    after: int = 0
    """Whether good blocks come before it, and how many (or how many rows of them)."""


def f4(*shape: int) -> np.ndarray[Any, Any]:
    """Return a good block."""
    return np.ones(shape, np.float32)


def masked(*shape: int) -> np.ndarray[Any, Any]:
    values: np.ndarray[Any, Any] = np.ma.masked_equal(np.arange(np.prod(shape)), 1).reshape(shape)
    return values.astype(np.float32)


def blocks(*given: Any) -> Callable[[], Iterator[Any]]:
    return lambda: iter(given)


def rows(*given: Iterable[object]) -> Callable[[], Iterator[Iterator[object]]]:
    return lambda: map(iter, given)


def raising_after(*given: object) -> Iterator[object]:
    yield from given
    raise ProducerError("block cannot be computed")


def already_run(*given: object) -> Callable[[], Iterator[object]]:
    generator = (block for block in given)
    list(generator)
    return lambda: generator


def started(*given: object) -> Callable[[], Iterator[object]]:
    generator = (block for block in given)
    next(generator)
    return lambda: generator


UNSTORABLE: dict[str, np.ndarray[Any, Any]] = {
    "object": np.array([[1, None]], dtype=object),
    "structured": np.zeros((1, 2), dtype=[("a", "f4"), ("b", "i4")]),
    "text": np.array([["a", "b"]]),
    "bytes": np.array([[b"a", b"b"]]),
    "datetime without a unit": np.zeros((1, 2), dtype="m8").view("M8"),
    "timedelta without a unit": np.zeros((1, 2), dtype="m8"),
    "void": np.zeros((1, 2), dtype="V4"),
}
if np.dtype(np.longdouble).itemsize > 8:
    UNSTORABLE["long double"] = np.zeros((1, 2), np.longdouble)
    UNSTORABLE["complex long double"] = np.zeros((1, 2), np.clongdouble)

OTHER_DTYPES: dict[str, np.ndarray[Any, Any]] = {
    "wider": np.ones((2, 3), np.float64),
    "narrower": np.ones((2, 3), np.float16),
    "complex": np.ones((2, 3), np.complex64),
    "integer": np.ones((2, 3), np.int32),
    "bool": np.ones((2, 3), np.bool_),
    "byte order": np.ones((2, 3), np.dtype(np.float32).newbyteorder()),
    "object": np.ones((2, 3), object),
}

FLAT = [
    Bad(
        "no block",
        blocks(),
        EmptySequenceError,
        says="the sequence holds no block, hence neither shape nor dtype; check the factory, or do "
        "not store an empty sequence",
    ),
    Bad("no block, as a list", list, EmptySequenceError, says="no block"),
    *(
        Bad(
            f"{name} block",
            blocks(f4(2, 3), f4(4, 3), block),
            BlockShapeError,
            {"block": 2, "expected": ("*", 3), "got": block.shape},
            r"block 2 has shape .*, expected \(\*, 3\)",
            after=2,
        )
        for name, block in {
            "narrower": f4(2, 2),
            "narrowest": f4(2, 1),
            "empty": f4(2, 0),
            "wider": f4(2, 4),
            "fewer axes": f4(2),
            "more axes": f4(2, 3, 1),
            "zero-height narrower": f4(0, 2),
        }.items()
    ),
    Bad(
        "zero-height block of another width first",
        blocks(f4(0, 2), f4(2, 3)),
        BlockShapeError,
        {"block": 1, "expected": ("*", 2), "got": (2, 3)},
        after=1,
    ),
    Bad("0-d block", blocks(f4()), BlockShapeError, {"block": 0, "got": ()}, "at least 1 axis"),
    Bad(
        "0-d block later",
        blocks(f4(2), f4()),
        BlockShapeError,
        {"block": 1, "got": ()},
        "at least 1 axis",
        after=1,
    ),
    *(
        Bad(
            f"{name} dtype later",
            blocks(f4(2, 3), block),
            BlockDTypeError,
            {"block": 1, "expected": np.dtype("f4"), "got": block.dtype},
            "dtype=",
            after=1,
        )
        for name, block in OTHER_DTYPES.items()
    ),
    *(
        Bad(
            f"{name} dtype first",
            blocks(block),
            BlockDTypeError,
            {"block": 0, "got": block.dtype},
            "block 0 has dtype",
        )
        for name, block in UNSTORABLE.items()
    ),
    Bad("masked array first", blocks(masked(2, 3)), BlockTypeError, {"block": 0}, "fill it"),
    Bad(
        "masked array later",
        blocks(f4(2, 3), masked(2, 3)),
        BlockTypeError,
        {"block": 1},
        "fill it",
        after=1,
    ),
    *(
        Bad(
            f"{type(block).__name__} as a block",
            blocks(block),
            BlockTypeError,
            {"block": 0, "got": type(block)},
            type(block).__name__,
        )
        for block in ([1.0, 2.0], 1.5, None, "text", np.float32(1))
    ),
    Bad("generator already run", already_run(f4(2, 3)), SourceExhaustedError, says="already run"),
    Bad("generator started", started(f4(2, 3), f4(2, 3)), SourceExhaustedError),
    Bad("one array", lambda: f4(4, 2, 3), SourceTypeError, says=r"\[array\]"),
    Bad("text", lambda: "blocks", SourceTypeError, says="str"),
    Bad("bytes", lambda: b"blocks", SourceTypeError, says="bytes"),
    Bad("nothing", lambda: None, SourceTypeError, says="NoneType"),
    Bad("block 0 raises", raising_after, ProducerError, says="cannot be computed"),
    Bad(
        "block 3 raises",
        lambda: raising_after(f4(2, 3), f4(1, 3), f4(4, 3)),
        WriteAbortedError,
        {"done": 3, "total": None, "resumable": False},
        "3 of an unknown number of blocks.*cannot be computed",
        after=3,
    ),
]

NESTED = [
    Bad("no row", rows(), EmptySequenceError, says="no block"),
    Bad("first row empty", rows([], [f4(2, 3)]), EmptyRowError, {"row": 0}, "row 0"),
    Bad("only row empty", rows([]), EmptyRowError, {"row": 0}, "row 0"),
    Bad(
        "middle row empty",
        rows([f4(2, 3)], [], [f4(2, 3)]),
        EmptyRowError,
        {"row": 1},
        "row 1",
        after=1,
    ),
    Bad("last row empty", rows([f4(2, 3)], []), EmptyRowError, {"row": 1}, after=1),
    Bad(
        "shorter block in the first row",
        rows([f4(2, 3), f4(1, 3)]),
        BlockShapeError,
        {"block": (0, 1), "expected": (2, "*"), "got": (1, 3)},
        r"block \(0, 1\) has shape \(1, 3\), expected \(2, \*\)",
        after=1,
    ),
    Bad(
        "taller block in a later row",
        rows([f4(2, 3), f4(2, 1)], [f4(2, 3), f4(4, 1)]),
        BlockShapeError,
        {"block": (1, 1), "expected": (2, 1), "got": (4, 1)},
        after=1,
    ),
    Bad(
        "zero-height block in a row of height 2",
        rows([f4(2, 3), f4(0, 3)]),
        BlockShapeError,
        {"block": (0, 1), "got": (0, 3)},
        after=1,
    ),
    *(
        Bad(
            f"{name} column in a later row",
            rows([f4(2, 3), f4(2, 2)], [block, f4(2, 2)]),
            BlockShapeError,
            {"block": (1, 0), "expected": ("*", 3), "got": block.shape},
            r"block \(1, 0\)",
            after=1,
        )
        for name, block in {
            "narrower": f4(2, 2),
            "wider": f4(2, 4),
            "empty": f4(2, 0),
            "deeper": f4(2, 3, 1),
        }.items()
    ),
    Bad(
        "columns of a later row cut elsewhere, with the same total width",
        rows([f4(2, 3), f4(2, 2)], [f4(2, 2), f4(2, 3)]),
        BlockShapeError,
        {"block": (1, 0)},
        after=1,
    ),
    Bad(
        "fewer blocks in a later row",
        rows([f4(2, 3), f4(2, 2)], [f4(2, 3)]),
        BlockShapeError,
        {"expected": 2},
        "row 1",
        after=1,
    ),
    Bad(
        "more blocks in a later row",
        rows([f4(2, 3)], [f4(2, 3), f4(2, 3)]),
        BlockShapeError,
        {"expected": 1},
        "row 1",
        after=1,
    ),
    Bad(
        "another trailing shape in the first row",
        rows([f4(2, 3, 4), f4(2, 3, 5)]),
        BlockShapeError,
        {"block": (0, 1), "expected": (2, "*", 4), "got": (2, 3, 5)},
        after=1,
    ),
    Bad("1-d block", rows([f4(2)]), BlockShapeError, {"block": (0, 0), "got": (2,)}, "at least 2"),
    Bad("0-d block", rows([f4()]), BlockShapeError, {"block": (0, 0), "got": ()}, "at least 2"),
    Bad(
        "1-d block later",
        rows([f4(2, 3)], [f4(2)]),
        BlockShapeError,
        {"block": (1, 0), "got": (2,)},
        "at least 2",
        after=1,
    ),
    *(
        Bad(
            f"{name} dtype in a later row",
            rows([f4(2, 3)], [block]),
            BlockDTypeError,
            {"block": (1, 0), "expected": np.dtype("f4"), "got": block.dtype},
            "dtype=",
            after=1,
        )
        for name, block in OTHER_DTYPES.items()
    ),
    *(
        Bad(f"{name} dtype first", rows([block]), BlockDTypeError, {"block": (0, 0)})
        for name, block in UNSTORABLE.items()
    ),
    Bad("masked array first", rows([masked(2, 3)]), BlockTypeError, {"block": (0, 0)}, "fill it"),
    Bad(
        "masked array later",
        rows([f4(2, 3), masked(2, 3)]),
        BlockTypeError,
        {"block": (0, 1)},
        "fill it",
        after=1,
    ),
    Bad("list as a block", rows([[1.0]]), BlockTypeError, {"block": (0, 0), "got": list}),
    Bad("generator already run", already_run([f4(2, 3)]), SourceExhaustedError),
    Bad(
        "row that is a generator already run",
        lambda: [already_run(f4(2, 3))()],
        SourceExhaustedError,
        says="already run",
    ),
    Bad("one array", lambda: f4(4, 2, 3), SourceTypeError, says=r"\[array\]"),
    Bad("a row that is an array", lambda: [f4(4, 2, 3)], SourceTypeError, says=r"\[array\]"),
    Bad("a row that is text", lambda: ["row"], SourceTypeError, says="str"),
    Bad("a row that is nothing", lambda: [None], SourceTypeError, says="NoneType"),
    Bad("text", lambda: "rows", SourceTypeError, says="str"),
    Bad("nothing", lambda: None, SourceTypeError, says="NoneType"),
    Bad("block (0, 0) raises", lambda: [raising_after()], ProducerError),
    Bad(
        "block (1, 1) raises",
        lambda: [[f4(2, 3), f4(2, 1)], raising_after(f4(2, 3))],
        WriteAbortedError,
        {"done": 3, "resumable": False},
        after=1,
    ),
    Bad(
        "row 2 raises",
        lambda: raising_after([f4(2, 3)], [f4(2, 3)]),
        WriteAbortedError,
        {"done": 2, "resumable": False},
        after=2,
    ),
]

CASES = [
    *(pytest.param(bad, LazyChunkSequence(bad.factory), id=f"flat: {bad.name}") for bad in FLAT),
    *(
        pytest.param(bad, NestedLazyChunkSequence(bad.factory), id=f"nested: {bad.name}")
        for bad in NESTED
    ),
]


@pytest.fixture(params=["local path", "memory"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    return LocalPlace(tmp_path) if request.param == "local path" else MemoryPlace({})


def refused(
    bad: Bad, sequence: Sequence, place: Place, *, overwrite: bool = False, **options: Any
) -> Exception:
    with pytest.raises(bad.error, match=bad.says) as caught:
        sequence.to_zarr(
            place.destination, IdentityConverter(), overwrite=overwrite, chunks="blocks", **options
        )
    return caught.value


@pytest.mark.parametrize(("bad", "sequence"), CASES)
def test_a_bad_input_gets_its_error_and_nothing_is_stored(
    bad: Bad, sequence: Sequence, place: Place
) -> None:
    error = refused(bad, sequence, place)
    assert type(error) is bad.error
    if bad.error is WriteAbortedError:
        assert isinstance(error.__cause__, ProducerError)
    assert {name: getattr(error, name) for name in bad.fields} == bad.fields
    if isinstance(error, LazyChunksError):
        assert "; " in str(error) or "expected" in str(error), "the way out follows the fact"
    assert place.content() == {}


@pytest.mark.parametrize(("bad", "sequence"), CASES)
def test_a_bad_input_leaves_the_old_array_as_it_was(
    bad: Bad, sequence: Sequence, place: Place
) -> None:
    place.put_old()
    before = place.content()
    refused(bad, sequence, place, overwrite=True)
    if place.keeps_old_until_complete or bad.after == 0:
        assert place.content() == before
        np.testing.assert_array_equal(place.read(), OLD)
    else:
        # Its metadata has been removed first, so that readers never see a mixture.
        assert place.content() == {}


@pytest.mark.parametrize(
    ("kind", "builtin"),
    [
        (EmptySequenceError, ValueError),
        (EmptyRowError, ValueError),
        (BlockShapeError, ValueError),
        (BlockDTypeError, TypeError),
        (BlockTypeError, TypeError),
        (SourceExhaustedError, RuntimeError),
        (SourceTypeError, TypeError),
        (WriteAbortedError, RuntimeError),
    ],
)
def test_errors_are_of_the_builtin_kind_that_a_caller_would_reach_for(
    kind: type[Exception], builtin: type[Exception]
) -> None:
    assert issubclass(kind, builtin)
    assert issubclass(kind, LazyChunksError)


def test_a_failing_converter_leaves_nothing(place: Place) -> None:
    class Failing:
        def to_numpy(self, x: int, /) -> np.ndarray[Any, Any]:
            if x == 2:
                raise ProducerError("cannot be converted")
            return f4(2, 3)

    sequence = LazyChunkSequence.from_map(int, range(4))
    with pytest.raises(WriteAbortedError, match=r"2 of 4 blocks.*converted") as caught:
        sequence.to_zarr(place.destination, Failing(), chunks="blocks")
    assert isinstance(caught.value.__cause__, ProducerError)
    assert place.content() == {}


def test_the_error_is_the_same_where_a_bar_is_shown(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    for bad in (FLAT[0], FLAT[2]):
        refused(bad, LazyChunkSequence(bad.factory), place, progress=True)
    refused(NESTED[3], NestedLazyChunkSequence(NESTED[3].factory), place, progress=True)
    assert place.content() == {}


def test_dtype_casts_on_purpose_what_would_be_refused(place: Place) -> None:
    sequence = LazyChunkSequence(blocks(f4(2, 3), *list(OTHER_DTYPES.values())[:5]))
    sequence.to_zarr(place.destination, IdentityConverter(), dtype="c16")
    np.testing.assert_array_equal(place.read(), np.ones((12, 3), np.complex128))
