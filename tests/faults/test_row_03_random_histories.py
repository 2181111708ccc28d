"""Row 3: random histories of writing, crashing, resuming, replacing and damaging, against a model.

The model is a dict: what a reader must see, and what is left aside. After each step the two agree;
a value that has been damaged may raise, and is never wrong.
"""

import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from zarr.core.buffer import default_buffer_prototype
from zarr.storage import LocalStore, MemoryStore

from lazychunks import (
    DestinationExistsError,
    ResumeMismatchError,
    WriteAbortedError,
    status,
)
from tests.faults.jobs import FLAT, NESTED, RAGGED, Job, old_array, same, seen_at

pytestmark = pytest.mark.slow

Array = np.ndarray[Any, Any]

OTHER = Job("other", (3, 3, 1), seed=5)
JOBS = [FLAT, RAGGED, NESTED, OTHER]
jobs = st.sampled_from(JOBS)


class History(RuleBasedStateMachine):
    """One destination and all that may happen to it."""

    local: bool

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp())
        self.store: Any = LocalStore(self.root / "array.zarr") if self.local else MemoryStore()
        self.model: dict[str, Any] = {"seen": None, "run": None, "aside": None, "damaged": False}
        self.checked = False
        """Whether what readers see has checksums: zarr's own default has none."""

    def teardown(self) -> None:
        shutil.rmtree(self.root)

    @invariant()
    def readers_see_what_the_model_says(self) -> None:
        try:
            seen = seen_at(self.store)
        except (RuntimeError, ValueError):
            assert self.model["damaged"]
        else:
            assert same(seen, self.model["seen"])

    @rule(job=jobs, overwrite=st.booleans(), named=st.booleans())
    def write(self, job: Job, overwrite: bool, named: bool) -> None:
        """Store a job, and nothing goes wrong."""
        refused = not overwrite and (self.model["seen"] is not None or self.model["aside"])
        try:
            job.store(self.store, overwrite=overwrite, run_id=job.name if named else None)
        except DestinationExistsError:
            assert refused
        else:
            assert not refused
            self._stored(job, named=named)

    @rule(job=jobs, after=st.integers(1, 8), named=st.booleans())
    def write_and_fail(self, job: Job, after: int, named: bool) -> None:
        """Replace what is there, and fail at some block."""
        try:
            job.store(
                self.store, _Failing(after), overwrite=True, run_id=job.name if named else None
            )
        except WriteAbortedError as error:
            self._check_message(error, job, after, named=named)
            if not self.local:
                self.model |= {"seen": None, "run": None, "damaged": False}
            self.model["aside"] = job if named else None
        else:
            self._stored(job, named=named)

    @rule(job=jobs, fails=st.none() | st.integers(1, 8), overwrite=st.booleans())
    def resume(self, job: Job, fails: int | None, overwrite: bool) -> None:
        """Go on with what is there, or start it."""
        watch = _Failing(None if fails is None else fails)
        aside, finished = self.model["aside"], self.model["run"] == job
        exists = self.model["seen"] is not None
        try:
            job.store(self.store, watch, resume=True, run_id=job.name, overwrite=overwrite)
        except DestinationExistsError:
            assert exists
            assert not overwrite
            assert not finished
        except ResumeMismatchError:
            assert aside not in (None, job)
        except WriteAbortedError:
            assert fails is not None
            assert watch.computed > fails
            if not self.local:
                self.model |= {"seen": None, "run": None, "damaged": False}
            self.model["aside"] = job
        except ZeroDivisionError:
            assert watch.computed == 1, "nothing has begun"
        else:
            assert finished or aside in (None, job)
            if finished:
                assert watch.computed == 0
                self.model["aside"] = None if aside == job else aside  # another run's stays
            else:
                self._stored(job, named=True)

    @precondition(lambda self: self.model["seen"] is not None and self.checked)
    @rule(which=st.integers(0), where=st.integers(0))
    def flip_a_byte(self, which: int, where: int) -> None:
        """Damage a chunk that readers see."""
        chunk = self._chunks()[which % len(self._chunks())]
        content = bytearray(self._get(chunk))
        content[where % len(content)] ^= 0xFF
        self._set(chunk, bytes(content))
        self.model["damaged"] = True

    @precondition(lambda self: self.local and self.model["aside"] is not None)
    @rule(which=st.integers(0))
    def delete_a_chunk_that_is_aside(self, which: int) -> None:
        """Lose a part of an unfinished write: it will be computed again."""
        chunks = [p for p in self.root.glob(".array.zarr.partial/c/**/*") if p.is_file()]
        if chunks:
            chunks[which % len(chunks)].unlink()

    @precondition(lambda self: self.model["seen"] is not None and self.model["aside"] is None)
    @rule()
    def replace_by_another_program(self) -> None:
        """Somebody else stores an array with the same keys."""
        self.model |= {"seen": old_array(self.store), "run": None, "damaged": False}
        self.checked = False

    def _check_message(
        self, error: WriteAbortedError, job: Job, after: int, *, named: bool
    ) -> None:
        """What the error says is done is what status says, and on a path nothing is lost."""
        assert error.resumable == named
        if not named:
            assert error.done == after
            return
        assert error.done == status(self.store).done_blocks
        stored = sum(block.size > 0 for block in list(job.blocks())[:after])
        assert error.done is not None
        assert error.done == stored if self.local else error.done <= stored

    def _stored(self, job: Job, *, named: bool) -> None:
        run = job if named else None
        self.model = {"seen": job.whole, "run": run, "aside": None, "damaged": False}
        self.checked = True

    def _chunks(self) -> list[str]:
        if self.local:
            files = sorted((self.root / "array.zarr" / "c").rglob("*"))
            return [str(path) for path in files if path.is_file()]
        return sorted(key for key in self.store._store_dict if key.startswith("c/"))

    def _get(self, chunk: str) -> bytes:
        value: bytes = (
            Path(chunk).read_bytes() if self.local else self.store._store_dict[chunk].to_bytes()
        )
        return value

    def _set(self, chunk: str, content: bytes) -> None:
        if self.local:
            Path(chunk).write_bytes(content)
        else:
            self.store._store_dict[chunk] = default_buffer_prototype().buffer.from_bytes(content)


class _Failing:
    """Fails when one block more than so many is computed."""

    def __init__(self, after: int | None) -> None:
        self.computed = 0
        self._after = after

    def __call__(self, *_: int) -> None:
        self.computed += 1
        if self._after is not None and self.computed > self._after:
            raise ZeroDivisionError


class LocalHistory(History):
    """What happens to a path."""

    local = True


class MemoryHistory(History):
    """What happens to a store that is no directory."""

    local = False


@pytest.mark.parametrize("history", [LocalHistory, MemoryHistory])
def test_random_histories(history: type[History]) -> None:
    run_state_machine_as_test(history, settings=settings(stateful_step_count=15))
