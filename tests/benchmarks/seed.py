"""pyDVL's array module, loaded from its file so that nothing else of pyDVL is needed.

pyDVL 0.10 asks for numpy<2 and for much that this comparison does not use. Its array module needs
two names from its siblings; small stand-ins give it these, and it then runs on the same numpy and
the same zarr as everything else here.
"""

from __future__ import annotations

import functools
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

_ARRAY = "pydvl.influence.array"

TensorType = TypeVar("TensorType")


def location() -> Path | None:
    """Return the array module's file where pyDVL is installed, without importing pyDVL."""
    spec = importlib.util.find_spec("pydvl") if "pydvl" not in sys.modules else None
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        path = Path(folder) / "influence" / "array.py"
        if path.exists():
            return path
    loaded = sys.modules.get(_ARRAY)
    return Path(loaded.__file__) if loaded is not None and loaded.__file__ else None


def _log_duration(*, log_level: int) -> Callable[[Callable[..., object]], Callable[..., object]]:
    """Stand in for the decorator of the same name, less its two lines of log."""
    del log_level

    def decorate(function: Callable[..., object]) -> Callable[..., object]:
        @functools.wraps(function)
        def call(*args: object, **kwargs: object) -> object:
            return function(*args, **kwargs)

        return call

    return decorate


def load() -> ModuleType:
    """Return pyDVL's array module, with stand-ins for its parents.

    Raises
    ------
    ModuleNotFoundError
        pyDVL is not on the path.
    """
    if _ARRAY in sys.modules:
        return sys.modules[_ARRAY]
    path = location()
    if path is None:
        raise ModuleNotFoundError("pydvl", name="pydvl")
    utils = ModuleType("pydvl.utils")
    utils.__dict__["log_duration"] = _log_duration
    types = ModuleType("pydvl.influence.types")
    types.__dict__["TensorType"] = TensorType
    for parent in (ModuleType("pydvl"), ModuleType("pydvl.influence"), utils, types):
        sys.modules[parent.__name__] = parent
        parent.__path__ = []
    spec = importlib.util.spec_from_file_location(_ARRAY, path)
    if spec is None or spec.loader is None:
        raise ModuleNotFoundError(f"cannot load {path.name}", name=_ARRAY)
    module = importlib.util.module_from_spec(spec)
    sys.modules[_ARRAY] = module
    spec.loader.exec_module(module)
    return module
