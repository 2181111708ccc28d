"""Storing blocks as a Zarr array and reading them back; the only importer of zarr.

Data's way: sequence -> converter -> ``assembly`` (whole chunks) -> ``writing`` (background) ->
``places`` (complete or absent). ``plan`` is pure; ``attempt`` holds the state of a write, that
of ``writer`` or of many ``workers`` under ``spreading``, and ``sinks`` makes it a fold. Data's way
back is ``reading``, behind ``judging`` of the metadata; ``inspecting`` and ``verifying`` look.
"""

from __future__ import annotations

from lazychunks.storage.options import ZarrOptions
from lazychunks.storage.status import Status, status
from lazychunks.storage.verifying import Verification, verify

__all__ = ["Status", "Verification", "ZarrOptions", "status", "verify"]
