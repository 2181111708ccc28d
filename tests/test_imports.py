"""What an import loads, and which room may import which."""

import ast
import graphlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import lazychunks

SOURCE = Path(lazychunks.__file__).parent

HEAVY = (
    "dask",
    "distributed",
    "hypothesis",
    "ml_dtypes",
    "mpi4py",
    "numcodecs",
    "torch",
    "zarr",
)

ROOMS = (
    "errors",
    "layout",
    "converters",
    "progress",
    "arrays",
    "blocks",
    "runs",
    "storage",
    "sequences",
    "compose",
    "folds",
    "__init__",
    "__main__",
)
"""The house from the ground up: a room imports from those before it, and from itself."""

LOADING_ZARR = {"storage", "folds.zarr_sink"}
"""What loads zarr; all else imports from there late, or for types only."""

SIDE_ROOMS = ("torch", "dask", "mpi", "testing")
"""They may import from the whole house; nothing in the house imports from them."""

OWNERS = {
    "zarr": ("storage",),
    "numcodecs": ("storage",),
    "ml_dtypes": ("converters",),
    "torch": ("torch",),
    "mpi4py": (),
    "dask": ("dask",),
    "distributed": ("dask",),
    "hypothesis": ("testing",),
}
"""Who may import what is slow to load, or may be missing."""


class Import(NamedTuple):
    """One imported module, and how late it is loaded."""

    module: str
    deferred: bool
    """Inside a function."""
    typing_only: bool
    """Under ``if TYPE_CHECKING``."""


AT_THE_TOP = Import("", deferred=False, typing_only=False)


def imports(node: ast.AST, package: str, found: Import = AT_THE_TOP) -> Iterator[Import]:
    """All imports below a syntax node, by absolute name; ``from p import m`` gives ``p.m``."""
    match node:
        case ast.Import():
            yield from (found._replace(module=alias.name) for alias in node.names)
        case ast.ImportFrom():
            parents = package.split(".")[: 1 - node.level or None] if node.level else []
            base = ".".join([*parents, *([node.module] if node.module else [])])
            yield from (found._replace(module=f"{base}.{alias.name}") for alias in node.names)
        case ast.If(test=ast.Name(id="TYPE_CHECKING"), body=body, orelse=orelse):
            for statement in body:
                yield from imports(statement, package, found._replace(typing_only=True))
            for statement in orelse:
                yield from imports(statement, package, found)
        case _:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                found = found._replace(deferred=True)
            for child in ast.iter_child_nodes(node):
                yield from imports(child, package, found)


def faults(module: str, package: str, source: str) -> list[str]:
    """Imports in a module that the house forbids."""
    return [
        f"{module} imports {found.module}"
        for found in imports(ast.parse(source), package)
        if not _allowed(module, found)
    ]


def _allowed(module: str, found: Import) -> bool:
    room = module.partition(".")[0]
    top, _, rest = found.module.partition(".")
    if top in OWNERS:
        return room in OWNERS[top] or (top == "zarr" and found.typing_only)
    if top != "lazychunks":
        return True
    target = rest.partition(".")[0]
    if room in SIDE_ROOMS:
        return target == room or target in ROOMS
    if room not in ROOMS or target not in ROOMS or ROOMS.index(target) > ROOMS.index(room):
        return False
    loads_zarr = any(rest == name or rest.startswith(f"{name}.") for name in LOADING_ZARR)
    if not loads_zarr or not LOADING_ZARR.isdisjoint({module, room}):
        return target != "__init__" or room == "__main__"
    return found.deferred or found.typing_only


MODULES = sorted(SOURCE.rglob("*.py"))


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_a_room_imports_only_from_the_rooms_below(path: Path) -> None:
    inside = path.relative_to(SOURCE)
    module = ".".join(inside.parts).removesuffix(".py")
    room = module.partition(".")[0]
    assert room in (*ROOMS, *SIDE_ROOMS), f"say in this file where {room} stands in the house"
    package = ".".join(("lazychunks", *inside.parent.parts))
    assert faults(module, package, path.read_text()) == []


@pytest.mark.parametrize(
    ("room", "source"),
    [
        ("errors", "from lazychunks import layout"),
        ("layout", "from lazychunks.sequences import LazyChunkSequence"),
        ("layout", "from .sequences import LazyChunkSequence"),
        ("folds", "from lazychunks import LazyChunkSequence"),
        ("folds", "import lazychunks"),
        ("folds", "from lazychunks.storage import status"),
        ("runs", "if TYPE_CHECKING:\n    from lazychunks.storage import status"),
        ("storage", "from lazychunks.sequences import LazyChunkSequence"),
        ("storage", "def f():\n    from lazychunks.folds.fold import Fold"),
        ("sequences", "from lazychunks.storage import store_flat"),
        ("sequences", "import zarr"),
        ("sequences", "def to_zarr():\n    import zarr"),
        ("folds", "from lazychunks.torch import TorchCatAggregator"),
        ("converters", "import torch"),
        ("storage", "from dask import array"),
        ("torch", "from lazychunks.dask import to_dask_array"),
        ("folds", "import hypothesis"),
        ("storage", "from lazychunks import testing"),
        ("storage", "def f():\n    from lazychunks.testing import bits"),
    ],
)
def test_a_forbidden_import_is_found(room: str, source: str) -> None:
    assert len(faults(room, "lazychunks", source)) == 1


@pytest.mark.parametrize(
    ("room", "source"),
    [
        ("layout", "from lazychunks.errors import BlockShapeError"),
        ("sequences", "from lazychunks import blocks"),
        ("sequences", "def to_zarr():\n    from lazychunks.storage import store_flat"),
        ("sequences", "if TYPE_CHECKING:\n    import zarr"),
        ("storage", "import zarr\nfrom lazychunks.layout.plan import WritePlan"),
        ("torch", "import torch\nfrom lazychunks.sequences import LazyChunkSequence"),
        ("testing", "import hypothesis\nfrom lazychunks.folds import tee"),
    ],
)
def test_an_allowed_import_is_let_through(room: str, source: str) -> None:
    assert faults(room, "lazychunks", source) == []


def test_no_module_imports_itself_by_way_of_others() -> None:
    names = {
        ".".join(("lazychunks", *path.relative_to(SOURCE).with_suffix("").parts)).removesuffix(
            ".__init__"
        ): path
        for path in MODULES
    }
    graph: dict[str, set[str]] = {}
    for name, path in names.items():
        package = ".".join(("lazychunks", *path.relative_to(SOURCE).parent.parts))
        found = {
            one.module
            for one in imports(ast.parse(path.read_text()), package)
            if not one.typing_only
        }  # late ones as well
        # `from p import x` names a module, or something in one.
        found = {module if module in names else module.rpartition(".")[0] for module in found}
        graph[name] = {module for module in found if module in names and module != name}
    list(graphlib.TopologicalSorter(graph).static_order())  # CycleError names the circle


def loaded_after(code: str) -> set[str]:
    """Which of the heavy modules a fresh interpreter has loaded after running ``code``."""
    report = f"import json, sys\nprint(json.dumps([m for m in {HEAVY!r} if m in sys.modules]))"
    run = subprocess.run(
        [sys.executable, "-c", f"{code}\n{report}"], capture_output=True, text=True, check=True
    )
    loaded: list[str] = json.loads(run.stdout)
    return set(loaded)


def test_importing_the_library_loads_nothing_heavy() -> None:
    assert loaded_after("import lazychunks") == set()


def test_computing_loads_nothing_heavy() -> None:
    code = "import lazychunks\nlazychunks.LazyChunkSequence(lambda: [1, 2]).compute(max)"
    assert loaded_after(code) == set()


def test_storing_loads_zarr_so_that_the_tests_above_can_fail() -> None:
    code = """
import numpy as np
from lazychunks import IdentityConverter, LazyChunkSequence
LazyChunkSequence(lambda: [np.ones(3)]).to_zarr({}, IdentityConverter())
"""
    loaded = loaded_after(code)
    assert "zarr" in loaded
    assert "torch" not in loaded


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no_such_name"):
        _: object = getattr(lazychunks, "no_such_name")  # noqa: B009 -- the dot would be a type error


CHECK = """
import sys

import numpy as np

from lazychunks.storage.chunks.dtypes import checked_array

if "numpy.ma" in sys.modules:
    print("loaded before")
else:
    checked_array(np.ones(3), block=0)
    print("loaded" if "numpy.ma" in sys.modules else "not loaded")
"""


def test_a_check_for_masked_arrays_does_not_load_them() -> None:
    """It takes as long as to write ten megabytes, and where it is not loaded there is none."""
    run = subprocess.run([sys.executable, "-c", CHECK], capture_output=True, text=True, check=True)
    if run.stdout == "loaded before\n":
        pytest.skip("NumPy, or zarr, loads masked arrays by itself in this version")
    assert run.stdout == "not loaded\n"
