# Narrow stub: only what lazychunks uses of tqdm.
#
# Why: tqdm ships neither annotations nor a py.typed marker, so strict checkers see `Unknown` in
# every bar.
# When it can go: as soon as a tqdm release ships py.typed, or when the package `types-tqdm`
# satisfies both checkers without pulling in `types-requests`, for which there is no use here.
#
# At runtime the class is not generic: `tqdm[int](...)` fails, `bar: tqdm[int]` as an annotation
# does not. A bar without an iterable is a `tqdm[None]`.

from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Generic, Self, TextIO, TypeVar, overload

_T = TypeVar("_T")

class tqdm(Generic[_T]):
    n: float
    total: float | None
    disable: bool

    @overload
    def __init__(
        self,
        iterable: Iterable[_T],
        desc: str | None = ...,
        total: float | None = ...,
        leave: bool | None = ...,
        file: TextIO | None = ...,
        *,
        disable: bool | None = ...,
        unit: str = ...,
    ) -> None: ...
    @overload
    def __init__(
        self: tqdm[None],
        iterable: None = ...,
        desc: str | None = ...,
        total: float | None = ...,
        leave: bool | None = ...,
        file: TextIO | None = ...,
        *,
        disable: bool | None = ...,
        unit: str = ...,
    ) -> None: ...
    def __iter__(self) -> Iterator[_T]: ...
    def __enter__(self) -> Self: ...
    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...
    def update(self, n: float | None = 1) -> bool | None: ...
    def refresh(self) -> bool | None: ...
    def close(self) -> None: ...
