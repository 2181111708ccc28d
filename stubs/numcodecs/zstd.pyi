from typing import Any

from numpy.typing import NDArray

class Zstd:
    def __init__(self, level: int = ..., checksum: bool = ...) -> None: ...
    def encode(self, buf: NDArray[Any]) -> bytes: ...
