"""Tensors of an accelerator go to the device that the receiver's own tensors are on."""

from __future__ import annotations

import pickle
import sys
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from lazychunks.runs.devices import Luggage


@dataclass(frozen=True)
class Device:
    type: str
    index: int


HOST = Device("cpu", 0)


@dataclass(frozen=True)
class Tensor:
    """Stands for a tensor of torch, on a machine with several devices."""

    value: float
    device: Any

    def detach(self) -> Tensor:
        return self

    def cpu(self) -> Tensor:
        return Tensor(self.value, HOST)

    def to(self, device: Any) -> Tensor:
        return Tensor(self.value, device)

    def __reduce__(self) -> Any:
        assert self.device == HOST, "it would come back on the device of another process"
        return Tensor, (self.value, HOST)


@pytest.fixture
def _torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(Tensor=Tensor))


@pytest.mark.usefixtures("_torch")
def test_a_tensor_goes_to_the_device_of_the_receivers_own() -> None:
    luggage = [Luggage(), Luggage()]
    states = [
        [(number, {"sum": Tensor(number + 0.5, Device("cuda", number)), "host": Tensor(1, HOST)})]
        for number in range(2)
    ]
    packed = [mine.pack(state) for mine, state in zip(luggage, states, strict=True)]
    for receiver, mine in enumerate(luggage):
        for sender, data in enumerate(packed):
            ((number, found),) = mine.unpack(data)
            assert number == sender
            assert found["sum"] == Tensor(sender + 0.5, Device("cuda", receiver))
            assert found["host"] == Tensor(1, HOST)


@pytest.mark.usefixtures("_torch")
def test_a_receiver_without_tensors_takes_its_current_device() -> None:
    packed = Luggage().pack(Tensor(2.0, Device("cuda", 1)))
    assert Luggage().unpack(packed) == Tensor(2.0, "cuda")


@pytest.mark.parametrize("loaded", [True, False])
def test_all_else_is_pickled(loaded: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not loaded:
        monkeypatch.delitem(sys.modules, "torch", raising=False)
    values = {"sum": np.arange(3.0), "count": 3}
    luggage = Luggage()
    found = luggage.unpack(luggage.pack(values))
    assert found["sum"].tolist() == [0, 1, 2]
    with pytest.raises((TypeError, AttributeError, pickle.PicklingError)):
        luggage.pack(lambda: 3)


def test_tensors_of_torch_on_the_host() -> None:
    torch = pytest.importorskip("torch")
    luggage = Luggage()
    found = luggage.unpack(luggage.pack([torch.arange(3)]))
    assert found[0].tolist() == [0, 1, 2]
