"""Row 6: no space, a file too large, an I/O error: it says where, and goes on when it can."""

import errno
import math
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np
import pytest
from zarr.abc.store import Store
from zarr.codecs import GzipCodec, ZstdCodec
from zarr.core.buffer import Buffer
from zarr.storage import MemoryStore, WrapperStore, ZipStore

from lazychunks import IdentityConverter, LazyChunkSequence, WriteAbortedError
from lazychunks.storage.chunks import files as filing
from tests.faults.jobs import FLAT, NESTED, Job, names_in, old_array, same, seen_at
from tests.faults.processes import CONTEXT, running
from tests.faults.stores import BudgetStore

pytestmark = pytest.mark.slow

resource = pytest.importorskip("resource", reason="limits are those of POSIX")

LARGE = 5
"""Number of the first block that does not compress to nothing."""


def _block(number: int) -> np.ndarray[Any, Any]:
    if number < LARGE:
        return np.zeros((64, 64))
    return np.random.default_rng(number).random((64, 64))


GROWING = LazyChunkSequence.from_map(_block, range(8))


def store_growing(path: str, **options: Any) -> None:
    """Store blocks that become large."""
    GROWING.to_zarr(path, IdentityConverter(), chunks="blocks", **options)


def store_within(limit: int, answer: Any, path: str, options: dict[str, Any]) -> None:
    """Store with a limit to the size of a file, and send what happens."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    try:
        store_growing(path, overwrite=True, max_in_flight=1, **options)
    except WriteAbortedError as error:
        cause = error.__cause__
        assert isinstance(cause, OSError)
        answer.send((str(error), error.done, error.total, error.resumable, cause.errno))
    else:
        answer.send(None)


@pytest.mark.parametrize("options", [{}, {"run_id": "run"}], ids=["nameless", "named"])
def test_a_file_too_large(tmp_path: Path, options: dict[str, str]) -> None:
    path = str(tmp_path / "array.zarr")
    old = old_array(path)
    receiver, answer = CONTEXT.Pipe(duplex=False)
    with running(store_within, 16_000, answer, path, options) as process:
        message, done, total, resumable, number = receiver.recv()
        process.join()
        assert process.exitcode == 0
    assert number == errno.EFBIG
    assert total == GROWING.len_generator
    if options:
        assert done == LARGE, "so many are stored"
    else:
        assert LARGE < done <= LARGE + 3, "the block that failed, and those computed meanwhile"
    assert f"after {done} of 8 blocks" in message
    assert resumable is bool(options)
    assert ("run_id='run' goes on" in message) is resumable
    assert same(seen_at(path), old)
    assert names_in(tmp_path) == [*[".array.zarr.partial"] * resumable, "array.zarr"]
    store_growing(path, overwrite=True, resume=resumable, **options)
    assert same(seen_at(path), np.concatenate(GROWING.compute()))


@pytest.mark.parametrize("job", [FLAT, NESTED], ids=lambda job: job.name)
def test_no_space_left_at_any_moment(job: Job) -> None:
    full = BudgetStore(MemoryStore(), math.inf)
    written: list[int] = []
    job.store(_counting(full, written), run_id="run", max_in_flight=1)
    for budget in range(0, sum(written), 97):
        content: dict[str, Buffer] = {}
        old_array(MemoryStore(content))
        store = BudgetStore(MemoryStore(content), budget)
        with pytest.raises(WriteAbortedError, match=f"of {job.count} blocks") as caught:
            job.store(store, overwrite=True, run_id="run", max_in_flight=1)
        cause = caught.value.__cause__
        assert isinstance(cause, OSError)
        assert cause.errno == errno.ENOSPC
        store.budget = math.inf
        computed: list[tuple[int, ...]] = []
        note = partial(_note, computed)
        job.store(store, note, overwrite=True, resume=True, run_id="run")
        assert same(seen_at(content), job.whole)
        assert len(computed) <= job.count


@pytest.mark.parametrize("broken", ["zarr.json.partial", "c/0/0", "c/4/0", "zarr.json"])
def test_the_first_failure_is_the_cause_where_tidying_up_fails_as_well(broken: str) -> None:
    class Breaking(WrapperStore[Store]):
        is_broken = False

        async def set(self, key: str, value: Buffer) -> None:
            if key == broken:
                self.is_broken = True
                raise OSError(errno.ENOSPC, "No space left on device")
            await self._store.set(key, value)

        async def delete(self, key: str) -> None:
            if self.is_broken:
                raise OSError(errno.EIO, "Input/output error")
            await self._store.delete(key)

    content: dict[str, Buffer] = {}
    with pytest.raises(WriteAbortedError, match="No space left") as caught:
        FLAT.store(Breaking(MemoryStore(content)), max_in_flight=1)
    assert isinstance(caught.value.__cause__, OSError)
    assert caught.value.__cause__.errno == errno.ENOSPC
    what = "nothing has been stored" if broken == "zarr.json.partial" else "could not be removed"
    assert what in str(caught.value)
    assert seen_at(content) is None
    FLAT.store(MemoryStore(content), overwrite=True)
    assert same(seen_at(content), FLAT.whole)


def test_what_stays_in_a_zip_file_is_not_said_to_be_removed(tmp_path: Path) -> None:
    def fail(row: int) -> None:
        if row == 8:
            raise ZeroDivisionError

    with ZipStore(tmp_path / "a.zip", mode="w") as store:
        with pytest.raises(WriteAbortedError, match="what was written could not be removed"):
            FLAT.store(store, fail)
        assert seen_at(store) is None


def _note(computed: list[tuple[int, ...]], *at: int) -> None:
    computed.append(at)


class _Counting(BudgetStore):
    written: list[int]

    async def set(self, key: str, value: Buffer) -> None:
        self.written.append(len(value))
        await super().set(key, value)


def _counting(store: BudgetStore, written: list[int]) -> _Counting:
    counting = _Counting(store, math.inf)
    counting.written = written
    return counting


@pytest.mark.parametrize("compressors", [ZstdCodec(), GzipCodec()], ids=["short way", "zarr's way"])
@pytest.mark.parametrize("number", [errno.EIO, errno.EDQUOT, errno.EROFS])
def test_an_error_of_the_device_is_the_cause(
    number: int, compressors: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(tmp_path / "array.zarr")
    old = old_array(path)
    replace: Callable[..., None] = os.replace

    def failing(source: str, target: str) -> None:
        if str(target).endswith("c/2/0"):
            raise OSError(number, os.strerror(number))
        replace(source, target)

    def unopened(file: str, mode: str, buffering: int) -> IO[Any]:
        if file.endswith("c/2/0"):
            raise OSError(number, os.strerror(number))
        return Path(file).open(mode, buffering)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", failing)
        patch.setattr(filing, "open", unopened, raising=False)
        with pytest.raises(WriteAbortedError, match="of 5 blocks") as caught:
            FLAT.store(path, overwrite=True, compressors=compressors)
    assert isinstance(caught.value.__cause__, OSError)
    assert caught.value.__cause__.errno == number
    assert names_in(tmp_path) == ["array.zarr"]
    assert same(seen_at(path), old)
