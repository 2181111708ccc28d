"""What the documentation says is so: its code runs, it names every public name, and it builds."""

import doctest
import re
import shutil
import subprocess
import sys
import warnings
from bisect import bisect
from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

import lazychunks
from tests import object_store
from tests.test_public_api import FACADES, imported, listed

ROOT = Path(__file__).parent.parent
SOURCE = Path(lazychunks.__file__).parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
MODULES = [
    ".".join(path.relative_to(SOURCE.parent).with_suffix("").parts).removesuffix(".__init__")
    for path in sorted(SOURCE.rglob("*.py"))
]


OPTIONAL = {
    "captum",
    "dask",
    "distributed",
    "hypothesis",
    "icechunk",
    "ml_dtypes",
    "obstore",
    "pydvl",
    "s3fs",
    "xarray",
    "torch",
    "jax",
}
"""Packages that a page may need and that need not be installed."""


@pytest.fixture(autouse=True)
def _in_an_empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def run_page(page: Path, console: Callable[[str], None] | None = None) -> int:
    """Run the Python blocks of a Markdown page, in order and in one namespace; return how many.

    ``console`` is called with each block of a console, in its turn.
    """
    sybil = pytest.importorskip("sybil")
    parsers = pytest.importorskip("sybil.parsers.myst")
    # The message of an error may be wrapped, and cut short where the page shows "...".
    flags = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
    blocks = [parsers.PythonCodeBlockParser(doctest_optionflags=flags)]
    if console is not None:

        def evaluate(example: Any) -> None:
            console(example.parsed)

        blocks.append(parsers.CodeBlockParser("console", evaluate))
    for name in re.findall(r"^```\{literalinclude\} (\S+)", page.read_text(), flags=re.MULTILINE):
        shutil.copy(page.parent / name, ".")  # what a page shows, its code can run
    fences = [n for n, line in enumerate(page.read_text().splitlines(), 1) if line == "```python"]
    reached: set[int] = set()
    for example in sybil.Sybil(blocks, path=str(page.parent)).parse(page).examples():
        example.evaluate()
        reached.add(bisect(fences, example.line))  # a block may hold several doctests
    return len(reached)


def needed(page: Path) -> set[str]:
    """Optional packages that the code of a page imports, or that the page says it needs."""
    text = page.read_text()
    imports = re.findall(r"^ *(?:import|from) ([\w.]+)", text, flags=re.MULTILINE)
    names = [*imports, *re.findall(r"the package\s+`(\w+)`", text)]
    return {part for name in names for part in name.split(".")} & OPTIONAL  # lazychunks.torch too


def missing(page: Path) -> list[str]:
    """Optional packages that a page needs and that are not installed."""
    return sorted(name for name in needed(page) if find_spec(name) is None)


@pytest.fixture
def _an_object_store(request: pytest.FixtureRequest) -> Iterator[None]:
    """For a page that needs one: a bucket "results", by what clients read from the environment."""
    if "obstore" not in needed(request.getfixturevalue("page")):
        yield
        return
    if object_store.MISSING:
        pytest.skip(f"not installed: {', '.join(object_store.MISSING)}")
    with object_store.started() as server, pytest.MonkeyPatch.context() as patch:
        for name, value in server.settings.items():
            patch.setenv(name, value)
        server.make_bucket("results")
        yield


SLOW = {"captum.md", "jobs.md", "ranks.md", "scaling.md"}
"""Pages whose code takes seconds."""


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(
            page,
            id=str(page.relative_to(ROOT)),
            marks=[pytest.mark.slow] if page.name in SLOW else [],
        )
        for page in PAGES
    ],
)
@pytest.mark.usefixtures("_an_object_store")
def test_the_code_of_a_page_runs(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if missing(page):
        pytest.skip(f"not installed: {', '.join(missing(page))}")
    with warnings.catch_warnings():
        if "pydvl" in needed(page):
            for announced in (DeprecationWarning, FutureWarning):  # there are many
                warnings.simplefilter("ignore", announced)
            array = import_module("pydvl.influence.array")
            monkeypatch.setitem(sys.modules, array.__name__, array)  # the page replaces it
        count = run_page(page)
    assert count == len(re.findall(r"^```python$", page.read_text(), flags=re.MULTILINE))


def test_the_readme_has_code_that_runs() -> None:
    assert (ROOT / "README.md").read_text().count("```python\n") >= 2


WRONG = [
    "assert 1 == 2",
    ">>> 1 + 1\n3",
    ">>> int('x')\nTraceback (most recent call last):\n    ...\nValueError: another message",
    ">>> int('1')\nTraceback (most recent call last):\n    ...\nValueError: no error",
]


@pytest.mark.parametrize("code", WRONG)
def test_wrong_code_on_a_page_is_found(code: str, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"# Page\n\n```python\n{code}\n```\n")
    with pytest.raises(AssertionError):  # a failed doctest is one as well
        run_page(page)


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of_a_docstring_run(name: str) -> None:
    side_room = name.split(".")[1] if "." in name else ""
    if side_room in {"torch", "dask"}:
        pytest.importorskip(side_room, reason=f"{side_room} is not installed")
    failed, _ = doctest.testmod(import_module(name))
    assert not failed, "see what doctest printed"


def documented(module: str) -> set[str]:
    """Names of a module that the reference documents."""
    text = (ROOT / "docs" / "reference.md").read_text()
    directive = rf"^\.\. auto\w+:: {re.escape(module)}\.(\w+)$"
    return set(re.findall(directive, text, flags=re.MULTILINE))


@pytest.mark.parametrize("module", FACADES)
def test_the_reference_has_every_public_name(module: str) -> None:
    assert documented(module) == set(listed(imported(module)))


@pytest.mark.slow
def test_the_documentation_builds_without_a_warning(tmp_path: Path) -> None:
    if find_spec("sphinx") is None:
        pytest.skip("sphinx is not installed")
    pytest.importorskip("torch")
    build = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-n", "-q", "-b", "html"]
    run = subprocess.run(
        [*build, str(ROOT / "docs"), str(tmp_path / "html")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert (tmp_path / "html" / "reference.html").exists()
