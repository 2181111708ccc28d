"""Store parts and average them in worker processes; start it as often as it takes."""

from concurrent.futures import ProcessPoolExecutor
from functools import cache
from multiprocessing import get_context

import torch

from lazychunks import LazyChunkSequence, tee, zarr_sink
from lazychunks.torch import TorchNumpyConverter, mean


@cache
def weights() -> torch.Tensor:
    """Load what is large, once in each process."""
    return torch.randn(64, 8, generator=torch.Generator().manual_seed(0))


def features(part: int) -> torch.Tensor:
    """Compute a block; a worker is sent no more than a number for it."""
    data = torch.randn(100, 64, generator=torch.Generator().manual_seed(part))
    return data @ weights()


def main() -> None:
    """Store 24 blocks and print their mean, with two workers of one thread each."""
    parts = LazyChunkSequence.from_map(features, range(24))
    sink = zarr_sink(
        "features.zarr",
        TorchNumpyConverter(),
        chunks="blocks",
        run_id="features, model 7",
        resume=True,
    )
    with ProcessPoolExecutor(
        2,
        mp_context=get_context("spawn"),  # torch does not survive a fork
        initializer=torch.set_num_threads,
        initargs=(1,),
    ) as executor:
        _, average = parts.compute(tee(sink, mean()), executor=executor)
    print(average)


if __name__ == "__main__":  # workers import this file
    main()
