"""Compute and store parts in worker processes; start it as often as it takes."""

from concurrent.futures import ProcessPoolExecutor
from functools import cache
from multiprocessing import get_context

import torch

from lazychunks import LazyChunkSequence
from lazychunks.torch import TorchNumpyConverter


@cache
def weights() -> torch.Tensor:
    """Load what is large, once in each process."""
    return torch.randn(64, 8, generator=torch.Generator().manual_seed(0))


def features(part: int) -> torch.Tensor:
    """Compute a block; what is sent to a worker for it is a number."""
    data = torch.randn(100, 64, generator=torch.Generator().manual_seed(part))
    return data @ weights()


def main() -> None:
    """Store 24 blocks with two workers of one thread each."""
    with ProcessPoolExecutor(
        2,
        mp_context=get_context("spawn"),  # torch does not survive a fork
        initializer=torch.set_num_threads,
        initargs=(1,),
    ) as executor:
        LazyChunkSequence.from_map(features, range(24)).to_zarr(
            "features.zarr",
            TorchNumpyConverter(),
            chunks="blocks",
            executor=executor,
            run_id="features, model 7",
            resume=True,
        )


if __name__ == "__main__":  # workers import this file
    main()
