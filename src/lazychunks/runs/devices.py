"""Pickling tensors of an accelerator for another process, which has an accelerator of its own.

Torch would put a tensor from ``cuda:1`` on ``cuda:1`` again, in whatever process. Here it travels
in the memory of the host, and goes to the device that the receiver's own tensors are on.
"""

from __future__ import annotations

import io
import pickle
import sys
from typing import Any


class Luggage:
    """Pickles values, and unpickles those of other processes.

    Examples
    --------
    >>> luggage = Luggage()
    >>> luggage.unpack(luggage.pack({"sum": 3.0}))
    {'sum': 3.0}
    """

    def __init__(self) -> None:
        self._devices: dict[str, Any] = {}
        """The device of this process, by its kind: of the last tensor that it has packed."""

    def pack(self, value: object) -> bytes:
        """Pickle a value."""
        torch: Any = sys.modules.get("torch")
        if torch is None:
            return pickle.dumps(value)
        devices, file = self._devices, io.BytesIO()

        class TensorPickler(pickle.Pickler):
            def persistent_id(self, obj: Any) -> Any:
                if not isinstance(obj, torch.Tensor) or obj.device.type == "cpu":
                    return None
                kind = obj.device.type
                devices[kind] = obj.device
                return kind, obj.detach().cpu()

        TensorPickler(file).dump(value)
        return file.getvalue()

    def unpack(self, data: bytes) -> Any:
        """Return what has been packed, its tensors on the device of this process."""
        devices = self._devices

        class TensorUnpickler(pickle.Unpickler):
            def persistent_load(self, pid: Any) -> Any:
                kind, tensor = pid
                return tensor.to(devices.get(kind, kind))

        return TensorUnpickler(io.BytesIO(data)).load()
