"""What every place and its draft do alike: begin, list, show several documents at once, discard."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from zarr.core.buffer import Buffer
from zarr.storage import MemoryStore, StorePath, WrapperStore

from lazychunks.storage.keys import Keys
from lazychunks.storage.places.place import resolve_destination
from lazychunks.storage.places.protocol import Draft, Place
from tests.places import OLD, put_array, values_at

KEPT_BACK = "zarr.json.partial"
WHOLE = np.arange(12).reshape(4, 3)


def documents_of(*names: str) -> dict[str, bytes]:
    """Metadata of a group with arrays of these names, or of one array."""
    content: dict[str, Buffer] = {}
    theirs: Any = zarr
    if names:
        theirs.create_group(MemoryStore(content))
    for name in names or ("",):
        theirs.create_array(
            MemoryStore(content), name=name, shape=WHOLE.shape, chunks=(2, 3), dtype=WHOLE.dtype
        )
    return {
        key.removesuffix("zarr.json").rstrip("/"): value.to_bytes()
        for key, value in content.items()
    }


def write_chunks(where: Keys, name: str = "") -> None:
    """Store the chunks of an array, as zarr does."""
    content: dict[str, Buffer] = {}
    theirs: Any = zarr
    theirs.create_array(MemoryStore(content), data=WHOLE, chunks=(2, 3))
    for key, value in content.items():
        if key.startswith("c/"):
            where.write(f"{name}/{key}" if name else key, value.to_bytes())


def a_path(root: Path) -> Any:
    return root / "array.zarr"


def a_store(_: Path) -> Any:
    return MemoryStore()


def a_place_in_a_store(_: Path) -> Any:
    return StorePath(MemoryStore(), "some/where")


def a_session(_: Path) -> Any:
    icechunk: Any = pytest.importorskip("icechunk", reason="icechunk is not installed")
    repository = icechunk.Repository.create(icechunk.in_memory_storage())
    return StorePath(repository.writable_session("main").store, "some/where")


KINDS: list[Callable[[Path], Any]] = [a_path, a_store, a_place_in_a_store, a_session]


@pytest.fixture(params=KINDS)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    return resolve_destination(request.param(tmp_path))


def seen_in(place: Place, name: str = "") -> Any:
    """The values of an array, as any other program reads them."""
    where = place.in_store(read_only=False)
    return values_at(where.store, where.key(name) if name else where.path)


def write(place: Place, documents: dict[str, bytes], *, overwrite: bool = False) -> Draft:
    """Write the arrays of which these are the documents."""
    draft = place.draft(overwrite=overwrite)
    with place.lock():
        draft.begin(documents)
        for name, document in documents.items():
            if json.loads(document)["node_type"] == "array":
                write_chunks(draft.where, name)
        states = [draft.is_committed]
        draft.commit(documents, durable=True)
        states.append(draft.is_committed)
        assert states == [False, True]
        draft.discard()  # too late
    return draft


def test_a_draft_is_shown_by_its_commit_and_leaves_nothing_beside(place: Place) -> None:
    assert not place.is_taken()
    write(place, documents_of())
    assert place.is_taken()
    np.testing.assert_array_equal(seen_in(place), WHOLE)
    assert set(place.keys() or ()) == {"zarr.json", "c/0/0", "c/1/0"}
    assert place.backup is None
    assert not place.draft(overwrite=False).exists()


def test_an_array_is_replaced_with_all_of_its_keys(place: Place) -> None:
    where = place.in_store(read_only=False)
    put_array(where.store, OLD, path=where.path)
    write(place, documents_of(), overwrite=True)
    np.testing.assert_array_equal(seen_in(place), WHOLE)
    assert set(place.keys() or ()) == {"zarr.json", "c/0/0", "c/1/0"}


def test_several_documents_are_shown_at_once(place: Place) -> None:
    write(place, documents_of("one", "two"))
    for name in ("one", "two"):
        np.testing.assert_array_equal(seen_in(place, name), WHOLE)
    where = place.in_store(read_only=False)
    theirs: Any = zarr
    group = theirs.open_group(where.store, path=where.path, mode="r")
    assert sorted(group.array_keys()) == ["one", "two"]


@pytest.mark.parametrize("path", ["", "some/where"])
def test_the_document_of_the_destination_is_written_last(path: str) -> None:
    class Noting(WrapperStore[MemoryStore]):
        written: list[str]

        async def set(self, key: str, value: Buffer) -> None:
            self.written.append(key)
            await super().set(key, value)

    Noting.written = []
    store: Any = Noting(MemoryStore())
    write(resolve_destination(StorePath(store, path)), documents_of("b", "a", "z"))
    assert Noting.written[-1] == f"{path}/zarr.json".lstrip("/")


def test_what_is_discarded_is_gone(place: Place) -> None:
    draft = place.draft(overwrite=False)
    with place.lock():
        draft.begin(documents_of())
        write_chunks(draft.where)
        assert {"c/0/0", "c/1/0"} <= set(draft.keys())
        draft.discard()
        assert not draft.exists()
        assert not draft.where.list_keys()
    assert not place.is_taken()


def test_a_draft_that_can_be_kept_is_found_again(place: Place) -> None:
    documents = documents_of()
    first = place.draft(overwrite=False)
    with place.lock():
        first.begin(documents)
        write_chunks(first.where)
    second = place.draft(overwrite=False)
    assert second.exists() is second.can_be_kept
    if not second.can_be_kept:
        return
    assert not place.is_taken()
    assert second.where.read(KEPT_BACK) == documents[""]
    assert set(second.keys()) == {KEPT_BACK, "c/0/0", "c/1/0"}
    with place.lock():
        second.commit(documents, durable=False)
    np.testing.assert_array_equal(seen_in(place), WHOLE)


def test_to_begin_again_is_to_begin_with_nothing(place: Place) -> None:
    draft = place.draft(overwrite=True)
    with place.lock():
        for _ in range(2):
            draft.begin(documents_of())
            assert not {"c/0/0", "c/1/0"} & set(draft.keys())
            write_chunks(draft.where)


def test_keys_are_those_that_are_stored_whole(tmp_path: Path) -> None:
    place = resolve_destination(tmp_path / "array.zarr")
    draft = place.draft(overwrite=False)
    with place.lock():
        draft.begin(documents_of())
        write_chunks(draft.where)
        staging = tmp_path / ".array.zarr.partial"
        halves = [staging / name for name in ("c/2.partial", f"zarr.{'0f' * 16}.partial")]
        for half in halves:
            half.write_bytes(b"half")
        assert set(draft.keys()) == {KEPT_BACK, "c/0/0", "c/1/0"}
        assert all(half.exists() for half in halves)
        assert set(draft.keys(tidy=True)) == {KEPT_BACK, "c/0/0", "c/1/0"}
        assert not any(half.exists() for half in halves)


def test_a_commit_that_fails_after_its_effect_is_one() -> None:
    class Unanswered(WrapperStore[MemoryStore]):
        async def set(self, key: str, value: Buffer) -> None:
            await super().set(key, value)
            if key == "zarr.json":
                raise OSError(key)

    memory = MemoryStore()
    store: Any = Unanswered(memory)
    place = resolve_destination(store)
    draft = place.draft(overwrite=False)
    with place.lock():
        draft.begin(documents_of())
        write_chunks(draft.where)
        with pytest.raises(OSError, match=r"zarr\.json"):
            draft.commit(documents_of(), durable=False)
        assert draft.is_committed
        draft.discard()
    np.testing.assert_array_equal(values_at(memory), WHOLE)
