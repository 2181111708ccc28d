"""Invariant 9: no reader ever finds arrays of two generations of a group, or some of them.

At every operation of a store, and at every call to the file system, a reader finds the old group,
none, or the whole new one; and starting again gives the new one, with nothing else beside it.
"""

import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from numpy.typing import NDArray
from zarr.core.buffer import Buffer
from zarr.storage import MemoryStore

from lazychunks import IdentityConverter, LazyChunksError
from tests.faults.processes import die, died_by_sigkill, running
from tests.faults.stores import EVERY_FAULT, FaultyStore, StoreFailedError
from tests.faults.test_row_02_file_system import CrashedError, FileSystem
from tests.groups import ZARR, GroupJob, group_at, keep_quiet, same_group
from tests.places import tree

pytestmark = pytest.mark.slow

NUMPY: IdentityConverter = IdentityConverter()
Content = dict[str, Buffer]
Group = Mapping[str, NDArray[Any]]

OLD = GroupJob(rows=2, seed=9)
NEW = GroupJob(rows=2)
COORDINATES = {"wide_1": [1, 2, 3, 4]}


def store_old(destination: Any) -> None:
    """Store a group, of which an array goes and another one comes with the new one."""
    renamed = OLD.sequence().map(
        lambda block: {"wide": block["wide"], "gone": block["one"], "tall": block["tall"]}
    )
    renamed.to_zarr_group(destination, NUMPY, chunks="blocks", overwrite=True)


def store_new(
    destination: Any, watch: Callable[..., None] = keep_quiet, *, resume: bool = True
) -> None:
    """Store the new group."""
    options: Any = {"run_id": "run", "resume": True} if resume else {}
    NEW.sequence(watch).to_zarr_group(
        destination,
        NUMPY,
        chunks="blocks",
        overwrite=True,
        max_in_flight=1,
        coordinates=COORDINATES,
        **options,
    )


def leave_unfinished(destination: Any) -> None:
    """Let a start of the run die after its first block."""
    computed: list[tuple[int, ...]] = []

    def die_midway(*index: int) -> None:
        computed.append(index)
        if len(computed) == 2:
            raise StoreFailedError

    with pytest.raises(LazyChunksError):
        store_new(destination, die_midway)


def nothing(_: Any) -> None:
    """Nothing is there."""


def finished(destination: Any) -> None:
    """The run has ended before."""
    store_new(destination)


def unfinished_overwrite(destination: Any) -> None:
    """The run has died while it replaced a group."""
    store_old(destination)
    leave_unfinished(destination)


STARTS = (nothing, store_old, leave_unfinished, unfinished_overwrite, finished)


def is_one_of(seen: Group | None, *allowed: Group | None) -> bool:
    """Whether no group is there, or one of these, bit for bit."""
    return seen is None or any(group is not None and same_group(seen, group) for group in allowed)


def runs_that_fail(
    write: Callable[[FaultyStore], None], before: Content
) -> Iterator[tuple[str, Content]]:
    """Fail at each operation in each way: how, and what is there afterwards."""
    probe = FaultyStore(MemoryStore(dict(before)))
    write(probe)
    for number in range(1, len(probe.operations) + 1):
        for fault in EVERY_FAULT:
            content = dict(before)
            store = FaultyStore(MemoryStore(content), number, fault)
            with suppress(StoreFailedError, LazyChunksError):
                write(store)
            assert store.has_failed, "each operation is reached"
            yield f"{store.operations[number - 1]} failed {fault}", content


@pytest.mark.parametrize(
    ("start", "resume"),
    [*((start, True) for start in STARTS), (unfinished_overwrite, False)],
)
def test_a_reader_of_a_store_never_sees_a_part(start: Callable[[Any], None], resume: bool) -> None:
    before: Content = {}
    start(MemoryStore(before))
    old = group_at(MemoryStore(dict(before)))
    clean: Content = {}
    store_new(MemoryStore(clean), resume=resume)
    new = group_at(MemoryStore(clean))
    write = partial(store_new, resume=resume)
    for what, content in runs_that_fail(write, before):
        assert is_one_of(group_at(MemoryStore(content)), old, new), what
        write(FaultyStore(MemoryStore(content)))
        assert is_one_of(group_at(MemoryStore(content)), new), what
        assert content.keys() == clean.keys(), f"{what}: something is left"


@pytest.mark.parametrize(
    ("start", "can_exchange"),
    [(store_old, True), (store_old, False), (unfinished_overwrite, True)],
)
def test_a_reader_of_a_directory_never_sees_a_part(
    start: Callable[[Any], None],
    can_exchange: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    files = FileSystem(monkeypatch, can_exchange=can_exchange)
    clean = tmp_path / "clean" / "group.zarr"
    store_new(clean)
    new = group_at(clean)
    calls = number = 0
    while number <= calls:
        for fault in EVERY_FAULT:
            files.fail(0, fault)
            place = tmp_path / f"{number}" / f"{EVERY_FAULT.index(fault)}" / "group.zarr"
            start(place)
            old = group_at(place)
            files.fail(number, fault)
            with suppress(CrashedError, OSError, LazyChunksError):
                store_new(place)
            calls = max(calls, len(files.calls)) if number == 0 else calls
            what = f"{files.calls[number - 1 : number]} failed {fault}"
            files.fail(0, fault)
            assert is_one_of(group_at(place), old, new), what
            store_new(place)
            assert is_one_of(group_at(place), new), what
            assert tree(place.parent).keys() == tree(clean.parent).keys(), (
                f"{what}: something is left"
            )
        number += 1


def test_these_tests_find_a_writer_that_shows_parts() -> None:
    """The negative control: arrays are written one after the other, each by itself."""

    def write(store: FaultyStore) -> None:
        whole = NEW.whole
        group = ZARR.open_group(store, mode="w")
        for name, array in whole.items():
            group.create_array(name, data=array)

    before: Content = {}
    store_old(MemoryStore(before))
    old = group_at(MemoryStore(dict(before)))
    assert not all(
        is_one_of(group_at(MemoryStore(content)), old, NEW.whole)
        for _, content in runs_that_fail(write, before)
    )


def die_at(number: int, *index: int) -> None:
    """Die when a block is computed."""
    if index[0] * (KILLED.columns or 1) + index[1] == number:
        die()


KILLED = GroupJob(rows=12, columns=2)


def store_and_die(path: str, number: int) -> None:
    """Store a group, and die at a block."""
    KILLED.sequence(partial(die_at, number)).to_zarr_group(
        path, NUMPY, chunks=7, run_id="run", resume=True, overwrite=True
    )


def test_a_group_that_is_killed_again_and_again_is_old_or_new(tmp_path: Path) -> None:
    path = tmp_path / "group.zarr"
    store_old(path)
    old, rng = group_at(path), random.Random(0)  # noqa: S311  # repeatable
    for number in sorted(rng.sample(range(1, 24), 4)):
        with running(store_and_die, str(path), number) as process:
            assert died_by_sigkill(process)
        assert is_one_of(group_at(path), old)
    KILLED.sequence().to_zarr_group(
        path, NUMPY, chunks=7, run_id="run", resume=True, overwrite=True
    )
    assert is_one_of(group_at(path), KILLED.whole)
    assert [name for name in tree(tmp_path) if "/" not in name] == ["group.zarr"]
