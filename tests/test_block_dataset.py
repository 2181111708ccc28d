"""Batches for training: each row once, however many workers and ranks there are."""

# pyright: reportUnknownMemberType=false
# torch types some of its functions partially.

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("torch", reason="the dataset is torch's")

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from lazychunks import (
    BlockShapeError,
    IdentityConverter,
    LazyChunkSequence,
    SourceTypeError,
    zip_blocks,
)
from lazychunks.torch import BlockDataset, TorchNumpyConverter
from lazychunks.torch import dataset as module

T = TypeVar("T")


@dataclass(frozen=True)
class Block:
    """Computes a block whose rows are numbered throughout."""

    sizes: tuple[int, ...]

    def __call__(self, number: int) -> Tensor:
        start = sum(self.sizes[:number])
        return torch.arange(start, start + self.sizes[number])

    @property
    def sequence(self) -> LazyChunkSequence[Tensor]:
        return LazyChunkSequence.from_map(self, range(len(self.sizes)))


@dataclass(frozen=True)
class Rank:
    rank: int
    size: int

    def all_gather(self, value: T, /) -> list[T]:
        raise AssertionError(f"nothing is exchanged, and {value} was")


@dataclass(frozen=True)
class Worker:
    """What torch tells a worker of a loader."""

    id: int
    num_workers: int


def batches_of(dataset: BlockDataset[Any], worker: int, workers: int) -> list[list[int]]:
    """Batches of one worker of a loader; with no workers, those of the loader itself."""
    info = Worker(worker, workers) if workers else None
    with patch.object(module, "get_worker_info", lambda: info):
        return [batch.tolist() for batch in dataset]


sizes = st.lists(st.integers(0, 6), min_size=1, max_size=9).map(tuple)
seeds = st.none() | st.integers(0, 9)


@given(sizes, st.integers(1, 7), seeds, st.integers(1, 4), st.integers(0, 3), st.integers(1, 3))
def test_each_row_is_in_one_batch_of_one_worker_of_one_rank(
    heights: tuple[int, ...], size: int, seed: int | None, window: int, workers: int, ranks: int
) -> None:
    found = list[int]()
    for rank in range(ranks):
        dataset = BlockDataset(
            Block(heights).sequence, size, shuffle=seed, window=window, ranks=Rank(rank, ranks)
        )
        for worker in range(max(workers, 1)):
            batches = batches_of(dataset, worker, workers)
            assert all(len(batch) == size for batch in batches[:-1])
            assert all(0 < len(batch) <= size for batch in batches[-1:])
            found += [row for batch in batches for row in batch]
    assert sorted(found) == list(range(sum(heights)))


@given(sizes, st.integers(1, 7), seeds, st.integers(1, 4), st.integers(1, 4))
def test_batches_do_not_depend_on_workers_but_on_lanes(
    heights: tuple[int, ...], size: int, seed: int | None, window: int, lanes: int
) -> None:
    dataset = BlockDataset(Block(heights).sequence, size, shuffle=seed, window=window, lanes=lanes)
    expected = sorted(batches_of(dataset, 0, 0))
    for workers in range(1, lanes + 1):
        found = [
            batch for worker in range(workers) for batch in batches_of(dataset, worker, workers)
        ]
        assert sorted(found) == expected


@given(sizes, st.integers(1, 7))
def test_without_a_seed_rows_keep_their_order(heights: tuple[int, ...], size: int) -> None:
    dataset = BlockDataset(Block(heights).sequence, size)
    rows = list(range(sum(heights)))
    assert batches_of(dataset, 0, 0) == [
        rows[start : start + size] for start in range(0, len(rows), size)
    ]


@given(sizes, st.integers(1, 7), seeds)
def test_small_batches_are_dropped_if_asked(
    heights: tuple[int, ...], size: int, seed: int | None
) -> None:
    kept = BlockDataset(Block(heights).sequence, size, shuffle=seed)
    dropped = BlockDataset(Block(heights).sequence, size, shuffle=seed, drop_last=True)
    expected = [batch for batch in batches_of(kept, 0, 0) if len(batch) == size]
    assert batches_of(dropped, 0, 0) == expected


def test_rows_are_mixed_within_windows_and_anew_in_each_epoch() -> None:
    dataset = BlockDataset(Block((8,) * 16).sequence, 8, shuffle=3, window=4)
    first = batches_of(dataset, 0, 0)
    assert first == batches_of(dataset, 0, 0)
    assert all(len({row // 8 for row in batch}) > 1 for batch in first)
    for start in range(0, 16, 4):  # the batches of a window have the rows of its blocks
        rows = {row // 8 for batch in first[start : start + 4] for row in batch}
        assert len(rows) == 4
    dataset.set_epoch(1)
    second = batches_of(dataset, 0, 0)
    assert second != first
    assert sorted(row for batch in second for row in batch) == list(range(128))
    dataset.set_epoch(0)
    assert batches_of(dataset, 0, 0) == first
    other = BlockDataset(Block((8,) * 16).sequence, 8, shuffle=4, window=4)
    assert batches_of(other, 0, 0) != first


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_loader_gives_the_same_batches_in_the_same_order_for_any_number_of_workers() -> None:
    dataset = BlockDataset(Block((5,) * 16).sequence, 4, shuffle=3, window=2, lanes=2)
    expected = [batch.tolist() for batch in DataLoader(dataset, batch_size=None)]
    for workers in (1, 2):
        loader = DataLoader(dataset, batch_size=None, num_workers=workers)
        assert [batch.tolist() for batch in loader] == expected


@pytest.mark.slow
def test_spawned_workers_read_a_stored_array(tmp_path: Path) -> None:
    """Named members stay together, and workers that stay alive hear of the next epoch."""
    converter = TorchNumpyConverter()
    rows = np.arange(60, dtype="f4")
    blocks = LazyChunkSequence.from_map(lambda i: rows[10 * i : 10 * i + 10], range(6))
    blocks.to_zarr(tmp_path / "x", IdentityConverter())
    read = LazyChunkSequence.from_zarr(tmp_path / "x", converter, rows=5)
    dataset = BlockDataset(zip_blocks(read, read).map(name_members), 8, shuffle=1, window=3)
    loader = DataLoader(
        dataset,
        batch_size=None,
        num_workers=2,
        persistent_workers=True,
        multiprocessing_context="spawn",
    )
    orders = list[list[float]]()
    for epoch in (0, 1, 0):
        dataset.set_epoch(epoch)
        batches = list(loader)
        assert all(torch.equal(batch["twice"], 2 * batch["x"]) for batch in batches)
        orders.append([row for batch in batches for row in batch["x"].tolist()])
    assert [sorted(order) for order in orders] == [rows.tolist()] * 3
    assert orders[0] == orders[2] != orders[1]


def name_members(pair: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
    return {"x": pair[0], "twice": 2 * pair[1]}


def test_arrays_become_tensors_as_a_loader_makes_them() -> None:
    blocks = LazyChunkSequence.from_map(np.ones, [2, 3])
    for seed in (None, 1):
        (batch,) = DataLoader(BlockDataset(blocks, 9, shuffle=seed), batch_size=None)
        assert isinstance(batch, Tensor)
        assert batch.tolist() == [1] * 5


def test_rows_of_other_shapes_are_refused_and_not_stretched() -> None:
    for library in (np.ones, torch.ones):
        blocks = LazyChunkSequence.from_map(library, [(2, 3), (2, 1)])
        with pytest.raises(BlockShapeError, match="rows of shape"):
            list(BlockDataset(blocks, 9, shuffle=1))


def test_too_many_workers_are_refused() -> None:
    dataset = BlockDataset(Block((1,)).sequence, 1, lanes=2)
    with pytest.raises(ValueError, match="3 workers and the dataset 2 lanes"):
        batches_of(dataset, 0, 3)


def test_what_cannot_skip_is_refused_when_the_dataset_is_made() -> None:
    with pytest.raises(SourceTypeError, match="from_map"):
        BlockDataset(LazyChunkSequence(lambda: [torch.ones(3)]), 2)


WRONG: list[dict[str, Any]] = [
    {"batch_size": 0},
    {"batch_size": 1.5},
    {"shuffle": -1},
    {"shuffle": True},
    {"window": 0},
    {"lanes": 0},
]


@pytest.mark.parametrize("options", WRONG)
def test_numbers_that_make_no_sense_are_refused(options: dict[str, Any]) -> None:
    given_: dict[str, Any] = {"batch_size": 2, **options}
    with pytest.raises((TypeError, ValueError), match=next(iter(options))):
        BlockDataset(Block((1,)).sequence, **given_)
    with pytest.raises((TypeError, ValueError), match="epoch"):
        BlockDataset(Block((1,)).sequence, 1).set_epoch(-1)


def test_the_rank_is_asked_of_torch_distributed(tmp_path: Path) -> None:
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path / 'rendezvous'}", rank=0, world_size=1
    )
    try:
        dataset = BlockDataset(Block((2, 3)).sequence, 5)
    finally:
        torch.distributed.destroy_process_group()
    assert (dataset.rank, dataset.size) == (0, 1)
