"""Row 9: workers whose blocks do not fall on whole chunks, or whole shards.

What they store equals what the serial writer stores, or is refused: no row is ever lost.
"""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from zarr.storage import MemoryStore

from lazychunks import BlockShapeError
from tests.faults.jobs import FLAT, NESTED, ZARR, Job, names_in, same, seen_at


@st.composite
def jobs(draw: st.DrawFn) -> Job:
    """A job of even blocks, most of the time."""

    def sizes() -> tuple[int, ...]:
        first = draw(st.integers(1, 5))
        last = draw(st.integers(0, first))
        even = (*(first,) * draw(st.integers(0, 5)), last or first)
        odd = st.lists(st.integers(0, 4), min_size=1, max_size=4).map(tuple)
        return draw(st.one_of(st.just(even), st.just(even), odd))

    nested = draw(st.booleans())
    return Job("drawn", sizes(), sizes() if nested else None, tail=draw(st.integers(1, 4)))


@st.composite
def layouts(draw: st.DrawFn) -> dict[str, Any]:
    chunks = draw(
        st.one_of(
            st.sampled_from(["auto", "blocks"]),
            st.tuples(st.integers(1, 8), st.integers(1, 8)),
        )
    )
    if isinstance(chunks, str) or draw(st.booleans()):
        return {"chunks": chunks}
    times = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    return {"chunks": chunks, "shards": tuple(c * t for c, t in zip(chunks, times, strict=True))}


def is_even(sizes: tuple[int, ...]) -> bool:
    return sizes[0] > 0 and set(sizes[:-1]) <= {sizes[0]} and sizes[-1] <= sizes[0]


@given(jobs(), layouts(), st.integers(1, 5))
def test_what_workers_store_equals_what_the_serial_writer_stores_or_is_refused(
    job: Job, layout: dict[str, Any], max_in_flight: int
) -> None:
    serial: dict[str, Any] = {}
    spread: dict[str, Any] = {}
    with ThreadPoolExecutor(2) as executor:
        try:
            job.store(spread, executor=executor, max_in_flight=max_in_flight, **layout)
        except BlockShapeError as error:
            assert not spread
            text = str(error)
            assert "chunk" in text or "shard" in text or "executor" in text
            even = is_even(job.heights) and is_even(job.widths or (1,))
            assert not even or "inside the" in text
            return
    # How many work has a say in what is "auto".
    layout["chunks"] = ZARR.open_array(store=MemoryStore(spread)).chunks
    job.store(serial, **layout)
    assert same(seen_at(spread), seen_at(serial))
    assert spread.keys() == serial.keys()
    for key, value in spread.items():
        assert value.to_bytes() == serial[key].to_bytes()


@pytest.mark.parametrize("layout", [{"chunks": (3, 6)}, {"chunks": (2, 6), "shards": (6, 6)}])
def test_a_misaligned_plan_names_block_chunk_and_remedy(layout: Any, tmp_path: Path) -> None:
    computed: list[int] = []
    with ThreadPoolExecutor(2) as executor, pytest.raises(BlockShapeError) as caught:
        FLAT.store(tmp_path / "array", computed.append, executor=executor, **layout)
    unit = "shard" if "shards" in layout else "chunk"
    assert f"block 1 begins at 4 along axis 0, inside the {unit} of " in str(caught.value)
    assert 'chunks="blocks"' in str(caught.value)
    assert computed == [0]
    assert names_in(tmp_path) == []


def test_columns_that_are_misaligned() -> None:
    with (
        ThreadPoolExecutor(2) as executor,
        pytest.raises(BlockShapeError, match="axis 1") as caught,
    ):
        NESTED.store({}, chunks=(3, 3), executor=executor)
    assert caught.value.block == (0, 1)


def test_two_writers_in_one_chunk_lose_a_row() -> None:
    """The negative control: what alignment is for, as zarr does it where nobody minds."""
    chunk = np.full(4, 9)
    store: dict[str, Any] = {}
    ZARR.create_array(store, data=chunk, chunks=(4,))
    before = {key: value for key, value in store.items() if key != "zarr.json"}
    ZARR.open_array(store)[:2] = 1
    after_one = dict(store)
    store.update(before)  # the other one has read the chunk before
    ZARR.open_array(store)[2:] = 2
    assert after_one.keys() == store.keys()
    assert same(seen_at(store), np.array([9, 9, 2, 2])), "the first one's rows are gone"
