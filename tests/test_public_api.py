"""What is public is listed, documented and, where it is an error, a builtin's kind of error."""

import pickle
import pkgutil
from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from types import FunctionType, ModuleType

import pytest

import lazychunks
from lazychunks import errors

EXTRAS = {
    "lazychunks.dask": "dask",
    "lazychunks.testing": "hypothesis",
    "lazychunks.torch": "torch",
}
"""Modules that can be imported only where an extra is installed."""

MODULES = [
    "lazychunks",
    *(info.name for info in pkgutil.walk_packages(lazychunks.__path__, "lazychunks.")),
]

FACADES = ["lazychunks", "lazychunks.mpi", *EXTRAS]
"""Modules that users import from."""

LISTING = [*FACADES, "lazychunks.folds", "lazychunks.storage"]
"""Modules that list their public names; in all others, an underscore tells the private ones."""


def imported(name: str) -> ModuleType:
    for module, needed in EXTRAS.items():
        if name.startswith(module) and find_spec(needed) is None:
            pytest.skip(f"{needed} is not installed")
    return import_module(name)


def listed(module: ModuleType) -> list[str]:
    names: list[str] = module.__all__
    return names


@pytest.mark.parametrize("name", LISTING)
def test_a_facade_lists_its_public_names_sorted_and_all_of_them_exist(name: str) -> None:
    module = imported(name)
    names = listed(module)
    assert names == sorted(set(names), key=lambda name: (not name.isupper(), name))
    assert [missing for missing in names if not hasattr(module, missing)] == []


@pytest.mark.parametrize("name", LISTING)
def test_a_facade_lists_every_class_and_function_that_it_defines(name: str) -> None:
    module = imported(name)
    defined = {
        key
        for key, value in vars(module).items()
        if isinstance(value, type | FunctionType) and value.__module__ == name
    }
    assert {key for key in defined if not key.startswith("_")} <= set(listed(module))


@pytest.mark.parametrize("name", MODULES)
def test_a_module_says_what_it_is(name: str) -> None:
    assert imported(name).__doc__


@pytest.mark.parametrize("name", [name for name in MODULES if name not in LISTING])
def test_a_room_has_no_list_beside_its_underscores(name: str) -> None:
    assert not hasattr(imported(name), "__all__")


METHODS = (FunctionType, classmethod, property, staticmethod)


def undocumented(module: ModuleType) -> Iterator[str]:
    """Public classes, functions and methods that have no words of their own."""
    for name in listed(module):
        public = getattr(module, name)
        if not isinstance(public, type | FunctionType):
            continue
        # A dataclass without a docstring is given its signature for one.
        if not public.__doc__ or public.__doc__.startswith(f"{name}("):
            yield name
        if isinstance(public, type):
            for key, value in vars(public).items():
                documentable = isinstance(value, METHODS) and not key.startswith("_")
                if documentable and not value.__doc__:
                    yield f"{name}.{key}"


@pytest.mark.parametrize("name", FACADES)
def test_every_public_class_function_and_method_has_a_docstring(name: str) -> None:
    assert list(undocumented(imported(name))) == []


def test_a_missing_docstring_is_found() -> None:
    module = ModuleType("module")

    class Documented:
        """A class."""

        def method(self) -> None: ...

    class Undocumented: ...

    vars(module).update(Documented=Documented, Undocumented=Undocumented)
    vars(module)["__all__"] = ["Documented", "Undocumented"]
    assert list(undocumented(module)) == ["Documented.method", "Undocumented"]


@pytest.mark.parametrize("name", FACADES)
def test_names_that_users_import_are_those_of_the_module_that_defines_them(name: str) -> None:
    facade = imported(name)
    for public_name in listed(facade):
        public = getattr(facade, public_name)
        home = import_module(public.__module__)
        assert getattr(home, public_name) is public


BUILTINS: dict[type[Exception], type[Exception]] = {
    lazychunks.AppendMismatchError: ValueError,
    lazychunks.BlockDTypeError: TypeError,
    lazychunks.BlockNamesError: ValueError,
    lazychunks.BlockShapeError: ValueError,
    lazychunks.BlockTypeError: TypeError,
    lazychunks.DestinationBusyError: BlockingIOError,
    lazychunks.DestinationExistsError: FileExistsError,
    lazychunks.DestinationReadOnlyError: PermissionError,
    lazychunks.EmptyRowError: ValueError,
    lazychunks.EmptySequenceError: ValueError,
    lazychunks.MissingChunkError: RuntimeError,
    lazychunks.NotResumableError: TypeError,
    lazychunks.NotSpreadableError: TypeError,
    lazychunks.RankFailedError: RuntimeError,
    lazychunks.RanksDifferError: ValueError,
    lazychunks.ResumeMismatchError: ValueError,
    lazychunks.SourceExhaustedError: RuntimeError,
    lazychunks.SourceTypeError: TypeError,
    lazychunks.UntrustedArrayError: ValueError,
    lazychunks.WriteAbortedError: RuntimeError,
}
"""The builtin that stands for each error where a caller does not know this library."""

BASES = {lazychunks.BlockError, lazychunks.DestinationError, lazychunks.LazyChunksError}
"""Not raised themselves."""


def classes_of_errors() -> set[type[Exception]]:
    return {
        public
        for public in vars(errors).values()
        if isinstance(public, type) and public.__module__ == errors.__name__
    }


def test_every_error_is_public_and_stands_for_a_builtin() -> None:
    assert classes_of_errors() == {*BUILTINS, *BASES, lazychunks.LengthHintWarning}
    assert {public.__name__ for public in classes_of_errors()} <= set(lazychunks.__all__)
    assert issubclass(lazychunks.LengthHintWarning, UserWarning)


@pytest.mark.parametrize("error", BUILTINS)
def test_an_error_is_the_builtin_that_a_caller_would_catch(error: type[Exception]) -> None:
    assert issubclass(error, BUILTINS[error])
    assert issubclass(error, lazychunks.LazyChunksError)


EXAMPLES: list[Exception] = [
    lazychunks.LazyChunksError("no"),
    lazychunks.AppendMismatchError("no", field="dtype", expected="f4", got="f8"),
    lazychunks.BlockError("no", block=3),
    lazychunks.BlockNamesError("no", block=2, expected=["a"], got=["b"], member="b"),
    lazychunks.BlockShapeError("no", block=(1, 2), expected=(3, 4), got=(3, 5)),
    lazychunks.BlockDTypeError("no", block=1, expected="f4", got="f8"),
    lazychunks.BlockTypeError("no", block=None, expected=list, got=tuple),
    lazychunks.EmptySequenceError("no"),
    lazychunks.EmptyRowError("no", row=4),
    lazychunks.SourceExhaustedError("no"),
    lazychunks.DestinationBusyError("no", path="a.zarr"),
    lazychunks.DestinationError("no", path="a.zarr"),
    lazychunks.DestinationExistsError("no", path="a.zarr"),
    lazychunks.DestinationReadOnlyError("no", path="a.zarr"),
    lazychunks.LengthHintWarning("no"),
    lazychunks.MissingChunkError("no", key="c/0", block=(0, 1)),
    lazychunks.NotResumableError("no"),
    lazychunks.NotSpreadableError("no"),
    lazychunks.RankFailedError("no", rank=3),
    lazychunks.RanksDifferError("no"),
    lazychunks.ResumeMismatchError("no", field="run_id", expected="a", got="b"),
    lazychunks.SourceTypeError("no"),
    lazychunks.UntrustedArrayError("no"),
    lazychunks.WriteAbortedError("no", done=3, total=5, resumable=True),
]


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
def test_an_error_crosses_process_boundaries_with_its_message_and_fields(error: Exception) -> None:
    copy = pickle.loads(pickle.dumps(error))  # noqa: S301  # our own bytes
    assert type(copy) is type(error)
    assert str(copy) == str(error) == "no"
    assert vars(copy) == vars(error)


def test_every_error_has_an_example_above() -> None:
    assert {type(error) for error in EXAMPLES} == classes_of_errors()
