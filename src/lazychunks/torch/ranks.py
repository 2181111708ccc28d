"""The processes of ``torch.distributed`` as ranks."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, TypeVar

import torch.distributed as dist

T = TypeVar("T")

_dist: Any = dist  # torch leaves some of its functions without types

LONGEST_PART = timedelta(days=30)
"""Time that a rank waits for the others, which may compute for long. If one of them is killed, the
others hear it at once."""


class DistributedRanks:
    """The processes of ``torch.distributed``, as ``torchrun`` starts them, for ``ranks=``.

    All members of the group make one together, once in a program. Objects travel over a gloo group
    that it makes, whatever the backend of ``group``, so that nothing waits on a GPU.

    Parameters
    ----------
    group
        Some of the processes; by default all of them.

    Raises
    ------
    RuntimeError
        If ``torch.distributed.init_process_group`` has not been called.
    ValueError
        If this process is not in the group.

    Examples
    --------
    Started by ``torchrun --nproc-per-node=2 job.py``, this has two ranks:

    >>> import torch
    >>> import torch.distributed as dist
    >>> from lazychunks import LazyChunkSequence
    >>> from lazychunks.torch import DistributedRanks, total
    >>> store = dist.HashStore()
    >>> dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    >>> ranks = DistributedRanks()
    >>> blocks = LazyChunkSequence.from_map(torch.arange, [2, 3])
    >>> blocks.compute(total(), ranks=ranks), ranks.rank, ranks.size
    (tensor(4), 0, 1)
    >>> dist.destroy_process_group()
    """

    def __init__(self, group: dist.ProcessGroup | None = None) -> None:
        if not (dist.is_available() and dist.is_initialized()):
            raise RuntimeError(
                "torch.distributed has not been initialized; start the program with torchrun, and "
                'call torch.distributed.init_process_group("gloo") first'
            )
        self.rank: int = dist.get_rank(group)
        self.size: int = dist.get_world_size(group)
        if self.rank < 0:
            raise ValueError("this process is not in the group; only its members make the call")
        members = None if group is None else dist.get_process_group_ranks(group)
        # Processes that are not in the group do not call this.
        self._group = _dist.new_group(
            members, LONGEST_PART, "gloo", use_local_synchronization=members is not None
        )

    def all_gather(self, value: T, /) -> list[T]:
        """Return the values of all ranks, in order."""
        values: list[Any] = [None] * self.size
        _dist.all_gather_object(values, value, self._group)
        return values
