"""The tree of exceptions is drawn as the classes have it."""

import inspect
from collections.abc import Iterator

from lazychunks import errors
from lazychunks.errors import LazyChunksError


def drawn(text: str) -> Iterator[tuple[int, str, str]]:
    """Depth, name and builtin base of each class in a drawing."""
    for line in text.splitlines():
        indent, mark, rest = line.partition("── ")
        if mark:
            name, _, builtin = rest.partition(" (")
            yield len(indent) // 4, name, builtin.rstrip(")")
        elif line.strip() in ("LazyChunksError", "LengthHintWarning (UserWarning)"):
            name, _, builtin = line.strip().partition(" (")
            yield 0, name, builtin.rstrip(")")


def defined(kind: type, depth: int) -> Iterator[tuple[int, str, str]]:
    """Depth, name and builtin base of a class and of all below it, in the order of the file."""
    builtin = [base.__name__ for base in kind.__bases__ if base.__module__ == "builtins"]
    is_root = kind is LazyChunksError
    yield depth, kind.__name__, "" if is_root else ", ".join(builtin)
    subclasses: list[type] = kind.__subclasses__()
    for below in subclasses:
        if below.__module__ == errors.__name__:
            yield from defined(below, depth + 1)


def test_the_tree_is_drawn_as_the_classes_have_it() -> None:
    shown = list(drawn(inspect.getdoc(errors) or ""))
    assert shown == [*defined(LazyChunksError, 0), *defined(errors.LengthHintWarning, 0)]


def test_a_class_that_is_missing_in_the_drawing_is_found() -> None:
    document = inspect.getdoc(errors) or ""
    line = next(line for line in document.splitlines() if "BlockTypeError" in line)
    assert list(drawn(document.replace(line, ""))) != list(drawn(document))
    assert {name for _, name, _ in drawn(document)} == {
        name for name, value in vars(errors).items() if inspect.isclass(value)
    }
