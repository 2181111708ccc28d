"""Influences of a small model by pyDVL, with its own array module or with this library instead.

``tests/test_pydvl_dropin.py`` runs it once for each: which of the two pyDVL uses is decided when it
is imported, hence in a process of its own. Modules are imported by name, since pyDVL and the type
checkers cannot be installed together.
"""

import inspect
import json
import sys
import warnings
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import numpy as np
import torch
from torch.utils.data import DataLoader, TensorDataset

import lazychunks
import lazychunks.torch

SEED_NAMES: Final = (
    "LazyChunkSequence",
    "ListAggregator",
    "NestedLazyChunkSequence",
    "NestedListAggregator",
    "NestedSequenceAggregator",
    "NumpyConverter",
    "SequenceAggregator",
)
"""What ``pydvl.influence.array`` offers."""

SEED_METHODS: Final = ("__init__", "compute", "to_zarr")


def replacement() -> ModuleType:
    """Make a module of our names that can stand in for ``pydvl.influence.array``."""
    module = ModuleType("pydvl.influence.array")
    for name in SEED_NAMES:
        setattr(module, name, getattr(lazychunks, name))
    return module


def signatures(module: ModuleType) -> dict[str, list[str]]:
    """Parameter names of both sequences, in order."""
    return {
        f"{name}.{method}": list(
            inspect.signature(getattr(getattr(module, name), method)).parameters
        )
        for name in ("LazyChunkSequence", "NestedLazyChunkSequence")
        for method in SEED_METHODS
    }


def loader(rows: int, seed: int) -> Any:
    """Make random data for a regression, in batches whose last one is smaller."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, 5, generator=generator)
    y = torch.randn(rows, 2, generator=generator)
    return DataLoader(TensorDataset(x, y), batch_size=4)


def sequences(influence: ModuleType) -> dict[str, tuple[Any, int]]:
    """Let pyDVL make a lazy sequence of each kind, each with the number of its block axes."""
    torch.manual_seed(0)  # pyright: ignore[reportUnknownMemberType]  # torch does not annotate it
    model = torch.nn.Sequential(torch.nn.Linear(5, 3), torch.nn.Tanh(), torch.nn.Linear(3, 2))
    train, test = loader(11, seed=1), loader(7, seed=2)
    influences = import_module("pydvl.influence.torch")
    fitted = influences.DirectInfluence(
        model, torch.nn.functional.mse_loss, regularization=0.1
    ).fit(train)
    calculator = influence.SequentialInfluenceCalculator(fitted)
    factors = calculator.influence_factors(test)
    perturbation = influence.InfluenceMode.Perturbation
    return {
        "factors": (factors, 1),
        "influences": (calculator.influences(test, train), 2),
        "from factors": (calculator.influences_from_factors(factors.compute(), train), 2),
        "perturbations": (
            calculator.influences_from_factors(factors.compute(), train, mode=perturbation),
            2,
        ),
    }


def main(which: str, directory: Path) -> None:
    """Save every result as ``<sequence>, <way>.npy``, and what there is to know as JSON."""
    warnings.simplefilter("error")
    for announced in (DeprecationWarning, FutureWarning):  # pyDVL and what it imports have many
        warnings.simplefilter("ignore", announced)
    warnings.filterwarnings("error", module="lazychunks")
    torch.set_num_threads(1)  # so that sums are added up in the same order each time
    ours = which == "lazychunks"
    if ours:
        sys.modules["pydvl.influence.array"] = replacement()
    influence = import_module("pydvl.influence")
    theirs = import_module("pydvl.influence.torch.util")
    tools = {"pydvl": theirs} | ({"lazychunks": lazychunks.torch} if ours else {})
    kinds: dict[str, str] = {}
    for name, (sequence, axes) in sequences(influence).items():
        kinds[name] = f"{type(sequence).__module__}.{type(sequence).__name__}"
        save = directory / name
        save.mkdir()
        blocks = sequence.compute()
        rows = [torch.cat(row, dim=1) for row in blocks] if axes == 2 else blocks
        np.save(save / "blocks.npy", torch.cat(rows).detach().numpy())
        for origin, module in tools.items():
            prefix = "Nested" if axes == 2 else ""
            aggregator = getattr(module, f"{prefix}TorchCatAggregator")()
            converter = module.TorchNumpyConverter()
            np.save(
                save / f"computed by {origin}.npy",
                sequence.compute(aggregator=aggregator).detach().numpy(),
            )
            path = str(save / f"{origin}.zarr")
            stored = sequence.to_zarr(path, converter, return_stored=True)
            np.save(save / f"stored by {origin}.npy", stored[:])
            assert sequence.to_zarr(path, converter, overwrite=True) is None
            read = converter.from_numpy(import_module("zarr").open_array(path, mode="r")[:])
            np.save(save / f"overwritten by {origin}.npy", read.numpy())
    about = {"kinds": kinds, "signatures": signatures(sys.modules["pydvl.influence.array"])}
    (directory / "about.json").write_text(json.dumps(about))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
