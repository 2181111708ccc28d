"""What the two type checkers infer, accept and reject, and that no public type is unknown."""

import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeAlias

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
ACCEPTED = ROOT / "tests" / "typing" / "accepted.py"
REJECTED = ROOT / "tests" / "typing" / "rejected.py"

Place: TypeAlias = tuple[Path, int]
"""File and line, counted from 1."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a checker found in both files."""

    messages: dict[Place, list[str]]

    def lines(self, file: Path) -> set[int]:
        """Lines of a file in which something is wrong."""
        return {line for found, line in self.messages if found == file}

    def about(self, file: Path, lines: set[int]) -> str:
        """The messages for some lines of a file."""
        return "\n".join(
            f"{file.name}:{line}: {message}"
            for line in sorted(lines)
            for message in self.messages.get((file, line), ["nothing is wrong here"])
        )


@pytest.fixture(params=["mypy", "pyright"])
def verdict(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Verdict:
    """Verdict of each checker, under the settings of the project."""
    checker: str = request.param
    for needed in (checker, "torch"):
        if find_spec(needed) is None:
            pytest.skip(f"{needed} is not installed")
    return mypy() if checker == "mypy" else pyright(tmp_path_factory.getbasetemp())


@cache
def mypy() -> Verdict:
    # Files that are named are checked, whatever mypy.ini excludes from a run over everything.
    run = command("mypy", "--output", "json", str(ACCEPTED), str(REJECTED))
    assert run.returncode == 1, run.stdout + run.stderr
    found = [json.loads(line) for line in run.stdout.splitlines()]
    return collected(
        (ROOT / item["file"], item["line"], item["message"])
        for item in found
        if item["severity"] == "error"
    )


@cache
def pyright(directory: Path) -> Verdict:
    # What is excluded stays so when it is named, hence a configuration of its own.
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pyright"]
    files = [os.path.relpath(file, directory) for file in (ACCEPTED, REJECTED)]
    stubs = os.path.relpath(ROOT / settings["stubPath"], directory)
    settings |= {"include": files, "exclude": [], "stubPath": stubs}
    config = directory / "pyrightconfig.json"
    config.write_text(json.dumps(settings))
    report = pyright_report("--project", str(config))
    assert report["summary"]["filesAnalyzed"] == 2
    return collected(
        (Path(item["file"]), item["range"]["start"]["line"] + 1, item["message"])
        for item in report["generalDiagnostics"]
    )


def collected(found: Iterator[tuple[Path, int, str]]) -> Verdict:
    messages: dict[Place, list[str]] = {}
    for file, line, message in found:
        messages.setdefault((file, line), []).append(message)
    return Verdict(messages)


def pyright_report(*arguments: str) -> dict[str, Any]:
    run = command("pyright", "--outputjson", *arguments)
    assert run.stdout.startswith("{"), run.stdout + run.stderr
    report: dict[str, Any] = json.loads(run.stdout)
    return report


def command(module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a checker on the environment of this test run, whatever else PATH offers."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    return subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=ROOT,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )


def marked(file: Path) -> set[int]:
    """Lines that end in the mark of an expected error."""
    lines = enumerate(file.read_text().splitlines(), start=1)
    return {number for number, line in lines if re.search(r"  # expect: error$", line)}


def test_what_is_right_is_accepted_and_inferred(verdict: Verdict) -> None:
    lines = verdict.lines(ACCEPTED)
    assert not lines, verdict.about(ACCEPTED, lines)


def test_every_marked_line_is_rejected_and_no_other(verdict: Verdict) -> None:
    different = verdict.lines(REJECTED) ^ marked(REJECTED)
    assert not different, verdict.about(REJECTED, different)


def test_there_are_errors_to_find() -> None:
    assert len(marked(REJECTED)) > 50
    assert marked(ACCEPTED) == set()


def test_every_public_type_is_known() -> None:
    if find_spec("pyright") is None:
        pytest.skip("pyright is not installed")
    report = pyright_report("--verifytypes", "lazychunks", "--ignoreexternal")["typeCompleteness"]
    incomplete = {
        symbol["name"]: [item["message"] for item in symbol["diagnostics"]]
        for symbol in report["symbols"]
        if not symbol["isTypeKnown"] or symbol["isTypeAmbiguous"] or symbol["diagnostics"]
    }
    assert incomplete == {}
    assert report["completenessScore"] == 1
    assert report["exportedSymbolCounts"]["withKnownType"] > 100
