"""pyDVL runs on this library: its influences come out as they do with its own array module.

Needs pyDVL (``tests/requirements-oldest.txt``), which asks for an older NumPy than ``dev`` pins.
"""

import inspect
import json
import subprocess
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
from numpy.typing import NDArray

import lazychunks

MISSING = [name for name in ("pydvl", "dask", "distributed", "torch") if find_spec(name) is None]

pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}")

ROOT = Path(__file__).parent.parent

SHAPES: Final = {
    "factors": (7, 26),
    "from factors": (7, 11),
    "influences": (7, 11),
    "perturbations": (7, 11, 5),
}
"""What pyDVL computes: 7 test and 11 training rows of 5 features, 26 parameters."""

WAYS: Final = ("computed", "stored", "overwritten")


@dataclass(frozen=True, slots=True)
class Results:
    """What a run of ``tests/pydvl_influences.py`` left."""

    directory: Path

    @property
    def about(self) -> dict[str, dict[str, Any]]:
        """Which classes pyDVL used, and their signatures."""
        found: dict[str, dict[str, Any]] = json.loads((self.directory / "about.json").read_text())
        return found

    def values(self, name: str) -> dict[str, NDArray[np.float32]]:
        """The values of one sequence, for each way to get them."""
        return {path.stem: np.load(path) for path in (self.directory / name).glob("*.npy")}


def results(which: str, directory: Path) -> Results:
    run = subprocess.run(
        [sys.executable, "-m", "tests.pydvl_influences", which, str(directory)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    return Results(directory)


@pytest.fixture(scope="module")
def seed(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """What pyDVL computes as it is."""
    return results("pydvl", tmp_path_factory.mktemp("pydvl"))


@pytest.fixture(scope="module")
def replaced(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """What pyDVL computes with this library in the place of its array module."""
    return results("lazychunks", tmp_path_factory.mktemp("lazychunks"))


def test_each_run_used_the_classes_it_is_about(seed: Results, replaced: Results) -> None:
    assert {kind.partition(".")[0] for kind in seed.about["kinds"].values()} == {"pydvl"}
    assert {kind.partition(".")[0] for kind in replaced.about["kinds"].values()} == {"lazychunks"}


@pytest.mark.parametrize("name", SHAPES)
def test_all_values_are_those_of_pydvl_bitwise(name: str, seed: Results, replaced: Results) -> None:
    expected = seed.values(name)["computed by pydvl"]
    assert expected.shape == SHAPES[name]
    assert np.unique(expected).size > expected.size / 2
    for values in (seed.values(name), replaced.values(name)):
        for found in values.values():
            assert found.dtype == expected.dtype
            np.testing.assert_array_equal(found, expected)


def test_both_aggregators_and_converters_were_tried(replaced: Results) -> None:
    ways = {f"{way} by {whose}" for way in WAYS for whose in ("pydvl", "lazychunks")}
    for name in SHAPES:
        assert set(replaced.values(name)) == {"blocks", *ways}


@pytest.mark.parametrize("sequence", ["LazyChunkSequence", "NestedLazyChunkSequence"])
@pytest.mark.parametrize("method", ["__init__", "compute", "to_zarr"])
def test_parameters_begin_as_those_of_pydvl(sequence: str, method: str, seed: Results) -> None:
    expected = seed.about["signatures"][f"{sequence}.{method}"]
    ours = inspect.signature(getattr(getattr(lazychunks, sequence), method)).parameters
    assert list(ours)[: len(expected)] == expected
    more = list(ours.values())[len(expected) :]
    assert all(p.kind in (p.KEYWORD_ONLY, p.VAR_KEYWORD) for p in more)
