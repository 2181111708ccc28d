"""Store parts and average them on several ranks; start it with torchrun, as often as it takes."""

import torch
import torch.distributed as dist

from lazychunks import LazyChunkSequence, tee, zarr_sink
from lazychunks.torch import DistributedRanks, TorchNumpyConverter, mean


def features(part: int) -> torch.Tensor:
    """Compute a block."""
    return torch.randn(100, 8, generator=torch.Generator().manual_seed(part))


def main() -> None:
    """Store 24 blocks and print their mean."""
    dist.init_process_group("gloo")  # or "nccl"
    ranks = DistributedRanks()
    parts = LazyChunkSequence.from_map(features, range(24))
    sink = zarr_sink(
        "features.zarr",
        TorchNumpyConverter(),
        chunks="blocks",
        run_id="features, model 7",
        resume=True,
    )
    stored, average = parts.compute(tee(sink, mean()), ranks=ranks)
    if ranks.rank == 0:  # all ranks have the results
        print(stored.shape, average)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
