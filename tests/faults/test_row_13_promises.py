"""Row 13: every kind of store keeps what docs/promises.md says, cell by cell."""

import errno
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from zarr.storage import LocalStore, MemoryStore, StorePath, ZipStore

from lazychunks import (
    DestinationBusyError,
    DestinationReadOnlyError,
    LazyChunksError,
    NotResumableError,
    WriteAbortedError,
)
from tests.faults.jobs import FLAT, old_array, same, seen_at
from tests.faults.processes import CONTEXT, running

PAGE = Path(__file__).parents[2] / "docs" / "promises.md"

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Kind:
    """A kind of store."""

    destination: Any
    """What ``to_zarr`` gets."""
    elsewhere: Any
    """What the test itself reads and prepares it by."""

    def put_old(self) -> Array:
        """Store the array to be replaced."""
        return old_array(self.elsewhere)

    def seen(self) -> Array | None:
        """Return what a reader sees."""
        return seen_at(self.elsewhere)


def _path(root: Path) -> Kind:
    return Kind(root / "array.zarr", str(root / "array.zarr"))


def _url(root: Path) -> Kind:
    return Kind((root / "array.zarr").as_uri(), str(root / "array.zarr"))


def _local_store(root: Path) -> Kind:
    return Kind(LocalStore(root / "array.zarr"), str(root / "array.zarr"))


def _local_store_path(root: Path) -> Kind:
    return Kind(StorePath(LocalStore(root), "array.zarr"), str(root / "array.zarr"))


def _dict(_: Path) -> Kind:
    content: dict[str, Any] = {}
    return Kind(content, MemoryStore(content))


def _memory_store(_: Path) -> Kind:
    store = MemoryStore()
    return Kind(store, store)


def _memory_store_path(_: Path) -> Kind:
    place = StorePath(MemoryStore(), "some/where")
    return Kind(place, place)


def _fsspec_memory(root: Path) -> Kind:
    pytest.importorskip("fsspec")
    from zarr.storage import FsspecStore

    store = FsspecStore.from_url(f"memory://{root.name}/array.zarr")
    return Kind(store, store)


def _fsspec_files(root: Path) -> Kind:
    pytest.importorskip("fsspec")
    from zarr.storage import FsspecStore

    store = FsspecStore.from_url((root / "array.zarr").as_uri(), {"auto_mkdir": True})
    return Kind(store, store)


def _object_store(root: Path) -> Kind:
    obstore: Any = pytest.importorskip("obstore.store")
    from zarr.storage import ObjectStore

    store: Any = ObjectStore(obstore.LocalStore(root / "array.zarr", mkdir=True))
    return Kind(store, store)


def _zip(root: Path) -> Kind:
    store = ZipStore(root / "array.zip", mode="w")
    return Kind(store, store)


def _read_only(_: Path) -> Kind:
    store = MemoryStore()
    return Kind(store.with_read_only(read_only=True), store)


KINDS: dict[str, Callable[[Path], Kind]] = {
    "path": _path,
    "`file://` URL": _url,
    "`LocalStore`": _local_store,
    "`StorePath` in a `LocalStore`": _local_store_path,
    "dict": _dict,
    "`MemoryStore`": _memory_store,
    "`StorePath` in a `MemoryStore`": _memory_store_path,
    "`FsspecStore`, memory": _fsspec_memory,
    "`FsspecStore`, files": _fsspec_files,
    "`ObjectStore`": _object_store,
    "`ZipStore`": _zip,
    "read-only store": _read_only,
}


def read_table(page: str) -> dict[str, dict[str, str]]:
    """Read the page's only table: cells by row and column."""
    lines = [line for line in page.splitlines() if line.startswith("|")]
    header, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {row[0]: dict(zip(header[1:], row[1:], strict=True)) for row in rows}


TABLE = read_table(PAGE.read_text())


# What each cell means.


def overwrite_shows_old(kind: Kind) -> None:
    old = kind.put_old()
    assert all(seen is not None and same(seen, old) for seen in _seen_meanwhile(kind))


def overwrite_shows_none(kind: Kind) -> None:
    old = kind.put_old()
    first, *later = _seen_meanwhile(kind)
    assert first is not None
    assert same(first, old), "until the first block is accepted, nothing changes"
    assert later
    assert all(seen is None for seen in later)


def overwrite_is_refused(kind: Kind) -> None:
    old = kind.put_old()
    with pytest.raises(LazyChunksError):
        FLAT.store(kind.destination, overwrite=True)
    assert same(kind.seen(), old)


def _seen_meanwhile(kind: Kind) -> list[Array | None]:
    seen: list[Array | None] = []

    def look(_: int) -> None:
        seen.append(kind.seen())

    FLAT.store(kind.destination, look, overwrite=True)
    assert same(kind.seen(), FLAT.whole)
    return seen


def failure_keeps_old(kind: Kind) -> None:
    old = kind.put_old()
    _fail(kind, overwrite=True)
    assert same(kind.seen(), old)


def failure_leaves_none(kind: Kind) -> None:
    if not isinstance(kind.destination, ZipStore):
        kind.put_old()
    _fail(kind, overwrite=True)
    assert kind.seen() is None


def _fail(kind: Kind, **options: Any) -> None:
    def fail(row: int) -> None:
        if row == 12:
            raise ZeroDivisionError

    with pytest.raises(WriteAbortedError, match="3 of 5 blocks") as caught:
        FLAT.store(kind.destination, fail, max_in_flight=1, **options)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def it_resumes(kind: Kind) -> None:
    _fail(kind, run_id="run")
    computed: list[int] = []
    FLAT.store(kind.destination, computed.append, resume=True, run_id="run")
    assert same(kind.seen(), FLAT.whole)
    assert computed in ([0, 12, 16], [0, 8, 12, 16]), "one to compare, and what was missing"
    computed.clear()
    FLAT.store(kind.destination, computed.append, resume=True, run_id="run")
    assert computed == []


def it_does_not_resume(kind: Kind) -> None:
    with pytest.raises(NotResumableError):
        FLAT.store(kind.destination, pytest.fail, resume=True, run_id="run")
    FLAT.store(kind.destination)
    assert same(kind.seen(), FLAT.whole)


def writers_here_are_told(kind: Kind) -> None:
    def store_too(row: int) -> None:
        if row == 8:
            with pytest.raises(DestinationBusyError):
                FLAT.store(kind.destination, pytest.fail, overwrite=True)

    FLAT.store(kind.destination, store_too)
    assert same(kind.seen(), FLAT.whole)


def writers_anywhere_are_told(kind: Kind) -> None:
    writers_here_are_told(kind)
    receiver, sender = CONTEXT.Pipe(duplex=False)

    def store_there(row: int) -> None:
        if row == 8:
            with running(_send_what_happens, kind.elsewhere, sender):
                assert receiver.recv() == "DestinationBusyError"

    FLAT.store(kind.destination, store_there, overwrite=True)
    assert same(kind.seen(), FLAT.whole)


def _send_what_happens(destination: Any, sender: Any) -> None:
    try:
        FLAT.store(destination, overwrite=True)
    except LazyChunksError as error:
        sender.send(type(error).__name__)
    else:
        sender.send("nothing")


def everything_is_synced(kind: Kind) -> None:
    synced = _synced(kind)
    stored = Path(kind.elsewhere)
    inside = {path.stat().st_ino for path in (stored, *stored.rglob("*"))}
    assert inside <= set(synced), "each file and directory"
    assert synced[-1] == stored.parent.stat().st_ino, "and last the one that holds the array"


def nothing_is_synced(kind: Kind) -> None:
    assert not _synced(kind)


def _synced(kind: Kind) -> list[int]:
    synced: list[int] = []
    sync = os.fsync

    def noted(descriptor: int) -> None:
        synced.append(os.fstat(descriptor).st_ino)
        sync(descriptor)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", noted)
        FLAT.store(kind.destination, durable=True)
    assert same(kind.seen(), FLAT.whole)
    return synced


def all_is_refused(kind: Kind) -> None:
    ways: list[dict[str, Any]] = [
        {},
        {"overwrite": True},
        {"resume": True, "run_id": "run"},
        {"durable": True},
    ]
    for options in ways:
        with pytest.raises(DestinationReadOnlyError):
            FLAT.store(kind.destination, pytest.fail, **options)
    assert kind.seen() is None


MEANINGS: dict[str, dict[str, Callable[[Kind], None]]] = {
    "during an overwrite, readers see": {
        "the old array": overwrite_shows_old,
        "no array": overwrite_shows_none,
        "refused": overwrite_is_refused,
    },
    "after a failure or a kill": {
        "the old array": failure_keeps_old,
        "no array": failure_leaves_none,
        "refused": all_is_refused,
    },
    "resumes": {"yes": it_resumes, "no": it_does_not_resume, "refused": all_is_refused},
    "another writer is told": {
        "in any process": writers_anywhere_are_told,
        "in this process": writers_here_are_told,
        "refused": all_is_refused,
    },
    "synced by `durable=True`": {
        "yes": everything_is_synced,
        "no": nothing_is_synced,
        "refused": all_is_refused,
    },
}


@pytest.mark.parametrize(
    ("store", "column"),
    [(store, column) for store, cells in TABLE.items() for column in cells],
    ids=lambda value: re.sub(r"\W+", "-", value),
)
def test_the_store_keeps_the_promise(store: str, column: str, tmp_path: Path) -> None:
    kind = KINDS[store](tmp_path)
    MEANINGS[column][TABLE[store][column]](kind)
    if isinstance(kind.destination, ZipStore):
        kind.destination.close()


@pytest.mark.parametrize("before", ["nothing", "old"])
def test_the_array_is_synced_before_it_appears_and_the_way_to_it_afterwards(
    before: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "made" / "too" / "array.zarr"
    if before == "old":
        old_array(str(path))
    events: list[str] = []
    sync = os.fsync

    def noted(descriptor: int) -> None:
        shown = same(seen_at(str(path)), FLAT.whole)
        events.append(f"{'after' if shown else 'before'} {os.fstat(descriptor).st_ino}")
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", noted)
    FLAT.store(path, durable=True, overwrite=True)
    assert same(seen_at(str(path)), FLAT.whole)
    inside = {f"before {file.stat().st_ino}" for file in (path, *path.rglob("*"))}
    made = [path.parent] if before == "old" else [path.parent, tmp_path / "made", tmp_path]
    before_it = [event for event in events if event.startswith("before")]
    assert inside <= set(before_it)
    assert events[len(before_it) :] == [f"after {file.stat().st_ino}" for file in made]


@pytest.mark.parametrize("before", ["old", "absent"])
def test_what_fails_after_the_swap_leaves_the_new_array_and_says_so(
    before: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(tmp_path / "array.zarr")
    if before == "old":
        old_array(path)

    def failing(_: int) -> None:
        if same(seen_at(path), FLAT.whole):
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", failing)
        with pytest.raises(OSError, match="Input/output") as caught:
            FLAT.store(path, durable=True, overwrite=True, resume=True, run_id="run")
    assert caught.value.__notes__ == [f"{path} is stored: this failed afterwards"]
    assert same(seen_at(path), FLAT.whole)
    FLAT.store(path, overwrite=True)  # nothing is in the way
    assert [there.name for there in tmp_path.iterdir()] == ["array.zarr"]


def test_the_page_names_every_kind_of_store_and_every_promise() -> None:
    assert TABLE.keys() == KINDS.keys()
    assert all(cells.keys() == MEANINGS.keys() for cells in TABLE.values())


def wrong_tables() -> Iterator[tuple[str, str, str]]:
    """Each cell of the rows of a path and a dict, with each other meaning."""
    for store in ("path", "dict"):
        for column, meanings in MEANINGS.items():
            for cell in meanings:
                # In a process, the weaker promise is part of the stronger one.
                if cell not in {TABLE[store][column], "in this process"}:
                    yield store, column, cell


@pytest.mark.parametrize(("store", "column", "cell"), [*wrong_tables()])
def test_a_wrong_cell_is_found(store: str, column: str, cell: str, tmp_path: Path) -> None:
    """The negative control."""
    with pytest.raises((AssertionError, TypeError, pytest.fail.Exception, WriteAbortedError)):
        MEANINGS[column][cell](KINDS[store](tmp_path))
