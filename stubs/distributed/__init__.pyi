# Narrow stub: only what lazychunks and its tests use of distributed.
#
# Why: distributed ships py.typed, but its constructors have no annotations, so that strict checkers
# refuse the calls (mypy) and infer `Unknown` (pyright).
# When it can go: as soon as `Client` and `LocalCluster` are annotated in distributed.

from concurrent.futures import Executor
from os import PathLike
from typing import Any, Self

class LocalCluster:
    def __init__(
        self,
        n_workers: int = ...,
        threads_per_worker: int = ...,
        *,
        dashboard_address: str | None = ...,
        local_directory: str | PathLike[str] = ...,
    ) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(self, *error: object) -> None: ...

class Client:
    def __init__(self, address: LocalCluster, *, set_as_default: bool = ...) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(self, *error: object) -> None: ...
    def get_executor(self, **options: Any) -> Executor: ...
    def scatter(self, data: Any, workers: object = ..., broadcast: bool = ...) -> Any: ...
