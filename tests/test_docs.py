"""What the documentation says is so: its code runs, it names every public name, and it builds."""

import doctest
import re
import subprocess
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest

import lazychunks

ROOT = Path(__file__).parent.parent
SOURCE = Path(lazychunks.__file__).parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
MODULES = [
    ".".join(path.relative_to(SOURCE.parent).with_suffix("").parts).removesuffix(".__init__")
    for path in sorted(SOURCE.rglob("*.py"))
]


@pytest.fixture(autouse=True)
def _in_an_empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def run_page(page: Path) -> int:
    """Run the Python blocks of a Markdown page, in order and in one namespace; return how many."""
    sybil = pytest.importorskip("sybil")
    parsers = pytest.importorskip("sybil.parsers.myst")
    document = sybil.Sybil([parsers.PythonCodeBlockParser()], path=str(page.parent)).parse(page)
    examples = list(document.examples())
    for example in examples:
        example.evaluate()
    return len(examples)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_code_of_a_page_runs(page: Path) -> None:
    if "torch" in page.read_text():
        pytest.importorskip("torch")
    count = run_page(page)
    assert count == len(re.findall(r"^```python$", page.read_text(), flags=re.MULTILINE))


def test_the_readme_has_code_that_runs() -> None:
    assert (ROOT / "README.md").read_text().count("```python\n") >= 2


@pytest.mark.parametrize("code", ["assert 1 == 2", ">>> 1 + 1\n3"])
def test_wrong_code_on_a_page_is_found(code: str, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"# Page\n\n```python\n{code}\n```\n")
    with pytest.raises(AssertionError):  # a failed doctest is one as well
        run_page(page)


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of_a_docstring_run(name: str) -> None:
    if name in {"lazychunks.torch", "lazychunks.dask"}:
        pytest.importorskip(name.rpartition(".")[2])
    failed, _ = doctest.testmod(import_module(name))
    assert not failed, "see what doctest printed"


def documented(module: str) -> set[str]:
    """Names of a module that the reference documents."""
    text = (ROOT / "docs" / "reference.md").read_text()
    directive = rf"^\.\. auto\w+:: {re.escape(module)}\.(\w+)$"
    return set(re.findall(directive, text, flags=re.MULTILINE))


@pytest.mark.parametrize("module", ["lazychunks", "lazychunks.testing", "lazychunks.torch"])
def test_the_reference_has_every_public_name(module: str) -> None:
    if module == "lazychunks.torch":
        pytest.importorskip("torch")
    public: list[str] = import_module(module).__all__
    assert documented(module) == set(public)


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
