"""Storing blocks as a Zarr array and reading them back; the only importer of zarr.

Data's way: sequence -> converter -> ``assembly`` (whole chunks) -> ``writing`` (background) ->
``publishing`` (complete or absent). ``plan`` is pure; ``attempt`` holds the state of a write, that
of ``writer`` or of many ``workers`` under ``spreading``, and ``sinks`` makes it a fold. Data's way
back is ``read``, behind ``trust`` in the metadata; ``inspecting`` and ``verify`` look.
"""

from __future__ import annotations

from lazychunks.storage.inspecting import Status, status
from lazychunks.storage.options import ZarrOptions
from lazychunks.storage.sinks import ZarrSink, zarr_sink
from lazychunks.storage.verify import Verification, verify

__all__ = ["Status", "Verification", "ZarrOptions", "ZarrSink", "status", "verify", "zarr_sink"]
