"""Storing blocks as a Zarr array and reading them back; the only importer of zarr.

Data's way: sequence -> converter -> ``assembly`` (whole chunks) -> ``writing`` (background) ->
``publishing`` (complete or absent). ``plan`` is pure, ``sinks`` holds the state of a write.
"""

from __future__ import annotations

from lazychunks.storage.options import ZarrOptions
from lazychunks.storage.sinks import store_flat, store_nested

__all__ = ["ZarrOptions", "store_flat", "store_nested"]
