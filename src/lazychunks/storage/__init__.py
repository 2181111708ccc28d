"""Storing blocks as Zarr arrays and groups, and reading them back; the only importer of zarr.

A block's way in is ``writing``: a sink starts a write, whose part writer converts and places the
block, and fills units that ``chunks`` writes. The draft of a place (``places``) shows the array in
the end. What an earlier start has left, ``resuming`` tells. A block's way back is ``read``;
``status`` and ``verify`` look at what is there.
"""

from __future__ import annotations

from lazychunks.storage.options import ArrayOptions, ZarrOptions
from lazychunks.storage.status import Status, status
from lazychunks.storage.verify import Verification, verify

__all__ = ["ArrayOptions", "Status", "Verification", "ZarrOptions", "status", "verify"]
