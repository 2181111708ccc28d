"""Batches for training: rows of blocks, mixed, and shared among workers and ranks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from lazychunks.blocks.ahead import Ahead
from lazychunks.blocks.rebatching import rebatch_blocks
from lazychunks.blocks.rows import change_arrays, check_alike, count_rows
from lazychunks.blocks.slicing import count_blocks_by_items, pick_blocks, shuffled_order
from lazychunks.layout.checks import check_integer, check_positive
from lazychunks.runs.exchange import Ranks
from lazychunks.sequences import LazyChunkSequence

T = TypeVar("T")


class BlockDataset(IterableDataset[T], Generic[T]):
    """Batches of rows of a sequence, for ``torch.utils.data.DataLoader(dataset, batch_size=None)``.

    Blocks are taken in a shuffled order, and the rows of a *window* of blocks are mixed. So every
    block is read once in an epoch, whole and as it is stored, and neighbors rarely share a batch.

    Parameters
    ----------
    sequence
        A map-backed sequence of tensors or arrays, or of tuples or mappings of them whose members
        have the same rows, for instance from ``from_zarr``, or :func:`lazychunks.zip_blocks` of
        several.
    batch_size
        Number of rows of a batch. The last batch of each lane may have fewer.
    shuffle
        A seed for the order of blocks and rows; None keeps the order of the sequence.
    window
        Number of blocks whose rows are mixed, and which are in memory for each lane: about twice as
        many, if blocks are read ahead. Without a seed, it has no effect.
    lanes
        Number of streams that the blocks are dealt out to, and from which batches come in turn; by
        default as many as the loader has workers, each of which has one. With another number,
        batches depend on it and not on the number of workers, which may not be larger.
    drop_last
        Whether to leave out batches with fewer rows.
    ranks
        Which of several processes this one is: an object with ``rank`` and ``size``. By default
        that is asked of ``torch.distributed``, if it has been initialized when the dataset is made.

    Raises
    ------
    SourceTypeError
        If the sequence is not map-backed.
    TypeError, ValueError
        If a number is no integer, or too small; when iterated, if there are fewer lanes than
        workers.

    Notes
    -----
    - Each row is in one batch of one worker of one rank, unless ``drop_last`` leaves it out. Ranks
      get the same number of blocks, or one less, so the number of their batches may differ: a
      training that steps all ranks together needs ``torch.distributed.algorithms.join.Join``.
    - The same seed, epoch, lanes and ranks give the same batches. With ``lanes=`` given and
      divisible by the number of workers, they also come in the same order whatever the number of
      workers, until the first lane ends.
    - Batches are of the type of the blocks; a loader makes tensors of arrays. They are views into
      the memory of a window where they can be.

    Examples
    --------
    >>> import torch
    >>> from torch.utils.data import DataLoader
    >>> rows = LazyChunkSequence.from_map(lambda i: torch.arange(4) + 4 * i, range(3))
    >>> loader = DataLoader(BlockDataset(rows, 5), batch_size=None)
    >>> for batch in loader:
    ...     print(batch)
    tensor([0, 1, 2, 3, 4])
    tensor([5, 6, 7, 8, 9])
    tensor([10, 11])
    """

    def __init__(
        self,
        sequence: LazyChunkSequence[T],
        batch_size: int,
        *,
        shuffle: int | None = None,
        window: int = 8,
        lanes: int | None = None,
        drop_last: bool = False,
        ranks: Ranks | None = None,
    ) -> None:
        super().__init__()
        self.sequence: LazyChunkSequence[T] = sequence
        self.batch_size: int = check_positive(batch_size, "batch_size")
        self.shuffle: int | None = None if shuffle is None else check_integer(shuffle, "shuffle")
        if self.shuffle is not None and self.shuffle < 0:
            raise ValueError(f"shuffle must not be negative, got {shuffle}; it is a seed, or None")
        self.window: int = check_positive(window, "window")
        self.lanes: int | None = None if lanes is None else check_positive(lanes, "lanes")
        self.drop_last: bool = drop_last
        # Asked here, since workers of a loader are no members of the process group.
        rank, size = _find_rank() if ranks is None else (ranks.rank, ranks.size)
        self.rank: int = rank
        self.size: int = size
        pick_blocks(sequence.generator_factory, ())  # refuses what cannot skip
        # Shared memory: with persistent workers, a loader sends the dataset only once.
        epoch: Any = torch.zeros(1, dtype=torch.int64)
        self._epoch: Tensor = epoch.share_memory_()

    def set_epoch(self, epoch: int) -> None:
        """Choose another order, to be called before each epoch; it reaches running workers too."""
        if check_integer(epoch, "epoch") < 0:
            raise ValueError(f"epoch must not be negative, got {epoch}")
        self._epoch[0] = epoch

    def __iter__(self) -> Iterator[T]:
        """Yield the batches of this rank, or of this worker of its loader.

        Raises
        ------
        ValueError
            If there are fewer lanes than workers.
        """
        info = get_worker_info()
        worker, workers = (0, 1) if info is None else (info.id, info.num_workers)
        lanes = workers if self.lanes is None else self.lanes
        if workers > lanes:
            raise ValueError(
                f"the loader has {workers} workers and the dataset {lanes} lanes, so some workers "
                f"would have nothing to do; make it with lanes={workers}, or another multiple"
            )
        epoch = int(self._epoch[0])
        streams = [self._batches(lane, lanes, epoch) for lane in range(worker, lanes, workers)]
        while streams:
            going = list[Iterator[T]]()
            for stream in streams:
                batch = next(stream, None)
                if batch is not None:
                    going.append(stream)
                    yield batch
                del batch  # otherwise it would live on while the next one is made
            streams = going

    def _batches(self, lane: int, lanes: int, epoch: int) -> Iterator[T]:
        """Yield the batches of one lane."""
        factory = self.sequence.generator_factory
        number = count_blocks_by_items(factory)
        order: Sequence[int] = range(number)
        if self.shuffle is not None:
            order = shuffled_order(number, _mix_seed(self.shuffle, epoch))
        place = lane * self.size + self.rank
        picked = pick_blocks(factory, order[place :: lanes * self.size])
        if isinstance(picked, Ahead) and picked.executor is None:
            # So that the next window is read while batches of this one are used.
            picked = replace(picked, max_in_flight=max(picked.max_in_flight, self.window))
        blocks: Iterator[T] = picked()
        if self.shuffle is not None:
            random = np.random.default_rng((self.shuffle, epoch, place))
            blocks = mix_windows(blocks, self.window, random)
        batches, _ = rebatch_blocks(lambda: blocks, self.batch_size, None)
        for batch in batches():
            rows = count_rows(batch, 0)
            if rows == self.batch_size or (rows and not self.drop_last):
                yield batch
            del batch


def mix_windows(blocks: Iterator[T], window: int, random: np.random.Generator) -> Iterator[T]:
    """Yield windows of consecutive blocks, each as one block with its rows in random order.

    Parameters
    ----------
    blocks
        Blocks of arrays or tensors.
    window
        Number of blocks in a window, but for the last one.
    random
        Draws the orders.
    """
    held = list[T]()
    for block in blocks:
        held.append(block)
        del block
        if len(held) == window:
            yield _mix_rows(held, random)
            held = []
    if held:
        yield _mix_rows(held, random)


def _mix_rows(blocks: list[T], random: np.random.Generator) -> T:
    """Copy the rows of blocks to random places of one block."""
    lengths = [count_rows(block, number) for number, block in enumerate(blocks)]
    places = np.split(random.permutation(sum(lengths)), np.cumsum(lengths)[:-1])

    # Straight to their places: memory that is fresh from the system costs more than copying.
    def scatter(arrays: list[Any]) -> Any:
        check_alike(arrays)
        first = arrays[0]
        shape = (sum(lengths), *first.shape[1:])
        if isinstance(first, Tensor):
            mixed: Any = first.new_empty(shape)
            for array, where in zip(arrays, places, strict=True):
                mixed.index_copy_(0, torch.as_tensor(where, device=first.device), array)
        else:
            mixed = np.empty(shape, first.dtype)
            for array, where in zip(arrays, places, strict=True):
                mixed[where] = array
        return mixed

    return change_arrays(scatter, blocks)


def _mix_seed(seed: int, epoch: int) -> int:
    return (seed << 64) + epoch


def _find_rank() -> tuple[int, int]:
    """Return number and count of the processes that train together."""
    group = torch.distributed
    if group.is_available() and group.is_initialized():
        return group.get_rank(), group.get_world_size()
    return 0, 1
