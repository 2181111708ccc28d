"""A job that can be killed at any time and started again; ``docs/jobs.md`` is about it."""

import numpy as np
from numpy.typing import NDArray

from lazychunks import IdentityConverter, LazyChunkSequence


def scores(part: int) -> NDArray[np.float64]:
    """Compute one block; yours takes longer."""
    print("computing", part, flush=True)
    return np.full((100, 8), part / 10)


def main() -> None:
    """Store all blocks that are not stored yet."""
    LazyChunkSequence.from_map(scores, range(10)).to_zarr(
        "scores.zarr",
        IdentityConverter(),
        chunks="blocks",
        run_id="scores of model 7, data of May",
        resume=True,
    )


if __name__ == "__main__":
    main()
